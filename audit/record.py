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


class Connection:
    """What every record of one connection has in common. `source` is always the side that connected.

    direction: INGRESS (0) when the enforcing endpoint is the destination, EGRESS (1) when it is the source.
    protocol: the IP protocol number; OTHER is any but TCP and UDP. Only these two have ports in the record.
    """

    __slots__ = ("direction", "endpoint", "forth", "outcome_fields", "reply", "summary", "truncated")

    def __init__(self, direction: int, source: Side, destination: Side, protocol: int = TCP) -> None:
        self.summary = {TCP: "TCP", UDP: "UDP"}.get(protocol, f"protocol {protocol}" if protocol != OTHER else "other")
        self.truncated: tuple[str, ...] = ()
        own = destination if direction == INGRESS else source
        self.direction = "INGRESS" if direction == INGRESS else "EGRESS"
        # (allowed, denied): where Hubble puts the policies of a record
        self.outcome_fields = (
            ("ingress_allowed_by", "ingress_denied_by")
            if direction == INGRESS
            else ("egress_allowed_by", "egress_denied_by")
        )
        self.endpoint = f"{own.namespace}/{own.pod_name}" if own.pod_name else own.address
        left, right = self._endpoint("source.labels", source), self._endpoint("destination.labels", destination)
        version = "IPv6" if ip_address(source.address).version == 6 else "IPv4"
        self.forth = (
            schema.Addresses(source.address, destination.address, version),
            _layer4(protocol, source.port, destination.port),
            left,
            right,
        )
        self.reply = (
            schema.Addresses(destination.address, source.address, version),
            _layer4(protocol, destination.port, source.port),
            right,
            left,
        )

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
