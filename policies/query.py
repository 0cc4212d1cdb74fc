"""The query of a request, read in every way that an application might read it.

`&` separates pairs for everybody, `;` for some; a `+` is a space; what is percent-encoded is decoded once, as UTF-8. A
key that cannot be decoded (a percent sign without two hex digits, not UTF-8) could be any key for somebody, so such a
query allows nothing and every deny rule that asks for a key matches it.
"""

import re
from collections.abc import Iterable

from policies.ruleset import QueryMatch

_PERCENT = re.compile(rb"%(?:([0-9A-Fa-f]{2})|)")
_EITHER = re.compile("[&;]")


class Query:
    """One query, read once for all rules."""

    __slots__ = ("_readings", "readable")

    def __init__(self, text: str) -> None:
        self.readable = True
        self._readings = [self._read(text.split("&"))]
        if ";" in text:
            self._readings.append(self._read(_EITHER.split(text)))

    def _read(self, parts: Iterable[str]) -> dict[str, list[str | None]]:
        found: dict[str, list[str | None]] = {}
        for part in filter(None, parts):
            key, _, value = part.partition("=")
            plain = _decode(key)
            if plain is None:
                self.readable = False
            else:
                found.setdefault(plain, []).append(_decode(value))
        return found

    def holds(self, wanted: QueryMatch) -> bool:
        """For a rule that allows: the key is there however the query is read, and has no other value."""
        return self.readable and all(_only(pairs.get(wanted.key), wanted.value) for pairs in self._readings)

    def may_hold(self, wanted: QueryMatch) -> bool:
        """For a rule that denies: somebody could find the key there, with that value among others; without case, white
        space around either, and what makes the key a list for some (`key[]`)."""
        if not self.readable:
            return True
        key, value = _bare(wanted.key), None if wanted.value is None else _bare(wanted.value)
        for pairs in self._readings:
            for name, values in pairs.items():
                if key in (bare := _bare(name), bare.partition("[")[0].rstrip()) and any(
                    value is None or v is None or _bare(v) == value for v in values
                ):
                    return True
        return False


def _bare(text: str) -> str:
    return text.strip(" \t\r\n\v\f\0").lower()


def _only(values: list[str | None] | None, wanted: str | None) -> bool:
    return values is not None and (wanted is None or all(value == wanted for value in values))


def _decode(text: str) -> str | None:
    text = text.replace("+", " ")
    if "%" not in text:
        return text
    try:
        return _PERCENT.sub(_octet, text.encode()).decode()
    except ValueError:  # not UTF-8, or a percent sign that encodes nothing
        return None


def _octet(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if digits is None:
        raise ValueError("percent sign without two hex digits")
    return bytes((int(digits, 16),))
