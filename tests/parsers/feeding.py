"""Feeds bytes to the machines in every way they may arrive, and writes down what happened as short lines."""

from collections.abc import Callable, Iterator

from parsers.errors import RemoteProtocolError
from parsers.http1.connection import ClientConnection, ServerConnection
from parsers.http1.events import (
    NEED_DATA,
    NO_BODY,
    PAUSED,
    BodyFraming,
    ConnectionClosed,
    Data,
    EndOfMessage,
    FramingKind,
    Http1Limits,
    InformationalHead,
    RequestHead,
    ResponseHead,
    length_framing,
)

LIMITS = Http1Limits()
# The most that may stay in a machine that asks for more (Http1Limits: a head is the longest thing it holds).
MOST_BUFFERED = LIMITS.max_head_bytes
EMPTY_REPLY = ResponseHead(200, b"OK", b"1.1", [], length_framing(0))

type Lines = list[str]
type Reader = Callable[[list[bytes]], Lines]


def framing_text(framing: BodyFraming) -> str:
    return f"length={framing.length}" if framing.kind is FramingKind.LENGTH else framing.kind.value.replace(" ", "_")


def line_of(event: object) -> str:
    match event:
        case RequestHead():
            host = "-" if event.host is None else event.host.decode()
            words = [event.method.decode(), event.target.decode(), event.version.decode(), host]
            words.append(framing_text(event.framing))
            if event.form != "origin":
                words.append(event.form)
            if event.expect_continue:
                words.append("expect")
            if not event.keep_alive:
                words.append("close")
            return " ".join(words)
        case ResponseHead():
            words = [str(event.status), event.version.decode(), framing_text(event.framing)]
            return " ".join(words if event.keep_alive else [*words, "close"])
        case InformationalHead():
            return f"informational {event.status}"
        case Data():
            return "data " + bytes(event.data).decode("latin-1")
        case EndOfMessage():
            trailers = [f"{name.decode()}={value.decode('latin-1')}" for name, value in event.trailers]
            return " ".join(["end", *trailers])
        case ConnectionClosed():
            return "closed"
        case _:
            raise AssertionError(f"unknown event {event!r}")


def _note(lines: Lines, event: object) -> None:
    """Add a line; bodies in pieces read as one."""
    line = line_of(event)
    if isinstance(event, Data) and lines and lines[-1].startswith("data "):
        lines[-1] += line.removeprefix("data ")
    else:
        lines.append(line)


def read_requests(pieces: list[bytes]) -> Lines:
    """What a server reads from `pieces` (`b""` is the end), answering each request with an empty 200 in time."""
    server = ServerConnection()
    lines: Lines = []
    for piece in pieces:
        server.receive(piece)
        try:
            event = _read_all(server, lines)
        except RemoteProtocolError as error:
            lines.append(f"error {error.reason} {error.status}")
            return lines
        if event is NEED_DATA:
            assert server.buffered <= MOST_BUFFERED
    return lines


def _read_all(server: ServerConnection, lines: Lines) -> object:
    while (event := server.next_event()) is not NEED_DATA:
        if event is PAUSED:
            if not server.can_reuse:
                break
            server.start_next_cycle()
            continue
        if isinstance(event, ConnectionClosed):
            if lines[-1:] != ["closed"]:
                lines.append("closed")
            break
        _note(lines, event)
        if isinstance(event, EndOfMessage):
            server.send_response(EMPTY_REPLY, close=False)
            server.send_end()
    return event


def reader_of_responses(method: bytes = b"GET", version: bytes = b"1.1") -> Reader:
    """A reader of what a client gets for one request with `method`."""

    def read(pieces: list[bytes]) -> Lines:
        client = ClientConnection()
        host = [(b"Host", b"h")] if version == b"1.1" else []
        client.send_request(method, b"/", host, NO_BODY, version=version)
        client.send_end()
        lines: Lines = []
        for piece in pieces:
            client.receive(piece)
            try:
                while (event := client.next_event()) not in (NEED_DATA, PAUSED):
                    if isinstance(event, ConnectionClosed):
                        lines.append("closed")
                        break
                    _note(lines, event)
            except RemoteProtocolError as error:
                lines.append(f"error {error.reason} {error.status}")
                return lines
            if event is NEED_DATA:
                assert client.buffered <= MOST_BUFFERED
        if client.can_reuse:
            lines.append("reusable")
        return lines

    return read


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and at every single place; for long data at every 53rd place and at all near its ends."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    near = 40
    for place in range(1, len(data)):
        if len(data) <= 1500 or place < near or place > len(data) - near or place % 53 == 0:
            yield [data[:place], data[place:]]


def feed(read: Reader, data: bytes, *, eof: bool) -> Lines:
    """The lines for `data`, the same in whatever pieces it comes."""
    end = [b""] if eof else []
    expected = read([data, *end])
    for pieces in splits(data):
        assert read([*pieces, *end]) == expected, f"split as {[len(piece) for piece in pieces]}"
    return expected
