"""The socket edge: legs and their ports, streaming with bounds, what is never dialled, and what ends a flow."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.engine import Engine, HttpRequest, Verdict
from policies.ruleset import Direction
from proxy.accept import Origins, plain, reaches_listener
from proxy.dial import HIGH_PORTS, PortChoice
from proxy.edge import FlowEdge
from proxy.limits import Limits
from tests.proxy.helpers import (
    EGRESS,
    ENDPOINT,
    GET_ANY,
    INGRESS,
    POST_ANY,
    LoopbackOrigins,
    eventually,
    hello_app,
    listening,
    read_head,
    rig,
    rules,
    run,
)

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"

pytestmark = pytest.mark.usefixtures("both_paths")
MIB = 1024 * 1024


class GivenPorts(PortChoice):
    """Leg ports in a given order."""

    def __init__(self, *ports: int) -> None:
        super().__init__()
        self._given: Iterator[int] = iter(ports)

    def high(self) -> int:
        return next(self._given)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# ---- legs


def test_leg_port_that_somebody_listens_on_is_passed_over() -> None:
    async def body() -> None:
        async with rig(GET_ANY, direction=INGRESS) as it:
            with listening() as busy:
                free = free_port()
                it.server.dialler.ports = GivenPorts(busy.getsockname()[1], free)
                client = await it.connect()
                client.send(GET)
                assert (await client.response())[0] == 200
                assert it.counters["leg_port_busy"] == 1

    run(body)


def test_leg_port_whose_4_tuple_is_taken_costs_a_socket_and_goes_on() -> None:
    async def body() -> None:
        async with rig(GET_ANY, direction=INGRESS) as it:
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(("127.0.0.1", 0))
                other.connect(it.app.address)
                taken = other.getsockname()[1]
                it.server.dialler.ports = GivenPorts(taken, free_port())
                client = await it.connect()
                client.send(GET)
                assert (await client.response())[0] == 200
                assert it.counters["leg_port_busy"] == 1
                assert it.upstreams.sockets == 2

    run(body)


def test_the_clients_own_port_is_never_used() -> None:
    async def body() -> None:
        async with rig(GET_ANY, direction=INGRESS) as it:
            client = await it.connect()
            own = client.writer.get_extra_info("sockname")[1]
            free = free_port()
            it.server.dialler.ports = GivenPorts(own, free)
            client.send(GET)
            assert (await client.response())[0] == 200
            assert it.counters["leg_port_busy"] == 0

    run(body)


def test_low_ports_follow_when_the_high_ones_are_taken() -> None:
    async def body() -> None:
        async with rig(GET_ANY, direction=INGRESS) as it:
            with listening() as busy:
                port = busy.getsockname()[1]
                it.server.dialler.ports = GivenPorts(*[port] * 100)
                seen: list[int] = []
                choice = it.server.dialler.ports
                low = choice.low
                choice.low = lambda: seen.append(low()) or seen[-1]  # type: ignore[method-assign, func-returns-value]  # a spy
                client = await it.connect()
                client.send(GET)
                assert (await client.response())[0] == 200
                assert seen
                assert all(1024 <= port < 32768 for port in seen)

    run(body)


def test_a_client_that_fills_the_high_ports_gets_low_ones_at_once() -> None:
    async def body() -> None:
        async with rig(GET_ANY, direction=INGRESS) as it:
            with contextlib.ExitStack() as stack:
                taken: list[int] = []
                for _ in range(4):
                    other = stack.enter_context(socket.socket())
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    other.bind(("127.0.0.1", 0))
                    other.connect(it.app.address)
                    taken.append(other.getsockname()[1])
                it.server.dialler.ports = GivenPorts(*taken)  # asked for a fifth, it would raise
                for sockets in (4, 5, 6):
                    client = await it.connect()
                    client.send(GET)
                    assert (await client.response())[0] == 200
                    assert it.upstreams.sockets == sockets
                assert it.counters["leg_port_busy"] == 3

    run(body)


def test_crowding_is_forgotten() -> None:
    choice = PortChoice()
    choice.crowd("10.0.0.1", ("10.0.0.2", 80), 100.0)
    assert choice.crowded("10.0.0.1", ("10.0.0.2", 80), lambda: 109.0)
    assert not choice.crowded("10.0.0.1", ("10.0.0.2", 81), lambda: 109.0)
    assert not choice.crowded("10.0.0.1", ("10.0.0.2", 80), lambda: 110.0)


def test_ports_go_round_from_a_random_start() -> None:
    choice = PortChoice()
    ports = [choice.high() for _ in HIGH_PORTS]
    assert sorted(ports) == list(HIGH_PORTS)
    assert choice.high() == ports[0]


@contextlib.contextmanager
def full_backlog() -> Iterator[socket.socket]:
    """A listener that answers no further SYN, as a clash of 4-tuples does not."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
