"""Default deny and deny rules, line by line of docs/policy.md."""

import pytest

from policies.engine import DEFAULT_ALLOW, DEFAULT_DENY
from policies.ruleset import ANY_PROTOCOL, TCP, UDP, Answer
from tests.policies.world import (
    ALLOW,
    DENY,
    EGRESS,
    ICMP,
    INGRESS,
    NODES,
    OUTSIDE,
    PODS,
    PROXY,
    World,
    clusterwide,
    kubernetes,
    policy,
    tulle,
)

WEB = "endpointSelector: {matchLabels: {app: web}}\n"
FRONTEND = "fromEndpoints: [{matchLabels: {app: frontend}}]"
INTRUDER = "fromEndpoints: [{matchLabels: {app: intruder}}]"
TCP80 = "toPorts: [{ports: [{port: '80', protocol: TCP}]}]"
ALLOW_ALL = policy(f"{WEB}ingress: [{{fromEntities: [all]}}]", "allow-all")
EVERYBODY = (*PODS, *NODES, *OUTSIDE, None)


def test_default_deny_is_for_every_protocol() -> None:
    world = World(policy(f"{WEB}ingress: [{{{FRONTEND}, {TCP80}}}]"))
    answers = {protocol: world.connect("frontend", protocol=protocol) for protocol in (TCP, UDP, ICMP)}
    assert answers == {TCP: ALLOW, UDP: DENY, ICMP: DENY}
    nothing = World(policy(f"{WEB}ingress: [{{}}]"))
    for protocol in (TCP, UDP, ICMP):
        assert set(nothing.answers(EVERYBODY, protocol=protocol)) == {DENY}


def test_a_deny_rule_alone_touches_its_direction() -> None:
    world = World(policy(f"{WEB}ingressDeny: [{{{INTRUDER}}}]"))
    # as in Cilium, where a pod is under default deny as soon as one policy selects it
    assert world.answers(["intruder", "frontend", "198.51.100.7"]) == [DENY, DENY, DENY]
    assert world.connection("intruder").enforced.explicit
    assert not world.connection("frontend").enforced.explicit
    assert world.connect("intruder", direction=EGRESS) is ALLOW


@pytest.mark.parametrize(
    ("spec", "frontend", "intruder"),
    [
        pytest.param(f"ingress: [{{{FRONTEND}}}]", ALLOW, DENY, id="absent, a rule: default deny"),
        pytest.param(f"enableDefaultDeny: {{}}\ningress: [{{{FRONTEND}}}]", ALLOW, DENY, id="empty is absent"),
        pytest.param(f"enableDefaultDeny: {{ingress: true}}\ningress: [{{{FRONTEND}}}]", ALLOW, DENY, id="true"),
        pytest.param(f"enableDefaultDeny: {{ingress: false}}\ningress: [{{{FRONTEND}}}]", ALLOW, ALLOW, id="false"),
        pytest.param(
            f"enableDefaultDeny: {{egress: false}}\ningress: [{{{FRONTEND}}}]", ALLOW, DENY, id="of the other direction"
        ),
        pytest.param(
            f"enableDefaultDeny: {{ingress: false}}\ningressDeny: [{{{INTRUDER}}}]", ALLOW, DENY, id="false, and a deny"
        ),
        pytest.param(
            "enableDefaultDeny: {ingress: true}\negress: [{}]", DENY, DENY, id="true where there is no rule at all"
        ),
    ],
)
def test_enable_default_deny(spec: str, frontend: Answer, intruder: Answer) -> None:
    world = World(policy(f"{WEB}{spec}"))
    assert world.answers(["frontend", "intruder"]) == [frontend, intruder]


def test_what_is_allowed_without_default_deny_says_so() -> None:
    world = World(policy(f"{WEB}enableDefaultDeny: {{ingress: false}}\ningress: [{{{FRONTEND}, {TCP80}}}]"))
    assert world.ask("frontend").rule == "default/p ingress[0].toPorts[0]"
    verdict = world.ask("intruder")
    assert (verdict.allow, verdict.rule) == (True, DEFAULT_ALLOW)


