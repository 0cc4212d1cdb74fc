"""Numbers, encodes and batches the records of one process, and accounts for every one that could not be written.

Every record gets the next sequence number of its writer and boot, whether or not a sink can take it. What a sink
refuses waits in a bounded buffer; what finds no room there is lost, and a lost-records record with the range of numbers
stands in its place as soon as the sink takes lines again. So numbers and ranges together have no gap in any sink's
stream, and a gap means that lines were taken away afterwards (rotation is the usual one).
"""

import asyncio
import errno
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from audit import redact, schema
from audit.record import MAX_POLICIES, FlowFacts, PolicyName
from audit.sinks import Sink

FLUSH_S: Final = 0.2
"""Longest a line waits for company; the promise is 0.25 s."""
BATCH_BYTES: Final = 128 * 1024
"""A batch of this size is written at once, in well under a millisecond."""
BUFFER_BYTES: Final = 4 * 1024 * 1024
"""What may wait for one sink: some 4,000 records, a second of a busy worker."""
MAX_CACHED_POLICIES: Final = 256

_SLOW: Final = "slow"
_DROP: Final = schema.EventType(schema.EVENT_DROP, schema.POLICY_DENIED)
_DENY: Final = schema.EventType(schema.EVENT_DROP, schema.POLICY_DENY)
_PASS: Final = schema.EventType(schema.EVENT_POLICY_VERDICT)
_PASSED: Final = frozenset({"FORWARDED", "AUDIT"})
_L7: Final = schema.EventType(schema.EVENT_L7)
_ALLOWED: Final = frozenset({"FORWARDED", "ERROR"})  # an AUDIT record would have been denied: Hubble lists it there

Clock = Callable[[], int]


@dataclass(slots=True)
class Counters:
    """Since the writer was made. lost is a sum over the sinks: a record lost in two sinks counts twice."""

    records: int = 0
    lost: int = 0
    truncated: int = 0
    write_errors: int = 0


@dataclass(slots=True)
class _Loss:
    count: int
    first_seq: int
    last_seq: int
    first_time: str
    last_time: str
    cause: str


class _Outlet:
    """One sink with what waits for it and what it missed."""

    __slots__ = ("cause", "full", "loss", "lost_before", "pending", "pending_bytes", "sink", "waits_for_fd")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.pending: list[bytes] = []
        self.pending_bytes = 0
        self.full = False
        self.loss: _Loss | None = None  # records of ours: a range of sequence numbers
        self.lost_before: _Loss | None = None  # events that never became records
        self.cause = ""  # why the sink took nothing last time; "" when it took everything
        self.waits_for_fd: int | None = None


