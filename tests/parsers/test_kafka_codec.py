"""Kafka messages: every one of the table both ways, and the lengths, varints and tags that are refused."""

import contextlib
import struct
import tracemalloc

import pytest

from parsers.errors import LocalProtocolError, RemoteProtocolError
from parsers.kafka import codec
from parsers.kafka.codec import MAX_ANSWER_ELEMENTS, MAX_ELEMENTS, UNKNOWN, Incomplete, Tree, uvarint
from parsers.kafka.frames import (
    Request,
    begin_request,
    begin_response,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    framed,
    header_version,
    message_of,
    peek,
)
from parsers.kafka.table import TABLE, Message
from tests.parsers.kafka_trees import least_tree, seeded, tree, versions

REQUESTS = [(api.key, version, message) for api, message, version in versions("request")]
RESPONSES = [(api.key, version, message) for api, message, version in versions("response")]


def request(key: int, version: int, body: Tree, client_id: str | None = "client") -> bytes:
    return encode_request(Request(key, version, 7, client_id, body))


def refused(data: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_request(data)
    return caught.value.reason


# ---- every message


def test_there_are_messages_in_many_versions() -> None:
    assert len(TABLE.apis) >= 93
    assert len(REQUESTS) == len(RESPONSES) >= 300


def test_every_request_comes_back_as_it_was_written() -> None:
    rng = seeded(1)
    for key, version, message in REQUESTS:
        for client_id in (None, "", "biller-ü"):
            body = tree(message, version, rng)
            data = request(key, version, body, client_id)
            read = decode_request(data)
            assert (read.api_key, read.api_version, read.correlation_id) == (key, version, 7) == peek(data)
            assert read.client_id == client_id
            assert read.body == body, (message.name, version)
            assert (read.trailing, read.unknown_tags) == (0, 0)
            assert encode_request(read) == data


def test_every_response_comes_back_as_it_was_written() -> None:
    rng = seeded(2)
    for key, version, message in RESPONSES:
        for _ in range(3):
            body = tree(message, version, rng)
            data = encode_response(key, version, -7, body)
            read = decode_response(key, version, data)
            assert read.correlation_id == -7
            assert read.body == body, (message.name, version)
            assert (read.trailing, read.unknown_tags) == (0, 0)
            assert encode_response(key, version, -7, read.body) == data


def test_the_least_that_an_element_takes_is_what_the_smallest_takes() -> None:
    # arrays are refused by it when they promise more than there are bytes: if it were too much, good frames would be
    for key, version, message in REQUESTS:
        data = request(key, version, least_tree(message, version))
        smallest = len(data) - decode_request(data).body_at
        assert codec._least(message.fields, version, flexible=message.is_flexible(version)) == smallest, message.name


def test_a_field_that_is_left_out_is_written_as_its_default() -> None:
    for key, version, message in REQUESTS:
        data = request(key, version, {})
        assert encode_request(decode_request(data)) == data, (message.name, version)


def test_every_prefix_of_a_request_is_truncated() -> None:
    rng = seeded(3)
    for key, version, message in REQUESTS:
        data = request(key, version, tree(message, version, rng))
        for end in [*range(min(len(data), 60)), *(rng.randrange(len(data)) for _ in range(20)), len(data) - 1]:
            assert refused(data[:end]) == "truncated", (message.name, version, end)


def test_every_prefix_of_a_response_is_truncated() -> None:
    rng = seeded(4)
    for key, version, message in RESPONSES:
        data = encode_response(key, version, 1, tree(message, version, rng))
        for end in [*range(min(len(data), 40)), *(rng.randrange(len(data)) for _ in range(20)), len(data) - 1]:
            with pytest.raises(RemoteProtocolError) as caught:
                decode_response(key, version, data[:end])
            assert caught.value.reason == "truncated", (message.name, version, end)


def plain_fields(message: Message, version: int) -> list[str]:
    return [field.name for field in message.fields if field.in_version(version) and not field.tagged_in(version)]


def test_a_request_that_is_not_whole_is_begun_or_incomplete() -> None:
    rng = seeded(5)
    for key, version, message in REQUESTS:
        body = tree(message, version, rng)
        data = request(key, version, body)
        names = plain_fields(message, version)
        for until in {names[-1], rng.choice(names)} if names else ():
            before = {name: body[name] for name in names[: names.index(until)]}
            begun = False
            for end in range(len(data) + 1):
                try:
                    read, at = begin_request(data[:end], until)
                except Incomplete:
                    assert not begun
                    continue
                begun = True
                assert read.body == before
                assert read.body_at <= at <= end
            assert begun
            assert decode_request(data).body_at == read.body_at


def test_a_response_that_is_not_whole_is_begun_or_incomplete() -> None:
    rng = seeded(6)
    for key, version, message in RESPONSES:
        body = tree(message, version, rng)
        data = encode_response(key, version, 9, body)
        names = plain_fields(message, version)
        if not names:
            continue
        until = names[-1]
        begun = False
        for end in range(len(data) + 1):
            try:
                read, at = begin_response(key, version, data[:end], until)
            except Incomplete:
                assert not begun
                continue
            begun = True
            assert (read.correlation_id, at <= end) == (9, True)
            assert read.body == {name: body[name] for name in names[:-1]}
        assert begun


@pytest.mark.parametrize("until", ["TopicData", "Acks", "TransactionalId"])
def test_what_is_wrong_in_a_beginning_is_said_at_once(until: str) -> None:
    good = request(0, 9, least_tree(message_of(0, 9, "request"), 9))
    with pytest.raises(RemoteProtocolError, match="unknown_version"):
        begin_request(b"\0\0\0\xff" + good[4:], until)
    with pytest.raises(RemoteProtocolError, match="not_utf8"):
        begin_request(good[:8] + b"\0\x01\xff", until)


# ---- header


def test_header_versions_are_those_of_kafka() -> None:
    assert header_version(0, 8, "request") == 1
    assert header_version(0, 9, "request") == 2
    assert header_version(0, 8, "response") == 0
    assert header_version(0, 9, "response") == 1
    assert header_version(18, 4, "request") == 2
    assert header_version(18, 4, "response") == 0  # KIP-511


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("nothing", b"", "truncated"),
        ("half a head", bytes(7), "truncated"),
        ("no client id", struct.pack(">hhi", 18, 0, 1), "truncated"),
        ("no such API", struct.pack(">hhih", 93, 0, 1, -1), "unknown_api"),
        ("negative API", struct.pack(">hhih", -1, 0, 1, -1), "unknown_api"),
        ("an API without versions", struct.pack(">hhih", 4, 0, 1, -1), "unknown_api"),
        ("negative version", struct.pack(">hhih", 18, -1, 1, -1), "unknown_version"),
        ("version that is too new", struct.pack(">hhih", 18, 99, 1, -1), "unknown_version"),
        ("version that is too old", struct.pack(">hhih", 0, 2, 1, -1), "unknown_version"),
        ("client id of length -2", struct.pack(">hhih", 18, 0, 1, -2), "bad_length"),
        ("client id behind the end", struct.pack(">hhih", 18, 0, 1, 1), "truncated"),
        ("client id that is no text", struct.pack(">hhih", 18, 0, 1, 1) + b"\xff", "not_utf8"),
        ("header without tags", struct.pack(">hhih", 18, 3, 1, -1), "truncated"),
        ("too many header tags", struct.pack(">hhih", 18, 3, 1, -1) + b"\xff\xff\xff\xff\x0f", "bad_varint"),
    ],
)
def test_headers_that_are_refused(name: str, data: bytes, reason: str) -> None:
    assert refused(data) == reason


