"""The Kafka layer: frames, order, records, ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.kafka.table import TABLE
from policies.ruleset import KafkaRule
from proxy.counters import new_counters
from proxy.events import LegFailure, Timer
from proxy.kafka.apis import judge, refuse
from proxy.kafka.shared import Shared
from proxy.layers.opaque import OpaqueLayer
from proxy.limits import Limits
from tests.proxy.dialogue import PORT
from tests.proxy.helpers import rules
from tests.proxy.kafka_talk import (
    API_VERSIONS,
    HEARTBEAT,
    METADATA,
    PRODUCE,
    TOPIC_DENIED,
    Talk,
    answer,
    described,
    ids_of,
    kafka_rules,
    metadata,
    produce,
    produced,
    request,
)

SASL_HANDSHAKE, SASL_AUTHENTICATE = 17, 36


def codes(talk: Talk, index: int = -1) -> list[tuple[str, int]]:
    """(topic, error) of a Produce answer."""
    body = talk.got(PRODUCE, 9, index).body
    return [(topic["Name"], topic["PartitionResponses"][0]["ErrorCode"]) for topic in body["Responses"]]


def test_what_is_allowed_goes_on_as_it_came() -> None:
    talk = Talk("orders")
    asked, told = produce(7, "orders"), produced(7, "orders")
    talk.client(asked)
    assert bytes(talk.edge.legs[0]) == asked
    assert talk.records() == []
    talk.broker(told)
    assert bytes(talk.edge.down) == told
    assert talk.records() == ["FORWARDED Produce Write orders 0 by r-orders"]
    event = talk.events[0]
    assert event.latency_ns is not None
    assert event.latency_ns > 0
    kafka = event.kafka
    assert kafka is not None
    assert (kafka.api_key, kafka.api_version, kafka.client_id, kafka.correlation_id) == (0, 9, "test", 7)
    assert (kafka.topic, kafka.resource, kafka.name) == ("orders", "Topic", "orders")


def test_what_is_denied_is_answered_and_goes_nowhere() -> None:
    talk = Talk("orders")
    talk.client(produce(7, "secrets"))
    assert talk.edge.legs == []
    assert codes(talk) == [("secrets", TOPIC_DENIED)]
    assert talk.records() == ["DROPPED Produce Write secrets 29 by default-deny"]
    assert talk.counters["denied"] == 1


def test_part_of_a_request_goes_on_and_the_answer_has_the_original_order() -> None:
    talk = Talk("orders", "invoices")
    talk.client(produce(7, "orders", "secrets", "invoices"))
    assert [topic["Name"] for topic in talk.sent()[0].body["TopicData"]] == ["orders", "invoices"]
    talk.broker(produced(7, "orders", "invoices", error=3))
    assert codes(talk) == [("orders", 3), ("secrets", 29), ("invoices", 3)]
    assert talk.records() == [
        "DROPPED Produce Write secrets 29 by default-deny",
        "FORWARDED Produce Write orders 3 by r-orders",
        "FORWARDED Produce Write invoices 3 by r-invoices",
    ]


def test_our_answers_wait_for_earlier_ones() -> None:
    talk = Talk("orders")
    talk.client(produce(1, "orders") + produce(2, "secrets") + produce(3, "orders") + produce(4, "secrets"))
    assert talk.correlations() == []
    talk.broker(produced(1, "orders"))
    assert talk.correlations() == [1, 2]
    talk.broker(produced(3, "orders"))
    assert talk.correlations() == [1, 2, 3, 4]


def test_acks_0_has_no_answer() -> None:
    talk = Talk("orders")
    talk.client(produce(1, "orders", acks=0), produce(2, "orders"))
    talk.broker(produced(2, "orders"))
    assert talk.correlations() == [2]
    assert talk.records() == [
        "FORWARDED Produce Write orders - by r-orders",
        "FORWARDED Produce Write orders 0 by r-orders",
    ]


def test_acks_0_that_is_denied_ends_the_connection_behind_earlier_answers() -> None:
    talk = Talk("orders")
    talk.client(produce(1, "orders"), produce(2, "secrets", acks=0), produce(3, "orders"))
    assert talk.over == ""
    assert len(talk.up) == 1
    talk.broker(produced(1, "orders"))
    assert talk.correlations() == [1]
    assert talk.over == "finish, linger"


def test_acks_0_that_is_denied_in_part_goes_on_in_part_before_the_end() -> None:
    talk = Talk("orders")
    talk.client(produce(2, "secrets", "orders", acks=0))
    assert [topic["Name"] for topic in talk.sent()[0].body["TopicData"]] == ["orders"]
    assert "end upstream" in talk.edge.said
    assert talk.over == ""  # what went on is not thrown away
    talk.now.upstream_eof()
    assert talk.over == "finish, linger"
    assert talk.correlations() == []


def test_a_broker_that_does_not_end_is_not_waited_for() -> None:
    talk = Talk("orders")
    talk.client(produce(2, "secrets", "orders", acks=0))
    talk.now.expired(Timer.IDLE)
    assert talk.over == "finish, linger"


@pytest.mark.parametrize("opens", [False, True])
def test_requests_wait_for_the_leg(opens: bool) -> None:
    talk = Talk("orders", opens=opens)
    talk.client(produce(1, "orders") + produce(2, "orders"))
    if not opens:
        assert talk.edge.paused
        assert talk.up == []
        talk.now.upstream_open()
    assert not talk.edge.paused
    assert [each.correlation_id for each in talk.sent()] == [1, 2]


def test_a_leg_that_fails_is_a_reset_and_a_record() -> None:
    talk = Talk("orders", opens=False)
    talk.client(produce(1, "orders"))
    talk.now.upstream_failed(LegFailure.REFUSED)
    assert talk.over == "reset"
    assert talk.events[0].verdict == "ERROR"
    assert talk.events[0].reason == "upstream_refused"


def test_pipelining_is_bounded() -> None:
    talk = Talk("orders", limits=Limits(kafka_pending=2))
    talk.client(b"".join(produce(i, "orders") for i in range(5)))
    assert len(talk.up) == 2
    assert talk.edge.paused
    talk.broker(produced(0, "orders"))
    assert len(talk.up) == 3
    talk.broker(produced(1, "orders"), produced(2, "orders"))
    assert len(talk.up) == 5
    assert talk.edge.paused
    talk.broker(produced(3, "orders"))
    assert not talk.edge.paused
    talk.broker(produced(4, "orders"))
    assert talk.correlations() == [0, 1, 2, 3, 4]


def test_a_client_that_does_not_read_makes_no_more_answers() -> None:
    talk = Talk()
    talk.edge.full = True
    talk.client(produce(1, "secrets"))
    assert talk.down == []
    assert talk.edge.paused
    talk.edge.full = False
    talk.now.downstream_drained()
    assert talk.correlations() == [1]
    assert not talk.edge.paused


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (produced(2, "orders"), "wrong_correlation_id"),
        (b"\0\0\0\2\0\0\0\1", "bad_length"),
        (b"\xff\xff\xff\xff\0\0\0\1", "bad_length"),
    ],
)
def test_a_broker_that_answers_something_else_ends_both(sent: bytes, why: str) -> None:
    talk = Talk("orders")
    talk.client(produce(1, "orders"))
    talk.broker(sent)
    assert talk.over == "finish, linger"
    assert talk.down == []
    assert [(event.verdict, event.reason) for event in talk.events] == [("ERROR", why)]


def test_what_answers_nothing_ends_both() -> None:
    talk = Talk("orders")
    talk.client(produce(1, "orders"))
    talk.broker(produced(1, "orders") + b"\0")
    assert talk.over == "finish, linger"
    assert talk.counters["upstream_unsolicited"] == 1
    assert talk.records()[-1] == "ERROR upstream_unsolicited"
    assert talk.correlations() == [1]


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\n", b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\7\0\0\0\0\0\0\0", b"SSH-2.0-x\r\n"]
)
def test_what_is_not_kafka_is_refused(start: bytes) -> None:
    talk = Talk("orders")
    talk.client(start)
    assert talk.over == "finish, linger"
    assert talk.records() == ["DROPPED not_kafka"]
    assert talk.edge.legs == []


def test_tls_is_refused() -> None:
    talk = Talk("orders")
    talk.client(b"\x16")
    assert talk.over == "finish, linger"
    assert talk.records() == ["DROPPED tls_opaque"]
    assert talk.counters["kafka_tls"] == 1


@pytest.mark.parametrize("sent", [b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f"])
def test_in_mode_audit_what_is_not_kafka_passes(sent: bytes) -> None:
    talk = Talk("orders", audit=True)
    talk.client(sent)
    assert isinstance(talk.now, OpaqueLayer)
    assert bytes(talk.edge.legs[0]) == sent
    assert talk.events[0].verdict == "AUDIT"


def test_in_mode_audit_a_denial_is_recorded_and_passes() -> None:
    talk = Talk("orders", audit=True)
    asked = produce(1, "secrets")
    talk.client(asked)
    assert bytes(talk.edge.legs[0]) == asked
    talk.broker(produced(1, "secrets"))
    assert talk.records() == ["AUDIT Produce Write secrets 0 by default-deny"]


def test_in_mode_audit_a_frame_that_cannot_be_read_passes() -> None:
    talk = Talk("orders", audit=True)
    odd = b"\0\0\0\x0c\x7f\0\0\0\0\0\0\x05\0\0\0\0"
    talk.client(produce(1, "orders"), odd)
    assert bytes(talk.edge.legs[0]).endswith(odd)
    talk.broker(produced(1, "orders"), b"\0\0\0\x05\0\0\0\x05!")
    assert talk.correlations() == [1, 5]
    assert "AUDIT" in [event.verdict for event in talk.events]
    assert talk.over == ""


def test_in_mode_audit_an_unreadable_request_without_an_answer_is_not_waited_for() -> None:
    talk = Talk("orders", audit=True)
    frame = produce(2, "orders", acks=0)[4:-2]
    talk.client(produce(1, "orders"), len(frame).to_bytes(4) + frame, produce(3, "orders"))
    talk.broker(produced(1, "orders"), produced(3, "orders"))
    assert talk.correlations() == [1, 3]
    assert talk.over == ""


def test_in_mode_audit_a_server_that_speaks_first_is_not_waited_for() -> None:
    talk = Talk("orders", audit=True)
    talk.now.expired(Timer.IDLE)
    assert isinstance(talk.now, OpaqueLayer)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"\x7f\0\0\0\0\0\0\5\xff\xff", "unknown_api"),
        (b"\0\0\x7f\0\0\0\0\5\xff\xff", "unknown_version"),
        (produce(5, "orders")[4:-3], "truncated"),
    ],
)
def test_a_frame_that_cannot_be_read_ends_the_connection_behind_earlier_answers(frame: bytes, why: str) -> None:
    talk = Talk("orders")
    talk.client(produce(1, "orders"), len(frame).to_bytes(4) + frame + produce(6, "orders"))
    assert len(talk.up) == 1
    assert talk.over == ""
    assert talk.events[0].reason == why
    assert talk.events[0].verdict == "DROPPED"
    kafka = talk.events[0].kafka
    assert kafka is not None
    assert kafka.correlation_id == 5
    talk.broker(produced(1, "orders"))
    assert talk.correlations() == [1]
    assert talk.over == "finish, linger"


def test_an_unknown_tag_is_refused_in_the_shape_of_the_api() -> None:
    talk = Talk("orders")
    frame = produce(5, "orders")[4:-1] + b"\1\x09\1x"
    talk.client(len(frame).to_bytes(4) + frame, produce(6, "orders"))
    assert codes(talk) == [("orders", 35)]
    assert [each.correlation_id for each in talk.sent()] == [6]
    assert talk.records() == ["DROPPED Produce unknown_tag 35 by tulle:protocol"]


def test_a_body_that_cannot_be_read_is_refused_where_the_answer_begins_with_an_error() -> None:
    talk = Talk("orders")
    frame = request(HEARTBEAT, 4, 9, {"GroupId": "g", "GenerationId": 1, "MemberId": "m"})[4:-3]
    talk.client(len(frame).to_bytes(4) + frame)
    assert talk.got(HEARTBEAT, 4).body["ErrorCode"] == 35
    assert talk.edge.legs == []
    assert talk.over == ""


def test_an_unknown_version_of_api_versions_is_told_ours() -> None:
    talk = Talk("orders")
    frame = b"\0\x12\0\x7f\0\0\0\5\xff\xff"
    talk.client(len(frame).to_bytes(4) + frame)
    body = talk.got(API_VERSIONS, 0).body
    assert body["ErrorCode"] == 35
    assert body["ApiKeys"] == [{"ApiKey": 18, "MinVersion": 0, "MaxVersion": 4}]
    assert talk.over == ""
    talk.client(request(API_VERSIONS, 3, 6, {"ClientSoftwareName": "x", "ClientSoftwareVersion": "1"}))
    assert len(talk.up) == 1


def test_a_broker_that_knows_no_such_version_answers_in_version_0() -> None:
    talk = Talk("orders")
    talk.client(request(API_VERSIONS, 4, 6, {"ClientSoftwareName": "x", "ClientSoftwareVersion": "1"}))
    told = answer(API_VERSIONS, 0, 6, {"ErrorCode": 35, "ApiKeys": [{"ApiKey": 18, "MinVersion": 0, "MaxVersion": 3}]})
    talk.broker(told)
    assert bytes(talk.edge.down) == told


def test_frames_above_their_size_are_refused() -> None:
    talk = Talk("orders", limits=Limits(kafka_request_bytes=1000, kafka_produce_bytes=2000))
    talk.client(produce(1, "orders"), (1001).to_bytes(4) + METADATA.to_bytes(2) + b"\0\0\0\0\0\x05")
    talk.broker(produced(1, "orders"))
    assert talk.over == "finish, linger"
    assert talk.counters["limit_kafka_frame"] == 1
    assert talk.records()[0] == "DROPPED Metadata limit_kafka_frame - by tulle:limit"


def test_a_frame_that_takes_too_long_is_refused() -> None:
    talk = Talk("orders", limits=Limits(kafka_frame_s=0))
    talk.client(produce(1, "orders")[:10])
    assert talk.edge.timer is Timer.HEAD
    talk.now.expired(Timer.HEAD)
    assert talk.over == "finish, linger"
    assert talk.records() == ["DROPPED limit_kafka_frame"]


def test_a_frame_that_we_do_not_read_does_not_take_too_long() -> None:
    talk = Talk("orders", limits=Limits(kafka_frame_s=0, kafka_pending=1, record_s=0))
    talk.client(produce(1, "orders")[:10])
    talk.client(produce(1, "orders")[10:] + produce(2, "orders")[:10])
    talk.now.expired(Timer.RECORD)
    assert talk.over == ""


def test_unfinished_frames_of_all_flows_together_are_bounded() -> None:
    limits = Limits(kafka_held_bytes=150_000)
    first = Talk("orders", limits=limits)
    others = [Talk("orders", limits=limits, shared=first.shared) for _ in range(2)]
    part = request(METADATA, 12, 1, {"Topics": [{"Name": "x" * 30_000} for _ in range(5)]})[:140_000]
    small = Talk("orders", limits=limits, shared=first.shared)
    for talk in (first, *others):
        talk.client(part)
    small.client(part[:1000])
    assert [talk.over for talk in (first, *others, small)] == ["", "", "finish, linger", ""]
    assert others[1].records() == ["DROPPED limit_kafka_held"]
    for talk in (first, *others):
        talk.now.closed()
    assert first.shared.held == 0


def test_a_record_that_waited_long_enough_goes_out_and_the_answer_has_one_of_its_own() -> None:
    talk = Talk("orders", limits=Limits(record_s=0))
    talk.client(produce(1, "orders"))
    assert "timer record" in talk.edge.said
    talk.now.expired(Timer.RECORD)
    assert talk.edge.said[-1] == "timer idle"
    talk.broker(produced(1, "orders", error=6))
    assert talk.records() == [
        "FORWARDED Produce Write orders - by r-orders",
        "FORWARDED Produce Write orders 6 by r-orders reply",
    ]
    assert talk.events[0].latency_ns is None
    assert talk.events[1].latency_ns is not None


def test_new_rules_are_met_by_the_next_request() -> None:
    talk = Talk("orders")
    talk.client(produce(1, "orders"))
    talk.swap("invoices")
    talk.broker(produced(1, "orders"))
    talk.client(produce(2, "orders"))
    assert codes(talk) == [("orders", 29)]
    assert [event.revision for event in talk.events] == [1, 2]


def test_an_answer_is_narrowed_by_the_rules_of_its_moment() -> None:
    talk = Talk("orders", "invoices")
    talk.client(metadata(1))
    talk.swap("invoices")
    talk.broker(described(1, "orders", "invoices", "secrets"))
    assert [topic["Name"] for topic in talk.got(METADATA, 12).body["Topics"]] == ["invoices"]
    assert talk.counters["kafka_hidden"] == 2


def test_an_answer_too_large_to_be_narrowed_ends_the_connection() -> None:
    talk = Talk("orders", limits=Limits(kafka_answer_bytes=1000))
    talk.client(metadata(1))
    told = described(1, *(f"topic-{i}" for i in range(100)))
    talk.broker(told[:2000])
    assert talk.over == "finish, linger"
    assert talk.down == []
    assert talk.counters["limit_kafka_answer"] == 1
    assert talk.events[-1].verdict == "ERROR"


def test_a_narrowed_answer_that_cannot_be_read_ends_the_connection() -> None:
    talk = Talk("orders")
    talk.client(metadata(1))
    told = described(1, "secrets")[4:-2]
    talk.broker(len(told).to_bytes(4) + told)
    assert talk.over == "finish, linger"
    assert talk.down == []


def test_half_close_is_passed_on_once_all_requests_went_on() -> None:
    talk = Talk("orders", opens=False)
    talk.client(produce(1, "orders"))
    talk.now.downstream_eof()
    assert "end upstream" not in talk.edge.said
    talk.now.upstream_open()
    assert talk.edge.said[-1] == "end upstream"
    talk.broker(produced(1, "orders"))
    talk.now.upstream_eof()
    assert talk.over == "finish"
    assert talk.correlations() == [1]


def test_a_client_that_never_asked_and_ends() -> None:
    talk = Talk("orders")
    talk.now.downstream_eof()
    assert talk.over == "finish"


def test_a_client_that_is_lost_takes_the_leg_with_it() -> None:
    talk = Talk("orders")
    talk.client(produce(1, "orders"))
    talk.now.downstream_lost()
    assert talk.over == "reset"
    assert talk.events[0].reason == "client_aborted"


@pytest.mark.parametrize("lost", [False, True])
def test_a_broker_that_ends_is_an_end(lost: bool) -> None:
    talk = Talk("orders")
    talk.client(produce(1, "orders") + produce(2, "secrets"))
    if lost:
        talk.now.upstream_lost()
    else:
        talk.now.upstream_eof()
    assert talk.over == "finish, linger"
    assert talk.events[-1].reason == ("upstream_reset" if lost else "upstream_closed")


def test_an_idle_connection_ends() -> None:
    talk = Talk("orders")
    talk.now.expired(Timer.IDLE)
    assert talk.over == "finish"
    assert talk.records() == ["DROPPED limit_idle"]


def test_draining_ends_behind_the_next_answer() -> None:
    talk = Talk("orders")
    talk.now.drain()
    assert talk.over == ""
    talk.client(produce(1, "orders") + produce(2, "orders"))
    talk.broker(produced(1, "orders"))
    assert talk.over == ""
    talk.broker(produced(2, "orders"))
    assert talk.over == "finish"


def test_an_api_that_names_nothing_has_one_record() -> None:
    talk = Talk("orders")
    beat = {"GroupId": "billing", "GenerationId": 1, "MemberId": "m"}
    talk.client(request(HEARTBEAT, 4, 9, beat))
    talk.broker(answer(HEARTBEAT, 4, 9, {"ErrorCode": 27}))
    kafka = talk.events[0].kafka
    assert kafka is not None
    assert (kafka.api, kafka.group, kafka.error_code) == ("Heartbeat", "billing", 27)
    assert len(talk.events) == 1


def test_a_large_answer_streams() -> None:
    talk = Talk("orders")
    talk.client(request(HEARTBEAT, 3, 9, {"GroupId": "g", "GenerationId": 1, "MemberId": "m"}), produce(10, "secrets"))
    talk.broker(b"\0\x10\0\0\0\0\0\x09" + b"x" * 1000)
    assert len(talk.edge.down) == 1008
    left = 4 + 0x100000 - 1008
    assert talk.now.passing_down == left
    talk.now.passed_down(left - 5)
    assert len(talk.edge.down) == 1008
    talk.broker(b"x" * 5)
    assert talk.now.passing_down == 0
    assert talk.edge.down.endswith(produce_denied(10))


def produce_denied(correlation_id: int) -> bytes:
    """The end of a stream: our own answer behind the broker's."""
    talk = Talk()
    talk.client(produce(correlation_id, "secrets"))
    return bytes(talk.edge.down)


