"""decide(): facts of one request against one rule set. Pure: no clock, no I/O, no pydantic, no YAML.

Theory of operation: everything that does not depend on the request is worked out once per (endpoint, direction, port,
peer) and remembered as a `_Site`: what happens to a connection, and two judges of requests. One judges by the policies
in mode enforce alone, and its verdict is what happens; the other by all policies, where that could differ, and what it
denies is told in the verdict of a request that passes. A judge has either one finished verdict, or tables of the rules
that name this peer (`http_rules`, `kafka_rules`): those that deny are asked first.

    deny rule ─▶ L4 allow ─▶ rules that allow ─▶ default (a denial, unless no policy wants one)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from policies.http_rules import Entry, HttpRules
from policies.kafka_rules import Entry as KafkaEntry
from policies.kafka_rules import KafkaRules
from policies.requests import HttpRequest, KafkaRequest
from policies.ruleset import (
    TCP,
    Answer,
    ConnectionVerdict,
    Direction,
    DirectionRules,
    HeaderMatch,
    HttpRule,
    KafkaRule,
    Line,
    Mismatch,
    Outcome,
    PolicyRef,
    RuleSet,
)

__all__ = [
    "CONFLICT",
    "DEFAULT_ALLOW",
    "DEFAULT_DENY",
    "UNKNOWN_ENDPOINT",
    "Engine",
    "HeaderEdit",
    "HttpRequest",
    "KafkaRequest",
    "Permit",
    "Verdict",
]

# What `Verdict.rule` says where no rule of a document gave the verdict. Names of rules hold a space.
DEFAULT_DENY = "default-deny"
DEFAULT_ALLOW = "default-allow"
UNKNOWN_ENDPOINT = "unknown-endpoint"
CONFLICT = "conflicting-rules"  # http and kafka rules for one peer and port

MAX_SITES = 65_536  # about 1 KiB each; past it all are forgotten and worked out anew, so it costs time, never a verdict

# Requests remembered for one set of lines, at most half a megabyte.
MAX_SEEN = 1024
MAX_SEEN_PATH = 256

type Protocol = Literal["", "http", "kafka", "conflict"]


@dataclass(frozen=True, slots=True)
class Permit:
    """The value an allow verdict hands out; without it no upstream is opened. Tells what was allowed and by what."""

    endpoint_id: int
    direction: Direction
    port: int
    rule: str
    revision: int


@dataclass(frozen=True, slots=True)
class HeaderEdit:
    """A change to make to a request that is allowed. action: ADD appends the header, REPLACE makes it the only one of
    its name, DELETE removes all of that name. name in lower case; value "" for DELETE."""

    action: Mismatch
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one request, or to a connection.

    rule: name of the rule that decided, or DEFAULT_DENY, DEFAULT_ALLOW (nothing wants a denial), CONFLICT or
    UNKNOWN_ENDPOINT: never empty, it goes into the record.
    reason: one line for people. policies: those that allowed or denied, or those whose selection makes the default a
    denial. permit: present exactly when `allow` is True.
    audited: it is allowed, and the policies in mode audit would deny; then rule, reason and policies say who would.
    edits: header changes to make, in order. logged: names of headers whose mismatch is to be recorded.
    """

    allow: bool
    reason: str
    rule: str
    policies: tuple[PolicyRef, ...]
    permit: Permit | None
    audited: bool = False
    edits: tuple[HeaderEdit, ...] = ()
    logged: tuple[str, ...] = ()


