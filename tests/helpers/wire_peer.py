"""What runs in the pods of tests/e2e/test_explain_and_wire.py: a server, and a client that is told what to do.

    python wire_peer.py server    answers HTTP on TCP 80, 81 and 8080, and echoes UDP on 53, 80 and 8080
    python wire_peer.py client    reads a JSON list of requests per line, makes them all at once, prints their outcomes

Standard library only; every request is a connection of its own. An outcome is `200`, `echo`, or how it failed.
"""

import json
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

TCP_PORTS = (80, 81, 8080)
UDP_PORTS = (53, 80, 8080)
CONNECT_TIMEOUT_S = 4.0
UDP_TIMEOUT_S = 0.7
UDP_TRIES = 2
MARK = b"reached"


def serve() -> None:
    """Serve until the process is ended."""
    for port in TCP_PORTS:
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    for port in UDP_PORTS:
        echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        echo.bind(("::", port))
        threading.Thread(target=_echo, args=(echo,), daemon=True).start()
    threading.Event().wait()


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection:
        connection.settimeout(10)
        head = b""
        try:
            while b"\r\n\r\n" not in head and (chunk := connection.recv(4096)):
                head += chunk
            if b"\r\n\r\n" in head:
                length = b"Content-Length: %d\r\n" % len(MARK)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"Connection: close\r\n\r\n" + MARK)
        except OSError:
            return


def _echo(server: socket.socket) -> None:
    while True:
        try:
            data, sender = server.recvfrom(2048)
            server.sendto(MARK + data, sender)
        except OSError:  # an answer that policy refuses must not end the server
            continue


def ask(request: dict[str, Any]) -> str:
    """Make one request; how it ended."""
    try:
        if request["protocol"] == "UDP":
            return _ask_udp(request)
        return _ask_http(request)
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return type(error).__name__


def _ask_http(request: dict[str, Any]) -> str:
    with socket.create_connection((request["address"], request["port"]), timeout=CONNECT_TIMEOUT_S) as connection:
        headers = "".join(f"{line}\r\n" for line in request["headers"])
        connection.sendall(f"{request['line']} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    if not answer:
        return "closed"
    status = answer.split(b" ", 2)[1].decode()
    return status if status != "200" or answer.endswith(MARK) else "200 by somebody else"


def _ask_udp(request: dict[str, Any]) -> str:
    family = socket.AF_INET6 if ":" in request["address"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.settimeout(UDP_TIMEOUT_S)
        if request["connected"]:
            one.connect((request["address"], request["port"]))
        for attempt in range(UDP_TRIES):
            data = b"%d" % attempt
            if request["connected"]:
                one.send(data)
            else:
                one.sendto(data, (request["address"], request["port"]))
            try:
                if one.recv(2048).startswith(MARK):
                    return "echo"
            except TimeoutError:
                continue
    return "timeout"


def main() -> None:
    """Serve, or make requests until standard input ends."""
    if sys.argv[1] == "server":
        serve()
    with ThreadPoolExecutor(32) as pool:
        for line in sys.stdin:
            print(json.dumps(list(pool.map(ask, json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
