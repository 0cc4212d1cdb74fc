"""One endpoint under lines that a test makes: what the engine says of it."""

from collections.abc import Sequence
from dataclasses import replace

from policies.engine import Engine, HttpRequest, KafkaRequest, Verdict
from policies.requests import Operation, Resource
from policies.ruleset import (
    Direction,
    DirectionRules,
    EndpointRules,
    HttpRule,
    KafkaRule,
    Line,
    PolicyRef,
    RuleSet,
)

PEER, OTHER = 300, 301
ENFORCING = PolicyRef("CiliumNetworkPolicy", "default", "enforcing")
AUDITING = PolicyRef("CiliumNetworkPolicy", "default", "auditing")


def line(
    name: str,
    *,
    http: Sequence[HttpRule] | None = None,
    kafka: Sequence[KafkaRule] | None = None,
    peers: frozenset[int] | None = None,
    deny: bool = False,
    audit: bool = False,
) -> Line:
    """A line on port 80."""
    return Line(
        name,
        AUDITING if audit else ENFORCING,
        peers,
        first=80,
        last=80,
        deny=deny,
        http=None if http is None else tuple(http),
        kafka=None if kafka is None else tuple(kafka),
        audit=audit,
    )


class Made:
    """An endpoint with these ingress lines."""

    def __init__(self, *lines: Line, default_deny: bool | None = None, audit_default_deny: bool | None = None) -> None:
        enforcing = any(not line.audit for line in lines) if default_deny is None else default_deny
        auditing = True if audit_default_deny is None else audit_default_deny
        policies = tuple(dict.fromkeys(line.policy for line in lines))
        ingress = DirectionRules(True, enforcing, auditing, lines, policies)
        endpoint = EndpointRules(1, "default", "web", {}, ingress, DirectionRules())
        self.engine = Engine(RuleSet(5, {1: endpoint}))

    def ask(
        self,
        request: str = "GET /",
        *,
        host: str = "web",
        headers: Sequence[tuple[bytes, bytes]] = (),
        peer: int = PEER,
    ) -> Verdict:
        """The verdict on "METHOD target"."""
        method, _, path = request.partition(" ")
        verdict = self.engine.decide(1, Direction.INGRESS, peer, 80, HttpRequest(method, path, host, headers))
        assert verdict.allow is (verdict.permit is not None)
        assert verdict.rule
        return verdict

    def kafka(self, question: str = "", *, api_key: int = 0, version: int = 5, client: str = "c") -> Verdict:
        """The verdict on "Write orders", which is about a topic, and on what asks for nothing ("")."""
        operation, _, topic = question.partition(" ")
        request = KafkaRequest(api_key, version, client)
        if operation:
            request = replace(request, topic=topic, operation=Operation(operation), resource=Resource.TOPIC, name=topic)
        return self.engine.decide_kafka(1, Direction.INGRESS, PEER, 80, request)

    def protocol(self) -> str:
        """What PEER's connection must be."""
        return self.engine.protocol_of(1, Direction.INGRESS, PEER, 80)

    def connection(self) -> Verdict:
        """The verdict on PEER's connection."""
        return self.engine.connection_verdict(1, Direction.INGRESS, PEER, 80)
