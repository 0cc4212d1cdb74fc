"""What somebody in a pod tries who speaks to the broker's port without a client library.

Nothing of a denied topic is written or read, whatever the frames look like: what is in a topic is looked up from
inside the broker's own pod, which is never steered. Each attempt ends with an answer, or the end of the connection,
and a record.
"""

import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from parsers.kafka import frames
from parsers.kafka.codec import Tree
from parsers.kafka.table import TABLE
from tests.helpers.cluster import Cluster, Record
from tests.helpers.kafka import policy, wire
from tests.helpers.kafka.wire import Closed, batch, fetch, fetched, frame, metadata, produce, produced

pytestmark = pytest.mark.root

MINE, SECRET = "orders", "secrets"
KEPT = "kept"
"""The only record of the secret topic; whatever else is found there was written past the policy."""
RULES = ({"role": "produce", "topic": MINE}, {"role": "consume", "topic": MINE})


@pytest.fixture(scope="module")
def _secret(shared_kafka: Cluster) -> list[str]:
    """The secret topic has a record; gives all that it has now."""
    shared_kafka.delete_policies()
    with wire.behind(shared_kafka) as inside:
        assert inside.produce(SECRET, KEPT) == wire.NONE
        return inside.values(SECRET)


@pytest.fixture(scope="module", params=["ingress", "egress"])
def policed(request: pytest.FixtureRequest, shared_kafka: Cluster, _secret: list[str]) -> Iterator[Cluster]:
    """billing may produce to and consume from one topic, by a policy at one end."""
    shared_kafka.delete_policies()
    shared_kafka.apply({"ingress": policy.ingress, "egress": policy.egress}[request.param](*RULES))
    yield shared_kafka
    shared_kafka.delete_policies()


@pytest.fixture
def lab(policed: Cluster, _secret: list[str]) -> Iterator[Cluster]:
    """The same for one test; afterwards the secret topic is as it was."""
    policed.forget()
    yield policed
    with wire.behind(policed) as inside:
        assert inside.values(SECRET) == _secret


def _refused(lab: Cluster, client_port: int) -> Record | None:
    """The record of what was refused on a connection of ours; that we failed is no refusal."""
    found = lab.find_record(
        lambda record: (
            record["flow"].get("l4", {}).get("TCP", {}).get("source_port") == client_port
            and record["flow"]["verdict"] in ("DROPPED", "ERROR")
        )
    )
    assert found is None or found["tulle"].get("reason") != "internal_error", found
    return found


# ---- bytes that are no request


@dataclass(frozen=True, slots=True)
class Bytes:
    """What is sent, and whether the connection ends then; else the client ends it."""

    name: str
    data: bytes


def _tagged(body: bytes) -> bytes:
    """A Metadata 12 request whose header has a tagged field that nobody knows."""
    head = struct.pack(">hhih", TABLE.keys["Metadata"], 12, 7, 4) + b"wire"
    return head + b"\x01\x63\x01\x00" + body


_METADATA = frame("Metadata", 12, metadata(None))
_BODY = _METADATA[struct.calcsize(">hhih") + len("wire") + 1 :]

