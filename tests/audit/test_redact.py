"""Secrets have marks: none may come out, whatever form the target has."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import redact

MARK = "MARKER"


@pytest.mark.parametrize(
    ("host", "target", "expected"),
    [
        ("web", "/public", "http://web/public"),
        ("web:8080", "/a/b.html", "http://web:8080/a/b.html"),
        ("[fd00::2]:80", "/", "http://[fd00::2]:80/"),
        ("", "/x", "http:///x"),
        ("web", "/p?a=MARKER", "http://web/p?a=***"),
        ("web", "/p?a=1&token=MARKER&b=", "http://web/p?a=***&token=***&b=***"),
        ("web", "/p?MARKER", "http://web/p?***"),
        ("web", "/p?a=x=MARKER", "http://web/p?a=***"),
        ("web", "/p?a%3DMARKER=1", "http://web/p?***=***"),
        ("web", "/p?a=1&&b=2&", "http://web/p?a=***&&b=***&"),
        ("web", "/p?", "http://web/p?"),
        ("web", "/p?a[0]=MARKER", "http://web/p?a[0]=***"),
        ("web", "/p?a=1?b=MARKER", "http://web/p?a=***"),
        ("web", "/p#MARKER", "http://web/p#***"),
        ("web", "/p?q=MARKER#MARKER", "http://web/p?q=***#***"),
        ("web", "/p;jsessionid=MARKER/q;v=MARKER?x", "http://web/p;jsessionid=***/q;v=***?***"),
        ("user:MARKER@web", "/p", "http://web/p"),
        ("MARKER@web", "/p", "http://web/p"),
        ("web", "http://user:MARKER@other:81/p?q=MARKER", "http://other:81/p?q=***"),
        ("web", "https://other", "https://other"),
        ("web", "http://user:MAR/KER@other/p", "http://***"),
        ("web", "user:MARKER@other:443", "http://other:443"),
        ("web", "other:443", "http://other:443"),
        ("web", "*", "http://*"),
        ("web", "//user:MARKER@other/p", "http://web//***@other/p"),
        ("web", "/http://MARKER@other/p", "http://web/http://***@other/p"),
        ("web", "/user:MARKER@other/p", "http://web/***@other/p"),
        ("web", "/@scope/name", "http://web/@scope/name"),
        ("web", "/a b\x1b[2J\r\n", "http://web/a%20b%1B[2J%0D%0A"),
        ("web", "/caf\xe9/\u20ac\ud800", "http://web/caf%E9/%E2%82%AC%ED%A0%80"),
        ("web", '/"\\<>`', "http://web/%22%5C<>%60"),
        ("we\x1bb", "/", "http://we%1Bb/"),
        ("web", "", "http://"),
    ],
)
def test_url(host: str, target: str, expected: str) -> None:
    assert redact.url("http", host, target) == (expected, False)


def test_length_is_cut_after_hiding() -> None:
    long, cut = redact.url("http", "web", "/p?" + "a=MARKER&" * 1000)
    assert cut
    assert len(long) == redact.MAX_URL
    assert MARK not in long
    long, cut = redact.url("http", "x" * 5000, "/p")
    assert long == "http://" + "x" * redact.MAX_HOST + "/p"
    assert "MARKER" not in redact.url("http", "web", f"http://u:{'x' * 5000}MARKER@other/")[0]


@given(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(["a", "?", "&", "=", "#", ";", "/", "@", ":", "//", "://", "%3D", "\x00", "é"]), max_size=12
    ),
)
def test_anything_is_one_printable_word(host: str, parts: list[str]) -> None:
    url, _ = redact.url("http", host, "".join(parts))
    assert url.isascii()
    assert url.isprintable()
    assert not set(url) & set(' "\\')


@given(st.text(alphabet=st.sampled_from("ab=?&#;/:@[]%."), max_size=20), st.text(alphabet="ab=&;/?", max_size=10))
def test_query_values_never_show(before: str, after: str) -> None:
    assert MARK not in redact.url("http", "web", f"/{before}?key={MARK}{after}")[0]
    assert MARK not in redact.url("http", f"user:{MARK}@web", f"/{before}")[0]


@pytest.mark.parametrize(
    ("message", "expected", "cut"),
    [
        ("default deny", "default deny", False),
        ("bad_header", "bad_header", False),
        ('illegal header value "MARKER"', "illegal header value", True),
        ("illegal header value: b'MARKER'", "illegal header value", True),
        ("x" * 200, "x" * redact.MAX_REASON, True),
        ("line\nbreak", "line", True),
    ],
)
def test_reason_never_quotes(message: str, expected: str, cut: bool) -> None:
    assert redact.reason(message) == (expected, cut)


def test_names_cannot_move_a_terminal() -> None:
    assert redact.text("a\x1b[31m\u202eb\x9b") == ("a\\u001b[31m\\u202eb\\u009b", False)
    assert redact.text("Größe") == ("Größe", False)
    assert redact.text("x" * 600) == ("x" * redact.MAX_TEXT, True)
    assert redact.method("GE\x00T") == ("GE%00T", False)
    assert redact.method("A" * 40) == ("A" * redact.MAX_METHOD, True)


@given(st.text(max_size=20))
def test_a_word_is_one_word(value: str) -> None:
    word = redact.word(value)
    assert word.isascii()
    assert word.isprintable()
    assert not set(word) & set(' "\\')
    if re.fullmatch(r"[a-zA-Z0-9._-]*", value):  # what Kafka lets a topic be
        assert word == value
