"""What each field of a Cilium document comes to: given, absent, empty, and wrong."""

import pytest

from policies.errors import PolicyError
from policies.load import load_text
from policies.policyset import CidrPeer, EntityPeer, Grant, Peer, Place, PolicySet, PortSpec, Section, ServicePeer
from policies.ruleset import ANY_PROTOCOL, TCP, UDP, HeaderMatch, HttpRule, KafkaRule, Mismatch, PathKind, PolicyRef
from policies.selector import NAMESPACE_LABEL, NAMESPACE_LABELS, Operator, Requirement, Selector
from tests.policies.texts import CLUSTER, HEAD, OURS, compiled, policy, section

HERE = Requirement(NAMESPACE_LABEL, Operator.IN, ("default",))
ANYWHERE = Requirement(NAMESPACE_LABEL, Operator.EXISTS)


def ingress(rule: str, head: str = HEAD) -> tuple[Grant, ...]:
    found = section(f"endpointSelector: {{}}\ningress: [{rule}]", head).ingress
    assert found is not None
    return found


def problem(spec: str, head: str = HEAD) -> str:
    with pytest.raises(PolicyError) as caught:
        load_text(policy(spec, head=head), "f")
    (found,) = caught.value.problems
    return f"{found.line}:{found.column} {found.field}: {found.message}"


def labels(*requirements: Requirement) -> Selector:
    return Selector(tuple(sorted(requirements)))


APP = Requirement("app", Operator.IN, ("a",))
TEAM = Requirement(NAMESPACE_LABELS + "team", Operator.IN, ("x",))
PEERS: list[tuple[str, tuple[Peer, ...] | None]] = [
    ("toPorts: [{ports: [{port: 80}]}]", None),
    ("fromEndpoints: []", ()),
    ("fromEntities: []", ()),
    ("fromCIDR: []", ()),
    ("fromCIDRSet: []", ()),
    ("fromEndpoints: [], fromCIDR: [10.0.0.0/8]", (CidrPeer("10.0.0.0/8"),)),
    ("fromEndpoints: [{}]", (labels(HERE),)),
    ("fromEndpoints: [{}, {}]", (labels(HERE),)),
    ("fromEndpoints: [{matchLabels: {'k8s:app': a}}]", (labels(HERE, APP),)),
    ("fromEndpoints: [{matchLabels: {app: a}}, {matchLabels: {'any:app': a}}]", (labels(HERE, APP),)),
    (
        "fromEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': o}}]",
        (labels(Requirement(NAMESPACE_LABEL, Operator.IN, ("o",))),),
    ),
    ("fromEndpoints: [{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': x}}]", (labels(TEAM),)),
    (
        "fromEndpoints: [{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}]",
        (labels(ANYWHERE),),
    ),
    ("fromEndpoints: [{matchLabels: {'reserved:host': ''}}]", (EntityPeer("host"),)),
    (
        "fromEndpoints: [{matchExpressions: [{key: 'reserved:remote-node', operator: Exists}]}, {}]",
        (EntityPeer("remote-node"), labels(HERE)),
    ),
    ("fromEntities: [world, cluster, all]", (EntityPeer("world"), EntityPeer("cluster"), EntityPeer("all"))),
    ("fromEntities: [init, health, unmanaged]", (EntityPeer("init"), EntityPeer("health"), EntityPeer("unmanaged"))),
    (
        "fromCIDR: [10.1.2.3/8, 10.1.2.3, '::1', 'FD00::1/8']",
        tuple(map(CidrPeer, ("10.0.0.0/8", "10.1.2.3/32", "::1/128", "fd00::/8"))),
    ),
    ("fromCIDRSet: [{cidr: 10.1.0.0/8}]", (CidrPeer("10.0.0.0/8"),)),
    (
        "fromCIDRSet: [{cidr: 0.0.0.0/0, except: [10.2.0.1/16, 10.1.0.0/16, 10.1.0.0/16]}]",
        (CidrPeer("0.0.0.0/0", ("10.1.0.0/16", "10.2.0.0/16")),),
    ),
    ("fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}]", (CidrPeer("10.0.0.0/8", ("10.0.0.0/8",)),)),
]


@pytest.mark.parametrize(("rule", "peers"), PEERS)
def test_peers(rule: str, peers: tuple[Peer, ...] | None) -> None:
    (grant,) = ingress(f"{{{rule}}}")
    assert grant.peers == peers
    if "Ports" not in rule:
        assert grant.port == PortSpec(ANY_PROTOCOL)


