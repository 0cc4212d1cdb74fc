"""Decisions that were recorded, as far as policies can judge them again, and the pods that they tell of.

A record holds no header, no value of a query and no more than names and labels of pods. So a request from a record is a
set of possible requests, and it can be judged again only where all of them get one verdict: `possible` makes samples of
them, and `loosened` and `tightened` are the rule set with what is unknown taken to fit or not to fit.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from policies.inventory import Inventory, Pod
from policies.requests import KafkaRequest
from policies.resolve import IdentityKey, identity_key
from policies.ruleset import (
    Direction,
    DirectionRules,
    EndpointRules,
    HttpRule,
    Line,
    Mismatch,
    PathKind,
    Reserved,
    RuleSet,
)

HIDDEN = "***"
"""What a record shows instead of a secret."""
RESERVED = {
    "host": Reserved.HOST,
    "remote-node": Reserved.REMOTE_NODE,
    "kube-apiserver": Reserved.KUBE_APISERVER,
    "unknown": Reserved.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Party:
    """One end of a recorded connection: a pod when it has a name, else known by its address, or as one of RESERVED."""

    address: str
    namespace: str = ""
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    reserved: str = ""

    @property
    def key(self) -> IdentityKey:
        """The identity of a pod."""
        return identity_key(self.namespace, self.labels)

    @property
    def text(self) -> str:
        """How a person calls it."""
        return f"{self.namespace}/{self.name}" if self.name else self.reserved or self.address


@dataclass(frozen=True, slots=True)
class HttpFlow:
    """A recorded request. path: canonical, with "?query" where there was one, secrets hidden."""

    method: str
    path: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class Flow:
    """One recorded decision. verdict: the record's word. direction: which side decided. port: the destination's.
    http, kafka: at most one; of a Kafka request one question, of which there may be several."""

    source: Party
    destination: Party
    direction: Direction
    protocol: int
    port: int
    http: HttpFlow | None = None
    verdict: str = "FORWARDED"
    rule: str = ""
    reason: str = ""
    kafka: KafkaRequest | None = None
    beside: tuple[KafkaRequest, ...] = ()
    """What else its request must have asked: beside topics, a group or transactional id has no record of its own."""

    @property
    def own(self) -> Party:
        """The pod at which it was decided."""
        return self.destination if self.direction is Direction.INGRESS else self.source

    @property
    def peer(self) -> Party:
        """The other end."""
        return self.source if self.direction is Direction.INGRESS else self.destination


class Cast:
    """Everybody that some flows tell of, as an inventory, each pod with an endpoint id.

    The same pod with other labels is another pod here: a record is judged by the labels it was made with. Ports, nodes,
    services and labels of namespaces come from `known`, as no record has them.
    """

    def __init__(self, flows: Iterable[Flow], known: Inventory | None = None) -> None:
        known = known or Inventory()
        ports = {(pod.namespace, pod.name): pod.ports for pod in known.pods}
        pods: dict[tuple[str, IdentityKey], Pod] = {}
        taken: dict[tuple[str, str], int] = {}
        for flow in flows:
            for party in (flow.source, flow.destination):
                key = (party.name, party.key)
                if not party.name or key in pods:
                    continue
                at = party.namespace, party.name
                again = taken[at] = taken.get(at, 0) + 1
                name = party.name if again == 1 else f"{party.name} ({again})"
                number = len(pods) + 1
                pods[key] = Pod(party.namespace, name, dict(party.labels), (), number, ports.get(at, ()))
        others = tuple(replace(pod, endpoint_id=None) for pod in known.pods if (pod.namespace, pod.name) not in taken)
        self.inventory = replace(known, pods=(*pods.values(), *others))
        self._ids = {key: pod.endpoint_id for key, pod in pods.items() if pod.endpoint_id is not None}

    def endpoint(self, party: Party) -> int | None:
        """The endpoint id of a pod; None when the party is none."""
        return self._ids.get((party.name, party.key)) if party.name else None


def possible(http: HttpFlow) -> list[str]:
    """Paths that the recorded one may stand for."""
    if HIDDEN not in http.path:
        return [http.path]
    return [http.path.replace(HIDDEN, value) for value in _SAMPLES]


_SAMPLES = ("", "1", "0123456789", "a", "true", "Zq-._~", "a%20b", "%2F..%2F", "x" * 40, "5f3e9a7c-1b2d", HIDDEN)
_HIDDEN_KEY = re.compile(r"[?&]\*\*\*(=|&|$)")


def hides_a_key(http: HttpFlow) -> bool:
    """Whether a key of its query is not known."""
    return _HIDDEN_KEY.search(http.path) is not None


def loosened(rules: RuleSet) -> RuleSet:
    """Whatever no record tells is as allow rules want it and as deny rules do not: nothing is allowed beyond this."""
    return _changed(rules, loose=True)


def tightened(rules: RuleSet) -> RuleSet:
    """The other way round: nothing is denied beyond this."""
    return _changed(rules, loose=False)


def asks_the_unknown(rule: HttpRule) -> bool:
    """Whether it asks for more than a record tells, apart from values inside the path's text."""
    headers = any(header.mismatch is Mismatch.REFUSE for header in rule.headers)
    return headers or any(query.value is not None for query in rule.query)


def _changed(rules: RuleSet, *, loose: bool) -> RuleSet:
    known: dict[int, DirectionRules] = {}  # many endpoints share one

    def direction(part: DirectionRules) -> DirectionRules:
        found = known.get(id(part))
        if found is None:
            found = known[id(part)] = replace(part, lines=tuple(_line(line, loose) for line in part.lines))
        return found

    endpoints: dict[int, EndpointRules] = {
        number: replace(endpoint, ingress=direction(endpoint.ingress), egress=direction(endpoint.egress))
        for number, endpoint in rules.endpoints.items()
    }
    return replace(rules, endpoints=endpoints)


def _line(line: Line, loose: bool) -> Line:
    if line.http is None or not any(asks_the_unknown(rule) for rule in line.http):
        return line
    fitting = []
    for rule in line.http:
        if not asks_the_unknown(rule):
            fitting.append(rule)
        elif loose is not rule.deny:  # it is taken to fit
            query = tuple(replace(each, value=None) for each in rule.query)
            fitting.append(replace(rule, headers=(), query=query))
        elif rule.deny:
            fitting.append(_never(rule))  # a list with a deny rule sends requests to be judged even so
    return replace(line, http=tuple(fitting))


def _never(rule: HttpRule) -> HttpRule:
    return HttpRule(rule.name, method="", path="", path_kind=PathKind.EXACT, deny=True)


def plain(address: str) -> str:
    """The address as rule sets know it; "" when it is none."""
    try:
        ip = ip_address(address)
    except ValueError:
        return ""
    return str(getattr(ip, "ipv4_mapped", None) or ip)
