"""The last gate: a tc program on what leaves the pod's devices (bpf/gate.bpf.c), put in, taken out, and looked for.

It lives in the pod's netns and ends with it; no link and no pin, because bpf links for tc came with kernel 6.6.
"""

from __future__ import annotations

from redirect.netns import Netns
from redirect.rtnl import Rtnl

__all__ = ["present", "put_in", "take_out"]

PREFERENCE = 0x3062  # among a device's filters: the steer mark's number, which nobody else would choose


def put_in(netns: Netns, program: int) -> None:
    """Put the program on every device of the pod but lo, or replace it there.

    Raises:
        RedirectError: the kernel refused.
    """
    with Rtnl(netns) as rtnl:
        for index in _devices(rtnl).values():
            rtnl.add_clsact(index)
            rtnl.replace_egress_filter(index, PREFERENCE, program, "l7_gate")


def take_out(netns: Netns) -> None:
    """Take it out; the clsact too where no one else has a filter on it. Idempotent."""
    with Rtnl(netns) as rtnl:
        for index in _devices(rtnl).values():
            if PREFERENCE in rtnl.filters(index):
                rtnl.del_egress_filter(index, PREFERENCE)
                if not rtnl.filters(index):
                    rtnl.del_clsact(index)


def present(netns: Netns) -> list[str]:
    """The devices that have it."""
    with Rtnl(netns) as rtnl:
        return [name for name, index in sorted(_devices(rtnl).items()) if PREFERENCE in rtnl.filters(index)]


def _devices(rtnl: Rtnl) -> dict[str, int]:
    return {name: index for name, index in rtnl.links().items() if name != "lo"}
