"""The facts of one decision and what is written of them.

Callers pass plain values; nothing is recorded that is not a field here, and everything that a client wrote goes through
`audit.redact`. `Connection` holds what all records of one connection share, built once, and `Pair` what those of all
connections between the same two ends do.

    connection = Connection(INGRESS, Side("10.244.0.2", 41234, 258, "default", "frontend", {"app": "frontend"}),
                            Side("10.244.1.2", 80, 257, "default", "web", {"app": "web"}))
    writer.write(FlowFacts(connection, FORWARDED, "http rule matched", "default/web-l7 ingress[0]...", 3, policies,
                           Request("GET", "/public", "web", code=200), latency_ns=812_000))
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, Self

import msgspec

from audit import redact, schema

INGRESS: Final = 0
EGRESS: Final = 1
TCP: Final = 6
UDP: Final = 17
OTHER: Final = 255
FORWARDED: Final = "FORWARDED"
DROPPED: Final = "DROPPED"
ERROR: Final = "ERROR"
AUDIT: Final = "AUDIT"

MAX_LABELS: Final = 64
"""Labels of one side; Kubernetes allows 253 + 1 + 63 + 1 + 63 bytes for one."""
MAX_LABEL_BYTES: Final = 8192
MAX_POLICIES: Final = 16


class PolicyName(Protocol):
    """A policy document, known by kind, namespace and name (`policies.ruleset.PolicyRef` is one)."""

    @property
    def kind(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...


class Side(msgspec.Struct, frozen=True):
    """One end of a connection: `address` plain text without port; identity 0 and no names when nothing is known of it.

    reserved: whole labels of one that is no pod, as Hubble writes them: "reserved:world", "cidr:10.0.0.0/8".
    """

    address: str
    port: int
    identity: int = 0
    namespace: str = ""
    pod_name: str = ""
    labels: Mapping[str, str] = {}
    endpoint_id: int = 0
    reserved: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True, gc=False):
    """One HTTP request as it came. target and host are redacted by the writer, whatever their form (bytes as Latin-1).

    code: the status sent to the client; 0 when there was none (yet).
    """

    method: str
    target: str
    host: str = ""
    protocol: str = "HTTP/1.1"
    code: int = 0
    scheme: str = "http"


class KafkaRequest(msgspec.Struct, frozen=True, gc=False):
    """What one Kafka request asked of policy about one resource. Names are the client's own, redacted by the writer.

    api: the API's name in lower case as Cilium spells it, or its number as text where it has no name.
    operation, resource, name: in the words of Kafka's ACLs ("Write", "Topic", "orders"); no name is any of its kind.
    error_code: what the client was told of it; None when there was no answer (yet).
    """

    api: str
    api_version: int = 0
    correlation_id: int = 0
    topic: str = ""
    client_id: str = ""
    group: str = ""
    transactional_id: str = ""
    operation: str = ""
    resource: str = ""
    name: str = ""
    error_code: int | None = None


def _layer4(protocol: int, source: int, destination: int) -> schema.Layer4 | None:
    if protocol == TCP:
        return schema.Layer4(TCP=schema.Ports(source, destination))
    return schema.Layer4(UDP=schema.Ports(source, destination)) if protocol == UDP else None


class Pair:
    """What the records of all connections between two ends have in common, whatever the ports.

    direction: INGRESS (0) when the enforcing endpoint is the destination, EGRESS (1) when it is the source.
    protocol: the IP protocol number; OTHER is any but TCP and UDP. Only these two have ports in the record.
    ingress, protocol, source, destination: as they were given. truncated: what of the ends was cut. endpoint: the name
    of the end at which decisions are taken.
    """

    __slots__ = ("_texts", "destination", "endpoint", "ingress", "protocol", "source", "truncated", "version")

    def __init__(self, direction: int, source: Side, destination: Side, protocol: int = TCP) -> None:
        """The ports of the sides are left out."""
        self.ingress, self.protocol = direction == INGRESS, protocol
        own = destination if self.ingress else source
        self.endpoint = f"{own.namespace}/{own.pod_name}" if own.pod_name else own.address
        self.truncated: tuple[str, ...] = ()
        self.source = source.address, self._endpoint("source.labels", source)
        self.destination = destination.address, self._endpoint("destination.labels", destination)
        self.version = "IPv6" if ":" in source.address else "IPv4"
        self._texts: tuple[str, str, str] | None = None

    def _endpoint(self, field: str, side: Side) -> schema.Endpoint:
        labels: list[str] = []
        room = MAX_LABEL_BYTES
        for text in (*side.reserved, *(f"k8s:{key}={value}" for key, value in side.labels.items())):
            label, cut = redact.text(text)
            room -= 2 * len(label.encode()) + 4  # at worst every character is escaped in JSON
            if cut or room < 0 or len(labels) >= MAX_LABELS:
                self.truncated += (field,)
                break
            labels.append(label)
        return schema.Endpoint(
            side.endpoint_id,
            side.identity,
            redact.text(side.namespace)[0],
            tuple(labels),
            redact.text(side.pod_name)[0],
        )

    @property
    def direction(self) -> str:
        """As the record says it."""
        return "INGRESS" if self.ingress else "EGRESS"

    @property
    def summary(self) -> str:
        """What there is to say of a connection without a request."""
        known = {TCP: "TCP", UDP: "UDP", OTHER: "other"}.get(self.protocol)
        return known or f"protocol {self.protocol}"

    @property
    def texts(self) -> tuple[str, str, str]:
        """Parts of a record: `,"IP":{...}`, `,"source":{...},"destination":{...}`, `,"endpoint":"..."`."""
        if self._texts is None:
            addresses = schema.Addresses(self.source[0], self.destination[0], self.version)
            self._texts = (
                schema.fields(schema.Flow(IP=addresses)),
                schema.fields(schema.Flow(source=self.source[1], destination=self.destination[1])),
                schema.fields(schema.Tulle(schema=schema.SCHEMA, endpoint=self.endpoint)),
            )
        return self._texts


type Ends = tuple[schema.Addresses, schema.Layer4 | None, schema.Endpoint, schema.Endpoint]


class Connection:
    """What all records of one connection have in common. The source is always the side that connected.

    ports: of the source and of the destination. text: `ends` as a record has them, once `written` has made it.
    """

    __slots__ = ("_ends", "pair", "ports", "text")

    def __init__(self, direction: int, source: Side, destination: Side, protocol: int = TCP) -> None:
        """A connection with a `Pair` of its own; the arguments are those of `Pair`."""
        self._begin(Pair(direction, source, destination, protocol), source.port, destination.port)

    @classmethod
    def on(cls, pair: Pair, source_port: int, destination_port: int) -> Self:
        """One of the connections of a pair of ends."""
        made = cls.__new__(cls)
        made._begin(pair, source_port, destination_port)
        return made

    def _begin(self, pair: Pair, source_port: int, destination_port: int) -> None:
        self.pair = pair
        self.ports = source_port, destination_port
        self.text = ""
        self._ends: Ends | None = None

    def ends(self, *, is_reply: bool = False) -> Ends:
        """Addresses, ports, source and destination of a record; the other way round in a reply."""
        pair = self.pair
        if is_reply:
            return _ends(pair, pair.destination, pair.source, self.ports[1], self.ports[0])
        if self._ends is None:
            self._ends = _ends(pair, pair.source, pair.destination, *self.ports)
        return self._ends

    def written(self) -> str:
        """Make `text`: `,"IP":{...},"l4":{...},"source":{...},"destination":{...}`."""
        addresses, endpoints, _ = self.pair.texts
        sent, received = self.ports
        if self.pair.protocol == TCP:
            ports = f',"l4":{{"TCP":{{"source_port":{sent},"destination_port":{received}}}}}'
        else:
            ports = schema.fields(schema.Flow(l4=_layer4(self.pair.protocol, sent, received)))
        self.text = text = f"{addresses}{ports}{endpoints}"
        return text


def _ends(
    pair: Pair, left: tuple[str, schema.Endpoint], right: tuple[str, schema.Endpoint], sent: int, received: int
) -> Ends:
    addresses = schema.Addresses(left[0], right[0], pair.version)
    return addresses, _layer4(pair.protocol, sent, received), left[1], right[1]


class FlowFacts(msgspec.Struct, frozen=True):
    """One decision.

    verdict: FORWARDED, DROPPED (a policy or a parser refused), ERROR (allowed, but upstream or Tulle failed), AUDIT.
    reason: plain words or a code; cut before the first quote or colon, so never put a client's bytes into it.
    rule: the name of the deciding rule, the default deny's included; never empty.
    request: None for a decision about a connection (Type L3_L4).
    latency_ns: from the request's head to the response's head, None when there was no response.
    is_reply: True makes it a RESPONSE record with the sides swapped; Tulle's one record per decision is a REQUEST.
    suppressed: earlier denials of this 4-tuple that got no record of their own.
    time_ns: wall clock of the decision, nanoseconds since 1970 UTC; None is the writer's clock.
    drop_reason_desc: a word of flow.proto's DropReason, written for DROPPED alone.
    """

    connection: Connection
    verdict: str
    reason: str
    rule: str
    revision: int
    policies: Sequence[PolicyName] = ()
    request: Request | KafkaRequest | None = None
    latency_ns: int | None = None
    is_reply: bool = False
    suppressed: int = 0
    time_ns: int | None = None
    drop_reason_desc: str = "POLICY_DENIED"


PASSED: Final[Mapping[str, str]] = {"would_deny": AUDIT, "node_probe": FORWARDED, "fail_open": FORWARDED}
"""What the kernel tells of connections that pass, by reason, and the verdict of such a record. would_deny: the policies
in mode audit would refuse it. node_probe: a process of this node opened it, and no rule denies it by name. fail_open:
its requests should be judged, no worker is left, and the policy says `onFailure: open`."""


def facts_from_denial(
    direction: int,
    source: Side,
    destination: Side,
    *,
    rule: str,
    revision: int,
    reason: str = "policy denied",
    policies: Sequence[PolicyName] = (),
    suppressed: int = 0,
    time_ns: int | None = None,
    protocol: int = TCP,
    explicit: bool = False,
) -> FlowFacts:
    """What the kernel did with a connection or datagram (or another end of a connection without a request): Type L3_L4.

    DROPPED, or for the reasons in PASSED the verdict that stands there. explicit: a deny rule, `rule`, said no, and not
    the absence of one that allows.
    """
    return FlowFacts(
        Connection(direction, source, destination, protocol),
        PASSED.get(reason, DROPPED),
        reason,
        rule,
        revision,
        policies,
        suppressed=suppressed,
        time_ns=time_ns,
        drop_reason_desc="POLICY_DENY" if explicit else "POLICY_DENIED",
    )
