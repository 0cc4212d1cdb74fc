"""Ports, ranges, names and protocols, line by line of docs/policy.md."""

import pytest

from policies.errors import PolicyError
from policies.inventory import NamedPort, Pod
from policies.ruleset import MAX_PORT, TCP, UDP, Answer
from tests.policies.world import ALLOW, DENY, EGRESS, ICMP, PODS, PROXY, World, documents, policy

WEB = "endpointSelector: {matchLabels: {app: web}}\n"
EVERYBODY = "fromEntities: [all]"


def with_ports(ports: str, rules: str = "") -> World:
    return World(policy(f"{WEB}ingress: [{{{EVERYBODY}, toPorts: [{{ports: {ports}{rules}}}]}}]"))


def open_ports(world: World, protocol: int, *ports: int) -> set[int]:
    return {port for port in ports if world.connect("frontend", port=port, protocol=protocol) is ALLOW}


@pytest.mark.parametrize(
    ("ports", "tcp", "udp", "icmp"),
    [
        pytest.param("[{port: 80}]", {80}, {80}, False, id="absent is any"),
        pytest.param("[{port: 80, protocol: ANY}]", {80}, {80}, False, id="any of a port is TCP and UDP"),
        pytest.param("[{port: 80, protocol: TCP}]", {80}, set(), False, id="TCP"),
        pytest.param("[{port: 80, protocol: tcp}]", {80}, set(), False, id="in any case"),
        pytest.param("[{port: 80, protocol: UDP}]", set(), {80}, False, id="UDP"),
        pytest.param("[{port: 80, protocol: TCP}, {port: 53, protocol: UDP}]", {80}, {53}, False, id="two"),
        pytest.param("[{port: 0}]", {53, 80}, {53, 80}, True, id="every port of every protocol"),
        pytest.param("[{port: 0, protocol: ANY}]", {53, 80}, {53, 80}, True, id="said"),
        pytest.param("[{port: 0, protocol: TCP}]", {53, 80}, set(), False, id="every port of TCP"),
        pytest.param("[{port: 0, protocol: UDP}]", set(), {53, 80}, False, id="every port of UDP"),
    ],
)
def test_protocols(ports: str, tcp: set[int], udp: set[int], icmp: bool) -> None:
    world = with_ports(ports)
    assert open_ports(world, TCP, 53, 80) == tcp
    assert open_ports(world, UDP, 53, 80) == udp
    assert (world.connect("frontend", protocol=ICMP) is ALLOW) is icmp
    # a rule with peers and no ports is for every protocol
    wide = World(policy(f"{WEB}ingress: [{{{EVERYBODY}}}]"))
    assert {wide.connect("frontend", protocol=protocol) for protocol in (TCP, UDP, ICMP)} == {ALLOW}


@pytest.mark.parametrize(
    ("first", "last"), [(8000, 8080), (80, 80), (1, MAX_PORT), (1024, MAX_PORT), (79, 81), (32767, 32768)]
)
def test_port_ranges(first: int, last: int) -> None:
    world = with_ports(f"[{{port: {first}, endPort: {last}, protocol: TCP}}]")
    edges = [port for port in (first - 1, first, first + 1, last - 1, last, last + 1) if 0 < port <= MAX_PORT]
    assert open_ports(world, TCP, *edges) == {port for port in edges if first <= port <= last}
    assert open_ports(world, UDP, *edges) == set()


def test_ranges_of_any_protocol_and_those_that_overlap() -> None:
    world = with_ports("[{port: 10, endPort: 20}, {port: 15, endPort: 30, protocol: UDP}]")
    assert open_ports(world, TCP, 9, 10, 20, 21, 30) == {10, 20}
    assert open_ports(world, UDP, 9, 10, 20, 21, 30, 31) == {10, 20, 21, 30}


def test_an_l7_rule_inside_an_allowed_range_changes_nothing() -> None:
    wide = policy(f"{WEB}ingress: [{{{EVERYBODY}, toPorts: [{{ports: [{{port: 1, endPort: 100, protocol: TCP}}]}}]}}]")
    get = "rules: {http: [{method: GET}]}"
    judged = policy(
        f"{WEB}ingress: [{{{EVERYBODY}, toPorts: [{{ports: [{{port: 80, endPort: 120, protocol: TCP}}], {get}}}]}}]",
        "j",
    )
    world = World(wide, judged)
    assert [world.connect("frontend", port=port) for port in (80, 100, 101, 120, 121)] == [
        ALLOW,
        ALLOW,
        PROXY,
        PROXY,
        DENY,
    ]


def test_named_ports_are_the_endpoints_own_at_ingress() -> None:
    rule = f"ingress: [{{{EVERYBODY}, toPorts: [{{ports: [{{port: http, protocol: TCP}}]}}]}}]"
    world = World(policy(f"{WEB}{rule}"), policy(f"{WEB}{rule}", namespace="other"))
    assert open_ports(world, TCP, 53, 80, 8080) == {80}
    assert {port for port in (80, 8080) if world.connect("frontend", "other/web", port) is ALLOW} == {8080}


