"""One normal form of a request target, or refusal.

A policy on paths is worth nothing when the application reads another path than we do. Applications differ in what they
decode, when they resolve dots, and what they take for a separator. So there are three cases: bytes on which all agree
are kept; differences that vanish once the canonical form is what goes upstream (dot segments, repeated slashes, encoded
unreserved characters) are removed; everything else is refused.
"""

import re
from dataclasses import dataclass

from parsers.errors import RemoteProtocolError
from parsers.http1.events import TargetForm


@dataclass(slots=True)
class Target:
    """A request target that can be read one way only.

    Attributes:
        path: canonical path (`b"*"` for asterisk form).
        query: what follows the first `?`, as sent; None without one.
        wire: what goes upstream: `path`, or `path?query`.
        matched: the same as text, what policy judges.
    """

    path: bytes
    query: bytes | None
    wire: bytes
    matched: str


def canonical_target(target: bytes, form: TargetForm, *, merge_slashes: bool = True) -> Target:
    """The one normal form of `target`.

    Raises:
        RemoteProtocolError: 400 when there is more than one way to read it, 405 for authority form (CONNECT).
    """
    if form == "origin":
        rest = target
    elif form == "absolute":
        rest = split_absolute(target)[1]
        if not rest.startswith(b"/"):  # "http://host" and "http://host?x": an empty path is "/" (RFC 9110 4.2.3)
            rest = b"/" + rest
    elif form == "asterisk":
        if target != b"*":
            raise RemoteProtocolError("bad_target", 400, "asterisk form is * alone")
        return Target(b"*", None, b"*", "*")
    else:
        raise RemoteProtocolError("connect_refused", 405, "tunnels are not supported")
    _check_octets(rest)
    raw_path, question_mark, raw_query = rest.partition(b"?")
    path = canonical_path(raw_path, merge_slashes=merge_slashes)
    if not question_mark:
        return Target(path, None, path, path.decode("ascii"))
    wire = b"%s?%s" % (path, raw_query)
    return Target(path, raw_query, wire, wire.decode("ascii"))


_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp]://([^/?]*)(.*)", re.DOTALL)


def split_absolute(target: bytes) -> tuple[bytes, bytes]:
    """Authority and the rest of an absolute-form target; the authority is not checked here.

    Raises:
        RemoteProtocolError: a scheme other than http, which is all that can be true of this connection.
    """
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise RemoteProtocolError("bad_target", 400, "not an http URI")
    return match[1], match[2]


_NOT_VISIBLE = re.compile(rb"[^\x21-\x7e]")


def _check_octets(target: bytes) -> None:
    if _NOT_VISIBLE.search(target):
        raise RemoteProtocolError("bad_target_octet", 400, "white space, control or non-ASCII byte in target")
    if b"#" in target:  # never sent by a client (RFC 9112 3.2); servers cut there or do not
        raise RemoteProtocolError("fragment_in_target", 400, "fragment in target")


# Nothing of this in a path: it is canonical as it stands. "/." covers dot segments (".." begins with a dot).
_NEEDS_WORK = re.compile(rb"[%;\\]|//|/\.")
# One percent sign and what it takes with it: two hex digits, or nothing (malformed).
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Encoded forms of what separates or ends a path for some application. Encoded controls end strings and lines.
_ENCODED_HAZARDS = frozenset((*range(0x20), 0x2F, 0x5C, 0x7F))
# What nobody encodes twice for a good reason, and what would name another path to who decodes twice.
_DOUBLE_HAZARDS = _UNRESERVED | _ENCODED_HAZARDS | frozenset(b";")
# Overlong UTF-8 (RFC 3629 10: C0 AF is a slash for a sloppy decoder): never valid, so nobody needs it.
_OVERLONG = re.compile(rb"%C[01]%[89AB]|%E0%[89]|%F0%8")
# Deeper than this nobody encodes by accident.
_MAX_DECODINGS = 3


def canonical_path(path: bytes, *, merge_slashes: bool = True) -> bytes:
    """The canonical form of an absolute path of visible ASCII without `?` and `#`.

    RFC 3986 6.2.2: only unreserved characters are decoded, hex digits are upper case, dot segments are resolved.
    Repeated slashes are merged, unless switched off.

    Raises:
        RemoteProtocolError: 400, the reasons are in this file.
    """
    if not path.startswith(b"/"):
        raise RemoteProtocolError("bad_target", 400, "path does not begin with a slash")
    if not _NEEDS_WORK.search(path):
        return path
    if b"\\" in path:  # a slash for IIS and for browsers
        raise RemoteProtocolError("backslash_in_path", 400, "backslash in path")
    if b"%" in path:
        path = _PERCENT.sub(_decode_unreserved, path)
        if b"%25" in path:
            _check_double_encoding(path)
        if _OVERLONG.search(path):
            raise RemoteProtocolError("overlong_utf8", 400, "overlong UTF-8 in path")
    if b";" in path or b"%3B" in path:
        _check_parameters(path)
    return _resolve(path, merge_slashes)


def _decode_unreserved(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if digits is None:
        raise RemoteProtocolError("bad_percent", 400, "percent sign without two hex digits")
    octet = int(digits, 16)
    if octet in _UNRESERVED:
        return bytes((octet,))
    if octet in _ENCODED_HAZARDS:
        raise RemoteProtocolError("encoded_separator", 400, "encoded slash, backslash or control in path")
    return b"%" + digits.upper()


def _decode_anything(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    return match[0] if digits is None else bytes((int(digits, 16),))


def _check_double_encoding(path: bytes) -> None:
    """Refuse what turns into a dot, a separator or a control when an application decodes more than once."""
    decoded = _PERCENT.sub(_decode_anything, path)
    for _ in range(_MAX_DECODINGS):
        hidden = {int(digits, 16) for digits in _PERCENT.findall(decoded) if digits}
        if not hidden:
            return
        if not hidden.isdisjoint(_DOUBLE_HAZARDS):
            raise RemoteProtocolError(
                "double_encoding", 400, "doubly encoded letter, dot, separator or control in path"
            )
        decoded = _PERCENT.sub(_decode_anything, decoded)
    raise RemoteProtocolError("double_encoding", 400, "path encoded again and again")


# `/..;x/`: Tomcat and Jetty cut the parameter and then see a dot segment; others see a name. Encoded too, as some
# decode before they cut.
_DOT_WITH_PARAMETER = re.compile(rb"/\.\.?(?:;|%3B)")


def _check_parameters(path: bytes) -> None:
    if _DOT_WITH_PARAMETER.search(path):
        raise RemoteProtocolError("dot_segment_parameter", 400, "dot segment with a path parameter")


def _resolve(path: bytes, merge_slashes: bool) -> bytes:
    """Remove dot segments (RFC 3986 5.2.4) and, when asked, empty ones."""
    kept: list[bytes] = []
    segments = path[1:].split(b"/")
    if segments[-1] in (b".", b".."):
        segments.append(b"")  # `/a/..` names a directory, as `/a/../` does
    last = segments.pop()
    for segment in segments:
        if segment == b"..":
            _climb(kept)
        elif segment != b".":
            kept.append(segment)
    if merge_slashes:
        kept = [segment for segment in kept if segment]
    kept.append(last)
    return b"/" + b"/".join(kept)


def _climb(kept: list[bytes]) -> None:
    if not kept:
        raise RemoteProtocolError("above_root", 400, "dot segments lead above the root")
    if not kept.pop():  # `/a//..` is `/a/` where dots are resolved first and `/` where slashes are merged first
        raise RemoteProtocolError("ambiguous_dots", 400, "dot segment after an empty segment")