NO_REQUESTS = [
    Bytes("negative length", struct.pack(">i", -1) + b"x" * 40),
    Bytes("no length at all", struct.pack(">i", 0) + b"x" * 40),
    Bytes("shorter than a header", struct.pack(">i", 7) + b"x" * 40),
    Bytes("two gigabytes promised", struct.pack(">i", 0x7FFFFFFF) + b"x" * 40),
    Bytes("unknown api", frames.framed(struct.pack(">hhih", 9999, 0, 1, -1))),
    Bytes("negative api", frames.framed(struct.pack(">hhih", -1, 0, 1, -1))),
    Bytes("negative version", frames.framed(struct.pack(">hhih", TABLE.keys["Metadata"], -1, 1, -1))),
    Bytes("negative client id", frames.framed(struct.pack(">hhih", TABLE.keys["Metadata"], 1, 1, -2))),
    Bytes("client id behind the frame", frames.framed(struct.pack(">hhih", TABLE.keys["Metadata"], 1, 1, 9000))),
    Bytes("client id not utf-8", frames.framed(struct.pack(">hhih", 3, 1, 1, 2) + b"\xff\xfe" + b"\0\0\0\0")),
    Bytes("truncated body", frames.framed(_METADATA[:-3])),
    Bytes("varint without end", frames.framed(_METADATA[: -len(_BODY)] + b"\xff" * 12)),
    Bytes("array of 2**31", frames.framed(_METADATA[: -len(_BODY)] + b"\xff\xff\xff\xff\x0f\0\0\0")),
    Bytes("unknown tagged field", frames.framed(_tagged(_BODY))),
    Bytes("tls", bytes.fromhex("16030100c4010000c00303") + b"\0" * 185),
    Bytes("http/1.1", b"GET /secrets HTTP/1.1\r\nHost: kafka\r\n\r\n"),
    Bytes("http/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Bytes("zeros", b"\0" * 4096),
    Bytes("ones", b"\xff" * 4096),
]


@pytest.mark.parametrize("case", NO_REQUESTS, ids=lambda case: case.name)
def test_what_is_no_request_goes_nowhere(lab: Cluster, case: Bytes) -> None:
    with wire.wired(lab, "billing") as client:
        port = client.port
        client.raw(case.data + frames.framed(frame("Metadata", 12, metadata(None))))
        rest = client.ended()
    assert SECRET.encode() not in rest
    assert _refused(lab, port) is not None


def test_an_unknown_version_is_answered_and_never_forwarded(lab: Cluster) -> None:
    """Where the API has an answer with an error code; the connection ends after it, or stays."""
    head = struct.pack(">hhih", TABLE.keys["ApiVersions"], 99, 5, 4) + b"wire"
    with wire.wired(lab, "billing") as client:
        client.raw(frames.framed(head))
        (size,) = struct.unpack(">i", client._exactly(4))
        answer = frames.decode_response(TABLE.keys["ApiVersions"], 0, client._exactly(size))
    assert answer.correlation_id == 5
    assert answer.body["ErrorCode"] == wire.UNSUPPORTED_VERSION


# ---- requests that mix what is allowed with what is not


def test_one_of_two_topics_is_written(lab: Cluster) -> None:
    with wire.wired(lab, "billing") as client:
        told = produced(client.ask("Produce", 9, produce([MINE, SECRET], "both")))
        assert list(told.items()) == [(MINE, wire.NONE), (SECRET, wire.TOPIC_DENIED)]
        told = produced(client.ask("Produce", 9, produce([SECRET, MINE], "both again")))
        assert list(told.items()) == [(SECRET, wire.TOPIC_DENIED), (MINE, wire.NONE)]
    with wire.behind(lab) as inside:
        assert inside.values(MINE)[-2:] == ["both", "both again"]


@pytest.mark.parametrize("order", [(MINE, SECRET), (SECRET, MINE)], ids=["denied last", "denied first"])
def test_two_topics_in_many_segments(lab: Cluster, order: tuple[str, str]) -> None:
    with wire.wired(lab, "billing") as client:
        data = frames.framed(client.made("Produce", 9, produce(order, "in pieces " + "." * 3000)))
        for at in range(0, len(data), 97):
            client.raw(data[at : at + 97])
        _, answer = client.answer()
    assert produced(answer)[SECRET] == wire.TOPIC_DENIED
    assert produced(answer)[MINE] == wire.NONE


def test_two_topics_too_big_to_hold(lab: Cluster) -> None:
    """Above the limit up to which frames of several topics are held, the first topic has been streamed when the second
    is seen: nothing of the frame may be acted upon."""
    with wire.wired(lab, "billing") as client:
        records = batch(*["x" * 1000] * 2000)
        client.send("Produce", 9, produce([MINE, SECRET], records=records))
        try:
            _, answer = client.answer()
        except Closed:
            return
    told = produced(answer)
    assert told[SECRET] == wire.TOPIC_DENIED
    assert told[MINE] != wire.NONE


def test_the_same_topic_twice(lab: Cluster) -> None:
    with wire.wired(lab, "billing") as client:
        client.send("Produce", 9, produce([MINE, SECRET, MINE, SECRET], "twice"))
        try:
            _, answer = client.answer()
        except Closed:
            return
    codes = [(one["Name"], one["PartitionResponses"][0]["ErrorCode"]) for one in answer["Responses"]]
    assert all(code != wire.NONE for name, code in codes if name == SECRET)


@pytest.mark.parametrize("topics", [(SECRET,), (MINE, SECRET), (SECRET, MINE)], ids="+".join)
def test_acks_0_to_a_denied_topic_closes_without_an_answer(lab: Cluster, topics: tuple[str, ...]) -> None:
    """As the broker does: there is no answer that could say it."""
    with wire.wired(lab, "billing") as client:
        port = client.port
        client.send("Produce", 9, produce(topics, "unanswered", acks=0))
        assert client.ended() == b""
    assert _refused(lab, port) is not None


def test_pipelined_mixes_are_answered_in_order(lab: Cluster) -> None:
    asked: list[tuple[str, int, Tree, Callable[[Tree], object], object]] = [
        ("Metadata", 12, metadata([{"Name": SECRET}]), lambda a: a["Topics"][0]["ErrorCode"], wire.TOPIC_DENIED),
        ("Produce", 9, produce([MINE], "first"), produced, {MINE: wire.NONE}),
        ("Produce", 9, produce([SECRET], "no"), produced, {SECRET: wire.TOPIC_DENIED}),
        ("Fetch", 12, fetch([SECRET, MINE]), lambda a: fetched(a)[SECRET], (wire.TOPIC_DENIED, [])),
        ("Produce", 9, produce([SECRET, MINE], "second"), produced, {SECRET: wire.TOPIC_DENIED, MINE: wire.NONE}),
        ("ListOffsets", 7, wire.list_offsets(SECRET), _listed, wire.TOPIC_DENIED),
        ("Metadata", 12, metadata([{"Name": MINE}]), lambda a: a["Topics"][0]["ErrorCode"], wire.NONE),
        ("Fetch", 12, fetch([SECRET]), lambda a: fetched(a)[SECRET], (wire.TOPIC_DENIED, [])),
    ] * 4
    with wire.wired(lab, "billing") as client:
        client.raw(b"".join(frames.framed(client.made(api, version, body)) for api, version, body, _, _ in asked))
        for number, (api, _, _, look, expected) in enumerate(asked, 1):
            correlation, answer = client.answer()
            assert correlation == number
            assert look(answer) == expected, api


def _listed(answer: Tree) -> object:
    return answer["Topics"][0]["Partitions"][0]["ErrorCode"]


def test_a_request_beside_one_that_is_acks_0_keeps_its_answer(lab: Cluster) -> None:
    with wire.wired(lab, "billing") as client:
        client.send("Produce", 9, produce([MINE], "acks 0", acks=0))
        client.send("Produce", 9, produce([MINE], "after it"))
        assert client.answer()[0] == 2
        client.send("Metadata", 12, metadata([{"Name": MINE}]))
        client.send("Produce", 9, produce([SECRET], "ends it", acks=0))
        assert client.answer()[0] == 3
        assert client.ended() == b""


# ---- reading what may not be read


def test_all_topics_are_those_that_may_be_seen(lab: Cluster) -> None:
    with wire.wired(lab, "billing") as client:
        assert set(client.topics()) == {MINE}
        told = client.topics(SECRET, MINE, "no-such-topic")
    assert (told[SECRET]["ErrorCode"], bytes(told[SECRET]["TopicId"])) == (wire.TOPIC_DENIED, wire.NO_ID)
    assert told["no-such-topic"]["ErrorCode"] == wire.TOPIC_DENIED
    assert told[MINE]["ErrorCode"] == wire.NONE


def test_asking_for_a_topic_does_not_create_it(lab: Cluster) -> None:
    with wire.wired(lab, "billing") as client:
        answer = client.ask("Metadata", 12, metadata([{"Name": "orders-2"}], create=True))
        assert answer["Topics"][0]["ErrorCode"] == wire.TOPIC_DENIED
        client.ask("Metadata", 1, {"Topics": [{"Name": "orders-3"}]})
    with wire.behind(lab) as inside:
        assert {"orders-2", "orders-3"}.isdisjoint(inside.topics())


def test_the_id_of_a_denied_topic_opens_nothing(lab: Cluster) -> None:
    with wire.behind(lab) as inside:
        mine, secret = inside.topic_id(MINE), inside.topic_id(SECRET)
    with wire.wired(lab, "billing") as client:
        told = fetched(client.ask("Fetch", 13, fetch([secret])))
        assert told[secret] in ((wire.TOPIC_DENIED, []), (wire.UNKNOWN_TOPIC_ID, []))
        told = fetched(client.ask("Fetch", 13, fetch([mine, secret])))
        assert told[mine][0] == wire.NONE
        assert told[secret][0] in (wire.TOPIC_DENIED, wire.UNKNOWN_TOPIC_ID)
        answer = client.ask("Metadata", 12, metadata([{"TopicId": secret, "Name": None}]))
        assert (answer["Topics"][0]["ErrorCode"], answer["Topics"][0]["Name"]) == (wire.TOPIC_DENIED, None)
        body = {"Acks": -1, "TimeoutMs": 15_000, "TopicData": [
            {"TopicId": each, "PartitionData": [{"Index": 0, "Records": batch("by id")}]} for each in (secret, mine)
        ]}  # fmt: skip
        answer = client.ask("Produce", 13, body)
        codes = {bytes(one["TopicId"]): one["PartitionResponses"][0]["ErrorCode"] for one in answer["Responses"]}
    assert codes[mine] == wire.NONE
    assert codes[secret] in (wire.TOPIC_DENIED, wire.UNKNOWN_TOPIC_ID)


def test_an_id_that_is_none_is_unknown(lab: Cluster) -> None:
    made_up = b"\x13" * 16
    with wire.wired(lab, "billing") as client:
        answer = client.ask("Fetch", 13, fetch([made_up]))
        assert answer["ErrorCode"] or fetched(answer)[made_up][0] == wire.UNKNOWN_TOPIC_ID
        assert client.topics(MINE)[MINE]["ErrorCode"] == wire.NONE


def test_a_session_of_somebody_else_is_not_ours(lab: Cluster) -> None:
    """The broker knows a fetch session by its number alone, whoever names it."""
    with wire.behind(lab) as inside:
        opened = inside.ask("Fetch", 12, fetch([SECRET], epoch=0))
        assert opened["SessionId"] > 0
        with wire.wired(lab, "billing") as client:
            for epoch in (1, 2, -1):
                answer = client.ask("Fetch", 12, fetch([], session=opened["SessionId"], epoch=epoch))
                assert fetched(answer) == {}
                assert epoch == -1 or answer["ErrorCode"] == wire.FETCH_SESSION_NOT_FOUND


def test_a_denied_topic_cannot_be_put_into_a_session(lab: Cluster) -> None:
    with wire.wired(lab, "billing") as client:
        opened = client.ask("Fetch", 12, fetch([MINE], epoch=0))
        answer = client.ask("Fetch", 12, fetch([SECRET], session=opened["SessionId"], epoch=1))
        assert [values for _, values in fetched(answer).values() if KEPT in values] == []
        assert answer["ErrorCode"] or fetched(answer)[SECRET][0] == wire.TOPIC_DENIED
        answer = client.ask("Fetch", 12, fetch([], session=opened["SessionId"], epoch=2))
        assert SECRET not in fetched(answer)


def test_a_follower_is_not_believed(lab: Cluster) -> None:
    """A replica's Fetch asks for ClusterAction, which no pod has."""
    with wire.wired(lab, "billing") as client:
        port = client.port
        client.send("Fetch", 12, fetch([SECRET]) | {"ReplicaId": 1})
        try:
            _, answer = client.answer()
        except Closed:
            pass
        else:
            assert [values for _, values in fetched(answer).values() if values] == []
            assert answer["ErrorCode"] or {code for code, _ in fetched(answer).values()} <= {29, 31}
    assert _refused(lab, port) is not None


@pytest.mark.parametrize("api", ["ControlledShutdown", "AlterPartition", "WriteTxnMarkers", "Envelope", "Vote"])
def test_what_brokers_say_to_each_other_is_refused(lab: Cluster, api: str) -> None:
    if TABLE.apis[TABLE.keys[api]].request is None:
        version = 0
        data = struct.pack(">hhih", TABLE.keys[api], version, 1, -1)
    else:
        message = TABLE.apis[TABLE.keys[api]].request
        assert message is not None
        data = frame(api, message.versions[1], {})
    with wire.wired(lab, "billing") as client:
        port = client.port
        client.raw(frames.framed(data))
        client.sock.shutdown(1)
        client.ended()
    assert _refused(lab, port) is not None


# ---- SASL


def test_a_handshake_without_headers_is_refused(lab: Cluster) -> None:
    """SaslHandshake 0 would be followed by bytes without a header, in which anything could go by."""
    with wire.wired(lab, "billing") as client:
        port = client.port
        client.send("SaslHandshake", 0, {"Mechanism": "PLAIN"})
        client.raw(frames.framed(b"\0user\0password"))
        client.raw(frames.framed(frame("Metadata", 12, metadata(None))))
        rest = client.ended()
    assert SECRET.encode() not in rest
    assert _refused(lab, port) is not None


# ---- a broker that lies


def test_a_fake_broker_teaches_nobody(shared_kafka: Cluster) -> None:
    """A pod that answers as a broker says that the secret topic's id is the allowed topic's; the real broker's answers
    alone count for the real broker."""
    from tests.helpers.live import Client as Peer
    from tests.helpers.live import server

    lab = shared_kafka
    lab.delete_policies()
    with wire.behind(lab) as inside:
        secret = inside.topic_id(SECRET)
    fake = policy.kafka_policy("fake", {"role": "consume", "topic": MINE}, at="billing", peer="web", direction="egress")
    lab.apply(policy.egress({"role": "consume", "topic": MINE}), fake)
    asked = threading.Event()

    def lie(peer: Peer) -> None:
        while True:
            (size,) = struct.unpack(">i", peer._exactly(4))
            request = frames.decode_request(peer._exactly(size))
            topic = {"ErrorCode": 0, "Name": MINE, "TopicId": secret, "IsInternal": False, "Partitions": []}
            body = {"Brokers": [], "ClusterId": "same", "ControllerId": 1, "Topics": [topic]}
            peer.send(frames.framed(frames.encode_response(
                request.api_key, request.api_version, request.correlation_id, body
            )))  # fmt: skip
            asked.set()

    try:
        with server(lab, "web", wire.PORT, lie):
            with wire.wired(lab, "billing", "web") as client:
                assert bytes(client.topics(MINE)[MINE]["TopicId"]) == secret
            assert asked.wait(5)
            with wire.wired(lab, "billing") as client:
                told = fetched(client.ask("Fetch", 13, fetch([secret])))
        assert told[secret] in ((wire.TOPIC_DENIED, []), (wire.UNKNOWN_TOPIC_ID, []))
    finally:
        lab.delete_policies()


def test_an_answer_to_nothing_ends_the_connection(shared_kafka: Cluster) -> None:
    """A broker that answers with another correlation id, or before it was asked, is not understood: closed on both
    sides, and recorded."""
    from tests.helpers.live import Client as Peer
    from tests.helpers.live import server

    lab = shared_kafka
    lab.delete_policies()
    lab.forget()
    lab.apply(policy.kafka_policy("fake", *RULES, at="billing", peer="web", direction="egress"))

    def answer_wrongly(peer: Peer) -> None:
        (size,) = struct.unpack(">i", peer._exactly(4))
        request = frames.decode_request(peer._exactly(size))
        body: Tree = {"Brokers": [], "ClusterId": "x", "ControllerId": 1, "Topics": []}
        data = frames.encode_response(request.api_key, request.api_version, request.correlation_id + 1, body)
        peer.send(frames.framed(data))
        peer.rest()

    try:
        with server(lab, "web", wire.PORT, answer_wrongly), wire.wired(lab, "billing", "web") as client:
            port = client.port
            client.send("Metadata", 12, metadata([{"Name": MINE}]))
            assert client.ended() == b""
        assert _refused(lab, port) is not None
    finally:
        lab.delete_policies()
