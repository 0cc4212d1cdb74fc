"""A big Produce request, walked through while its bytes pass: the same events however they come, and little memory."""

import struct
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request, begin_request, decode_request, encode_request, message_of
from parsers.kafka.produce import End, Event, Partition, ProduceWalk, Topic, TopicCount, TopicEnd
from parsers.kafka.table import TABLE
from tests.parsers.kafka_trees import seeded, tree

PRODUCE = TABLE.apis[0].request
assert PRODUCE is not None
VERSIONS = range(PRODUCE.versions[0], PRODUCE.versions[1] + 1)


def frame(version: int, topics: list[Tree], trailing: bytes = b"") -> tuple[bytes, int]:
    """A request, and where its topics begin."""
    body = {"TransactionalId": "tx", "Acks": -1, "TimeoutMs": 30_000, "TopicData": topics}
    data = encode_request(Request(0, version, 7, "client", body)) + trailing
    _, at = begin_request(data, "TopicData")
    return data, at


def walked(version: int, data: bytes, at: int, cuts: list[int]) -> list[Event]:
    """The events of a frame in pieces that end at these offsets."""
    walk = ProduceWalk(version, len(data), at)
    events: list[Event] = []
    begin = at
    for end in [*cuts, len(data)]:
        events += walk.feed(memoryview(data)[begin:end])
        begin = max(begin, end)
    assert walk.ended
    return events


def expected(version: int, data: bytes) -> list[object]:
    """The same from the decoded request: names, ids, indexes and lengths, without places."""
    lines: list[object] = []
    topics = decode_request(data).body["TopicData"]
    lines.append(("topics", len(topics)))
    for topic in topics:
        lines.append((topic.get("Name"), topic.get("TopicId"), len(topic["PartitionData"])))
        for each in topic["PartitionData"]:
            records = each["Records"]
            lines.append((each["Index"], -1 if records is None else len(records)))
    return lines


def lines_of(events: list[Event]) -> list[object]:
    lines: list[object] = []
    for event in events:
        match event:
            case TopicCount():
                lines.append(("topics", event.count))
            case Topic():
                lines.append((event.name, event.id, event.partitions))
            case Partition():
                lines.append((event.index, event.record_bytes))
    return lines


@pytest.mark.parametrize("version", VERSIONS)
def test_a_walk_sees_what_decoding_sees_however_the_frame_is_cut(version: int) -> None:
    rng = seeded(version)
    for trailing in (b"", b"xyz"):
        topics = [each for _ in range(4) for each in tree(message_of(0, version, "request"), version, rng)["TopicData"]]
        data, at = frame(version, topics, trailing)
        whole = walked(version, data, at, [])
        assert lines_of(whole) == expected(version, data)
        assert whole[-1] == End(len(data) - len(trailing), len(trailing))
        for size in (1, 2, 3, 7, 50):
            assert walked(version, data, at, list(range(at, len(data), size))) == whole
        for cut in range(at, len(data)):
            assert walked(version, data, at, [cut]) == whole


@pytest.mark.parametrize("version", VERSIONS)
def test_places_are_those_of_the_frame(version: int) -> None:
    topics = [
        {
            "Name": f"t{number}",
            "TopicId": bytes([number + 1]) * 16,
            "PartitionData": [{"Index": 5, "Records": b"r" * 99}],
        }
        for number in range(3)
    ]
    data, at = frame(version, topics)
    events = walked(version, data, at, [])
    starts = [event.at for event in events if isinstance(event, Topic)]
    ends = [event.at for event in events if isinstance(event, TopicEnd)]
    assert starts[1:] == ends[:-1]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        assert (bytes([number + 1]) * 16 if version >= 13 else b"t%d" % number) in data[start:end]
        assert data[start:end].count(b"r" * 99) == 1
    for event in events:
        if isinstance(event, Partition):
            assert data[event.at : event.at + 4] == b"\0\0\0\x05"


@given(st.sampled_from(list(VERSIONS)), st.integers(0, 50), st.lists(st.integers(0, 3000), max_size=12))
def test_any_pieces_give_the_same_events(version: int, seed: int, cuts: list[int]) -> None:
    rng = seeded(seed)
    data, at = frame(version, tree(message_of(0, version, "request"), version, rng)["TopicData"])
    assert walked(version, data, at, sorted(at + cut for cut in cuts)) == walked(version, data, at, [])


