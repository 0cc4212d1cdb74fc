"""What each API asks of policy, what a denied client is told, what is left out of answers: at least one test per API.

`of` says which API a test is about; `test_every_api_has_a_row_a_line_and_a_test` compares with the table.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parsers.kafka.codec import Reader, Tree, body_reader, body_writer
from parsers.kafka.frames import Request, decode_request, encode_request, encode_response
from parsers.kafka.table import TABLE
from policies.requests import Operation
from proxy.kafka.apis import ROWS, judge, refuse, unknown_versions
from proxy.kafka.apis.case import NO_OPERATIONS
from proxy.kafka.apis.fetch import FETCH, fetch_denials, is_follower, refused_topics
from proxy.kafka.apis.metadata import narrowed
from proxy.kafka.plan import Action
from tests.proxy.kafka_case import Acl, Judged, ask

ROOT = Path(__file__).resolve().parents[2]
TESTED: dict[str, list[str]] = {}
ONE, TWO, SECRET, GONE = (bytes([each]) * 16 for each in (1, 2, 3, 9))
IDS = {ONE: "one", TWO: "two", SECRET: "secret"}
TOPIC_OPERATIONS = 0x0DF8
"""Every bit of a topic's authorized operations."""

type Test = Callable[..., None]


def of(*apis: str) -> Callable[[Test], Test]:
    """Which APIs a test is about."""

    def mark(test: Test) -> Test:
        for api in apis:
            TESTED.setdefault(api, []).append(test.__name__)
        return test

    return mark


def codes(topics: list[Tree], inner: str = "Partitions", name: str = "Name", code: str = "ErrorCode") -> list[Any]:
    """Of each topic: its name, and the codes of its partitions."""
    return [(topic[name], *(part[code] for part in topic[inner])) for topic in topics]


# ---- topics


def produce(acl: list[str], *names: str, version: int = 9, acks: int = -1, transaction: str | None = None) -> Judged:
    """A Produce with one partition for each topic."""
    topics = [{"Name": name, "PartitionData": [{"Index": 3, "Records": b"bytes"}]} for name in names]
    return ask("Produce", version, acl, Acks=acks, TransactionalId=transaction, TopicData=topics)


@of("Produce")
def test_a_produce_to_allowed_topics_goes_on_untouched() -> None:
    done = produce(["Write T one", "Write T two"], "one", "two")
    assert done.action is Action.PASS
    assert done.plan.edit is None
    assert done.acl.asked == [("Write Topic one", True), ("Write Topic two", True)]


@of("Produce")
def test_denied_topics_of_a_produce_come_back_in_their_places() -> None:
    done = produce(["Write T one", "Write T two"], "secret", "one", "secret", "two")
    assert [topic["Name"] for topic in done.sent["TopicData"]] == ["one", "two"]
    answered = [{"Name": name, "PartitionResponses": [{"Index": 3, "BaseOffset": 5}]} for name in ("two", "one")]
    answer = done.answer(Responses=answered)
    assert codes(answer["Responses"], "PartitionResponses") == [("secret", 29), ("one", 0), ("secret", 29), ("two", 0)]
    assert answer["Responses"][0]["PartitionResponses"][0]["BaseOffset"] == -1
    assert answer["Responses"][1]["PartitionResponses"][0]["BaseOffset"] == 5


@of("Produce")
def test_a_produce_of_denied_topics_alone_reaches_no_broker() -> None:
    done = produce(["Write T one"], "secret", version=3)
    assert codes(done.told["Responses"], "PartitionResponses") == [("secret", 29)]


@of("Produce")
@pytest.mark.parametrize(("names", "action"), [(["secret"], Action.CLOSE), (["one", "secret"], Action.EDIT)])
def test_a_produce_without_acks_is_never_answered(names: list[str], action: Action) -> None:
    done = produce(["Write T one"], *names, acks=0)
    assert (done.action, done.plan.answer, done.plan.edit) == (action, None, None)
    if action is Action.EDIT:
        assert [topic["Name"] for topic in done.sent["TopicData"]] == ["one"]
        assert done.plan.closes


@of("Produce")
def test_a_transactional_id_is_asked_for_first() -> None:
    done = produce(["Write T one"], "one", transaction="tx")
    assert codes(done.told["Responses"], "PartitionResponses") == [("one", 53)]
    assert done.acl.asked == [("Write TransactionalId tx", False)]
    assert produce(["Write T one", "Write X tx"], "one", transaction="tx").action is Action.PASS


@of("Produce")
def test_topics_of_a_produce_by_id() -> None:
    topics = [{"TopicId": each, "PartitionData": [{"Index": 0, "Records": b""}]} for each in (ONE, SECRET, GONE)]
    done = ask("Produce", 13, ["Write T one"], IDS, Acks=1, TopicData=topics)
    assert [topic["TopicId"] for topic in done.sent["TopicData"]] == [ONE]
    answer = done.answer(Responses=[{"TopicId": ONE, "PartitionResponses": [{"Index": 0}]}])
    assert codes(answer["Responses"], "PartitionResponses", "TopicId") == [(ONE, 0), (SECRET, 29), (GONE, 100)]


BY_TOPIC: list[tuple[str, int, str, str, str, Tree]] = [
    ("ListOffsets", 7, "Describe", "Name", "Topics", {"Partitions": [{"PartitionIndex": 1}]}),
    ("DeleteRecords", 2, "Delete", "Name", "Topics", {"Partitions": [{"PartitionIndex": 1}]}),
    ("OffsetForLeaderEpoch", 4, "Describe", "Topic", "Topics", {"Partitions": [{"Partition": 1}]}),
    ("DescribeProducers", 0, "Read", "Name", "Topics", {"PartitionIndexes": [1]}),
]


@of(*(row[0] for row in BY_TOPIC))
@pytest.mark.parametrize(("api", "version", "operation", "name", "field", "more"), BY_TOPIC, ids=lambda each: str(each))
def test_partitions_of_denied_topics(api: str, version: int, operation: str, name: str, field: str, more: Tree) -> None:
    topics = [{name: each, **more} for each in ("secret", "one")]
    index = "PartitionIndex" if name == "Name" else "Partition"
    done = ask(api, version, [f"{operation} T one"], **{field: topics})
    assert [topic[name] for topic in done.sent[field]] == ["one"]
    answer = done.answer(Topics=[{name: "one", "Partitions": [{index: 1}]}])
    assert codes(answer["Topics"], name=name) == [("secret", 29), ("one", 0)]
    assert answer["Topics"][0]["Partitions"][0][index] == 1
    assert ask(api, version, [f"{operation} T one"], **{field: topics[1:]}).action is Action.PASS
    assert codes(ask(api, version, **{field: topics}).told["Topics"], name=name) == [("secret", 29), ("one", 29)]


@of("CreateTopics")
def test_creating_topics() -> None:
    topics = [{"Name": each, "NumPartitions": 1} for each in ("secret", "one", "two")]
    acl = ["Create T one", "Create T two", "DescribeConfigs T two"]
    done = ask("CreateTopics", 7, acl, Topics=topics)
    assert [topic["Name"] for topic in done.sent["Topics"]] == ["one", "two"]
    made = [{"Name": each, "TopicId": ONE, "NumPartitions": 4, "Configs": [{"Name": "k"}]} for each in ("one", "two")]
    secret, one, two = done.answer(Topics=made)["Topics"]
    assert (secret["Name"], secret["ErrorCode"], secret["TopicId"]) == ("secret", 29, bytes(16))
    assert (one["ErrorCode"], one["TopicConfigErrorCode"], one["NumPartitions"], one["Configs"]) == (0, 29, -1, [])
    assert (two["ErrorCode"], two["TopicConfigErrorCode"], two["NumPartitions"]) == (0, 0, 4)
    assert ask("CreateTopics", 2, ["Create T one"], Topics=topics[1:2]).action is Action.PASS


@of("CreateTopics")
def test_create_on_the_cluster_does_not_stand_for_a_topic() -> None:
    done = ask("CreateTopics", 7, ["Create C "], Topics=[{"Name": "one"}])
    assert done.told["Topics"][0]["ErrorCode"] == 29


@of("DeleteTopics")
def test_deleting_topics_by_name() -> None:
    done = ask("DeleteTopics", 5, ["Delete T one"], TopicNames=["secret", "one"])
    assert done.sent["TopicNames"] == ["one"]
    answer = done.answer(Responses=[{"Name": "one"}])
    assert [(each["Name"], each["ErrorCode"]) for each in answer["Responses"]] == [("secret", 29), ("one", 0)]


