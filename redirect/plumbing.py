"""What steering needs inside a pod: rules, two tables and three sysctls; put in, taken out, and looked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from redirect.netns import Netns
from redirect.types import Address

__all__ = ["PodState", "protect", "release", "traces"]


class PodState(TypedDict):
    """What was there before us, to be put back. JSON; the agent keeps it and gives it to ``release``."""

    sysctls: dict[str, str]


def protect(netns: Netns, addresses: Iterable[Address], state: PodState | None = None) -> PodState:
    """Put the plumbing in. Idempotent. ``state`` is what an earlier call returned, if there was one."""
    raise NotImplementedError


def release(netns: Netns, state: PodState | None) -> None:
    """Take the plumbing out and put earlier sysctl values back. Idempotent."""
    raise NotImplementedError


def traces(netns: Netns) -> list[str]:
    """What of ours is still in the pod, one line each; empty: nothing."""
    raise NotImplementedError
