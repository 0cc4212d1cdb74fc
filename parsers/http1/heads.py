"""From the bytes of a head to its meaning: the strict grammar, h11's reading, and the rules where peers disagree.

Two readers must agree. The grammar lets a head pass or not, we split it, h11 reads it too, and its fields must be ours
byte for byte. That catches what h11 hides (it merges `Content-Length: 5, 5` into `5`), and h11 what we overlook.

A `h11.Connection` lives for one head: making one costs under a microsecond, and no state of an earlier message (a
pending Upgrade, a closed half) can touch a later one.

What h11 says depends on nothing but the bytes, so a head that both readers agreed on is not asked about again: a
keep-alive client sends the same head thousands of times, and h11 was a quarter of a worker's time. A keyed digest is
kept and not the head, which may hold credentials; refusals are never remembered.
"""

import os
import re
from hashlib import blake2b
from ipaddress import AddressValueError, IPv6Address
from typing import Final

import h11

from parsers.errors import RemoteProtocolError
from parsers.http1 import grammar
from parsers.http1.events import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    BodyFraming,
    Fields,
    Http1Limits,
    InformationalHead,
    RequestHead,
    ResponseHead,
    TargetForm,
    length_framing,
)
from parsers.http1.target import split_absolute

_LENGTH = re.compile(rb"[0-9]{1,18}")  # 18 digits fit 63 bits
# RFC 9112 3.2 and RFC 3986 3.2.2 without userinfo, percent-encoding and sub-delims: the names that resolvers know.
_HOST = re.compile(rb"(?:[A-Za-z0-9_](?:[A-Za-z0-9_~-]|\.(?!\.))*+|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?")
_TOKEN = re.compile(grammar.TOKEN)
_MEANINGFUL: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"))
# Fields that a Connection option must not name: framing, routing, credentials, and what applications act upon. Any
# other that it names is dropped before policy looks (`forwarded_request_fields`): it cannot be judged and then vanish.
_PROTECTED: Final = frozenset(
    b"""accept age authorization cache-control connection cookie date etag expect forwarded from host if-match
    if-modified-since if-none-match if-range if-unmodified-since location origin range referer set-cookie
    transfer-encoding user-agent vary via www-authenticate""".split()
)
_PROTECTED_PREFIXES: Final = (b"content-", b"x-forwarded-", b"x-real-")
# h11 reads a 1xx only after a request. Its events are immutable, so one serves all.
_SOME_REQUEST: Final = h11.Request(method="GET", target="/", headers=[("Host", "h")])


AGREED_MAX: Final = 4096
"""Digests kept, some 300 KiB; a full table is emptied."""
_AGREED_KEY: Final = os.urandom(16)  # nobody outside can look for two heads with one digest
_agreed: set[bytes] = set()


def _digest(kind: bytes, head: bytes) -> bytes:
    return blake2b(head, digest_size=16, key=_AGREED_KEY, person=kind).digest()


def _remember(digest: bytes) -> None:
    if len(_agreed) >= AGREED_MAX:
        _agreed.clear()
    _agreed.add(digest)