SERVICES: list[tuple[str, Peer]] = [
    ("{k8sService: {serviceName: a, namespace: n}}", ServicePeer("n", "a")),
    ("{k8sService: {serviceName: a}}", ServicePeer(None, "a")),
    ("{k8sService: {serviceName: a, namespace: ''}}", ServicePeer(None, "a")),
    ("{k8sServiceSelector: {selector: {matchLabels: {app: a}}, namespace: n}}", ServicePeer("n", None, labels(APP))),
    ("{k8sServiceSelector: {selector: {}}}", ServicePeer(None, None, labels())),
]


@pytest.mark.parametrize(("service", "peer"), SERVICES)
def test_services(service: str, peer: Peer) -> None:
    found = section(f"endpointSelector: {{}}\negress: [{{toServices: [{service}]}}]").egress
    assert found is not None
    assert [grant.peers for grant in found] == [(peer,)]


def test_egress_mirrors_ingress() -> None:
    peers = ("Endpoints: [{}]", "Entities: [world]", "CIDR: [10.0.0.0/8]", "CIDRSet: [{cidr: 10.0.0.0/8}]")
    for each in peers:
        found = section(f"endpointSelector: {{}}\negress: [{{to{each}}}]").egress
        assert found is not None
        assert found[0].peers == ingress(f"{{from{each}}}")[0].peers


def test_a_rule_with_neither_peers_nor_ports_says_nothing_and_touches_the_direction() -> None:
    assert section("endpointSelector: {}\ningress: [{}]").ingress == ()
    assert section("endpointSelector: {}\ningressDeny: [{}]").ingress == ()


IN = "endpointSelector: {}\ningress:\n- "
WRONG_PEERS = [
    ("fromEntities: [hosts]", "7:20 spec.ingress[0].fromEntities[0]", 'unknown entity "hosts"; did you mean host?'),
    ("fromCIDR: [10.0.0.0/33]", "7:16 spec.ingress[0].fromCIDR[0]", "CIDR"),
    ("fromCIDR: [10.0.0.0/08]", "7:16 spec.ingress[0].fromCIDR[0]", "CIDR"),
    ("fromCIDR: [10.0.0.0/255.0.0.0]", "7:16 spec.ingress[0].fromCIDR[0]", "CIDR"),
    ("fromCIDR: ['fe80::1%eth0/64']", "7:16 spec.ingress[0].fromCIDR[0]", "CIDR"),
    ("fromCIDR: ['::ffff:1.2.3.4/128']", "7:16 spec.ingress[0].fromCIDR[0]", "CIDR"),
    ("fromCIDR: ['::ffff:1.2.3.4']", "7:16 spec.ingress[0].fromCIDR[0]", "neither a CIDR nor an IP address"),
    ("fromCIDR: [010.0.0.0/8]", "7:16 spec.ingress[0].fromCIDR[0]", "CIDR"),
    ("fromCIDR: ['']", "7:16 spec.ingress[0].fromCIDR[0]", '"" is neither a CIDR nor an IP address'),
    ("fromCIDRSet: [{cidr: 10.0.0.0}]", "7:26 spec.ingress[0].fromCIDRSet[0].cidr", "CIDR"),
    ("fromCIDRSet: [{except: []}]", "7:19 spec.ingress[0].fromCIDRSet[0].cidr", "missing"),
    (
        "fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]",
        "7:47 spec.ingress[0].fromCIDRSet[0].except[0]",
        "11.0.0.0/16 is not inside 10.0.0.0/8",
    ),
    (
        "fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/7]}]",
        "7:47 spec.ingress[0].fromCIDRSet[0].except[0]",
        "10.0.0.0/7 is not inside 10.0.0.0/8",
    ),
    (
        "fromCIDRSet: [{cidr: 10.0.0.0/8, except: ['::/0']}]",
        "7:47 spec.ingress[0].fromCIDRSet[0].except[0]",
        "::/0 is not inside 10.0.0.0/8",
    ),
    (
        "fromEndpoints: [{}]\n  fromEntities: [world]",
        "8:5 spec.ingress[0].fromEntities",
        "cannot stand beside fromEndpoints in one rule, as in Cilium: write a rule for each",
    ),
    (
        "fromEndpoints: [{matchLabels: {'reserved:host': '', a: b}}]",
        '7:36 spec.ingress[0].fromEndpoints[0].matchLabels["reserved:host"]',
        '"reserved:host" stands for an entity: it must be alone, with an empty value or Exists',
    ),
    ("toServices: []", "7:5 spec.ingress[0].toServices", "unknown field"),
]


