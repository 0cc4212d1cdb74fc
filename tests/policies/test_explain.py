"""Why: the verdict is the engine's, the deciding rule has its place, and each rule says what did not fit."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import decisions
from policies.compile import compile_policies
from policies.engine import DEFAULT_ALLOW, DEFAULT_DENY, Engine, HeaderEdit, HttpRequest, KafkaRequest
from policies.explain import (
    LINK_LOCAL,
    NODE_PROBE,
    PROTOCOL,
    TO_ITSELF,
    End,
    Explanation,
    Question,
    UnknownEnd,
    edited,
    explain,
    explain_kafka,
    find_end,
    find_port,
    identity_of,
)
from policies.inventory import Inventory, NamedPort, NodeHost, Pod
from policies.kafka_questions import questions as main_questions
from policies.load import load_text
from policies.policyset import CidrPeer, EntityPeer, Grant, Options, Peer, PolicySet, PortSpec, Section
from policies.requests import Operation, Resource
from policies.resolve import resolve
from policies.ruleset import (
    ANY_PROTOCOL,
    TCP,
    UDP,
    Answer,
    Direction,
    HeaderMatch,
    HttpRule,
    KafkaRule,
    Mismatch,
    NameKind,
    PathKind,
    PolicyRef,
    QueryMatch,
    Reserved,
)
from policies.selector import NAMESPACE_LABEL, Operator, Requirement, Selector
from proxy.layers import exchange
from proxy.peers import Peers

PODS = (
    Pod("default", "web", {"app": "web"}, ("10.9.0.1", "fd09::1"), ports=(NamedPort("http", 80),)),
    Pod("default", "frontend", {"app": "frontend"}, ("10.9.0.2",)),
    Pod("other", "frontend", {"app": "frontend"}, ("10.9.0.4",)),
)
NODES = (NodeHost("node-a", ("192.0.2.1",), local=True), NodeHost("node-b", ("192.0.2.2",)))
INVENTORY = Inventory(PODS, NODES)

DOCUMENT = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules:
            http:
              - method: GET
                path: /public
              - path: /host
                host: web
              - path: /header
                headers: ["X-Key: secret"]
        - ports: [{port: "8000", endPort: 8080, protocol: TCP}]
    - fromCIDR: [10.0.0.0/16]
      toPorts: [{ports: [{port: http, protocol: TCP}]}]
"""


def ask(
    text: str,
    client: str = "frontend",
    server: str = "web",
    port: int = 80,
    inventory: Inventory = INVENTORY,
    **kind: object,
) -> Explanation:
    policies = compile_policies(load_text(text, "p.yaml"))
    question = Question(int(str(kind.pop("protocol", TCP))), port, **kind)  # type: ignore[arg-type]  # a test's own keywords
    return explain(policies, inventory, find_end(inventory, client), find_end(inventory, server), question)


def get(path: str, host: str = "", headers: Sequence[tuple[bytes, bytes]] = ()) -> HttpRequest:
    return HttpRequest("GET", path, host, headers)


def whys(explanation: Explanation) -> dict[str, str]:
    return {one.rule.rpartition(" ")[2]: one.why for one in explanation.sides[-1].considered}


def test_the_deciding_rule_has_its_place() -> None:
    found = ask(DOCUMENT, http=get("/public"))
    assert found.allow
    side = found.decisive
    assert side.judgement.rule == "default/p ingress[0].toPorts[0].http[0]"
    assert side.place is not None
    assert (side.place.file, side.place.line) == ("p.yaml", 12)


