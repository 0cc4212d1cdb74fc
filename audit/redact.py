"""What of a request may be written down: rebuilt, never copied.

Nothing here trusts its input: targets of refused requests arrive as the client sent them. All work is linear in the
input, and cutting to length comes last, so that no cut can part a secret from the mark it is known by.
"""

import re
from typing import Final

MAX_URL: Final = 2048
"""Characters of a recorded URL: enough for a person to know the request, a thirtieth of the longest line."""
MAX_METHOD: Final = 32
MAX_HOST: Final = 261  # a DNS name, a colon, a port
MAX_TEXT: Final = 512  # rule names: "namespace/name direction[i].toPorts[j].http[k]" of the longest Kubernetes names
MAX_REASON: Final = 128
MAX_NAME: Final = 256  # a legal topic has 249 at most; Kafka sets no limit for client ids, groups, transactional ids

HIDDEN: Final = "***"

# The common case in one match each: nothing to hide, nothing to escape.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._~!$'()*+,=%-]*").fullmatch
_PLAIN_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]*").fullmatch
_AUTHORITY = re.compile(r"([A-Za-z0-9._*-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?").fullmatch
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}").fullmatch
_KEY = re.compile(r"[A-Za-z0-9._~\[\]-]{1,64}").fullmatch
_UNSAFE = re.compile(
    r"[^!#-\[\]^_a-z{|}~]"
)  # what a URL or a terminal line must not hold: space, ", \, `, control, not ASCII
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_REASON = re.compile(r"[^A-Za-z0-9 _./,()\[\]-]")
_USERINFO = re.compile(r"[^/@:?#]*:[^/@?#]*@")
_AUTHORITY_USERINFO = re.compile(r"//[^/?#]*@")
_PARAMETER = re.compile(r"(;[^=;/]*)=[^;/]*")


def text(value: str, limit: int = MAX_TEXT) -> tuple[str, bool]:
    """A name that we or a policy's author wrote: control and direction-changing characters escaped, cut to `limit`.

    Returns the text and whether it was cut.
    """
    if not value.isascii() or not value.isprintable():
        value = _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", value)
    return (value, False) if len(value) <= limit else (value[:limit], True)


def reason(value: str) -> tuple[str, bool]:
    """A reason in plain words. Messages may quote a client: it ends before the first quote, colon or other sign."""
    match = _NOT_REASON.search(value)
    cut = match is not None or len(value) > MAX_REASON
    return (value[: match.start()] if match else value)[:MAX_REASON].rstrip(), cut


def method(value: str) -> tuple[str, bool]:
    """A method; a refused request's can be anything."""
    value = _escape(value)
    return (value, False) if len(value) <= MAX_METHOD else (value[:MAX_METHOD], True)


def word(value: str) -> str:
    """A name that a client chose, as one word of plain text: what is no letter, digit or sign is percent-encoded."""
    return _escape(value)


def url(scheme: str, host: str, target: str) -> tuple[str, bool]:
    """`scheme://host/path?key=***` of a request; returns it and whether it was cut to `MAX_URL`.

    host: the authority or Host field; userinfo in it is dropped. target: the request target in any form (RFC 9112 3.2),
    decoded as Latin-1 or UTF-8. Query values, path parameters' values (`;jsessionid=`), fragments and userinfo are
    hidden; a query part without `=` is a value; a query key that is not a plain word is hidden too.
    """
    if not _PLAIN_HOST(host) or len(host) > MAX_HOST:
        host = _escape(host.rpartition("@")[2])[:MAX_HOST]
    whole = f"{scheme}://{host}{target}" if _PLAIN_PATH(target) else _url_of_odd_target(scheme, host, target)
    return (whole, False) if len(whole) <= MAX_URL else (whole[:MAX_URL], True)


def _url_of_odd_target(scheme: str, host: str, target: str) -> str:
    rest, fragment_mark, _ = target.partition("#")
    path, query_mark, query = rest.partition("?")
    if not path.startswith("/"):  # absolute-form, authority-form, asterisk-form or rubbish: its own authority counts
        head, slashes, tail = path.partition("://")
        authority, slash, tail = (tail if slashes else path).partition("/")
        host, path = authority.rpartition("@")[2], slash + tail
        scheme = head if slashes and _SCHEME(head) else scheme
        if not _AUTHORITY(host):  # "user:pass/word@host": where the userinfo ends cannot be told, so nothing is shown
            return f"{scheme}://{HIDDEN}"
    path = _AUTHORITY_USERINFO.sub(f"//{HIDDEN}@", path)
    path = _USERINFO.sub(f"{HIDDEN}@", path)
    path = _escape(_PARAMETER.sub(rf"\1={HIDDEN}", path))
    shown = f"{scheme}://{host}{path}"
    if query_mark:
        shown += "?" + "&".join(map(_query_part, query.split("&")))
    return shown + (f"#{HIDDEN}" if fragment_mark else "")


def _query_part(part: str) -> str:
    if not part:
        return part
    key, mark, _ = part.partition("=")
    return f"{key if _KEY(key) else HIDDEN}={HIDDEN}" if mark else HIDDEN


def _escape(value: str) -> str:
    """Percent-encode what is not printable ASCII, and the quotes and backslash that would need escaping in JSON."""
    if not _UNSAFE.search(value):
        return value
    return _UNSAFE.sub(_percent, value)


def _percent(match: re.Match[str]) -> str:
    char = match[0]
    if "A" <= char <= "Z":
        return char
    raw = char.encode("latin-1") if ord(char) < 0x100 else char.encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in raw)