def test_unanswered_connect_is_504_within_the_bound(direction: int) -> None:
    async def body() -> None:
        with full_backlog() as full:
            origins = LoopbackOrigins(full.getsockname())
            async with rig(GET_ANY, direction=direction, origins=origins, limits=Limits(connect_s=0.5)) as it:
                it.server.swap(rules_for(full))
                answer = await it.exchange(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                assert answer.startswith(b"HTTP/1.1 504 ")
                assert it.events[-1].reason == "upstream_connect_timeout"
                assert it.counters["limit_connect"] == 1
                if direction == INGRESS:
                    assert it.counters["leg_clash"] == 3  # after 0.1, 0.2 and 0.4 s
                    assert it.upstreams.sockets == 4
                else:
                    assert it.counters["leg_clash"] == 0
                    assert it.upstreams.sockets == 1

    run(body)


def test_clash_is_survived() -> None:
    async def body() -> None:
        with full_backlog() as full:
            origins = LoopbackOrigins(full.getsockname())
            async with rig(GET_ANY, direction=INGRESS, origins=origins) as it:
                it.server.swap(rules_for(full))
                client = await it.connect()
                client.send(GET)
                await eventually(lambda: it.counters["leg_clash"] >= 1)
                full.setblocking(False)
                loop = asyncio.get_running_loop()
                while True:  # take the fillers away until the leg comes
                    sock, _ = await asyncio.wait_for(loop.sock_accept(full), 5)
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        if (await asyncio.wait_for(loop.sock_recv(sock, 100), 0.2)).startswith(b"GET /a "):
                            break
                    sock.close()
                await loop.sock_sendall(sock, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                assert (await client.response())[0] == 200
                sock.close()

    run(body)


def rules_for(sock: socket.socket) -> Engine:
    return rules(GET_ANY, port=sock.getsockname()[1], revision=2)


# ---- what is never dialled, what is judged before a byte is read


def test_connection_straight_to_a_listener_is_closed_and_counted() -> None:
    async def body() -> None:
        async with rig(GET_ANY, origins=Origins()) as it:
            with pytest.raises(ConnectionResetError):
                await it.exchange(b"")
            assert it.counters["dialled_listener"] == 1
            assert it.upstreams.sockets == 0
            event = await it.event()
            assert (event.verdict, event.reason, event.rule) == ("DROPPED", "dialled_listener", "tulle:guard")
            assert it.server.idle

    run(body)


def test_forbidden_destinations() -> None:
    origins = Origins()
    for address in ("127.0.0.1", "127.255.0.9", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"):  # noqa: S104  judged, not bound
        assert origins.forbidden((address, 80)), address
    for address in ("10.244.1.2", "fd00::2", "192.0.2.1"):
        assert not origins.forbidden((address, 80)), address


@pytest.mark.parametrize(
    ("client", "original", "direction", "own", "reaches"),
    [
        ("10.0.0.9", ("10.0.0.2", 4444), Direction.INGRESS, False, True),
        ("10.0.0.9", ("10.0.0.2", 80), Direction.INGRESS, False, False),
        ("10.0.0.2", ("10.0.0.2", 4444), Direction.EGRESS, False, True),
        ("10.0.0.2", ("10.0.0.3", 4444), Direction.EGRESS, False, False),  # another host's port is its own affair
        ("10.0.0.2", ("fd00::2", 4444), Direction.EGRESS, True, True),
    ],
)
def test_our_own_listeners_are_known(
    client: str, original: tuple[str, int], direction: Direction, own: bool, reaches: bool
) -> None:
    assert reaches_listener((client, 5), original, direction, {4444}, own_address=own) is reaches


def test_plain_addresses() -> None:
    assert plain("::ffff:10.0.0.1") == "10.0.0.1"
    assert plain("fe80::1%eth0") == "fe80::1"
    assert plain("10.0.0.1") == "10.0.0.1"
    assert plain("fd00::ffff") == "fd00::ffff"


def test_peer_that_no_rule_names_is_reset() -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            it.swap(GET_ANY, deny=True)
            with pytest.raises(ConnectionResetError):
                await it.exchange(b"")
            event = await it.event()
            assert (event.verdict, event.reason) == ("DROPPED", "peer_denied")
            assert it.counters["peer_denied"] == 1
            assert it.upstreams.sockets == 0

    run(body)


def test_l4_rule_copies_and_new_rules_end_it() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.write(b"bye")

    async def body() -> None:
        async with rig(GET_ANY, app=app, l4=True) as it:
            client = await it.connect()
            client.send(b"\0not http")
            assert await client.reader.readexactly(9) == b"\0NOT HTTP"
            event = await it.event()
            assert (event.verdict, event.reason, event.rule) == ("FORWARDED", "opaque", "r")
            client.writer.write_eof()
            assert await client.rest() == b"bye"  # half-close went through both ways
            await it.quiet()

            other = await it.connect()
            other.send(b"more")
            assert await other.reader.readexactly(4) == b"MORE"
            it.swap(l4=True, revision=2)
            other.send(b"more")
            assert await other.reader.readexactly(4) == b"MORE"
            it.swap(GET_ANY, revision=3)
            with pytest.raises(ConnectionResetError):
                await other.rest()
            assert it.counters["opaque_closed"] == 1
            assert it.events[-1].reason == "opaque_no_longer_allowed"
            assert it.events[-1].revision == 3

    run(body)


# ---- ends


class Broken(Engine):
    """An engine with a bug."""

    def decide(
        self, endpoint_id: int, direction: Direction | int, peer_identity: int, port: int, request: HttpRequest
    ) -> Verdict:
        if request.path == "/bug":
            raise ZeroDivisionError("a bug")
        return super().decide(endpoint_id, direction, peer_identity, port, request)


def test_a_bug_ends_its_flow_with_a_record_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            it.server.swap(Broken(it.box.engine.ruleset))
            bystander = await it.connect()
            bystander.send(GET)
            assert (await bystander.response())[0] == 200
            client = await it.connect()
            client.send(b"GET /bug HTTP/1.1\r\nHost: a\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await client.rest()
            assert b"bug" not in it.app.received
            assert it.events[-1].reason == "internal_error"
            assert it.events[-1].verdict == "ERROR"
            assert it.counters["internal_error"] == 1
            bystander.send(GET)
            assert (await bystander.response())[0] == 200

    run(body)
    assert "internal error" in caplog.text


def test_a_record_that_cannot_be_written_passes_no_request(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:

            def refuse(event: object) -> None:
                raise OSError("no room")

            it.server._emit = refuse  # the next flows' emit
            client = await it.connect()
            client.send(b"PATCH / HTTP/1.1\r\nHost: a\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await client.rest()
            await it.quiet()

    run(body)


def test_close_flows_resets_and_records() -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            client = await it.connect()
            client.send(GET)
            assert (await client.response())[0] == 200
            assert it.server.flow_counts() == {ENDPOINT: 1}
            it.server.close_flows(ENDPOINT, "endpoint_gone")
            assert it.server.flow_counts() == {}
            with pytest.raises(ConnectionResetError):
                await client.rest()
            assert it.events[-1].reason == "endpoint_gone"

    run(body)


def test_remove_endpoint_closes_its_listeners_only() -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            client = await it.connect()
            client.send(GET)
            assert (await client.response())[0] == 200
            it.server.remove_endpoint(ENDPOINT)
            with pytest.raises(ConnectionRefusedError):
                await it.connect()
            client.send(GET)
            assert (await client.response())[0] == 200
            with listening() as again:
                it.server.add_listener(again.dup(), ENDPOINT, EGRESS)
                it.address = again.getsockname()
                other = await it.connect()
                other.send(GET)
                assert (await other.response())[0] == 200

    run(body)


def reads(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Grows by one whenever an edge is told that it can read there."""
    calls: list[int] = []
    real = getattr(FlowEdge, name)

    def told(edge: FlowEdge, events: int = 0) -> None:
        calls.append(events)
        real(edge, events)

    monkeypatch.setattr(FlowEdge, name, told)
    return calls


def test_the_end_of_a_clients_sending_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = reads(monkeypatch, "_down_readable")
    go = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await reader.read()

    async def body() -> None:
        async with rig(GET_ANY, app=app) as it:
            client = await it.connect()
            client.send(GET)
            client.writer.write_eof()
            await eventually(lambda: len(calls) >= 2)
            for _ in range(200):  # turns of the loop, in each of which it would be told again
                await asyncio.sleep(0)
            go.set()
            assert (await client.rest()).endswith(b"hello")
            await it.quiet()
            assert len(calls) <= 4  # at accept, with the request, and with the end

    run(body)


def test_the_end_of_a_servers_sending_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = reads(monkeypatch, "_up_readable")

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await reader.read()

    async def body() -> None:
        async with rig(GET_ANY, app=app, l4=True) as it:
            client = await it.connect()
            client.send(b"\0")
            assert await client.rest() == b""
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(calls) == 1
            client.close()
            await it.quiet()

    run(body)


# ---- bodies


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def big_download(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await read_head(reader)
    size = int(head.split(b" ")[1][1:]) * MIB
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    chunk = bytes(64 * 1024)
    for _ in range(size // len(chunk)):
        writer.write(chunk)
        await writer.drain()
    await reader.read()


def test_big_bodies_take_constant_memory() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while size:  # an echo: both directions at once
            data = await reader.read(64 * 1024)
            size -= len(data)
            writer.write(data)
            await writer.drain()
        await reader.read()

    async def body() -> None:
        async with rig(POST_ANY, app=app) as it:
            client = await it.connect()
            size = 128 * MIB
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            chunk = bytes(range(256)) * 256

            async def upload() -> None:
                for _ in range(size // len(chunk)):
                    client.send(chunk)
                    await client.writer.drain()

            sending = asyncio.create_task(upload())
            await read_head(client.reader)
            before = resident()
            highest = got = 0
            while got < size:
                data = await client.reader.read(256 * 1024)
                # every byte at its place: the body counts modulo 256
                assert data[:1] == bytes([got % 256])
                got += len(data)
                highest = max(highest, resident())
            await sending
            assert highest - before < 24 * MIB

    run(body)


@pytest.mark.parametrize("chunked", [False, True])
def test_client_that_does_not_read_stops_the_server(chunked: bool) -> None:
    sent = 0

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_head(reader)
        piece = bytes(64 * 1024)
        if chunked:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = b"10000\r\n%b\r\n" % piece
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(1024):
            writer.write(piece)
            await writer.drain()
            sent += 64 * 1024
        if chunked:
            writer.write(b"0\r\n\r\n")
        await reader.read()

    async def body() -> None:
        async with rig(GET_ANY, app=app) as it:
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, it.address)
            await loop.sock_sendall(sock, GET)
            await eventually(lambda: sent > 0)
            stalled = -1
            while stalled != sent:
                stalled = sent
                await asyncio.sleep(0.2)
            assert sent < 24 * MIB  # kernel buffers on both legs, and ours
            (edge,) = it.server._flows[ENDPOINT]
            assert edge._down.unsent < 2 * it.server.limits.high_water + it.server.limits.bulk_read_bytes
            got = 0
            while got < 64 * MIB:
                data = await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 10)
                assert data
                got += len(data)
            assert sent == 64 * MIB
            sock.close()

    run(body)


def test_server_that_does_not_read_stops_the_client() -> None:
    go = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await go.wait()  # the stream's own limit stops the transport
        left = 64 * MIB
        while left:
            left -= len(await reader.read(1 << 20))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()

    async def body() -> None:
        async with rig(POST_ANY, app=app) as it:
            client = await it.connect()
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
            sent = 0

            async def upload() -> None:
                nonlocal sent
                for _ in range(1024):
                    client.send(bytes(64 * 1024))
                    await client.writer.drain()
                    sent += 64 * 1024

            sending = asyncio.create_task(upload())
            await eventually(lambda: sent > 0)
            stalled = -1
            while stalled != sent:
                stalled = sent
                await asyncio.sleep(0.2)
            assert sent < 32 * MIB
            (edge,) = it.server._flows[ENDPOINT]
            assert edge._up is not None
            assert edge._up.unsent < 2 * it.server.limits.high_water + it.server.limits.bulk_read_bytes
            go.set()
            assert (await client.response())[2] == b"ok"
            await sending

    run(body)


def test_requests_behind_one_that_is_not_answered_stop_the_client() -> None:
    go = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_head(reader)
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def body() -> None:
        async with rig(GET_ANY, app=app) as it:
            client = await it.connect()
            client.send(GET)
            await eventually(lambda: it.counters["requests"] == 1)
            sent = 0
            request = b"GET /b HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 15_000 + b"\r\n\r\n"

            async def upload() -> None:
                nonlocal sent
                for _ in range(64 * MIB // len(request)):
                    client.send(request)
                    await client.writer.drain()
                    sent += len(request)

            sending = asyncio.create_task(upload())
            stalled = -1
            while stalled != sent:
                stalled = sent
                await asyncio.sleep(0.2)
            assert sent < 24 * MIB  # kernel buffers, and one read of ours
            go.set()
            for _ in range(20):
                assert (await client.response())[0] == 200
            sending.cancel()

    run(body)


def test_many_connections_at_once() -> None:
    async def body() -> None:
        async with rig(GET_ANY, app=hello_app, direction=INGRESS) as it:
            clients = [await it.connect() for _ in range(200)]
            for client in clients:
                client.send(GET)
            for client in clients:
                assert (await client.response())[0] == 200
            assert it.server.flows(ENDPOINT) == 200
            for client in clients:
                client.close()
            await it.quiet()
            assert len(it.server.timers) == 0

    run(body)
