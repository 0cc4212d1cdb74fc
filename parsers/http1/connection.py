"""The two ends of a proxied HTTP/1 connection: bytes in, events out; heads in, bytes out.

Each end reads one kind of message and writes the other. Reading is driven by `next_event`, writing by `send_*`; the two
halves meet in `can_reuse`. Heads are read by `heads`, bodies by `body`. What leaves is written from what was read,
with framing fields of our own making, and must be in the same grammar that we demand of others.
"""

from enum import Enum
from typing import Final

from parsers.buffer import Buffer
from parsers.errors import LocalProtocolError, RemoteProtocolError
from parsers.http1 import grammar
from parsers.http1.body import BodyReader, BodyWriter, LengthReader, reader_for
from parsers.http1.events import (
    CHUNKED,
    NEED_DATA,
    NO_BODY,
    PAUSED,
    UNTIL_CLOSE,
    BodyFraming,
    ConnectionClosed,
    Data,
    EndOfMessage,
    Fields,
    FramingKind,
    Http1Limits,
    InformationalHead,
    RequestEvent,
    RequestHead,
    ResponseEvent,
    ResponseHead,
    Signal,
    length_framing,
)
from parsers.http1.heads import read_request, read_response

DEFAULT_LIMITS: Final = Http1Limits()
_HEAD_TOO_LONG: Final = ("head_too_long", 431)


class State(Enum):
    """Where one direction of a connection is in its message."""

    IDLE = "before the head"
    BODY = "in the body"
    DONE = "message complete"


# Our own writing: what may be sent in which state, and where it leads. What is not here is a bug of the caller.
_MOVES: Final = {
    (State.IDLE, "informational"): State.IDLE,
    (State.IDLE, "head"): State.BODY,
    (State.BODY, "data"): State.BODY,
    (State.BODY, "end"): State.DONE,
    (State.DONE, "next"): State.IDLE,
}


def _move(state: State, what: str) -> State:
    try:
        return _MOVES[state, what]
    except KeyError:
        raise LocalProtocolError(f"cannot send {what!r} {state.value}") from None


