"""The quick ways to match are RE2 by another name."""

import pytest
import re2  # type: ignore[import-untyped]  # google-re2 has no type stubs
from hypothesis import example, given
from hypothesis import strategies as st

from policies import matchers
from policies.matchers import (
    MAX_PATTERN,
    MAX_PROGRAM,
    PatternError,
    PatternSet,
    check_pattern,
    literals,
    matcher,
    prefix,
)

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


@given(patterns, st.lists(letters, max_size=6).map("".join))
def test_any_case_is_re2_without_case(pattern: str, text: str) -> None:
    try:
        check_pattern(pattern)
    except PatternError:
        return
    options = re2.Options()
    options.case_sensitive = False
    assert matcher(pattern, any_case=True)(text) is (re2.compile(pattern, options).fullmatch(text) is not None)


@given(st.lists(patterns, min_size=1, max_size=8), st.lists(letters, max_size=6).map("".join), st.booleans())
def test_a_set_is_its_patterns(chosen: list[str], text: str, any_case: bool) -> None:
    good = []
    for pattern in chosen:
        try:
            check_pattern(pattern)
        except PatternError:
            continue
        good.append(pattern)
    expected = [i for i, pattern in enumerate(good) if matcher(pattern, any_case=any_case)(text)]
    assert PatternSet(good, any_case=any_case).matching(text) == expected


@pytest.mark.parametrize("memory", [1 << 10, 1 << 16, 1 << 25])
def test_a_set_that_re2_has_no_memory_for_still_answers(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    monkeypatch.setattr(matchers, "_SET_MEMORY", memory)
    found = PatternSet([f"/a{i}/[a-z]+.*x" for i in range(300)])
    assert [found.matching(f"/a{i}/bx") for i in (0, 7, 299, 300)] == [[0], [7], [299], []]


def test_a_set_that_gives_up_while_matching_is_tried_one_by_one() -> None:
    found = PatternSet(["/[ab]", "/[bc]"])

    class GivesUp:
        def Add(self, pattern: bytes) -> int:
            raise AssertionError(pattern)

        def Compile(self) -> None:
            raise AssertionError

        def Match(self, text: bytes) -> list[int]:
            return []  # as RE2 does when it is out of memory

    found._chunks = [(GivesUp(), begin, chunk) for _, begin, chunk in found._chunks]
    assert found.matching("/b") == [0, 1]
    assert found.matching("/c") == [1]


@pytest.mark.parametrize(("pattern", "text"), [("/a.*", "/a"), ("^/a\\..*$", "/a."), (".*", ""), ("/a", None)])
def test_prefix(pattern: str, text: str | None) -> None:
    assert prefix(pattern) == text
