"""Rows of the APIs that read records: Fetch, ShareFetch, ShareAcknowledge, and what brokers ask about share groups'
state.

A fetch names only what changed since the last one of its session, and a broker judges the whole session each time. The
layer knows sessions and judges by them (`proxy.kafka.fetch`, `proxy.kafka.share`). The rows here have the shapes in
which a request is refused as a whole, and judge one outside of any session: that is what the table's tests ask them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from parsers.kafka.codec import Tree
from policies.requests import Operation, Resource
from proxy.kafka.apis.case import Case, Row
from proxy.kafka.apis.cluster import brokers_only
from proxy.kafka.apis.codes import Code
from proxy.kafka.apis.new_groups import is_member
from proxy.kafka.apis.shape import Part, Shape
from proxy.kafka.plan import Authorizer, Plan

FETCH: Final = Part(
    "Topics",
    "Responses",
    {"Topic": "Topic", "TopicId": "TopicId"},
    error="",
    inner=Part(
        "Partitions",
        "Partitions",
        {"PartitionIndex": "Partition"},
        fill={
            "HighWatermark": -1,
            "LastStableOffset": -1,
            "LogStartOffset": -1,
            "AbortedTransactions": [],
            "PreferredReadReplica": -1,
            "Records": b"",
        },
    ),
)
_LEADER: Final = {"LeaderId": 0, "LeaderEpoch": 0}
SHARE_FETCH: Final = Part(
    "Topics",
    "Responses",
    {"TopicId": "TopicId"},
    error="",
    inner=Part(
        "Partitions",
        "Partitions",
        {"PartitionIndex": "PartitionIndex"},
        message="ErrorMessage",
        fill={"CurrentLeader": _LEADER, "Records": b"", "AcquiredRecords": []},
    ),
)
SHARE_ACKNOWLEDGE: Final = Part(
    "Topics",
    "Responses",
    {"TopicId": "TopicId"},
    error="",
    inner=Part(
        "Partitions",
        "Partitions",
        {"PartitionIndex": "PartitionIndex"},
        message="ErrorMessage",
        fill={"CurrentLeader": _LEADER},
    ),
)


def is_follower(body: Tree) -> bool:
    """Whether a Fetch comes from a broker that replicates: ClusterAction, which no pod has."""
    replica = body["ReplicaState"]["ReplicaId"] if "ReplicaState" in body else body.get("ReplicaId", -1)
    return bool(replica >= 0)


def fetch_denials(topics: Iterable[Tree], authorizer: Authorizer) -> list[int]:
    """A code for each topic of a Fetch, or of its session: 0, 29, or 100 for an id that the broker does not know."""
    return [_denial(authorizer, topic["Topic"] if "Topic" in topic else _name(authorizer, topic)) for topic in topics]


def share_denials(topics: Iterable[Tree], authorizer: Authorizer) -> list[int]:
    """The same of a ShareFetch or ShareAcknowledge."""
    return [_denial(authorizer, _name(authorizer, topic)) for topic in topics]


def _name(authorizer: Authorizer, topic: Tree) -> str | None:
    return authorizer.topic_name(topic["TopicId"])


def _denial(authorizer: Authorizer, name: str | None) -> int:
    if name is None:
        return Code.UNKNOWN_TOPIC_ID
    allowed = authorizer.allows(Operation.READ, Resource.TOPIC, name)
    return 0 if allowed else Code.TOPIC_AUTHORIZATION_FAILED


def refused_topics(part: Part, topics: Sequence[Tree], codes: Sequence[int]) -> list[Tree]:
    """What an answer has of the topics that have a code."""
    return [part.refused(topic, code) for topic, code in zip(topics, codes, strict=True) if code]


def fetch(case: Case) -> Plan:
    """Fetch, outside of a session: the denied are left out, and what is left opens none."""
    topics = case.body["Topics"]
    if is_follower(case.body) and case.cluster(Operation.CLUSTER_ACTION):
        told = [Code.TOPIC_AUTHORIZATION_FAILED] * len(topics)
        return case.answered({"Responses": FETCH.merged((), topics, told)})
    case.asked = bool(topics)
    codes = fetch_denials(topics, case.authorizer)
    if case.body.get("SessionEpoch", -1) > 0:
        return case.answered({"ErrorCode": Code.FETCH_SESSION_ID_NOT_FOUND, "Responses": []})
    plan = case.parted(FETCH, codes)
    if plan.body is not None:
        plan.body.update(MaxWaitMs=0, MinBytes=0)  # a denial is told at once
        if "SessionEpoch" in plan.body:
            plan.body["SessionEpoch"] = -1
    return plan


def share(part: Part) -> Callable[[Case], Plan]:
    """A row of ShareFetch or ShareAcknowledge, outside of a session: the group, then each topic."""

    def judge(case: Case) -> Plan:
        group, member = case.body["GroupId"], case.body["MemberId"]
        if group is None:
            return case.refused(Code.INVALID_REQUEST)
        code = case.group(Operation.READ, group)
        if code or not is_member(member):
            return case.refused(code or Code.INVALID_REQUEST)
        codes = share_denials(case.body["Topics"], case.authorizer)
        if case.body["ShareSessionEpoch"] > 0:
            return case.answered({"ErrorCode": Code.SHARE_SESSION_NOT_FOUND, "Responses": []})
        return case.parted(part, codes)

    return judge


def _state(answered: str = "Results") -> Shape:
    part = Part(
        "Topics",
        answered,
        {"TopicId": "TopicId"},
        error="",
        inner=Part("Partitions", "Partitions", {"Partition": "Partition"}, message="ErrorMessage"),
    )
    return Shape(top="", parts=(part,))


ROWS: Final = {
    1: Row("Fetch", Shape(parts=(FETCH,)), fetch),
    78: Row("ShareFetch", Shape(), share(SHARE_FETCH)),
    79: Row("ShareAcknowledge", Shape(), share(SHARE_ACKNOWLEDGE)),
    83: Row("InitializeShareGroupState", _state(), brokers_only),
    84: Row("ReadShareGroupState", _state(), brokers_only),
    85: Row("WriteShareGroupState", _state(), brokers_only),
    86: Row("DeleteShareGroupState", _state(), brokers_only),
    87: Row("ReadShareGroupStateSummary", _state(), brokers_only),
}
