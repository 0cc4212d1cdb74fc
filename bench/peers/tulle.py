"""Peer `tulle`: the product as it is, with one worker, the ten rules in force at `web`, its audit records in a file."""

import json
import os
import signal
import time
from typing import NotRequired, TypedDict

from bench.benchlab import HERE, NODE
from bench.errors import BenchError
from bench.peers.base import Peer
from lab.state import write_atomic

_RESTART_S = 30.0
_POLL_S = 0.2


class Tulle(Peer):
    """What is measured is node-b's agent, broker and worker; node-a's agent enforces nothing here."""

    name = "tulle"
    policy = True

    def start(self, workers: int = 1) -> None:
        self.with_workers(workers)
        self.lab.tulle("lab", "apply", "--name", self.lab.name, str(HERE / "policy.yaml"))

    def processes(self) -> dict[str, list[int]]:
        return _pids(self._status())

    def with_workers(self, workers: int) -> None:
        """The lab has one worker per core: write `workers: N` and let the supervisor start the agent anew."""
        path = self.lab.record.agent_config(NODE)
        write_atomic(path, json.dumps({**json.loads(path.read_bytes()), "workers": workers}, indent=1) + "\n")
        before = self.pids
        for pid in self.processes()["agent"]:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _RESTART_S
        while True:
            status = self._status()
            now = _pids(status)
            counts = [len(now.get(role, ())) for role in ("agent", "worker")]
            if status.get("ready") and counts == [1, workers] and now["agent"][0] not in before:
                return
            if time.monotonic() > deadline:
                raise BenchError(f"the agent did not come back with {workers} workers: agents and workers are {counts}")
            time.sleep(_POLL_S)

    def _status(self) -> "Status":
        """node-b of `tulle status --json`, which also answers (with status 1) while the node is not ready."""
        printed = self.lab.tulle("status", "--name", self.lab.name, "--node", NODE, "--json", good=(0, 1))
        try:
            found: Status = json.loads(printed)["nodes"][0]
        except (ValueError, LookupError) as error:
            raise BenchError(f"'tulle status' gave no node: {printed.strip()[-500:]}") from error
        return found


class Process(TypedDict):
    """One entry of `processes`."""

    role: str
    pid: int


class Status(TypedDict):
    """The part of a node's status that is used here."""

    ready: bool
    processes: list[Process]
    broker: NotRequired[int | None]


def _pids(status: Status) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for process in status["processes"]:
        found.setdefault(process["role"], []).append(process["pid"])
    broker = status.get("broker")
    if broker is not None:  # `processes` has agents and workers; the broker works for them
        found["broker"] = [broker]
    return found