@pytest.mark.parametrize(("rule", "where", "what"), WRONG_PEERS)
def test_mistakes_in_peers(rule: str, where: str, what: str) -> None:
    found = problem(IN + rule)
    assert found.startswith(f"{where}: ")
    expected = "is not a CIDR: expected an address and a length, as 10.0.0.0/8" if what == "CIDR" else what
    assert found.endswith(expected)


@pytest.mark.parametrize("service", ["{}", "{k8sService: {serviceName: a}, k8sServiceSelector: {selector: {}}}"])
def test_a_service_is_named_in_one_way(service: str) -> None:
    found = problem(f"endpointSelector: {{}}\negress: [{{toServices: [{service}]}}]")
    assert found == "6:26 spec.egress[0].toServices[0]: expected one of k8sService and k8sServiceSelector"


def test_a_policy_selects_pods() -> None:
    found = problem("endpointSelector: {matchLabels: {'reserved:host': ''}}\ningress: [{}]", CLUSTER)
    assert found.endswith('"reserved:host" is no label of a pod: a policy selects pods')


PORTS: list[tuple[str, list[PortSpec]]] = [
    ("{port: 80}", [PortSpec(ANY_PROTOCOL, 80, 80)]),
    ("{port: '80', protocol: ANY}", [PortSpec(ANY_PROTOCOL, 80, 80)]),
    ("{port: 80, protocol: ''}", [PortSpec(ANY_PROTOCOL, 80, 80)]),
    ("{port: 80, protocol: tcp}", [PortSpec(TCP, 80, 80)]),
    ("{port: 53, protocol: UDP}", [PortSpec(UDP, 53, 53)]),
    ("{port: 0}", [PortSpec(ANY_PROTOCOL)]),
    ("{port: 0, protocol: TCP}", [PortSpec(TCP)]),
    ("{port: 80, endPort: 90}", [PortSpec(ANY_PROTOCOL, 80, 90)]),
    ("{port: 80, endPort: 80}", [PortSpec(ANY_PROTOCOL, 80, 80)]),
    ("{port: 80, endPort: 0}", [PortSpec(ANY_PROTOCOL, 80, 80)]),
    ("{port: HTTP, protocol: TCP}", [PortSpec(TCP, named="http")]),
    ("{port: dns, protocol: ANY}", [PortSpec(ANY_PROTOCOL, named="dns")]),
    ("{port: 81}, {port: 80}, {port: '81'}", [PortSpec(0, 80, 80), PortSpec(0, 81, 81)]),
]


@pytest.mark.parametrize(("ports", "specs"), PORTS)
def test_ports(ports: str, specs: list[PortSpec]) -> None:
    assert [grant.port for grant in ingress(f"{{toPorts: [{{ports: [{ports}]}}]}}")] == specs
    denied = section(f"endpointSelector: {{}}\ningressDeny: [{{toPorts: [{{ports: [{ports}]}}]}}]").ingress
    assert denied is not None
    assert [(grant.port, grant.deny) for grant in denied] == [(each, True) for each in specs]


@pytest.mark.parametrize("rules", ["http: []", "kafka: []"])
def test_l7_rules_are_for_tcp(rules: str) -> None:
    found = ingress(
        f"{{toPorts: [{{ports: [{{port: 80}}, {{port: 90, endPort: 99}}, {{port: a}}], rules: {{{rules}}}}}]}}"
    )
    assert [each.port for each in found] == [PortSpec(TCP, named="a"), PortSpec(TCP, 80, 80), PortSpec(TCP, 90, 99)]
    udp = IN + f"toPorts: [{{ports: [{{port: 80, protocol: UDP}}], rules: {{{rules}}}}}]"
    assert problem(udp) == "7:45 spec.ingress[0].toPorts[0].ports[0].protocol: L7 rules are for TCP, not UDP"


@pytest.mark.parametrize("rules", ["http: []", "kafka: []"])
def test_l7_rules_need_a_port_number(rules: str) -> None:
    every = IN + f"toPorts: [{{ports: [{{port: 0}}], rules: {{{rules}}}}}]"
    assert problem(every) == "7:31 spec.ingress[0].toPorts[0].ports[0].port: L7 rules need a port: 0 means every port"


