"""Policies and what a node knows of its cluster to the rule set of that node.

Theory of operation: a peer is judged by a number, its identity. Pods of one namespace with the same labels have one
identity; a CIDR prefix that some policy names has one too, and so have this node, the other nodes, the API server and
the world. An address has the identity of the longest prefix that holds it, a pod's or a node's own address being the
longest there is. So a rule's peers become a set of numbers, and every place that judges, the kernel among them, only
asks whether a number is in it. Pods of one identity share their rules, unless a port is meant by a name that they
resolve differently.
"""

import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from policies.inventory import Inventory, NamedPort, NodeHost, Pod, Service
from policies.policyset import CidrPeer, EntityPeer, Grant, Peer, PolicySet, PortSpec, Section, ServicePeer
from policies.ruleset import (
    ANY_PROTOCOL,
    FIRST_CIDR_IDENTITY,
    FIRST_IDENTITY,
    MAX_PORT,
    TCP,
    UDP,
    DirectionRules,
    EndpointRules,
    Identity,
    Line,
    PolicyRef,
    Reserved,
    RuleSet,
)
from policies.selector import NAMESPACE_LABEL, IdentityIndex, Operator, Requirement, Selector

__all__ = [
    "Inventory",
    "NamedPort",
    "NodeHost",
    "Numbers",
    "Pod",
    "Resolver",
    "Service",
    "allocate",
    "identity_key",
    "plain_address",
    "resolve",
    "selection",
    "troubles",
]

WORLD = {"0.0.0.0/0": Reserved.WORLD_IPV4, "::/0": Reserved.WORLD_IPV6}
GROUPS = ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8")
"""Multicast and broadcast: whoever listens, pods among them. Nobody known, unless a document names a prefix in them."""
_RESERVED_NAMES = {
    Reserved.HOST: "host",
    Reserved.UNKNOWN: "unknown",
    Reserved.REMOTE_NODE: "remote-node",
    Reserved.KUBE_APISERVER: "kube-apiserver",
    Reserved.WORLD_IPV4: "world-ipv4",
    Reserved.WORLD_IPV6: "world-ipv6",
    Reserved.HOST_KUBE_APISERVER: "kube-apiserver",
}
_NODES = frozenset({Reserved.HOST, Reserved.REMOTE_NODE, Reserved.KUBE_APISERVER, Reserved.HOST_KUBE_APISERVER})

type IdentityKey = tuple[str, tuple[tuple[str, str], ...]]  # namespace, sorted labels
type _Parts = tuple[DirectionRules, DirectionRules]
type IpAddress = IPv4Address | IPv6Address
type IpNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Numbers:
    """Which identity has which number: pods' by (namespace, labels), CIDR prefixes by their text.

    last: the highest that was ever given to a pod, and to a prefix.
    """

    pods: dict[IdentityKey, int] = field(default_factory=dict)
    prefixes: dict[str, int] = field(default_factory=dict)
    last: tuple[int, int] = field(default=(0, 0), compare=False)

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        pods = [[namespace, labels, number] for (namespace, labels), number in self.pods.items()]
        return json.dumps({"pods": pods, "prefixes": self.prefixes, "last": self.last})

    @staticmethod
    def from_json(text: str | bytes) -> "Numbers":
        """Read what `to_json` wrote, or what an earlier version did (a list of pods' identities).

        Raises:
            ValueError, TypeError, KeyError: it is neither.
        """
        data = json.loads(text)
        if isinstance(data, list):
            data = {"pods": data, "prefixes": {}}
        pods = {(str(ns), tuple((str(k), str(v)) for k, v in labels)): int(n) for ns, labels, n in data["pods"]}
        of_pods, of_prefixes = data.get("last", (0, 0))
        prefixes = {str(prefix): int(n) for prefix, n in data["prefixes"].items()}
        return Numbers(pods, prefixes, (int(of_pods), int(of_prefixes)))


def identity_key(namespace: str, labels: Mapping[str, str]) -> IdentityKey:
    """What an identity is known by."""
    return namespace, tuple(sorted(labels.items()))


