"""The agent's end of the broker: starts it, tells it of pods, connects workers to it."""

import contextlib
import logging
import socket
import subprocess
import time
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
        self._heard = self._asked = 0.0

    @property
    def silent_s(self) -> float:
        """Seconds for which a ping has had no answer."""
        return max(0.0, time.monotonic() - self._asked) if self._asked > self._heard else 0.0

    def ping(self) -> None:
        """Take the answer to the last ping, if it is there, and send another."""
        if self._sock is None:
            return
        try:
            while self._asked > self._heard and channel.receive(self._sock) is not None:
                self._heard = time.monotonic()
        except BlockingIOError:
            return  # not yet
        except (OSError, channel.ChannelError) as error:
            log.error("broker: %s", error)
            return
        if self._tell({"op": "ping"}):
            self._asked = time.monotonic()

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
        if self._child is not None:
            self._child.kill()  # hung: it could hold the workers' sockets back for ever
            self._child.wait()
        ours, theirs = make_pair()
        ours.setblocking(False)
        with contextlib.closing(theirs):
            self._child = spawn("agent.broker", theirs.fileno(), cgroup=self._cgroup)
        self._sock = ours
        self._heard = self._asked = time.monotonic()
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
        except OSError as error:  # it has gone, or has not read for long: the next one is told everything
            log.error("the broker does not hear us and is killed: %s", error)
            if self._child is not None:
                self._child.kill()
            return False
        return True
