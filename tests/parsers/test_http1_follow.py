"""Chunks that go on as they came: only sure octets, and at any moment the strict machines can take over.

Invariant: whatever the body, its pieces and the moment of the hand-over, what was written downstream reads, for h11 and
for our own reader, as what the strict path alone would have written; nothing behind the last sure line was let through.
"""

import re
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.buffer import Buffer
from parsers.errors import LocalProtocolError, RemoteProtocolError
from parsers.http1.body import BodyWriter, ChunkedReader
from parsers.http1.events import CHUNKED, Data, EndOfMessage, Fields, Http1Limits
from parsers.http1.follow import ChunkFollower
from tests.parsers import test_http1_requests, test_http1_responses
from tests.parsers.feeding import splits

LIMITS = Http1Limits()
MOST_HELD = 10

type Row = tuple[str, bytes, bytes, bytes, str]  # name, what is let through, what waits, what follows, how it stands

ROWS: list[Row] = [
    ("nothing", b"", b"", b"", "before a size"),
    ("no chunks", b"0\r\n\r\n", b"", b"", "done"),
    ("no chunks, then a request", b"0\r\n\r\n", b"", b"GET / HTTP/1.1\r\n", "done"),
    ("one chunk", b"3\r\nabc\r\n0\r\n\r\n", b"", b"", "done"),
    ("chunks", b"3\r\nabc\r\nA\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n", b"", b"0", "done"),
    ("small and large digits", b"a\r\n0123456789\r\nB\r\n0123456789X\r\n0\r\n\r\n", b"", b"", "done"),
    ("payload like an end", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"", b"", "done"),
    ("payload of CR LF", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"", b"", "done"),
    ("in a chunk", b"5\r\nabc", b"", b"", "2 left"),
    ("after a size", b"5\r\n", b"", b"", "5 left"),
    ("after the payload", b"3\r\nabc", b"", b"", "0 left"),
    ("after CR", b"3\r\nabc", b"\r", b"", "0 left"),
    ("after the chunk", b"3\r\nabc\r\n", b"", b"", "before a size"),
    ("in the first size", b"", b"1f", b"", "before a size"),
    ("in a size", b"3\r\nabc\r\n", b"1f", b"", "before a size"),
    ("after CR of a size", b"3\r\nabc\r\n", b"1f\r", b"", "before a size"),
    ("in the end", b"3\r\nabc\r\n", b"0", b"", "before a size"),
    ("in the end's first CRLF", b"3\r\nabc\r\n", b"0\r", b"", "before a size"),
    ("in the end, before trailers or none", b"3\r\nabc\r\n", b"0\r\n", b"", "before a size"),
    ("in the end's second CRLF", b"3\r\nabc\r\n", b"0\r\n\r", b"", "before a size"),
    ("seven digits", b"fffffff\r\nabc", b"", b"", f"{0xfffffff - 3} left"),
    ("seven digits, unfinished", b"", b"fffffff\r", b"", "before a size"),
    ("eight digits", b"", b"", b"10000000\r\nabc", "odd"),
    ("eight digits, unfinished", b"", b"", b"10000000", "odd"),
    ("16 digits behind a chunk", b"1\r\nx\r\n", b"", b"0000000000000003\r\nabc\r\n", "odd"),
    ("low half of 33 bits", b"", b"", b"100000005\r\nabcde\r\n0\r\n\r\n", "odd"),
    ("leading zero", b"", b"", b"03\r\nabc\r\n0\r\n\r\n", "odd"),
    ("two zeros", b"1\r\nx\r\n", b"", b"00\r\n\r\n", "odd"),
    ("extension", b"", b"", b"3;a=b\r\nabc\r\n", "odd"),
    ("extension of the end", b"1\r\nx\r\n", b"", b"0;a\r\n\r\n", "odd"),
    ("trailer", b"1\r\nx\r\n", b"", b"0\r\nX: a\r\n\r\n", "odd"),
    ("bare LF after a size", b"", b"", b"3\nabc", "odd"),
    ("bare LF after a chunk", b"3\r\nabc", b"", b"\n0\r\n\r\n", "odd"),
    ("bare CR after a chunk", b"3\r\nabc", b"", b"\r0\r\n\r\n", "odd"),
    ("bare LF in the end", b"", b"", b"0\n\n", "odd"),
    ("bare LF at the end's end", b"", b"", b"0\r\n\n", "odd"),
    ("CR CR LF", b"3\r\nabc", b"", b"\r\r\n0", "odd"),
    ("longer than its size", b"3\r\nabc", b"", b"d\r\n0\r\n\r\n", "odd"),
    ("CRLF twice", b"3\r\nabc\r\n", b"", b"\r\n0\r\n\r\n", "odd"),
    ("CRLF first", b"", b"", b"\r\n3\r\nabc", "odd"),
    ("blank before", b"", b"", b" 3\r\nabc", "odd"),
    ("blank behind", b"", b"", b"3 \r\nabc", "odd"),
    ("0x", b"", b"", b"0x3\r\nabc", "odd"),
    ("plus", b"", b"", b"+3\r\nabc", "odd"),
    ("underscore", b"", b"", b"1_0\r\nabc", "odd"),
    ("NUL", b"1\r\nx\r\n", b"", b"3\x00\r\n", "odd"),
    ("full-width digit", b"", b"", b"\xef\xbc\x93\r\nabc", "odd"),
]  # fmt: skip


