"""Fields of one message in one version: bytes to a tree, and a tree to bytes.

A tree is plain: a struct is a dict with Kafka's own field names, an array a list, a UUID 16 bytes, `bytes` and `records` a
memoryview of the frame (nothing is copied), a string a str. A field that the version has not is not in the tree; a tagged
field that was not sent has its default. What a sender tagged and the definitions do not know is under UNKNOWN, as
[(tag, bytes)].

Bounds: nothing is made for what a length promises, only for what is there, and one frame makes at most so many objects
(`Reader.left`). Encoding rules: the Kafka protocol guide, KIP-482 (flexible versions).
"""

import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from parsers.errors import LocalProtocolError, RemoteProtocolError
from parsers.kafka.table import Field, Message

UNKNOWN: Final = "_unknown"
"""Name of the list of tagged fields that the definitions do not know; only in a tree that has some."""

MAX_ELEMENTS: Final = 200_000
"""Structs, strings and numbers that one frame may hold. A Produce of 1,000 partitions has some 5,000."""

type Tree = dict[str, Any]


class Incomplete(Exception):
    """What was asked for is not all there yet."""


class Reader:
    """Where reading is in a frame. left: objects that may still be made. partial: more bytes may come."""

    __slots__ = ("at", "data", "left", "partial", "unknown", "view")

    def __init__(self, data: bytes, at: int = 0, left: int = MAX_ELEMENTS, *, partial: bool = False) -> None:
        self.data = data
        self.view = memoryview(data)
        self.at = at
        self.left = left
        self.partial = partial
        self.unknown = 0  # tagged fields that the definitions do not know

    def take(self, size: int) -> memoryview:
        """The next so many bytes; never copied."""
        at = self.at
        end = at + size
        if end > len(self.data):
            raise self.short()
        self.at = end
        return self.view[at:end]

    def short(self) -> Exception:
        """What to raise when a field goes on behind the last byte."""
        return (
            Incomplete() if self.partial else RemoteProtocolError("truncated", detail="a field ends behind the frame")
        )

    def spend(self, count: int) -> None:
        """Account for so many objects."""
        self.left -= count
        if self.left < 0:
            raise RemoteProtocolError("too_many_elements")


type Read = Callable[[Reader], Any]
type Write = Callable[[list[bytes | memoryview], Any], None]

_FIXED: Final = {
    "bool": "?", "int8": "b", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "float64": "d",
}  # fmt: skip
_INT16, _INT32 = struct.Struct(">h"), struct.Struct(">i")
_ZERO_UUID: Final = bytes(16)
_MAX_LENGTH: Final = 0x7FFFFFFF


# ---- reading