class _Connection:
    """What both ends share: the buffer, a reader of bodies, a writer of bodies."""

    __slots__ = ("_buffer", "_close", "_error", "_limits", "_read", "_reader", "_write", "_writer")

    def __init__(self, limits: Http1Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._buffer = Buffer()
        self._read = State.IDLE
        self._reader: BodyReader = LengthReader(0)
        self._write = State.IDLE
        self._writer = BodyWriter(NO_BODY)
        self._close = False  # somebody said that this message is the last
        self._error: RemoteProtocolError | None = None

    def receive(self, data: bytes) -> None:
        """Store what the peer sent; `b""` is the end of its sending. Never parses."""
        self._buffer.append(data)

    @property
    def buffered(self) -> int:
        """Bytes received and not yet handed out.

        After NEED_DATA at most the longest limit (a head, 16 KiB). Otherwise as much as the caller has put in: to stop
        reading while the other side has no room is up to the caller.
        """
        return len(self._buffer)

    def send_data(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """What to write for some bytes of the body, `data` itself uncopied. Empty for a response to HEAD.

        Raises:
            LocalProtocolError: no body now, or more than was announced.
        """
        self._write = _move(self._write, "data")
        return self._writer.data(data)

    def send_end(self, trailers: Fields | None = None) -> bytes:
        """What ends the body, often `b""`. Trailers are written only in chunked framing, and only safe ones.

        Raises:
            LocalProtocolError: no body now, or less than was announced.
        """
        self._write = _move(self._write, "end")
        return self._writer.end(trailers)

    def _take_head(self) -> bytes | None:
        return grammar.take_block(self._buffer, b"\r\n\r\n", self._limits.max_head_bytes, _HEAD_TOO_LONG)

    def _begin_body(self, framing: BodyFraming) -> None:
        self._reader = reader_for(framing, self._limits)
        self._read = State.BODY

    def _read_body(self) -> Data | EndOfMessage | Signal:
        event = self._reader.read(self._buffer)
        if event is None:
            return NEED_DATA
        if type(event) is EndOfMessage:
            self._read = State.DONE
        return event

    def _next_cycle(self) -> None:
        self._write = _move(self._write, "next")
        self._read = State.IDLE


class ServerConnection(_Connection):
    """Faces the client: parses requests, writes responses."""

    __slots__ = ("_blank_lines", "_request")

    def __init__(self, limits: Http1Limits = DEFAULT_LIMITS) -> None:
        super().__init__(limits)
        self._request: RequestHead | None = None
        self._blank_lines = 0

    def next_event(self) -> RequestEvent | Signal:
        """The next event, NEED_DATA, or PAUSED (request complete; what follows waits for `start_next_cycle`).

        Raises:
            RemoteProtocolError: and the same error again whenever called after that.
        """
        if self._error:
            raise self._error
        try:
            if self._read is State.IDLE:
                return self._next_head()
            if self._read is State.BODY:
                return self._read_body()
        except RemoteProtocolError as error:
            self._error = error
            self._close = True
            raise
        return ConnectionClosed() if self._buffer.eof and not len(self._buffer) else PAUSED

    def _next_head(self) -> RequestEvent | Signal:
        buffer = self._buffer
        while buffer.starts_with(b"\r\n"):  # RFC 9112 2.2: some clients end a body with one that is not in its length
            buffer.take(2)
            self._blank_lines += 1
            if self._blank_lines > self._limits.max_leading_crlf:
                raise RemoteProtocolError("too_many_blank_lines", 400, "blank lines before a request")
        head = self._take_head()
        if head is None:
            return ConnectionClosed() if buffer.eof else NEED_DATA
        self._request = request = read_request(head, self._limits)
        self._blank_lines = 0
        self._close |= not request.keep_alive
        self._begin_body(request.framing)
        return request

    def adopt(
        self, request: RequestHead, reader: BodyReader | None, *, response: BodyWriter | None = None, answered: bool
    ) -> None:
        """Take over in the middle of an exchange that somebody else began, on a machine that has done nothing yet.

        reader: of what is still to come of the request's body; None when it is complete. answered: the response's head
        is out; then response is the writer of what is to follow, None when that is nothing.
        """
        self._request = request
        self._close = not request.keep_alive
        if reader is None:
            self._read = State.DONE
        else:
            self._read, self._reader = State.BODY, reader
        if answered and response is None:
            self._write = State.DONE
        elif response is not None:
            self._write, self._writer = State.BODY, response

    def send_response(self, head: ResponseHead, *, close: bool) -> bytes:
        """The head on the wire. UNTIL_CLOSE becomes chunked for HTTP/1.1; chunked becomes UNTIL_CLOSE for HTTP/1.0.

        Works also before any request could be read (to answer a RemoteProtocolError). Afterwards `can_reuse` is False
        if `close`, or if client or framing ask for it, and the head says so.

        Raises:
            LocalProtocolError: a response was sent already, or its fields are not in the grammar.
        """
        self._write = _move(self._write, "head")
        request = self._request
        if request is None or close:
            self._close = True
        framing = head.framing
        kept_length = False
        silent = head.status in (204, 304) or (request is not None and request.method == b"HEAD")
        if silent:
            kept_length = framing is NO_BODY and head.status != 204
            if head.status == 204 or framing.kind is not FramingKind.LENGTH:
                framing = NO_BODY
        elif framing is NO_BODY:
            framing = length_framing(0)  # the client would wait for a body otherwise
        elif framing.kind is not FramingKind.LENGTH:
            old_client = request is None or request.version == b"1.0"
            framing = UNTIL_CLOSE if old_client else CHUNKED
            self._close |= old_client
        self._writer = BodyWriter(framing, silent=silent)
        line = b"HTTP/1.1 %d %s\r\n" % (head.status, head.reason)
        lines = _head_lines(line, head.fields, framing, close=self._close, kept_length=kept_length)
        return grammar.join_lines(lines, grammar.RESPONSE_HEAD)

    def send_informational(self, head: InformationalHead) -> bytes:
        """A 1xx on the wire; `b""` for an HTTP/1.0 client, which must not get one (RFC 9110 15.2).

        Raises:
            LocalProtocolError: the final response was sent already, or 101.
        """
        self._write = _move(self._write, "informational")
        if self._request is None or not 100 <= head.status < 200 or head.status == 101:
            raise LocalProtocolError(f"cannot send {head.status} as a 1xx")
        if self._request.version == b"1.0":
            return b""
        lines = _head_lines(b"HTTP/1.1 %d %s\r\n" % (head.status, head.reason), head.fields, NO_BODY)
        return grammar.join_lines(lines, grammar.RESPONSE_HEAD)

    @property
    def can_reuse(self) -> bool:
        """Request read to its end, response written to its end, nobody asked to close, and more may come."""
        return (
            self._read is State.DONE
            and self._write is State.DONE
            and not self._close
            and self._error is None
            and not (self._buffer.eof and not len(self._buffer))
        )

    def start_next_cycle(self) -> None:
        """Make ready for the next request. Raises LocalProtocolError unless `can_reuse`."""
        if not self.can_reuse:
            raise LocalProtocolError("connection cannot be used again")
        self._next_cycle()
        self._request = None


class ClientConnection(_Connection):
    """Faces the server: writes requests, parses responses."""

    __slots__ = ("_informational", "_method")

    def __init__(self, limits: Http1Limits = DEFAULT_LIMITS) -> None:
        super().__init__(limits)
        self._method = b""
        self._informational = 0

    def adopt(
        self,
        method: bytes,
        writer: BodyWriter | None,
        *,
        close: bool,
        answered: bool = False,
        reader: BodyReader | None = None,
    ) -> None:
        """Take over in the middle of an exchange, on a machine that has done nothing yet.

        writer: of what is still to come of the request's body; None when it is complete. close: the request or its
        response said that it is the last. answered: the response's head was read; then reader is of what is still to
        come, None when that is nothing.
        """
        self._method = method
        self._close = close
        if writer is None:
            self._write = State.DONE
        else:
            self._write, self._writer = State.BODY, writer
        if answered and reader is None:
            self._read = State.DONE
        elif reader is not None:
            self._read, self._reader = State.BODY, reader

    def send_request(
        self,
        method: bytes,
        target: bytes,
        fields: Fields,
        framing: BodyFraming,
        *,
        version: bytes = b"1.1",
        close: bool = False,
    ) -> bytes:
        """The head on the wire; `target` is `Target.wire`, `fields` are `forwarded_request_fields(head)`. close: say
        that no request follows, so that the server ends the connection and keeps its TIME-WAIT.

        Raises:
            LocalProtocolError: a request was sent already, or it is not in the grammar.
        """
        if framing.kind is FramingKind.UNTIL_CLOSE or (framing.kind is FramingKind.CHUNKED and version == b"1.0"):
            raise LocalProtocolError(f"a request of HTTP/{version.decode()} has no such framing: {framing.kind.value}")
        self._write = _move(self._write, "head")
        self._method = method
        self._close = close or version == b"1.0"
        self._informational = 0
        self._writer = BodyWriter(framing)
        lines = _head_lines(b"%s %s HTTP/%s\r\n" % (method, target, version), fields, framing, close=close)
        return grammar.join_lines(lines, grammar.REQUEST_HEAD)

    def next_event(self) -> ResponseEvent | Signal:
        """The next event, NEED_DATA, or PAUSED (response complete, or none awaited).

        Bytes that answer no request, or follow the response, are an error: they would answer somebody else's request.

        Raises:
            RemoteProtocolError: status 502; the same error again whenever called after that.
        """
        if self._error:
            raise self._error
        try:
            if self._read is State.BODY:
                return self._read_body()
            if self._read is State.IDLE and self._write is not State.IDLE:
                return self._next_head()
            if len(self._buffer):
                raise RemoteProtocolError("unexpected_response", 502, "the server sent what no request asked for")
        except RemoteProtocolError as error:
            error.status = 502
            self._error = error
            self._close = True
            raise
        return ConnectionClosed() if self._buffer.eof else PAUSED

    def _next_head(self) -> ResponseEvent | Signal:
        head = self._take_head()
        if head is None:
            if self._buffer.eof:
                raise RemoteProtocolError("closed_without_response", 502, "the server closed before its response")
            return NEED_DATA
        response = read_response(head, self._method, self._limits)
        if isinstance(response, InformationalHead):
            self._informational += 1
            if self._informational > self._limits.max_informational:
                raise RemoteProtocolError("too_many_informational", 502, "1xx without end")
            return response
        self._close |= not response.keep_alive
        self._begin_body(response.framing)
        return response

    @property
    def can_reuse(self) -> bool:
        """Request written to its end, response read to its end, nothing after it, and nobody asked to close."""
        return (
            self._read is State.DONE
            and self._write is State.DONE
            and not self._close
            and self._error is None
            and not self._buffer.eof
            and not len(self._buffer)
        )

    def start_next_cycle(self) -> None:
        """Make ready for the next request. Raises LocalProtocolError unless `can_reuse`."""
        if not self.can_reuse:
            raise LocalProtocolError("connection cannot be used again")
        self._next_cycle()


def _head_lines(
    line: bytes, fields: Fields, framing: BodyFraming, *, close: bool = False, kept_length: bool = False
) -> list[bytes]:
    """Start line, fields and blank line. The framing field is ours: at the place of the old one, spelled as it was.

    `kept_length` keeps a Content-Length that announces no body here (the response to HEAD, 304).
    """
    if framing.kind is FramingKind.LENGTH:
        ours, value = b"content-length", b"%d" % framing.length
    elif framing.kind is FramingKind.CHUNKED:
        ours, value = b"transfer-encoding", b"chunked"
    else:
        ours, value = b"", b""
    lines = [line]
    options = [b"close"] if close else []
    for pair in fields:
        name = pair[0].lower()
        if name in _WRITTEN_BY_US:
            if name == ours:
                lines.append(b"%s: %s\r\n" % (pair[0], value))
                ours = b""
            elif name == b"te":  # RFC 9110 10.1.4: and Connection must name it
                lines.append(b"%s: %s\r\n" % pair)
                options.append(b"TE")
            elif kept_length and name == b"content-length":
                lines.append(b"%s: %s\r\n" % pair)
                kept_length = False
            continue
        lines.append(b"%s: %s\r\n" % pair)
    if ours:
        lines.append(b"%s: %s\r\n" % (ours.title(), value))
    if options:
        lines.append(b"Connection: %s\r\n" % b", ".join(options))
    lines.append(b"\r\n")
    return lines


_WRITTEN_BY_US: Final = frozenset((b"content-length", b"transfer-encoding", b"connection", b"te"))