@pytest.mark.parametrize(
    ("request_", "rule", "why"),
    [
        (get("/publi"), "ingress[0].toPorts[0].http[0]", "path: /publi is not /public"),
        (
            get("/public?x=1"),
            "ingress[0].toPorts[0].http[0]",
            "path: /public?x=1 is not /public: a path pattern sees the query too",
        ),
        (HttpRequest("POST", "/public"), "ingress[0].toPorts[0].http[0]", "method: POST is not GET"),
        (get("/host"), "ingress[0].toPorts[0].http[1]", "host: none given, web is wanted"),
        (get("/host", "api"), "ingress[0].toPorts[0].http[1]", "host: api is not web"),
        (get("/header"), "ingress[0].toPorts[0].http[2]", "header: x-key is missing"),
        (get("/header", "", [(b"x-key", b"no")]), "ingress[0].toPorts[0].http[2]", "header: x-key is not as wanted"),
        (get("/public"), "ingress[0].toPorts[1]", "port: 80/TCP is not 8000-8080/TCP"),
        (get("/public"), "ingress[1].toPorts[0]", "peer: default/frontend is not 10.0.0.0/16"),
    ],
)
def test_each_rule_says_what_did_not_fit(request_: HttpRequest, rule: str, why: str) -> None:
    assert whys(ask(DOCUMENT, http=request_))[rule] == why


def test_a_secret_of_the_policy_is_not_told() -> None:
    found = ask(DOCUMENT, http=get("/header"))
    assert "secret" not in repr(found)


def test_another_peer_is_said_with_what_was_wanted() -> None:
    found = ask(DOCUMENT, "other/frontend", http=get("/public"))
    assert not found.allow
    assert found.decisive.judgement.rule == DEFAULT_DENY
    assert whys(found)["ingress[0].toPorts[0]"] == "peer: other/frontend is not app=frontend in default"


def test_both_sides_are_judged_and_either_denies() -> None:
    egress = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: e}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress: [{}]
