"""Words this room shares with those who use it. Pure data, no kernel."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple, Protocol

__all__ = [
    "MAX_ENDPOINT",
    "SLOTS",
    "Address",
    "Answer",
    "Attached",
    "Denial",
    "Direction",
    "Endpoint",
    "Flags",
    "Network",
    "VerdictFlags",
    "VerdictKey",
    "VerdictKeyLike",
]

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address
type Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_ENDPOINT = 511  # endpoint ids are 1..511: they index the map of listeners, which is sized for them
SLOTS = 16  # workers that can have listeners at one time: twice the cores of a large pod host's share, old and new ones


class Direction(IntEnum):
    """Seen from the pod: who connected to it, whom it connects to."""

    INGRESS = 0
    EGRESS = 1


class Answer(IntEnum):
    """What the verdict map says of a connection."""

    DENY = 0
    ALLOW = 1
    PROXY = 2


class Flags(IntFlag):
    """What is enforced for an endpoint.

    ``STOPPED`` beats the others: nothing is judged or steered any more, marks are still cleaned, because the rules
    in the pod stay until its last steered connection has ended. ``WATCH_...`` goes with the direction's own flag where
    policies in mode audit alone ask: nothing is refused then.
    """

    NONE = 0
    INGRESS = 1
    EGRESS = 2
    STOPPED = 4
    WATCH_INGRESS = 8
    WATCH_EGRESS = 16


class VerdictFlags(IntFlag):
    """What else the verdict map says of a connection.

    ``AUDIT``: it passes, and a record says that a policy in mode audit would have refused it (with PROXY the worker
    says so). ``FAIL_OPEN``: with PROXY and no listener left it passes. ``EXPLICIT``: with DENY, a deny rule says so.
    """

    NONE = 0
    AUDIT = 1
    FAIL_OPEN = 2
    EXPLICIT = 4


class VerdictKeyLike(Protocol):
    """What the verdict map needs to know of an entry; any object with these attributes will do."""

    @property
    def endpoint(self) -> int: ...
    @property
    def identity(self) -> int: ...
    @property
    def direction(self) -> int: ...
    @property
    def protocol(self) -> int: ...
    @property
    def port(self) -> int: ...
    @property
    def bits(self) -> int: ...


class VerdictKey(NamedTuple):
    """One entry.

    ``identity`` 0 is any peer. ``bits`` leading bits of ``port`` count: 16 is this port, 0 every port; the rest of
    ``port`` is 0. ``protocol`` is 6 (TCP), 17 (UDP) or 255 (every other).
    """

    endpoint: int
    identity: int
    direction: int
    protocol: int
    port: int
    bits: int = 16


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A local pod as the kernel maps have it."""

    id: int
    cookie: int
    flags: Flags
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Attached:
    """A pinned steering program of one pod. ``netns_inode`` 0: that netns is dead, the link holds nothing any more."""

    endpoint: int
    netns_inode: int

    @property
    def alive(self) -> bool:
        return self.netns_inode != 0


@dataclass(frozen=True, slots=True)
class Denial:
    """A connection (or stray segment, or datagram) that the kernel refused, or that passed but is worth a record.

    ``time_ns`` is Unix time. ``src`` is who began it, ``dst`` whom it was for, plain IP text; ``sport`` is 0 where the
    client had no port yet (a refused connect). ``family`` is socket.AF_INET or AF_INET6. ``identity`` is the peer's, 0
    = unknown. ``reason`` is a name from ``redirect.layout.REASONS``. ``suppressed`` earlier refusals of the same
    4-tuple were counted but got no record of their own.
    """

    time_ns: int
    endpoint: int
    direction: Direction
    family: int
    src: str
    sport: int
    dst: str
    dport: int
    proto: int
    identity: int
    reason: str
    suppressed: int
    allowed: bool = False  # it passed: would_deny, fail_open, node_probe
