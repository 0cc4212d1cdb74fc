"""Policies and pods to the rule set of one node."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from policies.compile import ANY_PORT, Grant, PolicySet, Section
from policies.ruleset import DirectionRules, EndpointRules, Identity, Line, PolicyRef, RuleSet
from policies.selector import IdentityIndex

FIRST_IDENTITY = 256  # numbers below are kept for peers that are not pods; 0 is "unknown"

type IdentityKey = tuple[str, tuple[tuple[str, str], ...]]  # namespace, sorted labels


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the cluster. addresses: IP text. endpoint_id: set for pods of this node that the agent manages."""

    namespace: str
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    endpoint_id: int | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every pod that this node knows of, its own and those of other nodes."""

    pods: tuple[Pod, ...] = ()


def identity_key(namespace: str, labels: Mapping[str, str]) -> IdentityKey:
    """What an identity is known by."""
    return namespace, tuple(sorted(labels.items()))


def allocate_identities(pods: Iterable[Pod], previous: Mapping[IdentityKey, int]) -> dict[IdentityKey, int]:
    """A number for each (namespace, labels) in use; those in `previous` keep theirs.

    A number that `previous` holds is never given to other labels, even when nobody has its labels any more: entries of
    the revision in force must not come to mean another peer while the new one is put in. Without `previous` the numbers
    follow the sorted keys, so nodes that see the same pods agree.
    """
    keys = sorted({identity_key(pod.namespace, pod.labels) for pod in pods})
    number = max(previous.values(), default=FIRST_IDENTITY - 1)
    result: dict[IdentityKey, int] = {}
    for key in keys:
        if key in previous:
            result[key] = previous[key]
        else:
            number += 1
            result[key] = number
    return result


def numbers_of(rules: RuleSet) -> dict[IdentityKey, int]:
    """The `previous` of allocate_identities, from the rule set in force."""
    return {identity_key(identity.namespace, identity.labels): n for n, identity in rules.identities.items()}


def selected(policies: PolicySet, pod: Pod) -> tuple[bool, bool]:
    """Whether some policy selects the pod for (ingress, egress)."""
    ingress = egress = False
    for section in policies.sections:
        if section.selector.matches(pod.namespace, pod.labels):
            ingress |= section.ingress is not None
            egress |= section.egress is not None
    return ingress, egress


def resolve(
    policies: PolicySet, inventory: Inventory, revision: int, previous: Mapping[IdentityKey, int] | None = None
) -> RuleSet:
    """The rule set for the pods of the inventory that have an endpoint id, selected or not.

    An address that two pods claim belongs to none of them: it has no identity until that is settled.

    Raises:
        ValueError: an address is not IP text, two pods are one by name, or two have one endpoint id; the message names
            the pod.
    """
    _check_unique(inventory.pods)
    numbers = allocate_identities(inventory.pods, previous or {})
    identities = _identities(inventory.pods, numbers)
    index = IdentityIndex(identities)
    by_identity: dict[int, list[Section]] = {}
    for section in policies.sections:
        for number in index.select(section.selector):
            by_identity.setdefault(number, []).append(section)
    lines = _Lines(index)
    endpoints: dict[int, EndpointRules] = {}
    parts: dict[int, tuple[DirectionRules, DirectionRules]] = {}  # pods of one identity share their rules
    for pod in inventory.pods:
        if pod.endpoint_id is None:
            continue
        number = numbers[identity_key(pod.namespace, pod.labels)]
        if number not in parts:
            sections = by_identity.get(number, [])
            parts[number] = (
                lines.direction([(section.policy, section.ingress) for section in sections]),
                lines.direction([(section.policy, section.egress) for section in sections]),
            )
        endpoints[pod.endpoint_id] = EndpointRules(
            pod.endpoint_id, pod.namespace, pod.name, dict(pod.labels), *parts[number]
        )
    return RuleSet(revision, endpoints, identities, _addresses(inventory.pods, numbers))


class _Lines:
    """Grants with their peers worked out, each once for all endpoints."""

    def __init__(self, index: IdentityIndex) -> None:
        self._index = index
        self._known: dict[str, Line] = {}

    def direction(self, parts: list[tuple[PolicyRef, tuple[Grant, ...] | None]]) -> DirectionRules:
        ports: dict[int, list[Line]] = {}
        refs: dict[PolicyRef, None] = {}
        for policy, grants in parts:
            if grants is None:
                continue
            refs[policy] = None
            for grant in grants:
                ports.setdefault(grant.port, []).append(self._line(policy, grant))
        any_port = tuple(ports.pop(ANY_PORT, ()))
        return DirectionRules(bool(refs), {port: tuple(ports[port]) for port in sorted(ports)}, any_port, tuple(refs))

    def _line(self, policy: PolicyRef, grant: Grant) -> Line:
        line = self._known.get(grant.name)  # the grants of one name differ in the port alone
        if line is None:
            peers: frozenset[int] | None = None
            if grant.peers is not None:
                peers = frozenset[int]().union(*(self._index.select(selector) for selector in grant.peers))
            line = self._known[grant.name] = Line(grant.name, policy, peers, grant.http)
        return line


def _check_unique(pods: Iterable[Pod]) -> None:
    names: set[tuple[str, str]] = set()
    ids: set[int] = set()
    for pod in pods:
        if (pod.namespace, pod.name) in names:
            raise ValueError(f"pod {pod.namespace}/{pod.name} is in the inventory twice")
        names.add((pod.namespace, pod.name))
        if pod.endpoint_id is not None:
            if pod.endpoint_id in ids:
                raise ValueError(f"pod {pod.namespace}/{pod.name} has endpoint id {pod.endpoint_id} of another pod")
            ids.add(pod.endpoint_id)


def _identities(pods: Iterable[Pod], numbers: Mapping[IdentityKey, int]) -> dict[int, Identity]:
    labels: dict[int, Pod] = {}
    names: dict[int, list[str]] = {}
    for pod in pods:
        number = numbers[identity_key(pod.namespace, pod.labels)]
        labels.setdefault(number, pod)
        names.setdefault(number, []).append(f"{pod.namespace}/{pod.name}")
    return {
        number: Identity(pod.namespace, dict(pod.labels), tuple(sorted(names[number])))
        for number, pod in sorted(labels.items())
    }


def _addresses(pods: Iterable[Pod], numbers: Mapping[IdentityKey, int]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    claimed_twice: set[str] = set()
    for pod in pods:
        number = numbers[identity_key(pod.namespace, pod.labels)]
        texts = set()
        for address in pod.addresses:
            try:
                ip = plain_address(address)
            except ValueError:
                raise ValueError(f"pod {pod.namespace}/{pod.name}: {address!r} is not an IP address") from None
            if not ip.is_link_local:  # a link-local peer has no identity: it can be anybody on that link
                texts.add(str(ip))
        claimed_twice |= texts & found.keys()
        found.update(dict.fromkeys(texts, (number, f"{pod.namespace}/{pod.name}")))
    return {text: owner for text, owner in sorted(found.items()) if text not in claimed_twice}


def plain_address(text: str) -> IPv4Address | IPv6Address:
    """The address that `RuleSet.addresses` knows a text by: no `::ffff:` before IPv4.

    Raises:
        ValueError: not IP text.
    """
    ip = ip_address(text)
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
