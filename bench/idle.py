"""Idle keep-alive connections, held from inside a pod. Run by `tulle lab exec` as a file; Linux, standard library.

    python -P bench/idle.py ADDRESS PORT COUNT

Opens COUNT connections, makes one request on each, prints how many were answered well, holds those until standard
input ends, and prints how many the other side has closed meanwhile. When a whole batch has failed it opens no more.
"""

import resource
import socket
import sys

_REQUEST = b"GET /bench/1k HTTP/1.1\r\nHost: web\r\n\r\n"
_GOOD = b"HTTP/1.1 200 "
_BODY_BYTES = 1024
_TIMEOUT_S = 10.0
# So many at once: a listen queue is not what is measured.
_BATCH = 50


def opened(address: str, port: int) -> socket.socket | None:
    """A connection with its request on the way; None where there is none."""
    try:
        sock = socket.create_connection((address, port), timeout=_TIMEOUT_S)
        sock.sendall(_REQUEST)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return None
    return sock


def answered(sock: socket.socket) -> bool:
    """Whether the whole answer came, in time, and is a 200."""
    received = b""
    while True:
        try:
            data = sock.recv(65536)
        except OSError:
            return False
        if not data:
            return False
        received += data
        head, end, body = received.partition(b"\r\n\r\n")
        if end and (not head.startswith(_GOOD) or len(body) >= _BODY_BYTES):
            return head.startswith(_GOOD)


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
    for start in range(0, count, _BATCH):
        batch = [opened(address, port) for _ in range(min(_BATCH, count - start))]
        good = [sock for sock in batch if sock is not None and answered(sock)]
        held += good
        if not good:
            break
    print(len(held), flush=True)
    sys.stdin.read()
    print(sum(map(closed, held)), flush=True)


if __name__ == "__main__":
    main()