class _Meaning:
    """The few fields that we act upon, each at most once but Connection."""

    __slots__ = ("connection", "expect", "framing", "host", "keep_alive", "options")

    def __init__(self, fields: Fields, version: bytes) -> None:
        self.host: bytes | None = None
        self.expect: bytes | None = None
        self.framing = NO_BODY
        self.options: tuple[bytes, ...] = ()
        # HTTP/1.0 with keep-alive is not offered: through proxies it never had one meaning (RFC 9112 C.2.2).
        self.keep_alive = version == b"1.1"
        length: bytes | None = None
        coding: bytes | None = None
        connection: list[bytes] = []
        for raw_name, value in fields:
            name = raw_name.lower()
            if name not in _MEANINGFUL:
                continue
            if name == b"connection":
                connection.append(value)
            elif name == b"host":
                if self.host is not None:
                    raise RemoteProtocolError("two_hosts", 400, "RFC 9112 3.2")
                self.host = value
            elif name == b"content-length":
                if length is not None:  # equal ones too: someone on the way did not take care
                    raise RemoteProtocolError("two_lengths", 400, "more than one Content-Length (RFC 9112 6.3)")
                length = value
            elif name == b"transfer-encoding":
                if coding is not None:
                    raise RemoteProtocolError("bad_transfer_coding", 400, "more than one Transfer-Encoding")
                coding = value
            else:
                if self.expect is not None:
                    raise RemoteProtocolError("bad_expect", 417, "more than one Expect")
                self.expect = value
        if length is not None or coding is not None:
            self.framing = _framing(length, coding, version)
        if connection:
            self._read_connection(connection)

    def _read_connection(self, values: list[bytes]) -> None:
        """RFC 9110 7.6.1."""
        options: list[bytes] = []
        for option in b",".join(values).lower().split(b","):
            token = option.strip(b" \t")
            if token == b"close":
                self.keep_alive = False
            elif token in (b"keep-alive", b""):
                continue
            elif not _TOKEN.fullmatch(token):
                raise RemoteProtocolError("bad_connection_option", 400, "Connection option is not a token")
            elif token in _PROTECTED or token.startswith(_PROTECTED_PREFIXES):
                raise RemoteProtocolError("bad_connection_option", 400, "Connection names a field that must stay")
            else:
                options.append(token)
        self.options = tuple(options)


def _framing(length: bytes | None, coding: bytes | None, version: bytes) -> BodyFraming:
    """RFC 9112 6.1 to 6.3, with nothing left to prefer: both, several, or odd ones are refused."""
    if coding is None:
        assert length is not None  # noqa: S101 - the caller has one of them; this is for the type checker
        if not _LENGTH.fullmatch(length):
            raise RemoteProtocolError("bad_length", 400, "Content-Length is not one decimal number")
        return length_framing(int(length))
    if length is not None:
        raise RemoteProtocolError("length_and_coding", 400, "Content-Length with Transfer-Encoding (RFC 9112 6.1)")
    if version != b"1.1":
        raise RemoteProtocolError("coding_in_http10", 400, "Transfer-Encoding in HTTP/1.0 (RFC 9112 6.1)")
    if coding != b"chunked":  # other spellings have hidden it from one of two readers before
        raise RemoteProtocolError("bad_transfer_coding", 501, "the only transfer coding is chunked")
    return CHUNKED


def read_request(head: bytes, limits: Http1Limits) -> RequestHead:
    """Read one whole request head, blank line included.

    Raises:
        RemoteProtocolError: 400, 417, 431, 501 or 505.
    """
    if not grammar.REQUEST_HEAD.fullmatch(head):
        raise grammar.explain_request(head)
    fields = _split(head, limits)
    method, target, protocol = head[: head.index(b"\r")].split(b" ")
    version = protocol[5:]
    meaning = _Meaning(fields, version)
    form, host = _authority(method, target, version, meaning.host)
    expects = False
    if meaning.expect is not None and version == b"1.1":  # HTTP/1.0: ignored (RFC 9110 10.1.1) and not forwarded
        if meaning.expect.lower() != b"100-continue":  # obfuscated ones have split front end from back end
            raise RemoteProtocolError("bad_expect", 417, "the only expectation is 100-continue")
        # Without a body there is nothing to wait for (RFC 9110 10.1.1), and servers differ in what they do then.
        expects = meaning.framing is CHUNKED or meaning.framing.length > 0
    digest = _digest(b"request", head)
    if digest not in _agreed:
        event = _second_opinion(h11.Connection(h11.SERVER), head)
        if (
            not isinstance(event, h11.Request)
            or event.headers.raw_items() != fields
            or (event.method, event.target, event.http_version) != (method, target, version)
        ):
            raise RemoteProtocolError("readers_disagree", 400, "h11 reads this head differently")
        _remember(digest)
    return RequestHead(
        method, target, version, fields, host, form, meaning.framing, expects, meaning.keep_alive, meaning.options
    )


def _split(head: bytes, limits: Http1Limits) -> Fields:
    if head.count(b"\r\n") - 2 > limits.max_fields:
        raise RemoteProtocolError("too_many_fields", 431, f"more than {limits.max_fields} fields")
    return grammar.split_fields(head)


