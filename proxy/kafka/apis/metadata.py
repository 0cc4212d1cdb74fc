"""Rows of the APIs by which clients find their way: versions, topics and who leads them, coordinators, the cluster.

Metadata is the one that every client asks first and always. Two things make it more than a filter. It creates topics,
if a client asks for one that is not there and says so (or is older than the field by which it could say no); and its
answer tells the brokers, which a client needs even where every topic is denied: an answer without brokers is thrown
away by Java's client, and nobody would see the error.
"""

from dataclasses import replace
from functools import partial
from typing import Final

from parsers.kafka.codec import Tree
from parsers.kafka.frames import message_of
from parsers.kafka.table import TABLE
from policies.requests import Operation, Resource
from proxy.kafka.apis.case import NO_ID, Case, Row
from proxy.kafka.apis.codes import Code
from proxy.kafka.apis.shape import Part, Shape
from proxy.kafka.plan import Plan

PRODUCE_KEY: Final = 0
OFFERED: Final = {
    9: (1, 9),  # all offsets of a group come with topic ids alone in 10, and a name is needed to judge
    17: (1, 1),  # after SaslHandshake 0 come tokens without a header
}
"""Versions that ApiVersions offers, where these are fewer than the table has. Others are judged all the same."""
VERSIONS_KEY: Final = 18
FIRST_BY_ID: Final = 12
"""Metadata by topic id: before, brokers answer it with INVALID_REQUEST."""
FIRST_WITH_CREATION: Final = 4
"""The first Metadata that can ask not to create topics. Its answer has all that older ones have."""
SHARE_KIND: Final = 2
KINDS: Final = (0, 1, SHARE_KIND)
"""Group, transaction, share group."""
FIRST_OF_SHARES: Final = 6
"""FindCoordinator for share groups."""

METADATA: Final = Part("Topics", "Topics", {"Name": "Name"})
METADATA_BY_ID: Final = Part("Topics", "Topics", {"TopicId": "TopicId"}, fill={"Name": None})
COORDINATORS: Final = Part("CoordinatorKeys", "Coordinators", {"Key": ""}, fill={"NodeId": -1, "Port": -1})
NO_COORDINATORS: Final = replace(COORDINATORS, message="ErrorMessage")
"""Where the whole is refused, there is text beside each code."""


def metadata(case: Case) -> Plan:
    """Metadata."""
    topics = case.body["Topics"]
    if topics is None or (not topics and not case.version):
        return case.passed(partial(_every_topic, case))
    by_id = any(topic.get("TopicId", NO_ID) != NO_ID for topic in topics)
    if (by_id and case.version < FIRST_BY_ID) or any(
        topic["Name"] is None and topic.get("TopicId", NO_ID) == NO_ID for topic in topics
    ):
        return case.answered(_unreadable(topics))
    if by_id:
        return _metadata_by_id(case, topics)
    codes = [case.topic(Operation.DESCRIBE, topic["Name"]) for topic in topics]
    left = [topic for topic, code in zip(topics, codes, strict=True) if not code]
    creates = case.body.get("AllowAutoTopicCreation", True) and bool(left)
    stopped = creates and not all(case.sees(Operation.CREATE, Resource.TOPIC, topic["Name"]) for topic in left)
    return _metadata_without(case, METADATA, topics, codes, left, stopped=stopped)


def _unreadable(topics: list[Tree]) -> Tree:
    """What a broker says to ids before version 12, and to topics with neither name nor id. No name may be null
    there."""
    told = [{**topic, "Name": topic["Name"] or "", "ErrorCode": Code.INVALID_REQUEST} for topic in topics]
    return {"Topics": told, "ErrorCode": Code.INVALID_REQUEST}


def _metadata_by_id(case: Case, topics: list[Tree]) -> Plan:
    """A broker that is asked by id looks at ids alone; names beside them are not forwarded, lest they be looked at when
    no id is left."""
    topics = [topic for topic in topics if topic["TopicId"] != NO_ID]
    codes = [case.topic_by_id(Operation.DESCRIBE, topic["TopicId"]) for topic in topics]
    left = [{**topic, "Name": None} for topic, code in zip(topics, codes, strict=True) if not code]
    return _metadata_without(case, METADATA_BY_ID, topics, codes, left, stopped=False)


def _metadata_without(
    case: Case, part: Part, topics: list[Tree], codes: list[int], left: list[Tree], *, stopped: bool
) -> Plan:
    """Goes on with the topics that are left, even if there are none, for the brokers in the answer."""

    def edit(answer: Tree) -> Tree:
        _operations(case, answer)
        answer["Topics"] = part.merged(answer["Topics"], topics, codes)
        return answer

    named = part is METADATA_BY_ID and any(topic["Name"] is not None for topic in case.body["Topics"])
    changed = any(codes) or stopped or named
    if not changed:
        asks = case.body.get("IncludeTopicAuthorizedOperations") or case.body.get("IncludeClusterAuthorizedOperations")
        return case.passed(edit if asks else None)
    body = {**case.body, "Topics": left}
    version = case.version
    if version < FIRST_WITH_CREATION and (stopped or not left):
        version = FIRST_WITH_CREATION  # in version 0 no topic is every topic
    if stopped or version != case.version:
        body["AllowAutoTopicCreation"] = False
    return case.edited(body, edit, version)


