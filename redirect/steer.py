"""The agent's handle on what is pinned: maps to fill, programs to attach. No BCC here, libbpf alone.

Links are pinned under ``<bpffs>/links``, so that enforcement outlives every process, and held by descriptor as well, so
that it outlives an unmounted bpffs. A program is replaced with bpf_link_update: no packet meets neither.

Order that leaves no gap: for a new pod first ``set_endpoint``, ``set_verdicts`` and listeners, then ``attach_pod``; to
let go of one first ``detach_pod``, then ``del_endpoint``.
"""

from __future__ import annotations

import base64
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from redirect import gate as gate_module
from redirect import libbpf
from redirect.cgroups import cgroup_id
from redirect.errors import RedirectError, kernel_error
from redirect.loader import MAPS, Image, read_image
from redirect.maps import Maps, as_key, check_endpoint
from redirect.netns import Netns
from redirect.types import (
    Address,
    Answer,
    Attached,
    Direction,
    Endpoint,
    Flags,
    Network,
    VerdictKey,
    VerdictKeyLike,
)

__all__ = ["Answer", "Direction", "Endpoint", "Flags", "Kernel", "VerdictKey"]

CONNECT_HOOKS = ("l7_connect4", "l7_connect6", "l7_sendmsg4", "l7_sendmsg6")
ROOT_HOOKS = (*CONNECT_HOOKS, "l7_nodeops")
POD, GUARD, BINDER = "pod_", "guard_", "binder_"


