"""What a client does that wants more than its own: sessions of others, denials out of sight, a worker out of breath."""

import pytest

from parsers.kafka.codec import Tree
from policies.ruleset import KafkaRule
from proxy.counters import new_counters
from proxy.kafka.apis import judge, refuse
from proxy.kafka.questions import MAX_QUESTIONS
from proxy.kafka.shared import Shared
from proxy.kafka.upload import ELEMENT_BYTES, MAX_TOPICS
from proxy.limits import Limits
from tests.proxy.dialogue import PORT
from tests.proxy.helpers import rules
from tests.proxy.kafka_talk import (
    METADATA,
    PRODUCE,
    Talk,
    answer,
    described,
    ids_of,
    metadata,
    request,
)

SHARE_FETCH, OFFSET_FETCH, DELETE_GROUPS, ALTER_CONFIGS = 78, 9, 42, 44
IDS = ids_of("orders", "secrets")


def consumer(limits: Limits | None = None) -> Talk:
    """A flow that may read `orders` in the groups that begin with `billing`, judged as in the product."""
    talk = Talk(limits=limits, shared=Shared(new_counters(), judge, refuse))
    rule = KafkaRule("r", role="consume", topic="orders", group="billing")
    talk.box.swap(rules(port=PORT, revision=2, kafka=(rule,)))
    talk.layer.rules_changed()
    return talk


def share(correlation_id: int, *topics: str, epoch: int, most: int = 1 << 20, acknowledges: bool = False) -> bytes:
    """A ShareFetch of the member "victim"."""
    batches: list[Tree] = [{"FirstOffset": 0, "LastOffset": 0, "AcknowledgeTypes": [1]}] if acknowledges else []
    body: Tree = {
        "GroupId": "billing",
        "MemberId": "victim",
        "ShareSessionEpoch": epoch,
        "MaxBytes": most,
        "Topics": [
            {"TopicId": IDS[topic], "Partitions": [{"PartitionIndex": 0, "AcknowledgementBatches": batches}]}
            for topic in topics
        ],
        "ForgottenTopicsData": [],
    }
    return request(SHARE_FETCH, 1, correlation_id, body)


def shared(correlation_id: int, *topics: str, error: int = 0) -> bytes:
    """The broker's answer, which holds a record of each topic."""
    partition = {"PartitionIndex": 0, "CurrentLeader": {}, "Records": b"a record", "AcquiredRecords": []}
    topics_told = [{"TopicId": IDS[topic], "Partitions": [partition]} for topic in topics]
    return answer(SHARE_FETCH, 1, correlation_id, {"ErrorCode": error, "Responses": topics_told, "NodeEndpoints": []})


def knowing() -> Talk:
    """A consumer that knows what ids mean."""
    talk = consumer()
    talk.client(metadata(0))
    talk.broker(described(0, "orders", "secrets"))
    return talk


def test_a_share_session_of_somebody_else_is_not_read() -> None:
    """A session is found by group and member. Brokers refuse to open one with acknowledgements and leave another's
    untouched (SharePartitionManager.newContext), so the one that goes on is the victim's."""
    talk = knowing()
    talk.client(share(1, "orders", epoch=0, acknowledges=True), share(2, epoch=5))
    talk.broker(shared(1, error=42), shared(2, "orders", "secrets"))
    assert talk.got(SHARE_FETCH, 1).body["ErrorCode"] == 122
    assert b"a record" not in bytes(talk.edge.down)
    sent = len(talk.up)
    talk.client(share(3, epoch=6))
    assert len(talk.up) == sent


def test_a_share_session_that_its_owner_opened_again_is_not_read() -> None:
    talk = knowing()
    talk.client(share(1, "orders", epoch=0))
    talk.broker(shared(1, "orders"))
    talk.edge.down.clear()
    talk.client(share(2, epoch=1))
    talk.broker(shared(2, "secrets"))
    assert talk.got(SHARE_FETCH, 1).body["ErrorCode"] == 122
    assert b"a record" not in bytes(talk.edge.down)


def test_the_answer_to_a_share_fetch_meets_the_rules_of_its_moment() -> None:
    talk = knowing()
    talk.client(share(1, "orders", epoch=0))
    rule = KafkaRule("r", role="consume", topic="invoices", group="billing")
    talk.box.swap(rules(port=PORT, revision=3, kafka=(rule,)))  # nobody has told the layer yet
    talk.broker(shared(1, "orders"))
    assert talk.got(SHARE_FETCH, 1).body["ErrorCode"] == 122
    assert b"a record" not in bytes(talk.edge.down)


def test_a_share_fetch_asks_for_no_more_than_is_read_whole() -> None:
    talk = knowing()
    talk.client(share(1, "orders", epoch=0, most=1 << 30))
    assert talk.sent()[-1].body["MaxBytes"] == 4 << 20
    talk.broker(shared(1, "orders"))
    assert b"a record" in bytes(talk.edge.down)


def test_a_denied_group_beside_an_allowed_one_has_a_record() -> None:
    talk = consumer()
    asked: list[Tree] = [
        {"GroupId": group, "Topics": [{"Name": "orders", "PartitionIndexes": [0]}]} for group in ("billing", "payroll")
    ]
    talk.client(request(OFFSET_FETCH, 8, 1, {"Groups": asked}))
    assert talk.records() == ["DROPPED OffsetFetch Describe payroll 30 by default-deny"]
    assert talk.counters["denied"] == 1


