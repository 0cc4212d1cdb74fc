"""Bringing pods under policy and out of it again: the order of the steps is what this file is about.

Under policy: rules and settings in the pod, then the rule set in every worker, then listeners in the workers, then
the verdict entries, and only then the hooks. So nothing is steered before somebody can judge it, and `pod add` and
`apply` return after the last step. A change for a pod that is steered already goes to the workers first and to the
kernel second.

Out again: hooks first, so that no new connection is steered; the listeners linger a moment for handshakes under way;
rules, table and settings go when the last steered connection has ended or at the drain limit, where the rest are
closed and recorded.

A pod that is gone loses everything of ours at once: our sockets would keep its network namespace alive.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from agent.broker_link import BrokerLink
from agent.config import Settings
from agent.errors import AgentError
from agent.pods.inventory import Pod, PodKey
from agent.pool import Pool
from agent.workers import WorkerLink
from policies.compile import PolicySet
from policies.kernel import verdict_entries
from policies.resolve import IdentityKey, Inventory, allocate_identities, resolve, selected
from policies.resolve import Pod as PolicyPod
from policies.ruleset import RuleSet
from policies.wire import encode
from proxy.channel import MAX_FDS
from redirect import netns, plumbing, sockets, steer
from redirect.errors import RedirectError
from redirect.plumbing import PodState
from redirect.types import Address, Direction, Flags

log = logging.getLogger("tulle.agent.protection")

MAX_ENDPOINTS = 511
"""Endpoint ids are 1 to this; an id is an index into the sockmap of listeners (redirect/bpf/types.bpf.h)."""
FAMILIES: tuple[int, ...] = (socket.AF_INET, socket.AF_INET6)


@dataclass(slots=True)
class Protected:
    """One pod of this node with something of ours in it."""

    id: int
    key: PodKey
    path: Path
    netns: netns.Netns
    addresses: tuple[str, ...]
    cgroup: Path | None = None
    """The pod's own, for the guard on its setsockopt calls; without one the gate on its devices stands alone."""
    plumbing: PodState | None = None
    """What the pod's settings were, for the day they are put back; None before anything was changed."""
    enforced: tuple[bool, bool] = (False, False)
    """(ingress, egress) as the kernel has it."""
    listening: tuple[bool, bool] = (False, False)
    """Directions that the workers have listeners for: more than are enforced after one was withdrawn, which steers
    nothing."""
    attached: tuple[str, ...] | None = None
    """Addresses that this agent's program was attached with; None when it has not attached one yet."""
    flags: tuple[Flags, tuple[str, ...]] | None = None
    """What this agent last wrote into the kernel's endpoint map; None when it has not written."""
    releasing_since: float | None = None
    """time.monotonic() of the moment when steering stopped; None while it is under policy."""

    @property
    def present(self) -> bool:
        """Whether the pod's network namespace is still the one we entered."""
        return netns.same(self.path, self.netns.inode)


