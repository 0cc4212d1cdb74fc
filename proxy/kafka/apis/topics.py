"""Rows of the APIs that are about topics and what is in them."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from parsers.kafka.codec import Tree
from policies.requests import Operation, Resource
from proxy.kafka.apis.case import NO_ID, Case, Row
from proxy.kafka.apis.codes import Code
from proxy.kafka.apis.shape import Part, Shape
from proxy.kafka.plan import Action, Plan

PRODUCE: Final = Part(
    "TopicData",
    "Responses",
    {"Name": "Name", "TopicId": "TopicId"},
    error="",
    inner=Part(
        "PartitionData",
        "PartitionResponses",
        {"Index": "Index"},
        fill={"BaseOffset": -1, "LogAppendTimeMs": -1, "LogStartOffset": -1},
    ),
)
LIST_OFFSETS: Final = Part(
    "Topics",
    "Topics",
    {"Name": "Name"},
    error="",
    inner=Part("Partitions", "Partitions", {"PartitionIndex": "PartitionIndex"}, fill={"Timestamp": -1, "Offset": -1}),
)
DELETE_RECORDS: Final = Part(
    "Topics",
    "Topics",
    {"Name": "Name"},
    error="",
    inner=Part("Partitions", "Partitions", {"PartitionIndex": "PartitionIndex"}, fill={"LowWatermark": -1}),
)
LEADER_EPOCH: Final = Part(
    "Topics",
    "Topics",
    {"Topic": "Topic"},
    error="",
    inner=Part("Partitions", "Partitions", {"Partition": "Partition"}, fill={"LeaderEpoch": -1, "EndOffset": -1}),
)
PRODUCERS: Final = Part(
    "Topics",
    "Topics",
    {"Name": "Name"},
    error="",
    inner=Part("PartitionIndexes", "Partitions", {"PartitionIndex": ""}, message="ErrorMessage"),
)
CREATE_TOPICS: Final = Part(
    "Topics",
    "Topics",
    {"Name": "Name"},
    message="ErrorMessage",
    fill={"NumPartitions": -1, "ReplicationFactor": -1, "Configs": []},
)
CREATE_PARTITIONS: Final = Part("Topics", "Results", {"Name": "Name"})
DELETE_NAMES: Final = Part("TopicNames", "Responses", {"Name": ""}, message="ErrorMessage")
DELETE_TOPICS: Final = Part("Topics", "Responses", {"Name": "Name", "TopicId": "TopicId"}, message="ErrorMessage")
TOPIC_PARTITIONS: Final = Part("Topics", "Topics", {"Name": "Name"})


def each_topic(part: Part, operation: Operation, name: str = "Name") -> Callable[[Case], Plan]:
    """A row that asks the same of every topic, and forwards those that are allowed."""

    def judge(case: Case) -> Plan:
        return case.parted(part, [case.topic(operation, topic[name]) for topic in case.body[part.asked]])

    return judge


def produce(case: Case) -> Plan:
    """Produce. A client that wants no answer (acks=0) gets none: its connection ends, as a broker ends it."""
    plan = _produce(case)
    if case.body["Acks"] != 0 or plan.action is Action.PASS:
        return plan
    if plan.action is Action.EDIT:
        plan.edit, plan.closes = None, True
        return plan
    return Plan(Action.CLOSE, reason="denied_without_answer")


def _produce(case: Case) -> Plan:
    transaction = case.body["TransactionalId"]
    if transaction is not None:
        code = case.transaction(Operation.WRITE, transaction)
        if code:
            return case.refused(code)
    return case.parted(PRODUCE, [case.topic_of(Operation.WRITE, topic) for topic in case.body["TopicData"]])


def _once(case: Case, operation: Operation, names: list[str]) -> list[int]:
    """A code for each name. What is there twice is INVALID_REQUEST before a broker asks who may; if it is allowed, the
    broker itself says so."""
    twice = case.repeated(names)
    return [_said_first(case.topic(operation, name), name in twice) for name in names]


def _said_first(code: int, twice: bool) -> int:
    return Code.INVALID_REQUEST if code and twice else code


def create_partitions(case: Case) -> Plan:
    """CreatePartitions."""
    return case.parted(
        CREATE_PARTITIONS, _once(case, Operation.ALTER, [topic["Name"] for topic in case.body["Topics"]])
    )


def create_topics(case: Case) -> Plan:
    """CreateTopics. What a topic is made of is told to those who may see its settings (KIP-525)."""
    codes = _once(case, Operation.CREATE, [topic["Name"] for topic in case.body["Topics"]])
    hidden = {
        topic["Name"]
        for topic, code in zip(case.body["Topics"], codes, strict=True)
        if not code and not case.sees(Operation.DESCRIBE_CONFIGS, Resource.TOPIC, topic["Name"])
    }

    def hide(answer: Tree) -> Tree:
        for topic in answer["Topics"]:
            if topic["Name"] in hidden and not topic["ErrorCode"]:
                topic.update(
                    TopicConfigErrorCode=Code.TOPIC_AUTHORIZATION_FAILED,
                    NumPartitions=-1,
                    ReplicationFactor=-1,
                    Configs=[],
                )
        return answer

    return case.parted(CREATE_TOPICS, codes, hide if hidden and case.version >= 5 else None)


def delete_topics(case: Case) -> Plan:
    """DeleteTopics, by name and from version 6 by id. A denied id comes back with the name only if that may be seen."""
    if "TopicNames" in case.body:
        return case.parted(DELETE_NAMES, _once(case, Operation.DELETE, case.body["TopicNames"]))
    elements = case.body["Topics"]
    twice = case.repeated(map(DELETE_TOPICS.key, elements))
    codes = [_said_first(_deletable(case, each), DELETE_TOPICS.key(each) in twice) for each in elements]
    return case.parted(DELETE_TOPICS, codes, merged=partial(_deleted, case))


def _deletable(case: Case, element: Tree) -> int:
    name, topic_id = element["Name"], element["TopicId"]
    if (name is None) == (topic_id == NO_ID):
        return Code.INVALID_REQUEST  # neither, or both
    return case.topic_by_id(Operation.DELETE, topic_id) if name is None else case.topic(Operation.DELETE, name)


def _deleted(case: Case, answers: Iterable[Tree], elements: Sequence[Tree], codes: Sequence[int]) -> list[Tree]:
    """As `Part.merged`; the broker's answer has both name and id, whichever it was asked by."""
    answers = list(answers)
    by_id = {answer["TopicId"]: answer for answer in answers if answer["TopicId"] != NO_ID}
    by_name = {answer["Name"]: answer for answer in answers}
    merged: list[Tree] = []
    taken: set[int] = set()
    for element, code in zip(elements, codes, strict=True):
        if code:
            refused = DELETE_TOPICS.refused(element, code)
            if element["Name"] is None and code == Code.TOPIC_AUTHORIZATION_FAILED:
                name = case.authorizer.topic_name(element["TopicId"])
                refused["Name"] = name if name is not None and case.shows_topic(name) else None
            merged.append(refused)
            continue
        found = by_id.get(element["TopicId"]) if element["Name"] is None else by_name.get(element["Name"])
        if found is not None and id(found) not in taken:
            taken.add(id(found))
            merged.append(found)
    return merged + [answer for answer in answers if id(answer) not in taken]


