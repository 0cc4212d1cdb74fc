"""Requests drawn from the definitions: names of things that are there and may be had, that may not, that are not
there."""

import random
from collections.abc import Callable
from typing import Any, Final

from parsers.kafka.codec import Tree, default_of
from parsers.kafka.table import TABLE, Field
from tests.kafka_parity.batch import batch
from tests.kafka_parity.world import GROUPS, OPEN_TOPICS, SHUT_TOPICS, TOPICS, TRANSACTIONS, UNKNOWN_ID, World

_NUMBERS: Final[dict[str, tuple[int, ...]]] = {
    "Partition": (0, 0, 1, 7), "PartitionIndex": (0, 0, 1, 7), "Index": (0, 0, 1, 7), "PartitionId": (0, 1),
    "Timestamp": (-1, -2), "FetchOffset": (0,), "Offset": (0,), "CommittedOffset": (1,), "TimeoutMs": (5000,),
    "timeoutMs": (5000,), "MaxWaitMs": (0,), "MaxBytes": (100_000,), "PartitionMaxBytes": (100_000,),
    "IsolationLevel": (0, 1), "Acks": (1, -1), "NumPartitions": (1,), "ReplicationFactor": (1,), "Count": (2, 3),
    "KeyType": (0, 0, 1, 1, 2, 9), "ReplicaId": (-1,), "SessionId": (0,), "SessionEpoch": (-1, 0),
    "SessionTimeoutMs": (10_000,), "RebalanceTimeoutMs": (10_000,), "TransactionTimeoutMs": (60_000,),
    "ProducerId": (-1, 5), "ProducerEpoch": (-1, 0), "GenerationId": (-1, 3), "GenerationIdOrMemberEpoch": (-1, 3),
    "MemberEpoch": (-1, 3), "RetentionTimeMs": (-1,), "StartOffset": (0,), "LeaderEpoch": (0,),
    "CurrentLeaderEpoch": (-1,), "LastFetchedEpoch": (-1,), "LogStartOffset": (-1,), "CommittedLeaderEpoch": (-1,),
    "ResponsePartitionLimit": (2000, 1), "ResourceType": (2, 2, 4, 16, 32, 99), "PatternTypeFilter": (1, 3),
    "ResourceTypeFilter": (1, 2), "Operation": (3, 8),
    "PermissionType": (3,), "ResourcePatternType": (3,), "ConfigOperation": (0,), "EndpointType": (1,),
    "ShareSessionEpoch": (0, 0, -1), "MaxRecords": (10,), "BatchSize": (10,), "ElectionType": (0,), "BrokerId": (999,),
    "DurationFilter": (-1,), "CoordinatorEpoch": (0,), "HighWatermark": (0x7FFFFFFFFFFFFFFF,), "VoterId": (999,),
    "MatchType": (2,), "Mechanism": (1,), "Iterations": (4096,), "UpgradeType": (1,), "ResourceTypes": (2, 4, 16, 32),
}  # fmt: skip
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "ResourceName": (*TOPICS, *GROUPS, "1"), "Principal": ("User:x",), "Host": ("*",), "MemberId": ("", "nobody"),
    "ProtocolType": ("consumer",), "ClientSoftwareName": ("parity",), "ClientSoftwareVersion": ("1",),
    "Path": ("/nowhere",),
    "StatesFilter": ("Empty",), "TypesFilter": ("Classic",), "StateFilters": ("Empty",), "EntityType": ("user",),
    "TopicName": TOPICS, "Topic": TOPICS, "Key": (*GROUPS, *TRANSACTIONS), "CoordinatorKeys": (*GROUPS, *TRANSACTIONS),
    "GroupsNames": GROUPS, "Groups": GROUPS, "GroupIds": GROUPS, "SubscribedTopicNames": TOPICS, "TopicNames": TOPICS,
    "TransactionalIds": TRANSACTIONS, "Feature": ("group.version",), "TransactionalIdPattern": (".*",),
    "SubscribedTopicRegex": ("open.*",), "ServerAssignor": ("uniform",), "SourceTopics": TOPICS,
    "RepartitionSinkTopics": TOPICS,
}  # fmt: skip
_ENTITIES: Final = {"topicName": TOPICS, "groupId": GROUPS, "transactionalId": TRANSACTIONS}


class Draw:
    """Draws bodies of requests; the same from the same seed."""

    def __init__(self, world: World, seed: int, *, harmless: bool = True) -> None:
        """harmless: a body may be sent to a broker, and more than once."""
        self._random = random.Random(seed)  # noqa: S311  for tests
        self._ids = [*world.ids, UNKNOWN_ID]
        self._world = world
        self._harmless = harmless

    def body(self, key: int, version: int) -> Tree:
        """Of a request of an API, fit to be sent in a version."""
        api = TABLE.apis[key]
        assert api.request is not None
        body = self._struct(api.request.fields, version)
        if not self._harmless:
            return body
        if api.name == "DeleteTopics":
            gone = [topic_id for name, topic_id in self._world.now.items() if name.endswith("-del")]
            for topic in body.get("Topics", ()):
                topic["TopicId"] = self.choice([*gone, UNKNOWN_ID])
        fix = _FIXES.get(api.name)
        if fix is not None:
            fix(body)
        return body

    def choice[T](self, of: tuple[T, ...] | list[T]) -> T:
        """One of them."""
        return self._random.choice(of)

    def _struct(self, fields: tuple[Field, ...], version: int) -> Tree:
        return {
            field.name: self._value(field, version)
            for field in fields
            if field.in_version(version) and not field.tagged_in(version)
        }

    def _value(self, field: Field, version: int) -> Any:
        nullable = field.nullable_in(version) and field.type != "records"  # a broker never answers to these
        if nullable and self._random.random() < (0.25 if field.type.startswith("[]") or field.entity else 0.7):
            return None
        if field.type.startswith("[]"):
            size = self._random.choice((0, 1, 1, 2, 2, 3, 4))
            return [self._one(field, field.type.removeprefix("[]"), version) for _ in range(size)]
        return self._one(field, field.type, version)

    def _one(self, field: Field, kind: str, version: int) -> Any:
        if field.fields:
            return self._struct(field.fields, version)
        if kind == "uuid":
            return self.choice(self._ids)
        if kind == "string":
            words = _ENTITIES.get(field.entity) or _WORDS.get(field.name)
            return (
                self.choice(words) if words else ("" if not field.name.startswith("Resource") else self.choice(TOPICS))
            )
        if kind == "records":
            return batch()
        if kind == "bytes":
            return b""
        if kind == "bool":
            return self._random.random() < 0.5 if field.name.startswith(("Include", "Require", "Allow")) else False
        numbers = _NUMBERS.get(field.name)
        if numbers:
            return self.choice(numbers)
        if field.name.startswith("Partition"):
            return self.choice((0, 1))
        return 1 if field.type.startswith("[]") else default_of(field, version)()


