"""What each API of Kafka asks of policy, in short: the main operations on the main resources.

For people who ask (`tulle policy explain`), and for records of a refused request. The data path asks more precisely,
topic by topic and as the request's fields have it (`proxy.kafka.apis`, docs/kafka.md).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from policies.requests import KafkaRequest, Operation, Resource

_O, _R = Operation, Resource


class Ask(NamedTuple):
    """One operation on one resource. given: only where the request names a resource of that kind. unless: only where it
    names none of those kinds."""

    operation: Operation
    resource: Resource
    given: bool = False
    unless: tuple[Resource, ...] = ()


type Step = tuple[Ask, ...]
"""One of them is enough."""

_READ_TOPIC, _WRITE_TOPIC, _DESCRIBE_TOPIC, _ALTER_TOPIC, _DELETE_TOPIC = (
    (Ask(each, _R.TOPIC),) for each in (_O.READ, _O.WRITE, _O.DESCRIBE, _O.ALTER, _O.DELETE)
)
_READ_GROUP, _DESCRIBE_GROUP, _DELETE_GROUP = ((Ask(each, _R.GROUP),) for each in (_O.READ, _O.DESCRIBE, _O.DELETE))
_ALTER, _DESCRIBE, _CLUSTER_ACTION = ((Ask(each, _R.CLUSTER),) for each in (_O.ALTER, _O.DESCRIBE, _O.CLUSTER_ACTION))
_TRANSACT = (Ask(_O.WRITE, _R.TRANSACTIONAL_ID),)


def _configs(operation: Operation) -> tuple[Step, ...]:
    """Of a topic, or of a group, or else of a broker."""
    return (
        (Ask(operation, _R.TOPIC, given=True),),
        (Ask(operation, _R.GROUP, given=True),),
        (Ask(operation, _R.CLUSTER, unless=(_R.TOPIC, _R.GROUP)),),
    )


_NOTHING: tuple[Step, ...] = ()
_ALTERED = (_ALTER, (Ask(_O.ALTER, _R.TOPIC, given=True),))
_DESCRIBED = (_DESCRIBE, (Ask(_O.DESCRIBE, _R.TOPIC, given=True),))
_TOKENS = ((Ask(_O.CREATE_TOKENS, _R.USER),),)  # whose they are, the proxy does not know
_BROKERS = (_CLUSTER_ACTION,)

MAIN: dict[int, tuple[Step, ...]] = {
    0: (_WRITE_TOPIC, (Ask(_O.WRITE, _R.TRANSACTIONAL_ID, given=True),)),  # Produce
    1: (_READ_TOPIC,),  # Fetch
    2: (_DESCRIBE_TOPIC,),  # ListOffsets
    3: (_DESCRIBE_TOPIC,),  # Metadata
    4: _BROKERS,  # LeaderAndIsr, gone since 4.0 as are the next three
    5: _BROKERS,  # StopReplica
    6: _BROKERS,  # UpdateMetadata
    7: _BROKERS,  # ControlledShutdown
    8: (_READ_GROUP, _READ_TOPIC),  # OffsetCommit
    9: (_DESCRIBE_GROUP, (Ask(_O.DESCRIBE, _R.TOPIC, given=True),)),  # OffsetFetch
    10: (  # FindCoordinator
        (Ask(_O.DESCRIBE, _R.TRANSACTIONAL_ID, given=True),),
        (Ask(_O.DESCRIBE, _R.GROUP, unless=(_R.TRANSACTIONAL_ID,)),),
    ),
    11: (_READ_GROUP,),  # JoinGroup
    12: (_READ_GROUP,),  # Heartbeat
    13: (_READ_GROUP,),  # LeaveGroup
    14: (_READ_GROUP,),  # SyncGroup
    15: (_DESCRIBE_GROUP,),  # DescribeGroups
    16: _NOTHING,  # ListGroups: it shows the groups that may be described
    17: _NOTHING,  # SaslHandshake
    18: _NOTHING,  # ApiVersions
    19: ((Ask(_O.CREATE, _R.TOPIC),),),  # CreateTopics
    20: (_DELETE_TOPIC,),  # DeleteTopics
    21: (_DELETE_TOPIC,),  # DeleteRecords
    22: (  # InitProducerId
        (Ask(_O.WRITE, _R.TRANSACTIONAL_ID, given=True),),
        (
            Ask(_O.IDEMPOTENT_WRITE, _R.CLUSTER, unless=(_R.TRANSACTIONAL_ID,)),
            Ask(_O.WRITE, _R.TOPIC, unless=(_R.TRANSACTIONAL_ID,)),
        ),
    ),
    23: (_DESCRIBE_TOPIC,),  # OffsetForLeaderEpoch
    24: (_TRANSACT, _WRITE_TOPIC),  # AddPartitionsToTxn
    25: (_TRANSACT, _READ_GROUP),  # AddOffsetsToTxn
    26: (_TRANSACT,),  # EndTxn
    27: _ALTERED,  # WriteTxnMarkers
    28: (_TRANSACT, _READ_GROUP, _READ_TOPIC),  # TxnOffsetCommit
    29: (_DESCRIBE,),  # DescribeAcls
    30: (_ALTER,),  # CreateAcls
    31: (_ALTER,),  # DeleteAcls
    32: _configs(_O.DESCRIBE_CONFIGS),  # DescribeConfigs
    33: _configs(_O.ALTER_CONFIGS),  # AlterConfigs
    34: _ALTERED,  # AlterReplicaLogDirs
    35: _DESCRIBED,  # DescribeLogDirs
    36: _NOTHING,  # SaslAuthenticate
    37: (_ALTER_TOPIC,),  # CreatePartitions
    38: _TOKENS,  # CreateDelegationToken
    39: _TOKENS,  # RenewDelegationToken
    40: _TOKENS,  # ExpireDelegationToken
    41: _NOTHING,  # DescribeDelegationToken: it shows the tokens that may be described
    42: (_DELETE_GROUP,),  # DeleteGroups
    43: _ALTERED,  # ElectLeaders
    44: _configs(_O.ALTER_CONFIGS),  # IncrementalAlterConfigs
    45: _ALTERED,  # AlterPartitionReassignments
    46: _DESCRIBED,  # ListPartitionReassignments
    47: (_DELETE_GROUP, _READ_TOPIC),  # OffsetDelete
    48: ((Ask(_O.DESCRIBE_CONFIGS, _R.CLUSTER),),),  # DescribeClientQuotas
    49: ((Ask(_O.ALTER_CONFIGS, _R.CLUSTER),),),  # AlterClientQuotas
    50: (_DESCRIBE,),  # DescribeUserScramCredentials
    51: (_ALTER,),  # AlterUserScramCredentials
    52: _BROKERS,  # Vote
    53: _BROKERS,  # BeginQuorumEpoch
    54: _BROKERS,  # EndQuorumEpoch
    55: (_DESCRIBE,),  # DescribeQuorum
    56: _BROKERS,  # AlterPartition
    57: (_ALTER,),  # UpdateFeatures
    58: _BROKERS,  # Envelope
    59: _BROKERS,  # FetchSnapshot
    60: _NOTHING,  # DescribeCluster
    61: (_READ_TOPIC,),  # DescribeProducers
    62: _BROKERS,  # BrokerRegistration
    63: _BROKERS,  # BrokerHeartbeat
    64: (_ALTER,),  # UnregisterBroker
    65: ((Ask(_O.DESCRIBE, _R.TRANSACTIONAL_ID),),),  # DescribeTransactions
    66: _NOTHING,  # ListTransactions: it shows the ids that may be described
    67: _BROKERS,  # AllocateProducerIds
    68: (_READ_GROUP, (Ask(_O.DESCRIBE, _R.TOPIC, given=True),)),  # ConsumerGroupHeartbeat
    69: (_DESCRIBE_GROUP,),  # ConsumerGroupDescribe
    70: _BROKERS,  # ControllerRegistration
    71: _NOTHING,  # GetTelemetrySubscriptions
    72: _NOTHING,  # PushTelemetry
    73: _BROKERS,  # AssignReplicasToDirs
    74: ((Ask(_O.DESCRIBE_CONFIGS, _R.CLUSTER),),),  # ListConfigResources
    75: (_DESCRIBE_TOPIC,),  # DescribeTopicPartitions
    76: (_READ_GROUP, (Ask(_O.DESCRIBE, _R.TOPIC, given=True),)),  # ShareGroupHeartbeat
    77: (_DESCRIBE_GROUP,),  # ShareGroupDescribe
    78: (_READ_GROUP, _READ_TOPIC),  # ShareFetch
    79: (_READ_GROUP, _READ_TOPIC),  # ShareAcknowledge
    80: (_ALTER,),  # AddRaftVoter
    81: (_ALTER,),  # RemoveRaftVoter
    82: _BROKERS,  # UpdateRaftVoter
    83: _BROKERS,  # InitializeShareGroupState
    84: _BROKERS,  # ReadShareGroupState
    85: _BROKERS,  # WriteShareGroupState
    86: _BROKERS,  # DeleteShareGroupState
    87: _BROKERS,  # ReadShareGroupStateSummary
    88: (_READ_GROUP, (Ask(_O.DESCRIBE, _R.TOPIC, given=True),)),  # StreamsGroupHeartbeat
    89: (_DESCRIBE_GROUP,),  # StreamsGroupDescribe
    90: (_DESCRIBE_GROUP, (Ask(_O.DESCRIBE, _R.TOPIC, given=True),)),  # DescribeShareGroupOffsets
    91: (_READ_GROUP, _READ_TOPIC),  # AlterShareGroupOffsets
    92: (_DELETE_GROUP, _READ_TOPIC),  # DeleteShareGroupOffsets
}
"""By API key; every step must be allowed. () is an API that asks for nothing."""


def questions(
    api_key: int, api_version: int, client_id: str, names: Mapping[Resource, str]
) -> Iterator[tuple[KafkaRequest, ...]]:
    """The main questions of one request: of each tuple one must be allowed. What is not in `names` is any of its kind.

    Raises:
        KeyError: there is no such API.
    """
    topic = names.get(Resource.TOPIC)
    steps = MAIN[api_key]
    if not steps:
        yield (KafkaRequest(api_key, api_version, client_id),)
    for step in steps:
        asked = tuple(
            KafkaRequest(api_key, api_version, client_id, topic, ask.operation, ask.resource, _name(ask, names))
            for ask in step
            if (ask.resource in names or not ask.given) and not any(kind in names for kind in ask.unless)
        )
        if asked:
            yield asked


def _name(ask: Ask, names: Mapping[Resource, str]) -> str | None:
    return "" if ask.resource in (Resource.CLUSTER, Resource.USER) else names.get(ask.resource)
