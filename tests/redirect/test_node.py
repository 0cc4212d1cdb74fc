"""The node's own address at ingress: who may be the node, and its probes."""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from redirect import layout, libbpf
from redirect.types import Answer, Direction, Flags, VerdictFlags, VerdictKey
from tests.redirect.conftest import ALLOWED, DENIED, PROXIED, SERVER_IDENTITY, UNNAMED, Steered
from tests.redirect.pods import PREFIX4, PREFIX6, Node, run

pytestmark = pytest.mark.root

TCP = socket.IPPROTO_TCP
HOST, WORLD = 1, {socket.AF_INET: 9, socket.AF_INET6: 10}


@pytest.fixture
def node(steered: Steered) -> Iterator[Node]:
    """The node has identity 1, everybody else is the world; the server's ingress is enforced and allows nothing."""
    steered.kernel.set_identities(
        {
            ipaddress.ip_network("0.0.0.0/0"): 9,
            ipaddress.ip_network("::/0"): 10,
            ipaddress.ip_network(f"{PREFIX4}.1"): HOST,
            ipaddress.ip_network(f"{PREFIX6}::1"): HOST,
        }
    )
    made = Node(steered.net)
    steered.kernel.set_node(made.netns.cookie, True)
    yield made
    steered.kernel.set_node(0, False)
    made.close()


def rules(steered: Steered, *entries: tuple[int, int, Answer, VerdictFlags]) -> None:
    """(identity, port, answer, flags) of the server's ingress."""
    steered.kernel.set_verdicts(
        8,
        {
            VerdictKey(8, identity, Direction.INGRESS, TCP, port): (answer, flags)
            for identity, port, answer, flags in entries
        },
    )


def test_probe_passes_with_a_record_of_its_own(steered: Steered, node: Node, family: int) -> None:
    steered.protect(steered.server, Flags.INGRESS)
    rules(steered, (HOST, PROXIED, Answer.PROXY, VerdictFlags.NONE), (HOST, ALLOWED, Answer.ALLOW, VerdictFlags.NONE))
    host = steered.server.address(family)
    for port in (UNNAMED, PROXIED, ALLOWED):
        steered.app(steered.server, family, port)
        assert node.connect(host, port)[0] == "ok"
    found = {one.dport: one for one in steered.refused()}
    assert set(found) == {UNNAMED, PROXIED}  # what a rule allows is no probe
    one = found[UNNAMED]
    assert (one.reason, one.allowed, one.identity, one.direction) == ("node_probe", True, HOST, Direction.INGRESS)


def test_probe_from_a_mapped_socket(steered: Steered, node: Node) -> None:
    """An IPv6 socket to ::ffff:a.b.c.d, as Go's net package makes them."""
    steered.protect(steered.server, Flags.INGRESS)
    rules(steered)
    steered.app(steered.server, socket.AF_INET, UNNAMED)
    assert node.connect(f"::ffff:{steered.server.ip4}", UNNAMED)[0] == "ok"
    assert [one.reason for one in steered.refused()] == ["node_probe"]


def test_probe_does_not_beat_a_deny_rule(steered: Steered, node: Node, family: int) -> None:
    steered.protect(steered.server, Flags.INGRESS)
    rules(steered, (HOST, DENIED, Answer.DENY, VerdictFlags.EXPLICIT))
    steered.app(steered.server, family, DENIED)
    assert node.connect(steered.server.address(family), DENIED)[0] == "ECONNREFUSED"
    assert [(one.reason, one.identity) for one in steered.refused()] == [("denied", HOST)]


def test_without_the_allowance_the_node_is_a_peer_like_others(steered: Steered, node: Node, family: int) -> None:
    steered.kernel.set_node(node.netns.cookie, False)
    steered.protect(steered.server, Flags.INGRESS)
    rules(steered, (HOST, ALLOWED, Answer.ALLOW, VerdictFlags.NONE))
    host = steered.server.address(family)
    for port in (ALLOWED, UNNAMED):
        steered.app(steered.server, family, port)
    assert node.connect(host, ALLOWED)[0] == "ok"
    assert node.connect(host, UNNAMED)[0] == "ECONNREFUSED"
    assert [(one.reason, one.identity) for one in steered.refused()] == [("no_rule", HOST)]


