"""Audit records, from files of lines, as flows that policies can judge again."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.errors import AgentError
from audit import reading, schema
from policies.flows import RESERVED, Flow, HttpFlow, Party
from policies.kafka import API_KEYS
from policies.kafka_questions import MAIN
from policies.requests import KafkaRequest, Operation, Resource
from policies.ruleset import TCP, UDP, Direction

_NEEDED = (
    "url",
    "method",
    "topic",
    "client_id",
    "operation",
    "resource",
    "name",
    "source.labels",
    "destination.labels",
)
"""What a record has to tell whole."""
_DIRECTIONS = {"INGRESS": Direction.INGRESS, "EGRESS": Direction.EGRESS}
_RESERVED_NUMBERS = {int(number): name for name, number in RESERVED.items()} | {11: "host"}


@dataclass(slots=True)
class Tale:
    """What some files of records tell. left_out: records that are no decision of their own, by reason."""

    flows: list[Flow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    bad_lines: int = 0
    lost: int = 0


def read_flows(path: Path) -> Tale:
    """Every flow of a file of records, of a directory of such files and their older ones, or of standard input ("-").

    Raises:
        AgentError: it cannot be read, or holds no record at all.
    """
    tale = Tale()
    parties: dict[object, Party] = {}
    records = 0
    try:
        for line in _lines(path):
            if not line.strip():
                continue
            try:
                record = schema.decode(line)
            except ValueError:
                tale.bad_lines += 1
                continue
            records += 1
            _take(record, tale, parties)
    except OSError as error:
        raise AgentError(f"cannot read records '{path}': {error.strerror}") from error
    if not records:
        raise AgentError(f"'{path}' holds no record" + (f", {tale.bad_lines} lines are none" if tale.bad_lines else ""))
    return tale


def _lines(path: Path) -> Iterator[bytes]:
    if str(path) == "-":
        yield from sys.stdin.buffer
    elif path.is_dir():
        for stream in reading.streams(path):
            yield from reading.forwards(path, stream)
    else:
        with path.open("rb") as file:
            yield from file


def _take(record: schema.Record, tale: Tale, parties: dict[object, Party]) -> None:
    if record.lost_events is not None:
        tale.lost += int(record.lost_events.num_events_lost or 0)
        return
    flow = record.flow
    if flow is None:
        tale.bad_lines += 1
        return
    why = _left_out(record, flow)
    if why:
        tale.left_out[why] += 1
        return
    found = _flow(record, flow, parties)
    if isinstance(found, str):
        tale.left_out[found] += 1
    else:
        tale.flows.append(found)


def _left_out(record: schema.Record, flow: schema.Flow) -> str:
    if flow.is_reply:
        return "is the second record of a request"
    if flow.traffic_direction not in _DIRECTIONS:
        return "does not say which side decided"
    cut = record.tulle.truncated if record.tulle is not None else ()
    if any(name in cut for name in _NEEDED):
        return "was cut to its limit"
    return ""


def _flow(record: schema.Record, flow: schema.Flow, parties: dict[object, Party]) -> Flow | str:
    ports = _ports(flow)
    if ports is None:
        return "is neither TCP nor UDP"
    protocol, port = ports
    http: HttpFlow | None = None
    kafka: KafkaRequest | None = None
    beside: tuple[KafkaRequest, ...] = ()
    tulle = record.tulle
    if flow.l7 is not None:
        if flow.l7.kafka is not None:
            asked = _asked(flow.l7.kafka, tulle.kafka if tulle is not None else None)
            if asked is None:
                return "does not say what its Kafka request asked"
            kafka, beside = asked
        elif flow.l7.http is not None:
            path, host = _target(flow.l7.http.url)
            http = HttpFlow(flow.l7.http.method, path, host)
        else:
            return "is a request of another protocol than HTTP and Kafka"
    addresses = flow.IP or schema.Addresses()
    return Flow(
        _party(addresses.source, flow.source, parties),
        _party(addresses.destination, flow.destination, parties),
        _DIRECTIONS[flow.traffic_direction],
        protocol,
        port,
        http,
        flow.verdict,
        tulle.rule if tulle is not None else "",
        tulle.reason if tulle is not None else "",
        kafka,
        beside,
    )


def _asked(
    kafka: schema.Kafka, asked: schema.KafkaAsked | None
) -> tuple[KafkaRequest, tuple[KafkaRequest, ...]] | None:
    """The question that a record tells of, and what the request asked beside it of its group and transactional id; None
    where it tells of none, as of a request that could not be read."""
    key = API_KEYS.get(kafka.api_key)
    if key is None and kafka.api_key.isascii() and kafka.api_key.isdigit():
        key = int(kafka.api_key)
    if key is None or asked is None:
        return None
    try:
        operation, resource = Operation(asked.operation), Resource(asked.resource)
    except ValueError:
        return None
    whole = resource in (Resource.CLUSTER, Resource.USER)
    name = asked.name if asked.name or whole else None
    topic = name if resource is Resource.TOPIC else None
    question = KafkaRequest(key, kafka.api_version, asked.client_id, topic, operation, resource, name)
    known = {Resource.GROUP: asked.group, Resource.TRANSACTIONAL_ID: asked.transactional_id}
    known.pop(resource, None)
    beside = tuple(
        replace(question, topic=None, operation=ask.operation, resource=ask.resource, name=known[ask.resource])
        for step in MAIN.get(key, ())
        for ask in step
        if known.get(ask.resource)
    )
    return question, beside


def _ports(flow: schema.Flow) -> tuple[int, int] | None:
    if flow.l4 is None:
        return None
    if flow.l4.TCP is not None:
        return TCP, flow.l4.TCP.destination_port
    if flow.l4.UDP is not None:
        return UDP, flow.l4.UDP.destination_port
    return None


def _party(address: str, side: schema.Endpoint | None, parties: dict[object, Party]) -> Party:
    side = side or schema.Endpoint()
    key = (address, side.identity, side.namespace, side.pod_name, side.labels)
    found = parties.get(key)
    if found is None:
        labels, reserved = _labels(side)
        found = parties[key] = Party(address, side.namespace, side.pod_name, labels, reserved)
    return found


def _labels(side: schema.Endpoint) -> tuple[Mapping[str, str], str]:
    labels: dict[str, str] = {}
    reserved = "" if side.pod_name else _RESERVED_NUMBERS.get(side.identity, "")
    for label in side.labels:
        source, colon, rest = label.partition(":")
        key, _, value = (rest if colon else label).partition("=")
        if source == "reserved" and colon:
            reserved = reserved or key
        elif source != "cidr" or not colon:
            labels[key] = value
    return labels, reserved


def _target(url: str) -> tuple[str, str]:
    """Path with query, and host, of a recorded URL; "" when it has no path that could be judged."""
    rest = url.partition("://")[2]
    if rest == "*":
        return "*", ""
    host, slash, path = rest.partition("/")
    return (slash + path, host) if slash else ("", host)
