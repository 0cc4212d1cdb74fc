"""Files of lines, read forwards, backwards or for ever: rotation, torn lines and new writers are normal here."""

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BLOCK: Final = 256 * 1024
MAX_PARTIAL: Final = 1024 * 1024
"""A line without an end that is longer than this is no line of ours (`schema.MAX_LINE`): dropped and counted."""

MAX_QUEUED: Final = 8
"""Files of one stream held open while we fall behind; a writer that rotates them all away meanwhile shows as a gap."""

type Position = tuple[tuple[int, int], int]
"""A file (device, inode) and an offset in it."""
NOWHERE: Final[Position] = ((-1, -1), 0)

_FILE = re.compile(r"(?P<stream>[^.].*)\.jsonl(\.(?P<number>[1-9][0-9]*))?").fullmatch


@dataclass(slots=True)
class Damage:
    """What could not be read."""

    bad_lines: int = 0


def streams(directory: Path) -> dict[str, list[Path]]:
    """Stream name -> its files, the newest first (the current one, `.1`, ...). Empty when there is no directory.

    Streams of immediate subdirectories are "subdirectory/name": writers of another user have a directory of their own.
    """
    found: dict[str, list[tuple[int, Path]]] = {}
    _find(directory, "", found)
    return {stream: [path for _, path in sorted(files)] for stream, files in sorted(found.items())}


def _find(directory: Path, prefix: str, found: dict[str, list[tuple[int, Path]]]) -> None:
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return
    for entry in entries:
        if match := _FILE(entry.name):
            stream = prefix + match["stream"]
            found.setdefault(stream, []).append((int(match["number"] or 0), directory / entry.name))
        elif not prefix and entry.is_dir(follow_symlinks=False):
            _find(directory / entry.name, f"{entry.name}/", found)


def open_files(paths: list[Path]) -> list[int]:
    """Descriptors of a stream's files, newest first.

    Opened in that order a rotation in between can only show one file twice, which the inode tells; it never hides one.
    """
    fds: list[int] = []
    seen: set[tuple[int, int]] = set()
    for path in paths:
        try:
            # Writers are confined and not trusted: a link or a FIFO in their directory leads a reader nowhere.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.ELOOP:
                continue
            raise
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) in seen or not stat.S_ISREG(status.st_mode):
            os.close(fd)
            continue
        seen.add((status.st_dev, status.st_ino))
        fds.append(fd)
    return fds


def _open_until(directory: Path, stream: str, until: Position | None) -> list[tuple[int, int]]:
    """Descriptor and size of every file of a stream up to `until`, newest first."""
    fds = open_files(streams(directory).get(stream, []))
    if until is None:
        return [(fd, os.fstat(fd).st_size) for fd in fds]
    while fds and _inode(fds[0]) != until[0]:
        os.close(fds.pop(0))
    return [(fd, os.fstat(fd).st_size if index else until[1]) for index, fd in enumerate(fds)]


def backwards(directory: Path, stream: str, until: Position | None = None) -> Iterator[bytes]:
    """Every whole line of a stream up to a position, the newest first, without newlines.

    A line that is still being written is left out.
    """
    fds = _open_until(directory, stream, until)
    try:
        for fd, size in fds:
            yield from _lines_backwards(fd, size)
    finally:
        for fd, _ in fds:
            os.close(fd)


def _lines_backwards(fd: int, end: int) -> Iterator[bytes]:
    rest: bytes | None = (
        None  # the end of the line that begins in the block before; None until the last newline is found
    )
    while end > 0:
        start = max(0, end - BLOCK)
        lines = (os.pread(fd, end - start, start) + (rest or b"")).split(b"\n")
        end = start
        if rest is None:
            lines.pop()  # what follows the last newline is no line yet
            if not lines:
                continue
        rest = lines.pop(0)
        yield from reversed(lines)
    if rest is not None:
        yield rest


def forwards(directory: Path, stream: str, until: Position | None = None) -> Iterator[bytes]:
    """Every whole line of a stream up to a position, the oldest first, without newlines."""
    fds = _open_until(directory, stream, until)
    try:
        for fd, size in reversed(fds):
            rest = b""
            offset = 0
            while block := os.pread(fd, min(BLOCK, size - offset), offset):
                offset += len(block)
                *lines, rest = (rest + block).split(b"\n")
                yield from lines
    finally:
        for fd, _ in fds:
            os.close(fd)