@of("DeleteTopics")
def test_deleting_topics_by_id_tells_the_name_only_to_who_may_see_it() -> None:
    named = [{"Name": None, "TopicId": each} for each in (SECRET, TWO, GONE, ONE)]
    done = ask("DeleteTopics", 6, ["Delete T one", "Describe T two", "Delete T 3"], IDS, Topics=[*named, {"Name": "3"}])
    assert [(each["Name"], each["TopicId"]) for each in done.sent["Topics"]] == [(None, ONE), ("3", bytes(16))]
    answer = done.answer(Responses=[{"Name": "3", "TopicId": GONE}, {"Name": "one", "TopicId": ONE}])
    assert [(each["Name"], each["TopicId"], each["ErrorCode"]) for each in answer["Responses"]] == [
        (None, SECRET, 29), ("two", TWO, 29), (None, GONE, 100), ("one", ONE, 0), ("3", GONE, 0),
    ]  # fmt: skip


@of("DeleteTopics")
@pytest.mark.parametrize("named", [{"Name": None}, {"Name": "one", "TopicId": SECRET}])
def test_a_topic_with_neither_name_nor_id_or_with_both_is_not_deleted(named: Tree) -> None:
    done = ask("DeleteTopics", 6, ["Delete T *"], IDS, Topics=[named])
    assert [each["ErrorCode"] for each in done.told["Responses"]] == [42]


@of("CreatePartitions")
def test_adding_partitions() -> None:
    topics = [{"Name": each, "Count": 2, "Assignments": None} for each in ("one", "secret")]
    done = ask("CreatePartitions", 3, ["Alter T one"], Topics=topics)
    assert [topic["Name"] for topic in done.sent["Topics"]] == ["one"]
    answer = done.answer(Results=[{"Name": "one"}])
    assert [(each["Name"], each["ErrorCode"]) for each in answer["Results"]] == [("one", 0), ("secret", 29)]


@of("DescribeTopicPartitions")
def test_topics_described_by_name() -> None:
    done = ask("DescribeTopicPartitions", 0, ["Read T one"], Topics=[{"Name": "one"}, {"Name": "secret"}], Cursor=None)
    assert [topic["Name"] for topic in done.sent["Topics"]] == ["one"]
    one = {"Name": "one", "TopicId": ONE, "TopicAuthorizedOperations": TOPIC_OPERATIONS}
    answer = done.answer(Topics=[one], NextCursor=None)
    assert [(each["Name"], each["ErrorCode"], each["TopicId"]) for each in answer["Topics"]] == [
        ("one", 0, ONE), ("secret", 29, bytes(16)),
    ]  # fmt: skip
    assert answer["Topics"][0]["TopicAuthorizedOperations"] == 1 << 3 | 1 << 8


@of("DescribeTopicPartitions")
def test_every_topic_described_without_the_hidden() -> None:
    done = ask("DescribeTopicPartitions", 0, ["Read T one"], Topics=[], Cursor=None)
    assert done.action is Action.PASS
    answer = done.answer(Topics=[{"Name": "one"}, {"Name": "secret"}], NextCursor={"TopicName": "one"})
    assert [each["Name"] for each in answer["Topics"]] == ["one"]
    assert answer["NextCursor"]["TopicName"] == "one"


@of("DescribeTopicPartitions")
def test_a_page_does_not_name_a_hidden_topic_as_the_next() -> None:
    done = ask("DescribeTopicPartitions", 0, ["Read T one"], Topics=[], Cursor=None)
    answer = done.answer(Topics=[{"Name": "one"}], NextCursor={"TopicName": "secret"})
    assert [(each["Name"], each["ErrorCode"]) for each in answer["Topics"]] == [("one", 0), (None, 29)]
    assert answer["NextCursor"] is None


# ---- metadata


def metadata(version: int, acl: list[str], *names: str, ids: tuple[bytes, ...] = (), **more: Any) -> Judged:
    """A Metadata for some names and ids."""
    topics = [{"Name": name} for name in names] + [{"Name": None, "TopicId": each} for each in ids]
    return ask("Metadata", version, acl, IDS, Topics=topics, **more)


@of("Metadata")
@pytest.mark.parametrize(("version", "topics"), [(0, []), (1, None), (9, None), (13, None)])
def test_metadata_of_every_topic_shows_what_may_be_seen(version: int, topics: list[Tree] | None) -> None:
    done = ask("Metadata", version, ["Describe T one"], Topics=topics)
    assert done.action is Action.PASS
    assert done.acl.asked == [("Nothing Cluster ", True)]
    answer = done.answer(Brokers=[{"Host": "b"}], Topics=[{"Name": "secret"}, {"Name": "one"}])
    assert [topic["Name"] for topic in answer["Topics"]] == ["one"]
    assert answer["Brokers"][0]["Host"] == "b"


@of("Metadata")
def test_metadata_of_no_topic_is_the_brokers() -> None:
    done = metadata(9, [])
    assert (done.action, done.plan.edit) == (Action.PASS, None)


@of("Metadata")
def test_metadata_of_denied_topics() -> None:
    done = metadata(12, ["Describe T one"], "secret", "one", AllowAutoTopicCreation=False)
    assert [topic["Name"] for topic in done.sent["Topics"]] == ["one"]
    answer = done.answer(Brokers=[{"Host": "b"}], Topics=[{"Name": "one", "TopicId": ONE}])
    assert [(each["ErrorCode"], each["Name"], each["TopicId"]) for each in answer["Topics"]] == [
        (29, "secret", bytes(16)), (0, "one", ONE),
    ]  # fmt: skip


@of("Metadata")
@pytest.mark.parametrize(("version", "sent"), [(0, 4), (1, 4), (3, 4), (4, 4), (9, 9), (13, 13)])
def test_where_every_topic_is_denied_the_brokers_come_all_the_same(version: int, sent: int) -> None:
    done = metadata(version, [], "secret")
    assert (done.action, done.sent_version, done.sent["Topics"]) == (Action.EDIT, sent, [])
    answer = done.answer(Brokers=[{"NodeId": 1, "Host": "b", "Port": 9092}], Topics=[])
    assert [(each["ErrorCode"], each["Name"]) for each in answer["Topics"]] == [(29, "secret")]
    assert answer["Brokers"][0]["Host"] == "b"


@of("Metadata")
def test_metadata_by_id() -> None:
    done = metadata(12, ["Describe T one"], "name", ids=(SECRET, ONE, GONE))
    assert [(topic["Name"], topic["TopicId"]) for topic in done.sent["Topics"]] == [(None, ONE)]
    answer = done.answer(Topics=[{"Name": "one", "TopicId": ONE}])
    assert [(each["ErrorCode"], each["Name"], each["TopicId"]) for each in answer["Topics"]] == [
        (29, None, SECRET), (0, "one", ONE), (100, None, GONE),
    ]  # fmt: skip


@of("Metadata")
def test_metadata_by_denied_ids_alone_asks_for_no_name_beside_them() -> None:
    assert metadata(12, ["Describe T *"], "name", ids=(GONE,)).sent["Topics"] == []


@of("Metadata")
@pytest.mark.parametrize(("version", "ids"), [(10, (ONE,)), (11, (bytes(16),)), (12, (bytes(16),))])
def test_metadata_that_a_broker_would_not_read(version: int, ids: tuple[bytes, ...]) -> None:
    assert [each["ErrorCode"] for each in metadata(version, ["Describe T *"], ids=ids).told["Topics"]] == [42]


@of("Metadata")
@pytest.mark.parametrize(("version", "sent"), [(0, 4), (1, 4), (3, 4), (4, 4), (12, 12)])
def test_topics_are_not_created_by_asking_for_them(version: int, sent: int) -> None:
    more: Tree = {"AllowAutoTopicCreation": True} if version >= 4 else {}
    done = metadata(version, ["Write T one"], "one", **more)
    assert (done.sent_version, done.sent["AllowAutoTopicCreation"]) == (sent, False)
    answer = done.answer(ClusterId="c", ControllerId=2, Topics=[{"Name": "one", "IsInternal": True}])
    assert [(each["ErrorCode"], each["Name"]) for each in answer["Topics"]] == [(0, "one")]
    if version:
        assert answer["ControllerId"] == 2
    assert done.acl.asked == [("Describe Topic one", True)]