def standing(follower: ChunkFollower) -> str:
    if follower.done:
        return "done"
    if follower.odd:
        return "odd"
    left = follower.writer()._open_chunk
    return "before a size" if left is None else f"{left} left"


@pytest.mark.parametrize(("name", "through", "waits", "behind", "stands"), ROWS, ids=[row[0] for row in ROWS])
def test_what_goes_through(name: str, through: bytes, waits: bytes, behind: bytes, stands: str) -> None:
    for pieces in splits(through + waits + behind):
        follower, held, sent = ChunkFollower(), b"", b""
        for piece in pieces:
            held += piece
            if follower.done or follower.odd:
                continue
            end = follower.follow(b"junk" + held, 4) - 4
            sent += held[:end]
            held = held[end:]
            assert follower.done or follower.odd or len(held) <= MOST_HELD
        assert (sent, held, standing(follower)) == (through, waits + behind, stands), [len(p) for p in pieces]


def test_nothing_is_followed_behind_the_end() -> None:
    for body in (b"0\r\n\r\n", b"x"):
        follower = ChunkFollower()
        follower.follow(body, 0)
        with pytest.raises(LocalProtocolError):
            follower.follow(body, 0)
    follower = ChunkFollower()
    follower.follow(b"0\r\n\r\n", 0)
    with pytest.raises(LocalProtocolError):
        follower.reader(LIMITS)
    with pytest.raises(LocalProtocolError):
        follower.writer()


@pytest.mark.parametrize("left", [None, 0, 1, 3])
def test_a_writer_closes_the_open_chunk(left: int | None) -> None:
    for data in (b"a", b"abc", b"abcd"):
        writer = BodyWriter(CHUNKED, open_chunk=left)
        wire = b"".join(writer.data(b"")) + b"".join(writer.data(data))
        into, rest = data[: left or 0], data[left or 0 :]
        closed = left is not None and left <= len(data)
        assert wire == into + b"\r\n" * closed + (b"%x\r\n%s\r\n" % (len(rest), rest) if rest else b"")
        if left is not None and left > len(data):
            with pytest.raises(LocalProtocolError):
                writer.end(None)
        else:
            assert writer.end([(b"X", b"y")]) == b"0\r\nX: y\r\n\r\n"
    writer = BodyWriter(CHUNKED, open_chunk=left)
    if left:
        with pytest.raises(LocalProtocolError):
            writer.end(None)
    else:
        assert writer.end(None) == (b"0\r\n\r\n" if left is None else b"\r\n0\r\n\r\n")


type Outcome = tuple[bytes, Fields | str]  # payload; trailers, or the reason of an error, or "more"


class Transfer:
    """A body on its way: followed until `switch` pieces have come or something odd has, then read and written."""

    def __init__(self, pieces: list[bytes], switch: int) -> None:
        self.wire = b""
        self.sure = 0  # octets that went on as they came
        self.outcome: str = "more"
        self.trailers: Fields = []
        self.reader: ChunkedReader | None = None
        self.writer: BodyWriter | None = None
        self.buffer = Buffer()
        self.follower = ChunkFollower()
        self.held = b""
        for number, piece in enumerate(pieces):
            if self.outcome != "more":
                break
            if number == switch:
                self.hand_over()
            self.take(piece)

    def hand_over(self) -> None:
        if self.reader is None:
            self.reader = self.follower.reader(LIMITS)
            self.writer = self.follower.writer()
            if self.held:
                self.buffer.append(self.held)

    def take(self, piece: bytes) -> None:
        if self.reader is None:
            self.held += piece
            end = self.follower.follow(self.held, 0)
            self.wire += self.held[:end]
            self.sure += end
            self.held = self.held[end:]
            if self.follower.done:
                self.outcome = "end"
            elif self.follower.odd:
                self.hand_over()
                self.pump()
        else:
            self.buffer.append(piece)
            self.pump()

    def pump(self) -> None:
        assert self.reader is not None
        assert self.writer is not None
        try:
            while (event := self.reader.read(self.buffer)) is not None:
                if isinstance(event, EndOfMessage):
                    self.wire += self.writer.end(event.trailers)
                    self.trailers = event.trailers
                    self.outcome = "end"
                    return
                self.wire += b"".join(self.writer.data(event.data))
        except RemoteProtocolError as error:
            self.outcome = error.reason