class Engine:
    """Judges connections and requests by one rule set; build a new one for a new revision.

    previous: the engine of the revision before. Tables of lines that are the same objects in both are taken over when
    they are first needed, so that an edit costs what it touches.

    Not safe for several threads at once; a worker has one.
    """

    __slots__ = ("_inherited", "_sites", "_tables", "revision", "ruleset")

    def __init__(self, ruleset: RuleSet, previous: "Engine | None" = None) -> None:
        self.ruleset = ruleset
        self._inherited = {} if previous is None else previous._tables
        self.revision = ruleset.revision
        self._sites: dict[tuple[int, int, int, int, int], _Site] = {}
        self._tables: dict[tuple[int, ...], _Tables] = {}  # by the lines: most peers share them

    def judge_peer(self, endpoint_id: int, direction: Direction | int, identity: int, port: int) -> Answer:
        """What the kernel map answers for a new TCP connection; `port` is that of the original destination.

        An unknown endpoint is denied; a direction that no policy enforces is allowed.
        """
        return self._site(endpoint_id, direction, port, identity, TCP).connection.answer

    def connection(
        self, endpoint_id: int, direction: Direction | int, identity: int, port: int, protocol: int = TCP
    ) -> ConnectionVerdict:
        """What happens to a new connection, and by which lines. protocol: TCP, UDP or OTHER_PROTOCOL."""
        return self._site(endpoint_id, direction, port, identity, protocol).connection

    def connection_verdict(
        self, endpoint_id: int, direction: Direction | int, identity: int, port: int, protocol: int = TCP
    ) -> Verdict:
        """The same with names, as for a request. It has a permit only where the policies in mode enforce allow the
        connection whatever it carries."""
        return self._site(endpoint_id, direction, port, identity, protocol).verdict

    def protocol_of(self, endpoint_id: int, direction: Direction | int, identity: int, port: int) -> Protocol:
        """What a connection must be for its requests to be judged; "" where none are, "conflict" where http and kafka
        rules meet: then every request is denied."""
        return self._site(endpoint_id, direction, port, identity, TCP).protocol

    def reads_headers(self, endpoint_id: int, direction: Direction | int, identity: int, port: int) -> bool:
        """Whether a rule that could judge these requests reads headers. Where none does, requests with the same method,
        path and host have the same verdict."""
        site = self._site(endpoint_id, direction, port, identity, TCP)
        return site.enforced.reads_headers or (site.audited is not None and site.audited.reads_headers)

    def audit_policies(
        self, endpoint_id: int, direction: Direction | int, identity: int, port: int
    ) -> tuple[PolicyRef, ...]:
        """The policies in mode audit whose rules judge the requests of a connection."""
        endpoint = self.ruleset.endpoints.get(endpoint_id)
        lines = [] if endpoint is None else endpoint.direction(direction).matching(TCP, port, identity)
        return tuple(dict.fromkeys(line.policy for line in lines if line.audit and line.l7))

    def decide(
        self, endpoint_id: int, direction: Direction | int, peer_identity: int, port: int, request: HttpRequest
    ) -> Verdict:
        """Judge one request. `port` is the port of the original destination, peer_identity 0 an unknown peer.

        Raises nothing by design; a caller that sees an exception all the same must deny.
        """
        site = self._site(endpoint_id, direction, port, peer_identity, TCP)
        verdict = site.enforced.constant or site.enforced.http(request)
        if site.audited is None or not verdict.allow:
            return verdict
        return _with_audit(verdict, site.audited.constant or site.audited.http(request))

    def decide_kafka(
        self, endpoint_id: int, direction: Direction | int, peer_identity: int, port: int, request: KafkaRequest
    ) -> Verdict:
        """`decide` for one question of a Kafka request; the request is allowed where all of its questions are."""
        site = self._site(endpoint_id, direction, port, peer_identity, TCP)
        verdict = site.enforced.constant or site.enforced.kafka(request)
        if site.audited is None or not verdict.allow:
            return verdict
        return _with_audit(verdict, site.audited.constant or site.audited.kafka(request))

    def kafka_unread(self, endpoint_id: int, direction: Direction | int, peer_identity: int, port: int) -> Verdict:
        """The verdict on Kafka that cannot be read, as inside TLS: allowed where any request whatever would be."""
        site = self._site(endpoint_id, direction, port, peer_identity, TCP)
        verdict = site.enforced.constant or site.enforced.unread()
        if site.audited is None or not verdict.allow:
            return verdict
        return _with_audit(verdict, site.audited.constant or site.audited.unread())

    def _site(self, endpoint_id: int, direction: Direction | int, port: int, identity: int, protocol: int) -> "_Site":
        key = (endpoint_id, direction, port, identity, protocol)
        site = self._sites.get(key)
        if site is None:
            site = self._make_site(endpoint_id, Direction(direction), port, identity, protocol)
            if len(self._sites) >= MAX_SITES:
                self._sites.clear()
                self._tables.clear()
            self._sites[key] = site
        return site

    def _make_site(self, endpoint_id: int, direction: Direction, port: int, identity: int, protocol: int) -> "_Site":
        endpoint = self.ruleset.endpoints.get(endpoint_id)
        if endpoint is None:
            reason = f"endpoint {endpoint_id} is not in revision {self.revision}"
            unknown = _Judge(Verdict(False, reason, UNKNOWN_ENDPOINT, (), None))
            denied = Outcome(Answer.DENY)
            return _Site(ConnectionVerdict(Answer.DENY, denied, denied), "", unknown, None)
        rules = endpoint.direction(direction)

        def allow(name: str, policies: tuple[PolicyRef, ...], reason: str) -> Verdict:
            return Verdict(True, reason, name, policies, Permit(endpoint_id, direction, port, name, self.revision))

        place = _Place(rules, direction, port, allow)
        connection = rules.connection(protocol, port, identity)
        if not rules.enforced:
            reason = f"no policy selects the endpoint for {direction.name.lower()}"
            return _Site(connection, "", _Judge(allow(DEFAULT_ALLOW, (), reason)), None)
        lines = rules.matching(protocol, port, identity)
        mine = [line for line in lines if not line.audit]
        enforced = self._judge(place, mine, connection.enforced)
        audited = None
        if connection.audited is not connection.enforced:
            audited = self._judge(place, lines, connection.audited)
        judging: Protocol = ""
        if connection.answer is Answer.PROXY:
            judging = _kind(mine if connection.enforced.answer is Answer.PROXY else lines)
        return _Site(connection, judging, enforced, audited)

    def _judge(self, place: "_Place", lines: list[Line], outcome: Outcome) -> "_Judge":
        if outcome.answer is Answer.DENY:
            line = outcome.line
            if line is not None:
                return _Judge(Verdict(False, f"denied by {line.name} (L4)", line.name, (line.policy,), None))
            return _Judge(place.denied(f"no rule names this peer on port {place.port}"))
        first = None
        if outcome.line is not None:
            line = outcome.line
            first = place.allow(line.name, (line.policy,), f"allowed by {line.name} (L4)")
        if outcome.answer is Answer.ALLOW:
            return _Judge(first or place.allowed_by_default())
        judged = [line for line in lines if line.l7]
        kind = _kind(judged)
        if kind == "conflict":
            policies = tuple(dict.fromkeys(line.policy for line in judged))
            reason = f"http and kafka rules meet on port {place.port}"
            return _Judge(Verdict(False, reason, CONFLICT, policies, None))
        # INVARIANT: tables keep their lines alive, so while a table is known by these ids nothing else can have them
        key = tuple(map(id, judged))
        tables = self._tables.get(key)
        if tables is None:
            tables = self._tables[key] = self._inherited.get(key) or _Tables(judged)
        denied = place.denied(f"no {kind} rule for this peer on port {place.port} matched")
        last = place.allowed_by_default() if outcome.fallback else denied
        return _Judge(None, tables, kind, first, last, place)


