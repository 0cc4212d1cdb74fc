"""What every routing mode does alike, and the seam between the lab and a mode.

A mode builds three things: the underlay, the nodes, the pods. `vxlan` is the first; modes that route
otherwise bring a module of their own with the same functions.
"""

from importlib import import_module
from typing import Protocol, cast

from lab import names, namespaces
from lab.errors import LabError
from lab.netlink import Netlink, NetlinkError
from lab.state import Lab, Node, Pod

MODES = {"vxlan": "lab.vxlan"}

# Addresses must be usable at once, and the same every time: no duplicate address detection, no router's advice.
_EVERY_NETNS = {
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
_FORWARDING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}


class Mode(Protocol):
    """How nodes reach each other and pods reach nodes. Each function finds the namespaces made and empty."""

    def build_underlay(self, lab: Lab) -> None:
        """The network between the nodes, and each node's own device on it, `eth0`."""

    def build_node(self, lab: Lab, node: Node) -> None:
        """The node's side of pod networking: devices, routes to the other nodes' pods."""

    def build_pod(self, lab: Lab, pod: Pod) -> None:
        """The pod's `eth0`, addresses and routes."""

    def node_addresses(self, node: Node) -> list[str]:
        """Every address of the node itself, as text."""


def mode(name: str) -> Mode:
    """The module of a mode; raises LabError for one that does not exist (yet)."""
    if name not in MODES:
        raise LabError(f"no mode {name!r}{names.did_you_mean(name, MODES)}")
    return cast("Mode", import_module(MODES[name]))  # a module with these functions is a Mode


def make_netns(name: str, *, forwards: bool = False) -> None:
    """A fresh namespace with `lo` up and IPv6 that works at once."""
    namespaces.create(name)
    with namespaces.entered(name), Netlink() as netlink:
        namespaces.sysctl(_EVERY_NETNS | (_FORWARDING if forwards else {}))
        netlink.loopback_up()


def build(lab: Lab) -> None:
    """Make every namespace of the lab and connect them.

    Raises:
        LabError: the kernel refused something, such as a kind of device that it does not have.
    """
    try:
        _build(lab, mode(lab.mode))
    except NetlinkError as error:
        raise LabError(f"cannot make the network: {error}") from error


def _build(lab: Lab, network: Mode) -> None:
    namespaces.share_root()
    make_netns(names.underlay_netns(lab.name))
    for node in lab.nodes:
        make_netns(names.node_netns(lab.name, node.name), forwards=True)
    network.build_underlay(lab)
    for node in lab.nodes:
        network.build_node(lab, node)
    for pod in lab.pods:
        make_netns(names.pod_netns(lab.name, pod.namespace, pod.name))
        network.build_pod(lab, pod)
