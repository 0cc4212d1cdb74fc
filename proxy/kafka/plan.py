"""What becomes of one request: the word between what an API means (`apis`) and how frames travel (`layers.kafka`)."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from parsers.kafka.codec import Tree
from policies.requests import Operation, Resource


class Action(Enum):
    """PASS: the frame goes on as it came. EDIT: `body` goes on in its place. ANSWER: nothing goes on, the client gets
    `answer` behind the answers before it. CLOSE: nothing goes on, the connection ends once earlier answers are out."""

    PASS = "pass"  # noqa: S105  no password
    EDIT = "edit"
    ANSWER = "answer"
    CLOSE = "close"


@dataclass(slots=True)
class Plan:
    """What becomes of one request.

    body, version: of the request that goes on (EDIT); version None is the client's own.
    answer: body of the response that the client gets (ANSWER), in the client's version.
    edit: makes of the broker's response body (in `version`) the one that the client gets; None: it goes on as it came.
        It may change the tree it is given. It runs when the answer comes and asks by the rules of that moment.
    closes: after this request's answer the connection ends; for acks=0, which has no answer, after the earlier ones.
    reason: why, for CLOSE: a code of `[a-z_]+`.
    """

    action: Action = Action.PASS
    body: Tree | None = None
    version: int | None = None
    answer: Tree | None = None
    edit: Callable[[Tree], Tree] | None = None
    closes: bool = False
    reason: str = ""


class Authorizer(Protocol):
    """Policy, as one request of one connection asks it. An implementation remembers each answer of `allows` for the
    request's records: one per topic, else one per other resource."""

    def allows(self, operation: Operation, resource: Resource, name: str | None) -> bool:
        """Whether the pod may; part of the decision on the request, and recorded. name None: any of the kind."""

    def sees(self, operation: Operation, resource: Resource, name: str) -> bool:
        """The same for what an answer shows: not recorded one by one, but counted where it is hidden."""

    def topic_name(self, topic_id: bytes) -> str | None:
        """Of a topic id of 16 bytes, where this broker has told it; None where the broker knows no such topic."""
