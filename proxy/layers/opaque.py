"""Bytes both ways, unparsed. Reached only where the rules in force allow the connection whatever it carries: the kernel
steered it under an earlier revision that wanted it parsed, only policies in mode audit want it judged and it cannot be,
or it is TLS and any request of Kafka whatever would be allowed."""

from policies.ruleset import Answer
from proxy.commands import Edge
from proxy.events import LegFailure, Timer
from proxy.flow import Flow
from proxy.flow_event import AUDIT, DROPPED, ERROR, FORWARDED, RULE_GUARD, RULE_LIMIT, RULE_PROTOCOL

_EVERYTHING = 1 << 40


class OpaqueLayer:
    """Copy until both sides have ended; the edge closes a flow whose four ends have all ended."""

    __slots__ = ("_edge", "_ended", "_flow", "_open", "_tls", "_unjudged", "_unsent", "_verdict")

    opaque = True

    def __init__(self, flow: Flow, edge: Edge, *, unjudged: str = "", tls: bool = False) -> None:
        """unjudged: why the audit policies that want its requests judged cannot have that; goes into the record. tls:
        it is Kafka inside TLS, and whatever it asks is allowed."""
        self._unjudged = unjudged
        self._tls = tls
        self._flow = flow
        self._edge = edge
        self._verdict = flow.kafka_unread() if tls else flow.verdict_on_connection()
        self._open = False
        self._unsent: list[bytes] = []  # what came before the leg stood: one read, two at most
        self._ended = False  # the client has

    def start(self) -> None:
        """Record that nothing more will be judged here, and open the leg."""
        self._flow.counters["opaque"] += 1
        verdict = self._verdict
        if verdict.permit is None:
            raise RuntimeError("an opaque flow that no rule allows")
        if self._unjudged:
            self._flow.counters["not_http"] += 1
            self._flow.record(AUDIT, self._unjudged, RULE_PROTOCOL, self._flow.audit_policies())
        elif verdict.audited:
            self._flow.record(AUDIT, verdict.reason, verdict.rule, verdict.policies)
        else:
            self._flow.record(FORWARDED, "tls_opaque" if self._tls else "opaque", verdict.rule, verdict.policies)
        self._moved()
        self._edge.open_upstream(verdict.permit)

    def downstream_data(self, data: bytes) -> None:
        """From the client."""
        if self._open:
            self._edge.send_upstream(data)
            self._moved()
        else:
            self._unsent.append(data)
            self._edge.pause_downstream()

    def downstream_eof(self) -> None:
        """The client sends no more."""
        self._ended = True
        if self._open:
            self._edge.end_upstream()

    def downstream_lost(self) -> None:
        """A reset goes through as one."""
        self._edge.reset()

    def downstream_drained(self) -> None:
        """The edge reads on by itself."""

    def upstream_open(self) -> None:
        """Send what waited."""
        self._open = True
        for data in self._unsent:
            self._edge.send_upstream(data)
        self._unsent.clear()
        if self._ended:
            self._edge.end_upstream()
        else:
            self._edge.resume_downstream()

    def upstream_failed(self, failure: LegFailure) -> None:
        """What the client would have met without us."""
        self._flow.record(ERROR, failure.value, self._verdict.rule, self._verdict.policies)
        self._edge.reset()

    def upstream_data(self, data: bytes) -> None:
        """From the server."""
        self._edge.send_downstream(data)
        self._moved()

    @property
    def passing_down(self) -> int:
        """Everything."""
        return _EVERYTHING

    @property
    def passing_up(self) -> int:
        """Everything, once what came before is out."""
        return _EVERYTHING if self._open else 0

    def passed_down(self, count: int) -> None:
        """From the server."""
        self._moved()

    def passed_up(self, count: int) -> None:
        """From the client."""
        self._moved()

    def upstream_eof(self) -> None:
        """The server sends no more."""
        self._edge.end_downstream()

    def upstream_lost(self) -> None:
        """A reset goes through as one."""
        self._edge.reset()

    def expired(self, timer: Timer) -> None:
        """Silent for too long."""
        self._flow.counters["limit_idle"] += 1
        self._flow.record(ERROR, "limit_idle", RULE_LIMIT)
        self._edge.reset()

    def drain(self) -> None:
        """There is no point at which it could end without harm."""

    def rules_changed(self) -> None:
        """There is no next request that could be judged: what is no longer allowed ends now."""
        flow = self._flow
        allowed = flow.judge().enforced.answer is Answer.ALLOW
        if not allowed and self._tls:
            allowed = flow.kafka_unread().permit is not None
        if not allowed:
            flow.counters["opaque_closed"] += 1
            flow.record(DROPPED, "opaque_no_longer_allowed", RULE_GUARD)
            self._edge.reset()

    def closed(self) -> None:
        """Nothing of it outlives the flow."""

    def _moved(self) -> None:
        self._edge.set_timer(Timer.IDLE, self._flow.limits.idle_s)