def test_default_deny_of_one_document_is_enough() -> None:
    open_ = policy(f"{WEB}enableDefaultDeny: {{ingress: false}}\ningress: [{{{FRONTEND}}}]", "open")
    closed = policy(f"{WEB}ingress: [{{{INTRUDER}, {TCP80}}}]", "closed")
    world = World(open_, closed)
    assert world.answers(["frontend", "intruder", "other/frontend"]) == [ALLOW, ALLOW, DENY]


def test_without_default_deny_requests_that_nothing_matches_pass() -> None:
    rules = "rules: {http: [{method: GET}, {pathPrefix: /admin, action: Deny}]}"
    entry = f"toPorts: [{{ports: [{{port: 80, protocol: TCP}}], {rules}}}]"
    world = World(tulle(f"{WEB}enableDefaultDeny: {{ingress: false}}\ningress: [{{{FRONTEND}, {entry}}}]"))
    assert world.connect("frontend") is PROXY
    asked = {line: world.ask("frontend", line) for line in ("GET /", "POST /", "POST /admin/x", "GET /admin")}
    assert {line: verdict.allow for line, verdict in asked.items()} == {
        "GET /": True,
        "POST /": True,
        "POST /admin/x": False,
        "GET /admin": False,
    }
    assert asked["POST /"].rule == DEFAULT_ALLOW
    assert asked["GET /admin"].rule == "TulleNetworkPolicy default/t ingress[0].toPorts[0].http[1]"


def test_clusterwide_documents_hold_everywhere() -> None:
    everywhere = World(
        clusterwide("endpointSelector: {}\ningress: [{fromEndpoints: [{matchLabels: {app: frontend}}]}]")
    )
    for to in PODS:
        assert everywhere.connect("frontend", to) is ALLOW
        assert everywhere.connect("other/frontend", to) is ALLOW
        assert everywhere.connect("intruder", to) is DENY
    # one selector that asks nothing is every pod of the cluster, and nobody who is no pod
    pods = World(clusterwide("endpointSelector: {}\ningress: [{fromEndpoints: [{}]}]"))
    assert set(pods.answers(list(PODS))) == {ALLOW}
    assert set(pods.answers([*NODES, *OUTSIDE, None])) == {DENY}
    one = World(
        clusterwide("endpointSelector: {matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}\ningress: [{}]")
    )
    assert one.connect("frontend", "other/web") is DENY
    assert one.connect("frontend", "web") is ALLOW


def test_an_endpoint_selector_stays_in_its_namespace() -> None:
    text = "endpointSelector: {matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}\ningress: [{}]"
    world = World(policy(text))
    assert world.connect("intruder", "web") is DENY
    assert world.connect("intruder", "other/web") is ALLOW


def test_deny_beats_every_allow() -> None:
    denial = policy(f"{WEB}ingressDeny: [{{{INTRUDER}, {TCP80}}}]", "denial")
    narrow = policy(f"{WEB}ingress: [{{{INTRUDER}, {TCP80}}}]", "aaa-narrow")
    np = kubernetes("podSelector: {}\ningress: [{}]")
    world = World(ALLOW_ALL, narrow, denial, np)
    assert world.answers(["intruder", "frontend", "198.51.100.7"]) == [DENY, ALLOW, ALLOW]
    assert world.connect("intruder", port=81) is ALLOW
    verdict = world.connection("intruder")
    assert verdict.enforced.explicit
    assert verdict.enforced.line is not None
    assert verdict.enforced.line.name == "default/denial ingressDeny[0].toPorts[0]"
    assert world.ask("intruder").rule == "default/denial ingressDeny[0].toPorts[0]"
    assert world.ask("frontend").rule == "default/allow-all ingress[0]"


def test_deny_beats_allow_inside_one_document() -> None:
    world = World(policy(f"{WEB}ingress: [{{fromEndpoints: [{{}}]}}]\ningressDeny: [{{{INTRUDER}}}]"))
    assert world.answers(["frontend", "intruder"]) == [ALLOW, DENY]
    assert world.ask("intruder").rule == "default/p ingressDeny[0]"