def read_by_us(wire: bytes) -> Outcome:
    buffer, reader, payload = Buffer(), ChunkedReader(LIMITS), b""
    if wire:
        buffer.append(wire)
    try:
        while (event := reader.read(buffer)) is not None:
            if isinstance(event, Data):
                payload += event.data
            else:
                return payload, event.trailers
    except RemoteProtocolError as error:
        return payload, error.reason
    return payload, "more"


def read_by_h11(wire: bytes) -> Outcome:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
    assert isinstance(connection.next_event(), h11.Request)
    payload = b""
    while (event := connection.next_event()) is not h11.NEED_DATA:
        if isinstance(event, h11.EndOfMessage):
            return payload, event.headers.raw_items()
        assert isinstance(event, h11.Data)
        payload += event.data
    return payload, "more"


def check(body: bytes, pieces: list[bytes], switch: int) -> None:
    strict = read_by_us(body)
    transfer = Transfer(pieces, switch)
    assert transfer.wire.startswith(body[: transfer.sure])
    ours, theirs = read_by_us(transfer.wire), read_by_h11(transfer.wire)
    assert ours == theirs
    assert ours[0] == strict[0]
    if isinstance(strict[1], str):
        assert transfer.outcome == strict[1]
        assert ours[1] == "more", "what could not be read looks complete to the other side"
    else:
        assert transfer.outcome == "end"
        assert ours[1] == strict[1] == transfer.trailers
    assert transfer.sure <= last_sure(body)


def last_sure(body: bytes) -> int:
    """Up to where a body may go on as it came, by a reader that was written apart and knows nothing but whole lines."""
    at = 0
    while True:
        line, end, _ = body[at:].partition(b"\r\n")
        if not end or not re.fullmatch(rb"0|[1-9a-fA-F][0-9a-fA-F]{,6}", line):
            return at
        if line == b"0":
            return at + 5 if body[at : at + 5] == b"0\r\n\r\n" else at
        at += len(line) + 2 + int(line, 16)
        if at >= len(body):
            return len(body)
        if body[at : at + 2] != b"\r\n":
            return at
        at += 2


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds) if a < b]


def body_of(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[2]


CODED = b"Transfer-Encoding: chunked\r\n"
BODIES = [body_of(row[1]) for row in test_http1_requests.ACCEPTED + test_http1_requests.CHUNKS if CODED in row[1]]
BODIES += [body_of(row[2]) for row in test_http1_responses.ACCEPTED + test_http1_responses.REFUSED if CODED in row[2]]
BODIES += [through + waits + behind for _, through, waits, behind, _ in ROWS]
BODIES = [body for body in BODIES if body]  # to feed nothing is to feed the end of the connection


@pytest.mark.parametrize("body", BODIES, ids=[f"{i} {body[:20]!r}" for i, body in enumerate(BODIES)])
def test_every_row_in_pieces_and_at_every_hand_over(body: bytes) -> None:
    for pieces in splits(body) if len(body) < 400 else ([body], [body[:200], body[200:]]):
        for switch in {0, 1, 2, 3, len(pieces) // 2, len(pieces)}:
            check(body, pieces, switch)


chunk_lists = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=30) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n", b"x" * 300]),
        st.sampled_from(["%x", "%x", "%x", "%X", "0%x", "%08x", "%x;a=b", '%x;a="b c"']),
    ),
    max_size=8,
)
ends = st.sampled_from([b"0\r\n\r\n"] * 4 + [b"00\r\n\r\n", b"0;a\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n", b"", b"0\r\n\n"])
places = st.lists(st.integers(0, 2000), max_size=12)


def spelled(chunks: list[tuple[bytes, str]]) -> bytes:
    return b"".join((form % len(data)).encode() + b"\r\n" + data + b"\r\n" for data, form in chunks)


@pytest.mark.timeout(3000)
@given(chunk_lists, ends, places, st.integers(0, 14))
def test_any_body_any_pieces_any_hand_over(
    chunks: list[tuple[bytes, str]], end: bytes, where: list[int], switch: int
) -> None:
    body = spelled(chunks) + end
    check(body, cut(body, where), switch)


@pytest.mark.timeout(3000)
@given(chunk_lists, ends, st.integers(0, 2000), st.binary(max_size=3), st.integers(0, 2), places, st.integers(0, 14))
def test_any_body_with_a_mistake(
    chunks: list[tuple[bytes, str]], end: bytes, at: int, put: bytes, skip: int, where: list[int], switch: int
) -> None:
    body = spelled(chunks) + end
    at %= len(body) + 1
    body = body[:at] + put + body[at + skip :]
    check(body, cut(body, where), switch)
