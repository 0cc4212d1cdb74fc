"""What is known of the cluster, from the inventory file to what `policies.resolve` asks for. The agent and the command
line read the file by this same code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from agent.errors import AgentError
from agent.pods.inventory import InventoryFile, Pod, PodKey, reasons
from policies.inventory import Inventory, NamedPort, NodeHost, Service
from policies.inventory import Pod as PolicyPod

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Pods by key, and everything else as policies see it. nodes: as the file names them, none of them local."""

    pods: Mapping[PodKey, Pod] = field(default_factory=dict)
    nodes: tuple[NodeHost, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    services: tuple[Service, ...] = ()
    apiserver: tuple[str, ...] = ()

    def with_pods(self, pods: Mapping[PodKey, Pod]) -> "Cluster":
        """The same cluster with other pods."""
        return replace(self, pods=pods)

    def to_inventory(self, endpoint_ids: Mapping[PodKey, int] | None = None, here: NodeHost | None = None) -> Inventory:
        """What policies ask of it. endpoint_ids: of the pods of this node that have one. here: this node, with what its
        own network namespace says; the file may know more addresses of it.
        """
        ids = endpoint_ids or {}
        nodes = self.nodes
        if here is not None:
            told = [address for node in nodes if node.name == here.name for address in node.addresses]
            own = replace(here, addresses=tuple(dict.fromkeys((*here.addresses, *told))))
            nodes = (own, *(node for node in nodes if node.name != here.name))
        return Inventory(
            tuple(policy_pod(pod, ids.get(key)) for key, pod in self.pods.items()),
            nodes,
            {name: dict(labels) for name, labels in self.namespaces.items()},
            self.services,
            self.apiserver,
        )


def policy_pod(pod: Pod, endpoint_id: int | None = None) -> PolicyPod:
    """A pod as policies see it."""
    ports = tuple(NamedPort(port.name, port.port, PROTOCOLS[port.protocol]) for port in pod.ports)
    return PolicyPod(pod.namespace, pod.name, dict(pod.labels), pod.addresses, endpoint_id, ports)


def load_cluster(path: Path) -> Cluster:
    """Read an inventory file.

    Raises:
        AgentError: unreadable, not JSON, a part is wrong (the message has its path), or two share a name or two pods an
            address.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise AgentError(f"cannot read inventory '{path}': {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AgentError(f"inventory '{path}' is not JSON: {error}") from error
    try:
        return parse_cluster(document)
    except AgentError as error:
        raise AgentError(f"inventory '{path}': {error}") from error


def parse_cluster(document: object) -> Cluster:
    """The cluster that a decoded inventory tells of.

    Raises:
        AgentError: as `load_cluster`.
    """
    try:
        file = InventoryFile.model_validate(document)
    except ValidationError as error:
        raise AgentError(reasons(error)) from error
    services: dict[tuple[str, str], Service] = {}
    for at, one in enumerate(file.services):
        selector = dict(one.selector) if one.selector else None
        addresses = tuple(map(str, one.endpoints))
        if (one.namespace, one.name) in services:
            raise AgentError(f"services.{at}: service '{one.namespace}/{one.name}' is there twice")
        services[one.namespace, one.name] = Service(one.namespace, one.name, dict(one.labels), selector, addresses)
    nodes: dict[str, NodeHost] = {}
    for at, node in enumerate(file.nodes):
        if node.name in nodes:
            raise AgentError(f"nodes.{at}: node '{node.name}' is there twice")
        nodes[node.name] = NodeHost(node.name, tuple(map(str, node.addresses)))
    return Cluster(
        _pods(file.pods),
        tuple(nodes.values()),
        {name: dict(namespace.labels) for name, namespace in file.namespaces.items()},
        tuple(services.values()),
        tuple(map(str, file.kube_apiserver.addresses)),
    )


def _pods(listed: tuple[Pod, ...]) -> dict[PodKey, Pod]:
    pods: dict[PodKey, Pod] = {}
    owners: dict[str, PodKey] = {}
    for pod in listed:
        if pods.setdefault(pod.key, pod) is not pod:
            raise AgentError(f"pod '{pod.namespace}/{pod.name}' is there twice")
        for address in pod.addresses:
            if (owner := owners.setdefault(address, pod.key)) != pod.key:
                # one address with two identities would make the verdict depend on the order of a file
                raise AgentError(f"'{address}' belongs to {'/'.join(owner)} and {'/'.join(pod.key)}")
    return pods
