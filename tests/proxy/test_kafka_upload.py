"""Produce requests that are too big to wait for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.kafka.frames import begin_request
from proxy.limits import Limits
from tests.proxy.kafka_talk import (
    METADATA,
    PRODUCE,
    Talk,
    described,
    frames,
    ids_of,
    newest,
    produce,
    produced,
)

LIMITS = Limits(kafka_hold_bytes=2000)
BIG = b"r" * 5000
BY_ID = 13


def pieces(data: bytes, size: int = 700) -> list[bytes]:
    """As they come from a socket."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def codes(talk: Talk, version: int = 9) -> list[tuple[str | bytes, int]]:
    """(topic, error) of the last answer."""
    body = talk.got(PRODUCE, version).body
    return [
        (topic.get("Name") or topic["TopicId"], topic["PartitionResponses"][0]["ErrorCode"])
        for topic in body["Responses"]
    ]


@pytest.mark.parametrize("version", [3, 8, 9, 12])
@pytest.mark.parametrize("opens", [True, False])
def test_one_topic_streams_as_soon_as_it_is_known(version: int, opens: bool) -> None:
    talk = Talk("orders", limits=LIMITS, opens=opens)
    asked = produce(7, "orders", records=BIG, version=version)
    first, *rest = pieces(asked)
    talk.client(first)
    if not opens:
        talk.now.upstream_open()
    assert bytes(talk.edge.legs[0]) == first
    talk.client(*rest)
    assert bytes(talk.edge.legs[0]) == asked
    talk.client(produce(8, "orders", version=version))
    talk.broker(produced(7, "orders", version=version), produced(8, "orders", version=version))
    assert talk.correlations() == [7, 8]
    assert talk.records() == ["FORWARDED Produce Write orders 0 by r-orders"] * 2
    assert talk.counters["requests"] == 2


@pytest.mark.parametrize("version", [3, 9])
def test_one_denied_topic_is_read_to_its_end_and_answered(version: int) -> None:
    talk = Talk("orders", limits=LIMITS)
    talk.client(*pieces(produce(7, "secrets", records=BIG, version=version)), produce(8, "orders", version=version))
    assert codes(talk, version) == [("secrets", 29)]
    assert [each.correlation_id for each in talk.sent()] == [8]
    assert talk.records() == ["DROPPED Produce Write secrets 29 by default-deny"]
    assert talk.over == ""


def test_denied_without_an_answer_ends_the_connection() -> None:
    talk = Talk("orders", limits=LIMITS)
    talk.client(*pieces(produce(7, "secrets", records=BIG, acks=0)))
    assert talk.over == "finish, linger"
    assert talk.down == []
    assert talk.records() == ["DROPPED Produce Write secrets 29 by default-deny"]


def test_several_topics_are_held_and_answered_one_by_one() -> None:
    talk = Talk("orders", limits=Limits(kafka_hold_bytes=1 << 20))
    talk.client(*pieces(produce(7, "orders", "secrets", records=BIG)))
    assert [topic["Name"] for topic in talk.sent()[0].body["TopicData"]] == ["orders"]
    talk.broker(produced(7, "orders"))
    assert codes(talk) == [("orders", 0), ("secrets", 29)]
    assert talk.over == ""


def test_several_allowed_topics_stream_above_the_limit() -> None:
    talk = Talk("orders", "invoices", limits=LIMITS)
    asked = produce(7, "orders", "invoices", records=BIG)
    talk.client(*pieces(asked))
    assert bytes(talk.edge.legs[0]) == asked
    talk.broker(produced(7, "orders", "invoices"))
    assert talk.records() == [
        "FORWARDED Produce Write orders 0 by r-orders",
        "FORWARDED Produce Write invoices 0 by r-invoices",
    ]


def test_a_denial_before_anything_went_on_costs_nothing_else() -> None:
    talk = Talk("orders", limits=LIMITS)
    talk.client(*pieces(produce(7, "secrets", "orders", records=BIG)), produce(8, "orders"))
    assert codes(talk) == [("secrets", 29), ("orders", 6)]
    assert [each.correlation_id for each in talk.sent()] == [8]
    assert talk.over == ""


@pytest.mark.parametrize("version", [3, 9])
def test_a_late_denial_leaves_the_request_unfinished(version: int) -> None:
    talk = Talk("orders", limits=LIMITS)
    asked = produce(7, "orders", "secrets", records=BIG, version=version)
    talk.client(produce(6, "orders", version=version), *pieces(asked), produce(8, "orders", version=version))
    sent = bytes(talk.edge.legs[0])[len(produce(6, "orders", version=version)) :]
    assert 0 < len(sent) < len(asked)
    assert asked.startswith(sent)
    assert b"secrets" not in sent
    assert talk.down == []
    assert "close upstream" not in talk.edge.said
    talk.broker(produced(6, "orders", version=version))
    assert talk.correlations() == [6, 7]
    assert codes(talk, version) == [("orders", 6), ("secrets", 29)]
    assert talk.over == "finish, linger"
    assert talk.counters["kafka_late_denials"] == 1
    assert talk.records() == [
        "DROPPED Produce Write secrets 29 by default-deny",
        "FORWARDED Produce Write orders 0 by r-orders",
    ]


