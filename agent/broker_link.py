"""The agent's end of the broker: starts it, tells it of pods, connects workers to it."""

import contextlib
import logging
import socket
import subprocess
from pathlib import Path

from agent.errors import AgentError
from agent.pool import make_pair
from agent.workers import WorkerLink, spawn
from proxy import channel

log = logging.getLogger("tulle.agent.broker")


class BrokerLink:
    """One broker at a time; when it dies, `alive` turns false and `start` makes the next."""

    def __init__(self, cgroup: Path) -> None:
        self._cgroup = cgroup
        self._child: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._pods: dict[int, tuple[Path, int]] = {}

    @property
    def alive(self) -> bool:
        """Whether the broker runs."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        """The broker's pid, None while there is none."""
        return self._child.pid if self._child is not None and self.alive else None

    def start(self) -> None:
        """Start a broker and tell it of every pod. The workers must be connected to it by `serve`."""
        self.close()
        ours, theirs = make_pair()
        with contextlib.closing(theirs):
            self._child = spawn("agent.broker", theirs.fileno(), cgroup=self._cgroup)
        self._sock = ours
        for endpoint, (path, inode) in self._pods.items():
            self._tell_pod(endpoint, path, inode)

    def add_pod(self, endpoint: int, path: Path, inode: int) -> None:
        """Let workers have sockets in this pod."""
        if self._pods.get(endpoint) != (path, inode):
            self._pods[endpoint] = (path, inode)
            self._tell_pod(endpoint, path, inode)

    def gone(self, endpoint: int) -> None:
        """Close the pod's network namespace."""
        if self._pods.pop(endpoint, None):
            self._tell({"op": "gone", "endpoint": endpoint})

    async def serve(self, worker: WorkerLink) -> None:
        """Connect a worker to the broker.

        Raises:
            AgentError: the broker is gone, or the worker.
        """
        ours, theirs = make_pair()
        with contextlib.closing(ours), contextlib.closing(theirs):
            if not self._tell({"op": "worker", "name": worker.name}, ours.fileno()):
                raise AgentError("the broker is gone")
            await worker.call("broker", (theirs.fileno(),))

    def close(self) -> None:
        """Let go: the broker serves on for as long as a worker is connected to it."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _tell_pod(self, endpoint: int, path: Path, inode: int) -> None:
        self._tell({"op": "pod", "endpoint": endpoint, "path": str(path), "inode": inode})

    def _tell(self, message: channel.Message, *fds: int) -> bool:
        if self._sock is None:
            return False
        try:
            channel.send(self._sock, message, fds)
        except OSError as error:
            log.error("broker: %s", error)
            return False
        return True