@of("Metadata")
@pytest.mark.parametrize("version", [0, 3, 4, 12])
def test_topics_are_created_where_that_is_allowed(version: int) -> None:
    assert metadata(version, ["Write T one", "Create T one"], "one").action is Action.PASS


@of("Metadata")
def test_operations_in_metadata_are_those_that_policy_allows() -> None:
    more: Tree = {"IncludeTopicAuthorizedOperations": True, "IncludeClusterAuthorizedOperations": True}
    done = metadata(8, ["Write T one"], "one", AllowAutoTopicCreation=False, **more)
    answer = done.answer(
        Topics=[{"Name": "one", "TopicAuthorizedOperations": TOPIC_OPERATIONS}], ClusterAuthorizedOperations=0x1FA0
    )
    assert answer["Topics"][0]["TopicAuthorizedOperations"] == 1 << 4 | 1 << 8
    assert answer["ClusterAuthorizedOperations"] == 0


@of("DescribeCluster")
def test_operations_on_the_cluster() -> None:
    assert ask("DescribeCluster", 1).plan.edit is None
    done = ask("DescribeCluster", 1, ["Describe C ", "IdempotentWrite C "], IncludeClusterAuthorizedOperations=True)
    assert done.answer(ClusterAuthorizedOperations=0x1FA0)["ClusterAuthorizedOperations"] == 1 << 8 | 1 << 12
    assert done.answer(ClusterAuthorizedOperations=NO_OPERATIONS)["ClusterAuthorizedOperations"] == NO_OPERATIONS
    done = ask("DescribeCluster", 0, ["IdempotentWrite C "], IncludeClusterAuthorizedOperations=True)
    assert done.answer(ClusterAuthorizedOperations=0x1FA0)["ClusterAuthorizedOperations"] == 0


@of("ApiVersions")
def test_versions_are_narrowed_to_what_we_judge() -> None:
    offered = [(0, 0, 99), (1, 0, 5), (3, 14, 20), (9, 1, 10), (17, 0, 1), (18, 0, 4), (4, 0, 7), (999, 0, 1)]
    done = ask("ApiVersions", 3, ClientSoftwareName="x", ClientSoftwareVersion="1")
    answer = done.answer(ApiKeys=[{"ApiKey": k, "MinVersion": a, "MaxVersion": b} for k, a, b in offered])
    assert [(each["ApiKey"], each["MinVersion"], each["MaxVersion"]) for each in answer["ApiKeys"]] == [
        (0, 0, 13), (1, 4, 5), (9, 1, 9), (17, 1, 1), (18, 0, 4),
    ]  # fmt: skip


@of("ApiVersions")
def test_an_unknown_version_of_apiversions_is_told_the_known() -> None:
    frame = encode_response(18, 0, 7, unknown_versions())
    assert frame == bytes.fromhex("00000007 0023 00000001 0012 0000 0004")
    assert narrowed({"ApiKeys": []}) == {"ApiKeys": []}


@of("SaslHandshake", "SaslAuthenticate", "GetTelemetrySubscriptions", "PushTelemetry")
def test_what_asks_for_nothing_is_asked_once() -> None:
    for api, version in (
        ("SaslHandshake", 1),
        ("SaslAuthenticate", 2),
        ("GetTelemetrySubscriptions", 0),
        ("PushTelemetry", 0),
    ):
        done = ask(api, version)
        assert (done.action, done.plan.edit) == (Action.PASS, None)
        assert done.acl.asked == [("Nothing Cluster ", True)]


@of("SaslHandshake")
def test_the_handshake_after_which_frames_have_no_header_is_refused() -> None:
    assert ask("SaslHandshake", 0, Mechanism="GSSAPI").told["ErrorCode"] == 35


@of("FindCoordinator")
@pytest.mark.parametrize(("kind", "acl", "code"), [(0, "Describe G a", 30), (1, "Describe X a", 53)])
def test_coordinators(kind: int, acl: str, code: int) -> None:
    assert ask("FindCoordinator", 3, [acl], Key="a", KeyType=kind).action is Action.PASS
    told = ask("FindCoordinator", 3, Key="a", KeyType=kind).told
    assert (told["ErrorCode"], told["NodeId"], told["Port"]) == (code, -1, -1)
    done = ask("FindCoordinator", 6, [acl], CoordinatorKeys=["b", "a"], KeyType=kind)
    assert done.sent["CoordinatorKeys"] == ["a"]
    answer = done.answer(Coordinators=[{"Key": "a", "Host": "h"}])
    assert [(each["Key"], each["ErrorCode"]) for each in answer["Coordinators"]] == [("b", code), ("a", 0)]


@of("FindCoordinator")
def test_the_state_of_share_groups_is_the_brokers() -> None:
    told = ask("FindCoordinator", 6, ["Describe G a"], CoordinatorKeys=["a"], KeyType=2).told
    assert [each["ErrorCode"] for each in told["Coordinators"]] == [31]
    assert (
        ask("FindCoordinator", 5, ["Describe G a"], CoordinatorKeys=["a"], KeyType=2).told["Coordinators"][0][
            "ErrorCode"
        ]
        == 42
    )


@of("FindCoordinator")
def test_a_coordinator_of_an_unknown_kind_is_nobody() -> None:
    assert (
        ask("FindCoordinator", 4, ["Describe G a"], CoordinatorKeys=["a"], KeyType=7).told["Coordinators"][0][
            "ErrorCode"
        ]
        == 42
    )
    assert ask("FindCoordinator", 0, Key="a").told["ErrorCode"] == 30


# ---- classic groups


@of("Heartbeat", "LeaveGroup", "JoinGroup", "SyncGroup")
def test_members_read_their_group() -> None:
    for api, version in (("Heartbeat", 4), ("LeaveGroup", 5), ("JoinGroup", 9), ("SyncGroup", 5)):
        more: Tree = {"ProtocolType": "consumer", "ProtocolName": "range"} if api == "SyncGroup" else {}
        assert ask(api, version, ["Read G g"], GroupId="g", **more).action is Action.PASS
        assert ask(api, version, ["Describe G g"], GroupId="g", **more).told["ErrorCode"] == 30
        assert ask(api, 0, GroupId="g").told["ErrorCode"] == 30


def consumer_bytes(kind: str, version: int, tree: Tree) -> bytes:
    """What members hand each other."""
    out: list[bytes | memoryview] = [version.to_bytes(2)]
    body_writer(TABLE.others[kind], version)(out, tree)
    return b"".join(out)


def read_bytes(kind: str, data: bytes | memoryview) -> Tree:
    """The same read."""
    raw = bytes(data)
    return body_reader(TABLE.others[kind], int.from_bytes(raw[:2]))(Reader(raw, 2))  # type: ignore[no-any-return]


SUBSCRIBED = consumer_bytes(
    "ConsumerProtocolSubscription",
    1,
    {
        "Topics": ["one", "secret"],
        "UserData": b"secret too",
        "OwnedPartitions": [{"Topic": "secret", "Partitions": [0]}],
    },
)
ASSIGNED = consumer_bytes(
    "ConsumerProtocolAssignment",
    0,
    {"AssignedPartitions": [{"Topic": each, "Partitions": [0]} for each in ("secret", "one")], "UserData": None},
)
SEES_ONE = ["Read G g", "Read T one"]


@of("JoinGroup")
def test_the_leader_does_not_see_hidden_topics_of_members() -> None:
    done = ask("JoinGroup", 9, SEES_ONE, GroupId="g", ProtocolType="consumer")
    members = done.answer(Members=[{"MemberId": "m", "Metadata": SUBSCRIBED}])["Members"]
    seen = read_bytes("ConsumerProtocolSubscription", members[0]["Metadata"])
    assert (seen["Topics"], seen["OwnedPartitions"], seen["UserData"]) == (["one"], [], None)
    all_of = ask("JoinGroup", 9, [*SEES_ONE, "Read T secret"], GroupId="g", ProtocolType="consumer")
    assert all_of.answer(Members=[{"MemberId": "m", "Metadata": SUBSCRIBED}])["Members"][0]["Metadata"] == SUBSCRIBED


