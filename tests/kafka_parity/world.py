"""What there is at the broker, and who may do what with it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from parsers.kafka.codec import Tree
from policies.kafka import acls
from policies.requests import Operation, Resource
from policies.ruleset import KafkaRule, NameKind
from tests.kafka_parity.batch import batch
from tests.kafka_parity.link import Link

OPEN_TOPICS: Final = ("open-a", "open-b")
SHUT_TOPICS: Final = ("shut-a", "shut-b")
TOPICS: Final = (*OPEN_TOPICS, *SHUT_TOPICS, "open-none", "shut-none")
"""The last two are not there."""
GROUPS: Final = ("g-open", "g-shut", "g-none")
TRANSACTIONS: Final = ("tx-open", "tx-shut", "tx-none")
UNKNOWN_ID: Final = bytes(range(16))
CLUSTER: Final = "kafka-cluster"
"""How Kafka calls the one resource of its kind; policy calls it ""."""


def _open(name: str, role: str, **more: Any) -> KafkaRule:
    return KafkaRule(name, role, topic="open-", topic_kind=NameKind.PREFIX, **more)


_READS: Final = tuple(_open(f"reads-{group}", "consume", group=group) for group in ("g-open", "g-none", "g-members"))
_WRITES: Final = (
    _open("writes", "produce", transactional_id="tx-open"),
    _open("writes-none", "produce", transactional_id="tx-none"),
)
PROFILES: Final[dict[str, tuple[KafkaRule, ...]]] = {
    "nobody": (KafkaRule("nothing", "consume", topic="nowhere", group="nowhere"),),
    "reader": _READS,
    "writer": _WRITES,
    "both": (*_READS, *_WRITES),
    "client": (KafkaRule("client", topic="open-a"),),
    "keeper": (_open("keeps", "admin", group="g-open"),),
    "admin": (KafkaRule("admin", "admin"),),
    "all": (KafkaRule("all"),),
    "nearly": (
        KafkaRule("all"),
        KafkaRule("not-read", "consume", topic="shut-a", deny=True),
        KafkaRule("not-at-all", topic="shut-b", deny=True),
    ),
}
"""Rules of a pod, and with the access lists that they are, of a principal at the broker."""

_CODES: Final = {
    Operation.READ: 3, Operation.WRITE: 4, Operation.CREATE: 5, Operation.DELETE: 6, Operation.ALTER: 7,
    Operation.DESCRIBE: 8, Operation.DESCRIBE_CONFIGS: 10, Operation.ALTER_CONFIGS: 11, Operation.IDEMPOTENT_WRITE: 12,
    Operation.CREATE_TOKENS: 13, Operation.DESCRIBE_TOKENS: 14,
}  # fmt: skip
_KINDS: Final = {
    Resource.TOPIC: (2, (3, 4, 5, 6, 7, 8, 10, 11)),
    Resource.GROUP: (3, (3, 6, 8, 10, 11)),
    Resource.CLUSTER: (4, (5, 7, 8, 10, 11, 12)),
    Resource.TRANSACTIONAL_ID: (5, (4, 8)),
    Resource.DELEGATION_TOKEN: (6, (8,)),
    Resource.USER: (7, (13, 14)),
}
"""A kind's code, and what may be done to it; ClusterAction is for brokers."""
_LITERAL, _PREFIXED = 3, 4
_DENY, _ALLOW = 2, 3


def _lists(user: str, rule: KafkaRule) -> Iterator[Tree]:
    """The access lists of a rule, as a broker wants them."""
    for acl in acls(rule):
        kind, every = _KINDS[acl.resource]
        wanted = every if acl.operations is None else [_CODES[each] for each in acl.operations]
        name = CLUSTER if acl.resource is Resource.CLUSTER else acl.name or "*"
        for operation in wanted:
            yield {
                "ResourceType": kind,
                "ResourceName": name,
                "ResourcePatternType": _PREFIXED if acl.name and acl.kind is NameKind.PREFIX else _LITERAL,
                "Principal": f"User:{user}",
                "Host": "*",
                "Operation": operation,
                "PermissionType": _DENY if rule.deny else _ALLOW,
            }


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
    creations = [each for user, rules in PROFILES.items() for rule in rules for each in _lists(user, rule)]
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


def begin(boss: Link, transaction: str, *topics: str) -> None:
    """A transaction that writes to topics, and does not end, unless there is one."""
    (state,) = boss.say("DescribeTransactions", 0, TransactionalIds=[transaction])["TransactionStates"]
    if state["TransactionState"] == "Ongoing":
        return
    made = until(
        partial(boss.say, "InitProducerId", 4, TransactionalId=transaction, TransactionTimeoutMs=60000),
        lambda told: not told["ErrorCode"],
    )
    until(
        partial(
            boss.say, "AddPartitionsToTxn", 3,
            V3AndBelowTransactionalId=transaction, V3AndBelowProducerId=made["ProducerId"],
            V3AndBelowProducerEpoch=made["ProducerEpoch"],
            V3AndBelowTopics=[{"Name": name, "Partitions": [0]} for name in topics],
        ),
        lambda told: not told["ResultsByTopicV3AndBelow"][0]["ResultsByPartition"][0]["PartitionErrorCode"],
    )  # fmt: skip


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
