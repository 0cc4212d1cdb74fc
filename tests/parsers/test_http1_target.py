"""Targets: one normal form, or the reason why there is none."""

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parsers.errors import RemoteProtocolError
from parsers.http1.events import TargetForm
from parsers.http1.target import Target, canonical_target

CANONICAL = [
    ("root", b"/", b"/"),
    ("plain", b"/public/a.txt", b"/public/a.txt"),
    ("empty query", b"/a?", b"/a?"),
    ("query is kept as it is", b"/a?b=//../%2f%zz;\\&c=%2e?d", b"/a?b=//../%2f%zz;\\&c=%2e?d"),
    ("final slash is kept", b"/a/", b"/a/"),
    ("dot", b"/a/./b", b"/a/b"),
    ("final dot", b"/a/.", b"/a/"),
    ("two dots", b"/a/../b", b"/b"),
    ("final two dots", b"/a/b/..", b"/a/"),
    ("up to the root", b"/a/..", b"/"),
    ("up and down", b"/a/b/../../c/./d/../e", b"/c/e"),
    ("three dots are a name", b"/a/.../b", b"/a/.../b"),
    ("hidden file", b"/.well-known/x", b"/.well-known/x"),
    ("dots at the end of a name", b"/a../b", b"/a../b"),
    ("repeated slashes", b"//a///b//", b"/a/b/"),
    ("slashes only", b"///", b"/"),
    ("unreserved is decoded", b"/%61%2D%5f%7e%2E", b"/a-_~."),
    ("encoded dots are dots", b"/a/%2e%2E/b", b"/b"),
    ("half-encoded dots are dots", b"/a/.%2e/b", b"/b"),
    ("encoded final dot", b"/a/%2e", b"/a/"),
    ("hex in capitals", b"/%c3%a9%3a", b"/%C3%A9%3A"),
    ("reserved stays encoded", b"/%3F%23%5B%5D%40%21%24%26%27%28%29%2A%2B%2C%3D", None),
    ("reserved stays plain", b"/!$&'()*+,=:@", None),
    ("marks that browsers send", b'/[a]|b{c}^d`"<>', None),
    ("encoded blank", b"/a%20b", None),
    ("encoded percent", b"/50%25off", None),
    ("encoded percent at the end", b"/50%25", None),
    ("encoded percent, one digit", b"/a%25f/x", None),
    ("doubly encoded blank", b"/a%2520b", None),
    ("path parameter", b"/a;v=1/b;c", None),
    ("encoded semicolon", b"/a%3Bb", None),
    ("parameter that looks like dots", b"/a;../b", None),
    ("parameter after three dots", b"/...;a/b", None),
    ("Latin-1", b"/%E9t%E9", None),
    ("Latin-1 capitals", b"/%C0propos", None),
]  # fmt: skip