@dataclass(slots=True)
class _File:
    """One open file. `offset` is where the unfinished line `partial` begins."""

    fd: int
    inode: tuple[int, int]
    offset: int
    partial: bytes = b""
    skipping: bool = False  # inside a line that is too long


class _Stream:
    """The files of one stream that are still to be read, the oldest first; the last is the one being written."""

    __slots__ = ("damage", "files")

    def __init__(self, damage: Damage) -> None:
        self.damage = damage
        self.files: list[_File] = []

    def discover(self, paths: list[Path], *, from_end: bool = False) -> None:
        """Queue what came after the newest file that we know; all of it when that one is gone."""
        known = self.files[-1].inode if self.files else None
        newer: list[_File] = []
        fds = open_files(paths)
        for index, fd in enumerate(fds):
            inode = _inode(fd)
            if inode == known or (from_end and newer):
                for rest in fds[index:]:
                    os.close(rest)
                break
            newer.append(_File(fd, inode, _end_of_lines(fd) if from_end else 0))
        self.files.extend(reversed(newer))

    def read(self, lines: list[bytes], max_bytes: int) -> bool:
        """Append up to about `max_bytes` of new lines; True when there is more."""
        while self.files:
            file = self.files[0]
            size = os.fstat(file.fd).st_size
            if size < file.offset + len(file.partial):  # cut back to a whole line, or emptied by hand
                file.offset, file.partial, file.skipping = (file.offset if size >= file.offset else 0), b"", False
            block = os.pread(file.fd, max_bytes, file.offset + len(file.partial))
            self._split(file, block, lines)
            if len(block) == max_bytes:
                return True
            if len(self.files) == 1:
                return False
            # A newer file was there before this read, so nothing is written to this one any more.
            self.damage.bad_lines += bool(file.partial)
            os.close(file.fd)
            del self.files[0]
        return False

    def _split(self, file: _File, block: bytes, lines: list[bytes]) -> None:
        *whole, partial = (file.partial + block).split(b"\n")
        file.offset += len(file.partial) + len(block) - len(partial)
        file.partial = partial
        if whole and file.skipping:
            del whole[0]
            file.skipping = False
        lines.extend(whole)
        if len(partial) > MAX_PARTIAL:
            file.offset += len(partial)
            file.partial = b""
            self.damage.bad_lines += not file.skipping
            file.skipping = True


class Follower:
    """What is written to the streams of some directories from now on.

    Holds the open files that are not read to their end and one unfinished line for each.
    """

    def __init__(self, directories: Mapping[str, Path], damage: Damage) -> None:
        self._directories = directories
        self._damage = damage
        self._streams: dict[tuple[str, str], _Stream] = {}
        for node, directory in directories.items():
            for name, paths in streams(directory).items():
                self._streams[node, name] = _Stream(damage)
                self._streams[node, name].discover(paths, from_end=True)
        self.began: dict[tuple[str, str], Position] = {
            key: (stream.files[-1].inode, stream.files[-1].offset)
            for key, stream in self._streams.items()
            if stream.files
        }

    def poll(self, max_bytes: int = BLOCK) -> tuple[list[bytes], bool]:
        """New whole lines, about `max_bytes` from each stream; True when more is there already."""
        lines: list[bytes] = []
        more = False
        for node, directory in self._directories.items():
            for name, paths in streams(directory).items():
                stream = self._streams.get((node, name))
                if stream is None:  # a writer that started after us: all of its lines are new
                    stream = self._streams[node, name] = _Stream(self._damage)
                if len(stream.files) <= MAX_QUEUED:
                    stream.discover(paths)
                more |= stream.read(lines, max_bytes)
        return lines, more

    def close(self) -> None:
        """Close every file."""
        for stream in self._streams.values():
            for file in stream.files:
                os.close(file.fd)
        self._streams.clear()


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _end_of_lines(fd: int) -> int:
    """The offset after the last newline."""
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - BLOCK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