@of("JoinGroup")
def test_what_is_no_subscription_becomes_one_without_topics() -> None:
    done = ask("JoinGroup", 5, SEES_ONE, GroupId="g", ProtocolType="consumer")
    for bad in (b"\0", b"\xff\xff", SUBSCRIBED[:-3]):
        members = done.answer(Members=[{"MemberId": "m", "Metadata": bad}])["Members"]
        assert read_bytes("ConsumerProtocolSubscription", members[0]["Metadata"])["Topics"] == []


@of("JoinGroup")
def test_groups_that_are_not_of_consumers_are_left_alone() -> None:
    assert ask("JoinGroup", 9, SEES_ONE, GroupId="g", ProtocolType="connect").plan.edit is None


@of("SyncGroup")
def test_a_sync_that_does_not_say_of_what_is_inconsistent() -> None:
    assert ask("SyncGroup", 5, ["Read G g"], GroupId="g").told["ErrorCode"] == 23


@of("SyncGroup")
@pytest.mark.parametrize(("version", "more"), [(3, {}), (5, {"ProtocolType": "consumer", "ProtocolName": "range"})])
def test_a_member_does_not_see_hidden_topics_in_its_assignment(version: int, more: Tree) -> None:
    done = ask("SyncGroup", version, SEES_ONE, GroupId="g", **more)
    seen = read_bytes("ConsumerProtocolAssignment", done.answer(Assignment=ASSIGNED)["Assignment"])
    assert [each["Topic"] for each in seen["AssignedPartitions"]] == ["one"]
    assert done.answer(Assignment=b"")["Assignment"] == b""
    assert done.answer(Assignment=b"?")["Assignment"] == (b"?" if version == 3 else bytes(6) + b"\xff" * 4)


@of("DescribeGroups")
def test_describing_groups() -> None:
    done = ask("DescribeGroups", 5, SEES_ONE, Groups=["secret", "g"], IncludeAuthorizedOperations=True)
    assert done.sent["Groups"] == ["g"]
    member = {"MemberMetadata": SUBSCRIBED, "MemberAssignment": ASSIGNED}
    group = {"GroupId": "g", "ProtocolType": "consumer", "Members": [member], "AuthorizedOperations": 0x148}
    secret, seen = done.answer(Groups=[group])["Groups"]
    assert (secret["GroupId"], secret["ErrorCode"], secret["Members"]) == ("secret", 30, [])
    assert (seen["ErrorCode"], seen["AuthorizedOperations"]) == (0, 1 << 3 | 1 << 8)
    assert b"secret" not in bytes(seen["Members"][0]["MemberMetadata"])
    assert b"secret" not in bytes(seen["Members"][0]["MemberAssignment"])


@of("ListGroups")
def test_groups_are_listed_that_may_be_seen() -> None:
    done = ask("ListGroups", 5, SEES_ONE)
    assert [each["GroupId"] for each in done.answer(Groups=[{"GroupId": "h"}, {"GroupId": "g"}])["Groups"]] == ["g"]


@of("DeleteGroups")
def test_deleting_groups() -> None:
    done = ask("DeleteGroups", 2, ["Delete G g"], GroupsNames=["g", "h"])
    assert done.sent["GroupsNames"] == ["g"]
    answer = done.answer(Results=[{"GroupId": "g"}])
    assert [(each["GroupId"], each["ErrorCode"]) for each in answer["Results"]] == [("g", 0), ("h", 30)]


@of("OffsetCommit")
def test_committing_offsets() -> None:
    topics = [{"Name": each, "Partitions": [{"PartitionIndex": 1}]} for each in ("one", "secret")]
    done = ask("OffsetCommit", 8, SEES_ONE, GroupId="g", Topics=topics)
    assert [topic["Name"] for topic in done.sent["Topics"]] == ["one"]
    answer = done.answer(Topics=[{"Name": "one", "Partitions": [{"PartitionIndex": 1}]}])
    assert codes(answer["Topics"]) == [("one", 0), ("secret", 29)]
    assert codes(ask("OffsetCommit", 2, ["Read T one"], GroupId="g", Topics=topics).told["Topics"]) == [
        ("one", 30), ("secret", 30),
    ]  # fmt: skip


@of("OffsetCommit")
def test_committing_offsets_by_id() -> None:
    topics = [{"TopicId": each, "Partitions": [{"PartitionIndex": 1}]} for each in (GONE, SECRET)]
    told = ask("OffsetCommit", 10, SEES_ONE, IDS, GroupId="g", Topics=topics).told
    assert codes(told["Topics"], name="TopicId") == [(GONE, 100), (SECRET, 29)]


@of("OffsetFetch")
def test_offsets_of_one_group() -> None:
    topics = [{"Name": each, "PartitionIndexes": [1]} for each in ("one", "secret")]
    done = ask("OffsetFetch", 7, SEES_ONE, GroupId="g", Topics=topics)
    assert [topic["Name"] for topic in done.sent["Topics"]] == ["one"]
    answer = done.answer(Topics=[{"Name": "one", "Partitions": [{"PartitionIndex": 1, "Metadata": ""}]}])
    assert codes(answer["Topics"]) == [("one", 0), ("secret", 29)]
    assert answer["Topics"][1]["Partitions"][0]["CommittedOffset"] == -1
    every = ask("OffsetFetch", 7, SEES_ONE, GroupId="g", Topics=None)
    assert [each["Name"] for each in every.answer(Topics=[{"Name": "secret"}, {"Name": "one"}])["Topics"]] == ["one"]


@of("OffsetFetch")
def test_offsets_of_a_group_that_may_not_be_seen() -> None:
    topics = [{"Name": "one", "PartitionIndexes": [1]}]
    assert ask("OffsetFetch", 7, GroupId="g", Topics=topics).told["ErrorCode"] == 30
    assert codes(ask("OffsetFetch", 1, GroupId="g", Topics=topics).told["Topics"]) == [("one", 30)]


@of("OffsetFetch")
def test_offsets_of_several_groups() -> None:
    named = [{"Name": each, "PartitionIndexes": [1]} for each in ("secret", "one")]
    groups = [{"GroupId": "h", "Topics": named}, {"GroupId": "g", "Topics": named}, {"GroupId": "e", "Topics": None}]
    done = ask("OffsetFetch", 9, [*SEES_ONE, "Read G e"], Groups=groups)
    assert [(each["GroupId"], each["Topics"] and len(each["Topics"])) for each in done.sent["Groups"]] == [
        ("g", 1),
        ("e", None),
    ]
    one = {"Name": "one", "Partitions": [{"PartitionIndex": 1}]}
    given = [{"GroupId": "e", "Topics": [one, {"Name": "secret"}]}, {"GroupId": "g", "Topics": [one]}]
    answer = done.answer(Groups=given)["Groups"]
    assert [(each["GroupId"], each["ErrorCode"], codes(each["Topics"])) for each in answer] == [
        ("h", 30, []), ("g", 0, [("secret", 29), ("one", 0)]), ("e", 0, [("one", 0)]),
    ]  # fmt: skip


@of("OffsetFetch")
def test_a_group_named_twice_hides_what_it_hides_once() -> None:
    groups = [{"GroupId": "g", "Topics": None}, {"GroupId": "g", "Topics": [{"Name": "one"}]}]
    done = ask("OffsetFetch", 8, SEES_ONE, Groups=groups)
    given = [
        {"GroupId": "g", "Topics": [{"Name": "secret"}, {"Name": "one"}]},
        {"GroupId": "g", "Topics": [{"Name": "one"}]},
    ]
    for each in done.answer(Groups=given)["Groups"]:
        assert [topic["Name"] for topic in each["Topics"]] == ["one"]


@of("OffsetFetch")
def test_every_offset_by_id_is_shown_where_the_name_is_known() -> None:
    done = ask("OffsetFetch", 10, SEES_ONE, IDS, Groups=[{"GroupId": "g", "Topics": None}])
    given = [{"TopicId": each} for each in (ONE, SECRET, GONE)]
    assert [
        each["TopicId"] for each in done.answer(Groups=[{"GroupId": "g", "Topics": given}])["Groups"][0]["Topics"]
    ] == [ONE]


@of("OffsetDelete")
def test_a_code_for_the_whole_stands_alone() -> None:
    topics = [{"Name": each, "Partitions": [{"PartitionIndex": 1}]} for each in ("one", "secret")]
    done = ask("OffsetDelete", 0, ["Delete G g", "Read T one"], GroupId="g", Topics=topics)
    answer = done.answer(ErrorCode=69)
    assert (answer["ErrorCode"], answer["Topics"]) == (69, [])


