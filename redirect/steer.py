"""The agent's handle on what is pinned: maps to fill, programs to attach. No BCC here, libbpf alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from typing import Self

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


class Kernel:
    """Everything pinned under one bpffs directory. Not safe for threads."""

    @classmethod
    def open(cls, bpffs: str | os.PathLike[str]) -> Self:
        """Open what the loader pinned. Contents and links of an earlier agent are seen as they are."""
        raise NotImplementedError

    def attach_cgroup(self, path: str | os.PathLike[str]) -> None:
        """Attach the connect hooks to this cgroup (with all below it), or replace the programs of our link there."""
        raise NotImplementedError

    def add_own_cgroup(self, path: str | os.PathLike[str]) -> None:
        """Connects by tasks in this very cgroup are ours and pass untouched."""
        raise NotImplementedError

    def set_endpoint(self, cookie: int, endpoint: int, flags: int, addresses: Iterable[Address]) -> None:
        """Add or replace a local pod. At most one address per family."""
        raise NotImplementedError

    def del_endpoint(self, cookie: int) -> None:
        """Forget a pod, with its verdicts and listeners. Detach first: a program without its endpoint drops."""
        raise NotImplementedError

    def endpoints(self) -> dict[int, Endpoint]:
        """The local pods by endpoint id."""
        raise NotImplementedError

    def set_verdicts[K: VerdictKeyLike](self, endpoint: int, verdicts: Mapping[K, int]) -> None:
        """Make these the endpoint's entries: more specific ones are added first and removed last."""
        raise NotImplementedError

    def set_identities(self, identities: Mapping[Network, int]) -> None:
        """Make these the identities of addresses. The longest prefix wins."""
        raise NotImplementedError

    def set_listener(
        self, endpoint: int, direction: Direction, family: int, slot: int, sock: socket.socket | int
    ) -> None:
        """Put a listener in a worker's slot. It leaves by itself when its last holder closes it."""
        raise NotImplementedError

    def clear_slot(self, slot: int) -> None:
        """Empty a worker's slot for every endpoint."""
        raise NotImplementedError

    def clear_endpoint_listeners(self, endpoint: int) -> None:
        """Empty every slot of an endpoint."""
        raise NotImplementedError

    def attach_pod(self, netns: Netns, endpoint: int, addresses: Iterable[Address] = ()) -> str:
        """Attach (or replace) the steering program in a pod; returns where its link is pinned."""
        raise NotImplementedError

    def detach_pod(self, endpoint: int) -> None:
        """Take the steering program out of a pod. A link of a dead netns is cleaned up."""
        raise NotImplementedError

    def attached(self) -> list[Attached]:
        """The pinned pod links, dead ones included."""
        raise NotImplementedError

    def reap(self) -> list[int]:
        """Remove links of dead netns; returns their endpoint ids."""
        raise NotImplementedError

    def counters(self) -> dict[str, int]:
        """What the programs counted since they were first loaded, by name."""
        raise NotImplementedError

    def link_fds(self) -> list[int]:
        """Descriptors of every link, to be held by others too: a bpffs that is unmounted must not end enforcement."""
        raise NotImplementedError

    def detach_all(self) -> None:
        """Take enforcement away: every link, every pin. For --uninstall."""
        raise NotImplementedError

    def close(self) -> None:
        """Close our descriptors. What is pinned stays."""
        raise NotImplementedError
