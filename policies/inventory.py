"""What a node knows of its cluster, as far as policies ask: pods, nodes, namespaces, services. Plain values."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A port that a pod gives a name; protocol is the IP protocol number."""

    name: str
    port: int
    protocol: int = 6


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the cluster. addresses: IP text. endpoint_id: set for pods of this node that the agent manages."""

    namespace: str
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    endpoint_id: int | None = None
    ports: tuple[NamedPort, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeHost:
    """A node. addresses: every address that its own processes connect from or are reached at. local: this very node."""

    name: str
    addresses: tuple[str, ...] = ()
    local: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A service: selector None (no selector) means that `addresses` are its endpoints, outside the cluster or not."""

    namespace: str
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    selector: dict[str, str] | None = None
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every pod that this node knows of, its own and those of other nodes, and what else policies name.

    namespaces: labels of namespaces by name; `kubernetes.io/metadata.name` is always there. apiserver: addresses of
    the API server.
    """

    pods: tuple[Pod, ...] = ()
    nodes: tuple[NodeHost, ...] = ()
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    services: tuple[Service, ...] = ()
    apiserver: tuple[str, ...] = ()
