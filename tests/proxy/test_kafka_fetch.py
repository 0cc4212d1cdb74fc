"""Fetch: sessions and their mirror, denied topics among allowed ones, withdrawn topics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.kafka.frames import decode_request, decode_response
from policies.requests import Operation, Resource
from proxy.kafka.answers import error_of, quick_error
from proxy.kafka.fetch import MAX_PARTITIONS, MAX_SESSIONS
from proxy.limits import Limits
from tests.proxy.kafka_talk import (
    FETCH,
    METADATA,
    PRODUCE,
    Talk,
    described,
    fetch,
    fetched,
    ids_of,
    newest,
    produce,
    produced,
    request,
)

NAMED = 12
BY_ID = 13


def told(talk: Talk, version: int = NAMED, index: int = -1) -> tuple[int, list[tuple[str | bytes, int]]]:
    """(top error, [(topic, error of its first partition)]) of an answer."""
    body = talk.got(FETCH, version, index).body
    return body.get("ErrorCode", 0), [
        (topic.get("Topic") or topic["TopicId"], topic["Partitions"][0]["ErrorCode"]) for topic in body["Responses"]
    ]


def with_session(*topics: str) -> Talk:
    """A flow whose client reads `orders` in session 5."""
    talk = Talk("orders", *topics)
    talk.client(fetch(1, "orders"))
    talk.broker(fetched(1, "orders", session=5))
    return talk


def test_what_is_allowed_goes_on_as_it_came_and_so_does_its_answer() -> None:
    talk = Talk("orders")
    asked, answered = fetch(1, "orders"), fetched(1, "orders", session=5)
    talk.client(asked)
    assert bytes(talk.edge.legs[0]) == asked
    talk.broker(answered)
    assert bytes(talk.edge.down) == answered
    assert talk.records() == ["FORWARDED Fetch Read orders 0 by r-orders"]


def test_all_denied_is_answered_here() -> None:
    talk = Talk("orders")
    talk.client(fetch(1, "secrets", "invoices"))
    assert talk.edge.legs == []
    assert told(talk) == (0, [("secrets", 29), ("invoices", 29)])
    assert talk.got(FETCH, NAMED).body["SessionId"] == 0
    assert [record.partition(" by")[0] for record in talk.records()] == [
        "DROPPED Fetch Read secrets 29",
        "DROPPED Fetch Read invoices 29",
    ]


@pytest.mark.parametrize("version", [4, 7, 11, 12])
@pytest.mark.parametrize("epoch", [0, -1])
@pytest.mark.parametrize("cut", [None, 8, 12, 20, 40])
def test_denied_among_allowed(version: int, epoch: int, cut: int | None) -> None:
    talk = Talk("orders")
    talk.client(fetch(1, "secrets", "orders", session=9, epoch=epoch, version=version))
    sent = talk.sent()[0].body
    assert [topic["Topic"] for topic in sent["Topics"]] == ["orders"]
    assert (sent["MaxWaitMs"], sent["MinBytes"]) == (0, 0)
    if version >= 7:
        assert (sent["SessionId"], sent["SessionEpoch"]) == (9, -1)
    answered = fetched(1, "orders", version=version)
    talk.broker(*([answered] if cut is None else [answered[:cut], answered[cut:]]))
    body = talk.got(FETCH, version).body
    assert [(topic["Topic"], topic["Partitions"][0]["ErrorCode"]) for topic in body["Responses"]] == [
        ("secrets", 29),
        ("orders", 0),
    ]
    assert body["Responses"][0]["Partitions"][1]["PartitionIndex"] == 1
    assert bytes(body["Responses"][1]["Partitions"][0]["Records"]) == b"records"
    assert talk.over == ""


@pytest.mark.parametrize("version", [BY_ID, newest(FETCH)])
def test_denied_and_unknown_ids(version: int) -> None:
    talk = Talk("orders")
    ids = ids_of("orders", "secrets", "nobody")
    talk.client(fetch(1, "secrets", "orders", "nobody", version=version))
    asked = talk.sent()
    assert [each.api_key for each in asked] == [METADATA]
    assert [topic["TopicId"] for topic in asked[0].body["Topics"]] == [ids["secrets"], ids["orders"], ids["nobody"]]
    assert asked[0].body["AllowAutoTopicCreation"] is False
    talk.broker(described(1, "orders", "secrets", unknown=(ids["nobody"],)))
    assert talk.down == []  # swallowed
    assert [topic["TopicId"] for topic in talk.sent()[1].body["Topics"]] == [ids["orders"]]
    talk.broker(fetched(1, "orders", version=version))
    assert told(talk, version) == (0, [(ids["secrets"], 29), (ids["nobody"], 100), (ids["orders"], 0)])
    assert talk.counters["kafka_ids_asked"] == 3
    talk.client(fetch(2, "orders", version=version))
    assert talk.sent()[2].api_key == FETCH


def test_requests_behind_one_whose_ids_are_asked_for_wait() -> None:
    talk = Talk("orders")
    talk.client(fetch(1, "orders", version=BY_ID) + produce(2, "orders"))
    assert len(talk.up) == 1
    assert talk.edge.paused
    talk.broker(described(1, "orders"))
    assert [each.correlation_id for each in talk.sent()] == [1, 1, 2]
    assert not talk.edge.paused
    talk.broker(fetched(1, "orders", version=BY_ID), produced(2, "orders"))
    assert talk.correlations() == [1, 2]


def test_ids_that_answers_tell_are_not_asked_for() -> None:
    talk = Talk("orders")
    talk.client(request(METADATA, 12, 1, {"Topics": None}))
    talk.broker(described(1, "orders", "secrets"))
    talk.client(fetch(2, "orders", "secrets", version=BY_ID))
    assert [each.api_key for each in talk.sent()] == [METADATA, FETCH]
    other = Talk("orders", shared=talk.shared)
    other.client(fetch(2, "orders", version=BY_ID))
    assert [each.api_key for each in other.sent()] == [FETCH]


def test_an_answer_about_ids_that_cannot_be_read_ends_the_connection() -> None:
    talk = Talk("orders")
    talk.client(fetch(1, "orders", version=BY_ID))
    talk.broker(b"\0\0\0\x06\0\0\0\1\0\0")
    assert talk.over == "finish, linger"
    assert talk.down == []
    assert [event.verdict for event in talk.events] == ["ERROR"]


def test_a_session_goes_on_with_what_is_allowed() -> None:
    talk = with_session("invoices")
    talk.client(fetch(2, "invoices", session=5, epoch=1), fetch(3, session=5, epoch=2))
    assert len(talk.up) == 3
    talk.broker(fetched(2, session=5), fetched(3, session=5))
    assert talk.records()[1:] == [
        "FORWARDED Fetch Read invoices 0 by r-invoices",
        "FORWARDED Fetch Read orders 0 by r-orders",
        "FORWARDED Fetch Read invoices 0 by r-invoices",
        "FORWARDED Fetch Read orders 0 by r-orders",
    ]


@pytest.mark.parametrize(
    "asked",
    [
        fetch(2, session=6, epoch=1),  # of another connection, or of nobody
        fetch(2, session=0, epoch=1),
        fetch(2, "secrets", session=5, epoch=1),  # a denied topic is added
        fetch(2, session=77, epoch=-7),
    ],
)
def test_what_the_mirror_does_not_know_or_allow_begins_anew(asked: bytes) -> None:
    talk = with_session()
    talk.client(asked)
    assert len(talk.up) == 1
    assert told(talk) == (70, [])
    assert talk.events[-1].verdict == "DROPPED"


def test_a_session_that_its_client_has_ended_begins_anew() -> None:
    talk = with_session()
    talk.client(fetch(2, session=5, epoch=-1))
    talk.broker(fetched(2))
    talk.client(fetch(3, session=5, epoch=1))
    assert len(talk.up) == 2
    assert told(talk) == (70, [])


def test_an_answer_with_an_error_makes_no_session() -> None:
    talk = Talk("orders")
    talk.client(fetch(1, "orders"))
    talk.broker(fetched(1, "orders", session=5, error=6))
    talk.client(fetch(2, session=5, epoch=1))
    assert len(talk.up) == 1
    assert told(talk) == (70, [])


def test_a_withdrawn_topic_of_a_session_begins_anew() -> None:
    talk = with_session("invoices")
    talk.client(fetch(2, "invoices", session=5, epoch=1))
    talk.broker(fetched(2, session=5))
    talk.swap("invoices")
    assert talk.over == ""
    talk.client(fetch(3, session=5, epoch=2))
    assert told(talk) == (70, [])
    assert talk.records()[-1] == "DROPPED Fetch Read orders 70 by default-deny"
    talk.client(fetch(4, "orders", "invoices", session=5, epoch=0))
    assert [topic["Topic"] for topic in talk.sent()[-1].body["Topics"]] == ["invoices"]


def test_a_forgotten_topic_is_no_longer_asked_for() -> None:
    talk = with_session("invoices")
    talk.client(fetch(2, "invoices", session=5, epoch=1, forget=("orders",)))
    talk.broker(fetched(2, session=5))
    talk.swap("invoices")
    talk.client(fetch(3, session=5, epoch=2))
    assert len(talk.up) == 3


@pytest.mark.parametrize("error", [71, -1])
def test_a_topic_that_the_broker_did_not_forget_is_not_forgotten(error: int) -> None:
    talk = with_session("invoices")
    talk.client(fetch(2, "invoices", session=5, epoch=9, forget=("orders",)))
    talk.broker(fetched(2, error=error))
    talk.swap("invoices")
    talk.client(fetch(3, session=5, epoch=1))
    assert told(talk) == (70, [])


def test_a_topic_that_was_forgotten_and_added_again_before_the_answer_stays() -> None:
    talk = with_session("invoices")
    talk.client(fetch(2, session=5, epoch=1, forget=("orders",)), fetch(3, "orders", session=5, epoch=2))
    talk.broker(fetched(2, session=5), fetched(3, session=5))
    talk.swap("invoices")
    talk.client(fetch(4, session=5, epoch=3))
    assert told(talk) == (70, [])


def test_no_byte_more_of_a_withdrawn_topic() -> None:
    talk = with_session()
    talk.client(fetch(2, session=5, epoch=1))
    talk.swap("invoices")
    assert told(talk) == (0, [("orders", 29)])
    assert talk.got(FETCH, NAMED).body["SessionId"] == 0
    assert talk.over == "finish, linger"
    assert talk.records()[-2:] == [
        "DROPPED Fetch Read orders 29 by default-deny",
        "ERROR Fetch Read orders - by r-orders",
    ]
    assert talk.counters["kafka_withdrawn"] == 1


@pytest.mark.parametrize("version", [4, 12])
def test_a_withdrawn_topic_among_others_outside_of_a_session(version: int) -> None:
    talk = Talk("orders", "invoices")
    talk.client(produce(1, "orders"), fetch(2, "orders", "secrets", "invoices", version=version), produce(3, "orders"))
    talk.swap("orders")
    assert talk.over == ""
    talk.broker(produced(1, "orders") + fetched(2, "orders", "invoices", version=version))
    assert talk.correlations() == [1, 2]
    assert told(talk, version)[1] == [("secrets", 29), ("orders", 0), ("invoices", 29)]
    assert bytes(talk.edge.down).count(b"records") == 0
    assert talk.over == "finish, linger"


def test_a_withdrawn_topic_of_a_fetch_that_was_not_sent_yet() -> None:
    talk = Talk("orders", opens=False)
    talk.client(fetch(1, "orders"))
    talk.swap("invoices")
    assert told(talk) == (0, [("orders", 29)])
    assert talk.over == "finish, linger"
    assert not any(talk.edge.legs)


def test_a_topic_that_is_still_allowed_stays() -> None:
    talk = with_session()
    talk.client(fetch(2, session=5, epoch=1))
    talk.swap("orders")
    assert talk.over == ""


def test_no_byte_more_of_an_answer_that_streams() -> None:
    talk = Talk("orders")
    talk.client(fetch(1, "orders"))
    talk.broker(fetched(1, "orders", records=b"x" * 10_000)[:2000])
    assert len(talk.edge.down) == 2000
    talk.swap("invoices")
    assert talk.over == "reset"
    assert talk.now.passing_down == 0


def test_no_byte_more_of_an_answer_that_the_client_has_not_taken() -> None:
    talk = Talk("orders")
    talk.edge.downstream_unsent = 10
    talk.client(fetch(1, "orders"))
    talk.broker(fetched(1, "orders"))
    talk.swap("invoices")
    assert talk.over == "reset"


def test_what_the_client_has_taken_is_not_closed() -> None:
    talk = with_session()
    talk.swap("invoices")
    assert talk.over == ""


def test_unsent_answers_are_remembered_as_far_as_they_reach_back() -> None:
    talk = Talk("orders", "invoices")
    talk.client(fetch(1, "orders"))
    talk.broker(fetched(1, "orders"))
    size = len(fetched(1, "orders"))
    for correlation_id in range(2, 50):
        talk.edge.downstream_unsent = size // 2
        talk.client(fetch(correlation_id, "invoices"))
        talk.broker(fetched(correlation_id, "invoices"))
    talk.swap("invoices")
    assert talk.over == ""


def test_followers_are_refused() -> None:
    talk = Talk()
    talk.client(fetch(1, "orders", version=11, replica=2))
    assert talk.edge.legs == []
    assert [
        (topic["Topic"], topic["Partitions"][0]["ErrorCode"]) for topic in talk.got(FETCH, 11).body["Responses"]
    ] == [("orders", 29)]
    assert talk.records() == [f"DROPPED Fetch {Operation.CLUSTER_ACTION} 31 by default-deny"]
    assert talk.events[0].kafka is not None
    assert talk.events[0].kafka.resource == Resource.CLUSTER


def test_sessions_of_one_connection_are_bounded() -> None:
    talk = Talk("orders")
    for session in range(1, MAX_SESSIONS + 2):
        talk.client(fetch(session, "orders"))
        talk.broker(fetched(session, "orders", session=session))
    talk.client(fetch(100, session=1, epoch=1))
    assert told(talk) == (70, [])
    talk.client(fetch(101, session=2, epoch=1))
    assert talk.sent()[-1].correlation_id == 101


def many(correlation_id: int, count: int) -> bytes:
    """A fetch of so many partitions."""
    partitions = [{"Partition": index, "FetchOffset": 0, "PartitionMaxBytes": 1} for index in range(count)]
    return request(
        FETCH,
        12,
        correlation_id,
        {"MaxWaitMs": 5, "MinBytes": 1, "SessionEpoch": 0, "Topics": [{"Topic": "orders", "Partitions": partitions}]},
    )


def test_a_fetch_too_large_to_be_mirrored_has_no_session() -> None:
    talk = Talk("orders")
    talk.client(many(1, MAX_PARTITIONS - 3), many(2, MAX_PARTITIONS - 2))
    first, second = talk.sent()
    assert first.body["SessionEpoch"] == 0
    assert (second.body["SessionEpoch"], second.body["MaxWaitMs"], second.body["MinBytes"]) == (-1, 5, 1)
    talk.broker(fetched(1, "orders", session=5), fetched(2, "orders"))
    talk.client(fetch(3, "orders", session=5, epoch=1))
    assert told(talk) == (70, [])


def test_the_start_of_an_answer_that_goes_on_for_ever_ends_the_connection() -> None:
    talk = Talk("orders")
    talk.client(fetch(1, "orders"))
    talk.broker(b"\0\x10\0\0\0\0\0\1\1\1\xff\xff\1" + b"x" * 5000)
    assert talk.over == "finish, linger"
    assert talk.down == []


TOPICS = ("a", "b", "c")


@given(st.data())
def test_no_session_at_a_broker_ever_answers_with_a_denied_topic(data: st.DataObject) -> None:
    """Whatever a client asks, adds and forgets, and however rules change meanwhile: a broker that follows KIP-227 puts
    no topic into an answer that reaches the client under rules that do not allow it."""
    version = data.draw(st.sampled_from([7, 12]))
    allowed = set(data.draw(st.sets(st.sampled_from(TOPICS))))
    talk = Talk(*allowed, limits=Limits(record_s=0))
    broker = Broker(version)
    some = st.lists(st.sampled_from(TOPICS), unique=True, max_size=3).map(tuple)
    for correlation_id in range(1, 14):
        match data.draw(st.sampled_from(["fetch", "fetch", "fetch", "answer", "answer", "swap"])):
            case "fetch":
                session = data.draw(st.sampled_from([0, *broker.sessions]))
                epoch = data.draw(st.sampled_from([0, -1, broker.epochs.get(session, 1), 9]))
                forget = () if epoch <= 0 else data.draw(some)
                asked = fetch(
                    correlation_id, *data.draw(some), session=session, epoch=epoch, forget=forget, version=version
                )
                talk.client(asked)
            case "answer":
                broker.take(talk)
                if broker.queue:
                    talk.broker(broker.queue.pop(0))
            case "swap":
                allowed = set(data.draw(st.sets(st.sampled_from(TOPICS))))
                talk.swap(*allowed)
        for frame in talk.down[broker.seen :]:
            for topic in decode_response(FETCH, version, frame).body["Responses"]:
                if topic["Partitions"][0]["Records"]:
                    assert topic["Topic"] in allowed
        broker.seen = len(talk.down)
        if talk.over:
            return


class Broker:
    """Fetch sessions as a broker has them; every answer has all topics of its session."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.sessions: dict[int, set[str]] = {}
        self.epochs: dict[int, int] = {}
        self.queue: list[bytes] = []
        self.taken = 0
        self.seen = 0

    def take(self, talk: Talk) -> None:
        """Read the requests that came."""
        for asked in map(decode_request, talk.up[self.taken :]):
            self.taken += 1
            body = asked.body
            names = {topic["Topic"] for topic in body["Topics"]}
            session, epoch = body["SessionId"], body["SessionEpoch"]
            told, error = 0, 0
            if epoch <= 0:
                self.sessions.pop(session, None)
                if epoch == 0:
                    told = 100 + self.taken
                    self.sessions[told], self.epochs[told] = set(names), 1
            elif session not in self.sessions:
                names, error = set(), 70
            elif epoch != self.epochs[session]:
                names, error = set(), 71
            else:
                told = session
                self.epochs[session] += 1
                self.sessions[session] |= names
                self.sessions[session] -= {topic["Topic"] for topic in body["ForgottenTopicsData"]}
                names = self.sessions[session]
            self.queue.append(
                fetched(asked.correlation_id, *sorted(names), session=told, error=error, version=self.version)
            )


@pytest.mark.parametrize("api_key", [PRODUCE, FETCH])
@pytest.mark.parametrize("topics", [(), ("orders",), ("o" * 200,), ("orders", "invoices")])
@pytest.mark.parametrize("error", [0, 6, -1])
def test_the_quick_error_is_the_error(api_key: int, topics: tuple[str, ...], error: int) -> None:
    seen = set()
    for version in range(4 if api_key else 3, newest(api_key) + 1):
        if api_key == PRODUCE:
            frame = produced(1, *topics, error=error, version=version)[4:]
        else:
            frame = fetched(1, *topics, session=7, version=version, error=error)[4:]
        read = error_of(decode_response(api_key, version, frame).body)
        quick = quick_error(api_key, version, frame)
        assert quick in (read, None)
        seen.add(quick)
        for size in range(len(frame)):
            quick_error(api_key, version, frame[:size])
    if len(topics) <= 1:
        assert seen - {None} <= {0, error}
        assert seen != {None} or len(topics[0]) > 127
