"""NetworkPolicy means here what Kubernetes says it means; absent and empty are the same there, unlike in Cilium."""

import pytest

from policies.errors import PolicyError
from policies.load import load_text
from policies.policyset import CidrPeer, Grant, Options, Peer, PortSpec
from policies.ruleset import TCP, UDP, PolicyRef
from policies.selector import NAMESPACE_LABEL, NAMESPACE_LABELS, Operator, Requirement, Selector
from tests.policies.texts import KUBERNETES, compiled, policy, section

OWN = Requirement(NAMESPACE_LABEL, Operator.IN, ("default",))
POD = Requirement(NAMESPACE_LABEL, Operator.EXISTS)
APP = Requirement("app", Operator.IN, ("a",))
TEAM = Requirement(NAMESPACE_LABELS + "team", Operator.IN, ("x",))
NAMED = Requirement(NAMESPACE_LABELS + "kubernetes.io/metadata.name", Operator.IN, ("n",))


def labels(*requirements: Requirement) -> Selector:
    return Selector(tuple(sorted(requirements)))


def ingress(rule: str) -> tuple[Grant, ...]:
    found = section(f"podSelector: {{}}\ningress: [{rule}]", KUBERNETES).ingress
    assert found is not None
    return found


ALL = Grant("NetworkPolicy default/p ingress[0]", None)


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ("{}", True, False),
        ("{ingress: []}", True, False),
        ("{egress: []}", True, False),
        ("{egress: [{}]}", True, True),
        ("{policyTypes: []}", True, False),
        ("{policyTypes: [], egress: [{}]}", True, True),
        ("{policyTypes: [Ingress]}", True, False),
        ("{policyTypes: [Ingress], egress: [{}]}", True, False),
        ("{policyTypes: [Egress]}", False, True),
        ("{policyTypes: [Egress], ingress: [{}]}", False, True),
        ("{policyTypes: [Egress, Ingress]}", True, True),
    ],
)
def test_policy_types_name_the_directions(spec: str, ingress: bool, egress: bool) -> None:
    found = compiled(f"{KUBERNETES}metadata: {{name: p}}\nspec: {spec}").sections[0]
    assert (found.ingress is not None, found.egress is not None) == (ingress, egress)
    assert (found.ingress_deny, found.egress_deny) == (True, True)
    assert found.selector == labels(OWN)
    assert found.policy == PolicyRef("NetworkPolicy", "default", "p")


def test_no_rule_allows_nothing_and_an_empty_rule_everything() -> None:
    assert section("podSelector: {}\ningress: []\npolicyTypes: [Ingress]", KUBERNETES).ingress == ()
    for everything in ("{}", "{from: []}", "{ports: []}", "{from: [], ports: []}"):
        assert ingress(everything) == (ALL,)


PEERS: list[tuple[str, Peer]] = [
    ("{podSelector: {}}", labels(OWN)),
    ("{podSelector: {matchLabels: {app: a}}}", labels(OWN, APP)),
    ("{namespaceSelector: {}}", labels(POD)),
    ("{namespaceSelector: {matchLabels: {team: x}}}", labels(POD, TEAM)),
    ("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: n}}}", labels(POD, NAMED)),
    ("{namespaceSelector: {matchLabels: {team: x}}, podSelector: {matchLabels: {app: a}}}", labels(POD, TEAM, APP)),
    ("{namespaceSelector: {}, podSelector: {matchLabels: {app: a}}}", labels(POD, APP)),
    (
        "{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [y, x]}]}}",
        labels(POD, Requirement(NAMESPACE_LABELS + "team", Operator.NOT_IN, ("x", "y"))),
    ),
    ("{ipBlock: {cidr: 10.0.0.0/8}}", CidrPeer("10.0.0.0/8")),
    ("{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}", CidrPeer("10.0.0.0/8", ("10.1.0.0/16",))),
]


@pytest.mark.parametrize(("peer", "want"), PEERS)
def test_peers(peer: str, want: Peer) -> None:
    assert ingress(f"{{from: [{peer}]}}") == (Grant("NetworkPolicy default/p ingress[0]", (want,)),)
    found = section(f"podSelector: {{}}\negress: [{{to: [{peer}]}}]", KUBERNETES).egress
    assert found == (Grant("NetworkPolicy default/p egress[0]", (want,)),)


def test_items_of_a_list_add_up() -> None:
    apart = "{from: [{namespaceSelector: {matchLabels: {team: x}}}, {podSelector: {matchLabels: {app: a}}}]}"
    assert ingress(apart)[0].peers == (labels(POD, TEAM), labels(OWN, APP))


