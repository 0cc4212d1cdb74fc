"""Kafka's API names and numbers, as policies spell them, and what the roles of Cilium stand for.

Numbers: https://kafka.apache.org/protocol#protocol_api_keys. Names are those of Cilium, lower case without separators,
and for APIs that Cilium does not know, Kafka's own in the same spelling.
"""

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

# What every client asks before and beside its work: who answers, in which versions, who it is, how it fares.
_EVERY_CLIENT = (
    "apiversions", "metadata", "saslhandshake", "saslauthenticate", "findcoordinator", "gettelemetrysubscriptions",
    "pushtelemetry", "describetopicpartitions",
)  # fmt: skip
_ROLES: dict[str, tuple[str, ...]] = {
    "produce": ("produce", "initproducerid", "addpartitionstotxn", "addoffsetstotxn", "endtxn"),
    "consume": (
        "fetch", "listoffsets", "offsetcommit", "offsetfetch", "joingroup", "heartbeat", "leavegroup", "syncgroup",
        "offsetforleaderepoch", "txnoffsetcommit", "consumergroupheartbeat", "consumergroupdescribe",
        "sharegroupheartbeat", "sharegroupdescribe", "sharefetch", "shareacknowledge", "streamsgroupheartbeat",
        "streamsgroupdescribe",
    ),
}  # fmt: skip

ROLES: dict[str, tuple[int, ...]] = {
    role: tuple(sorted(API_KEYS[name] for name in (*_EVERY_CLIENT, *names))) for role, names in _ROLES.items()
}
"""API keys that a role may use. Cilium's own lists, and what clients since then need for the same work."""
