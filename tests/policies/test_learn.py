"""Policies from flows: every flow they were learned from is allowed, little else is, and a set can be compared."""

import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.check import Checker
from policies.compile import compile_policies
from policies.flows import Flow, HttpFlow, Party
from policies.learn import MAX_RULES, Learned, learn, templates
from policies.load import load_text
from policies.policyset import PolicySet
from policies.replay import NO_PEER, NO_POD, REDACTED, compare, unknown_without_inventory
from policies.requests import KafkaRequest, Operation, Resource
from policies.ruleset import TCP, UDP, Direction

IN, OUT = Direction.INGRESS, Direction.EGRESS

WEB = Party("10.0.0.1", "default", "web-1", {"app": "web", "pod-template-hash": "5f6d"})
WEB2 = Party("10.0.0.2", "default", "web-2", {"app": "web", "pod-template-hash": "77aa"})
FRONT = Party("10.0.0.3", "default", "front", {"app": "front"})
OTHER = Party("10.0.0.4", "other", "front", {"app": "front", "tier": "b"})
BARE = Party("10.0.0.5", "default", "bare", {})
WORLD = Party("203.0.113.7")
WORLD6 = Party("2001:db8::7")
NODE = Party("192.0.2.1", reserved="remote-node")
NOBODY = Party("10.0.0.9", reserved="unknown")


def request(path: str, method: str = "GET", source: Party = FRONT, destination: Party = WEB) -> Flow:
    return Flow(source, destination, IN, TCP, 80, HttpFlow(method, path, "web"))


def policies_of(learned: Learned) -> PolicySet:
    """As they are once printed and read again."""
    if not learned.documents:
        return PolicySet()
    return compile_policies(load_text(yaml.safe_dump_all(learned.documents, sort_keys=False), "learned.yaml"))


def paths(*flows: str) -> list[str]:
    return [path for _, path in templates([HttpFlow("GET", path) for path in flows])]


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/", "/"),
        ("/users/42", "/users/[0-9]+"),
        ("/users/42/orders/7", "/users/[0-9]+/orders/[0-9]+"),
        ("/f/123e4567-e89b-12d3-a456-426614174000", "/f/[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
        ("/blob/deadbeef00112233", "/blob/[0-9a-fA-F]+"),
        ("/t/eyJhbGciOiJIUzI1NiIsInR5cCI6", "/t/[^/?]+"),
        ("/v1.0/a+b", "/v1\\.0/a\\+b"),
        ("/public?x=***", "/public([?].*)?"),
        ("/a;v=***/b", "/a;v=[^/?]*/b"),
        ("/a%22b", '/a(%22|")b'),
        ("*", "\\*"),
    ],
)
def test_a_path_becomes_a_pattern(path: str, pattern: str) -> None:
    assert paths(path) == [pattern]
    sample = path.replace("***", "1")
    assert re.fullmatch(pattern, sample)


def test_many_words_at_one_place_are_identifiers() -> None:
    names = [f"/users/{chr(97 + i) * 3}/profile" for i in range(10)]
    assert paths(*names[:9]) == sorted(names[:9])
    assert paths(*names) == ["/users/[^/?]+/profile"]


def test_a_query_is_allowed_where_one_was_seen() -> None:
    assert paths("/a", "/a?x=***", "/b") == ["/a([?].*)?", "/b"]


def test_a_document_for_each_workload_with_lasting_labels() -> None:
    learned = learn([request("/a"), request("/b", destination=WEB2), request("/a", source=OTHER)])
    (document,) = learned.documents
    spec = document["spec"]
    assert isinstance(spec, dict)
    assert spec["endpointSelector"] == {"matchLabels": {"app": "web"}}
    assert spec["ingress"] == [
        {
            "fromEndpoints": [{"matchLabels": {"app": "front"}}],
            "toPorts": [
                {
                    "ports": [{"port": "80", "protocol": "TCP"}],
                    "rules": {"http": [{"method": "GET", "path": "/a"}, {"method": "GET", "path": "/b"}]},
                }
            ],
        },
        {
            "fromEndpoints": [
                {"matchLabels": {"app": "front", "tier": "b", "k8s:io.kubernetes.pod.namespace": "other"}}
            ],
            "toPorts": [
                {
                    "ports": [{"port": "80", "protocol": "TCP"}],
                    "rules": {"http": [{"method": "GET", "path": "/a"}]},
                }
            ],
        },
    ]


