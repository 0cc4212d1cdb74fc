"""What one request asks of policy, and what its records say of that."""

from collections.abc import Mapping
from typing import Final

from parsers.kafka.frames import Request
from parsers.kafka.table import TABLE
from policies.engine import Engine, Permit, Verdict
from policies.requests import KafkaRequest, Operation, Resource
from proxy.flow import Flow
from proxy.flow_event import KafkaFacts

MAX_REMEMBERED: Final = 1024
"""Verdicts remembered for one connection, some 300 bytes each; past it all are forgotten."""

ERRORS: Final[Mapping[str, int]] = {
    Resource.TOPIC: 29,
    Resource.GROUP: 30,
    Resource.CLUSTER: 31,
    Resource.TRANSACTIONAL_ID: 53,
    Resource.DELEGATION_TOKEN: 65,
    Resource.USER: 31,
}
"""TOPIC_AUTHORIZATION_FAILED and its like: what a denied client is told."""

type Key = tuple[int, int, str | None, str, str, str | None]


class Judge:
    """Answers the questions of one connection by the rules in force, and remembers the answers until these change."""

    __slots__ = ("_engine", "_flow", "_known")

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._engine: Engine | None = None
        self._known: dict[Key, Verdict] = {}

    def ask(self, request: Request, operation: Operation, resource: Resource, name: str | None) -> Verdict:
        """The verdict on one question."""
        flow = self._flow
        engine = flow.engine()
        if engine is not self._engine:
            self._engine = engine
            self._known.clear()
        key = (request.api_key, request.api_version, request.client_id, operation, resource, name)
        verdict = self._known.get(key)
        if verdict is None:
            question = KafkaRequest(
                request.api_key,
                request.api_version,
                request.client_id or "",
                name if resource is Resource.TOPIC else None,
                operation,
                resource,
                name,
            )
            verdict = engine.decide_kafka(flow.endpoint, flow.direction, flow.facts.identity, flow.port, question)
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = verdict
        return verdict


class Questions:
    """Implements `proxy.kafka.plan.Authorizer` for one request.

    asked: (operation, resource, name, verdict) of each question of `allows`, in order. ids: topic ids of the request
    that were looked up, with their names.
    """

    __slots__ = ("_flow", "_judge", "_names", "_request", "asked", "ids", "permit")

    def __init__(self, flow: Flow, judge: Judge, request: Request, names: Mapping[bytes, str]) -> None:
        """names: of topic ids, as the broker told them."""
        self._flow = flow
        self._judge = judge
        self._names = names
        self._request = request
        self.asked: list[tuple[Operation, Resource, str | None, Verdict]] = []
        self.ids: dict[bytes, str] = {}
        self.permit: Permit | None = None

    def allows(self, operation: Operation, resource: Resource, name: str | None) -> bool:
        """See `Authorizer`."""
        verdict = self._judge.ask(self._request, operation, resource, name)
        self.asked.append((operation, resource, name, verdict))
        if self.permit is None:
            self.permit = verdict.permit
        return verdict.allow

    def sees(self, operation: Operation, resource: Resource, name: str) -> bool:
        """See `Authorizer`."""
        if self._judge.ask(self._request, operation, resource, name).allow:
            return True
        self._flow.counters["kafka_hidden"] += 1
        return False

    def topic_name(self, topic_id: bytes) -> str | None:
        """See `Authorizer`."""
        name = self._names.get(topic_id)
        if name is not None:
            self.ids[topic_id] = name
        return name

    def deciding(self) -> list[tuple[Operation, Resource, str | None, Verdict]]:
        """The questions that have a record each: one about each topic, else one about each other resource; and about
        whatever is denied. Of several about the same thing it is the first that is denied, else the last."""
        asked = self.asked
        if len(asked) == 1:
            return asked
        topics: dict[object, tuple[Operation, Resource, str | None, Verdict]] = {}
        others: dict[object, tuple[Operation, Resource, str | None, Verdict]] = {}
        for each in asked:
            table, key = (topics, each[2]) if each[1] is Resource.TOPIC else (others, each[1:3])
            if key not in table or table[key][3].allow:
                table[key] = each
        return [*topics.values(), *(each for each in others.values() if not topics or not each[3].allow)]

    def facts(self, operation: str = "", resource: str = "", name: str | None = "") -> KafkaFacts:
        """What a record says of the request and one question about it."""
        request = self._request
        api = TABLE.apis.get(request.api_key)
        name = name or ""
        group = name if resource == Resource.GROUP else request.body.get("GroupId")
        transactional = name if resource == Resource.TRANSACTIONAL_ID else request.body.get("TransactionalId")
        return KafkaFacts(
            request.api_key,
            api.name if api is not None else "",
            request.api_version,
            request.client_id or "",
            request.correlation_id,
            name if resource == Resource.TOPIC else "",
            group or "",
            transactional or "",
            operation,
            resource,
            name,
        )
