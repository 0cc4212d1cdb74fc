"""`tulle status`: always answers, from the agent where there is one and from the workers themselves where there is
none."""

import json
from typing import TextIO

from agent.config import Settings
from agent.control import ask
from agent.errors import AgentError
from agent.usage import usage_of
from agent.workers import WorkerFolder
from proxy import channel

FROM_AGENT = (
    "trouble",
    "errors",
    "references",
    "documents",
    "endpoints",
    "uncovered",
    "uncovered_unlisted",
    "not_covered",
    "kernel",
    "broker",
    "worker_restarts",
)
ANSWER_S = 2.0
"""A process that does not answer for this long is shown without its revision."""


def node_status(settings: Settings) -> dict[str, object]:
    """One node: {"name", "ready", "revision", "processes": [{"role", "pid", "revision", "rss_bytes", "cpu_s", "up_s"}],
    "broker": pid, "broker_usage": {"rss_bytes", "cpu_s", "up_s"}, ...}.

    revision: what every worker judges by (the lowest); None when nobody could be asked. ready: an agent answers and
    says that what it wants is in force.
    """
    workers = _workers(settings)
    revisions = [worker["revision"] for worker in workers if isinstance(worker["revision"], int)]
    try:
        agent = ask(settings.control_socket, {"op": "status"}, ANSWER_S)
    except AgentError as error:
        return {
            "name": settings.node,
            "ready": False,
            "revision": min(revisions, default=None),
            "processes": workers,
            "trouble": str(error),
        }
    process: dict[str, object] = {"role": "agent", "pid": agent["pid"], "revision": agent["revision"]}
    process |= usage_of(int(str(agent["pid"])))
    broker = agent.get("broker")
    return {
        "name": settings.node,
        "ready": agent["ready"],
        "revision": min([int(str(agent["revision"])), *revisions]),
        "processes": [process, *workers],
        **{key: agent[key] for key in FROM_AGENT if key in agent},
        "broker_usage": usage_of(broker) if isinstance(broker, int) else {},
    }


def _workers(settings: Settings) -> list[dict[str, object]]:
    folder = WorkerFolder(settings.run_dir / "workers")
    found: list[dict[str, object]] = []
    for name in folder.names():
        process = folder.process(name)
        if process is not None:
            state = _ask_worker(folder, name)
            extra = {key: state.get(key) for key in ("draining", "flows", "counters")}
            worker = {"role": "worker", "pid": process.pid, "revision": state.get("revision"), "name": name}
            found.append(worker | extra | usage_of(process.pid))
    return found


def _ask_worker(folder: WorkerFolder, name: str) -> channel.Message:
    try:
        with folder.connect(name) as sock:
            sock.settimeout(ANSWER_S)
            channel.send(sock, {"op": "state", "id": 0})
            received = channel.receive(sock)
    except (OSError, channel.ChannelError):
        return {}
    return received[0] if received is not None else {}


def show(nodes: dict[str, Settings], out: TextIO, *, as_json: bool) -> int:
    """Print the status of these nodes; 0 when all are ready, 1 otherwise."""
    found = [node_status(settings) for settings in nodes.values()]
    if as_json:
        out.write(json.dumps({"nodes": found}, indent=2) + "\n")
    else:
        for node in found:
            print_node(node, out)
    return 0 if all(node["ready"] for node in found) else 1


def _used(process: dict[str, object]) -> str:
    """Memory and CPU time; "" when the process has ended meanwhile."""
    rss, cpu_s, up_s = (process.get(key) for key in ("rss_bytes", "cpu_s", "up_s"))
    if not (isinstance(rss, int) and isinstance(cpu_s, float) and isinstance(up_s, float)):
        return ""
    share = f" ({cpu_s / up_s:.0%} of {up_s:.0f} s)" if up_s >= 1 else ""
    return f", {rss / 2**20:.0f} MiB, {cpu_s:.2f} s CPU{share}"


def print_node(node: dict[str, object], out: TextIO) -> None:
    """One node for people."""
    state = "ready" if node["ready"] else "not ready"
    out.write(f"{node['name']}: {state}, revision {node['revision']}\n")
    processes: list[dict[str, object]] = node["processes"]  # type: ignore[assignment]  # made above
    for process in processes:
        flows = process.get("flows")
        detail = f", {sum(flows.values())} connections" if isinstance(flows, dict) else ""
        detail += ", draining" if process.get("draining") else ""
        detail += _used(process)
        out.write(f"  {process['role']:<7} pid {process['pid']}, revision {process['revision']}{detail}\n")
    if node.get("broker"):
        used: dict[str, object] = node["broker_usage"]  # type: ignore[assignment]  # made above
        out.write(f"  broker  pid {node['broker']}{_used(used)}\n")
    endpoints: list[dict[str, object]] = node.get("endpoints", [])  # type: ignore[assignment]  # made by the agent
    for endpoint in endpoints:
        enforced = " and ".join(word for word in ("ingress", "egress") if endpoint[word])
        state = f"{enforced} enforced" if enforced else "no longer selected, its last connections are ending"
        out.write(f"  pod {endpoint['namespace']}/{endpoint['name']}: {state}\n")
    documents: list[dict[str, object]] = node.get("documents", [])  # type: ignore[assignment]  # made by the agent
    for document in documents:
        name = f"{document['namespace']}/{document['name']}" if document["namespace"] else document["name"]
        mode = ", audit: nothing is refused by it" if document["mode"] == "audit" else ""
        mode += ", what its file says now is bad: this is the last good revision" if document["stale"] else ""
        out.write(f"  policy {name} ({document['kind']}), revision {document['revision']}{mode}\n")
    uncovered: list[dict[str, object]] = node.get("uncovered", [])  # type: ignore[assignment]  # made by the agent
    for flow in uncovered:
        towards = "from" if flow["direction"] == "ingress" else "to"
        what = f"{flow['protocol']} {flow['direction']} {towards} {flow['peer']}, port {flow['port']}"
        out.write(f"  not covered: pod {flow['pod']}: {what}: older than its policy\n")
    if more := node.get("uncovered_unlisted"):
        out.write(f"  not covered: {more} more that are older than their policy\n")
    for line in node.get("not_covered") or ():  # type: ignore[attr-defined]  # a list of the agent's
        out.write(f"  not covered: {line}\n")
    for line in node.get("references") or ():  # type: ignore[attr-defined]  # a list of the agent's
        out.write(f"  warning: {line}\n")
    for trouble in [node.get("trouble"), *(node.get("errors") or ())]:  # type: ignore[misc]  # a list of the agent's
        if trouble:
            out.write(f"  trouble: {trouble}\n")
