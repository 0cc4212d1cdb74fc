"""Mode `vxlan`: nodes on one underlay, pods behind `cni0`, and an overlay in the shape that Flannel gives it.

Followed: flannel `pkg/backend/vxlan` (device.go, vxlan_network.go) and its CNI configuration (bridge plugin,
hairpin mode, gateway on the bridge). Per node: `flannel.1`, VNI 1, UDP 8472, nolearning, address <subnet>.0/32;
per remote node one onlink route, one permanent neighbour and one forwarding entry. IPv6 has a device of its own,
`flannel-v6.1`, over an IPv6 underlay. Flannel asks for MTU 1450 on both; the kernel cuts the IPv6 one to 1430,
because IPv6 outside takes 20 bytes more, so a pod learns 1430 for remote IPv6 peers by Packet Too Big.
"""

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network

from lab import names, namespaces
from lab.model import UNDERLAY_IPV4, UNDERLAY_IPV6
from lab.netlink import Netlink
from lab.state import Lab, Node, Pod

VNI = 1
PORT = 8472  # Flannel's, and the Linux default before IANA gave 4789
UNDERLAY_MTU = 1500
POD_MTU = 1450  # less 14 Ethernet, 20 IPv4, 8 UDP, 8 VXLAN
BRIDGE = "cni0"


@dataclass(frozen=True, slots=True)
class Overlay:
    """One family's side of a node: device name, tunnel end on the underlay, pod subnet, MAC of the device."""

    device: str
    tunnel_end: str
    subnet: str
    mac: str

    @property
    def own_address(self) -> str:
        """The subnet's first address: the device's own, and the other nodes' next hop."""
        return str(ip_network(self.subnet).network_address)


def overlays(node: Node) -> tuple[Overlay, Overlay]:
    """IPv4 and IPv6 of a node."""
    return (
        Overlay("flannel.1", node.underlay_ipv4, node.subnet_ipv4, vtep_mac(node, 4)),
        Overlay("flannel-v6.1", node.underlay_ipv6, node.subnet_ipv6, vtep_mac(node, 6)),
    )


def vtep_mac(node: Node, version: int) -> str:
    """Flannel draws one by lot; ours follow from the node, so that two runs look alike."""
    digest = hashlib.sha256(f"{node.name}/{version}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x0E, *digest[:5]))  # locally administered, unicast


def address_mac(address: str) -> str:
    """As the bridge plugin has it: 0a:58 and the IPv4 address."""
    return ":".join(f"{byte:02x}" for byte in (0x0A, 0x58, *IPv4Address(address).packed))


def gateways(node: Node) -> tuple[str, str]:
    """The node's addresses on `cni0`: the first host of each subnet."""
    return str(ip_network(node.subnet_ipv4)[1]), str(ip_network(node.subnet_ipv6)[1])


def node_addresses(node: Node) -> list[str]:
    """Every address that the node itself has: on the underlay, on `cni0`, on the overlay."""
    return [node.underlay_ipv4, node.underlay_ipv6, *gateways(node), *(mine.own_address for mine in overlays(node))]


def _prefixes(node: Node) -> tuple[int, int]:
    return ip_network(node.subnet_ipv4).prefixlen, ip_network(node.subnet_ipv6).prefixlen


def build_underlay(lab: Lab) -> None:
    """A bridge in a namespace of its own, and each node's `eth0` on it."""
    with namespaces.entered(names.underlay_netns(lab.name)), Netlink() as netlink:
        netlink.add_bridge("underlay0", UNDERLAY_MTU)
        for node in lab.nodes:
            port = f"node{node.index}"
            netlink.add_veth(port, names.node_netns(lab.name, node.name), "eth0", UNDERLAY_MTU)
            netlink.enslave(port, "underlay0")
    for node in lab.nodes:
        with namespaces.entered(names.node_netns(lab.name, node.name)), Netlink() as netlink:
            netlink.up("eth0")
            netlink.add_address("eth0", node.underlay_ipv4, UNDERLAY_IPV4.prefixlen)
            netlink.add_address("eth0", node.underlay_ipv6, UNDERLAY_IPV6.prefixlen)


def build_node(lab: Lab, node: Node) -> None:
    """`cni0` with the gateways, the two VXLAN devices, and the way to every other node."""
    with namespaces.entered(names.node_netns(lab.name, node.name)), Netlink() as netlink:
        netlink.add_bridge(BRIDGE, POD_MTU, address_mac(gateways(node)[0]))
        for address, prefixlen in zip(gateways(node), _prefixes(node), strict=True):
            netlink.add_address(BRIDGE, address, prefixlen)
        for mine in overlays(node):
            netlink.add_vxlan(
                mine.device,
                vni=VNI,
                port=PORT,
                local=mine.tunnel_end,
                device="eth0",
                mtu=UNDERLAY_MTU - 50,
                mac=mine.mac,
            )
            netlink.add_address(mine.device, mine.own_address, 128 if ":" in mine.own_address else 32)
        for peer in lab.nodes:
            if peer.name != node.name:
                _reach(netlink, peer)


def _reach(netlink: Netlink, peer: Node) -> None:
    for remote in overlays(peer):
        netlink.add_neighbour(remote.device, remote.own_address, remote.mac)
        netlink.add_forwarding(remote.device, remote.mac, remote.tunnel_end)
        # The route last: with it in place the kernel would ask the wire for a neighbour that is not there yet.
        netlink.add_onlink_route(remote.device, remote.subnet, remote.own_address)


def build_pod(lab: Lab, pod: Pod) -> None:
    """A veth pair: `eth0` inside, a port of `cni0` outside; default routes by the bridge."""
    node = lab.find_node(pod.node)
    inside = names.pod_netns(lab.name, pod.namespace, pod.name)
    outside = "veth" + hashlib.sha256(f"{pod.namespace}/{pod.name}".encode()).hexdigest()[:8]
    with namespaces.entered(names.node_netns(lab.name, node.name)), Netlink() as netlink:
        netlink.add_veth(outside, inside, "eth0", POD_MTU, address_mac(pod.ipv4))
        netlink.enslave(outside, BRIDGE, hairpin=True)  # hairpinMode of Flannel's CNI configuration
    with namespaces.entered(inside), Netlink() as netlink:
        netlink.up("eth0")
        for address, prefixlen in zip((pod.ipv4, pod.ipv6), _prefixes(node), strict=True):
            netlink.add_address("eth0", address, prefixlen)
        for gateway in gateways(node):
            netlink.add_default_route("eth0", gateway)
