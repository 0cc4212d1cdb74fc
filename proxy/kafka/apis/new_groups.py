"""Rows of the groups that the broker itself assigns: consumer (KIP-848), share (KIP-932) and streams (KIP-1071)."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from parsers.kafka.codec import Tree
from policies.requests import Operation, Resource
from proxy.kafka.apis.case import EVERY_TOPIC, Case, Row
from proxy.kafka.apis.codes import Code
from proxy.kafka.apis.shape import Part, Shape
from proxy.kafka.plan import Plan

DESCRIBED: Final = Part("GroupIds", "Groups", {"GroupId": ""}, fill={"ErrorMessage": None, "Topology": None})
HIDDEN_TOPICS: Final = "The group has described topic(s) that the client is not authorized to describe."
HIDDEN_STREAMS: Final = "The described group uses topics that the client is not authorized to describe."

SHARE_OFFSETS: Final = Part("Groups", "Groups", {"GroupId": "GroupId"})
SHARE_TOPICS: Final = Part(
    "Topics",
    "Topics",
    {"TopicName": "TopicName"},
    error="",
    inner=Part("Partitions", "Partitions", {"PartitionIndex": ""}, message="ErrorMessage", fill={"StartOffset": -1}),
)
ALTERED: Final = Part(
    "Topics",
    "Responses",
    {"TopicName": "TopicName"},
    error="",
    inner=Part("Partitions", "Partitions", {"PartitionIndex": "PartitionIndex"}, message="ErrorMessage"),
)
DELETED: Final = Part("Topics", "Responses", {"TopicName": "TopicName"}, message="ErrorMessage")


MEMBER_LENGTH: Final = 36
"""Of a share group's member id, which its client makes up: a UUID in words."""


def is_member(member: str | None) -> bool:
    """Whether this can be a member of a share group; brokers look before they ask who may see topics."""
    return bool(member) and len(member or "") <= MEMBER_LENGTH


def share_heartbeat(case: Case) -> Plan:
    """ShareGroupHeartbeat."""
    code = case.group(Operation.READ, case.body["GroupId"])
    if code or not is_member(case.body["MemberId"]):
        return case.refused(code or Code.INVALID_REQUEST)
    return case.passed_or(_all_described(case, dict.fromkeys(case.body["SubscribedTopicNames"] or ())))


def heartbeat(case: Case) -> Plan:
    """ConsumerGroupHeartbeat.

    A broker matches a regular expression against the topics that *its* principal may describe. That is not this pod: an
    expression is for pods that see every topic.
    """
    code = case.group(Operation.READ, case.body["GroupId"])
    if code:
        return case.refused(code)
    names = list(dict.fromkeys(case.body["SubscribedTopicNames"] or ()))
    if case.body.get("SubscribedTopicRegex"):
        names.append(EVERY_TOPIC)
    return case.passed_or(_all_described(case, names))


def _all_described(case: Case, names: Iterable[str]) -> int:
    """The first code; all are asked, for their records."""
    return next(filter(None, [case.topic(Operation.DESCRIBE, name) for name in names]), 0)


def streams_heartbeat(case: Case) -> Plan:
    """StreamsGroupHeartbeat.

    The broker creates the internal topics of a topology, on behalf of *its* principal and at any later heartbeat, so
    Create is asked of each of them when the topology comes. Kafka asks only for those that are not there.
    """
    code = case.group(Operation.READ, case.body["GroupId"])
    if code:
        return case.refused(code)
    topology = case.body["Topology"]
    if topology is None:
        return case.passed(_seen_endpoints(case))
    asked: list[str] = []
    created: list[str] = []
    for part in topology["Subtopologies"]:
        asked += part["SourceTopics"] + part["RepartitionSinkTopics"]
        if part["SourceTopicRegex"]:
            asked.append(EVERY_TOPIC)
        created += [topic["Name"] for topic in part["StateChangelogTopics"] + part["RepartitionSourceTopics"]]
    code = _all_described(case, dict.fromkeys(asked + created))
    for name in dict.fromkeys(created):
        code = case.topic(Operation.CREATE, name) or code
    return case.refused(code) if code else case.passed(_seen_endpoints(case))


def _seen_endpoints(case: Case) -> Callable[[Tree], Tree]:
    def edit(answer: Tree) -> Tree:
        for each in answer["PartitionsByUserEndpoint"] or ():
            for field in ("ActivePartitions", "StandbyPartitions"):
                each[field] = case.shown_topics(each[field], "Topic")
        return answer

    return edit


def _describe(topics_of: Callable[[Tree], Iterable[str]], hidden: str = HIDDEN_TOPICS) -> Callable[[Case], Plan]:
    """A row of one of the three describes. A group with a topic that may not be seen is not shown at all (KIP-1043)."""

    def judge(case: Case) -> Plan:
        def edit(answer: Tree) -> Tree:
            answer["Groups"] = [_described(case, group, topics_of(group), hidden) for group in answer["Groups"]]
            return answer

        return case.parted(DESCRIBED, [case.group(Operation.DESCRIBE, name) for name in case.body["GroupIds"]], edit)

    return judge