def allocate(policies: PolicySet, inventory: Inventory, previous: Numbers | None = None) -> Numbers:
    """A number for each (namespace, labels) and each CIDR prefix in use; those in `previous` keep theirs.

    A number is never given to another, even when nobody has it any more: entries of the revision in force must not come
    to mean another peer while the new one is put in, and that may be an older one than `previous` is of. Without
    `previous` the numbers follow the sorted keys, so nodes that see the same agree.
    """
    previous = previous or Numbers()
    keys = sorted({identity_key(pod.namespace, pod.labels) for pod in inventory.pods})
    prefixes = sorted(_prefixes_in_use(policies, inventory))
    pods, last_pod = _numbered(keys, previous.pods, max(previous.last[0], FIRST_IDENTITY - 1))
    cidrs, last_prefix = _numbered(prefixes, previous.prefixes, max(previous.last[1], FIRST_CIDR_IDENTITY - 1))
    return Numbers(pods, cidrs, (last_pod, last_prefix))


def _numbered[Key](keys: Iterable[Key], previous: Mapping[Key, int], last: int) -> tuple[dict[Key, int], int]:
    number = max((last, *previous.values()))
    result: dict[Key, int] = {}
    for key in keys:
        if key in previous:
            result[key] = previous[key]
        else:
            number += 1
            result[key] = number
    return result, number


def _prefixes_in_use(policies: PolicySet, inventory: Inventory) -> set[str]:
    found: set[str] = set()
    for section in policies.sections:
        for grant in (*(section.ingress or ()), *(section.egress or ())):
            for peer in grant.peers or ():
                if isinstance(peer, CidrPeer):
                    found.update((peer.cidr, *peer.excepts))
    nodes = {str(plain_address(address)) for node in inventory.nodes for address in node.addresses}
    for address in inventory.apiserver:
        if str(plain_address(address)) not in nodes:
            found.add(_host_prefix(address))
    for service in inventory.services:
        if service.selector is None:
            found.update(_host_prefix(address) for address in service.addresses)
    return found - WORLD.keys()


def _host_prefix(address: str) -> str:
    return str(ip_network(plain_address(address)))


def selection(policies: PolicySet, inventory: Inventory) -> dict[tuple[str, str], tuple[bool, bool]]:
    """Which pods some policy selects, by (namespace, name), for (ingress, egress); pods that none selects are not in
    it."""
    numbers = {key: i for i, key in enumerate({identity_key(pod.namespace, pod.labels) for pod in inventory.pods}, 1)}
    identities = {number: Identity(namespace, dict(labels), ()) for (namespace, labels), number in numbers.items()}
    index = IdentityIndex(identities, inventory.namespaces)
    touched: tuple[set[int], set[int]] = set(), set()
    for section in policies.sections:
        for grants, found in zip((section.ingress, section.egress), touched, strict=True):
            if grants is not None:
                found |= index.select(section.selector)
    result = {}
    for pod in inventory.pods:
        number = numbers[identity_key(pod.namespace, pod.labels)]
        if number in touched[0] or number in touched[1]:
            result[pod.namespace, pod.name] = number in touched[0], number in touched[1]
    return result


def resolve(policies: PolicySet, inventory: Inventory, revision: int, numbers: Numbers | None = None) -> RuleSet:
    """The rule set for the pods of the inventory that have an endpoint id, selected or not.

    numbers: of `allocate`, for these policies and this inventory; without them they are given anew.
    An address that two pods claim belongs to none of them: it is UNKNOWN until that is settled.

    Raises:
        ValueError: an address is not IP text, two pods are one by name, or two have one endpoint id; the message names
            the pod.
    """
    return Resolver().resolve(policies, inventory, revision, numbers)


