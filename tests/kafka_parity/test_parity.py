"""A principal with ACLs at the broker, and a pod with the same rights before a broker that asks nobody: the same
answers.

Each request is drawn from the definitions and sent twice: by the user, whom the broker's own authorizer judges, and as
`judge` would have it sent by nobody in particular, its answer edited. What comes back is compared field by field. What
differs must be in LISTED, with the reason that docs/kafka.md gives.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import pytest

from parsers.kafka.codec import Tree
from parsers.kafka.table import TABLE
from proxy.kafka.apis import ROWS
from proxy.kafka.apis.cluster import brokers_only
from proxy.kafka.apis.metadata import narrowed
from tests.kafka_parity.broker import Broker, running
from tests.kafka_parity.draw import Draw
from tests.kafka_parity.link import Closed, Link
from tests.kafka_parity.pod import Pod
from tests.kafka_parity.world import GROUPS, PROFILES, SHUT_TOPICS, World, begin, build, commit, create

DRAWS: Final = 40 if os.environ.get("TULLE_DEEP") else 5
"""Requests for each version of each API; more where it has too few versions for every profile to ask once."""

DOCS: Final = Path(__file__).resolve().parents[2] / "docs/kafka.md"
CLOSED: Final = {"closed": True}

LEGITIMATE: Final = {
    # when, how long, and who is told
    "ThrottleTimeMs", "LogAppendTimeMs", "LastFetchTimestamp", "LastCaughtUpTimestamp", "TransactionStartTimeMs",
    "Port",
    # what a broker draws anew each time
    "ProducerId", "ProducerEpoch", "SessionId", "FinalizedFeaturesEpoch", "ClientInstanceId", "SubscriptionId",
    "PushIntervalMs",
    # what the runs themselves move
    "BaseOffset", "LogEndOffset", "HighWatermark", "LastStableOffset", "PartitionSize", "UsableBytes", "EndOffset",
    "Offset",
    "Records", "AcquiredRecords", "MemberId",
}  # fmt: skip
"""Fields that two runs may differ in."""

INNER: Final = {"Partitions", "PartitionResponses", "ResultsByPartition", "PartitionResult"}


@dataclass
class Seen:
    """One request and what came of it both ways."""

    api: str
    version: int
    profile: str
    body: Tree
    direct: Tree
    judged: Tree


type Users = dict[str, Link]
type Pods = dict[str, Pod]
type Explains = Callable[[Seen], bool]


def _never_forwarded(seen: Seen) -> bool:
    return ROWS[TABLE.keys[seen.api]].judge is brokers_only


def _codes(changed: Mapping[int, int]) -> Explains:
    """Codes that are others here; all else is the same."""

    def turned(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: turned(each, key) for key, each in value.items()}
        if isinstance(value, list):
            return [turned(each) for each in value]
        return changed.get(value, value) if name.endswith("ErrorCode") else value

    return lambda seen: bool(plain(turned(seen.direct)) == plain(turned(seen.judged)))


def _token(seen: Seen) -> bool:
    """Denied, or passed on to a listener where nobody has logged in, which a broker answers with 64."""
    return seen.judged["ErrorCode"] in (64, 65)


def _untold(seen: Seen) -> bool:
    """A text that is not told here."""
    for each in (*seen.direct["Results"], *seen.judged["Results"]):
        each["ErrorMessage"] = None
    return bool(plain(seen.direct) == plain(seen.judged))


def _pages(seen: Seen) -> bool:
    """Pages of every topic end where the broker's do: with less in them, but nothing that is hidden."""
    hidden = {"shut-a", "shut-b", "shut-del", "open-b", "open-del"} if seen.profile == "client" else set(SHUT_TOPICS)
    shown = {topic["Name"] for topic in seen.judged["Topics"]}
    return not seen.body["Topics"] and (seen.profile in ("admin", "all", "nearly") or not shown & hidden)


