"""Noted records beside written ones: order, numbers, losses, and a batch that does not fit."""

import asyncio
import errno
import random
from dataclasses import dataclass

import pytest

from audit import schema
from audit.notes import MAX_FRESH, MAX_WAITING, Common, Notes
from audit.record import FORWARDED, INGRESS, Connection, FlowFacts, KafkaRequest, Request, Side
from audit.writer import BATCH_BYTES, Writer
from tests.audit.makers import (
    CLOCK,
    FRONTEND,
    REASON,
    RULE,
    WEB,
    ListSink,
    Policy,
    numbers,
    parsed,
    request_facts,
    tulle,
)
from tests.audit.test_writer import until


@dataclass(eq=False)
class Place:
    """What a caller has of a connection, or of a decision about `target`."""

    target: str = ""
    audit: object = None


class Desk:
    """A writer with notes before it."""

    def __init__(self, *sinks: ListSink, buffer_bytes: int = 20_000) -> None:
        self.writer = Writer("node-a/worker-1", "boot", sinks, lambda: CLOCK, buffer_bytes=buffer_bytes)
        self.notes = Notes[Place, Place](self.writer, self.connection, self.facts)
        self.place = Place()

    def connection(self, place: Place) -> Connection:
        """One between frontend and web; what has no address is an error."""
        if place.target == "broken":
            raise ValueError("no address")
        place.audit = connection = Connection(INGRESS, FRONTEND, WEB)
        return connection

    def facts(self, place: Place, shape: Place, time_ns: int, latency_ns: int | None, correlation_id: int) -> FlowFacts:
        """As `request_facts` makes them."""
        shape.audit = Common()
        connection = place.audit
        assert isinstance(connection, Connection)
        request: Request | KafkaRequest = Request("GET", shape.target, "web", code=200)
        if correlation_id:
            request = KafkaRequest("fetch", 17, correlation_id, shape.target, error_code=0)
        return FlowFacts(connection, FORWARDED, REASON, RULE, 3, (Policy(),), request, latency_ns, time_ns=time_ns)

    def note(self, shape: Place, time_ns: int = CLOCK, place: Place | None = None) -> None:
        """Note a request."""
        self.notes.add(place or self.place, shape, time_ns, 812_000)


def test_calls_of_all_kinds_keep_their_order() -> None:
    seed = random.Random(5)  # noqa: S311  a mixture, the same in every run
    sink = ListSink()
    desk = Desk(sink, buffer_bytes=10_000_000)
    shapes = [Place("/a"), Place("/b")]
    said = []
    for number in range(1000):
        target = f"/written/{number}"
        match seed.choice(["note"] * 12 + ["write", "loss", "flush"]):
            case "note":
                desk.note(shapes[number % 2])
                said.append(shapes[number % 2].target)
            case "write":
                desk.writer.write(request_facts(target))
                said.append(target)
            case "loss":
                desk.writer.write_loss(1, "ring full")
            case _:
                desk.writer.flush()
                assert len(sink.lines) >= len(said)
    assert desk.writer.close() == 0
    records = [schema.decode(line) for line in sink.lines]
    urls = [r.flow.l7.http.url for r in records if r.flow and r.flow.l7 and r.flow.l7.http]
    assert urls == [f"http://web{target}" for target in said]
    uuids = [r.flow.uuid for r in records if r.flow]
    assert uuids == [f"{desk.writer.builder.uuid}{number:012x}" for number in range(1, 1 + len(said))]
    assert numbers(parsed([line for line in sink.lines if b"lost_events" not in line])) == list(range(1, 1 + len(said)))
    assert desk.writer.counters.records == len(said)
    assert desk.writer.counters.lost == 0


def test_what_waits_is_bounded() -> None:
    desk = Desk(ListSink())
    shape = Place("/a")
    for number in range(1, 3 * MAX_WAITING):
        desk.note(shape)
        assert number - desk.writer.counters.records < MAX_WAITING
    desk.writer.flush()
    before = desk.writer.counters.records
    for number in range(1, 3 * MAX_FRESH):
        desk.note(shape, place=Place())
        assert before + number - desk.writer.counters.records < MAX_FRESH


@pytest.mark.parametrize("length", [1, 300, 700, 2000])
def test_the_sink_gets_batches_and_not_more(length: int) -> None:
    sizes = []

    class Sizes(ListSink):
        def write(self, lines: list[bytes]) -> int:  # type: ignore[override]
            sizes.append(sum(map(len, lines)))
            return super().write(lines)

    sink = Sizes()
    desk = Desk(sink, buffer_bytes=10_000_000)
    shape = Place("/" + "x" * length)
    desk.note(shape)
    desk.writer.flush()
    sizes.clear()  # the first of a connection wait less
    for _ in range(1000):
        desk.note(shape)
    desk.writer.close()
    assert min(sizes[:-1]) > BATCH_BYTES // 3
    assert max(sizes) < BATCH_BYTES + max(map(len, sink.lines))


