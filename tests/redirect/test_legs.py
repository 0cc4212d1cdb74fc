"""Many short connections of one client: legs from the real broker's sockets, dialled as a worker dials them, in a pod
with its programs and rules.

Nothing here looks at a clock: a leg that fails, a port that is taken, a SYN without an answer are all counted.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from agent.pool import make_pair
from agent.workers import spawn
from proxy import channel, dial
from proxy.counters import new_counters
from proxy.dial import Dialler
from proxy.events import LegFailure
from proxy.limits import Limits
from proxy.stock import BATCH, Stock
from proxy.timers import Timers
from redirect.types import Direction, Flags
from tests.redirect.conftest import PROXIED, Steered
from tests.redirect.pods import visiting

pytestmark = pytest.mark.root

LEGS = 10_000  # of each kind: more than twice the first choice of ports
CLIENTS_PORT = 40_000


class Legs:
    """One client of one server pod, whose legs a worker opens. Implements `proxy.dial.DialOwner`."""

    def __init__(self, steered: Steered, family: int, stock: Stock, endpoint: int) -> None:
        loop = asyncio.get_running_loop()
        self._timers = Timers(loop)
        self.counters = new_counters()
        self._dialler = Dialler(loop, self._timers, stock, Limits(), self.counters)
        self._where = (endpoint, int(Direction.INGRESS), family)
        self._client = (steered.client.address(family), CLIENTS_PORT)
        self._original = (steered.server.address(family), PROXIED)
        self._answer: asyncio.Future[socket.socket | None] | None = None
        self.failures: Counter[LegFailure] = Counter()
        with steered.server.netns.entered():
            self.app = socket.create_server(("", PROXIED), family=family, backlog=128)
        self.app.setblocking(False)

    def close(self) -> None:
        self._timers.close()
        self.app.close()

    def leg_open(self, sock: socket.socket) -> None:
        assert self._answer is not None
        self._answer.set_result(sock)

    def leg_failed(self, failure: LegFailure) -> None:
        self.failures[failure] += 1
        assert self._answer is not None
        self._answer.set_result(None)

    def crashed(self) -> None:
        raise AssertionError("a dial crashed")

    async def open(self) -> tuple[socket.socket, socket.socket] | None:
        """(leg, the application's end); None when it failed."""
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._dialler.dial(*self._where, self._client, self._original, self)
        leg = await self._answer
        if leg is None:
            return None
        theirs, peer = await loop.sock_accept(self.app)
        assert peer[0].removeprefix("::ffff:") == self._client[0]
        return leg, theirs

    async def run_through(self, count: int, *, client_first: bool) -> None:
        """So many connections one after another; who closes first keeps the TIME_WAIT."""
        for _ in range(count):
            pair = await self.open()
            if pair is None:
                continue
            first, second = pair if client_first else pair[::-1]
            first.close()
            with second:
                second.setblocking(True)
                assert second.recv(1) == b""


@contextmanager
def broker(steered: Steered, endpoint: int) -> Iterator[socket.socket]:
    """The real one, serving the server pod; gives the worker's end of a channel."""
    agent, theirs = make_pair()
    with closing(agent):
        with closing(theirs):
            child = spawn("agent.broker", theirs.fileno(), cgroup=steered.own)
        place = steered.server.netns
        channel.send(agent, {"op": "pod", "endpoint": endpoint, "path": str(place.path), "inode": place.inode})
        ours, theirs = make_pair()
        with closing(theirs):
            channel.send(agent, {"op": "worker", "name": "one"}, [theirs.fileno()])
        with closing(ours):
            yield ours
    assert child.wait(10) == 0


@contextmanager
def dialling(steered: Steered, family: int, endpoint: int, channel_end: socket.socket) -> Iterator[tuple[Legs, Stock]]:
    loop = asyncio.get_running_loop()
    stock = Stock(loop)
    stock.use_broker(channel_end.dup())
    legs = Legs(steered, family, stock, endpoint)
    try:
        yield legs, stock
    finally:
        stock.close()
        legs.close()


@pytest.mark.parametrize("client_first", [True, False], ids=["client-first", "server-first"])
def test_no_leg_fails_nor_waits_for_a_port_whoever_closes_first(
    steered: Steered, family: int, *, client_first: bool
) -> None:
    """Ports come round several times while their TIME_WAIT lasts, in a minute's worth of connections."""
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    legs_wanted = LEGS if family == socket.AF_INET else LEGS // 2

    async def body() -> tuple[dict[str, int], Counter[LegFailure]]:
        with (
            visiting(steered.own),
            broker(steered, endpoint) as ours,
            dialling(steered, family, endpoint, ours) as (legs, _),
        ):
            await legs.run_through(legs_wanted, client_first=client_first)
            return legs.counters, legs.failures

    counters, failures = asyncio.run(body())
    assert not failures
    assert counters["upstream_opened"] == legs_wanted
    assert counters["upstream_failed"] == counters["leg_ports_exhausted"] == 0
    assert counters["leg_clash"] == counters["leg_port_busy"] == 0
    # However slow the broker is, a stock runs dry at most once for each message of it, which soon are whole batches.
    assert counters["stock_empty"] <= 10 + legs_wanted // BATCH


def test_a_client_that_holds_many_connections_gets_more(steered: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it opened one after another holds ports one after another; a dial that met them must not use itself up.

    The ranges are a hundredth of the real ones, so that one client can fill half of them.
    """
    monkeypatch.setattr(dial, "HIGH_PORTS", range(61000, 61045))
    monkeypatch.setattr(dial, "LOW_PORTS", range(1024, 1344))
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    held: list[socket.socket] = []

    async def body() -> tuple[dict[str, int], Counter[LegFailure]]:
        with (
            visiting(steered.own),
            broker(steered, endpoint) as ours,
            dialling(steered, socket.AF_INET, endpoint, ours) as (legs, _),
        ):
            for _ in range(180):
                held.extend(await legs.open() or ())
            await legs.run_through(2000, client_first=True)
            return legs.counters, legs.failures

    counters, failures = asyncio.run(body())
    for sock in held:
        sock.close()
    assert not failures
    assert counters["upstream_opened"] == 2180
    assert counters["leg_clash"] == 0
    assert counters["leg_port_busy"] > 0
