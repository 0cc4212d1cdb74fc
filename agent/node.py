"""This node as policies see it: the addresses of its own network namespace, as they are now."""

import socket

from policies.inventory import NodeHost
from redirect import netns
from redirect.rtnl import RouteNews, Rtnl

LOCAL_TABLE = 255  # RT_TABLE_LOCAL, linux/rtnetlink.h: the kernel keeps every own address there, with type RTN_LOCAL
RTN_LOCAL = 2
FULL = {socket.AF_INET: 32, socket.AF_INET6: 128}
# kube-proxy in IPVS mode gives every service's address to this device: nobody connects from one, and who connects to
# one does not mean the node
NOT_THE_NODES = frozenset({"kube-ipvs0"})


class OwnNode:
    """The network namespace that the agent runs in."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._netns = netns.Netns.open(netns.OWN)
        self._news = RouteNews(self._netns)
        self._asked = False

    def close(self) -> None:
        """Ask no more."""
        self._news.close()
        self._netns.close()

    @property
    def cookie(self) -> int:
        """The number by which the kernel's programs know it."""
        return self._netns.cookie

    def changed_from(self, known: NodeHost) -> bool:
        """Whether the node has other addresses than `known`; looks only when the kernel reported a change.

        Raises:
            RedirectError: the kernel does not tell; asked again, it looks again.
        """
        self._asked = self._news.came() or self._asked
        if not self._asked:
            return False
        changed = self.look() != known
        self._asked = False
        return changed

    def look(self) -> NodeHost:
        """The node with its addresses, loopback and link-local ones left out as nobody else can mean them.

        Raises:
            RedirectError: the kernel does not tell.
        """
        with Rtnl(self._netns) as rtnl:
            skipped = {index for device, index in rtnl.links().items() if device in NOT_THE_NODES}
            addresses = [
                str(route["RTA_DST"])
                for family, bits in FULL.items()
                for route in rtnl.routes(family, LOCAL_TABLE)
                if route["type"] == RTN_LOCAL and route["dst_len"] == bits and route.get("RTA_OIF") not in skipped
            ]
        return NodeHost(self._name, tuple(sorted(set(filter(_meant, addresses)))), local=True)


def _meant(address: str) -> bool:
    return not address.startswith("127.") and address != "::1" and not address.lower().startswith("fe80:")
