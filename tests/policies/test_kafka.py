"""Kafka rules: what they allow and deny, as access lists; docs/policy.md, line by line."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from parsers.kafka.table import TABLE
from policies.engine import DEFAULT_ALLOW, DEFAULT_DENY
from policies.kafka import API_KEYS, API_NAMES, acls
from policies.kafka_questions import MAIN, questions
from policies.kafka_rules import Entry, glob_pattern
from policies.matchers import matcher
from policies.requests import KafkaRequest, Operation, Resource
from policies.ruleset import KafkaRule, NameKind
from policies.wire import decode, encode
from tests.policies.made import PEER, Made, line
from tests.policies.world import PROXY, World, annotated, tulle
from tests.policies.world import policy as cilium

WEB = "endpointSelector: {matchLabels: {app: web}}\n"
PORT = "ports: [{port: '80', protocol: TCP}]"

# what is asked, in short: operation and resource
ASKED = {
    "write": (Operation.WRITE, Resource.TOPIC),
    "read": (Operation.READ, Resource.TOPIC),
    "describe": (Operation.DESCRIBE, Resource.TOPIC),
    "create": (Operation.CREATE, Resource.TOPIC),
    "delete": (Operation.DELETE, Resource.TOPIC),
    "alter": (Operation.ALTER, Resource.TOPIC),
    "configs": (Operation.DESCRIBE_CONFIGS, Resource.TOPIC),
    "configure": (Operation.ALTER_CONFIGS, Resource.TOPIC),
    "group": (Operation.READ, Resource.GROUP),
    "see-group": (Operation.DESCRIBE, Resource.GROUP),
    "drop-group": (Operation.DELETE, Resource.GROUP),
    "configure-group": (Operation.ALTER_CONFIGS, Resource.GROUP),
    "transact": (Operation.WRITE, Resource.TRANSACTIONAL_ID),
    "see-transaction": (Operation.DESCRIBE, Resource.TRANSACTIONAL_ID),
}
CLUSTER = {
    "idempotent": Operation.IDEMPOTENT_WRITE,
    "cluster-create": Operation.CREATE,
    "cluster-alter": Operation.ALTER,
    "cluster-describe": Operation.DESCRIBE,
    "cluster-configs": Operation.DESCRIBE_CONFIGS,
    "cluster-configure": Operation.ALTER_CONFIGS,
    "cluster-action": Operation.CLUSTER_ACTION,
}


def rules(text: str) -> str:
    return f"{WEB}ingress: [{{fromEntities: [all], toPorts: [{{{PORT}, rules: {{kafka: {text}}}}}]}}]"


def asked(text: str, *, api: int = 0, version: int = 7, client: str = "me") -> KafkaRequest:
    """`write orders`, `group *` (any), `idempotent`, `nothing`."""
    word, _, name = text.partition(" ")
    if word == "nothing":
        return KafkaRequest(api, version, client)
    if word in CLUSTER:
        return KafkaRequest(api, version, client, None, CLUSTER[word], Resource.CLUSTER, "")
    operation, resource = ASKED[word]
    wanted = None if name == "*" else name
    topic = wanted if resource is Resource.TOPIC else None
    return KafkaRequest(api, version, client, topic, operation, resource, wanted)


def allowed(world: World, questions: str, **how: str | int) -> set[str]:
    """Those of the questions, set apart by commas, that are allowed."""
    found = set()
    for text in questions.split(", "):
        if world.ask_kafka("frontend", asked(text, **how)).allow:  # type: ignore[arg-type]  # by their names
            found.add(text)
    return found


def some(text: str) -> set[str]:
    """The same list without judging it."""
    return set(text.split(", ")) - {""}


EVERYTHING = ", ".join(
    [
        *(f"{word} {name}" for word in ASKED for name in ("orders", "other")),
        *CLUSTER,
        "nothing",
    ]
)


@pytest.mark.parametrize(
    ("rule", "yes"),
    [
        ("role: produce, topic: orders", "write orders, describe orders"),
        ("role: Produce", "write orders, describe orders, write other, describe other"),
        ("role: consume, topic: orders", "read orders, describe orders"),
    ],
)
def test_roles_of_cilium(rule: str, yes: str) -> None:
    world = World(cilium(rules(f"[{{{rule}}}]")))
    assert world.connect("frontend") is PROXY
    both = "transact orders, transact other, see-transaction orders, see-transaction other, idempotent"
    groups = "group orders, group other, see-group orders, see-group other"
    beside = some(both) if "roduce" in rule else some(groups)
    assert allowed(world, EVERYTHING) == some(yes) | beside | {"nothing"}
    # no request of another protocol is allowed by a kafka rule
    assert not world.ask("frontend").allow


@pytest.mark.parametrize(
    ("rule", "yes"),
    [
        ("{}", set(EVERYTHING.split(", ")) - {"cluster-action"}),
        (
            "{topic: orders}",
            some(
                "write orders, read orders, describe orders, create orders, delete orders, alter orders, "
                "configs orders, configure orders, group orders, group other, see-group orders, see-group other, "
                "transact orders, transact other, see-transaction orders, see-transaction other, idempotent, nothing"
            ),
        ),
        ("{clientID: you}", {"nothing"}),
        ("{apiVersion: '8'}", {"nothing"}),
    ],
)
def test_a_rule_without_a_role(rule: str, yes: set[str]) -> None:
    assert allowed(World(cilium(rules(f"[{rule}]"))), EVERYTHING) == yes


def test_an_empty_list_of_kafka_rules_allows_every_request_and_no_broker_s_own() -> None:
    world = World(cilium(rules("[]")))
    assert world.connect("frontend") is PROXY
    assert allowed(world, EVERYTHING) == set(EVERYTHING.split(", ")) - {"cluster-action"}
    assert world.ask_kafka("frontend", asked("write x")).rule == "default/p ingress[0].toPorts[0].kafka[]"


def test_an_api_key_is_all_that_it_asks() -> None:
    fetch = World(cilium(rules("[{apiKey: Fetch}]")))
    assert allowed(fetch, "read orders, group g", api=1) == some("read orders, group g")
    assert allowed(fetch, "write orders, read orders, group g", api=0) == set()
    named = World(cilium(rules("[{apiKey: offsetcommit, topic: orders}]")))
    assert allowed(named, "read orders, read other, group g, cluster-alter", api=8) == some("read orders, group g")
    create = World(cilium(rules("[{apiKey: createtopics, topic: orders}]")))
    assert allowed(create, "cluster-create, create orders, create other", api=19) == {"create orders"}
    anywhere = World(cilium(rules("[{apiKey: createtopics}]")))
    assert allowed(anywhere, "cluster-create, create orders", api=19) == some("cluster-create, create orders")
    brokers = World(cilium(rules("[{apiKey: envelope}]")))
    assert allowed(brokers, "cluster-action", api=58) == set()


def test_api_version_and_client_id() -> None:
    world = World(cilium(rules("[{apiKey: fetch, apiVersion: '7', clientID: me}]")))
    assert allowed(world, "read orders", api=1) == {"read orders"}
    assert allowed(world, "read orders", api=1, version=8) == set()
    assert allowed(world, "read orders", api=1, client="Me") == set()


def test_what_asks_for_nothing_is_allowed_beside_any_rule_that_allows() -> None:
    world = World(cilium(rules("[{role: produce, topic: orders, clientID: you}]")))
    assert allowed(world, "nothing", api=18) == {"nothing"}
    deny = World(tulle(rules("[{action: Deny, topic: orders}]")))
    assert allowed(deny, "nothing", api=18) == set()
    # a question that names something is no question about nothing
    for odd in (KafkaRequest(0, 9, "me", "orders"), KafkaRequest(0, 9, resource=Resource.TOPIC, name=None)):
        assert not world.ask_kafka("frontend", odd).allow


@pytest.mark.parametrize(
    ("denial", "nothing"),
    [
        ("{action: Deny, apiKey: ApiVersions}", False),
        ("{action: Deny}", False),
        ("{action: Deny, clientID: me}", False),
        ("{action: Deny, clientID: you}", True),
        ("{action: Deny, apiKey: fetch}", True),
        ("{action: Deny, topic: orders}", True),
        ("{action: Deny, role: produce}", True),
    ],
)
def test_what_asks_for_nothing_can_be_denied(denial: str, nothing: bool) -> None:
    world = World(tulle(rules(f"[{{}}, {denial}]")))
    assert world.ask_kafka("frontend", asked("nothing", api=18)).allow is nothing


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("topic: a.b", ["a.b"], ["a-b", "a.bc", "A.B", ""]),
        ("topicPrefix: pay", ["pay", "pay-1", "payments"], ["pa", "Pay", "xpay", ""]),
        ("topicGlob: 'pay-*-v?'", ["pay--v1", "pay-x-y-v2"], ["pay-v1", "pay-x-v", "pay-x-v12", "xpay-a-v1"]),
        ("topicGlob: '*.dlq'", [".dlq", "a.dlq"], ["a.dlqs", "axdlq"]),
        ("topicGlob: 'a.b'", ["a.b"], ["axb"]),
        ("topicGlob: 'pay*'", ["pay", "payments"], ["pa"]),
        ("topicGlob: '*'", ["a", ""], []),
    ],
)
def test_names_of_topics(name: str, yes: list[str], no: list[str]) -> None:
    for action, verdict in (("Allow", True), ("Deny", False)):
        beside = "" if verdict else "{}, "
        world = World(tulle(rules(f"[{beside}{{action: {action}, {name}}}]")))
        assert {topic: world.ask_kafka("frontend", asked(f"read {topic}")).allow for topic in [*yes, *no]} == (
            dict.fromkeys(yes, verdict) | dict.fromkeys(no, not verdict)
        )


@pytest.mark.parametrize(
    ("rule", "yes"),
    [
        ("role: consume, group: billing", "read other, group billing, see-group billing"),
        ("role: consume, groupPrefix: bill", "read other, group billing, see-group billing"),
        ("role: produce, transactionalId: billing", "write other, transact billing, see-transaction billing"),
        ("role: produce, transactionalIdPrefix: b", "write other, transact billing, see-transaction billing"),
        ("group: billing", "group billing, see-group billing, drop-group billing"),
        ("transactionalId: billing", "transact billing, see-transaction billing"),
        (
            "topic: other, group: billing",
            "read other, write other, group billing, see-group billing, drop-group billing, "
            "transact billing, see-transaction billing, transact o, see-transaction o",
        ),
        ("apiKey: produce, group: billing", "read other, write other, group billing, see-group billing, "
         "drop-group billing, transact billing, see-transaction billing, transact o, see-transaction o"),
    ],
)  # fmt: skip
def test_groups_and_transactional_ids(rule: str, yes: str) -> None:
    world = World(tulle(rules(f"[{{{rule}}}]")))
    questions = ", ".join(
        f"{word} {name}"
        for word in ("group", "see-group", "drop-group", "transact", "see-transaction")
        for name in ("billing", "o")
    )
    assert allowed(world, f"{questions}, read other, write other") == some(yes)


@pytest.mark.parametrize(
    ("rule", "yes"),
    [
        (
            "role: admin",
            "create orders, delete orders, alter orders, describe orders, configs orders, configure orders, "
            "create other, delete other, alter other, describe other, configs other, configure other, "
            "see-group orders, drop-group orders, configure-group orders, "
            "see-group other, drop-group other, configure-group other, "
            "see-transaction orders, see-transaction other, "
            "cluster-create, cluster-alter, cluster-describe, cluster-configs, cluster-configure, nothing",
        ),
        (
            "role: admin, topicPrefix: ord",
            "create orders, delete orders, alter orders, describe orders, configs orders, configure orders, nothing",
        ),
        ("role: admin, group: orders", "see-group orders, drop-group orders, configure-group orders, nothing"),
    ],
)
def test_the_role_admin(rule: str, yes: str) -> None:
    assert allowed(World(tulle(rules(f"[{{{rule}}}]"))), EVERYTHING) == some(yes)


@pytest.mark.parametrize(
    ("denial", "no"),
    [
        ("role: produce, topic: orders", "write orders"),
        ("role: consume, topic: orders", "read orders"),
        ("role: consume, group: orders", "group orders"),
        ("role: consume", "read orders, read other, group orders, group other"),
        ("role: produce", "write orders, write other, transact orders, transact other"),
        ("role: admin, topic: orders", "create orders, delete orders, alter orders, configure orders"),
        (
            "role: admin",
            "create orders, delete orders, alter orders, configure orders, create other, delete other, alter other, "
            "configure other, drop-group orders, configure-group orders, drop-group other, configure-group other, "
            "cluster-create, cluster-alter, cluster-configure",
        ),
        ("apiKey: fetch", ""),
        ("apiKey: produce, topic: orders", ", ".join(f"{word} orders" for word in list(ASKED)[:8])),
        ("group: orders", "group orders, see-group orders, drop-group orders, configure-group orders"),
    ],
)
def test_a_denial_of_a_role_denies_its_main_operations(denial: str, no: str) -> None:
    world = World(tulle(rules(f"[{{}}, {{action: Deny, {denial}}}]")))
    assert set(EVERYTHING.split(", ")) - allowed(world, EVERYTHING) == some(no) | {"cluster-action"}


def test_a_kafka_denial_beats_a_kafka_allow() -> None:
    world = World(tulle(rules("[{role: produce}, {topic: secret, action: Deny}]")))
    assert world.ask_kafka("frontend", asked("write orders")).allow
    denied = world.ask_kafka("frontend", asked("write secret"))
    assert (denied.allow, denied.rule) == (False, "TulleNetworkPolicy default/t ingress[0].toPorts[0].kafka[1]")
    beside = World(tulle(rules("[{topic: secret, action: Deny}]")), cilium(f"{WEB}ingress: [{{fromEntities: [all]}}]"))
    assert beside.connect("frontend") is PROXY
    assert allowed(beside, "write secret, write orders, cluster-action, nothing") == some(
        "write orders, cluster-action, nothing"
    )


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("[{}]", True),
        ("[{role: consume}]", True),
        ("[{topicGlob: '**'}]", True),
        ("[{role: produce}]", False),
        ("[{topic: a}, {topicPrefix: b}, {topicGlob: '?'}]", False),
        ("[{}, {action: Deny, topic: a}]", False),
        ("[{}, {action: Deny, topicGlob: 'a?'}]", False),
        ("[{}, {action: Deny, role: produce, topic: a}]", True),
        ("[{}, {action: Deny, topic: a, clientID: you}]", True),
        ("[{}, {action: Deny, group: a}]", True),
    ],
)
def test_every_topic(text: str, yes: bool) -> None:
    world = World(tulle(rules(text)))
    assert world.ask_kafka("frontend", replace(asked("read every"), name="*", topic="*")).allow is yes


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("[{role: produce, topic: a}]", True),
        ("[{role: produce, topicPrefix: a}]", True),
        ("[{role: consume, topic: a}]", False),
        ("[{role: produce, topic: a}, {action: Deny, topic: a}]", False),
        ("[{role: produce, topic: a}, {action: Deny, topic: b}]", True),
        ("[{role: produce, topic: a}, {action: Deny, topicPrefix: a}]", False),
        ("[{role: produce, topic: ab}, {action: Deny, topicGlob: '?b'}]", False),
        ("[{role: produce, topicPrefix: ab}, {action: Deny, topicPrefix: a}]", False),
        ("[{role: produce, topicPrefix: a}, {action: Deny, topicPrefix: ab}]", True),
        ("[{role: produce, topicPrefix: a}, {action: Deny, topic: a}]", True),
        ("[{role: produce, topicGlob: 'a?'}, {action: Deny, topicGlob: 'a?'}]", False),
        ("[{role: produce, topicGlob: 'a?'}, {action: Deny, topicPrefix: a}]", False),
        ("[{role: produce}, {action: Deny, topicGlob: '*'}]", False),
        ("[{role: produce}, {action: Deny, role: produce}]", False),
        ("[{role: produce}, {action: Deny, role: consume}]", True),
        ("[{role: produce, topic: a}, {role: produce, topic: b}, {action: Deny, topic: a}]", True),
        ("[{role: produce, topic: a}, {action: Deny, topic: a, clientID: me}]", False),
        ("[{role: produce, topic: a}, {action: Deny, topic: a, clientID: you}]", True),
        ("[{role: produce, topic: a, clientID: you}]", False),
    ],
)
def test_any_of_a_kind(text: str, yes: bool) -> None:
    """KIP-679, authorizeByResourceType: some name that no denial covers."""
    assert World(tulle(rules(text))).ask_kafka("frontend", asked("write *")).allow is yes


def test_any_of_a_kind_beside_an_l4_allow_and_without_default_deny() -> None:
    wide = cilium(f"{WEB}ingress: [{{fromEntities: [all]}}]")
    for denial, yes in (("topic: a", True), ("role: produce", False)):
        world = World(tulle(rules(f"[{{action: Deny, {denial}}}]")), wide)
        assert world.ask_kafka("frontend", asked("write *")).allow is yes
    free = World(cilium(f"enableDefaultDeny: {{ingress: false}}\n{rules('[{role: consume, topic: a}]')}"))
    verdict = free.ask_kafka("frontend", asked("write *"))
    assert (verdict.allow, verdict.rule) == (True, DEFAULT_ALLOW)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[]", "kafka[]"),
        ("[{role: produce}, {}]", "kafka[1]"),
        ("[{role: produce}]", DEFAULT_DENY),
        ("[{}, {action: Deny, topic: a}]", DEFAULT_DENY),
        ("[{clientID: me}]", DEFAULT_DENY),
    ],
)
def test_what_cannot_be_read_is_allowed_where_any_request_is(text: str, rule: str) -> None:
    world = World(tulle(rules(text)))
    verdict = world.engine.kafka_unread(1, 0, world.identity("frontend"), 80)
    assert verdict.allow is (rule != DEFAULT_DENY)
    assert verdict.rule.endswith(rule)


def test_what_cannot_be_read_under_other_rules() -> None:
    free = World(cilium(f"enableDefaultDeny: {{ingress: false}}\n{rules('[{role: consume, topic: a}]')}"))
    verdict = free.engine.kafka_unread(1, 0, free.identity("frontend"), 80)
    assert (verdict.allow, verdict.rule) == (True, DEFAULT_ALLOW)
    audit = World(annotated(cilium(rules("[{role: produce}]")), mode="audit"))
    verdict = audit.engine.kafka_unread(1, 0, audit.identity("frontend"), 80)
    assert (verdict.allow, verdict.audited, verdict.rule) == (True, True, DEFAULT_DENY)
    http = World(cilium(rules("[{}]").replace("kafka", "http")))
    assert not http.engine.kafka_unread(1, 0, http.identity("frontend"), 80).allow


def test_the_first_rule_in_order_is_named() -> None:
    given = [
        KafkaRule("glob", role="consume", topic="o*r?", topic_kind=NameKind.GLOB),
        KafkaRule("prefix", role="consume", topic="ord", topic_kind=NameKind.PREFIX),
        KafkaRule("exact", role="consume", topic="order"),
        KafkaRule("client", client_id="me"),
        KafkaRule("any", role="consume"),
    ]
    made = Made(line("k", kafka=given))
    ask = made.engine.decide_kafka
    for question, client, rule in (
        ("read orders", "me", "glob"),
        ("read order", "me", "prefix"),
        ("read o", "me", "client"),
        ("read o", "you", "any"),
        ("write o", "me", "client"),
        ("write o", "you", DEFAULT_DENY),
    ):
        assert ask(1, 0, PEER, 80, asked(question, client=client)).rule == rule


@pytest.mark.parametrize(
    "make",
    [
        lambda i: KafkaRule(f"r{i}", "produce", topic=f"t-{i}"),
        lambda i: KafkaRule(f"r{i}", "produce", topic=f"t-{i}-", topic_kind=NameKind.PREFIX),
        lambda i: KafkaRule(f"r{i}", "produce", topic=f"t-{i}-*x", topic_kind=NameKind.GLOB),
        lambda i: KafkaRule(f"r{i}", "produce", topic=f"*-{i}", topic_kind=NameKind.GLOB),
        lambda i: KafkaRule(f"r{i}", topic="t-1", client_id=f"c{i}"),
        lambda i: KafkaRule(f"r{i}", "produce", topic="t-1"),
    ],
    ids=["exact", "prefix", "glob", "tail", "client", "same"],
)
def test_a_question_looks_at_few_of_many_rules(
    make: Callable[[int], KafkaRule], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0
    fits = Entry.fits

    def counted(entry: Entry, request: KafkaRequest) -> bool:
        nonlocal looked
        looked += 1
        return fits(entry, request)

    monkeypatch.setattr(Entry, "fits", counted)
    for count in (10, 5000):
        made = Made(line("k", kafka=[make(i) for i in range(count)]))
        for text in ("write t-1", "write t-1-x", "write t-9999", "read t-1", "write *", "transact x", "idempotent"):
            looked = 0
            made.engine.decide_kafka(1, 0, PEER, 80, asked(text, client="c7"))
            assert looked <= 4, (count, text)


def test_names_of_apis_are_those_of_the_table() -> None:
    for key, api in TABLE.apis.items():
        assert API_NAMES[key] == ("offsets" if key == 2 else api.name.lower())
    assert set(API_NAMES) == set(TABLE.apis)
    assert API_KEYS["listoffsets"] == API_KEYS["offsets"] == 2


def test_every_api_of_the_table_has_its_main_questions() -> None:
    assert set(MAIN) == set(TABLE.apis)
    for key, api in TABLE.apis.items():
        steps = [*questions(key, 0, "c", {Resource.TOPIC: "t", Resource.GROUP: "g"})]
        assert steps
        kinds = {asked.resource for step in steps for asked in step}
        if "broker" in api.listeners:
            # what the definitions say a request names, it is asked about
            entities = {field.entity for field in api.request.fields} if api.request is not None else set()
            if "groupId" in entities:
                assert Resource.GROUP in kinds, api.name
            if "transactionalId" in entities and key != 0:
                named = {a.resource for step in questions(key, 0, "c", {Resource.TRANSACTIONAL_ID: "t"}) for a in step}
                assert Resource.TRANSACTIONAL_ID in named, api.name


def test_main_questions_are_among_those_of_the_table_of_apis() -> None:
    text = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text()
    rows = [row.split("|") for row in text.splitlines() if re.match(r"\| [0-9]+ \|", row)]
    assert len(rows) > 80
    for _, key, _, words, *_ in rows:
        asks = [ask for step in MAIN[int(key)] for ask in step]
        assert bool(asks) is (words.strip() != "nothing"), (key, words)
        for ask in asks:
            assert re.search(rf"\b{ask.operation}\b", words), (key, words)
            assert re.search(rf"\b{ask.resource}\b|any topic" if ask.resource == "Topic" else ask.resource, words), (
                key,
                words,
            )


def test_main_questions_ask_about_what_is_named() -> None:
    def text(key: int, **names: str) -> list[list[str]]:
        given = {Resource[name.upper()]: value for name, value in names.items()}
        return [
            [f"{asked.operation} {asked.resource} {asked.name}" for asked in step]
            for step in questions(key, 9, "c", given)
        ]

    assert text(0, topic="t") == [["Write Topic t"]]
    assert text(0) == [["Write Topic None"]]
    assert text(0, topic="t", transactional_id="x") == [["Write Topic t"], ["Write TransactionalId x"]]
    assert text(22) == [["IdempotentWrite Cluster ", "Write Topic None"]]
    assert text(22, transactional_id="x") == [["Write TransactionalId x"]]
    assert text(10) == [["Describe Group None"]]
    assert text(10, transactional_id="x") == [["Describe TransactionalId x"]]
    assert text(18) == [["Nothing Cluster "]]
    assert text(33) == [["AlterConfigs Cluster "]]
    assert text(33, topic="t") == [["AlterConfigs Topic t"]]
    assert text(33, group="g") == [["AlterConfigs Group g"]]
    assert text(8, topic="t", group="g") == [["Read Group g"], ["Read Topic t"]]


def test_globs_are_anchored_patterns() -> None:
    fits = matcher(glob_pattern("a.*-?"))
    assert [text for text in ("a.-b", "a.x\ny-z", "a.-", "ax-b", "a.-bc", "xa.-b") if fits(text)] == [
        "a.-b",
        "a.x\ny-z",
    ]


def test_wire_keeps_every_part_of_a_kafka_rule() -> None:
    rule = "{role: consume, topicGlob: 'a*b', groupPrefix: g}, {apiKey: fetch, action: Deny, transactionalId: x}"
    world = World(tulle(rules(f"[{rule}]")))
    found = decode(encode(world.engine.ruleset))
    assert found == world.engine.ruleset
    kafka = found.endpoints[1].ingress.lines[0].kafka or ()
    assert [each.topic_kind for each in kafka] == [NameKind.GLOB, NameKind.EXACT]
    assert acls(kafka[0])[1] == (Resource.GROUP, (Operation.READ, Operation.DESCRIBE), "g", NameKind.PREFIX)