class Resolver:
    """`resolve` for one inventory after another: what did not change since the last call is not worked out again, and
    an endpoint whose rules did not change keeps the very same object, so that `is` finds those that did.

    Sections are known by object: a compiler that gives the same object for the same document makes an edit cheap, one
    that does not costs time and never an answer.
    """

    def __init__(self) -> None:
        self._universe: object = None
        self._index = IdentityIndex({})
        self._lines: _Lines | None = None
        self._identities: dict[int, Identity] = {}
        self._addresses: dict[str, tuple[int, str]] = {}
        self._parts: dict[tuple[int, tuple[NamedPort, ...]], tuple[tuple[Section, ...], _Parts]] = {}
        self._endpoints: dict[int, EndpointRules] = {}

    def resolve(
        self, policies: PolicySet, inventory: Inventory, revision: int, numbers: Numbers | None = None
    ) -> RuleSet:
        """As the function `resolve`."""
        _check_unique(inventory.pods)
        numbers = numbers or allocate(policies, inventory)
        self._learn(inventory, numbers)
        if self._lines is None:
            raise AssertionError("_learn makes them")
        by_identity: dict[int, list[Section]] = {}
        for section in policies.sections:
            for number in self._index.select(section.selector):
                by_identity.setdefault(number, []).append(section)
        endpoints: dict[int, EndpointRules] = {}
        parts: dict[tuple[int, tuple[NamedPort, ...]], tuple[tuple[Section, ...], _Parts]] = {}
        for pod in inventory.pods:
            if pod.endpoint_id is None:
                continue
            number = numbers.pods[identity_key(pod.namespace, pod.labels)]
            if (key := (number, pod.ports)) not in parts:
                parts[key] = self._parts_of(key, tuple(by_identity.get(number, ())))
            ingress, egress = parts[key][1]
            have = self._endpoints.get(pod.endpoint_id)
            if (
                have is None
                or (have.ingress, have.egress) != (ingress, egress)
                or (have.namespace, have.name, have.labels, have.identity)
                != (pod.namespace, pod.name, pod.labels, number)
            ):
                labels = dict(pod.labels)
                have = EndpointRules(pod.endpoint_id, pod.namespace, pod.name, labels, ingress, egress, number)
            endpoints[pod.endpoint_id] = have
        self._parts, self._endpoints = parts, endpoints
        self._lines.keep(policies.sections)
        prefixes = dict.fromkeys(GROUPS, int(Reserved.UNKNOWN))
        prefixes |= {**numbers.prefixes, **{prefix: int(number) for prefix, number in WORLD.items()}}
        return RuleSet(revision, dict(endpoints), self._identities, self._addresses, prefixes)

    def _learn(self, inventory: Inventory, numbers: Numbers) -> None:
        """Take over what rules ask about peers; all that was worked out by other knowledge is forgotten."""
        pods = tuple((pod.namespace, pod.name, pod.labels, pod.addresses, pod.ports) for pod in inventory.pods)
        universe = (
            pods,
            inventory.nodes,
            inventory.namespaces,
            inventory.services,
            inventory.apiserver,
            numbers.pods,
            numbers.prefixes,
        )
        if self._lines is not None and universe == self._universe:
            return
        self._addresses = _addresses(inventory, numbers)
        self._identities = _identities(inventory.pods, numbers)
        self._index = IdentityIndex(self._identities, inventory.namespaces)
        peers = _Peers(self._index, inventory, numbers, self._identities, self._addresses)
        self._lines = _Lines(peers, inventory, numbers)
        self._parts = {}
        self._universe = universe

    def _parts_of(
        self, key: tuple[int, tuple[NamedPort, ...]], sections: tuple[Section, ...]
    ) -> tuple[tuple[Section, ...], "_Parts"]:
        have = self._parts.get(key)
        if have is not None and len(have[0]) == len(sections) and all(map(operator.is_, have[0], sections)):
            return have
        if self._lines is None:
            raise AssertionError("_learn makes them")
        return sections, (self._lines.ingress(sections, key[1]), self._lines.egress(sections))


