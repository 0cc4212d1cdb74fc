"""Rows of the APIs of idempotent and transactional producers."""

from typing import Final

from parsers.kafka.codec import Tree
from policies.requests import Operation, Resource
from proxy.kafka.apis.case import Case, Row
from proxy.kafka.apis.codes import Code
from proxy.kafka.apis.shape import Part, Shape
from proxy.kafka.plan import Plan

FIRST_OF_BROKERS: Final = 4
"""AddPartitionsToTxn from here on comes from brokers alone (KIP-890)."""

_PARTITION: Final = Part("Partitions", "ResultsByPartition", {"PartitionIndex": ""}, error="PartitionErrorCode")
ADDED: Final = Part("V3AndBelowTopics", "ResultsByTopicV3AndBelow", {"Name": "Name"}, error="", inner=_PARTITION)
COMMIT: Final = Part(
    "Topics",
    "Topics",
    {"Name": "Name"},
    error="",
    inner=Part("Partitions", "Partitions", {"PartitionIndex": "PartitionIndex"}),
)
MARKED: Final = Part("PartitionIndexes", "Partitions", {"PartitionIndex": ""})
MARKERS: Final = Part(
    "Markers",
    "Markers",
    {"ProducerId": "ProducerId"},
    error="",
    inner=Part("Topics", "Topics", {"Name": "Name"}, error="", inner=MARKED),
)
DESCRIBED: Final = Part(
    "TransactionalIds", "TransactionStates", {"TransactionalId": ""}, fill={"TransactionStartTimeMs": 0}
)


def init_producer(case: Case) -> Plan:
    """InitProducerId. Without a transactional id, Write on any topic stands for IdempotentWrite (KIP-679)."""
    transaction = case.body["TransactionalId"]
    if transaction is not None:
        code = case.transaction(Operation.WRITE, transaction)
        if not code and case.body.get("Enable2Pc") and case.cluster(Operation.CLUSTER_ACTION):
            code = Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED  # KIP-939's TwoPhaseCommit: no policy grants it
        return case.passed_or(code)
    if case.sees(Operation.IDEMPOTENT_WRITE, Resource.CLUSTER):
        return case.passed_or(case.cluster(Operation.IDEMPOTENT_WRITE))
    return case.passed_or(
        0 if case.allows(Operation.WRITE, Resource.TOPIC, None) else Code.CLUSTER_AUTHORIZATION_FAILED
    )


def add_partitions(case: Case) -> Plan:
    """AddPartitionsToTxn: all topics or none."""
    if case.version >= FIRST_OF_BROKERS:
        return case.passed_or(case.cluster(Operation.CLUSTER_ACTION))
    code = case.transaction(Operation.WRITE, case.body["V3AndBelowTransactionalId"])
    if code:
        return case.refused(code)
    topics = case.body["V3AndBelowTopics"]
    codes = [case.topic(Operation.WRITE, topic["Name"]) for topic in topics]
    if not any(codes):
        return case.passed()
    told = [code or Code.OPERATION_NOT_ATTEMPTED for code in codes]
    return case.answered({ADDED.answered: ADDED.merged((), topics, told)})


def add_offsets(case: Case) -> Plan:
    """AddOffsetsToTxn."""
    code = case.transaction(Operation.WRITE, case.body["TransactionalId"])
    return case.passed_or(code or case.group(Operation.READ, case.body["GroupId"]))


def end(case: Case) -> Plan:
    """EndTxn."""
    return case.passed_or(case.transaction(Operation.WRITE, case.body["TransactionalId"]))


def commit(case: Case) -> Plan:
    """TxnOffsetCommit."""
    code = case.transaction(Operation.WRITE, case.body["TransactionalId"])
    code = code or case.group(Operation.READ, case.body["GroupId"])
    if code:
        return case.refused(code)
    return case.parted(COMMIT, [case.topic(Operation.READ, topic["Name"]) for topic in case.body["Topics"]])


def markers(case: Case) -> Plan:
    """WriteTxnMarkers: brokers do, and who may alter the cluster (KIP-664). A topic that may not be altered stops
    it."""
    if case.cluster(Operation.ALTER):
        return case.refused(Code.CLUSTER_AUTHORIZATION_FAILED)
    names = dict.fromkeys(topic["Name"] for marker in case.body["Markers"] for topic in marker["Topics"])
    codes = [case.topic(Operation.ALTER, name) for name in names]
    return case.passed_or(Code.CLUSTER_AUTHORIZATION_FAILED if any(codes) else 0)


def describe(case: Case) -> Plan:
    """DescribeTransactions: without the topics that may not be seen."""

    def edit(answer: Tree) -> Tree:
        for each in answer["TransactionStates"]:
            each["Topics"] = case.shown_topics(each["Topics"], "Topic")
        return answer

    ids = case.body["TransactionalIds"]
    return case.parted(DESCRIBED, [case.transaction(Operation.DESCRIBE, name) for name in ids], edit)


def list_all(case: Case) -> Plan:
    """ListTransactions: those that may be seen."""

    def edit(answer: Tree) -> Tree:
        answer["TransactionStates"] = [
            each
            for each in answer["TransactionStates"]
            if case.sees(Operation.DESCRIBE, Resource.TRANSACTIONAL_ID, each["TransactionalId"])
        ]
        return answer

    return case.passed(edit)


ROWS: Final = {
    22: Row("InitProducerId", Shape(fill={"ProducerId": -1, "ProducerEpoch": -1}), init_producer),
    24: Row("AddPartitionsToTxn", Shape(parts=(ADDED,)), add_partitions),
    25: Row("AddOffsetsToTxn", Shape(), add_offsets),
    26: Row("EndTxn", Shape(fill={"ProducerId": -1, "ProducerEpoch": -1}), end),
    27: Row("WriteTxnMarkers", Shape(top="", parts=(MARKERS,)), markers),
    28: Row("TxnOffsetCommit", Shape(top="", parts=(COMMIT,)), commit),
    65: Row("DescribeTransactions", Shape(top="", parts=(DESCRIBED,)), describe),
    66: Row("ListTransactions", Shape(), list_all),
}
