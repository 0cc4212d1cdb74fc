"""Fields of one message in one version: bytes to a tree, and a tree to bytes.

A tree is plain: a struct is a dict with Kafka's own field names, an array a list, a UUID 16 bytes, a string a str,
`bytes` and `records` a memoryview of the frame (nothing is copied). A field that the version has not is not in the
tree; a tagged field that was not sent has its default. What a sender tagged and the definitions do not know is under
UNKNOWN, as [(tag, bytes)].

How reading works: every struct of every message is compiled once into a list of steps, and one loop (`_loop`) takes all
elements of an array through it. A field is a step, not a call: calls are what decoding costs in Python.

Bounds: nothing is made for what a length promises, only for what is there, and one frame makes at most so many objects
(`Reader.left`). Encoding rules: the Kafka protocol guide, KIP-482 (flexible versions). Where Kafka's own reader is
lenient (lengths below -1, varints that lose bits, tags in any order or of another length than said) this one refuses.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, Final

from parsers.errors import LocalProtocolError, RemoteProtocolError
from parsers.kafka.table import Field, Message

UNKNOWN: Final = "_unknown"
"""Name of the list of tagged fields that the definitions do not know; only in a tree that has some."""

MAX_ELEMENTS: Final = 200_000
"""Objects (structs and the values in them) of one request: some 20 MB. A Produce of 1,000 partitions has 3,000."""

MAX_ANSWER_ELEMENTS: Final = 1_000_000
"""Of one response, some 100 MB: a Metadata answer on 10,000 topics of 9 partitions with 3 replicas."""

type Tree = dict[str, Any]


class Incomplete(Exception):
    """What was asked for is not all there yet."""


class Reader:
    """Where reading is in a frame. left: objects that may still be made. partial: more bytes may come. unknown: tagged
    fields so far that the definitions do not know."""

    __slots__ = ("at", "data", "left", "partial", "unknown", "view")

    def __init__(self, data: bytes, at: int = 0, left: int = MAX_ELEMENTS, *, partial: bool = False) -> None:
        self.data = data
        self.view: memoryview | None = None  # made by who needs one first
        self.at = at
        self.left = left
        self.partial = partial
        self.unknown = 0

    def short(self) -> Exception:
        """What to raise when a field goes on behind the last byte."""
        if self.partial:
            return Incomplete()
        return RemoteProtocolError("truncated", detail="a field ends behind the frame")

    def spend(self, count: int) -> None:
        """Account for so many objects."""
        self.left -= count
        if self.left < 0:
            raise RemoteProtocolError("too_many_elements")


type Read = Callable[[Reader], Any]
type ReadMany = Callable[[Reader, int], list[Any]]
type Write = Callable[[list[bytes | memoryview], Any], None]

_FIXED: Final = {
    "bool": "?", "int8": "b", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "float64": "d",
}  # fmt: skip
_INT16, _INT32 = struct.Struct(">h"), struct.Struct(">i")
_ZERO_UUID: Final = bytes(16)
_MAX_LENGTH: Final = 0x7FFFFFFF
MAX_STRING: Final = 0x7FFF
_BYTE: Final = [bytes((value,)) for value in range(256)]


# ---- reading


def uvarint(data: bytes | bytearray | memoryview, at: int) -> tuple[int, int]:
    """An unsigned varint of at most 31 bits, and where it ends. Java's reader drops what is above 32 bits and takes the
    rest for negative, so there is one way to read only what fits.

    Raises:
        RemoteProtocolError: it is longer. IndexError: it goes on behind the last byte.
    """
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _MAX_LENGTH:
                break
            return value, at
        shift += 7
        if shift > 28:
            break
    raise RemoteProtocolError("bad_varint")


# Steps of a struct: (what, name, argument, nullable). From _COMPACT on a length is a varint; the rest is in `_loop`.
_ONE, _TWO, _RUN, _CALL, _STRING, _BYTES, _ARRAY = range(7)
_COMPACT: Final = 8
type _Step = tuple[int, str, Any, bool]


@dataclass(frozen=True, slots=True)
class _Elements:
    """How the elements of an array are read. least: bytes that one takes at least. weight: objects that one makes."""

    read: ReadMany
    least: int
    weight: int


def _struct(fields: tuple[Field, ...], version: int, *, flexible: bool) -> ReadMany:
    """Reads so many structs of these fields, behind which tagged ones follow in a flexible version."""
    steps = _steps(_untagged(fields, version), version, flexible=flexible)
    return _loop(steps, _tagged(fields, version) if flexible else None)


def _loop(steps: list[_Step], tags: "_Tagged | None" = None) -> ReadMany:
    """Takes so many structs through these steps. tags: of the fields that may follow, tagged; None where none can."""
    known, constants, makers = tags or ({}, {}, [])
    has_tags = tags is not None
    int16, int32 = _INT16.unpack_from, _INT32.unpack_from

    def read(r: Reader, count: int) -> list[Any]:
        data, at, size = r.data, r.at, len(r.data)
        made: list[Any] = []
        try:
            for _ in range(count):
                tree: Tree = {}
                for what, name, arg, nullable in steps:
                    if what < _STRING:
                        if what == _ONE:
                            unpack, width = arg
                            (tree[name],) = unpack(data, at)
                            at += width
                        elif what == _TWO:
                            other, unpack, width = arg
                            tree[name], tree[other] = unpack(data, at)
                            at += width
                        elif what == _RUN:
                            names, unpack, width = arg
                            tree.update(zip(names, unpack(data, at), strict=True))
                            at += width
                        else:
                            r.at = at
                            tree[name] = arg(r)
                            at = r.at
                        continue
                    if what >= _COMPACT:
                        what -= _COMPACT
                        length = data[at] - 1
                        at += 1
                        if length >= 0x7F:  # of more bytes than one
                            length, at = uvarint(data, at - 1)
                            length -= 1
                    elif what == _STRING:
                        (length,) = int16(data, at)
                        at += 2
                    else:
                        (length,) = int32(data, at)
                        at += 4
                    if length < 0:
                        if length < -1 or not nullable:
                            raise RemoteProtocolError("bad_length" if length < -1 else "null_not_allowed")
                        tree[name] = None
                    elif what == _ARRAY:
                        if length * arg.least > size - at and not r.partial:
                            raise RemoteProtocolError("truncated", detail="an array is longer than the frame")
                        r.left -= length * arg.weight
                        if r.left < 0:
                            raise RemoteProtocolError("too_many_elements")
                        r.at = at
                        tree[name] = arg.read(r, length)
                        at = r.at
                    else:
                        end = at + length
                        if what == _STRING:
                            if length > MAX_STRING:
                                raise RemoteProtocolError("bad_length", detail="strings end at 32767 bytes")
                            if end > size:
                                raise r.short()
                            tree[name] = data[at:end].decode()
                        else:
                            if end > size:
                                raise r.short()
                            if r.view is None:
                                r.view = memoryview(data)
                            tree[name] = r.view[at:end]
                        at = end
                if has_tags:
                    if known:
                        tree.update(constants)
                        for name, make in makers:
                            tree[name] = make()
                    if data[at]:
                        r.at = at
                        _tags(r, tree, known)
                        at = r.at
                    else:  # no tagged field, nearly always
                        at += 1
                made.append(tree)
        except (IndexError, struct.error):
            raise r.short() from None
        except UnicodeDecodeError:
            raise RemoteProtocolError("not_utf8") from None
        r.at = at
        return made

    return read


def _untagged(fields: tuple[Field, ...], version: int) -> tuple[Field, ...]:
    return tuple(field for field in fields if field.in_version(version) and not field.tagged_in(version))


def _steps(fields: tuple[Field, ...], version: int, *, flexible: bool) -> list[_Step]:
    """Steps for these fields, all of which the version has. Numbers that follow each other are one step."""
    steps: list[_Step] = []
    for is_fixed, group in groupby(fields, key=lambda field: field.type in _FIXED):
        if is_fixed:
            run = list(group)
            packed = struct.Struct(">" + "".join(_FIXED[field.type] for field in run))
            if len(run) == 1:
                steps.append((_ONE, run[0].name, (packed.unpack_from, packed.size), False))
            elif len(run) == 2:
                steps.append((_TWO, run[0].name, (run[1].name, packed.unpack_from, packed.size), False))
            else:
                names = tuple(field.name for field in run)
                steps.append((_RUN, "", (names, packed.unpack_from, packed.size), False))
        else:
            steps += (_step(field, version, flexible=flexible and field.flexible) for field in group)
    return steps


def _step(field: Field, version: int, *, flexible: bool) -> _Step:
    compact = _COMPACT if flexible else 0
    kind, nullable = field.type, field.nullable_in(version)
    if kind.startswith("[]"):
        return _ARRAY + compact, field.name, _elements(field, kind[2:], version, flexible=flexible), nullable
    if kind == "string":
        return _STRING + compact, field.name, None, nullable
    if kind in ("bytes", "records"):
        return _BYTES + compact, field.name, None, nullable
    if kind == "uuid":
        return _CALL, field.name, _uuid, False
    inner = _struct(field.fields, version, flexible=flexible)
    return _CALL, field.name, _nullable_struct(inner) if nullable else lambda r: inner(r, 1)[0], False


def _uuid(r: Reader) -> bytes:
    at = r.at
    value = r.data[at : at + 16]
    if len(value) < 16:
        raise r.short()
    r.at = at + 16
    return value


def _nullable_struct(inner: ReadMany) -> Read:
    """A byte first: below zero is null (KIP-893)."""

    def read(r: Reader) -> Tree | None:
        at = r.at
        r.at = at + 1
        if r.data[at] >= 0x80:
            return None
        tree: Tree = inner(r, 1)[0]
        return tree

    return read


def _elements(field: Field, kind: str, version: int, *, flexible: bool) -> _Elements:
    """Of an array; a null element there is nowhere."""
    if kind in _FIXED:
        return _Elements(_numbers(_FIXED[kind]), struct.calcsize(">" + _FIXED[kind]), 1)
    if kind == "uuid":
        return _Elements(lambda r, count: [_uuid(r) for _ in range(count)], 16, 1)
    if kind in ("string", "bytes", "records"):
        what = (_STRING if kind == "string" else _BYTES) + (_COMPACT if flexible else 0)
        one = _loop([(what, "", None, False)])
        return _Elements(lambda r, count: [tree[""] for tree in one(r, count)], 1 if flexible else 2, 2)
    return _Elements(
        _struct(field.fields, version, flexible=flexible),
        _least(field.fields, version, flexible=flexible),
        _weight(field.fields, version),
    )


def _numbers(letter: str) -> ReadMany:
    ready = [struct.Struct(f">{count}{letter}") for count in range(8)]

    def read(r: Reader, count: int) -> list[Any]:
        packed = ready[count] if count < len(ready) else struct.Struct(f">{count}{letter}")
        values = list(packed.unpack_from(r.data, r.at))
        r.at += packed.size
        return values

    return read


def _least(fields: tuple[Field, ...], version: int, *, flexible: bool) -> int:
    """Bytes that a struct takes at least."""
    total = int(flexible)
    for field in _untagged(fields, version):
        compact = flexible and field.flexible
        if field.type in _FIXED:
            total += struct.calcsize(">" + _FIXED[field.type])
        elif field.type == "uuid":
            total += 16
        elif field.fields and not field.type.startswith("[]") and not field.nullable_in(version):
            total += _least(field.fields, version, flexible=compact)
        elif compact or (field.fields and not field.type.startswith("[]")):
            total += 1
        else:
            total += 2 if field.type == "string" else 4
    return total


def _weight(fields: tuple[Field, ...], version: int) -> int:
    """Objects that a struct makes, arrays apart, which account for themselves."""
    total = 1
    for field in fields:
        if field.in_version(version):
            is_struct = bool(field.fields) and not field.type.startswith("[]")
            total += _weight(field.fields, version) if is_struct else 1
    return total


type _Known = dict[int, tuple[str, ReadMany]]
type _Makers = list[tuple[str, Callable[[], Any]]]
type _Tagged = tuple[_Known, Tree, _Makers]


def _tagged(fields: tuple[Field, ...], version: int) -> _Tagged:
    """Tagged fields of a struct by tag, and what stands for those that are not sent: values that may be shared, and
    those that must be made anew."""
    known: _Known = {}
    constants: Tree = {}
    makers: _Makers = []
    for field in fields:
        if not field.tagged_in(version):
            continue
        known[field.tag] = (field.name, _loop(_steps((field,), version, flexible=True)))
        value = default_of(field, version)()
        if isinstance(value, list | dict):
            makers.append((field.name, default_of(field, version)))
        else:
            constants[field.name] = value
    return known, constants, makers


def _tags(r: Reader, tree: Tree, known: _Known) -> None:
    """Tagged fields. KIP-482 wants them in the order of their tags: any other order, and the same tag twice, could be
    read in two ways."""
    data = r.data
    last = -1
    count, r.at = uvarint(data, r.at)
    for _ in range(count):
        tag, at = uvarint(data, r.at)
        size, at = uvarint(data, at)
        if tag <= last:
            raise RemoteProtocolError("tags_out_of_order")
        last = tag
        end = at + size
        if end > len(data):
            raise r.short()
        r.at = at
        r.spend(2)
        if tag in known:
            name, read = known[tag]
            tree[name] = read(r, 1)[0][name]
            if r.at != end:
                raise RemoteProtocolError("bad_tag_length")
        else:
            r.unknown += 1
            tree.setdefault(UNKNOWN, []).append((tag, data[at:end]))
            r.at = end


def default_of(field: Field, version: int) -> Callable[[], Any]:
    """Makes the value of a field that is not there."""
    kind, given = field.type, field.default
    if field.null_by_default:
        return lambda: None
    if kind.startswith("[]"):
        return list
    if field.fields:
        makers = [(each.name, default_of(each, version)) for each in field.fields if each.in_version(version)]
        tree = {name: make() for name, make in makers}
        if not any(isinstance(value, list | dict) for value in tree.values()):
            return tree.copy
        return lambda: {name: make() for name, make in makers}
    value: Any
    if kind == "uuid":
        value = _ZERO_UUID
    elif kind in ("bytes", "records"):
        value = b""
    elif kind == "string":
        value = "" if given is None else given
    elif kind == "bool":
        value = bool(given)
    elif kind == "float64":
        value = float(str(given or 0))
    else:
        value = given or 0
    return lambda: value


def default_tree(fields: tuple[Field, ...], version: int) -> Tree:
    """A struct of defaults, of the fields that a version has."""
    return {field.name: default_of(field, version)() for field in fields if field.in_version(version)}


@cache
def body_reader(message: Message, version: int) -> Read:
    """Reads the body of a message in one version. Raises RemoteProtocolError, Incomplete for a partial reader."""
    flexible = message.is_flexible(version)
    many = _struct(message.fields, version, flexible=flexible)
    return lambda r: many(r, 1)[0]


@cache
def prefix_reader(message: Message, version: int, until: str) -> Read:
    """Reads the fields before `until`, of the top level; the reader then stands at that field."""
    names = [field.name for field in message.fields]
    fields = _untagged(message.fields[: names.index(until)], version)  # tagged fields stand at the end
    read = _loop(_steps(fields, version, flexible=message.is_flexible(version)))
    return lambda r: read(r, 1)[0]


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


def _length_writer(kind: str, *, compact: bool) -> Callable[[list[bytes | memoryview], int], None]:
    """Of strings (int16), bytes, records and arrays (int32); -1 is null. Compact: one more, as uvarint."""
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
    element = _one_write(field, kind[2:], version, flexible, nullable=False)
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
        return _write_uuid
    if kind in ("string", "bytes", "records"):
        write_length = _length_writer(kind, compact=flexible)

        def write(out: list[bytes | memoryview], value: Any) -> None:
            if value is None:
                _allow_null(field, nullable=nullable)
                write_length(out, -1)
                return
            data = value
            if kind == "string":
                data = value.encode()
                if len(data) > MAX_STRING:
                    raise LocalProtocolError(f"{field.name} is longer than {MAX_STRING} bytes")
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


def _write_uuid(out: list[bytes | memoryview], value: bytes) -> None:
    if len(value) != 16:
        raise LocalProtocolError(f"a UUID has 16 bytes, not {len(value)}")
    out.append(value)


def _struct_write(fields: tuple[Field, ...], version: int, *, flexible: bool) -> Write:
    plain = [
        (field.name, _field_write(field, version, flexible=flexible), default_of(field, version)())
        for field in _untagged(fields, version)
    ]
    tagged = [
        (field.tag, field.name, _field_write(field, version, flexible=flexible), default_of(field, version)())
        for field in sorted(fields, key=lambda field: field.tag)
        if field.tagged_in(version)
    ]

    def write(out: list[bytes | memoryview], tree: Tree) -> None:
        for name, one, default in plain:
            one(out, tree.get(name, default))
        if not flexible:
            return
        parts: list[tuple[int, bytes]] = list(tree.get(UNKNOWN, ()))
        for tag, name, one, default in tagged:
            if name in tree and tree[name] != default:
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
        LocalProtocolError: a value is null that may not be, or too long; struct.error: a number is too big.
    """
    return _struct_write(message.fields, version, flexible=message.is_flexible(version))
