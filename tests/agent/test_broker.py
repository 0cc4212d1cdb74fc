"""The broker against workers that mean harm: none of them may keep it from the others."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from agent.broker import Broker
from agent.pool import make_pair
from proxy import channel

REQUEST: channel.Message = {"endpoint": 7, "direction": 0, "family": 2, "count": 1, "serial": 3}


class Running:
    """A broker in a thread, which ends when all channels are closed."""

    def __init__(self) -> None:
        self.agent, theirs = make_pair()
        self._thread = threading.Thread(target=Broker(theirs).run, daemon=True)
        self._thread.start()

    def worker(self) -> socket.socket:
        ours, theirs = make_pair()
        with theirs:
            channel.send(self.agent, {"op": "worker", "name": "one"}, [theirs.fileno()])
        ours.settimeout(5)
        return ours

    def ended(self) -> bool:
        self._thread.join(5)
        return not self._thread.is_alive()


@contextmanager
def running() -> Iterator[Running]:
    broker = Running()
    broker.agent.settimeout(5)
    with broker.agent:
        yield broker


def answered(sock: socket.socket) -> channel.Message:
    received = channel.receive(sock)
    assert received is not None
    return received[0]


def test_a_request_is_answered_with_its_serial_and_a_ping_with_itself() -> None:
    with running() as broker, broker.worker() as worker:
        channel.send(worker, REQUEST)
        assert answered(worker) == {
            "endpoint": 7,
            "direction": 0,
            "family": 2,
            "serial": 3,
            "error": "no such endpoint",
        }
        channel.send(broker.agent, {"op": "ping"})
        assert answered(broker.agent) == {"op": "ping"}


def test_a_worker_that_does_not_read_holds_up_nobody() -> None:
    with running() as broker, broker.worker() as deaf, broker.worker() as worker:
        deaf.settimeout(0.5)
        sent = 0
        with suppress(TimeoutError):  # its own requests wait in the end
            while sent < 100_000:
                channel.send(deaf, REQUEST)
                sent += 1
        assert sent < 100_000
        channel.send(worker, REQUEST)
        assert answered(worker)["serial"] == 3
        deaf.settimeout(5)
        for _ in range(sent):  # and nothing is lost for one that was only slow
            assert answered(deaf)["serial"] == 3


@pytest.mark.parametrize(
    "data",
    [
        json.dumps({**REQUEST, "endpoint": float("inf")}).encode(),
        json.dumps({**REQUEST, "count": [1]}).encode(),
        json.dumps({"count": 1}).encode(),
        b"[" * 60_000,
        b"\xff",
    ],
)
def test_nonsense_costs_a_worker_its_channel_and_nobody_else(data: bytes) -> None:
    with running() as broker, broker.worker() as bad, broker.worker() as worker:
        bad.send(data)
        assert channel.receive(bad) is None
        channel.send(worker, REQUEST)
        assert answered(worker)["serial"] == 3


def test_it_ends_with_the_last_channel() -> None:
    with running() as broker:
        worker = broker.worker()
    channel.send(worker, REQUEST)
    assert answered(worker)["serial"] == 3
    worker.close()
    assert broker.ended()


def test_an_agent_that_dies_costs_no_worker_its_channel() -> None:
    agent, theirs = make_pair()
    broker = Broker(theirs)
    worker, workers_end = make_pair()
    worker.settimeout(5)
    channel.send(agent, {"op": "worker", "name": "one"}, [workers_end.fileno()])
    channel.send(agent, {"op": "ping"})
    workers_end.close()
    broker.take_agents_word()
    channel.send(worker, REQUEST)
    agent.close()  # with the answer unread: the broker's end is reset
    thread = threading.Thread(target=broker.run, daemon=True)
    thread.start()
    assert answered(worker)["serial"] == 3
    worker.close()
    thread.join(5)
    assert not thread.is_alive()