def test_rules_absent_empty_and_given() -> None:
    ports = "toPorts: [{ports: [{port: 80}]"
    for empty in ("", ", rules: {}"):
        (grant,) = ingress(f"{{{ports}{empty}}}]}}")
        assert (grant.http, grant.kafka) == (None, None)
    (grant,) = ingress(f"{{{ports}, rules: {{http: []}}}}]}}")
    assert grant.http == (HttpRule("default/p ingress[0].toPorts[0].http[]"),)
    (grant,) = ingress(f"{{{ports}, rules: {{kafka: []}}}}]}}")
    assert grant.kafka == (KafkaRule("default/p ingress[0].toPorts[0].kafka[]"),)
    both = IN + f"{ports}, rules: {{http: [], kafka: []}}}}]"
    assert problem(both).endswith("rules.kafka: one entry has one kind of L7 rules, and there is http")


def http(rule: str, head: str = HEAD) -> HttpRule:
    (grant,) = ingress(f"{{toPorts: [{{ports: [{{port: 80}}], rules: {{http: [{rule}]}}}}]}}", head)
    assert grant.http is not None
    (found,) = grant.http
    return found


@pytest.mark.parametrize(
    ("match", "want"),
    [
        ("{name: X-A}", HeaderMatch("x-a", None)),
        ("{name: X-A, value: ''}", HeaderMatch("x-a", None)),
        ("{name: X-A, value: b}", HeaderMatch("x-a", "b")),
        ("{name: X-A, value: b, mismatch: ''}", HeaderMatch("x-a", "b")),
        ("{name: X-A, mismatch: LOG}", HeaderMatch("x-a", None, Mismatch.LOG)),
        ("{name: X-A, value: b, mismatch: LOG}", HeaderMatch("x-a", "b", Mismatch.LOG)),
        ("{name: X-A, value: b, mismatch: ADD}", HeaderMatch("x-a", "b", Mismatch.ADD)),
        ("{name: X-A, value: b, mismatch: DELETE}", HeaderMatch("x-a", "b", Mismatch.DELETE)),
        ("{name: X-A, value: b, mismatch: REPLACE}", HeaderMatch("x-a", "b", Mismatch.REPLACE)),
    ],
)
def test_header_matches(match: str, want: HeaderMatch) -> None:
    rule = http(f"{{headers: ['X-B: c'], headerMatches: [{match}]}}")
    assert rule.headers == (HeaderMatch("x-b", "c"), want)
    assert rule.path_kind is PathKind.REGEX


@pytest.mark.parametrize(
    ("match", "where", "what"),
    [
        ("{value: hunter2}", "", ".name: missing"),
        ("{name: 'a b', value: hunter2}", "", ".name: not the name of a header: letters, digits and '-'"),
        ("{name: a, value: ' hunter2'}", "", ".value: the value begins or ends with a space or holds a control"),
        ("{name: a, value: [hunter2]}", "", ".value: expected text, got a list"),
        ("{name: a, value: hunter2, mismatch: DROP}", "", ".mismatch: input should be 'LOG', 'ADD', 'DELETE'"),
        ("{name: a, mismatch: ADD}", "", ".mismatch: ADD needs a value"),
        ("{name: a, mismatch: REPLACE}", "", ".mismatch: REPLACE needs a value"),
        (
            "{name: Host, value: hunter2, mismatch: REPLACE}",
            "",
            ".mismatch: REPLACE cannot change host, which the proxy",
        ),
        ("{name: Content-Length, mismatch: DELETE}", "", ".mismatch: DELETE cannot change content-length, which"),
        ("{name: a, secret: {name: hunter2}}", "", ".secret: secrets are not supported: write the value"),
        ("{name: a, valu: hunter2}", "", ".valu: unknown field; did you mean value?"),
    ],
)
def test_mistakes_in_header_matches(match: str, where: str, what: str) -> None:
    found = problem(IN + f"toPorts: [{{ports: [{{port: 80}}], rules: {{http: [{{headerMatches: [{match}]}}]}}}}]")
    assert f"spec.ingress[0].toPorts[0].rules.http[0].headerMatches[0]{what}" in found
    assert "hunter2" not in found


def kafka(rule: str) -> KafkaRule:
    (grant,) = ingress(f"{{toPorts: [{{ports: [{{port: 9092}}], rules: {{kafka: [{rule}]}}}}]}}")
    assert grant.kafka is not None
    return grant.kafka[0]