def test_a_tag_in_the_header_is_unknown_and_counted() -> None:
    data = struct.pack(">hhih", 18, 3, 1, -1) + b"\x01\x05\x02ab" + b"\x02a\x02b\0"
    read = decode_request(data)
    assert read.unknown_tags == 1
    assert read.body == {"ClientSoftwareName": "a", "ClientSoftwareVersion": "b"}
    assert read.body_at == 15


def test_an_answer_to_an_api_versions_request_that_is_too_new_is_of_version_0() -> None:
    answer = encode_response(18, 0, 5, {"ErrorCode": 35, "ApiKeys": [{"ApiKey": 18, "MinVersion": 0, "MaxVersion": 4}]})
    for version in range(1, 5):
        read = decode_response(18, version, answer)
        assert (read.api_version, read.body["ErrorCode"], len(read.body["ApiKeys"])) == (0, 35, 1)
    with pytest.raises(RemoteProtocolError, match="truncated"):
        decode_response(18, 3, encode_response(18, 3, 5, {})[:-1])


def test_framed_has_the_length_first() -> None:
    assert framed(b"abc") == b"\0\0\0\x03abc"


# ---- fields that cannot be read, or not one way only

PRODUCE_3 = struct.pack(">hhih", 0, 3, 1, -1)
PRODUCE_9 = struct.pack(">hhih", 0, 9, 1, -1) + b"\0"
METADATA_9 = struct.pack(">hhih", 3, 9, 1, -1) + b"\0"
FETCH_12 = struct.pack(">hhih", 1, 12, 1, -1) + b"\0"
FETCH_12_PLAIN = FETCH_12 + struct.pack(">iiiibii", -1, 500, 1, 1 << 20, 0, 0, -1) + b"\x01\x01\x01"  # up to its tags
CREATE_0 = struct.pack(">hhih", 32, 1, 1, -1)