@of("OffsetDelete")
def test_deleting_offsets() -> None:
    topics = [{"Name": each, "Partitions": [{"PartitionIndex": 1}]} for each in ("one", "secret")]
    done = ask("OffsetDelete", 0, ["Delete G g", "Read T one"], GroupId="g", Topics=topics)
    assert codes(done.answer(Topics=[])["Topics"]) == [("secret", 29)]
    assert ask("OffsetDelete", 0, SEES_ONE, GroupId="g", Topics=topics).told["ErrorCode"] == 30


# ---- groups of the new kinds


@of("ConsumerGroupHeartbeat", "ShareGroupHeartbeat")
@pytest.mark.parametrize(("api", "version"), [("ConsumerGroupHeartbeat", 1), ("ShareGroupHeartbeat", 1)])
def test_heartbeats_subscribe_to_what_may_be_seen(api: str, version: int) -> None:
    assert ask(api, version, SEES_ONE, GroupId="g", MemberId="m", SubscribedTopicNames=["one"]).action is Action.PASS
    assert ask(api, version, SEES_ONE, GroupId="g", MemberId="m", SubscribedTopicNames=None).action is Action.PASS
    assert (
        ask(api, version, SEES_ONE, GroupId="g", MemberId="m", SubscribedTopicNames=["one", "secret"]).told["ErrorCode"]
        == 29
    )
    assert (
        ask(api, version, ["Read T one"], GroupId="g", MemberId="m", SubscribedTopicNames=["one"]).told["ErrorCode"]
        == 30
    )


@of("ShareGroupHeartbeat", "ShareFetch", "ShareAcknowledge")
def test_a_share_group_has_no_member_without_a_name() -> None:
    for api in ("ShareGroupHeartbeat", "ShareFetch", "ShareAcknowledge"):
        for name in ("", "m" * 37):
            assert ask(api, 1, SEES_ONE, GroupId="g", MemberId=name).told["ErrorCode"] == 42
    assert ask("ShareFetch", 1, SEES_ONE, GroupId=None, MemberId="m").told["ErrorCode"] == 42


@of("ConsumerGroupHeartbeat")
def test_an_expression_is_for_who_sees_every_topic() -> None:
    more = {"GroupId": "g", "SubscribedTopicNames": None, "SubscribedTopicRegex": "o.*"}
    assert ask("ConsumerGroupHeartbeat", 1, SEES_ONE, **more).told["ErrorCode"] == 29
    assert ask("ConsumerGroupHeartbeat", 1, ["Read G g", "Describe T *"], **more).action is Action.PASS


TOPOLOGY = {
    "Epoch": 1,
    "Subtopologies": [
        {
            "SubtopologyId": "0",
            "SourceTopics": ["one"],
            "StateChangelogTopics": [{"Name": "app-store"}],
            "RepartitionSinkTopics": ["app-sink"],
            "RepartitionSourceTopics": [{"Name": "app-again"}],
        }
    ],
}


@of("StreamsGroupHeartbeat")
def test_a_topology_needs_its_topics_and_the_right_to_create_its_own() -> None:
    sees = [*SEES_ONE, *(f"Describe T app-{each}" for each in ("store", "sink", "again"))]
    creates = [*sees, "Create T app-store", "Create T app-again"]
    assert ask("StreamsGroupHeartbeat", 0, creates, GroupId="g", Topology=TOPOLOGY).action is Action.PASS
    for acl in (sees, creates[:-1], creates[1:] and [each for each in creates if each != "Read T one"]):
        assert ask("StreamsGroupHeartbeat", 0, acl, GroupId="g", Topology=TOPOLOGY).told["ErrorCode"] == 29
    assert ask("StreamsGroupHeartbeat", 0, creates[1:], GroupId="g", Topology=TOPOLOGY).told["ErrorCode"] == 30


@of("StreamsGroupHeartbeat")
def test_a_topology_by_expression_is_for_who_sees_every_topic() -> None:
    topology = {"Subtopologies": [{"SubtopologyId": "0", "SourceTopicRegex": ["o.*"]}]}
    assert ask("StreamsGroupHeartbeat", 0, SEES_ONE, GroupId="g", Topology=topology).told["ErrorCode"] == 29
    assert (
        ask("StreamsGroupHeartbeat", 0, ["Read G g", "Read T *"], GroupId="g", Topology=topology).action is Action.PASS
    )


@of("StreamsGroupHeartbeat")
def test_endpoints_of_a_streams_group_show_what_may_be_seen() -> None:
    done = ask("StreamsGroupHeartbeat", 0, SEES_ONE, GroupId="g", Topology=None)
    active = [{"Topic": each, "Partitions": [0]} for each in ("secret", "one")]
    answer = done.answer(PartitionsByUserEndpoint=[{"UserEndpoint": {"Host": "h"}, "ActivePartitions": active}])
    assert [each["Topic"] for each in answer["PartitionsByUserEndpoint"][0]["ActivePartitions"]] == ["one"]
    assert done.answer(PartitionsByUserEndpoint=None)["PartitionsByUserEndpoint"] is None


def described_group(api: str, topic: str) -> Tree:
    """A group that has to do with a topic."""
    if api == "StreamsGroupDescribe":
        return {"GroupId": "g", "Topology": {"Subtopologies": [{"SourceTopics": [topic]}]}}
    assigned = {"TopicPartitions": [{"TopicId": ONE, "TopicName": topic, "Partitions": [0]}]}
    return {"GroupId": "g", "Members": [{"MemberId": "m", "Assignment": assigned}]}


@of("ConsumerGroupDescribe", "ShareGroupDescribe", "StreamsGroupDescribe")
@pytest.mark.parametrize(
    ("api", "version"), [("ConsumerGroupDescribe", 1), ("ShareGroupDescribe", 1), ("StreamsGroupDescribe", 0)]
)
def test_groups_with_hidden_topics_are_not_described(api: str, version: int) -> None:
    done = ask(api, version, SEES_ONE, GroupIds=["h", "g"], IncludeAuthorizedOperations=True)
    assert done.sent["GroupIds"] == ["g"]
    hidden, seen = done.answer(Groups=[{**described_group(api, "one"), "AuthorizedOperations": 0x148}])["Groups"]
    assert (hidden["GroupId"], hidden["ErrorCode"]) == ("h", 30)
    assert (seen["ErrorCode"], seen["AuthorizedOperations"]) == (0, 1 << 3 | 1 << 8)
    group = done.answer(Groups=[described_group(api, "secret")])["Groups"][1]
    assert (group["ErrorCode"], group["Members"]) == (29, [])
    assert "secret" not in str(group)


@of("ConsumerGroupDescribe")
def test_a_hidden_subscription_hides_the_group_too() -> None:
    done = ask("ConsumerGroupDescribe", 0, SEES_ONE, GroupIds=["g"])
    group = {"GroupId": "g", "Members": [{"MemberId": "m", "SubscribedTopicNames": ["secret"]}]}
    assert done.answer(Groups=[group])["Groups"][0]["ErrorCode"] == 29


@of("DescribeShareGroupOffsets")
def test_offsets_of_share_groups() -> None:
    named = [{"TopicName": each, "Partitions": [1]} for each in ("secret", "one")]
    groups = [{"GroupId": "h", "Topics": named}, {"GroupId": "g", "Topics": named}, {"GroupId": "e", "Topics": None}]
    done = ask("DescribeShareGroupOffsets", 1, [*SEES_ONE, "Read G e"], Groups=groups)
    assert [each["GroupId"] for each in done.sent["Groups"]] == ["g", "e"]
    one = {"TopicName": "one", "Partitions": [{"PartitionIndex": 1}]}
    given = [{"GroupId": "g", "Topics": [one]}, {"GroupId": "e", "Topics": [one, {"TopicName": "secret"}]}]
    answer = done.answer(Groups=given)["Groups"]
    assert [(each["GroupId"], each["ErrorCode"], codes(each["Topics"], name="TopicName")) for each in answer] == [
        ("h", 30, []), ("g", 0, [("one", 0), ("secret", 29)]), ("e", 0, [("one", 0)]),
    ]  # fmt: skip


