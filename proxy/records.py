"""From what the data plane tells to audit records: names and labels of both ends, looked up once per connection and
rule set."""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from audit.notes import Common, Notes
from audit.record import INGRESS, Connection, FlowFacts, KafkaRequest, Pair, Request, Side
from audit.sinks import Sink
from audit.sinks.file import FileSink
from audit.sinks.stdout import StdoutSink
from audit.writer import Writer
from policies.ruleset import FIRST_CIDR_IDENTITY, Reserved, RuleSet
from proxy.flow_event import ConnectionFacts, FlowEvent, KafkaFacts, Shape
from proxy.peers import Peers


def make_writer(node: str, stream: str, audit: Mapping[str, object]) -> Writer:
    """A writer for one stream of this node, as the agent's `audit` settings say; its boot is new with every call."""
    sinks: list[Sink] = [
        FileSink(
            Path(str(audit["directory"])),
            stream,
            max_bytes=int(str(audit["max_bytes"])),
            backups=int(str(audit["backups"])),
        )
    ]
    if audit["stdout"]:
        sinks.append(StdoutSink())
    return Writer(f"{node}/{stream}", secrets.token_hex(8), sinks, node=node)


_last: list[tuple[RuleSet, Peers]] = []


def peers_of(rules: RuleSet) -> Peers:
    """The addresses of a rule set, made ready once for many calls in a row."""
    if not _last or _last[0][0] is not rules:
        _last[:] = [(rules, Peers(rules))]
    return _last[0][1]


def side(rules: RuleSet, address: str, port: int, identity: int | None = None) -> Side:
    """One end of a connection by the names that a rule set knows; identity: what it was judged by, where that is not
    what its address says."""
    known, owner = peers_of(rules).find(address)
    if identity is not None and identity != known:
        known, owner = identity, ""
    known = int(known)  # a member of Reserved would be written even where it is 0
    namespace, slash, pod = owner.partition("/")
    found = rules.identities.get(known)
    if slash:
        return Side(address, port, known, namespace, pod, found.labels if found else {})
    return Side(address, port, known, reserved=reserved_labels(known, found.reserved if found else ""))


def reserved_labels(identity: int, text: str = "") -> tuple[str, ...]:
    """Labels of a peer that is no pod, as Hubble shows them. text: `Identity.reserved` ("cidr:10.0.0.0/8")."""
    if identity >= FIRST_CIDR_IDENTITY:
        return (text, "reserved:world") if text else ("reserved:world",)
    known = _RESERVED.get(identity)
    if known is not None:
        return known
    return (f"reserved:{text}",) if text else ()


_RESERVED: Final[dict[int, tuple[str, ...]]] = {
    Reserved.HOST: ("reserved:host",),
    Reserved.REMOTE_NODE: ("reserved:remote-node",),
    Reserved.KUBE_APISERVER: ("reserved:kube-apiserver", "reserved:remote-node"),
    Reserved.WORLD_IPV4: ("reserved:world", "reserved:world-ipv4"),
    Reserved.WORLD_IPV6: ("reserved:world", "reserved:world-ipv6"),
    Reserved.HOST_KUBE_APISERVER: ("reserved:host", "reserved:kube-apiserver"),
}


def _kafka_request(kafka: KafkaFacts) -> KafkaRequest:
    api = kafka.api.lower()
    return KafkaRequest(
        _CILIUM_NAMES.get(api, api) or str(kafka.api_key),
        kafka.api_version,
        kafka.correlation_id,
        kafka.topic,
        kafka.client_id,
        kafka.group,
        kafka.transactional_id,
        kafka.operation,
        kafka.resource,
        kafka.name,
        kafka.error_code,
    )


def _authority(facts: ConnectionFacts) -> str:
    """Whom a request without a host was for: the place it was sent to (RFC 9112 3.3)."""
    address = facts.destination_address
    return f"[{address}]:{facts.destination_port}" if ":" in address else f"{address}:{facts.destination_port}"


def own_side(rules: RuleSet, endpoint_id: int, address: str, port: int) -> Side:
    """The end that is the endpoint itself: named by what it is and not by its address, which a process can choose (IPv6
    lets anybody bind a foreign one, ipv6(7) IPV6_FREEBIND)."""
    endpoint = rules.endpoints.get(endpoint_id)
    if endpoint is None:
        return side(rules, address, port)
    number = endpoint.identity
    if not number:
        name = f"{endpoint.namespace}/{endpoint.name}"
        number = next((number for number, identity in rules.identities.items() if name in identity.names), 0)
    return Side(address, port, number, endpoint.namespace, endpoint.name, endpoint.labels, endpoint_id)


def both_sides(
    rules: RuleSet,
    endpoint_id: int,
    direction: int,
    source: tuple[str, int],
    destination: tuple[str, int],
    peer_identity: int | None = None,
) -> tuple[Side, Side]:
    """Source and destination of a connection that was judged for an endpoint.

    peer_identity: what the other end was judged by; None is what user space judges it by (`Peers.judged`).
    """
    peer = source if direction == INGRESS else destination
    if peer_identity is None:
        peer_identity = peers_of(rules).judged(peer[0], direction)
    other = side(rules, *peer, peer_identity)
    if direction == INGRESS:
        return other, own_side(rules, endpoint_id, *destination)
    return own_side(rules, endpoint_id, *source), other


MAX_PAIRS: Final = 1024
"""Pairs of addresses whose names are kept ready, of 2 to 4 KiB each. Past it all are forgotten, and the next connection
of each costs some 20 µs more."""


