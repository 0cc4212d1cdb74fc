"""One Kafka flow without a socket: requests and answers as trees, and what came of them."""

from collections.abc import Callable
from dataclasses import replace

from parsers.kafka.codec import Tree
from parsers.kafka.frames import (
    Request,
    Response,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    framed,
)
from parsers.kafka.table import TABLE
from policies.engine import Engine, Permit
from policies.requests import Operation, Resource
from policies.ruleset import KafkaRule
from proxy.counters import new_counters
from proxy.events import Layer
from proxy.flow import Flow
from proxy.flow_event import FlowEvent
from proxy.kafka.apis import refuse
from proxy.kafka.plan import Action, Authorizer, Plan
from proxy.kafka.shared import Shared
from proxy.layers.kafka import KafkaLayer
from proxy.limits import Limits
from proxy.policy_box import PolicyBox
from tests.proxy.dialogue import PORT, ScriptedEdge
from tests.proxy.helpers import EGRESS, ENDPOINT, rules

PRODUCE, FETCH, METADATA, API_VERSIONS, HEARTBEAT = 0, 1, 3, 18, 12
TOPIC_DENIED = 29


def ids_of(*names: str) -> dict[str, bytes]:
    """A topic id for each name."""
    return {name: (name.encode() * 16)[:16] for name in names}


def kafka_rules(*topics: str, revision: int = 1, audit: bool = False) -> Engine:
    """Rules that allow these topics, whatever is asked of them."""
    return rules(
        port=PORT,
        revision=revision,
        audit=audit,
        kafka=tuple(KafkaRule(f"r-{topic}", topic=topic) for topic in topics),
    )


def judge(request: Request, authorizer: Authorizer) -> Plan:
    """Produce by topic, and everything else that names none: enough to see how frames travel."""
    if request.api_key != PRODUCE:
        authorizer.allows(Operation.NOTHING, Resource.CLUSTER, "")
        return Plan(edit=_only_seen(authorizer)) if request.api_key == METADATA else Plan()
    version, topics = request.api_version, request.body["TopicData"]
    names = [authorizer.topic_name(topic["TopicId"]) if version >= 13 else topic["Name"] for topic in topics]
    errors = [
        100 if name is None else 0 if authorizer.allows(Operation.WRITE, Resource.TOPIC, name) else TOPIC_DENIED
        for name in names
    ]
    if not any(errors):
        return Plan()
    mine = {
        index: _told(topic, error, version)
        for index, (topic, error) in enumerate(zip(topics, errors, strict=True))
        if error
    }
    silent = request.body["Acks"] == 0
    if len(mine) == len(topics):
        if silent:
            return Plan(Action.CLOSE, reason="denied")
        return Plan(Action.ANSWER, answer={"Responses": list(mine.values())})

    def merged(answer: Tree) -> Tree:
        theirs = iter(answer["Responses"])
        return answer | {"Responses": [mine[i] if i in mine else next(theirs) for i in range(len(topics))]}

    kept = [topic for topic, error in zip(topics, errors, strict=True) if not error]
    return Plan(Action.EDIT, request.body | {"TopicData": kept}, edit=merged, closes=silent)


def _told(topic: Tree, error: int, version: int) -> Tree:
    name: Tree = {"TopicId": topic["TopicId"]} if version >= 13 else {"Name": topic["Name"]}
    return name | {
        "PartitionResponses": [
            {"Index": each["Index"], "ErrorCode": error, "BaseOffset": -1} for each in topic["PartitionData"]
        ]
    }


def _only_seen(authorizer: Authorizer) -> Callable[[Tree], Tree]:
    def edit(answer: Tree) -> Tree:
        seen = [
            topic
            for topic in answer["Topics"]
            if not topic["Name"] or authorizer.sees(Operation.DESCRIBE, Resource.TOPIC, topic["Name"])
        ]
        return answer | {"Topics": seen}

    return edit


