"""The agent: one per node. Start: kernel side, workers of an earlier agent, policies, pods, workers, then "ready".

One lock orders every change (`reconcile`, `equip`, `release`): the steps of two changes never mix. Whatever fails
leaves the last revision in force and is said in `status`; it is tried again every `RETRY_S` and at the next change.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import IO

import watchfiles

from agent.broker_link import BrokerLink
from agent.config import Settings
from agent.control import listen, serve
from agent.denials import DenialRecorder
from agent.errors import AgentError
from agent.pods.inventory import parse_pod
from agent.pods.known import KnownPods
from agent.policy_store import PolicyStore
from agent.pool import Pool
from agent.privileges import AGENT_KEEPS, keep_only
from agent.protection import Protector
from agent.workers import WorkerLink
from policies.policyset import PolicySet
from proxy.confine import raise_descriptor_limit
from redirect import bpffs, cgroups, loader, steer
from redirect.errors import RedirectError
from redirect.types import SLOTS

log = logging.getLogger("tulle.agent")

RETRY_S = 1.0
HOUSEKEEPING_S = 0.25
"""How often dead pods are looked for and released ones finished."""
WATCH_STEP_MS = 50
START_WAIT_S = 20.0
"""How long a request waits for an agent that is starting; then it fails, and what it asked for is not protected."""


class Agent:
    """Everything one node's agent holds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._known = KnownPods(settings.node, settings.inventory, settings.state_dir)
        self._trouble: str | None = None
        """Why the last reconcile failed; None when what is wanted is in force."""
        self._begun = asyncio.Event()
        """Workers serve; until then nothing is changed in pods or in the kernel."""
        self._ready = False
        self._attached = False
        root = settings.cgroup_root or cgroups.find_root()
        self._cgroup = root / "tulle"
        for name in ("workers", "broker"):
            (self._cgroup / name).mkdir(parents=True, exist_ok=True)
        self._cgroup_root = root
        self._policies = PolicyStore(settings.policy_dir, settings.state_dir)
        bpffs.ensure_mounted(settings.bpffs)
        loader.load(settings.bpffs, settings.kernel_headers)
        self._kernel = steer.Kernel.open(settings.bpffs)
        self._broker = BrokerLink(self._cgroup / "broker")
        self._pool = Pool(settings, self._cgroup / "workers", self._equip, self._kernel.clear_slot)
        self._protector = Protector(settings, self._kernel, self._pool, self._broker)
        self._denials = DenialRecorder(settings, self._kernel, self._protector)
        self._protector.unproxied.record = self._denials.write

    # -- life

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; enforcement stays when this returns.

        Raises:
            AgentError, RedirectError, OSError: the node cannot be protected.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        earlier = await self._take_over()
        server = await serve(
            listen(self._settings.control_socket),
            {
                "status": self._op_status,
                "pod.add": self._op_pod_add,
                "pod.del": self._op_pod_del,
                "policy.sync": self._op_policy_sync,
            },
        )
        # Workers connect, brokers make the sockets: a connect is judged by its task's cgroup, a packet by its socket's
        self._kernel.set_own_cgroups([self._cgroup / "workers", self._cgroup / "broker"])
        self._broker.start()
        self._start(self._keep_broker(), "broker-keeper")
        self._start(self._begin(earlier), "begin")
        self._start(self._follow(), "follow-files")
        self._start(self._keep_house(), "housekeeping")
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pool.close(kill=False)
        self._broker.close()
        self._denials.close()
        self._settings.control_socket.unlink(missing_ok=True)

    async def uninstall(self) -> None:
        """Take every trace of enforcement away and end the workers."""
        await self._take_over()
        async with self._lock:
            await self._protector.uninstall(min(self._settings.drain_limit_s, UNINSTALL_WAIT_S))
        await self._pool.close(kill=True)
        self._kernel.detach_all()

    async def _take_over(self) -> list[WorkerLink]:
        """Connect to what an earlier agent left: its workers serve until ours do."""
        self._protector.recover()
        return await self._pool.adopt()

    async def _begin(self, earlier: list[WorkerLink]) -> None:
        """Workers first, with the rules for the pods that are protected already; then the hooks for those that are
        not."""
        while True:
            if await self._know_what_is_wanted():
                break
            await asyncio.sleep(RETRY_S)
        # not before: refusals of the time without an agent are named by the rules that are known now
        self._denials.attach(asyncio.get_running_loop())
        for keeper in self._pool.keepers(self._settings.workers):
            self._start(keeper, "worker-keeper")
        await self._pool.until_serving(self._settings.workers)
        await self._hand_over(earlier)
        self._begun.set()
        await self._refresh()

    async def _know_what_is_wanted(self) -> bool:
        async with self._lock:
            self._policies.rescan()
            self._known.refresh()
            if self._policies.current is None:
                self._trouble = "no good policies: " + "; ".join(self._policies.errors)
                return False
            if not self._known.complete:
                # to go on would be to let go of every pod
                self._trouble = f"no good inventory: {self._known.error}"
                return False
            try:
                self._protector.plan(self._policies.current, self._policies.revision, self._known.cluster)
            except RedirectError as error:
                self._trouble = str(error)
                return False
            return True

    async def _hand_over(self, earlier: list[WorkerLink]) -> None:
        """Our workers have their listeners: empty every other slot, then let the earlier workers drain."""
        ours = {worker.slot for worker in self._pool.serving}
        for slot in range(SLOTS):
            if slot not in ours:
                self._kernel.clear_slot(slot)
        for worker in earlier:
            with contextlib.suppress(AgentError):
                await worker.call("drain", limit_s=self._settings.drain_limit_s, final_s=self._settings.drain_final_s)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        """Run a task for the agent's life; one that fails ends the agent, whose supervisor starts the next."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.critical("%s failed", name, exc_info=error)
                self._stop.set()

        task.add_done_callback(done)

    async def _equip(self, worker: WorkerLink) -> None:
        async with self._lock:
            await self._protector.equip(worker)

    # -- what is wanted, and making it so

    async def _refresh(self) -> None:
        """Read policies and pods again and make the node follow; failures are kept for `status`, not raised."""
        with contextlib.suppress(AgentError, RedirectError, OSError):
            await self._reconcile()

    async def _reconcile(self) -> None:
        try:
            async with asyncio.timeout(START_WAIT_S):
                await self._begun.wait()
        except TimeoutError:
            raise AgentError(self._trouble or "the agent is still starting") from None
        async with self._lock:
            try:
                await self._make_so()
            except (AgentError, RedirectError, OSError) as error:
                log.error("not in force: %s", error)
                self._trouble = str(error)
                raise
            self._trouble = None
            self._ready = True

    async def _make_so(self) -> None:
        self._policies.rescan()
        self._known.refresh()
        if self._policies.current is None:
            self._ready = False
            raise AgentError("no good policies: " + "; ".join(self._policies.errors))
        cluster = self._known.cluster
        troubles = await self._protector.reconcile(self._policies.current, self._policies.revision, cluster)
        self._attach_connect_hooks()  # whatever became of single pods: the others' egress hangs on it
        if troubles:
            raise AgentError("; ".join(troubles))

    def _attach_connect_hooks(self) -> None:
        """Once for each agent, when the pods are in the maps: attached before, connects of steered pods would pass."""
        if not self._attached:
            self._kernel.attach_cgroup(self._cgroup_root)
            self._attached = True

    async def _follow(self) -> None:
        """Refresh whenever the policy directory or the inventory changes."""
        async for _ in self._changes():
            await self._refresh()

    async def _changes(self) -> AsyncIterator[None]:
        watched = [path for path in (self._settings.policy_dir, self._settings.inventory) if path is not None]
        while not self._stop.is_set():
            # a file that is replaced by a rename is seen through its directory
            present = [path if path.is_dir() else path.parent for path in watched if path.parent.is_dir()]
            try:
                async for _ in watchfiles.awatch(*present, stop_event=self._stop, step=WATCH_STEP_MS, recursive=False):
                    yield None
            except (OSError, RuntimeError) as error:  # a directory that vanished: say it, wait, watch again
                log.error("cannot watch %s: %s", ", ".join(map(str, present)), error)
                await asyncio.sleep(RETRY_S)
                yield None

    async def _keep_house(self) -> None:
        retry = 0.0
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            async with self._lock:
                due = await self._protector.forget_absent()
                due |= await self._protector.release_idle()
                self._known.forget_ended()
                self._protector.unproxied.close_late(self._protector.protected.values(), self._protector.rules)
            retry += HOUSEKEEPING_S
            if retry >= RETRY_S:
                retry = 0.0
                due |= self._trouble is not None or self._policies.touched() or self._node_changed()
            if due:
                await self._refresh()

    def _node_changed(self) -> bool:
        try:
            return self._protector.node_changed()
        except RedirectError as error:  # the reconcile that follows says the same, and is what `status` shows
            log.error("%s", error)
            return True

    async def _keep_broker(self) -> None:
        """Start another broker when it has ended or is silent, and connect workers that have lost it."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            self._broker.ping()
            if not self._broker.alive or self._broker.silent_s > self._settings.worker_silent_s:
                log.error("the broker has ended or is silent; starting another")
                async with self._lock:
                    self._broker.start()
                    await self._serve_brokerless(list(self._pool))
            elif any(worker.brokerless for worker in self._pool):
                async with self._lock:
                    await self._serve_brokerless([worker for worker in self._pool if worker.brokerless])

    async def _serve_brokerless(self, workers: list[WorkerLink]) -> None:
        for worker in workers:
            with contextlib.suppress(AgentError):
                await self._broker.serve(worker)

    # -- control operations

    async def _op_status(self, _: Mapping[str, object]) -> dict[str, object]:
        protector = self._protector
        pods = protector.protected.values()
        uncovered, unlisted = await protector.unproxied.uncovered(pods, protector.rules, LOOK_S)
        return {
            "name": self._settings.node,
            "ready": self._ready and self._trouble is None and len(self._pool.serving) > 0,
            "revision": self._policies.revision,
            "pid": os.getpid(),
            "errors": [
                *self._policies.errors,
                *(error for error in (self._policies.save_error, self._known.error) if error is not None),
            ],
            "references": self._protector.references,
            "documents": self._documents(),
            "uncovered": uncovered,
            "uncovered_unlisted": unlisted,
            "not_covered": NOT_COVERED,
            "trouble": self._trouble,
            "broker": self._broker.pid,
            "worker_restarts": max(0, self._pool.restarts),
            "endpoints": [
                {
                    "id": held.id,
                    "namespace": held.key[0],
                    "name": held.key[1],
                    "ingress": held.enforced[0],
                    "egress": held.enforced[1],
                    "releasing": held.releasing_since is not None,
                }
                for held in self._protector.protected.values()
            ],
            "kernel": self._kernel.counters(),
        }

    def _documents(self) -> list[dict[str, object]]:
        """What is in force, by name."""
        options = {} if (current := self._policies.current) is None else modes(current)
        return [
            {
                "kind": kind,
                "namespace": namespace,
                "name": name,
                "revision": one.revision,
                "mode": options.get((kind, namespace, name), "enforce"),
                "file": one.document.file,
                "stale": one.stale,
            }
            for (kind, namespace, name), one in sorted(self._policies.documents.items())
        ]

    async def _op_pod_add(self, message: Mapping[str, object]) -> dict[str, object]:
        pod = parse_pod(message.get("pod"))
        async with self._lock:
            self._known.add(pod)
        await self._reconcile()
        if (known := self._known.pods.get(pod.key)) is None or known.netns != pod.netns:
            raise AgentError(f"pod '{pod.namespace}/{pod.name}' is somewhere else by the inventory")
        return {"revision": self._policies.revision}

    async def _op_pod_del(self, message: Mapping[str, object]) -> dict[str, object]:
        key = str(message.get("namespace", "default")), str(message.get("name"))
        async with self._lock:
            self._known.delete(key)
            if (held := self._protector.protected.get(key)) is not None:
                await self._protector.forget(held)
        await self._reconcile()
        return {"revision": self._policies.revision}

    async def _op_policy_sync(self, _: Mapping[str, object]) -> dict[str, object]:
        await self._reconcile()
        if self._policies.errors:
            raise AgentError("\n".join(self._policies.errors))
        return {"revision": self._policies.revision}


