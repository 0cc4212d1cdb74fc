"""Numbers, buffers and losses."""

import asyncio
import errno
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.sinks.file import FileSink
from audit.writer import Writer
from tests.audit.makers import CLOCK, ListSink, file_lines, numbers, parsed, request_facts, tulle


def make(sink: ListSink, buffer_bytes: int = 20_000) -> Writer:
    return Writer("node-a/worker-1", "boot", sink, lambda: CLOCK, buffer_bytes=buffer_bytes)


def test_numbers_start_at_one_for_each_boot(tmp_path: Path) -> None:
    for boot in ("first", "second"):
        writer = Writer("node-a/worker-0", boot, FileSink(tmp_path, "worker-0"))
        for _ in range(3):
            writer.write(request_facts())
        assert writer.close() == 0
    records = parsed(file_lines(tmp_path / "worker-0.jsonl"))
    assert [(tulle(record)["boot"], tulle(record)["seq"]) for record in records] == [
        ("first", 1), ("first", 2), ("first", 3), ("second", 1), ("second", 2), ("second", 3),
    ]  # fmt: skip
    uuids = {str(record["flow"]["uuid"]) for record in records if isinstance(record["flow"], dict)}
    assert len(uuids) == 6


def test_a_full_buffer_loses_the_newest_and_says_so() -> None:
    sink = ListSink(room=0)
    writer = make(sink)
    for _ in range(100):
        writer.write(request_facts())
    assert not writer.flush()
    kept = 100 - writer.counters.lost
    assert 10 < kept < 40
    sink.room = 1000
    assert writer.flush()
    records = parsed(sink.lines)
    assert numbers(records) == list(range(1, 101))
    assert len(records) == kept + 1
    loss = records[-1]
    assert loss["lost_events"] == {
        "source": "OBSERVER_EVENTS_QUEUE",
        "num_events_lost": str(100 - kept),
        "first": "2026-11-23T17:00:00.123456789Z",
        "last": "2026-11-23T17:00:00.123456789Z",
    }
    assert tulle(loss)["lost_cause"] == "slow"
    writer.write(request_facts())
    writer.flush()
    assert numbers(parsed(sink.lines)) == list(range(1, 102))


def test_a_sink_that_fails_and_comes_back() -> None:
    sink = ListSink()
    writer = make(sink)
    writer.write(request_facts())
    writer.flush()
    sink.error = OSError(errno.ENOSPC, "no space left on device")
    for _ in range(100):
        writer.write(request_facts())
        writer.flush()
    assert writer.counters.write_errors > 10
    sink.error = None
    for _ in range(5):
        writer.write(request_facts())
    assert writer.flush()
    records = parsed(sink.lines)
    assert numbers(records) == list(range(1, 107))
    causes = [tulle(record)["lost_cause"] for record in records if "lost_events" in record]
    assert causes == ["ENOSPC"]


def test_sinks_lose_independently() -> None:
    good, bad = ListSink(), ListSink(room=3)
    writer = Writer("node-a/worker-1", "boot", [good, bad], buffer_bytes=10_000)
    for _ in range(50):
        writer.write(request_facts())
        writer.flush()
    bad.room = 1000
    assert writer.flush()
    assert numbers(parsed(good.lines)) == list(range(1, 51))
    assert len(good.lines) == 50
    assert numbers(parsed(bad.lines)) == list(range(1, 51))
    assert len(bad.lines) < 50


def test_an_oversized_record_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.schema.MAX_LINE", 100)
    sink = ListSink()
    writer = make(sink)
    writer.write(request_facts())
    monkeypatch.undo()
    writer.write(request_facts())
    assert writer.flush()
    records = parsed(sink.lines)
    assert numbers(records) == [1, 2]
    assert tulle(records[0])["lost_cause"] == "line too long"


def test_losses_before_the_writer_are_told_apart() -> None:
    sink = ListSink(room=0)
    writer = make(sink)
    writer.write(request_facts())
    writer.write_loss(3, "ring full")
    writer.write_loss(4, "ring full")
    assert not writer.flush()
    sink.room = 10
    assert writer.flush()
    (_, loss) = parsed(sink.lines)
    events = loss["lost_events"]
    assert isinstance(events, dict)
    assert events["source"] == "PERF_EVENT_RING_BUFFER"
    total = sum(
        int(str(record["lost_events"]["num_events_lost"]))
        for record in parsed(sink.lines[1:])
        if isinstance(record["lost_events"], dict)
    )
    assert total == 7
    assert "seq" not in tulle(loss)


def test_close_counts_what_stays_behind() -> None:
    sink = ListSink(room=1)
    writer = make(sink)
    for _ in range(3):
        writer.write(request_facts())
    assert writer.close() == 2
    assert writer.counters.lost == 2
    assert sink.closed


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, or after 10 s, where the caller's next assertion fails."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)


def test_the_loop_flushes_in_time_and_retries() -> None:
    async def scenario() -> None:
        sink = ListSink()
        writer = make(sink)
        writer.write(request_facts())
        writer.attach(asyncio.get_running_loop())
        began = time.monotonic()
        await until(lambda: bool(sink.lines))
        assert time.monotonic() - began > 0.1, "a batch is written once, not line by line"
        sink.error = OSError(errno.ENOSPC, "no space left on device")
        writer.write(request_facts())
        await until(lambda: writer.counters.write_errors >= 2)
        sink.error = None
        await until(lambda: len(sink.lines) == 2)
        assert writer.idle
        assert writer.close() == 0

    asyncio.run(asyncio.wait_for(scenario(), 10))
