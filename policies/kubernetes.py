"""NetworkPolicy of Kubernetes (`networking.k8s.io/v1`), word by word, and what it comes to.

Absent and empty mean what Kubernetes means by them, which is not what Cilium means: `from`, `to` and `ports`, absent or
empty, are every peer and every port; a rule `{}` allows everything; `ingress` absent or empty allows nothing, as
policyTypes names the directions. A rule for a direction that policyTypes does not name is without effect.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from policies.model import Metadata
from policies.policyset import CidrPeer, Grant, Options, Peer, PortSpec, Section
from policies.ruleset import ANY_PROTOCOL, TCP, UDP, PolicyRef
from policies.selector import NAMESPACE_LABEL, NAMESPACE_LABELS, Operator, Requirement, Selector
from policies.source import quoted
from policies.words import (
    EndPort,
    Path,
    PlainExpression,
    PlainSelector,
    PortValue,
    Prefix,
    Protocol,
    Strict,
    Wrong,
    beyond,
    prefix_of,
    refuse,
)


def _port(value: object) -> object:
    """A number is a number and a text a name: "80" is neither, as Kubernetes says too."""
    if isinstance(value, str) and value.isdecimal():
        raise refuse(f"{quoted(value)} is a name here, and a name has a letter: leave the quotes out")
    if value == 0 and type(value) is int:
        raise refuse("expected 1 to 65535: leave port out for every port")
    return value


def _tcp_or_udp(value: object) -> object:
    if isinstance(value, str) and value not in ("TCP", "UDP"):
        known = "is not supported: TCP and UDP are" if value == "SCTP" else "is unknown: TCP and UDP are known"
        raise refuse(f"protocol {quoted(value)} {known}")
    return value


class NetworkPolicyPort(Strict):
    """port absent: every port of the protocol."""

    protocol: Annotated[Protocol, BeforeValidator(_tcp_or_udp)] = "TCP"
    port: Annotated[PortValue, BeforeValidator(_port)] | None = None
    endPort: EndPort | None = None

    def problems(self, path: Path) -> Iterator[Wrong]:
        """Ranges that are none."""
        if self.endPort is not None and self.port is None:
            yield Wrong((*path, "endPort"), "a range needs a port to begin with")
        elif self.endPort == 0:
            yield Wrong((*path, "endPort"), "expected 1 to 65535")
        elif self.port is not None:
            yield from beyond("port", self.port, self.endPort, path)


class IPBlock(Strict):
    """Addresses of `cidr` but those of `except`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_by_name=False)

    cidr: Prefix
    excepts: Annotated[list[Prefix], Field(alias="except")] = Field(default_factory=list)

    def problems(self, path: Path) -> Iterator[Wrong]:
        """Exceptions from what was not included, or of all of it."""
        outer = prefix_of(self.cidr)
        for i, text in enumerate(self.excepts):
            inner = prefix_of(text)
            inside = inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # one version
            if not inside or inner == outer:
                yield Wrong((*path, "except", i), f"{text} is not a part of {self.cidr}")


class NetworkPolicyPeer(Strict):
    """podSelector and namespaceSelector: both must hold. podSelector alone: in the policy's namespace."""

    podSelector: PlainSelector | None = None
    namespaceSelector: PlainSelector | None = None
    ipBlock: IPBlock | None = None

    def problems(self, path: Path) -> Iterator[Wrong]:
        """An item without a peer, or with two kinds of them."""
        if self.ipBlock is not None:
            yield from self.ipBlock.problems((*path, "ipBlock"))
            if self.podSelector is not None or self.namespaceSelector is not None:
                yield Wrong(
                    (*path, "ipBlock"), "cannot stand beside a selector in one item: write an item for each", True
                )
        elif self.podSelector is None and self.namespaceSelector is None:
            yield Wrong(path, "expected podSelector, namespaceSelector or ipBlock")


class NetworkPolicyIngressRule(Strict):
    """Absent or empty: no constraint."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_by_name=False)

    ports: list[NetworkPolicyPort] = Field(default_factory=list)
    peers: Annotated[list[NetworkPolicyPeer], Field(alias="from")] = Field(default_factory=list)


class NetworkPolicyEgressRule(Strict):
    """Absent or empty: no constraint."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_by_name=False)

    ports: list[NetworkPolicyPort] = Field(default_factory=list)
    peers: Annotated[list[NetworkPolicyPeer], Field(alias="to")] = Field(default_factory=list)


type NetworkPolicyRule = NetworkPolicyIngressRule | NetworkPolicyEgressRule