def _set(**values: Any) -> Callable[[Tree], None]:
    return lambda body: body.update({name: value for name, value in values.items() if name in body})


def _create(body: Tree) -> None:
    body["validateOnly"] = True
    for topic in body["Topics"]:
        topic.update(Assignments=[], Configs=[])


def _partitions(body: Tree) -> None:
    body["ValidateOnly"] = True
    for topic in body["Topics"]:
        topic["Assignments"] = None


def _metadata(body: Tree) -> None:
    for topic in body["Topics"] or ():
        if "TopicId" in topic:
            topic["TopicId"] = bytes(16)
            topic["Name"] = topic["Name"] or "open-a"


def _configs(body: Tree) -> None:
    if "ValidateOnly" in body:
        body["ValidateOnly"] = True
    for each in body["Resources"]:
        each["Configs"] = []
        if each["ResourceType"] in (4, 8):
            each["ResourceName"] = "1"


def _legacy_configs(body: Tree) -> None:
    """Nothing twice: there are such requests that a broker never answers."""
    _configs(body)
    once = {(each["ResourceType"], each["ResourceName"]): each for each in body["Resources"]}
    body["Resources"] = list(once.values())


def _share(body: Tree) -> None:
    """The first fetch of a session; an acknowledgement has none yet."""
    body.update(ShareSessionEpoch=0)
    body["GroupId"] = body["GroupId"] or "g-none"
    body["MemberId"] = body["MemberId"] and "nobody"
    for topic in body["Topics"]:
        for part in topic["Partitions"]:
            part["AcknowledgementBatches"] = []
    if "ForgottenTopicsData" in body:
        body["ForgottenTopicsData"] = []


def _markers(body: Tree) -> None:
    for at, marker in enumerate(body["Markers"]):
        marker["ProducerId"] = at
        names = {topic["Name"] for topic in marker["Topics"]} & {*OPEN_TOPICS, *SHUT_TOPICS}
        marker["Topics"] = [{"Name": name, "PartitionIndexes": [0]} for name in sorted(names or {"shut-a"})]


_DELETED: Final = {
    "open-a": "open-del", "open-b": "open-del", "shut-a": "shut-del", "shut-b": "shut-del",
}  # fmt: skip


def _delete(body: Tree) -> None:
    """Topics that may go, by name or by id."""
    body.update(
        {"TopicNames": [_DELETED.get(name, name) for name in body["TopicNames"]]} if "TopicNames" in body else {}
    )
    for at, topic in enumerate(body.get("Topics") or ()):
        topic["Name"] = _DELETED.get(topic["Name"] or "", topic["Name"])
        if at % 2 and topic["Name"] is not None:
            topic["TopicId"] = bytes(16)
        else:
            topic["Name"] = None


def _acls(body: Tree) -> None:
    for each in body["Filters"]:
        each["PrincipalFilter"] = "User:y"


_FIXES: Final[dict[str, Callable[[Tree], None]]] = {
    "CreateTopics": _create,
    "CreatePartitions": _partitions,
    "DeleteTopics": _delete,
    "DeleteAcls": _acls,
    "Metadata": _metadata,
    "DescribeConfigs": _configs,
    "AlterConfigs": _legacy_configs,
    "IncrementalAlterConfigs": _configs,
    "WriteTxnMarkers": _markers,
    "Produce": _set(TransactionalId=None),
    "JoinGroup": _set(MemberId="nobody"),
    "ConsumerGroupHeartbeat": _set(MemberId="nobody", SubscribedTopicRegex=None),
    "ShareFetch": _share,
    "ShareAcknowledge": _share,
    "DescribeUserScramCredentials": lambda body: body.update(Users=body["Users"] or []),  # null: a broker never answers
    "AddRaftVoter": _set(Listeners=[]),  # a controller ends itself on a listener without a name
    "UpdateFeatures": _set(ValidateOnly=True, FeatureUpdates=[]),
    "AlterClientQuotas": _set(ValidateOnly=True),
    "AlterUserScramCredentials": _set(Upsertions=[]),
    "ListTransactions": _set(StateFilters=[], ProducerIdFilters=[]),
    "PushTelemetry": _set(ClientInstanceId=bytes(16)),
    "GetTelemetrySubscriptions": _set(ClientInstanceId=bytes(16)),
    "StreamsGroupHeartbeat": _set(Topology=None),
    "DescribeQuorum": _set(Topics=[{"TopicName": "__cluster_metadata", "Partitions": [{"PartitionIndex": 0}]}]),
}
"""What is changed in a drawn body so that it harms nothing and does the same twice."""