BITS = [
    produce(1, "orders"),
    produce(1, "secrets"),
    produce(1, "orders", "secrets"),
    produce(1, "orders", acks=0),
    produce(1, "secrets", acks=0),
    produce(1, "orders", "secrets", records=b"r" * 3000),
    metadata(1),
    metadata(1)[:9],
    b"\0\0\0\x0a",
    b"\x16",
    b"\0",
    b"\xff\xff\xff\xff",
    b"x" * 70,
]
ANSWERS = [
    produced(1, "orders"),
    produced(1, "orders")[:11],
    produced(2, "orders"),
    described(1, "orders", "secrets"),
    b"\0\0\0\x04\0\0\0\x01",
    b"\0",
    b"y" * 50,
]
ENDS = ["downstream_eof", "downstream_lost", "upstream_eof", "upstream_lost", "drain", "rules_changed", "swap"]


@given(st.data())
def test_whatever_both_sides_send(data: st.DataObject) -> None:
    """No exception leaves the layer, a flow that is over says nothing more, nothing goes up before a leg stands, and
    what is kept is counted back."""
    limits = Limits(kafka_hold_bytes=500, kafka_pending=3, record_s=0, kafka_frame_s=0)
    talk = Talk("orders", limits=limits, audit=data.draw(st.booleans()), opens=data.draw(st.booleans()))
    for _ in range(data.draw(st.integers(1, 12))):
        what = data.draw(st.sampled_from(["client", "client", "client", "broker", "broker", "time", "open", "end"]))
        legs = bool(talk.edge.legs) and (talk.edge.opens or stood(talk))
        if what == "client":
            talk.client(data.draw(st.sampled_from(BITS)))
        elif what == "broker" and legs and "close upstream" not in talk.edge.said:
            talk.broker(data.draw(st.sampled_from(ANSWERS)))
        elif what == "time":
            talk.now.expired(talk.edge.timer)
        elif what == "open" and talk.edge.legs and not legs:
            talk.edge.said.append("stood")
            talk.now.upstream_open()
        elif what == "end":
            end = data.draw(st.sampled_from(ENDS))
            if end == "swap":
                talk.box.swap(kafka_rules("invoices", revision=talk.box.revision + 1))
                talk.now.rules_changed()
            elif legs or not end.startswith("upstream"):
                getattr(talk.now, end)()
        if talk.over:
            break
    before = len(talk.edge.said), len(talk.edge.down)
    if talk.over:
        assert talk.now.passing_down == talk.now.passing_up == 0 or talk.now.opaque
        assert (len(talk.edge.said), len(talk.edge.down)) == before
    talk.now.closed()
    assert talk.shared.held == 0
    if not talk.now.opaque and not talk.edge.opens and not stood(talk):
        assert all(not leg for leg in talk.edge.legs)


