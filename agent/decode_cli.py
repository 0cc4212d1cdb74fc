"""`tulle decode kafka [FILE]`: what Tulle reads in Kafka frames, for people and scripts.

Exit status: 0 when all input was read, whatever was wrong with single frames; 1 when it could not be read to its end;
2 usage.
"""

import argparse
import difflib
import json
import sys
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from parsers.kafka.frames import Request, Response

_CHUNK_BYTES: Final = 1 << 20  # a raw capture is read in such pieces: what a length promises is never allocated
_LENGTH_BYTES: Final = 4

_DESCRIPTION: Final = """\
Read Kafka frames and print what Tulle sees in them, one JSON object a line, in the order of the input.

Input is lines of {"id": ..., "frame": "..."}: the frame in base64, without the four bytes of length before it; id is
any JSON value and comes back as it is. Blank lines are skipped. With --raw, input is the bytes of one direction of a
connection, each frame behind its length; ids are then numbers from 0.

Output has the keys id, api, api_key, api_version, client_id, correlation_id, topics, topic_ids, groups,
transactional_ids, trailing_bytes, error; names in the order of the frame, repeats kept. topic_ids are hyphenated UUIDs.
error is null, or says why the frame cannot be read: then what was read of the header is there, and the lists are empty.
A line that is no JSON, has no frame or no base64 in it gets an output line with an error, too.

Exit status: 0 when all input was read, even if frames have errors; 1 when it could not be read to its end; 2 usage."""


