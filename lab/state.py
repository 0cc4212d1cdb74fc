"""The record of a lab, `lab.json`, and the lock that makes `up` and `down` of one lab take turns.

Standard library only and quick to import: `lab exec` reads a record thousands of times in a test run.
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any  # a record as JSON gives it, checked by what reads it

from lab import names
from lab.errors import LabError

STARTING = "starting"  # `lab up` is at work, or it died
UP = "up"


@dataclass(frozen=True, slots=True)
class Node:
    """One node: `index` counts from 0; addresses are plain text, subnets have their prefix length."""

    name: str
    index: int
    underlay_ipv4: str
    underlay_ipv6: str
    subnet_ipv4: str
    subnet_ipv6: str


@dataclass(frozen=True, slots=True)
class PodPort:
    """A port with a name, for policies; protocol is TCP, UDP or SCTP."""

    name: str
    port: int
    protocol: str


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `command` is empty for a pod that only waits for `lab exec`. aliases: further names that lead to it."""

    namespace: str
    name: str
    node: str
    labels: dict[str, str]
    ipv4: str
    ipv6: str
    command: tuple[str, ...]
    netns: str
    cgroup: str
    ports: tuple[PodPort, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        """As people write it: NAME in namespace `default`, NAMESPACE/NAME elsewhere."""
        return self.name if self.namespace == names.DEFAULT_NAMESPACE else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Lab:
    """Everything that `lab up` decided, written before it makes anything. namespaces: labels of each."""

    name: str
    mode: str
    state: str
    agents: bool
    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)

    def node_dir(self, node: str) -> Path:
        return names.run_dir(self.name) / node

    def pod_dir(self, pod: Pod) -> Path:
        return self.node_dir(pod.node) / "pods" / f"{pod.namespace}_{pod.name}"

    def agent_socket(self, node: str) -> Path:
        return self.node_dir(node) / "run" / "agent.sock"

    def agent_config(self, node: str) -> Path:
        return self.node_dir(node) / "agent.yaml"

    def policy_dir(self, node: str) -> Path:
        return self.node_dir(node) / "policies"

    def agent_log(self, node: str) -> Path:
        return self.node_dir(node) / "logs" / "agent.log"

    def find_pod(self, ref: str) -> Pod:
        """The pod that NAME or NAMESPACE/NAME means.

        Raises:
            LabError: no such pod; the message names the nearest.
        """
        wanted = names.split_pod(ref)
        for pod in self.pods:
            if (pod.namespace, pod.name) == wanted:
                return pod
        near = names.did_you_mean(ref.removeprefix(f"{names.DEFAULT_NAMESPACE}/"), (pod.ref for pod in self.pods))
        raise LabError(f"no pod {ref!r} in lab {self.name!r}{near}")

    def find_node(self, name: str) -> Node:
        """Raises LabError with the nearest name when there is no such node."""
        for node in self.nodes:
            if node.name == name:
                return node
        near = names.did_you_mean(name, (node.name for node in self.nodes))
        raise LabError(f"no node {name!r} in lab {self.name!r}{near}")


def write_atomic(path: Path, text: str, *, staging: Path | None = None) -> None:
    """Write a file so that a reader sees the old text or the new, never a part.

    staging: a folder of the same file system where the new text is prepared, for a folder that somebody watches.
    """
    temporary = (staging or path.parent) / f".{path.name}.tmp"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def save(lab: Lab) -> None:
    directory = names.run_dir(lab.name)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "lab.json", json.dumps(asdict(lab), indent=1) + "\n")


def read(name: str) -> Lab | None:
    """The record of a lab; None when there is none, or none that can be read (what a crash may leave)."""
    try:
        raw = json.loads((names.run_dir(name) / "lab.json").read_bytes())
        return Lab(
            name=raw["name"],
            mode=raw["mode"],
            state=raw["state"],
            agents=raw["agents"],
            nodes=tuple(Node(**node) for node in raw["nodes"]),
            pods=tuple(map(_pod, raw["pods"])),
            namespaces=raw.get("namespaces", {}),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        return None


def _pod(raw: dict[str, Any]) -> Pod:
    ports = tuple(PodPort(**port) for port in raw.get("ports", ()))
    words = {key: tuple(raw.get(key, ())) for key in ("command", "aliases")}
    return Pod(**{**raw, **words, "ports": ports})


def running(name: str) -> Lab:
    """The record of a lab that is up.

    Raises:
        LabError: there is no such lab, or it is not (or no longer) complete.
    """
    lab = read(name)
    if lab is None:
        option = "" if name == names.DEFAULT_LAB else f" --name {name}"
        others = [other for other in all_labs() if other != name]
        hint = f"; running: {', '.join(others)} (--name)" if others else ""
        raise LabError(f"no lab {name!r} is up: run `tulle lab up{option}`{hint}")
    if lab.state != UP:
        raise LabError(f"lab {name!r} is only half made: `tulle lab up` is at work, or run `tulle lab down`")
    return lab


def all_labs() -> list[str]:
    """Every lab of which anything is left on the machine, sorted."""
    found: set[str] = set()
    for root in (names.RUN_ROOT, names.DATA_ROOT):
        with suppress(FileNotFoundError):
            found |= {entry.name for entry in root.iterdir() if entry.is_dir()}
    with suppress(FileNotFoundError, LabError):
        found |= {entry.name for entry in names.labs_cgroup().iterdir() if entry.is_dir()}
    with suppress(FileNotFoundError):
        for entry in names.NETNS_ROOT.iterdir():
            prefix, _, rest = entry.name.partition("_")
            if prefix == "tulle" and "_" in rest:
                found.add(rest.partition("_")[0])
    return sorted(name for name in found if names.is_label(name, names.MAX_LAB_NAME))


@contextmanager
def locked(name: str, *, file: Path | None = None) -> Iterator[None]:
    """Hold the lab's lock: waits, and says so, while another command has it.

    The file goes when the last holder leaves, so that a lab leaves nothing behind; who waited on a
    file that is gone by then notices by its inode and starts again.

    file: a lock of another purpose, inside the lab's own folder.

    Raises:
        LabError: the folder of `file` is gone, and with it the lab.
    """
    path = file or names.lock_file(name)
    while True:
        try:
            if file is None:
                path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError as error:
            if file is not None:
                raise LabError(f"lab {name!r} is no longer up") from error
            continue  # another `down` removed the empty folder in between
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"tulle: lab {name!r} is in use by another command: waiting\n")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                break
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        for parent in (names.RUN_ROOT, names.RUN_ROOT.parent):
            with suppress(OSError):  # not empty: another lab, or the node's own agent, lives here
                parent.rmdir()


def remove_tree(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
