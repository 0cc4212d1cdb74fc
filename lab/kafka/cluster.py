"""The Kafka of a lab: which pods it is made of, and when it works.

Three listeners on ports of their own, so that a policy on 9092 meets clients alone: CLIENTS on 9092, BROKERS on 9091
and CONTROLLER on 9093. With one broker the latter two are on loopback; with several, brokers meet in the pod network,
and a document of the lab's own allows them to (`BROKERS_POLICY`).
"""

import base64
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Final

from lab import confine, names
from lab.errors import LabError
from lab.kafka.broker import BROKERS_PORT, CLIENTS_PORT, CONTROLLER_PORT
from lab.model import LabSpec, PodSpec, PortSpec
from lab.spawn import spawn
from lab.state import Lab, Pod, write_atomic

COMMAND: Final = "tulle-kafka"
NAME: Final = "kafka"
CLIENT: Final = "billing"
TOPICS: Final = ("orders", "invoices", "secrets")
MAX_BROKERS: Final = 9
READY_TIMEOUT_S: Final = 120.0
"""One broker takes 3 s on an idle machine of two cores; one that is busy with other labs gets more."""

MAX_STARTS: Final = 4
"""A broker that was started more often will not work."""

# Nothing is refused because of it (enableDefaultDeny), and what else selects the pods does not cut brokers off from
# each other.
BROKERS_POLICY: Final = f"""\
# Written by `tulle lab up --with kafka=N`: brokers reach each other whatever is applied to them; nothing else changes.
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: kafka-brokers, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: {NAME}}}}}
  enableDefaultDeny: {{ingress: false, egress: false}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{app: {NAME}}}}}]
    toPorts: [{{ports: [{{port: "{BROKERS_PORT}", protocol: TCP}}, {{port: "{CONTROLLER_PORT}", protocol: TCP}}]}}]
  egress:
  - toEndpoints: [{{matchLabels: {{app: {NAME}}}}}]
    toPorts: [{{ports: [{{port: "{BROKERS_PORT}", protocol: TCP}}, {{port: "{CONTROLLER_PORT}", protocol: TCP}}]}}]
"""
BROKERS_POLICY_FILE: Final = "CiliumNetworkPolicy.default.kafka-brokers.yaml"


def cluster_id(lab: str) -> str:
    """16 bytes in base64, as Kafka writes it; the same for the same lab; no dash, which would look like an option."""
    made = base64.urlsafe_b64encode(hashlib.sha256(lab.encode()).digest()[:16]).decode().rstrip("=")
    return made.replace("-", "x").replace("_", "y")


def extended(spec: LabSpec, lab: str, brokers: int) -> LabSpec:
    """The lab with Kafka: one pod `kafka`, or `kafka-0` and so on, over the nodes from the second on; and `billing` on
    the first, unless the lab has one.

    Raises:
        LabError: a number of brokers that cannot be, or the lab has a pod of a broker's name.
    """
    if not 1 <= brokers <= MAX_BROKERS:
        raise LabError(f"--with kafka={brokers}: expected 1 to {MAX_BROKERS} brokers", 2)
    hosts = [NAME] if brokers == 1 else [f"{NAME}-{number}" for number in range(brokers)]
    peers = ["localhost"] if brokers == 1 else hosts
    present = {pod.name for pod in spec.pods if pod.namespace == names.DEFAULT_NAMESPACE}
    taken = sorted(present & {NAME, *hosts})
    if taken:
        raise LabError(f"--with kafka: there is a pod {taken[0]!r} already")
    pods = []
    for number, host in enumerate(hosts):
        place = ["--data", str(names.data_dir(lab) / host), "--cluster-id", cluster_id(lab)]
        command = [COMMAND, *place, "--node-id", str(number), "--advertise", host, "--peers", ",".join(peers)]
        pods.append(
            PodSpec(
                name=host,
                node=spec.nodes[(number + 1) % len(spec.nodes)],
                labels={"app": NAME},
                command=command,
                ports=[PortSpec(name=NAME, port=CLIENTS_PORT)],
                aliases=[] if host == NAME else [NAME],
            )
        )
    if CLIENT not in present:
        pods.append(PodSpec(name=CLIENT, node=spec.nodes[0]))
    return spec.model_copy(update={"pods": [*spec.pods, *pods]})


def brokers(lab: Lab) -> list[Pod]:
    """The pods that run a broker."""
    return [pod for pod in lab.pods if pod.command[:1] == (COMMAND,)]


def write_policy(lab: Lab) -> None:
    """Brokers among themselves, for agents that are not started yet; nothing where there is only one."""
    if len(brokers(lab)) > 1:
        for node in lab.nodes:
            write_atomic(lab.policy_dir(node.name) / BROKERS_POLICY_FILE, BROKERS_POLICY)


def log_of(lab: Lab, pod: Pod) -> Path:
    """What a pod's command wrote."""
    return lab.node_dir(pod.node) / "logs" / f"{pod.namespace}_{pod.name}.log"


def wait(lab: Lab) -> None:
    """Return when `kafka:9092` answers in `billing`, and what lab.kafka.ready asks for is there.

    Raises:
        LabError: it does not in READY_TIMEOUT_S seconds, or a broker keeps ending; with the end of a log.
    """
    there = brokers(lab)
    client = lab.find_pod(CLIENT)
    log = lab.node_dir(client.node) / "logs" / "kafka-ready.log"
    bootstrap = f"{NAME}:{CLIENTS_PORT}"
    argv = [sys.executable, "-m", "lab.kafka.ready", bootstrap, str(len(there)), *TOPICS]
    pid = spawn(argv, enter=lambda: confine.enter_pod(client.netns, client.cgroup, lab.pod_dir(client)), log=log)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended and status == 0:
            return
        for pod in there:
            if _text(log_of(lab, pod)).count("supervisor: broker started") > MAX_STARTS:
                raise LabError(f"the broker of {pod.ref!r} does not start{_end(log_of(lab, pod))}")
        if ended or time.monotonic() > deadline:
            first = log_of(lab, there[0])
            raise LabError(f"{bootstrap} does not answer in {CLIENT!r}{_end(log, 1)}{_end(first)}")
        time.sleep(0.02)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _end(path: Path, lines: int = 15) -> str:
    last = _text(path).splitlines()[-lines:]
    return "\n".join([f"\nthe end of {path.name}:", *("  " + line for line in last)]) if last else ""
