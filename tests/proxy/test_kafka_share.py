"""ShareFetch and ShareAcknowledge: sessions of share groups, denied topics in them."""

import pytest

from parsers.kafka.codec import Tree
from policies.ruleset import KafkaRule
from proxy.kafka.fetch import MAX_SESSIONS
from proxy.kafka.ids import TopicIds, pairs_in
from proxy.kafka.inbox import Inbox
from tests.proxy.dialogue import PORT
from tests.proxy.helpers import rules
from tests.proxy.kafka_talk import Talk, answer, described, ids_of, metadata, request

SHARE_FETCH, SHARE_ACKNOWLEDGE = 78, 79
IDS = ids_of("orders", "invoices", "secrets", "nobody")


def share(*topics: str) -> Talk:
    """A flow that may use these topics in the share group `billing`, and knows what ids mean."""
    talk = Talk(*topics)
    swap(talk, *topics)
    talk.client(metadata(0))
    talk.broker(described(0, "orders", "invoices", "secrets"))
    return talk


def swap(talk: Talk, *topics: str) -> None:
    """Other rules."""
    kafka = tuple(KafkaRule(f"r-{topic}", role="consume", topic=topic, group="billing") for topic in topics)
    talk.box.swap(rules(port=PORT, revision=talk.box.revision + 1, kafka=kafka))
    talk.layer.rules_changed()


def read(
    correlation_id: int,
    *topics: str,
    epoch: int = 0,
    forget: tuple[str, ...] = (),
    group: str = "billing",
    api: int = SHARE_FETCH,
    member: str = "m",
) -> bytes:
    """A ShareFetch, or a ShareAcknowledge."""
    body: Tree = {
        "GroupId": group,
        "MemberId": member,
        "ShareSessionEpoch": epoch,
        "MaxWaitMs": 500,
        "MinBytes": 1,
        "MaxBytes": 1 << 20,
        "Topics": [
            {"TopicId": IDS[topic], "Partitions": [{"PartitionIndex": 0, "AcknowledgementBatches": []}]}
            for topic in topics
        ],
        "ForgottenTopicsData": [{"TopicId": IDS[topic], "Partitions": [0]} for topic in forget],
    }
    return request(api, 1, correlation_id, body)


def told(talk: Talk, api: int = SHARE_FETCH) -> tuple[int, dict[bytes, int]]:
    """(top error, error by topic) of the last answer."""
    body = talk.got(api, 1).body
    return body["ErrorCode"], {topic["TopicId"]: topic["Partitions"][0]["ErrorCode"] for topic in body["Responses"]}


def answered(correlation_id: int, *topics: str, api: int = SHARE_FETCH) -> bytes:
    """The broker's answer."""
    partition = {"PartitionIndex": 0, "CurrentLeader": {}, "Records": b"r", "AcquiredRecords": []}
    return answer(
        api,
        1,
        correlation_id,
        {"Responses": [{"TopicId": IDS[topic], "Partitions": [partition]} for topic in topics], "NodeEndpoints": []},
    )


def test_what_is_allowed_goes_on_as_it_came() -> None:
    talk = share("orders")
    asked = read(1, "orders")
    talk.client(asked)
    assert talk.up[-1] == asked[4:]
    back = answered(1, "orders")
    talk.broker(back)
    assert talk.down[-1] == back[4:]
    assert talk.records()[-1] == "FORWARDED ShareFetch Read orders 0 by r-orders"


def test_a_denied_group_is_told_so() -> None:
    talk = share("orders")
    talk.client(read(1, "orders", group="other"))
    assert told(talk) == (30, {})
    assert len(talk.up) == 1
    assert talk.records()[-1] == "DROPPED ShareFetch Read other 30 by default-deny"


