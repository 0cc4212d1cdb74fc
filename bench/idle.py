"""Idle keep-alive connections, held from inside a pod. Run by `tulle lab exec` as a file; Linux, standard library.

    python -P bench/idle.py ADDRESS PORT COUNT

Opens COUNT connections, makes one request on each, prints how many were answered well, holds them until standard
input ends, and prints how many the other side has closed meanwhile.
"""

import resource
import socket
import sys

_REQUEST = b"GET /bench/1k HTTP/1.1\r\nHost: web\r\n\r\n"
_BODY_BYTES = 1024
_TIMEOUT_S = 20.0
# So many at once: a listen queue is not what is measured.
_BATCH = 50


def opened(address: str, port: int) -> socket.socket:
    """A connection with its request on the way."""
    sock = socket.create_connection((address, port), timeout=_TIMEOUT_S)
    sock.sendall(_REQUEST)
    return sock


def answered(sock: socket.socket) -> bool:
    """Whether the whole answer came and is a 200."""
    received = b""
    while True:
        data = sock.recv(65536)
        if not data:
            return False
        received += data
        head, end, body = received.partition(b"\r\n\r\n")
        if end and len(body) >= _BODY_BYTES:
            return head.startswith(b"HTTP/1.1 200 ")


def closed(sock: socket.socket) -> bool:
    """Whether the other side has ended a connection on which nothing was asked."""
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def main() -> None:
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[socket.socket] = []
    good = 0
    for start in range(0, count, _BATCH):
        batch = [opened(address, port) for _ in range(min(_BATCH, count - start))]
        good += sum(map(answered, batch))
        held += batch
    print(good, flush=True)
    sys.stdin.read()
    print(sum(map(closed, held)), flush=True)


if __name__ == "__main__":
    main()
