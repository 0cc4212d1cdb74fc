"""Lines to a descriptor that may be a pipe nobody reads. A write to it must never stall the process.

Making the descriptor non-blocking is no way: the flag belongs to the open file, which a shell, the agent and other
workers share. So each write says for itself that it will not wait (RWF_NOWAIT; pipes know it since Linux 6.4), and
where the kernel cannot do that for this kind of file, poll(2) is asked first and no more is written than a pipe that
reports room must take (PIPE_BUF).
"""

import contextlib
import errno
import os
import select
import stat
from collections.abc import Sequence
from typing import Final

PIPE_BUF: Final = 4096
"""Up to this size pipe(7) writes all or nothing, and never mixes the lines of two writers."""
CHUNK: Final = 64 * 1024


class StdoutSink:
    """Lines to `fd`, standard output by default; the descriptor is duplicated and its flags are left alone."""

    name = "stdout"

    def __init__(self, fd: int = 1) -> None:
        self._fd = os.dup(fd)
        mode = os.fstat(self._fd).st_mode
        self._regular = stat.S_ISREG(mode)
        self._chunk = PIPE_BUF if stat.S_ISFIFO(mode) else CHUNK
        self._nowait = not self._regular
        self._rest = b""  # of a line longer than a chunk, when only a part of it went out

    def write(self, lines: Sequence[bytes]) -> int:
        """See `Sink.write`. The rest of a line that went out in part is kept here and goes first next time."""
        if self._rest and not self._send_rest():
            return 0
        taken = 0
        while taken < len(lines):
            size = end = 0
            for end in range(taken, len(lines)):
                if size and size + len(lines[end]) > self._chunk:
                    break
                size += len(lines[end])
            else:
                end = len(lines)
            batch = lines[taken:end]
            try:
                done = self._send(b"".join(batch))
            except OSError:
                if taken:
                    return taken
                raise
            for line in batch:
                if done <= 0:
                    return taken
                taken += 1
                if done < len(line):
                    self._rest = line[done:]
                    if not self._send_rest():
                        return taken
                done -= len(line)
        return taken

    def ready_fd(self) -> int | None:
        """The pipe, terminal or socket itself; a regular file cannot be waited for."""
        return None if self._regular else self._fd

    def close(self) -> None:
        """Close our copy. The rest of a half-written line gets one more try."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # nobody reads it any more: the writer's counters tell what was left
                self._send_rest()
            os.close(self._fd)
            self._fd = -1

    def _send_rest(self) -> bool:
        """Send the rest of a line; True when it is out."""
        while self._rest:
            done = self._send(self._rest)
            if not done:
                return False
            self._rest = self._rest[done:]
        return True

    def _send(self, data: bytes) -> int:
        """Write without waiting; 0 when there is no room now."""
        if self._regular:
            return os.write(self._fd, data)
        if self._nowait:
            try:
                return os.pwritev(self._fd, [data], -1, os.RWF_NOWAIT)
            except BlockingIOError:
                return 0
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE):
                    raise
                self._nowait = False
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        events = poller.poll(0)
        if not events or not events[0][1] & (select.POLLOUT | select.POLLERR | select.POLLHUP):
            return 0
        return os.write(self._fd, data[:PIPE_BUF])