NAME = "default/p ingress[0].toPorts[0].kafka[0]"


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ("{}", KafkaRule(NAME)),
        ("{role: '', apiKey: '', apiVersion: '', clientID: '', topic: ''}", KafkaRule(NAME)),
        ("{apiKey: Produce}", KafkaRule(NAME, api_key=0)),
        ("{apiKey: offsets}", KafkaRule(NAME, api_key=2)),
        ("{apiKey: ListOffsets}", KafkaRule(NAME, api_key=2)),
        ("{apiKey: sharefetch}", KafkaRule(NAME, api_key=78)),
        ("{apiKey: fetch, apiVersion: '0'}", KafkaRule(NAME, api_key=1, api_version=0)),
        ("{topic: a.b_c-D, clientID: x}", KafkaRule(NAME, topic="a.b_c-D", client_id="x")),
        ("{role: Produce}", KafkaRule(NAME, "produce")),
        ("{role: consume, topic: t}", KafkaRule(NAME, "consume", topic="t")),
    ],
)
def test_kafka(rule: str, want: KafkaRule) -> None:
    assert kafka(rule) == want


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("{role: admin}", ".role: role admin: only a TulleNetworkPolicy of tulle.dev/v1 has it"),
        ("{role: producer}", '.role: unknown role "producer"; did you mean produce?'),
        ("{role: both}", '.role: unknown role "both"; produce, consume are known'),
        ("{apiKey: fetchh}", '.apiKey: unknown API key "fetchh"; did you mean fetch?'),
        ("{apiKey: x9}", '.apiKey: unknown API key "x9"'),
        ("{role: consume, apiKey: fetch}", ".apiKey: a role stands for API keys"),
        ("{apiVersion: 1}", ".apiVersion: expected text, got a number: quote it"),
        ("{apiVersion: '-1'}", '.apiVersion: expected a version of the API, as "2"'),
        ("{apiVersion: '32768'}", ".apiVersion: versions end at 32767"),
        ("{topic: 'a b'}", ".topic: not the name of a topic"),
        ("{topic: " + "a" * 256 + "}", ".topic: string should have at most 255 characters"),
        ("{clientId: a}", ".clientId: unknown field; did you mean clientID?"),
    ],
)
def test_mistakes_in_kafka_rules(rule: str, what: str) -> None:
    found = problem(IN + f"toPorts: [{{ports: [{{port: 9092}}], rules: {{kafka: [{rule}]}}}}]")
    assert f"spec.ingress[0].toPorts[0].rules.kafka[0]{what}" in found


@pytest.mark.parametrize(
    ("http_ports", "kafka_ports", "meet"),
    [
        ("{port: 80}", "{port: 81}", False),
        ("{port: 80}", "{port: 80}", True),
        ("{port: 80}, {port: 100}", "{port: 81, endPort: 99}", False),
        ("{port: 80, endPort: 90}", "{port: 85}", True),
        ("{port: 85}", "{port: 80, endPort: 90}", True),
        ("{port: 1, endPort: 100}, {port: 5}", "{port: 50}", True),
        ("{port: 80, endPort: 90}", "{port: 90, endPort: 95}", True),
        ("{port: a}", "{port: a}", True),
        ("{port: a}", "{port: b}", False),
    ],
)
def test_two_l7_kinds_never_meet_on_a_port(http_ports: str, kafka_ports: str, meet: bool) -> None:
    entries = (f"{{ports: [{kafka_ports}], rules: {{kafka: []}}}}", f"{{ports: [{http_ports}], rules: {{http: []}}}}")
    one, other = entries
    apart = f"endpointSelector: {{}}\ningress: [{{toPorts: [{one}]}}]\negress: [{{toPorts: [{other}]}}]"
    assert section(apart).egress
    spec = f"endpointSelector: {{}}\ningress: [{{toPorts: [{one}]}}, {{fromEndpoints: [], toPorts: [{other}]}}]"
    if meet:
        message = "kafka rules, and http rules of this spec are for this port too"
        assert problem(spec).endswith(f"spec.ingress[0].toPorts[0].ports[0]: {message}")
    else:
        assert section(spec).ingress


DENY = "ingressDeny: [{fromEndpoints: [{}]}]"
ALLOW = "ingress: [{fromEndpoints: [{}]}]"


