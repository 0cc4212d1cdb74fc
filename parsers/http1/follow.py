"""Following the chunks of a body whose octets go on as they came, without taking them apart.

A body in chunked framing needs no copy and no new framing as long as every line between its chunks can be read one way
only: a plain size, or the end without trailers. The follower finds those lines and steps over what is between them. It
knows less than `ChunkedReader`; where it sees anything else it stops *before* it, says `odd`, and hands over to a
reader and a writer that go on from the very octet: what was let through until then was sure.

What goes on as it came must read one way for everybody. So a size here has no leading zero and at most seven digits:
readers that keep it in 32 bits, signed or not, take `100000005` for 5 and the rest of the chunk for the next request.
Such a chunk is not refused, the strict reader takes it, and its writer makes small ones of it.
"""

import re
from typing import Final

from parsers.errors import LocalProtocolError
from parsers.http1.body import BodyWriter, ChunkedReader
from parsers.http1.events import CHUNKED, Http1Limits

_PLAIN: Final = rb"(?:([1-9A-Fa-f][0-9A-Fa-f]{0,6})\r\n|(0\r\n\r\n))"
_SIZE, _END = 1, 2  # groups
_LINE: Final = re.compile(_PLAIN)
# The CRLF that ends a chunk is sure by itself. It must not wait for the size behind it: readers that take a chunk with
# its CRLF before they hand it on (urllib3, so the Kubernetes client's watch) would be late by one chunk.
_CRLF_LINE: Final = re.compile(rb"\r\n" + _PLAIN + rb"?+")
# The beginning of a line that can still become plain, to the end of the data. Ten octets at most, so what is held back
# has a bound.
_UNFINISHED: Final = re.compile(rb"(?:[1-9A-Fa-f][0-9A-Fa-f]{0,6}\r?|0(?:\r(?:\n\r?)?)?)?\Z")
_UNFINISHED_CRLF: Final = re.compile(rb"\r?\Z")


class ChunkFollower:
    """Where one body in chunked framing is. One is made for each body.

    Attributes:
        left: octets of the current chunk's payload still to come.
        done: the body ended, at the offset that `follow` returned.
        odd: what is at that offset is for the strict reader: extensions, trailers, long sizes, mistakes.
    """

    __slots__ = ("_in_chunk", "done", "left", "odd")

    def __init__(self) -> None:
        self.left = 0
        self.done = False
        self.odd = False
        self._in_chunk = False  # also while the CRLF after the payload is awaited

    def follow(self, data: bytes, start: int) -> int:
        """The offset up to which `data` may go on as it came, looking from `start` on.

        What is behind the offset is to be presented again with what comes after it, unless `done` (it is another
        message's) or `odd` (it is for `reader`). That is at most ten octets when neither is so. At the end of the
        connection in the middle of a body the strict reader, given the rest and the end, says what is wrong.

        Raises:
            LocalProtocolError: called again after `done` or `odd`.
        """
        if self.done or self.odd:
            raise LocalProtocolError("nothing is to be followed any more")
        at = start
        left = self.left
        pattern = _CRLF_LINE if self._in_chunk else _LINE
        while True:
            at += left
            if at >= len(data):
                self.left = at - len(data)
                self._in_chunk = pattern is _CRLF_LINE
                return len(data)
            match = pattern.match(data, at)
            if match is None:
                break
            at = match.end()
            found = match.lastindex
            if found == _SIZE:
                left = int(match[_SIZE], 16)
                pattern = _CRLF_LINE
            elif found == _END:
                self.done = True
                break
            else:
                left = 0
                pattern = _LINE
        self.left = 0
        self._in_chunk = pattern is _CRLF_LINE and not self.done
        if not self.done:
            unfinished = _UNFINISHED_CRLF if self._in_chunk else _UNFINISHED
            self.odd = unfinished.match(data, at) is None
        return at

    def reader(self, limits: Http1Limits) -> ChunkedReader:
        """The strict reader of what is left of this body. Raises LocalProtocolError when nothing is."""
        return ChunkedReader(limits, left=self._open())

    def writer(self) -> BodyWriter:
        """The writer behind what was let through. Raises LocalProtocolError when that is the whole body."""
        return BodyWriter(CHUNKED, open_chunk=self._open())

    def _open(self) -> int | None:
        if self.done:
            raise LocalProtocolError("the body is complete")
        return self.left if self._in_chunk else None
