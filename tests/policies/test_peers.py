"""Who a peer is and what names it, line by line of docs/policy.md."""

from collections.abc import Sequence

import pytest

from policies.compile import compile_policies
from policies.errors import PolicyError
from policies.explain import identity_of
from policies.inventory import Inventory, NodeHost, Pod, Service
from policies.resolve import resolve, troubles
from policies.ruleset import TCP, UDP, Answer
from proxy.peers import Peers
from tests.policies.world import (
    ALLOW,
    DENY,
    EGRESS,
    ICMP,
    INVENTORY,
    NODES,
    OUTSIDE,
    PODS,
    World,
    clusterwide,
    documents,
    kubernetes,
    policy,
)

WEB = "endpointSelector: {matchLabels: {app: web}}\n"
EVERYBODY: tuple[str | None, ...] = (*PODS, *NODES, *OUTSIDE, None)
IPV4 = {"203.0.113.10", "203.0.113.200", "198.51.100.7"}
IPV6 = {"2001:db8::1", "2001:db8:1::1"}


def allowed(world: World, to: str = "web", port: int = 80, **how: int) -> set[str | None]:
    """Who may, of EVERYBODY."""
    answers = world.answers(EVERYBODY, to, port, **how)
    return {peer for peer, answer in zip(EVERYBODY, answers, strict=True) if answer is not DENY}


ENTITIES: dict[str, set[str | None]] = {
    "all": {*PODS, *NODES, *OUTSIDE},
    "world": {*OUTSIDE},
    "world-ipv4": {*IPV4},
    "world-ipv6": {*IPV6},
    "cluster": {*PODS, *NODES},
    "host": {"node-a"},
    "remote-node": {"node-b", "node-c"},
    "kube-apiserver": {"node-c"},
    "none": set(),
    "init": set(),
    "health": set(),
    "unmanaged": set(),
    "ingress": set(),
}


@pytest.mark.parametrize("entity", ENTITIES)
def test_entities(entity: str) -> None:
    ingress = World(policy(f"{WEB}ingress: [{{fromEntities: [{entity}]}}]"))
    egress = World(policy(f"{WEB}egress: [{{toEntities: [{entity}]}}]"))
    assert allowed(ingress) == ENTITIES[entity]
    assert allowed(egress, direction=EGRESS) == ENTITIES[entity]
    # a prefix that another rule names is the world's all the same
    beside = policy(f"{WEB}ingress: [{{fromCIDR: [203.0.113.10/32], toPorts: [{{ports: [{{port: 9}}]}}]}}]", "beside")
    assert allowed(World(policy(f"{WEB}ingress: [{{fromEntities: [{entity}]}}]"), beside)) == ENTITIES[entity]


@pytest.mark.parametrize("entity", ["host", "remote-node", "world", "kube-apiserver", "health"])
def test_reserved_labels_are_entities(entity: str) -> None:
    selector = f"{{matchLabels: {{'reserved:{entity}': ''}}}}"
    assert allowed(World(policy(f"{WEB}ingress: [{{fromEndpoints: [{selector}]}}]"))) == ENTITIES[entity]


def test_entities_of_a_list_add_up() -> None:
    world = World(policy(f"{WEB}ingress: [{{fromEntities: [host, world-ipv6]}}]"))
    assert allowed(world) == {"node-a", *IPV6}


def test_an_api_server_outside_the_cluster() -> None:
    outside = Inventory(INVENTORY.pods, INVENTORY.nodes, INVENTORY.namespaces, (), ("203.0.113.10", "192.168.0.1"))
    world = World(policy(f"{WEB}ingress: [{{fromEntities: [kube-apiserver]}}]"), inventory=outside)
    assert allowed(world) == {"203.0.113.10", "node-a"}
    rest = World(policy(f"{WEB}ingress: [{{fromEntities: [world]}}]"), inventory=outside)
    assert allowed(rest) == set(OUTSIDE)
    cluster = World(policy(f"{WEB}ingress: [{{fromEntities: [cluster]}}]"), inventory=outside)
    inside = World(policy(f"{WEB}ingress: [{{fromEntities: [cluster]}}]"))
    assert allowed(cluster) == allowed(inside) | {"203.0.113.10"}  # Cilium, InitEntities
    host = World(policy(f"{WEB}ingress: [{{fromEntities: [host]}}]"), inventory=outside)
    assert allowed(host) == {"node-a"}