def request(key: int, version: int, correlation_id: int, body: Tree, client_id: str | None = "test") -> bytes:
    """A framed request."""
    return framed(encode_request(Request(key, version, correlation_id, client_id, body)))


def answer(key: int, version: int, correlation_id: int, body: Tree) -> bytes:
    """A framed answer."""
    return framed(encode_response(key, version, correlation_id, body))


def produce(correlation_id: int, *topics: str, acks: int = 1, records: bytes = b"records", version: int = 9) -> bytes:
    """A Produce request, one partition a topic."""
    ids = ids_of(*topics)
    return request(
        PRODUCE,
        version,
        correlation_id,
        {
            "Acks": acks,
            "TimeoutMs": 1000,
            "TopicData": [
                {"Name": topic, "TopicId": ids[topic], "PartitionData": [{"Index": 0, "Records": records}]}
                for topic in topics
            ],
        },
    )


def produced(correlation_id: int, *topics: str, error: int = 0, version: int = 9) -> bytes:
    """The broker's answer to it."""
    ids = ids_of(*topics)
    return answer(
        PRODUCE,
        version,
        correlation_id,
        {
            "Responses": [
                {
                    "Name": topic,
                    "TopicId": ids[topic],
                    "PartitionResponses": [{"Index": 0, "ErrorCode": error, "BaseOffset": 5}],
                }
                for topic in topics
            ]
        },
    )


def fetch(
    correlation_id: int,
    *topics: str,
    session: int = 0,
    epoch: int = 0,
    forget: tuple[str, ...] = (),
    version: int = 12,
    replica: int = -1,
) -> bytes:
    """A Fetch request, partitions 0 and 1 of each topic."""
    ids = ids_of(*topics, *forget)
    return request(
        FETCH,
        version,
        correlation_id,
        {
            "ReplicaId": replica,
            "ReplicaState": {"ReplicaId": replica, "ReplicaEpoch": -1},
            "MaxWaitMs": 500,
            "MinBytes": 1,
            "SessionId": session,
            "SessionEpoch": epoch,
            "Topics": [
                {
                    "Topic": topic,
                    "TopicId": ids[topic],
                    "Partitions": [
                        {"Partition": index, "FetchOffset": 0, "PartitionMaxBytes": 1 << 20} for index in (0, 1)
                    ],
                }
                for topic in topics
            ],
            "ForgottenTopicsData": [{"Topic": topic, "TopicId": ids[topic], "Partitions": [0, 1]} for topic in forget],
        },
    )


def fetched(
    correlation_id: int,
    *topics: str,
    session: int = 0,
    error: int = 0,
    records: bytes = b"records",
    version: int = 12,
) -> bytes:
    """The broker's answer to it."""
    ids = ids_of(*topics)
    return answer(
        FETCH,
        version,
        correlation_id,
        {
            "ErrorCode": error,
            "SessionId": session,
            "Responses": [
                {
                    "Topic": topic,
                    "TopicId": ids[topic],
                    "Partitions": [{"PartitionIndex": 0, "HighWatermark": 1, "Records": records}],
                }
                for topic in topics
            ],
        },
    )


def metadata(correlation_id: int, version: int = 12) -> bytes:
    """A Metadata request for all topics."""
    return request(METADATA, version, correlation_id, {"Topics": None, "AllowAutoTopicCreation": False})


def described(correlation_id: int, *topics: str, version: int = 12, unknown: tuple[bytes, ...] = ()) -> bytes:
    """The broker's answer to it. unknown: ids that it does not know."""
    known: list[Tree] = [
        {"Name": topic, "TopicId": topic_id, "Partitions": []} for topic, topic_id in ids_of(*topics).items()
    ]
    known += [{"ErrorCode": 100, "Name": None, "TopicId": topic_id, "Partitions": []} for topic_id in unknown]
    return answer(METADATA, version, correlation_id, {"Brokers": [], "Topics": known})


