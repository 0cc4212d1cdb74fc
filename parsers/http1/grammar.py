"""The strict grammar of heads, chunk lines and trailers, and why something is not in it.

One compiled expression says yes to a whole block of lines. Only when it says no does slower code look for the reason,
octets first and then line by line, so that the same input has the same reason in whatever pieces it came.

h11 alone is not enough: it takes a bare LF for the end of a line, unfolds obs-fold, merges equal lengths, lets
Transfer-Encoding win over Content-Length, and accepts control bytes in values (its own comments say why).
"""

import re
from typing import Final

from parsers.buffer import Buffer
from parsers.errors import LocalProtocolError, RemoteProtocolError
from parsers.http1.events import Fields

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110 5.6.2
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"  # RFC 9110 5.5, obs-text allowed, no other control
_FIELD_LINES = rb"(?:" + TOKEN + rb":" + _VALUE + rb"\r\n)*+\r\n"
# RFC 9112 3: single spaces, visible ASCII only. h11 takes the same target but any digits for a version.
REQUEST_HEAD: Final = re.compile(TOKEN + rb" [\x21-\x7e]++ HTTP/1\.[01]\r\n" + _FIELD_LINES)
# RFC 9112 4; servers that leave out the reason often leave out the space before it too.
RESPONSE_HEAD: Final = re.compile(rb"HTTP/1\.[01] [1-5][0-9][0-9](?: " + _VALUE + rb")?\r\n" + _FIELD_LINES)
TRAILERS: Final = re.compile(_FIELD_LINES)
_SPLIT = re.compile(rb"\r\n([^:\r]++):([^\r]*+)")

# Octets that no line may hold, CR and LF outside a pair among them. First the controls, then CR, then LF.
_BAD_OCTET = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]|[^\r]\n")

_REQUEST_LINE = re.compile(TOKEN + rb" [\x21-\x7e]++ HTTP/([0-9]\.[0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-5][0-9][0-9](?: " + _VALUE + rb")?")
_NAME = re.compile(TOKEN + rb":")
_SPACED_NAME = re.compile(TOKEN + rb"[ \t]+:")


def split_fields(block: bytes) -> Fields:
    """Names and values of a block that matched the grammar; it begins with a start line, or with CRLF."""
    return [(name, value.strip(b" \t")) for name, value in _SPLIT.findall(block)]


def join_lines(lines: list[bytes], grammar: re.Pattern[bytes]) -> bytes:
    """The block that we send: it must be in the grammar, and no value may have smuggled in a line of its own.

    Raises:
        LocalProtocolError: it is not.
    """
    block = b"".join(lines)
    if not grammar.fullmatch(block) or block.count(b"\r\n") != len(lines):
        raise LocalProtocolError("what was to be sent is not in the grammar")
    return block


def take_block(buffer: Buffer, mark: bytes, limit: int, too_long: tuple[str, int]) -> bytes | None:
    """Take what ends with `mark`; None if it is not here yet.

    Octets that cannot be right are refused at once and not when the block ends, as it might never: a client that ends
    its lines with a bare LF sends no CRLF CRLF. `too_long` is the reason and status for more than `limit` bytes.
    """
    size = buffer.find_end(mark, limit)
    if size >= 0:
        return buffer.take(size)
    if buffer.starts_with(b"\n"):
        raise RemoteProtocolError("bare_lf")
    if match := buffer.search(_BAD_OCTET, limit):
        raise _octet_error(match)
    if len(buffer) >= limit:
        reason, status = too_long
        raise RemoteProtocolError(reason, status, f"more than {limit} bytes")
    if buffer.eof and len(buffer):
        raise RemoteProtocolError("closed_early", 400, "connection closed in the middle of a message")
    return None


def octet_error(block: bytes) -> RemoteProtocolError | None:
    """The first octet in `block` that no line may hold."""
    if block.startswith(b"\n"):
        return RemoteProtocolError("bare_lf")
    match = _BAD_OCTET.search(block)
    return match and _octet_error(match)


def _octet_error(match: re.Match[bytes]) -> RemoteProtocolError:
    found = match[0]
    if found.startswith(b"\r"):
        return RemoteProtocolError("bare_cr")
    if found.endswith(b"\n"):
        return RemoteProtocolError("bare_lf")
    if found == b"\x00":
        return RemoteProtocolError("nul")
    return RemoteProtocolError("control_octet")


def explain_request(head: bytes) -> RemoteProtocolError:
    """Why `head` is not in REQUEST_HEAD."""
    if error := octet_error(head):
        return error
    first, *lines = head[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        return RemoteProtocolError("bad_request_line")
    if match[1] not in (b"1.0", b"1.1"):
        return RemoteProtocolError("bad_version", 505, "only HTTP/1.0 and HTTP/1.1 are understood")
    return explain_fields(lines)


def explain_response(head: bytes) -> RemoteProtocolError:
    """Why `head` is not in RESPONSE_HEAD."""
    if error := octet_error(head):
        return error
    first, *lines = head[:-4].split(b"\r\n")
    if not _STATUS_LINE.fullmatch(first):
        return RemoteProtocolError("bad_status_line")
    return explain_fields(lines)


def explain_fields(lines: list[bytes]) -> RemoteProtocolError:
    """Why these lines are not all field lines; octets are known to be right."""
    for line in lines:
        if line.startswith((b" ", b"\t")):
            return RemoteProtocolError("obs_fold", 400, "folded or indented field line (RFC 9112 5.2)")
        if _SPACED_NAME.match(line):
            return RemoteProtocolError("space_before_colon", 400, "RFC 9112 5.1")
        if not _NAME.match(line):
            break
    return RemoteProtocolError("bad_field_name", 400, "field name is not a token (RFC 9110 5.1)")