def stood(talk: Talk) -> bool:
    """Whether the leg that was asked for stands."""
    return "stood" in talk.edge.said


@pytest.mark.parametrize("key", sorted(TABLE.apis))
def test_no_api_is_refused_in_a_shape_that_cannot_be_written(key: int) -> None:
    """A header without a body, and one behind which a byte is missing; in every version."""
    versions = TABLE.apis[key].request
    for version in range(versions.versions[0], versions.versions[1] + 1) if versions is not None else (0,):
        for body in (b"", b"\xff"):
            talk = Talk("orders")
            frame = key.to_bytes(2) + version.to_bytes(2) + b"\0\0\0\5\xff\xff\0" + body
            talk.client(len(frame).to_bytes(4) + frame)
            assert talk.over or talk.correlations() == [5] or talk.up == [frame]


def test_tls_passes_where_any_request_would_until_that_changes() -> None:
    talk = Talk()
    everything = rules(port=PORT, revision=2, kafka=(KafkaRule("r-all"),))
    talk.box.swap(everything)
    hello = b"\x16\x03\x01\x02\x00\x01"
    talk.client(hello)
    assert isinstance(talk.now, OpaqueLayer)
    assert bytes(talk.edge.legs[0]) == hello
    assert talk.records() == ["FORWARDED tls_opaque"]
    assert talk.events[0].rule == "r-all"
    talk.box.swap(rules(port=PORT, revision=3, kafka=(KafkaRule("r-all"), KafkaRule("r-other", topic="x"))))
    talk.now.rules_changed()
    assert talk.over == ""
    talk.swap("orders")
    talk.now.rules_changed()
    assert talk.over == "reset"
    assert talk.records()[-1] == "DROPPED opaque_no_longer_allowed"
    assert talk.counters["opaque_closed"] == 1


