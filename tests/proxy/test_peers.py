"""Who a peer is: by address, then by the longest prefix; and how records name it."""

import pytest

from audit.record import EGRESS, INGRESS
from policies.engine import Engine
from policies.ruleset import DirectionRules, EndpointRules, Identity, Reserved, RuleSet
from proxy.peers import Peers
from proxy.policy_box import PolicyBox
from proxy.records import both_sides, side

CIDR8, CIDR24, HOST6 = (1 << 24), (1 << 24) + 1, (1 << 24) + 2
RULES = RuleSet(
    3,
    {7: EndpointRules(7, "default", "web", {"app": "web"}, DirectionRules(), DirectionRules(), 256)},
    {
        256: Identity("default", {"app": "web"}, ("default/web",)),
        257: Identity("default", {"app": "db"}, ("default/db",)),
        1: Identity("", {}, (), "host"),
        3: Identity("", {}, (), "unknown"),
        CIDR8: Identity("", {}, (), "cidr:10.0.0.0/8"),
        CIDR24: Identity("", {}, (), "cidr:10.1.2.0/24"),
    },
    {
        "10.1.2.3": (257, "default/db"),
        "10.1.2.4": (3, ""),
        "10.9.9.9": (1, "node-a"),
        "fd00::9": (11, "node-a"),
        "10.9.9.8": (6, "node-b"),
        "10.9.9.7": (7, "node-c"),
        "fe80::1": (257, "default/db"),
    },
    {"0.0.0.0/0": 9, "::/0": 10, "10.0.0.0/8": CIDR8, "10.1.2.0/24": CIDR24, "fd00::7/128": HOST6},
)


@pytest.mark.parametrize(
    ("address", "identity"),
    [
        ("10.1.2.3", 257),
        ("10.1.2.4", 3),
        ("10.1.2.5", CIDR24),
        ("10.1.3.5", CIDR8),
        ("11.0.0.1", 9),
        ("169.254.169.254", 9),
        ("fd00::7", HOST6),
        ("fd00::8", 10),
        ("::1", 10),
        ("fe80::1", 0),
        ("fe80::2", 0),
        ("10.9.9.9", 1),
    ],
)
def test_the_address_then_the_longest_prefix(address: str, identity: int) -> None:
    assert Peers(RULES).find(address)[0] == identity
    assert PolicyBox(Engine(RULES)).identity_of(address, EGRESS) == identity


def test_without_prefixes_a_stranger_is_nobody() -> None:
    assert Peers(RuleSet()).find("10.1.2.3") == (0, "")


@pytest.mark.parametrize(
    ("address", "ingress", "egress"),
    [("10.9.9.9", 9, 1), ("fd00::9", 10, 11), ("10.9.9.8", 6, 6), ("10.9.9.7", 7, 7), ("10.1.2.3", 257, 257)],
)
def test_what_comes_with_the_address_of_this_node_is_judged_as_world(address: str, ingress: int, egress: int) -> None:
    box = PolicyBox(Engine(RULES))
    assert (box.identity_of(address, INGRESS), box.identity_of(address, EGRESS)) == (ingress, egress)


@pytest.mark.parametrize(
    ("address", "labels"),
    [
        ("11.0.0.1", ("reserved:world", "reserved:world-ipv4")),
        ("fd00::8", ("reserved:world", "reserved:world-ipv6")),
        ("10.1.2.5", ("cidr:10.1.2.0/24", "reserved:world")),
        ("10.9.9.9", ("reserved:host",)),
        ("fd00::9", ("reserved:host", "reserved:kube-apiserver")),
        ("10.9.9.8", ("reserved:remote-node",)),
        ("10.9.9.7", ("reserved:kube-apiserver", "reserved:remote-node")),
        ("10.1.2.4", ("reserved:unknown",)),
        ("fe80::2", ()),
    ],
)
def test_records_name_peers_that_are_no_pods_as_hubble_does(address: str, labels: tuple[str, ...]) -> None:
    found = side(RULES, address, 5)
    assert (found.reserved, found.pod_name, found.namespace) == (labels, "", "")


def test_records_say_what_a_peer_was_judged_by() -> None:
    source, destination = both_sides(RULES, 7, INGRESS, ("10.9.9.9", 5), ("10.0.0.1", 80))
    assert (source.identity, source.reserved) == (9, ("reserved:world", "reserved:world-ipv4"))
    assert (destination.identity, destination.pod_name, destination.endpoint_id) == (256, "web", 7)
    probe, _ = both_sides(RULES, 7, INGRESS, ("10.9.9.9", 5), ("10.0.0.1", 80), Reserved.HOST)
    assert (probe.identity, probe.reserved) == (1, ("reserved:host",))
    _, there = both_sides(RULES, 7, EGRESS, ("10.0.0.1", 80), ("10.1.2.3", 5))
    assert (there.identity, there.pod_name, there.labels) == (257, "db", {"app": "db"})


def test_an_address_of_somebody_else_before_the_change_is_not_named_by_it() -> None:
    source, _ = both_sides(RULES, 7, INGRESS, ("10.1.2.3", 5), ("10.0.0.1", 80), 9)
    assert (source.identity, source.pod_name, source.labels) == (9, "", {})


def test_a_prefix_that_is_none_leaves_the_rules_in_force() -> None:
    box = PolicyBox(Engine(RULES))
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        box.swap(Engine(RuleSet(4, prefixes={"10.0.0.0/99": 5})))
    assert box.revision == 3
    assert box.identity_of("10.1.2.5", EGRESS) == CIDR24