def test_a_clusterwide_deny_beats_a_namespaced_allow() -> None:
    guard = clusterwide("endpointSelector: {}\ningressDeny: [{fromEntities: [world]}]")
    world = World(ALLOW_ALL, guard)
    assert world.answers(["frontend", "node-b", "198.51.100.7", "2001:db8::1"]) == [ALLOW, ALLOW, DENY, DENY]
    assert world.ask("198.51.100.7").rule == "guard ingressDeny[0]"
    # it selects every pod, and so puts the others under default deny
    assert world.connect("frontend", "intruder") is DENY


@pytest.mark.parametrize(
    ("denial", "denied"),
    [
        pytest.param(f"{{{INTRUDER}}}", {TCP: {80, 81, 443}, UDP: {80, 81, 443}, ICMP: {80}}, id="peers: everything"),
        pytest.param(f"{{{INTRUDER}, {TCP80}}}", {TCP: {80}}, id="peers and a port"),
        pytest.param(f"{{{TCP80}}}", {TCP: {80}}, id="a port: every peer"),
        pytest.param("{toPorts: [{ports: [{port: '80'}]}]}", {TCP: {80}, UDP: {80}}, id="a port of any protocol"),
        pytest.param(
            "{toPorts: [{ports: [{port: '81', endPort: 443, protocol: UDP}]}]}", {UDP: {81, 443}}, id="a range"
        ),
        pytest.param("{toPorts: [{ports: [{port: http, protocol: TCP}]}]}", {TCP: {80}}, id="a name"),
        pytest.param(
            "{toPorts: [{ports: [{port: '0', protocol: ANY}]}]}",
            {TCP: {80, 81, 443}, UDP: {80, 81, 443}, ICMP: {80}},
            id="every port",
        ),
    ],
)
def test_what_a_deny_rule_covers(denial: str, denied: dict[int, set[int]]) -> None:
    world = World(ALLOW_ALL, policy(f"{WEB}ingressDeny: [{denial}]", "denial"))
    for protocol, ports in ((TCP, (80, 81, 443)), (UDP, (80, 81, 443)), (ICMP, (80,))):
        found = {port for port in ports if world.connect("intruder", port=port, protocol=protocol) is DENY}
        assert found == denied.get(protocol, set())
    everybody = "fromEndpoints" not in denial
    assert (world.connect("frontend") is DENY) is (everybody and 80 in denied.get(TCP, set()))


@pytest.mark.parametrize("denial", ["{}", "{fromEndpoints: []}", "{fromEntities: []}", "{fromEntities: [none]}"])
def test_deny_rules_that_name_nothing(denial: str) -> None:
    world = World(ALLOW_ALL, policy(f"{WEB}ingressDeny: [{denial}]", "denial"))
    assert set(world.answers([peer for peer in EVERYBODY if peer is not None])) == {ALLOW}
    alone = World(policy(f"{WEB}ingressDeny: [{denial}]", "denial"))
    assert set(alone.answers(EVERYBODY)) == {DENY}
    assert not alone.connection("frontend").enforced.explicit


def test_l7_deny_beats_l4_allow() -> None:
    rules = "rules: {http: [{pathPrefix: /admin, action: Deny}]}"
    denial = tulle(f"{WEB}ingress: [{{toPorts: [{{ports: [{{port: 80, protocol: TCP}}], {rules}}}]}}]", "no-admin")
    world = World(ALLOW_ALL, denial)
    assert world.connect("frontend") is PROXY
    assert world.connect("frontend", port=81) is ALLOW
    denied = world.ask("frontend", "GET /admin/users")
    assert (denied.allow, denied.rule) == (
        False,
        "TulleNetworkPolicy default/no-admin ingress[0].toPorts[0].http[0]",
    )
    allowed = world.ask("frontend", "GET /")
    assert (allowed.allow, allowed.rule) == (True, "default/allow-all ingress[0]")