@pytest.mark.parametrize("field", ["fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet"])
def test_an_empty_list_of_any_kind_is_no_peer(field: str) -> None:
    for ports in ("", ", toPorts: [{ports: [{port: 80, protocol: TCP}]}]"):
        assert allowed(World(policy(f"{WEB}ingress: [{{{field}: []{ports}}}]"))) == set()
        to = field.replace("from", "to")
        assert allowed(World(policy(f"{WEB}egress: [{{{to}: []{ports}}}]")), direction=EGRESS) == set()


def test_two_kinds_of_peers_in_one_rule() -> None:
    with pytest.raises(PolicyError) as caught:
        documents(policy(f"{WEB}ingress: [{{fromEndpoints: [{{}}], fromEntities: [world]}}]"))
    (problem,) = caught.value.problems
    assert (problem.line, problem.field) == (6, "spec.ingress[0].fromEntities")


def test_an_unknown_peer_is_named_by_nothing() -> None:
    for rule in ("fromEntities: [all]", "fromCIDR: [0.0.0.0/0, '::/0']", "fromEndpoints: [{}]"):
        assert None not in allowed(World(policy(f"{WEB}ingress: [{{{rule}}}]")))
        assert None not in allowed(World(clusterwide(f"endpointSelector: {{}}\ningress: [{{{rule}}}]")))
    assert None in allowed(World(policy(f"{WEB}ingress: [{{toPorts: [{{ports: [{{port: 80}}]}}]}}]")))
    # nor by a denial: what nobody allows is denied by default, and a denial of "all" is not of it
    denial = policy(f"{WEB}ingressDeny: [{{fromEntities: [all]}}]\ningress: [{{toPorts: [{{ports: [{{port: 80}}]}}]}}]")
    assert allowed(World(denial)) == {None}


def test_an_address_of_two_pods_is_named_by_nothing() -> None:
    thief = Pod("default", "thief", {"app": "frontend"}, ("10.9.0.3",))
    world = World(policy(f"{WEB}ingress: [{{fromEntities: [all]}}]"), pods=[*PODS.values(), thief])
    assert world.connect("10.9.0.3") is DENY
    assert world.connect("fd09::3") is ALLOW


@pytest.mark.parametrize(
    ("rule", "who"),
    [
        pytest.param("fromCIDR: [203.0.113.0/24]", {"203.0.113.10", "203.0.113.200"}, id="a prefix"),
        pytest.param("fromCIDR: [203.0.113.10]", {"203.0.113.10"}, id="a bare address"),
        pytest.param("fromCIDR: [203.0.113.10/32, 198.51.100.0/24]", {"203.0.113.10", "198.51.100.7"}, id="two"),
        pytest.param("fromCIDR: [0.0.0.0/0]", IPV4, id="the world of one family"),
        pytest.param("fromCIDR: ['::/0']", IPV6, id="of the other"),
        pytest.param("fromCIDRSet: [{cidr: 203.0.113.0/24}]", {"203.0.113.10", "203.0.113.200"}, id="a set"),
        pytest.param(
            "fromCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.0/28]}]", {"203.0.113.200"}, id="with an except"
        ),
        pytest.param(
            "fromCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.0/28, 203.0.113.192/26]}]", set(), id="with two"
        ),
        pytest.param("fromCIDRSet: [{cidr: 203.0.113.0/24, except: []}]", {"203.0.113.10", "203.0.113.200"}, id="none"),
        pytest.param("fromCIDRSet: [{cidr: '2001:db8::/32', except: ['2001:db8:1::/48']}]", {"2001:db8::1"}, id="IPv6"),
    ],
)
def test_prefixes(rule: str, who: set[str]) -> None:
    assert allowed(World(policy(f"{WEB}ingress: [{{{rule}}}]"))) == who
    egress = rule.replace("from", "to")
    assert allowed(World(policy(f"{WEB}egress: [{{{egress}}}]")), direction=EGRESS) == who
    # protocols and ports are not asked about
    assert allowed(World(policy(f"{WEB}ingress: [{{{rule}}}]")), port=9, protocol=UDP) == who
    assert allowed(World(policy(f"{WEB}ingress: [{{{rule}}}]")), protocol=ICMP) == who


def test_cidr_never_names_pods_or_nodes() -> None:
    for cidrs in ("[0.0.0.0/0, '::/0']", "[10.9.0.0/24, 192.168.0.0/24]", "[10.9.0.2/32, 192.168.0.1/32, 'fd09::2']"):
        world = World(policy(f"{WEB}ingress: [{{fromCIDR: {cidrs}}}]"))
        assert not allowed(world) & {*PODS, *NODES}
        assert world.connect("fd09::2") is DENY
    block = World(kubernetes("podSelector: {}\ningress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]"))
    assert allowed(block) == IPV4
    # and so it does not deny them either
    denial = policy(f"{WEB}ingressDeny: [{{fromCIDR: [10.9.0.0/24]}}]\ningress: [{{fromEntities: [all]}}]")
    assert allowed(World(denial)) == {*PODS, *NODES, *OUTSIDE}


