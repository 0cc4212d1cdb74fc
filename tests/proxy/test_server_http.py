"""A real server on real sockets: what a client sees, what the application sees, what is recorded."""

import asyncio
import http.client
import socket

import httpx
import pytest

from policies.ruleset import HttpRule
from proxy.limits import Limits
from tests.proxy.helpers import (
    ENDPOINT,
    GET_ANY,
    INGRESS,
    POST_ANY,
    PUBLIC,
    eventually,
    hello_app,
    no_internal_error,
    read_head,
    rig,
    run,
)

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"

pytestmark = pytest.mark.usefixtures("both_paths")


def test_keep_alive_uses_one_leg_and_denials_keep_the_connection() -> None:
    async def body() -> None:
        async with rig(PUBLIC) as it:
            client = await it.connect()
            for path, status in (("/public", 200), ("/private", 403), ("/public/x", 200), ("/private", 403)):
                client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert (await client.response())[0] == status
            assert it.app.connections == 1
            assert b"private" not in it.app.received
            assert [(e.verdict, e.code, e.rule) for e in it.events] == [
                ("FORWARDED", 200, "r-public"),
                ("DROPPED", 403, "default-deny"),
            ] * 2
            client.close()
            await it.quiet()

    run(body)


def test_denied_answer_is_what_the_contract_says() -> None:
    async def body() -> None:
        async with rig(PUBLIC) as it:
            answer = await it.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            head, _, text = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
            assert b"\r\nContent-Type: text/plain\r\n" in head
            assert text == b"Access denied\r\n"
            assert it.upstreams.sockets == 0

    run(body)


def test_pipelined_answers_keep_their_order() -> None:
    async def body() -> None:
        async with rig(PUBLIC) as it:
            client = await it.connect()
            paths = ["/public/1", "/no/2", "/public/3", "/no/4", "/no/5", "/public/6"] * 20
            client.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths))
            for path in paths:
                status, _, text = await client.response()
                if path.startswith("/public"):
                    assert (status, text) == (200, f"GET {path} HTTP/1.1".encode())
                else:
                    assert (status, text) == (403, b"Access denied\r\n")

    run(body)


