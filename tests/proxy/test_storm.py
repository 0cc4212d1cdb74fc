"""Never a lost byte, never a response given to the wrong request: many connections, everything at once, on real sockets
whose buffers are so small that hardly a write is whole.

Every request carries its number and a body that follows from it; every response carries the number and the digest of
the body that the application got, and a body that follows from the number too.
"""

import asyncio
import random
import socket
from collections.abc import Iterator
from hashlib import sha256

import pytest

from policies.ruleset import HttpRule
from proxy.limits import Limits
from tests.proxy.helpers import Client, PlainUpstreams, Rig, read_head, rig, run

pytestmark = pytest.mark.usefixtures("both_paths")

CONNECTIONS, REQUESTS = 24, 16
SMALL = 4096
LIMITS = Limits(high_water=8192, low_water=2048, read_bytes=4096, bulk_read_bytes=16384, relay_bytes=1000)


def body_of(number: int, size: int, salt: bytes) -> bytes:
    """What a body with this number must be."""
    block = sha256(b"%b %d" % (salt, number)).digest()
    return (block * (size // 32 + 1))[:size]


def chunked(data: bytes, chance: random.Random, *, odd: bool = False) -> bytes:
    """In chunks of any size."""
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size = min(chance.choice((1, 7, 100, 4096, 50_000)), len(data) - at)
        extension = b";a=b" if odd and chance.random() < 0.1 else b""
        pieces.append(b"%x%b\r\n%b\r\n" % (size, extension, data[at : at + size]))
        at += size
    return b"".join(pieces) + (b"0\r\nX-End: 1\r\n\r\n" if odd else b"0\r\n\r\n")


def small(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    return sock


class SmallUpstreams(PlainUpstreams):
    def take(self, endpoint_id: int, direction: int, family: int) -> socket.socket | None:
        sock = super().take(endpoint_id, direction, family)
        return None if sock is None else small(sock)


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The body of a message that has one by its head."""
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    if b"transfer-encoding" not in fields:
        return await reader.readexactly(int(fields.get(b"content-length", b"0")))
    pieces: list[bytes] = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        pieces.append(await reader.readexactly(size))
        assert await reader.readexactly(2) == b"\r\n"
    while await reader.readline() != b"\r\n":
        pass
    return b"".join(pieces)


def field(head: bytes, name: bytes) -> bytes:
    return head.partition(name + b": ")[2].partition(b"\r\n")[0]


async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says what it got, in any framing and any pieces; now and then before it has read the body."""
    chance = random.Random(writer.get_extra_info("peername")[1])  # noqa: S311  no secret
    small(writer.get_extra_info("socket"))
    while True:
        head = await read_head(reader)
        number = int(field(head, b"X-Number"))
        early = head.startswith(b"POST /early")
        digest = b"" if early else sha256(await read_body(reader, head)).hexdigest().encode()
        body = body_of(number, int(field(head, b"X-Size")), b"response")
        start = b"HTTP/1.1 200 OK\r\nX-Number: %d\r\nX-Digest: %b\r\n" % (number, digest)
        odd = chance.random() < 0.2
        if chance.random() < 0.5 and not head.startswith(b"HEAD"):
            data = start + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, chance, odd=odd)
        else:
            data = start + b"Content-Length: %d\r\n%b\r\n" % (len(body), b"X-Odd:  1 \r\n" if odd else b"")
            data += b"" if head.startswith(b"HEAD") else body
        await send(writer, data, chance)
        if early:
            await read_body(reader, head)


async def send(writer: asyncio.StreamWriter, data: bytes, chance: random.Random) -> None:
    """In pieces, each when it likes."""
    at = 0
    while at < len(data):
        size = chance.choice((1, 3, 50, 1000, 10_000, 100_000))
        writer.write(data[at : at + size])
        at += size
        await writer.drain()
        for _ in range(chance.choice((0, 0, 1, 5))):
            await asyncio.sleep(0)


class Ask:
    """One request and what must come back for it."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.number = number
        self.size = chance.choice((0, 1, 100, 5000, 60_000))
        self.kind = chance.choice(("GET", "GET", "HEAD", "POST", "POST", "POST", "EARLY", "DENIED", "DENIED POST"))
        length = chance.choice((0, 1, 31, 5000, 100_000))
        if self.kind == "DENIED POST":
            length = min(length, 5000)
        method = "HEAD" if self.kind == "HEAD" else "POST" if self.kind in ("POST", "EARLY", "DENIED POST") else "GET"
        self.body = body_of(number, length, b"request") if method == "POST" else b""
        path = "/no" if "DENIED" in self.kind else "/early" if self.kind == "EARLY" else "/ok"
        odd = chance.random() < 0.25
        if odd and chance.random() < 0.5:
            path = "/x/.." + path  # the strict path's
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nX-Number: {number}\r\nX-Size: {self.size}\r\n".encode()
        if method != "POST":
            self.octets = head + b"\r\n"
        elif chance.random() < 0.5:
            self.octets = head + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body
        else:
            self.octets = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(self.body, chance, odd=odd)

    async def answered(self, client: Client) -> None:
        """Read the response and compare."""
        status, head, body = await client.response(body=self.kind != "HEAD")
        if "DENIED" in self.kind:
            assert (status, body) == (403, b"Access denied\r\n"), (self.kind, head)
            return
        assert (status, field(head, b"X-Number")) == (200, b"%d" % self.number), (self.kind, head)
        digest = b"" if self.kind == "EARLY" else sha256(self.body).hexdigest().encode()
        assert field(head, b"X-Digest") == digest, self.kind
        assert body == (b"" if self.kind == "HEAD" else body_of(self.number, self.size, b"response")), self.kind


def asks(chance: random.Random, connection: int) -> Iterator[Ask]:
    for turn in range(REQUESTS):
        yield Ask(connection * 1000 + turn, chance)


async def one(it: Rig, connection: int) -> list[Ask]:
    """A connection whose requests are pipelined, sent and read as it comes."""
    chance = random.Random(connection)  # noqa: S311  no secret
    sock = small(socket.socket())
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, it.address)
    reader, writer = await asyncio.open_connection(sock=sock, limit=SMALL)
    client = Client(reader, writer)
    wanted = list(asks(chance, connection))
    sending = asyncio.create_task(send(writer, b"".join(ask.octets for ask in wanted), chance))
    for ask in wanted:
        for _ in range(chance.choice((0, 0, 3, 20))):
            await asyncio.sleep(0)
        await ask.answered(client)
    await sending
    writer.write_eof()
    assert await client.rest() == b""
    client.close()
    return wanted


def test_every_response_is_its_requests_and_no_byte_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.proxy.helpers.PlainUpstreams", SmallUpstreams)

    async def body() -> None:
        async with rig(HttpRule("r", path="/(ok|early)"), app=app, limits=LIMITS) as it:
            (listener,) = it.server._listeners[7]
            small(listener.sock)  # accepted sockets inherit it
            done = await asyncio.gather(*(one(it, number) for number in range(CONNECTIONS)))
            await it.quiet()
            total = CONNECTIONS * REQUESTS
            denied = sum("DENIED" in ask.kind for wanted in done for ask in wanted)
            assert it.counters["requests"] == total
            assert it.counters["denied"] == denied
            decisions = [event for event in it.events if not event.is_reply]
            assert [e.code for e in decisions].count(403) == denied
            assert len(decisions) == total
            assert it.counters["internal_error"] == it.counters["malformed"] == 0

    run(body)
