"""INVARIANT: nothing but a protocol error leaves the Kafka parsers, and what they read they write the same.

One function for each way bytes come in; the property tests and the fuzzers (tests/fuzz/fuzz_kafka.py) call the same.
"""

from typing import Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import Incomplete
from parsers.kafka.entities import entities
from parsers.kafka.frames import (
    Request,
    begin_request,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    message_of,
)
from parsers.kafka.produce import Event, ProduceWalk
from tests.parsers.kafka_trees import seeded, tree, versions

FRAMES: Final = [
    encode_request(Request(api.key, version, 7, "client", tree(message, version, seeded(api.key))))
    for api, message, version in versions("request")
]
"""A good request of every API and version, for a fuzzer to begin with."""


def check_request(data: bytes) -> bool:
    """Whether it could be read. Fails where it cannot be written and read again the same."""
    try:
        read = decode_request(data)
    except RemoteProtocolError:
        return False
    entities(read)
    assert 0 <= read.trailing < len(data)
    if not read.unknown_tags:  # tags in a header are not written again
        again = decode_request(encode_request(read))
        assert repr(again.body) == repr(read.body) or again.body == read.body
        assert (again.client_id, again.correlation_id) == (read.client_id, read.correlation_id)
    return True


def check_response(key: int, version: int, data: bytes) -> bool:
    """The same for a response."""
    try:
        read = decode_response(key, version, data)
    except RemoteProtocolError:
        return False
    entities(read)
    if not read.unknown_tags:
        written = encode_response(key, read.api_version, read.correlation_id, read.body)
        again = decode_response(key, read.api_version, written)
        assert again.body == read.body or "nan" in repr(read.body)
    return True


def check_start(data: bytes) -> None:
    """Where the whole can be read, every start of it is a beginning or incomplete, and never anything else."""
    try:
        whole = decode_request(data)
    except RemoteProtocolError:
        whole = None
    if len(data) < 4:
        return
    try:
        message = message_of(int.from_bytes(data[:2]), int.from_bytes(data[2:4]), "request")
    except RemoteProtocolError:
        return
    for field in message.fields[:3]:
        for end in range(0, len(data), max(len(data) // 20, 1)):
            try:
                begin_request(data[:end], field.name)
            except Incomplete:
                continue
            except RemoteProtocolError:
                assert whole is None


def check_walk(version: int, data: bytes, size: int, cuts: list[int]) -> None:
    """The topics of a Produce request of so many bytes, whole and in pieces that end at `cuts`."""

    def walk(ends: list[int]) -> tuple[list[Event], str]:
        machine = ProduceWalk(version, size, 0)
        events: list[Event] = []
        begin = 0
        try:
            for end in ends:
                events += machine.feed(data[begin:end])
                begin = max(begin, end)
        except RemoteProtocolError as error:
            return [], error.reason
        return events, "ended" if machine.ended else ""

    assert walk([len(data)]) == walk([*sorted(cuts), len(data)])