class KafkaEdge(ScriptedEdge):
    """Writes down what it is asked. opens: a leg stands at once."""

    def __init__(self, *, opens: bool = True) -> None:
        super().__init__()
        self.opens = opens
        self.target: Layer | None = None

    def _bytes(self, side: str, data: bytes | memoryview) -> None:
        """They are compared as frames."""

    def open_upstream(self, permit: Permit) -> None:
        super().open_upstream(permit)
        if self.opens:
            assert self.target is not None
            (self.layer or self.target).upstream_open()


class Talk:
    """One flow that may use these topics."""

    def __init__(
        self,
        *topics: str,
        limits: Limits | None = None,
        audit: bool = False,
        opens: bool = True,
        shared: Shared | None = None,
    ) -> None:
        self.edge = KafkaEdge(opens=opens)
        self.box = PolicyBox(kafka_rules(*topics, audit=audit))
        self.counters = new_counters()
        self.shared = shared or Shared(self.counters, judge, refuse)
        self.flow = Flow(
            self.box,
            self.emit,
            limits or Limits(),
            self.counters,
            ENDPOINT,
            EGRESS,
            ("192.0.2.1", 1000),
            ("192.0.2.2", PORT),
        )
        self.events: list[FlowEvent] = []
        self.layer = KafkaLayer(self.flow, self.edge, self.shared, lenient=audit)
        self.edge.target = self.layer
        self.layer.start()

    def emit(self, event: FlowEvent) -> None:
        """Keep an event as it is now."""
        kafka = event.kafka
        self.events.append(replace(event, kafka=replace(kafka) if kafka is not None else None))

    @property
    def now(self) -> Layer:
        """Whose flow it is."""
        return self.edge.layer or self.layer

    def client(self, *data: bytes) -> None:
        """The client sends."""
        for each in data:
            self.now.downstream_data(each)

    def broker(self, *data: bytes) -> None:
        """The broker sends."""
        for each in data:
            self.now.upstream_data(each)

    def swap(self, *topics: str) -> None:
        """Other rules, as the server tells of them."""
        self.box.swap(kafka_rules(*topics, revision=self.box.revision + 1))
        self.layer.rules_changed()

    @property
    def down(self) -> list[bytes]:
        """Frames to the client."""
        return frames(bytes(self.edge.down))

    @property
    def up(self) -> list[bytes]:
        """Frames to the broker."""
        return frames(bytes(self.edge.legs[-1])) if self.edge.legs else []

    def sent(self) -> list[Request]:
        """Requests that the broker got."""
        return [decode_request(frame) for frame in self.up]

    def got(self, key: int, version: int, index: int = -1) -> Response:
        """One answer that the client got."""
        return decode_response(key, version, self.down[index])

    def correlations(self) -> list[int]:
        """Of all answers that the client got."""
        return [int.from_bytes(frame[:4]) for frame in self.down]

    def records(self) -> list[str]:
        """What was recorded, in short."""
        return [record(event) for event in self.events]

    @property
    def over(self) -> str:
        """How the flow ended; "" where it did not."""
        ends = [said for said in self.edge.said if said.startswith(("finish", "reset"))]
        assert len(ends) <= 1, ends
        return ends[0] if ends else ""


def record(event: FlowEvent) -> str:
    """A record in one line."""
    kafka = event.kafka
    if kafka is None:
        return f"{event.verdict} {event.reason}"
    code = "-" if kafka.error_code is None else kafka.error_code
    about = f"{kafka.operation} {kafka.name}".strip() if kafka.operation else event.reason
    late = " reply" if event.is_reply else ""
    return f"{event.verdict} {kafka.api} {about} {code} by {event.rule}{late}"


def frames(data: bytes) -> list[bytes]:
    """Frames without their lengths; what is not whole fails."""
    found = []
    while data:
        size = int.from_bytes(data[:4])
        assert len(data) >= 4 + size, "a frame is not whole"
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def newest(key: int) -> int:
    """The newest version of an API."""
    request = TABLE.apis[key].request
    assert request is not None
    return request.versions[1]