def test_a_group_that_mode_audit_lets_pass_beside_topics_has_a_record() -> None:
    talk = Talk(audit=True, shared=Shared(new_counters(), judge, refuse))
    rule = KafkaRule("r", role="consume", topic="orders", group="billing")
    talk.box.swap(rules(port=PORT, revision=2, audit=True, kafka=(rule,)))
    groups: list[Tree] = [
        {"GroupId": group, "Topics": [{"Name": "orders", "PartitionIndexes": [0]}]} for group in ("billing", "payroll")
    ]
    talk.client(request(OFFSET_FETCH, 8, 1, {"Groups": groups}))
    talk.broker(answer(OFFSET_FETCH, 8, 1, {"Groups": [{"GroupId": each["GroupId"], "Topics": []} for each in groups]}))
    assert [each.split(" by ")[0] for each in talk.records()] == [
        "AUDIT OffsetFetch Describe payroll 0",
        "FORWARDED OffsetFetch Describe orders 0",
    ]


def test_a_denied_broker_beside_an_allowed_topic_has_a_record() -> None:
    talk = Talk(shared=Shared(new_counters(), judge, refuse))
    rule = KafkaRule("r", role="admin", topic="orders")
    talk.box.swap(rules(port=PORT, revision=2, kafka=(rule,)))
    resources: list[Tree] = [
        {"ResourceType": kind, "ResourceName": name, "Configs": []} for kind, name in ((2, "orders"), (4, "1"))
    ]
    talk.client(request(ALTER_CONFIGS, 1, 1, {"Resources": resources}))
    assert [each.split()[:3] for each in talk.records()] == [["DROPPED", "IncrementalAlterConfigs", "AlterConfigs"]]


@pytest.mark.parametrize("allowed", [True, False])
def test_a_request_that_names_too_much_is_refused(*, allowed: bool) -> None:
    talk = consumer()
    names = ["billing" if allowed else f"g{number}" for number in range(MAX_QUESTIONS + 1)]
    talk.client(request(DELETE_GROUPS, 2, 1, {"GroupsNames": names[:-1]}))
    assert talk.counters["limit_kafka_questions"] == 0
    talk.client(request(DELETE_GROUPS, 2, 2, {"GroupsNames": names}))
    assert talk.counters["limit_kafka_questions"] == 1
    assert talk.edge.legs == []
    assert talk.over == "finish, linger"
    assert talk.records()[-1].startswith("DROPPED DeleteGroups")


def test_what_an_edited_answer_keeps_is_counted_as_what_it_takes() -> None:
    talk = consumer()
    names: list[Tree] = [{"Name": "orders"}] * 9000 + [{"Name": "secrets"}]
    for number in range(8):
        talk.client(request(METADATA, 9, number, {"Topics": names}))
    assert len(talk.up) < 8
    assert talk.shared.held > 1 << 20


def test_partitions_of_a_request_that_streams_are_counted() -> None:
    limits = Limits(kafka_held_bytes=1 << 20)
    talk = Talk("orders", limits=limits)
    partitions = [{"Index": index, "Records": None} for index in range(10_000)]
    topic: Tree = {"Name": "orders", "PartitionData": partitions}
    frame = request(PRODUCE, 9, 1, {"Acks": 1, "TopicData": [topic]})
    talk.client(frame[:20_000])
    assert talk.shared.held > 3000 * ELEMENT_BYTES - (1 << 16)
    assert talk.over == ""
    talk.client(frame[20_000:50_000])
    assert talk.counters["limit_kafka_held"] == 1
    assert talk.over == "finish, linger"
    assert talk.shared.held == 0


def test_a_request_that_streams_gives_back_what_it_kept() -> None:
    talk = Talk("orders")
    partitions = [{"Index": index, "Records": None} for index in range(10_000)]
    topic: Tree = {"Name": "orders", "PartitionData": partitions}
    frame = request(PRODUCE, 9, 1, {"Acks": 1, "TopicData": [topic]})
    talk.client(frame[:-10])
    assert talk.shared.held > 0
    talk.client(frame[-10:])
    assert talk.shared.held == 0
    assert talk.up == [frame[4:]]


def test_topics_of_a_request_that_streams_are_bounded() -> None:
    talk = Talk("orders", limits=Limits(kafka_hold_bytes=1000))
    topics: list[Tree] = [{"Name": "orders", "PartitionData": []}] * (MAX_TOPICS + 2)
    frame = request(PRODUCE, 9, 1, {"Acks": 1, "TopicData": topics})
    talk.client(frame[:-1])
    assert talk.over == "finish, linger"
    assert talk.records()[-1].startswith("DROPPED Produce")


def test_a_name_beside_an_id_is_not_forwarded() -> None:
    talk = knowing()
    beside: Tree = {"TopicId": IDS["orders"], "Name": "secrets"}
    talk.client(request(METADATA, 12, 1, {"Topics": [beside], "AllowAutoTopicCreation": True}))
    assert talk.sent()[-1].body["Topics"] == [{"TopicId": IDS["orders"], "Name": None}]


@pytest.mark.parametrize("tried", [True, False])
def test_the_id_of_a_topic_that_is_only_tried_out_is_not_learnt(*, tried: bool) -> None:
    """Brokers make an id up for the answer to validateOnly (ReplicationControlManager.createTopic)."""
    talk = Talk(shared=Shared(new_counters(), judge, refuse))
    talk.box.swap(rules(port=PORT, revision=2, kafka=(KafkaRule("r", role="admin"),)))
    topic: Tree = {"Name": "orders", "NumPartitions": 1, "ReplicationFactor": 1, "Assignments": [], "Configs": []}
    talk.client(request(19, 7, 1, {"Topics": [topic], "timeoutMs": 1000, "validateOnly": tried}))
    made: Tree = {"Name": "orders", "TopicId": b"\x07" * 16, "ErrorCode": 0}
    talk.broker(answer(19, 7, 1, {"Topics": [made]}))
    assert talk.correlations() == [1]
    assert len(talk.shared.ids) == (0 if tried else 1)
