"""The facts of one decision and what is written of them.

Callers pass plain values; nothing is recorded that is not a field here, and everything that a client wrote goes through
`audit.redact`. `Connection` holds what all records of one connection share, built once.

    connection = Connection(INGRESS, Side("10.244.0.2", 41234, 258, "default", "frontend", {"app": "frontend"}),
                            Side("10.244.1.2", 80, 257, "default", "web", {"app": "web"}))
    writer.write(FlowFacts(connection, FORWARDED, "http rule matched", "default/web-l7 ingress[0]...", 3, policies,
                           Request("GET", "/public", "web", code=200), latency_ns=812_000))
"""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Final, Protocol

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


def _layer4(protocol: int, source: int, destination: int) -> schema.Layer4 | None:
    if protocol == TCP:
        return schema.Layer4(TCP=schema.Ports(source, destination))
    return schema.Layer4(UDP=schema.Ports(source, destination)) if protocol == UDP else None


class End:
    """One end of connections: what the record says of it, whatever its port. May be shared by many connections.

    address: plain text. name: "namespace/pod", or the address of one that is no pod. cut: its labels are not all there.
    texts: the address as a JSON string, `,"source":{...}`, `,"destination":{...}`, the name as a JSON string.
    """

    __slots__ = ("address", "cut", "endpoint", "name", "texts", "version")

    def __init__(self, side: Side) -> None:
        """The port of `side` is left out.

        Raises:
            ValueError: the address is none.
        """
        self.address = side.address
        self.version = "IPv6" if ip_address(side.address).version == 6 else "IPv4"
        self.name = f"{side.namespace}/{side.pod_name}" if side.pod_name else side.address
        labels, self.cut = _labels(side)
        self.endpoint = schema.Endpoint(
            side.endpoint_id, side.identity, redact.text(side.namespace)[0], labels, redact.text(side.pod_name)[0]
        )
        self.texts = (
            schema.text_of(self.address),
            schema.fields(schema.Flow(source=self.endpoint)),
            schema.fields(schema.Flow(destination=self.endpoint)),
            schema.text_of(self.name),
        )


def _labels(side: Side) -> tuple[tuple[str, ...], bool]:
    """Its labels as Hubble writes them, and whether some were left out."""
    labels: list[str] = []
    room = MAX_LABEL_BYTES
    for text in (*side.reserved, *(f"k8s:{key}={value}" for key, value in side.labels.items())):
        label, cut = redact.text(text)
        room -= 2 * len(label.encode()) + 4  # at worst every character is escaped in JSON
        if cut or room < 0 or len(labels) >= MAX_LABELS:
            return tuple(labels), True
        labels.append(label)
    return tuple(labels), False


class Connection:
    """What every record of one connection has in common. `source` is always the side that connected.

    direction: INGRESS (0) when the enforcing endpoint is the destination, EGRESS (1) when it is the source.
    protocol: the IP protocol number; OTHER is any but TCP and UDP. Only these two have ports in the record.
    source, destination: a `Side`, or an `End` that is there already and its port.
    """

    __slots__ = ("destination", "ingress", "name", "ports", "protocol", "source", "text", "truncated")

    def __init__(
        self, direction: int, source: Side | tuple[End, int], destination: Side | tuple[End, int], protocol: int = TCP
    ) -> None:
        self.source, source_port = source if isinstance(source, tuple) else (End(source), source.port)
        self.destination, port = destination if isinstance(destination, tuple) else (End(destination), destination.port)
        self.ports = source_port, port
        self.ingress = direction == INGRESS
        self.protocol = protocol
        self.truncated: tuple[str, ...] = ()
        if self.source.cut or self.destination.cut:
            self.truncated = ("source.labels",) * self.source.cut + ("destination.labels",) * self.destination.cut
        self.name = (self.destination if self.ingress else self.source).texts[3]  # of the deciding end, as JSON
        self.text = ""  # filled by `written` when it is first asked for

    @property
    def direction(self) -> str:
        """As the record says it."""
        return "INGRESS" if self.ingress else "EGRESS"

    @property
    def endpoint(self) -> str:
        """The name of the end at which the decision was taken."""
        return self.destination.name if self.ingress else self.source.name

    @property
    def summary(self) -> str:
        """What there is to say of a connection without a request."""
        known = {TCP: "TCP", UDP: "UDP", OTHER: "other"}.get(self.protocol)
        return known or f"protocol {self.protocol}"

    def ends(
        self, *, is_reply: bool = False
    ) -> tuple[schema.Addresses, schema.Layer4 | None, schema.Endpoint, schema.Endpoint]:
        """Addresses, ports, source and destination of a record; the other way round in a reply."""
        left, right = self.source, self.destination
        sent, received = self.ports
        if is_reply:
            left, right, sent, received = right, left, received, sent
        addresses = schema.Addresses(left.address, right.address, self.source.version)
        return addresses, _layer4(self.protocol, sent, received), left.endpoint, right.endpoint

    def written(self) -> str:
        """`ends` as they stand in a record: `,"IP":{...},"l4":{...},"source":{...},"destination":{...}`; kept in
        `text` from now on."""
        source, left, _, _ = self.source.texts
        destination, _, right, _ = self.destination.texts
        sent, received = self.ports
        if self.protocol == TCP:
            layer4 = f',"l4":{{"TCP":{{"source_port":{sent},"destination_port":{received}}}}}'
        else:
            layer4 = schema.fields(schema.Flow(l4=_layer4(self.protocol, sent, received)))
        self.text = (
            f',"IP":{{"source":{source},"destination":{destination},"ipVersion":"{self.source.version}"}}'
            f"{layer4}{left}{right}"
        )
        return self.text


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
    request: Request | None = None
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
