"""One request through `judge`, with policy and broker played by the test, and every tree through real bytes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request, decode_request, decode_response, encode_request, encode_response
from parsers.kafka.table import TABLE
from policies.requests import Operation, Resource
from proxy.kafka.apis import judge
from proxy.kafka.plan import Action, Plan

KINDS = {"T": Resource.TOPIC, "G": Resource.GROUP, "X": Resource.TRANSACTIONAL_ID, "C": Resource.CLUSTER,
         "U": Resource.USER, "D": Resource.DELEGATION_TOKEN}  # fmt: skip
IMPLIED = {
    Operation.DESCRIBE: {Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER},
    Operation.DESCRIBE_CONFIGS: {Operation.ALTER_CONFIGS},
}

type Acls = Iterable[str]
"""Each as "Read T orders": operation, kind (see KINDS), name; name "*" is every name of the kind."""


@dataclass
class Acl:
    """Policy as a list of what is allowed, with Kafka's implications. asked: what was asked on record, in order."""

    allowed: Acls
    ids: dict[bytes, str] = field(default_factory=dict)
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._allowed: set[tuple[Operation, Resource, str]] = {(Operation.NOTHING, Resource.CLUSTER, "")}
        for line in self.allowed:
            operation, kind, *name = line.split(" ")
            self._allowed.add((Operation(operation), KINDS[kind], " ".join(name)))

    def _has(self, operation: Operation, resource: Resource, name: str | None) -> bool:
        operations = {operation} | IMPLIED.get(operation, set())
        if name is None:
            return any(op in operations and kind is resource for op, kind, _ in self._allowed)
        return any((op, resource, each) in self._allowed for op in operations for each in (name, "*"))

    def allows(self, operation: Operation, resource: Resource, name: str | None) -> bool:
        """See `Authorizer`."""
        answer = self._has(operation, resource, name)
        self.asked.append((f"{operation} {resource} {name}", answer))
        return answer

    def sees(self, operation: Operation, resource: Resource, name: str) -> bool:
        """See `Authorizer`."""
        return self._has(operation, resource, name)

    def topic_name(self, topic_id: bytes) -> str | None:
        """See `Authorizer`."""
        return self.ids.get(topic_id)


@dataclass
class Judged:
    """What became of a request: what the broker gets (None: nothing), and what the client gets (None: what it says)."""

    key: int
    version: int
    request: Request
    plan: Plan
    acl: Acl

    @property
    def action(self) -> Action:
        """Of the plan."""
        return self.plan.action

    @property
    def sent_version(self) -> int:
        """In which the broker is asked."""
        return self.version if self.plan.version is None else self.plan.version

    @property
    def sent(self) -> Tree:
        """What the broker gets."""
        body = self.request.body if self.plan.action is Action.PASS else self.plan.body
        assert body is not None
        frame = encode_request(Request(self.key, self.sent_version, 7, "client", body))
        return decode_request(frame).body

    @property
    def told(self) -> Tree:
        """What the client is answered without the broker."""
        assert self.plan.action is Action.ANSWER
        assert self.plan.answer is not None
        return self._carried(self.plan.answer, self.version)

    def answer(self, **fields: Any) -> Tree:
        """What the client gets when the broker answers so."""
        body = self._carried(fields, self.sent_version)
        return self._carried(self.plan.edit(body) if self.plan.edit is not None else body, self.version)

    def _carried(self, body: Tree, version: int) -> Tree:
        return decode_response(self.key, version, encode_response(self.key, version, 7, body)).body


def ask(api: str, version: int, acl: Acls = (), ids: dict[bytes, str] | None = None, /, **body: Any) -> Judged:
    """Judge a request of an API in a version; what the body lacks has its default."""
    key = TABLE.keys[api]
    request = decode_request(encode_request(Request(key, version, 7, "client", body)))
    policy = Acl(acl, ids or {})
    return Judged(key, version, request, judge(request, policy), policy)
