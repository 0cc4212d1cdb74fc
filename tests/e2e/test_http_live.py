"""HTTP/1 over the real path: client pod, wire, steering, worker, leg, server pod."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.cluster import Cluster, eventually
from tests.helpers.live import Client, HttpRule, connected, ingress, policy, port_rule, server

pytestmark = pytest.mark.root

OPEN = 8080  # every request is allowed there, and the tests bring the server
CLOSED = 8081  # the same, but nobody listens
MIB = 1024 * 1024
RULES: list[HttpRule] = [
    {"path": "/public.*"},
    {"method": "OPTIONS", "path": r"\*"},
]
RISE_LIMIT = 24 * MIB
"""What a worker may grow by while it streams a body of any size: buffers of 256 KiB and the allocator's slack."""


@pytest.fixture(scope="module")
def web(shared_lab: Cluster) -> Iterator[Cluster]:
    shared_lab.delete_policies()
    shared_lab.apply(policy("http", ingress(port_rule(80, RULES), port_rule(OPEN, [{}]), port_rule(CLOSED, [{}]))))
    yield shared_lab
    shared_lab.delete_policies()


@pytest.fixture(params=["frontend", "frontend-near"])
def client(web: Cluster, request: pytest.FixtureRequest) -> Iterator[Client]:
    with connected(web, request.param) as connection:
        yield connection


def answer(body: bytes = b"ok", *fields: str) -> bytes:
    """A 200 with a length."""
    head = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *fields, "", ""])
    return head.encode() + body


def test_many_requests_on_one_connection(web: Cluster) -> None:
    before = web.counters("node-b")
    with connected(web, "frontend", family="ipv6") as connection:
        for number in range(500):
            reply = connection.ask(f"/public/{number}")
            assert (reply.status, reply.json()["target"]) == (200, f"/public/{number}")
            if number % 50 == 0:
                assert connection.ask("/private").status == 403
        assert connection.alive()
    after = web.counters("node-b")
    assert after["accepted"] - before["accepted"] == 1
    assert after["requests"] - before["requests"] == 510
    assert after["denied"] - before["denied"] == 10


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    client.send(
        b"GET /public/1 HTTP/1.1\r\nHost: web\r\n\r\n"
        b"GET /private HTTP/1.1\r\nHost: web\r\n\r\n"
        b"POST /public/2 HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello"
        b"POST /private HTTP/1.1\r\nHost: web\r\nContent-Length: 37\r\n\r\n"
        b"GET /public/X HTTP/1.1\r\nHost: web\r\n\r\n"
        b"GET /public/3 HTTP/1.1\r\nHost: web\r\n\r\n"
    )
    replies = [client.response() for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 403, 200, 403, 200]
    assert [replies[at].json()["target"] for at in (0, 2, 4)] == ["/public/1", "/public/2", "/public/3"]
    assert replies[1].body == replies[3].body == b"Access denied\r\n"
    assert client.alive()


def test_a_chunked_request_keeps_body_and_trailers(web: Cluster) -> None:
    got: list[tuple[bytes, tuple[str, ...]]] = []

    def handler(peer: Client) -> None:
        assert b"transfer-encoding: chunked" in peer.head().lower()
        got.append(peer.chunks())
        peer.send(answer())

    with server(web, "web", OPEN, handler), connected(web, "frontend", port=OPEN) as connection:
        connection.send(
            b"POST /up HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b"5\r\nhello\r\n1;name=value\r\n \r\n5\r\nworld\r\n0\r\nX-Sum: 42\r\n\r\n"
        )
        assert connection.response().status == 200
    assert got == [(b"hello world", ("X-Sum: 42",))]


def test_a_chunked_response_keeps_body_and_trailers(web: Cluster) -> None:
    def handler(peer: Client) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n")
        time.sleep(0.05)
        peer.send(b"3\r\ndef\r\n0\r\nX-Sum: 7\r\n\r\n")
        peer.head()
        peer.send(answer(b"next"))

    with server(web, "web", OPEN, handler), connected(web, "frontend", port=OPEN) as connection:
        reply = connection.ask("/down")
        assert (reply.status, reply.body, reply.trailers) == (200, b"abcdef", ("X-Sum: 7",))
        assert connection.ask("/again").body == b"next"


