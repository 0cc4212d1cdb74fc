"""One downstream connection as policy sees it: who, to where, under which revision; and how its decisions are
recorded."""

import time
from collections.abc import Callable

from policies.engine import Engine, HttpRequest, Verdict
from policies.ruleset import ConnectionVerdict, Direction, PolicyRef
from proxy.decided import Decision, Place
from proxy.flow_event import ConnectionFacts, FlowEvent, KafkaFacts, Shape
from proxy.limits import Limits
from proxy.policy_box import PolicyBox

type Address = tuple[str, int]
"""Plain address text (IPv4 without `::ffff:`, no scope) and port."""


type Note = Callable[[ConnectionFacts, Shape, int, int | None], None]
"""Records a request that shares its shape with others: connection, shape, wall clock in ns, latency in ns or None."""


class Flow:
    """Facts and records of one downstream connection; shared by the layers."""

    __slots__ = (
        "_box",
        "_emit",
        "_generation",
        "_revision",
        "counters",
        "direction",
        "endpoint",
        "facts",
        "limits",
        "note",
        "port",
    )

    def __init__(
        self,
        box: PolicyBox,
        emit: Callable[[FlowEvent], None],
        limits: Limits,
        counters: dict[str, int],
        endpoint: int,
        direction: int,
        client: Address,
        original: Address,
        note: Note | None = None,
    ) -> None:
        self._box = box
        self.note = note or self._note
        self._emit = emit
        self._generation = box.generation
        self._revision = box.revision
        self.limits = limits
        self.counters = counters
        self.endpoint = endpoint
        self.direction = direction
        self.port = original[1]
        peer = client[0] if direction == Direction.INGRESS else original[0]
        self.facts = ConnectionFacts(endpoint, direction, box.identity_of(peer, direction), *client, *original)

    def engine(self) -> Engine:
        """The rules in force now; from here to the next call, records carry their revision."""
        box = self._box
        if box.generation != self._generation:
            self._generation = box.generation
            self._revision = box.revision
            facts = self.facts
            ingress = facts.direction == Direction.INGRESS
            identity = box.identity_of(facts.source_address if ingress else facts.destination_address, facts.direction)
            # always new facts: labels and names that the consumer looked up may be of the earlier rules
            self.facts = ConnectionFacts(
                facts.endpoint,
                facts.direction,
                identity,
                facts.source_address,
                facts.source_port,
                facts.destination_address,
                facts.destination_port,
            )
        return box.engine

    def outdated(self, place: Place) -> bool:
        """Whether rules were swapped since the place was asked for. Whoever keeps one has to ask for each request:
        that the flow itself has met the new rules (`engine`) says nothing of what others keep."""
        return self._box.generation != place.generation

    def place(self) -> Place:
        """What the rules in force say of the connection, with the verdicts remembered for it."""
        self.engine()
        return self._box.place(self.endpoint, self.direction, self.facts.identity, self.port)

    def judge(self) -> ConnectionVerdict:
        """What the rules in force say of the connection itself."""
        return self.engine().connection(self.endpoint, self.direction, self.facts.identity, self.port)

    def verdict_on_connection(self) -> Verdict:
        """The same with names. It has a permit only where the connection is allowed whatever it carries: where no rule
        looks at its requests, or only rules in mode audit do."""
        return self.engine().connection_verdict(self.endpoint, self.direction, self.facts.identity, self.port)

    def kafka_unread(self) -> Verdict:
        """The verdict on Kafka that cannot be read: it has a permit only where any request whatever would be
        allowed."""
        return self.engine().kafka_unread(self.endpoint, self.direction, self.facts.identity, self.port)

    def audit_policies(self) -> tuple[PolicyRef, ...]:
        """The policies in mode audit that want the connection's requests judged."""
        return self.engine().audit_policies(self.endpoint, self.direction, self.facts.identity, self.port)

    @property
    def closes_denied(self) -> bool:
        """Whether a policy wants the connection closed that a change no longer allows."""
        endpoint = self._box.engine.ruleset.endpoints.get(self.endpoint)
        return endpoint is not None and endpoint.direction(self.direction).close_denied

    def _note(self, facts: ConnectionFacts, shape: Shape, time_ns: int, latency_ns: int | None) -> None:
        self._emit(shape.event(time_ns, facts, latency_ns))

    def record(
        self,
        verdict: str,
        reason: str,
        rule: str,
        policies: tuple[PolicyRef, ...] = (),
        *,
        code: int = 0,
    ) -> None:
        """Record a decision about the connection."""
        self._emit(
            FlowEvent(time.time_ns(), self.facts, verdict, reason, rule, policies, self._revision, code=code),
        )

    def record_request(self, request: "RequestFacts", verdict: str, reason: str, code: int = 0) -> None:
        """Record the decision about a request, or what became of it."""
        judged = request.verdict
        self._emit(
            FlowEvent(
                time.time_ns() if request.recorded else request.time_ns,
                request.connection,
                verdict,
                reason,
                judged.rule if judged is not None else request.rule,
                judged.policies if judged is not None else (),
                request.revision,
                request.method,
                request.target,
                request.host,
                request.protocol,
                code,
                time.monotonic_ns() - request.began_ns if request.answered else None,
                request.recorded,
            )
        )
        request.recorded = True

    def record_kafka(
        self,
        request: "KafkaRequestFacts",
        facts: KafkaFacts,
        verdict: str,
        reason: str,
        rule: str,
        policies: tuple[PolicyRef, ...] = (),
    ) -> None:
        """Record a decision about a Kafka request, or what became of it."""
        late = request.recorded
        self._emit(
            FlowEvent(
                time.time_ns() if late else request.time_ns,
                request.connection,
                verdict,
                reason,
                rule,
                policies,
                request.revision,
                latency_ns=time.monotonic_ns() - request.began_ns if request.answered else None,
                is_reply=late,
                kafka=facts,
            )
        )

    def kafka_request(self) -> "KafkaRequestFacts":
        """What the records of a Kafka request that is judged now have in common."""
        return KafkaRequestFacts(self.facts, self._revision)

    def decide(self, method: bytes, target: bytes, host: bytes) -> Decision:
        """The decision on a request of a place where none depends on headers; the target is canonical as it stands."""
        box, facts = self._box, self.facts
        path, name = target.decode("ascii"), host.decode("latin-1")
        word = method.decode("ascii")
        verdict = box.engine.decide(
            self.endpoint, self.direction, facts.identity, self.port, HttpRequest(word, path, name)
        )
        return Decision(verdict, self._revision, word, hide_query(path), name)

    def request(self, method: str, target: str, host: str, protocol: str) -> "RequestFacts":
        """Facts of a request that begins now."""
        return RequestFacts(self.facts, self._revision, method, target, host, protocol)


