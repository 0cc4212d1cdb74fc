"""The node's own addresses, and what `tulle status` prints of a node."""

import io
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import status
from agent.node import OwnNode
from policies.inventory import NodeHost
from redirect.errors import RedirectError
from redirect.netns import Netns


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)  # noqa: S603, S607  fixed


@pytest.fixture
def place() -> Iterator[str]:
    name = f"tt-{secrets.token_hex(4)}"
    ip("netns", "add", name)
    yield name
    ip("netns", "del", name)


@pytest.mark.root
def test_the_nodes_addresses_are_those_of_its_network_namespace_as_they_are(place: str) -> None:
    inside = ("-n", place)
    ip(*inside, "link", "set", "lo", "up")
    for device, address in (("d0", "192.0.2.1/24"), ("kube-ipvs0", "10.96.0.1/32")):
        ip(*inside, "link", "add", device, "type", "veth", "peer", f"{device}-p")
        ip(*inside, "link", "set", device, "up")
        ip(*inside, "link", "set", f"{device}-p", "up")
        ip(*inside, "address", "add", address, "dev", device)
    ip(*inside, "address", "add", "fd00:99::1/64", "dev", "d0", "nodad")
    with Netns.open(Path("/run/netns") / place) as netns, netns.entered():
        node = OwnNode("node-a")
        assert node.cookie == netns.cookie
        found = node.look()
    assert (found.name, found.local) == ("node-a", True)
    assert found.addresses == ("192.0.2.1", "fd00:99::1")  # no loopback, no link-local one, no service's
    ip(*inside, "address", "add", "192.0.2.2/24", "dev", "d0")
    assert node.look().addresses == ("192.0.2.1", "192.0.2.2", "fd00:99::1")
    node.close()


@pytest.mark.root
def test_addresses_are_read_when_the_kernel_reports_a_change_and_only_then(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = ("-n", place)
    ip(*inside, "link", "set", "lo", "up")
    with Netns.open(Path("/run/netns") / place) as netns, netns.entered():
        node = OwnNode("node-a")
    looks = 0
    real = OwnNode.look

    def counted(self: OwnNode) -> NodeHost:
        nonlocal looks
        looks += 1
        return real(self)

    monkeypatch.setattr(OwnNode, "look", counted)
    known = real(node)
    node.changed_from(known)
    looks = 0
    assert [node.changed_from(known) for _ in range(3)] == [False, False, False]
    assert looks == 0
    ip(*inside, "link", "add", "d0", "type", "veth", "peer", "d1")
    ip(*inside, "address", "add", "192.0.2.7/24", "dev", "d0")
    assert node.changed_from(known)
    known = real(node)
    assert known.addresses == ("192.0.2.7",)
    assert not node.changed_from(known)
    ip(*inside, "address", "del", "192.0.2.7/24", "dev", "d0")

    def fails(self: OwnNode) -> NodeHost:
        raise RedirectError("the kernel does not tell")

    monkeypatch.setattr(OwnNode, "look", fails)
    with pytest.raises(RedirectError):
        node.changed_from(known)
    monkeypatch.setattr(OwnNode, "look", counted)
    assert node.changed_from(known)  # the change was not forgotten
    node.close()


def test_status_says_what_is_in_force_and_what_is_not_covered() -> None:
    document = {"kind": "CiliumNetworkPolicy", "namespace": "default", "name": "web", "revision": 3}
    flow = {"pod": "default/web", "direction": "ingress", "peer": "10.0.0.1", "port": 80, "protocol": "TCP"}
    out = io.StringIO()
    status.print_node(
        {
            "name": "node-a",
            "ready": True,
            "revision": 4,
            "processes": [],
            "documents": [
                {**document, "mode": "enforce", "stale": True},
                {**document, "namespace": "", "name": "all", "mode": "audit", "stale": False},
            ],
            "uncovered": [flow],
            "uncovered_unlisted": 7,
            "not_covered": ["pods on the node's own network"],
            "references": ["default/web ingress[0]: no pod has a port named 'x'"],
            "errors": ["a.yaml:1:1: error: bad"],
        },
        out,
    )
    assert out.getvalue().splitlines() == [
        "node-a: ready, revision 4",
        "  policy default/web (CiliumNetworkPolicy), revision 3, what its file says now is bad: this is the last good "
        "revision",
        "  policy all (CiliumNetworkPolicy), revision 3, audit: nothing is refused by it",
        "  not covered: pod default/web: TCP ingress from 10.0.0.1, port 80: older than its policy",
        "  not covered: 7 more that are older than their policy",
        "  not covered: pods on the node's own network",
        "  warning: default/web ingress[0]: no pod has a port named 'x'",
        "  trouble: a.yaml:1:1: error: bad",
    ]
