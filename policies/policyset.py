"""What all documents say, without any pod: `compile` makes it, `resolve` turns it into a rule set."""

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

from policies.ruleset import ANY_PROTOCOL, MAX_PORT, HttpRule, KafkaRule, PolicyRef
from policies.selector import Selector

ENTITIES = (
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "none",
    # Cilium's own kinds of peers that do not exist here: they are accepted and match nobody
    "init",
    "health",
    "unmanaged",
    "ingress",
)


@dataclass(frozen=True, slots=True)
class EntityPeer:
    """One of ENTITIES."""

    entity: str


@dataclass(frozen=True, slots=True)
class CidrPeer:
    """Addresses inside `cidr` and outside every one of `excepts`; canonical CIDR text. Never a pod or a node: those
    are judged by what they are."""

    cidr: str
    excepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServicePeer:
    """The endpoints of services: one by name, or those of a namespace by their labels. None: `name` or `selector` is
    the other; namespace None: every namespace."""

    namespace: str | None
    name: str | None = None
    selector: Selector | None = None


type Peer = Selector | EntityPeer | CidrPeer | ServicePeer


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One port entry. protocol: TCP, UDP, or ANY_PROTOCOL: every protocol when the ports are 0..MAX_PORT and `named` is
    None, TCP and UDP when not. named: a port's name, resolved per pod; first and last then say nothing."""

    protocol: int = ANY_PROTOCOL
    first: int = 0
    last: int = MAX_PORT
    named: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """One allow or deny: these peers, this port entry, these requests.

    name: as in records (`default/web-l7 ingress[0].toPorts[0]`); the grants of one name differ in `port` alone.
    peers: None is every peer, () none. http, kafka, deny: as in `Line`.
    """

    name: str
    peers: tuple[Peer, ...] | None
    port: PortSpec = PortSpec()
    http: tuple[HttpRule, ...] | None = None
    kafka: tuple[KafkaRule, ...] | None = None
    deny: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What a document says of itself beside its rules. audit: `mode: audit`; fail_open: `onFailure: open`;
    close_denied: `onChange: close-denied`."""

    audit: bool = False
    fail_open: bool = False
    close_denied: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """One spec of one document. ingress or egress None: it does not touch that direction; (): it allows nothing there.

    ingress_deny, egress_deny: whether touching that direction means default deny in it (`enableDefaultDeny`).
    """

    policy: PolicyRef
    selector: Selector
    ingress: tuple[Grant, ...] | None
    egress: tuple[Grant, ...] | None
    ingress_deny: bool = True
    egress_deny: bool = True
    options: Options = Options()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule stands; both count from 1."""

    file: str
    line: int
    column: int = 1


@dataclass(frozen=True, slots=True)
class PolicySet:
    """What all documents say, sorted by (namespace, name); digest: equal for documents that say the same.

    places: where the rules stand, by the names that verdicts give them (grants, http and kafka rules); not part of what
    the documents say, so neither in `digest` nor in `==`.
    """

    EMPTY_DIGEST: ClassVar[str] = hashlib.sha256(b"[]").hexdigest()
    sections: tuple[Section, ...] = ()
    digest: str = EMPTY_DIGEST
    places: dict[str, Place] = field(default_factory=dict, compare=False, repr=False)
