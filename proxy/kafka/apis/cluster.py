"""Rows of the APIs by which people and brokers run a cluster. Most ask for one thing on the cluster, and are all or
nothing.

Kafka asks no more where such a request names topics, or its answer does. We also ask for those topics, so that every
topic of a request must be allowed and a deny rule for one holds.
"""

from collections.abc import Callable
from typing import Final

from parsers.kafka.codec import Tree
from policies.requests import Operation, Resource
from proxy.kafka.apis.case import EVERY_TOPIC, Case, Row
from proxy.kafka.apis.codes import Code
from proxy.kafka.apis.shape import Part, Shape
from proxy.kafka.plan import Plan

TOPIC_TYPE: Final = 2
BROKER_TYPE: Final = 4
LOGGER_TYPE: Final = 8
METRICS_TYPE: Final = 16
GROUP_TYPE: Final = 32
_TYPES: Final = (TOPIC_TYPE, BROKER_TYPE, LOGGER_TYPE, METRICS_TYPE, GROUP_TYPE)
"""ConfigResource.Type."""

CONFIGS: Final = Part(
    "Resources",
    "Results",
    {"ResourceType": "ResourceType", "ResourceName": "ResourceName"},
    message="ErrorMessage",
)
ALTERED: Final = Part(
    "Resources",
    "Responses",
    {"ResourceType": "ResourceType", "ResourceName": "ResourceName"},
    message="ErrorMessage",
)
CREATED_ACLS: Final = Part("Creations", "Results", {}, message="ErrorMessage")
DELETED_ACLS: Final = Part("Filters", "FilterResults", {}, message="ErrorMessage")
ELECTED: Final = Part(
    "TopicPartitions",
    "ReplicaElectionResults",
    {"Topic": "Topic"},
    error="",
    inner=Part("Partitions", "PartitionResult", {"PartitionId": ""}, message="ErrorMessage"),
)
REASSIGNED: Final = Part(
    "Topics",
    "Responses",
    {"Name": "Name"},
    error="",
    inner=Part("Partitions", "Partitions", {"PartitionIndex": "PartitionIndex"}, message="ErrorMessage"),
)
REASSIGNING: Final = Part(
    "Topics",
    "Topics",
    {"Name": "Name"},
    error="",
    inner=Part("PartitionIndexes", "Partitions", {"PartitionIndex": ""}, error=""),
)
MOVED: Final = Part(
    "Topics",
    "Results",
    {"TopicName": "Name"},
    error="",
    inner=Part("Partitions", "Partitions", {"PartitionIndex": ""}),
)
QUOTAS: Final = Part("Entries", "Entries", {"Entity": "Entity"}, message="ErrorMessage")
SCRAM: Final = Part("Users", "Results", {"User": "Name"})
SCRAM_DELETED: Final = Part("Deletions", "Results", {"User": "Name"}, message="ErrorMessage")
SCRAM_CHANGED: Final = Part("Upsertions", "Results", {"User": "Name"}, message="ErrorMessage")


def on_cluster(operation: Operation, edit: Callable[[Case, Tree], Tree] | None = None) -> Callable[[Case], Plan]:
    """A row that asks for one thing on the cluster. edit: what the answer shows."""

    def judge(case: Case) -> Plan:
        code = case.cluster(operation)
        if code:
            return case.refused(code)
        return case.passed(None if edit is None else lambda answer: edit(case, answer))

    return judge


def brokers_only(case: Case) -> Plan:
    """What brokers and controllers ask each other. No pod is one of them to policy: only a mode that lets all pass
    does."""
    return case.passed_or(case.cluster(Operation.CLUSTER_ACTION))


def _config(case: Case, resource: Tree, operation: Operation) -> int:
    kind, name = resource["ResourceType"], resource["ResourceName"]
    if kind == TOPIC_TYPE:
        return case.topic(operation, name)
    if kind == GROUP_TYPE:
        return case.group(operation, name)
    return case.cluster(operation) if kind in _TYPES else Code.INVALID_REQUEST


def configs(part: Part, operation: Operation) -> Callable[[Case], Plan]:
    """DescribeConfigs, AlterConfigs, IncrementalAlterConfigs."""

    def judge(case: Case) -> Plan:
        resources = case.body["Resources"]
        if part is CONFIGS:
            if any(each["ResourceType"] not in _TYPES for each in resources):
                return case.refused(Code.INVALID_REQUEST)
            return case.parted(part, [_config(case, each, operation) for each in resources])
        twice = case.repeated(map(part.key, resources))
        codes = [_config(case, each, operation) for each in resources]
        told = [
            Code.INVALID_REQUEST if code and part.key(each) in twice else code
            for each, code in zip(resources, codes, strict=True)
        ]
        return case.parted(part, told)

    return judge


