"""The quick ways to match are RE2 by another name."""

import pytest
import re2  # type: ignore[import-untyped]  # google-re2 has no type stubs
from hypothesis import example, given
from hypothesis import strategies as st

from policies.matchers import MAX_PATTERN, MAX_PROGRAM, PatternError, check_pattern, literals, matcher

PIECES = [
    "a",
    "B",
    "/",
    "-",
    "_",
    "%",
    "?",
    "\\.",
    "\\?",
    "\\\\",
    "\\|",
    ".",
    ".*",
    "|",
    "(",
    ")",
    "b*",
    "[ab]",
    "^",
    "$",
]
PIECES += [
    " ",
    "é",
    "\\Q",
    "\\d",
    "(?i)",
    "\\/",
    "\\-",
    "\\_",
    "=",
    "&",
    "+",
    "\\~",
    "#",
    "\\#",
    "\\ ",
    "{",
    "}",
    "{2}",
]
patterns = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
letters = st.sampled_from(list("aAbB/-_%?.\\|()é d{}2=&+~# \n^$Q"))


@given(patterns, st.lists(letters, max_size=6).map("".join), st.data())
@example("/a|/b", "/b", None)
@example("()", "", None)
@example("(a|b)", "b", None)
@example("(a)|(b)", "a)|(b", None)
@example("a.*", "a\n", None)
@example("^a|b$", "a", None)
@example("^a.*$", "ab", None)
@example("a\\$", "a$", None)
@example("a\\?*", "a", None)
@example("/ab*", "/a", None)
@example("/ab{2}", "/abb", None)
@example("b{0}a[ab]", "ab", None)
@example("ab?[ab]|b", "b", None)
@example("^a(b)?", "a", None)
def test_matcher_is_re2_full_match(pattern: str, text: str, data: st.DataObject | None) -> None:
    try:
        check_pattern(pattern)
    except PatternError:
        return
    texts = [text]
    if data is not None:
        # texts that are made of the pattern's own pieces match far more often than random ones
        texts.append(data.draw(st.sampled_from([pattern, pattern.replace("\\", ""), pattern.replace(".*", "zz")])))
    quick = matcher(pattern)
    for each in texts:
        assert quick(each) is (re2.fullmatch(pattern, each) is not None), (pattern, each)


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("GET", {"GET"}),
        ("GET|HEAD", {"GET", "HEAD"}),
        ("(GET|HEAD)", {"GET", "HEAD"}),
        ("/a\\.b", {"/a.b"}),
        ("", {""}),
        ("/a.b", None),
        ("/a*", None),
        ("(a)|(b)", None),
        ("[a]", None),
        ("^/a$", {"/a"}),
        ("^a|b$", {"a", "b"}),
        ("^", {""}),
        ("a^", None),
        ("$a", None),
        ("^^a", None),
        ("\\d", None),
    ],
)
def test_literals(pattern: str, texts: set[str] | None) -> None:
    assert literals(pattern) == texts


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(a)\1", r"not a valid RE2 pattern: invalid escape sequence: \1"),
        ("(?<=a)b", "not a valid RE2 pattern: invalid perl operator: (?<="),
        ("a{1001}", "not a valid RE2 pattern: invalid repetition size: {1001}"),
        ("((a{100}){100}){100}", "not a valid RE2 pattern: invalid repetition size: {100}"),
        ("a" * (MAX_PATTERN + 1), "pattern of 4097 characters, the limit is 4096"),
        ("[ab]{1000}" * 30, f"pattern of 30004 RE2 instructions, the limit is {MAX_PROGRAM}"),
        ("(\\pL{1000})", "not a valid RE2 pattern: pattern too large - compile failed"),
    ],
)
def test_refused(pattern: str, message: str) -> None:
    with pytest.raises(PatternError) as caught:
        check_pattern(pattern)
    assert str(caught.value) == message


def test_linear_time() -> None:
    assert not matcher("(a+)+b")("a" * 200_000)
