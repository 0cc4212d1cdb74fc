"""One connection that speaks Kafka frame by frame, and lets a test send what no client would.

What it writes and reads goes by the product's table; that the table is right is shown by the real clients.
"""

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from lab import state
from parsers.kafka import frames
from parsers.kafka.codec import Tree
from parsers.kafka.table import TABLE
from tests.helpers.cluster import ROOT, Cluster, eventually
from tests.helpers.live import inside

TIMEOUT_S = 20.0
NO_ID = bytes(16)
PORT = 9092

NONE, OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC = 0, 1, 3
TOPIC_DENIED, GROUP_DENIED, CLUSTER_DENIED, TRANSACTIONAL_ID_DENIED = 29, 30, 31, 53
TOPIC_EXISTS = 36
TOPIC_CONFIG, GROUP_CONFIG = 2, 32
UNSUPPORTED_VERSION, FETCH_SESSION_NOT_FOUND, INVALID_FETCH_EPOCH, UNKNOWN_TOPIC_ID = 35, 70, 71, 100


def frame(api: str, version: int, body: Tree, correlation: int = 1, client_id: str | None = "wire") -> bytes:
    """A request, without its length."""
    return frames.encode_request(frames.Request(TABLE.keys[api], version, correlation, client_id, body))


def batch(*values: str) -> bytes:
    """One record batch (magic 2, not compressed) of these values."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0,
        producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=1 << 24,
    )  # fmt: skip
    for offset, value in enumerate(values):
        builder.append(offset, timestamp=None, key=None, value=value.encode(), headers=[])
    return bytes(builder.build())


def read_batches(records: Any) -> Iterator[str]:
    """The values in what a Fetch brought; the last batch may be cut."""
    found = MemoryRecords(bytes(records or b""))
    while found.has_next():
        read = found.next_batch()
        if read is not None:
            yield from (record.value.decode() for record in read)


class Closed(ConnectionError):
    """The other side has ended the connection where a frame was due. `rest` is what came of it."""

    def __init__(self, rest: bytes) -> None:
        super().__init__(f"closed after {len(rest)} bytes of a frame")
        self.rest = rest


class Wire:
    """Requests out, answers in; correlation ids count up from 1."""

    def __init__(self, sock: socket.socket, client_id: str = "wire") -> None:
        self.sock = sock
        self.client_id = client_id
        self.correlation = 0
        self.asked: dict[int, tuple[str, int]] = {}
        """By correlation id, what an answer is to be read as."""

    @property
    def port(self) -> int:
        """Our own."""
        number: int = self.sock.getsockname()[1]
        return number

    def send(self, api: str, version: int, body: Tree) -> int:
        """Send one request whole; gives its correlation id."""
        data = self.made(api, version, body)
        self.raw(frames.framed(data))
        return self.correlation

    def made(self, api: str, version: int, body: Tree) -> bytes:
        """The next request, without its length, not sent."""
        self.correlation += 1
        self.asked[self.correlation] = (api, version)
        return frame(api, version, body, self.correlation, self.client_id)

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def answer(self) -> tuple[int, Tree]:
        """The next answer: (correlation id, body). Raises Closed when the connection has ended."""
        (size,) = struct.unpack(">i", self._exactly(4))
        data = self._exactly(size)
        (correlation,) = struct.unpack_from(">i", data)
        api, version = self.asked[correlation]
        found = frames.decode_response(TABLE.keys[api], version, data)
        assert (found.trailing, found.unknown_tags) == (0, 0)
        return correlation, found.body

    def ask(self, api: str, version: int, body: Tree) -> Tree:
        """One request and its answer."""
        sent = self.send(api, version, body)
        correlation, answer = self.answer()
        assert correlation == sent
        return answer

    def ended(self) -> bytes:
        """Wait until the other side ends the connection; gives what came before."""
        rest = b""
        try:
            while data := self.sock.recv(65536):
                rest += data
        except ConnectionResetError:
            pass
        return rest

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = self.sock.recv(count - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                raise Closed(data)
            data += more
        return data

    # ---- what most tests ask

    def topics(self, *names: str) -> dict[str | None, Tree]:
        """Metadata of topics by name; of all when none is named."""
        wanted = [{"TopicId": NO_ID, "Name": name} for name in names] if names else None
        return {topic["Name"]: topic for topic in self.ask("Metadata", 12, metadata(wanted))["Topics"]}

    def topic_id(self, name: str) -> bytes:
        """Of a topic that there is."""
        found = self.topics(name)[name]
        assert found["ErrorCode"] == NONE
        return bytes(found["TopicId"])

    def produce(self, topic: str, *values: str, acks: int = -1) -> int:
        """Send values to partition 0 and give the error code."""
        return produced(self.ask("Produce", 9, produce([topic], *values, acks=acks)))[topic]

    def fetch(self, topic: str, offset: int = 0, **more: Any) -> tuple[int, list[str]]:
        """(error code, values) of partition 0, by name."""
        answer = self.ask("Fetch", 12, fetch([topic], offset=offset, **more))
        return fetched(answer)[topic]

    def values(self, topic: str) -> list[str]:
        """Everything that partition 0 has."""
        listed = self.ask("ListOffsets", 7, list_offsets(topic))
        end = listed["Topics"][0]["Partitions"][0]["Offset"]
        found: list[str] = []
        while len(found) < end:
            code, more = self.fetch(topic, len(found))
            assert code == NONE
            assert more
            found += more
        return found


def metadata(topics: list[Tree] | None, *, create: bool = False) -> Tree:
    """Body of Metadata 12."""
    return {"Topics": topics, "AllowAutoTopicCreation": create}


def produce(topics: Sequence[str], *values: str, acks: int = -1, records: bytes | None = None) -> Tree:
    """Body of Produce 9: the same values to partition 0 of every topic."""
    data = batch(*values) if records is None else records
    return {
        "Acks": acks,
        "TimeoutMs": 15_000,
        "TopicData": [{"Name": topic, "PartitionData": [{"Index": 0, "Records": data}]} for topic in topics],
    }


def produced(answer: Tree) -> dict[str, int]:
    """Error codes of a Produce answer by topic, in its order."""
    return {one["Name"]: one["PartitionResponses"][0]["ErrorCode"] for one in answer["Responses"]}


def fetch(
    topics: Sequence[str | bytes], *, offset: int = 0, wait_ms: int = 100, session: int = 0, epoch: int = -1
) -> Tree:
    """Body of Fetch 12 (names) or 13 (ids), partition 0 of every topic."""
    partition = {"Partition": 0, "FetchOffset": offset, "PartitionMaxBytes": 1 << 20}
    return {
        "MaxWaitMs": wait_ms,
        "MinBytes": 1,
        "MaxBytes": 1 << 24,
        "SessionId": session,
        "SessionEpoch": epoch,
        "Topics": [
            {"Topic" if isinstance(topic, str) else "TopicId": topic, "Partitions": [partition]} for topic in topics
        ],
    }


def fetched(answer: Tree) -> dict[Any, tuple[int, list[str]]]:
    """(error code, values) by topic name or id."""
    return {
        bytes(one["TopicId"]) if "TopicId" in one else one["Topic"]: (
            one["Partitions"][0]["ErrorCode"],
            list(read_batches(one["Partitions"][0]["Records"])),
        )
        for one in answer["Responses"]
    }


def list_offsets(topic: str, timestamp: int = -1) -> Tree:
    """Body of ListOffsets 7: the end of partition 0, or the offset at a time."""
    partition = {"PartitionIndex": 0, "Timestamp": timestamp}
    return {"ReplicaId": -1, "Topics": [{"Name": topic, "Partitions": [partition]}]}


# Becomes a process of the pod, as hooks at its way out look at processes, connects, and hands the socket over.
CONNECT = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from lab.confine import enter_pod
enter_pod(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
back = socket.socket(fileno=int(sys.argv[7]))
try:
    made = socket.create_connection((sys.argv[5], int(sys.argv[6])), 20)
except OSError as error:
    back.send(str(error.errno).encode())
else:
    socket.send_fds(back, [b"0"], [made.fileno()])
"""


