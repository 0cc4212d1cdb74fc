"""docs/audit.md is a contract: its example is what is written, and no field is missing in it."""

import json
import re
from pathlib import Path

import msgspec

from audit import schema
from audit.record import FlowFacts
from audit.writer import Writer
from tests.audit.makers import CLOCK, Json, ListSink, kafka_facts, parsed, request_facts

DOCUMENT = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
REQUEST, KAFKA, LOSS = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)]


def written(facts: FlowFacts) -> Json:
    """The record of these facts."""
    sink = ListSink()
    writer = Writer("node-b/worker-0", "boot-1", sink, lambda: CLOCK)
    writer.write(facts)
    writer.flush()
    (record,) = parsed(sink.lines)
    return record


def test_the_example_is_what_is_written() -> None:
    record = written(request_facts("/public?a=1"))
    assert isinstance(record["flow"], dict)
    record["flow"]["uuid"] = REQUEST["flow"]["uuid"]
    assert record == REQUEST


def test_the_kafka_example_is_what_is_written() -> None:
    record = written(kafka_facts())
    for part, shown in KAFKA.items():
        found = record[part]
        assert isinstance(found, dict)
        assert {name: found[name] for name in shown} == shown
    assert list(KAFKA) == ["flow", "tulle"]


def test_the_lost_records_example_has_every_field() -> None:
    line = json.dumps(LOSS).encode()
    record = schema.decode(line)
    assert record.lost_events is not None
    assert set(LOSS["lost_events"]) == set(schema.LostEvents.__struct_fields__)
    assert json.loads(schema.encode(record)) == LOSS


def test_every_field_is_explained() -> None:
    words = set(re.findall(r"\w+", DOCUMENT))
    structs: list[type[msgspec.Struct]] = [
        schema.Record, schema.Tulle, schema.Flow, schema.LostEvents, schema.Layer7, schema.Endpoint, schema.Policy,
        schema.Addresses, schema.Ports, schema.EventType, schema.Kafka, schema.KafkaAsked,
    ]  # fmt: skip
    for struct in structs:
        never_written = {"labels"} if struct is schema.Policy else set()
        assert set(struct.__struct_fields__) - never_written <= words, struct