def _described(case: Case, group: Tree, topics: Iterable[str], hidden: str) -> Tree:
    if not all(case.shows_topic(name) for name in set(topics)):
        code = Code.TOPIC_AUTHORIZATION_FAILED
        return {**DESCRIBED.refused(group["GroupId"], code), "ErrorMessage": hidden}
    bits = group["AuthorizedOperations"]
    group["AuthorizedOperations"] = case.operations(bits, Resource.GROUP, group["GroupId"])
    return group


def _assigned(group: Tree) -> Iterable[str]:
    """Topics of a consumer or a share group: those assigned, as Kafka looks at, and those subscribed to beside them."""
    for member in group["Members"]:
        yield from member["SubscribedTopicNames"]
        for field in ("Assignment", "TargetAssignment"):
            for each in member.get(field, {}).get("TopicPartitions", ()):
                yield each["TopicName"]


def _topology(group: Tree) -> Iterable[str]:
    """Topics of a streams group."""
    topology = group["Topology"]
    for part in (topology["Subtopologies"] or ()) if topology is not None else ():
        yield from part["SourceTopics"]
        yield from part["RepartitionSinkTopics"]
        for field in ("StateChangelogTopics", "RepartitionSourceTopics"):
            for each in part[field]:
                yield each["Name"]


def share_offsets(case: Case) -> Plan:
    """DescribeShareGroupOffsets: each group by itself, as OffsetFetch."""
    groups = case.body["Groups"]
    codes: list[int] = []
    left: list[Tree] = []
    refused: dict[str, deque[list[Tree]]] = {}
    every: set[str] = set()
    for group in groups:
        name, topics = group["GroupId"], group["Topics"]
        codes.append(case.group(Operation.DESCRIBE, name))
        if codes[-1]:
            continue
        denied = [case.topic(Operation.DESCRIBE, topic["TopicName"]) for topic in topics or ()]
        kept = [topic for topic, code in zip(topics or (), denied, strict=True) if not code]
        left.append({**group, "Topics": kept} if any(denied) else group)
        refused.setdefault(name, deque()).append(
            [SHARE_TOPICS.refused(topic, code) for topic, code in zip(topics or (), denied, strict=True) if code]
        )
        if topics is None:
            every.add(name)
    if not left and groups:
        return case.answered({"Groups": SHARE_OFFSETS.merged((), groups, codes)})

    def edit(answer: Tree) -> Tree:
        for each in answer["Groups"]:
            if each["GroupId"] in every:
                each["Topics"] = case.shown_topics(each["Topics"], "TopicName")
            waiting = refused.get(each["GroupId"])
            if waiting:
                told = waiting.popleft()
                each["Topics"] += [] if each["ErrorCode"] else told
        answer["Groups"] = SHARE_OFFSETS.merged(answer["Groups"], groups, codes)
        return answer

    if left != groups:
        return case.edited({**case.body, "Groups": left}, edit)
    return case.passed(edit if every else None)


def _share(part: Part, operation: Operation) -> Callable[[Case], Plan]:
    """A row that changes the offsets of one share group: the group, then Read on each topic."""

    def judge(case: Case) -> Plan:
        code = case.group(operation, case.body["GroupId"])
        if code:
            return case.refused(code)
        return case.parted(part, [case.topic(Operation.READ, topic["TopicName"]) for topic in case.body["Topics"]])

    return judge


_GROUP: Final = Shape(message="ErrorMessage")
_BEAT: Final = Shape()

ROWS: Final = {
    68: Row("ConsumerGroupHeartbeat", _BEAT, heartbeat),
    69: Row("ConsumerGroupDescribe", Shape(top="", parts=(DESCRIBED,)), _describe(_assigned)),
    76: Row("ShareGroupHeartbeat", _BEAT, share_heartbeat),
    77: Row("ShareGroupDescribe", Shape(top="", parts=(DESCRIBED,)), _describe(_assigned)),
    88: Row("StreamsGroupHeartbeat", _BEAT, streams_heartbeat),
    89: Row("StreamsGroupDescribe", Shape(top="", parts=(DESCRIBED,)), _describe(_topology, HIDDEN_STREAMS)),
    90: Row("DescribeShareGroupOffsets", Shape(top="", parts=(SHARE_OFFSETS,)), share_offsets),
    91: Row("AlterShareGroupOffsets", _GROUP, _share(ALTERED, Operation.READ)),
    92: Row("DeleteShareGroupOffsets", _GROUP, _share(DELETED, Operation.DELETE)),
}
