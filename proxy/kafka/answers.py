"""Answers of brokers: which error they tell, and topics put into them while the rest streams."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import Incomplete, Tree
from parsers.kafka.frames import begin_response, encode_response, message_of

_NAMES: Final = ("Name", "Topic", "TopicName")
_INT32: Final = struct.Struct(">i")


def error_of(body: Tree, topic: str = "", ids: Mapping[bytes, str] | None = None) -> int:
    """The error that an answer tells: of the whole, else the first one about the topic, else (without a topic, or where
    it is not in there) the first of all; 0 for none. ids: names of topic ids that stand in it."""
    code = body.get("ErrorCode")
    if code:
        return int(code)
    found = _about(body, topic, ids or {}) if topic else None
    return _first(body if found is None else found)


def _about(tree: Tree, topic: str, ids: Mapping[bytes, str]) -> Tree | None:
    for value in tree.values():
        if type(value) is not list or not value or type(value[0]) is not dict:
            continue
        for each in value:
            if any(each.get(name) == topic for name in _NAMES) or ids.get(each.get("TopicId", b"")) == topic:
                found: Tree = each
                return found
            deeper = _about(each, topic, ids)
            if deeper is not None:
                return deeper
    return None


def _first(tree: Any) -> int:
    """The first error that is not 0."""
    if type(tree) is dict:
        code = tree.get("ErrorCode")
        if code:
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
