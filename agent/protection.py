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
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

from agent.broker_link import BrokerLink
from agent.changeover import change_over
from agent.config import Settings
from agent.errors import AgentError
from agent.node import OwnNode
from agent.pods.cluster import Cluster
from agent.pods.inventory import Pod, PodKey
from agent.pods.known import boot_id
from agent.pool import Pool
from agent.protected import MAX_ENDPOINTS, Protected, Record
from agent.unproxied import Unproxied
from agent.workers import WorkerLink, WorkerLost
from policies.inventory import NodeHost
from policies.kernel import verdict_entries
from policies.policyset import PolicySet
from policies.resolve import Numbers, Resolver, allocate, selection, troubles
from policies.ruleset import RuleSet
from policies.wire import encode, encode_change
from proxy.channel import MAX_FDS
from redirect import netns, plumbing, sockets, steer
from redirect.errors import RedirectError
from redirect.types import Address, Direction, Flags

log = logging.getLogger("tulle.agent.protection")

FAMILIES: tuple[int, ...] = (socket.AF_INET, socket.AF_INET6)


class Protector:
    """What of ours is in which pod. Every method that changes something is called with the agent's lock held."""

    def __init__(self, settings: Settings, kernel: steer.Kernel, pool: Pool, broker: BrokerLink) -> None:
        self._settings = settings
        self._kernel = kernel
        self._pool = pool
        self._broker = broker
        self._folder = settings.state_dir / "endpoints"
        self._identity_file = settings.state_dir / "identities.json"
        self._numbers = self._load_numbers()
        self._resolver = Resolver()
        self._node = OwnNode(settings.node)
        self._host = NodeHost(settings.node, local=True)
        self._node_set = False
        self._named: tuple[object, object] = (None, None)
        """Addresses and prefixes that the kernel's identities are of."""
        self._epoch = 0
        self._told = RuleSet()
        """What workers were told last, at this epoch."""
        self._before = (0, self._told)
        """The epoch before, and what they were told at it."""
        self._awaited: dict[PodKey, Path] = {}
        self._strays: dict[int, int] = {}
        """Netns cookie to endpoint id of what the kernel enforces though its record is lost: it stays until a
        reconcile knows whose it is."""
        self._due = False
        """Something was left undone that only a reconcile does."""
        self._boot = boot_id()
        self.protected: dict[PodKey, Protected] = {}
        self.rules = RuleSet()
        self.unproxied = Unproxied(settings.worker_uid)
        self.references: list[str] = []
        """What policies name and nobody has."""

    # -- what an earlier agent left

    def recover(self) -> None:
        """Take over the pods that an earlier agent protected; clean up after those that ended meanwhile."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(self._folder.glob("*.json")):
            if (found := self._read_record(file)) is None:
                file.unlink(missing_ok=True)
                continue
            self.protected[found.key] = found
            self._broker.add_pod(found.id, found.path, found.netns.inode)
        kept = {held.id for held in self.protected.values()}
        alive = {link.endpoint for link in self._kernel.attached() if link.alive}
        for link in self._kernel.attached():
            if link.endpoint not in kept and not link.alive:
                self._kernel.detach_pod(link.endpoint)
        for endpoint in self._kernel.endpoints().values():
            if endpoint.id in alive - kept:
                log.warning("endpoint %d is enforced and has no record: it stays until its pod is known", endpoint.id)
                self._strays[endpoint.cookie] = endpoint.id
            elif endpoint.id not in kept:
                self._kernel.del_endpoint(endpoint.cookie)
        for held in self.protected.values():
            if held.releasing_since is not None:  # the record comes before the deed
                self._kernel.detach_pod(held.id)

    def _read_record(self, file: Path) -> Protected | None:
        """The pod of a record; None when that pod is gone, or the record cannot be read."""
        try:
            record = Record.model_validate_json(file.read_bytes())
            pod = netns.Netns.open(record.path)
        except (OSError, ValueError, RedirectError) as error:
            log.warning("endpoint record '%s' is of a pod that is gone, or cannot be read: %s", file.name, error)
            return None
        key = record.namespace, record.name
        # the inode number alone may be that of the next network namespace at this path (seen)
        if (record.boot, record.cookie) != (self._boot, pod.cookie) or key in self.protected:
            pod.close()
            return None
        return Protected(
            id=record.id,
            key=key,
            path=record.path,
            netns=pod,
            addresses=tuple(map(str, record.addresses)),
            cgroup=record.cgroup,
            plumbing=record.plumbing,
            enforced=record.enforced,
            listening=record.enforced,
            releasing_since=time.monotonic() if record.releasing else None,
            older=frozenset(record.older),
        )

    # -- the one way in: make it so

    async def reconcile(self, policies: PolicySet, revision: int, cluster: Cluster) -> list[str]:
        """Make the node enforce these policies for these pods; returns when that is in force everywhere, with a line
        for each pod that could not be entered, which is not protected.

        Raises:
            AgentError, RedirectError, OSError: it is not; what was in force before still is, for every pod not
            reached.
        """
        if not self._node_set:
            self._kernel.set_node(self._node.cookie, self._settings.node_probes)
            self._node_set = True
        here = {key: pod for key, pod in cluster.pods.items() if pod.node in (None, self._settings.node)}
        for held in list(self.protected.values()):
            if held.key not in here or not self._is_at(held, here[held.key].netns):
                await self.forget(held)
        self._due = False
        chosen = selection(policies, cluster.to_inventory())
        wanted: dict[PodKey, tuple[bool, bool]] = {}
        self._awaited.clear()
        troubles: list[str] = []
        for key, pod in here.items():
            if pod.netns is None:
                continue
            wanted[key] = chosen.get(key, (False, False))
            if any(wanted[key]) and not pod.netns.exists():
                self._awaited[key] = pod.netns  # announced but not there yet, or ended: protected when it appears
            elif any(wanted[key]):
                with _trouble_of(key, troubles):
                    self._prepare(pod)
                await asyncio.sleep(0)  # hundreds of pods must not keep pings and status waiting
        self.plan(policies, revision, cluster)
        await self.push_rules()
        for held in self.protected.values():
            self._broker.add_pod(held.id, held.path, held.netns.inode)
        for held in self.protected.values():
            if any(wanted[held.key]):
                held.listening = _either(wanted[held.key], held.listening)
                with _trouble_of(held.key, troubles):
                    for worker in self._pool.serving:
                        await self._open_listeners(worker, held)
        await self._judge({key for key, directions in wanted.items() if any(directions)})
        for held in list(self.protected.values()):
            with _trouble_of(held.key, troubles):
                if any(wanted[held.key]):
                    self._attach(held, wanted[held.key])
                elif held.releasing_since is None:
                    await self._detach(held)
            await asyncio.sleep(0)
        for held in self.protected.values():
            with _trouble_of(held.key, troubles):
                self.unproxied.close_denied(held, self.rules)
        if not troubles:
            self._drop_strays()
        troubles += self._write_records()
        await self._hold_links(self._pool.everywhere)
        return troubles

    def _is_at(self, held: Protected, path: Path | None) -> bool:
        """Whether the pod that we entered is the one at this path, which may be a new name of the same place."""
        if path is None or not netns.same(path, held.netns.inode):
            return False
        if held.path != path:
            held.path = path
            self._record(held)
        return True

    def _drop_strays(self) -> None:
        for cookie, endpoint in self._strays.items():
            self._kernel.detach_pod(endpoint)
            self._kernel.del_endpoint(cookie)
        self._strays.clear()

    def _prepare(self, pod: Pod) -> Protected:
        """Enter the pod for the first time: an id, a record on disk before anything is changed, then its rules."""
        held = self.protected.get(pod.key)
        if held is None:
            held = self._enter(pod)
            self.protected[pod.key] = held
            self._record(held)
        if held.plumbing is None or held.addresses != pod.addresses:
            held.plumbing = plumbing.protect(held.netns, _parsed(pod.addresses), held.plumbing)
            held.addresses = pod.addresses
            self._record(held)
        return held

    def _enter(self, pod: Pod) -> Protected:
        if pod.netns is None:
            raise AgentError("it has no network namespace")
        place = netns.Netns.open(pod.netns)
        try:
            if netns.same(netns.OWN, place.inode):
                raise AgentError("it has the network namespace of the node, which is not ours to change")
            for other in self.protected.values():
                if other.netns.inode == place.inode:
                    raise AgentError(f"it has the network namespace of pod '{'/'.join(other.key)}'")
            number = self._strays.pop(place.cookie, None) or self._free_id()
        except AgentError:
            place.close()
            raise
        return Protected(number, pod.key, pod.netns, place, pod.addresses, pod.cgroup)

    def node_changed(self) -> bool:
        """Whether this node has other addresses than the rules know.

        Raises:
            RedirectError: the kernel does not tell.
        """
        return self._node.changed_from(self._host)

    async def _judge(self, selected: set[PodKey]) -> None:
        """Whom an address belongs to, and what that one may do. The kernel takes the longest prefix, so pods and nodes
        beat every CIDR."""
        rules = self.rules
        changed: list[Protected] = []
        for held in self.protected.values():
            if held.key in selected and held.judged is not rules.endpoints[held.id]:
                if held.attached is None:  # nothing asks yet: as many pods as there are must not keep pings waiting
                    self._kernel.set_verdicts(held.id, verdict_entries(rules.endpoints[held.id]))
                    held.judged, held.close_due = rules.endpoints[held.id], 0.0
                    await asyncio.sleep(0)
                else:
                    changed.append(held)
        named = self._named[0] is not rules.addresses or self._named[1] != rules.prefixes
        if not (named or changed):
            return
        identities = {ip_network(prefix): number for prefix, number in rules.prefixes.items()}
        identities |= {ip_network(address): number for address, (number, _) in rules.addresses.items()}
        change_over(self._kernel, identities, [(held.judged, rules.endpoints[held.id]) for held in changed])
        self._named = rules.addresses, rules.prefixes
        for held in changed:
            held.judged = rules.endpoints[held.id]
        for held in self.protected.values() if named else changed:
            held.close_due = 0.0

    def plan(self, policies: PolicySet, revision: int, cluster: Cluster) -> None:
        """Make the rule set that these policies and this cluster give; nothing is in force by it yet.

        Raises:
            RedirectError: the kernel does not tell the node's own addresses.
        """
        self._host = self._node.look()
        inventory = cluster.to_inventory({key: held.id for key, held in self.protected.items()}, self._host)
        numbers = allocate(policies, inventory, self._numbers)
        self.rules = self._resolver.resolve(policies, inventory, revision, numbers)
        self.references = troubles(policies, inventory)
        if numbers != self._numbers:
            self._numbers = numbers
            self._save_numbers()

    async def push_rules(self, only: WorkerLink | None = None) -> None:
        """Give the current rule set to every worker, or to one; returns when it judges by it."""
        if self.rules is not self._told:
            self._before, self._told = (self._epoch, self._told), self.rules
            self._epoch += 1
        places = {held.id: (str(held.path), held.netns.inode) for held in self.protected.values()}
        bases = {self._epoch: self._told, self._before[0]: self._before[1]}
        groups: dict[int | None, list[WorkerLink]] = {}
        for worker in self._pool if only is None else (only,):
            # of an earlier agent's epochs we know nothing
            groups.setdefault(worker.rules_epoch if worker.rules_epoch in bases else None, []).append(worker)
        with sealed_file(json.dumps(places).encode()) as where:
            for base, workers in groups.items():
                content = encode(self.rules) if base is None else encode_change(bases[base], self.rules)
                fields = {"epoch": self._epoch} if base is None else {"epoch": self._epoch, "base": base}
                for worker in workers:
                    worker.rules_epoch = None
                with sealed_file(content) as rules:
                    if only is not None:
                        await only.call("rules", (rules, where), **fields)
                    else:
                        await self._pool.ask(workers, "rules", (rules, where), **fields)
                for worker in workers:
                    worker.rules_epoch = self._epoch

    async def equip(self, worker: WorkerLink) -> None:
        """Make a new worker serve: rules, sockets, links, and only then listeners and its slot in the kernel."""
        await self.push_rules(only=worker)
        await self._broker.serve(worker)
        await self._hold_links(worker.call)
        slot = self._pool.free_slot()
        self._kernel.clear_slot(slot)
        worker.slot = slot
        for held in self.protected.values():
            try:
                await self._open_listeners(worker, held)
            except (OSError, RedirectError) as error:  # the other pods need this worker all the same
                log.error("pod '%s/%s' has no listener in worker %s: %s", *held.key, worker.name, error)
                self._due = True

    async def _hold_links(self, call: Callable[..., Awaitable[object]]) -> None:
        """Give every link of the kernel side to one worker or to all, in place of those they hold."""
        fds = self._kernel.link_fds()
        for start in range(0, max(1, len(fds)), MAX_FDS):
            await call("hold", fds[start : start + MAX_FDS], more=start > 0)

    async def _open_listeners(self, worker: WorkerLink, held: Protected) -> None:
        """Open what the worker lacks of the pod's listeners."""
        have = worker.listens.get(held.id, (False, False))
        directions = _missing(held.listening, have)
        # INVARIANT: without our rules in the pod nothing is steered: our own leg would come back to us (seen, a loop).
        # The kernel refuses what finds no listener.
        if worker.slot is None or held.plumbing is None or not any(directions):
            return
        opened: list[tuple[Direction, int, socket.socket]] = []
        try:
            avoid: set[int] = set()
            for direction in Direction:
                for family in FAMILIES if directions[direction] else ():
                    listener = _listener(held.netns, direction, family, avoid)
                    opened.append((direction, family, listener))
            kinds = [[int(direction), int(family)] for direction, family, _ in opened]
            fds = [listener.fileno() for _, _, listener in opened]
            slot = worker.slot
            await worker.call("listeners", fds, endpoint=held.id, kinds=kinds, slot=slot)
            for direction, family, listener in opened:
                self._kernel.set_listener(held.id, direction, family, slot, listener)
            worker.listens[held.id] = _either(directions, have)
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
            began = _missing(wanted, held.enforced)
            held.enforced, held.releasing_since = wanted, None
            self.unproxied.remember_older(held, began)
            self._record(held)

    def _set_endpoint(self, held: Protected, wanted: tuple[bool, bool]) -> None:
        flags = (Flags.INGRESS if wanted[0] else Flags.NONE) | (Flags.EGRESS if wanted[1] else Flags.NONE)
        rules = self.rules.endpoints[held.id]
        if rules.ingress.watched:
            flags |= Flags.WATCH_INGRESS
        if rules.egress.watched:
            flags |= Flags.WATCH_EGRESS
        if held.flags != (flags, held.addresses):
            self._kernel.set_endpoint(held.netns.cookie, held.id, flags, _parsed(held.addresses))
            held.flags = (flags, held.addresses)

    async def _detach(self, held: Protected) -> None:
        """Stop steering; what is left goes when its last connection has ended, see `release_idle`."""
        held.releasing_since = time.monotonic()
        held.enforced = held.listening = (False, False)
        held.attached = None
        # STOPPED: the hooks judge nothing, but go on cleaning marks for as long as our rules are in the pod
        self._kernel.set_endpoint(held.netns.cookie, held.id, Flags.STOPPED, _parsed(held.addresses))
        held.flags = None
        self._kernel.detach_pod(held.id)
        self._record(held)
        self._kernel.clear_endpoint_listeners(held.id)
        await self._remove(held, now=False)
        held.releasing_since = time.monotonic()  # listeners linger from now

    async def _remove(self, held: Protected, *, now: bool) -> None:
        for worker in self._pool:
            worker.listens.pop(held.id, None)
        await self._pool.everywhere("remove", endpoint=held.id, now=now)

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
            try:
                # a connection that outlived its policy may have made the stock anew
                await self._remove(held, now=True)
                plumbing.release(held.netns, held.plumbing)
                self._kernel.detach_pod(held.id)  # again: a program without its endpoint drops everything
                self._kernel.del_endpoint(held.netns.cookie)
            except (OSError, RedirectError) as error:
                log.error("pod '%s/%s' still has traces of ours: %s", *held.key, error)
                held.releasing_since = time.monotonic()  # tried again after another linger
                continue
            self._drop(held)
            released = True
        return released

    async def forget(self, held: Protected) -> None:
        """The pod is gone, or is another one under the same name: nothing of ours may keep its network namespace
        alive."""
        held.attached = held.flags = None  # whatever fails here, nobody must take it for enforced
        held.enforced = held.listening = (False, False)
        self._kernel.detach_pod(held.id)
        await self._remove(held, now=True)
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
        due = self._due or any(path.exists() for path in self._awaited.values())
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
        self._drop_strays()
        deadline = time.monotonic() + wait_s
        while self.protected and time.monotonic() < deadline + GIVE_UP_S:
            await self.release_idle()
            if time.monotonic() > deadline:
                for held in self.protected.values():
                    await self._pool.everywhere("close_flows", endpoint=held.id, reason="uninstall")
            await asyncio.sleep(0.1)
        for held in self.protected.values():
            log.error("pod '%s/%s' could not be cleaned; nothing is steered in it", *held.key)

    # -- small things kept on disk

    def _free_id(self) -> int:
        taken = {held.id for held in self.protected.values()} | set(self._strays.values())
        for number in range(1, MAX_ENDPOINTS + 1):
            if number not in taken:
                return number
        raise AgentError(f"all {MAX_ENDPOINTS} endpoint ids are taken: this pod cannot be protected")

    def _record(self, held: Protected) -> None:
        """Write down what is in the pod. A disk that is full does not hold protection up: see `_write_records`."""
        path = self._folder / f"{held.id}.json"
        record = Record(
            id=held.id,
            namespace=held.key[0],
            name=held.key[1],
            path=held.path,
            boot=self._boot,
            cookie=held.netns.cookie,
            addresses=tuple(_parsed(held.addresses)),
            cgroup=held.cgroup,
            plumbing=held.plumbing,
            enforced=held.enforced,
            releasing=held.releasing_since is not None,
            older=tuple(sorted(held.older)),
        )
        try:
            path.with_suffix(".new").write_text(record.model_dump_json())
            path.with_suffix(".new").rename(path)
            held.unwritten = False
        except OSError as error:
            held.unwritten = True
            log.error("cannot write '%s': %s", path, error.strerror)

    def _write_records(self) -> list[str]:
        """Write again what could not be written; a line for each that still cannot."""
        for held in self.protected.values():
            if held.unwritten:
                self._record(held)
        return [
            f"pod '{'/'.join(held.key)}': its record cannot be written to '{self._folder}'"
            for held in self.protected.values()
            if held.unwritten
        ]

    def _load_numbers(self) -> Numbers:
        try:
            return Numbers.from_json(self._identity_file.read_text())
        except FileNotFoundError:
            return Numbers()
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("identities are numbered anew: %s", error)
            return Numbers()

    def _save_numbers(self) -> None:
        self._identity_file.with_suffix(".new").write_text(self._numbers.to_json())
        self._identity_file.with_suffix(".new").rename(self._identity_file)


GIVE_UP_S = 10.0
"""How long `--uninstall` tries to clean a pod in which nothing is alive any more."""
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


@contextlib.contextmanager
def _trouble_of(key: PodKey, troubles: list[str]) -> Iterator[None]:
    """What fails in one pod is told and does not hold up the others."""
    try:
        yield
    except WorkerLost:
        pass  # its successor gets everything
    except (OSError, RedirectError, AgentError) as error:
        troubles.append(f"pod '{'/'.join(key)}': {error}")


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
