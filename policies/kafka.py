"""What Kafka's words in a policy stand for: the names of its APIs, and the access lists that a rule is.

A pod is judged as a broker judges a principal that has access lists (KIP-11, KIP-290): each thing that a request asks
is an operation on a resource, and needs one list that allows it and none that denies it. What an API asks is known to
who reads its requests (`proxy.kafka.apis`), in short to `policies.kafka_questions`.

Numbers: https://kafka.apache.org/protocol#protocol_api_keys. Names are those of Cilium, lower case without separators,
and for APIs that Cilium does not know, Kafka's own in the same spelling.
"""

from typing import NamedTuple

from policies.requests import Operation, Resource
from policies.ruleset import KafkaRule, NameKind

_NAMES = """
produce fetch offsets metadata leaderandisr stopreplica updatemetadata controlledshutdown offsetcommit
offsetfetch findcoordinator joingroup heartbeat leavegroup syncgroup describegroups listgroups saslhandshake
apiversions createtopics deletetopics deleterecords initproducerid offsetforleaderepoch addpartitionstotxn
addoffsetstotxn endtxn writetxnmarkers txnoffsetcommit describeacls createacls deleteacls describeconfigs
alterconfigs alterreplicalogdirs describelogdirs saslauthenticate createpartitions createdelegationtoken
renewdelegationtoken expiredelegationtoken describedelegationtoken deletegroups electleaders
incrementalalterconfigs alterpartitionreassignments listpartitionreassignments offsetdelete
describeclientquotas alterclientquotas describeuserscramcredentials alteruserscramcredentials vote
beginquorumepoch endquorumepoch describequorum alterpartition updatefeatures envelope fetchsnapshot
describecluster describeproducers brokerregistration brokerheartbeat unregisterbroker describetransactions
listtransactions allocateproducerids consumergroupheartbeat consumergroupdescribe controllerregistration
gettelemetrysubscriptions pushtelemetry assignreplicastodirs listconfigresources describetopicpartitions
sharegroupheartbeat sharegroupdescribe sharefetch shareacknowledge addraftvoter removeraftvoter
updateraftvoter initializesharegroupstate readsharegroupstate writesharegroupstate deletesharegroupstate
readsharegroupstatesummary streamsgroupheartbeat streamsgroupdescribe describesharegroupoffsets
altersharegroupoffsets deletesharegroupoffsets
"""  # in the order of their numbers

API_KEYS: dict[str, int] = {name: number for number, name in enumerate(_NAMES.split())} | {"listoffsets": 2}
API_NAMES: dict[int, str] = {number: name for name, number in reversed(API_KEYS.items())}
"""The names by number; of two, Cilium's."""

type Operations = tuple[Operation, ...] | None
"""None: every one, of a list that allows all but ClusterAction, which is for brokers among themselves. A tuple, and not
a set: an enum's hash is a call into Python, and comparing few members is not."""

_TOPIC, _GROUP, _CLUSTER, _TRANSACTION = Resource.TOPIC, Resource.GROUP, Resource.CLUSTER, Resource.TRANSACTIONAL_ID
_O = Operation

# What a list allows or denies Read, Write, Delete or Alter on may be described too, as at a broker.
_CONSUMED = (_O.READ, _O.DESCRIBE)
_PRODUCED = (_O.WRITE, _O.DESCRIBE)

ROLES: dict[str, dict[Resource, tuple[Operation, ...]]] = {
    "produce": {_TOPIC: _PRODUCED, _TRANSACTION: _PRODUCED, _CLUSTER: (_O.IDEMPOTENT_WRITE,)},
    "consume": {_TOPIC: _CONSUMED, _GROUP: _CONSUMED},
    "admin": {
        _TOPIC: (_O.CREATE, _O.DELETE, _O.ALTER, _O.DESCRIBE, _O.DESCRIBE_CONFIGS, _O.ALTER_CONFIGS),
        _GROUP: (_O.DELETE, _O.DESCRIBE, _O.DESCRIBE_CONFIGS, _O.ALTER_CONFIGS),
        _TRANSACTION: (_O.DESCRIBE,),
        _CLUSTER: (_O.CREATE, _O.ALTER, _O.DESCRIBE, _O.DESCRIBE_CONFIGS, _O.ALTER_CONFIGS),
    },
}
"""What a role may do, and to what."""
CILIUM_ROLES = ("produce", "consume")

_MAIN: dict[str, dict[Resource, tuple[Operation, ...]]] = {
    "produce": {_TOPIC: (_O.WRITE,), _TRANSACTION: (_O.WRITE,)},
    "consume": {_TOPIC: (_O.READ,), _GROUP: (_O.READ,)},
    "admin": {
        _TOPIC: (_O.CREATE, _O.DELETE, _O.ALTER, _O.ALTER_CONFIGS),
        _GROUP: (_O.DELETE, _O.ALTER_CONFIGS),
        _CLUSTER: (_O.CREATE, _O.ALTER, _O.ALTER_CONFIGS),
    },
}


class Acl(NamedTuple):
    """One access list: these operations on resources of one kind. name None: all of that kind, whatever they are
    called, and the cluster, which has no name; else `kind` says how it is read."""

    resource: Resource
    operations: Operations
    name: str | None = None
    kind: NameKind = NameKind.EXACT


def acls(rule: KafkaRule) -> tuple[Acl, ...]:
    """The access lists that a rule is, all of which deny where it denies.

    A role reaches every topic, group and transactional id of those kinds that the rule does not name; `admin` alone
    reaches only the kinds that it names, once it names any. An `apiKey` is all that this API asks. A rule with neither
    is everything about what it names; about a topic also what its clients need beside: groups to read in, transactional
    ids to write with, IdempotentWrite. A rule that names anything has nothing else of the cluster.
    """
    named = {
        resource: (name, kind)
        for resource, name, kind in (
            (_TOPIC, rule.topic, rule.topic_kind),
            (_GROUP, rule.group, rule.group_kind),
            (_TRANSACTION, rule.transactional_id, rule.transactional_id_kind),
        )
        if name is not None
    }
    reach = _denied(rule, named) if rule.deny else _allowed(rule, named)
    return tuple(Acl(resource, operations, *named.get(resource, ())) for resource, operations in reach.items())


type _Reach = dict[Resource, Operations]
type _Named = dict[Resource, tuple[str, NameKind]]


def _allowed(rule: KafkaRule, named: _Named) -> _Reach:
    if rule.role == "admin" and named:
        return {resource: found for resource, found in ROLES["admin"].items() if resource in named}
    if rule.role:
        return {**ROLES[rule.role]}
    if not named:
        return dict.fromkeys(Resource)
    if rule.api_key is not None:
        return {_TOPIC: None, _GROUP: None, _TRANSACTION: None, _CLUSTER: (_O.IDEMPOTENT_WRITE,)}
    reach: _Reach = dict.fromkeys(named)
    if _TOPIC in named:
        beside: _Reach = {_GROUP: _CONSUMED, _TRANSACTION: _PRODUCED, _CLUSTER: (_O.IDEMPOTENT_WRITE,)}
        reach = beside | reach
    return reach


def _denied(rule: KafkaRule, named: _Named) -> _Reach:
    if rule.role:
        return {resource: found for resource, found in _MAIN[rule.role].items() if not named or resource in named}
    return dict.fromkeys(named or Resource)


def means_everything(rule: KafkaRule) -> bool:
    """Whether a rule has no role and names no resource: if it denies, also what asks for nothing."""
    return not rule.role and rule.topic is None and rule.group is None and rule.transactional_id is None
