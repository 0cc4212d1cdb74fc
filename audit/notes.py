"""Records of the hot pair: put together from text that many of them share, a batch at a time.

A request that was judged like thousands before it differs from them in its time, number, latency and connection, and
one of Kafka in its correlation id. What it shares with them is encoded once (`Common`, and `Connection.text` for both
ends); its record costs the caller one tuple, and later, with a batch of others, one joined string. The line is byte for
byte the one that `Writer.write` makes of the same facts: every piece is cut out of such a record by the schema's own
encoder, and nothing is escaped here.

`Notes` stands before a `Writer`, which calls it before anything else is written, flushed or closed: the order of the
calls is the order of the lines.
"""

import logging
from collections.abc import Callable
from typing import Final, Protocol

from audit import schema
from audit.build import Builder, kafka_summary
from audit.record import Connection, FlowFacts, Pair
from audit.writer import Writer

MAX_WAITING: Final = 64
"""Notes that wait to be written. Rendering so many keeps the loop for about 0.1 ms; their lines are about half of what
the file takes at once."""
MAX_FRESH: Final = 16
"""How many of them may be the first of their connection: 25 µs each where nothing is known of the peer's address."""

_log = logging.getLogger(__name__)
_LOW: Final = tuple(f"{number:02x}" for number in range(256))
_SECOND: Final = 1_000_000_000
_ID: Final = "\0"
"""Where the correlation id of a Kafka request belongs in the text around it: JSON never has this character."""


class HasPlace(Protocol):
    """What a caller knows a connection or a decision by; `audit` is the place for what is made of it here."""

    audit: object


class Common:
    """What the records of all requests with one decision have in common, but for their writer and connection.

    sides: by `Pair.ingress`, the texts up to the ends, from the status to the policies, from the revision to the
    reason; what was cut; and the text behind that. None where there was no such record yet.
    """

    __slots__ = ("sides",)

    def __init__(self) -> None:
        self.sides: list[tuple[str, str, str, tuple[str, ...], str] | None] = [None, None]

    def learn(self, record: schema.Record, pair: Pair) -> None:
        """Take from one of these records, of a request on that pair, what the others will have too."""
        flow, tulle = record.flow, record.tulle
        if flow is None or flow.l7 is None or tulle is None:
            raise ValueError("no record of a request")
        after = schema.Flow(
            event_type=flow.event_type,
            traffic_direction=flow.traffic_direction,
            drop_reason_desc=flow.drop_reason_desc,
            is_reply=flow.is_reply,
        )
        outcome = schema.Flow(
            egress_allowed_by=flow.egress_allowed_by,
            ingress_allowed_by=flow.ingress_allowed_by,
            egress_denied_by=flow.egress_denied_by,
            ingress_denied_by=flow.ingress_denied_by,
        )
        request, summary = _request(flow.l7, flow.Summary)
        self.sides[pair.ingress] = (
            schema.fields(schema.Flow(verdict=flow.verdict)),
            f"{request}}}{schema.fields(after)}{summary}{schema.fields(outcome)}}}",
            schema.fields(
                schema.Tulle(schema=tulle.schema, revision=tulle.revision, rule=tulle.rule, reason=tulle.reason)
            ),
            tulle.truncated[len(pair.truncated) :],
            schema.fields(schema.Tulle(schema=tulle.schema, kafka=tulle.kafka)),
        )


def _request(layer7: schema.Layer7, said: str) -> tuple[str, str]:
    """The texts of a request and of its summary, `_ID` in the place of a correlation id."""
    if (kafka := layer7.kafka) is None:
        return schema.fields(schema.Layer7(http=layer7.http)), schema.fields(schema.Flow(Summary=said))
    before = schema.fields(schema.Kafka(kafka.error_code, kafka.api_version, kafka.api_key))
    begin = kafka_summary(kafka.api_key, is_reply=False)
    number = str(kafka.correlation_id)
    if not before or not kafka.correlation_id or not said.startswith(begin + number):
        raise ValueError("no record of a request with a correlation id")
    request = f',"kafka":{{{before[1:]},"correlation_id":{_ID}{schema.fields(schema.Kafka(topic=kafka.topic))}}}'
    rest = said[len(begin) + len(number) :]
    return request, f',"Summary":{schema.text_of(begin)[:-1]}{_ID}{schema.text_of(rest)[1:]}'