"""
    found = ask(f"{DOCUMENT}---\n{egress}", http=get("/public"))
    assert [side.judgement.allow for side in found.sides] == [False, True]
    assert not found.allow
    assert found.decisive.direction is Direction.EGRESS
    assert [(one.rule, one.matched) for one in found.sides[0].considered] == [("default/e", False)]


def test_without_a_request_the_connection_is_judged() -> None:
    found = ask(DOCUMENT)
    assert found.allow
    assert found.decisive.judgement.requests
    assert "http requests on it are judged" in found.decisive.judgement.reason
    assert not ask(DOCUMENT, port=81).allow
    assert not ask(DOCUMENT, protocol=UDP).allow


def test_nobody_selected_is_allowed_by_default() -> None:
    found = ask(DOCUMENT, "web", "frontend")
    assert found.allow
    assert found.sides[1].judgement.rule == DEFAULT_ALLOW


def test_ends_that_are_no_pods() -> None:
    assert ask(DOCUMENT, "10.0.3.4").allow  # by its CIDR
    assert not ask(DOCUMENT, "world").allow
    assert not ask(DOCUMENT, "10.1.0.1").allow
    with pytest.raises(UnknownEnd, match="neither 'world' nor 'host' is a pod"):
        ask(DOCUMENT, "world", "host")


def test_this_node_is_let_through_for_its_probes_and_its_address_is_not() -> None:
    found = ask(DOCUMENT, "host")
    assert found.allow
    assert found.decisive.judgement.rule == NODE_PROBE == decisions.NODE_PROBE  # records use the same name
    assert not ask(DOCUMENT, "192.0.2.1").allow  # masqueraded traffic has it too
    denied = DOCUMENT.replace("  ingress:", "  ingressDeny: [{fromEntities: [host]}]\n  ingress:")
    assert not ask(denied, "host").allow
    assert ask(denied, "host").decisive.judgement.rule == "default/p ingressDeny[0]"


def test_without_the_setting_for_probes_this_node_is_judged_as_others_are() -> None:
    policies = compile_policies(load_text(DOCUMENT, "p.yaml"))
    ends = find_end(INVENTORY, "host"), find_end(INVENTORY, "web")
    for question in (Question(TCP, 80), Question(TCP, 81), Question(TCP, 80, get("/public"))):
        assert explain(policies, INVENTORY, *ends, question).allow
        assert not explain(policies, INVENTORY, *ends, question, probes=False).allow
    everybody = "{toPorts: [{ports: [{port: '80'}], rules: {http: [{path: /a}]}}]}"
    policies = compile_policies(load_text(_ingress(everybody), "p.yaml"))
    assert explain(policies, INVENTORY, *ends, Question(TCP, 80, get("/a")), probes=False).allow
    assert not explain(policies, INVENTORY, *ends, Question(TCP, 80, get("/b")), probes=False).allow
    host = "{fromEntities: [host], toPorts: [{ports: [{port: '80'}], rules: {http: [{path: /a}]}}]}"
    policies = compile_policies(load_text(_ingress(host), "p.yaml"))
    found = explain(policies, INVENTORY, *ends, Question(TCP, 80, get("/a")), probes=False)
    assert not found.allow, "a worker knows the address alone, and that counts as world"


def _ingress(rule: str) -> str:
    return f"{DOCUMENT[: DOCUMENT.index('  ingress:')]}  ingress: [{rule}]\n"


def test_an_address_of_a_pod_is_that_pod() -> None:
    egress = DOCUMENT.replace("name: p", "name: e").replace("app: web", "app: frontend")
    egress = egress[: egress.index("  ingress:")] + "  egress: [{}]\n"
    for client in ("frontend", "10.9.0.2", "::ffff:10.9.0.2"):
        assert not ask(f"{DOCUMENT}---\n{egress}", client, http=get("/public")).allow
        assert ask(DOCUMENT, client, http=get("/public")).allow
    assert not ask(_ingress("{}"), "10.9.0.4", "fd09:0::1").allow
    node = Inventory(PODS, (NodeHost("node-a", ("10.9.0.2",)),))
    assert find_end(node, "10.9.0.2").pod is None


def test_a_pod_to_itself_is_not_judged() -> None:
    nobody = _ingress("{}") + "  egress: [{}]\n"
    for server in ("web", "10.9.0.1", "127.0.0.1", "::1"):
        found = ask(nobody, "web", server, http=get("/private"))
        assert found.allow
        assert {(side.judgement.rule, side.judgement.reason) for side in found.sides} == {(DEFAULT_ALLOW, TO_ITSELF)}
    assert not ask(nobody, "web", "10.9.0.2").allow


def test_link_local_peers_are_out_of_reach_of_rules_for_everybody() -> None:
    connections = _ingress("{toPorts: [{ports: [{port: '80'}]}]}")
    assert ask(connections, "fe80::1").allow
    assert not ask(connections, "fe80::1", port=81).allow
    requests = _ingress("{toPorts: [{ports: [{port: '80'}], rules: {http: []}}]}")
    assert ask(requests, "world", http=get("/")).allow
    for http in (None, get("/")):
        assert ask(requests, "fe80::1", http=http).decisive.judgement.reason == LINK_LOCAL
    egress = connections.replace("  ingress:", "  egress:")
    assert not ask(egress, "web", "fe80::1").allow
    assert ask(egress, "web", "fe80::1", protocol=UDP).allow
    assert ask(DOCUMENT, "web", "fe80::1").allow
    audit = egress.replace("name: p", "name: p, annotations: {tulle.dev/mode: audit}")
    assert ask(audit, "web", "fe80::1").allow


def kafka_question(operation: Operation, resource: Resource, name: str | None, client: str = "shop") -> KafkaRequest:
    return KafkaRequest(0, 9, client, name if resource is Resource.TOPIC else None, operation, resource, name)


def write(topic: str, client: str = "") -> KafkaRequest:
    return kafka_question(Operation.WRITE, Resource.TOPIC, topic, client)


def test_kafka_on_an_http_port_is_no_request_of_it() -> None:
    found = ask(DOCUMENT, kafka=write("orders"))
    assert not found.allow
    assert found.decisive.judgement.rule == PROTOCOL


def test_kafka_rules_say_what_did_not_fit() -> None:
    text = DOCUMENT[: DOCUMENT.index("          rules:")] + (
        "          rules: {kafka: [{role: produce, topic: orders, clientID: shop}]}\n"
    )
    assert ask(text, kafka=write("orders", "shop")).allow
    found = ask(text, kafka=write("other", "shop"))
    assert not found.allow
    assert whys(found)["ingress[0].toPorts[0].kafka[0]"] == "topic: other is not orders"
    found = ask(text, kafka=write("orders", "x"))
    assert whys(found)["ingress[0].toPorts[0].kafka[0]"] == "client: x is not shop"
    for asked, why in (
        (kafka_question(Operation.READ, Resource.TOPIC, "orders"), "topic: Read is not in role produce"),
        (kafka_question(Operation.READ, Resource.GROUP, "g"), "group: Read is not in role produce"),
        (kafka_question(Operation.WRITE, Resource.TOPIC, None), None),
        (kafka_question(Operation.ALTER, Resource.CLUSTER, ""), "cluster: Alter is not in role produce"),
        (KafkaRequest(18, 3, "shop"), None),
        (
            kafka_question(Operation.CLUSTER_ACTION, Resource.CLUSTER, ""),
            "ClusterAction is for brokers among themselves: no rule allows it",
        ),
    ):
        found = ask(text, kafka=asked)
        assert found.allow is (why is None)
        assert whys(found)["ingress[0].toPorts[0].kafka[0]"] == (why or "matches, and allows")


OUR_KAFKA = """
apiVersion: tulle.dev/v1
kind: TulleNetworkPolicy
metadata: {name: k}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - toPorts:
        - ports: [{port: "80"}]
          rules:
            kafka:
              - {apiKey: fetch, topicPrefix: pay}
              - {apiVersion: "8", topicGlob: "*.dlq"}
              - {group: billing}
              - {action: Deny, topic: pay}