class _Place:
    """What the verdicts of one site have in common."""

    __slots__ = ("allow", "direction", "policies", "port")

    def __init__(
        self,
        rules: DirectionRules,
        direction: Direction,
        port: int,
        allow: Callable[[str, tuple[PolicyRef, ...], str], Verdict],
    ) -> None:
        self.policies = rules.policies
        self.direction = direction
        self.port = port
        self.allow = allow

    def denied(self, why: str) -> Verdict:
        names = ", ".join(f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name for ref in self.policies)
        return Verdict(False, f"{why}, selected by {names}" if names else why, DEFAULT_DENY, self.policies, None)

    def allowed_by_default(self) -> Verdict:
        reason = f"no policy in force denies {self.direction.name.lower()} by default"
        return self.allow(DEFAULT_ALLOW, (), reason)


class _Tables:
    """The rules of some lines."""

    __slots__ = (
        "_lines", "_plain", "_seen", "http_allows", "http_denies", "kafka_allows", "kafka_denies", "reads_headers"
    )  # fmt: skip

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines
        http = [(line, rule) for line in lines for rule in line.http or ()]
        kafka = [(line, rule) for line in lines for rule in line.kafka or ()]
        self.http_denies = HttpRules([each for each in http if each[1].deny], deny=True)
        self.http_allows = HttpRules([each for each in http if not each[1].deny], deny=False)
        self.kafka_denies = KafkaRules([each for each in kafka if each[1].deny], deny=True)
        self.kafka_allows = KafkaRules([each for each in kafka if not each[1].deny], deny=False)
        # where no rule asks for more than method and path, what was found for them before is found again
        self._plain = not any(rule.host is not None or rule.headers or rule.query for _, rule in http)
        self.reads_headers = any(rule.headers for _, rule in http)
        self._seen: dict[tuple[str, str], Entry | None] = {}

    def http(self, request: HttpRequest) -> Entry | None:
        """The rule that decides: the first that denies, or the first that allows."""
        if not self._plain:
            return self._find(request)
        key = (request.method, request.path)
        try:
            return self._seen[key]
        except KeyError:
            found = self._find(request)
            if len(request.path) <= MAX_SEEN_PATH:
                if len(self._seen) >= MAX_SEEN:
                    self._seen.clear()
                self._seen[key] = found
            return found

    def _find(self, request: HttpRequest) -> Entry | None:
        if self.http_denies.size and (entry := self.http_denies.find(request)) is not None:
            return entry
        return self.http_allows.find(request)

    def kafka(self, request: KafkaRequest) -> KafkaEntry | None:
        """As `http`."""
        if self.kafka_denies.size and (entry := self.kafka_denies.find(request)) is not None:
            return entry
        if request.name is None:
            return self.kafka_allows.find_any(request, self.kafka_denies)
        return self.kafka_allows.find(request)


