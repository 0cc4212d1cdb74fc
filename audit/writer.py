"""Numbers, encodes and batches the records of one process, and accounts for every one that could not be written.

Every record gets the next sequence number of its writer and boot, whether or not a sink can take it. What a sink
refuses waits in a bounded buffer; what finds no room there is lost, and a lost-records record with the range of numbers
stands in its place as soon as the sink takes lines again. So numbers and ranges together have no gap in any sink's
stream, and a gap means that lines were taken away afterwards (rotation is the usual one).
"""

import asyncio
import errno
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from audit import schema
from audit.build import Builder
from audit.record import FlowFacts
from audit.sinks import Sink

FLUSH_S: Final = 0.2
"""Longest a line waits for company; the promise is 0.25 s."""
BATCH_BYTES: Final = 128 * 1024
"""A batch of this size is written at once, in well under a millisecond."""
BUFFER_BYTES: Final = 4 * 1024 * 1024
"""What may wait for one sink: some 4,000 records, a second of a busy worker."""

_SLOW: Final = "slow"

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
        self.builder = Builder(name, boot, self.node)
        self._before: Callable[[], None] | None = None

    def write_before(self, before: Callable[[], None]) -> None:
        """Call `before` ahead of everything that is written or flushed: it hands over, by `write_lines`, what is
        older and waits elsewhere."""
        self._before = before

    def write(self, facts: FlowFacts) -> None:
        """Record one decision. Never waits and never raises for a sink's sake; writes at most one batch."""
        if self._before is not None:
            self._before()
        self.seq = seq = self.seq + 1
        time_ns = facts.time_ns
        when = self.builder.time_text(self._clock() if time_ns is None else time_ns)
        record = self.builder.record(facts, seq, when)
        line = schema.encode(record)
        self.counters.records += 1
        if record.tulle is not None and record.tulle.truncated:
            self.counters.truncated += 1
        for outlet in self._outlets:
            self._put(outlet, line, seq, when)
        if self._timer is None:
            self.wake()

    def number(self, count: int) -> int:
        """Take the next `count` sequence numbers for `write_lines`; returns the first."""
        first = self.seq + 1
        self.seq += count
        return first

    def write_lines(self, lines: Sequence[bytes], first: int, times_ns: Iterable[int], truncated: int = 0) -> None:
        """Take a batch of records that are encoded already, as `write` takes one.

        first: the number of the first, by `number`; the others follow. times_ns: when each decision was, wall clock.
        truncated: how many of them say that something was cut. An empty line is a record that could not be made: its
        number is lost.
        """
        self.counters.records += len(lines)
        self.counters.truncated += truncated
        size = sum(map(len, lines))
        plain = (
            size <= BATCH_BYTES and all(lines) and (size <= schema.MAX_LINE or max(map(len, lines)) <= schema.MAX_LINE)
        )
        times: list[int] | None = None
        for outlet in self._outlets:
            if plain and not outlet.full and outlet.loss is None and outlet.pending_bytes + size < self._buffer_bytes:
                if outlet.pending_bytes + size > BATCH_BYTES and not outlet.cause:
                    self._flush_outlet(outlet)
                outlet.pending += lines
                outlet.pending_bytes += size
                continue
            times = list(times_ns) if times is None else times
            for seq, (line, time_ns) in enumerate(zip(lines, times, strict=True), first):
                self._put(outlet, line, seq, self.builder.time_text(time_ns))
        if self._timer is None:
            self.wake()

    def wake(self) -> None:
        """See that the loop flushes within 0.25 s."""
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(FLUSH_S, self._on_timer)

    def write_loss(self, count: int, cause: str) -> None:
        """Record that `count` events were lost before they reached this writer (the kernel's full ring buffer)."""
        if self._before is not None:
            self._before()
        when = self.builder.time_text(self._clock())
        for outlet in self._outlets:
            if outlet.lost_before is None:
                outlet.lost_before = _Loss(count, 0, 0, when, when, cause)
            else:
                outlet.lost_before.count += count
                outlet.lost_before.last_time = when
        self.wake()

    def flush(self) -> bool:
        """Give the sinks what waits for them; True when nothing waits any more."""
        if self._before is not None:
            self._before()
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
        if self._before is not None:
            self._before()
        if not self.idle:
            self.wake()

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

    # buffers

    def _put(self, outlet: _Outlet, line: bytes, seq: int, when: str) -> None:
        """One line for one sink, or a loss in its place."""
        if not line or len(line) > schema.MAX_LINE:
            self._lose(outlet, seq, when, "line too long" if line else "internal error")
            return
        if outlet.full or outlet.loss is not None:
            self._make_room(outlet)
            if outlet.full:
                self._lose(outlet, seq, when, outlet.cause or _SLOW)
                return
        outlet.pending.append(line)
        outlet.pending_bytes += len(line)
        if outlet.pending_bytes >= self._buffer_bytes:
            outlet.full = True
        if outlet.pending_bytes >= BATCH_BYTES and not outlet.cause:
            self._flush_outlet(outlet)

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

    def _on_timer(self) -> None:
        self._timer = None
        if not self.flush():
            self.wake()
