"""Which fields go on to the other side (RFC 9110 7.6.1)."""

from typing import Final

from parsers.http1.events import Fields, InformationalHead, RequestHead, ResponseHead

# Upgrade and HTTP2-Settings would let the two ends agree on a protocol that we do not read. Keep-Alive and Proxy-* are
# for the next hop, which is us. Connection is written anew.
_HOP_BY_HOP: Final = frozenset((b"connection", b"keep-alive", b"upgrade", b"http2-settings", b"te"))
_HOP_BY_HOP_PREFIX: Final = b"proxy-"
# A trailer arrives when the request is long judged and routed, so nothing that could change that, and nothing that an
# application merges into the head and trusts (RFC 9110 6.5.1).
_NEVER_TRAILERS: Final = _HOP_BY_HOP | frozenset(
    b"""host transfer-encoding trailer expect authorization cookie set-cookie cache-control max-forwards range age date
    expires location vary warning www-authenticate retry-after pragma forwarded via origin referer te
    if-match if-none-match if-modified-since if-unmodified-since if-range accept user-agent from""".split()
)
_NEVER_TRAILER_PREFIXES: Final = (b"content-", b"x-forwarded-", b"x-real-", b"proxy-", b"access-control-", b"sec-")
# These in a trailer are an attempt to reframe or reroute what was judged.
FRAMING_NAMES: Final = frozenset((b"content-length", b"transfer-encoding", b"host", b"connection"))


def forwarded_request_fields(head: RequestHead) -> Fields:
    """The fields to judge and to send upstream, in order and as spelled.

    Dropped: Connection and what it names, Keep-Alive, Proxy-*, TE (but `trailers`), Upgrade, HTTP2-Settings, and Expect
    where it has no meaning. Added: Host, when only the target named the authority. Content-Length and Transfer-Encoding
    stay in their place; `send_request` writes their values from the framing.
    """
    has_host = False
    forwarded: Fields = []
    named = head.connection
    for pair in head.fields:
        name = pair[0].lower()
        if name in _HOP_BY_HOP:
            if name == b"te" and _accepts_trailers(pair[1]):
                forwarded.append((pair[0], b"trailers"))
            continue
        if name in named or name.startswith(_HOP_BY_HOP_PREFIX):
            continue
        if name == b"host":
            has_host = True
        elif name == b"expect" and not head.expect_continue:
            continue
        forwarded.append(pair)
    if not has_host and head.host is not None:
        forwarded.insert(0, (b"Host", head.host))
    return forwarded


def _accepts_trailers(value: bytes) -> bool:
    return any(member.strip(b" \t") == b"trailers" for member in value.lower().split(b","))


def forwarded_response_fields(head: ResponseHead | InformationalHead) -> Fields:
    """The fields to send downstream, in order and as spelled; hop-by-hop ones are dropped."""
    named = head.connection
    return [
        pair
        for pair in head.fields
        if (name := pair[0].lower()) not in _HOP_BY_HOP
        and name not in named
        and not name.startswith(_HOP_BY_HOP_PREFIX)
    ]


def safe_trailers(trailers: Fields) -> Fields:
    """Those trailers that may be forwarded."""
    return [
        pair
        for pair in trailers
        if (name := pair[0].lower()) not in _NEVER_TRAILERS and not name.startswith(_NEVER_TRAILER_PREFIXES)
    ]
