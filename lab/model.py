"""What a lab is made of: the documents people write, and the lab that follows from them.

`lab.yaml`:

    nodes: [node-a, node-b]            # absent: node-a and node-b; empty is an error
    pods:
      - name: web
        namespace: shop                # absent: default
        node: node-b                   # absent: the first node
        labels: {app: web}             # absent: app: <name>; empty: no labels
        command: [tulle-web]           # absent: nothing runs, the pod waits for `lab exec`
        ports: [{name: http, port: 80}]   # names that policies can use; protocol absent: TCP
        aliases: [shop]                # absent: none; more names that lead to it, which pods may share
    namespaces:
      shop: {labels: {team: blue}}     # labels of a namespace; absent: none but its name
"""

import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lab import names
from lab.errors import LabError
from lab.state import STARTING, Lab, Node, Pod, PodPort

# Flannel's default network; every node gets the next /24 (FlannelConfig "Network", "SubnetLen").
POD_NETWORK_IPV4 = IPv4Network("10.244.0.0/16")
POD_NETWORK_IPV6 = IPv6Network("fd00:10:244::/48")
UNDERLAY_IPV4 = IPv4Network("172.30.0.0/24")
UNDERLAY_IPV6 = IPv6Network("fd00:172:30::/64")
# The underlay is a /24: .1 to .200 leave room for what later modes put beside the nodes.
MAX_NODES = 200
# A node's /24 without its own address, the bridge and the broadcast address.
MAX_PODS_PER_NODE = 253

# Commands that a pod can name without knowing where the checkout and its Python are.
BUILT_IN = {
    "tulle-web": (sys.executable, "-m", "lab.webserver"),
    "tulle-kafka": (sys.executable, "-m", "lab.kafka.broker"),
}


def _dns_label(text: str) -> str:
    if not names.is_label(text):
        raise ValueError("expected lower-case letters, digits and '-', at most 63 characters")
    return text


def _node_name(text: str) -> str:
    if not names.is_label(text, names.MAX_NODE_NAME):
        raise ValueError(f"expected lower-case letters, digits and '-', at most {names.MAX_NODE_NAME} characters")
    return text


DnsLabel = Annotated[str, AfterValidator(_dns_label)]
NodeName = Annotated[str, AfterValidator(_node_name)]


class PortSpec(BaseModel):
    """One entry of a pod's `ports`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: DnsLabel
    port: int = Field(ge=1, le=65535)
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"


class NamespaceSpec(BaseModel):
    """One entry of `namespaces`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    labels: dict[str, str] = Field(default_factory=dict)


class PodSpec(BaseModel):
    """One entry of `pods`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: DnsLabel
    namespace: DnsLabel = names.DEFAULT_NAMESPACE
    node: NodeName | None = None
    labels: dict[str, str] | None = None
    command: list[str] | None = Field(default=None, min_length=1)
    ports: list[PortSpec] = Field(default_factory=list)
    aliases: list[DnsLabel] = Field(default_factory=list)


class LabSpec(BaseModel):
    """The whole document."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    nodes: list[NodeName] = Field(default=["node-a", "node-b"], min_length=1, max_length=MAX_NODES)
    pods: list[PodSpec] = Field(default_factory=list)
    namespaces: dict[DnsLabel, NamespaceSpec] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        for node in self.nodes:
            if self.nodes.count(node) > 1:
                raise ValueError(f"node {node!r} is there twice")
        seen: set[tuple[str, str]] = set()
        for number, pod in enumerate(self.pods):
            if (pod.namespace, pod.name) in seen:
                raise ValueError(f"pods[{number}]: pod {pod.namespace}/{pod.name} is there twice")
            seen.add((pod.namespace, pod.name))
            if pod.node is not None and pod.node not in self.nodes:
                near = names.did_you_mean(pod.node, self.nodes)
                raise ValueError(f"pods[{number}].node: no node {pod.node!r}{near}")
        for node in self.nodes:
            count = sum((pod.node or self.nodes[0]) == node for pod in self.pods)
            if count > MAX_PODS_PER_NODE:
                raise ValueError(f"node {node!r} has {count} pods, its subnet has room for {MAX_PODS_PER_NODE}")
        return self