HOSTILE = [
    ("string of length -2", PRODUCE_3 + struct.pack(">h", -2), "bad_length"),
    ("string behind the end", PRODUCE_3 + struct.pack(">h", 5) + b"abcd", "truncated"),
    ("string that is no text", PRODUCE_3 + struct.pack(">h", 2) + b"\xc3\x28", "not_utf8"),
    ("surrogate in a string", PRODUCE_3 + struct.pack(">h", 3) + b"\xed\xa0\x80", "not_utf8"),
    ("overlong text", PRODUCE_3 + struct.pack(">h", 2) + b"\xc0\x80", "not_utf8"),
    ("array of length -2", PRODUCE_3 + struct.pack(">hhii", -1, 1, 0, -2), "bad_length"),
    ("array that is null and may not be", PRODUCE_3 + struct.pack(">hhii", -1, 1, 0, -1), "null_not_allowed"),
    ("array longer than the frame", PRODUCE_3 + struct.pack(">hhii", -1, 1, 0, 0x7FFFFFFF), "truncated"),
    ("name that is null and may not be", PRODUCE_3 + struct.pack(">hhii", -1, 1, 0, 1) + b"\xff\xff" + bytes(8),
     "null_not_allowed"),
    ("records of length -2", PRODUCE_3 + struct.pack(">hhiihiii", -1, 1, 0, 1, 0, 1, 0, -2), "bad_length"),
    ("records behind the end", PRODUCE_3 + struct.pack(">hhiihiii", -1, 1, 0, 1, 0, 1, 0, 9), "truncated"),
    ("compact array of 2^32-1", PRODUCE_9 + b"\0" + bytes(6) + b"\xff\xff\xff\xff\x0f", "bad_varint"),
    ("compact array of 2^31-2", PRODUCE_9 + b"\0" + bytes(6) + b"\xff\xff\xff\xff\x07", "truncated"),
    ("varint of six bytes", PRODUCE_9 + b"\0" + bytes(6) + b"\x80\x80\x80\x80\x80\x01", "bad_varint"),
    ("varint of 2^31", PRODUCE_9 + b"\x80\x80\x80\x80\x08", "bad_varint"),
    ("varint that never ends", PRODUCE_9 + b"\x80\x80", "truncated"),
    ("compact string of 32768 bytes", PRODUCE_9 + b"\x81\x80\x02" + bytes(0x8000) + bytes(8), "bad_length"),
    ("compact string promised of 32768 bytes", PRODUCE_9 + b"\x81\x80\x02", "bad_length"),
    ("compact null that may not be", PRODUCE_9 + b"\0" + bytes(6) + b"\0", "null_not_allowed"),
    ("tags twice", METADATA_9 + b"\0\0\0\0" + b"\x02\x09\x01a\x09\x01b", "tags_out_of_order"),
    ("tags out of order", METADATA_9 + b"\0\0\0\0" + b"\x02\x09\x01a\x08\x01b", "tags_out_of_order"),
    ("tag behind the end", METADATA_9 + b"\0\0\0\0" + b"\x01\x09\x02a", "truncated"),
    ("tags that are not there", METADATA_9 + b"\0\0\0\0" + b"\xff\xff\xff\xff\x07", "truncated"),
    ("tag number of 2^31", METADATA_9 + b"\0\0\0\0" + b"\x01\x80\x80\x80\x80\x08\x00", "bad_varint"),
    ("known tag that is longer than its field", FETCH_12_PLAIN + b"\x01\x00\x03\x02a\x00", "bad_tag_length"),
    ("known tag that is shorter than its field", FETCH_12_PLAIN + b"\x01\x00\x01\x02a", "bad_tag_length"),
    ("known tag that is empty", FETCH_12_PLAIN + b"\x01\x00\x00", "truncated"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "reason"), HOSTILE)
def test_what_is_refused(name: str, data: bytes, reason: str) -> None:
    assert refused(data) == reason


def test_what_stands_before_the_hostile_bytes_is_good() -> None:
    assert decode_request(PRODUCE_3 + struct.pack(">hhii", -1, 1, 0, 0)).trailing == 0
    assert decode_request(PRODUCE_9 + b"\0" + bytes(6) + b"\x01\0").trailing == 0
    assert decode_request(METADATA_9 + b"\0\0\0\0\0").trailing == 0
    read = decode_request(FETCH_12_PLAIN + b"\x01\x00\x02\x02a")
    assert (read.body["ClusterId"], read.trailing, read.unknown_tags) == ("a", 0, 0)
    assert decode_request(FETCH_12_PLAIN + b"\0").body["ClusterId"] is None