def test_denied_topics_are_told_in_every_answer_of_the_session() -> None:
    talk = share("orders")
    talk.client(read(1, "secrets", "orders"))
    sent = talk.sent()[-1].body
    assert [topic["TopicId"] for topic in sent["Topics"]] == [IDS["orders"]]
    assert sent["ShareSessionEpoch"] == 0
    assert sent["MaxWaitMs"] == 0
    talk.broker(answered(1, "orders"))
    assert told(talk) == (0, {IDS["secrets"]: 29, IDS["orders"]: 0})
    talk.client(read(2, epoch=1))
    talk.broker(answered(2))
    assert told(talk) == (0, {IDS["secrets"]: 29})
    talk.client(read(3, epoch=2, forget=("secrets", "orders")))
    assert [topic["TopicId"] for topic in talk.sent()[-1].body["ForgottenTopicsData"]] == [
        IDS["secrets"],
        IDS["orders"],
    ]
    talk.broker(answered(3))
    assert told(talk) == (0, {})


def test_an_unknown_id_is_told_and_not_sent() -> None:
    talk = share("orders")
    talk.client(read(1, "nobody", "orders"))
    talk.broker(described(1, unknown=(IDS["nobody"],)))
    assert [topic["TopicId"] for topic in talk.sent()[-1].body["Topics"]] == [IDS["orders"]]
    talk.broker(answered(1, "orders"))
    assert told(talk) == (0, {IDS["nobody"]: 100, IDS["orders"]: 0})


def test_a_session_that_nobody_knows_begins_anew() -> None:
    talk = share("orders")
    talk.client(read(1, epoch=3))
    assert told(talk) == (122, {})
    assert len(talk.up) == 1


@pytest.mark.parametrize("now", [("invoices",), ("orders", "invoices", "secrets")])
def test_a_session_that_is_judged_otherwise_now_begins_anew(now: tuple[str, ...]) -> None:
    talk = share("orders", "invoices")
    talk.client(read(1, "orders", "secrets"))
    talk.broker(answered(1, "orders"))
    swap(talk, *now)
    assert talk.over == ""
    talk.client(read(2, epoch=1))
    assert told(talk) == (122, {})
    talk.client(read(3, epoch=2))
    assert told(talk) == (122, {})
    talk.client(read(4, "orders", "secrets", epoch=0))
    assert [topic["TopicId"] for topic in talk.sent()[-1].body["Topics"]] == [
        IDS[topic] for topic in ("orders", "secrets") if topic in now
    ]


def test_a_topic_of_the_session_that_is_denied_when_it_is_named_again() -> None:
    talk = share("orders", "invoices")
    talk.client(read(1, "orders", "invoices"))
    talk.broker(answered(1, "orders"))
    swap(talk, "invoices")
    talk.client(read(2, "orders", epoch=1))
    assert told(talk) == (122, {})


def test_no_byte_more_of_a_withdrawn_topic() -> None:
    talk = share("orders")
    talk.client(read(1, "orders"))
    swap(talk, "invoices")
    assert talk.over == "reset"
    assert talk.records()[-2] == "DROPPED ShareFetch Read orders - by default-deny"


def test_a_session_that_was_closed_is_not_known_any_more() -> None:
    talk = share("orders")
    talk.client(read(1, "orders"), read(2, epoch=-1), read(3, epoch=1))
    assert len(talk.up) == 3
    talk.broker(answered(1), answered(2))
    assert told(talk) == (122, {})


def test_acknowledgements_are_told_topic_by_topic() -> None:
    talk = share("orders")
    talk.client(read(1, "secrets", "orders", epoch=1, api=SHARE_ACKNOWLEDGE))
    assert [topic["TopicId"] for topic in talk.sent()[-1].body["Topics"]] == [IDS["orders"]]
    talk.broker(answered(1, "orders", api=SHARE_ACKNOWLEDGE))
    assert told(talk, SHARE_ACKNOWLEDGE) == (0, {IDS["secrets"]: 29, IDS["orders"]: 0})
    talk.client(read(2, "secrets", epoch=2, api=SHARE_ACKNOWLEDGE))
    assert told(talk, SHARE_ACKNOWLEDGE) == (0, {IDS["secrets"]: 29})


# ---- ids, and bytes


PLACE, OTHER = (1, 1, 5, "192.0.2.2", 9092), (1, 1, 6, "192.0.2.2", 9092)


def test_what_one_broker_says_is_believed_of_it_alone() -> None:
    ids = TopicIds({"kafka_ids_evicted": 0})
    ids.learn(PLACE, [(IDS["orders"], "orders")])
    assert ids.of(PLACE) == {IDS["orders"]: "orders"}
    assert ids.of(OTHER) == {}


