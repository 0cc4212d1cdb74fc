"""What the data plane tells of every decision: one `FlowEvent`, handed to the `emit` callback of the server.

Plain slots and no encoding here: the consumer (the worker's audit writer) turns it into a record, batched, off the
request's way. `ConnectionFacts` is shared by all events of a connection under one identity, and has a place where the
consumer keeps what it built from it, so that addresses, names and labels are looked up once per connection and not
once per request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from policies.ruleset import PolicyRef

FORWARDED = "FORWARDED"
DROPPED = "DROPPED"
ERROR = "ERROR"
AUDIT = "AUDIT"

# Rule names of decisions that no policy took; the prefix cannot occur in a document's namespace.
RULE_PROTOCOL = "tulle:protocol"
RULE_LIMIT = "tulle:limit"
RULE_GUARD = "tulle:guard"


@dataclass(slots=True)
class ConnectionFacts:
    """Both ends of one downstream connection as the policy sees them.

    source: the side that connected (plain text address, IPv4 without `::ffff:`). destination: the original destination.
    direction: 0 ingress (the endpoint is the destination), 1 egress (it is the source). identity: of the other side, by
    the revision the event names; 0 is unknown. audit: the consumer's own.
    """

    endpoint: int
    direction: int
    identity: int
    source_address: str
    source_port: int
    destination_address: str
    destination_port: int
    audit: object = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class KafkaFacts:
    """A Kafka request in a record of it: one record per topic decided, else one for the request.

    api: Kafka's own name of the API, "Produce"; "" for one that the table has not. client_id, topic, group,
    transactional_id: as the client chose them; "" for none. operation, resource, name: the question that decided
    ("Write", "Topic", "orders"; name "" for the cluster and for "any of its kind"); all "" where policy was not asked.
    error_code: that the client gets for it, 0 for none; None where there is no answer (yet). correlation_id: of the
    client's request.
    """

    api_key: int
    api: str
    api_version: int
    client_id: str
    correlation_id: int
    topic: str = ""
    group: str = ""
    transactional_id: str = ""
    operation: str = ""
    resource: str = ""
    name: str = ""
    error_code: int | None = None


@dataclass(slots=True)
class FlowEvent:
    """One decision about a request (`method` is not empty, or `kafka` is there), or about a connection.

    time_ns: wall clock of the decision. verdict: FORWARDED, DROPPED (a policy, the parser or a limit refused), ERROR
    (allowed, but upstream or we failed), AUDIT. reason: a code of `[a-z_]+`, or for policy decisions the engine's
    words; never holds a client's bytes. rule: never empty. target: path and query with the query's values hidden; a
    refused one as it was sent, but for these; "" when the head could not be read. code: the status sent downstream, 0
    for none (yet). latency_ns: request head to response head, None without one.
    is_reply: the response of a request whose own record had to go out before it (`Limits.record_s`).
    kafka: the request, where it is one of Kafka; then method, target, host, protocol and code say nothing.
    """

    time_ns: int
    connection: ConnectionFacts
    verdict: str
    reason: str
    rule: str
    policies: Sequence[PolicyRef]
    revision: int
    method: str = ""
    target: str = ""
    host: str = ""
    protocol: str = ""
    code: int = 0
    latency_ns: int | None = None
    is_reply: bool = False
    kafka: KafkaFacts | None = None


@dataclass(slots=True, eq=False)
class Shape:
    """What the records of all requests with one decision and one status have in common, on whatever connection.

    Made once and noted many times (`Recorder.note`): a request on the hot path costs its record a tuple and not an
    event. Fields as in `FlowEvent`. audit: a place where the consumer keeps what it prepared from it.
    """

    verdict: str
    reason: str
    rule: str
    policies: Sequence[PolicyRef]
    revision: int
    method: str
    target: str
    host: str
    protocol: str
    code: int
    audit: object = field(default=None, repr=False)

    def event(self, time_ns: int, connection: ConnectionFacts, latency_ns: int | None) -> FlowEvent:
        """The same decision as an event; the record of both is the same."""
        return FlowEvent(
            time_ns,
            connection,
            self.verdict,
            self.reason,
            self.rule,
            self.policies,
            self.revision,
            self.method,
            self.target,
            self.host,
            self.protocol,
            self.code,
            latency_ns,
        )