def test_masqueraded_to_the_node_is_world(steered: Steered, node: Node, family: int) -> None:
    """A pod elsewhere, whose packets the node gives its own address, as kube-proxy does for a service's clients.

    The node's netfilter does it for real: from a netns behind the node to the server, over the node's bridge.
    """
    prefix = "fd78::" if family == socket.AF_INET6 else "10.78.0."
    length = "64" if family == socket.AF_INET6 else "24"
    flag = ["-6"] if family == socket.AF_INET6 else []
    outside = f"{steered.net.name}-o"
    run("ip", "netns", "add", outside)
    try:
        run(
            "ip", "-n", node.netns_name, "link", "add", "out0", "type", "veth", "peer", "name", "eth0", "netns", outside
        )
        for where, device, number in ((node.netns_name, "out0", "1"), (outside, "eth0", "2")):
            nodad = ["nodad"] if flag else []
            run("ip", "-n", where, "addr", "add", f"{prefix}{number}/{length}", "dev", device, *nodad)
            run("ip", "-n", where, "link", "set", device, "up")
        run("ip", "-n", outside, *flag, "route", "add", "default", "via", f"{prefix}1")
        with node.netns.entered():
            for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path(f"/proc/sys/net/{name}").write_text("1", encoding="ascii")
        masquerade(node, family)
        steered.protect(steered.server, Flags.INGRESS)
        world = WORLD[socket.AF_INET6 if flag else socket.AF_INET]
        rules(
            steered,
            (HOST, ALLOWED, Answer.ALLOW, VerdictFlags.NONE),
            (world, PROXIED, Answer.ALLOW, VerdictFlags.NONE),
        )
        host = steered.server.address(family)
        apps = [steered.app(steered.server, family, port) for port in (ALLOWED, PROXIED)]
        client = Node.__new__(Node)
        client.netns_name, client.cgroup = outside, node.cgroup
        assert client.connect(host, PROXIED)[0] == "ok"
        assert apps[1].seen == [f"{PREFIX6}::1" if flag else f"{PREFIX4}.1"]  # it does come from the node's address
        assert client.connect(host, ALLOWED)[0] == "ECONNREFUSED"
        assert [(one.reason, one.identity) for one in steered.refused()] == [("no_rule", world)]
        assert node.connect(host, ALLOWED)[0] == "ok"  # the node itself still may
    finally:
        run("ip", "netns", "del", outside)


def masquerade(node: Node, family: int) -> None:
    """The node gives what it forwards its own address."""
    table = ("ip6" if family == socket.AF_INET6 else "ip", "tulle_test")
    nft = ("ip", "netns", "exec", node.netns_name, "nft", "add")
    run(*nft, "table", *table)
    run(*nft, "chain", *table, "post", "{ type nat hook postrouting priority 100; }")
    run(*nft, "rule", *table, "post", "oifname", "cni0", "masquerade")


def test_old_entry_names_nobody(steered: Steered, node: Node, family: int) -> None:
    """10 s after a process of the node opened it, the port may be somebody else's."""
    steered.protect(steered.server, Flags.INGRESS)
    rules(steered)
    steered.app(steered.server, family, UNNAMED)
    host, own = steered.server.address(family), f"{PREFIX6}::1" if family == socket.AF_INET6 else f"{PREFIX4}.1"
    ends = b"".join(layout.pack_address(ipaddress.ip_address(one)) for one in (own, host))
    # This process is below no cgroup with our hooks: it comes from the node's address unseen, with what entry we make.
    with node.netns.entered():
        for port, age_s in ((47001, None), (47002, 9), (47003, 11)):
            if age_s is not None:
                key = ends + struct.pack("=HH", port, UNNAMED)
                when = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - age_s * 10**9
                libbpf.map_update(steered.kernel.maps.fd("l7_opened"), key, struct.pack("=Q", when), "l7_opened")
            with socket.socket(family) as sock:
                sock.settimeout(2)
                sock.bind((own, port))
                if age_s == 9:
                    sock.connect((host, UNNAMED))
                else:
                    with pytest.raises(ConnectionRefusedError):
                        sock.connect((host, UNNAMED))


@pytest.mark.parametrize("protocol", [TCP, socket.IPPROTO_UDP])
def test_service_is_judged_as_its_backend(steered: Steered, family: int, protocol: int) -> None:
    """The place of the service map: an entry changes which address and port the rules are asked about."""
    steered.protect(steered.client, Flags.EGRESS)
    service = "fd99::99" if family == socket.AF_INET6 else "10.99.0.99"
    code = f"""
        s = socket.socket({int(family)}, socket.SOCK_STREAM if {protocol} == 6 else socket.SOCK_DGRAM)
        s.settimeout(0.3)
        try: s.connect(({service!r}, 8080)); say("ok")
        except TimeoutError: say("ok")
        except OSError as e: say(errno.errorcode[e.errno])
    """
    assert steered.client.run(code) == "EPERM"
    (denial,) = steered.refused()
    assert (denial.reason, denial.identity, denial.dst, denial.dport) == ("no_rule", 0, service, 8080)
    key = layout.ServiceKey(port_be=socket.htons(8080), protocol=protocol)
    key.addr[:] = list(layout.pack_address(ipaddress.ip_address(service)))
    fd = steered.kernel.maps.fd("l7_services")
    try:
        for port, outcome in ((ALLOWED, "ok"), (DENIED, "EPERM")):
            backend = layout.Backend(port_be=socket.htons(port))
            backend.addr[:] = list(layout.pack_address(ipaddress.ip_address(steered.server.address(family))))
            libbpf.map_update(fd, key, backend, "l7_services")
            assert steered.client.run(code) in (outcome, "EHOSTUNREACH" if outcome == "ok" else outcome)
    finally:
        libbpf.map_delete(fd, key, "l7_services")
    assert [(one.reason, one.identity, one.dport) for one in steered.refused()] == [("denied", SERVER_IDENTITY, 8080)]
    assert ctypes.sizeof(layout.ServiceKey) == 20
