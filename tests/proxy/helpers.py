"""A real server on loopback: its listener, a rule set, an application behind it, and what it recorded.

Nothing here is steered, so two seams replace the kernel: `LoopbackOrigins` says where accepted connections wanted to
go, and `PlainUpstreams` makes ordinary sockets. Everything between them is the real thing.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from typing import SupportsIndex

from policies.engine import Engine
from policies.ruleset import DirectionRules, EndpointRules, HeaderMatch, HttpRule, KafkaRule, Line, PolicyRef, RuleSet
from proxy.accept import Origins
from proxy.flow import Address
from proxy.flow_event import FlowEvent
from proxy.limits import Limits
from proxy.server import PolicyBox, Server

ENDPOINT = 7
paths = [True]
"""Whether servers made by `rig` recognise plain heads: see the fixture `both_paths`."""
POLICY = PolicyRef("CiliumNetworkPolicy", "default", "web-l7")
INGRESS, EGRESS = 0, 1

GET_ANY = HttpRule("r-get", method="GET|HEAD|OPTIONS|DELETE")
POST_ANY = HttpRule("r-post", method="POST|PUT")
PUBLIC = HttpRule("r-public", path="/public.*")
WITH_HEADER = HttpRule("r-header", path="/header", headers=(HeaderMatch("x-token", "yes"),))


def rules(
    *http: HttpRule,
    port: int,
    revision: int = 1,
    l4: bool = False,
    deny: bool = False,
    audit: bool = False,
    kafka: bool | tuple[KafkaRule, ...] = False,
    close_denied: bool = False,
) -> Engine:
    """An engine for ENDPOINT: these http rules on `port` for every peer; `l4` allows the port whole, `deny` names
    nobody; `audit` is the mode of the policy, `kafka` adds a line of rules for Kafka."""
    line = Line(
        "r", POLICY, frozenset() if deny else None, first=port, last=port, http=None if l4 else http, audit=audit
    )
    lines = [] if kafka is not False and not http else [line]
    if kafka is not False:
        lines.append(replace(line, name="k", http=None, kafka=() if kafka is True else kafka))
    direction = DirectionRules(True, not audit, True, tuple(lines), (POLICY,), close_denied)
    endpoint = EndpointRules(ENDPOINT, "default", "web", {"app": "web"}, direction, direction)
    return Engine(RuleSet(revision, {ENDPOINT: endpoint}, {}, {}))


class LoopbackOrigins(Origins):
    """Says that everybody wanted to reach `target`, and allows loopback to be dialled."""

    def __init__(self, target: Address) -> None:
        self.target = target

    def of(self, sock: socket.socket, client: Address) -> tuple[Address, Address]:
        return client, self.target

    def forbidden(self, original: Address) -> bool:
        return False


class PlainUpstreams:
    """Ordinary sockets. `dry` holds them back; `sockets` counts those taken."""

    def __init__(self) -> None:
        self.dry = False
        self.sockets = 0
        self._waiting: list[Callable[[], None]] = []

    def take(self, endpoint_id: int, direction: int, family: int) -> socket.socket | None:
        if self.dry:
            return None
        self.sockets += 1
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def when_ready(self, endpoint_id: int, direction: int, family: int, callback: Callable[[], None]) -> None:
        self._waiting.append(callback)

    def refill(self) -> None:
        """Let those who wait have theirs."""
        self.dry = False
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


type Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class SpiedReader(asyncio.StreamReader):
    """Keeps a copy of every byte that comes."""

    def __init__(self, seen: bytearray, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=1 << 20, loop=loop)
        self._seen = seen

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        chunk = bytes(data)
        if len(self._seen) < 1 << 20:
            self._seen += chunk
        super().feed_data(chunk)


class App:
    """A raw server whose handler is the test's. `received` is every byte it saw, `connections` how many there were."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.received = bytearray()
        self.connections = 0
        self.address: Address = ("", 0)
        self._server: asyncio.Server | None = None
        self._running: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(SpiedReader(self.received, loop), self._serve, loop=loop)

        self._server = await loop.create_server(protocol, "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()[:2]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._running[task] = writer
        try:
            await self._handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            del self._running[task]

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._running.values():
            writer.transport.abort()

    async def ended(self) -> None:
        """Wait for every handler; one that does not end by itself is cancelled."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=1)
            for task in late:
                task.cancel()
        await asyncio.sleep(0)


async def read_head(reader: asyncio.StreamReader) -> bytes:
    """One head with its blank line."""
    return await reader.readuntil(b"\r\n\r\n")


async def hello_app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request without a body with its own request line."""
    while True:
        head = await read_head(reader)
        line = head.partition(b"\r\n")[0]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(line), line))
        await writer.drain()