class RequestFacts:
    """What the records of one request say. `verdict` is None for one that no policy was asked about; `rule` names who
    refused it instead. answered: a response head came from upstream. recorded: its decision is out."""

    __slots__ = (
        "answered",
        "began_ns",
        "connection",
        "host",
        "method",
        "protocol",
        "recorded",
        "revision",
        "rule",
        "target",
        "time_ns",
        "verdict",
    )

    def __init__(
        self, connection: ConnectionFacts, revision: int, method: str, target: str, host: str, protocol: str
    ) -> None:
        self.time_ns = time.time_ns()
        self.began_ns = time.monotonic_ns()
        self.connection = connection
        self.revision = revision
        self.method = method
        self.target = target
        self.host = host
        self.protocol = protocol
        self.verdict: Verdict | None = None
        self.rule = ""
        self.answered = False
        self.recorded = False


class KafkaRequestFacts:
    """What all records of one Kafka request have in common. answered, recorded: as in `RequestFacts`."""

    __slots__ = ("answered", "began_ns", "connection", "recorded", "revision", "time_ns")

    def __init__(self, connection: ConnectionFacts, revision: int) -> None:
        self.time_ns = time.time_ns()
        self.began_ns = time.monotonic_ns()
        self.connection = connection
        self.revision = revision
        self.answered = False
        self.recorded = False


def hide_query(target: str) -> str:
    """A target without its query's values: `/a?b=c&d` becomes `/a?b=***&***`. A part without `=` is a value."""
    path, mark, query = target.partition("?")
    if not mark:
        return target
    hidden = []
    for part in query.split("&"):
        key, equals, _ = part.partition("=")
        hidden.append(f"{key}=***" if equals else "***")
    return f"{path}?{'&'.join(hidden)}"