def test_a_pipelined_flood_of_denials_is_bounded_by_what_the_client_reads() -> None:
    async def body() -> None:
        limits = Limits(high_water=4096, low_water=1024)
        async with rig(PUBLIC, limits=limits) as it:
            (listener,) = it.server._listeners[ENDPOINT]
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client = await it.connect()
            transport = client.writer.transport
            assert isinstance(transport, asyncio.Transport)
            transport.pause_reading()
            count = 20_000
            client.send(b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n" * count)
            await eventually(lambda: it.counters["denied"] > 100)
            (edge,) = it.server._flows[ENDPOINT]
            await eventually(lambda: edge._down.unsent > 0)
            assert edge._down.unsent <= limits.high_water + 1024  # one denial more than the mark, not one read's worth
            transport.resume_reading()
            for _ in range(count):
                assert (await client.response())[0] == 403
            assert it.counters["denied"] == count

    run(body)


# What no application may ever see: (name, bytes, status). A reset without an answer is a failure.
HOSTILE = [
    (
        "length and coding",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("two lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", 400),
    (
        "two equal lengths",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        400,
    ),
    ("length list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd", 400),
    ("signed length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd", 400),
    ("bare LF", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("bare LF in head", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    ("folded", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
    ("NUL", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n", 400),
    ("bare CR", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", 400),
    ("space before colon", b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
    ("no host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("bad chunk", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabcd\r\n0\r\n\r\n", 400),
    ("chunk too short", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n", 400),
    ("odd coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    ("coding in 1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("encoded slash", b"GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("encoded backslash", b"GET /a%5cb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("encoded NUL", b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("above root", b"GET /../etc HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("double-encoded dots", b"GET /%252e%252e/etc HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("absolute with another host", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", 400),
    ("rubbish", b"hello\r\n\r\n", 400),
]


@pytest.mark.parametrize(("data", "status"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_hostile_request_never_reaches_the_application(data: bytes, status: int) -> None:
    async def body() -> None:
        async with rig(HttpRule("r-all")) as it:
            with no_internal_error(it):
                answer = await it.exchange(data)
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer
            assert b"\r\nConnection: close\r\n" in answer
            assert bytes(it.app.received) == b""
            event = await it.event()
            assert (event.verdict, event.code) == ("DROPPED", status)
            assert event.rule
            await it.quiet()

    run(body)


@pytest.mark.parametrize(("data", "status"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_hostile_request_between_good_ones(data: bytes, status: int) -> None:
    """Behind one that was answered, and in one piece with one that is not; what is behind it goes nowhere."""

    async def body() -> None:
        async with rig(HttpRule("r-all")) as it:
            client = await it.connect()
            with no_internal_error(it):
                client.send(GET)
                assert (await client.response())[0] == 200
                client.send(GET + data + GET)
                assert (await client.response())[0] == 200
                assert (await client.rest()).startswith(b"HTTP/1.1 %d " % status)
                assert bytes(it.app.received).startswith(GET + GET)
                bad = bytes(it.app.received).removeprefix(GET + GET)
                if b"chunk" in data and bad:  # its head was good
                    assert b"GET" not in bad
                else:
                    assert bad == b""
                assert it.counters["requests"] <= 3

    run(body)


def test_hostile_request_behind_a_good_one_is_answered_in_order_and_goes_nowhere() -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            client = await it.connect()
            client.send(GET + b"GET /evil HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n")
            assert (await client.response())[0] == 200
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
            assert b"evil" not in it.app.received

    run(body)


def test_hop_by_hop_fields_stop_here() -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            client = await it.connect()
            client.send(
                b"GET /a HTTP/1.1\r\nhOst: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings, X-Hop\r\n"
                b"HTTP2-Settings: AAMAAABk\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-Stays: 1\r\n\r\n"
            )
            assert (await client.response())[0] == 200
            assert bytes(it.app.received) == b"GET /a HTTP/1.1\r\nhOst: a\r\nX-Stays: 1\r\n\r\n"

    run(body)


def test_switching_protocols_is_502_and_ends_both_sides() -> None:
    ended = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsmuggled")
        await reader.read()
        ended.set()

    async def body() -> None:
        async with rig(GET_ANY, app=app) as it:
            upgrade = b"GET /a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            answer = await it.exchange(upgrade)
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert b"smuggled" not in answer
            await asyncio.wait_for(ended.wait(), 5)
            assert (await it.event()).verdict == "ERROR"

    run(body)


def test_expect_continue_head_204_and_304() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            if b"Expect: 100-continue" in head:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                assert await reader.readexactly(5) == b"hello"
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            elif head.startswith(b"HEAD"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            elif b"/204" in head:
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            elif b"/304" in head:
                writer.write(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 77\r\n\r\n')
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend")

    async def body() -> None:
        async with rig(GET_ANY, POST_ANY, app=app) as it:
            client = await it.connect()
            client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            assert (await client.response())[0] == 100
            client.send(b"hello")
            assert (await client.response())[0] == 201
            client.send(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n")
            status, head, _ = await client.response(body=False)
            assert (status, b"Content-Length: 1000" in head) == (200, True)
            for code in (204, 304):
                client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % code)
                assert (await client.response())[0] == code
            client.send(GET)
            assert (await client.response())[2] == b"end"
            assert it.app.connections == 1

    run(body)


def test_chunked_with_trailers_both_ways() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        assert b"Transfer-Encoding: chunked" in head
        assert await reader.readuntil(b"X-Sum: 1\r\n\r\n") == b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 2\r\n\r\n")
        await reader.read()

    async def body() -> None:
        async with rig(POST_ANY, app=app) as it:
            client = await it.connect()
            client.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"5;ext=1\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
            )
            head = await read_head(client.reader)
            assert b"Transfer-Encoding: chunked" in head
            assert await client.reader.readuntil(b"X-Sum: 2\r\n\r\n") == b"3\r\nabc\r\n0\r\nX-Sum: 2\r\n\r\n"

    run(body)


def test_absolute_form_asterisk_and_http10() -> None:
    async def body() -> None:
        async with rig(HttpRule("r-all")) as it:
            client = await it.connect()
            client.send(b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response())[2] == b"GET /x HTTP/1.1"
            client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response())[2] == b"OPTIONS * HTTP/1.1"
            answer = await it.exchange(b"GET /old HTTP/1.0\r\n\r\n")
            assert answer.endswith(b"GET /old HTTP/1.0")

    run(body)


def test_half_close_still_gets_its_answer() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await reader.read()

    async def body() -> None:
        async with rig(GET_ANY, app=app) as it:
            client = await it.connect()
            client.send(GET)
            client.writer.write_eof()
            assert (await client.rest()).endswith(b"hello")
            await it.quiet()

    run(body)


def test_client_that_aborts_takes_its_leg_with_it() -> None:
    gone = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nabc")
        with pytest.raises(ConnectionResetError):  # as it would be without us
            await reader.read()
        gone.set()

    async def body() -> None:
        async with rig(GET_ANY, app=app) as it:
            client = await it.connect()
            client.send(GET)
            await read_head(client.reader)
            client.abort()
            await asyncio.wait_for(gone.wait(), 5)
            await it.quiet()
            assert [e.reason for e in it.events if e.is_reply] == ["client_aborted"]

    run(body)


def test_early_response_to_a_body_that_goes_on() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbig!")
        await writer.drain()

    async def body() -> None:
        async with rig(POST_ANY, app=app) as it:
            with no_internal_error(it):
                client = await it.connect()
                client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + bytes(200_000))
                status, _, text = await client.response()
                assert (status, text) == (413, b"big!")
                client.close()
                await it.quiet()

    run(body)


def test_idle_leg_that_closed_is_replaced_unseen() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # keep-alive, and then it closes all the same

    async def body() -> None:
        async with rig(POST_ANY, GET_ANY, app=app) as it:
            client = await it.connect()
            for _ in range(5):
                client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
                assert (await client.response())[0] == 200
                await asyncio.sleep(0.02)
            assert it.app.connections == 5

    run(body)


def test_leg_that_closes_as_the_request_goes_out() -> None:
    """A request and the server's close cross: a GET is sent again on a new leg, a POST is a 502 with its record."""
    served = 0

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await read_head(reader)
        served += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await read_head(reader)  # swallowed: the connection ends without an answer

    async def body() -> None:
        async with rig(POST_ANY, GET_ANY, app=app) as it:
            client = await it.connect()
            client.send(GET)
            assert (await client.response())[0] == 200
            client.send(GET)
            assert (await client.response())[0] == 200
            assert it.counters["upstream_retried"] == 1
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            assert (await client.response())[0] == 502
            assert served == 2
            last = it.events[-1]
            assert (last.verdict, last.code, last.reason) == ("ERROR", 502, "upstream_closed")

    run(body)


def test_responses_that_end_with_the_connection() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

    async def body() -> None:
        async with rig(GET_ANY, app=app) as it:
            client = await it.connect()
            for _ in range(2):
                client.send(GET)
                assert (await client.response())[2] == b"until the end"
            assert (await it.exchange(b"GET /a HTTP/1.0\r\nHost: a\r\n\r\n")).endswith(b"\r\n\r\nuntil the end")

    run(body)


def test_truncated_and_reset_responses_do_not_look_whole() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if b"/length" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        elif b"/chunked" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )
            writer.transport.abort()

    async def body() -> None:
        async with rig(GET_ANY, app=app) as it:
            answer = await it.exchange(b"GET /length HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"Content-Length: 10" in answer
            assert answer.endswith(b"abc")
            answer = await it.exchange(b"GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer.endswith(b"3\r\nabc\r\n")
            with pytest.raises(ConnectionResetError):
                await it.exchange(b"GET /close HTTP/1.0\r\nHost: a\r\n\r\n")
            assert [e.verdict for e in it.events if e.is_reply] == ["ERROR"] * 3

    run(body)


def test_unreadable_responses_are_502() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if b"/two" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")
        else:
            writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await reader.read()

    async def body() -> None:
        async with rig(GET_ANY, app=app) as it:
            for path in (b"/two", b"/ssh"):
                answer = await it.exchange(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
                assert answer.startswith(b"HTTP/1.1 502 ")
            assert [(e.verdict, e.code) for e in it.events] == [("ERROR", 502)] * 2

    run(body)


def test_new_rules_meet_the_next_request_of_open_connections() -> None:
    async def body() -> None:
        async with rig(PUBLIC) as it:
            client = await it.connect()
            client.send(GET)
            assert (await client.response())[0] == 403
            it.swap(GET_ANY, revision=2)
            client.send(GET)
            assert (await client.response())[0] == 200
            it.swap(PUBLIC, revision=3)
            client.send(GET)
            assert (await client.response())[0] == 403
            assert [e.revision for e in it.events] == [1, 2, 3]

    run(body)


def test_reloads_fail_no_request() -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            stop = False
            served = [0] * 4

            async def client(number: int) -> None:
                mine = await it.connect()
                while not stop:
                    mine.send(GET)
                    status, _, text = await mine.response()
                    assert (status, text) == (200, b"GET /a HTTP/1.1")
                    served[number] += 1

            clients = [asyncio.create_task(client(number)) for number in range(4)]
            for revision in range(2, 102):
                it.swap(GET_ANY, *(() if revision % 2 else (PUBLIC,)), revision=revision)
                await asyncio.sleep(0.002)
            stop = True
            await asyncio.gather(*clients)
            assert min(served) > 10
            assert {e.verdict for e in it.events} == {"FORWARDED"}
            assert it.app.connections == 4

    run(body)


def test_any_chunking_of_the_request_gives_the_application_the_same() -> None:
    data = (
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        b"GET /c HTTP/1.1\r\nHost: a\r\n\r\n"
    )

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            if b"Content-Length" in head:
                await reader.readexactly(5)
            elif b"chunked" in head:
                await reader.readuntil(b"0\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def body() -> None:
        async with rig(GET_ANY, POST_ANY, app=app) as it:
            for split in (*range(1, len(data), 7), 0):
                it.app.received.clear()
                client = await it.connect()
                client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for part in (data[:split], data[split:]):
                    client.send(part)
                    await client.writer.drain()
                    await asyncio.sleep(0.001)
                for _ in range(3):
                    assert (await client.response())[0] == 200
                # a chunk may be passed on in two: compare what the chunks hold
                seen = bytes(it.app.received).replace(b"\r\n1\r\n", b"").replace(b"\r\n2\r\n", b"")
                assert seen.startswith(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST /b ")
                assert seen.endswith(b"0\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n")
                client.close()

    run(body)


def test_real_clients() -> None:
    def requests(base: str) -> None:
        with httpx.Client(base_url=base) as client:
            assert client.get("/public?q=1").text == "GET /public?q=1 HTTP/1.1"
            assert client.get("/no").status_code == 403
            assert client.get("/public").status_code == 200
        plain = http.client.HTTPConnection(base.removeprefix("http://"))
        for path, status in (("/public", 200), ("/no", 403), ("/public", 200)):
            plain.request("GET", path)
            response = plain.getresponse()
            assert response.status == status
            response.read()
        plain.close()

    async def body() -> None:
        async with rig(PUBLIC) as it:
            await asyncio.to_thread(requests, f"http://127.0.0.1:{it.address[1]}")
            await it.quiet()

    run(body)


def test_drain_leaves_live_connections_alone_until_their_flows_are_ended() -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            client = await it.connect()
            client.send(GET)
            assert (await client.response())[0] == 200
            it.server.start_drain()
            with pytest.raises(ConnectionRefusedError):
                await it.connect()
            assert not it.server.idle
            client.send(GET)
            status, head, _ = await client.response()
            assert (status, b"Connection: close" in head) == (200, False)
            it.server.end_flows()
            client.send(GET)
            status, head, _ = await client.response()
            assert (status, b"Connection: close" in head) == (200, True)
            assert await client.rest() == b""
            client.close()
            await it.quiet()

    run(body)


def test_ingress_leg_comes_from_the_clients_address_and_a_chosen_port() -> None:
    peers: list[tuple[str, int]] = []

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername"))
        await hello_app(reader, writer)

    async def body() -> None:
        async with rig(GET_ANY, app=app, direction=INGRESS) as it:
            reader, writer = await asyncio.open_connection(*it.address, local_addr=("127.0.0.3", 0))
            writer.write(GET)
            assert (await read_head(reader)).startswith(b"HTTP/1.1 200 ")
            writer.close()
            (address, port), *_ = peers
            assert address == "127.0.0.3"
            assert 61000 <= port <= 65535
            await it.quiet()

    run(body)