def test_ids_are_bounded_and_a_broker_crowds_out_its_own_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.kafka.ids.MAX_IDS", 10)
    monkeypatch.setattr("proxy.kafka.ids.MAX_IDS_OF_PLACE", 6)
    counters = {"kafka_ids_evicted": 0}
    ids = TopicIds(counters)
    ids.learn(PLACE, [(bytes([i]) * 16, str(i)) for i in range(1, 5)])
    ids.learn(OTHER, [(bytes([i]) * 16, str(i)) for i in range(1, 20)])
    assert len(ids.of(PLACE)) == 4
    assert list(ids.of(OTHER).values()) == ["14", "15", "16", "17", "18", "19"]
    assert (len(ids), counters["kafka_ids_evicted"]) == (10, 13)
    third = (2, 1, 5, "192.0.2.3", 9092)
    ids.learn(third, [(bytes([i]) * 16, str(i)) for i in range(1, 7)])
    assert (len(ids.of(PLACE)), len(ids.of(OTHER)), len(ids.of(third)), len(ids)) == (0, 4, 6, 10)


def test_a_topic_made_again_has_another_id() -> None:
    ids = TopicIds({"kafka_ids_evicted": 0})
    ids.learn(PLACE, [(IDS["orders"], "orders")])
    ids.learn(PLACE, [(IDS["nobody"], "orders"), (bytes(16), "zero")])
    assert ids.of(PLACE) == {IDS["orders"]: "orders", IDS["nobody"]: "orders"}


def test_what_came_in_one_read_is_given_out_as_it_is() -> None:
    inbox = Inbox()
    data = b"abcdef"
    inbox.feed(data)
    assert inbox.head(2) == b"ab"
    assert inbox.part(1, 3) == b"bc"
    assert inbox.take(6) is data
    inbox.feed(b"ab")
    inbox.feed(b"cd")
    assert (inbox.head(3), inbox.part(1, 9), len(inbox)) == (b"abc", b"bcd", 4)
    assert (inbox.take(3), inbox.take(3), len(inbox)) == (b"abc", b"d", 0)
    inbox.feed(b"abcd")
    inbox.take(1)
    inbox.feed(b"e")
    assert inbox.take(9) == b"bcde"


def test_a_session_is_closed_though_what_it_acknowledges_is_denied() -> None:
    talk = share("orders")
    talk.client(read(1, "secrets", epoch=-1, api=SHARE_ACKNOWLEDGE))
    assert (talk.sent()[-1].api_key, talk.sent()[-1].body["Topics"]) == (SHARE_ACKNOWLEDGE, [])
    talk.broker(answered(1, api=SHARE_ACKNOWLEDGE))
    assert told(talk, SHARE_ACKNOWLEDGE) == (0, {IDS["secrets"]: 29})


def test_the_oldest_of_too_many_sessions_is_forgotten() -> None:
    talk = share("orders")
    for number in range(MAX_SESSIONS + 1):
        talk.client(read(number, "orders", member=f"m{number}"))
        talk.broker(answered(number, "orders"))
    sent = len(talk.up)
    talk.client(read(98, epoch=1, member="m1"))
    assert len(talk.up) == sent + 1
    talk.broker(answered(98))
    talk.client(read(99, epoch=1, member="m0"))
    assert len(talk.up) == sent + 1
    assert told(talk) == (122, {})


def test_a_session_that_grows_too_large_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.kafka.share.MAX_PARTITIONS", 7)  # a topic counts as three, and its one partition
    talk = share("orders", "invoices")
    talk.client(read(1, "orders"))
    talk.broker(answered(1, "orders"))
    assert told(talk) == (0, {IDS["orders"]: 0})
    talk.client(read(2, "invoices", epoch=1))
    assert told(talk) == (122, {})
    assert talk.counters["kafka_sessions_refused"] == 1


def test_a_name_that_no_topic_can_have_is_not_learnt() -> None:
    topics = [{"TopicId": bytes([size % 256]) * 16, "Name": "x" * size} for size in (249, 250)]
    assert pairs_in(3, {"Topics": topics}) == [(bytes([249]) * 16, "x" * 249)]