def test_expect_100_continue_is_the_servers_to_answer(client: Client) -> None:
    client.send(b"POST /public HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert client.response().status == 100
    client.send(b"hello")
    reply = client.response()
    assert (reply.status, reply.json()["method"]) == (200, "POST")
    client.send(b"POST /private HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert client.response().status == 403  # and no 100 before it


def test_responses_without_a_body_leave_the_connection_usable(web: Cluster) -> None:
    def handler(peer: Client) -> None:
        while True:
            target = peer.head().split(b" ")[1]
            if target == b"/204":
                peer.send(b"HTTP/1.1 204 No Content\r\nX-N: 1\r\n\r\n")
            elif target == b"/304":
                peer.send(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 100\r\n\r\n')
            elif target == b"/head":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
            else:
                peer.send(answer(b"body"))

    with server(web, "web", OPEN, handler), connected(web, "frontend", port=OPEN) as connection:
        for _ in range(3):
            reply = connection.ask("/head", "HEAD")
            assert (reply.status, reply.headers["content-length"]) == (200, "12345")
            assert connection.ask("/204").status == 204
            reply = connection.ask("/304")
            assert (reply.status, reply.headers["etag"]) == (304, '"a"')
            assert connection.ask("/body").body == b"body"


def test_http_1_0_is_answered_and_closed(client: Client) -> None:
    client.send(b"GET /public HTTP/1.0\r\n\r\n")
    assert client.response().json()["target"] == "/public"
    assert client.ended()


def test_an_http_1_0_client_gets_no_chunks(web: Cluster) -> None:
    def handler(peer: Client) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")

    with server(web, "web", OPEN, handler), connected(web, "frontend", port=OPEN) as connection:
        connection.send(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")
        reply = connection.response()
        assert "transfer-encoding" not in reply.headers
        assert reply.body == b"abcdef"
        assert connection.ended()


def test_a_client_that_has_said_all_still_hears_the_answer(web: Cluster) -> None:
    def handler(peer: Client) -> None:
        peer.head()
        time.sleep(0.3)
        peer.send(answer(b"late" * 50_000))

    with server(web, "web", OPEN, handler), connected(web, "frontend", port=OPEN) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        connection.sock.shutdown(1)
        assert connection.response().body == b"late" * 50_000
        assert connection.ended()


def test_absolute_form_is_judged_by_its_own_path(client: Client) -> None:
    reply = client.ask("http://web/public?x=1")
    assert (reply.status, reply.json()["target"], reply.json()["headers"]["Host"]) == (200, "/public?x=1", "web")
    assert client.ask("http://web/private").status == 403
    assert client.ask("http://web/public/../private").status == 403
    assert client.ask("http://elsewhere/public").status == 400  # Host says web


def test_options_star(client: Client) -> None:
    reply = client.ask("*", "OPTIONS")
    assert (reply.status, reply.json()["target"]) == (200, "*")
    assert client.ask("*", "GET").status == 400


def test_an_early_response_reaches_a_client_that_still_sends(web: Cluster) -> None:
    def handler(peer: Client) -> None:
        peer.head()
        peer.send(answer(b"too large", "Connection: close"))

    with server(web, "web", OPEN, handler), connected(web, "frontend", port=OPEN) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 100_000)
        assert connection.response().body == b"too large"


def test_nobody_listens_upstream(web: Cluster) -> None:
    for pod in ("frontend", "frontend-near"):
        for family in ("ipv4", "ipv6"):
            with connected(web, pod, port=CLOSED, family=family) as connection:
                assert connection.ask("/").status == 502


def test_a_server_that_closes_its_idle_connections(web: Cluster) -> None:
    served: list[bytes] = []

    def handler(peer: Client) -> None:
        served.append(peer.head())
        peer.send(answer())  # and the connection is closed without a word

    with server(web, "web", OPEN, handler):
        for pause_s in (0.0, 0.2):
            for _ in range(5):
                with connected(web, "frontend", port=OPEN) as connection:
                    assert connection.ask("/").status == 200
                    time.sleep(pause_s)
                    # either is right: a leg of its own for the second request, or an end that every client knows
                    with suppress(ConnectionError):
                        assert connection.ask("/").status == 200
    assert len(served) >= 10


class Peak:
    """How much the workers of a node grew at their highest, by the kernel's own mark (proc(5), clear_refs 5)."""

    def __init__(self, lab: Cluster, node: str) -> None:
        self._pids = lab.processes(node, "worker")
        for pid in self._pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._before = self._marks()

    def _marks(self) -> list[int]:
        marks = []
        for pid in self._pids:
            (line,) = [x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM")]
            marks.append(int(line.split()[1]) * 1024)
        return marks

    def rise(self) -> int:
        """Bytes, of the worker that grew most."""
        return max(after - before for before, after in zip(self._before, self._marks(), strict=True))


def test_an_upload_of_50_mb_in_bounded_memory(web: Cluster) -> None:
    size = 50 * MIB
    got: list[int] = []

    def handler(peer: Client) -> None:
        peer.head()
        got.append(peer.skip(size))
        peer.send(answer())

    peak = Peak(web, "node-b")
    with server(web, "web", OPEN, handler), connected(web, "frontend", port=OPEN) as connection:
        connection.send(f"PUT /up HTTP/1.1\r\nHost: web\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(50):
            connection.send(bytes(MIB))
        assert connection.response().status == 200
    assert got == [0]
    assert peak.rise() < RISE_LIMIT


def test_a_download_of_200_mb_in_bounded_memory(web: Cluster) -> None:
    peak = Peak(web, "node-b")
    with connected(web, "frontend") as connection:
        connection.send(f"GET /public?bytes={200 * MIB} HTTP/1.1\r\nHost: web\r\n\r\n".encode())
        head = connection.head().lower()
        length = int(head.partition(b"content-length:")[2].split()[0])
        assert length > 200 * MIB
        assert connection.skip(length) == 0
        assert connection.ask("/public").status == 200
    assert peak.rise() < RISE_LIMIT


def test_a_slow_reader_holds_the_server_back(web: Cluster) -> None:
    size = 64 * MIB
    sent = 0
    done = threading.Event()

    def handler(peer: Client) -> None:
        nonlocal sent
        peer.head()
        peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // 65536):
            peer.send(bytes(65536))
            sent += 65536
        done.set()

    peak = Peak(web, "node-b")
    with server(web, "web", OPEN, handler), connected(web, "frontend", port=OPEN) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        assert eventually(lambda: sent > 0)
        seen = -1
        while sent != seen:  # until the server is stuck
            seen = sent
            time.sleep(0.5)
        assert not done.is_set()
        assert seen < 32 * MIB  # four socket buffers of at most 6 MiB, and ours
        assert peak.rise() < RISE_LIMIT
        connection.head()
        assert connection.skip(size) == 0
    assert done.is_set()