def test_a_late_denial_with_nothing_due_ends_the_leg_at_once() -> None:
    talk = Talk("orders", limits=LIMITS)
    parts = pieces(produce(7, "orders", "secrets", records=BIG))
    talk.client(*parts[:9])
    assert "close upstream" in talk.edge.said
    assert talk.over == ""
    talk.client(*parts[9:])
    assert codes(talk) == [("orders", 6), ("secrets", 29)]
    assert talk.over == "finish, linger"


def test_a_late_denial_without_an_answer_ends_the_connection() -> None:
    talk = Talk("orders", limits=LIMITS)
    talk.client(*pieces(produce(7, "orders", "secrets", records=BIG, acks=0)))
    assert talk.over == "finish, linger"
    assert talk.down == []


def test_rules_that_change_meanwhile_hold_for_the_topics_to_come() -> None:
    talk = Talk("orders", "invoices", limits=LIMITS)
    parts = pieces(produce(7, "orders", "invoices", records=BIG))
    talk.client(*parts[:5])
    talk.swap("orders")
    talk.client(*parts[5:])
    assert codes(talk) == [("orders", 6), ("invoices", 29)]


@pytest.mark.parametrize("broken", [b"\x01\x09\x00", b"\x05"])
def test_what_cannot_be_read_is_not_finished(broken: bytes) -> None:
    """A tagged field that the definitions do not know, behind the records; and a number of them that is not true."""
    talk = Talk("orders", limits=LIMITS)
    whole = produce(7, "orders", records=BIG)[4:-1] + broken
    talk.client(*pieces(len(whole).to_bytes(4) + whole))
    assert 0 < len(talk.edge.legs[0]) < 4 + len(whole)
    assert talk.over == "finish, linger"
    assert talk.down == []
    assert [event.verdict for event in talk.events] == ["DROPPED"]
    assert talk.counters["malformed"] == 1


def test_a_length_that_ends_behind_the_frame_is_not_passed_on() -> None:
    talk = Talk("orders", limits=LIMITS)
    whole = produce(7, "orders", records=BIG, version=3)[4:]
    lying = whole.replace(len(BIG).to_bytes(4), (1 << 30).to_bytes(4))
    talk.client(*pieces(len(lying).to_bytes(4) + lying))
    assert talk.edge.legs == []
    assert talk.over == "finish, linger"


def test_a_client_that_ends_within_a_request() -> None:
    talk = Talk("orders", limits=LIMITS)
    talk.client(*pieces(produce(7, "orders", records=BIG))[:3])
    talk.now.downstream_eof()
    assert talk.over == "reset"
    assert [(event.verdict, event.reason) for event in talk.events] == [("ERROR", "client_aborted")]


def test_a_broker_that_answers_before_the_end() -> None:
    talk = Talk("orders", limits=LIMITS)
    talk.client(*pieces(produce(7, "orders", records=BIG))[:3])
    talk.broker(produced(7, "orders"))
    assert talk.over == "finish, linger"
    assert talk.down == []
    assert talk.events[-1].reason == "answer_before_request"


@pytest.mark.parametrize("version", [BY_ID, newest(PRODUCE)])
def test_ids_are_asked_for_before_anything_goes_on(version: int) -> None:
    talk = Talk("orders", limits=LIMITS)
    asked = produce(7, "orders", records=BIG, version=version)
    first, *rest = pieces(asked)
    talk.client(first)
    assert [each.api_key for each in talk.sent()] == [METADATA]
    assert talk.edge.paused
    talk.broker(described(7, "orders"))
    assert not talk.edge.paused
    talk.client(*rest)
    assert talk.up[1] == asked[4:]
    talk.broker(produced(7, "orders", version=version))
    assert talk.records() == ["FORWARDED Produce Write orders 0 by r-orders"]


def test_an_id_that_nobody_knows() -> None:
    talk = Talk("orders", limits=LIMITS)
    talk.client(*pieces(produce(7, "orders", records=BIG, version=BY_ID)))
    talk.broker(described(7, unknown=(ids_of("orders")["orders"],)))
    assert codes(talk, BY_ID) == [(ids_of("orders")["orders"], 100)]
    assert len(talk.up) == 1