def test_l4_deny_beats_l7_rules() -> None:
    rules = "rules: {http: [{method: GET}]}"
    judged = policy(f"{WEB}ingress: [{{toPorts: [{{ports: [{{port: 80, protocol: TCP}}], {rules}}}]}}]", "judged")
    world = World(judged, policy(f"{WEB}ingressDeny: [{{{INTRUDER}}}]", "denial"))
    assert world.answers(["frontend", "intruder"]) == [PROXY, DENY]
    verdict = world.ask("intruder", "GET /")
    assert (verdict.allow, verdict.rule) == (False, "default/denial ingressDeny[0]")


def test_a_list_of_denials_allows_nothing() -> None:
    rules = "rules: {http: [{pathPrefix: /admin, action: Deny}]}"
    world = World(tulle(f"{WEB}ingress: [{{toPorts: [{{ports: [{{port: 80, protocol: TCP}}], {rules}}}]}}]"))
    for line in ("GET /", "GET /admin", "POST /x"):
        assert not world.ask("frontend", line).allow
    assert world.ask("frontend", "GET /").rule == DEFAULT_DENY


def test_l4_denials_are_the_same_from_both_sides() -> None:
    ingress = World(policy(f"{WEB}ingress: [{{fromEntities: [all]}}]\ningressDeny: [{{{INTRUDER}, {TCP80}}}]"))
    egress = World(
        policy(
            "endpointSelector: {matchLabels: {app: intruder}}\negress: [{toEntities: [all]}]\n"
            f"egressDeny: [{{toEndpoints: [{{matchLabels: {{app: web}}}}], {TCP80}}}]"
        )
    )
    for port in (80, 81):
        assert ingress.connect("intruder", "web", port, INGRESS) is egress.connect("web", "intruder", port, EGRESS)
    assert egress.ask("web", "GET /", "intruder", 80, EGRESS).rule == "default/p egressDeny[0].toPorts[0]"


def test_names_of_rules() -> None:
    http = "rules: {http: [{method: GET}, {method: POST}]}"
    cilium = policy(
        f"{WEB}ingress: [{{{FRONTEND}, toPorts: [{{ports: [{{port: 80, protocol: TCP}}], {http}}}]}},"
        f" {{{FRONTEND}, toPorts: [{{ports: [{{port: 81, protocol: TCP}}], rules: {{http: []}}}}]}}]\n"
        f"ingressDeny: [{{{INTRUDER}}}]"
    )
    world = World(cilium)
    assert world.ask("frontend", "POST /").rule == "default/p ingress[0].toPorts[0].http[1]"
    assert world.ask("frontend", "POST /", port=81).rule == "default/p ingress[1].toPorts[0].http[]"
    assert world.ask("intruder").rule == "default/p ingressDeny[0]"
    guard = World(clusterwide("endpointSelector: {}\ningressDeny: [{fromEntities: [world]}]"))
    assert guard.ask("198.51.100.7").rule == "guard ingressDeny[0]"
    np = World(kubernetes("podSelector: {}\ningress: [{from: [{podSelector: {}}], ports: [{port: 79}, {port: 80}]}]"))
    assert np.ask("frontend").rule == "NetworkPolicy default/np ingress[0].ports[1]"
    ours = World(tulle(f"{WEB}ingress: [{{{FRONTEND}}}]"))
    assert ours.ask("frontend").rule == "TulleNetworkPolicy default/t ingress[0]"
    # two documents of different kinds may have one name: their rules have not
    both = World(cilium, tulle(f"{WEB}ingress: [{{{FRONTEND}}}]", "p"), kubernetes("podSelector: {}", "p"))
    names = {line.name for rules in both.rules.endpoints.values() for line in rules.ingress.lines}
    owners: dict[str, set[str]] = {}
    for rules in both.rules.endpoints.values():
        for line in rules.ingress.lines:
            owners.setdefault(line.name, set()).add(line.policy.kind)
    assert all(len(kinds) == 1 for kinds in owners.values())
    assert names >= {"default/p ingressDeny[0]", "TulleNetworkPolicy default/p ingress[0]"}


def test_a_denial_of_every_protocol_is_one_line() -> None:
    world = World(policy(f"{WEB}ingressDeny: [{{{INTRUDER}}}]"))
    (line,) = world.rules.endpoints[1].ingress.lines
    assert (line.protocol, line.deny, line.l7) == (ANY_PROTOCOL, True, False)