"""


def test_kafka_rules_of_our_kind_say_what_did_not_fit() -> None:
    found = ask(OUR_KAFKA, kafka=replace(kafka_question(Operation.READ, Resource.TOPIC, "x"), api_key=1, api_version=8))
    assert not found.allow
    rule = "ingress[0].toPorts[0].kafka[{}]"
    why = whys(found)
    assert why[rule.format(0)] == "topic: x does not begin with pay"
    assert why[rule.format(1)] == "topic: x is not like *.dlq"
    assert why[rule.format(2)] == "topic: Read is not in what it names"
    assert why[rule.format(3)] == "topic: x is not pay"
    other = ask(OUR_KAFKA, kafka=kafka_question(Operation.READ, Resource.GROUP, "shop"))
    why = whys(other)
    assert why[rule.format(0)] == "api: produce is not fetch"
    assert why[rule.format(1)] == "version: 9 is not 8"
    assert why[rule.format(2)] == "group: shop is not billing"


def test_a_kafka_request_is_allowed_where_every_step_is() -> None:
    def answers(text: str, key: int, **names: str) -> list[tuple[str, bool]]:
        given = {Resource[name.upper()]: value for name, value in names.items()}
        policies = compile_policies(load_text(text, "f"))
        ends = find_end(INVENTORY, "frontend"), find_end(INVENTORY, "web")
        steps = explain_kafka(policies, INVENTORY, *ends, 80, main_questions(key, 9, "c", given))
        return [(asked, found.allow) for asked, found in steps]

    consume = OUR_KAFKA[: OUR_KAFKA.index("              -")] + "              - {role: consume, topic: t, group: g}\n"
    assert answers(consume, 8, topic="t", group="g") == [("Read group g", True), ("Read topic t", True)]
    assert answers(consume, 8, topic="u", group="g") == [("Read group g", True), ("Read topic u", False)]
    assert answers(consume, 8) == [("Read any group", True), ("Read any topic", True)]
    assert answers(consume, 22) == [("IdempotentWrite cluster or Write any topic", False)]
    assert answers(consume, 18) == [("nothing", True)]
    produce = consume.replace("consume, topic: t, group: g", "produce")
    assert answers(produce, 22) == [("IdempotentWrite cluster", True)]
    denied = produce + "              - {action: Deny, topic: t}\n"
    assert answers(denied, 0, topic="t") == [("Write topic t", False)]
    assert answers(denied, 0) == [("Write any topic", True)]  # the check of rules one by one has nothing to say


def test_audit_passes_and_says_who_would_deny() -> None:
    text = DOCUMENT.replace("metadata: {name: p}", "metadata: {name: p, annotations: {tulle.dev/mode: audit}}")
    found = ask(text, "other/frontend")
    assert found.allow
    assert found.audited
    found = ask(text, http=get("/private"))
    assert found.allow
    assert found.audited
    assert found.decisive.judgement.rule == DEFAULT_DENY
    assert not ask(text, http=get("/public")).audited


def test_a_named_port_that_the_pod_has_not() -> None:
    bare = Inventory(tuple(replace(pod, ports=()) for pod in PODS))
    found = ask(DOCUMENT, "10.0.3.4", inventory=bare)
    assert not found.allow
    assert whys(found)["ingress[1].toPorts[0]"] == "port: http/TCP is no port of anybody here"


def test_names_that_are_not_there() -> None:
    with pytest.raises(UnknownEnd, match="did you mean 'default/web'"):
        find_end(INVENTORY, "webb")
    with pytest.raises(UnknownEnd, match="did you mean 'host'"):
        find_end(INVENTORY, "hosts")
    web = find_end(INVENTORY, "web")
    assert find_port(web, "http", TCP) == 80
    for text in ("htp", "0", "65536", "-1", "80.0"):
        with pytest.raises(UnknownEnd):
            find_port(web, text, TCP)
    with pytest.raises(UnknownEnd, match="no UDP port named"):
        find_port(web, "http", UDP)


@pytest.mark.parametrize(
    "address",
    ["10.9.0.1", "fd09::1", "192.0.2.1", "192.0.2.2", "8.8.8.8", "10.0.1.1", "fe80::1", "169.254.1.1", "2001::1"],
)
def test_addresses_are_found_as_the_proxy_finds_them(address: str) -> None:
    policies = compile_policies(load_text(DOCUMENT, "p.yaml"))
    rules = resolve(policies, INVENTORY, 1)
    assert identity_of(rules, address) == Peers(rules).find(address)[0]


def test_a_header_that_egress_adds_is_seen_at_ingress() -> None:
    egress = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: e}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
    - toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{headerMatches: [{name: X-Key, value: secret, mismatch: ADD}]}]}
"""
    assert not ask(DOCUMENT, http=get("/header")).allow
    assert ask(f"{DOCUMENT}---\n{egress}", http=get("/header")).allow


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from([b"1", b"2"])), max_size=4),
    st.lists(
        st.builds(
            HeaderEdit,
            st.sampled_from([Mismatch.ADD, Mismatch.DELETE, Mismatch.REPLACE]),
            st.sampled_from(["a", "b"]),
            st.sampled_from(["", "1", "3"]),
        ),
        max_size=3,
    ),
)
def test_headers_are_edited_as_the_proxy_edits_them(
    headers: list[tuple[bytes, bytes]], edits: list[HeaderEdit]
) -> None:
    assert list(edited(get("/", "", headers), edits).headers) == exchange.edited(list(headers), edits)


