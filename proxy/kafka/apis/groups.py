"""Rows of the APIs of classic groups, of the offsets of all groups, and of what is common to them."""

from collections import deque
from functools import partial
from typing import Final

from parsers.kafka.codec import Tree
from policies.requests import Operation, Resource
from proxy.kafka.apis.case import Case, Row
from proxy.kafka.apis.codes import Code
from proxy.kafka.apis.inner import ASSIGNMENT, CONSUMER, SUBSCRIPTION, without_hidden
from proxy.kafka.apis.shape import Part, Shape
from proxy.kafka.plan import Plan

FIRST_WITHOUT_NAME: Final = 7
"""JoinGroup that says null for no protocol."""

COMMIT: Final = Part(
    "Topics",
    "Topics",
    {"Name": "Name", "TopicId": "TopicId"},
    error="",
    inner=Part("Partitions", "Partitions", {"PartitionIndex": "PartitionIndex"}),
)
FETCHED: Final = Part(
    "PartitionIndexes",
    "Partitions",
    {"PartitionIndex": ""},
    fill={"CommittedOffset": -1, "CommittedLeaderEpoch": -1, "Metadata": ""},
)
OFFSETS: Final = Part("Topics", "Topics", {"Name": "Name", "TopicId": "TopicId"}, error="", inner=FETCHED)
GROUP_OFFSETS: Final = Part("Groups", "Groups", {"GroupId": "GroupId"})
DESCRIBED: Final = Part("Groups", "Groups", {"GroupId": ""})
DELETED_GROUPS: Final = Part("GroupsNames", "Results", {"GroupId": ""})
DELETED_OFFSETS: Final = Part(
    "Topics",
    "Topics",
    {"Name": "Name"},
    error="",
    inner=Part("Partitions", "Partitions", {"PartitionIndex": "PartitionIndex"}),
)


def member(case: Case) -> Plan:
    """What a member asks of its group: Heartbeat, LeaveGroup."""
    return case.passed_or(case.group(Operation.READ, case.body["GroupId"]))


def commit(case: Case) -> Plan:
    """OffsetCommit."""
    code = case.group(Operation.READ, case.body["GroupId"])
    if code:
        return case.refused(code)
    return case.parted(COMMIT, [case.topic_of(Operation.READ, topic) for topic in case.body["Topics"]])


def fetch_offsets(case: Case) -> Plan:
    """OffsetFetch, of one group or, from version 8, of several."""
    if "Groups" in case.body:
        return _fetch_groups(case)
    code = case.group(Operation.DESCRIBE, case.body["GroupId"])
    if code:
        return _no_offsets(case, code)
    if case.body["Topics"] is None:
        return case.passed(partial(_seen_offsets, case))
    return case.parted(OFFSETS, [case.topic_of(Operation.DESCRIBE, topic) for topic in case.body["Topics"]])


def _no_offsets(case: Case, code: int) -> Plan:
    """From version 2 there is a code for the whole."""
    if case.version >= 2:
        return case.answered({"Topics": [], "ErrorCode": code})
    return case.refused(code)


def _seen_offsets(case: Case, answer: Tree) -> Tree:
    """Of one group, without the topics that may not be seen. Version 10, which ApiVersions does not offer for this,
    says ids alone: what nobody has told the name of is left out."""
    answer["Topics"] = [
        topic
        for topic in answer["Topics"]
        if (case.shows_topic(topic["Name"]) if "Name" in topic else _shows_id(case, topic["TopicId"]))
    ]
    return answer


def _shows_id(case: Case, topic_id: bytes) -> bool:
    name = case.authorizer.topic_name(topic_id)
    return name is not None and case.shows_topic(name)


def _fetch_groups(case: Case) -> Plan:
    """Each group by itself: refused whole, or forwarded with the topics that are left. A group may be named twice; the
    broker answers each in its turn."""
    groups = case.body["Groups"]
    codes: list[int] = []
    left: list[Tree] = []
    asked: dict[str, deque[tuple[list[Tree], list[int]]]] = {}
    every: set[str] = set()
    for group in groups:
        name, topics = group["GroupId"], group["Topics"]
        codes.append(case.group(Operation.DESCRIBE, name))
        if codes[-1]:
            continue
        denied = [case.topic_of(Operation.DESCRIBE, topic) for topic in topics or ()]
        kept = [topic for topic, code in zip(topics or (), denied, strict=True) if not code]
        left.append({**group, "Topics": kept} if any(denied) else group)
        asked.setdefault(name, deque()).append((topics or [], denied))
        if topics is None:
            every.add(name)
    if not left and groups:
        return case.answered({"Groups": GROUP_OFFSETS.merged((), groups, codes)})

    def edit(answer: Tree) -> Tree:
        for each in answer["Groups"]:
            waiting = asked.get(each["GroupId"])
            if each["GroupId"] in every:
                _seen_offsets(case, each)
            if waiting and not each["ErrorCode"]:
                each["Topics"] = OFFSETS.merged(each["Topics"], *waiting.popleft())
        answer["Groups"] = GROUP_OFFSETS.merged(answer["Groups"], groups, codes)
        return answer

    if left != groups:
        return case.edited({**case.body, "Groups": left}, edit)
    return case.passed(edit if every else None)


