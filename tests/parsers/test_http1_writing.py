"""What leaves: heads with framing of our own, bodies framed anew, and the moves that are not allowed."""

from collections.abc import Callable

import pytest

from parsers.errors import LocalProtocolError, RemoteProtocolError
from parsers.http1.connection import ClientConnection, ServerConnection
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
    InformationalHead,
    RequestHead,
    ResponseHead,
    length_framing,
)
from parsers.http1.fields import forwarded_request_fields, forwarded_response_fields

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def server_after(request: bytes) -> ServerConnection:
    server = ServerConnection()
    if request:
        server.receive(request)
    while server.next_event() not in (NEED_DATA, PAUSED):
        pass
    return server


def head_of(request: bytes) -> RequestHead:
    server = ServerConnection()
    server.receive(request)
    head = server.next_event()
    assert isinstance(head, RequestHead)
    return head


def response(framing: BodyFraming, fields: Fields | None = None, status: int = 200) -> ResponseHead:
    return ResponseHead(status, b"OK", b"1.1", fields or [], framing)


OLD_GET = b"GET / HTTP/1.0\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"
LENGTH = (b"content-LENGTH", b"3")
CODING = (b"transfer-ENCODING", b"chunked")

# name, request, response head, close, head on the wire, what "abc" becomes, what ends it, reusable
RESPONSES = [
    ("length", GET, response(length_framing(3), [(b"A", b"1"), LENGTH, (b"B", b"2")]), False,
     b"HTTP/1.1 200 OK\r\nA: 1\r\ncontent-LENGTH: 3\r\nB: 2\r\n\r\n", b"abc", b"", True),
    ("length of our own", GET, response(length_framing(3)), False,
     b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", b"abc", b"", True),
    ("the framing wins over the field", GET, response(length_framing(3), [(b"Content-Length", b"99"), LENGTH]), False,
     b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", b"abc", b"", True),
    ("chunked", GET, response(CHUNKED, [CODING, (b"A", b"1")]), False,
     b"HTTP/1.1 200 OK\r\ntransfer-ENCODING: chunked\r\nA: 1\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", True),
    ("chunked never with a length", GET, response(CHUNKED, [LENGTH]), False,
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", True),
    ("until close becomes chunked", GET, response(UNTIL_CLOSE), False,
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", True),
    ("close", GET, response(length_framing(3), [LENGTH]), True,
     b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\nConnection: close\r\n\r\n", b"abc", b"", False),
    ("Connection is ours", GET, response(length_framing(3), [(b"Connection", b"keep-alive, x"), LENGTH]), False,
     b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\n\r\n", b"abc", b"", True),
    ("1.0, length", OLD_GET, response(length_framing(3), [LENGTH]), False,
     b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\nConnection: close\r\n\r\n", b"abc", b"", False),
    ("1.0, chunked becomes until close", OLD_GET, response(CHUNKED, [CODING]), False,
     b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"abc", b"", False),
    ("1.0, until close", OLD_GET, response(UNTIL_CLOSE), False,
     b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"abc", b"", False),
    ("client asked to close", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", response(CHUNKED), False,
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n",
     False),
    ("HEAD keeps the length it was told", HEAD, response(NO_BODY, [LENGTH]), False,
     b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\n\r\n", b"", b"", True),
    ("HEAD has no coding", HEAD, response(NO_BODY, [CODING]), False, b"HTTP/1.1 200 OK\r\n\r\n", b"", b"", True),
    ("HEAD, reply of our own", HEAD, response(length_framing(3)), False,
     b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", b"", b"", True),
    ("HEAD, until close needs no close", HEAD, response(UNTIL_CLOSE), False,
     b"HTTP/1.1 200 OK\r\n\r\n", b"", b"", True),
    ("304 keeps the length it was told", GET, response(NO_BODY, [LENGTH, LENGTH], 304), False,
     b"HTTP/1.1 304 OK\r\ncontent-LENGTH: 3\r\n\r\n", b"", b"", True),
    ("204 has no length", GET, response(NO_BODY, [LENGTH], 204), False, b"HTTP/1.1 204 OK\r\n\r\n", b"", b"", True),
    ("before any request", b"", response(length_framing(3), status=408), False,
     b"HTTP/1.1 408 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", b"abc", b"", False),
    ("before any request, unknown length", b"", response(CHUNKED), False,
     b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"abc", b"", False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "request_", "head", "close", "wire", "data", "end", "reusable"),
    RESPONSES,
    ids=[row[0] for row in RESPONSES],
)
def test_responses(
    name: str, request_: bytes, head: ResponseHead, close: bool, wire: bytes, data: bytes, end: bytes, reusable: bool
) -> None:
    server = server_after(request_)
    assert server.send_response(head, close=close) == wire
    assert b"".join(server.send_data(b"abc")) == data
    assert b"".join(server.send_data(b"")) == b""
    assert not server.can_reuse
    assert server.send_end() == end
    assert server.can_reuse is reusable
    if not reusable:
        with pytest.raises(LocalProtocolError):
            server.start_next_cycle()


def test_no_body_of_our_own_is_a_length_of_0() -> None:
    server = server_after(GET)
    assert server.send_response(response(NO_BODY), close=False) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert server.send_end() == b""
    assert server.can_reuse


def test_data_is_not_copied() -> None:
    data = memoryview(b"abc")
    server = server_after(GET)
    server.send_response(response(CHUNKED), close=False)
    assert server.send_data(data)[1] is data
    whole = b"x" * 70_000
    server = server_after(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 140000\r\n\r\n")
    server.receive(whole)
    event = server.next_event()
    assert isinstance(event, Data)
    assert event.data is whole


def test_trailers_go_out_when_safe_and_chunked() -> None:
    trailers = [
        (b"X-Sum", b"1"),
        (b"Content-Length", b"5"),
        (b"Host", b"h"),
        (b"Set-Cookie", b"a"),
        (b"grpc-status", b"0"),
    ]
    server = server_after(GET)
    server.send_response(response(CHUNKED), close=False)
    assert server.send_end(trailers) == b"0\r\nX-Sum: 1\r\ngrpc-status: 0\r\n\r\n"
    server = server_after(GET)
    server.send_response(response(length_framing(0)), close=False)
    assert server.send_end(trailers) == b""
    server = server_after(GET)
    server.send_response(response(CHUNKED), close=False)
    with pytest.raises(LocalProtocolError):
        server.send_end([(b"X", b"a\r\nContent-Length: 5")])


def test_informational() -> None:
    head = InformationalHead(103, b"Early Hints", [(b"Link", b"</a>"), (b"Content-Length", b"5")])
    server = server_after(GET)
    assert server.send_informational(head) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert server.send_informational(InformationalHead(100, b"", [])) == b"HTTP/1.1 100 \r\n\r\n"
    server.send_response(response(NO_BODY), close=False)
    with pytest.raises(LocalProtocolError):
        server.send_informational(head)
    assert server_after(OLD_GET).send_informational(head) == b""
    for status in (101, 99, 200):
        with pytest.raises(LocalProtocolError):
            server_after(GET).send_informational(InformationalHead(status, b"", []))
    with pytest.raises(LocalProtocolError):
        server_after(b"").send_informational(head)
    with pytest.raises(LocalProtocolError):
        server_after(GET).send_informational(InformationalHead(100, b"", [(b"X", b"\n")]))


REQUESTS = [
    ("nothing to change", b"GET /a HTTP/1.1\r\nHost: h\r\nx-A: 1\r\nX-b: 2\r\n\r\n",
     b"GET /a HTTP/1.1\r\nHost: h\r\nx-A: 1\r\nX-b: 2\r\n\r\n"),
    ("order is kept", b"GET /a HTTP/1.1\r\nb: 1\r\na: 2\r\nb: 3\r\nHOST: h\r\n\r\n",
     b"GET /a HTTP/1.1\r\nb: 1\r\na: 2\r\nb: 3\r\nHOST: h\r\n\r\n"),
    ("blanks around values go", b"GET /a HTTP/1.1\r\nHost:h\r\nA: \t b \t\r\n\r\n",
     b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n"),
    ("hop-by-hop", b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: 5\r\nX-HOP: a\r\n"
     b"Proxy-Connection: a\r\nProxy-Authorization: b\r\nPROXY-Features: c\r\nA: b\r\n\r\n",
     b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n"),
    ("upgrade", b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\n"
     b"HTTP2-Settings: AAM\r\nSec-WebSocket-Key: a\r\n\r\n",
     b"GET /a HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: a\r\n\r\n"),
    ("upgrade that Connection does not name", b"GET /a HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n",
     b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("TE", b"GET /a HTTP/1.1\r\nHost: h\r\nTe: gzip;q=1, Trailers\r\nConnection: TE\r\n\r\n",
     b"GET /a HTTP/1.1\r\nHost: h\r\nTe: trailers\r\nConnection: TE\r\n\r\n"),
    ("TE without trailers", b"GET /a HTTP/1.1\r\nHost: h\r\nTE: gzip\r\n\r\n", b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("length with leading zeros", b"POST /a HTTP/1.1\r\nHost: h\r\ncontent-length: 00\r\n\r\n",
     b"POST /a HTTP/1.1\r\nHost: h\r\ncontent-length: 0\r\n\r\n"),
    ("chunked", b"POST /a HTTP/1.1\r\nTRANSFER-encoding: chunked\r\nHost: h\r\n\r\n0\r\n\r\n",
     b"POST /a HTTP/1.1\r\nTRANSFER-encoding: chunked\r\nHost: h\r\n\r\n"),
    ("expect", b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n",
     b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"),
    ("expect without a body", b"GET /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
     b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("1.0 with Host goes on as 1.1", b"GET /a HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
     b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("1.0 without Host stays", b"GET /a HTTP/1.0\r\nA: b\r\n\r\n", b"GET /a HTTP/1.0\r\nA: b\r\n\r\n"),
    ("authority of the target", b"GET http://h:8/a HTTP/1.0\r\nA: b\r\n\r\n",
     b"GET /a HTTP/1.1\r\nHost: h:8\r\nA: b\r\n\r\n"),
    ("Host beside an absolute form", b"GET http://H/a HTTP/1.1\r\nHost: h\r\n\r\n",
     b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "request_", "wire"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_requests(name: str, request_: bytes, wire: bytes) -> None:
    head = head_of(request_)
    client = ClientConnection()
    fields = forwarded_request_fields(head)
    assert client.send_request(head.method, b"/a", fields, head.framing, version=head.forward_version) == wire


def test_response_fields() -> None:
    fields = [(b"A", b"1"), (b"Connection", b"x-hop"), (b"X-Hop", b"2"), (b"Upgrade", b"h2"), (b"Content-Length", b"0")]
    fields.append((b"Proxy-Authenticate", b"Basic"))
    head = ResponseHead(200, b"", b"1.1", fields, length_framing(0), connection=(b"x-hop",))
    assert forwarded_response_fields(head) == [(b"A", b"1"), (b"Content-Length", b"0")]


def client_after(request: bytes = GET) -> ClientConnection:
    head = head_of(request)
    client = ClientConnection()
    client.send_request(head.method, b"/", forwarded_request_fields(head), head.framing)
    return client


POST3 = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"

FORBIDDEN: list[tuple[str, Callable[[], object]]] = [
    ("data before a head", lambda: server_after(GET).send_data(b"a")),
    ("end before a head", lambda: server_after(GET).send_end()),
    ("next cycle before a response", lambda: server_after(GET).start_next_cycle()),
    ("next cycle before a request", lambda: ClientConnection().start_next_cycle()),
    ("second request", lambda: client_after().send_request(b"GET", b"/", [(b"Host", b"h")], NO_BODY)),
    ("data without a body", lambda: client_after().send_data(b"a")),
    ("more data than announced", lambda: client_after(POST3).send_data(b"abcd")),
    ("less data than announced", lambda: client_after(POST3).send_end()),
    ("request until close", lambda: ClientConnection().send_request(b"GET", b"/", [], UNTIL_CLOSE)),
    ("chunked request in 1.0", lambda: ClientConnection().send_request(b"GET", b"/", [], CHUNKED, version=b"1.0")),
    ("blank in the target", lambda: ClientConnection().send_request(b"GET", b"/a b", [], NO_BODY)),
    ("CR LF in the target", lambda: ClientConnection().send_request(b"GET", b"/\r\nX: y", [], NO_BODY)),
    ("a line in a value", lambda: ClientConnection().send_request(b"GET", b"/", [(b"X", b"a\r\nY: b")], NO_BODY)),
    ("CR LF in a value", lambda: ClientConnection().send_request(b"GET", b"/", [(b"X", b"a\r\n b")], NO_BODY)),
    ("CR LF in a reason", lambda: server_after(GET).send_response(
        ResponseHead(200, b"OK\r\n", b"1.1", [], NO_BODY), close=False)),
    ("status of four digits", lambda: server_after(GET).send_response(
        ResponseHead(2000, b"OK", b"1.1", [], NO_BODY), close=False)),
    ("data after the end of data", lambda: after_eof().receive(b"a")),
]  # fmt: skip


def after_eof() -> ServerConnection:
    server = server_after(GET)
    server.receive(b"")
    return server


@pytest.mark.parametrize(("name", "move"), FORBIDDEN, ids=[row[0] for row in FORBIDDEN])
def test_forbidden(name: str, move: Callable[[], object]) -> None:
    with pytest.raises(LocalProtocolError):
        move()


def test_a_response_is_sent_once() -> None:
    server = server_after(GET)
    server.send_response(response(NO_BODY), close=False)
    with pytest.raises(LocalProtocolError):
        server.send_response(response(NO_BODY), close=False)


def test_pipelined_requests_wait_for_their_turn() -> None:
    server = ServerConnection()
    server.receive(GET * 3)
    for _ in range(3):
        assert isinstance(server.next_event(), RequestHead)
        assert server.next_event() == EndOfMessage()
        assert server.next_event() is PAUSED
        server.send_response(response(NO_BODY), close=False)
        assert server.next_event() is PAUSED
        server.send_end()
        server.start_next_cycle()
    assert server.next_event() is NEED_DATA
    assert server.buffered == 0


def test_an_early_response_leaves_the_body_to_be_read() -> None:
    server = ServerConnection()
    server.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")
    assert isinstance(server.next_event(), RequestHead)
    server.send_response(response(NO_BODY), close=False)
    server.send_end()
    assert server.next_event() == Data(b"ab")
    assert not server.can_reuse
    server.receive(b"cde" + GET)
    assert server.next_event() == Data(b"cde")
    assert server.next_event() == EndOfMessage()
    assert server.can_reuse
    server.start_next_cycle()
    assert isinstance(server.next_event(), RequestHead)


def test_half_close_still_gets_its_responses() -> None:
    server = ServerConnection()
    server.receive(GET + GET)
    server.receive(b"")
    for left in (1, 0):
        assert isinstance(server.next_event(), RequestHead)
        assert server.next_event() == EndOfMessage()
        server.send_response(response(NO_BODY), close=False)
        server.send_end()
        assert server.can_reuse is (left > 0)
        if left:
            assert server.next_event() is PAUSED
            server.start_next_cycle()
    assert server.next_event() == ConnectionClosed()
    assert server.next_event() == ConnectionClosed()


def test_an_error_stays_and_can_be_answered() -> None:
    server = ServerConnection()
    server.receive(b"GET / HTTP/1.1\nHost: h\r\n\r\n")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="bare_lf"):
            server.next_event()
    wire = server.send_response(response(length_framing(2), status=400), close=True)
    assert wire == b"HTTP/1.1 400 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    assert server.send_data(b"no") == [b"no"]
    assert server.send_end() == b""
    assert not server.can_reuse


def test_a_client_is_used_again() -> None:
    client = ClientConnection()
    assert client.next_event() is PAUSED
    for method in (b"HEAD", b"GET"):
        client.send_request(method, b"/", [(b"Host", b"h")], NO_BODY)
        assert client.next_event() is NEED_DATA
        client.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        head = client.next_event()
        assert isinstance(head, ResponseHead)
        assert head.framing.kind is (FramingKind.NONE if method == b"HEAD" else FramingKind.LENGTH)
        assert client.next_event() == EndOfMessage()
        assert client.next_event() is PAUSED
        assert not client.can_reuse  # the request is not ended
        client.send_end()
        assert client.can_reuse
        client.start_next_cycle()


def test_an_idle_server_that_speaks_is_not_used() -> None:
    client = ClientConnection()
    client.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="unexpected_response") as caught:
            client.next_event()
        assert caught.value.status == 502


def test_an_idle_server_that_closes_is_not_used() -> None:
    client = ClientConnection()
    client.receive(b"")
    assert client.next_event() == ConnectionClosed()
    assert not client.can_reuse


def test_an_early_response_before_the_request_is_sent() -> None:
    client = client_after(POST3)
    client.receive(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(client.next_event(), ResponseHead)
    assert client.next_event() == EndOfMessage()
    assert not client.can_reuse
    assert client.send_data(b"abc") == [b"abc"]
    client.send_end()
    assert client.can_reuse