# -- random policies: the trace agrees with the engine, or `explain` raises


def _selector(app: str, namespace: str = "default") -> Selector:
    return Selector(
        tuple(
            sorted(
                {
                    Requirement("app", Operator.IN, (app,)),
                    Requirement(NAMESPACE_LABEL, Operator.IN, (namespace,)),
                }
            )
        )
    )


PEERS: list[Peer] = [
    _selector("web"),
    _selector("frontend"),
    _selector("frontend", "other"),
    EntityPeer("all"),
    EntityPeer("world"),
    EntityPeer("host"),
    CidrPeer("10.0.0.0/8", ("10.1.0.0/16",)),
]
PATHS = ["/a", "/a/b", "/a?x=1", "/b", "/a?x=%ff", "/a/", "/"]
http_rules = st.builds(
    HttpRule,
    st.just("r"),
    st.sampled_from([None, "GET", "GET|POST", "P.*"]),
    st.sampled_from([None, "/a", "/a.*", "/[ab]", "/a([?].*)?"]),
    st.sampled_from([None, "web", ".*"]),
    st.sampled_from([(), (HeaderMatch("k", "v"),), (HeaderMatch("k", None),), (HeaderMatch("k", "v", Mismatch.ADD),)]),
    st.just(PathKind.REGEX),
    st.sampled_from([(), (QueryMatch("x", None),), (QueryMatch("x", "1"),)]),
)
kinds = st.builds(
    HttpRule,
    st.just("r"),
    st.none(),
    st.sampled_from(["/a", "/a/{id}", "/"]),
    path_kind=st.sampled_from([PathKind.EXACT, PathKind.PREFIX, PathKind.TEMPLATE]),
)
kafka_rules = st.builds(
    KafkaRule,
    st.just("r"),
    st.sampled_from(["", "produce", "consume", "admin"]),
    topic=st.sampled_from([None, "t"]),
    topic_kind=st.sampled_from([NameKind.EXACT, NameKind.PREFIX]),
    group=st.sampled_from([None, None, "t"]),
    deny=st.booleans(),
) | st.builds(
    KafkaRule,
    st.just("r"),
    api_key=st.sampled_from([None, 0, 1]),
    topic=st.sampled_from([None, "t"]),
    deny=st.booleans(),
)


