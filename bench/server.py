"""The server that is measured against: fast, small, the same for every peer. Run inside pod `web` as a file.

    python -P bench/server.py [--port 80]     prints the port once it listens; 0 takes a free one

Sockets of its own on epoll and nothing parsed but the first line: a server that cost as much as the proxy would hide
what the proxy costs. `GET /bench/1k`, `/bench/64k` and `/bench/1m` are answered with that many bytes, `/bench/1g` with
a GiB made of one MiB sent 1,024 times, any target below `/items/` and `POST /api/v1/orders` with a KiB; every other
request with 404. A request body is as long as its Content-Length says, and read to its end first; chunked ones are
not understood. `Connection: close` is obeyed. One process, one thread. Not for anything but the benchmark.
"""

import argparse
import resource
import select
import socket
from contextlib import suppress

_KIB = 1024
_MIB = _KIB * _KIB
_BLOCK = bytes(range(64, 128)) * (_MIB // 64)
# target -> (bytes of one block, how many blocks); one block is what is held in memory
_BODIES = {b"1k": (_KIB, 1), b"64k": (64 * _KIB, 1), b"1m": (_MIB, 1), b"1g": (_MIB, 1024)}
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n%b\r\n"
_READ_BYTES = 65536
_BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn


class Answer:
    """One prepared answer: the head with the first block, and how many more blocks come behind it.

    `last` is the same for a client that asked to close: wrk counts an end that was not announced as an error.
    """

    __slots__ = ("block", "first", "last", "more")

    def __init__(self, size: int, blocks: int) -> None:
        self.block = memoryview(_BLOCK)[:size]
        self.first = _HEAD % (size * blocks, b"") + self.block.tobytes()
        self.last = _HEAD % (size * blocks, b"Connection: close\r\n") + self.block.tobytes()
        self.more = blocks - 1


ANSWERS = {b"GET /bench/%b HTTP/1.1" % name: Answer(*shape) for name, shape in _BODIES.items()}
ANSWERS[b"POST /api/v1/orders HTTP/1.1"] = _ITEM = Answer(_KIB, 1)
_ITEMS = b"GET /items/"
_MISSING = Answer(0, 1)
_LENGTH = b"\r\ncontent-length:"


class Connection:
    """One client: what it sent so far, and what it is still to get."""

    __slots__ = ("block", "blocks_left", "body_left", "close_after", "inbox", "outbox", "sock", "waiting")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.body_left = 0
        self.waiting: Answer | None = None
        self.inbox = b""
        self.outbox: memoryview | None = None
        self.block: memoryview | None = None
        self.blocks_left = 0
        self.close_after = False

    def readable(self) -> bool:
        """Take what came and answer it; False when the connection is over."""
        data = self.sock.recv(_READ_BYTES)
        if not data:
            return False
        if self.body_left:
            data = self._of_body(data)
            if self.body_left:
                return True
        self.inbox += data
        return self.advance()

    def _of_body(self, data: bytes) -> bytes:
        """Drop what belongs to the request's body; gives what is behind it."""
        taken = min(len(data), self.body_left)
        self.body_left -= taken
        return data[taken:]

    def advance(self) -> bool:
        """Answer every whole request that is there, until the socket is full."""
        while self.outbox is None:
            if self.waiting is None:
                if self.close_after:
                    return False
                if not self._take_head():
                    return True
            if self.body_left:
                return True
            self._answer()
            self.write()
        return True

    def _take_head(self) -> bool:
        """The next request's head, and what is there of its body; False when the head is not whole."""
        head, end, rest = self.inbox.partition(b"\r\n\r\n")
        if not end:
            return False
        line, _, fields = head.partition(b"\r\n")
        self.waiting = ANSWERS.get(line) or (_ITEM if line.startswith(_ITEMS) else _MISSING)
        # the field lines are read only as far as this server's own clients and the proxies write them
        fields = b"\r\n" + fields.lower()
        self.close_after = b"connection: close" in fields
        at = fields.find(_LENGTH)
        if at >= 0:
            self.body_left = int(fields[at + len(_LENGTH) :].partition(b"\r\n")[0])
            rest = self._of_body(rest)
        self.inbox = rest
        return True

    def _answer(self) -> None:
        answer, self.waiting = self.waiting, None
        assert answer is not None  # noqa: S101 - a head was taken
        if answer is _MISSING:
            self.outbox = memoryview(_NOT_FOUND)
        else:
            self.outbox = memoryview(answer.last if self.close_after else answer.first)
            self.block, self.blocks_left = answer.block, answer.more

    def write(self) -> None:
        """Send until there is nothing left (`outbox` is None) or no room."""
        while self.outbox is not None:
            try:
                sent = self.sock.send(self.outbox)
            except BlockingIOError:
                return
            if sent < len(self.outbox):
                self.outbox = self.outbox[sent:]
            elif self.blocks_left:
                self.blocks_left -= 1
                self.outbox = self.block
            else:
                self.outbox = None


class Server:
    """Everything on one epoll, level-triggered."""

    def __init__(self, port: int) -> None:
        self._listener = listen(port)
        self.port = int(self._listener.getsockname()[1])
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        self._writing: set[int] = set()

    def run(self) -> None:
        """Serve until killed."""
        listening = self._listener.fileno()
        while True:
            for number, _ in self._epoll.poll():
                if number == listening:
                    self._accept()
                else:
                    self._serve(number)

    def _accept(self) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                self._connections[sock.fileno()] = Connection(sock)
                self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _serve(self, number: int) -> None:
        connection = self._connections[number]
        try:
            if number in self._writing:
                connection.write()
                alive = connection.advance()
            else:
                alive = connection.readable()
        except BlockingIOError:
            return
        except OSError:  # a client that went away in the middle
            alive = False
        if not alive:
            del self._connections[number]
            self._writing.discard(number)
            connection.sock.close()  # takes it out of the epoll, too
            return
        full = connection.outbox is not None
        if full != (number in self._writing):
            # While an answer waits for room, the client's next requests wait in the kernel: bounded memory.
            self._epoll.modify(number, select.EPOLLOUT if full else select.EPOLLIN)
            (self._writing.add if full else self._writing.discard)(number)


def listen(port: int) -> socket.socket:
    """One socket for both families, without Nagle's delay on what it accepts."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server.bind(("::", port))
    server.listen(_BACKLOG)
    server.setblocking(False)
    return server


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench/server.py",
        description="The benchmark's own server: precomputed answers on epoll.",
        epilog="example: python -P bench/server.py --port 8080",
    )
    parser.add_argument("--port", type=int, default=80)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = Server(arguments.port)
    print(server.port, flush=True)
    server.run()


if __name__ == "__main__":
    main()