def troubles(policies: PolicySet, inventory: Inventory) -> list[str]:
    """References of policies that nothing answers to, one line each: such a rule matches nobody, which is safe, and is
    hardly what its author meant."""
    services = {(service.namespace, service.name) for service in inventory.services}
    names = {port.name for pod in inventory.pods for port in pod.ports}
    found: dict[str, None] = {}
    for section in policies.sections:
        for grant in (*(section.ingress or ()), *(section.egress or ())):
            if grant.port.named is not None and grant.port.named not in names:
                found[f"{grant.name}: no pod has a port named '{grant.port.named}'"] = None
            for peer in grant.peers or ():
                if not isinstance(peer, ServicePeer) or peer.name is None:
                    continue
                if not any(peer.name == name and peer.namespace in (None, ns) for ns, name in services):
                    where = peer.name if peer.namespace is None else f"{peer.namespace}/{peer.name}"
                    found[f"{grant.name}: there is no service '{where}'"] = None
    return list(found)


class _Peers:
    """Peers of grants to identities, each worked out once."""

    def __init__(
        self,
        index: IdentityIndex,
        inventory: Inventory,
        numbers: Numbers,
        identities: Mapping[int, Identity],
        addresses: Mapping[str, tuple[int, str]],
    ) -> None:
        self._index = index
        self._inventory = inventory
        self._addresses = addresses
        self._numbers = numbers
        self._known: dict[Peer, frozenset[int]] = {}
        networks = {**numbers.prefixes, **{prefix: int(number) for prefix, number in WORLD.items()}}
        self._networks = {ip_network(prefix): number for prefix, number in networks.items()}
        pods = frozenset(n for n, identity in identities.items() if not identity.reserved)
        external = frozenset(
            numbers.prefixes[prefix]
            for address in inventory.apiserver
            if (prefix := _host_prefix(address)) in numbers.prefixes
        )
        world = frozenset(n for network, n in self._networks.items() if not _is_group(network))
        four = frozenset(n for network, n in self._networks.items() if network.version == 4 and n in world)
        apiserver = external | {Reserved.KUBE_APISERVER, Reserved.HOST_KUBE_APISERVER}
        self._entities: dict[str, frozenset[int]] = {
            "all": pods | world | _NODES,
            "world": world,
            "world-ipv4": four,
            "world-ipv6": world - four,
            "cluster": pods | _NODES | external,
            "host": frozenset({Reserved.HOST, Reserved.HOST_KUBE_APISERVER}),
            "remote-node": frozenset({Reserved.REMOTE_NODE, Reserved.KUBE_APISERVER}),
            "kube-apiserver": apiserver,
        }

    def numbers_of(self, peers: Iterable[Peer]) -> frozenset[int]:
        """The union of all peers."""
        return frozenset[int]().union(*(self._one(peer) for peer in peers))

    def _one(self, peer: Peer) -> frozenset[int]:
        found = self._known.get(peer)
        if found is None:
            found = self._known[peer] = frozenset(map(int, self._work_out(peer)))
        return found

    def _work_out(self, peer: Peer) -> frozenset[int]:
        if isinstance(peer, Selector):
            return self._index.select(peer)
        if isinstance(peer, EntityPeer):
            return self._entities.get(peer.entity, frozenset())
        if isinstance(peer, CidrPeer):
            inside = ip_network(peer.cidr)
            outside = [ip_network(text) for text in peer.excepts]
            return frozenset(
                number
                for network, number in self._networks.items()
                if _within(network, inside)
                and (_is_group(inside) or not _is_group(network))
                and not any(_within(network, each) for each in outside)
            )
        return frozenset[int]().union(*(self._service(each) for each in self._services(peer)))

    def _services(self, peer: ServicePeer) -> Iterable[Service]:
        for service in self._inventory.services:
            if peer.namespace is not None and service.namespace != peer.namespace:
                continue
            if peer.name is not None and service.name != peer.name:
                continue
            if peer.selector is not None and not peer.selector.matches(service.namespace, service.labels):
                continue
            yield service

    def _service(self, service: Service) -> frozenset[int]:
        if service.selector is not None:
            wanted = [Requirement(key, Operator.IN, (value,)) for key, value in service.selector.items()]
            own = Requirement(NAMESPACE_LABEL, Operator.IN, (service.namespace,))
            return self._index.select(Selector(tuple(sorted({*wanted, own}))))
        found: set[int] = set()
        for address in service.addresses:
            owner = self._addresses.get(str(plain_address(address)))
            found.add(owner[0] if owner is not None else self._numbers.prefixes[_host_prefix(address)])
        return frozenset(found - {int(Reserved.UNKNOWN)})