def test_tls_does_not_pass_where_something_is_denied() -> None:
    talk = Talk()
    kafka = (KafkaRule("r-all"), KafkaRule("r-not", topic="secrets", deny=True))
    talk.box.swap(rules(port=PORT, revision=2, kafka=kafka))
    talk.client(b"\x16\x03\x01")
    assert talk.over == "finish, linger"
    assert talk.edge.legs == []


def test_a_record_tells_the_error_of_its_own_resource() -> None:
    shared = Shared(new_counters(), judge, refuse)
    talk = Talk("orders", shared=shared)
    asked = [{"ResourceType": 2, "ResourceName": "orders"}, {"ResourceType": 4, "ResourceName": "0"}]
    talk.client(request(32, 4, 7, {"Resources": asked}))
    assert [each["ResourceName"] for each in talk.sent()[0].body["Resources"]] == ["orders"]
    talk.broker(answer(32, 4, 7, {"Results": [{**asked[0], "ErrorMessage": None, "Configs": []}]}))
    assert [each["ErrorCode"] for each in talk.got(32, 4).body["Results"]] == [0, 31]
    assert talk.records() == [
        "DROPPED DescribeConfigs DescribeConfigs 31 by default-deny",
        "FORWARDED DescribeConfigs DescribeConfigs orders 0 by r-orders",
    ]


