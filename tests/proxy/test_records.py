"""A record that is noted is the record that is emitted, byte for byte."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import schema
from policies.kafka import API_KEYS
from policies.ruleset import DirectionRules, EndpointRules, Identity, PolicyRef, Reserved, RuleSet
from proxy.flow_event import AUDIT, DROPPED, ERROR, FORWARDED, RULE_PROTOCOL, ConnectionFacts, KafkaFacts, Shape
from proxy.records import Recorder
from tests.audit.makers import CLOCK, file_lines, numbers, parsed

MANY = {f"key{number}": "v" * 60 for number in range(100)}  # more than a record has room for


OPEN = DirectionRules()


def rule_set(labels: dict[str, str]) -> RuleSet:
    """Two pods of ours (7, and 8 with an odd name), a client, a block of addresses, and what the labels say of them."""
    return RuleSet(
        endpoints={
            7: EndpointRules(7, "default", "web", labels, OPEN, OPEN, 257),
            8: EndpointRules(8, "defäult", 'w"%s{}\\', MANY, OPEN, OPEN, 259),
        },
        identities={
            257: Identity("default", labels, ("default/web",)),
            258: Identity("default", labels, ("default/frontend",)),
            259: Identity("default", MANY, ("default/many",)),
            1 << 24: Identity("", {}, (), "cidr:192.0.2.0/24"),
        },
        addresses={
            "10.0.0.1": (257, "default/web"),
            "10.0.0.2": (258, "default/frontend"),
            "10.0.0.3": (259, "default/many"),
            "fd00::2": (258, "default/frontend"),
            "10.0.0.9": (Reserved.HOST, "node-a"),
        },
        prefixes={"192.0.2.0/24": 1 << 24, "0.0.0.0/0": Reserved.WORLD_IPV4, "::/0": Reserved.WORLD_IPV6},
    )


class Book:
    """A recorder with files of its own, and its lines without what is random in them."""

    def __init__(self, directory: str, name: str) -> None:
        self._path = Path(directory) / f"{name}.jsonl"
        self.recorder = Recorder(
            'no"de%s', name, {"directory": directory, "max_bytes": 10**8, "backups": 0, "stdout": False}
        )

    def lines(self) -> list[bytes]:
        """All that was written, after closing."""
        self.recorder.close()
        found = []
        for line in file_lines(self._path):
            record = schema.decode(line)
            assert schema.encode(record) == line
            assert record.flow is not None
            assert record.tulle is not None
            random = (record.flow.uuid[:-12], record.tulle.boot, self._path.stem)
            found.append(
                line.replace(random[0].encode(), b"UUID-", 1)
                .replace(f'"boot":"{random[1]}"'.encode(), b'"boot":""', 1)
                .replace(f'%s/{random[2]}"'.encode(), b'%s/writer"', 1)
            )
        return found


ADDRESSES = st.sampled_from(
    ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9", "192.0.2.77", "8.8.8.8", "fd00::2", "2001:db8::1", "fe80::1"]
)
ODD = st.text(st.characters(), max_size=30)  # surrogates too: what a decision holds of a refused head can be anything
CONNECTIONS = st.builds(
    ConnectionFacts,
    st.sampled_from([0, 7, 8]),
    st.integers(0, 1),
    st.sampled_from([0, 1, 2, 9, 257, 258, 259, 1 << 24, (1 << 24) + 1]),
    ADDRESSES,
    st.integers(0, 65535),
    ADDRESSES,
    st.integers(0, 65535),
)
NAMES = st.text(max_size=12) | st.sampled_from(["default", "web-l7"])
SHAPES = st.builds(
    Shape,
    st.sampled_from([FORWARDED, DROPPED, ERROR, AUDIT, ""]),
    st.sampled_from(["", "http rule matched", 'bad header "x"', "long " * 60]) | ODD,
    st.sampled_from(["", RULE_PROTOCOL, "default/web ingress[0]", "r" * 600]) | ODD,
    st.lists(st.builds(PolicyRef, NAMES, NAMES, NAMES), max_size=18).map(tuple),
    st.integers(0, 2**40),
    st.sampled_from(["", "GET", "P" * 40, 'G"\x00']) | ODD,
    st.sampled_from(["", "/", "/a?b=c&d", "*", '/%41"{x}%s', "http://u:p@h/x", "/" + "x" * 3000]) | ODD,
    st.sampled_from(["", "web", "web:80", "[fd00::1]:80", 'a"b\x1b']) | ODD,
    st.sampled_from(["", "HTTP/1.1", "HTTP/1.0"]) | ODD,
    st.integers(0, 599),
)
LABELS = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4)
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["note"] * 8 + ["emit", "reply", "names", "counters"]),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(-(10**9), 3 * 10**9).map(lambda delta: CLOCK + delta),
        st.none() | st.integers(0, 2**63),
    ),
    max_size=150,
)


@given(st.lists(CONNECTIONS, min_size=1, max_size=4), st.lists(SHAPES, min_size=1, max_size=4), CALLS, LABELS, LABELS)
def test_noted_or_emitted_the_records_are_the_same(
    connections: list[ConnectionFacts],
    shapes: list[Shape],
    calls: list[tuple[str, int, int, int, int | None]],
    labels: dict[str, str],
    later: dict[str, str],
) -> None:
    rules, new = rule_set(labels), rule_set(later)
    with tempfile.TemporaryDirectory() as directory:
        # The shapes are shared by two that note: what one keeps in them must not tell on the other's records.
        books = [Book(directory, name) for name in ("emitted", "noted", "noted-too")]
        ends = [[replace(facts) for facts in connections] for _ in books]
        for book in books:
            book.recorder.names(rules)
        for call, which, shape_index, time_ns, latency_ns in calls:
            shape = shapes[shape_index % len(shapes)]
            for number, book in enumerate(books):
                facts = ends[number][which % len(connections)]
                if call == "names":
                    book.recorder.names(new)
                    ends[number] = [replace(facts, audit=None) for facts in connections]
                elif call == "counters":
                    assert book.recorder.counters() == books[0].recorder.counters()
                elif call == "note" and number:
                    book.recorder.note(facts, shape, time_ns, latency_ns)
                else:
                    event = shape.event(time_ns, facts, latency_ns)
                    event.is_reply = call == "reply"
                    book.recorder.emit(event)
        counters = [book.recorder.counters() for book in books]
        emitted, noted, too = [book.lines() for book in books]
    assert counters[1] == counters[2] == counters[0]
    assert noted == emitted
    assert too == emitted
    records = parsed(emitted)
    assert numbers(records) == list(range(1, 1 + sum(call[0] in ("note", "emit", "reply") for call in calls)))


NAME = st.sampled_from(["", "orders", "secrets' x", "g" * 300, "\0", '"\\u0000'])
KAFKA = st.builds(
    KafkaFacts,
    st.sampled_from([0, 1, 2, 999]),
    st.sampled_from(["", "Produce", "Fetch", "ListOffsets", 'a"\0']),
    st.integers(-1, 20),
    NAME,
    st.sampled_from([0, 1, -5, 2**31 - 1]),
    NAME,
    NAME,
    NAME,
    st.sampled_from(["", "Write", "Read"]),
    st.sampled_from(["", "Topic", "Group"]),
    NAME,
    st.none() | st.sampled_from([0, 29, -1]),
)


@given(
    st.lists(CONNECTIONS, min_size=1, max_size=3),
    st.lists(st.tuples(SHAPES, KAFKA), min_size=1, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(-3, 2**31 - 1), st.none() | st.integers(0, 2**40)),
        max_size=60,
    ),
    st.booleans(),
)
def test_kafka_records_that_are_alike_are_as_if_written_one_by_one(
    connections: list[ConnectionFacts],
    decisions: list[tuple[Shape, KafkaFacts]],
    calls: list[tuple[int, int, int, int | None]],
    few: bool,
) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        if few:
            patch.setattr("proxy.records.MAX_ALIKE", 1)
        books = [Book(directory, name) for name in ("written", "emitted")]
        ends = [[replace(facts) for facts in connections] for _ in books]
        for book in books:
            book.recorder.names(rule_set({"app": "kafka"}))
        for which, decision, correlation_id, latency_ns in calls:
            shape, kafka = decisions[decision % len(decisions)]
            for number, book in enumerate(books):
                event = shape.event(CLOCK, ends[number][which % len(connections)], latency_ns)
                event.kafka = replace(kafka, correlation_id=correlation_id)
                event.is_reply = latency_ns == 0
                if number:
                    book.recorder.emit(event)
                else:
                    book.recorder._writer.write(book.recorder._facts(event))
        assert len(books[1].recorder._alike) <= (1 if few else len(decisions))
        counters = [book.recorder.counters() for book in books]
        written, emitted = [book.lines() for book in books]
    assert counters[0] == counters[1]
    assert emitted == written
    assert numbers(parsed(emitted)) == list(range(1, 1 + len(calls)))


def test_what_a_caller_does_with_his_facts_later_is_in_no_record() -> None:
    with tempfile.TemporaryDirectory() as directory:
        book = Book(directory, "w")
        ends = ConnectionFacts(0, 1, 0, "10.0.0.1", 1, "10.0.0.2", 9092)
        shape = Shape(FORWARDED, "x", "r", (), 1, "", "", "", "", 0)
        facts = KafkaFacts(1, "Fetch", 17, "c", 5, "orders")
        event = shape.event(CLOCK, ends, None)
        event.kafka = facts
        book.recorder.emit(event)
        facts.error_code, facts.topic, event.verdict = 29, "others", ERROR
        records = [schema.decode(line) for line in book.lines()]
    (flow,) = (record.flow for record in records)
    assert flow is not None
    assert flow.l7 is not None
    assert (flow.verdict, flow.l7.kafka) == (FORWARDED, schema.Kafka(0, 17, "fetch", 5, "orders"))


def test_a_kafka_api_is_called_as_rules_call_it() -> None:
    with tempfile.TemporaryDirectory() as directory:
        book = Book(directory, "w")
        facts = ConnectionFacts(0, 1, 0, "10.0.0.1", 1, "10.0.0.2", 9092)
        shape = Shape(FORWARDED, "x", "r", (), 1, "", "", "", "", 0)
        for api_key, api in ((0, "Produce"), (2, "ListOffsets"), (22, "InitProducerId"), (999, "")):
            event = shape.event(CLOCK, facts, None)
            event.kafka = KafkaFacts(api_key, api, 1, "c", 1)
            book.recorder.emit(event)
        records = [schema.decode(line) for line in book.lines()]
    names = [r.flow.l7.kafka.api_key for r in records if r.flow and r.flow.l7 and r.flow.l7.kafka]
    assert names == ["produce", "offsets", "initproducerid", "999"]
    assert all(name in API_KEYS for name in names[:-1])
