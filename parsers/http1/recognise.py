"""The recogniser: heads that leave nothing to interpret, found by one compiled expression, so that their octets can go
on as they came.

It knows a strict subset of HTTP/1.1. What is not in the subset is not wrong, it is only not for here: `heads`, with
h11 as the second reader, reads it. The property that makes this safe, held by `tests/parsers/test_recognise.py`:

    recognised  ⟹  the strict path accepts the head with the same method, target, host, framing and options, its path
                   is canonical as it stands (merge_slashes or not), and what the strict path would write is the head
                   without the group CONNECTION, octet by octet

A match gives the groups named below; what follows the head begins at `match.end()`. What is the caller's:

- the limit of a head's size (`match.end() - match.start()`);
- to match where a message begins and nowhere else, and once: a head that is not complete is left to the strict path, or
  a client that sends octet by octet costs the square of what it sends;
- a response to HEAD has no body, whatever it says, and one with R_CHUNKED is for the strict path, which drops that
  field. A response to any other request that was recognised may go on;
- the last response on a connection says so: `Connection: close` goes before the blank line, as in the strict path;
- CONTINUE counts as a 1xx of `Http1Limits.max_informational`.

Left to the strict path, because it writes something else than it read: Expect without a body (dropped), responses with
neither length nor coding (they become chunked), 204 with a length, 304 with a coding (dropped). And because they are
rare: 304 with a length, HTTP/1.0, absolute and asterisk form, IPv6 literals, anything to decode or to resolve in a
path, fields with no value, tabs and obs-text in values, more than one Connection or one that names something, TE,
Upgrade, Proxy-*.

Why `re`: a head of 500 octets and ten fields costs a few microseconds, nothing is called back, nothing is allocated but
the match. Every repetition is possessive, so a match is linear in what it looks at. For the other candidates see
docs/decisions/0011-hot-path.md.
"""

import re
from typing import Final

from parsers.http1 import grammar

# Groups of a request.
METHOD: Final = 1
TARGET: Final = 2
HOST: Final = 3
LENGTH: Final = 4
"""Digits of Content-Length, without a leading zero."""
_SOME: Final = 5  # the same, unless it is 0
CHUNKED: Final = 6
CONNECTION: Final = 7
"""The whole line, `close` or `keep-alive` and nothing else; not forwarded."""
EXPECT: Final = 8
"""100-continue; only with a body."""

# Groups of a response.
STATUS: Final = 1
EMPTY: Final = 2
"""The status again where it is 204 or 304: no body, no length, no coding. Every other has R_LENGTH or R_CHUNKED."""
R_LENGTH: Final = 3
R_CHUNKED: Final = 4
R_CONNECTION: Final = 5
"""The line Connection, with a Keep-Alive before or behind it; not forwarded."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""The one informational response that is recognised, and all of it."""


def _any_case(word: str) -> bytes:
    """A pattern for a word in any case. Sets, not (?i): a set lets a branch be left at its first octet."""
    return "".join(f"[{c.upper()}{c}]" if c.isalpha() else re.escape(c) for c in word).encode()


def _none_of(*groups: int) -> bytes:
    """Goes on only if none of the groups has matched."""
    return b"".join(rb"(?(%d)(?!))" % group for group in groups)


def _one_of(*groups: int) -> bytes:
    """Goes on only if one of the groups has matched."""
    pattern = rb"(?!)"
    for group in groups:
        pattern = rb"(?(%d)|%s)" % (group, pattern)
    return pattern


