"""One allowed HTTP request on its way."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from parsers.http1.events import Field, Fields, FramingKind, RequestHead
from parsers.http1.fields import FRAMING_NAMES
from parsers.http1.target import Target
from policies.engine import HeaderEdit
from policies.ruleset import Mismatch
from proxy.flow import RequestFacts

# RFC 9110 9.2.2: sending one of these twice means what sending it once means.
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))


# Changing one of these would make another request of what was judged. Documents that ask for it are refused when they
# are read; one that came here all the same ends the flow.
_NEVER_EDITED = FRAMING_NAMES | frozenset((b"te", b"upgrade", b"keep-alive", b"expect"))


def edited(fields: Fields, edits: Iterable[HeaderEdit]) -> Fields:
    """The fields with a verdict's changes, in order: ADD appends, REPLACE leaves one field of the name where the first
    was, or appends it, DELETE leaves none.

    Raises:
        RuntimeError: the edit is of a field that frames or routes the request.
    """
    for edit in edits:
        name, value = edit.name.encode("latin-1"), edit.value.encode("utf-8")
        if name in _NEVER_EDITED:
            raise RuntimeError(f"a rule edits the field '{edit.name}'")
        if edit.action is Mismatch.ADD:
            fields = [*fields, (name, value)]
            continue
        place = next((i for i, (have, _) in enumerate(fields) if have.lower() == name), len(fields))
        kept = [pair for pair in fields if pair[0].lower() != name]
        if edit.action is Mismatch.REPLACE:
            kept.insert(place, (name, value))
        fields = kept
    return fields


class LowerFields(Sequence[Field]):
    """Fields with names in lower case, made only when a rule reads headers: most requests meet none that does."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    def __len__(self) -> int:
        return len(self._fields)

    def __iter__(self) -> Iterator[Field]:
        return ((name.lower(), value) for name, value in self._fields)

    @overload
    def __getitem__(self, index: int) -> Field: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Field]: ...
    def __getitem__(self, index: int | slice) -> Field | Sequence[Field]:
        return list(self)[index]


class Exchange:
    """One allowed request on its way: what is needed to send it, to send it again, and to record it."""

    __slots__ = ("body_began", "facts", "fields", "head", "request_done", "response_began", "response_done", "target")

    def __init__(self, head: RequestHead, target: Target, fields: Fields, facts: RequestFacts) -> None:
        self.head = head
        self.target = target
        self.fields = fields
        self.facts = facts
        self.body_began = False
        self.request_done = False
        self.response_began = False  # the response's head went downstream
        self.response_done = False

    @property
    def may_repeat(self) -> bool:
        """Whether sending it a second time can do no harm."""
        return self.head.framing.kind is FramingKind.NONE and self.head.method in _IDEMPOTENT
