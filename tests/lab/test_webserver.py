"""The server in pod `web`, on a loopback port."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from lab.webserver import WebProtocol, listen


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The real server in a thread of its own."""
    sock = listen(0)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(WebProtocol, sock=sock))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield sock.getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def talk(port: int, *pieces: bytes, host: str = "127.0.0.1") -> bytes:
    """Send the pieces, say that there is no more, give everything that comes back."""
    with socket.create_connection((host, port), timeout=10) as sock:
        for piece in pieces:
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
        return received


def bodies(answer: bytes) -> list[dict[str, object]]:
    """The JSON bodies of a row of 200 answers."""
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), answer
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append(json.loads(rest[:length]))
        answer = rest[length:]
    return found


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_every_method_and_path(port: int, method: str) -> None:
    (seen,) = bodies(
        talk(port, f"{method} /a%20b/../c?x=1 HTTP/1.1\r\nHost: web\r\nX-Two: a\r\nx-two: b\r\n\r\n".encode())
    )
    assert seen == {
        "client": "127.0.0.1",
        "method": method,
        "target": "/a%20b/../c?x=1",
        "headers": {"Host": "web", "X-Two": "a", "x-two": "b"},
    }


def test_ipv6_client_is_plain(port: int) -> None:
    assert bodies(talk(port, b"GET / HTTP/1.1\r\n\r\n", host="::1"))[0]["client"] == "::1"


def test_a_field_that_comes_twice_keeps_both_values(port: int) -> None:
    (seen,) = bodies(talk(port, b"GET / HTTP/1.1\r\nA: 1\r\nA: 2\r\n\r\n"))
    assert seen["headers"] == {"A": "1, 2"}


def test_head_has_the_length_and_no_body(port: int) -> None:
    answer = talk(port, b"HEAD / HTTP/1.1\r\n\r\nGET /next HTTP/1.1\r\n\r\n")
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: " in head
    assert bodies(rest)[0]["target"] == "/next"


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    pieces = b"".join(
        b"POST /%d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n" % n
        if n % 2
        else b"POST /%d HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /" % n
        for n in range(50)
    )
    assert [seen["target"] for seen in bodies(talk(port, pieces))] == [f"/{n}" for n in range(50)]


def test_any_chunking_means_the_same(port: int) -> None:
    request = b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request:
            sock.send(bytes([byte]))
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
    assert [seen["target"] for seen in bodies(received)] == ["/a", "/b"]


def test_expect_is_answered_before_the_body(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"ok")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("request_head", "stays_open"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True),
    ],
)
def test_keep_alive(port: int, request_head: bytes, stays_open: bool) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock, sock.makefile("rb") as file:
        sock.sendall(request_head)
        while (line := file.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        file.read(length)
        sock.sendall(b"GET /again HTTP/1.1\r\n\r\n" if stays_open else b"")
        assert bool(file.readline()) is stays_open


def test_extra_bytes_keep_the_body_json(port: int) -> None:
    answer = talk(port, b"GET /?bytes=3000000 HTTP/1.1\r\n\r\nGET /after HTTP/1.1\r\n\r\n")
    assert len(answer) > 3_000_000
    assert [seen["target"] for seen in bodies(answer)] == ["/?bytes=3000000", "/after"]


@pytest.mark.parametrize(
    "junk",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"a" * 200_000,
    ],
)
def test_what_is_no_request_gets_400_and_an_end(port: int, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(junk)
        received = sock.recv(65536)
        assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