def register(commands: Any) -> None:
    """Add the command to argparse's subparsers (Any: their class has no public name)."""
    decode = commands.add_parser(
        "decode",
        help="show what Tulle reads in captured frames",
        description="Show what Tulle reads in captured frames of a protocol.",
        epilog="example: tulle decode kafka frames.jsonl",
    )
    protocols = decode.add_subparsers(dest="protocol", metavar="protocol", required=True, parser_class=type(decode))
    kafka = protocols.add_parser(
        "kafka",
        help="frames of the Kafka protocol",
        description=_DESCRIPTION,
        epilog="""example: tulle decode kafka <<< '{"id": 1, "frame": "ABIAAAAAAAEAAA=="}'""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kafka.add_argument("file", nargs="?", default="-", metavar="FILE", help="default, and '-': standard input")
    kafka.add_argument("--raw", action="store_true", help="bytes, each frame behind its length of four bytes")
    kafka.add_argument(
        "--response-to",
        type=_api_and_version,
        metavar="API:VERSION",
        help="the frames are answers to such requests: Fetch:12, or 1:12",
    )
    kafka.set_defaults(handler=_kafka)


def _api_and_version(text: str) -> tuple[int, int]:
    """ "Fetch:12" or "1:12", to key and version; numbers may be of an API or version that the table has not."""
    from parsers.kafka.table import TABLE

    name, _, version = text.rpartition(":")
    try:
        number = int(version)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not API:VERSION, as in Fetch:12") from None
    by_name = {known.lower(): key for known, key in TABLE.keys.items()}
    if name.lower() in by_name:
        return by_name[name.lower()], number
    try:
        return int(name), number
    except ValueError:
        near = difflib.get_close_matches(name, TABLE.keys, n=1)
        hint = f": did you mean '{near[0]}'?" if near else ""
        raise argparse.ArgumentTypeError(f"no API '{name}'{hint}") from None


def _kafka(options: argparse.Namespace) -> int:
    try:
        with ExitStack() as stack:
            stream: IO[bytes] = sys.stdin.buffer
            if options.file != "-":
                stream = stack.enter_context(Path(options.file).open("rb"))
            frames = _raw_frames(stream) if options.raw else _line_frames(stream)
            for row in rows(frames, options.response_to):
                print(_text(row), flush=True)
    except BrokenPipeError:  # who read our output is gone, as in `| head -1`
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except LostFraming as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"'{options.file}': {error.strerror or error}")
    return 0


def _text(row: dict[str, object]) -> str:
    try:
        return json.dumps(row)
    except RecursionError:  # what could be read need not be nested little enough to be written
        return json.dumps(row | {"id": None, "error": "bad_json: the id is nested too deeply"})


def _fail(message: str) -> int:
    print(f"tulle: {message}", file=sys.stderr)
    return 1


class LostFraming(Exception):
    """Where the next frame of a raw capture begins is not known."""


type _Given = tuple[object, bytes | str]
"""An id, and a frame or why there is none."""


def _line_frames(stream: Iterable[bytes]) -> Iterator[_Given]:
    for line in stream:
        if not line.strip():
            continue
        try:
            given = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
            yield None, f"bad_json: {error}"
            continue
        if not isinstance(given, dict):
            yield None, "bad_json: expected an object"
            continue
        name, frame = given.get("id"), given.get("frame")
        if not isinstance(frame, str):
            yield name, "bad_frame: expected 'frame', a text in base64"
            continue
        try:
            yield name, b64decode(frame, validate=True)
        except ValueError as error:
            yield name, f"bad_base64: {error}"


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _raw_frames(stream: IO[bytes]) -> Iterator[_Given]:
    number = 0
    while head := _read(stream, _LENGTH_BYTES):
        if len(head) < _LENGTH_BYTES:
            yield number, "truncated: the capture ends inside a length"
            return
        length = int.from_bytes(head, signed=True)
        if length < 0:
            yield number, f"bad_length: a frame of {length} bytes"
            raise LostFraming(f"frame {number} has length {length}: what follows it cannot be read")
        frame = _read(stream, length)
        if len(frame) < length:
            yield number, f"truncated: the capture has {len(frame)} of the frame's {length} bytes"
            return
        yield number, frame
        number += 1


def _read(stream: IO[bytes], count: int) -> bytes:
    """So many bytes, or what there is."""
    parts: list[bytes] = []
    while count and (part := stream.read(min(count, _CHUNK_BYTES))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def rows(frames: Iterable[_Given], response_to: tuple[int, int] | None) -> Iterator[dict[str, object]]:
    """What is printed of each frame. response_to: API key and version of the request, where the frames are answers."""
    for name, frame in frames:
        row: dict[str, object] = {
            "id": name,
            "api": None,
            "api_key": None,
            "api_version": None,
            "client_id": None,
            "correlation_id": None,
            "topics": [],
            "topic_ids": [],
            "groups": [],
            "transactional_ids": [],
            "trailing_bytes": 0,
            "error": None,
        }
        if response_to is not None:
            row |= _api(*response_to)
        if isinstance(frame, str):
            row["error"] = frame
        else:
            _decode(frame, response_to, row)
        yield row


def _decode(frame: bytes, response_to: tuple[int, int] | None, row: dict[str, object]) -> None:
    from parsers.errors import RemoteProtocolError
    from parsers.kafka.entities import entities
    from parsers.kafka.frames import decode_request, decode_response

    message: Request | Response
    _header(frame, row, is_response=response_to is not None)
    try:
        message = decode_request(frame) if response_to is None else decode_response(*response_to, frame)
    except RemoteProtocolError as error:
        row["error"] = str(error)
        return
    found = entities(message)
    row["topics"] = found.topics
    row["topic_ids"] = [str(UUID(bytes=each)) for each in found.topic_ids]
    row["groups"] = found.groups
    row["transactional_ids"] = found.transactional_ids
    row["trailing_bytes"] = message.trailing


def _header(frame: bytes, row: dict[str, object], *, is_response: bool) -> None:
    """What can be read of a header, also of a frame that cannot be read whole."""
    if is_response:
        if len(frame) >= 4:
            row["correlation_id"] = int.from_bytes(frame[:4], signed=True)
        return
    if len(frame) >= 2:
        row |= _api(int.from_bytes(frame[:2], signed=True), None)
    if len(frame) >= 4:
        row["api_version"] = int.from_bytes(frame[2:4], signed=True)
    if len(frame) >= 8:
        row["correlation_id"] = int.from_bytes(frame[4:8], signed=True)
    if len(frame) >= 10:
        end = 10 + int.from_bytes(frame[8:10], signed=True)
        if 10 <= end <= len(frame):
            try:
                row["client_id"] = frame[10:end].decode()
            except UnicodeDecodeError:
                return


def _api(key: int, version: int | None) -> dict[str, object]:
    from parsers.kafka.table import TABLE

    api = TABLE.apis.get(key)
    return {"api": api.name if api is not None else None, "api_key": key, "api_version": version}