HOSTILE = [
    ("topics of length -2", 3, struct.pack(">i", -2), 100, "bad_length"),
    ("topics null", 3, struct.pack(">i", -1), 100, "null_not_allowed"),
    ("topics null, compact", 9, b"\0", 100, "null_not_allowed"),
    ("more topics than bytes", 3, struct.pack(">i", 1000), 100, "truncated"),
    ("topics of a long varint", 9, b"\xff\xff\xff\xff\x7f", 100, "bad_varint"),
    ("topics of a varint of six bytes", 9, b"\x80\x80\x80\x80\x80\x01", 100, "bad_varint"),
    ("name null", 3, struct.pack(">ih", 1, -1), 100, "null_not_allowed"),
    ("name behind the end", 3, struct.pack(">ih", 1, 100), 50, "truncated"),
    ("name that is no text", 3, struct.pack(">ih", 1, 1) + b"\xff", 100, "not_utf8"),
    ("name of 32768 bytes", 9, b"\x02\x81\x80\x02", 1 << 20, "bad_length"),
    ("partitions null", 9, b"\x02\x02t\0", 100, "null_not_allowed"),
    ("more partitions than bytes", 9, b"\x02\x02t\xff\x7f", 100, "truncated"),
    ("records of length -2", 3, struct.pack(">ihciii", 1, 1, b"t", 1, 0, -2), 100, "bad_length"),
    ("records behind the end", 3, struct.pack(">ihciii", 1, 1, b"t", 1, 0, 100), 100, "truncated"),
    ("records behind the end, compact", 9, b"\x02\x02t\x02\0\0\0\0\x7f", 100, "truncated"),
    ("tag of a partition", 9, b"\x02\x02t\x02\0\0\0\0\x01\x01", 100, "unknown_tag"),
    ("tag of a topic", 9, b"\x02\x02t\x01\x01", 100, "unknown_tag"),
    ("tag of the request", 9, b"\x01\x01", 100, "unknown_tag"),
]


@pytest.mark.parametrize(("name", "version", "data", "size", "reason"), HOSTILE)
def test_what_is_refused(name: str, version: int, data: bytes, size: int, reason: str) -> None:
    for step in (len(data), 1):
        walk = ProduceWalk(version, size, 0)
        with pytest.raises(RemoteProtocolError) as caught:
            [walk.feed(data[begin : begin + step]) for begin in range(0, len(data), step)]
        assert caught.value.reason == reason
        with pytest.raises(RemoteProtocolError, match=reason):
            walk.feed(b"more")
        assert not walk.ended


def test_a_frame_that_ends_too_early_is_truncated() -> None:
    for version in VERSIONS:
        data, at = frame(version, [{"Name": "t", "PartitionData": [{"Index": 0, "Records": b"r" * 50}]}])
        for size in range(at, len(data)):
            with pytest.raises(RemoteProtocolError, match="truncated"):
                ProduceWalk(version, size, at).feed(data[at:size])


def big_frame(version: int, record_bytes: int, partitions: int) -> Iterator[bytes]:
    """Pieces of a frame with one topic of so many partitions; the first says how big the frame is."""
    assert version == 3
    head = struct.pack(">ihci", 1, 1, b"t", partitions)
    yield struct.pack(">q", len(head) + partitions * (8 + record_bytes))
    yield head
    chunk = bytes(1 << 16)
    for index in range(partitions):
        yield struct.pack(">ii", index, record_bytes)
        for _ in range(record_bytes // len(chunk)):
            yield chunk


def test_a_frame_of_100_mb_is_walked_in_little_memory() -> None:
    pieces = big_frame(3, 1 << 21, 50)
    walk = ProduceWalk(3, int.from_bytes(next(pieces)), 0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        partitions = ended = 0
        for piece in pieces:
            for event in walk.feed(piece):
                partitions += isinstance(event, Partition)
                ended += isinstance(event, End)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert (partitions, ended) == (50, 1)
    assert walk.at == 50 * (8 + (1 << 21)) + 11
    assert peak < 1 << 17


def test_many_tiny_partitions_hold_no_more_than_a_piece() -> None:
    count = 20_000
    data = struct.pack(">ihci", 1, 1, b"t", count) + struct.pack(">ii", 3, -1) * count
    walk = ProduceWalk(3, len(data), 0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        seen = 0
        for begin in range(0, len(data), 1000):
            seen += sum(isinstance(event, Partition) for event in walk.feed(data[begin : begin + 1000]))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert (seen, walk.ended) == (count, True)
    assert peak < 1 << 17