class Protector:
    """What of ours is in which pod. Every method that changes something is called with the agent's lock held."""

    def __init__(self, settings: Settings, kernel: steer.Kernel, pool: Pool, broker: BrokerLink) -> None:
        self._settings = settings
        self._kernel = kernel
        self._pool = pool
        self._broker = broker
        self._folder = settings.state_dir / "endpoints"
        self._identity_file = settings.state_dir / "identities.json"
        self._identities: dict[IdentityKey, int] = self._load_identities()
        self._epoch = 0
        self._awaited: dict[PodKey, Path] = {}
        self.protected: dict[PodKey, Protected] = {}
        self.rules = RuleSet()

    # -- what an earlier agent left

    def recover(self) -> None:
        """Take over the pods that an earlier agent protected; clean up after those that ended meanwhile."""
        self._folder.mkdir(parents=True, exist_ok=True)
        kept: set[int] = set()
        for file in sorted(self._folder.glob("*.json")):
            try:
                record = json.loads(file.read_text())
                pod = netns.Netns.open(Path(record["path"]))
            except (OSError, ValueError, KeyError, RedirectError) as error:
                log.info("endpoint record '%s' is of a pod that is gone: %s", file.name, error)
                file.unlink()
                continue
            if pod.inode != record["inode"]:
                pod.close()
                file.unlink()
                continue
            found = Protected(
                id=record["id"],
                key=(record["namespace"], record["name"]),
                path=Path(record["path"]),
                netns=pod,
                addresses=tuple(record["addresses"]),
                cgroup=Path(record["cgroup"]) if record.get("cgroup") else None,
                plumbing=record["plumbing"],
                enforced=(record["enforced"][0], record["enforced"][1]),
                listening=(record["enforced"][0], record["enforced"][1]),
                releasing_since=time.monotonic() if record["releasing"] else None,
            )
            self.protected[found.key] = found
            self._broker.add_pod(found.id, found.path, pod.inode)
            kept.add(found.id)
        for link in self._kernel.attached():
            if link.endpoint not in kept:
                self._kernel.detach_pod(link.endpoint)
        for endpoint in self._kernel.endpoints().values():
            if endpoint.id not in kept:
                self._kernel.del_endpoint(endpoint.cookie)

    # -- the one way in: make it so

    async def reconcile(self, policies: PolicySet, revision: int, pods: Mapping[PodKey, Pod]) -> list[str]:
        """Make the node enforce these policies for these pods; returns when that is in force everywhere, with a line
        for each pod that could not be entered, which is not protected.

        Raises:
            AgentError, RedirectError, OSError: it is not; what was in force before still is, for every pod not
            reached.
        """
        here = {key: pod for key, pod in pods.items() if pod.node in (None, self._settings.node)}
        for held in list(self.protected.values()):
            if held.key not in here or not held.present or here[held.key].netns != held.path:
                await self.forget(held)
        wanted: dict[PodKey, tuple[bool, bool]] = {}
        self._awaited.clear()
        troubles: list[str] = []
        for key, pod in here.items():
            if pod.netns is None:
                continue
            wanted[key] = selected(policies, _policy_pod(pod, None))
            if any(wanted[key]) and not pod.netns.exists():
                self._awaited[key] = pod.netns  # announced but not there yet, or ended: protected when it appears
            elif any(wanted[key]):
                try:
                    self._prepare(pod)
                except (OSError, RedirectError, AgentError) as error:
                    troubles.append(f"pod '{pod.namespace}/{pod.name}': {error}")
        self.plan(policies, revision, pods)
        await self.push_rules()
        for held in self.protected.values():
            self._broker.add_pod(held.id, held.path, held.netns.inode)
        for held in self.protected.values():
            if any(missing := _missing(wanted[held.key], held.listening)):
                held.listening = _either(wanted[held.key], held.listening)
                for worker in self._pool.serving:
                    await self._open_listeners(worker, held, missing)
        for held in self.protected.values():
            if any(wanted[held.key]):
                self._kernel.set_verdicts(held.id, verdict_entries(self.rules.endpoints[held.id]))
        self._kernel.set_identities({ip_network(address): n for address, (n, _) in self.rules.addresses.items()})
        for held in list(self.protected.values()):
            if any(wanted[held.key]):
                self._attach(held, wanted[held.key])
            elif held.releasing_since is None:
                await self._detach(held)
        await self._hold_links(self._pool.everywhere)
        return troubles

    def _prepare(self, pod: Pod) -> Protected:
        """Enter the pod for the first time: an id, a record on disk before anything is changed, then its rules."""
        held = self.protected.get(pod.key)
        if held is None:
            if pod.netns is None:
                raise AgentError("it has no network namespace")
            held = Protected(
                self._free_id(), pod.key, pod.netns, netns.Netns.open(pod.netns), pod.addresses, pod.cgroup
            )
            self.protected[pod.key] = held
            self._record(held)
        if held.plumbing is None or held.addresses != pod.addresses:
            held.addresses = pod.addresses
            held.plumbing = plumbing.protect(held.netns, _parsed(held.addresses), held.plumbing)
            self._record(held)
        return held

    def plan(self, policies: PolicySet, revision: int, pods: Mapping[PodKey, Pod]) -> None:
        """Make the rule set that these policies and pods give; nothing is in force by it yet."""
        members = tuple(
            _policy_pod(pod, self.protected[key].id if key in self.protected else None) for key, pod in pods.items()
        )
        numbers = allocate_identities(members, self._identities)
        self.rules = resolve(policies, Inventory(members), revision, numbers)
        if numbers != self._identities:
            self._identities = numbers
            self._save_identities()

    async def push_rules(self, only: WorkerLink | None = None) -> None:
        """Give the current rule set to every worker, or to one; returns when it judges by it."""
        places = {held.id: (str(held.path), held.netns.inode) for held in self.protected.values()}
        with sealed_file(encode(self.rules)) as rules, sealed_file(json.dumps(places).encode()) as where:
            if only is not None:
                await only.call("rules", (rules, where), epoch=self._epoch)
                return
            self._epoch += 1
            await self._pool.everywhere("rules", (rules, where), epoch=self._epoch)

    async def equip(self, worker: WorkerLink) -> None:
        """Make a new worker serve: rules, sockets, links, and only then listeners and its slot in the kernel."""
        await self.push_rules(only=worker)
        await self._broker.serve(worker)
        await self._hold_links(worker.call)
        slot = self._pool.free_slot()
        self._kernel.clear_slot(slot)
        worker.slot = slot
        for held in self.protected.values():
            await self._open_listeners(worker, held, held.listening)

    async def _hold_links(self, call: Callable[..., Awaitable[object]]) -> None:
        """Give every link of the kernel side to one worker or to all, in place of those they hold."""
        fds = self._kernel.link_fds()
        for start in range(0, max(1, len(fds)), MAX_FDS):
            await call("hold", fds[start : start + MAX_FDS], more=start > 0)

    async def _open_listeners(self, worker: WorkerLink, held: Protected, directions: tuple[bool, bool]) -> None:
        if worker.slot is None:
            return
        opened: list[tuple[Direction, int, socket.socket]] = []
        try:
            avoid: set[int] = set()
            for direction in Direction:
                for family in FAMILIES if directions[direction] else ():
                    listener = _listener(held.netns, direction, family, avoid)
                    opened.append((direction, family, listener))
            if not opened:
                return
            kinds = [[int(direction), int(family)] for direction, family, _ in opened]
            fds = [listener.fileno() for _, _, listener in opened]
            await worker.call("listeners", fds, endpoint=held.id, kinds=kinds)
            for direction, family, listener in opened:
                self._kernel.set_listener(held.id, direction, family, worker.slot, listener)
        finally:
            # INVARIANT: only the worker holds a listener, so that its end empties the slot and the kernel refuses
            for _, _, listener in opened:
                listener.close()

    def _attach(self, held: Protected, wanted: tuple[bool, bool]) -> None:
        if held.attached != held.addresses:
            # the endpoint first: a program without its endpoint drops
            self._set_endpoint(held, wanted)
            self._kernel.attach_pod(held.netns, held.id, _parsed(held.addresses), held.cgroup, gate=True)
            held.attached = held.addresses
        self._set_endpoint(held, wanted)
        if held.enforced != wanted or held.releasing_since is not None:
            held.enforced, held.releasing_since = wanted, None
            self._record(held)

    def _set_endpoint(self, held: Protected, wanted: tuple[bool, bool]) -> None:
        flags = (Flags.INGRESS if wanted[0] else Flags.NONE) | (Flags.EGRESS if wanted[1] else Flags.NONE)
        if held.flags != (flags, held.addresses):
            self._kernel.set_endpoint(held.netns.cookie, held.id, flags, _parsed(held.addresses))
            held.flags = (flags, held.addresses)

    async def _detach(self, held: Protected) -> None:
        """Stop steering; what is left goes when its last connection has ended, see `release_idle`."""
        held.releasing_since = time.monotonic()
        held.enforced = held.listening = (False, False)
        held.attached = None
        self._record(held)
        # STOPPED: the hooks judge nothing, but go on cleaning marks for as long as our rules are in the pod
        self._kernel.set_endpoint(held.netns.cookie, held.id, Flags.STOPPED, _parsed(held.addresses))
        held.flags = None
        self._kernel.detach_pod(held.id)
        self._kernel.clear_endpoint_listeners(held.id)
        await self._pool.everywhere("remove", endpoint=held.id, now=False)

    # -- the way out

    async def release_idle(self) -> bool:
        """Take the last traces out of pods that are no longer selected and have no steered connection; true if any
        went."""
        released = False
        for held in list(self.protected.values()):
            if held.releasing_since is None:
                continue
            since = held.releasing_since
            if not held.present:
                await self.forget(held)
                continue
            if time.monotonic() - since > self._settings.drain_limit_s:
                await self._pool.everywhere("close_flows", endpoint=held.id, reason="drain_limit")
            # a state older than the lingering listeners could miss a connection accepted after it
            if time.monotonic() - since < LINGER_S or any(
                w.heard < since + LINGER_S or w.flows(held.id) for w in self._pool
            ):
                continue
            # a connection that outlived its policy may have made the stock anew
            await self._pool.everywhere("remove", endpoint=held.id, now=True)
            plumbing.release(held.netns, held.plumbing)
            self._kernel.del_endpoint(held.netns.cookie)
            self._drop(held)
            released = True
        return released

    async def forget(self, held: Protected) -> None:
        """The pod is gone, or is another one under the same name: nothing of ours may keep its network namespace
        alive."""
        self._kernel.detach_pod(held.id)
        await self._pool.everywhere("remove", endpoint=held.id, now=True)
        if held.present:
            plumbing.release(held.netns, held.plumbing)
        self._kernel.del_endpoint(held.netns.cookie)
        self._drop(held)

    def _drop(self, held: Protected) -> None:
        self._broker.gone(held.id)
        held.netns.close()
        (self._folder / f"{held.id}.json").unlink(missing_ok=True)
        self.protected.pop(held.key, None)

    async def forget_absent(self) -> bool:
        """Forget the pods whose network namespace is gone; called several times a second.

        Returns whether a reconcile is due: a pod went, or one that policy selects has appeared.
        """
        due = any(path.exists() for path in self._awaited.values())
        for held in list(self.protected.values()):
            if not held.present:
                log.info("pod '%s/%s' is gone", *held.key)
                await self.forget(held)
                due = True
        return due

    async def uninstall(self, wait_s: float) -> None:
        """Take everything away: hooks now, the rest when the steered connections have ended or after `wait_s`."""
        for held in self.protected.values():
            if held.releasing_since is None:
                await self._detach(held)
        deadline = time.monotonic() + wait_s
        while self.protected:
            await self.release_idle()
            if time.monotonic() > deadline:
                for held in self.protected.values():
                    await self._pool.everywhere("close_flows", endpoint=held.id, reason="uninstall")
            await asyncio.sleep(0.1)

    # -- small things kept on disk

    def _free_id(self) -> int:
        taken = {held.id for held in self.protected.values()}
        for number in range(1, MAX_ENDPOINTS + 1):
            if number not in taken:
                return number
        raise AgentError(f"all {MAX_ENDPOINTS} endpoint ids are taken: this pod cannot be protected")

    def _record(self, held: Protected) -> None:
        path = self._folder / f"{held.id}.json"
        record = {
            "id": held.id,
            "namespace": held.key[0],
            "name": held.key[1],
            "path": str(held.path),
            "inode": held.netns.inode,
            "addresses": held.addresses,
            "cgroup": str(held.cgroup) if held.cgroup else None,
            "plumbing": held.plumbing,
            "enforced": held.enforced,
            "releasing": held.releasing_since is not None,
        }
        path.with_suffix(".new").write_text(json.dumps(record))
        path.with_suffix(".new").rename(path)

    def _load_identities(self) -> dict[IdentityKey, int]:
        try:
            entries = json.loads(self._identity_file.read_text())
            return {(namespace, tuple((k, v) for k, v in labels)): int(n) for namespace, labels, n in entries}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            log.warning("identities are numbered anew: %s", error)
            return {}

    def _save_identities(self) -> None:
        entries = [[namespace, labels, number] for (namespace, labels), number in self._identities.items()]
        self._identity_file.with_suffix(".new").write_text(json.dumps(entries))
        self._identity_file.with_suffix(".new").rename(self._identity_file)


