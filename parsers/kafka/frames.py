"""Whole frames: a header and a body. Frames here are without their four bytes of length, but where `framed` says so."""

import struct
from dataclasses import dataclass
from functools import cache
from typing import Final

from parsers.errors import LocalProtocolError, RemoteProtocolError
from parsers.kafka.codec import (
    MAX_ANSWER_ELEMENTS,
    MAX_ELEMENTS,
    MAX_STRING,
    Read,
    Reader,
    Tree,
    body_reader,
    body_writer,
    prefix_reader,
)
from parsers.kafka.table import TABLE, Kind, Message

API_VERSIONS: Final = 18
HEAD_BYTES: Final = 8
"""API key, version and correlation id: what every request begins with, whatever its version."""

_HEAD = struct.Struct(">hhi")
_INT32 = struct.Struct(">i")
_INT16 = struct.Struct(">h")


@dataclass(slots=True)
class Request:
    """One request. trailing: bytes behind the last field (librdkafka sends some). unknown_tags: tagged fields that the
    definitions do not know. body_at: where the body begins in the frame. elements: objects that its body is of."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    body: Tree
    trailing: int = 0
    unknown_tags: int = 0
    body_at: int = 0
    elements: int = 0


@dataclass(slots=True)
class Response:
    """One response; fields as in `Request`."""

    api_key: int
    api_version: int
    correlation_id: int
    body: Tree
    trailing: int = 0
    unknown_tags: int = 0


def peek(data: bytes) -> tuple[int, int, int]:
    """(API key, version, correlation id) of a request.

    Raises:
        RemoteProtocolError: it is shorter than that.
    """
    if len(data) < HEAD_BYTES:
        raise RemoteProtocolError("truncated", detail="a request without a whole header")
    return _HEAD.unpack_from(data)


def message_of(key: int, version: int, kind: Kind) -> Message:
    """The definition of a message.

    Raises:
        RemoteProtocolError: the table has no such API ("unknown_api") or version ("unknown_version").
    """
    api = TABLE.apis.get(key)
    found = api.message(kind) if api is not None else None
    if api is None or found is None:
        raise RemoteProtocolError("unknown_api")
    if not api.has(version):
        raise RemoteProtocolError("unknown_version")
    return found


@cache
def header_version(key: int, version: int, kind: Kind) -> int:
    """Of a request: 2 where the body is flexible, else 1. Of a response: 1 or 0; an ApiVersions response has 0 in every
    version, as the client cannot know yet what the broker speaks (KIP-511)."""
    flexible = message_of(key, version, kind).is_flexible(version)
    if kind == "request":
        return 2 if flexible else 1
    return 1 if flexible and key != API_VERSIONS else 0


@cache
def _form(key: int, version: int, kind: Kind) -> tuple[bool, Read]:
    """Whether the header ends in tagged fields, and how the body is read."""
    message = message_of(key, version, kind)
    return header_version(key, version, kind) == (2 if kind == "request" else 1), body_reader(message, version)


def _request_header(reader: Reader) -> tuple[Request, Read]:
    """Reads the header, which ends in tagged fields in version 2: none of them is known. Gives the request, without a
    body yet, and how that is read."""
    data = reader.data
    try:
        key, version, correlation = _HEAD.unpack_from(data)
        has_tags, read_body = _form(key, version, "request")
        (length,) = _INT16.unpack_from(data, HEAD_BYTES)
    except struct.error:
        raise reader.short() from None
    at = HEAD_BYTES + 2
    client_id = None
    if length > 0:
        end = at + length
        if end > len(data):
            raise reader.short()
        try:
            client_id = data[at:end].decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("not_utf8") from None
        at = end
    elif length == 0:
        client_id = ""
    elif length != -1:
        raise RemoteProtocolError("bad_length")
    reader.at = at
    if has_tags:
        _header_tags(reader)
    return Request(key, version, correlation, client_id, {}, 0, 0, reader.at), read_body


def _header_tags(reader: Reader) -> None:
    at = reader.at
    if at < len(reader.data) and not reader.data[at]:
        reader.at = at + 1
    else:
        _READ_TAGS(reader)


_READ_TAGS: Final = body_reader(Message("Tags", (0, 0), 0, ()), 0)


def decode_request(data: bytes, elements: int = MAX_ELEMENTS) -> Request:
    """Read a whole request. elements: objects that it may hold.

    Raises:
        RemoteProtocolError: unknown_api, unknown_version, truncated, bad_length, bad_varint, null_not_allowed,
            not_utf8, tags_out_of_order, bad_tag_length, too_many_elements.
    """
    reader = Reader(data, 0, elements)
    request, read_body = _request_header(reader)
    request.body = read_body(reader)
    request.trailing = len(data) - reader.at
    request.unknown_tags = reader.unknown
    request.elements = elements - reader.left
    return request


def begin_request(data: bytes, until: str) -> tuple[Request, int]:
    """Read the start of a request of which more may come: the fields of the body before `until`. Gives the request and
    where that field begins. Raises codec.Incomplete when not so much is there, and what `decode_request` raises."""
    reader = Reader(data, partial=True)
    request, _ = _request_header(reader)
    message = message_of(request.api_key, request.api_version, "request")
    request.body = prefix_reader(message, request.api_version, until)(reader)
    request.unknown_tags = reader.unknown
    return request, reader.at


def _response_header(reader: Reader, *, has_tags: bool) -> int:
    if len(reader.data) < _INT32.size:
        raise reader.short()
    reader.at = _INT32.size
    if has_tags:
        _header_tags(reader)
    return int.from_bytes(reader.data[: _INT32.size], signed=True)


def decode_response(key: int, version: int, data: bytes, elements: int = MAX_ANSWER_ELEMENTS) -> Response:
    """Read a whole response to a request of this API and version. Raises as `decode_request`.

    A broker that is asked ApiVersions in a version it does not know answers in version 0 with error 35 (KIP-511): the
    response says so in `api_version`.
    """
    has_tags, read = _form(key, version, "response")
    reader = Reader(data, 0, elements)
    correlation = _response_header(reader, has_tags=has_tags)
    try:
        body = read(reader)
    except RemoteProtocolError:
        if key == API_VERSIONS and version and data[4:6] == _UNSUPPORTED_VERSION:
            return decode_response(key, 0, data, elements)
        raise
    return Response(key, version, correlation, body, len(data) - reader.at, reader.unknown)


_UNSUPPORTED_VERSION: Final = _INT16.pack(35)


def begin_response(key: int, version: int, data: bytes, until: str) -> tuple[Response, int]:
    """As `begin_request`."""
    has_tags, _ = _form(key, version, "response")
    reader = Reader(data, 0, MAX_ANSWER_ELEMENTS, partial=True)
    correlation = _response_header(reader, has_tags=has_tags)
    body = prefix_reader(message_of(key, version, "response"), version, until)(reader)
    return Response(key, version, correlation, body, 0, reader.unknown), reader.at


def encode_request(request: Request) -> bytes:
    """A request without its length. Raises LocalProtocolError for a tree that cannot be written."""
    message = message_of(request.api_key, request.api_version, "request")
    client = request.client_id
    out: list[bytes | memoryview] = [_HEAD.pack(request.api_key, request.api_version, request.correlation_id)]
    if client is None:
        out.append(b"\xff\xff")
    else:
        encoded = client.encode()
        if len(encoded) > MAX_STRING:
            raise LocalProtocolError(f"the client id is longer than {MAX_STRING} bytes")
        out += [_INT16.pack(len(encoded)), encoded]
    if header_version(request.api_key, request.api_version, "request") == 2:
        out.append(b"\0")
    return _written(message, request.api_version, request.body, out)


def encode_response(key: int, version: int, correlation_id: int, body: Tree) -> bytes:
    """A response without its length. Raises LocalProtocolError for a tree that cannot be written."""
    out: list[bytes | memoryview] = [_INT32.pack(correlation_id)]
    if header_version(key, version, "response") == 1:
        out.append(b"\0")
    return _written(message_of(key, version, "response"), version, body, out)


def _written(message: Message, version: int, body: Tree, out: list[bytes | memoryview]) -> bytes:
    try:
        body_writer(message, version)(out, body)
    except (struct.error, TypeError, ValueError, AttributeError) as error:
        raise LocalProtocolError(f"{message.name} v{version}: {error}") from error
    return b"".join(out)


def framed(data: bytes) -> bytes:
    """With its length before it."""
    return _INT32.pack(len(data)) + data
