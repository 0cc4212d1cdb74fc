"""One worker as the agent sees it, and how one is started.

A worker's control socket is a listening SOCK_SEQPACKET socket that the agent makes, hands to the worker as an open
descriptor and
leaves in `run_dir/workers/NAME.sock`; so the next agent, and `tulle status` while there is no agent, can reach it.
What a
worker says is never trusted with the power to harm: its pid comes from our own record beside the socket, compared
with
the process's start time, not from its mouth.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AgentError
from proxy import channel

log = logging.getLogger("tulle.agent.workers")


ANSWER_S = 10.0
"""A worker that takes longer to do one thing is killed; every change of a node waits for it meanwhile."""


class WorkerLost(AgentError):
    """The worker ended, or was ended because it did not answer."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for a later one of the same pid: `started` is field 22 of /proc/PID/stat,
    ticks."""

    pid: int
    started: int

    @staticmethod
    def of(pid: int) -> "Process | None":
        """The running process of this pid, None when there is none (a zombie counts as none)."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else Process(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return Process.of(self.pid) == self

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to this very process, or to none."""
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(self.pid)
            try:
                if self.alive:
                    signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)


class WorkerLink:
    """The agent's end of one worker's control socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, process: Process, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self._next_id = 1
        self._pending: dict[int, asyncio.Future[channel.Message]] = {}
        self.name = name
        self.process = process
        self.slot: int | None = None
        """Listener slot in the kernel; None for a worker that drains."""
        self.listens: dict[int, tuple[bool, bool]] = {}
        """Endpoints that it has listeners for, each with (ingress, egress)."""
        self.rules_epoch: int | None = None
        """Of the rules that this agent gave it; None when that is not known."""
        self.heard = time.monotonic()
        self.state: channel.Message = {}
        self.lost = asyncio.Event()
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)

    @property
    def draining(self) -> bool:
        """Whether it accepts nothing new and ends with its last flow."""
        return bool(self.state.get("draining"))

    @property
    def brokerless(self) -> bool:
        """Whether it said last that it has no channel to a broker."""
        return self.state.get("broker") is False

    @property
    def said_slot(self) -> int | None:
        """The listener slot that an agent, this one or an earlier, gave it."""
        slot = self.state.get("slot")
        return slot if isinstance(slot, int) else None

    @property
    def revision(self) -> int:
        """The revision it judges by, as it said last; 0 before its first rules."""
        return _number(self.state.get("revision"))

    def flows(self, endpoint: int) -> int:
        """Live flows of an endpoint, as it said last."""
        flows = self.state.get("flows")
        return _number(flows.get(str(endpoint))) if isinstance(flows, dict) else 0

    async def call(self, op: str, fds: Sequence[int] = (), **fields: object) -> channel.Message:
        """Ask for one thing and wait for the answer.

        Raises:
            WorkerLost: it ended; a hung worker is ended by the watchdog, which ends this wait too.
            AgentError: it refused.
        """
        if self.lost.is_set():
            raise WorkerLost(f"worker {self.name} is gone")
        number, self._next_id = self._next_id, self._next_id + 1
        answer: asyncio.Future[channel.Message] = self._loop.create_future()
        self._pending[number] = answer
        try:
            while True:
                try:
                    channel.send(self._sock, {"op": op, "id": number, **fields}, fds)
                    break
                except BlockingIOError:  # its queue is full: it hangs or is busy, the watchdog decides which
                    await asyncio.sleep(0.01)
                    if self.lost.is_set():
                        raise WorkerLost(f"worker {self.name} is gone") from None
                except OSError as error:
                    del self._pending[number]  # nobody waits for it
                    self.close()
                    raise WorkerLost(f"worker {self.name} is gone: {error.strerror}") from error
            async with asyncio.timeout(ANSWER_S):
                message = await answer
        except TimeoutError as error:
            # It answers pings, or the watchdog had ended it, but not this: whatever it is doing, it is not what we want
            log.error("worker %s did not answer '%s' within %.0f s and is killed", self.name, op, ANSWER_S)
            self.kill()
            raise WorkerLost(f"worker {self.name} did not answer '{op}'") from error
        finally:
            self._pending.pop(number, None)
        if message.get("ok") is not True:
            raise AgentError(f"worker {self.name} refused '{op}': {message.get('error')}")
        return message

    def kill(self) -> None:
        """End the process and forget the link."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        """Forget the link; whoever waits for an answer gets WorkerLost."""
        if self.lost.is_set():
            return
        self.lost.set()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(WorkerLost(f"worker {self.name} is gone"))

    def _readable(self) -> None:
        try:
            received = channel.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, channel.ChannelError) as error:
            log.error("worker %s talks nonsense and is killed: %s", self.name, error)
            self.kill()
            return
        if received is None:
            self.close()
            return
        message, fds = received
        channel.close_all(fds)
        self.heard = time.monotonic()
        self.state = message
        future = self._pending.get(_number(message.get("id")))
        if future is not None and not future.done():
            future.set_result(message)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


class WorkerFolder:
    """`run_dir/workers`: a socket and a process record for every worker of this node, whichever agent started it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        """Workers that have a record."""
        return sorted(path.stem for path in self._directory.glob("*.json"))

    def process(self, name: str) -> Process | None:
        """The live process of that worker; None when it has ended."""
        try:
            record = json.loads((self._directory / f"{name}.json").read_text())
            process = Process(int(record["pid"]), int(record["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return process if process.alive else None

    def forget(self, name: str) -> None:
        """Remove what a worker that has ended left here."""
        for suffix in (".json", ".sock"):
            (self._directory / f"{name}{suffix}").unlink(missing_ok=True)

    def connect(self, name: str) -> socket.socket:
        """A connection to that worker's control socket.

        Raises:
            OSError: it has ended.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(str(self._directory / f"{name}.sock"))
        except OSError:
            sock.close()
            raise
        return sock

    def listener(self, name: str) -> socket.socket:
        """A new control socket for a worker to be started; only root may connect."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self.forget(name)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = self._directory / f"{name}.sock"
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(8)
        return sock

    def record(self, name: str, process: Process) -> None:
        """Remember which process a worker is."""
        path = self._directory / f"{name}.json"
        path.with_suffix(".new").write_text(json.dumps({"pid": process.pid, "started": process.started}))
        path.with_suffix(".new").rename(path)


def spawn(module: str, fd: int, *arguments: str, cgroup: Path) -> "subprocess.Popen[bytes]":
    """Start `python -m MODULE FD ARGUMENTS…` in a session of its own and put it into a cgroup.

    The child inherits only `fd` and the standard streams; it must not act before it is told to through `fd`, because
    it joins its cgroup a moment after it starts.

    Raises:
        AgentError: the cgroup does not take it.
    """
    child = subprocess.Popen(  # noqa: S603  our own interpreter and our own module
        [sys.executable, "-P", "-m", module, str(fd), *arguments],
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    try:
        (cgroup / "cgroup.procs").write_text(str(child.pid))
    except OSError as error:
        child.kill()
        child.wait()
        raise AgentError(f"cannot put {module} into cgroup '{cgroup}': {error.strerror}") from error
    return child