def test_except_is_of_its_entry_alone() -> None:
    inside = "fromCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.0/28]}, {cidr: 203.0.113.10/32}]"
    assert allowed(World(policy(f"{WEB}ingress: [{{{inside}}}]"))) == {"203.0.113.10", "203.0.113.200"}
    one = "{fromCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.0/28]}]}"
    other = "{fromCIDR: [203.0.113.8/29]}"
    assert allowed(World(policy(f"{WEB}ingress: [{one}, {other}]"))) == {"203.0.113.10", "203.0.113.200"}


def test_nested_prefixes() -> None:
    wide = policy(f"{WEB}ingress: [{{fromCIDR: [203.0.0.0/16], toPorts: [{{ports: [{{port: 80}}]}}]}}]", "wide")
    narrow = policy(f"{WEB}ingress: [{{fromCIDR: [203.0.113.0/28], toPorts: [{{ports: [{{port: 81}}]}}]}}]", "narrow")
    all_ = policy(f"{WEB}ingress: [{{fromCIDR: [0.0.0.0/0], toPorts: [{{ports: [{{port: 82}}]}}]}}]", "all")
    world = World(wide, narrow, all_)
    ports = {peer: [world.connect(peer, port=port) is ALLOW for port in (80, 81, 82, 83)] for peer in IPV4}
    assert ports == {
        "203.0.113.10": [True, True, True, False],
        "203.0.113.200": [True, False, True, False],
        "198.51.100.7": [False, False, True, False],
    }
    denial = policy(f"{WEB}ingressDeny: [{{fromCIDR: [203.0.113.8/29]}}]", "denial")
    assert World(wide, narrow, all_, denial).answers(sorted(IPV4), port=82) == [ALLOW, DENY, ALLOW]


@pytest.mark.parametrize(
    ("services", "who"),
    [
        pytest.param("{k8sService: {serviceName: api, namespace: default}}", {"203.0.113.10"}, id="without selector"),
        pytest.param("{k8sService: {serviceName: web, namespace: default}}", {"web"}, id="with one: its pods"),
        pytest.param("{k8sService: {serviceName: nowhere, namespace: default}}", set(), id="nobody knows it"),
        pytest.param("{k8sService: {serviceName: api, namespace: other}}", set(), id="not in that namespace"),
        pytest.param(
            "{k8sServiceSelector: {selector: {matchLabels: {reach: outside}}}}", {"203.0.113.10"}, id="by labels"
        ),
        pytest.param("{k8sServiceSelector: {selector: {matchLabels: {reach: x}}}}", set(), id="by labels, none"),
    ],
)
def test_services(services: str, who: set[str]) -> None:
    world = World(policy(f"endpointSelector: {{}}\negress: [{{toServices: [{services}]}}]"))
    assert allowed(world, "frontend", direction=EGRESS) == who


def test_a_service_of_pods_addresses_is_those_pods() -> None:
    """Endpoints that somebody wrote by hand: an address that a pod has is that pod."""
    by_hand = Service("default", "by-hand", {}, None, ("10.9.0.3", "198.51.100.7"))
    inventory = Inventory(INVENTORY.pods, INVENTORY.nodes, INVENTORY.namespaces, (by_hand,))
    spec = "egress: [{toServices: [{k8sService: {serviceName: by-hand, namespace: default}}]}]"
    world = World(policy(f"{WEB}{spec}"), inventory=inventory)
    assert allowed(world, direction=EGRESS) == {"intruder", "198.51.100.7"}


def test_troubles_name_what_nothing_answers_to() -> None:
    spec = (
        "egress: [{toServices: [{k8sService: {serviceName: nowhere, namespace: default}}]},"
        " {toPorts: [{ports: [{port: absent, protocol: TCP}]}]}]"
    )
    world = World(policy(f"{WEB}{spec}"))
    found = troubles(world.policies, world.inventory)
    assert found == [
        "default/p egress[0]: there is no service 'default/nowhere'",
        "default/p egress[1].toPorts[0]: no pod has a port named 'absent'",
    ]


NAMESPACE = "io.cilium.k8s.namespace.labels."