class Writer:
    """The records of one process.

    name: "node-a/worker-0"; no two writers share name and boot. boot: changes with every start of the process.
    sinks: each gets every record. clock: wall clock in nanoseconds since 1970 UTC.

    Without `attach` the caller calls `flush` itself.
    """

    def __init__(
        self,
        name: str,
        boot: str,
        sinks: Sink | Sequence[Sink],
        clock: Clock = time.time_ns,
        *,
        node: str | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self.name = name
        self.boot = boot
        self.node = name.partition("/")[0] if node is None else node
        self.counters = Counters()
        self.seq = 0
        self._clock = clock
        self._buffer_bytes = buffer_bytes
        self._outlets = [_Outlet(sink) for sink in (sinks if isinstance(sinks, Sequence) else (sinks,))]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._second = -1
        self._second_text = ""
        # UUID version 8 (RFC 9562 5.8): 74 random bits for the writer, the last 48 count. A random UUID for each record
        # would cost a system call.
        random = secrets.token_hex(9)
        self._uuid = f"{random[:8]}-{random[8:12]}-8{random[12:15]}-{secrets.choice('89ab')}{random[15:18]}-"
        self._policies: dict[tuple[int, tuple[tuple[str, str, str], ...]], tuple[schema.Policy, ...]] = {}

    def write(self, facts: FlowFacts) -> None:
        """Record one decision. Never waits and never raises for a sink's sake; writes at most one batch."""
        self.seq = seq = self.seq + 1
        time_ns = facts.time_ns
        when = self._text_of(self._clock() if time_ns is None else time_ns)
        line = schema.encode(self._record(facts, seq, when))
        self.counters.records += 1
        for outlet in self._outlets:
            if len(line) > schema.MAX_LINE:
                self._lose(outlet, seq, when, "line too long")
                continue
            if outlet.full or outlet.loss is not None:
                self._make_room(outlet)
                if outlet.full:
                    self._lose(outlet, seq, when, outlet.cause or _SLOW)
                    continue
            outlet.pending.append(line)
            outlet.pending_bytes += len(line)
            if outlet.pending_bytes >= self._buffer_bytes:
                outlet.full = True
            if outlet.pending_bytes >= BATCH_BYTES and not outlet.cause:
                self._flush_outlet(outlet)
        if self._timer is None:
            self._schedule()

    def write_loss(self, count: int, cause: str) -> None:
        """Record that `count` events were lost before they reached this writer (the kernel's full ring buffer)."""
        when = self._text_of(self._clock())
        for outlet in self._outlets:
            if outlet.lost_before is None:
                outlet.lost_before = _Loss(count, 0, 0, when, when, cause)
            else:
                outlet.lost_before.count += count
                outlet.lost_before.last_time = when
        self._schedule()

    def flush(self) -> bool:
        """Give the sinks what waits for them; True when nothing waits any more."""
        for outlet in self._outlets:
            self._flush_outlet(outlet)
        return self.idle

    @property
    def idle(self) -> bool:
        """Nothing waits to be written, no loss waits to be told."""
        return not any(outlet.pending or outlet.loss or outlet.lost_before for outlet in self._outlets)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` flush: at most 0.25 s after a record, and again while a sink cannot take everything."""
        self._loop = loop
        if not self.idle:
            self._schedule()

    def close(self) -> int:
        """Flush a last time and close the sinks; returns how many records stayed behind in some sink's buffer."""
        self.flush()
        left = sum(len(outlet.pending) for outlet in self._outlets)
        if self._timer is not None:
            self._timer.cancel()
        for outlet in self._outlets:
            self._stop_waiting(outlet)
            outlet.sink.close()
        self._loop = self._timer = None
        self._outlets = []
        self.counters.lost += left
        return left

    # building

    def _text_of(self, time_ns: int) -> str:
        second, nanosecond = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            self._second, self._second_text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{nanosecond:09d}Z"

    def _record(self, facts: FlowFacts, seq: int, when: str) -> schema.Record:
        connection = facts.connection
        addresses, l4, source, destination = connection.reply if facts.is_reply else connection.forth
        truncated = connection.truncated
        rule, cut = redact.text(facts.rule)
        truncated += ("rule",) if cut else ()
        reason, cut = redact.reason(facts.reason)
        truncated += ("reason",) if cut else ()
        flow = schema.Flow(
            time=when,
            uuid=f"{self._uuid}{seq:012x}",
            verdict=facts.verdict,
            IP=addresses,
            l4=l4,
            source=source,
            destination=destination,
            node_name=self.node,
            traffic_direction=connection.direction,
            is_reply=facts.is_reply,
        )
        if facts.verdict == "DROPPED":
            flow.drop_reason_desc = facts.drop_reason_desc
        request = facts.request
        if request is None:
            flow.Type, flow.event_type, flow.Summary = "L3_L4", _DROP, connection.summary
            if facts.verdict in _PASSED:
                flow.event_type = _PASS
            elif facts.drop_reason_desc == "POLICY_DENY":
                flow.event_type = _DENY
        else:
            url, cut = redact.url(request.scheme, request.host, request.target)
            truncated += ("url",) if cut else ()
            method, cut = redact.method(request.method)
            truncated += ("method",) if cut else ()
            protocol = redact.text(request.protocol, 16)[0]
            latency_ns = facts.latency_ns
            flow.Type, flow.event_type = "L7", _L7
            flow.l7 = schema.Layer7(
                "RESPONSE" if facts.is_reply else "REQUEST",
                "" if latency_ns is None else str(latency_ns),
                schema.Http(request.code, method, url, protocol),
            )
            if facts.is_reply:
                flow.Summary = f"{protocol} {request.code} {(latency_ns or 0) // 1_000_000}ms ({method} {url})"
            else:
                flow.Summary = f"{protocol} {method} {url}"
        if facts.policies:
            allowed = facts.verdict in _ALLOWED
            setattr(flow, connection.outcome_fields[not allowed], self._policy_refs(facts.policies, facts.revision))
            truncated += ("policies",) if len(facts.policies) > MAX_POLICIES else ()
        if truncated:
            self.counters.truncated += 1
        tulle = schema.Tulle(
            schema=schema.SCHEMA,
            writer=self.name,
            boot=self.boot,
            seq=seq,
            revision=facts.revision,
            rule=rule,
            reason=reason,
            endpoint=connection.endpoint,
            suppressed=facts.suppressed,
            truncated=truncated,
        )
        return schema.Record(flow=flow, node_name=self.node, time=when, tulle=tulle)

    def _policy_refs(self, policies: Iterable[PolicyName], revision: int) -> tuple[schema.Policy, ...]:
        key = (revision, tuple([(policy.kind, policy.namespace, policy.name) for policy in policies][:MAX_POLICIES]))
        refs = self._policies.get(key)
        if refs is None:
            if len(self._policies) >= MAX_CACHED_POLICIES:
                self._policies.clear()
            refs = self._policies[key] = tuple(
                schema.Policy(redact.text(name)[0], redact.text(namespace)[0], (), str(revision), redact.text(kind)[0])
                for kind, namespace, name in key[1]
            )
        return refs

    # buffers

    def _lose(self, outlet: _Outlet, seq: int, when: str, cause: str) -> None:
        self.counters.lost += 1
        loss = outlet.loss
        if loss is None:
            outlet.loss = _Loss(1, seq, seq, when, when, cause)
        else:
            loss.count, loss.last_seq, loss.last_time = loss.count + 1, seq, when

    def _make_room(self, outlet: _Outlet) -> None:
        """Take lines again once half the buffer is free, lost-records records first."""
        if outlet.full and outlet.pending_bytes > self._buffer_bytes // 2:
            return
        outlet.full = False
        if outlet.lost_before is not None:
            self._append_loss(outlet, outlet.lost_before, "PERF_EVENT_RING_BUFFER")
            outlet.lost_before = None
        if outlet.loss is not None:
            self._append_loss(outlet, outlet.loss, "OBSERVER_EVENTS_QUEUE")
            outlet.loss = None

    def _append_loss(self, outlet: _Outlet, loss: _Loss, source: str) -> None:
        line = schema.encode(
            schema.Record(
                lost_events=schema.LostEvents(
                    source=source,
                    num_events_lost=str(loss.count),
                    first=loss.first_time,
                    last=loss.last_time,
                ),
                node_name=self.node,
                time=loss.last_time,
                tulle=schema.Tulle(
                    schema=schema.SCHEMA,
                    writer=self.name,
                    boot=self.boot,
                    lost_from=loss.first_seq,
                    lost_to=loss.last_seq,
                    lost_cause=loss.cause,
                ),
            )
        )
        outlet.pending.append(line)
        outlet.pending_bytes += len(line)

    def _flush_outlet(self, outlet: _Outlet) -> None:
        self._stop_waiting(outlet)
        if outlet.loss is not None or outlet.lost_before is not None:
            self._make_room(outlet)
        self._offer(outlet)
        if outlet.loss is not None and not outlet.cause:  # there was no room for the loss before, now there is
            self._make_room(outlet)
            self._offer(outlet)
        fd = outlet.sink.ready_fd() if outlet.cause == _SLOW else None
        if fd is not None and self._loop is not None:
            self._loop.add_writer(fd, self._flush_outlet, outlet)
            outlet.waits_for_fd = fd

    def _offer(self, outlet: _Outlet) -> None:
        if not outlet.pending:
            return
        try:
            taken = outlet.sink.write(outlet.pending)
        except OSError as error:
            self.counters.write_errors += 1
            outlet.cause = errno.errorcode.get(error.errno or 0, type(error).__name__)
            return
        if taken >= len(outlet.pending):
            outlet.pending.clear()
            outlet.pending_bytes = 0
            outlet.cause = ""
            return
        outlet.pending_bytes -= sum(map(len, outlet.pending[:taken]))
        del outlet.pending[:taken]
        outlet.cause = _SLOW

    def _stop_waiting(self, outlet: _Outlet) -> None:
        if outlet.waits_for_fd is not None and self._loop is not None:
            self._loop.remove_writer(outlet.waits_for_fd)
        outlet.waits_for_fd = None

    def _schedule(self) -> None:
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(FLUSH_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self.flush():
            self._schedule()