@of("AlterShareGroupOffsets", "DeleteShareGroupOffsets")
def test_changing_offsets_of_a_share_group() -> None:
    topics = [{"TopicName": each, "Partitions": [{"PartitionIndex": 1}]} for each in ("one", "secret")]
    done = ask("AlterShareGroupOffsets", 0, SEES_ONE, GroupId="g", Topics=topics)
    assert [topic["TopicName"] for topic in done.sent["Topics"]] == ["one"]
    assert codes(done.answer(Responses=[])["Responses"], name="TopicName") == [("secret", 29)]
    assert ask("AlterShareGroupOffsets", 0, ["Read T one"], GroupId="g", Topics=topics).told["ErrorCode"] == 30
    named = [{"TopicName": topic["TopicName"]} for topic in topics]
    done = ask("DeleteShareGroupOffsets", 0, ["Delete G g", "Read T one"], GroupId="g", Topics=named)
    assert [each["ErrorCode"] for each in done.answer(Responses=[{"TopicName": "one"}])["Responses"]] == [0, 29]
    assert ask("DeleteShareGroupOffsets", 0, SEES_ONE, GroupId="g", Topics=named).told["ErrorCode"] == 30


# ---- transactions


@of("InitProducerId")
@pytest.mark.parametrize(
    ("acl", "code"), [("IdempotentWrite C ", 0), ("Write T any", 0), ("Describe T any", 31), ("Write X tx", 31)]
)
def test_producers_without_transactions(acl: str, code: int) -> None:
    done = ask("InitProducerId", 4, [acl], TransactionalId=None)
    assert (done.told["ErrorCode"] if code else done.action) == (code or Action.PASS)


@of("InitProducerId", "EndTxn")
def test_producers_with_transactions() -> None:
    for api, version in (("InitProducerId", 5), ("EndTxn", 4)):
        assert ask(api, version, ["Write X tx"], TransactionalId="tx").action is Action.PASS
        assert ask(api, version, ["Write T *", "IdempotentWrite C "], TransactionalId="tx").told["ErrorCode"] == 53
    told = ask("InitProducerId", 6, ["Write X tx"], TransactionalId="tx", Enable2Pc=True).told
    assert (told["ErrorCode"], told["ProducerId"]) == (53, -1)


@of("AddPartitionsToTxn")
def test_partitions_of_a_transaction_are_all_or_none() -> None:
    topics = [{"Name": each, "Partitions": [0, 1]} for each in ("one", "secret")]
    more = {"V3AndBelowTransactionalId": "tx", "V3AndBelowTopics": topics}
    told = ask("AddPartitionsToTxn", 3, ["Write X tx", "Write T one"], **more).told["ResultsByTopicV3AndBelow"]
    assert codes(told, "ResultsByPartition", code="PartitionErrorCode") == [("one", 55, 55), ("secret", 29, 29)]
    assert ask("AddPartitionsToTxn", 3, ["Write X tx", "Write T *"], **more).action is Action.PASS
    told = ask("AddPartitionsToTxn", 0, ["Write T *"], **more).told["ResultsByTopicV3AndBelow"]
    assert codes(told, "ResultsByPartition", code="PartitionErrorCode") == [("one", 53, 53), ("secret", 53, 53)]


@of("AddPartitionsToTxn")
def test_batches_of_transactions_are_the_brokers() -> None:
    transactions = [{"TransactionalId": "tx", "Topics": [{"Name": "one", "Partitions": [0]}]}]
    assert ask("AddPartitionsToTxn", 4, ["Write X tx", "Write T *"], Transactions=transactions).told["ErrorCode"] == 31


@of("AddOffsetsToTxn")
def test_offsets_of_a_transaction() -> None:
    more = {"TransactionalId": "tx", "GroupId": "g"}
    assert ask("AddOffsetsToTxn", 3, ["Write X tx", "Read G g"], **more).action is Action.PASS
    assert ask("AddOffsetsToTxn", 3, ["Write X tx"], **more).told["ErrorCode"] == 30
    assert ask("AddOffsetsToTxn", 0, ["Read G g"], **more).told["ErrorCode"] == 53


@of("TxnOffsetCommit")
def test_committing_offsets_in_a_transaction() -> None:
    topics = [{"Name": each, "Partitions": [{"PartitionIndex": 1}]} for each in ("one", "secret")]
    more = {"TransactionalId": "tx", "GroupId": "g", "Topics": topics}
    done = ask("TxnOffsetCommit", 3, ["Write X tx", *SEES_ONE], **more)
    assert [topic["Name"] for topic in done.sent["Topics"]] == ["one"]
    assert codes(done.answer(Topics=[])["Topics"]) == [("secret", 29)]
    assert codes(ask("TxnOffsetCommit", 3, SEES_ONE, **more).told["Topics"]) == [("one", 53), ("secret", 53)]
    assert codes(ask("TxnOffsetCommit", 3, ["Write X tx"], **more).told["Topics"]) == [("one", 30), ("secret", 30)]


@of("WriteTxnMarkers")
def test_markers_are_for_who_may_alter_the_cluster() -> None:
    markers = [{"ProducerId": 5, "Topics": [{"Name": "one", "PartitionIndexes": [0]}]}]
    assert ask("WriteTxnMarkers", 1, ["Alter C ", "Alter T *"], Markers=markers).action is Action.PASS
    for acl in (["Alter C "], ["Alter T *"]):
        told = ask("WriteTxnMarkers", 1, acl, Markers=markers).told["Markers"][0]
        assert (told["ProducerId"], codes(told["Topics"])) == (5, [("one", 31)])


@of("DescribeTransactions", "ListTransactions")
def test_transactions_that_may_be_seen() -> None:
    done = ask("DescribeTransactions", 0, ["Write X tx", "Read T one"], TransactionalIds=["tx", "other"])
    assert done.sent["TransactionalIds"] == ["tx"]
    states = [{"TransactionalId": "tx", "Topics": [{"Topic": each} for each in ("secret", "one")]}]
    tx, other = done.answer(TransactionStates=states)["TransactionStates"]
    assert ([each["Topic"] for each in tx["Topics"]], other["ErrorCode"]) == (["one"], 53)
    done = ask("ListTransactions", 1, ["Write X tx"])
    states = [{"TransactionalId": each} for each in ("other", "tx")]
    assert [each["TransactionalId"] for each in done.answer(TransactionStates=states)["TransactionStates"]] == ["tx"]


# ---- the cluster


ON_CLUSTER: list[tuple[str, int, str, Tree]] = [
    ("DescribeAcls", 3, "Describe", {"ResourceNameFilter": None, "PrincipalFilter": None, "HostFilter": None}),
    ("DescribeClientQuotas", 1, "DescribeConfigs", {}),
    ("DescribeUserScramCredentials", 0, "Describe", {"Users": None}),
    ("DescribeQuorum", 2, "Describe", {"Topics": [{"TopicName": "__cluster_metadata"}]}),
    ("UpdateFeatures", 2, "Alter", {"FeatureUpdates": [{"Feature": "f"}]}),
    ("UnregisterBroker", 0, "Alter", {"BrokerId": 1}),
    ("AddRaftVoter", 1, "Alter", {"ClusterId": None}),
    ("RemoveRaftVoter", 0, "Alter", {"ClusterId": None}),
]
EACH_ON_CLUSTER: list[tuple[str, int, str, Tree, str]] = [
    ("CreateAcls", 3, "Alter", {"Creations": [{"ResourceName": "x"}, {"ResourceName": "y"}]}, "Results"),
    ("DeleteAcls", 3, "Alter", {"Filters": [{"ResourceNameFilter": None}] * 2}, "FilterResults"),
    ("AlterClientQuotas", 1, "AlterConfigs", {"Entries": [{"Entity": [{"EntityType": "user"}]}] * 2}, "Entries"),
    (
        "AlterUserScramCredentials",
        0,
        "Alter",
        {"Deletions": [{"Name": "a"}], "Upsertions": [{"Name": "b"}]},
        "Results",
    ),
]


@of(*(row[0] for row in ON_CLUSTER))
@pytest.mark.parametrize(("api", "version", "operation", "body"), ON_CLUSTER, ids=lambda each: str(each))
def test_one_thing_on_the_cluster(api: str, version: int, operation: str, body: Tree) -> None:
    done = ask(api, version, [f"{operation} C "], **body)
    assert done.action is Action.PASS
    assert done.acl.asked == [(f"{operation} Cluster ", True)]
    assert ask(api, version, ["Read T *", "Read G *"], **body).told["ErrorCode"] == 31


