"""The agents of a lab: their configuration and inventory, starting them, waiting until they protect."""

import json
import os
import sys
import time
from pathlib import Path

from lab import confine, control, names, network
from lab.control import Json
from lab.errors import LabError
from lab.spawn import spawn
from lab.state import Lab, Node, Pod, write_atomic

# A cold start compiles eBPF with BCC on a machine that may be busy with other labs.
START_TIMEOUT_S = 90.0
POD_TIMEOUT_S = 30.0
STATUS_TIMEOUT_S = 5.0
# So many starts without a word on the control socket: it will not come.
MAX_STARTS = 4


def tulle_command() -> list[str]:
    """The product's command of this very checkout, as a process of its own."""
    installed = Path(sys.executable).with_name("tulle")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "agent.cli"]


def agent_cgroup(lab: Lab, node: Node) -> Path:
    return names.node_cgroup(lab.name, node.name) / "tulle" / "agent"


def supervisor_cgroup(lab: Lab, node: Node) -> Path:
    """Outside `tulle/`: a test freezes this directory to hold a killed agent dead."""
    return names.node_cgroup(lab.name, node.name) / "supervisor"


def inventory(lab: Lab) -> Json:
    """The cluster as every agent's inventory file has it; places of pods mean something on the pod's own node."""
    return {
        "pods": [pod_entry(pod) for pod in lab.pods],
        "nodes": [node_entry(lab, node) for node in lab.nodes],
        "namespaces": namespace_entries(lab),
    }


def node_entry(lab: Lab, node: Node) -> Json:
    return {"name": node.name, "addresses": network.mode(lab.mode).node_addresses(node)}


def namespace_entries(lab: Lab) -> Json:
    return {name: {"labels": labels} for name, labels in lab.namespaces.items()}


def port_entries(pod: Pod) -> list[Json]:
    return [{"name": port.name, "port": port.port, "protocol": port.protocol} for port in pod.ports]


def pod_entry(pod: Pod) -> Json:
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "node": pod.node,
        "labels": pod.labels,
        "ipv4": pod.ipv4,
        "ipv6": pod.ipv6,
        "netns": pod.netns,
        "cgroup": pod.cgroup,
        "ports": port_entries(pod),
    }


def config(lab: Lab, node: Node) -> Json:
    directory = lab.node_dir(node.name)
    return {
        "node": node.name,
        "run_dir": str(directory / "run"),
        "state_dir": str(directory / "state"),
        "bpffs": str(names.lab_bpffs(lab.name) / node.name),
        "cgroup_root": str(names.node_cgroup(lab.name, node.name)),
        "policy_dir": str(lab.policy_dir(node.name)),
        "inventory": str(directory / "inventory.json"),
        # not to standard output: that is the agent's log, which only a new agent rotates
        "audit": {"directory": str(directory / "audit"), "stdout": False},
    }


def start(lab: Lab) -> None:
    """Start every node's agent under its supervisor and have each of its pods protected.

    Raises:
        LabError: an agent does not come up or refuses a pod; with the end of its log.
    """
    everyone = json.dumps(inventory(lab), indent=1) + "\n"
    for node in lab.nodes:
        write_atomic(lab.node_dir(node.name) / "inventory.json", everyone)
        # JSON is YAML, and needs no library to write.
        write_atomic(lab.agent_config(node.name), json.dumps(config(lab, node), indent=1) + "\n")
    for node in lab.nodes:
        _start_supervisor(lab, node)
    for node in lab.nodes:
        wait_for_socket(lab, node)
    for pod in lab.pods:
        try:
            control.call(lab.agent_socket(pod.node), {"op": "pod.add", "pod": pod_entry(pod)}, POD_TIMEOUT_S)
        except LabError as error:
            raise LabError(f"pod {pod.ref!r} is not protected: {error}{_log_end(lab, pod.node)}") from error


def _start_supervisor(lab: Lab, node: Node) -> None:
    inner, outer = agent_cgroup(lab, node), supervisor_cgroup(lab, node)
    inner.mkdir(parents=True)
    outer.mkdir(parents=True)
    log = lab.agent_log(node.name)
    agent = [*tulle_command(), "agent", "--config", str(lab.agent_config(node.name))]
    supervisor = [sys.executable, "-m", "lab.supervisor", "--cgroup", str(inner), "--log", str(log), "--", *agent]

    def enter() -> None:
        confine.join_cgroup(str(outer))
        confine.join_netns(str(names.NETNS_ROOT / names.node_netns(lab.name, node.name)))

    spawn(supervisor, enter=enter, log=log)


def wait_for_socket(lab: Lab, node: Node) -> None:
    """Return when the agent answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            control.call(lab.agent_socket(node.name), {"op": "status"}, STATUS_TIMEOUT_S)
        except control.AgentAway as error:
            _give_up_if_hopeless(lab, node, deadline, str(error))
            time.sleep(0.02)
        else:
            return


def wait_ready(lab: Lab) -> None:
    """Return when every agent says that steering is in place.

    Raises:
        LabError: one does not in START_TIMEOUT_S seconds; with the end of its log.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    for node in lab.nodes:
        while not (status := ask_status(lab, node.name))[0]:
            _give_up_if_hopeless(lab, node, deadline, f"it is not ready at revision {status[1]}")
            time.sleep(0.02)


def ask_status(lab: Lab, node: str) -> tuple[bool, int]:
    """(ready, revision in force) of a node; (False, 0) while its agent is away."""
    try:
        answer = control.call(lab.agent_socket(node), {"op": "status"}, STATUS_TIMEOUT_S)
    except LabError:
        return False, 0
    revision = answer.get("revision")
    return answer.get("ready") is True, revision if isinstance(revision, int) else 0


def _give_up_if_hopeless(lab: Lab, node: Node, deadline: float, why: str) -> None:
    starts = 0
    if lab.agent_log(node.name).exists():
        starts = lab.agent_log(node.name).read_bytes().count(b"supervisor: agent started")
    if starts > MAX_STARTS or time.monotonic() > deadline:
        raise LabError(f"the agent of {node.name} does not come up: {why}{_log_end(lab, node.name)}")


def _log_end(lab: Lab, node: str, lines: int = 15) -> str:
    try:
        text = lab.agent_log(node).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return os.linesep.join(
        ["", f"the end of the log of {node}:", *("  " + line for line in text.splitlines()[-lines:])]
    )