class NetworkPolicySpec(Strict):
    """policyTypes absent or empty: Ingress, and Egress where egress has a rule. podSelector absent: all pods."""

    podSelector: PlainSelector = PlainSelector()
    ingress: list[NetworkPolicyIngressRule] = Field(default_factory=list)
    egress: list[NetworkPolicyEgressRule] = Field(default_factory=list)
    policyTypes: Annotated[list[Literal["Ingress", "Egress"]], Field(max_length=2)] = Field(default_factory=list)

    def rules_of(self, direction: str) -> Sequence[NetworkPolicyRule] | None:
        """The rules of "ingress" or "egress"; None: the policy does not touch that direction."""
        rules: Sequence[NetworkPolicyRule] = self.ingress if direction == "ingress" else self.egress
        types: set[str] = set(self.policyTypes) or {"Ingress", "Egress" if self.egress else "Ingress"}
        return rules if direction.capitalize() in types else None

    def problems(self, path: Path) -> Iterator[Wrong]:
        """Those of its ports and peers."""
        directions: list[tuple[str, str, Sequence[NetworkPolicyRule]]] = [
            ("ingress", "from", self.ingress),
            ("egress", "to", self.egress),
        ]
        for name, field, rules in directions:
            for i, rule in enumerate(rules):
                for j, port in enumerate(rule.ports):
                    yield from port.problems((*path, name, i, "ports", j))
                for j, peer in enumerate(rule.peers):
                    yield from peer.problems((*path, name, i, field, j))


class NetworkPolicy(Strict):
    """Of one namespace."""

    apiVersion: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    metadata: Metadata
    spec: NetworkPolicySpec
    status: object = None

    def problems(self) -> Iterator[Wrong]:
        """Those of its spec."""
        yield from self.spec.problems(("spec",))


def section_of(
    model: NetworkPolicy, policy: PolicyRef, title: str, options: Options, places: dict[str, Path]
) -> Section:
    """What the policy says; `title` begins the names of its rules, and `places` gets where each stands."""
    ingress, egress = (
        _grants(model.spec.rules_of(direction), ("spec", direction), f"{title}{direction}", policy.namespace, places)
        for direction in ("ingress", "egress")
    )
    return Section(policy, _pods(model.spec.podSelector, policy.namespace), ingress, egress, options=options)


def _grants(
    rules: Sequence[NetworkPolicyRule] | None, path: Path, title: str, namespace: str, places: dict[str, Path]
) -> tuple[Grant, ...] | None:
    if rules is None:
        return None
    found: list[Grant] = []
    for i, rule in enumerate(rules):
        name, place = f"{title}[{i}]", (*path, i)
        peers = tuple(_peer(peer, namespace) for peer in rule.peers) if rule.peers else None
        if not rule.ports:
            places[name] = place
            found.append(Grant(name, peers))
        for j, port in enumerate(rule.ports):
            places[f"{name}.ports[{j}]"] = (*place, "ports", j)
            found.append(Grant(f"{name}.ports[{j}]", peers, _port_spec(port)))
    return tuple(found)


def _port_spec(port: NetworkPolicyPort) -> PortSpec:
    protocol = {"TCP": TCP, "UDP": UDP}.get(port.protocol, ANY_PROTOCOL)
    if port.port is None:
        return PortSpec(protocol)
    if isinstance(port.port, str):
        return PortSpec(protocol, named=port.port)
    return PortSpec(protocol, port.port, port.endPort or port.port)


def _peer(peer: NetworkPolicyPeer, namespace: str) -> Peer:
    if peer.ipBlock is not None:
        return CidrPeer(peer.ipBlock.cidr, tuple(sorted(set(peer.ipBlock.excepts))))
    if peer.namespaceSelector is None:
        return _pods(peer.podSelector or PlainSelector(), namespace)
    wanted = {Requirement(NAMESPACE_LABEL, Operator.EXISTS)}  # whatever the labels of its namespace: it is a pod
    wanted |= {
        Requirement(NAMESPACE_LABELS + each.key, each.operator, each.values)
        for each in plain_requirements(peer.namespaceSelector)
    }
    wanted |= plain_requirements(peer.podSelector or PlainSelector())
    return Selector(tuple(sorted(wanted)))


def _pods(selector: PlainSelector, namespace: str) -> Selector:
    own = Requirement(NAMESPACE_LABEL, Operator.IN, (namespace,))
    return Selector(tuple(sorted({own, *plain_requirements(selector)})))


def plain_requirements(selector: PlainSelector) -> set[Requirement]:
    """What a selector asks for."""
    labels = {Requirement(key, Operator.IN, (value,)) for key, value in selector.matchLabels.items()}
    return labels | {_expression(test) for test in selector.matchExpressions}


def _expression(test: PlainExpression) -> Requirement:
    return Requirement(test.key, Operator(test.operator), tuple(sorted(set(test.values))))
