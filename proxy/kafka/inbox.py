"""Bytes of one direction until they are frames."""


class Inbox:
    """What came and was not used. A frame that came in one read is given out as the very bytes; one in pieces is put
    together once."""

    __slots__ = ("_at", "_chunk", "_part")

    def __init__(self) -> None:
        # INVARIANT: at most one of both holds something
        self._chunk = b""  # used up to `_at`
        self._at = 0
        self._part = bytearray()

    def __len__(self) -> int:
        return len(self._part) or len(self._chunk) - self._at

    def feed(self, data: bytes) -> None:
        """Bytes came."""
        part = self._part
        if part:
            part += data
        elif self._at < len(self._chunk):
            part += memoryview(self._chunk)[self._at :]
            part += data
            self._chunk, self._at = b"", 0
        else:
            self._chunk, self._at = data, 0

    def head(self, size: int) -> bytes:
        """The next so many bytes, or all there are; they stay."""
        if self._part:
            return bytes(self._part[:size])
        return self._chunk[self._at : self._at + size]

    def part(self, start: int, end: int) -> bytes:
        """Bytes from one place to another, or all there are; they stay."""
        if self._part:
            return bytes(self._part[start:end])
        return self._chunk[self._at + start : self._at + end]

    def take(self, size: int) -> bytes:
        """The next so many bytes, or all there are; they are used."""
        if self._part:
            self._chunk, self._at = bytes(self._part), 0
            self._part = bytearray()
        chunk, at = self._chunk, self._at
        end = at + size
        if end >= len(chunk):
            self._chunk, self._at = b"", 0
            return chunk[at:] if at else chunk
        self._at = end
        return chunk[at:end]

    def clear(self) -> None:
        """Throw away what is there."""
        self._chunk, self._at = b"", 0
        self._part = bytearray()