def _every_topic(case: Case, answer: Tree) -> Tree:
    answer["Topics"] = case.shown_topics(answer["Topics"], "Name")
    _operations(case, answer)
    return answer


def _operations(case: Case, answer: Tree) -> None:
    """The operations in an answer, less those that policy does not allow."""
    if "ClusterAuthorizedOperations" in answer:
        bits = answer["ClusterAuthorizedOperations"]
        answer["ClusterAuthorizedOperations"] = _cluster_operations(case, bits)
    for topic in answer["Topics"]:
        if "TopicAuthorizedOperations" in topic:
            bits, name = topic["TopicAuthorizedOperations"], topic["Name"] or ""
            topic["TopicAuthorizedOperations"] = case.operations(bits, Resource.TOPIC, name)


def _cluster_operations(case: Case, bits: int) -> int:
    """None at all, as brokers have it, for who may not describe the cluster."""
    reduced = case.operations(bits, Resource.CLUSTER, "")
    return reduced if reduced == bits or case.sees(Operation.DESCRIBE, Resource.CLUSTER) else 0


def describe_cluster(case: Case) -> Plan:
    """DescribeCluster asks for nothing; its operations are those that policy allows."""

    def edit(answer: Tree) -> Tree:
        answer["ClusterAuthorizedOperations"] = _cluster_operations(case, answer["ClusterAuthorizedOperations"])
        return answer

    return case.passed(edit if case.body["IncludeClusterAuthorizedOperations"] else None)


def versions(case: Case) -> Plan:
    """ApiVersions: what the broker has, as far as this table has it too."""
    return case.passed(narrowed)


def narrowed(answer: Tree) -> Tree:
    """An answer to ApiVersions without the APIs and versions that we would refuse."""
    kept: list[Tree] = []
    for each in answer["ApiKeys"]:
        key, first, last = each["ApiKey"], each["MinVersion"], each["MaxVersion"]
        api = TABLE.apis.get(key)
        if api is None or api.request is None:
            continue
        ours = OFFERED.get(key, api.request.versions)
        low, high = max(first, ours[0]), min(last, ours[1])
        if low <= high:
            # KAFKA-18659: librdkafka before 2.8 takes a broker whose Produce does not begin at 0 for one it cannot
            # speak to. It uses the last version that both have, so versions that nobody answers may be offered.
            kept.append({**each, "MinVersion": first if key == PRODUCE_KEY else low, "MaxVersion": high})
    answer["ApiKeys"] = kept
    return answer


def unknown_versions() -> Tree:
    """The answer, in version 0, to ApiVersions in a version that we do not know; the client asks again in one that it
    reads here (KIP-511)."""
    first, last = message_of(VERSIONS_KEY, 0, "request").versions
    own = {"ApiKey": VERSIONS_KEY, "MinVersion": first, "MaxVersion": last}
    return {"ErrorCode": Code.UNSUPPORTED_VERSION, "ApiKeys": [own]}


def handshake(case: Case) -> Plan:
    """SaslHandshake. After version 0 come tokens without a header, which nobody can judge."""
    return case.passed() if case.version else case.refused(Code.UNSUPPORTED_VERSION)


def coordinator(case: Case) -> Plan:
    """FindCoordinator, for one key or, from version 4, for several."""
    kind = case.body.get("KeyType", 0)
    if "Key" in case.body:
        return case.passed_or(_coordinated(case, kind, case.body["Key"]))
    if kind not in KINDS or (kind == SHARE_KIND and case.version >= FIRST_OF_SHARES):
        return case.passed_or(_coordinated(case, kind, ""))
    return case.parted(COORDINATORS, [_coordinated(case, kind, key) for key in case.body["CoordinatorKeys"]])


def _coordinated(case: Case, kind: int, key: str) -> int:
    if kind == 0:
        return case.group(Operation.DESCRIBE, key)
    if kind == 1:
        return case.transaction(Operation.DESCRIBE, key)
    if kind == SHARE_KIND and case.version >= FIRST_OF_SHARES:  # where its state is: brokers ask each other
        return case.cluster(Operation.CLUSTER_ACTION)
    return Code.INVALID_REQUEST


def nothing(case: Case) -> Plan:
    """An API that needs no permission: one record, and deny rules hold."""
    return case.passed()


ROWS: Final = {
    3: Row("Metadata", Shape(parts=(METADATA,)), metadata),
    10: Row(
        "FindCoordinator",
        Shape(message="ErrorMessage", parts=(NO_COORDINATORS,), fill={"NodeId": -1, "Port": -1}),
        coordinator,
    ),
    17: Row("SaslHandshake", Shape(), handshake),
    18: Row("ApiVersions", Shape(), versions),
    36: Row("SaslAuthenticate", Shape(message="ErrorMessage"), nothing),
    60: Row("DescribeCluster", Shape(message="ErrorMessage"), describe_cluster),
    71: Row("GetTelemetrySubscriptions", Shape(), nothing),
    72: Row("PushTelemetry", Shape(), nothing),
}
