"""One non-blocking socket of a flow: partial writes, half-close, and what the loop watches it for.

Registering with the loop costs a system call and ten microseconds, so it happens only when something changes: the
reader stays registered from request to request, the writer exists only while bytes are left over.
"""

import asyncio
import socket
import struct
from collections.abc import Callable

_RESET = struct.pack("ii", 1, 0)


class Side:
    """A connected socket. `ended`: the peer's end of sending was read."""

    __slots__ = (
        "_fin_wanted",
        "_loop",
        "_on_read",
        "_on_write",
        "_out",
        "_writing",
        "broken",
        "ended",
        "fd",
        "fin_sent",
        "reading",
        "sock",
        "unsent",
        "wants_flush",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_read: Callable[[], None],
        on_write: Callable[[], None],
    ) -> None:
        self._loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self._on_read = on_read
        self._on_write = on_write
        self._out: list[bytes | memoryview] = []
        self.unsent = 0  # bytes
        self.wants_flush = False  # something was given, or the end asked for, since the last flush
        self.reading = False
        self._writing = False
        self._fin_wanted = False
        self.fin_sent = False
        self.ended = False
        self.broken = False  # writing failed: what is given is thrown away, reading tells why

    def read(self, size: int) -> bytes | None:
        """What is there, `b""` at the end, None when nothing is there after all.

        Raises:
            OSError: the connection is lost.
        """
        try:
            return self.sock.recv(size)
        except BlockingIOError:
            return None

    def want_read(self, wanted: bool) -> None:
        """Watch for bytes, or stop. At the end of the peer's sending watching stops by itself."""
        if wanted and not self.ended:
            if not self.reading:
                self.reading = True
                self._loop.add_reader(self.fd, self._on_read)
        elif self.reading:
            self.reading = False
            self._loop.remove_reader(self.fd)

    def give(self, data: bytes | memoryview) -> None:
        """Take bytes to be sent by the next `flush`."""
        if not self.broken:
            self._out.append(data)
            self.unsent += len(data)
            self.wants_flush = True

    def end(self) -> None:
        """End our sending once everything is sent."""
        self._fin_wanted = True
        self.wants_flush = True

    def flush(self) -> bool:
        """Send what the socket takes; the rest goes when it is writable. False: the connection is lost."""
        self.wants_flush = False
        if self._writing:
            return True
        try:
            self._send()
        except OSError:
            self.discard()
            self.broken = True
            return False
        return True

    def writable(self) -> bool:
        """The loop says that there is room. False as `flush`."""
        self._loop.remove_writer(self.fd)
        self._writing = False
        return self.flush()

    def discard(self) -> None:
        """Throw away what is unsent."""
        self._out.clear()
        self.unsent = 0

    def close(self, *, reset: bool = False) -> None:
        """Close now; with `reset` the peer gets a RST instead of what is unsent."""
        if self.fd < 0:
            return
        self.want_read(False)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self.fd)
        self.discard()
        self.fd = -1
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    def _send(self) -> None:
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            size = len(data)
            out.clear()
            if sent < size:
                out.append(memoryview(data)[sent:])
                self.unsent = size - sent
                self._writing = True
                self._loop.add_writer(self.fd, self._on_write)
                return
            self.unsent = 0
        if self._fin_wanted and not self.fin_sent:
            self.fin_sent = True
            self.sock.shutdown(socket.SHUT_WR)
