"""Every limit crossed on a live connection, with the record that says so."""

import asyncio
import os
import resource
import socket

import pytest

from proxy.limits import Limits
from tests.proxy.helpers import GET_ANY, POST_ANY, eventually, read_head, rig, run

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"

pytestmark = pytest.mark.usefixtures("both_paths")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 17_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 17_000,  # its end need not come
    ],
    ids=["too long", "too many fields", "no end"],
)
def test_head_too_big(head: bytes) -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            answer = await it.exchange(head)
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert bytes(it.app.received) == b""
            event = await it.event()
            assert (event.verdict, event.code, event.rule) == ("DROPPED", 431, "tulle:limit")
            assert it.counters["limit_head"] == 1

    run(body)


def test_head_too_slow() -> None:
    async def body() -> None:
        async with rig(GET_ANY, limits=Limits(head_read_s=0.1)) as it:
            client = await it.connect()
            for byte in b"GET / HT":
                client.send(bytes([byte]))
                await asyncio.sleep(0.02)
            assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
            event = await it.event()
            assert (event.verdict, event.code, event.reason) == ("DROPPED", 408, "limit_head_time")
            assert it.counters["limit_head_time"] == 1

    run(body)


def test_the_head_limit_does_not_hit_idle_connections() -> None:
    async def body() -> None:
        async with rig(GET_ANY, limits=Limits(head_read_s=0.05)) as it:
            client = await it.connect()
            for _ in range(2):
                await asyncio.sleep(0.15)
                client.send(GET)
                assert (await client.response())[0] == 200

    run(body)


def test_idle_between_requests() -> None:
    async def body() -> None:
        async with rig(GET_ANY, limits=Limits(idle_s=0.1)) as it:
            client = await it.connect()
            client.send(GET)
            assert (await client.response())[0] == 200
            assert await client.rest() == b""
            assert [e.reason for e in it.events] == ["allowed by r-get", "limit_idle"]
            assert it.counters["limit_idle"] == 1
            await it.quiet()

    run(body)


def test_no_response_is_504_and_a_slow_one_is_recorded_early() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await reader.read()

    async def body() -> None:
        async with rig(GET_ANY, app=app, limits=Limits(idle_s=0.2, record_s=0.05)) as it:
            answer = await it.exchange(GET)
            assert answer.startswith(b"HTTP/1.1 504 ")
            assert [(e.verdict, e.code, e.is_reply) for e in it.events] == [
                ("FORWARDED", 0, False),
                ("ERROR", 504, True),
            ]

    run(body)


def test_connections_of_one_endpoint() -> None:
    async def body() -> None:
        async with rig(GET_ANY, limits=Limits(connections_per_endpoint=3)) as it:
            clients = [await it.connect() for _ in range(3)]
            await eventually(lambda: it.server.flows(7) == 3)
            late = await it.connect()
            assert (await late.response())[0] == 503
            late.send(GET)  # is read and thrown away, so that the answer is not
            await asyncio.sleep(0)
            assert await late.rest() == b""
            late.close()
            event = await it.event()
            assert (event.verdict, event.code, event.reason) == ("DROPPED", 503, "limit_connections")
            assert it.counters["limit_connections"] == 1
            clients[0].close()
            await eventually(lambda: it.server.flows(7) == 2)
            assert it.counters["internal_error"] == 0
            client = await it.connect()
            client.send(GET)
            assert (await client.response())[0] == 200

    run(body)


def test_lingering_connections_are_bounded() -> None:
    async def body() -> None:
        async with rig(GET_ANY, limits=Limits(max_lingering=2, linger_s=30)) as it:
            clients = [await it.connect() for _ in range(3)]
            for client in clients:
                client.send(b"BAD\r\n\r\n")
            await eventually(lambda: it.counters["malformed"] == 3)
            await eventually(lambda: it.server.flows(7) == 2)
            assert it.counters["limit_lingering"] == 1

    run(body)


