"""One record as one line for people, in the manner of `hubble observe -o compact`."""

import json
import re
from typing import Final

from audit import redact
from audit.schema import Endpoint, Flow, KafkaAsked, Layer7, Record

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_COLOURS: Final = {"FORWARDED": "32", "DROPPED": "31", "ERROR": "31;1", "AUDIT": "33"}


def line(record: Record, *, node: bool = False, colour: bool = False) -> str:
    """The record without a newline. node: name the node, for output of several. Nothing of it can move a terminal."""
    prefix = _when(record.time) + (f" [{record.node_name}]" if node else "")
    if record.flow is not None:
        body = _flow(record, record.flow, colour=colour)
    elif record.lost_events is not None:
        body = _loss(record, colour=colour)
    else:
        body = "a record of a kind that this version does not know"
    if colour:
        return f"{_clean(prefix)}: {body}"
    return _clean(f"{prefix}: {body}")


def _clean(value: str) -> str:
    return redact.text(value, 100_000)[0]


def _paint(value: str, code: str | None, *, colour: bool) -> str:
    value = _clean(value)
    return f"\x1b[{code}m{value}\x1b[0m" if colour and code else value


def _when(time: str) -> str:
    """ "2026-11-23T17:00:00.123456789Z" as "Nov 23 17:00:00.123" (UTC, as hubble has it)."""
    try:
        return f"{_MONTHS[int(time[5:7]) - 1]} {time[8:10]} {time[11:23]}"
    except (ValueError, IndexError):
        return "N/A"


def _side(side: Endpoint | None, address: str, port: int | None) -> str:
    if side is not None and side.pod_name:
        name = f"{side.namespace}/{side.pod_name}"
    else:
        name = f"[{address}]" if ":" in address else address
    identity = f"(ID:{side.identity})" if side is not None and side.identity else "(unknown)"
    if side is not None and not side.pod_name and side.labels:  # as hubble: (world), (host)
        identity = f"({side.labels[0].removeprefix('reserved:')})"
    return f"{name}:{port} {identity}" if port is not None else f"{name} {identity}"


def _flow(record: Record, flow: Flow, *, colour: bool) -> str:
    ports = (flow.l4.TCP or flow.l4.UDP) if flow.l4 else None
    source = _side(flow.source, flow.IP.source if flow.IP else "", ports.source_port if ports else None)
    destination = _side(
        flow.destination, flow.IP.destination if flow.IP else "", ports.destination_port if ports else None
    )
    arrow = "->"
    if flow.is_reply:
        source, destination, arrow = destination, source, "<-"
    kind = f"{_protocol(flow.l7)}-{flow.l7.type.lower()}" if flow.l7 is not None else "connection"
    verdict = _paint(flow.verdict, _COLOURS.get(flow.verdict), colour=colour)
    parts = [_clean(f"{source} {arrow} {destination} {kind}"), verdict, _clean(f"({flow.Summary})")]
    if flow.l7 is not None and not flow.is_reply:
        parts += map(_clean, _outcome(flow.l7))
    tulle = record.tulle
    if tulle is not None:
        if tulle.rule:
            parts.append(_clean(f"rule {tulle.rule}"))
        if tulle.reason and flow.verdict != "FORWARDED":
            parts.append(_clean(f"reason {tulle.reason}"))
        if tulle.suppressed:
            parts.append(f"and {tulle.suppressed} more like it")
        if tulle.kafka is not None:  # last, for most of it is what the client says of itself
            parts += map(_clean, _asked(tulle.kafka))
    return " ".join(parts)


def _protocol(layer7: Layer7) -> str:
    return "http" if layer7.http else "kafka" if layer7.kafka else "l7"


def _outcome(layer7: Layer7) -> list[str]:
    """What came of a request, and how fast."""
    latency = [f"in {_milliseconds(layer7.latency_ns)}"] if layer7.latency_ns else []
    if layer7.kafka is not None:
        return ([f"error {layer7.kafka.error_code}"] if layer7.kafka.error_code else []) + latency
    return [f"code {layer7.http.code}", *latency] if layer7.http is not None and layer7.http.code else []


def _asked(kafka: KafkaAsked) -> list[str]:
    """`asks Read on Group "my group"`, and by whom. A topic's name stands in the summary."""
    parts = []
    if kafka.resource and kafka.operation != "Nothing":
        named = kafka.name or kafka.resource == "Cluster"
        parts.append(f"asks {kafka.operation} on {'' if named else 'any '}{kafka.resource}")
        if kafka.resource != "Topic" and kafka.name:
            parts[0] += f" {_quoted(kafka.name)}"
    for word, value in (
        ("client", kafka.client_id), ("group", kafka.group), ("transactional id", kafka.transactional_id),
    ):  # fmt: skip
        if value:
            parts.append(f"{word} {_quoted(value)}")
    return parts


_PLAIN_NAME = re.compile(r"[A-Za-z0-9._:/@-]+").fullmatch


def _quoted(name: str) -> str:
    """A name that a client chose, so that it cannot be taken for the words around it."""
    return name if _PLAIN_NAME(name) else json.dumps(name, ensure_ascii=False)


def _milliseconds(latency_ns: str | int) -> str:
    try:
        return f"{int(latency_ns) / 1e6:.1f}ms"
    except ValueError:
        return str(latency_ns)


def _loss(record: Record, *, colour: bool) -> str:
    lost = record.lost_events.num_events_lost if record.lost_events else 0
    text = f"LOST {lost} records"
    if tulle := record.tulle:
        numbers = f"sequence {tulle.lost_from} to {tulle.lost_to}, " if tulle.lost_to else ""
        text += f" of {tulle.writer} ({numbers}{tulle.lost_cause})"
    return _paint(text, "31;1", colour=colour)