def node_names(count: int) -> list[str]:
    """node-a, node-b, …, node-z, node-27, …"""
    return [f"node-{chr(ord('a') + n)}" if n < 26 else f"node-{n + 1}" for n in range(count)]


def default_spec(nodes: int = 2) -> LabSpec:
    """The lab of demo, tests and benchmarks; with one node everything is on it, further nodes are empty."""
    if not 1 <= nodes <= MAX_NODES:
        raise LabError(f"--nodes {nodes}: expected 1 to {MAX_NODES}")
    hosts = node_names(nodes)
    first, second = hosts[0], hosts[min(1, nodes - 1)]
    return LabSpec(
        nodes=hosts,
        pods=[
            PodSpec(name="frontend", node=first),
            PodSpec(name="intruder", node=first),
            PodSpec(name="web", node=second, command=["tulle-web"], ports=[PortSpec(name="http", port=80)]),
            PodSpec(name="frontend-near", node=second, labels={"app": "frontend"}),
        ],
    )


def load_spec(path: Path) -> LabSpec:
    """Read a lab.yaml.

    Raises:
        LabError: the file cannot be read or understood; every mistake on its own line, as
            `file:line:column: error: pods[0].node: message`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabError(f"{path}: {error}") from error
    try:
        tree = yaml.compose(text, yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise LabError(f"{path}:{where}: error: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise LabError(f"{path}:1:1: error: not YAML: {error}") from error
    try:
        return LabSpec.model_validate({} if document is None else document)
    except ValidationError as error:
        raise LabError("\n".join(_problems(path, tree, error))) from error


def _problems(path: Path, tree: yaml.Node | None, error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        line, column = _position(tree, problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
        yield f"{path}:{line}:{column}: error: {field + ': ' if field else ''}{message}"


def _position(node: yaml.Node | None, location: tuple[int | str, ...]) -> tuple[int, int]:
    """Line and column, from 1, of the deepest part of `location` that the document has."""
    mark = node.start_mark if node else None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    mark, node = key.start_mark, value
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        else:
            break
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def plan(name: str, spec: LabSpec, *, mode: str, agents: bool) -> Lab:
    """Give every node and pod its addresses and places: the whole lab, before anything is made."""
    nodes = []
    subnets4 = POD_NETWORK_IPV4.subnets(new_prefix=24)
    subnets6 = POD_NETWORK_IPV6.subnets(new_prefix=64)
    for index, (node, subnet4, subnet6) in enumerate(zip(spec.nodes, subnets4, subnets6, strict=False)):
        nodes.append(
            Node(
                name=node,
                index=index,
                underlay_ipv4=str(UNDERLAY_IPV4[index + 1]),
                underlay_ipv6=str(UNDERLAY_IPV6[index + 1]),
                subnet_ipv4=str(subnet4),
                subnet_ipv6=str(subnet6),
            )
        )
    by_name = {node.name: node for node in nodes}
    taken = dict.fromkeys(spec.nodes, 1)  # address 1 is the bridge
    pods = []
    for pod in spec.pods:
        node_name = pod.node or spec.nodes[0]
        taken[node_name] += 1
        pods.append(
            Pod(
                namespace=pod.namespace,
                name=pod.name,
                node=node_name,
                labels={"app": pod.name} if pod.labels is None else pod.labels,
                ipv4=str(IPv4Network(by_name[node_name].subnet_ipv4)[taken[node_name]]),
                ipv6=str(IPv6Network(by_name[node_name].subnet_ipv6)[taken[node_name]]),
                command=tuple(pod.command or ()),
                netns=str(names.NETNS_ROOT / names.pod_netns(name, pod.namespace, pod.name)),
                cgroup=str(names.pod_cgroup(name, node_name, pod.namespace, pod.name)),
                ports=tuple(PodPort(port.name, port.port, port.protocol) for port in pod.ports),
                aliases=tuple(pod.aliases),
            )
        )
    labels = dict.fromkeys(sorted({pod.namespace for pod in pods} | spec.namespaces.keys()), NamespaceSpec())
    namespaces = {each: dict(found.labels) for each, found in (labels | spec.namespaces).items()}
    return Lab(
        name=name,
        mode=mode,
        state=STARTING,
        agents=agents,
        nodes=tuple(nodes),
        pods=tuple(pods),
        namespaces=namespaces,
    )
