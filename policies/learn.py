"""Least-privilege policies from flows that were seen.

One CiliumNetworkPolicy for each set of labels that was connected to (and, for egress, that connected). A peer is named
by all of its labels but those that change with every roll-out, a request by its method and its path, in which segments
that look like identifiers become patterns. What cannot be told apart from other things by labels is not learned, and
counted: a rule that names too much would be worse than the missing one that people are told of.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final

from policies.describe import protocol_name
from policies.flows import HIDDEN, Flow, HttpFlow, Party, plain
from policies.learn_kafka import is_ours, learned_rules, unlearnable
from policies.requests import KafkaRequest
from policies.ruleset import TCP, UDP, Direction
from policies.selector import NAMESPACE_LABEL

# Labels that differ between two pods of one workload, or between two roll-outs of it.
PASSING_LABELS: Final = frozenset(
    {
        "pod-template-hash",
        "controller-revision-hash",
        "pod-template-generation",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "controller-uid",
        "job-name",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
        "batch.kubernetes.io/job-completion-index",
        NAMESPACE_LABEL,
    }
)
MANY: Final = 10
"""As many different words at one place of otherwise equal paths are taken for identifiers."""
MAX_RULES: Final = 1000
"""Request rules of one peer and port; past it the paths are no longer told apart, and a note says so."""

type Yaml = str | int | list["Yaml"] | dict[str, "Yaml"]
type Workload = tuple[str, tuple[tuple[str, str], ...]]  # namespace and lasting labels

_NUMBER = re.compile(r"[0-9]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HEX = re.compile(r"(?=.*[0-9])[0-9a-fA-F]{12,}")
_TOKEN = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_=-]{20,}")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9/_~%&=,;:!@'-]")

SEGMENT: Final = "[^/?]+"
QUERY: Final = "([?].*)?"


@dataclass(slots=True)
class Learned:
    """documents: as people write them. covered: flows that they allow, of `seen`; skipped: the others by reason.

    notes: what became wider than what was seen.
    """

    documents: list[dict[str, Yaml]] = field(default_factory=list)
    seen: int = 0
    covered: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)
    """Those that are covered."""


@dataclass(slots=True)
class _Traffic:
    """Between one workload and one peer on one port. plain: something without a request was seen."""

    requests: list[HttpFlow] = field(default_factory=list)
    kafka: list[KafkaRequest] = field(default_factory=list)
    plain: bool = False


type _Port = tuple[int, int]  # protocol, port
type _Peers = dict[tuple[str, ...], dict[_Port, _Traffic]]  # by `_peer_key`


def learn(
    flows: Iterable[Flow],
    *,
    egress: bool = False,
    namespaces: frozenset[str] = frozenset(),
    ours: bool = False,
) -> Learned:
    """Policies that allow these flows.

    egress: rules for the pods that connect, too. namespaces: only policies of these; empty: of all. ours: in our own
    kind where it says more than Cilium's can, which is of Kafka's groups, transactional ids and administration.
    """
    found = Learned()
    into: dict[Workload, _Peers] = {}
    out: dict[Workload, _Peers] = {}
    parties: dict[tuple[str, ...], Party] = {}
    for flow in flows:
        found.seen += 1
        why = _cannot(flow, egress=egress, namespaces=namespaces)
        if why:
            found.skipped[why] += 1
            continue
        found.covered += 1
        found.flows.append(flow)
        for own, peer, table, wanted in (
            (flow.destination, flow.source, into, True),
            (flow.source, flow.destination, out, egress),
        ):
            if not wanted or not own.name or (namespaces and own.namespace not in namespaces):
                continue
            key = _peer_key(peer)
            parties.setdefault(key, peer)
            traffic = table.setdefault(_workload(own), {}).setdefault(key, {})
            entry = traffic.setdefault((flow.protocol, flow.port), _Traffic())
            if flow.http is not None:
                entry.requests.append(flow.http)
            elif flow.kafka is not None:
                entry.kafka += [flow.kafka, *(asked for asked in flow.beside if not unlearnable(asked))]
            else:
                entry.plain = True
    names: dict[tuple[str, str], Workload] = {}
    for table, direction in ((into, Direction.INGRESS), (out, Direction.EGRESS)):
        for workload in sorted(table):
            document = _document(workload, table[workload], direction, parties, names, found.notes, ours)
            found.documents.append(document)
    return found


def _cannot(flow: Flow, *, egress: bool, namespaces: frozenset[str]) -> str:
    """Why a flow cannot be learned; "" when it can."""
    if flow.verdict not in ("FORWARDED", "AUDIT"):
        return "was denied" if flow.verdict == "DROPPED" else "failed"
    if flow.reason == "node_probe":
        return "is a node's probe, which needs no policy"
    if flow.protocol not in (TCP, UDP):
        return f"protocol {protocol_name(flow.protocol)}"
    if not 1 <= flow.port <= 65535:
        return "has no port"
    into = bool(flow.destination.name) and (not namespaces or flow.destination.namespace in namespaces)
    out = egress and bool(flow.source.name) and (not namespaces or flow.source.namespace in namespaces)
    if not into and not out:
        if namespaces and (flow.destination.name or flow.source.name):
            return "is about another namespace"
        return "goes to what is no pod (see --egress)" if not egress else "has no pod at either end"
    if flow.direction is Direction.INGRESS and not into:
        return "was decided at a pod of another namespace"
    if flow.direction is Direction.EGRESS and not out and not into:
        return "was decided at a pod of another namespace"
    for party in (flow.source, flow.destination):
        if party.name and not _lasting(party.labels):
            return f"pod {party.text} has no lasting label to be known by"
        if not party.name and (why := _nobody(party)):
            return why
    if flow.kafka is not None and (why := unlearnable(flow.kafka)):
        return why
    if flow.http is not None:
        path = flow.http.path
        if not flow.http.method or not path:
            return "its request could not be read"
        if f"{HIDDEN}@" in path.partition("?")[0] or len(path) > 2000:
            return "its path is not recorded whole"
    return ""


def _nobody(party: Party) -> str:
    if party.reserved in ("host", "remote-node", "kube-apiserver"):
        return ""
    if party.reserved == "unknown" or not plain(party.address) or ip_address(plain(party.address)).is_link_local:
        return "an end of it is unknown"
    return ""


def _lasting(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, value) for key, value in labels.items() if key not in PASSING_LABELS))


def _workload(party: Party) -> Workload:
    return party.namespace, _lasting(party.labels)


def _peer_key(party: Party) -> tuple[str, ...]:
    if party.name:
        return ("pod", party.namespace, *(f"{key}={value}" for key, value in _lasting(party.labels)))
    if party.reserved in ("host", "remote-node", "kube-apiserver"):
        return ("entity", party.reserved)
    return ("cidr", plain(party.address))


def _document(
    workload: Workload,
    peers: _Peers,
    direction: Direction,
    parties: Mapping[tuple[str, ...], Party],
    names: dict[tuple[str, str], Workload],
    notes: list[str],
    ours: bool,
) -> dict[str, Yaml]:
    namespace, labels = workload
    side = direction.name.lower()
    word = "from" if direction is Direction.INGRESS else "to"
    name = _name(workload, side)
    if names.setdefault((namespace, name), workload) != workload:
        raise AssertionError("two workloads with one digest")
    # Peers with the same ports and requests share a rule.
    rules: dict[str, tuple[list[tuple[str, ...]], list[Yaml]]] = {}
    own = False
    for key in sorted(peers):
        ports: list[Yaml] = []
        for port in sorted(peers[key]):
            entry, only_ours = _port_entry(port, peers[key][port], f"{namespace}/{name}", notes, ours)
            ports.append(entry)
            own = own or only_ours
        kind = key[0]
        rules.setdefault(f"{kind} {ports!r}", ([], ports))[0].append(key)
    written: list[Yaml] = []
    for same, ports in rules.values():
        rule = _peers(same, parties, namespace, word)
        written.append({**rule, "toPorts": ports})
    spec: dict[str, Yaml] = {"endpointSelector": {"matchLabels": dict(labels)}, side: written}
    return {
        "apiVersion": "tulle.dev/v1" if own else "cilium.io/v2",
        "kind": "TulleNetworkPolicy" if own else "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def _peers(
    keys: Sequence[tuple[str, ...]], parties: Mapping[tuple[str, ...], Party], namespace: str, word: str
) -> dict[str, Yaml]:
    kind = keys[0][0]
    if kind == "entity":
        return {f"{word}Entities": [key[1] for key in keys]}
    if kind == "cidr":
        return {f"{word}CIDR": [str(ip_network(key[1])) for key in keys]}
    selectors: list[Yaml] = []
    for key in keys:
        party = parties[key]
        labels: dict[str, Yaml] = dict(_lasting(party.labels))
        if party.namespace != namespace:
            labels[f"k8s:{NAMESPACE_LABEL}"] = party.namespace
        selectors.append({"matchLabels": labels})
    return {f"{word}Endpoints": selectors}


def _port_entry(
    port: _Port, traffic: _Traffic, name: str, notes: list[str], ours: bool
) -> tuple[dict[str, Yaml], bool]:
    """The entry, and whether only our own kind can have it."""
    protocol, number = port
    entry: dict[str, Yaml] = {"ports": [{"port": str(number), "protocol": protocol_name(protocol)}]}
    if traffic.requests and traffic.kafka:
        notes.append(f"{name}: port {number} saw HTTP and Kafka: every request is allowed on it")
        return entry, False
    if traffic.plain:
        if traffic.requests or traffic.kafka:
            notes.append(
                f"{name}: port {number} also saw connections without a request: every request is allowed on it"
            )
        return entry, False
    if traffic.kafka:
        records, more = learned_rules(traffic.kafka, MAX_RULES, ours=ours)
        notes += [f"{name}: port {number} {note}" for note in more]
        entry["rules"] = {"kafka": [*records]}
        return entry, any(map(is_ours, records))
    rules = templates(traffic.requests)
    if len(rules) > MAX_RULES:
        notes.append(f"{name}: port {number} saw {len(rules)} kinds of requests: only methods are told apart")
        rules = [(method, ".*") for method in sorted({method for method, _ in rules})]
    http: list[Yaml] = [{"method": method, "path": path} for method, path in rules]
    entry["rules"] = {"http": http}
    return entry, False


def templates(requests: Iterable[HttpFlow]) -> list[tuple[str, str]]:
    """(method, path) patterns that match all of these requests, sorted."""
    queries: dict[tuple[str, tuple[str, ...]], bool] = {}
    for request in requests:
        path, mark, _ = request.path.partition("?")
        key = request.method, tuple(map(_segment, path.split("/")))
        queries[key] = queries.get(key, False) or bool(mark)
    depth = max((len(segments) for _, segments in queries), default=0)
    for place in range(depth):
        queries = _merged(queries, place)
    return sorted(
        (_escaped(method), "/".join(segments) + (QUERY if query else ""))
        for (method, segments), query in queries.items()
    )


def _merged(queries: dict[tuple[str, tuple[str, ...]], bool], place: int) -> dict[tuple[str, tuple[str, ...]], bool]:
    """Where MANY paths differ at this place alone, one pattern for all of them."""
    alike: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[tuple[str, tuple[str, ...]]]] = {}
    for key in queries:
        method, segments = key
        if place < len(segments) and segments[place]:
            alike.setdefault((method, segments[:place], segments[place + 1 :]), []).append(key)
    merged = dict(queries)
    for (method, before, after), keys in alike.items():
        if len(keys) >= MANY:
            queried = [merged.pop(key) for key in keys]
            merged[method, (*before, SEGMENT, *after)] = any(queried)
    return merged


def _segment(text: str) -> str:
    """The pattern for one segment of a recorded path."""
    if _NUMBER.fullmatch(text):
        return "[0-9]+"
    if _UUID.fullmatch(text):
        return "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    if _HEX.fullmatch(text):
        return "[0-9a-fA-F]+"
    if _TOKEN.fullmatch(text):
        return SEGMENT
    # a value behind "***" is unknown; `"`, `\` and "`" of a path stand in a record percent-encoded
    parts = [_escaped(part) for part in text.split(HIDDEN)]
    pattern = "[^/?]*".join(parts)
    return pattern.replace("%22", '(%22|")').replace("%60", "(%60|`)")


def _escaped(text: str) -> str:
    """A pattern that matches this text alone."""
    return _NOT_PLAIN.sub(lambda match: f"\\{match[0]}" if match[0].isascii() else match[0], text)


def _name(workload: Workload, side: str) -> str:
    namespace, labels = workload
    digest = hashlib.sha256(repr((namespace, labels)).encode()).hexdigest()[:8]
    by_key = dict(labels)
    best = next((by_key[key] for key in ("app.kubernetes.io/name", "app", "k8s-app", "name") if by_key.get(key)), "")
    readable = re.sub(r"[^a-z0-9]+", "-", (best or labels[0][1] or labels[0][0]).lower()).strip("-")[:40] or "pods"
    return f"learned-{readable}-{side}-{digest}"