REFUSED = [
    ("above the root", b"/..", "above_root"),
    ("above the root and on", b"/../etc/passwd", "above_root"),
    ("above the root, deep", b"/a/../../b", "above_root"),
    ("above the root, encoded", b"/%2e%2e/a", "above_root"),
    ("above the root behind a dot", b"/./../a", "above_root"),
    ("up from an empty segment", b"/a//../b", "ambiguous_dots"),
    ("up from an empty root", b"//../b", "ambiguous_dots"),
    ("up from an empty segment, later", b"/a//b/../../c", "ambiguous_dots"),
    ("up from an empty segment over a dot", b"/a//./../b", "ambiguous_dots"),
    ("encoded slash", b"/a%2fb", "encoded_separator"),
    ("encoded slash in capitals", b"/a%2Fb", "encoded_separator"),
    ("encoded slash after dots", b"/a/..%2fb", "encoded_separator"),
    ("encoded backslash", b"/a%5cb", "encoded_separator"),
    ("encoded backslash in capitals", b"/a%5Cb", "encoded_separator"),
    ("encoded NUL", b"/a%00.txt", "encoded_separator"),
    ("encoded LF", b"/a%0ab", "encoded_separator"),
    ("encoded CR LF", b"/a%0d%0aX:b", "encoded_separator"),
    ("encoded tab", b"/a%09", "encoded_separator"),
    ("encoded DEL", b"/%7f", "encoded_separator"),
    ("backslash", b"/a\\b", "backslash_in_path"),
    ("backslash after dots", b"/a/..\\b", "backslash_in_path"),
    ("percent at the end", b"/a%", "bad_percent"),
    ("one digit", b"/a%2", "bad_percent"),
    ("no digits", b"/a%zz", "bad_percent"),
    ("one good digit", b"/a%2g", "bad_percent"),
    ("two percent signs", b"/%%32e", "bad_percent"),
    ("IIS unicode", b"/%u002e", "bad_percent"),
    ("percent before a slash", b"/%/2e", "bad_percent"),
    ("doubly encoded dot", b"/%252e%252e/a", "double_encoding"),
    ("doubly encoded dot in capitals", b"/%252E/a", "double_encoding"),
    ("doubly encoded slash", b"/a%252fb", "double_encoding"),
    ("doubly encoded backslash", b"/a%255cb", "double_encoding"),
    ("doubly encoded NUL", b"/a%2500", "double_encoding"),
    ("doubly encoded letter", b"/%2561dmin", "double_encoding"),
    ("doubly encoded semicolon", b"/..%253b/a", "double_encoding"),
    ("doubly encoded, digits encoded", b"/%25%32%65", "double_encoding"),
    ("doubly encoded, one digit encoded", b"/%252%65", "double_encoding"),
    ("trebly encoded dot", b"/%25252e", "double_encoding"),
    ("trebly encoded slash", b"/%25252f", "double_encoding"),
    ("six times encoded", b"/%25252525252e", "double_encoding"),
    ("overlong slash", b"/a%c0%afb", "overlong_utf8"),
    ("overlong dot", b"/%c0%ae%c0%ae/a", "overlong_utf8"),
    ("overlong slash in three bytes", b"/a%e0%80%afb", "overlong_utf8"),
    ("overlong slash in four bytes", b"/a%f0%80%80%afb", "overlong_utf8"),
    ("two dots with a parameter", b"/a/..;/b", "dot_segment_parameter"),
    ("two dots with a named parameter", b"/a/..;x=y/b", "dot_segment_parameter"),
    ("dot with a parameter", b"/a/.;/b", "dot_segment_parameter"),
    ("final two dots with a parameter", b"/a/..;", "dot_segment_parameter"),
    ("encoded dots with a parameter", b"/a/%2e%2e;/b", "dot_segment_parameter"),
    ("two dots with an encoded semicolon", b"/a/..%3b/b", "dot_segment_parameter"),
    ("fragment", b"/a#b", "fragment_in_target"),
    ("fragment in the query", b"/a?b#c", "fragment_in_target"),
    ("blank", b"/a b", "bad_target_octet"),
    ("tab", b"/a\tb", "bad_target_octet"),
    ("CR LF", b"/a\r\nX: b", "bad_target_octet"),
    ("NUL", b"/a\x00", "bad_target_octet"),
    ("DEL", b"/a\x7f", "bad_target_octet"),
    ("UTF-8", "/é".encode(), "bad_target_octet"),
    ("control in the query", b"/a?b\x01", "bad_target_octet"),
    ("UTF-8 in the query", "/a?é".encode(), "bad_target_octet"),
    ("no slash", b"a", "bad_target"),
    ("nothing", b"", "bad_target"),
    ("query alone", b"?a", "bad_target"),
]  # fmt: skip


def reason_of(target: bytes, **options: bool) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        canonical_target(target, "origin", **options)
    assert caught.value.status == 400
    return caught.value.reason


@pytest.mark.parametrize(("name", "target", "wire"), CANONICAL, ids=[row[0] for row in CANONICAL])
def test_canonical(name: str, target: bytes, wire: bytes | None) -> None:
    wire = target if wire is None else wire
    result = canonical_target(target, "origin")
    path, mark, query = wire.partition(b"?")
    assert result == Target(path, query if mark else None, wire, wire.decode("ascii"))
    assert canonical_target(wire, "origin") == result
    assert canonical_target(b"http://h" + target, "absolute") == result


