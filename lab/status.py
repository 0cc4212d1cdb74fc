"""`lab status`: the nodes and pods of a running lab."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lab import agents, state
from lab.control import Json
from lab.state import Lab


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """ready: steering is in place; revision: of the policy in force, 0 while none is or the agent is away."""

    name: str
    ready: bool
    revision: int


def node_statuses(lab: Lab) -> list[NodeStatus]:
    """Ask every node's agent; one that does not answer is not ready."""
    return [NodeStatus(node.name, *agents.ask_status(lab, node.name)) for node in lab.nodes]


def report(lab: Lab, nodes: list[NodeStatus]) -> Json:
    """The contract of `lab status --json`; `agent.pods.cluster.load_cluster` takes it for an inventory."""
    return {
        "mode": lab.mode,
        "nodes": [
            {**agents.node_entry(lab, lab.find_node(node.name)), "ready": node.ready, "revision": node.revision}
            for node in nodes
        ],
        "namespaces": agents.namespace_entries(lab),
        "pods": [
            {
                "namespace": pod.namespace,
                "name": pod.name,
                "node": pod.node,
                "labels": pod.labels,
                "ipv4": pod.ipv4,
                "ipv6": pod.ipv6,
                "ports": agents.port_entries(pod),
            }
            for pod in lab.pods
        ],
    }


def table(lab: Lab, nodes: list[NodeStatus]) -> str:
    """A table for people."""
    rows = [("NODE", "READY", "REVISION")]
    rows += [(node.name, "yes" if node.ready else "no", str(node.revision)) for node in nodes]
    pods = [("POD", "NODE", "IPV4", "IPV6", "LABELS")]
    for pod in lab.pods:
        labels = ",".join(f"{key}={value}" for key, value in sorted(pod.labels.items()))
        pods.append((pod.ref, pod.node, pod.ipv4, pod.ipv6, labels))
    title = f"lab {lab.name}, mode {lab.mode}" + ("" if lab.agents else ", no agents")
    return "\n".join([title, "", *_aligned(rows), "", *_aligned(pods)])


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def show(name: str, *, as_json: bool) -> None:
    """Print it; raises LabError when there is no such lab."""
    lab = state.running(name)
    nodes = node_statuses(lab)
    print(json.dumps(report(lab, nodes)) if as_json else table(lab, nodes))
