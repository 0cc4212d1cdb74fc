"""What there is at the broker, and who may do what with it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from parsers.kafka.codec import Tree
from policies.requests import Operation, Resource
from tests.kafka_parity.batch import batch
from tests.kafka_parity.link import Link
from tests.proxy.kafka_case import KINDS

OPEN_TOPICS: Final = ("open-a", "open-b")
SHUT_TOPICS: Final = ("shut-a", "shut-b")
TOPICS: Final = (*OPEN_TOPICS, *SHUT_TOPICS, "open-none", "shut-none")
"""The last two are not there."""
GROUPS: Final = ("g-open", "g-shut", "g-none")
TRANSACTIONS: Final = ("tx-open", "tx-shut", "tx-none")
UNKNOWN_ID: Final = bytes(range(16))
CLUSTER: Final = "kafka-cluster"
"""How Kafka calls the one resource of its kind; policy calls it ""."""

_OPEN: Final = (*OPEN_TOPICS, "open-none")


def _each(operations: str, kind: str, *names: str) -> list[str]:
    return [f"{operation} {kind} {name}" for operation in operations.split() for name in names]


_ADMIN: Final = "Create Delete Alter Describe DescribeConfigs AlterConfigs"
PROFILES: Final[dict[str, list[str]]] = {
    "nobody": [],
    "reader": _each("Read", "T", *_OPEN) + _each("Read", "G", "g-open", "g-none"),
    "writer": [
        *_each("Write Describe", "T", *_OPEN),
        "IdempotentWrite C ",
        *_each("Write Describe", "X", "tx-open", "tx-none"),
    ],
    "both": [
        *_each("Read Write Create", "T", *_OPEN),
        *_each("Read", "G", "g-open", "g-none"),
        *_each("Write", "X", "tx-open", "tx-none"),
    ],
    "looker": [*_each("Describe", "T", *_OPEN), *_each("Describe", "G", "g-open"), *_each("Describe", "X", "tx-open")],
    "keeper": [*_each(_ADMIN, "T", *_OPEN, "open-del"), *_each("Describe Delete", "G", "g-open", "g-none")],
    "admin": [
        *_each(_ADMIN, "T", "*"),
        *_each("Describe Delete", "G", "*"),
        *_each("Create Alter Describe DescribeConfigs AlterConfigs", "C", ""),
    ],
}
"""As `tests.proxy.kafka_case.Acl` reads them. What a policy cannot say is in none: the cluster without its topics."""

_TYPES: Final = {Resource.TOPIC: 2, Resource.GROUP: 3, Resource.CLUSTER: 4, Resource.TRANSACTIONAL_ID: 5}
_CODES: Final = {
    Operation.READ: 3, Operation.WRITE: 4, Operation.CREATE: 5, Operation.DELETE: 6, Operation.ALTER: 7,
    Operation.DESCRIBE: 8, Operation.DESCRIBE_CONFIGS: 10, Operation.ALTER_CONFIGS: 11, Operation.IDEMPOTENT_WRITE: 12,
}  # fmt: skip


@dataclass
class World:
    """ids: of all topics that ever were. now: of those that are there, by name. offered: versions of the broker, by
    key."""

    ids: dict[bytes, str]
    now: dict[str, bytes]
    offered: dict[int, tuple[int, int]]

    def remember(self, ids: dict[bytes, str]) -> None:
        """Topics that were made."""
        self.ids.update(ids)
        self.now.update({name: topic_id for topic_id, name in ids.items()})


def until(ask: Callable[[], Tree], good: Callable[[Tree], bool]) -> Tree:
    """Ask until the answer is good: leaders and coordinators come up in their own time."""
    for _ in range(300):
        told = ask()
        if good(told):
            return told
        time.sleep(0.1)
    raise AssertionError(told)


def build(boss: Link) -> World:
    """Make it all, as nobody in particular."""
    creations: list[Tree] = []
    for user, lines in PROFILES.items():
        for line in lines:
            operation, kind, *rest = line.split(" ")
            resource = KINDS[kind]
            creations.append(
                {
                    "ResourceType": _TYPES[resource],
                    "ResourceName": CLUSTER if resource is Resource.CLUSTER else " ".join(rest),
                    "ResourcePatternType": 3,
                    "Principal": f"User:{user}",
                    "Host": "*",
                    "Operation": _CODES[Operation(operation)],
                    "PermissionType": 3,
                }
            )
    made = boss.say("CreateAcls", 3, Creations=creations)
    assert not any(each["ErrorCode"] for each in made["Results"]), made
    ids = create(boss, *OPEN_TOPICS, *SHUT_TOPICS)
    for name in (*OPEN_TOPICS, *SHUT_TOPICS):
        part = {"PartitionData": [{"Index": 0, "Records": batch()}], "Name": name}
        ask = partial(boss.say, "Produce", 9, TransactionalId=None, Acks=-1, TimeoutMs=9000, TopicData=[part])
        until(ask, lambda told: not told["Responses"][0]["PartitionResponses"][0]["ErrorCode"])
    for group in GROUPS[:2]:
        _coordinated(boss, 0, group)
        commit(boss, group)
    for name in TRANSACTIONS[:2]:
        _coordinated(boss, 1, name)
        until(
            partial(boss.say, "InitProducerId", 4, TransactionalId=name, TransactionTimeoutMs=60000),
            lambda told: not told["ErrorCode"],
        )
    told = boss.say("ApiVersions", 3, ClientSoftwareName="parity", ClientSoftwareVersion="1")
    offered = {each["ApiKey"]: (each["MinVersion"], each["MaxVersion"]) for each in told["ApiKeys"]}
    world = World({}, {}, offered)
    world.remember(ids)
    return world


def commit(boss: Link, group: str) -> None:
    """An offset of a group for every topic that is there."""
    part = {"PartitionIndex": 0, "CommittedOffset": 1, "CommittedMetadata": ""}
    topics = [{"Name": name, "Partitions": [part]} for name in (*OPEN_TOPICS, *SHUT_TOPICS)]
    until(
        partial(boss.say, "OffsetCommit", 8, GroupId=group, Topics=topics),
        lambda told: not told["Topics"][0]["Partitions"][0]["ErrorCode"],
    )


def _coordinated(boss: Link, kind: int, key: str) -> None:
    until(
        partial(boss.say, "FindCoordinator", 4, KeyType=kind, CoordinatorKeys=[key]),
        lambda told: not told["Coordinators"][0]["ErrorCode"],
    )


def create(boss: Link, *names: str) -> dict[bytes, str]:
    """Topics of two partitions, unless they are there, and their ids."""
    topics = [{"Name": name, "NumPartitions": 2, "ReplicationFactor": 1} for name in names]
    boss.say("CreateTopics", 7, Topics=topics, timeoutMs=9000)
    asked = [{"Name": name} for name in names]
    told = until(
        partial(boss.say, "Metadata", 12, Topics=asked),
        lambda told: all(len(each["Partitions"]) == 2 for each in told["Topics"]),
    )
    return {each["TopicId"]: each["Name"] for each in told["Topics"]}