def elect(case: Case) -> Plan:
    """ElectLeaders; null is every partition."""
    code = case.cluster(Operation.ALTER)
    if not code and case.body["TopicPartitions"] is None:
        code = case.topic(Operation.ALTER, EVERY_TOPIC) and Code.CLUSTER_AUTHORIZATION_FAILED
    if code:
        return case.refused(code)
    topics = case.body["TopicPartitions"] or ()
    return case.parted(ELECTED, [case.topic(Operation.ALTER, topic["Topic"]) for topic in topics])


def reassign(case: Case) -> Plan:
    """AlterPartitionReassignments."""
    code = case.cluster(Operation.ALTER)
    if code:
        return case.refused(code)
    return case.parted(REASSIGNED, [case.topic(Operation.ALTER, topic["Name"]) for topic in case.body["Topics"]])


def reassignments(case: Case) -> Plan:
    """ListPartitionReassignments: without the topics that may not be seen, which Kafka shows."""
    code = case.cluster(Operation.DESCRIBE)
    if code:
        return case.refused(code)

    def edit(answer: Tree) -> Tree:
        answer["Topics"] = case.shown_topics(answer["Topics"], "Name")
        return answer

    return _without_hidden(case, "Name", edit)


def log_dirs(case: Case) -> Plan:
    """DescribeLogDirs: without the topics that may not be seen, which Kafka shows."""
    code = case.cluster(Operation.DESCRIBE)
    if code:
        return case.answered({"ErrorCode": code, "Results": []})

    def edit(answer: Tree) -> Tree:
        for each in answer["Results"]:
            each["Topics"] = case.shown_topics(each["Topics"], "Name")
        return answer

    return _without_hidden(case, "Topic", edit)


def _without_hidden(case: Case, name: str, edit: Callable[[Tree], Tree]) -> Plan:
    """For an API that has no error for a topic, but leaves out what there is not: so goes what may not be seen."""
    topics = case.body["Topics"]
    if topics is None:
        return case.passed(edit)
    left = [topic for topic in topics if case.allows(Operation.DESCRIBE, Resource.TOPIC, topic[name])]
    return case.passed(edit) if len(left) == len(topics) else case.edited({**case.body, "Topics": left}, edit)


def move_replicas(case: Case) -> Plan:
    """AlterReplicaLogDirs: directories, each with topics."""
    code = case.cluster(Operation.ALTER)
    topics = [topic for each in case.body["Dirs"] for topic in each["Topics"]]
    if code:
        return case.answered({"Results": MOVED.merged((), topics, [code] * len(topics))})
    codes = {topic["Name"]: case.topic(Operation.ALTER, topic["Name"]) for topic in topics}
    if not any(codes.values()):
        return case.passed()
    left = [
        {**each, "Topics": [topic for topic in each["Topics"] if not codes[topic["Name"]]]}
        for each in case.body["Dirs"]
    ]
    told = [codes[topic["Name"]] for topic in topics]
    if all(told):
        return case.answered({"Results": MOVED.merged((), topics, told)})

    def edit(answer: Tree) -> Tree:
        answer["Results"] = MOVED.merged(answer["Results"], topics, told)
        return answer

    return case.edited({**case.body, "Dirs": left}, edit)


def list_resources(case: Case) -> Plan:
    """ListConfigResources: without topics and groups that may not be seen, which Kafka shows."""
    code = case.cluster(Operation.DESCRIBE_CONFIGS)
    if code:
        return case.refused(code)
    kinds = {TOPIC_TYPE: Resource.TOPIC, GROUP_TYPE: Resource.GROUP}

    def edit(answer: Tree) -> Tree:
        answer["ConfigResources"] = [
            each
            for each in answer["ConfigResources"]
            if (kind := kinds.get(each.get("ResourceType", METRICS_TYPE))) is None
            or case.sees(Operation.DESCRIBE, kind, each["ResourceName"])
        ]
        return answer

    return case.passed(edit)


