"""The gates: tc programs on what leaves the pod's devices (bpf/gate.bpf.c) and what comes in (bpf/gate_in.bpf.c).

Put in, taken out, and looked for. They live in the pod's netns and end with it; no link and no pin, because bpf links
for tc came with kernel 6.6.
"""

from __future__ import annotations

from redirect.netns import Netns
from redirect.rtnl import CLSACT_EGRESS, CLSACT_INGRESS, Rtnl

__all__ = ["present", "put_in", "take_out"]

PREFERENCE = 0x3062  # among a device's filters: the steer mark's number, which nobody else would choose
PARENTS = (CLSACT_EGRESS, CLSACT_INGRESS)


def put_in(netns: Netns, egress: int, ingress: int) -> None:
    """Put the programs on every device of the pod but lo, or replace them there.

    Raises:
        RedirectError: the kernel refused.
    """
    with Rtnl(netns) as rtnl:
        for index in _devices(rtnl).values():
            rtnl.add_clsact(index)
            # Out first: what it remembers is what comes back.
            rtnl.replace_filter(index, CLSACT_EGRESS, PREFERENCE, egress, "l7_gate")
            rtnl.replace_filter(index, CLSACT_INGRESS, PREFERENCE, ingress, "l7_gate_in")


def take_out(netns: Netns) -> None:
    """Take them out; the clsact too where no one else has a filter on it. Idempotent."""
    with Rtnl(netns) as rtnl:
        for index in _devices(rtnl).values():
            there = rtnl.filters(index)
            ours = [parent for parent, preference in there if preference == PREFERENCE]
            for parent in ours:
                rtnl.del_filter(index, parent, PREFERENCE)
            if ours and not rtnl.filters(index):
                rtnl.del_clsact(index)


def present(netns: Netns) -> list[str]:
    """The devices that have one of them, or both."""
    with Rtnl(netns) as rtnl:
        return [
            name
            for name, index in sorted(_devices(rtnl).items())
            if any(preference == PREFERENCE for _, preference in rtnl.filters(index))
        ]


def _devices(rtnl: Rtnl) -> dict[str, int]:
    return {name: index for name, index in rtnl.links().items() if name != "lo"}