def _second_opinion(connection: h11.Connection, head: bytes) -> object:
    connection.receive_data(head)
    try:
        return connection.next_event()
    except h11.RemoteProtocolError:
        # Not chained: h11's message quotes the line, which may hold credentials.
        raise RemoteProtocolError("readers_disagree", 400, "h11 refuses this head") from None


def _authority(method: bytes, target: bytes, version: bytes, host: bytes | None) -> tuple[TargetForm, bytes | None]:
    """Form of the target, and the authority the request is for (RFC 9112 3.2 and 3.3)."""
    if host is None:
        if version == b"1.1":
            raise RemoteProtocolError("no_host", 400, "HTTP/1.1 without Host (RFC 9112 3.2)")
    else:
        check_authority(host, "bad_host")
    if method == b"CONNECT":
        check_authority(target, "bad_target")
        return "authority", host
    if target.startswith(b"/"):
        return "origin", host
    if target == b"*":
        if method != b"OPTIONS":
            raise RemoteProtocolError("bad_target", 400, "* is for OPTIONS alone (RFC 9112 3.2.4)")
        return "asterisk", host
    authority, rest = split_absolute(target)
    check_authority(authority, "bad_target")
    if host is not None and host.lower() != authority.lower():
        raise RemoteProtocolError("host_differs", 400, "Host is not the authority of the target")
    if method == b"OPTIONS" and not rest:  # the last proxy makes it *, others make it / (RFC 9112 3.2.4)
        raise RemoteProtocolError("bad_target", 400, "OPTIONS for an authority without a path")
    return "absolute", authority


def check_authority(authority: bytes, reason: str) -> None:
    """Host and optional port, and nothing that one reader takes for the host and another for something else.

    Raises:
        RemoteProtocolError: 400 with `reason`.
    """
    match = _HOST.fullmatch(authority)
    if match is None:
        raise RemoteProtocolError(reason, 400, "not a host with an optional port")
    literal, port = match.groups()
    if port is not None and int(port) > 65535:
        raise RemoteProtocolError(reason, 400, "port above 65535")
    if literal is not None:
        try:
            IPv6Address(literal.decode("ascii"))
        except AddressValueError:
            raise RemoteProtocolError(reason, 400, "not an IPv6 address") from None


def read_response(head: bytes, request_method: bytes, limits: Http1Limits) -> ResponseHead | InformationalHead:
    """Read one whole response head to a request with `request_method`.

    Raises:
        RemoteProtocolError: the status is for a request; the caller makes it 502.
    """
    if not grammar.RESPONSE_HEAD.fullmatch(head):
        raise grammar.explain_response(head)
    fields = _split(head, limits)
    line = head[: head.index(b"\r")]
    version, status, reason = line[5:8], int(line[9:12]), line[13:]
    if status == 101:  # what follows would be a protocol that we do not read
        raise RemoteProtocolError("upgrade_refused", 400, "101, and nobody had asked for it")
    meaning = _Meaning(fields, version)
    digest = _digest(b"response", head)
    if digest not in _agreed:
        connection = h11.Connection(h11.CLIENT)
        if status < 200:
            connection.send(_SOME_REQUEST)
        event = _second_opinion(connection, head)
        if (
            not isinstance(event, h11.InformationalResponse if status < 200 else h11.Response)
            or event.headers.raw_items() != fields
            or (event.status_code, event.reason, event.http_version) != (status, reason, version)
        ):
            raise RemoteProtocolError("readers_disagree", 400, "h11 reads this head differently")
        _remember(digest)
    framing = meaning.framing
    if status < 200:
        if framing is not NO_BODY:
            raise RemoteProtocolError("framing_without_body", 400, "1xx with a length or coding (RFC 9110 8.6)")
        return InformationalHead(status, reason, fields, meaning.options)
    if status == 204:  # a body here is read by some clients as the next response (RFC 9110 8.6, RFC 9112 6.1)
        if framing is CHUNKED or framing.length:
            raise RemoteProtocolError("framing_without_body", 400, "204 with a body length or coding")
        framing = NO_BODY
    elif status == 304 or request_method == b"HEAD":
        framing = NO_BODY
    elif framing is NO_BODY:
        framing = UNTIL_CLOSE
    keep_alive = meaning.keep_alive and framing is not UNTIL_CLOSE
    return ResponseHead(status, reason, version, fields, framing, keep_alive, meaning.options)