def token(case: Case) -> Plan:
    """CreateDelegationToken, RenewDelegationToken, ExpireDelegationToken.

    Kafka lets whoever has logged in have tokens of his own. Who that is, the proxy does not know; so for a pod this is
    a permission like any other, for the owner that the request names, or for "".
    """
    owner = case.body.get("OwnerPrincipalName")
    name = f"{case.body['OwnerPrincipalType']}:{owner}" if owner else ""
    if case.allows(Operation.CREATE_TOKENS, Resource.USER, name):
        return case.passed()
    return case.refused(Code.DELEGATION_TOKEN_AUTHORIZATION_FAILED)


def tokens(case: Case) -> Plan:
    """DescribeDelegationToken: those that may be seen. Their secrets come with them."""

    def edit(answer: Tree) -> Tree:
        answer["Tokens"] = [
            each
            for each in answer["Tokens"]
            if case.sees(Operation.DESCRIBE, Resource.DELEGATION_TOKEN, each["TokenId"])
        ]
        return answer

    return case.passed(edit)


_SAID: Final = Shape(message="ErrorMessage")
_ALTER: Final = on_cluster(Operation.ALTER)
_DESCRIBE: Final = on_cluster(Operation.DESCRIBE)
_NO_TOKEN: Final = Shape(fill={"ExpiryTimestampMs": -1, "IssueTimestampMs": -1, "MaxTimestampMs": -1})

ROWS: Final = {
    29: Row("DescribeAcls", _SAID, _DESCRIBE),
    30: Row("CreateAcls", Shape(top="", parts=(CREATED_ACLS,)), _ALTER),
    31: Row("DeleteAcls", Shape(top="", parts=(DELETED_ACLS,)), _ALTER),
    32: Row("DescribeConfigs", Shape(top="", parts=(CONFIGS,)), configs(CONFIGS, Operation.DESCRIBE_CONFIGS)),
    33: Row("AlterConfigs", Shape(top="", parts=(ALTERED,)), configs(ALTERED, Operation.ALTER_CONFIGS)),
    34: Row("AlterReplicaLogDirs", Shape(top=""), move_replicas),
    35: Row("DescribeLogDirs", Shape(), log_dirs),
    38: Row("CreateDelegationToken", _NO_TOKEN, token),
    39: Row("RenewDelegationToken", _NO_TOKEN, token),
    40: Row("ExpireDelegationToken", _NO_TOKEN, token),
    41: Row("DescribeDelegationToken", Shape(), tokens),
    43: Row("ElectLeaders", Shape(parts=(ELECTED,)), elect),
    44: Row("IncrementalAlterConfigs", Shape(top="", parts=(ALTERED,)), configs(ALTERED, Operation.ALTER_CONFIGS)),
    45: Row("AlterPartitionReassignments", Shape(message="ErrorMessage", parts=(REASSIGNED,)), reassign),
    46: Row("ListPartitionReassignments", Shape(message="ErrorMessage", parts=(REASSIGNING,)), reassignments),
    48: Row(
        "DescribeClientQuotas",
        Shape(fill={"Entries": None}),
        on_cluster(Operation.DESCRIBE_CONFIGS),
    ),
    49: Row("AlterClientQuotas", Shape(top="", parts=(QUOTAS,)), on_cluster(Operation.ALTER_CONFIGS)),
    50: Row("DescribeUserScramCredentials", Shape(parts=(SCRAM,)), _DESCRIBE),
    51: Row("AlterUserScramCredentials", Shape(top="", parts=(SCRAM_DELETED, SCRAM_CHANGED)), _ALTER),
    52: Row("Vote", Shape(), brokers_only),
    53: Row("BeginQuorumEpoch", Shape(), brokers_only),
    54: Row("EndQuorumEpoch", Shape(), brokers_only),
    55: Row("DescribeQuorum", _SAID, _DESCRIBE),
    56: Row("AlterPartition", Shape(), brokers_only),
    57: Row("UpdateFeatures", _SAID, _ALTER),
    58: Row("Envelope", Shape(), brokers_only),
    59: Row("FetchSnapshot", Shape(), brokers_only),
    62: Row("BrokerRegistration", Shape(), brokers_only),
    63: Row("BrokerHeartbeat", Shape(), brokers_only),
    64: Row("UnregisterBroker", _SAID, _ALTER),
    67: Row("AllocateProducerIds", Shape(), brokers_only),
    70: Row("ControllerRegistration", _SAID, brokers_only),
    73: Row("AssignReplicasToDirs", Shape(), brokers_only),
    74: Row("ListConfigResources", Shape(), list_resources),
    80: Row("AddRaftVoter", _SAID, _ALTER),
    81: Row("RemoveRaftVoter", _SAID, _ALTER),
    82: Row("UpdateRaftVoter", Shape(), brokers_only),
}