@pytest.mark.parametrize(
    ("selector", "who"),
    [
        (f"{{matchLabels: {{{NAMESPACE}team: a}}}}", {"web", "frontend", "intruder"}),
        (f"{{matchLabels: {{{NAMESPACE}team: b}}}}", {"other/frontend", "other/web"}),
        (f"{{matchLabels: {{'k8s:{NAMESPACE}team': b, app: web}}}}", {"other/web"}),
        (f"{{matchLabels: {{{NAMESPACE}team: c}}}}", set()),
        (f"{{matchExpressions: [{{key: {NAMESPACE}team, operator: Exists}}]}}", set(PODS)),
        (
            f"{{matchExpressions: [{{key: {NAMESPACE}team, operator: NotIn, values: [a]}}]}}",
            {"other/frontend", "other/web"},
        ),
        (f"{{matchLabels: {{{NAMESPACE}kubernetes.io/metadata.name: other}}}}", {"other/frontend", "other/web"}),
        (
            f"{{matchLabels: {{{NAMESPACE}team: b, 'k8s:io.kubernetes.pod.namespace': default}}}}",
            set(),
        ),
    ],
)
def test_namespace_labels(selector: str, who: set[str]) -> None:
    assert allowed(World(policy(f"{WEB}ingress: [{{fromEndpoints: [{selector}]}}]"))) == who


def test_a_pods_own_label_is_not_its_namespaces() -> None:
    forged = Pod("other", "forged", {f"{NAMESPACE}team": "a", "io.kubernetes.pod.namespace": "default"}, ("10.9.0.9",))
    for selector in (
        f"{{matchLabels: {{{NAMESPACE}team: a}}}}",
        "{matchLabels: {io.kubernetes.pod.namespace: default}}",
    ):
        world = World(policy(f"{WEB}ingress: [{{fromEndpoints: [{selector}]}}]"), pods=[*PODS.values(), forged])
        assert world.answers(["10.9.0.9", "frontend"]) == [DENY, ALLOW]


TYPES: Sequence[tuple[str, Answer, Answer]] = [
    ("podSelector: {}", DENY, ALLOW),
    ("podSelector: {}\npolicyTypes: []", DENY, ALLOW),
    ("podSelector: {}\ningress: []", DENY, ALLOW),
    ("podSelector: {}\negress: []", DENY, ALLOW),
    ("podSelector: {}\negress: [{}]", DENY, ALLOW),  # egress is touched, and allows all
    ("podSelector: {}\negress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]", DENY, DENY),
    ("podSelector: {}\npolicyTypes: [Ingress]", DENY, ALLOW),
    ("podSelector: {}\npolicyTypes: [Egress]", ALLOW, DENY),
    ("podSelector: {}\npolicyTypes: [Ingress, Egress]", DENY, DENY),
    ("podSelector: {}\npolicyTypes: [Egress]\negress: [{}]", ALLOW, ALLOW),
    ("podSelector: {}\ningress: [{}]", ALLOW, ALLOW),
    ("podSelector: {}\npolicyTypes: [Egress, Ingress]\ningress: [{}]", ALLOW, DENY),
]


@pytest.mark.parametrize(("spec", "ingress", "egress"), TYPES)
def test_policy_types(spec: str, ingress: Answer, egress: Answer) -> None:
    world = World(kubernetes(spec))
    assert world.connect("frontend") is ingress
    assert world.connect("frontend", direction=EGRESS) is egress
    assert world.connect("frontend", "other/web") is ALLOW


@pytest.mark.parametrize(
    ("rule", "who"),
    [
        ("{}", set(EVERYBODY)),
        ("{from: []}", set(EVERYBODY)),
        ("{from: [{podSelector: {}}]}", {"web", "frontend", "intruder"}),
        ("{from: [{podSelector: {matchLabels: {app: frontend}}}]}", {"frontend"}),
        ("{from: [{namespaceSelector: {}}]}", set(PODS)),
        ("{from: [{namespaceSelector: {matchLabels: {team: b}}}]}", {"other/frontend", "other/web"}),
        (
            "{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}]}",
            {"other/frontend", "other/web"},
        ),
        (
            "{from: [{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: web}}}]}",
            {"other/web"},
        ),
        (
            "{from: [{namespaceSelector: {matchLabels: {team: b}}}, {podSelector: {matchLabels: {app: frontend}}}]}",
            {"other/frontend", "other/web", "frontend"},
        ),
        ("{from: [{namespaceSelector: {}, podSelector: {}}]}", set(PODS)),
        (
            "{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [b]}]}}]}",
            {"web", "frontend", "intruder"},
        ),
        ("{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.0/28]}}]}", {"203.0.113.200"}),
        ("{from: [{ipBlock: {cidr: '::/0'}}]}", IPV6),
        (
            "{from: [{ipBlock: {cidr: 198.51.100.0/24}}, {podSelector: {matchLabels: {app: intruder}}}]}",
            {"198.51.100.7", "intruder"},
        ),
    ],
)
def test_kubernetes_peers(rule: str, who: set[str | None]) -> None:
    assert allowed(World(kubernetes(f"podSelector: {{matchLabels: {{app: web}}}}\ningress: [{rule}]"))) == who
    spec = f"podSelector: {{matchLabels: {{app: web}}}}\npolicyTypes: [Egress]\negress: [{rule.replace('from', 'to')}]"
    assert allowed(World(kubernetes(spec)), direction=EGRESS) == who


