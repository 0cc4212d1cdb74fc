"""Random messages of every API and version, made from the table: what decoding must give back and oracles agree on.

A tree made here is complete: it has every field that its version has, so that decoding gives the same tree again.
"""

import random
import struct
from collections.abc import Iterator

from parsers.kafka.codec import Tree
from parsers.kafka.table import TABLE, Api, Field, Kind, Message

_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
_STRINGS = ("", "a", "orders", "billing-7", "smörgås", "日本", "x" * 127, "y" * 300)


def seeded(seed: int) -> random.Random:
    """Chance that is the same in every run."""
    return random.Random(seed)  # noqa: S311  no secret


def versions(kind: Kind) -> Iterator[tuple[Api, Message, int]]:
    """Every message of this kind, in every version."""
    for api in TABLE.apis.values():
        message = api.message(kind)
        if message is not None:
            for version in range(message.versions[0], message.versions[1] + 1):
                yield api, message, version


def tree(message: Message, version: int, rng: random.Random, *, nulls: bool = True) -> Tree:
    """A random body. nulls: fields that may be null are, now and then."""
    return _struct(message.fields, version, rng, nulls=nulls)


def least_tree(message: Message, version: int) -> Tree:
    """The smallest body: numbers are 0, arrays and strings empty, what may be null is null, and nothing is tagged."""
    return _least(message.fields, version)


def _struct(fields: tuple[Field, ...], version: int, rng: random.Random, *, nulls: bool) -> Tree:
    return {
        field.name: _value(field, version, rng, nulls=nulls)
        for field in fields
        if field.in_version(version) or field.tagged_in(version)
    }


def _value(field: Field, version: int, rng: random.Random, *, nulls: bool) -> object:
    if nulls and field.nullable_in(version) and not rng.randrange(4):
        return None
    if field.type.startswith("[]"):
        count = rng.choice((0, 1, 1, 2, 3))
        return [_one(field, field.type[2:], version, rng, nulls=nulls) for _ in range(count)]
    return _one(field, field.type, version, rng, nulls=nulls)


def _one(field: Field, kind: str, version: int, rng: random.Random, *, nulls: bool) -> object:
    if kind in _BITS:
        bits = _BITS[kind]
        edge = 1 << (bits - 1)
        return rng.choice((0, 1, -1, edge - 1, -edge, rng.randrange(-edge, edge)))
    if kind in ("uint16", "uint32"):
        return rng.randrange(1 << int(kind[4:]))
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "float64":
        (value,) = struct.unpack(">d", struct.pack(">d", rng.uniform(-1e9, 1e9)))
        return value
    if kind == "string":
        return rng.choice(_STRINGS)
    if kind == "uuid":
        return rng.randbytes(16)
    if kind in ("bytes", "records"):
        return rng.randbytes(rng.choice((0, 1, 20, 130, 400)))
    return _struct(field.fields, version, rng, nulls=nulls)


def _least(fields: tuple[Field, ...], version: int) -> Tree:
    made: Tree = {}
    for field in fields:
        if not field.in_version(version) or field.tagged_in(version):
            continue
        if field.nullable_in(version):
            made[field.name] = None
        elif field.type.startswith("[]"):
            made[field.name] = []
        elif field.fields:
            made[field.name] = _least(field.fields, version)
        else:
            made[field.name] = _LEAST.get(field.type, 0)
    return made


_LEAST = {"string": "", "bytes": b"", "records": b"", "uuid": bytes(16), "bool": False, "float64": 0.0}