def test_peers_that_are_no_pods() -> None:
    learned = learn([Flow(each, WEB, IN, UDP, 53) for each in (WORLD, WORLD6, NODE)])
    spec = learned.documents[0]["spec"]
    assert isinstance(spec, dict)
    port = {"toPorts": [{"ports": [{"port": "53", "protocol": "UDP"}]}]}
    assert spec["ingress"] == [
        {"fromCIDR": ["2001:db8::7/128", "203.0.113.7/32"], **port},
        {"fromEntities": ["remote-node"], **port},
    ]


def test_egress_only_when_asked() -> None:
    out = Flow(FRONT, WORLD, OUT, TCP, 443)
    assert not learn([out]).documents
    (document,) = learn([out], egress=True).documents
    spec = document["spec"]
    assert isinstance(spec, dict)
    assert spec["egress"] == [
        {"toCIDR": ["203.0.113.7/32"], "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}]}
    ]


def test_a_namespace_alone() -> None:
    flows = [request("/a"), Flow(FRONT, OTHER, OUT, TCP, 80)]
    learned = learn(flows, namespaces=frozenset({"other"}))
    assert [document["metadata"]["namespace"] for document in learned.documents] == ["other"]  # type: ignore[index,call-overload]
    assert (learned.covered, learned.seen) == (1, 2)


@pytest.mark.parametrize(
    ("flow", "why"),
    [
        (replace(request("/a"), verdict="DROPPED"), "was denied"),
        (replace(request("/a"), verdict="ERROR"), "failed"),
        (replace(request("/a"), reason="node_probe"), "is a node's probe, which needs no policy"),
        (request("/a", source=BARE), "pod default/bare has no lasting label to be known by"),
        (request("/a", source=NOBODY), "an end of it is unknown"),
        (request("/a", source=Party("fe80::1")), "an end of it is unknown"),
        (request("/***@x"), "its path is not recorded whole"),
        (Flow(FRONT, WORLD, OUT, TCP, 443), "goes to what is no pod (see --egress)"),
        (Flow(FRONT, WEB, IN, 132, 80), "protocol 132"),
    ],
)
def test_what_is_not_learned_is_counted(flow: Flow, why: str) -> None:
    learned = learn([flow])
    assert not learned.documents
    assert dict(learned.skipped) == {why: 1}
    assert (learned.covered, learned.seen) == (0, 1)


def test_a_connection_without_a_request_allows_every_request_and_says_so() -> None:
    learned = learn([request("/a"), Flow(FRONT, WEB, IN, TCP, 80)])
    assert "rules" not in yaml.safe_dump_all(learned.documents)
    assert "every request is allowed" in learned.notes[0]


# -- the property

words = st.text("abcxyz019-_.~+'()*,=@!$&:|", min_size=1, max_size=6)
segments = st.one_of(
    words,
    st.integers(0, 10**14).map(str),
    st.uuids().map(str),
    st.binary(min_size=6, max_size=12).map(bytes.hex),
    st.sampled_from(["a%20b", "%22", "", "a;v=***", "A" * 15 + "1" * 15]),
)
queries = st.sampled_from(["", "?", "?x=***", "?a=***&***", "?***=***"])
https = st.builds(
    HttpFlow,
    st.sampled_from(["GET", "POST", "PURGE", "M-SEARCH", "A.B"]),
    st.tuples(st.lists(segments, max_size=4), queries).map(lambda both: "/" + "/".join(both[0]) + both[1]),
    st.sampled_from(["", "web", "web:80"]),
)
labels = st.dictionaries(
    st.sampled_from(["app", "tier", "example.com/x", "pod-template-hash"]),
    st.sampled_from(["a", "b", "1", "true", "A_b.c", ""]),
    max_size=3,
)
pods = st.builds(Party, st.just("10.0.0.1"), st.sampled_from(["default", "other"]), st.sampled_from(["p", "q"]), labels)
parties = st.one_of(pods, st.sampled_from([WORLD, WORLD6, NODE, NOBODY, Party("192.0.2.9", reserved="kube-apiserver")]))


@st.composite
def kafkas(draw: st.DrawFn) -> KafkaRequest:
    """Any question, of any API, about names that can and names that cannot be written."""
    operation, resource = draw(st.sampled_from([*Operation])), draw(st.sampled_from([*Resource]))
    key = draw(st.sampled_from([0, 1, 8, 11, 18, 92, 200]))
    if operation is Operation.NOTHING:
        return KafkaRequest(key, 1)
    name = "" if resource is Resource.CLUSTER else draw(st.sampled_from([None, "a", "b", "a b", "a\tb", "", "*"]))
    return KafkaRequest(key, 1, "c", name if resource is Resource.TOPIC else None, operation, resource, name)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    source, destination = draw(parties), draw(parties)
    direction = IN if destination.name and (not source.name or draw(st.booleans())) else OUT
    protocol = draw(st.sampled_from([TCP, TCP, UDP]))
    http = draw(st.one_of(st.none(), https)) if protocol == TCP else None
    verdict = draw(st.sampled_from(["FORWARDED", "FORWARDED", "AUDIT", "DROPPED", "ERROR"]))
    if protocol == TCP and draw(st.booleans()):  # a port of its own: HTTP and Kafka on one would conflict
        return Flow(source, destination, direction, protocol, 9092, None, verdict, kafka=draw(kafkas()))
    return Flow(source, destination, direction, protocol, draw(st.sampled_from([80, 53, 65535])), http, verdict)


@given(
    st.lists(flows(), max_size=25),
    st.booleans(),
    st.sampled_from([frozenset[str](), frozenset({"default"})]),
    st.booleans(),
)
def test_every_flow_that_was_learned_is_allowed(
    seen: list[Flow], egress: bool, namespaces: frozenset[str], ours: bool
) -> None:
    learned = learn(seen, egress=egress, namespaces=namespaces, ours=ours)
    policies = policies_of(learned)  # raises where `check` would find a mistake
    assert learned.covered + sum(learned.skipped.values()) == learned.seen == len(seen)
    Checker(policies).warnings()
    # an empty set allows everything; so whatever the learned one denies is a change
    found = compare(PolicySet(), policies, learned.flows)
    assert not found.changes
    assert set(found.skipped) <= {NO_POD}, found.skipped
    if egress and not namespaces:
        assert found.judged == learned.covered


@given(st.lists(flows(), min_size=1, max_size=10))
def test_learning_does_not_depend_on_the_order(seen: list[Flow]) -> None:
    assert policies_of(learn(seen)).digest == policies_of(learn(seen[::-1])).digest


# -- Kafka


def question(operation: Operation, resource: Resource, name: str | None, key: int = 0) -> KafkaRequest:
    return KafkaRequest(key, 9, "c", name if resource is Resource.TOPIC else None, operation, resource, name)


def record(operation: Operation, resource: Resource, name: str | None, key: int = 0) -> Flow:
    return Flow(FRONT, WEB, IN, TCP, 9092, kafka=question(operation, resource, name, key))


WRITE, READ, DESCRIBE = Operation.WRITE, Operation.READ, Operation.DESCRIBE
TOPIC, GROUP, TRANSACTION, CLUSTER = Resource.TOPIC, Resource.GROUP, Resource.TRANSACTIONAL_ID, Resource.CLUSTER
CONSUMER = [
    Flow(FRONT, WEB, IN, TCP, 9092, kafka=KafkaRequest(18, 3, "c")),
    record(DESCRIBE, TOPIC, "orders", 3),
    record(DESCRIBE, GROUP, "billing", 10),
    record(READ, GROUP, "billing", 11),
    record(READ, TOPIC, "orders", 1),
    record(READ, TOPIC, "invoices", 1),
]
PRODUCER = [
    record(DESCRIBE, TOPIC, "orders", 3),
    record(Operation.IDEMPOTENT_WRITE, CLUSTER, "", 22),
    record(WRITE, TOPIC, "orders"),
    record(WRITE, TRANSACTION, "tx-1", 24),
]


@pytest.mark.parametrize(
    ("seen", "cilium", "ours"),
    [
        (
            CONSUMER,
            [{"role": "consume", "topic": "invoices"}, {"role": "consume", "topic": "orders"}],
            [
                {"role": "consume", "topic": "invoices", "group": "billing"},
                {"role": "consume", "topic": "orders", "group": "billing"},
            ],
        ),
        (
            [record(READ, TOPIC, "orders", 1), *(record(READ, GROUP, name, 11) for name in ("b", "a"))],
            [{"role": "consume", "topic": "orders"}],
            [
                {"role": "consume", "topic": "orders", "group": "a"},
                {"role": "consume", "topic": "orders", "group": "b"},
            ],
        ),
        (
            PRODUCER,
            [{"role": "produce", "topic": "orders"}],
            [{"role": "produce", "topic": "orders", "transactionalId": "tx-1"}],
        ),
        (
            [record(Operation.CREATE, TOPIC, "new", 19), record(Operation.DELETE, GROUP, "g", 42)],
            [{"apiKey": "createtopics", "topic": "new"}, {"apiKey": "deletegroups"}],
            [{"role": "admin", "topic": "new"}, {"role": "admin", "group": "g"}],
        ),
        (
            [record(DESCRIBE, TOPIC, "orders", 3), record(DESCRIBE, CLUSTER, "", 46)],
            [{"apiKey": "listpartitionreassignments"}, {"apiKey": "metadata", "topic": "orders"}],
            [{"apiKey": "listpartitionreassignments"}, {"apiKey": "metadata", "topic": "orders"}],
        ),
        ([CONSUMER[0]], [{"apiKey": "apiversions"}], [{"apiKey": "apiversions"}]),
        (
            [record(READ, GROUP, "billing", 11)],
            [{"apiKey": "joingroup"}],
            [{"apiKey": "joingroup", "group": "billing"}],
        ),
        ([record(WRITE, TOPIC, None, 22)], [{"apiKey": "initproducerid"}], [{"apiKey": "initproducerid"}]),
    ],
)
def test_kafka_rules_are_learned(seen: list[Flow], cilium: list[dict[str, str]], ours: list[dict[str, str]]) -> None:
    for own, want in ((False, cilium), (True, ours)):
        learned = learn(seen, ours=own)
        (document,) = learned.documents
        spec = document["spec"]
        assert isinstance(spec, dict)
        port = {"ports": [{"port": "9092", "protocol": "TCP"}], "rules": {"kafka": want}}
        assert spec["ingress"] == [{"fromEndpoints": [{"matchLabels": {"app": "front"}}], "toPorts": [port]}]
        beyond = any("group" in rule or "transactionalId" in rule or "admin" in rule.values() for rule in want)
        assert document["kind"] == ("TulleNetworkPolicy" if beyond else "CiliumNetworkPolicy")
        assert not compare(PolicySet(), policies_of(learned), learned.flows).changes


def test_kafka_questions_that_no_rule_can_allow_are_told() -> None:
    learned = learn(
        [
            record(Operation.CLUSTER_ACTION, CLUSTER, "", 1),
            record(READ, TOPIC, "a b", 1),
            record(READ, TOPIC, "a", 200),
        ]
    )
    assert learned.documents == []
    assert dict(learned.skipped) == {
        "asks for ClusterAction, which no rule allows": 1,
        "is about a topic that no rule can name": 1,
        "is of an API that has no name": 1,
    }


def test_too_many_topics_are_not_told_apart() -> None:
    seen = [record(READ, TOPIC, f"t{i}", 1) for i in range(MAX_RULES + 1)]
    learned = learn(seen)
    assert learned.notes == [
        "default/learned-web-ingress-4e7abc24: port 9092 saw 1001 topics that were read and 0 that were written: "
        "they are not told apart"
    ]
    assert not compare(PolicySet(), policies_of(learned), learned.flows).changes


def test_http_and_kafka_on_one_port_are_learned_as_everything() -> None:
    learned = learn([*CONSUMER, replace(request("/a"), port=9092)])
    assert learned.notes == [
        "default/learned-web-ingress-4e7abc24: port 9092 saw HTTP and Kafka: every request is allowed on it"
    ]
    assert not compare(PolicySet(), policies_of(learned), learned.flows).changes


def test_changes_of_kafka_rules_are_told() -> None:
    text = ALLOW.replace('"80"', '"9092"').replace("http: [RULE]", "kafka: [{role: consume, topic: TOPIC}]")
    before, after = (compile_policies(load_text(text.replace("TOPIC", name), "p")) for name in ("orders", "invoices"))
    found = compare(before, after, CONSUMER)
    assert sorted((each.kind, each.count, each.request, each.kafka) for each in found.changes) == [
        ("allow -> deny", 1, "fetch Read topic orders", True),
        ("allow -> deny", 1, "metadata Describe topic orders", True),
        ("deny -> allow", 1, "fetch Read topic invoices", True),
    ]
    assert found.judged == len(CONSUMER)


# -- compare

ALLOW = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: front}}]
      toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [RULE]}}]