class _Lines:
    """Grants with their peers and ports worked out, each once for all endpoints."""

    def __init__(self, peers: _Peers, inventory: Inventory, numbers: Numbers) -> None:
        self._peers = peers
        # by object, and held: a section that is compiled anew may say something else under the same name
        self._known: dict[int, tuple[Section, dict[tuple[str, PortSpec], tuple[Line, ...]]]] = {}
        self._named: dict[tuple[str, int, int], set[int]] = {}  # (name, protocol, port) to the pods' identities
        for pod in inventory.pods:
            number = numbers.pods[identity_key(pod.namespace, pod.labels)]
            for port in pod.ports:
                self._named.setdefault((port.name, port.protocol, port.port), set()).add(number)

    def keep(self, sections: Iterable[Section]) -> None:
        """Forget all but these."""
        ids = {id(section) for section in sections}
        self._known = {number: known for number, known in self._known.items() if number in ids}

    def ingress(self, sections: Iterable[Section], ports: tuple[NamedPort, ...]) -> DirectionRules:
        """Named ports are those of the endpoint itself."""
        return self._direction([(s, s.ingress, s.ingress_deny) for s in sections], ports)

    def egress(self, sections: Iterable[Section]) -> DirectionRules:
        """Named ports are those of each peer."""
        return self._direction([(s, s.egress, s.egress_deny) for s in sections], None)

    def _direction(
        self, parts: list[tuple[Section, tuple[Grant, ...] | None, bool]], ports: tuple[NamedPort, ...] | None
    ) -> DirectionRules:
        lines: list[Line] = []
        refs: dict[PolicyRef, None] = {}
        default_deny = audit_default_deny = close_denied = False
        for section, grants, denies in parts:
            if grants is None:
                continue
            refs[section.policy] = None
            default_deny |= denies and not section.options.audit
            audit_default_deny |= denies
            close_denied |= section.options.close_denied
            for grant in grants:
                if grant.port.named is not None and ports is not None:
                    lines += self._at_own_port(section, grant, ports)
                else:
                    lines += self._shared(section, grant)
        return DirectionRules(bool(refs), default_deny, audit_default_deny, tuple(lines), tuple(refs), close_denied)

    def _shared(self, section: Section, grant: Grant) -> tuple[Line, ...]:
        """The lines that do not depend on the endpoint."""
        known = self._known.setdefault(id(section), (section, {}))[1]
        key = grant.name, grant.port
        found = known.get(key)
        if found is None:
            peers = None if grant.peers is None else self._peers.numbers_of(grant.peers)
            if grant.port.named is None:
                found = tuple(
                    _line(section, grant, peers, protocol, grant.port.first, grant.port.last)
                    for protocol in _protocols(grant)
                )
            else:
                found = tuple(
                    _line(section, grant, frozenset(having if peers is None else having & peers), protocol, port, port)
                    for (name, protocol, port), having in sorted(self._named.items(), key=lambda item: item[0])
                    if name == grant.port.named and _fits(grant, protocol)
                )
            known[key] = found
        return found

    def _at_own_port(self, section: Section, grant: Grant, ports: tuple[NamedPort, ...]) -> Iterable[Line]:
        peers = None if grant.peers is None else self._peers.numbers_of(grant.peers)
        for port in ports:
            if port.name == grant.port.named and _fits(grant, port.protocol):
                yield _line(section, grant, peers, port.protocol, port.port, port.port)