@st.composite
def grants(draw: st.DrawFn, name: str) -> list[Grant]:
    deny = draw(st.sampled_from([False, False, False, True]))
    peers = draw(st.one_of(st.none(), st.lists(st.sampled_from(PEERS), max_size=3).map(tuple)))
    ports = [
        PortSpec(TCP, 80, 80),
        PortSpec(TCP, 79, 81),
        PortSpec(UDP, 80, 80),
        PortSpec(),
        PortSpec(ANY_PROTOCOL, 80, 80),
        PortSpec(TCP, named="http"),
    ]
    http: tuple[HttpRule, ...] | None = None
    kafka: tuple[KafkaRule, ...] | None = None
    if not deny:
        kind = draw(st.sampled_from(["", "http", "http", "kafka"]))
        if kind == "http":
            rules = draw(st.lists(st.one_of(http_rules, kinds), max_size=3))
            denies = draw(st.lists(st.booleans(), min_size=3, max_size=3))
            http = tuple(
                replace(
                    rule,
                    name=f"{name}.http[{i}]",
                    deny=denies[i],
                    headers=tuple(replace(h, mismatch=Mismatch.REFUSE) for h in rule.headers)
                    if denies[i]
                    else rule.headers,
                )
                for i, rule in enumerate(rules)
            )
        elif kind == "kafka":
            kafka = tuple(
                replace(rule, name=f"{name}.kafka[{i}]")
                for i, rule in enumerate(draw(st.lists(kafka_rules, max_size=2)))
            )
    l7 = http is not None or kafka is not None
    fitting = [port for port in ports if not l7 or (port.protocol == TCP)]
    chosen = draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2, unique=True))
    return [Grant(name, peers, port, http, kafka, deny) for port in chosen]


@st.composite
def policy_sets(draw: st.DrawFn) -> PolicySet:
    sections = []
    for i in range(draw(st.integers(0, 3))):
        ref = PolicyRef("CiliumNetworkPolicy", "default", f"p{i}")
        directions: list[tuple[Grant, ...] | None] = []
        for direction in ("ingress", "egress"):
            if draw(st.booleans()):
                count = draw(st.integers(0, 3))
                directions.append(
                    tuple(g for j in range(count) for g in draw(grants(f"default/p{i} {direction}[{j}].toPorts[0]")))
                )
            else:
                directions.append(None)
        ingress, egress = directions
        selector = draw(st.sampled_from([_selector("web"), _selector("frontend")]))
        options = Options(audit=draw(st.sampled_from([False, False, True])))
        sections.append(Section(ref, selector, ingress, egress, draw(st.booleans()), draw(st.booleans()), options))
    return PolicySet(tuple(sections))


