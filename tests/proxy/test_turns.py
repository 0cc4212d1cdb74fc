"""Many requests in one read do not keep the worker from anybody else: others have their turn, nothing is lost by it."""

import asyncio

import pytest

from policies.ruleset import HttpRule
from proxy.edge import SHARE
from tests.proxy.helpers import Rig, rig, run

pytestmark = pytest.mark.usefixtures("both_paths")
PUBLIC = HttpRule("r-public", path="/public/.*")
KINDS = (b"", b"TE: x\r\n")
"""Fields of requests that are recognised, and that are not."""


def many(count: int, field: bytes, path: bytes = b"/secret/%d") -> bytes:
    head = b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n"
    return b"".join(head % number for number in range(count))


async def most_at_once(it: Rig, done: asyncio.Event) -> int:
    """Requests that were begun in one turn of the loop, at most."""
    most = before = 0
    while not done.is_set():
        await asyncio.sleep(0)
        now = it.counters["requests"]
        most, before = max(most, now - before), now
    return most


@pytest.mark.parametrize("field", KINDS)
def test_denials_of_some_clients_are_a_share_each(field: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.server.TURN_S", 0.0)

    async def body() -> None:
        async with rig(PUBLIC) as it:
            clients = [await it.connect() for _ in range(4)]
            done = asyncio.Event()
            watching = asyncio.create_task(most_at_once(it, done))
            for client in clients:
                client.send(many(1500, field))

            async def one(number: int) -> None:
                for _ in range(1500):
                    assert (await clients[number].response())[0] == 403
                clients[number].send(many(1, field, b"/public/%d"))
                assert (await clients[number].response())[2] == b"GET /public/0 HTTP/1.1"

            await asyncio.gather(*map(one, range(4)))
            done.set()
            # each client's own event, and one flow that goes on
            assert SHARE <= await watching <= 5 * SHARE
            assert it.counters["denied"] == 4 * 1500

    run(body)


@pytest.mark.parametrize("field", KINDS)
def test_allowed_and_denied_in_one_read_keep_their_order(field: bytes) -> None:
    async def body() -> None:
        async with rig(PUBLIC) as it:
            client = await it.connect()
            heads = [many(1, field, (b"/public/%d?%%d" if n % 3 == 0 else b"/%d?%%d") % n) for n in range(400)]
            client.send(b"".join(heads))
            client.writer.write_eof()
            for number in range(400):
                status, _, content = await client.response()
                assert status == (403 if number % 3 else 200)
                assert number % 3 or content == b"GET /public/%d?0 HTTP/1.1" % number
            assert await client.rest() == b""
            await it.quiet()

    run(body)


def test_reading_stops_for_who_waits_and_a_client_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with rig(PUBLIC) as it:
            waiting: list[object] = []
            monkeypatch.setattr(it.server, "later", waiting.append)  # nobody goes on
            client = await it.connect()
            client.send(many(60_000, b""))
            await asyncio.sleep(0.2)
            (edge,) = waiting
            assert it.counters["denied"] == SHARE
            assert not edge._down.reading  # type: ignore[attr-defined]
            client.abort()
            await asyncio.sleep(0.05)
            monkeypatch.undo()
            it.server.later(edge)  # type: ignore[arg-type]
            await it.quiet()
            it.server.later(edge)  # type: ignore[arg-type]  # closed by now
            await asyncio.sleep(0.01)

    run(body)