_TOKEN: Final = grammar.TOKEN
# No white space at either end: the strict path would take it off. No obs-text, no tab.
_VALUE: Final = rb"[!-~][ -~]*+(?<! )"
# What `target.canonical_path` gives back as it is: no percent, semicolon, backslash, empty segment, leading dot.
_PATH: Final = rb"(?:/(?![/.])[!\"$&'()*+,\-.0-9:<=>@A-Z\[\]^_`a-z{|}~]*+)++"
_QUERY: Final = rb"(?:\?[!\"$-~]*+)?+"
_HOST: Final = (
    rb"[A-Za-z0-9_][A-Za-z0-9_~-]*+(?:\.[A-Za-z0-9_~-]++)*+\.?+"
    rb"(?::(?:[1-5][0-9]{4}|6[0-4][0-9]{3}|[0-9]{1,4}))?+"
)
_LENGTH: Final = rb"(?:0|([1-9][0-9]{0,17}+))"
# Those with a meaning for us or for the next hop. A response has no Host and Expect, but it may share the list.
_SPECIAL: Final = (
    "host:", "content-length:", "transfer-encoding:", "connection:", "expect:",
    "keep-alive:", "upgrade:", "http2-settings:", "te:", "proxy-",
)  # fmt: skip


def _other_fields() -> bytes:
    """Any field line but the special ones. Most names are told apart by their first letter."""
    first = "".join(sorted({letter for word in _SPECIAL for letter in (word[0].upper(), word[0])})).encode()
    names = b"|".join(map(_any_case, _SPECIAL))
    return rb"(?:(?![" + first + rb"])|(?!" + names + rb"))" + _TOKEN + rb": " + _VALUE + rb"\r\n"


_OTHERS: Final = _other_fields()
_KEEPS_OR_CLOSES: Final = (
    _any_case("connection") + rb": (?:" + _any_case("keep-alive") + rb"|" + _any_case("close") + rb")\r\n"
)


def request_pattern(max_fields: int) -> re.Pattern[bytes]:
    """The pattern of a request head with at most so many fields; use its `match`."""
    fields = b"|".join(
        (
            _OTHERS,
            _none_of(HOST) + _any_case("host") + rb": (" + _HOST + rb")\r\n",
            _none_of(LENGTH, CHUNKED) + _any_case("content-length") + rb": (" + _LENGTH + rb")\r\n",
            _none_of(LENGTH, CHUNKED) + _any_case("transfer-encoding") + rb": (chunked)\r\n",
            _none_of(CONNECTION) + rb"(" + _KEEPS_OR_CLOSES + rb")",
            _none_of(EXPECT) + _any_case("expect") + rb": (" + _any_case("100-continue") + rb")\r\n",
        )
    )
    return re.compile(
        rb"(GET|POST|PUT|HEAD|DELETE|PATCH|OPTIONS) (" + _PATH + _QUERY + rb") HTTP/1\.1\r\n"
        rb"(?:"
        + fields
        + rb"){0,%d}+\r\n" % max_fields
        + _one_of(HOST)
        + rb"(?(%d)%s)" % (EXPECT, _one_of(_SOME, CHUNKED))
    )


def response_pattern(max_fields: int) -> re.Pattern[bytes]:
    """The pattern of a final response's head (200 to 599) with at most so many fields; use its `match`."""
    keep_alive = rb"(?:" + _any_case("keep-alive") + rb": " + _VALUE + rb"\r\n)?+"
    fields = b"|".join(
        (
            _OTHERS,
            _none_of(R_LENGTH, R_CHUNKED) + _any_case("content-length") + rb": (0|[1-9][0-9]{0,17}+)\r\n",
            _none_of(R_LENGTH, R_CHUNKED) + _any_case("transfer-encoding") + rb": (chunked)\r\n",
            _none_of(R_CONNECTION) + rb"(" + keep_alive + _KEEPS_OR_CLOSES + keep_alive + rb")",
        )
    )
    return re.compile(
        # The second look: a match that fails later must not come back and take them for any status.
        rb"HTTP/1\.1 ((204|304)|(?!204|304)[2-5][0-9][0-9]) " + _VALUE + rb"\r\n"
        # Connection's group is up to three fields in one turn.
        rb"(?:"
        + fields
        + rb"){0,%d}+\r\n" % max(max_fields - 2, 0)
        + rb"(?(%d)%s|%s)" % (EMPTY, _none_of(R_LENGTH, R_CHUNKED), _one_of(R_LENGTH, R_CHUNKED))
    )