def test_a_record_tells_the_error_of_its_own_group() -> None:
    talk = Talk(shared=Shared(new_counters(), judge, refuse))
    talk.box.swap(rules(port=PORT, revision=2, kafka=(KafkaRule("mine", topic="orders", group="mine"),)))
    talk.client(request(15, 5, 7, {"Groups": ["other", "mine"]}))
    talk.broker(answer(15, 5, 7, {"Groups": [{"GroupId": "mine", "ProtocolType": "consumer", "Members": []}]}))
    assert [each["ErrorCode"] for each in talk.got(15, 5).body["Groups"]] == [30, 0]
    assert talk.records() == [
        "DROPPED DescribeGroups Describe other 30 by default-deny",
        "FORWARDED DescribeGroups Describe mine 0 by mine",
    ]


def test_a_record_tells_the_error_of_a_partition_of_a_transaction() -> None:
    talk = Talk("orders", shared=Shared(new_counters(), judge, refuse))
    named = [{"Name": "orders", "Partitions": [0]}]
    talk.client(
        request(
            24,
            3,
            7,
            {
                "V3AndBelowTransactionalId": "tx",
                "V3AndBelowProducerId": 1,
                "V3AndBelowProducerEpoch": 0,
                "V3AndBelowTopics": named,
            },
        )
    )
    told = [{"Name": "orders", "ResultsByPartition": [{"PartitionIndex": 0, "PartitionErrorCode": 48}]}]
    talk.broker(answer(24, 3, 7, {"ResultsByTopicV3AndBelow": told}))
    assert talk.records() == ["FORWARDED AddPartitionsToTxn Write orders 48 by r-orders"]


