"""From what the data plane tells to audit records: names and labels of both ends, looked up once per connection and
rule set."""

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path

from audit.record import INGRESS, Connection, FlowFacts, Request, Side
from audit.sinks import Sink
from audit.sinks.file import FileSink
from audit.sinks.stdout import StdoutSink
from audit.writer import Writer
from policies.ruleset import RuleSet
from proxy.flow_event import ConnectionFacts, FlowEvent


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


def side(rules: RuleSet, address: str, port: int) -> Side:
    """One end of a connection by the names that a rule set knows."""
    known = rules.addresses.get(address)
    if known is None:
        return Side(address, port)
    number, owner = known
    namespace, _, pod = owner.partition("/")
    identity = rules.identities.get(number)
    return Side(address, port, number, namespace, pod, identity.labels if identity else {})


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
    name = f"{endpoint.namespace}/{endpoint.name}"
    number = next((number for number, identity in rules.identities.items() if name in identity.names), 0)
    return Side(address, port, number, endpoint.namespace, endpoint.name, endpoint.labels, endpoint_id)


def both_sides(
    rules: RuleSet, endpoint_id: int, direction: int, source: tuple[str, int], destination: tuple[str, int]
) -> tuple[Side, Side]:
    """Source and destination of a connection that was judged for an endpoint."""
    if direction == INGRESS:
        return side(rules, *source), own_side(rules, endpoint_id, *destination)
    return own_side(rules, endpoint_id, *source), side(rules, *destination)


class Recorder:
    """The `emit` of a worker's server."""

    def __init__(self, node: str, stream: str, audit: Mapping[str, object]) -> None:
        self._writer = make_writer(node, stream, audit)
        self._rules = RuleSet()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the loop flush what is written."""
        self._writer.attach(loop)

    def names(self, rules: RuleSet) -> None:
        """Name both ends of a connection by this rule set from now on."""
        self._rules = rules

    def emit(self, event: FlowEvent) -> None:
        """Write the record of one decision."""
        request = None
        if event.method or event.target or event.code:  # a request that could not be read has a status all the same
            host = event.host or _authority(event.connection)
            request = Request(event.method, event.target, host, event.protocol or "HTTP/1.1", event.code)
        self._writer.write(
            FlowFacts(
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
        )

    def _connection(self, facts: ConnectionFacts) -> Connection:
        if isinstance(facts.audit, Connection):  # the server makes new facts after every change of rules
            return facts.audit
        connection = Connection(
            facts.direction,
            *both_sides(
                self._rules,
                facts.endpoint,
                facts.direction,
                (facts.source_address, facts.source_port),
                (facts.destination_address, facts.destination_port),
            ),
        )
        facts.audit = connection
        return connection

    def counters(self) -> dict[str, int]:
        """Records written and lost since the worker began."""
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