def test_records_pass_unseen() -> None:
    talk = Talk("orders", limits=LIMITS)
    asked = produce(7, "orders", records=b"r" * 1_000_000)
    talk.client(asked[:100])
    _, at = begin_request(asked[4:], "TopicData")
    unseen = talk.now.passing_up
    assert 4 + at + unseen < len(asked)
    assert asked[100 : 100 + unseen].strip(b"r") == b""
    assert unseen > 999_000
    talk.now.passed_up(unseen - 10)
    talk.client(asked[100 + unseen - 10 :], produce(8, "orders"))
    assert bytes(talk.edge.legs[0]) == asked[:100] + asked[100 + unseen - 10 :] + produce(8, "orders")
    talk.broker(produced(7, "orders"), produced(8, "orders"))
    assert talk.correlations() == [7, 8]


def test_records_do_not_pass_unseen_while_they_are_thrown_away() -> None:
    talk = Talk("orders", limits=LIMITS)
    talk.client(produce(7, "secrets", records=b"r" * 1_000_000)[:100])
    assert talk.now.passing_up == 0


def test_pipelining_limits_do_not_stop_what_has_begun() -> None:
    talk = Talk("orders", limits=Limits(kafka_hold_bytes=2000, kafka_pending=1))
    asked = produce(7, "orders", records=BIG)
    talk.client(*pieces(asked))
    assert bytes(talk.edge.legs[0]) == asked
    talk.client(produce(8, "orders"))
    assert bytes(talk.edge.legs[0]) == asked
    assert talk.edge.paused


NAMES = ("orders", "secrets", "invoices")


@given(st.data())
def test_any_mix_in_any_pieces(data: st.DataObject) -> None:
    """Requests of any size, allowed, denied, mixed, with and without answers, in any pieces, beside answers at any
    time: answers come in the order of the requests, denied topics never reach the broker, and every request with an
    answer has one, unless the connection ended."""
    talk = Talk("orders", "invoices", limits=Limits(kafka_hold_bytes=300, kafka_pending=3))
    expected: list[int] = []
    stream = b""
    for correlation_id in range(data.draw(st.integers(1, 6))):
        topics = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
        acks = data.draw(st.sampled_from([1, 1, 1, 0]))
        records = b"r" * data.draw(st.sampled_from([0, 10, 200, 1000]))
        stream += produce(
            correlation_id, *topics, acks=acks, records=records, version=data.draw(st.sampled_from([3, 9]))
        )
        if acks:
            expected.append(correlation_id)
    answered = at = 0
    while at < len(stream) and not talk.over:
        size = data.draw(st.integers(20, 400))
        talk.client(stream[at : at + size])
        at += size
        if data.draw(st.booleans()):
            answered = answer_all(talk, answered, data.draw(st.integers(0, 3)))
    for _ in range(6):  # an answer may let more requests go on
        answered = answer_all(talk, answered, 100)
    got = talk.correlations()
    assert got == expected[: len(got)]
    if not talk.over and "end upstream" not in talk.edge.said:
        assert got == expected
    for leg in talk.edge.legs:
        for frame in whole(bytes(leg)):  # a broker acts on nothing else
            assert b"secrets" not in frame


def answer_all(talk: Talk, answered: int, most: int) -> int:
    """The broker answers whole requests, at most so many."""
    if not talk.edge.legs or talk.over or "close upstream" in talk.edge.said:
        return answered
    for frame in whole(bytes(talk.edge.legs[0]))[answered : answered + most]:
        request, _ = begin_request(frame, "TopicData")
        answered += 1
        if request.body["Acks"]:
            names = [name for name in NAMES if name.encode() in frame]
            talk.broker(produced(request.correlation_id, *names, version=request.api_version))
            if talk.over:
                break
    return answered


def whole(data: bytes) -> list[bytes]:
    """The frames that are complete."""
    end = 0
    while len(data) >= end + 4 and len(data) >= end + 4 + int.from_bytes(data[end : end + 4]):
        end += 4 + int.from_bytes(data[end : end + 4])
    return frames(data[:end])


def test_an_unknown_tag_in_the_header_is_refused_before_anything_goes_on() -> None:
    talk = Talk("orders", limits=LIMITS)
    frame = produce(7, "orders", records=BIG)[4:]
    tags = 10 + len("test")  # behind key, version, correlation id, and the client id
    assert frame[tags] == 0
    frame = frame[:tags] + b"\1\x09\1x" + frame[tags + 1 :]
    talk.client(*pieces(len(frame).to_bytes(4) + frame))
    assert talk.edge.legs == []
    assert talk.records() == ["DROPPED Produce unknown_tag - by tulle:protocol"]
    assert talk.over == "finish, linger"
