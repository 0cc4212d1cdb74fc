"""The two ends of a proxied HTTP/1 connection: bytes in, events out; heads in, bytes out."""

from parsers.http1.events import (
    BodyFraming,
    Fields,
    Http1Limits,
    InformationalHead,
    RequestEvent,
    ResponseEvent,
    ResponseHead,
    Signal,
)


class ServerConnection:
    """Faces the client: parses requests, writes responses."""

    def __init__(self, limits: Http1Limits | None = None) -> None:
        raise NotImplementedError

    def receive(self, data: bytes) -> None:
        """Store what the client sent; `b""` is the end of its sending. Never parses."""
        raise NotImplementedError

    def next_event(self) -> RequestEvent | Signal:
        """The next event, NEED_DATA, or PAUSED (request complete; the next one waits for `start_next_cycle`).

        Raises:
            RemoteProtocolError: and the same error again whenever called after that.
        """
        raise NotImplementedError

    @property
    def buffered(self) -> int:
        """Bytes received and not yet handed out."""
        raise NotImplementedError

    def send_response(self, head: ResponseHead, *, close: bool) -> bytes:
        """The head on the wire. UNTIL_CLOSE becomes chunked for HTTP/1.1; chunked becomes UNTIL_CLOSE for HTTP/1.0.

        Works also before any request could be read (to answer a RemoteProtocolError). Afterwards `can_reuse` is False
        if `close`, or if client or framing ask for it, and the head says so.
        """
        raise NotImplementedError

    def send_informational(self, head: InformationalHead) -> bytes:
        """A 1xx on the wire; `b""` for an HTTP/1.0 client, which must not get one."""
        raise NotImplementedError

    def send_data(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """What to write for some bytes of the body, `data` itself uncopied. Empty for a response to HEAD."""
        raise NotImplementedError

    def send_end(self, trailers: Fields | None = None) -> bytes:
        """What ends the body, often `b""`. Trailers are written only in chunked framing."""
        raise NotImplementedError

    @property
    def can_reuse(self) -> bool:
        """Request read to its end, response written to its end, and nobody asked to close."""
        raise NotImplementedError

    def start_next_cycle(self) -> None:
        """Make ready for the next request. Raises LocalProtocolError unless `can_reuse`."""
        raise NotImplementedError


class ClientConnection:
    """Faces the server: writes requests, parses responses."""

    def __init__(self, limits: Http1Limits | None = None) -> None:
        raise NotImplementedError

    def send_request(
        self, method: bytes, target: bytes, fields: Fields, framing: BodyFraming, *, version: bytes = b"1.1"
    ) -> bytes:
        """The head on the wire; `target` is `Target.wire`, `fields` are forwarded_request_fields(head)."""
        raise NotImplementedError

    def send_data(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """What to write for some bytes of the body, `data` itself uncopied."""
        raise NotImplementedError

    def send_end(self, trailers: Fields | None = None) -> bytes:
        """What ends the body, often `b""`."""
        raise NotImplementedError

    def receive(self, data: bytes) -> None:
        """Store what the server sent; `b""` is the end of its sending. Never parses."""
        raise NotImplementedError

    def next_event(self) -> ResponseEvent | Signal:
        """The next event or NEED_DATA. Bytes that answer no request, or follow the response, are an error.

        Raises:
            RemoteProtocolError: status 502; the same error again whenever called after that.
        """
        raise NotImplementedError

    @property
    def buffered(self) -> int:
        """Bytes received and not yet handed out."""
        raise NotImplementedError

    @property
    def can_reuse(self) -> bool:
        """Request written to its end, response read to its end, nothing after it, nobody asked to close."""
        raise NotImplementedError

    def start_next_cycle(self) -> None:
        """Make ready for the next request. Raises LocalProtocolError unless `can_reuse`."""
        raise NotImplementedError
