"""Octets from one socket to another without a copy into this process: splice(2) through a pipe.

What a plain body has left is nobody's to look at. To read and send it copies it twice and touches fresh memory each
time; moving the pages costs a quarter to a half of the CPU (docs/decisions/0011-hot-path.md, Large bodies).

INVARIANT: the pipe is empty whenever `move` is not running. All flows of a worker share it, so what stayed behind would
reach another pod. What the target does not take is read out and given to it as unsent; a pipe of which nobody can tell
is closed and made anew.
"""

import contextlib
import fcntl
import os
from typing import Final

from proxy.side import Side

PIPE_BYTES: Final = 256 * 1024
"""Asked for. A `Side` can be left with so much unsent, so it is one read of bulk (`Limits.bulk_read_bytes`)."""


class Relay:
    """One pipe. Not thread-safe."""

    __slots__ = ("_read", "_size", "_write")

    def __init__(self) -> None:
        self._read = self._write = -1
        self._size = 0
        self._open()

    def move(self, source: Side, target: Side, most: int) -> int | None:
        """Move at most so many octets; the number that left `source`, 0 at its end, None when nothing is there.

        What `target` does not take at once is among its unsent bytes afterwards, and so is what it will never take: its
        next `flush` tells.

        Raises:
            OSError: `source` is lost. It knows (`Side.was_reset`): to read would only tell of an end. Or there is no
                pipe, and none to be had; then `source` is as it was.
        """
        if self._write < 0:
            self._open()
        try:
            left = moved = os.splice(source.fd, self._write, min(most, self._size))
        except BlockingIOError:
            return None
        except OSError as error:
            source.failed(error)
            raise
        try:
            try:
                while left:
                    left -= os.splice(self._read, target.fd, left)
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    target.failed(error)
                while left:
                    rest = os.read(self._read, left)
                    left -= len(rest)
                    target.give(rest)
        except BaseException:
            self.close()
            self._open()
            raise
        return moved

    def close(self) -> None:
        """Close the pipe, with whatever is in it."""
        read, write, self._read, self._write = self._read, self._write, -1, -1  # the numbers are others' from now on
        if read >= 0:
            os.close(read)
            os.close(write)

    def _open(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.suppress(OSError):  # more than this user may have: what there is will do
            fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._size = fcntl.fcntl(self._write, fcntl.F_GETPIPE_SZ)