def _all_denied(seen: Seen) -> bool:
    """Whether every topic is, or is unknown."""
    topics = seen.judged["Topics" if "Topics" in seen.judged else "Responses"]
    return {each["ErrorCode"] for topic in topics for each in topic.get("Partitions", [topic])} <= {29, 100}


def _group_first(seen: Seen) -> bool:
    """Where every topic is denied the broker still tells what is wrong with the group, or with the session."""
    return bool(seen.direct["ErrorCode"]) and _all_denied(seen)


def _shared(seen: Seen) -> bool:
    """Every topic denied, which brokers fail at; else denied topics told beside a code for the whole, and twice."""
    if seen.direct["ErrorCode"] == -1 and _all_denied(seen):
        return True
    if seen.direct["ErrorCode"]:
        return bool(seen.direct["ErrorCode"] == seen.judged["ErrorCode"])
    for each in (part for topic in seen.judged["Responses"] for part in topic["Partitions"]):
        if each["ErrorCode"] in (29, 100) and each["AcknowledgeErrorCode"] == each["ErrorCode"]:
            each["AcknowledgeErrorCode"] = 0
    return bool(plain(seen.direct) == plain(seen.judged))


def _without_ids(seen: Seen) -> bool:
    """The id of a denied topic, which a broker tells."""
    for each in seen.direct["Responses"]:
        if {part["ErrorCode"] for part in each["Partitions"]} == {29}:
            each["TopicId"] = bytes(16)
    return _group_first(seen) or bool(plain(seen.direct) == plain(seen.judged))


LISTED: Final[dict[str, Explains]] = {
    "AddPartitionsToTxn": _codes({3: 55}),
    "AlterShareGroupOffsets": _without_ids,
    "ApiVersions": lambda seen: plain(narrowed(seen.direct)) == plain(seen.judged),
    "CreateDelegationToken": _token,
    "CreatePartitions": _untold,
    "DeleteShareGroupOffsets": _group_first,
    "DeleteTopics": _codes({3: 29}),
    "DescribeDelegationToken": _token,
    "DescribeTopicPartitions": _pages,
    "ExpireDelegationToken": _token,
    "RenewDelegationToken": _token,
    "OffsetDelete": _group_first,
    "ShareAcknowledge": _group_first,
    "ShareFetch": _shared,
    "SaslHandshake": lambda seen: seen.version == 0 and seen.judged["ErrorCode"] == 35,
}
"""By API: whether what differs is what docs/kafka.md says."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One for all tests."""
    with running(tmp_path_factory.mktemp("kafka"), list(PROFILES)) as started:
        yield started


@pytest.fixture(scope="module")
def boss(broker: Broker) -> Iterator[Link]:
    """Nobody in particular."""
    link = Link(broker.opened)
    yield link
    link.close()


@pytest.fixture(scope="module")
def world(boss: Link) -> World:
    """What there is."""
    return build(boss)


@pytest.fixture(scope="module")
def users(broker: Broker, world: World) -> Iterator[Users]:
    """The connections of those who have ACLs."""
    links = {name: Link(broker.sasl, name) for name in PROFILES}
    yield links
    for link in links.values():
        link.close()


@pytest.fixture(scope="module")
def pods(broker: Broker, world: World) -> Iterator[Pods]:
    """Pods with the rules that those lists are."""
    made = {name: Pod(broker.opened, kafka) for name, kafka in PROFILES.items()}
    yield made
    for pod in made.values():
        pod.close()


def plain(value: Any, name: str = "") -> Any:
    """Without what may differ, without an order and without repetitions: what a request names twice a broker answers
    once or twice, whichever way its code goes, and what has no partitions not at all or empty."""
    if isinstance(value, dict):
        return {key: plain(each, key) for key, each in value.items() if key not in LEGITIMATE}
    if isinstance(value, list):
        return _gathered([plain(each) for each in value])
    if name == "ErrorMessage":
        return value is None or not value
    return bytes(value) if isinstance(value, memoryview) else value


