"""One non-blocking socket of a flow: partial writes, half-close, and what is watched of it.

Registering costs a system call, so it happens only when something changes: reading stays watched from request to
request, writing only while bytes are left over.
"""

import errno
import socket
import struct
from collections.abc import Callable

from proxy.watch import READ, WRITE, Handler, Watch

_RESET = struct.pack("ii", 1, 0)


class Side:
    """A connected socket. `ended`: the peer's end of sending was read.

    was_reset: a write, or a move, met the peer's reset. The kernel tells an error once, and to whoever asks first: a
    read after that finds nothing but an end, which it is not.
    """

    __slots__ = (
        "_fin_wanted",
        "_on_read",
        "_on_write",
        "_out",
        "_shared",
        "_watch",
        "_watched",
        "_writing",
        "broken",
        "ended",
        "fd",
        "fin_sent",
        "reading",
        "recv",
        "send",
        "sock",
        "unsent",
        "wants_flush",
        "was_reset",
    )

    def __init__(
        self, watch: Watch, sock: socket.socket, on_read: Handler, on_write: Callable[[], None], *, shared: bool
    ) -> None:
        """shared: another process may still hold the descriptor, so that closing it alone does not end watching."""
        self._watch = watch
        self.sock = sock
        self.fd = sock.fileno()
        self.recv: Callable[[int], bytes] = sock.recv
        """`recv(size)`: what is there, `b""` at the end. Raises BlockingIOError, OSError."""
        self.send: Callable[[bytes | memoryview], int] = sock.send
        self._on_read = on_read
        self._on_write = on_write
        self._shared = shared
        self._out: list[bytes | memoryview] = []
        self.unsent = 0  # bytes
        self.wants_flush = False  # something was given, or the end asked for, since the last flush
        self.reading = False
        self._writing = False
        self._watched = 0
        self._fin_wanted = False
        self.fin_sent = False
        self.ended = False
        self.broken = False  # writing failed: what is given is thrown away, reading tells why
        self.was_reset = False

    def want_read(self, wanted: bool) -> None:
        """Watch for bytes, or stop. At the end of the peer's sending watching stops by itself."""
        if wanted and self.ended:
            wanted = False
        if wanted is not self.reading:
            self.reading = wanted
            self._set_watch()

    def give(self, data: bytes | memoryview) -> None:
        """Take bytes to be sent by the next `flush`."""
        if not self.broken:
            self._out.append(data)
            self.unsent += len(data)
            self.wants_flush = True

    def pass_on(self, data: bytes) -> bool:
        """Send at once. False when a `flush` is needed: something is unsent, or the connection is lost."""
        if self.unsent or self.broken or self._fin_wanted:
            self.give(data)
            return False
        try:
            sent = self.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.failed(error)
            self.wants_flush = True  # fails again there, and is told there
            self._out.append(data)
            self.unsent = len(data)
            return False
        if sent == len(data):
            return True
        self._keep(data, sent)
        return False

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
        except OSError as error:
            self.failed(error)
            self.discard()
            self.broken = True
            return False
        return True

    def failed(self, error: OSError) -> None:
        """A write or a move failed. EPIPE is of a peer that had ended before (tcp_reset(), tcp_sendmsg())."""
        if error.errno != errno.EPIPE:
            self.was_reset = True

    def writable(self) -> bool:
        """There is room. False as `flush`."""
        self._writing = False
        kept = self.flush()
        self._set_watch()
        return kept

    def discard(self) -> None:
        """Throw away what is unsent."""
        self._out.clear()
        self.unsent = 0

    def close(self, *, reset: bool = False) -> None:
        """Close now; with `reset` the peer gets a RST instead of what is unsent."""
        if self.fd < 0:
            return
        if self._watched:
            self._watched = 0
            if self._shared:
                self._watch.remove(self.fd)
            else:
                self._watch.forget(self.fd)
        self.reading = self._writing = False
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
                sent = self.send(data)
            except BlockingIOError:
                sent = 0
            out.clear()
            if sent < len(data):
                self._keep(data, sent)
                return
            self.unsent = 0
        if self._fin_wanted and not self.fin_sent:
            self.fin_sent = True
            self.sock.shutdown(socket.SHUT_WR)

    def _keep(self, data: bytes | memoryview, sent: int) -> None:
        self._out.append(memoryview(data)[sent:])
        self.unsent = len(data) - sent
        self._writing = True
        self._set_watch()

    def _set_watch(self) -> None:
        if self.fd < 0:
            return
        events, handler = 0, self._on_read
        if self._writing:
            events, handler = (READ | WRITE, self._ready) if self.reading else (WRITE, self._ready)
        elif self.reading:
            events = READ
        if events == self._watched:
            return
        if not self._watched:
            self._watch.add(self.fd, events, handler)
        elif not events:
            self._watch.remove(self.fd)
        else:
            self._watch.change(self.fd, events, handler)
        self._watched = events

    def _ready(self, events: int) -> None:
        """Both are watched, or writing alone. A connection that broke is told to either."""
        if events & ~READ:
            self._on_write()
        if self.fd >= 0 and self.reading and events & ~WRITE:
            self._on_read(events)
