"""Two other readers of Kafka's messages must see what we see, in every API and version that they have, both ways.

kio has structures made from the definitions, and reads in Rust; kafka-python reads the definitions themselves. Both get
only frames that were written here: a hostile one makes kio abort the whole process.
"""

import datetime
import importlib
import io
import pkgutil
import random
from collections.abc import Iterator
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from enum import Enum
from typing import Any
from uuid import UUID

import kafka.protocol
import pytest
from kafka.protocol.api_message import ApiMessage
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from parsers.kafka.codec import Tree
from parsers.kafka.frames import (
    Request,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    header_version,
)
from parsers.kafka.table import Field, Kind, Message
from tests.parsers.kafka_trees import seeded, tree, versions

KINDS: list[Kind] = ["request", "response"]
_ZERO_ID = bytes(16)


def plain(fields: tuple[Field, ...], body: Tree, version: int) -> list[object]:
    """The values of a tree, in the order of the definitions: every reader has them in this order."""
    return [_plain_value(field, body[field.name], version) for field in fields if field.in_version(version)]


def _plain_value(field: Field, value: Any, version: int) -> object:
    if isinstance(value, list):
        return [_plain_value(field, each, version) for each in value]
    if isinstance(value, dict):
        return plain(field.fields, value, version)
    return bytes(value) if isinstance(value, memoryview) else value


def tamed(fields: tuple[Field, ...], body: Tree, rng: random.Random) -> Tree:
    """With numbers that are also durations, times and error codes, and with ids that are not zero: other readers make
    more of these than numbers and bytes."""
    for field in fields:
        if field.name in body:
            body[field.name] = _tamed_value(field, body[field.name], rng)
    return body


def _tamed_value(field: Field, value: Any, rng: random.Random) -> object:
    if isinstance(value, list):
        return [_tamed_value(field, each, rng) for each in value]
    if isinstance(value, dict):
        return tamed(field.fields, value, rng)
    if value is None:
        return None
    kind = field.type.removeprefix("[]")
    if kind.startswith(("int", "uint")):
        return rng.randrange(1, 100)
    if kind == "float64":
        return float(rng.randrange(1, 100))
    return value


def bodies(kind: Kind, seed: int) -> Iterator[tuple[int, str, int, Message, Tree, bytes]]:
    """A message of every API and version: its key, name, version, definition, tree, and bytes without a header."""
    rng = seeded(seed)
    for api, message, version in versions(kind):
        body = tamed(message.fields, tree(message, version, rng), rng)
        if (api.name, kind) == ("ApiVersions", "response"):
            body["ErrorCode"] = 0  # kafka-python reads any error there as of version 0
        if kind == "request":
            data = encode_request(Request(api.key, version, 7, None, body))
            read: Request | Any = decode_request(data)
            data = data[read.body_at :]
        else:
            data = encode_response(api.key, version, 7, body)
            read = decode_response(api.key, version, data)
            data = data[4 + header_version(api.key, version, "response") :]
        yield api.key, api.name, version, message, read.body, data


# ---- kio


def of_kio(value: Any) -> object:
    """A value of kio as ours."""
    if is_dataclass(value):
        return [of_kio(getattr(value, field.name)) for field in fields_of(value)]
    if isinstance(value, tuple):
        return [of_kio(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID):
        return value.bytes
    if isinstance(value, datetime.timedelta):
        return value // datetime.timedelta(milliseconds=1)
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1000)
    return value


@pytest.mark.parametrize("kind", KINDS)
def test_kio_reads_the_same_and_writes_the_same_bytes(kind: Kind) -> None:
    load: Any = load_request_schema if kind == "request" else load_response_schema
    seen = 0
    for key, name, version, message, body, data in bodies(kind, 11):
        schema = load(key, version)
        entity, size = entity_reader(schema)(data, 0)
        assert size == len(data), (name, version)
        assert of_kio(entity) == plain(message.fields, body, version), (name, version)
        written = io.BytesIO()
        entity_writer(schema)(written, entity)
        assert written.getvalue() == data, (name, version)
        seen += 1
    assert seen == len(list(versions(kind)))


# ---- kafka-python


def kafka_python_classes() -> dict[tuple[int, str], Any]:
    """Its messages by API key and kind."""
    for found in pkgutil.walk_packages(kafka.protocol.__path__, "kafka.protocol."):
        if ".old" not in found.name and not found.name.endswith("generate_stubs"):
            importlib.import_module(found.name)
    classes: dict[tuple[int, str], Any] = {}
    waiting: list[Any] = [ApiMessage]
    while waiting:
        for each in waiting.pop().__subclasses__():
            waiting.append(each)
            if each._json is not None and each._class_version is None:
                classes[each.API_KEY, each.type] = each
    return classes


def of_kafka_python(fields: tuple[Field, ...], value: Any, version: int) -> list[object]:
    """A struct of kafka-python as ours; it has a name of its own for each of our fields, in the same order."""
    names = [each.name for each in value._struct._fields if each.for_version_q(version)]
    ours = [field for field in fields if field.in_version(version)]
    assert len(names) == len(ours)
    return [_kafka_python_value(field, getattr(value, name), version) for field, name in zip(ours, names, strict=True)]


def _kafka_python_value(field: Field, value: Any, version: int) -> object:
    if isinstance(value, list | tuple):
        return [_kafka_python_value(field, each, version) for each in value]
    if isinstance(value, UUID):
        return value.bytes
    if isinstance(value, set):  # of operations, made from the bits of a number
        return sum(1 << bit for bit in value)
    if hasattr(value, "_struct"):
        return of_kafka_python(field.fields, value, version)
    return bytes(value) if isinstance(value, memoryview) else value


@pytest.mark.parametrize("kind", KINDS)
def test_kafka_python_reads_the_same_and_writes_the_same_bytes(kind: Kind) -> None:
    classes = kafka_python_classes()
    seen = set()
    for key, name, version, message, body, data in bodies(kind, 12):
        found = classes.get((key, kind))
        if found is None or version > found.max_version:
            continue
        read = found.decode(data, version=version)
        assert of_kafka_python(message.fields, read, version) == plain(message.fields, body, version), (name, version)
        read.with_header()
        assert read.encode() == data, (name, version)
        seen.add(key)
    assert len(seen) > 45
