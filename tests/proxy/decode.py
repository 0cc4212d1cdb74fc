"""What a stream of HTTP/1 messages says, whatever way it was written: a reading of its own, independent of `parsers`.

Two writers may put the same message differently on the wire: where the line Connection stands, and how a body in
chunked framing is cut into chunks. Nothing else may differ, so nothing else is taken away here. It reads only what a
proxy may write; anything doubtful is an AssertionError.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Message:
    """start: the first line. fields: in order and as spelled, without `Connection: close`, which is `close`. body:
    payload so far. ended: the body is complete (never, where it goes on to the end of the connection)."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    close: bool
    framing: str
    body: bytes = b""
    ended: bool = False
    trailers: list[bytes] = field(default_factory=list)


def requests(stream: bytes) -> list[Message]:
    """All messages of one leg, the last one perhaps not complete."""
    found: list[Message] = []
    at = 0
    while at < len(stream):
        message, at = _head(stream, at)
        if not message.framing:
            message.framing, message.ended = "none", True
        else:
            at = _body(message, stream, at)
        found.append(message)
    return found


def responses(stream: bytes, methods: Sequence[str]) -> list[Message]:
    """All messages to a client. methods: of the requests that were answered, in order."""
    found: list[Message] = []
    at = final = 0
    while at < len(stream):
        message, at = _head(stream, at)
        status = int(message.start[9:12])
        found.append(message)
        if status < 200:
            assert not message.framing, message
            message.framing, message.ended = "none", True
            continue
        assert final < len(methods), f"a response too many: {stream[at - 200 :]!r}"
        method = methods[final]
        final += 1
        if method == "HEAD" or status in (204, 304):
            message.framing, message.ended = "none", True
        elif not message.framing:
            assert message.close, message
            message.framing, message.body = "until close", stream[at:]
            return found
        else:
            at = _body(message, stream, at)
    return found


def _head(stream: bytes, at: int) -> tuple[Message, int]:
    end = stream.find(b"\r\n\r\n", at)
    assert end >= 0, f"half a head: {stream[at : at + 200]!r}"
    start, *lines = stream[at:end].split(b"\r\n")
    assert start.startswith(b"HTTP/1.1 ") or start.endswith((b" HTTP/1.1", b" HTTP/1.0")), start
    message = Message(start, [], False, "")
    for line in lines:
        name, colon, value = line.partition(b": ")
        assert colon, line
        lower = name.lower()
        if lower == b"connection" and value.lower() == b"close":
            assert not message.close, stream[at:end]
            message.close = True
            continue
        assert lower not in (b"connection", b"keep-alive", b"upgrade", b"te"), line
        if lower == b"content-length":
            assert not message.framing, stream[at:end]
            message.framing = value.decode()
        elif lower == b"transfer-encoding":
            assert not message.framing, stream[at:end]
            assert value == b"chunked", line
            message.framing = "chunked"
        message.fields.append((name, value))
    return message, end + 4


def _body(message: Message, stream: bytes, at: int) -> int:
    if message.framing == "chunked":
        return _chunks(message, stream, at)
    length = int(message.framing)
    message.body = stream[at : at + length]
    message.ended = len(message.body) == length
    return at + len(message.body)


def _chunks(message: Message, stream: bytes, at: int) -> int:
    pieces: list[bytes] = []
    while True:
        end = stream.find(b"\r\n", at)
        if end < 0:
            assert len(stream) - at <= 8, stream[at:]
            break
        size = int(stream[at:end], 16)
        assert stream[at:end].lower().lstrip(b"0123456789abcdef") == b"", stream[at:end]
        at = end + 2
        if not size:
            message.trailers, at, message.ended = _trailers(stream, at)
            break
        pieces.append(stream[at : at + size])
        at += size
        if at + 2 > len(stream):
            assert b"\r\n".startswith(stream[at:]), stream[at:]
            at = max(at, len(stream))
            break
        assert stream[at : at + 2] == b"\r\n", stream[at - 10 : at + 10]
        at += 2
    message.body = b"".join(pieces)
    return at if message.ended else len(stream)


def _trailers(stream: bytes, at: int) -> tuple[list[bytes], int, bool]:
    if stream.startswith(b"\r\n", at):
        return [], at + 2, True
    end = stream.find(b"\r\n\r\n", at)
    if end < 0:
        return [], len(stream), False
    return stream[at:end].split(b"\r\n"), end + 4, True
