"""The line format, for writers and readers: Hubble's flow JSON with Tulle's own keys beside it.

The names, enum words and types are those of Cilium 1.20's `flow.proto` and `observer.proto` (GetFlowsResponse) in
protobuf's JSON form: enums by name, 64-bit integers as strings, times in RFC 3339, unset fields absent. A reader of
Hubble lines reads ours; everything that Hubble has no field for is under the top-level key `tulle`.
"""

from typing import Final

import msgspec

SCHEMA: Final = 1
"""Version of the `tulle` object. It grows when a field changes its meaning or goes; new fields do not change it."""

MAX_LINE: Final = 60_000
"""Longest line in bytes. Hubble's command line reads with a 64 KiB scanner and stops for good at a longer one."""

EVENT_DROP: Final = 1  # Cilium pkg/monitor/api: MessageTypeDrop
EVENT_POLICY_VERDICT: Final = 5  # MessageTypePolicyVerdict
EVENT_L7: Final = 129  # MessageTypeAccessLog
POLICY_DENIED: Final = 133  # flow.proto DropReason: nothing allows it
POLICY_DENY: Final = 181  # a deny rule names it


class Addresses(msgspec.Struct, frozen=True, gc=False):
    """Addresses without port, as text; `ipVersion` is `IPv4` or `IPv6`."""

    source: str = ""
    destination: str = ""
    ipVersion: str = "IP_NOT_USED"  # the spelling of flow.proto


class Ports(msgspec.Struct, frozen=True, gc=False):
    """Ports in host byte order."""

    source_port: int = 0
    destination_port: int = 0


class Layer4(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A union in flow.proto: TCP or UDP; absent for other protocols."""

    TCP: Ports | None = None
    UDP: Ports | None = None


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """One side as policy sees it. Not a pod: no namespace, name or labels, and identity 0."""

    ID: int = 0
    identity: int = 0
    namespace: str = ""
    labels: tuple[str, ...] = ()
    pod_name: str = ""


class EventType(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Which of Cilium's monitor messages the record corresponds to; hubble chooses its wording by it."""

    type: int
    sub_type: int = 0


class Http(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A request. `headers` is always empty: no header value is ever recorded."""

    code: int = 0
    method: str = ""
    url: str = ""
    protocol: str = ""
    headers: tuple[str, ...] = ()


class Kafka(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A request. `api_key` is the API's name in lower case ("produce"), or the number of one that has no name."""

    error_code: int = 0
    api_version: int = 0
    api_key: str = ""
    correlation_id: int = 0
    topic: str = ""


class Layer7(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`latency_ns` is a uint64, so a string in JSON (a number is accepted when reading). http, kafka: at most one."""

    type: str = "UNKNOWN_L7_TYPE"
    latency_ns: str | int = ""
    http: Http | None = None
    kafka: Kafka | None = None


class Policy(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy that took part in the decision. `revision` is a uint64, so a string in JSON."""

    name: str = ""
    namespace: str = ""
    labels: tuple[str, ...] = ()
    revision: str | int = ""
    kind: str = ""


class Flow(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Hubble's Flow, less what Tulle has no value for."""

    time: str = ""
    uuid: str = ""
    verdict: str = ""
    IP: Addresses | None = None
    l4: Layer4 | None = None
    source: Endpoint | None = None
    destination: Endpoint | None = None
    Type: str = "UNKNOWN_TYPE"
    node_name: str = ""
    l7: Layer7 | None = None
    event_type: EventType | None = None
    traffic_direction: str = "TRAFFIC_DIRECTION_UNKNOWN"
    drop_reason_desc: str = ""
    is_reply: bool | None = None
    Summary: str = ""
    egress_allowed_by: tuple[Policy, ...] = ()
    ingress_allowed_by: tuple[Policy, ...] = ()
    egress_denied_by: tuple[Policy, ...] = ()
    ingress_denied_by: tuple[Policy, ...] = ()


class LostEvents(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Hubble's LostEvent. `num_events_lost` is a uint64, so a string in JSON."""

    source: str = "UNKNOWN_LOST_EVENT_SOURCE"
    num_events_lost: str | int = ""
    first: str = ""
    last: str = ""


class KafkaAsked(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What Hubble's Kafka has no field for: who asks, and what was asked of policy, in the words of Kafka's ACLs."""

    client_id: str = ""
    group: str = ""
    transactional_id: str = ""
    operation: str = ""
    resource: str = ""
    name: str = ""


class Tulle(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What Hubble has no field for. A flow has `seq`; a lost-records record has `lost_from` to `lost_to` instead."""

    schema: int
    writer: str = ""
    boot: str = ""
    seq: int = 0
    lost_from: int = 0
    lost_to: int = 0
    lost_cause: str = ""
    revision: int = 0
    rule: str = ""
    reason: str = ""
    endpoint: str = ""
    suppressed: int = 0
    truncated: tuple[str, ...] = ()
    kafka: KafkaAsked | None = None


class Record(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One line: a flow or a loss, never both."""

    flow: Flow | None = None
    lost_events: LostEvents | None = None
    node_name: str = ""
    time: str = ""
    tulle: Tulle | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """One line with its newline. JSON escapes every control character, so a line is always one line."""
    return _encoder.encode(record) + b"\n"


def text_of(value: str | tuple[str, ...]) -> str:
    """JSON of a string or of strings."""
    return _encoder.encode(value).decode()


def fields(part: Flow | Layer7 | Kafka | Tulle) -> str:
    """What is set in a part of a record as it stands there behind other fields: `,"name":value` for each.

    The version of a `Tulle` is not among them. A line that is put together from these, in the order of the schema, is
    the line that `encode` makes of the whole record.
    """
    text = _encoder.encode(part).decode()[1:-1]
    if isinstance(part, Tulle):
        return text.removeprefix(f'"schema":{part.schema}')
    return f",{text}" if text else ""


def decode(line: bytes) -> Record:
    """Read one line; unknown keys are left out, as a reader of a newer schema must.

    Raises:
        ValueError: not JSON, not an object, or a field of the wrong type (msgspec's errors are ValueErrors).
    """
    return _decoder.decode(line)