class Rig:
    """A running server with an application behind it."""

    def __init__(self, server: Server, box: PolicyBox, app: App, upstreams: PlainUpstreams) -> None:
        self.server = server
        self.box = box
        self.app = app
        self.upstreams = upstreams
        self.events: list[FlowEvent] = []
        self.address: Address = ("", 0)
        self._clients: list[Client] = []

    async def close(self) -> None:
        """Close whatever the test left open."""
        self.server.close()
        self.app.stop()
        for client in self._clients:
            client.abort()
        await self.app.ended()

    @property
    def counters(self) -> dict[str, int]:
        return self.server.counters

    async def connect(self) -> "Client":
        reader, writer = await asyncio.open_connection(*self.address, limit=1 << 20)
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    async def exchange(self, data: bytes) -> bytes:
        """Send, read until the server closes."""
        client = await self.connect()
        client.send(data)
        answer = await client.rest()
        client.close()
        return answer

    def swap(
        self, *http: HttpRule, revision: int = 2, l4: bool = False, deny: bool = False, close_denied: bool = False
    ) -> None:
        port = self.app.address[1]
        self.server.swap(rules(*http, port=port, revision=revision, l4=l4, deny=deny, close_denied=close_denied))

    async def event(self, count: int = 1) -> FlowEvent:
        """The `count`th event, waited for."""
        await eventually(lambda: len(self.events) >= count)
        return self.events[count - 1]

    async def quiet(self) -> None:
        """Wait until no flow is left."""
        await eventually(lambda: self.server.idle)


class Client:
    """A raw client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self, *, body: bool = True) -> tuple[int, bytes, bytes]:
        """(status, head, body) of one response with Content-Length or chunks."""
        head = await asyncio.wait_for(read_head(self.reader), 10)
        status = int(head.split(b" ", 2)[1])
        lower = head.lower()
        if not body or status < 200 or status in (204, 304):
            return status, head, b""
        if b"transfer-encoding: chunked" in lower:
            whole = b""
            while True:
                size = int(await self.reader.readline(), 16)
                chunk = await self.reader.readexactly(size + 2) if size else b""
                if not size:
                    while await self.reader.readline() != b"\r\n":
                        pass
                    return status, head, whole
                whole += chunk[:-2]
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return status, head, await asyncio.wait_for(self.reader.readexactly(length), 10)

    async def rest(self) -> bytes:
        """Everything until the server closes; a reset raises ConnectionResetError."""
        return await asyncio.wait_for(self.reader.read(-1), 10)

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        """Reset the connection."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition that becomes true by itself."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "did not happen in time"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def rig(
    *http: HttpRule,
    app: Handler = hello_app,
    limits: Limits | None = None,
    l4: bool = False,
    direction: int = EGRESS,
    origins: Origins | None = None,
    audit: bool = False,
    kafka: bool = False,
) -> AsyncIterator[Rig]:
    """A server on loopback in front of an application; every rule given holds for every peer."""
    loop = asyncio.get_running_loop()
    application = App(app)
    await application.start()
    upstreams = PlainUpstreams()
    box = PolicyBox(rules(*http, port=application.address[1], l4=l4, audit=audit, kafka=kafka))
    made: list[Rig] = []
    server = Server(
        loop,
        policy=box,
        upstreams=upstreams,
        emit=lambda event: made[0].events.append(event),
        limits=replace(limits or Limits(), recognise=paths[0]),
        origins=origins or LoopbackOrigins(application.address),
    )
    made.append(Rig(server, box, application, upstreams))
    listener = listening()
    made[0].address = listener.getsockname()
    server.add_listener(listener, ENDPOINT, direction)
    try:
        yield made[0]
    finally:
        await made[0].close()


def listening() -> socket.socket:
    """A listener on loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    return sock


def run[T](test: Callable[[], Awaitable[T]]) -> T:
    """Run one test's coroutine; an exception that the loop had to log fails the test."""
    logged: list[dict[str, object]] = []

    async def body() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        async with asyncio.timeout(60):
            return await test()

    result = asyncio.run(body())
    assert not logged, logged
    return result


@contextlib.contextmanager
def no_internal_error(made: Rig) -> Iterator[None]:
    """Nothing of ours failed meanwhile."""
    yield
    assert made.counters["internal_error"] == 0