class _Judge:
    """What some lines say of requests: `constant`, or what `http` and `kafka` find."""

    __slots__ = ("_first", "_kind", "_last", "_place", "_tables", "_verdicts", "constant")

    def __init__(
        self,
        constant: Verdict | None,
        tables: _Tables | None = None,
        kind: Protocol = "",
        first: Verdict | None = None,
        last: Verdict | None = None,
        place: _Place | None = None,
    ) -> None:
        self.constant = constant
        self._tables = tables
        self._kind = kind
        self._first = first
        self._last = last
        self._place = place
        self._verdicts: dict[int, Verdict] = {}  # by the place of the rule that allows

    @property
    def reads_headers(self) -> bool:
        return self._tables is not None and self._tables.reads_headers

    def http(self, request: HttpRequest) -> Verdict:
        tables, place, last = self._tables, self._place, self._last
        if tables is None or place is None or last is None:
            raise AssertionError("a judge without a verdict has its tables")
        if self._kind != "http":
            return place.denied("a request that is not Kafka, and the rules are for Kafka")
        entry = tables.http(request)
        if entry is not None and entry.rule.deny:
            return _denied_by(entry.line, entry.rule)
        if self._first is not None:
            return self._first
        if entry is None:
            return last
        verdict = self._verdicts.get(entry.order) or self._allowed_by(entry.order, entry.line, entry.rule, place)
        changes = tables.http_allows.mismatches(request) if tables.http_allows.acting else ()
        return _with_changes(verdict, changes, request) if changes else verdict

    def kafka(self, request: KafkaRequest) -> Verdict:
        tables, place, last = self._tables, self._place, self._last
        if tables is None or place is None or last is None:
            raise AssertionError("a judge without a verdict has its tables")
        if self._kind != "kafka":
            return place.denied("a request that is not HTTP, and the rules are for HTTP")
        entry = tables.kafka(request)
        if entry is not None and entry.rule.deny:
            return _denied_by(entry.line, entry.rule)
        if self._first is not None:
            return self._first
        if entry is None:
            return last
        return self._verdicts.get(entry.order) or self._allowed_by(entry.order, entry.line, entry.rule, place)

    def unread(self) -> Verdict:
        tables, place, last = self._tables, self._place, self._last
        if tables is None or place is None or last is None:
            raise AssertionError("a judge without a verdict has its tables")
        if self._kind != "kafka" or tables.kafka_denies.size:
            return place.denied("requests cannot be read, and a rule denies some of them")
        if self._first is not None or last.allow:
            return self._first or last
        entry = tables.kafka_allows.whole
        if entry is None:
            return place.denied("requests cannot be read, and no rule allows all of them")
        return self._allowed_by(entry.order, entry.line, entry.rule, place)

    def _allowed_by(self, order: int, line: Line, rule: HttpRule | KafkaRule, place: _Place) -> Verdict:
        verdict = self._verdicts.get(order)
        if verdict is None:
            verdict = place.allow(rule.name, (line.policy,), f"allowed by {rule.name}")
            self._verdicts[order] = verdict
        return verdict


