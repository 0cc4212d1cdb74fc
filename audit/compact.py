"""One record as one line for people, in the manner of `hubble observe -o compact`."""

from typing import Final

from audit import redact
from audit.schema import Endpoint, Flow, Record

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
    kind = f"{'http' if flow.l7.http else 'l7'}-{flow.l7.type.lower()}" if flow.l7 is not None else "connection"
    verdict = _paint(flow.verdict, _COLOURS.get(flow.verdict), colour=colour)
    parts = [_clean(f"{source} {arrow} {destination} {kind}"), verdict, _clean(f"({flow.Summary})")]
    if flow.l7 is not None and flow.l7.http is not None and flow.l7.http.code and not flow.is_reply:
        parts.append(f"code {flow.l7.http.code}")
        if flow.l7.latency_ns:
            parts.append(_clean(f"in {_milliseconds(flow.l7.latency_ns)}"))
    tulle = record.tulle
    if tulle is not None:
        if tulle.rule:
            parts.append(_clean(f"rule {tulle.rule}"))
        if tulle.reason and flow.verdict != "FORWARDED":
            parts.append(_clean(f"reason {tulle.reason}"))
        if tulle.suppressed:
            parts.append(f"and {tulle.suppressed} more like it")
    return " ".join(parts)


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