def test_unknown_tags_are_counted_kept_and_written_again() -> None:
    data = METADATA_9 + b"\0\0\0\0" + b"\x02\x08\x01a\x09\x00"
    read = decode_request(data)
    assert read.unknown_tags == 2
    assert read.body[UNKNOWN] == [(8, b"a"), (9, b"")]
    assert encode_request(read) == data


def test_trailing_bytes_are_counted() -> None:
    assert decode_request(METADATA_9 + b"\0\0\0\0\0" + b"xyz").trailing == 3


def test_text_of_32767_bytes_is_read_and_written() -> None:
    long = "x" * 0x7FFF
    for version in (3, 9):
        assert decode_request(request(0, version, {"TransactionalId": long})).body["TransactionalId"] == long


@pytest.mark.parametrize(
    ("data", "value"), [(b"\0", 0), (b"\x7f", 127), (b"\x80\x01", 128), (b"\xff\xff\xff\xff\x07", 0x7FFFFFFF)]
)
def test_varints(data: bytes, value: int) -> None:
    assert uvarint(b"?" + data + b"?", 1) == (value, 1 + len(data))


@pytest.mark.parametrize(
    ("version", "body"),
    [
        (9, {"TransactionalId": "x" * 0x8000}),
        (9, {"TransactionalId": 5}),
        (9, {"TransactionalId": "\ud800"}),
        (9, {"Acks": 1 << 15}),
        (9, {"TopicData": None}),
        (9, {"TopicData": 3}),
        (9, {"TopicData": [{"Name": None}]}),
        (13, {"TopicData": [{"TopicId": b"short"}]}),
        (13, {"TopicData": [{"TopicId": 16}]}),
    ],
)
def test_a_tree_that_cannot_be_written_is_our_own_mistake(version: int, body: Tree) -> None:
    with pytest.raises(LocalProtocolError):
        request(0, version, body)


def test_a_client_id_that_is_too_long_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        request(0, 9, {}, "x" * 0x8000)


# ---- memory


def peak_bytes(data: bytes) -> int:
    """The most that decoding holds, whatever comes of it."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        with contextlib.suppress(RemoteProtocolError):
            decode_request(data)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


PER_BYTE = 120
"""Bytes of memory for one byte of a frame, at worst: what the smallest struct (a dict) and its values cost."""


@pytest.mark.parametrize(("name", "data", "reason"), HOSTILE)
def test_refusing_takes_next_to_no_memory(name: str, data: bytes, reason: str) -> None:
    refused(data)  # what is made once for a message does not count
    assert peak_bytes(data) < 16_384 + len(data) * 4


def test_memory_is_in_proportion_to_the_frame() -> None:
    partition = struct.pack(">i", 0) + b"\0\0"
    topic = b"\x02t" + b"\x01" + b"\0"
    for element in (partition, topic):
        for count in (1000, 20_000):
            many = bytes((count + 1 & 0x7F | 0x80, (count + 1) >> 7 & 0x7F | 0x80, (count + 1) >> 14))
            inside = b"\x02\x02t" + many + element * count + b"\0\0" if element is partition else many + element * count
            data = PRODUCE_9 + b"\0" + bytes(6) + inside + (b"" if element is partition else b"\0")
            decode_request(data)
            assert peak_bytes(data) < PER_BYTE * len(data) + 65_536


def test_a_frame_may_hold_so_many_objects_and_no_more() -> None:
    def fetch(count: int) -> bytes:
        return request(3, 9, {"Topics": [{"Name": "t"}] * count})

    fits = (MAX_ELEMENTS - 10) // 2  # a topic there is a struct and a name
    assert len(decode_request(fetch(fits)).body["Topics"]) == fits
    assert refused(fetch(fits + 100)) == "too_many_elements"
    assert peak_bytes(fetch(fits + 100)) < 65_536
    with pytest.raises(RemoteProtocolError, match="too_many_elements"):
        decode_request(fetch(100), elements=150)


def test_a_response_may_hold_more() -> None:
    replicas = list(range(MAX_ELEMENTS + 1))
    answer = encode_response(3, 9, 1, {"Topics": [{"Name": "t", "Partitions": [{"ReplicaNodes": replicas}]}]})
    assert decode_response(3, 9, answer).body["Topics"][0]["Partitions"][0]["ReplicaNodes"] == replicas
    with pytest.raises(RemoteProtocolError, match="too_many_elements"):
        decode_response(3, 9, answer, elements=MAX_ELEMENTS)
    assert MAX_ANSWER_ELEMENTS > MAX_ELEMENTS


def test_nested_arrays_that_promise_much_hold_little() -> None:
    # topics that each promise as many partitions as the frame has bytes, and end there
    data = PRODUCE_9 + b"\0" + bytes(6) + b"\xff\xff\x03" + b"\x02t\xff\xff\x01" * 20_000
    assert refused(data) == "truncated"
    assert peak_bytes(data) < 65_536 + 4 * len(data)
