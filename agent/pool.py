"""The pool of workers: started, watched, adopted from an earlier agent, drained.

INVARIANT: a worker gets its listeners only after the rules, the broker and the links; so whatever reaches it is
judged.
"""

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path

from agent.config import Settings
from agent.errors import AgentError
from agent.workers import Process, WorkerFolder, WorkerLink, WorkerLost, spawn
from proxy.limits import Limits
from redirect.errors import RedirectError
from redirect.types import SLOTS

log = logging.getLogger("tulle.agent.pool")

PING_S = 0.5
STABLE_S = 10.0
"""A worker that lived this long did not die of what it was started with: its successor is started at once."""
MAX_BACKOFF_S = 5.0
START_S = 15.0
"""How long a worker may take to answer for the first time."""


class Pool:
    """All workers of a node. `equip` is called for a new worker with the pool's lock-holder's discipline: see
    agent/app.py."""

    def __init__(
        self,
        settings: Settings,
        cgroup: Path,
        equip: Callable[[WorkerLink], Awaitable[None]],
        empty_slot: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._cgroup = cgroup
        self._equip = equip
        self._empty_slot = empty_slot
        self._folder = WorkerFolder(settings.run_dir / "workers")
        self._links: dict[str, WorkerLink] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._keepers: set[asyncio.Task[None]] = set()
        self._closing = False
        self._equipped = asyncio.Event()
        self.restarts = 0

    def __iter__(self) -> Iterator[WorkerLink]:
        return iter([link for link in self._links.values() if not link.lost.is_set()])

    @property
    def serving(self) -> list[WorkerLink]:
        """Workers that accept new connections."""
        return [link for link in self if link.slot is not None]

    async def adopt(self) -> list[WorkerLink]:
        """Connect to the workers that an earlier agent left; those that do not answer are killed."""
        adopted = []
        for name in self._folder.names():
            process = self._folder.process(name)
            if process is None:
                self._folder.forget(name)
                continue
            try:
                link = WorkerLink(asyncio.get_running_loop(), name, process, self._folder.connect(name))
                async with asyncio.timeout(self._settings.worker_silent_s):
                    await link.call("state")
            except (OSError, AgentError, TimeoutError) as error:
                log.warning("worker %s of an earlier agent does not answer and is killed: %s", name, error)
                process.kill()
                self._folder.forget(name)
                continue
            self._links[name] = link
            self._watch(link)
            adopted.append(link)
        return adopted

    def keepers(self, count: int) -> list[Coroutine[None, None, None]]:
        """What is to be run to have `count` workers: each starts one and starts it anew when it ends."""
        return [self._keep_one() for _ in range(count)]

    async def until_serving(self, count: int) -> None:
        """Return when that many workers accept connections."""
        while len(self.serving) < count:
            self._equipped.clear()
            await self._equipped.wait()

    async def _keep_one(self) -> None:
        backoff = 0.0
        while not self._closing:
            started = time.monotonic()
            try:
                link = await self._start()
            except (OSError, AgentError, RedirectError) as error:
                log.error("cannot start a worker: %s", error)
            else:
                await link.lost.wait()
                log.warning("worker %s (pid %d) has ended", link.name, link.process.pid)
            self.restarts += 1
            backoff = 0.0 if time.monotonic() - started > STABLE_S else min(MAX_BACKOFF_S, backoff * 2 or 0.05)
            await asyncio.sleep(backoff)

    async def _start(self) -> WorkerLink:
        name = self._free_name()
        listener = self._folder.listener(name)
        settings = self._settings
        limits = settings.limits.model_dump(exclude_none=True)
        pod_total = settings.limits.connections_per_endpoint or Limits().connections_per_endpoint
        # each worker counts its own, and the kernel spreads connections over them by hash
        limits["connections_per_endpoint"] = -(-pod_total // settings.workers)
        arguments = json.dumps(
            {
                "name": name,
                "node": settings.node,
                "uid": settings.worker_uid,
                "audit": settings.audit.model_dump(mode="json")
                | {"directory": str(settings.audit.directory / "workers")},
                "limits": limits,
            }
        )
        with contextlib.closing(listener):
            child = spawn("proxy.worker", listener.fileno(), arguments, cgroup=self._cgroup)
            try:
                process = Process.of(child.pid)
                if process is None:
                    raise AgentError(f"worker {name} ended at once")
                self._folder.record(name, process)
                sock = self._folder.connect(name)
            except (OSError, AgentError):  # one that nobody can find again must not stay
                child.kill()
                child.wait()
                raise
            self._children[child.pid] = child
        link = WorkerLink(asyncio.get_running_loop(), name, process, sock)
        self._links[name] = link
        self._watch(link)
        try:
            await self._equip(link)
        except (OSError, AgentError, RedirectError):
            link.kill()
            raise
        self._equipped.set()
        return link

    def free_slot(self) -> int:
        """A listener slot that no serving worker has; one of an earlier agent's worker, which accepts until ours do,
        only when there is no other.

        Raises:
            AgentError: all are taken.
        """
        taken = {link.slot for link in self.serving}
        earlier = {link.said_slot for link in self if link.slot is None and not link.draining}
        for slot in sorted(range(SLOTS), key=earlier.__contains__):
            if slot not in taken:
                return slot
        raise AgentError(f"all {SLOTS} listener slots are taken")

    def _free_name(self) -> str:
        taken = {name for name in self._folder.names() if self._folder.process(name)}
        return next(name for name in (f"worker-{number}" for number in range(1000)) if name not in taken)

    def _watch(self, link: WorkerLink) -> None:
        task = asyncio.create_task(self._watch_one(link), name=f"watch-{link.name}")
        self._keepers.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._keepers.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.critical("the watch of worker %s failed; it is killed", link.name, exc_info=error)
                link.kill()

        task.add_done_callback(done)

    async def _watch_one(self, link: WorkerLink) -> None:
        """Ping one worker until it is gone; kill it when it is silent for too long."""
        while not link.lost.is_set():
            asked = time.monotonic()  # before that it was perhaps we who were silent
            ping = asyncio.create_task(self._ping(link), name=f"ping-{link.name}")
            while not ping.done() and not link.lost.is_set():
                await asyncio.wait([ping], timeout=PING_S)
                silent_s = time.monotonic() - max(link.heard, asked)
                limit_s = self._settings.worker_silent_s
                if not link.state:  # it starts, and serves nobody yet: on a busy machine that takes a while
                    limit_s = max(limit_s, START_S)
                if not ping.done() and silent_s > limit_s:
                    log.error("worker %s was silent for %.1f s and is killed", link.name, limit_s)
                    link.kill()
            await ping
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.lost.wait(), PING_S)
        if link.slot is not None:
            self._empty_slot(link.slot)
        link.slot = None
        # INVARIANT: a successor is started at once and may have the name by now; it is not ours to forget
        if self._links.get(link.name) is link:
            del self._links[link.name]
        if (child := self._children.pop(link.process.pid, None)) is not None:
            # its channel is closed, so it has ended or is about to: killed either way, so that wait() returns
            child.kill()
            child.wait()
        # an earlier agent's: one that we cannot talk to would serve on by rules of yesterday
        link.process.kill()
        if not link.process.alive and link.name not in self._links:
            self._folder.forget(link.name)

    async def _ping(self, link: WorkerLink) -> None:
        with contextlib.suppress(AgentError):
            await link.call("state")

    async def everywhere(self, op: str, fds: Sequence[int] = (), **fields: object) -> None:
        """`ask` of every worker, draining ones too."""
        await self.ask(list(self), op, fds, **fields)

    async def ask(self, links: Sequence[WorkerLink], op: str, fds: Sequence[int] = (), **fields: object) -> None:
        """Ask these workers and wait for all; one that is lost meanwhile needs nothing any more.

        A draining worker that refuses is ended, connections and all: it may be of an older version, which cannot read
        today's rules, and must not serve on by yesterday's.

        Raises:
            AgentError: a serving worker refused.
        """
        results = await asyncio.gather(*(link.call(op, fds, **fields) for link in links), return_exceptions=True)
        for link, result in zip(links, results, strict=True):
            if not isinstance(result, BaseException) or isinstance(result, WorkerLost):
                continue
            if link.slot is not None or not isinstance(result, AgentError):
                raise result
            log.error("%s; it drains, and is killed with its connections", result)
            link.kill()

    async def close(self, *, kill: bool) -> None:
        """Let go of every worker: they serve on by the last rules, or, with `kill`, end now."""
        self._closing = True
        for task in list(self._keepers):
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for link in list(self._links.values()):
            if kill:
                link.kill()
                self._folder.forget(link.name)
            else:
                link.close()


def make_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of sockets that keep message borders."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
