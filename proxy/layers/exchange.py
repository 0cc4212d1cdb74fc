"""One allowed HTTP request on its way."""

from collections.abc import Iterator, Sequence
from typing import overload

from parsers.http1.events import Field, Fields, FramingKind, RequestHead
from parsers.http1.target import Target
from proxy.flow import RequestFacts

# RFC 9110 9.2.2: sending one of these twice means what sending it once means.
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))


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