@pytest.mark.parametrize("buffer_bytes", [900, 20_000, 60_000])
@pytest.mark.parametrize("noted", [False, True])
def test_a_full_buffer_loses_the_same_whoever_writes(noted: bool, buffer_bytes: int) -> None:
    """Every record is flushed or lost as if they had been written one by one."""

    def run(noted: bool) -> tuple[list[bytes], int, list[bytes]]:
        sink, good = ListSink(room=0), ListSink()
        desk = Desk(sink, good, buffer_bytes=buffer_bytes)
        shape = Place("/public")
        for round_ in range(4):
            for number in range(90):
                if noted and number % 7:
                    desk.note(shape, CLOCK + number)
                else:
                    desk.writer.write(request_facts(time_ns=CLOCK + number))
                if number % 30 == 0:
                    desk.writer.flush()
            sink.room += 50 * (round_ % 2)
        sink.room = 10_000
        assert desk.writer.flush()
        uuid = desk.writer.builder.uuid.encode()
        return [line.replace(uuid, b"") for line in sink.lines], desk.writer.counters.lost, good.lines

    lines, lost, good = run(noted)
    one_by_one = run(noted=False)
    assert numbers(parsed(lines)) == list(range(1, 361))
    assert lost > 0
    assert (lines, lost, len(good)) == (one_by_one[0], one_by_one[1], len(one_by_one[2]))


def test_a_sink_that_fails_is_told_of_in_the_lost_records() -> None:
    sink = ListSink()
    desk = Desk(sink)
    shape = Place("/a")
    sink.error = OSError(errno.ENOSPC, "no space left on device")
    desk.writer.write(request_facts())
    assert not desk.writer.flush()
    for _ in range(200):
        desk.note(shape)
    assert not desk.writer.flush()
    sink.error = None
    assert desk.writer.flush()
    records = parsed(sink.lines)
    assert numbers(records) == list(range(1, 202))
    assert [tulle(record)["lost_cause"] for record in records if "lost_events" in record] == ["ENOSPC"]
    assert desk.writer.counters.lost == 201 - sum("flow" in record for record in records)


def test_a_noted_record_that_is_too_long_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = ListSink()
    desk = Desk(sink)
    long, short = Place("/" + "x" * 500), Place("/a")
    monkeypatch.setattr("audit.schema.MAX_LINE", 1500)
    for shape in (short, long, long, short, long):
        desk.note(shape)
    assert desk.writer.close() == 0
    records = parsed(sink.lines)
    assert numbers(records) == [1, 2, 3, 4, 5]
    assert [tulle(record).get("lost_cause") for record in records] == [None, "line too long", None, "line too long"]


def test_a_batch_stands_behind_the_loss_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = ListSink()
    desk = Desk(sink, buffer_bytes=10_000_000)
    shape = Place("/a")
    desk.note(shape)
    desk.writer.flush()
    monkeypatch.setattr("audit.schema.MAX_LINE", 100)
    desk.writer.write(request_facts())
    monkeypatch.undo()
    for _ in range(MAX_WAITING):
        desk.note(shape)
    assert desk.writer.close() == 0
    assert numbers(parsed(sink.lines)) == list(range(1, 3 + MAX_WAITING))
    assert ["lost_events" in record for record in parsed(sink.lines)[:3]] == [False, True, False]


def test_a_record_that_cannot_be_made_is_lost_and_hurts_no_other(caplog: pytest.LogCaptureFixture) -> None:
    sink = ListSink()
    desk = Desk(sink)
    shape = Place("/a")
    desk.note(shape)
    desk.note(shape, place=Place("broken"))
    desk.note(shape)
    desk.writer.write(request_facts())
    assert desk.writer.flush()
    records = parsed(sink.lines)
    assert numbers(records) == [1, 2, 3, 4]
    assert [tulle(record).get("lost_cause") for record in records] == [None, "internal error", None, None]
    assert (desk.writer.counters.records, desk.writer.counters.lost) == (4, 1)
    assert "a record cannot be made" in caplog.text


def test_a_record_that_teaches_nothing_is_one_lost_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for it and another for its loss would put every number behind it out of step."""

    def fails(*_: object) -> None:
        raise ValueError("no record of a request")

    sink = ListSink()
    desk = Desk(sink)
    desk.note(Place("/a"))
    desk.writer.flush()
    with monkeypatch.context() as patch:
        patch.setattr(Common, "learn", fails)
        desk.note(Place("/b"))
        desk.writer.flush()
    desk.note(Place("/c"))
    desk.writer.close()
    assert numbers(parsed([line for line in sink.lines if b"lost_events" not in line])) == [1, 3]
    assert (desk.writer.counters.records, desk.writer.counters.lost) == (3, 1)


def test_labels_that_were_cut_are_said_in_every_noted_record() -> None:
    sink = ListSink()
    desk = Desk(sink, buffer_bytes=100_000)
    many = Side("10.244.1.9", 80, 257, "default", "web", {f"key{number}": "v" * 200 for number in range(100)})
    cut = Place(audit=Connection(INGRESS, FRONTEND, many))
    plain, long = Place("/a"), Place("/" + "x" * 3000)
    for shape in (plain, plain, long, long):
        for place in (desk.place, cut):
            desk.note(shape, place=place)
    desk.writer.flush()
    labels = "destination.labels"
    said: list[object] = [tulle(record).get("truncated", []) for record in parsed(sink.lines)]
    assert said == [[], [labels], [], [labels], ["url"], [labels, "url"], ["url"], [labels, "url"]]
    assert desk.writer.counters.truncated == 6


def test_the_loop_writes_one_note_that_stays_alone() -> None:
    async def scenario() -> None:
        sink = ListSink()
        desk = Desk(sink)
        desk.note(Place("/before"))
        desk.writer.attach(asyncio.get_running_loop())
        for expected in (1, 2):
            await until(lambda: len(sink.lines) >= expected)  # noqa: B023  called at once
            assert len(sink.lines) == expected
            desk.note(Place("/after"))
        assert desk.writer.close() == 0
        assert numbers(parsed(sink.lines)) == [1, 2, 3]

    asyncio.run(asyncio.wait_for(scenario(), 60))
