"""The benchmark's server and its idle client, over loopback."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.benchlab import HERE


@contextmanager
def program(script: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(  # noqa: S603 - a program of our own
        [sys.executable, "-P", str(HERE / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with program("server.py", "--port", "0") as process:
        yield int(line(process))


def exchange(port: int, sent: bytes, pieces: int = 1) -> bytes:
    """Send, in so many pieces, then read to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        for at in range(pieces):
            sock.sendall(sent[at * len(sent) // pieces : (at + 1) * len(sent) // pieces])
        received = b""
        while data := sock.recv(1 << 20):
            received += data
        return received


def ask(path: str, *, close: bool = False) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: web\r\n{'Connection: close' if close else 'A: b'}\r\n\r\n".encode()


@pytest.mark.parametrize(("path", "size"), [("/bench/1k", 1024), ("/bench/64k", 65536), ("/bench/1m", 1048576)])
@pytest.mark.parametrize("pieces", [1, 7])
def test_bodies_have_their_size(port: int, path: str, size: int, pieces: int) -> None:
    answer = exchange(port, ask(path, close=True), pieces)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"\r\nContent-Length: {size}\r\nConnection: close".encode() in head
    assert len(body) == size


def test_requests_in_one_piece_are_answered_in_order(port: int) -> None:
    answer = exchange(port, ask("/bench/1k") + ask("/other") + ask("/bench/1k", close=True))
    first, second, third = answer.split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3], third[:3]) == (b"200", b"404", b"200")
    assert b"Connection: close" in third
    assert b"Connection: close" not in first


@pytest.mark.parametrize("pieces", [1, 3, 50])
def test_a_body_is_read_to_its_end_before_the_answer(port: int, pieces: int) -> None:
    body = b"GET /bench/1k HTTP/1.1\r\n\r\n" * 100
    head = b"POST /api/v1/orders HTTP/1.1\r\nHost: web\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = exchange(port, head + body + ask("/items/7", close=True), pieces)
    assert [part[:6] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200 OK", b"200 OK"]


def test_a_gib_is_a_gib(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(ask("/bench/1g", close=True))
        head, _, rest = sock.recv(65536).partition(b"\r\n\r\n")
        assert b"Content-Length: 1073741824\r\n" in head
        left = 1024**3 - len(rest)
        buffer = bytearray(1 << 20)
        while count := sock.recv_into(buffer):
            left -= count
        assert left == 0


def test_idle_connections_are_counted(port: int) -> None:
    with program("idle.py", "127.0.0.1", str(port), "120") as process:
        assert line(process) == "120"
        assert process.stdin is not None
        process.stdin.close()
        assert line(process) == "0"


def test_idle_connections_that_the_server_closes_are_counted() -> None:
    with program("server.py", "--port", "0") as server, program("idle.py", "127.0.0.1", line(server), "10") as process:
        assert line(process) == "10"
        server.kill()
        server.wait()
        assert process.stdin is not None
        process.stdin.close()
        assert line(process) == "10"