@pytest.mark.parametrize(
    ("port", "tcp", "udp"),
    [
        ("{port: http}", {80}, set()),
        ("{port: http, protocol: TCP}", {80}, set()),
        ("{port: http, protocol: UDP}", set(), set()),
        ("{port: dns, protocol: UDP}", set(), {53}),
        ("{port: dns, protocol: ANY}", set(), {53}),
        ("{port: dns, protocol: TCP}", set(), set()),
    ],
)
def test_a_named_port_has_a_protocol(port: str, tcp: set[int], udp: set[int]) -> None:
    world = with_ports(f"[{port}]")
    assert open_ports(world, TCP, 53, 80) == tcp
    assert open_ports(world, UDP, 53, 80) == udp


def test_one_name_of_two_protocols_is_both() -> None:
    both = Pod("default", "both", {"app": "web"}, ("10.9.0.8",), 8, (NamedPort("p", 53, TCP), NamedPort("p", 54, UDP)))
    text = policy(f"{WEB}ingress: [{{{EVERYBODY}, toPorts: [{{ports: [{{port: p}}]}}]}}]")
    rules = World(text, pods=[*PODS.values(), both]).rules.endpoints[8].ingress
    answers = {(protocol, port): rules.answer(port, 256, protocol) for protocol in (TCP, UDP) for port in (53, 54)}
    assert answers == {(TCP, 53): ALLOW, (TCP, 54): DENY, (UDP, 53): DENY, (UDP, 54): ALLOW}


def test_named_ports_are_each_peers_at_egress() -> None:
    namespaces = "{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}"
    rule = f"toEndpoints: [{namespaces}], toPorts: [{{ports: [{{port: http, protocol: TCP}}]}}]"
    world = World(policy(f"endpointSelector: {{matchLabels: {{app: frontend}}}}\negress: [{{{rule}}}]"))

    def reached(peer: str) -> set[int]:
        return {port for port in (80, 8080) if world.connect(peer, "frontend", port, EGRESS) is ALLOW}

    assert {peer: reached(peer) for peer in ("web", "other/web", "intruder")} == {
        "web": {80},
        "other/web": {8080},
        "intruder": set(),
    }


def test_a_port_name_that_nobody_has_matches_nothing() -> None:
    world = with_ports("[{port: absent, protocol: TCP}]")
    assert {world.connect("frontend", port=port) for port in (0, 1, 80, 8080, MAX_PORT)} == {DENY}
    # the endpoint has no port of that name, though others do
    frontend = "endpointSelector: {matchLabels: {app: frontend}}\n"
    rule = f"ingress: [{{{EVERYBODY}, toPorts: [{{ports: [{{port: http, protocol: TCP}}]}}]}}]"
    other = World(policy(f"{frontend}{rule}"))
    assert {other.connect("web", "frontend", port) for port in (0, 80, 8080)} == {DENY}
    egress = World(policy(f"{frontend}egress: [{{toEntities: [all], toPorts: [{{ports: [{{port: absent}}]}}]}}]"))
    assert {egress.connect(peer, "frontend", 80, EGRESS) for peer in ("web", "node-b", "198.51.100.7", None)} == {DENY}
    # and a denial of it denies nothing
    denial = policy(f"{WEB}ingressDeny: [{{toPorts: [{{ports: [{{port: absent}}]}}]}}]\ningress: [{{{EVERYBODY}}}]")
    assert World(denial).connect("frontend") is ALLOW


@pytest.mark.parametrize(
    ("port", "answer"),
    [
        ("{port: 80}", PROXY),
        ("{port: 80, protocol: TCP}", PROXY),
        ("{port: 80, protocol: ANY}", PROXY),
        ("{port: http}", PROXY),
        ("{port: dns}", DENY),
    ],
)
def test_l7_rules_are_for_tcp(port: str, answer: Answer) -> None:
    world = with_ports(f"[{port}]", ", rules: {http: [{method: GET}]}")
    assert world.connect("frontend") is answer
    assert {world.connect("frontend", port=n, protocol=UDP) for n in (53, 80)} == {DENY}
    with pytest.raises(PolicyError):
        documents(
            policy(
                f"{WEB}ingress: [{{{EVERYBODY}, toPorts: [{{ports: [{{port: 80, protocol: UDP}}],"
                " rules: {http: [{method: GET}]}}]}]"
            )
        )


@pytest.mark.parametrize(
    "port",
    [
        "{port: 80, endPort: 79, protocol: TCP}",
        "{port: http, endPort: 81, protocol: TCP}",
        "{port: 0, endPort: 80, protocol: TCP}",
        "{port: 80, endPort: 65536, protocol: TCP}",
        "{port: 80, protocol: SCTP}",
        "{port: 65536}",
        "{port: -1}",
        "{protocol: TCP}",
    ],
)
def test_ports_that_are_none(port: str) -> None:
    with pytest.raises(PolicyError):
        with_ports(f"[{port}]")


@pytest.mark.parametrize("port", ["{port: 0}", "{port: '0', protocol: TCP}"])
def test_l7_rules_need_a_port(port: str) -> None:
    with pytest.raises(PolicyError):
        with_ports(f"[{port}]", ", rules: {http: [{method: GET}]}")
