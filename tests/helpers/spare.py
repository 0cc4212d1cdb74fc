"""A lab that a test may break: handed to the next test when it has come back whole, else replaced by a new one.

Bringing a lab up compiles the programs once per node, which costs more than most tests do. What a test killed comes
back by itself, which is a promise of the product's, and what it left behind is looked for: processes, pins, pods' rules
and settings, the agent's files, mounts. Whatever is not as it was when the lab was new makes the lab a broken one.
"""

import json
import secrets
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any  # Any: a status as the product prints it

from lab import state
from lab.errors import LabError
from redirect import plumbing
from redirect.errors import RedirectError
from redirect.netns import Netns
from tests.helpers.cluster import Cluster, eventually
from tests.helpers.live import status_of

WHOLE_S = 4.0
"""How long a lab has to come back; a new one takes about as long."""
SETTINGS = ("ipv4/conf/*/*", "ipv6/conf/*/*", "ipv4/*", "ipv6/*")
CHANGING = {"stable_secret", "use_optimistic", "route/flush", "flush", "fib_notify_on_flag_change"}


class SpareLab:
    """The lab, and what it looked like when it was new."""

    def __init__(self) -> None:
        self._lab: Cluster | None = None
        self._new: dict[str, Any] = {}
        self.made = 0
        self.why: list[str] = []  # what was not as it was, for each that was replaced

    def take(self, *, young: bool = False) -> Cluster:
        """A lab without policies; what it recorded and logged before now is not shown. `young`: just brought up."""
        if young:
            self.close()
        if self._lab is None:
            lab = Cluster(f"tt{secrets.token_hex(3)}")
            self._lab = lab
            done = lab.lab("up")
            assert done.returncode == 0, done.stderr
            self.made += 1
            self._new = picture(lab)
        else:
            self._lab.forget()
        return self._lab

    def give_back(self) -> None:
        """Keep the lab if it is whole."""
        lab = self._lab
        assert lab is not None
        wrong = "its policies cannot be deleted"
        with suppress(AssertionError):
            lab.delete_policies()
            wrong = ""

        def whole() -> bool:
            nonlocal wrong
            wrong = difference(self._new, picture(lab))
            return not wrong

        if wrong or not eventually(whole, WHOLE_S, 0.2):
            self.why.append(wrong)
            self.close()

    def close(self) -> None:
        """Take it down."""
        if self._lab is not None:
            self._lab.lab("down")
        self._lab = None


def difference(new: dict[str, Any], now: dict[str, Any]) -> str:
    """The first thing that is not as it was; empty: nothing."""
    for what in sorted(new.keys() | now.keys()):
        if new.get(what) != now.get(what):
            return f"{what}: {str(new.get(what))[:120]} is {str(now.get(what))[:120]}"
    return ""


def picture(lab: Cluster) -> dict[str, Any]:
    """Everything of a lab that a test can change and a later one could meet, by name."""
    found: dict[str, Any] = {"mounts": mounts(lab)}
    try:
        record = state.running(lab.name)
    except LabError as error:
        return {"lab": str(error)}
    found["record"] = replace(record)
    for node in lab.status()["nodes"]:
        name = node["name"]
        directory = lab.directory / name
        processes = [(process["role"], process.get("draining")) for process in node["processes"]]
        found[f"{name} processes"] = sorted(processes, key=str)
        found[f"{name} broker"] = node.get("broker") is not None
        for word in ("ready", "trouble", "errors", "endpoints", "documents", "uncovered"):
            found[f"{name} {word}"] = node.get(word)
        for file in ("agent.yaml", "inventory.json", "state/added-pods.json"):
            with suppress(FileNotFoundError):
                found[f"{name} {file}"] = sorted_text(directory / file)
        for folder in ("policies", "state/endpoints", "state/last-good"):
            found[f"{name} {folder}"] = sorted(path.name for path in (directory / folder).glob("*"))
        pins = Path(json.loads((directory / "agent.yaml").read_text())["bpffs"])
        found[f"{name} pins"] = sorted(str(path.relative_to(pins)) for path in pins.rglob("*"))
        found[f"{name} cgroups"] = sorted(
            str(path.relative_to(lab.node_cgroup(name))) for path in lab.node_cgroup(name).rglob("*/")
        )
    for pod in record.pods:
        found |= {f"{pod.ref} {what}": value for what, value in pod_picture(pod).items()}
    for client in ("frontend", "frontend-near", "intruder"):
        for family in ("ipv4", "ipv6"):
            try:
                found[f"{client} asks web, {family}"] = status_of(lab, client, "/", family=family)
            except (OSError, RedirectError, ValueError) as error:
                found[f"{client} asks web, {family}"] = str(error)
    return found


def pod_picture(pod: state.Pod) -> dict[str, Any]:
    """A pod's network namespace, what of ours is inside, its settings and how many processes it has."""
    try:
        with closing(Netns.open(Path(pod.netns))) as netns:
            found: dict[str, Any] = {"netns": Path(pod.netns).stat().st_ino, "traces": plumbing.traces(netns)}
            with netns.entered():
                found |= settings()
        found["processes"] = len((Path(pod.cgroup) / "cgroup.procs").read_text().split())
    except (OSError, RedirectError) as error:
        return {"gone": str(error)}
    return found


def settings() -> dict[str, str]:
    """The settings of the network namespace that this thread is in."""
    root = Path("/proc/sys/net")
    found = {}
    for pattern in SETTINGS:
        for path in root.glob(pattern):
            if path.name not in CHANGING and path.is_file():
                with suppress(OSError):
                    found[str(path.relative_to(root))] = path.read_text().strip()
    return found


def mounts(lab: Cluster) -> list[str]:
    """What is mounted below the lab's own directory."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(f"{lab.directory}/")]


def sorted_text(path: Path) -> str:
    """JSON by meaning (the lists looked at here have no order), other text as it is."""
    text = path.read_text()
    with suppress(ValueError):
        told = json.loads(text)
        return json.dumps(sorted(told, key=str) if isinstance(told, list) else told, sort_keys=True)
    return text
