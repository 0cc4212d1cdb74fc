"""The schema: one golden record of each kind, and what comes out is what went in."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import schema
from audit.record import (
    AUDIT,
    DROPPED,
    EGRESS,
    ERROR,
    FORWARDED,
    INGRESS,
    OTHER,
    Connection,
    FlowFacts,
    KafkaRequest,
    Request,
    Side,
    facts_from_denial,
)
from audit.writer import Writer
from tests.audit.makers import (
    CLOCK,
    CONNECTION,
    FRONTEND,
    REASON,
    RULE,
    TO_BROKER,
    WEB,
    Json,
    ListSink,
    Policy,
    kafka_facts,
    parsed,
    request_facts,
    tulle,
)


def written(facts: FlowFacts) -> Json:
    """The record of these facts as JSON."""
    sink = ListSink()
    writer = Writer("node-b/worker-0", "boot-1", sink, lambda: CLOCK)
    writer.write(facts)
    assert writer.flush()
    (record,) = parsed(sink.lines)
    return record


def flow(record: Json) -> Json:
    part = record["flow"]
    assert isinstance(part, dict)
    return part


def test_golden_request() -> None:
    record = written(request_facts("/public?a=1"))
    uuid = str(flow(record).pop("uuid"))
    assert uuid[14] == "8"
    assert uuid[-12:] == "000000000001"
    assert record == {
        "flow": {
            "time": "2026-11-23T17:00:00.123456789Z",
            "verdict": "FORWARDED",
            "IP": {"source": "10.244.0.2", "destination": "10.244.1.2", "ipVersion": "IPv4"},
            "l4": {"TCP": {"source_port": 41234, "destination_port": 80}},
            "source": {"identity": 258, "namespace": "default", "labels": ["k8s:app=frontend"], "pod_name": "frontend"},
            "destination": {
                "ID": 7,
                "identity": 257,
                "namespace": "default",
                "labels": ["k8s:app=web", "k8s:tier=front"],
                "pod_name": "web",
            },
            "Type": "L7",
            "node_name": "node-b",
            "l7": {
                "type": "REQUEST",
                "latency_ns": "812000",
                "http": {"code": 200, "method": "GET", "url": "http://web/public?a=***", "protocol": "HTTP/1.1"},
            },
            "event_type": {"type": 129},
            "traffic_direction": "INGRESS",
            "is_reply": False,
            "Summary": "HTTP/1.1 GET http://web/public?a=***",
            "ingress_allowed_by": [
                {"name": "web-l7", "namespace": "default", "revision": "3", "kind": "CiliumNetworkPolicy"}
            ],
        },
        "node_name": "node-b",
        "time": "2026-11-23T17:00:00.123456789Z",
        "tulle": {
            "schema": 1,
            "writer": "node-b/worker-0",
            "boot": "boot-1",
            "seq": 1,
            "revision": 3,
            "rule": RULE,
            "reason": REASON,
            "endpoint": "default/web",
        },
    }


def test_golden_kafka_denial() -> None:
    record = written(kafka_facts())
    flow(record).pop("uuid")
    assert record == {
        "flow": {
            "time": "2026-11-23T17:00:00.123456789Z",
            "verdict": "DROPPED",
            "IP": {"source": "10.244.0.2", "destination": "10.244.1.3", "ipVersion": "IPv4"},
            "l4": {"TCP": {"source_port": 41234, "destination_port": 9092}},
            "source": {"identity": 258, "namespace": "default", "labels": ["k8s:app=frontend"], "pod_name": "frontend"},
            "destination": {
                "ID": 9,
                "identity": 260,
                "namespace": "default",
                "labels": ["k8s:app=kafka"],
                "pod_name": "kafka",
            },
            "Type": "L7",
            "node_name": "node-b",
            "l7": {
                "type": "REQUEST",
                "latency_ns": "412000",
                "kafka": {
                    "error_code": 29,
                    "api_version": 13,
                    "api_key": "produce",
                    "correlation_id": 7,
                    "topic": "secrets",
                },
            },
            "event_type": {"type": 129},
            "traffic_direction": "INGRESS",
            "drop_reason_desc": "POLICY_DENIED",
            "is_reply": False,
            "Summary": "Kafka request produce correlation id 7 topic 'secrets'",
            "ingress_denied_by": [
                {"name": "web-l7", "namespace": "default", "revision": "3", "kind": "CiliumNetworkPolicy"}
            ],
        },
        "node_name": "node-b",
        "time": "2026-11-23T17:00:00.123456789Z",
        "tulle": {
            "schema": 1,
            "writer": "node-b/worker-0",
            "boot": "boot-1",
            "seq": 1,
            "revision": 3,
            "rule": "default-deny",
            "reason": "default deny",
            "endpoint": "default/kafka",
            "kafka": {
                "client_id": "billing-1",
                "transactional_id": "tx-1",
                "operation": "Write",
                "resource": "Topic",
                "name": "secrets",
            },
        },
    }


def kafka_record(request: KafkaRequest, *, is_reply: bool = False) -> Json:
    return written(FlowFacts(TO_BROKER, FORWARDED, "x", RULE, 3, (), request, is_reply=is_reply))


def test_what_a_kafka_request_does_not_have_is_absent() -> None:
    record = kafka_record(KafkaRequest("apiversions"))
    assert flow(record)["l7"] == {"type": "REQUEST", "kafka": {"api_key": "apiversions"}}
    assert flow(record)["Summary"] == "Kafka request apiversions correlation id 0"
    assert "kafka" not in tulle(record)
    group = KafkaRequest("joingroup", 9, 2, "", "c", "g", "", "Read", "Group", "g", 30)
    assert tulle(kafka_record(group))["kafka"] == {
        "client_id": "c",
        "group": "g",
        "operation": "Read",
        "resource": "Group",
        "name": "g",
    }


def test_a_kafka_answer_that_came_late_is_a_response() -> None:
    record = flow(kafka_record(KafkaRequest("fetch", 17, 8, "orders", error_code=1), is_reply=True))
    assert record["Summary"] == "Kafka response fetch correlation id 8 topic 'orders' return code 1"
    assert record["is_reply"] is True
    assert record["IP"] == {"source": "10.244.1.3", "destination": "10.244.0.2", "ipVersion": "IPv4"}


def test_kafka_names_are_one_printable_line_and_cut() -> None:
    evil = "secrets' return code 0\x1b[2J\u202e\n" + '"\\' + "x" * 40_000
    request = KafkaRequest("produce", 13, 7, evil, evil, evil, evil, "Write", "Topic", evil, 29)
    sink = ListSink()
    writer = Writer("node-b/worker-0", "b", sink)
    writer.write(FlowFacts(TO_BROKER, DROPPED, "default deny", RULE, 3, (), request))
    writer.flush()
    (record,) = parsed(sink.lines)
    cut: object = tulle(record)["truncated"]
    assert cut == ["topic", "client_id", "group", "transactional_id", "name"]
    assert writer.counters.truncated == 1
    asked = tulle(record)["kafka"]
    assert isinstance(asked, dict)
    for name in ("client_id", "group", "transactional_id", "name"):
        assert str(asked[name]).startswith("secrets' return code 0\\u001b[2J\\u202e\\u000a\"\\x")
        assert str(asked[name]).isprintable()
        assert len(str(asked[name])) == 256
    summary = str(flow(record)["Summary"])
    assert summary.isprintable()
    assert summary.isascii()
    assert " return code 0" not in summary
    assert len(sink.lines[0]) < schema.MAX_LINE


NAMES = ("topic", "client_id", "group", "transactional_id", "operation", "resource", "name")


@given(
    st.fixed_dictionaries(dict.fromkeys(NAMES, st.text())),
    st.integers(-(2**31), 2**31 - 1),
    st.none() | st.integers(-1, 200),
)
def test_kafka_round_trip(names: dict[str, str], correlation_id: int, error_code: int | None) -> None:
    sink = ListSink()
    writer = Writer("n/w", "b", sink, lambda: CLOCK)
    request = msgspec.structs.replace(KafkaRequest("fetch", 4, correlation_id, error_code=error_code), **names)
    writer.write(FlowFacts(TO_BROKER, FORWARDED, "x", RULE, 9, (), request, 5))
    writer.flush()
    (line,) = sink.lines
    assert len(line) < schema.MAX_LINE
    record = schema.decode(line)
    assert schema.encode(record) == line
    assert record.flow is not None
    assert record.flow.l7 is not None
    assert record.flow.l7.kafka is not None
    assert record.flow.l7.kafka.correlation_id == correlation_id
    assert record.flow.l7.kafka.error_code == (error_code or 0)


WORLD = Side("192.0.2.9", 5353, 9, reserved=("reserved:world", "reserved:world-ipv4"))


def test_udp_and_other_protocols() -> None:
    record = flow(written(facts_from_denial(INGRESS, WORLD, WEB, rule="r", revision=4, protocol=17)))
    assert (record["l4"], record["Summary"]) == ({"UDP": {"source_port": 5353, "destination_port": 80}}, "UDP")
    other = flow(written(facts_from_denial(INGRESS, WORLD, WEB, rule="r", revision=4, protocol=OTHER)))
    assert "l4" not in other
    assert other["Summary"] == "other"
    reply = FlowFacts(Connection(INGRESS, WORLD, WEB, 17), FORWARDED, "x", "r", 1, is_reply=True)
    assert flow(written(reply))["l4"] == {"UDP": {"source_port": 80, "destination_port": 5353}}


def test_peers_that_are_no_pods_have_reserved_labels() -> None:
    record = flow(written(facts_from_denial(INGRESS, WORLD, WEB, rule="r", revision=4)))
    assert record["source"] == {"identity": 9, "labels": ["reserved:world", "reserved:world-ipv4"]}
    cidr = Side("10.0.0.1", 1, 1 << 24, reserved=("cidr:10.0.0.0/8", "reserved:world"))
    record = flow(written(facts_from_denial(EGRESS, WEB, cidr, rule="r", revision=4)))
    assert record["destination"] == {"identity": 1 << 24, "labels": ["cidr:10.0.0.0/8", "reserved:world"]}


@pytest.mark.parametrize(
    ("reason", "verdict"), [("would_deny", AUDIT), ("node_probe", FORWARDED), ("fail_open", FORWARDED)]
)
def test_what_the_kernel_let_pass(reason: str, verdict: str) -> None:
    facts = facts_from_denial(INGRESS, WORLD, WEB, rule="r", revision=4, reason=reason, policies=(Policy(),))
    record = flow(written(facts))
    assert record["verdict"] == verdict
    assert record["event_type"] == {"type": 5}
    assert "drop_reason_desc" not in record
    assert ("ingress_denied_by" in record) is (verdict == AUDIT)


def test_a_deny_rule_is_not_the_absence_of_a_rule() -> None:
    record = flow(written(facts_from_denial(INGRESS, WORLD, WEB, rule="no", revision=4, explicit=True)))
    assert (record["drop_reason_desc"], record["event_type"]) == ("POLICY_DENY", {"type": 1, "sub_type": 181})


def test_golden_denial_of_a_connection() -> None:
    stranger = Side("fd00::9", 40000)
    web = Side("fd00::2", 81, 257, "default", "web", {"app": "web"})
    record = written(facts_from_denial(INGRESS, stranger, web, rule="default-deny", revision=4, suppressed=12))
    flow(record).pop("uuid")
    assert record == {
        "flow": {
            "time": "2026-11-23T17:00:00.123456789Z",
            "verdict": "DROPPED",
            "IP": {"source": "fd00::9", "destination": "fd00::2", "ipVersion": "IPv6"},
            "l4": {"TCP": {"source_port": 40000, "destination_port": 81}},
            "source": {},
            "destination": {"identity": 257, "namespace": "default", "labels": ["k8s:app=web"], "pod_name": "web"},
            "Type": "L3_L4",
            "node_name": "node-b",
            "event_type": {"type": 1, "sub_type": 133},
            "traffic_direction": "INGRESS",
            "drop_reason_desc": "POLICY_DENIED",
            "is_reply": False,
            "Summary": "TCP",
        },
        "node_name": "node-b",
        "time": "2026-11-23T17:00:00.123456789Z",
        "tulle": {
            "schema": 1,
            "writer": "node-b/worker-0",
            "boot": "boot-1",
            "seq": 1,
            "revision": 4,
            "rule": "default-deny",
            "reason": "policy denied",
            "endpoint": "default/web",
            "suppressed": 12,
        },
    }


@pytest.mark.parametrize(
    ("direction", "verdict", "field"),
    [
        (INGRESS, FORWARDED, "ingress_allowed_by"),
        (INGRESS, DROPPED, "ingress_denied_by"),
        (INGRESS, ERROR, "ingress_allowed_by"),
        (INGRESS, AUDIT, "ingress_denied_by"),
        (EGRESS, FORWARDED, "egress_allowed_by"),
        (EGRESS, DROPPED, "egress_denied_by"),
    ],
)
def test_policies_stand_under_their_outcome(direction: int, verdict: str, field: str) -> None:
    connection = Connection(direction, FRONTEND, WEB)
    record = written(FlowFacts(connection, verdict, "x", RULE, 3, (Policy(),), Request("GET", "/")))
    outcomes = {key for key in flow(record) if key.endswith("_by")}
    assert outcomes == {field}
    assert ("drop_reason_desc" in flow(record)) == (verdict == DROPPED)
    assert tulle(record)["endpoint"] == ("default/web" if direction == INGRESS else "default/frontend")


def test_reply_swaps_the_sides() -> None:
    record = written(
        FlowFacts(CONNECTION, FORWARDED, "x", RULE, 3, (), Request("GET", "/", "web", code=204), 3_500_000, True)
    )
    part = flow(record)
    assert part["IP"] == {"source": "10.244.1.2", "destination": "10.244.0.2", "ipVersion": "IPv4"}
    assert part["is_reply"] is True
    assert part["Summary"] == "HTTP/1.1 204 3ms (GET http://web/)"


def test_no_client_byte_reaches_the_line_unescaped() -> None:
    request = Request("G\x1bT\n", "/\x1b[2J\u2028?x=MARKER", "u:MARKER@we\nb", "HTTP/\x07", 400)
    sink = ListSink()
    writer = Writer("node-b/worker-0", "b", sink)
    writer.write(FlowFacts(CONNECTION, ERROR, 'bad header "MARKER"', "built-in\x1b", 3, (), request))
    writer.flush()
    (line,) = sink.lines
    assert b"MARKER" not in line
    assert b"\\u001b" not in line.replace(b"\\\\u001b", b"")  # not even as JSON escapes, which a reader would undo
    assert json.loads(line)["tulle"]["truncated"] == ["reason"]
    assert writer.counters.truncated == 1


def test_what_is_too_much_is_cut_said_and_counted() -> None:
    labels = {f"key{number}": "v" * 200 for number in range(100)}
    web = Side("10.244.1.2", 80, 257, "default", "web", labels)
    sink = ListSink()
    writer = Writer("node-b/worker-0", "b", sink)
    policies = [Policy(name=f"policy-{number}" + "\u202e" * 300) for number in range(40)]
    facts = FlowFacts(
        Connection(INGRESS, FRONTEND, web),
        DROPPED,
        "denied",
        "r" * 1000,
        3,
        policies,
        Request("X" * 100, "/" + "p" * 9999),
    )
    writer.write(facts)
    writer.flush()
    (record,) = parsed(sink.lines)
    cut: object = tulle(record)["truncated"]
    assert cut == ["destination.labels", "rule", "url", "method", "policies"]
    assert writer.counters.truncated == 1
    assert len(sink.lines[0]) < schema.MAX_LINE


@given(
    st.text(),
    st.text(),
    st.text(),
    st.text(),
    st.dictionaries(st.text(min_size=1), st.text(), max_size=5),
    st.integers(0, 599),
    st.integers(0, 2**63),
)
def test_round_trip(
    method: str, target: str, host: str, rule: str, labels: dict[str, str], code: int, latency_ns: int
) -> None:
    side = Side("10.0.0.1", 1, 300, "ns", "pod", labels)
    sink = ListSink()
    writer = Writer("n/w", "b", sink, lambda: CLOCK)
    writer.write(
        FlowFacts(
            Connection(EGRESS, side, WEB),
            FORWARDED,
            "x",
            rule,
            9,
            (),
            Request(method, target, host, code=code),
            latency_ns,
        )
    )
    writer.flush()
    (line,) = sink.lines
    record = schema.decode(line)
    assert schema.encode(record) == line
    assert record.flow is not None
    assert record.flow.l7 is not None
    assert record.flow.l7.http is not None
    assert record.flow.l7.http.code == code
    assert record.flow.l7.latency_ns == str(latency_ns)
    assert record.flow.source is not None
    assert record.flow.source.identity == 300


def test_reads_what_hubble_writes() -> None:
    line = (
        b'{"flow":{"time":"2026-01-01T00:00:00.5Z","verdict":"FORWARDED","ethernet":{"source":"a"},'
        b'"IP":{"source":"1.1.1.1","destination":"1.1.1.2","ipVersion":"IPv4"},"l4":{"UDP":{"source_port":1}},'
        b'"source":{"ID":3,"cluster_name":"x"},"Type":"L3_L4","is_reply":null},"node_name":"n","time":"2026-01-01T00:00:00.5Z"}'
    )
    record = schema.decode(line)
    assert record.flow is not None
    assert record.flow.verdict == "FORWARDED"
    assert record.tulle is None


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"flow":3}', b'{"flow":{"verdict":1}}', b"\xff"])
def test_what_is_no_record_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        schema.decode(line)
