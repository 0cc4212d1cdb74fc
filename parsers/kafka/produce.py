"""Requests that are too big to be held: what one names, read while its bytes pass.

A walk is given the pieces of one frame, whose start `frames.begin_request` has read, and gives events; record bytes are
stepped over, neither copied nor kept. What it holds is the tail of a piece that ends inside a field: one name at most.
The walk is a generator that stands still wherever bytes are missing, so that it reads like the format it reads.

Nothing is lenient here: a tagged field is one that the definitions do not know (Produce has none of its own), and what
a walk cannot read it raises, before the bytes behind are looked at.
"""

import struct
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import MAX_STRING, uvarint
from parsers.kafka.frames import message_of

PRODUCE: Final = 0
_BY_ID: Final = 13  # topic ids in place of names (KIP-516)
_INT16, _INT32 = struct.Struct(">h"), struct.Struct(">i")
_VARINT_BYTES: Final = 5


@dataclass(frozen=True, slots=True)
class TopicCount:
    """The array of topics begins: it has so many."""

    count: int


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic begins, at `at` in the frame: its name, or from version 13 on its id (16 bytes); its partitions."""

    name: str | None
    id: bytes | None
    at: int
    partitions: int


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of the topic before, and how many bytes of records follow; -1 is null. Its first byte is at `at`."""

    index: int
    record_bytes: int
    at: int


@dataclass(frozen=True, slots=True)
class TopicEnd:
    """All of a topic has been seen; what follows it begins at `at`."""

    at: int


@dataclass(frozen=True, slots=True)
class End:
    """The request has been read to its last field, which ends at `at`. trailing: bytes of the frame behind it."""

    at: int
    trailing: int


type Event = TopicCount | Topic | Partition | TopicEnd | End
type _Wait[Result] = Generator[None, None, Result]


class ProduceWalk:
    """Walks through the topics of one Produce request.

    version: of the request. size: bytes of the whole frame, its four bytes of length not counted. at: where the field
    TopicData begins in the frame, which `begin_request(data, "TopicData")` says; feeding begins with that byte.
    """

    def __init__(self, version: int, size: int, at: int) -> None:
        self._flexible = message_of(PRODUCE, version, "request").is_flexible(version)
        self._by_id = version >= _BY_ID
        self._size = size
        self._held: memoryview | bytearray = memoryview(b"")  # bytes that are not read yet: the caller's, or a copy
        self._from = 0  # where reading is in them
        self._base = at  # where they begin in the frame
        self._skip = 0  # bytes of records that are still to pass
        self._events: list[Event] = []
        self._run = self._request()
        self._failed: RemoteProtocolError | None = None
        self.ended = False

    @property
    def at(self) -> int:
        """Bytes of the frame that have been read or stepped over."""
        return self._base + self._from

    def feed(self, data: bytes | memoryview) -> list[Event]:
        """Read one more piece of the frame, of any size. Gives what begins or ends in it; a `Partition` comes before
        its records.

        Raises:
            RemoteProtocolError: truncated, bad_length, bad_varint, null_not_allowed, not_utf8, unknown_tag; the same
                again whenever it is fed after that.
        """
        if self._failed is not None:
            raise self._failed
        if self.ended:
            return []
        view = memoryview(data)
        if self._skip:
            passed = min(self._skip, len(view))
            self._skip -= passed
            self._base += passed
            if self._skip:
                return []
            view = view[passed:]
        if isinstance(self._held, bytearray):
            self._held += view
        else:
            self._held = view
        try:
            next(self._run, None)
        except RemoteProtocolError as error:
            self._failed = error
            raise
        if isinstance(self._held, bytearray) and self._from < len(self._held):
            del self._held[: self._from]
        else:
            self._held = bytearray(self._held[self._from :]) or memoryview(b"")
        self._base += self._from
        self._from = 0
        events, self._events = self._events, []
        return events

    # ---- what a request consists of

    def _request(self) -> _Wait[None]:
        count = yield from self._count(3)
        self._events.append(TopicCount(count))
        for _ in range(count):
            yield from self._topic()
        yield from self._tags()
        self._events.append(End(self.at, self._size - self.at))
        self.ended = True

    def _topic(self) -> _Wait[None]:
        at = self.at
        name = topic_id = None
        if self._by_id:
            topic_id = yield from self._take(16)
        else:
            name = yield from self._string()
        partitions = yield from self._count(6)
        self._events.append(Topic(name, topic_id, at, partitions))
        for _ in range(partitions):
            begins = self.at
            (index,) = _INT32.unpack((yield from self._take(4)))
            size = yield from self._length(4)
            self._events.append(Partition(index, size, begins))
            if size > 0:
                yield from self._step_over(size)
            yield from self._tags()
        yield from self._tags()
        self._events.append(TopicEnd(self.at))

    # ---- fields

    def _need(self, count: int) -> _Wait[None]:
        """Wait until so many bytes are there."""
        if count > self._size - self.at:
            raise RemoteProtocolError("truncated", detail="a field ends behind the frame")
        while len(self._held) - self._from < count:
            yield

    def _take(self, count: int) -> _Wait[bytes]:
        yield from self._need(count)
        begin = self._from
        self._from = begin + count
        return bytes(self._held[begin : self._from])

    def _uvarint(self) -> _Wait[int]:
        """As `codec.uvarint`, of a number that may not be all there."""
        have = 0
        while True:
            have += 1
            yield from self._need(have)
            if self._held[self._from + have - 1] < 0x80 or have == _VARINT_BYTES:
                value, self._from = uvarint(self._held, self._from)
                return value

    def _length(self, width: int) -> _Wait[int]:
        """Of a string (width 2), of records or an array (4): -1 is null."""
        if self._flexible:
            return (yield from self._uvarint()) - 1
        packed = _INT16 if width == 2 else _INT32
        (length,) = packed.unpack((yield from self._take(width)))
        if length < -1:
            raise RemoteProtocolError("bad_length")
        return int(length)

    def _count(self, least: int) -> _Wait[int]:
        """Of an array whose elements take so many bytes at least."""
        count = yield from self._length(4)
        if count < 0:
            raise RemoteProtocolError("null_not_allowed")
        if count * least > self._size - self.at:
            raise RemoteProtocolError("truncated", detail="an array is longer than the frame")
        return count

    def _string(self) -> _Wait[str]:
        length = yield from self._length(2)
        if length < 0:
            raise RemoteProtocolError("null_not_allowed")
        if length > MAX_STRING:
            raise RemoteProtocolError("bad_length", detail=f"strings end at {MAX_STRING} bytes")
        try:
            return (yield from self._take(length)).decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("not_utf8") from None

    def _tags(self) -> _Wait[None]:
        if self._flexible and (yield from self._uvarint()):
            raise RemoteProtocolError("unknown_tag")

    def _step_over(self, count: int) -> _Wait[None]:
        """Leave bytes out that may come in later pieces."""
        if count > self._size - self.at:
            raise RemoteProtocolError("truncated", detail="a field ends behind the frame")
        here = min(count, len(self._held) - self._from)
        self._from += here
        if here < count:
            self._skip = count - here
            yield