LINGER_S = 1.5
"""A worker's listeners linger for one second (proxy/worker.py); only a state heard after that counts."""


@contextlib.contextmanager
def sealed_file(data: bytes) -> Iterator[int]:
    """An anonymous file with this content, to be passed on; what does not fit into a message travels so.

    Sealed: all workers get the same file, and one that an attacker owns must not write the rules of the others.
    """
    fd = os.memfd_create("tulle", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
        yield fd
    finally:
        os.close(fd)


def _listener(pod: netns.Netns, direction: Direction, family: int, avoid: set[int]) -> socket.socket:
    listener = sockets.open_listener(pod, direction, family, avoid=avoid)
    avoid.add(sockets.listener_port(listener))
    return listener


def _parsed(addresses: tuple[str, ...]) -> list[Address]:
    return [ip_address(address) for address in addresses]


def _missing(wanted: tuple[bool, bool], have: tuple[bool, bool]) -> tuple[bool, bool]:
    return wanted[0] and not have[0], wanted[1] and not have[1]


def _either(one: tuple[bool, bool], other: tuple[bool, bool]) -> tuple[bool, bool]:
    return one[0] or other[0], one[1] or other[1]


def _policy_pod(pod: Pod, endpoint: int | None) -> PolicyPod:
    return PolicyPod(pod.namespace, pod.name, dict(pod.labels), pod.addresses, endpoint)