requests = st.builds(
    HttpRequest,
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(PATHS),
    st.sampled_from(["", "web", "api"]),
    st.sampled_from([(), ((b"k", b"v"),), ((b"k", b"v"), (b"k", b"w"))]),
)
kafkas = st.builds(
    KafkaRequest,
    st.sampled_from([0, 1, 3]),
    st.just(9),
    st.just(""),
    st.none(),
    st.sampled_from([Operation.WRITE, Operation.READ, Operation.DESCRIBE]),
    st.sampled_from([Resource.TOPIC, Resource.GROUP]),
    st.sampled_from([None, "t", "tu", "u"]),
) | st.just(KafkaRequest(18, 3))
questions = st.one_of(
    st.builds(Question, st.sampled_from([TCP, UDP]), st.sampled_from([80, 81])),
    st.builds(Question, st.just(TCP), st.just(80), requests),
    st.builds(Question, st.just(TCP), st.just(80), st.none(), kafkas),
)
ENDS = ["web", "frontend", "other/frontend", "world", "10.2.0.1", "10.1.0.1", "fe80::1", "host", "192.0.2.1"]


@given(policy_sets(), st.sampled_from(ENDS), st.sampled_from(ENDS[:3]), questions)
def test_rules_one_by_one_give_what_the_engine_gives(
    policies: PolicySet, client: str, server: str, question: Question
) -> None:
    if client == server:
        return
    ends = find_end(INVENTORY, client), find_end(INVENTORY, server)
    found = explain(policies, INVENTORY, *ends, question)  # raises where the two do not agree
    assert found.allow == _by_the_engine_alone(policies, *ends, question)
    for side in found.sides:
        if side.judgement.rule.startswith("default/"):
            named = [one for one in side.considered if one.rule == side.judgement.rule]
            assert named, side
            assert named[0].matched


def _by_the_engine_alone(policies: PolicySet, client: End, server: End, question: Question) -> bool:
    """What the data path would do, put together by hand."""
    pods = tuple(replace(pod, endpoint_id=i) for i, pod in enumerate(PODS, 1))
    rules = resolve(policies, replace(INVENTORY, pods=pods), 1)
    engine, peers = Engine(rules), Peers(rules)
    ids = {f"{pod.namespace}/{pod.name}": i for i, pod in enumerate(pods, 1)}
    allow = True
    for own, peer, direction in ((client, server, Direction.EGRESS), (server, client, Direction.INGRESS)):
        if own.pod is None:
            continue
        address = peer.pod.addresses[0] if peer.pod is not None else peer.address
        identity = peer.identity if peer.identity is not None else peers.judged(address, direction)
        at = ids[own.text], direction, identity, question.port
        connection = engine.connection(*at, question.protocol)
        if direction is Direction.INGRESS and identity == Reserved.HOST:
            allow &= not connection.enforced.explicit
            continue
        allow &= connection.answer is not Answer.DENY
        rules_of = engine.ruleset.endpoints[ids[own.text]].direction(direction)
        if identity == Reserved.NONE and question.protocol == TCP and not rules_of.watched:  # link-local
            steered = connection.answer is Answer.PROXY if direction is Direction.INGRESS else rules_of.enforced
            allow &= not steered
            continue
        if connection.answer is not Answer.PROXY:
            continue
        kind = engine.protocol_of(*at)
        if question.http is not None:
            if kind in ("http", "conflict"):
                verdict = engine.decide(*at, question.http)
                allow &= verdict.allow
                fields = exchange.edited(list(question.http.headers), verdict.edits)
                question = replace(question, http=replace(question.http, headers=fields))
            else:
                allow &= connection.enforced.answer is not Answer.PROXY
        elif question.kafka is not None:
            if kind in ("kafka", "conflict"):
                allow &= engine.decide_kafka(*at, question.kafka).allow
            else:
                allow &= connection.enforced.answer is not Answer.PROXY
    return allow
