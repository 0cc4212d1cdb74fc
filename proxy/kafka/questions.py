"""What one request asks of policy, and what its records say of that."""

from collections.abc import Mapping
from typing import Final

from parsers.kafka.frames import Request
from parsers.kafka.table import TABLE
from policies.engine import Engine, Permit, Verdict
from policies.requests import KafkaRequest, Operation, Resource
from proxy.flow import Flow
from proxy.flow_event import KafkaFacts

MAX_REMEMBERED: Final = 64
"""Verdicts remembered for one connection, some 300 bytes each; past it all are forgotten."""
MAX_REMEMBERED_TEXT: Final = 512
"""Characters of client id and name together; a verdict on longer ones is asked for each time."""

ERRORS: Final[Mapping[str, int]] = {
    Resource.TOPIC: 29,
    Resource.GROUP: 30,
    Resource.CLUSTER: 31,
    Resource.TRANSACTIONAL_ID: 53,
    Resource.DELEGATION_TOKEN: 65,
    Resource.USER: 31,
}
"""TOPIC_AUTHORIZATION_FAILED and its like: what a denied client is told."""

MAX_QUESTIONS: Final = 10_000
"""Of one request, some 50 microseconds each with the record of a denial: no request may keep a worker for long."""

type Key = tuple[int, int, str | None, str, str, str | None]
type Asked = tuple[Operation, Resource, str | None, Verdict]


class TooMany(Exception):
    """A request asks more than MAX_QUESTIONS."""


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
            if len(request.client_id or "") + len(name or "") <= MAX_REMEMBERED_TEXT:
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
        self.asked: list[Asked] = []
        self.ids: dict[bytes, str] = {}
        self.permit: Permit | None = None

    def allows(self, operation: Operation, resource: Resource, name: str | None) -> bool:
        """See `Authorizer`."""
        if len(self.asked) >= MAX_QUESTIONS:
            raise TooMany
        verdict = self._judge.ask(self._request, operation, resource, name)
        self.asked.append((operation, resource, name, verdict))
        if self.permit is None:
            self.permit = verdict.permit
        return verdict.allow

    def sees(self, operation: Operation, resource: Resource, name: str) -> bool:
        """See `Authorizer`."""
        if self._judge.ask(self._request, operation, resource, name).allow:
            return True
        if operation is Operation.DESCRIBE or operation is Operation.READ:  # else nothing is left out for it
            self._flow.counters["kafka_hidden"] += 1
        return False

    def topic_name(self, topic_id: bytes) -> str | None:
        """See `Authorizer`."""
        name = self._names.get(topic_id)
        if name is not None:
            self.ids[topic_id] = name
        return name

    def deciding(self) -> list[Asked]:
        """The questions that have a record each: one about each topic, and one about each other resource where there is
        no topic or the answer was not a plain yes. Of several about the same, the first that was denied, else the last.
        """
        asked = self.asked
        if len(asked) == 1:
            return asked
        topics: dict[str | None, Asked] = {}
        others: dict[tuple[Resource, str | None], Asked] = {}
        for each in asked:
            _, resource, name, _ = each
            if resource is Resource.TOPIC:
                if (before := topics.get(name)) is None or before[3].allow:
                    topics[name] = each
            elif (known := others.get((resource, name))) is None or known[3].allow:
                others[resource, name] = each
        if not topics:
            return list(others.values())
        return [each for each in others.values() if not each[3].allow or each[3].audited] + list(topics.values())

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
