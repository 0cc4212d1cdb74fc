"""What `explain` says of an API is what the proxy does: main questions beside `proxy.kafka.apis`."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request, decode_request, encode_request
from parsers.kafka.table import TABLE
from policies.engine import Engine
from policies.kafka_questions import MAIN, questions
from policies.requests import KafkaRequest, Operation, Resource
from policies.ruleset import KafkaRule
from proxy.kafka.apis import judge
from proxy.kafka.plan import Action
from tests.policies.documents import fewer
from tests.policies.made import PEER, Made, line
from tests.policies.test_kafka_reference import kafka_rules

TOPIC, GROUP, TRANSACTION = Resource.TOPIC, Resource.GROUP, Resource.TRANSACTIONAL_ID
PART = {"Partitions": [{"PartitionIndex": 0}]}
NAMES = {TOPIC: "ab", GROUP: "b", TRANSACTION: "a"}

# one request of an API that names what is in NAMES of these kinds
REQUESTS: list[tuple[str, int, tuple[Resource, ...], Tree]] = [
    ("Produce", 9, (TOPIC,), {"Acks": 1, "TransactionalId": None, "TopicData": [{"Name": "ab", "PartitionData": []}]}),
    (
        "Produce",
        9,
        (TOPIC, TRANSACTION),
        {"Acks": 1, "TransactionalId": "a", "TopicData": [{"Name": "ab", "PartitionData": [{"Records": b""}]}]},
    ),
    ("ListOffsets", 7, (TOPIC,), {"Topics": [{"Name": "ab", **PART}]}),
    ("Metadata", 12, (TOPIC,), {"Topics": [{"Name": "ab"}]}),
    ("OffsetCommit", 8, (TOPIC, GROUP), {"GroupId": "b", "Topics": [{"Name": "ab", **PART}]}),
    ("OffsetFetch", 7, (TOPIC, GROUP), {"GroupId": "b", "Topics": [{"Name": "ab", "PartitionIndexes": [0]}]}),
    ("FindCoordinator", 3, (GROUP,), {"Key": "b", "KeyType": 0}),
    ("FindCoordinator", 3, (TRANSACTION,), {"Key": "a", "KeyType": 1}),
    ("JoinGroup", 5, (GROUP,), {"GroupId": "b", "ProtocolType": "consumer"}),
    ("SyncGroup", 3, (GROUP,), {"GroupId": "b"}),
    ("Heartbeat", 4, (GROUP,), {"GroupId": "b"}),
    ("LeaveGroup", 4, (GROUP,), {"GroupId": "b"}),
    ("DescribeGroups", 5, (GROUP,), {"Groups": ["b"]}),
    ("ListGroups", 4, (), {}),
    ("ApiVersions", 3, (), {"ClientSoftwareName": "x", "ClientSoftwareVersion": "1"}),
    ("CreateTopics", 6, (TOPIC,), {"Topics": [{"Name": "ab", "NumPartitions": 1}]}),
    ("DeleteTopics", 5, (TOPIC,), {"TopicNames": ["ab"]}),
    ("DeleteRecords", 2, (TOPIC,), {"Topics": [{"Name": "ab", **PART}]}),
    ("InitProducerId", 4, (), {"TransactionalId": None}),
    ("InitProducerId", 4, (TRANSACTION,), {"TransactionalId": "a"}),
    ("OffsetForLeaderEpoch", 4, (TOPIC,), {"Topics": [{"Topic": "ab", "Partitions": [{"Partition": 0}]}]}),
    (
        "AddPartitionsToTxn",
        3,
        (TOPIC, TRANSACTION),
        {"V3AndBelowTransactionalId": "a", "V3AndBelowTopics": [{"Name": "ab", "Partitions": [0]}]},
    ),
    ("AddOffsetsToTxn", 3, (GROUP, TRANSACTION), {"TransactionalId": "a", "GroupId": "b"}),
    ("EndTxn", 3, (TRANSACTION,), {"TransactionalId": "a"}),
    (
        "TxnOffsetCommit",
        3,
        (TOPIC, GROUP, TRANSACTION),
        {"TransactionalId": "a", "GroupId": "b", "Topics": [{"Name": "ab", **PART}]},
    ),
    ("DescribeAcls", 3, (), {"ResourceTypeFilter": 1, "PatternTypeFilter": 1, "Operation": 1, "PermissionType": 1}),
    (
        "CreateAcls",
        3,
        (),
        {"Creations": [{"ResourceType": 2, "ResourceName": "ab", "Principal": "User:a", "Host": "*"}]},
    ),
    ("DescribeConfigs", 4, (TOPIC,), {"Resources": [{"ResourceType": 2, "ResourceName": "ab"}]}),
    ("DescribeConfigs", 4, (GROUP,), {"Resources": [{"ResourceType": 32, "ResourceName": "b"}]}),
    ("DescribeConfigs", 4, (), {"Resources": [{"ResourceType": 4, "ResourceName": "1"}]}),
    ("IncrementalAlterConfigs", 1, (TOPIC,), {"Resources": [{"ResourceType": 2, "ResourceName": "ab"}]}),
    ("CreatePartitions", 3, (TOPIC,), {"Topics": [{"Name": "ab", "Count": 2, "Assignments": None}]}),
    ("DeleteGroups", 2, (GROUP,), {"GroupsNames": ["b"]}),
    ("OffsetDelete", 0, (TOPIC, GROUP), {"GroupId": "b", "Topics": [{"Name": "ab", **PART}]}),
    ("DescribeClientQuotas", 1, (), {}),
    ("AlterClientQuotas", 1, (), {}),
    ("Vote", 0, (), {"ClusterId": None}),
    ("DescribeQuorum", 1, (), {}),
    ("UpdateFeatures", 1, (), {}),
    ("DescribeCluster", 1, (), {}),
    ("DescribeProducers", 0, (TOPIC,), {"Topics": [{"Name": "ab", "PartitionIndexes": [0]}]}),
    ("UnregisterBroker", 0, (), {"BrokerId": 1}),
    ("DescribeTransactions", 0, (TRANSACTION,), {"TransactionalIds": ["a"]}),
    ("ListTransactions", 1, (), {}),
    ("ConsumerGroupHeartbeat", 0, (TOPIC, GROUP), {"GroupId": "b", "SubscribedTopicNames": ["ab"]}),
    ("ConsumerGroupDescribe", 0, (GROUP,), {"GroupIds": ["b"]}),
    ("GetTelemetrySubscriptions", 0, (), {}),
    ("ListConfigResources", 1, (), {}),
    ("DescribeTopicPartitions", 0, (TOPIC,), {"Topics": [{"Name": "ab"}], "Cursor": None}),
    ("ShareGroupHeartbeat", 1, (TOPIC, GROUP), {"GroupId": "b", "MemberId": "m", "SubscribedTopicNames": ["ab"]}),
    ("AlterShareGroupOffsets", 0, (TOPIC, GROUP), {"GroupId": "b", "Topics": [{"TopicName": "ab", "Partitions": []}]}),
    ("DeleteShareGroupOffsets", 0, (TOPIC, GROUP), {"GroupId": "b", "Topics": [{"TopicName": "ab"}]}),
]


@dataclass
class ByEngine:
    """`Authorizer`, by rules."""

    engine: Engine
    api_key: int
    version: int
    asked: list[bool] = field(default_factory=list)

    def allows(self, operation: Operation, resource: Resource, name: str | None) -> bool:
        """See `Authorizer`."""
        topic = name if resource is TOPIC else None
        question = KafkaRequest(self.api_key, self.version, "c", topic, operation, resource, name)
        return self.engine.decide_kafka(1, 0, PEER, 80, question).allow

    def sees(self, operation: Operation, resource: Resource, name: str) -> bool:
        """See `Authorizer`."""
        return self.allows(operation, resource, name)

    def topic_name(self, topic_id: bytes) -> str | None:
        """See `Authorizer`."""
        return None


def done(engine: Engine, key: int, version: int, body: Tree) -> bool:
    """Whether the request, or what is left of it, goes on."""
    frame = encode_request(Request(key, version, 7, "c", body))
    plan = judge(decode_request(frame), ByEngine(engine, key, version))
    if plan.action is Action.EDIT and key == TABLE.keys["Metadata"]:  # without its topics it still tells of brokers
        return bool(plan.body and plan.body["Topics"])
    return plan.action in (Action.PASS, Action.EDIT)


def explained(engine: Engine, key: int, version: int, names: dict[Resource, str]) -> bool:
    """Whether each step has a question that is allowed."""
    return all(
        any(engine.decide_kafka(1, 0, PEER, 80, asked).allow for asked in step)
        for step in questions(key, version, "c", names)
    )


@fewer
@given(st.lists(kafka_rules(), max_size=4))
def test_main_questions_say_what_is_done_with_a_request(rules: list[KafkaRule]) -> None:
    engine = Made(line("k", kafka=rules)).engine
    for api, version, kinds, body in REQUESTS:
        key = TABLE.keys[api]
        names = {kind: NAMES[kind] for kind in kinds}
        assert done(engine, key, version, body) == explained(engine, key, version, names), (api, kinds)


def test_each_kind_of_main_question_has_a_request() -> None:
    steps = {MAIN[TABLE.keys[api]] for api, *_ in REQUESTS}
    assert set(MAIN.values()) - steps == {MAIN[TABLE.keys[api]] for api in ELSEWHERE}


ELSEWHERE = ("WriteTxnMarkers", "CreateDelegationToken", "DescribeLogDirs")
"""Their requests are not only about what a person names: see docs/kafka.md."""


@pytest.mark.parametrize(("rules", "yes"), [([KafkaRule("all")], True), ([], False)])
def test_everything_and_nothing(rules: list[KafkaRule], yes: bool) -> None:
    engine = Made(line("k", kafka=rules)).engine
    for api, version, _, body in REQUESTS:
        if api != "Vote":
            assert done(engine, TABLE.keys[api], version, body) is yes, api
