"""`lab up`: from a description to pods that can talk, with their agents in charge.

Order matters for crashes: what follows from the lab's name alone needs no record (lab/names.py), every
process is in the lab's cgroup before it does anything, and `lab.json` says "up" only at the end.
"""

import errno
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lab import agents, confine, down, names, namespaces, network, state
from lab.errors import LabError
from lab.kafka import cluster as kafka
from lab.kafka import java
from lab.model import BUILT_IN, LabSpec, plan
from lab.spawn import spawn
from lab.state import Lab, Pod

# A closed port: the refusal that comes back has gone both ways.
_PROBE_PORT = 9
_PROBE_TIMEOUT_S = 5.0
_PROBE_TRY_S = 0.5
_LISTEN_TIMEOUT_S = 20.0
_TCP_LISTEN = "0A"  # column st of /proc/net/tcp6, include/net/tcp_states.h


def up(name: str, spec: LabSpec, *, mode: str, with_agents: bool, with_kafka: int = 0) -> tuple[Lab, bool]:
    """Make a lab and return when it works; (lab, False) when it was up already.

    with_kafka: number of brokers, added to what `spec` describes.

    Raises:
        LabError: not root, another lab of that name is up, or something failed; nothing is left then.
    """
    names.check_lab_name(name)
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it makes network namespaces and cgroups")
    if with_kafka:
        java.check()
        spec = kafka.extended(spec, name, with_kafka)
    wanted = plan(name, spec, mode=mode, agents=with_agents)
    network.mode(mode)
    with state.locked(name):
        present = state.read(name)
        if present is not None and present.state == state.UP and _still_there(present):
            if present != replace(wanted, state=state.UP):
                option = "" if name == names.DEFAULT_LAB else f" --name {name}"
                raise LabError(f"lab {name!r} is up, with another description: run `tulle lab down{option}` first")
            return present, False
        down.remove(name)  # half made, or its processes and namespaces went some other way
        with _nothing_left_on_failure(name):
            _make(wanted)
        done = replace(wanted, state=state.UP)
        state.save(done)
        return done, True


@contextmanager
def _nothing_left_on_failure(name: str) -> Iterator[None]:
    """A failure, Ctrl-C and SIGTERM clean up; who is killed -9 leaves it to `lab down`."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    except BaseException:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it
        down.remove(name)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _still_there(lab: Lab) -> bool:
    expected = {names.node_netns(lab.name, node.name) for node in lab.nodes} | {
        Path(pod.netns).name for pod in lab.pods
    }
    return expected <= set(namespaces.with_prefix(names.netns_prefix(lab.name)))


def _make(lab: Lab) -> None:
    state.save(lab)
    _make_directories(lab)
    _write_name_files(lab)
    network.build(lab)
    if lab.agents:
        kafka.write_policy(lab)
        agents.start(lab)
    for pod in lab.pods:
        if pod.command:
            start_command(lab, pod)
    check_reachable(lab)
    if lab.agents:
        agents.wait_ready(lab)
    if kafka.brokers(lab):
        kafka.wait(lab)


def _make_directories(lab: Lab) -> None:
    _mount_bpffs()
    for node in lab.nodes:
        names.node_cgroup(lab.name, node.name).mkdir(parents=True)
        (names.lab_bpffs(lab.name) / node.name).mkdir(parents=True)
        for part in ("policies", "state", "run", "audit", "logs", "pods"):
            (lab.node_dir(node.name) / part).mkdir(parents=True)
    for pod in lab.pods:
        Path(pod.cgroup).mkdir(parents=True)
        lab.pod_dir(pod).mkdir()


def _mount_bpffs() -> None:
    """Mount the bpf file system where it belongs on every machine; it stays, as systemd would have it."""
    root = str(names.BPFFS_ROOT)
    mounts = (line.split(" ") for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines())
    if not any(fields[1] == root and fields[2] == "bpf" for fields in mounts):
        try:
            confine.mount("bpf", root, "bpf", 0)
        except OSError as error:
            raise LabError(f"cannot mount the bpf file system: {error}") from error


def _write_name_files(lab: Lab) -> None:
    """A hosts file per pod: short names for its own namespace, NAME.NAMESPACE for all."""
    for pod in lab.pods:
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
        for other in lab.pods:
            called = " ".join(f"{name}.{other.namespace}" for name in (other.name, *other.aliases))
            if other.namespace == pod.namespace:
                called = " ".join((other.name, *other.aliases, called))
            lines += [f"{other.ipv4} {called}", f"{other.ipv6} {called}"]
        directory = lab.pod_dir(pod)
        (directory / "hosts").write_text("\n".join(lines) + "\n", encoding="ascii")
        # No server: a name that is not in hosts is refused by the pod's own loopback at once.
        (directory / "resolv.conf").write_text(
            "# The lab has no name server; names are in /etc/hosts.\n"
            "nameserver 127.0.0.1\n"
            "options timeout:1 attempts:1\n",
            encoding="ascii",
        )


def start_command(lab: Lab, pod: Pod) -> None:
    """Start a pod's own command inside it, as a container would be."""
    argv = [*BUILT_IN.get(pod.command[0], pod.command[:1]), *pod.command[1:]]
    log = lab.node_dir(pod.node) / "logs" / f"{pod.namespace}_{pod.name}.log"
    try:
        pid = spawn(argv, enter=lambda: confine.enter_pod(pod.netns, pod.cgroup, lab.pod_dir(pod)), log=log)
        if pod.command[0] == "tulle-web":  # brokers are waited for when all have been started
            _wait_listening(pod, pid, log)
    except LabError as error:
        raise LabError(f"pod {pod.ref!r}: {error}") from error


def _wait_listening(pod: Pod, pid: int, log: Path) -> None:
    """Return when something listens in the pod: the first request after `lab up` must not be refused."""
    deadline = time.monotonic() + _LISTEN_TIMEOUT_S
    while True:
        with namespaces.entered(Path(pod.netns).name):
            table = Path("/proc/thread-self/net/tcp6").read_text(encoding="ascii").splitlines()[1:]
        if any(line.split()[3] == _TCP_LISTEN for line in table):
            return
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended or time.monotonic() > deadline:
            how = f"ended with status {os.waitstatus_to_exitcode(status)}" if ended else "does not listen"
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            raise LabError(f"{pod.command[0]} {how}: {last}")
        time.sleep(0.005)


def check_reachable(lab: Lab) -> None:
    """Prove that packets go both ways, in both families: along a ring of all pods, and between all nodes.

    Raises:
        LabError: names the pair that cannot talk.
    """
    first_on: dict[str, Pod] = {}
    for pod in lab.pods:
        first_on.setdefault(pod.node, pod)
    pairs = list(zip(lab.pods, lab.pods[1:] + lab.pods[:1], strict=True)) if len(lab.pods) > 1 else []
    pairs += [(a, b) for a in first_on.values() for b in first_on.values() if a is not b]
    for source, target in pairs:
        with namespaces.entered(Path(source.netns).name):
            for address in (target.ipv4, target.ipv6):
                _probe(address, f"pod {source.ref!r} cannot reach {target.ref!r} at {address}")


def _probe(address: str, complaint: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    deadline = time.monotonic() + _PROBE_TIMEOUT_S
    while time.monotonic() < deadline:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_TRY_S)
            if probe.connect_ex((address, _PROBE_PORT)) in (0, errno.ECONNREFUSED):
                return
        time.sleep(0.01)
    raise LabError(complaint)