MAX_ALIKE: Final = 1024
"""Kafka decisions whose records' text is kept ready, 2 KiB each. Past it all are forgotten, and the next record of each
costs some 30 µs more."""

_CILIUM_NAMES: Final[dict[str, str]] = {"listoffsets": "offsets"}
"""Where Cilium has another name for an API than Kafka."""


class Alike:
    """A Kafka decision that may come again, on whatever connection: `Shape` for Kafka. audit: as in `Shape`."""

    __slots__ = ("audit", "event", "kafka")

    def __init__(self, event: FlowEvent, kafka: KafkaFacts) -> None:
        self.event, self.kafka = replace(event), replace(kafka)  # the caller may go on with his own
        self.audit: object = None


class Recorder:
    """The `emit` of a worker's server."""

    def __init__(self, node: str, stream: str, audit: Mapping[str, object]) -> None:
        self._writer = make_writer(node, stream, audit)
        self._rules = RuleSet()
        self._pairs: dict[tuple[int, int, int, str, str], Pair] = {}
        self._notes = Notes[ConnectionFacts, Shape | Alike](self._writer, self._connection, self._noted)
        self._alike: dict[tuple[object, ...], Alike] = {}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the loop flush what is written."""
        self._writer.attach(loop)

    def names(self, rules: RuleSet) -> None:
        """Name both ends of a connection by this rule set from now on."""
        self._notes.render()  # what was noted before is named by the rules of its time
        self._rules = rules
        self._pairs.clear()

    def emit(self, event: FlowEvent) -> None:
        """Write the record of one decision; of a Kafka decision that came before, as cheaply as `note` does it."""
        kafka = event.kafka
        if kafka is None or event.is_reply or not kafka.correlation_id:
            self._writer.write(self._facts(event))
            return
        key = (
            event.verdict, event.reason, event.rule, event.revision, tuple(event.policies), kafka.api_key, kafka.api,
            kafka.api_version, kafka.client_id, kafka.topic, kafka.group, kafka.transactional_id, kafka.operation,
            kafka.resource, kafka.name, kafka.error_code,
        )  # fmt: skip
        alike = self._alike.get(key)
        if alike is None:
            if len(self._alike) >= MAX_ALIKE:
                self._alike.clear()
            alike = self._alike[key] = Alike(event, kafka)
        self._notes.add(event.connection, alike, event.time_ns, event.latency_ns, kafka.correlation_id)

    def note(self, connection: ConnectionFacts, shape: Shape, time_ns: int, latency_ns: int | None) -> None:
        """Write the record of a request that shares its shape with others: what `emit` would write of
        `shape.event(...)`, at a tenth of the cost, in the order of the calls to both.

        time_ns: wall clock of the decision. latency_ns: request head to response head, None without a response.
        """
        self._notes.add(connection, shape, time_ns, latency_ns)

    def _facts(self, event: FlowEvent) -> FlowFacts:
        request: Request | KafkaRequest | None = None
        if event.kafka is not None:
            request = _kafka_request(event.kafka)
        elif event.method or event.target or event.code:  # one that could not be read has a status all the same
            host = event.host or _authority(event.connection)
            request = Request(event.method, event.target, host, event.protocol or "HTTP/1.1", event.code)
        return FlowFacts(
            self._connection(event.connection),
            event.verdict,
            event.reason,
            event.rule,
            event.revision,
            event.policies,
            request,
            event.latency_ns,
            event.is_reply,
            time_ns=event.time_ns,
        )

    def _noted(
        self,
        connection: ConnectionFacts,
        shape: Shape | Alike,
        time_ns: int,
        latency_ns: int | None,
        correlation_id: int,
    ) -> FlowFacts:
        if isinstance(shape, Alike):
            kafka = replace(shape.kafka, correlation_id=correlation_id)
            event = replace(shape.event, connection=connection, time_ns=time_ns, latency_ns=latency_ns, kafka=kafka)
            if shape.audit is None:
                shape.audit = Common()
            return self._facts(event)
        facts = self._facts(shape.event(time_ns, connection, latency_ns))
        if shape.audit is None and facts.request is not None and shape.host:  # else the URL holds the destination
            shape.audit = Common()
        return facts

    def _connection(self, facts: ConnectionFacts) -> Connection:
        if isinstance(facts.audit, Connection):  # the server makes new facts after every change of rules
            return facts.audit
        key = (facts.direction, facts.endpoint, facts.identity, facts.source_address, facts.destination_address)
        pair = self._pairs.get(key)
        if pair is None:
            if len(self._pairs) >= MAX_PAIRS:
                self._pairs.clear()
            pair = self._pairs[key] = Pair(
                facts.direction,
                *both_sides(
                    self._rules,
                    facts.endpoint,
                    facts.direction,
                    (facts.source_address, facts.source_port),
                    (facts.destination_address, facts.destination_port),
                    facts.identity,
                ),
            )
        facts.audit = connection = Connection.on(pair, facts.source_port, facts.destination_port)
        return connection

    def counters(self) -> dict[str, int]:
        """Records written and lost since the worker began."""
        self._notes.render()
        counters = self._writer.counters
        return {
            "records": counters.records,
            "records_lost": counters.lost,
            "records_truncated": counters.truncated,
            "record_write_errors": counters.write_errors,
        }

    def close(self) -> None:
        """Write out what waits."""
        self._writer.close()
