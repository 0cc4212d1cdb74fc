"""The facts of one request that policy judges; layers fill them from what their parsers saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What an http rule can ask about.

    method: as sent, case-sensitive. path: canonical path, then "?query" if there is a query.
    host: the authority as the client wrote it, port included; "" when it sent none, which no host pattern of a rule
    that allows matches.
    headers: (name in lower case, value) pairs in order, as h11 gives them.
    """

    method: str
    path: str
    host: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()


class Operation(StrEnum):
    """What is done to a resource: Kafka's AclOperation (KIP-11 and later). NOTHING: the API asks for no permission."""

    NOTHING = "Nothing"
    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DELETE = "Delete"
    ALTER = "Alter"
    DESCRIBE = "Describe"
    CLUSTER_ACTION = "ClusterAction"
    DESCRIBE_CONFIGS = "DescribeConfigs"
    ALTER_CONFIGS = "AlterConfigs"
    IDEMPOTENT_WRITE = "IdempotentWrite"
    CREATE_TOKENS = "CreateTokens"
    DESCRIBE_TOKENS = "DescribeTokens"


class Resource(StrEnum):
    """To what: Kafka's ResourceType."""

    TOPIC = "Topic"
    GROUP = "Group"
    CLUSTER = "Cluster"
    TRANSACTIONAL_ID = "TransactionalId"
    DELEGATION_TOKEN = "DelegationToken"  # noqa: S105  no password
    USER = "User"


@dataclass(frozen=True, slots=True)
class KafkaRequest:
    """One question that a Kafka request asks of policy; a request may ask several, and each is judged for itself.

    topic: what the request is about, for people; equals name where resource is TOPIC.
    name: of the resource; None is any of its kind, which Kafka asks as `authorizeByResourceType`. CLUSTER has "". A
    topic "*", which no topic is called, is every topic, named or not.
    The defaults are the question of an API that asks for nothing. It names nothing: with a topic, or of another
    resource, NOTHING is no question, and no rule allows it.
    """

    api_key: int
    api_version: int
    client_id: str = ""
    topic: str | None = None
    operation: Operation = Operation.NOTHING
    resource: Resource = Resource.CLUSTER
    name: str | None = ""