def topic_partitions(case: Case) -> Plan:
    """DescribeTopicPartitions. No name is every topic, and what may not be seen is left out.

    A page that ends before a topic that may not be seen would name it as the place to go on from. It ends with an error
    without a name there, so that nobody takes the list for complete.
    """
    if not case.body["Topics"]:
        return case.passed(partial(_seen_partitions, case))
    codes = [case.topic(Operation.DESCRIBE, topic["Name"]) for topic in case.body["Topics"]]
    return case.parted(TOPIC_PARTITIONS, codes, partial(_seen_partitions, case))


def _seen_partitions(case: Case, answer: Tree) -> Tree:
    topics: list[Tree] = []
    for topic in answer["Topics"]:
        name = topic["Name"]
        if name is None or case.shows_topic(name):
            bits = topic["TopicAuthorizedOperations"]
            topic["TopicAuthorizedOperations"] = case.operations(bits, Resource.TOPIC, name or "")
            topics.append(topic)
    cursor = answer["NextCursor"]
    if cursor is not None and not case.shows_topic(cursor["TopicName"]):
        answer["NextCursor"] = None
        topics.append({"ErrorCode": Code.TOPIC_AUTHORIZATION_FAILED, "Name": None, "Partitions": []})
    answer["Topics"] = topics
    return answer


def _whole(*parts: Part, **more: Any) -> Shape:
    """An API that has no code but those of the things it answers about."""
    return Shape(top="", parts=parts, **more)


ROWS: Final = {
    0: Row("Produce", _whole(PRODUCE), produce),
    2: Row("ListOffsets", _whole(LIST_OFFSETS), each_topic(LIST_OFFSETS, Operation.DESCRIBE)),
    19: Row("CreateTopics", _whole(CREATE_TOPICS), create_topics),
    20: Row("DeleteTopics", _whole(DELETE_NAMES, DELETE_TOPICS), delete_topics),
    21: Row("DeleteRecords", _whole(DELETE_RECORDS), each_topic(DELETE_RECORDS, Operation.DELETE)),
    23: Row("OffsetForLeaderEpoch", _whole(LEADER_EPOCH), each_topic(LEADER_EPOCH, Operation.DESCRIBE, "Topic")),
    37: Row("CreatePartitions", _whole(CREATE_PARTITIONS), create_partitions),
    61: Row("DescribeProducers", _whole(PRODUCERS), each_topic(PRODUCERS, Operation.READ)),
    75: Row("DescribeTopicPartitions", _whole(TOPIC_PARTITIONS), topic_partitions),
}
