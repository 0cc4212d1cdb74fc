"""The few netlink requests that a lab is made of, typed; pyroute2 underneath.

Units: MTU in bytes, addresses plain text, networks with prefix length, devices by name. Everything happens in the
network namespace that the thread was in when the object was made.

Raises (all methods): NetlinkError, with the kernel's errno.
"""

from socket import AF_BRIDGE, AF_INET, AF_INET6, AddressFamily
from types import TracebackType
from typing import Self

from pyroute2 import IPRoute  # type: ignore[import-untyped]  # pyroute2 carries no types
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]  # the same

from lab import namespaces

__all__ = ["Netlink", "NetlinkError", "family_of"]

# include/uapi/linux/neighbour.h
_NUD_PERMANENT = 0x80
_NTF_SELF = 0x02
_LOOPBACK = 1  # the first device of every namespace


def family_of(address: str) -> AddressFamily:
    return AF_INET6 if ":" in address else AF_INET


class Netlink:
    """A netlink socket in the namespace of the moment; a context manager."""

    def __init__(self) -> None:
        self._ip = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._ip.close()

    def _index(self, device: str) -> int:
        found = self._ip.link_lookup(ifname=device)
        if not found:
            raise LookupError(f"no device {device!r} here")
        return int(found[0])

    def loopback_up(self) -> None:
        self._ip.link("set", index=_LOOPBACK, state="up")

    def up(self, device: str) -> None:
        self._ip.link("set", index=self._index(device), state="up")

    def add_bridge(self, name: str, mtu: int, mac: str | None = None) -> None:
        self._ip.link("add", ifname=name, kind="bridge", mtu=mtu, **({"address": mac} if mac else {}))
        self.up(name)

    def add_veth(self, name: str, inside_netns: str, inside_name: str, mtu: int, inside_mac: str | None = None) -> None:
        """A pair, its far end made directly in another namespace: it never shows anywhere else."""
        with namespaces.descriptor(inside_netns) as inside:
            peer: dict[str, object] = {"ifname": inside_name, "net_ns_fd": inside, "mtu": mtu}
            if inside_mac:
                peer["address"] = inside_mac
            self._ip.link("add", ifname=name, kind="veth", mtu=mtu, peer=peer)

    def add_vxlan(self, name: str, *, vni: int, port: int, local: str, device: str, mtu: int, mac: str) -> None:
        """A VXLAN device that learns nothing: all it knows is what `add_forwarding` tells it."""
        key = "vxlan_local" if family_of(local) == AF_INET else "vxlan_local6"
        self._ip.link(
            "add",
            ifname=name,
            kind="vxlan",
            address=mac,
            mtu=mtu,
            vxlan_id=vni,
            vxlan_link=self._index(device),
            vxlan_port=port,
            vxlan_learning=0,
            **{key: local},
        )
        self.up(name)

    def enslave(self, device: str, bridge: str, *, hairpin: bool = False) -> None:
        """Make a device a port of a bridge, and bring it up."""
        port = self._index(device)
        self._ip.link("set", index=port, master=self._index(bridge), state="up")
        if hairpin:
            self._ip.brport("set", index=port, mode=1)

    def add_address(self, device: str, address: str, prefixlen: int) -> None:
        self._ip.addr("add", index=self._index(device), address=address, prefixlen=prefixlen)

    def add_default_route(self, device: str, gateway: str) -> None:
        family = family_of(gateway)
        self._ip.route("add", family=family, dst="default", gateway=gateway, oif=self._index(device))

    def add_onlink_route(self, device: str, network: str, gateway: str) -> None:
        family = family_of(gateway)
        self._ip.route("add", family=family, dst=network, gateway=gateway, oif=self._index(device), flags=["onlink"])

    def add_neighbour(self, device: str, address: str, mac: str) -> None:
        self._ip.neigh(
            "add",
            family=family_of(address),
            dst=address,
            lladdr=mac,
            ifindex=self._index(device),
            state=_NUD_PERMANENT,
        )

    def add_forwarding(self, device: str, mac: str, tunnel_end: str) -> None:
        """VXLAN: frames for `mac` go to the node at `tunnel_end`."""
        self._ip.fdb(
            "add",
            family=AF_BRIDGE,
            ifindex=self._index(device),
            lladdr=mac,
            dst=tunnel_end,
            state=_NUD_PERMANENT,
            flags=_NTF_SELF,
        )