"""


def rule(text: str) -> PolicySet:
    return compile_policies(load_text(ALLOW.replace("RULE", text), "p.yaml"))


def test_changes_are_grouped_and_counted() -> None:
    seen = [request("/a"), request("/a"), request("/b"), request("/c")]
    found = compare(rule("{path: /a}, {path: /b}"), rule("{path: /b}, {path: /c}"), seen)
    assert [(change.kind, change.count, change.request) for change in found.changes] == [
        ("allow -> deny", 2, "GET /a"),
        ("deny -> allow", 1, "GET /c"),
    ]
    assert (found.judged, found.changed) == (4, 3)
    assert found.changes[0].before.rule == "default/p ingress[0].toPorts[0].http[0]"


@pytest.mark.parametrize(
    ("new", "path", "skipped"),
    [
        ("{path: '/a([?].*)?'}", "/a?x=***", False),  # whatever the value was
        ("{path: '/a[?]x=1'}", "/a?x=***", True),
        ("{path: '/a', headers: [X-Key]}", "/a", True),
        ("{path: '/b', headers: [X-Key]}", "/a", False),  # denied with the header and without it
        ("{path: '/a', headers: [X-Key]}, {path: '/a'}", "/a", False),
        ("{headerMatches: [{name: X, value: v, mismatch: ADD}]}", "/a", False),
    ],
)
def test_a_flow_whose_verdict_depends_on_what_is_not_recorded(new: str, path: str, skipped: bool) -> None:
    found = compare(rule("{path: '/.*'}"), rule(new), [request(path)])
    assert (found.skipped[REDACTED] == 1) is skipped
    assert found.judged == (0 if skipped else 1)


def test_query_rules_are_judged_by_their_keys() -> None:
    tulle = ALLOW.replace("cilium.io/v2", "tulle.dev/v1").replace("CiliumNetworkPolicy", "TulleNetworkPolicy")
    keyed = compile_policies(load_text(tulle.replace("RULE", "{query: [{key: x}]}"), "p.yaml"))
    valued = compile_policies(load_text(tulle.replace("RULE", "{query: [{key: x, value: '1'}]}"), "p.yaml"))
    open_ = rule("{}")
    for path, by_key, by_value in (
        ("/a?x=***", (0, 0), (0, 1)),
        ("/a?y=***", (1, 0), (1, 0)),
        ("/a?***=***", (0, 1), (0, 1)),
    ):
        for new, (changed, skipped) in ((keyed, by_key), (valued, by_value)):
            found = compare(open_, new, [request(path)])
            assert (found.changed, found.skipped[REDACTED]) == (changed, skipped), path


def test_flows_that_policies_did_not_decide() -> None:
    seen = [
        replace(request("/a"), rule="tulle:protocol"),
        Flow(FRONT, WORLD, IN, TCP, 80),
        request("/a", source=NOBODY),
    ]
    found = compare(rule("{}"), PolicySet(), seen)
    assert found.judged == 0
    assert dict(found.skipped) == {"tulle:protocol decided, whatever policies say": 1, NO_POD: 1, NO_PEER: 1}


def test_audit_is_a_change_of_its_own() -> None:
    audit = compile_policies(
        load_text(
            ALLOW.replace("{name: p}", "{name: p, annotations: {tulle.dev/mode: audit}}").replace("RULE", "{path: /b}"),
            "p.yaml",
        )
    )
    found = compare(PolicySet(), audit, [request("/a")])
    assert [change.kind for change in found.changes] == ["allow -> audit"]


def test_a_record_is_judged_by_the_labels_it_was_made_with() -> None:
    relabelled = replace(FRONT, labels={"app": "new"})
    found = compare(PolicySet(), rule("{}"), [request("/a"), request("/a", source=relabelled)])
    assert [(change.kind, change.count) for change in found.changes] == [("allow -> deny", 1)]


def test_what_records_do_not_have_is_named() -> None:
    text = ALLOW.replace("RULE", "{}").replace('"80"', "http")
    assert unknown_without_inventory([compile_policies(load_text(text, "p.yaml"))]) == ["ports by name"]
    assert unknown_without_inventory([rule("{}")]) == []
