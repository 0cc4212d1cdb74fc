"""Recorded flows judged again, by one set of policies and by another: what would change?"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from policies.engine import Engine, HttpRequest
from policies.explain import Judgement, Question, asked_text, identity_of, judge
from policies.flows import RESERVED, Cast, Flow, Party, hides_a_key, loosened, plain, possible, tightened
from policies.inventory import Inventory
from policies.kafka import API_NAMES
from policies.policyset import PolicySet, ServicePeer
from policies.resolve import resolve
from policies.ruleset import RuleSet
from policies.selector import NAMESPACE_LABELS, NAMESPACE_NAME_LABEL, Selector

REDACTED: Final = "the verdict depends on a query or header value, which no record has"
NO_POD: Final = "the side that decided is not a pod"
NO_PEER: Final = "the other end is unknown: its address is missing or claimed twice"


@dataclass(frozen=True, slots=True)
class Again:
    """A flow judged again; None: it cannot be, and `judgement` has no meaning. `why` says why."""

    judgement: Judgement | None
    why: str = ""


class Replay:
    """One set of policies, over everybody that the flows tell of."""

    def __init__(self, policies: PolicySet, cast: Cast) -> None:
        self._cast = cast
        rules = resolve(policies, cast.inventory, 1)
        self._rules = rules
        self._engine = Engine(rules)
        self._asks_query = any(
            rule.query
            for endpoint in rules.endpoints.values()
            for part in (endpoint.ingress, endpoint.egress)
            for line in part.lines
            for rule in line.http or ()
        )
        self._bounds = (Engine(loosened(rules)), Engine(tightened(rules)))

    def judge(self, flow: Flow) -> Again:
        """The verdict, where everything that the record may stand for gets one and the same."""
        if flow.rule.startswith("tulle:"):
            return Again(None, f"{flow.rule} decided, whatever policies say")
        endpoint = self._cast.endpoint(flow.own)
        if endpoint is None:
            return Again(None, NO_POD)
        identity = self._identity(flow.peer)
        if identity is None:
            return Again(None, NO_PEER)
        if flow.http is None:  # a record has all that policies ask of a Kafka request
            question = Question(flow.protocol, flow.port, kafka=flow.kafka)
            return Again(judge(self._engine, endpoint, flow.direction, identity, question))
        if self._asks_query and hides_a_key(flow.http):
            return Again(None, REDACTED)
        found: Judgement | None = None
        for engine in self._bounds:
            for path in possible(flow.http):
                request = HttpRequest(flow.http.method, path, flow.http.host)
                judgement = judge(
                    engine, endpoint, flow.direction, identity, Question(flow.protocol, flow.port, request)
                )
                if found is not None and (found.allow, found.audited) != (judgement.allow, judgement.audited):
                    return Again(None, REDACTED)
                found = found or judgement
        return Again(found)

    def _identity(self, party: Party) -> int | None:
        return identity_of_party(self._rules, self._cast, party)


def identity_of_party(rules: RuleSet, cast: Cast, party: Party) -> int | None:
    """What the party is judged by: a pod by its labels, another by what the record calls it or by its address."""
    number = cast.endpoint(party)
    if number is not None:
        return rules.endpoints[number].identity
    if party.reserved in RESERVED:
        return int(RESERVED[party.reserved]) if party.reserved != "unknown" else None
    address = plain(party.address)
    return identity_of(rules, address) if address else None


@dataclass(frozen=True, slots=True)
class Change:
    """Flows of one kind that a change of policies decides in another way."""

    source: str
    destination: str
    direction: str
    protocol: int
    port: int
    request: str
    before: Judgement
    after: Judgement
    count: int
    kafka: bool = False
    """Whether `request` is one of Kafka."""

    @property
    def kind(self) -> str:
        """`allow -> deny`, `deny -> allow`, or what becomes or ceases to be audited."""
        return f"{_word(self.before)} -> {_word(self.after)}"


def _word(judgement: Judgement) -> str:
    return "audit" if judgement.audited else "allow" if judgement.allow else "deny"


@dataclass(slots=True)
class Difference:
    """What `compare` found. skipped: flows that cannot be judged again, by reason."""

    changes: list[Change] = field(default_factory=list)
    judged: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def changed(self) -> int:
        """Flows that are decided in another way."""
        return sum(change.count for change in self.changes)


def compare(old: PolicySet, new: PolicySet, flows: Sequence[Flow], known: Inventory | None = None) -> Difference:
    """Judge every flow by both sets.

    Raises:
        ValueError: `known` contradicts itself.
    """
    cast = Cast(flows, known)
    before, after = Replay(old, cast), Replay(new, cast)
    found = Difference()
    groups: dict[tuple[object, ...], Change] = {}
    counts: Counter[tuple[object, ...]] = Counter()
    seen: dict[tuple[object, ...], tuple[Again, Again]] = {}
    for flow in flows:
        key = (*_key(flow), flow.own.key, flow.peer.key)
        if key not in seen:
            seen[key] = before.judge(flow), after.judge(flow)
        one, two = seen[key]
        if one.judgement is None or two.judgement is None:
            found.skipped[one.why or two.why] += 1
            continue
        found.judged += 1
        if _word(one.judgement) != _word(two.judgement):
            group = (*_key(flow), one.judgement.rule, two.judgement.rule)
            counts[group] += 1
            groups.setdefault(group, _change(flow, one.judgement, two.judgement))
    found.changes = [replace(change, count=counts[group]) for group, change in groups.items()]
    found.changes.sort(key=lambda change: (change.kind, -change.count, change.source, change.destination))
    return found


def _key(flow: Flow) -> tuple[object, ...]:
    http = (flow.http.method, flow.http.path, flow.http.host) if flow.http is not None else ()
    return flow.source.text, flow.destination.text, flow.direction, flow.protocol, flow.port, flow.kafka, *http


def _change(flow: Flow, before: Judgement, after: Judgement) -> Change:
    request = ""
    if flow.http is not None:
        request = f"{flow.http.method} {flow.http.path}"
    elif flow.kafka is not None:
        request = f"{API_NAMES.get(flow.kafka.api_key, flow.kafka.api_key)} {asked_text(flow.kafka)}"
    return Change(
        flow.source.text,
        flow.destination.text,
        flow.direction.name.lower(),
        flow.protocol,
        flow.port,
        request,
        before,
        after,
        1,
        flow.kafka is not None,
    )


def unknown_without_inventory(policies: Iterable[PolicySet]) -> list[str]:
    """What some of these policies ask that no record tells: it is judged as if nothing had it."""
    found: dict[str, None] = {}
    for each in policies:
        for section in each.sections:
            selectors = [section.selector]
            for grant in (*(section.ingress or ()), *(section.egress or ())):
                selectors += [peer for peer in grant.peers or () if isinstance(peer, Selector)]
                if grant.port.named is not None:
                    found["ports by name"] = None
                if any(isinstance(peer, ServicePeer) for peer in grant.peers or ()):
                    found["services"] = None
            for selector in selectors:
                own = NAMESPACE_LABELS + NAMESPACE_NAME_LABEL
                if any(t.key.startswith(NAMESPACE_LABELS) and t.key != own for t in selector.requirements):
                    found["labels of namespaces"] = None
    return list(found)


__all__ = ["Again", "Change", "Difference", "Replay", "compare", "unknown_without_inventory"]