@pytest.mark.parametrize(("name", "target", "reason"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused(name: str, target: bytes, reason: str) -> None:
    assert reason_of(target) == reason
    if reason != "bad_target":
        assert reason_of(target, merge_slashes=False) == reason


@pytest.mark.parametrize(
    ("target", "wire"),
    [(b"//a///b//", b"//a///b//"), (b"/a//./b", b"/a//b"), (b"/a//b/..", b"/a//"), (b"/%2f"[:1], b"/"), (b"//", b"//")],
)
def test_slashes_are_kept_on_request(target: bytes, wire: bytes) -> None:
    assert canonical_target(target, "origin", merge_slashes=False).wire == wire


@pytest.mark.parametrize(
    ("target", "wire"),
    [
        (b"http://h", b"/"),
        (b"http://h?a=b", b"/?a=b"),
        (b"http://h/?a=http://x/y", b"/?a=http://x/y"),
        (b"HTTP://h:80//a/../b", b"/b"),
        (b"http://[::1]:8080/a", b"/a"),
    ],
)
def test_absolute_form_is_its_path(target: bytes, wire: bytes) -> None:
    assert canonical_target(target, "absolute").wire == wire


def test_asterisk_is_itself() -> None:
    assert canonical_target(b"*", "asterisk") == Target(b"*", None, b"*", "*")
    with pytest.raises(RemoteProtocolError, match="bad_target"):
        canonical_target(b"*a", "asterisk")


def test_connect_is_405() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        canonical_target(b"h:443", "authority")
    assert (caught.value.reason, caught.value.status) == ("connect_refused", 405)


def test_only_http_uris() -> None:
    with pytest.raises(RemoteProtocolError, match="bad_target"):
        canonical_target(b"https://h/", "absolute")


def outcome(target: bytes, form: TargetForm, merge: bool) -> Target | RemoteProtocolError:
    try:
        return canonical_target(target, form, merge_slashes=merge)
    except RemoteProtocolError as error:
        return error


# An oracle written another way: text for bytes, RFC 3986 5.2.4 word by word, no shared tables.

_OK = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def oracle(path: str, merge: bool) -> str | None:
    """The canonical path, or None for a refusal."""
    if not path.startswith("/") or any(not "!" <= char <= "~" or char in "\\#?" for char in path):
        return None
    out, i = "", 0
    while i < len(path):
        if path[i] != "%":
            out += path[i]
            i += 1
            continue
        digits = path[i + 1 : i + 3]
        if not re.fullmatch("[0-9A-Fa-f]{2}", digits):
            return None
        char = chr(int(digits, 16))
        if char in "/\\" or char < " " or char == "\x7f":
            return None
        out += char if char in _OK else "%" + digits.upper()
        i += 3
    if _hides_something(out) or re.search("%C[01]%[89AB]|%E0%[89]|%F0%8", out):
        return None
    segments = out.split("/")[1:]
    if any(re.match(r"\.\.?(;|%3B)", segment) for segment in segments):
        return None
    unmerged, merged = _rfc3986(out), _rfc3986(re.sub("/+", "/", out))
    if unmerged is None or merged is None or re.sub("/+", "/", unmerged) != merged:
        return None  # the order of merging and resolving matters: two readings
    return merged if merge else unmerged


def _hides_something(path: str) -> bool:
    text = unquote_to_bytes(path)
    for _ in range(3):
        again = unquote_to_bytes(text)
        if again == text:
            return False
        for digits in re.findall(rb"%([0-9A-Fa-f]{2})", text):
            char = chr(int(digits, 16))
            if char in _OK or char in "/\\;" or char < " " or char == "\x7f":
                return True
        text = again
    return unquote_to_bytes(text) != text


def _rfc3986(path: str) -> str | None:
    """RFC 3986 5.2.4 with its input and output buffers; None when it would climb above the root."""
    given_, output = path, ""
    while given_:
        if given_.startswith("/./"):
            given_ = given_[2:]
        elif given_ == "/.":
            given_ = "/"
        elif given_.startswith("/../") or given_ == "/..":
            if not output:
                return None
            given_ = given_[3:] or "/"
            output = output[: output.rindex("/")]
        else:
            cut = given_.find("/", 1)
            cut = len(given_) if cut < 0 else cut
            output += given_[:cut]
            given_ = given_[cut:]
    return output


PIECES = [
    "/",
    "/",
    ".",
    "..",
    "%2e",
    "%2E",
    "%25",
    "2e",
    "32",
    "65",
    "%",
    "%2f",
    "%5c",
    "\\",
    ";",
    "%3b",
    "%3B",
    "a",
    "b",
]
PIECES += ["%61", "%41", "%c0", "%af", "%C3", "%a9", "%00", "%20", "?", "#", "\x00", "é", "~", "%7e", "//", "%252e"]
paths = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: "/" + "".join(pieces))


@given(paths, st.booleans())
@example("/a//../b", True)
@example("/a//b/../../c", False)
@example("/%25%32%35", True)
@example("/a/b/../..//x", True)
def test_equal_to_the_oracle(path: str, merge: bool) -> None:
    expected = oracle(path, merge)
    # The oracle takes a path; a target goes through the checks of octets first.
    if "?" in path:
        return
    result = outcome(path.encode("utf-8"), "origin", merge)
    assert (result.matched if isinstance(result, Target) else None) == expected


@given(paths, st.booleans())
def test_canonical_form_is_its_own(path: str, merge: bool) -> None:
    once = outcome(path.encode("utf-8"), "origin", merge)
    if not isinstance(once, Target):
        return
    assert canonical_target(once.wire, "origin", merge_slashes=merge) == once
    assert re.fullmatch(rb"/[\x21-\x7e]*", once.path)
    segments = once.path.split(b"/")
    assert not {b".", b".."} & set(segments)
    if merge:
        assert b"//" not in once.path
    # However often an application decodes: it never finds a separator or a dot segment that was not there.
    decoded = once.path
    for _ in range(4):
        decoded = unquote_to_bytes(decoded)
        assert decoded.count(b"/") == once.path.count(b"/")
        assert not {b".", b".."} & set(re.split(rb"[/\\]", decoded))
        assert b"\x00" not in decoded


@given(st.binary(max_size=60), st.booleans())
def test_only_protocol_errors_leave(path: bytes, merge: bool) -> None:
    forms: list[TargetForm] = ["origin", "absolute", "asterisk"]
    for form in forms:
        result = outcome(path, form, merge)
        assert isinstance(result, Target) or result.status == 400


def test_long_hostile_paths_stay_short() -> None:
    """A head's worth of what needs the most work: nothing recurses too deep and nothing grows."""
    for unit in (b"%25", b"/..", b"/.", b"//", b"a/../", b"%", b";", b"/..;"):
        path = b"/" + unit * (16_000 // len(unit))
        result = outcome(path, "origin", True)
        assert not isinstance(result, Target) or len(result.path) <= len(path)