def _gathered(elements: list[Any]) -> list[Any]:
    """Elements that differ in what they hold alone become one."""
    gathered: dict[str, Any] = {}
    for element in elements:
        if not isinstance(element, dict):
            gathered[repr(element)] = element
            continue
        inner = [field for field in element if field in INNER]
        rest = {field: each for field, each in element.items() if field not in inner}
        if inner and not any(element[field] for field in inner):
            continue
        before = gathered.setdefault(repr(rest), {**rest, **{field: [] for field in inner}})
        for field in inner:
            before[field] = _gathered([*before[field], *element[field]])
    return [gathered[each] for each in sorted(gathered)]


def told(link: Link | Pod, key: int, version: int, body: Tree) -> Tree:
    """What somebody gets."""
    try:
        return link.call(key, version, body)
    except Closed:
        return CLOSED


def prepare(api: str, boss: Link, world: World) -> None:
    """What a request of an API uses up."""
    if api == "DeleteTopics":
        world.remember(create(boss, "open-del", "shut-del"))
    if api == "DeleteGroups":
        boss.say(api, 2, GroupsNames=GROUPS[2:])
    if api == "DescribeTransactions":
        begin(boss, "tx-open", "open-a", "shut-a")
    if api in ("DeleteGroups", "OffsetDelete"):
        for group in GROUPS[:2]:
            commit(boss, group)