class _Site:
    """What is known before the request. audited: None where it could say nothing else than `enforced`."""

    __slots__ = ("audited", "connection", "enforced", "protocol", "verdict")

    def __init__(
        self, connection: ConnectionVerdict, protocol: Protocol, enforced: _Judge, audited: _Judge | None
    ) -> None:
        self.connection = connection
        self.protocol = protocol
        self.enforced = enforced
        self.audited = audited
        verdict = enforced.constant or Verdict(False, "its requests are judged one by one", DEFAULT_DENY, (), None)
        if verdict.allow and audited is not None and audited.constant is not None:
            verdict = _with_audit(verdict, audited.constant)
        self.verdict = verdict


def _kind(lines: Iterable[Line]) -> Protocol:
    http = kafka = False
    for line in lines:
        http = http or line.http is not None
        kafka = kafka or line.kafka is not None
    if http and kafka:
        return "conflict"
    return "http" if http else "kafka" if kafka else ""


def _denied_by(line: Line, rule: HttpRule | KafkaRule) -> Verdict:
    return Verdict(False, f"denied by {rule.name}", rule.name, (line.policy,), None)


def _with_audit(verdict: Verdict, other: Verdict) -> Verdict:
    """What happens, with the name of who would have denied it."""
    if other.allow:
        return verdict
    return Verdict(
        True,
        f"audit only, {other.reason}",
        other.rule,
        other.policies,
        verdict.permit,
        audited=True,
        edits=verdict.edits,
        logged=verdict.logged,
    )


def _with_changes(verdict: Verdict, mismatches: Iterable[HeaderMatch], request: HttpRequest) -> Verdict:
    edits: list[HeaderEdit] = []
    logged: list[str] = []
    for match in mismatches:
        action = match.mismatch
        if action is Mismatch.LOG:
            logged.append(match.name)
        elif action is Mismatch.DELETE:
            name = match.name.encode()
            if any(key == name for key, _ in request.headers):
                edits.append(HeaderEdit(action, match.name, ""))
        else:
            edits.append(HeaderEdit(action, match.name, match.value or ""))
    return Verdict(
        True, verdict.reason, verdict.rule, verdict.policies, verdict.permit, edits=tuple(edits), logged=tuple(logged)
    )