@pytest.mark.parametrize(
    ("port", "want"),
    [
        ("{}", PortSpec(TCP)),
        ("{protocol: UDP}", PortSpec(UDP)),
        ("{port: 80}", PortSpec(TCP, 80, 80)),
        ("{port: 53, protocol: UDP}", PortSpec(UDP, 53, 53)),
        ("{port: http}", PortSpec(TCP, named="http")),
        ("{port: 80, endPort: 90}", PortSpec(TCP, 80, 90)),
        ("{port: 80, endPort: 80}", PortSpec(TCP, 80, 80)),
    ],
)
def test_ports(port: str, want: PortSpec) -> None:
    (first, second) = ingress(f"{{from: [{{podSelector: {{}}}}], ports: [{{port: 1}}, {port}]}}")
    assert (first.name, first.port) == ("NetworkPolicy default/p ingress[0].ports[0]", PortSpec(TCP, 1, 1))
    assert (second.name, second.port) == ("NetworkPolicy default/p ingress[0].ports[1]", want)
    assert first.peers == second.peers == (labels(OWN),)


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("{from: [{}]}", "from[0]: expected podSelector, namespaceSelector or ipBlock"),
        (
            "{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}",
            "from[0].ipBlock: cannot stand beside a selector in one item: write an item for each",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}",
            "from[0].ipBlock.except[0]: 10.0.0.0/8 is not a part of 10.0.0.0/8",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['::/0']}}]}",
            "from[0].ipBlock.except[0]: ::/0 is not a part of 10.0.0.0/8",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.1}}]}",
            'from[0].ipBlock.cidr: "10.0.0.1" is not a CIDR: expected an address and a length, as 10.0.0.0/8',
        ),
        ("{from: [{ipBlock: {}}]}", "from[0].ipBlock.cidr: missing"),
        (
            "{from: [{podSelector: {matchLabels: {io.kubernetes.pod.namespace: n}}}]}",
            'from[0].podSelector.matchLabels["io.kubernetes.pod.namespace"]: label "io.kubernetes.pod.namespace" is '
            "derived by Cilium, and is none here: a namespaceSelector can ask for it",
        ),
        (
            "{from: [{podSelector: {matchLabels: {'k8s:app': n}}}]}",
            'from[0].podSelector.matchLabels["k8s:app"]: "k8s:app" is not a label key',
        ),
        ("{from: [{podSelectors: {}}]}", "from[0].podSelectors: unknown field; did you mean podSelector?"),
        ("{form: []}", "form: unknown field; did you mean from?"),
        ("{to: []}", "to: unknown field"),
        ("{from: }", "from: null is not accepted: leave the field out, or write [] or {}"),
        (
            "{ports: [{port: '80'}]}",
            'ports[0].port: "80" is a name here, and a name has a letter: leave the quotes out',
        ),
        ("{ports: [{port: 0}]}", "ports[0].port: expected 1 to 65535: leave port out for every port"),
        (
            "{ports: [{protocol: SCTP}]}",
            'ports[0].protocol: protocol "SCTP" is not supported: TCP and UDP are',
        ),
        ("{ports: [{protocol: tcp}]}", 'ports[0].protocol: protocol "tcp" is unknown: TCP and UDP are known'),
        ("{ports: [{endPort: 80}]}", "ports[0].endPort: a range needs a port to begin with"),
        ("{ports: [{port: a, endPort: 80}]}", "ports[0].endPort: a range needs a number to begin with, not the name"),
        ("{ports: [{port: 80, endPort: 79}]}", "ports[0].endPort: the range ends before it begins: port is 80"),
        ("{ports: [{port: 80, endPort: 0}]}", "ports[0].endPort: expected 1 to 65535"),
    ],
)
def test_mistakes(rule: str, what: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_text(policy(f"podSelector: {{}}\ningress: [{rule}]", head=KUBERNETES), "f")
    (problem,) = caught.value.problems
    assert f"{problem.field}: {problem.message}".startswith(f"spec.ingress[0].{what}")
    assert (problem.line, problem.column > 11) == (6, True)


def test_the_name_says_the_kind_so_that_two_documents_never_share_one() -> None:
    cilium = policy("endpointSelector: {}\ningress: [{fromEndpoints: [{}]}]")
    found = compiled(cilium, policy("podSelector: {}\ningress: [{}]", head=KUBERNETES))
    assert set(found.places) == {"default/p ingress[0]", "NetworkPolicy default/p ingress[0]"}


def test_annotations_hold_for_it_too() -> None:
    meta = "metadata: {name: p, annotations: {tulle.dev/mode: audit}}"
    assert compiled(f"{KUBERNETES}{meta}\nspec: {{podSelector: {{}}}}").sections[0].options == Options(audit=True)