@pytest.mark.parametrize("key", sorted(ROWS), ids=lambda key: ROWS[key].name)
def test_a_pod_and_a_principal_see_the_same(key: int, boss: Link, world: World, users: Users, pods: Pods) -> None:
    api = TABLE.apis[key]
    assert api.request is not None
    draw = Draw(world, key)
    unlisted: list[Seen] = []
    first, last = world.offered.get(key, (0, -1))
    versions = range(max(first, api.request.versions[0]), min(last, api.request.versions[1]) + 1)
    profiles = cycle(PROFILES)
    for version in versions:
        for _ in range(max(DRAWS, -(-len(PROFILES) // len(versions)))):
            seen = both_ways(draw, next(profiles), key, version, boss, world, users, pods)
            if plain(seen.direct) != plain(seen.judged) and not explained(seen):
                unlisted.append(seen)
    assert not unlisted, f"{len(unlisted)}, the first: {unlisted[0]}"


def test_every_api_but_those_that_no_pod_may_is_compared(world: World) -> None:
    """What the broker does not offer is not sent: what brokers and controllers ask of each other, and telemetry, for
    which it would need a metrics reporter that takes it (KIP-714)."""
    unsent = {row.name for key, row in ROWS.items() if key not in world.offered and row.judge is not brokers_only}
    assert unsent == {"GetTelemetrySubscriptions", "PushTelemetry"}


def both_ways(
    draw: Draw, profile: str, key: int, version: int, boss: Link, world: World, users: Users, pods: Pods
) -> Seen:
    """One request of an API in a version."""
    api = TABLE.apis[key].name
    prepare(api, boss, world)
    body = draw.body(key, version)
    direct = told(users[profile], key, version, body)
    prepare(api, boss, world)
    again = renewed(body, world) if api == "DeleteTopics" else body
    judged = told(pods[profile], key, version, again)
    if api in ("DeleteTopics", "CreateTopics"):
        direct, judged = named(direct, world), named(judged, world)
    return Seen(api, version, profile, body, direct, judged)


def renewed(body: Tree, world: World) -> Tree:
    """With the ids that topics have now."""
    topics = body.get("Topics")
    if topics is None:
        return body
    now = {topic_id: world.now[name] for topic_id, name in world.ids.items()}
    return {**body, "Topics": [{**each, "TopicId": now.get(each["TopicId"], each["TopicId"])} for each in topics]}


def named(answer: Tree, world: World) -> Tree:
    """With the names of topics for their ids, which differ from one time to the next, also where none is created."""
    for each in answer.get("Responses", ()):
        if "TopicId" in each:
            each["TopicId"] = world.ids.get(each["TopicId"], each["TopicId"])
    for each in answer.get("Topics", ()):
        if "TopicId" in each:
            each["TopicId"] = any(each["TopicId"])
    return answer


CLUSTER_FIRST: Final = {
    "AlterPartitionReassignments", "AlterReplicaLogDirs", "CreateTopics", "DescribeLogDirs", "ElectLeaders",
    "ListConfigResources", "ListPartitionReassignments", "WriteTxnMarkers",
}  # fmt: skip
"""What a broker asks for the cluster alone: here a rule that denies a topic holds for these too."""


def explained(seen: Seen) -> bool:
    """Whether it is a difference that is written down."""
    if seen.profile == "nearly" and seen.api in CLUSTER_FIRST:
        return True
    return _never_forwarded(seen) or (seen.api in LISTED and LISTED[seen.api](seen))


def test_topics_that_members_tell_each_other_are_hidden(boss: Link, users: Users, pods: Pods) -> None:
    """A classic group with a member: a user who may describe the group sees all its topics at the broker, a pod its
    own."""
    subscription = b"\0\0" + b"\0\0\0\2" + b"".join(len(name).to_bytes(2) + name for name in (b"open-a", b"shut-a"))
    body = {
        "GroupId": "g-members", "SessionTimeoutMs": 30_000, "RebalanceTimeoutMs": 30_000, "ProtocolType": "consumer",
        "Protocols": [{"Name": "range", "Metadata": subscription + b"\xff\xff\xff\xff"}],
    }  # fmt: skip
    member = boss.say("JoinGroup", 9, **body, MemberId="")["MemberId"]
    pods["reader"].close()
    seen = told(pods["reader"], TABLE.keys["JoinGroup"], 9, {**body, "MemberId": member})
    assert seen["ErrorCode"] == 0
    assert b"open-a" in bytes(seen["Members"][0]["Metadata"])
    assert b"shut-a" not in bytes(seen["Members"][0]["Metadata"])
    assignment = b"\0\0" + b"\0\0\0\1" + b"\0\6shut-a" + b"\0\0\0\1" + bytes(4) + b"\xff\xff\xff\xff"
    synced = told(
        pods["reader"], TABLE.keys["SyncGroup"], 5,
        {"GroupId": "g-members", "GenerationId": seen["GenerationId"], "MemberId": member, "ProtocolType": "consumer",
         "ProtocolName": "range", "Assignments": [{"MemberId": member, "Assignment": assignment}]},
    )  # fmt: skip
    assert synced["ErrorCode"] == 0
    assert b"shut-a" not in bytes(synced["Assignment"])
    asked: Tree = {"Groups": ["g-members"]}
    at_broker = told(users["reader"], TABLE.keys["DescribeGroups"], 5, asked)["Groups"][0]["Members"][0]
    at_pod = told(pods["reader"], TABLE.keys["DescribeGroups"], 5, asked)["Groups"][0]["Members"][0]
    assert b"shut-a" in bytes(at_broker["MemberMetadata"])
    assert b"shut-a" in bytes(at_broker["MemberAssignment"])
    assert b"open-a" in bytes(at_pod["MemberMetadata"])
    assert b"shut-a" not in bytes(at_pod["MemberMetadata"]) + bytes(at_pod["MemberAssignment"])
    left = boss.say("LeaveGroup", 5, GroupId="g-members", Members=[{"MemberId": member}])
    assert left["ErrorCode"] == 0


@pytest.mark.parametrize("api", sorted(LISTED))
def test_a_listed_difference_is_in_the_document(api: str) -> None:
    line = next(line for line in DOCS.read_text().splitlines() if f"| {api} |" in line)
    said = [cell.strip() for cell in line.split("|")]
    assert said[-2] or api == "ApiVersions"