def connect(lab: Cluster, pod: str, address: str, port: int) -> socket.socket:
    """A connection that a process of the pod made. Raises OSError as its connect did."""
    running = state.running(lab.name)
    found = running.find_pod(pod)
    place = [str(ROOT), found.netns, found.cgroup, str(running.pod_dir(found)), address, str(port)]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = [sys.executable, "-S", "-E", "-c", CONNECT, *place, str(theirs.fileno())]
        with subprocess.Popen(argv, pass_fds=[theirs.fileno()]):  # noqa: S603  our own program
            theirs.close()
            ours.settimeout(TIMEOUT_S * 2)
            said, made, _, _ = socket.recv_fds(ours, 16, 1)
    if not made:
        number = int(said or errno.ECHILD)
        raise OSError(number, os.strerror(number))
    return socket.socket(fileno=made[0])


@contextmanager
def wired(lab: Cluster, pod: str, to: str = "kafka", port: int = PORT, *, client_id: str = "wire") -> Iterator[Wire]:
    """A connection from `pod` to the broker; raises OSError when it is refused."""
    with connect(lab, pod, lab.address(to), port) as sock:
        sock.settimeout(TIMEOUT_S)
        yield Wire(sock, client_id)


@contextmanager
def behind(lab: Cluster, pod: str = "kafka", port: int = PORT) -> Iterator[Wire]:
    """A connection inside the broker's own pod, which is never steered: what really is in a topic."""
    with inside(lab, pod):
        sock = socket.socket()
    with sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(("127.0.0.1", port))
        yield Wire(sock, "behind")


