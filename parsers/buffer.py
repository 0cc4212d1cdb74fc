"""Received bytes that nobody has read yet."""

import re

from parsers.errors import LocalProtocolError


class Buffer:
    """A queue of bytes. Work over its life is linear in the bytes appended, whatever the pieces.

    While what arrives is read at once, it is handed on without a copy: `append` keeps the very object and `take`
    returns it. Only what stays behind is copied, into a bytearray that grows and shrinks at amortised constant cost.
    """

    __slots__ = ("_data", "_scanned", "_searched", "_start", "eof")

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self._start = 0
        # Offsets from _start up to which find_end() and search() have looked in vain; take() clears them.
        self._searched = 0
        self._scanned = 0
        self.eof = False

    def __len__(self) -> int:
        return len(self._data) - self._start

    def append(self, data: bytes) -> None:
        """Add `data`; `b""` marks the end. Raises LocalProtocolError for data after the end."""
        if not data:
            self.eof = True
            return
        if self.eof:
            raise LocalProtocolError("received data after the end of data")
        held = self._data
        start = self._start
        if start >= len(held):
            self._data = data
            self._start = 0
        elif isinstance(held, bytearray):
            if start > len(held) // 2:
                del held[:start]
                self._start = 0
            held += data
        else:
            held = bytearray(memoryview(held)[start:])
            held += data
            self._data = held
            self._start = 0

    def starts_with(self, prefix: bytes) -> bool:
        """Whether the next bytes are `prefix`; also False when fewer are here."""
        return self._data.startswith(prefix, self._start)

    def find_end(self, mark: bytes, limit: int) -> int:
        """Length up to and with the first `mark`, if within `limit` bytes; -1 if it is not here (yet).

        Looks at every byte once: a later call goes on where this one stopped, so `mark` must not change before take().
        """
        start = self._start
        begin = max(self._searched - len(mark) + 1, 0)
        found = self._data.find(mark, start + begin, start + limit)
        if found >= 0:
            return found - start + len(mark)
        self._searched = len(self._data) - start
        return -1

    def search(self, pattern: re.Pattern[bytes], limit: int) -> re.Match[bytes] | None:
        """First match of `pattern` in the first `limit` bytes that earlier calls have not looked at.

        `pattern` matches two bytes at most and looks one byte ahead at most, so starting one byte back is enough.
        """
        start = self._start
        begin = max(self._scanned - 1, 0)
        self._scanned = min(len(self._data) - start, limit)
        return pattern.search(self._data, start + begin, start + limit)

    def take(self, count: int) -> bytes:
        """Remove and return the next `count` bytes, or all there are if fewer."""
        start = self._start
        end = start + count
        self._searched = 0
        self._scanned = 0
        data = self._data
        if end >= len(data):
            self._data = b""
            self._start = 0
            return data if start == 0 and isinstance(data, bytes) else bytes(memoryview(data)[start:])
        self._start = end
        return bytes(memoryview(data)[start:end])