def _uvarint(r: Reader) -> int:
    """An unsigned varint of at most 31 bits. Java's reader drops what is above 32 bits and takes the rest for negative, so
    there is one way to read only what fits."""
    data = r.data
    at = r.at
    try:
        byte = data[at]
        if byte < 0x80:
            r.at = at + 1
            return byte
        value = byte & 0x7F
        for shift in (7, 14, 21, 28):
            at += 1
            byte = data[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value > _MAX_LENGTH:
                    break
                r.at = at + 1
                return value
    except IndexError:
        raise r.short() from None
    raise RemoteProtocolError("bad_varint")


def _fixed(kind: str) -> Read:
    packed = struct.Struct(">" + _FIXED[kind])
    unpack, size = packed.unpack_from, packed.size

    def read(r: Reader) -> Any:
        try:
            (value,) = unpack(r.data, r.at)
        except struct.error:
            raise r.short() from None
        r.at += size
        return value

    return read


def _uuid(r: Reader) -> bytes:
    return bytes(r.take(16))


def _length(r: Reader, packed: struct.Struct) -> int:
    try:
        (length,) = packed.unpack_from(r.data, r.at)
    except struct.error:
        raise r.short() from None
    r.at += packed.size
    return length


def _length_reader(kind: str, *, compact: bool) -> Read:
    """Length of a string (int16), or of bytes, records and arrays (int32); -1 for null. Compact: one more, as uvarint."""
    if compact:
        return lambda r: _uvarint(r) - 1
    packed = _INT16 if kind == "string" else _INT32
    return lambda r: _length(r, packed)


def _checked(length: int, *, nullable: bool) -> bool:
    """Whether there is a value. Raises where the length can be read no way."""
    if length >= 0:
        return True
    if length == -1 and nullable:
        return False
    raise RemoteProtocolError("bad_length" if length < -1 else "null_not_allowed")


def _string(*, compact: bool, nullable: bool) -> Read:
    length_of = _length_reader("string", compact=compact)

    def read(r: Reader) -> str | None:
        length = length_of(r)
        if length < 0:
            _checked(length, nullable=nullable)
            return None
        if length > 0x7FFF:
            raise RemoteProtocolError("bad_length", detail="strings end at 32767 bytes")
        at = r.at
        end = at + length
        if end > len(r.data):
            raise r.short()
        r.at = end
        r.spend(1)
        try:
            return r.data[at:end].decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("not_utf8") from None

    return read


def _bytes(*, compact: bool, nullable: bool) -> Read:
    length_of = _length_reader("bytes", compact=compact)

    def read(r: Reader) -> memoryview | None:
        length = length_of(r)
        return r.take(length) if _checked(length, nullable=nullable) else None

    return read


def _array(kind: str, element: Read, *, compact: bool, nullable: bool) -> Read:
    length_of = _length_reader("array", compact=compact)
    packed = _FIXED.get(kind)
    size = struct.calcsize(">" + packed) if packed else 1

    def read(r: Reader) -> list[Any] | None:
        length = length_of(r)
        if not _checked(length, nullable=nullable):
            return None
        if length * size > len(r.data) - r.at and not r.partial:
            raise RemoteProtocolError("truncated", detail="an array is longer than the frame")
        r.spend(length)
        if packed is not None:
            view = r.take(length * size)
            return list(struct.unpack(f">{length}{packed}", view))
        return [element(r) for _ in range(length)]

    return read


def _field_read(field: Field, version: int, *, flexible: bool) -> Read:
    flexible = flexible and field.flexible
    nullable = field.nullable_in(version)
    kind = field.type
    if kind.startswith("[]"):
        inner = kind.removeprefix("[]")
        return _array(
            inner, _one_read(field, inner, version, flexible, nullable=False), compact=flexible, nullable=nullable
        )
    return _one_read(field, kind, version, flexible, nullable=nullable)


def _one_read(field: Field, kind: str, version: int, flexible: bool, *, nullable: bool) -> Read:
    if kind in _FIXED:
        return _fixed(kind)
    if kind == "uuid":
        return _uuid
    if kind == "string":
        return _string(compact=flexible, nullable=nullable)
    if kind in ("bytes", "records"):
        return _bytes(compact=flexible, nullable=nullable)
    inner = _struct_read(field.fields, version, flexible=flexible)
    return _nullable_struct(inner) if nullable else inner


def _nullable_struct(inner: Read) -> Read:
    present = _fixed("int8")

    def read(r: Reader) -> Tree | None:
        return None if present(r) < 0 else inner(r)

    return read


def _struct_read(fields: tuple[Field, ...], version: int, *, flexible: bool) -> Read:
    """A struct. Fields of fixed size that follow each other are read in one go."""
    steps: list[tuple[str, Read | None, tuple[str, ...], struct.Struct]] = []
    run: list[tuple[str, str]] = []
    tagged: dict[int, tuple[str, Read]] = {}
    absent: list[tuple[Field, Callable[[], Any]]] = []

    def close_run() -> None:
        if run:
            packed = struct.Struct(">" + "".join(_FIXED[kind] for _, kind in run))
            steps.append(("", None, tuple(name for name, _ in run), packed))
            run.clear()

    for field in fields:
        if field.tagged_in(version):
            tagged[field.tag] = (field.name, _field_read(field, version, flexible=flexible))
            absent.append((field, default_of(field, version)))
        elif field.in_version(version):
            if field.type in _FIXED:
                run.append((field.name, field.type))
            else:
                close_run()
                steps.append((field.name, _field_read(field, version, flexible=flexible), (), _INT16))
    close_run()

    def read(r: Reader) -> Tree:
        tree: Tree = {}
        for name, one, many, packed in steps:
            if one is not None:
                tree[name] = one(r)
            else:
                at = r.at
                try:
                    tree.update(zip(many, packed.unpack_from(r.data, at), strict=True))
                except struct.error:
                    raise r.short() from None
                r.at = at + packed.size
        if flexible:
            for field, make in absent:
                tree[field.name] = make()
            if r.at < len(r.data) and not r.data[r.at]:
                r.at += 1  # no tagged field, nearly always
            else:
                _tags(r, tree, tagged)
        return tree

    return read


def _tags(r: Reader, tree: Tree, known: dict[int, tuple[str, Read]]) -> None:
    """Tagged fields. KIP-482 wants them in the order of their tags: any other order, and the same tag twice, could be read
    in two ways."""
    last = -1
    for _ in range(_uvarint(r)):
        tag, size = _uvarint(r), _uvarint(r)
        if tag <= last:
            raise RemoteProtocolError("tags_out_of_order")
        last = tag
        r.spend(1)
        end = r.at + size
        if end > len(r.data):
            raise r.short()
        if tag in known:
            name, read = known[tag]
            tree[name] = read(r)
            if r.at != end:
                raise RemoteProtocolError("bad_tag_length")
        else:
            r.unknown += 1
            tree.setdefault(UNKNOWN, []).append((tag, bytes(r.take(size))))


def default_of(field: Field, version: int) -> Callable[[], Any]:
    """Makes the value of a field that is not there."""
    kind, given = field.type, field.default
    if kind.startswith("[]"):
        return (lambda: None) if field.null_by_default else list
    if field.fields:
        return (lambda: None) if field.null_by_default else (lambda: default_tree(field.fields, version))
    if kind == "uuid":
        return lambda: _ZERO_UUID
    if kind == "string":
        value: Any = given if given is not None or field.null_by_default else ""
    elif kind in ("bytes", "records"):
        value = None if field.null_by_default else b""
    elif kind == "bool":
        value = bool(given)
    elif kind == "float64":
        value = float(str(given or 0))
    else:
        value = given if given is not None else 0
    return lambda: value


def default_tree(fields: tuple[Field, ...], version: int) -> Tree:
    """A struct of defaults, of the fields that a version has."""
    return {
        field.name: default_of(field, version)()
        for field in fields
        if field.in_version(version) or field.tagged_in(version)
    }


@cache
def body_reader(message: Message, version: int) -> Read:
    """Reads the body of a message in one version. Raises RemoteProtocolError, Incomplete for a partial reader."""
    return _struct_read(message.fields, version, flexible=message.is_flexible(version))


@cache
def prefix_reader(message: Message, version: int, until: str) -> Read:
    """Reads the fields before `until`, of the top level; the reader then stands at that field."""
    names = [field.name for field in message.fields]
    fields = tuple(
        field for field in message.fields[: names.index(until)] if not field.tagged_in(version)
    )  # tagged fields stand at the end
    flexible = message.is_flexible(version)
    readers = [
        (field.name, _field_read(field, version, flexible=flexible)) for field in fields if field.in_version(version)
    ]

    def read(r: Reader) -> Tree:
        return {name: one(r) for name, one in readers}

    return read


# ---- writing


def _write_uvarint(out: list[bytes | memoryview], value: int) -> None:
    if value < 0x80:
        out.append(_BYTE[value])
        return
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    out.append(bytes(made))


_BYTE: Final = [bytes((value,)) for value in range(256)]


def _length_writer(kind: str, *, compact: bool) -> Callable[[list[bytes | memoryview], int], None]:
    if compact:
        return lambda out, length: _write_uvarint(out, length + 1)
    packed = _INT16 if kind == "string" else _INT32
    return lambda out, length: out.append(packed.pack(length))


def _field_write(field: Field, version: int, *, flexible: bool) -> Write:
    flexible = flexible and field.flexible
    nullable = field.nullable_in(version)
    kind = field.type
    if not kind.startswith("[]"):
        return _one_write(field, kind, version, flexible, nullable=nullable)
    inner = kind.removeprefix("[]")
    element = _one_write(field, inner, version, flexible, nullable=False)
    write_length = _length_writer("array", compact=flexible)

    def write(out: list[bytes | memoryview], value: Any) -> None:
        if value is None:
            _allow_null(field, nullable=nullable)
            write_length(out, -1)
            return
        write_length(out, len(value))
        for each in value:
            element(out, each)

    return write


def _allow_null(field: Field, *, nullable: bool) -> None:
    if not nullable:
        raise LocalProtocolError(f"{field.name} cannot be null")


def _one_write(field: Field, kind: str, version: int, flexible: bool, *, nullable: bool) -> Write:
    if kind in _FIXED:
        packed = struct.Struct(">" + _FIXED[kind])
        return lambda out, value: out.append(packed.pack(value))
    if kind == "uuid":
        return lambda out, value: out.append(bytes(value))
    if kind in ("string", "bytes", "records"):
        write_length = _length_writer(kind, compact=flexible)

        def write(out: list[bytes | memoryview], value: Any) -> None:
            if value is None:
                _allow_null(field, nullable=nullable)
                write_length(out, -1)
                return
            data = value.encode() if kind == "string" else value
            write_length(out, len(data))
            out.append(data)

        return write
    inner = _struct_write(field.fields, version, flexible=flexible)
    if not nullable:
        return inner

    def write_nullable(out: list[bytes | memoryview], value: Any) -> None:
        out.append(b"\xff" if value is None else b"\x01")
        if value is not None:
            inner(out, value)

    return write_nullable


def _struct_write(fields: tuple[Field, ...], version: int, *, flexible: bool) -> Write:
    plain = [
        (field.name, _field_write(field, version, flexible=flexible), default_of(field, version))
        for field in fields
        if field.in_version(version) and not field.tagged_in(version)
    ]
    tagged = [
        (field.tag, field.name, _field_write(field, version, flexible=flexible), default_of(field, version))
        for field in sorted(fields, key=lambda field: field.tag)
        if field.tagged_in(version)
    ]

    def write(out: list[bytes | memoryview], tree: Tree) -> None:
        for name, one, make in plain:
            one(out, tree[name] if name in tree else make())
        if not flexible:
            return
        parts: list[tuple[int, bytes]] = list(tree.get(UNKNOWN, ()))
        for tag, name, one, make in tagged:
            if name in tree and tree[name] != make():
                inner: list[bytes | memoryview] = []
                one(inner, tree[name])
                parts.append((tag, b"".join(inner)))
        if len(parts) > 1:
            parts.sort()
        _write_uvarint(out, len(parts))
        for tag, data in parts:
            _write_uvarint(out, tag)
            _write_uvarint(out, len(data))
            out.append(data)

    return write


@cache
def body_writer(message: Message, version: int) -> Write:
    """Writes the body of a message in one version. A field that the tree has not gets its default.

    Raises:
        LocalProtocolError: a value is null that may not be; struct.error: a number is too big.
    """
    return _struct_write(message.fields, version, flexible=message.is_flexible(version))
