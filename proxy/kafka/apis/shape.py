"""Answers that we write ourselves: where an API tells an error, and what stands beside it.

Most APIs answer an array of their request with an array of the same things. `Part` says which and how; from it come an
answer with one error for everything that was named, an answer for what was denied alone, and the place in the broker's
answer where a denied element goes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from parsers.kafka.codec import Tree
from parsers.kafka.table import TABLE
from proxy.kafka.apis.codes import text


@dataclass(frozen=True, slots=True)
class Part:
    """An array of the request, and the one that answers it.

    asked, answered: the names of both. same: field of an answer's element -> field of the request's element that it
    repeats, "" where that element is no struct but a name or a number; answers are found by these. error, message: the
    fields for code and text, "" where there is none. fill: what else stands in an element that tells an error, where
    that is not the definition's default. inner: the array inside, which has the errors then.
    """

    asked: str
    answered: str
    same: Mapping[str, str]
    error: str = "ErrorCode"
    message: str = ""
    fill: Mapping[str, Any] = field(default_factory=dict)
    inner: "Part | None" = None

    def refused(self, element: Any, code: int) -> Tree:
        """The element of an answer that tells an error of an element of the request."""
        tree = dict(self.fill)
        for to, source in self.same.items():
            if not source:
                tree[to] = element
            elif source in element:
                tree[to] = element[source]
        inner = self.inner
        if inner is not None:
            tree[inner.answered] = [inner.refused(each, code) for each in element.get(inner.asked) or ()]
        if self.error:
            tree[self.error] = code
        if self.message:
            tree[self.message] = text(code)
        return tree

    def key(self, element: Any) -> tuple[Any, ...]:
        """What an element of the request is found by."""
        return tuple(element if not source else element.get(source) for source in self.same.values())

    def answer_key(self, element: Tree) -> tuple[Any, ...]:
        """The same, of an element of the answer."""
        return tuple(element.get(name) for name in self.same)

    def merged(self, answers: Iterable[Tree], elements: Sequence[Any], codes: Sequence[int]) -> list[Tree]:
        """The broker's answers for what went on, and ours for what did not, in the order of the request.

        A broker may answer what was named twice once: it stands where it was named first.
        """
        found: dict[tuple[Any, ...], list[Tree]] = {}
        for answer in answers:
            found.setdefault(self.answer_key(answer), []).append(answer)
        merged: list[Tree] = []
        for element, code in zip(elements, codes, strict=True):
            if code:
                merged.append(self.refused(element, code))
            else:
                merged += found.pop(self.key(element), ())
        for left in found.values():
            merged += left
        return merged


@dataclass(frozen=True, slots=True)
class Shape:
    """How an API tells that all of a request is refused. top, message: fields of the answer itself, "" for none; those
    that a version has not are not written. parts: the arrays that repeat what was asked, as far as the version has
    them. fill: what else stands in such an answer."""

    top: str = "ErrorCode"
    message: str = ""
    parts: tuple[Part, ...] = ()
    fill: Mapping[str, Any] = field(default_factory=dict)

    def refused(self, body: Tree, code: int) -> Tree:
        """The answer to a request of which everything is refused with one code."""
        tree = dict(self.fill)
        if self.top:
            tree[self.top] = code
        if self.message:
            tree[self.message] = text(code)
        for part in self.parts:
            if part.asked in body:
                told = [part.refused(each, code) for each in body[part.asked] or ()]
                tree[part.answered] = tree.get(part.answered, []) + told
        return tree


@cache
def has_field(key: int, version: int, name: str) -> bool:
    """Whether the answer of an API has a field at its top in a version."""
    api = TABLE.apis.get(key)
    if api is None or api.response is None:
        return False
    return any(
        each.name == name and (each.in_version(version) or each.tagged_in(version)) for each in api.response.fields
    )
