"""One pod of this node with something of ours in it, and what the disk knows of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from agent.covered import Ends
from agent.pods.inventory import PodKey
from policies.ruleset import EndpointRules
from redirect import netns
from redirect.plumbing import PodState
from redirect.types import Address, Flags

MAX_ENDPOINTS = 511
"""Endpoint ids are 1 to this; an id is an index into the sockmap of listeners (redirect/bpf/types.bpf.h)."""


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
    judged: EndpointRules | None = None
    """The rules that the verdict entries in the kernel are of; None when this agent has not written them."""
    older: frozenset[Ends] = frozenset()
    """Connections that were there when the pod came under policy: what is enforced does not reach them."""
    close_due: float | None = None
    """time.monotonic() from which on connections are to be looked for that the rules refuse."""
    unwritten: bool = False
    """The record on disk is older than this."""
    releasing_since: float | None = None
    """time.monotonic() of the moment when steering stopped; None while it is under policy."""

    @property
    def present(self) -> bool:
        """Whether the pod's network namespace is still the one we entered."""
        return netns.same(self.path, self.netns.inode)


class Record(BaseModel):
    """What the disk knows of a protected pod."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[int, Field(ge=1, le=MAX_ENDPOINTS)]
    namespace: str
    name: str
    path: Path
    boot: str
    cookie: int
    addresses: tuple[Address, ...]
    cgroup: Path | None = None
    plumbing: PodState | None
    enforced: tuple[bool, bool]
    releasing: bool
    older: tuple[Ends, ...] = ()
