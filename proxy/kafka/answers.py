"""Answers of brokers: which error they tell, and topics put into them while the rest streams."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import Incomplete, Tree
from parsers.kafka.frames import begin_response, encode_response, message_of
from policies.requests import Resource

PRODUCE: Final = 0
FETCH: Final = 1
_FLEXIBLE_PRODUCE, _FLEXIBLE_FETCH, _FIRST_SESSION, _FIRST_ID = 9, 12, 7, 13  # versions
_NONE, _ONE, _ONE_BYTE = 1, 2, 0x7F  # lengths as a flexible version writes them: one more

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    Resource.TOPIC: ("Name", "Topic", "TopicName", "ResourceName"),
    Resource.GROUP: ("GroupId", "Key", "ResourceName"),
    Resource.TRANSACTIONAL_ID: ("TransactionalId", "Key"),
}
"""The fields by which answers name what they are about."""
_CODES: Final = ("ErrorCode", "PartitionErrorCode")
_INT16: Final = struct.Struct(">h")
_INT32: Final = struct.Struct(">i")


def error_of(body: Tree, resource: str = "", name: str = "", ids: Mapping[bytes, str] | None = None) -> int:
    """The error that an answer tells: of the whole, else the first one about what is named, else (where that has no
    name, or is not in there) the first of all; 0 for none. ids: names of topic ids that stand in it."""
    code = body.get("ErrorCode")
    if code:
        return int(code)
    fields = _NAMES.get(resource)
    known = ids if ids and resource == Resource.TOPIC else {}
    found = _about(body, fields, name, known) if name and fields else None
    return _first(body if found is None else found)


def _about(tree: Tree, fields: tuple[str, ...], name: str, ids: Mapping[bytes, str]) -> Tree | None:
    for value in tree.values():
        if type(value) is not list or not value or type(value[0]) is not dict:
            continue
        for each in value:
            if any(each.get(field) == name for field in fields) or ids.get(each.get("TopicId", b"")) == name:
                found: Tree = each
                return found
            deeper = _about(each, fields, name, ids)
            if deeper is not None:
                return deeper
    return None


def _first(tree: Any) -> int:
    """The first error that is not 0."""
    if type(tree) is dict:
        for field in _CODES:
            if code := tree.get(field):
                return int(code)
        values = list(tree.values())
    elif type(tree) is list and tree and type(tree[0]) is dict:
        values = tree
    else:
        return 0
    for value in values:
        if type(value) is list or type(value) is dict:
            code = _first(value)
            if code:
                return code
    return 0


def quick_error(api_key: int, version: int, frame: bytes) -> int | None:
    """The error of a Produce or Fetch answer about one partition, or none; None where it has to be read in full.

    What clients that wait for each answer get; to read it in full costs more than all else that is done for it.
    """
    flexible = version >= (_FLEXIBLE_PRODUCE if api_key == PRODUCE else _FLEXIBLE_FETCH)
    try:
        at = 4
        if flexible:
            if frame[4]:
                return None  # tagged fields of the header
            at = 5
        if api_key != PRODUCE:
            at += 4
            if version >= _FIRST_SESSION:
                error = _INT16.unpack_from(frame, at)[0]
                at += 6
                if error:
                    return int(error)
        if flexible:
            if frame[at] != _ONE:
                return 0 if frame[at] == _NONE else None
            at += 1
            width = 16 if version >= _FIRST_ID else frame[at]
            if width > _ONE_BYTE or frame[at + width] != _ONE:
                return None
            at += width + 1
        else:
            (topics,) = _INT32.unpack_from(frame, at)
            if topics != 1:
                return None if topics else 0
            at += 6 + _INT16.unpack_from(frame, at + 4)[0]
            if _INT32.unpack_from(frame, at)[0] != 1:
                return None
            at += 4
        return int(_INT16.unpack_from(frame, at + 4)[0])
    except (IndexError, struct.error):
        return None


@dataclass(frozen=True, slots=True)
class Insert:
    """Elements of the array `Responses` of an answer, ready to be put before the broker's own."""

    count: int
    data: bytes


@cache
def _around(api_key: int, version: int) -> tuple[int, int]:
    """Bytes of the length of `Responses`, and behind it, in an answer that is empty."""
    frame = encode_response(api_key, version, 0, {"Responses": []})
    _, at = begin_response(api_key, version, frame, "Responses")
    width = 1 if message_of(api_key, version, "response").is_flexible(version) else 4
    return width, len(frame) - at - width


def insert_of(api_key: int, version: int, topics: list[Tree]) -> Insert:
    """The elements, encoded. Raises LocalProtocolError for a tree that cannot be written."""
    frame = encode_response(api_key, version, 0, {"Responses": topics})
    _, at = begin_response(api_key, version, frame, "Responses")
    width, behind = _around(api_key, version)
    if width == 1:
        _, width = _uvarint(frame, at)
    return Insert(len(topics), frame[at + width : len(frame) - behind])


def inserted(api_key: int, version: int, size: int, start: bytes, at: int, insert: Insert) -> tuple[bytes, int]:
    """The new start of an answer, its length included, and how many bytes of the old one it stands for.

    size: of the frame. start: of the frame, without the length. at: where `Responses` begins (`begin_response`).

    Raises:
        Incomplete: the array's length is not there yet; RemoteProtocolError: it cannot be read.
    """
    if message_of(api_key, version, "response").is_flexible(version):
        count, width = _uvarint(start, at)
        written = _written(count + insert.count)
        count -= 1
    else:
        if len(start) < at + 4:
            raise Incomplete
        (count,) = _INT32.unpack_from(start, at)
        width = 4
        written = _INT32.pack(count + insert.count) if count >= 0 else b""
    if count < 0:
        raise RemoteProtocolError("null_not_allowed")
    head = start[:at] + written + insert.data
    return _INT32.pack(size - at - width + len(head)) + head, at + width


def _uvarint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins there and its width."""
    value = 0
    for width in range(1, 6):
        if at + width > len(data):
            raise Incomplete
        byte = data[at + width - 1]
        value |= (byte & 0x7F) << 7 * (width - 1)
        if byte < 0x80:
            return value, width
    raise RemoteProtocolError("bad_varint")


def _written(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