def test_lingering_ends_by_time_and_by_bytes() -> None:
    async def body() -> None:
        async with rig(GET_ANY, limits=Limits(linger_s=0.1)) as it:
            client = await it.connect()
            client.send(b"BAD\r\n\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
            await it.quiet()  # the client holds its end open
        async with rig(GET_ANY, limits=Limits(linger_s=30, linger_bytes=10_000)) as it:
            client = await it.connect()
            client.send(b"BAD\r\n\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
            client.send(bytes(50_000))
            await it.quiet()

    run(body)


def test_refused_upstream_is_502() -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            it.app.stop()
            await asyncio.sleep(0.01)
            client = await it.connect()
            for _ in range(2):
                client.send(GET)
                assert (await client.response())[0] == 502
            assert [(e.verdict, e.code, e.reason) for e in it.events] == [("ERROR", 502, "upstream_refused")] * 2
            assert it.counters["upstream_failed"] == 2

    run(body)


def test_no_prepared_socket_waits_for_one_and_then_is_503() -> None:
    async def body() -> None:
        async with rig(GET_ANY, limits=Limits(connect_s=0.4)) as it:
            it.upstreams.dry = True
            client = await it.connect()
            client.send(GET)
            await eventually(lambda: it.counters["stock_empty"] == 1)
            it.upstreams.refill()
            assert (await client.response())[0] == 200
            it.upstreams.dry = True
            other = await it.connect()
            other.send(GET)
            assert (await other.response())[0] == 503
            assert it.events[-1].reason == "no_upstream_socket"

    run(body)


def test_stock_that_never_calls_back_is_asked_again() -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            it.upstreams.dry = True
            client = await it.connect()
            client.send(GET)
            await eventually(lambda: it.counters["stock_empty"] == 1)
            it.upstreams.dry = False
            assert (await client.response())[0] == 200

    run(body)


def test_out_of_descriptors_accepting_rests_and_goes_on() -> None:
    async def body() -> None:
        async with rig(GET_ANY, limits=Limits(accept_pause_s=0.05)) as it:
            sock = socket.socket()
            sock.setblocking(False)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            top = os.dup(0)
            os.close(top)
            fill: list[int] = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + 8, hard[1]))
            try:
                while True:
                    try:
                        fill.append(os.dup(0))
                    except OSError:
                        break
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, it.address)
                await eventually(lambda: it.counters["accept_paused"] >= 2)
                assert it.counters["accepted"] == 0
            finally:
                for fd in fill:
                    os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, hard)
            await loop.sock_sendall(sock, GET)
            assert (await asyncio.wait_for(loop.sock_recv(sock, 100), 5)).startswith(b"HTTP/1.1 200 ")
            assert it.events[0].reason == "accept_paused"
            sock.close()

    run(body)


def test_accepting_rests_while_there_are_descriptors_for_everything_else() -> None:
    async def body() -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        top = os.dup(0)
        os.close(top)
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + 200, limits[1]))
        clients: list[socket.socket] = []
        try:
            async with rig(GET_ANY, limits=Limits(accept_pause_s=0.05)) as it:
                loop = asyncio.get_running_loop()

                async def ask() -> None:
                    sock = socket.socket()
                    sock.setblocking(False)
                    clients.append(sock)
                    await loop.sock_connect(sock, it.address)
                    await loop.sock_sendall(sock, GET)

                while not it.counters["accept_paused"]:
                    await ask()
                    await asyncio.sleep(0)
                await eventually(lambda: it.counters["accept_paused"] >= 3)
                kept = [os.dup(0) for _ in range((top + 200) // 4 - 20)]
                for fd in kept:
                    os.close(fd)
                waiting = clients[-1]
                for sock in clients[: len(clients) // 2]:
                    sock.close()
                assert (await asyncio.wait_for(loop.sock_recv(waiting, 100), 5)).startswith(b"HTTP/1.1 200 ")
        finally:
            for sock in clients:
                sock.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    run(body)


def test_a_slow_body_is_not_an_idle_connection() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await reader.readexactly(8)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for byte in b"12345678":
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        await reader.read()

    async def body() -> None:
        async with rig(POST_ANY, app=app, limits=Limits(idle_s=0.2, record_s=0.02)) as it:
            client = await it.connect()
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
            for byte in b"12345678":
                client.send(bytes([byte]))
                await asyncio.sleep(0.05)
            assert (await client.response())[2] == b"12345678"

    run(body)
