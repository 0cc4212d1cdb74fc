"""New connections, one after the other, for a stated time. Run by `tulle lab exec` as a file; standard library only.

    python -P bench/connections.py ADDRESS PORT SECONDS CONCURRENCY client|server WINDOW_S

Keeps CONCURRENCY connections under way from this address; each asks once for a KiB, reads the whole answer, and is
closed first by the side named: by the client as soon as the answer is whole, or by the server, which is asked to
(`Connection: close`), so that this side closes behind the end that it has read. Prints a JSON line per window:

    {"connections", "seconds", "p50_us", "p99_us", "p999_us", "failures": {reason: count}}

`connections` are those that were answered with 200 and a whole body and ended by the side that should; every other end
is a failure with its reason. The last line comes when what was under way has ended, too.
"""

import errno
import json
import select
import socket
import sys
import time
from collections import Counter

_KEEP = b"GET /bench/1k HTTP/1.1\r\nHost: web\r\n\r\n"
_CLOSE = b"GET /bench/1k HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"
_GOOD = b"HTTP/1.1 200 "
_BODY_BYTES = 1024
_READ_BYTES = 65536
_STUCK_S = 10.0


class Connection:
    """One of them: what came so far."""

    __slots__ = ("asked", "received", "sock", "started")

    def __init__(self, sock: socket.socket, started: float) -> None:
        self.sock = sock
        self.started = started
        self.asked = False
        self.received = b""

    @property
    def whole(self) -> bool:
        head, end, body = self.received.partition(b"\r\n\r\n")
        return bool(end) and head.startswith(_GOOD) and len(body) == _BODY_BYTES


class Load:
    """All of them, on one epoll."""

    def __init__(self, address: str, port: int, concurrency: int, *, client_closes: bool) -> None:
        self._to = (address, port)
        self._concurrency = concurrency
        self._client_closes = client_closes
        self._request = _KEEP if client_closes else _CLOSE
        self._epoll = select.epoll()
        self._live: dict[int, Connection] = {}
        self._taken_us: list[float] = []
        self._failures: Counter[str] = Counter()

    def run(self, seconds: float, window_s: float) -> None:
        """Print a line per window; the last window ends with the last connection."""
        began = time.monotonic()
        end, window = began + seconds, began
        while (now := time.monotonic()) < end:
            while len(self._live) < self._concurrency:
                if not self._open():
                    break
            self._turn(0.05)
            if now - window >= window_s and end - now > window_s / 2:
                self._print(now - window)
                window = now
        ended = time.monotonic()
        while self._live:
            self._turn(0.05)
        self._print(ended - window)

    def _open(self) -> bool:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        code = sock.connect_ex(self._to)
        if code not in (0, errno.EINPROGRESS):
            self._failures[f"connect: {errno.errorcode.get(code, str(code))}"] += 1
            sock.close()
            return False
        self._live[sock.fileno()] = Connection(sock, time.perf_counter())
        self._epoll.register(sock.fileno(), select.EPOLLOUT)
        return True

    def _turn(self, wait_s: float) -> None:
        for number, _ in self._epoll.poll(wait_s):
            connection = self._live[number]
            try:
                if not connection.asked:
                    connection.sock.sendall(self._request)
                    connection.asked = True
                    self._epoll.modify(number, select.EPOLLIN)
                else:
                    self._read(number, connection)
            except OSError as error:
                self._end(number, errno.errorcode.get(error.errno or 0, str(error)))
        late = time.perf_counter() - _STUCK_S
        for number, connection in list(self._live.items()):
            if connection.started > late:
                break  # they are in the order of their start
            self._end(number, "no end in time")

    def _read(self, number: int, connection: Connection) -> None:
        data = connection.sock.recv(_READ_BYTES)
        connection.received += data
        if self._client_closes:
            if connection.whole:
                self._end(number, None)
            elif not data:
                self._end(number, "closed before the whole answer")
        elif not data:
            self._end(number, None if connection.whole else "closed before the whole answer")

    def _end(self, number: int, failure: str | None) -> None:
        connection = self._live.pop(number)
        connection.sock.close()
        if failure is None:
            self._taken_us.append((time.perf_counter() - connection.started) * 1e6)
        else:
            self._failures[failure] += 1

    def _print(self, seconds: float) -> None:
        taken = sorted(self._taken_us)
        line = {
            "connections": len(taken),
            "seconds": seconds,
            **{
                name: _quantile(taken, share) for name, share in (("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999))
            },
            "failures": dict(self._failures),
        }
        print(json.dumps(line), flush=True)
        self._taken_us, self._failures = [], Counter()


def _quantile(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1) if ordered else 0.0


def main() -> None:
    address, port, seconds, concurrency, closer, window = sys.argv[1:]
    load = Load(address, int(port), int(concurrency), client_closes=closer == "client")
    load.run(float(seconds), float(window))


if __name__ == "__main__":
    main()
