"""What holds for every input: only protocol errors leave, and what was read is written and read again the same."""

from hypothesis import given
from hypothesis import strategies as st

from parsers.kafka.frames import Request, encode_request, encode_response
from parsers.kafka.table import Message
from tests.fuzz.kafka_target import FRAMES, check_request, check_response, check_start, check_walk
from tests.parsers.kafka_trees import seeded, tree, versions

REQUESTS = [(api.key, version, message) for api, message, version in versions("request")]
RESPONSES = [(api.key, version, message) for api, message, version in versions("response")]
BYTES = st.one_of(st.binary(max_size=4), st.sampled_from([b"\xff\xff\xff\xff\x0f", b"\xff\xff", b"\x80", bytes(8)]))
CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 6), BYTES), min_size=1, max_size=4)


def changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """With bytes at some places replaced by others, of another number perhaps."""
    for at, gone, put in changes:
        at %= len(data) + 1
        data = data[:at] + put + data[at + gone :]
    return data


@given(st.sampled_from(REQUESTS), st.integers(0, 1 << 30), CHANGES)
def test_a_request_with_changes_is_read_or_refused(
    kind: tuple[int, int, Message], seed: int, changes: list[tuple[int, int, bytes]]
) -> None:
    key, version, message = kind
    data = encode_request(Request(key, version, 7, "client", tree(message, version, seeded(seed))))
    data = data[:8] + changed(data[8:], changes)
    check_request(data)
    check_start(data)


@given(st.sampled_from(RESPONSES), st.integers(0, 1 << 30), CHANGES)
def test_a_response_with_changes_is_read_or_refused(
    kind: tuple[int, int, Message], seed: int, changes: list[tuple[int, int, bytes]]
) -> None:
    key, version, message = kind
    data = encode_response(key, version, 7, tree(message, version, seeded(seed)))
    check_response(key, version, changed(data, changes))


@given(st.sampled_from(REQUESTS), st.binary(max_size=200))
def test_any_body_is_read_or_refused(kind: tuple[int, int, Message], body: bytes) -> None:
    key, version, _ = kind
    check_request(key.to_bytes(2) + version.to_bytes(2) + bytes(4) + b"\xff\xff" + body)
    check_request(key.to_bytes(2) + version.to_bytes(2) + bytes(4) + b"\xff\xff\0" + body)
    check_response(key, version, body)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    check_request(data)
    check_start(data)


@given(st.integers(3, 13), st.binary(max_size=200), st.integers(0, 1 << 20), st.lists(st.integers(0, 200), max_size=5))
def test_any_topics_are_walked_or_refused_the_same_in_all_pieces(
    version: int, data: bytes, more: int, cuts: list[int]
) -> None:
    check_walk(version, data, len(data) + more, cuts)


def test_the_seeds_of_the_fuzzer_are_good_frames() -> None:
    assert len(FRAMES) == len(REQUESTS)
    for data in FRAMES:
        assert check_request(data)
