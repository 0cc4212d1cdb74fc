"""A file of lines that its own writer rotates.

`<stream>.jsonl` grows to `max_bytes`, then becomes `<stream>.jsonl.1`, and so on up to `.<backups>`. The writer itself
renames, so it needs no privilege but a directory it may write to; a reader that has the old file open loses nothing.

A lock file beside it gives every stream one writer: a new worker that starts while its predecessor still drains takes
`<stream>-2`, and the name is free again when the other has ended. So disk use is bounded over any number of restarts.
"""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 64 * 1024 * 1024
BACKUPS: Final = 4
MAX_WRITERS: Final = 16
"""Processes that may want one stream name at the same time; more is a fault of whoever starts them."""


class FileSink:
    """Appends lines to a file in `directory`, which must exist and be writable for this process.

    max_bytes: size that the file does not pass (unless one line is longer). backups: rotated files kept; 0 keeps none.

    Raises:
        OSError: the directory cannot be written to, or all `MAX_WRITERS` names of the stream are taken.
    """

    name = "file"

    def __init__(
        self, directory: Path, stream: str, max_bytes: int = MAX_BYTES, backups: int = BACKUPS, *, mode: int = 0o640
    ) -> None:
        if not stream or "/" in stream or stream.startswith("."):
            raise ValueError(f'stream name "{stream}" is not a plain file name')
        self.max_bytes, self.backups, self._mode = max_bytes, backups, mode
        self._directory = directory
        self._lock, self.stream = _take_name(directory, stream, mode)
        self.path = directory / f"{self.stream}.jsonl"
        self._fd = -1
        self._size = 0
        self._torn = False  # the file ends in the middle of a line: its last writer was killed
        try:
            self._open()
        except OSError:
            os.close(self._lock)
            raise

    def write(self, lines: Sequence[bytes]) -> int:
        """See `Sink.write`. Rotates first where the lines would not fit."""
        self._follow_path()
        taken = 0
        while taken < len(lines):
            try:
                if self._torn:
                    self._size += os.write(self._fd, b"\n")
                    self._torn = False
                if self._size and self._size + len(lines[taken]) > self.max_bytes:
                    self._rotate()
                batch = lines[taken:] if taken else lines
                data = b"".join(batch)
                if len(data) > self.max_bytes - self._size:
                    batch = self._fitting(batch)
                    data = b"".join(batch)
                self._append(data)
            except OSError:
                taken += self._cut_back(lines, taken)
                if taken:  # these are out: say so now, the error comes back with the next call
                    return taken
                raise
            self._size += len(data)
            taken += len(batch)
        return taken

    def ready_fd(self) -> int | None:
        """A disk with no room has no descriptor to wait for."""
        return None

    def close(self) -> None:
        """Close the file and free the stream's name."""
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._lock)
            self._fd = -1

    def _open(self) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, self._mode)
        try:
            size = os.fstat(fd).st_size
            self._torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        except OSError:
            os.close(fd)
            raise
        self._fd, self._size = fd, size

    def _follow_path(self) -> None:
        """Somebody may have deleted or renamed the file: lines written on would be seen by nobody."""
        try:
            there = self.path.stat()
            here = os.fstat(self._fd)
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                self._size = there.st_size
                return
        except FileNotFoundError:
            pass
        old = self._fd
        self._open()
        os.close(old)

    def _fitting(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        """The first lines, as many as fit into what is left of the file, but at least one."""
        room = self.max_bytes - self._size
        for index, line in enumerate(lines):
            room -= len(line)
            if room < 0 and index:
                return lines[:index]
        return lines

    def _rotate(self) -> None:
        for number in range(self.backups, 0, -1):
            older = self._directory / f"{self.stream}.jsonl.{number}"
            newer = self._directory / f"{self.stream}.jsonl.{number - 1}" if number > 1 else self.path
            try:
                newer.rename(older)
            except FileNotFoundError:
                continue
        if self.backups == 0:
            self.path.unlink(missing_ok=True)
        old = self._fd
        self._open()
        os.close(old)

    def _append(self, data: bytes) -> None:
        """A disk that fills up takes a part first and says why with the next write."""
        done = os.write(self._fd, data)
        while done < len(data):
            done += os.write(self._fd, data[done:])

    def _cut_back(self, lines: Sequence[bytes], start: int) -> int:
        """After a write that failed: cut the file to a whole line; returns how many from `start` it has."""
        extra = os.fstat(self._fd).st_size - self._size
        whole = size = 0
        while start + whole < len(lines) and size + len(lines[start + whole]) <= extra:
            size += len(lines[start + whole])
            whole += 1
        if extra > size:
            os.ftruncate(self._fd, self._size + size)
        self._size += size
        return whole


def _take_name(directory: Path, stream: str, mode: int) -> tuple[int, str]:
    """Lock the first free one of `stream`, `stream-2`, ...; returns the lock's descriptor and the name."""
    for number in range(1, MAX_WRITERS + 1):
        name = stream if number == 1 else f"{stream}-{number}"
        fd = os.open(directory / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EWOULDBLOCK:
                raise
            continue
        return fd, name
    raise OSError(errno.EBUSY, f'{MAX_WRITERS} processes write stream "{stream}" already', str(directory))