def test_an_answer_too_large_to_learn_from_goes_on_as_it_came() -> None:
    talk = Talk("orders", shared=Shared(new_counters(), judge, refuse), limits=Limits(kafka_answer_bytes=100))
    talk.client(request(METADATA, 12, 7, {"Topics": [{"Name": "orders"}], "AllowAutoTopicCreation": False}))
    partitions = [{"PartitionIndex": index} for index in range(10)]
    topic = {"Name": "orders", "TopicId": bytes(range(16)), "Partitions": partitions}
    told = answer(METADATA, 12, 7, {"Brokers": [], "Topics": [topic]})
    assert len(told) > 100
    talk.broker(told[:50])
    assert bytes(talk.edge.down) == told[:50]
    talk.broker(told[50:])
    assert bytes(talk.edge.down) == told
    assert talk.over == ""


def test_a_login_goes_by_untouched_and_what_follows_is_judged() -> None:
    talk = Talk("orders", shared=Shared(new_counters(), judge, refuse))
    frames = [
        request(SASL_HANDSHAKE, 1, 1, {"Mechanism": "PLAIN"}),
        request(SASL_AUTHENTICATE, 2, 2, {"AuthBytes": b"\0pod\0secret"}),
    ]
    told = [
        answer(SASL_HANDSHAKE, 1, 1, {"Mechanisms": ["PLAIN"]}),
        answer(SASL_AUTHENTICATE, 2, 2, {"ErrorMessage": None, "AuthBytes": b"", "SessionLifetimeMs": 0}),
    ]
    for asked, answered in zip(frames, told, strict=True):
        talk.client(asked)
        talk.broker(answered)
    assert bytes(talk.edge.legs[0]) == b"".join(frames)
    assert bytes(talk.edge.down) == b"".join(told)
    talk.client(produce(3, "secrets"))
    assert bytes(talk.edge.legs[0]) == b"".join(frames)
    assert codes(talk) == [("secrets", TOPIC_DENIED)]
    assert talk.records() == [
        "FORWARDED SaslHandshake Nothing 0 by r-orders",
        "FORWARDED SaslAuthenticate Nothing 0 by r-orders",
        "DROPPED Produce Write secrets 29 by default-deny",
    ]


def test_only_so_many_ids_are_asked_for_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.kafka.requesting.MAX_ASKED", 2)
    talk = Talk("a", "b", "c")
    talk.client(produce(7, "a", "b", "c", version=13))
    (question,) = talk.sent()
    ids = ids_of("a", "b")
    assert [topic["TopicId"] for topic in question.body["Topics"]] == [ids["a"], ids["b"]]
    assert talk.counters["kafka_ids_unasked"] == 1
    talk.broker(described(7, "a", "b"))
    assert [topic["TopicId"] for topic in talk.sent()[-1].body["TopicData"]] == [ids["a"], ids["b"]]
    talk.broker(produced(7, "a", "b", version=13))
    told = talk.got(PRODUCE, 13).body["Responses"]
    assert [topic["PartitionResponses"][0]["ErrorCode"] for topic in told] == [0, 0, 100]
