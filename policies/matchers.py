"""Patterns of L7 rules: RE2, matched against the whole text, with a quicker equal for the simplest ones.

Used at both ends: `model` checks every pattern with it, and the engine of a worker matches with it. No pydantic, no
YAML here.
"""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

import re2  # type: ignore[import-untyped]  # google-re2 has no type stubs; _Compiled says what we use of it

type Matcher = Callable[[str], bool]

MAX_PATTERN = 4096  # characters
MAX_PROGRAM = 5000  # RE2 instructions, 16 bytes each: 200 alternative paths fit, nested repetition does not
# RE2 divides this between the program and the states it remembers while matching; it never passes it.
_MAX_MEMORY = 1 << 20
# Patterns of one RE2 set, and its memory: its states grow with the sum of its patterns.
_SET_SIZE = 250
_SET_MEMORY = 32 << 20

# Characters that mean themselves in RE2, and escaped punctuation. Anything else goes to RE2.
_LITERAL = r"(?:[A-Za-z0-9/_~%&=,;:!@'\"# -]|\\[!-/:-@\[-^`{-~])*"
# The whole text is matched in any case, so a leading ^ and a trailing $ say nothing new.
_LITERAL_PATTERN = re.compile(rf"\^?({_LITERAL})\$?")
_PREFIX_PATTERN = re.compile(rf"\^?({_LITERAL})\.\*\$?")
_LITERAL_START = re.compile(rf"\^?({_LITERAL})")
_LAST_CHARACTER = re.compile(r"\\?.\Z", re.DOTALL)
_UNESCAPE = re.compile(r"\\(.)")


class _Compiled(Protocol):
    programsize: int

    def fullmatch(self, text: bytes) -> object | None: ...


class _Set(Protocol):
    def Add(self, pattern: bytes) -> int: ...
    def Compile(self) -> None: ...
    def Match(self, text: bytes) -> list[int]: ...


class PatternError(ValueError):
    """The pattern is not RE2, or too large. The message is one line for its author."""


def literals(pattern: str) -> frozenset[str] | None:
    """The texts that `pattern` matches when it is a literal or an alternative of literals; None when it is not."""
    inner = pattern[1:-1] if pattern.startswith("(") and pattern.endswith(")") else pattern
    pieces = inner.split("|")
    found = [_LITERAL_PATTERN.fullmatch(piece) for piece in pieces]
    texts = frozenset(_UNESCAPE.sub(r"\1", piece[1]) for piece in found if piece is not None)
    return None if None in found else texts


def prefix(pattern: str) -> str | None:
    """The text that `pattern` asks for at the beginning when it asks for nothing else (`/public.*`); None when it does.

    The dot of RE2 does not match a line feed, so a text that holds one does not match.
    """
    found = _PREFIX_PATTERN.fullmatch(pattern)
    return None if found is None else _UNESCAPE.sub(r"\1", found[1])


def matcher(pattern: str, *, any_case: bool = False) -> Matcher:
    """A function that tells whether a whole text matches. any_case: as with RE2's flag `i` all over.

    Raises:
        PatternError: see check_pattern.
    """
    if any_case:
        found = _compile(pattern, any_case=True).fullmatch
        return lambda text: found(text.encode()) is not None
    texts = literals(pattern)
    if texts is not None:
        if len(texts) == 1:
            (only,) = texts
            return only.__eq__
        return texts.__contains__
    begin = prefix(pattern)
    if begin is not None:
        return lambda text: text.startswith(begin) and "\n" not in text
    fullmatch = _compile(pattern).fullmatch
    start = _required_start(pattern)
    # A second look at a few characters costs a tenth of a match: most rules of a long list do not fit at all.
    return lambda text: text.startswith(start) and fullmatch(text.encode()) is not None


def _required_start(pattern: str) -> str:
    """Literal text that everything the pattern matches begins with; "" when that is not plain to see."""
    found = _LITERAL_START.match(pattern)
    if found is None or "|" in pattern:
        return ""
    literal = found[1]
    if pattern[found.end() : found.end() + 1] in ("*", "?", "+", "{"):  # repeats the character before it
        literal = _LAST_CHARACTER.sub("", literal)
    return _UNESCAPE.sub(r"\1", literal)


def check_pattern(pattern: str) -> None:
    """Say whether `matcher` will take the pattern.

    Raises:
        PatternError: longer than MAX_PATTERN, not RE2 (look-around and back-references are not), or compiled larger
            than MAX_PROGRAM.
    """
    _compile(pattern)


class PatternSet:
    """Many patterns tried at once: which of them match a whole text, at the price of about one.

    RE2 gives up on a set when it runs out of memory and then says the same as where nothing matches. So every chunk
    holds one more pattern, which matches anything: an answer without it is no answer, and its patterns are tried one by
    one.
    """

    __slots__ = ("_any_case", "_chunks", "_matchers")

    def __init__(self, patterns: Sequence[str], *, any_case: bool = False) -> None:
        self._any_case = any_case
        self._chunks: list[tuple[_Set | None, int, Sequence[str]]] = []
        self._matchers: dict[str, Matcher] = {}  # compiled when RE2 first gave up: to have them costs more than a set
        for begin in range(0, len(patterns), _SET_SIZE):
            self._add(begin, patterns[begin : begin + _SET_SIZE])

    def _add(self, begin: int, chunk: Sequence[str]) -> None:
        """One set where it fits into the memory of one, else halves of it."""
        options = _options(any_case=self._any_case)
        options.max_mem = _SET_MEMORY
        made: _Set = re2.Set.FullMatchSet(options)
        for pattern in chunk:
            made.Add(pattern.encode())
        made.Add(b"(?s:.*)")
        try:
            made.Compile()
        except re2.error:
            if len(chunk) == 1:
                self._chunks.append((None, begin, chunk))
            else:
                half = len(chunk) // 2
                self._add(begin, chunk[:half])
                self._add(begin + half, chunk[half:])
            return
        self._chunks.append((made, begin, chunk))

    def matching(self, text: str) -> list[int]:
        """Indexes of the patterns that match, in order."""
        found: list[int] = []
        for made, begin, chunk in self._chunks:
            indexes = [] if made is None else sorted(made.Match(text.encode()))
            if indexes and indexes[-1] == len(chunk):
                found += [begin + index for index in indexes[:-1]]
            else:
                found += [begin + index for index, pattern in enumerate(chunk) if self._fits(pattern, text)]
        return found

    def _fits(self, pattern: str, text: str) -> bool:
        fits = self._matchers.get(pattern)
        if fits is None:
            fits = self._matchers[pattern] = matcher(pattern, any_case=self._any_case)
        return fits(text)


def _options(*, any_case: bool) -> "re2.Options":
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _MAX_MEMORY
    options.case_sensitive = not any_case
    return options


def _compile(pattern: str, *, any_case: bool = False) -> _Compiled:
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"pattern of {len(pattern)} characters, the limit is {MAX_PATTERN}")
    try:
        compiled: _Compiled = re2.compile(pattern.encode(), _options(any_case=any_case))
    except re2.error as error:
        cause = error.args[0] if error.args else b""
        text = cause.decode(errors="replace") if isinstance(cause, bytes) else str(cause)
        raise PatternError(f"not a valid RE2 pattern: {text[:80]}") from None
    if compiled.programsize > MAX_PROGRAM:
        raise PatternError(f"pattern of {compiled.programsize} RE2 instructions, the limit is {MAX_PROGRAM}")
    return compiled