class Notes[C: HasPlace, S: HasPlace]:
    """What was noted and is not rendered yet, for one writer.

    connection: the `Connection` of a note; it is looked for in the place before. facts: the whole facts of a note, with
    that connection; where the records of a decision are alike, it puts a `Common` in the decision's place.
    """

    def __init__(
        self,
        writer: Writer,
        connection: Callable[[C], Connection],
        facts: Callable[[C, S, int, int | None, int], FlowFacts],
    ) -> None:
        self._writer = writer
        self._connection = connection
        self._facts = facts
        self._waiting: list[tuple[C, S, int, int | None, int]] = []
        self._fresh = 0
        self._pieces = _pieces(writer.builder)
        writer.write_before(self.render)

    def add(self, connection: C, shape: S, time_ns: int, latency_ns: int | None, correlation_id: int = 0) -> None:
        """Note one decision. time_ns: wall clock, since 1970 UTC. latency_ns: None without a response.
        correlation_id: of a Kafka request, and not 0, which a record leaves out; 0 for all others."""
        waiting = self._waiting
        waiting.append((connection, shape, time_ns, latency_ns, correlation_id))
        count = len(waiting)
        if connection.audit is None:
            self._fresh += 1
        if count == 1:
            self._writer.wake()
        elif count >= MAX_WAITING or self._fresh >= MAX_FRESH:
            self.render()

    def render(self) -> None:
        """Hand the lines of all that waits to the writer."""
        if not self._waiting:
            return
        notes = self._waiting[:]
        self._waiting.clear()
        self._fresh = 0
        builder = self._writer.builder
        seq = first = self._writer.number(len(notes))
        uuid = f"{builder.uuid}{seq >> 8:010x}"
        begin, second, truncated = 0, "", 0
        layer7, between, numbered = self._pieces
        lines: list[bytes] = []
        append = lines.append
        for place, shape, time_ns, latency_ns, correlation_id in notes:
            nanosecond = time_ns - begin
            if not 0 <= nanosecond < _SECOND:
                number, nanosecond = divmod(time_ns, _SECOND)
                begin, second = time_ns - nanosecond, builder.second_text(number)
            when = "%s.%09dZ" % (second, nanosecond)  # noqa: UP031  half the cost of a format specification
            if not seq & 255:
                uuid = f"{builder.uuid}{seq >> 8:010x}"
            try:
                connection = place.audit
                if not isinstance(connection, Connection):
                    connection = self._connection(place)
                pair, common = connection.pair, shape.audit
                side = common.sides[pair.ingress] if isinstance(common, Common) else None
                if side is None:
                    record = builder.record(self._facts(place, shape, time_ns, latency_ns, correlation_id), seq, when)
                    line = schema.encode(record)
                    if isinstance(shape.audit, Common):
                        shape.audit.learn(record, pair)
                    # INVARIANT: nothing fails from here to the next note, or this one has two lines
                    append(line)
                    truncated += record.tulle is not None and bool(record.tulle.truncated)
                    seq += 1
                    continue
                ends = connection.text or connection.written()
                endpoint = pair.texts[2]
            except Exception:  # noqa: BLE001  whoever's call this is, it is not his record that failed: it is lost, and said so
                _log.exception("a record cannot be made")
                append(b"")
                seq += 1
                continue
            verdict, middle, reason, cut, tail = side
            if correlation_id:
                middle = middle.replace(_ID, str(correlation_id))
            if cut or pair.truncated:
                endpoint = f'{endpoint},"truncated":{schema.text_of(pair.truncated + cut)}'
                truncated += 1
            latency = "" if latency_ns is None else f',"latency_ns":"{latency_ns}"'
            append(
                f'{{"flow":{{"time":"{when}","uuid":"{uuid}{_LOW[seq & 255]}"{verdict}{ends}{layer7}{latency}{middle}'
                f"{between}{when}{numbered}{seq}{reason}{endpoint}{tail}}}}}\n".encode()
            )
            seq += 1
        self._writer.write_lines(lines, first, (note[2] for note in notes), truncated)


def _pieces(builder: Builder) -> tuple[str, str, str]:
    """What a writer's records have in common: before the latency, between the two times, before the number."""
    return (
        schema.fields(schema.Flow(Type="L7", node_name=builder.node)) + ',"l7":{"type":"REQUEST"',
        schema.fields(schema.Flow(node_name=builder.node)) + ',"time":"',
        f'","tulle":{{"schema":{schema.SCHEMA}'
        + schema.fields(schema.Tulle(schema=schema.SCHEMA, writer=builder.writer, boot=builder.boot))
        + ',"seq":',
    )