def modes(policies: PolicySet) -> dict[tuple[str, str, str], str]:
    """The mode of each document that has another than `enforce`."""
    return {
        (section.policy.kind, section.policy.namespace, section.policy.name): "audit"
        for section in policies.sections
        if section.options.audit
    }


NOT_COVERED = [
    "connections and flows that were there before their pod came under policy (listed where they are known)",
    "pods on the node's own network (hostNetwork)",
    "what a pod with CAP_NET_ADMIN sends past its egress hooks; ingress at the other pod is judged all the same",
]
"""Said in `status` as it is."""

LOOK_S = 0.5
"""How long a status looks for connections that are not covered; it must come before who asks gives up."""
UNINSTALL_WAIT_S = 30.0
"""How long `--uninstall` lets live connections go on before it closes them."""


def take_lock(settings: Settings) -> IO[str]:
    """The lock that one agent of a node holds while it runs; the file names its pid.

    Raises:
        AgentError: another agent runs.
    """
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    file = (settings.run_dir / "agent.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        pid = file.read().strip()
        file.close()
        raise AgentError(f"another agent of node '{settings.node}' runs, pid {pid}") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def run(settings: Settings, *, uninstall: bool) -> None:
    """Run the agent, or take away what it made.

    Raises:
        AgentError, RedirectError, OSError: the node cannot be protected.
    """
    with take_lock(settings):
        for directory in (settings.state_dir, settings.audit.directory):
            directory.mkdir(parents=True, exist_ok=True)
        workers = settings.audit.directory / "workers"
        workers.mkdir(exist_ok=True)
        os.chown(workers, settings.worker_uid, settings.worker_uid)
        raise_descriptor_limit()
        keep_only(AGENT_KEEPS)
        agent = Agent(settings)
        asyncio.run(agent.uninstall() if uninstall else agent.run())
