"""One request before the judge: what a row of the table asks of policy, and the plans that it can come to."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request
from policies.requests import Operation, Resource
from proxy.kafka.apis.codes import Code
from proxy.kafka.apis.shape import Part, Shape
from proxy.kafka.plan import Action, Authorizer, Plan

EVERY_TOPIC: Final = "*"
"""Asked for where a request reaches topics that it does not name and cannot be kept from those that policy hides. No
topic can have this name, so only rules that do not name topics, or name them all, answer yes."""

NO_OPERATIONS: Final = -0x80000000
"""Stands in an answer where nobody asked for authorized operations."""

NO_ID: Final = bytes(16)

OPERATIONS: Final = {
    Resource.TOPIC: {
        3: Operation.READ, 4: Operation.WRITE, 5: Operation.CREATE, 6: Operation.DELETE, 7: Operation.ALTER,
        8: Operation.DESCRIBE, 10: Operation.DESCRIBE_CONFIGS, 11: Operation.ALTER_CONFIGS,
    },
    Resource.GROUP: {
        3: Operation.READ, 6: Operation.DELETE, 8: Operation.DESCRIBE, 10: Operation.DESCRIBE_CONFIGS,
        11: Operation.ALTER_CONFIGS,
    },
    Resource.CLUSTER: {
        5: Operation.CREATE, 7: Operation.ALTER, 8: Operation.DESCRIBE, 9: Operation.CLUSTER_ACTION,
        10: Operation.DESCRIBE_CONFIGS, 11: Operation.ALTER_CONFIGS, 12: Operation.IDEMPOTENT_WRITE,
    },
}  # fmt: skip
"""Bits of the authorized operations of a resource: AclOperation's codes, AclEntry.supportedOperations."""


class Case:
    """A request, policy, and how its API tells errors. body, version: of the request. asked: whether policy has been
    asked anything on record."""

    __slots__ = ("asked", "authorizer", "body", "shape", "version")

    def __init__(self, request: Request, authorizer: Authorizer, shape: Shape) -> None:
        self.body = request.body
        self.version = request.api_version
        self.authorizer = authorizer
        self.shape = shape
        self.asked = False

    # ---- questions

    def allows(self, operation: Operation, resource: Resource, name: str | None = "") -> bool:
        """Whether policy allows it; on record."""
        self.asked = True
        return self.authorizer.allows(operation, resource, name)

    def sees(self, operation: Operation, resource: Resource, name: str = "") -> bool:
        """The same off the record: for what answers show, and where another permission would do as well."""
        return self.authorizer.sees(operation, resource, name)

    def cluster(self, operation: Operation) -> int:
        """0, or the code for a client that may not do this to the cluster."""
        return 0 if self.allows(operation, Resource.CLUSTER) else Code.CLUSTER_AUTHORIZATION_FAILED

    def topic(self, operation: Operation, name: str) -> int:
        """0, or the code for a client that may not do this to a topic."""
        return 0 if self.allows(operation, Resource.TOPIC, name) else Code.TOPIC_AUTHORIZATION_FAILED

    def topic_by_id(self, operation: Operation, topic_id: bytes) -> int:
        """The same of a topic that is named by its id. One that the broker does not know is never asked of it again."""
        name = self.authorizer.topic_name(topic_id)
        return Code.UNKNOWN_TOPIC_ID if name is None else self.topic(operation, name)

    def topic_of(self, operation: Operation, element: Tree, name: str = "Name") -> int:
        """The same of an element that has a name in some versions and an id in others."""
        return (
            self.topic(operation, element[name]) if name in element else self.topic_by_id(operation, element["TopicId"])
        )

    def group(self, operation: Operation, name: str) -> int:
        """0, or the code for a client that may not do this to a group."""
        return 0 if self.allows(operation, Resource.GROUP, name) else Code.GROUP_AUTHORIZATION_FAILED

    def transaction(self, operation: Operation, name: str) -> int:
        """0, or the code for a client that may not do this to a transactional id."""
        allowed = self.allows(operation, Resource.TRANSACTIONAL_ID, name)
        return 0 if allowed else Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED

    def shows_topic(self, name: str) -> bool:
        """Whether an answer may name a topic."""
        return self.sees(Operation.DESCRIBE, Resource.TOPIC, name)

    def shown_topics(self, elements: Iterable[Tree], name: str) -> list[Tree]:
        """Those elements of an answer whose topic it may name."""
        return [each for each in elements if self.shows_topic(each[name])]

    def operations(self, bits: int, resource: Resource, name: str) -> int:
        """Authorized operations of a resource, as a broker says them, less those that policy does not allow."""
        if bits == NO_OPERATIONS:
            return bits
        return sum(
            1 << code
            for code, operation in OPERATIONS[resource].items()
            if bits >> code & 1 and self.sees(operation, resource, name)
        )

    @staticmethod
    def repeated[T: Hashable](keys: Iterable[T]) -> set[T]:
        """What is named more than once, for APIs that refuse such before they ask who may."""
        return {key for key, count in Counter(keys).items() if count > 1}

    # ---- plans

    def passed(self, edit: Callable[[Tree], Tree] | None = None) -> Plan:
        """The request goes on as it came."""
        return Plan(Action.PASS, edit=edit)

    def edited(self, body: Tree, edit: Callable[[Tree], Tree] | None = None, version: int | None = None) -> Plan:
        """Another body goes on."""
        return Plan(Action.EDIT, body=body, version=version, edit=edit)

    def answered(self, answer: Tree) -> Plan:
        """Nothing goes on."""
        return Plan(Action.ANSWER, answer=answer)

    def refused(self, code: int) -> Plan:
        """Nothing goes on, and one code says why of everything that the request names."""
        return self.answered(self.shape.refused(self.body, code))

    def passed_or(self, code: int) -> Plan:
        """Goes on where the code is 0."""
        return self.refused(code) if code else self.passed()

    def parted(
        self,
        part: Part,
        codes: Sequence[int],
        edit: Callable[[Tree], Tree] | None = None,
        merged: Callable[[Iterable[Tree], Sequence[Any], Sequence[int]], list[Tree]] | None = None,
    ) -> Plan:
        """Goes on without the elements of an array that have a code, which comes back in their place in the answer.

        edit: of the broker's answer, before that. merged: in place of the part's own.
        """
        merged = merged or part.merged
        if not any(codes):
            return self.passed(edit)
        elements = self.body[part.asked]
        left = [element for element, code in zip(elements, codes, strict=True) if not code]
        if not left:
            return self.answered({part.answered: merged((), elements, codes)})

        def merge(answer: Tree) -> Tree:
            if answer.get("ErrorCode"):
                return answer  # a code for the whole: brokers tell no other beside it
            if edit is not None:
                answer = edit(answer)
            answer[part.answered] = merged(answer[part.answered], elements, codes)
            return answer

        return self.edited({**self.body, part.asked: left}, merge)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. judge: what becomes of a request; it asks through the case it is given."""

    name: str
    shape: Shape
    judge: Callable[[Case], Plan]
