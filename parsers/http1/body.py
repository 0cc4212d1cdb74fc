"""Where a body ends: readers that take it apart as it arrives, and the writer that frames it again.

h11's body readers are not used: they copy each byte four times, and tolerate chunk lines that others read differently.
"""

import re
from typing import Final, Protocol

from parsers.buffer import Buffer
from parsers.errors import LocalProtocolError, RemoteProtocolError
from parsers.http1 import grammar
from parsers.http1.events import BodyFraming, Data, EndOfMessage, Fields, FramingKind, Http1Limits
from parsers.http1.fields import FRAMING_NAMES, safe_trailers

# RFC 9112 7.1: digits alone (no sign, no 0x, no blank) and at most 15 of them, which fit 60 bits. Extensions are those
# of 7.1.1 without bad white space and quoted pairs; they are dropped, as a recipient may do.
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:;" + grammar.TOKEN + rb"(?:=(?:" + grammar.TOKEN + rb'|"[\t !#-\[\]-~]*+"))?)*+)\r\n'
)
_SIZE_THEN_EXTENSION: Final = re.compile(rb"[0-9A-Fa-f]{1,15}[ \t]*;")
_CHUNK_LINE_TOO_LONG: Final = ("chunk_line_too_long", 400)
_TRAILERS_TOO_LONG: Final = ("trailers_too_long", 431)


class BodyReader(Protocol):
    """Takes from the buffer; None means that more is needed."""

    def read(self, buffer: Buffer) -> Data | EndOfMessage | None:
        """The next event. Raises RemoteProtocolError."""


class LengthReader:
    """A body of a stated number of bytes; 0 for none."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    def read(self, buffer: Buffer) -> Data | EndOfMessage | None:
        """The next event. Raises RemoteProtocolError."""
        if not self._left:
            return EndOfMessage()
        if len(buffer):
            data = buffer.take(self._left)
            self._left -= len(data)
            return Data(data)
        if buffer.eof:
            raise RemoteProtocolError("closed_early", 400, "connection closed in the middle of a body")
        return None


class UntilCloseReader:
    """A body that ends with the connection (RFC 9112 6.3, case 8)."""

    __slots__ = ()

    def read(self, buffer: Buffer) -> Data | EndOfMessage | None:
        """The next event."""
        if len(buffer):
            return Data(buffer.take(len(buffer)))
        return EndOfMessage() if buffer.eof else None


class ChunkedReader:
    """RFC 9112 7.1. Chunks that arrived together come out as one Data: one-byte chunks shall not cost an event each."""

    __slots__ = ("_error", "_extensions_left", "_left", "_limits", "_state")

    _SIZE, _DATA, _DATA_END, _TRAILERS = range(4)

    def __init__(self, limits: Http1Limits, *, left: int | None = None) -> None:
        """left: begin within a chunk with so many octets to come, 0 before the CRLF that ends it (`ChunkFollower`)."""
        self._limits = limits
        self._state = self._SIZE if left is None else self._DATA if left else self._DATA_END
        self._left = left or 0
        self._extensions_left = limits.max_chunk_extension_bytes
        self._error: RemoteProtocolError | None = None

    def read(self, buffer: Buffer) -> Data | EndOfMessage | None:
        """The next event. Raises RemoteProtocolError."""
        if self._error:
            raise self._error
        pieces: list[bytes] = []
        try:
            while self._state != self._TRAILERS:
                if not self._step(buffer, pieces):
                    break
        except RemoteProtocolError as error:
            if not pieces:
                raise
            self._error = error  # what came before it is handed out first, as it is when it comes alone
        if pieces:
            return Data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._state == self._TRAILERS:
            return self._read_trailers(buffer)
        return None

    def _step(self, buffer: Buffer, pieces: list[bytes]) -> bool:
        """Take one part of a chunk; False when it is not here yet."""
        if self._state == self._SIZE:
            limit = self._limits.max_chunk_line_bytes
            line = grammar.take_block(buffer, b"\r\n", limit, _CHUNK_LINE_TOO_LONG)
            if line is None:
                if buffer.eof:
                    raise RemoteProtocolError("closed_early", 400, "connection closed before a chunk")
                return False
            self._left = self._read_size(line)
            self._state = self._DATA if self._left else self._TRAILERS
            return True
        if self._state == self._DATA:
            piece = buffer.take(self._left)
            if not piece:
                if buffer.eof:
                    raise RemoteProtocolError("closed_early", 400, "connection closed in the middle of a chunk")
                return False
            pieces.append(piece)
            self._left -= len(piece)
            if not self._left:
                self._state = self._DATA_END
            return True
        if buffer.starts_with(b"\r\n"):
            buffer.take(2)
            self._state = self._SIZE
            return True
        if len(buffer) >= 2 or (len(buffer) and not buffer.starts_with(b"\r")):
            raise RemoteProtocolError("bad_chunk_end", 400, "chunk is longer than its size says")
        if buffer.eof:
            raise RemoteProtocolError("closed_early", 400, "connection closed after a chunk")
        return False

    def _read_size(self, line: bytes) -> int:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            if error := grammar.octet_error(line):
                raise error
            if _SIZE_THEN_EXTENSION.match(line):
                raise RemoteProtocolError("bad_chunk_extension", 400, "RFC 9112 7.1.1")
            raise RemoteProtocolError("bad_chunk_size", 400, "chunk size is not 1 to 15 hex digits")
        size, extensions = match.groups()
        if extensions:
            self._extensions_left -= len(extensions)
            if self._extensions_left < 0:
                raise RemoteProtocolError("chunk_extensions_too_long", 400, "too many bytes of chunk extensions")
        return int(size, 16)

    def _read_trailers(self, buffer: Buffer) -> EndOfMessage | None:
        if buffer.starts_with(b"\r\n"):
            buffer.take(2)
            return EndOfMessage()
        limit = self._limits.max_trailer_bytes
        block = grammar.take_block(buffer, b"\r\n\r\n", limit, _TRAILERS_TOO_LONG)
        if block is None:
            if buffer.eof:
                raise RemoteProtocolError("closed_early", 400, "connection closed before the trailers")
            return None
        if not grammar.TRAILERS.fullmatch(block):
            raise grammar.octet_error(block) or grammar.explain_fields(block[:-4].split(b"\r\n"))
        if block.count(b"\r\n") - 1 > self._limits.max_fields:
            raise RemoteProtocolError("too_many_fields", 431, f"more than {self._limits.max_fields} trailers")
        trailers = grammar.split_fields(b"\r\n" + block)
        if any(name.lower() in FRAMING_NAMES for name, _ in trailers):
            raise RemoteProtocolError("bad_trailer", 400, "framing or routing field in trailers (RFC 9110 6.5.1)")
        return EndOfMessage(safe_trailers(trailers))


def reader_for(framing: BodyFraming, limits: Http1Limits) -> BodyReader:
    """The reader for a body with this framing."""
    if framing.kind is FramingKind.CHUNKED:
        return ChunkedReader(limits)
    if framing.kind is FramingKind.UNTIL_CLOSE:
        return UntilCloseReader()
    return LengthReader(framing.length)


class BodyWriter:
    """Frames one body. `silent` is for a response to HEAD: it has the head of a body, and no body.

    open_chunk: a chunk was announced on the wire by somebody else, and so many octets of it are to come; then its CRLF.
    """

    __slots__ = ("_kind", "_left", "_open_chunk", "_silent")

    def __init__(self, framing: BodyFraming, *, silent: bool = False, open_chunk: int | None = None) -> None:
        self._kind = framing.kind
        self._left = framing.length
        self._silent = silent
        self._open_chunk = open_chunk

    def data(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """What to write. Raises LocalProtocolError when it is more than was announced."""
        if not data or self._silent:  # an empty chunk would be the last one
            return []
        if self._kind is FramingKind.CHUNKED:
            if self._open_chunk is not None:
                return self._close_chunk(self._open_chunk, data)
            return [b"%x\r\n" % len(data), data, b"\r\n"]
        if self._kind is not FramingKind.UNTIL_CLOSE:
            self._left -= len(data)
            if self._left < 0:
                raise LocalProtocolError("body is longer than announced")
        return [data]

    def _close_chunk(self, left: int, data: bytes | memoryview) -> list[bytes | memoryview]:
        """What belongs to the open chunk goes into it, the rest into one of its own."""
        if len(data) < left:
            self._open_chunk = left - len(data)
            return [data]
        self._open_chunk = None
        view = memoryview(data)
        first: list[bytes | memoryview] = [view[:left]] if left else []
        return [*first, b"\r\n", *self.data(view[left:])]

    def end(self, trailers: Fields | None) -> bytes:
        """What ends the body. Raises LocalProtocolError when it is shorter than was announced."""
        if self._silent:
            return b""
        if self._kind is FramingKind.CHUNKED:
            if self._open_chunk:
                raise LocalProtocolError("chunk is shorter than announced")
            last = b"0\r\n" if self._open_chunk is None else b"\r\n0\r\n"
            if not trailers:
                return last + b"\r\n"
            lines = [b"%s: %s\r\n" % pair for pair in safe_trailers(trailers)]
            return last + grammar.join_lines([*lines, b"\r\n"], grammar.TRAILERS)
        if self._left:
            raise LocalProtocolError("body is shorter than announced")
        return b""