def create_topics(wire: Wire, *names: str) -> None:
    """Topics of one partition and one replica; one that is there already stays as it is."""
    topics = [{"Name": name, "NumPartitions": 1, "ReplicationFactor": 1} for name in names]
    answer = wire.ask("CreateTopics", 7, {"Topics": topics, "timeoutMs": 15_000})
    assert {topic["ErrorCode"] for topic in answer["Topics"]} <= {NONE, TOPIC_EXISTS}


def warm(wire: Wire) -> None:
    """Return when there are coordinators for groups, transactions and shares: the first request makes their topics."""
    for kind, key in ((0, "warm"), (1, "warm"), (2, "warm:AAAAAAAAAAAAAAAAAAAAAA:0")):
        body = {"KeyType": kind, "CoordinatorKeys": [key]}
        assert eventually(lambda body=body: _found(wire.ask("FindCoordinator", 6, body)), 60.0)  # type: ignore[misc]


def _found(answer: Tree) -> bool:
    return bool(answer["Coordinators"][0]["ErrorCode"] == NONE)


def delete_topic(wire: Wire, name: str) -> None:
    """Delete one topic by name."""
    answer = wire.ask("DeleteTopics", 6, {"Topics": [{"Name": name, "TopicId": NO_ID}], "TimeoutMs": 15_000})
    assert answer["Responses"][0]["ErrorCode"] == NONE


def set_config(wire: Wire, resource: int, name: str, key: str, value: str) -> None:
    """Set one configuration (IncrementalAlterConfigs): resource 2 is a topic, 32 a group."""
    config = {"Name": key, "ConfigOperation": 0, "Value": value}
    resources = [{"ResourceType": resource, "ResourceName": name, "Configs": [config]}]
    answer = wire.ask("IncrementalAlterConfigs", 1, {"Resources": resources})
    assert answer["Responses"][0]["ErrorCode"] == NONE