@pytest.mark.parametrize(
    ("parts", "touched", "deny"),
    [
        (ALLOW, True, True),
        (DENY, True, True),
        ("egress: [{}]", False, True),
        (f"{ALLOW}\nenableDefaultDeny: {{}}", True, True),
        (f"{ALLOW}\nenableDefaultDeny: {{ingress: true}}", True, True),
        (f"{ALLOW}\nenableDefaultDeny: {{ingress: false}}", True, False),
        (f"{ALLOW}\nenableDefaultDeny: {{egress: false}}", True, True),
        (f"{DENY}\nenableDefaultDeny: {{ingress: false}}", True, False),
        ("egress: [{}]\nenableDefaultDeny: {ingress: true}", True, True),
        ("egress: [{}]\nenableDefaultDeny: {ingress: false}", False, True),
    ],
)
def test_default_deny(parts: str, touched: bool, deny: bool) -> None:
    found = section(f"endpointSelector: {{}}\n{parts}")
    assert (found.ingress is not None, found.ingress_deny) == (touched, deny)


def test_deny_rules_come_after_and_hold_no_l7() -> None:
    found = section(f"endpointSelector: {{}}\n{ALLOW}\n{DENY}\negressDeny: [{{toEntities: [world]}}]")
    assert [(grant.name, grant.deny) for grant in found.ingress or ()] == [
        ("default/p ingress[0]", False),
        ("default/p ingressDeny[0]", True),
    ]
    assert found.egress == (Grant("default/p egressDeny[0]", (EntityPeer("world"),), deny=True),)
    l7 = "endpointSelector: {}\ningressDeny: [{toPorts: [{ports: [{port: 80}], rules: {http: []}}]}]"
    assert problem(l7).endswith("a deny rule of Cilium judges connections, not requests: no rules here")


def test_a_cluster_wide_policy_selects_in_every_namespace() -> None:
    found = section("endpointSelector: {matchLabels: {app: a}}\ningress: [{fromEndpoints: [{}]}]", CLUSTER)
    assert found.policy == PolicyRef("CiliumClusterwideNetworkPolicy", "", "p")
    assert found.selector == labels(APP)
    assert found.ingress == (Grant("p ingress[0]", (labels(ANYWHERE),)),)
    one = "{matchLabels: {io.kubernetes.pod.namespace: b}}"
    found = section(f"endpointSelector: {one}\ningress: [{{fromEndpoints: [{one}]}}]", CLUSTER)
    assert found.selector == labels(Requirement(NAMESPACE_LABEL, Operator.IN, ("b",)))
    assert found.ingress is not None
    assert found.ingress[0].peers == (found.selector,)


def test_names_never_meet_and_places_are_where_the_rules_stand() -> None:
    spec = """endpointSelector: {}
ingress:
- fromEndpoints: []
- toPorts:
  - ports: [{port: 80}, {port: 81}]
    rules:
      http:
      - method: GET
      - {}
  - ports: [{port: 9092}]
    rules: {kafka: []}"""
    found = compiled(policy(spec), policy(spec, head=OURS), policy(spec, head=CLUSTER, name="p"))
    bare = {
        "ingress[0]": (7, 5),
        "ingress[1].toPorts[0]": (9, 7),
        "ingress[1].toPorts[0].http[0]": (12, 11),
        "ingress[1].toPorts[0].http[1]": (13, 11),
        "ingress[1].toPorts[1]": (14, 7),
        "ingress[1].toPorts[1].kafka[]": (15, 22),
    }
    titles = {"default/p ": "0.yaml", "TulleNetworkPolicy default/p ": "1.yaml", "p ": "2.yaml"}
    assert found.places == {
        title + name: Place(file, *at) for title, file in titles.items() for name, at in bare.items()
    }
    (one,) = compiled(policy(f"- {spec.replace(chr(10), chr(10) + '  ')}", part="specs")).sections
    assert one.ingress is not None
    assert one.ingress[0].name == "default/p specs[0].ingress[0]"


def test_the_digest_is_of_what_is_said_alone() -> None:
    texts = [policy("endpointSelector: {}\ningress: [{}]", name) for name in "abc"]
    first = compiled(*texts)
    again = compiled(*reversed([f"# moved\n{text}" for text in texts]))
    assert (again, again.digest) == (first, first.digest)
    assert again.places == {}
    assert compiled(texts[0], texts[1]).digest != first.digest
    assert compiled() == PolicySet()
    assert isinstance(first.sections[0], Section)
