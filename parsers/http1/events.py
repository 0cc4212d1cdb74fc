"""What the HTTP/1 machines hand out: small facts, one object per thing that happened.

Heads are frozen in spirit but plain slots in fact: they are made once per request, and frozen ones cost three times as
much to make. Nobody changes them.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

type Field = tuple[bytes, bytes]  # (name as it was spelled, value without surrounding white space)
type Fields = list[Field]
type TargetForm = Literal["origin", "absolute", "asterisk", "authority"]


class Signal(Enum):
    """Answers of `next_event` that are not events."""

    NEED_DATA = "need data"  # nothing more until `receive` is called
    PAUSED = "paused"  # the message is complete; what follows waits for `start_next_cycle`


NEED_DATA: Final = Signal.NEED_DATA
PAUSED: Final = Signal.PAUSED


class FramingKind(Enum):
    """How the end of a body is found (RFC 9112 6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"  # responses only


@dataclass(frozen=True, slots=True)
class BodyFraming:
    """How the end of a body is found, and the number of bytes where that is known beforehand."""

    kind: FramingKind
    length: int = 0  # bytes; meaningful for LENGTH only


NO_BODY: Final = BodyFraming(FramingKind.NONE)
CHUNKED: Final = BodyFraming(FramingKind.CHUNKED)
UNTIL_CLOSE: Final = BodyFraming(FramingKind.UNTIL_CLOSE)


def length_framing(length: int) -> BodyFraming:
    """The framing of a body of `length` bytes; 0 is a Content-Length of 0, which is not the same as no body."""
    return BodyFraming(FramingKind.LENGTH, length)


@dataclass(slots=True)
class RequestHead:
    """The head of one request, read one way only.

    Attributes:
        method: a token, case kept.
        target: the request target as sent; `canonical_target` reads it.
        version: `b"1.0"` or `b"1.1"`.
        fields: in order and as spelled, hop-by-hop fields included. Judge and send `forwarded_request_fields(head)`.
        host: the authority the request is for: from the target in absolute form, from Host otherwise. None only for
            HTTP/1.0 without Host.
        form: of the target, RFC 9112 3.2. "authority" is CONNECT, which `canonical_target` refuses with 405.
        framing: NONE, LENGTH or CHUNKED.
        expect_continue: the client waits for a 100 before it sends the body. False when there is no body to wait for.
        keep_alive: the client may send another request on this connection.
        connection: options of Connection in lower case, without `close` and `keep-alive`; these fields are dropped.
    """

    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    host: bytes | None
    form: TargetForm
    framing: BodyFraming
    expect_continue: bool
    keep_alive: bool
    connection: tuple[bytes, ...] = ()

    @property
    def forward_version(self) -> bytes:
        """What to send this request on as: 1.1, which needs a Host, or 1.0 when there is none (RFC 9112 3.2)."""
        return b"1.0" if self.host is None else b"1.1"


@dataclass(slots=True)
class ResponseHead:
    """The head of one final response (status 200 to 599).

    `framing` is that of the body that follows on this connection: NONE after HEAD and for 204 and 304, whatever the
    fields say. One that we make ourselves states the framing its body would have; ServerConnection knows about HEAD.
    """

    status: int
    reason: bytes
    version: bytes
    fields: Fields
    framing: BodyFraming
    keep_alive: bool = True
    connection: tuple[bytes, ...] = ()


@dataclass(slots=True)
class InformationalHead:
    """A 1xx response. 101 never appears: it is refused."""

    status: int
    reason: bytes
    fields: Fields
    connection: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Data:
    """Some bytes of the body, chunk framing removed; never more than one `receive` brought, never empty."""

    data: bytes | memoryview


@dataclass(slots=True)
class EndOfMessage:
    """The body is complete. `trailers` holds only fields that are safe to forward."""

    trailers: Fields = field(default_factory=list)


@dataclass(slots=True)
class ConnectionClosed:
    """The peer sends no more; it may still read (half-close)."""


type RequestEvent = RequestHead | Data | EndOfMessage | ConnectionClosed
type ResponseEvent = InformationalHead | ResponseHead | Data | EndOfMessage | ConnectionClosed


@dataclass(frozen=True, slots=True)
class Http1Limits:
    """Bounds of what one connection may hold or cost, each with its reason.

    Attributes:
        max_head_bytes: 16 KiB, h11's and IIS's number; twice Tomcat's. A longer head is 431.
        max_fields: 100, as Apache and Envoy. More is 431.
        max_leading_crlf: RFC 9112 2.2 asks for "at least one"; two covers every client we know of.
        max_chunk_line_bytes: a size is 15 digits at most; the rest is for extensions, which nobody uses.
        max_chunk_extension_bytes: of one message. Without it, one byte of body may cost a line of extensions each.
        max_trailer_bytes: trailers are checksums and gRPC statuses.
        max_informational: 1xx responses before a final one; each is forwarded, so this bounds a loop.
    """

    max_head_bytes: int = 16 * 1024
    max_fields: int = 100
    max_leading_crlf: int = 2
    max_chunk_line_bytes: int = 256
    max_chunk_extension_bytes: int = 16 * 1024
    max_trailer_bytes: int = 8 * 1024
    max_informational: int = 16