def join(case: Case) -> Plan:
    """JoinGroup. The leader gets the subscriptions of all members."""

    def edit(answer: Tree) -> Tree:
        for each in answer["Members"]:
            each["Metadata"] = without_hidden(SUBSCRIPTION, each["Metadata"], case.shows_topic)
        return answer

    code = case.group(Operation.READ, case.body["GroupId"])
    if code:
        name = None if case.version >= FIRST_WITHOUT_NAME else ""
        return case.answered({"ErrorCode": code, "GenerationId": -1, "ProtocolName": name})
    return case.passed(edit if case.body["ProtocolType"] == CONSUMER else None)


def sync(case: Case) -> Plan:
    """SyncGroup. Before version 5 nobody says what kind of group it is: what reads as an assignment is one."""

    certain = "ProtocolType" in case.body

    def edit(answer: Tree) -> Tree:
        given = answer["Assignment"]
        answer["Assignment"] = without_hidden(ASSIGNMENT, given, case.shows_topic, certain=certain)
        return answer

    if None in (case.body.get("ProtocolType", ""), case.body.get("ProtocolName", "")):
        return case.refused(Code.INCONSISTENT_GROUP_PROTOCOL)
    code = case.group(Operation.READ, case.body["GroupId"])
    if code:
        return case.refused(code)
    return case.passed(edit if case.body.get("ProtocolType", CONSUMER) == CONSUMER else None)


def describe_groups(case: Case) -> Plan:
    """DescribeGroups."""

    def edit(answer: Tree) -> Tree:
        for group in answer["Groups"]:
            if "AuthorizedOperations" in group:
                bits = group["AuthorizedOperations"]
                group["AuthorizedOperations"] = case.operations(bits, Resource.GROUP, group["GroupId"])
            if group["ProtocolType"] != CONSUMER:
                continue
            for each in group["Members"]:
                each["MemberMetadata"] = without_hidden(SUBSCRIPTION, each["MemberMetadata"], case.shows_topic)
                each["MemberAssignment"] = without_hidden(ASSIGNMENT, each["MemberAssignment"], case.shows_topic)
        return answer

    return case.parted(DESCRIBED, [case.group(Operation.DESCRIBE, name) for name in case.body["Groups"]], edit)


def list_groups(case: Case) -> Plan:
    """ListGroups. Kafka lets Describe on the cluster stand for every group; policy never grants that without the
    groups."""

    def edit(answer: Tree) -> Tree:
        groups = answer["Groups"]
        answer["Groups"] = [each for each in groups if case.sees(Operation.DESCRIBE, Resource.GROUP, each["GroupId"])]
        return answer

    return case.passed(edit)


def delete_groups(case: Case) -> Plan:
    """DeleteGroups."""
    return case.parted(DELETED_GROUPS, [case.group(Operation.DELETE, name) for name in case.body["GroupsNames"]])


def delete_offsets(case: Case) -> Plan:
    """OffsetDelete."""
    code = case.group(Operation.DELETE, case.body["GroupId"])
    if code:
        return case.answered({"ErrorCode": code, "Topics": []})
    return case.parted(DELETED_OFFSETS, [case.topic(Operation.READ, topic["Name"]) for topic in case.body["Topics"]])


ROWS: Final = {
    8: Row("OffsetCommit", Shape(top="", parts=(COMMIT,)), commit),
    9: Row("OffsetFetch", Shape(parts=(OFFSETS, GROUP_OFFSETS)), fetch_offsets),
    11: Row("JoinGroup", Shape(fill={"GenerationId": -1}), join),
    12: Row("Heartbeat", Shape(), member),
    13: Row("LeaveGroup", Shape(), member),
    14: Row("SyncGroup", Shape(), sync),
    15: Row("DescribeGroups", Shape(top="", parts=(DESCRIBED,)), describe_groups),
    16: Row("ListGroups", Shape(), list_groups),
    42: Row("DeleteGroups", Shape(top="", parts=(DELETED_GROUPS,)), delete_groups),
    47: Row("OffsetDelete", Shape(), delete_offsets),
}