@pytest.mark.parametrize(
    ("ports", "tcp", "udp", "icmp"),
    [
        ("", {80, 81, 443}, {80, 81, 443}, True),
        (", ports: []", {80, 81, 443}, {80, 81, 443}, True),
        (", ports: [{port: 80}]", {80}, set(), False),
        (", ports: [{port: 80, protocol: UDP}]", set(), {80}, False),
        (", ports: [{protocol: TCP}]", {80, 81, 443}, set(), False),
        (", ports: [{protocol: UDP}]", set(), {80, 81, 443}, False),
        (", ports: [{port: 81, endPort: 443}]", {81, 443}, set(), False),
        (", ports: [{port: http}]", {80}, set(), False),
        (", ports: [{port: http, protocol: UDP}]", set(), set(), False),
        (", ports: [{port: absent}]", set(), set(), False),
        (", ports: [{port: 80}, {port: 443, protocol: UDP}]", {80}, {443}, False),
    ],
)
def test_kubernetes_ports(ports: str, tcp: set[int], udp: set[int], icmp: bool) -> None:
    for peers in ("from: [{podSelector: {}}]", "from: []"):
        world = World(kubernetes(f"podSelector: {{matchLabels: {{app: web}}}}\ningress: [{{{peers}{ports}}}]"))
        for protocol, wanted in ((TCP, tcp), (UDP, udp)):
            found = {port for port in (80, 81, 443) if world.connect("frontend", port=port, protocol=protocol) is ALLOW}
            assert found == wanted
        assert (world.connect("frontend", protocol=ICMP) is ALLOW) is icmp


def test_a_node_is_its_address() -> None:
    """Two nodes of one address do not exist; a pod on the node's network has no address of its own."""
    inventory = Inventory(INVENTORY.pods, (NodeHost("here", ("10.9.0.2",), local=True),))
    world = World(policy(f"{WEB}ingress: [{{fromEntities: [host]}}]"), inventory=inventory)
    assert world.connect("10.9.0.2") is ALLOW
    assert world.connect("fd09::2") is DENY


GROUPS = ("224.0.0.1", "239.1.2.3", "255.255.255.255", "ff02::1")


def test_groups_are_no_world() -> None:
    """What is sent to them reaches pods."""

    def may(rules: str) -> set[str]:
        policies = compile_policies(
            documents(*(policy(f"{WEB}egress: [{rule}]", f"p{i}") for i, rule in enumerate(rules.split("|"))))
        )
        made = resolve(policies, INVENTORY, 1)
        web = next(each for each in made.endpoints.values() if (each.namespace, each.name) == ("default", "web"))
        found = {address: Peers(made).find(address)[0] for address in GROUPS}
        assert found == {address: identity_of(made, address) for address in GROUPS}
        return {address for address, number in found.items() if web.egress.answer(5353, number, UDP) is ALLOW}

    assert may("{toEntities: [all]}") == set()
    assert may("{toEntities: [world]}") == set()
    assert may("{toCIDR: [0.0.0.0/0]}") == set()
    assert may("{toCIDR: [224.0.0.0/3]}") == set()
    assert may("{toCIDR: ['::/0']}") == set()
    assert may("{toCIDR: [239.0.0.0/8]}") == {"239.1.2.3"}
    assert may("{toCIDR: [224.0.0.0/4]}") == {"224.0.0.1", "239.1.2.3"}
    assert may("{toCIDR: ['ff02::1/128']}") == {"ff02::1"}
    assert may("{toPorts: [{ports: [{port: '5353', protocol: UDP}]}]}") == {*GROUPS}
    # what one document names does not become the world of another
    assert may("{toCIDR: [239.0.0.0/24]}|{toEntities: [world]}|{toCIDR: [0.0.0.0/0]}") == set()