@of(*(row[0] for row in EACH_ON_CLUSTER))
@pytest.mark.parametrize(("api", "version", "operation", "body", "field"), EACH_ON_CLUSTER, ids=lambda each: str(each))
def test_one_thing_on_the_cluster_told_of_each(api: str, version: int, operation: str, body: Tree, field: str) -> None:
    assert ask(api, version, [f"{operation} C "], **body).action is Action.PASS
    told = ask(api, version, ["Read T *", "Alter T *"], **body).told[field]
    assert [each["ErrorCode"] for each in told] == [31, 31]
    if api == "AlterUserScramCredentials":
        assert [each["User"] for each in told] == ["a", "b"]


@of("DescribeConfigs", "AlterConfigs", "IncrementalAlterConfigs")
@pytest.mark.parametrize(
    ("api", "version", "operation", "field"),
    [
        ("DescribeConfigs", 4, "DescribeConfigs", "Results"),
        ("AlterConfigs", 2, "AlterConfigs", "Responses"),
        ("IncrementalAlterConfigs", 1, "AlterConfigs", "Responses"),
    ],
)
def test_settings(api: str, version: int, operation: str, field: str) -> None:
    named = [(2, "one"), (2, "secret"), (4, "1"), (8, "1"), (16, "m"), (32, "g"), (99, "?")]
    if api == "DescribeConfigs":
        unknown = [{"ResourceType": kind, "ResourceName": name} for kind, name in named]
        assert [each["ErrorCode"] for each in ask(api, version, Resources=unknown).told[field]] == [42] * 7
        named = named[:-1]
    resources = [{"ResourceType": kind, "ResourceName": name} for kind, name in named]
    done = ask(api, version, [f"{operation} T one"], Resources=resources)
    assert [each["ResourceName"] for each in done.sent["Resources"]] == ["one"]
    answer = done.answer(**{field: [{"ResourceType": 2, "ResourceName": "one"}]})[field]
    assert [each["ErrorCode"] for each in answer] == [0, 29, 31, 31, 31, 30, 42][: len(named)]
    assert [(each["ResourceType"], each["ResourceName"]) for each in answer] == named
    allowed = [f"{operation} T *", f"{operation} G g", f"{operation} C "]
    assert ask(api, version, allowed, Resources=resources[:6]).action is Action.PASS
    if api != "DescribeConfigs":
        twice = ask(api, version, Resources=resources[:1] * 2)
        assert [each["ErrorCode"] for each in twice.told[field]] == [42, 42]
        assert ask(api, version, allowed, Resources=resources[:1] * 2).action is Action.PASS


@of("ListConfigResources")
def test_resources_that_have_settings() -> None:
    assert ask("ListConfigResources", 1).told["ErrorCode"] == 31
    done = ask("ListConfigResources", 1, ["DescribeConfigs C ", *SEES_ONE])
    given = [(2, "one"), (2, "secret"), (32, "g"), (32, "h"), (16, "m")]
    answer = done.answer(ConfigResources=[{"ResourceType": kind, "ResourceName": name} for kind, name in given])
    assert [each["ResourceName"] for each in answer["ConfigResources"]] == ["one", "g", "m"]


@of("AlterReplicaLogDirs")
def test_moving_replicas() -> None:
    topics = [{"Name": each, "Partitions": [1]} for each in ("secret", "one")]
    dirs = [{"Path": "/a", "Topics": topics}, {"Path": "/b", "Topics": topics[1:]}]
    assert codes(ask("AlterReplicaLogDirs", 2, Dirs=dirs).told["Results"], name="TopicName") == [
        ("secret", 31), ("one", 31), ("one", 31),
    ]  # fmt: skip
    done = ask("AlterReplicaLogDirs", 2, ["Alter C ", "Alter T one"], Dirs=dirs)
    assert [[topic["Name"] for topic in each["Topics"]] for each in done.sent["Dirs"]] == [["one"], ["one"]]
    answer = done.answer(Results=[{"TopicName": "one", "Partitions": [{"PartitionIndex": 1}]}])
    assert codes(answer["Results"], name="TopicName") == [("secret", 29), ("one", 0)]
    assert ask("AlterReplicaLogDirs", 2, ["Alter C ", "Alter T *"], Dirs=dirs).action is Action.PASS
    assert codes(ask("AlterReplicaLogDirs", 2, ["Alter C "], Dirs=dirs[1:]).told["Results"], name="TopicName") == [
        ("one", 29)
    ]


@of("DescribeLogDirs")
def test_directories_do_not_name_hidden_topics() -> None:
    assert ask("DescribeLogDirs", 4, Topics=None).told["ErrorCode"] == 31
    done = ask("DescribeLogDirs", 4, ["Describe C ", "Read T one"], Topics=None)
    answer = done.answer(Results=[{"LogDir": "/d", "Topics": [{"Name": "secret"}, {"Name": "one"}]}])
    assert [each["Name"] for each in answer["Results"][0]["Topics"]] == ["one"]
    named = [{"Topic": each, "Partitions": [0]} for each in ("secret", "one")]
    done = ask("DescribeLogDirs", 4, ["Describe C ", "Read T one"], Topics=named)
    assert [each["Topic"] for each in done.sent["Topics"]] == ["one"]


@of("ListPartitionReassignments")
def test_reassignments_do_not_name_hidden_topics() -> None:
    assert ask("ListPartitionReassignments", 0, Topics=None).told["ErrorCode"] == 31
    done = ask("ListPartitionReassignments", 0, ["Describe C ", "Read T one"], Topics=None)
    answer = done.answer(Topics=[{"Name": "secret"}, {"Name": "one"}])
    assert [each["Name"] for each in answer["Topics"]] == ["one"]
    done = ask("ListPartitionReassignments", 0, ["Describe C "], Topics=[{"Name": "secret"}])
    assert (done.action, done.sent["Topics"]) == (Action.EDIT, [])


@of("AlterPartitionReassignments", "ElectLeaders")
def test_leaders_and_replicas() -> None:
    topics = [{"Name": each, "Partitions": [{"PartitionIndex": 1}]} for each in ("secret", "one")]
    told = ask("AlterPartitionReassignments", 1, ["Alter T *"], Topics=topics).told
    assert (told["ErrorCode"], codes(told["Responses"])) == (31, [("secret", 31), ("one", 31)])
    done = ask("AlterPartitionReassignments", 1, ["Alter C ", "Alter T one"], Topics=topics)
    assert codes(done.answer(Responses=[])["Responses"]) == [("secret", 29)]
    named = [{"Topic": each["Name"], "Partitions": [1]} for each in topics]
    told = ask("ElectLeaders", 2, ["Alter T *"], TopicPartitions=named).told
    assert told["ErrorCode"] == 31
    done = ask("ElectLeaders", 2, ["Alter C ", "Alter T one"], TopicPartitions=named)
    answer = done.answer(ReplicaElectionResults=[])["ReplicaElectionResults"]
    assert codes(answer, "PartitionResult", "Topic") == [("secret", 29)]
    assert ask("ElectLeaders", 2, ["Alter C ", "Alter T one"], TopicPartitions=None).told["ErrorCode"] == 31
    assert ask("ElectLeaders", 2, ["Alter C ", "Alter T *"], TopicPartitions=None).action is Action.PASS


@of("CreateDelegationToken", "RenewDelegationToken", "ExpireDelegationToken", "DescribeDelegationToken")
def test_tokens_need_a_rule() -> None:
    for api in ("RenewDelegationToken", "ExpireDelegationToken"):
        assert ask(api, 2, ["Read T *", "CreateTokens U x"]).told["ErrorCode"] == 65
        assert ask(api, 2, ["CreateTokens U "]).action is Action.PASS
    owner = {"OwnerPrincipalType": "User", "OwnerPrincipalName": "bob"}
    none = {"OwnerPrincipalType": None, "OwnerPrincipalName": None}
    assert ask("CreateDelegationToken", 3, ["CreateTokens U User:bob"], **owner).action is Action.PASS
    assert ask("CreateDelegationToken", 3, ["CreateTokens U "], **owner).told["ErrorCode"] == 65
    assert ask("CreateDelegationToken", 3, ["CreateTokens U "], **none).action is Action.PASS
    assert ask("CreateDelegationToken", 1, []).told["ErrorCode"] == 65
    done = ask("DescribeDelegationToken", 3, ["Describe D mine"], Owners=None)
    answer = done.answer(Tokens=[{"TokenId": each, "Hmac": b"secret"} for each in ("mine", "his")])
    assert [each["TokenId"] for each in answer["Tokens"]] == ["mine"]


