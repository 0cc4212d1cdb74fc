"""The engine beside the plainest authorizer that Kafka's documentation describes, over made-up rules and questions.

The authorizer here knows nothing of `policies.kafka`: it expands each rule into access lists by a table of its own, in
which roles have their main operations alone, and works out the rest by Kafka's implications.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from policies.engine import DEFAULT_DENY
from policies.requests import KafkaRequest, Operation, Resource
from policies.ruleset import KafkaRule, NameKind
from tests.policies.documents import fewer
from tests.policies.made import PEER, Made, line

ALL = "All"
TOPIC, GROUP, TRANSACTION, CLUSTER = (
    Resource.TOPIC, Resource.GROUP, Resource.TRANSACTIONAL_ID, Resource.CLUSTER
)  # fmt: skip
ROLES = {
    "produce": {TOPIC: ["Write"], TRANSACTION: ["Write"], CLUSTER: ["IdempotentWrite"]},
    "consume": {TOPIC: ["Read"], GROUP: ["Read"]},
    "admin": {
        TOPIC: ["Create", "Delete", "Alter", "AlterConfigs"],
        GROUP: ["Delete", "AlterConfigs"],
        TRANSACTION: ["Describe"],
        CLUSTER: ["Create", "Alter", "AlterConfigs"],
    },
}


@dataclass(frozen=True)
class List:
    """An access list; pattern "any", "exact", "prefix" or "glob"."""

    rule: KafkaRule
    resource: Resource
    operation: str
    pattern: str
    name: str

    def covers(self, name: str | None) -> bool:
        match self.pattern:
            case "any":
                return True
            case "exact":
                return name == self.name
            case "prefix":
                return name is not None and name.startswith(self.name)
        return name is not None and fnmatchcase(name, self.name)

    def is_for(self, asked: KafkaRequest) -> bool:
        rule = self.rule
        if asked.resource is not self.resource:
            return False
        if rule.api_key not in (None, asked.api_key) or rule.api_version not in (None, asked.api_version):
            return False
        if rule.client_id not in (None, asked.client_id):
            return False
        wanted = {str(asked.operation)}
        if not rule.deny and asked.operation is Operation.DESCRIBE:
            wanted |= {"Read", "Write", "Delete", "Alter"}
        if not rule.deny and asked.operation is Operation.DESCRIBE_CONFIGS:
            wanted.add("AlterConfigs")
        return self.operation == ALL or self.operation in wanted


def lists_of(rule: KafkaRule) -> Iterable[List]:
    named = {
        TOPIC: (rule.topic, rule.topic_kind),
        GROUP: (rule.group, rule.group_kind),
        TRANSACTION: (rule.transactional_id, rule.transactional_id_kind),
    }
    named = {resource: (name, kind) for resource, (name, kind) in named.items() if name is not None}
    reach: dict[Resource, list[str]] = {}
    if rule.role:
        reach = dict(ROLES[rule.role])
        if rule.deny:
            reach = {r: [o for o in found if o not in ("Describe", "IdempotentWrite")] for r, found in reach.items()}
        if named and (rule.deny or rule.role == "admin"):
            reach = {resource: found for resource, found in reach.items() if resource in named}
    elif not named:
        reach = {resource: [ALL] for resource in Resource}
    elif rule.deny:
        reach = {resource: [ALL] for resource in named}
    elif rule.api_key is not None:
        reach = {TOPIC: [ALL], GROUP: [ALL], TRANSACTION: [ALL], CLUSTER: ["IdempotentWrite"]}
    elif TOPIC in named:
        reach = {GROUP: ["Read"], TRANSACTION: ["Write"], CLUSTER: ["IdempotentWrite"]}
        reach |= {resource: [ALL] for resource in named}
    else:
        reach = {resource: [ALL] for resource in named}
    for resource, operations in reach.items():
        name, kind = named.get(resource, ("", "any"))
        for operation in operations:
            yield List(rule, resource, operation, str(kind), name or "")


def authorize(rules: list[KafkaRule], asked: KafkaRequest) -> tuple[bool, set[str]]:
    """Whether it is allowed, and the names of the rules that could be named for it."""
    lists = [each for rule in rules for each in lists_of(rule) if each.is_for(asked)]
    every = asked.name == "*" and asked.resource is TOPIC
    denying = [each for each in lists if each.rule.deny and (every or each.covers(asked.name))]
    if denying:
        return False, {denying[0].rule.name}
    if asked.operation is Operation.CLUSTER_ACTION:
        return False, {DEFAULT_DENY}
    allowing = [each for each in lists if not each.rule.deny]
    if every:
        allowing = [each for each in allowing if each.pattern == "any"]
    elif asked.name is not None or asked.resource is CLUSTER:
        allowing = [each for each in allowing if each.covers(asked.name)]
    else:  # by resource type: some list that no denial dominates
        allowing = [each for each in allowing if not dominated(each, [one for one in lists if one.rule.deny])]
    return bool(allowing), {allowing[0].rule.name if allowing else DEFAULT_DENY}


def dominated(one: List, denials: list[List]) -> bool:
    """Kafka has literals and prefixes; a glob is dominated by itself, and by a prefix of what it begins with."""
    head = one.name.replace("?", "*").partition("*")[0] if one.pattern == "glob" else one.name
    for denial in denials:
        if denial.pattern == "any":
            return True
        if one.pattern == "any":
            continue
        if one.pattern == "exact" and denial.covers(one.name):
            return True
        if denial.pattern == "prefix" and head.startswith(denial.name):
            return True
        if denial.pattern == one.pattern == "glob" and denial.name == one.name:
            return True
    return False


TEXTS = ["a", "ab", "abc", "b", "ba"]
GLOBS = ["a?", "?b", "a*c", "*b*"]
names = st.sampled_from([None, *TEXTS])
kinds = st.sampled_from([NameKind.EXACT, NameKind.PREFIX])


@st.composite
def kafka_rules(draw: st.DrawFn) -> KafkaRule:
    """Any rule that a document can have, and denials of several things, which it cannot."""
    role = draw(st.sampled_from(["", "produce", "consume", "admin"]))
    topic, topic_kind = draw(names), draw(kinds)
    if topic is not None and draw(st.booleans()):
        topic, topic_kind = draw(st.sampled_from(GLOBS)), NameKind.GLOB
    rare = draw(st.integers(0, 3)) == 0
    return KafkaRule(
        f"r{draw(st.integers(0, 99))}",
        role,
        draw(st.sampled_from([None, 0, 1])) if not role and rare else None,
        draw(st.sampled_from([None, 5])) if rare else None,
        draw(st.sampled_from([None, "c"])) if rare else None,
        topic,
        draw(st.integers(0, 2)) == 0,
        topic_kind,
        draw(names) if draw(st.booleans()) else None,
        draw(kinds),
        draw(names) if draw(st.booleans()) else None,
        draw(kinds),
    )


operations = [each for each in Operation if each is not Operation.NOTHING]
QUESTIONS = [
    KafkaRequest(key, version, client, None, operation, resource, name)
    for key, version, client in ((0, 5, "c"), (1, 6, "d"))
    for operation in operations
    for resource in (TOPIC, GROUP, TRANSACTION, CLUSTER, Resource.USER)
    for name in ([""] if resource is CLUSTER else [None, *TEXTS, "bab", "", "*"])
]


@fewer
@given(st.lists(kafka_rules(), max_size=6))
def test_questions_are_answered_as_kafka_s_authorizer_does(rules: list[KafkaRule]) -> None:
    made = Made(line("k", kafka=rules))
    for asked in QUESTIONS:
        found = made.engine.decide_kafka(1, 0, PEER, 80, asked)
        allow, named = authorize(rules, asked)
        assert (found.allow, found.rule in named) == (allow, True), (asked, found.rule, named)


@given(st.lists(kafka_rules(), max_size=4), kafka_rules())
def test_one_more_allow_never_denies_and_one_more_denial_never_allows(rules: list[KafkaRule], more: KafkaRule) -> None:
    before, after = Made(line("k", kafka=rules)), Made(line("k", kafka=[*rules, more]))
    for asked in QUESTIONS[:: len(QUESTIONS) // 101]:
        one, two = (made.engine.decide_kafka(1, 0, PEER, 80, asked).allow for made in (before, after))
        assert two <= one if more.deny else one <= two


@given(
    st.lists(kafka_rules(), min_size=1, max_size=6).flatmap(
        lambda each: st.tuples(st.just(each), st.permutations(each))
    )
)
def test_the_order_of_kafka_rules_never_matters(orders: tuple[list[KafkaRule], list[KafkaRule]]) -> None:
    one, two = (Made(line("k", kafka=rules)) for rules in orders)
    for asked in QUESTIONS[:: len(QUESTIONS) // 101]:
        ask = [made.engine.decide_kafka(1, 0, PEER, 80, asked).allow for made in (one, two)]
        assert ask[0] == ask[1]