def _protocols(grant: Grant) -> tuple[int, ...]:
    port = grant.port
    if port.protocol != ANY_PROTOCOL:
        return (port.protocol,)
    if grant.http is not None or grant.kafka is not None:
        return (TCP,)
    return (ANY_PROTOCOL,) if (port.first, port.last) == (0, MAX_PORT) else (TCP, UDP)


def _fits(grant: Grant, protocol: int) -> bool:
    """Whether a named port of that protocol is meant: L7 rules are for TCP alone."""
    l7 = grant.http is not None or grant.kafka is not None
    return (protocol == TCP or not l7) and grant.port.protocol in (ANY_PROTOCOL, protocol)


def _line(section: Section, grant: Grant, peers: frozenset[int] | None, protocol: int, first: int, last: int) -> Line:
    options = section.options
    return Line(
        grant.name,
        section.policy,
        peers,
        protocol,
        first,
        last,
        grant.deny,
        grant.http,
        grant.kafka,
        options.audit,
        options.fail_open,
        options.close_denied,
    )


def _within(inner: IpNetwork, outer: IpNetwork) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)


_GROUP_NETWORKS = tuple(map(ip_network, GROUPS))


def _is_group(network: IpNetwork) -> bool:
    return any(_within(network, group) for group in _GROUP_NETWORKS)


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


def _identities(pods: Iterable[Pod], numbers: Numbers) -> dict[int, Identity]:
    labels: dict[int, Pod] = {}
    names: dict[int, list[str]] = {}
    for pod in pods:
        number = numbers.pods[identity_key(pod.namespace, pod.labels)]
        labels.setdefault(number, pod)
        names.setdefault(number, []).append(f"{pod.namespace}/{pod.name}")
    found = {int(number): Identity("", {}, (), name) for number, name in _RESERVED_NAMES.items()}
    found |= {
        number: Identity(pod.namespace, dict(pod.labels), tuple(sorted(names[number])))
        for number, pod in sorted(labels.items())
    }
    return found | {number: Identity("", {}, (), f"cidr:{prefix}") for prefix, number in numbers.prefixes.items()}


def _addresses(inventory: Inventory, numbers: Numbers) -> dict[str, tuple[int, str]]:
    """Pods and nodes by address. A node's address that a pod claims is the node's: pods on the node's own network have
    it, and are no endpoints of their own."""
    found: dict[str, tuple[int, str]] = {}
    claimed_twice: set[str] = set()
    for pod in inventory.pods:
        number = numbers.pods[identity_key(pod.namespace, pod.labels)]
        texts = _texts(pod.addresses, f"pod {pod.namespace}/{pod.name}")
        claimed_twice |= texts & found.keys()
        found.update(dict.fromkeys(texts, (number, f"{pod.namespace}/{pod.name}")))
    found |= dict.fromkeys(claimed_twice, (int(Reserved.UNKNOWN), ""))
    apiserver = {str(plain_address(address)) for address in inventory.apiserver}
    for node in sorted(inventory.nodes, key=lambda each: each.local):  # this node last: it knows itself best
        for text in _texts(node.addresses, f"node {node.name}"):
            if node.local:
                number = Reserved.HOST_KUBE_APISERVER if text in apiserver else Reserved.HOST
            else:
                number = Reserved.KUBE_APISERVER if text in apiserver else Reserved.REMOTE_NODE
            found[text] = int(number), node.name
    return dict(sorted(found.items()))


def _texts(addresses: Iterable[str], owner: str) -> set[str]:
    texts = set()
    for address in addresses:
        try:
            ip = plain_address(address)
        except ValueError:
            raise ValueError(f"{owner}: {address!r} is not an IP address") from None
        if not (ip.is_link_local or ip.is_loopback):  # a link-local peer can be anybody on that link
            texts.add(str(ip))
    return texts


def plain_address(text: str) -> IpAddress:
    """The address that `RuleSet.addresses` knows a text by: no `::ffff:` before IPv4.

    Raises:
        ValueError: not IP text.
    """
    ip = ip_address(text)
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