BROKERS: list[tuple[str, int, Tree, str]] = [
    ("Vote", 2, {"ClusterId": None}, ""),
    ("BeginQuorumEpoch", 1, {"ClusterId": None}, ""),
    ("EndQuorumEpoch", 1, {"ClusterId": None}, ""),
    ("AlterPartition", 3, {}, ""),
    ("Envelope", 0, {"RequestPrincipal": None}, ""),
    ("FetchSnapshot", 1, {}, ""),
    ("BrokerRegistration", 4, {"Rack": None}, ""),
    ("BrokerHeartbeat", 1, {}, ""),
    ("AllocateProducerIds", 0, {}, ""),
    ("ControllerRegistration", 0, {}, ""),
    ("AssignReplicasToDirs", 0, {}, ""),
    ("UpdateRaftVoter", 0, {"ClusterId": None}, ""),
    ("InitializeShareGroupState", 0, {"Topics": [{"Partitions": [{"Partition": 1}]}]}, "Results"),
    ("ReadShareGroupState", 0, {"Topics": [{"Partitions": [{"Partition": 1}]}]}, "Results"),
    ("WriteShareGroupState", 1, {"Topics": [{"Partitions": [{"Partition": 1}]}]}, "Results"),
    ("DeleteShareGroupState", 0, {"Topics": [{"Partitions": [{"Partition": 1}]}]}, "Results"),
    ("ReadShareGroupStateSummary", 1, {"Topics": [{"Partitions": [{"Partition": 1}]}]}, "Results"),
]


@of(*(row[0] for row in BROKERS))
@pytest.mark.parametrize(("api", "version", "body", "field"), BROKERS, ids=lambda each: str(each))
def test_what_brokers_ask_each_other_is_never_forwarded(api: str, version: int, body: Tree, field: str) -> None:
    done = ask(api, version, ["Read T *", "Alter C "], **body)
    assert (done.told[field][0]["Partitions"][0] if field else done.told)["ErrorCode"] == 31
    assert done.acl.asked == [("ClusterAction Cluster ", False)]


# ---- reading


@of("Fetch")
def test_fetching_outside_of_a_session() -> None:
    topics = [{"Topic": each, "Partitions": [{"Partition": 4}]} for each in ("secret", "one")]
    done = ask("Fetch", 12, SEES_ONE, MaxWaitMs=500, MinBytes=9, SessionEpoch=0, Topics=topics)
    sent = done.sent
    assert [topic["Topic"] for topic in sent["Topics"]] == ["one"]
    assert (sent["SessionEpoch"], sent["MaxWaitMs"], sent["MinBytes"]) == (-1, 0, 0)
    answer = done.answer(Responses=[{"Topic": "one", "Partitions": [{"PartitionIndex": 4, "Records": b"r"}]}])
    assert codes(answer["Responses"], name="Topic") == [("secret", 29), ("one", 0)]
    assert answer["Responses"][0]["Partitions"][0]["PartitionIndex"] == 4
    assert ask("Fetch", 12, SEES_ONE, Topics=topics[1:]).action is Action.PASS
    assert ask("Fetch", 12, SEES_ONE, SessionEpoch=5, Topics=[]).told["ErrorCode"] == 70


@of("Fetch")
def test_fetching_by_id() -> None:
    topics = [{"TopicId": each, "Partitions": [{"Partition": 4}]} for each in (SECRET, GONE, ONE)]
    acl = Acl(SEES_ONE, IDS)
    assert fetch_denials(topics, acl) == [29, 100, 0]
    told = refused_topics(FETCH, topics, [29, 100, 0])
    assert codes(told, name="TopicId") == [(SECRET, 29), (GONE, 100)]
    done = ask("Fetch", 13, SEES_ONE, IDS, Topics=topics[:2])
    assert codes(done.told["Responses"], name="TopicId") == [(SECRET, 29), (GONE, 100)]


@of("Fetch")
def test_a_follower_is_not_a_pod() -> None:
    topics = [{"Topic": "one", "Partitions": [{"Partition": 4}]}]
    assert codes(ask("Fetch", 11, SEES_ONE, ReplicaId=2, Topics=topics).told["Responses"], name="Topic") == [
        ("one", 29)
    ]
    done = ask("Fetch", 17, SEES_ONE, IDS, ReplicaState={"ReplicaId": 2}, Topics=[{"TopicId": ONE, "Partitions": []}])
    assert done.action is Action.ANSWER
    assert is_follower({"ReplicaId": 0})
    assert not is_follower({"ReplicaState": {"ReplicaId": -1}})


@of("ShareFetch", "ShareAcknowledge")
@pytest.mark.parametrize("api", ["ShareFetch", "ShareAcknowledge"])
def test_share_groups_read_their_group_and_topics(api: str) -> None:
    topics = [{"TopicId": each, "Partitions": [{"PartitionIndex": 4}]} for each in (SECRET, ONE)]
    more = {"GroupId": "g", "MemberId": "m", "Topics": topics}
    done = ask(api, 1, SEES_ONE, IDS, **more)
    assert [topic["TopicId"] for topic in done.sent["Topics"]] == [ONE]
    answer = done.answer(Responses=[{"TopicId": ONE, "Partitions": [{"PartitionIndex": 4}]}])
    assert codes(answer["Responses"], name="TopicId") == [(SECRET, 29), (ONE, 0)]
    assert ask(api, 1, ["Read T one"], IDS, **more).told["ErrorCode"] == 30
    assert ask(api, 1, SEES_ONE, IDS, **more, ShareSessionEpoch=3).told["ErrorCode"] == 122


# ---- all of them


def test_every_api_has_a_row_a_line_and_a_test() -> None:
    table = {key: api.name for key, api in TABLE.apis.items() if api.request is not None}
    assert {key: row.name for key, row in ROWS.items()} == table
    assert set(TESTED) == set(table.values())
    lines = (ROOT / "docs/kafka.md").read_text().splitlines()
    written = {
        int(cells[1]): cells[2].strip()
        for line in lines
        if len(cells := line.split("|")) > 6 and cells[1].strip().isdigit()
    }
    assert written == table


@pytest.mark.parametrize("key", sorted(ROWS))
def test_a_refusal_has_the_shape_of_its_api_in_every_version(key: int) -> None:
    request = TABLE.apis[key].request
    assert request is not None
    for version in range(request.versions[0], request.versions[1] + 1):
        asked = decode_request(encode_request(Request(key, version, 7, "c", {})))
        plan = refuse(asked, 35)
        if plan.action is Action.ANSWER:
            assert plan.answer is not None
            frame = encode_response(key, version, 7, plan.answer)
            assert (35).to_bytes(2) in frame
        else:
            assert plan.action is Action.CLOSE


@pytest.mark.parametrize("key", sorted(ROWS))
def test_a_deny_rule_holds_for_what_asks_for_nothing(key: int) -> None:
    class Denies(Acl):
        def allows(self, *question: Any) -> bool:
            super().allows(*question)
            return False

    request = TABLE.apis[key].request
    assert request is not None
    for version in range(request.versions[0], request.versions[1] + 1):
        asked = decode_request(encode_request(Request(key, version, 7, "c", {})))
        denies = Denies([], {})
        plan = judge(asked, denies)
        assert denies.asked
        assert plan.action in (Action.ANSWER, Action.CLOSE) or (key == 3 and version and plan.body)


def test_an_api_without_a_row_is_refused() -> None:
    assert judge(Request(4, 0, 7, "c", {}), Acl([])).action is Action.CLOSE
    assert refuse(Request(4, 0, 7, "c", {}), 35).action is Action.CLOSE


def test_a_refused_produce_without_acks_gets_no_answer() -> None:
    body = {"Acks": 0, "TopicData": [{"Name": "x", "PartitionData": []}]}
    assert refuse(Request(0, 9, 7, "c", body), 35).action is Action.CLOSE


def test_operations_have_kafkas_numbers() -> None:
    assert [each.value for each in Operation][:4] == ["Nothing", "Read", "Write", "Create"]
