"""A worker's stock against a broker's end of the channel: asks in time, waits fairly, closes what nobody wants."""

import asyncio
import os
import resource
import socket
from collections.abc import Awaitable, Callable

import pytest

from agent.pool import make_pair
from proxy import channel
from proxy.stock import BATCH, FIRST_TARGET, MAX_TARGET, Stock

INGRESS, V4 = 0, int(socket.AF_INET)


class Broker:
    """The other end: answers requests when told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    def request(self) -> channel.Message | None:
        try:
            received = channel.receive(self.sock)
        except BlockingIOError:
            return None
        assert received is not None
        return received[0]

    def answer(self, request: channel.Message, count: int, error: str | None = None) -> None:
        opened = [socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(count)]
        fields = {key: request[key] for key in ("endpoint", "direction", "family", "serial")}
        channel.send(self.sock, {**fields, "error": error}, [each.fileno() for each in opened])
        for each in opened:
            each.close()


def run(test: Callable[[Stock, Broker], Awaitable[None]]) -> None:
    async def body() -> None:
        ours, theirs = make_pair()
        with theirs:
            stock = Stock(asyncio.get_running_loop())
            stock.use_broker(ours)
            await test(stock, Broker(theirs))
            for endpoint in (1, 2):
                stock.drop(endpoint)
            assert stock.held() == 0
            if ours.fileno() >= 0:  # else another broker took its place
                asyncio.get_running_loop().remove_reader(ours.fileno())
                ours.close()

    asyncio.run(body())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)


def test_keeps_a_few_from_the_start_and_asks_before_it_is_dry() -> None:
    async def body(stock: Stock, broker: Broker) -> None:
        stock.keep(1, INGRESS, V4)
        request = broker.request()
        assert request == {"endpoint": 1, "direction": 0, "family": V4, "count": FIRST_TARGET, "serial": 1}
        broker.answer(request, FIRST_TARGET)
        await settle()
        assert stock.held() == FIRST_TARGET
        assert broker.request() is None
        for _ in range(FIRST_TARGET // 2 + 1):
            taken = stock.take(1, INGRESS, V4)
            assert taken is not None
            assert taken.getblocking() is False
            assert os.get_blocking(taken.fileno()) is False
            assert taken.family == socket.AF_INET
            taken.close()
        assert broker.request() is not None

    run(body)


def test_a_dry_stock_doubles_and_wakes_who_waits_in_order() -> None:
    async def body(stock: Stock, broker: Broker) -> None:
        woken: list[int] = []
        stock.keep(1, INGRESS, V4)
        first = broker.request()
        assert first is not None
        assert stock.take(1, INGRESS, V4) is None
        for number in range(3):
            stock.when_ready(1, INGRESS, V4, lambda number=number: woken.append(number))  # type: ignore[misc]  # bound now
        assert stock.dry == 1
        assert broker.request() is None  # one request at a time
        broker.answer(first, 2)
        await settle()
        assert woken == [0, 1]
        second = broker.request()
        assert second is not None
        assert second["count"] == 2 * FIRST_TARGET - 2
        broker.answer(second, 3)
        await settle()
        assert woken == [0, 1, 2]

    run(body)


def test_never_asks_for_more_than_a_batch_nor_keeps_more_than_the_target() -> None:
    async def body(stock: Stock, broker: Broker) -> None:
        stock.keep(1, INGRESS, V4)
        for _ in range(20):
            request = broker.request()
            if request is not None:
                assert 1 <= int(str(request["count"])) <= BATCH
                broker.answer(request, int(str(request["count"])))
                await settle()
            while (taken := stock.take(1, INGRESS, V4)) is not None:
                taken.close()
        for _ in range(20):
            if (request := broker.request()) is not None:
                broker.answer(request, int(str(request["count"])))
            await settle()
        assert stock.held() == MAX_TARGET

    run(body)


def test_a_busy_stock_covers_more_than_the_broker_takes_and_asks_before_it_is_dry() -> None:
    """A steady rate that no first target covers: after the first moments nobody waits."""

    async def body(stock: Stock, broker: Broker) -> None:
        stock.keep(1, INGRESS, V4)
        late: list[channel.Message] = []
        for turn in range(200):
            for _ in range(30):  # what goes between two turns of the broker, which answers two turns late
                if (taken := stock.take(1, INGRESS, V4)) is not None:
                    taken.close()
            if (request := broker.request()) is not None:
                late.append(request)
            if turn % 2 and late:
                broker.answer(late[0], int(str(late.pop(0)["count"])))
                await settle()
            if turn == 40:
                dry = stock.dry
        assert stock.dry == dry
        assert stock.held() <= MAX_TARGET

    run(body)


def test_a_stock_that_is_no_longer_used_shrinks_to_its_first_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.stock.LOOK_S", 0.01)

    async def body(stock: Stock, broker: Broker) -> None:
        stock.keep(1, INGRESS, V4)
        for _ in range(20):
            if (request := broker.request()) is not None:
                broker.answer(request, int(str(request["count"])))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            while (taken := stock.take(1, INGRESS, V4)) is not None:
                taken.close()
        while stock.held() != FIRST_TARGET:  # the suite's own limit ends this
            if (request := broker.request()) is not None:
                broker.answer(request, int(str(request["count"])))
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert stock.held() == FIRST_TARGET
        assert broker.request() is None

    run(body)


def test_a_refusal_wakes_nobody_and_is_not_asked_again_at_once() -> None:
    """Who waits asks again a little later; woken, they would ask at once, and worker and broker would spin."""

    async def body(stock: Stock, broker: Broker) -> None:
        woken: list[int] = []
        stock.keep(1, INGRESS, V4)
        request = broker.request()
        assert request is not None
        stock.when_ready(1, INGRESS, V4, lambda: woken.append(1))
        stock.when_ready(1, INGRESS, V4, lambda: woken.append(2))
        broker.answer(request, 0, "no such endpoint")
        await settle()
        assert woken == []
        assert broker.request() is None
        stock.when_ready(1, INGRESS, V4, lambda: woken.append(3))
        request = broker.request()
        assert request is not None
        broker.answer(request, 3)
        await settle()
        assert woken == [1, 2, 3]

    run(body)


def test_sockets_of_an_earlier_pod_of_the_same_number_are_not_taken_for_the_next_one() -> None:
    async def body(stock: Stock, broker: Broker) -> None:
        stock.keep(1, INGRESS, V4)
        late = broker.request()
        assert late is not None
        stock.drop(1)
        stock.keep(1, INGRESS, V4)  # another pod by now
        request = broker.request()
        assert request is not None
        assert request["serial"] != late["serial"]
        broker.answer(late, 4)
        await settle()
        assert stock.held() == 0
        broker.answer(request, 5)
        await settle()
        assert stock.held() == 5

    run(body)


def test_a_stock_that_lost_its_broker_says_so() -> None:
    async def body(stock: Stock, broker: Broker) -> None:
        assert stock.connected is True
        broker.sock.close()
        await settle()
        assert stock.connected is False

    run(body)


def test_sockets_for_an_endpoint_that_was_dropped_are_closed() -> None:
    async def body(stock: Stock, broker: Broker) -> None:
        stock.keep(2, INGRESS, V4)
        request = broker.request()
        assert request is not None
        stock.drop(2)
        broker.answer(request, 4)
        await settle()
        assert stock.held() == 0

    run(body)


def test_a_new_broker_is_asked_for_what_the_old_one_owed() -> None:
    async def body(stock: Stock, broker: Broker) -> None:
        stock.keep(1, INGRESS, V4)
        assert broker.request() is not None
        ours, theirs = make_pair()
        stock.use_broker(ours)
        with theirs:
            other = Broker(theirs)
            request = other.request()
            assert request is not None
            other.answer(request, FIRST_TARGET)
            await settle()
            assert stock.held() == FIRST_TARGET
        await settle()  # that one is gone: nothing raises, the stock lives on what it has
        taken = stock.take(1, INGRESS, V4)
        assert taken is not None
        taken.close()

    run(body)


def test_a_batch_without_room_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.stock.CUT_PAUSE_S", 0.01)

    async def body(stock: Stock, broker: Broker) -> None:
        stock.keep(1, INGRESS, V4)
        request = broker.request()
        assert request is not None
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        broker.answer(request, FIRST_TARGET)
        top = os.dup(0)
        os.close(top)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + 2, limits[1]))
            await settle()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (stock.held(), stock.connected) == (0, True)
        await asyncio.sleep(0.05)
        again = broker.request()
        assert again is not None
        broker.answer(again, FIRST_TARGET)
        await settle()
        assert stock.held() == FIRST_TARGET

    run(body)