class Kernel:
    """Everything pinned under one bpffs directory. Not safe for threads."""

    def __init__(self, bpffs: Path, image: Image, maps: Maps) -> None:
        self.bpffs = bpffs
        self.maps = maps
        self._image = image
        self._links: dict[str, int] = {}  # pin's name -> descriptor
        self._dir = bpffs / "links"
        self._dir.mkdir(exist_ok=True)
        for path in sorted(self._dir.iterdir()):
            if "tmp" in path.name:
                path.unlink()  # an agent died between pinning and renaming: nothing refers to it
            else:
                self._links[path.name] = libbpf.obj_get(path)

    @classmethod
    def open(cls, bpffs: str | os.PathLike[str]) -> Self:
        """Open what the loader pinned. Contents and links of an earlier agent are seen as they are.

        Raises:
            RedirectError: nothing is pinned there, or only half: run the loader.
        """
        where = Path(bpffs)
        image = read_image(where)
        if image is None:
            raise RedirectError(f"'{where}' holds no complete set of maps and programs: run the loader")
        maps = Maps.open(where, MAPS)
        try:
            return cls(where, image, maps)
        except BaseException:
            maps.close()
            raise

    # Programs and links.

    def attach_cgroup(self, path: str | os.PathLike[str]) -> None:
        """Attach the hooks of every pod to this cgroup (with all below it), or replace the programs of our links there:
        those on connect and sendmsg, and the one that remembers what the node opens.

        Raises:
            RedirectError: the kernel refused; or pods are steered whose endpoints are not in the maps (the loader made
                new ones): set those first, or their connects would pass unjudged.
        """
        unknown = {one.endpoint for one in self.attached() if one.alive} - self.endpoints().keys()
        if unknown:
            raise RedirectError(
                f"endpoints {sorted(unknown)} are steered but not in the maps: set or detach them first"
            )
        for name in ROOT_HOOKS:
            self._attach_to_cgroup(name, name, path)

    def _attach_to_cgroup(self, name: str, program_name: str, path: str | os.PathLike[str]) -> None:
        number = cgroup_id(path)
        program = self._load(program_name)
        try:
            link = self._links.get(name)
            if link is not None and libbpf.link_cgroup_id(link) == number:
                libbpf.link_update(link, program, name)
                return
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                attach = self._image["programs"][program_name]["attach"]
                self._replace(name, libbpf.link_create(program, fd, attach, name))
            finally:
                os.close(fd)
        finally:
            os.close(program)

    def detach_cgroup(self) -> None:
        """Take away what ``attach_cgroup`` attached."""
        for name in ROOT_HOOKS:
            self._drop(name)

    def attach_pod(
        self,
        netns: Netns,
        endpoint: int,
        addresses: Iterable[Address] = (),
        cgroup: str | os.PathLike[str] | None = None,
        *,
        gate: bool = False,
    ) -> str:
        """Attach (or replace) the steering program in a pod; returns where its link is pinned.

        With ``cgroup``, the pod's own, a guard is attached there, which acts while the endpoint's egress is enforced:
        without it a process with CAP_NET_RAW can take the steer mark off a connect that has begun
        (bpf/setsockopt.bpf.c). Beside it a binder keeps the app's ends of our ingress legs on lo, so that no client
        meets them with the same 4-tuple (bpf/sockops.bpf.c). With ``gate``, a tc program on the pod's devices lets
        first segments to proxied destinations out only from sockets of own cgroups: those where upstream legs are
        *made* must be among them (bpf/gate.bpf.c). ``plumbing.release`` takes it out again.

        ``addresses`` must be those of ``set_endpoint``, if given. What an earlier agent attached to the same netns
        under another id goes.

        Raises:
            RedirectError: the kernel refused, or the endpoint was not set.
        """
        check_endpoint(endpoint)
        known = self.endpoints().get(endpoint)
        if known is None:
            raise RedirectError(f"endpoint {endpoint} is not set: its program would drop everything")
        if known.cookie != netns.cookie:
            raise RedirectError(f"endpoint {endpoint} is netns cookie {known.cookie}, not {netns.cookie}")
        wanted = set(addresses)
        if wanted and wanted != set(known.addresses):
            raise RedirectError(f"endpoint {endpoint} is set with {known.addresses}, not {sorted(map(str, wanted))}")
        name = f"{POD}{endpoint}"
        program = self._load("l7_sk_lookup", endpoint)
        try:
            link = self._links.get(name)
            if link is not None and libbpf.link_netns_inode(link) == netns.inode:
                libbpf.link_update(link, program, name)
            else:
                attach = self._image["programs"]["l7_sk_lookup"]["attach"]
                self._replace(name, libbpf.link_create(program, netns.fd, attach, name))
        finally:
            os.close(program)
        if cgroup is not None:
            self._attach_to_cgroup(f"{GUARD}{endpoint}", "l7_setsockopt", cgroup)
            self._attach_to_cgroup(f"{BINDER}{endpoint}", "l7_sockops", cgroup)
        else:
            self._drop(f"{GUARD}{endpoint}")
            self._drop(f"{BINDER}{endpoint}")
        if gate:
            programs = [self._load("l7_gate", endpoint)]
            try:
                programs.append(self._load("l7_gate_in", endpoint))
                gate_module.put_in(netns, *programs)
            finally:
                for program in programs:
                    os.close(program)
        for other in self.attached():
            if other.netns_inode == netns.inode and other.endpoint != endpoint:
                self.detach_pod(other.endpoint)
        return str(self._dir / name)

    def detach_pod(self, endpoint: int) -> None:
        """Take the steering program out of a pod, whoever else holds its link. No link is no error."""
        self._drop(f"{POD}{endpoint}")
        self._drop(f"{GUARD}{endpoint}")
        self._drop(f"{BINDER}{endpoint}")

    def attached(self) -> list[Attached]:
        """The pinned pod links, those of dead netns included."""
        return [
            Attached(int(name.removeprefix(POD)), libbpf.link_netns_inode(fd))
            for name, fd in sorted(self._links.items())
            if name.startswith(POD)
        ]

    def reap(self) -> list[int]:
        """Remove links of dead netns; returns their endpoint ids."""
        dead = [one.endpoint for one in self.attached() if not one.alive]
        for endpoint in dead:
            self.detach_pod(endpoint)
        return dead

    def link_fds(self) -> list[int]:
        """Descriptors of every link, to be held by others too: a bpffs that is unmounted must not end enforcement."""
        return list(self._links.values())

    def detach_all(self) -> None:
        """Take enforcement away: every link, every pin. For --uninstall. This object is closed afterwards."""
        # The connect hooks first: a SYN they mark afterwards would find no program in the pod to take it.
        for name in sorted(self._links, key=lambda one: one not in CONNECT_HOOKS):
            self._drop(name)
        self.close()
        for path in [*self._dir.iterdir(), self._dir, *self.bpffs.iterdir(), self.bpffs]:
            with suppress(FileNotFoundError):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()

    def _load(self, name: str, endpoint: int | None = None) -> int:
        """Write map descriptors and the pod's id into the image of a program and load it: under a millisecond."""
        image = self._image["programs"][name]
        code = bytearray(base64.b64decode(image["instructions"]))
        for index, map_name in image["maps"]:
            struct.pack_into("<I", code, index * 8 + 4, self.maps.fd(map_name))
        for index in image["endpoint"]:
            if endpoint is None:
                raise RedirectError(f"program '{name}' needs an endpoint id")
            struct.pack_into("<I", code, index * 8 + 4, endpoint)
            struct.pack_into("<I", code, index * 8 + 12, 0)
        return libbpf.load_program(name, image["kind"], image["attach"], bytes(code))

    def _replace(self, name: str, link: int) -> None:
        """Pin a new link under ``name``; what was there is detached only now."""
        path = self._dir / name
        temporary = self._dir / f"{name}_tmp{secrets.token_hex(4)}"
        try:
            libbpf.obj_pin(link, temporary)
            temporary.rename(path)
        except OSError as error:
            libbpf.link_detach(link)
            os.close(link)
            raise kernel_error(f"cannot pin '{path}'", error.errno or 0) from error
        except RedirectError:
            libbpf.link_detach(link)
            os.close(link)
            raise
        old = self._links.pop(name, None)
        self._links[name] = link
        if old is not None:
            libbpf.link_detach(old)
            os.close(old)

    def _drop(self, name: str) -> None:
        link = self._links.pop(name, None)
        if link is not None:
            libbpf.link_detach(link)
            os.close(link)
        with suppress(FileNotFoundError):
            (self._dir / name).unlink()

    # Maps.

    def add_own_cgroup(self, path: str | os.PathLike[str]) -> None:
        """Connects by tasks in this very cgroup (not in those below it) are ours and pass untouched."""
        self.maps.add_own_cgroup(cgroup_id(path))

    def set_own_cgroups(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """Make these the own cgroups: those of workers that are gone must not stay (there is room for 64)."""
        wanted = {cgroup_id(path) for path in paths}
        for number in wanted:
            self.maps.add_own_cgroup(number)
        for number in self.maps.own_cgroups() - wanted:
            self.maps.del_own_cgroup(number)

    def set_endpoint(self, cookie: int, endpoint: int, flags: int, addresses: Iterable[Address]) -> None:
        """Add or replace a local pod. At most one address per family: an egress-steered SYN is told from our own leg by
        whether its destination is the pod's own.

        Raises:
            RedirectError: id out of range, id or cookie taken by another pod, two addresses of a family.
        """
        self.maps.set_endpoint(cookie, endpoint, flags, addresses)

    def del_endpoint(self, cookie: int) -> None:
        """Forget a pod, with its verdicts and listeners. Detach first: a program without its endpoint drops."""
        self.maps.del_endpoint(cookie)

    def endpoints(self) -> dict[int, Endpoint]:
        """The local pods by endpoint id, as the kernel has them."""
        return self.maps.endpoints()

    def set_verdicts[K: VerdictKeyLike](self, endpoint: int, verdicts: Mapping[K, tuple[int, int]]) -> None:
        """Make these the endpoint's entries; only differences are written, in an order that opens nothing meanwhile.

        The value is (``Answer``, ``VerdictFlags``).

        Raises:
            RedirectError: a key of another endpoint or out of range; the map is full (what was added stays).
        """
        self.maps.set_verdicts(
            endpoint, {as_key(key): (int(answer), int(flags)) for key, (answer, flags) in verdicts.items()}
        )

    def set_identities(self, identities: Mapping[Network, int]) -> None:
        """Make these the identities of addresses; only differences are written. The longest prefix wins."""
        self.maps.set_identities(identities)

    def identities(self) -> dict[Network, int]:
        """What was set, by this process or by one before it."""
        return self.maps.identities()

    def verdicts(self, endpoint: int) -> dict[VerdictKey, tuple[int, int]]:
        """The endpoint's entries, the same way."""
        return self.maps.verdicts(endpoint)

    def set_node(self, cookie: int, probes: bool) -> None:
        """The netns of this node itself, by its cookie: what processes there open is the node's own (identities 1 and
        11 at ingress); all else that comes from its address is judged as world. UDP always is.

        ``probes``: its own connections pass, unless a deny rule says no; a record says ``node_probe`` where the rules
        would have refused or steered them. Cookie 0: no one is the node.
        """
        self.maps.set_node(cookie, probes)

    def set_listener(
        self, endpoint: int, direction: Direction, family: int, slot: int, sock: socket.socket | int
    ) -> None:
        """Put a listener in a worker's slot. It leaves by itself when its last holder closes it."""
        self.maps.set_listener(endpoint, direction, family, slot, sock)

    def clear_slot(self, slot: int) -> None:
        """Empty a worker's slot for every endpoint."""
        self.maps.clear_slot(slot)

    def clear_endpoint_listeners(self, endpoint: int) -> None:
        """Empty every slot of an endpoint."""
        self.maps.clear_endpoint_listeners(endpoint)

    def counters(self) -> dict[str, int]:
        """What the programs counted since the maps were made, by the names of ``layout.REASONS``."""
        return self.maps.counters()

    def close(self) -> None:
        """Close our descriptors. What is pinned stays."""
        while self._links:
            os.close(self._links.popitem()[1])
        self.maps.close()
