"""The loads of our own: new connections, and wrk's script."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from bench.benchlab import HERE
from tests.bench.test_server import line, program

BODY = b"x" * 1024
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + BODY


def windows(port: int, closer: str, seconds: str = "1", window: str = "0.4") -> list[dict[str, object]]:
    command = [sys.executable, "-P", str(HERE / "connections.py"), "127.0.0.1", str(port), seconds, "4", closer, window]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - a program of our own
    return [json.loads(text) for text in done.stdout.splitlines()]


@contextmanager
def server(answer: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    """Answers one connection after the other in its own way."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(5)
                with suppress(ConnectionError):  # wrk ends in the middle of an answer
                    if data := sock.recv(65536):
                        answer(sock, data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("closer", ["client", "server"])
def test_connections_are_counted_in_windows(closer: str) -> None:
    with program("server.py", "--port", "0") as process:
        found = windows(int(line(process)), closer)
    assert len(found) == 2
    for window in found:
        assert isinstance(window["connections"], int)
        assert window["connections"] > 0
        assert window["failures"] == {}
        assert isinstance(window["p50_us"], float)
        assert 0 < window["p50_us"] <= float(str(window["p99_us"])) <= float(str(window["p999_us"]))


@pytest.mark.parametrize(
    ("closer", "sent"),
    [
        ("client", GOOD[:-1]),
        ("client", GOOD.replace(b"200 OK", b"403 No")),
        ("client", b""),
        ("server", GOOD[:-1]),
        ("server", GOOD + b"x"),
        ("server", GOOD.replace(b"200 OK", b"502 No")),
    ],
)
def test_an_answer_that_is_not_the_right_one_is_a_failure(closer: str, sent: bytes) -> None:
    with server(lambda sock, _: sock.sendall(sent)) as port:
        found = windows(port, closer, "0.2", "1")
    assert [window["connections"] for window in found] == [0]
    failures = found[0]["failures"]
    assert isinstance(failures, dict)
    assert set(failures) == {"closed before the whole answer"}
    assert failures["closed before the whole answer"] > 0


def test_a_closed_port_is_a_failure_with_its_reason() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        found = windows(int(unused.getsockname()[1]), "client", "0.2", "1")
    (failures,) = [window["failures"] for window in found]
    assert isinstance(failures, dict)
    assert set(failures) == {"ECONNREFUSED"}


def test_an_idle_connection_is_one_that_was_answered_well() -> None:
    refused = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
    with server(lambda sock, _: sock.sendall(refused)) as port:
        command = [sys.executable, "-P", str(HERE / "idle.py"), "127.0.0.1", str(port), "3"]
        done = subprocess.run(command, input="", capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert done.stdout.split() == ["0", "0"]


def requests_of(arguments: list[str], path: str) -> list[bytes]:
    """The first requests that wrk sends with these arguments of report.lua, as a server sees them."""
    seen: list[bytes] = []

    def keep(sock: socket.socket, data: bytes) -> None:
        while data:
            seen.append(data)
            sock.sendall(GOOD)
            data = sock.recv(65536)

    with server(keep) as port:
        command = ["wrk", "-t1", "-c1", "-d1s", "-s", str(HERE / "report.lua"), f"http://127.0.0.1:{port}{path}"]
        done = subprocess.run([*command, "--", *arguments], capture_output=True, text=True, check=True)  # noqa: S603 - wrk is what set-up installs
    assert "@@" in done.stdout
    return seen


@pytest.mark.root  # wrk is among the packages of set-up
def test_varied_heads_are_like_a_browsers_and_never_the_same() -> None:
    seen = requests_of(["varied"], "/bench/1k")
    assert len(seen) > 10
    assert len(set(seen)) == len(seen)
    for head in seen:
        assert head.startswith(b"GET /bench/1k HTTP/1.1\r\nHost: 127.0.0.1")
        assert head.endswith(b"\r\n\r\n")
        assert head.count(b"\r\nCookie: ") == head.count(b"\r\nX-Request-Id: ") == 1
        assert 500 < len(head) < 700


@pytest.mark.root
def test_paths_never_come_twice() -> None:
    seen = requests_of(["paths", "/items/"], "/bench/1k")
    lines = [head.partition(b"\r\n")[0] for head in seen]
    assert len(set(lines)) == len(lines) > 10
    assert all(text.startswith(b"GET /items/") and text.split(b"/")[2].split()[0].isdigit() for text in lines)


@pytest.mark.root
def test_uploads_have_their_body() -> None:
    seen = requests_of(["upload", "5"], "/api/v1/orders")
    assert seen[0].startswith(b"POST /api/v1/orders HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 5\r\n" in seen[0]
    assert seen[0].endswith(b"\r\n\r\nxxxxx")
