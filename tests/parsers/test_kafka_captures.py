"""Frames of real clients and of Apache Kafka 4.3.1, as they were on the wire (captures/README.md)."""

import io
import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from parsers.kafka.entities import Entities, entities
from parsers.kafka.frames import (
    begin_request,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    header_version,
)
from parsers.kafka.produce import Partition, ProduceWalk, Topic
from parsers.kafka.table import TABLE

FOLDER = Path(__file__).with_name("captures") / "kafka"

NAMES: dict[str, tuple[set[str], set[str], set[str], int]] = {
    "aiokafka": ({"__consumer_offsets", "orders-aio"}, {"aio-group", "aio-tx-group"}, {"aio-tx"}, 0),
    "confluent-kafka": ({"orders-rd"}, {"aio-group", "aio-tx-group", "rd-classic", "rd-consumer"}, {"rd-tx"}, 1),
    "java": ({"__cluster_metadata", "orders-java"}, {"java-classic", "java-consumer", "java-share"}, set(), 1),
    "kafka-python": ({"orders-kp"}, {"kp-group"}, {"kp-tx"}, 0),
    "kafkajs": ({"orders-js"}, {"js-group"}, {"js-tx"}, 0),
    "kcat": ({"orders-kcat"}, {"kcat-group2"}, set(), 0),
    "platformatic": ({"orders-pl"}, {"pl-group"}, set(), 1),
}
"""What each client's requests name: topics, groups, transactional ids, and how many topic ids."""


def lines(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def kio_reads_and_writes(schema: Any, data: bytes) -> None:
    entity, size = entity_reader(schema)(data, 0)
    assert size == len(data)
    written = io.BytesIO()
    entity_writer(schema)(written, entity)
    assert written.getvalue() == data


def test_every_capture_has_its_row() -> None:
    assert sorted(NAMES) == sorted(path.stem.removesuffix("-requests") for path in FOLDER.glob("*-requests.jsonl"))


@pytest.mark.parametrize("client", NAMES)
def test_requests(client: str) -> None:
    named = Entities()
    for line in lines(f"{client}-requests"):
        frame = b64decode(line["frame"])
        read = decode_request(frame)
        assert (read.trailing, read.unknown_tags) == (0, 0), line["id"]
        assert encode_request(read) == frame, line["id"]
        kio_reads_and_writes(load_request_schema(read.api_key, read.api_version), frame[read.body_at :])
        found = entities(read)
        named.topics += found.topics
        named.topic_ids += found.topic_ids
        named.groups += found.groups
        named.transactional_ids += found.transactional_ids
        api, version = line["id"].split()[1:3]
        assert (TABLE.keys[api], int(version)) == (read.api_key, read.api_version)
    topics, groups, transactional_ids, ids = NAMES[client]
    assert set(named.topics) == topics
    assert set(named.groups) == groups
    assert set(named.transactional_ids) == transactional_ids
    assert len(set(named.topic_ids)) == ids


@pytest.mark.parametrize("client", NAMES)
def test_answers(client: str) -> None:
    for line in lines(f"{client}-answers"):
        api, _, number = line["response_to"].partition(":")
        key, version, frame = TABLE.keys[api], int(number), b64decode(line["frame"])
        read = decode_response(key, version, frame)
        assert (read.trailing, read.unknown_tags) == (0, 0), line["id"]
        assert encode_response(key, version, read.correlation_id, read.body) == frame, line["id"]
        body_at = 4 + header_version(key, version, "response")
        kio_reads_and_writes(load_response_schema(key, version), frame[body_at:])


def test_produce_requests_are_walked() -> None:
    walked = set()
    for client in NAMES:
        for line in lines(f"{client}-requests"):
            frame = b64decode(line["frame"])
            if frame[:2] != b"\0\0":
                continue
            version = int.from_bytes(frame[2:4])
            _, at = begin_request(frame, "TopicData")
            events = ProduceWalk(version, len(frame), at).feed(frame[at:])
            topics = decode_request(frame).body["TopicData"]
            assert [event.name or event.id for event in events if isinstance(event, Topic)] == [
                topic.get("Name") or topic["TopicId"] for topic in topics
            ]
            assert [event.record_bytes for event in events if isinstance(event, Partition)] == [
                len(each["Records"]) for topic in topics for each in topic["PartitionData"]
            ]
            walked.add(version)
    assert walked == {7, 9, 10, 11, 13}
