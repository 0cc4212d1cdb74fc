"""Waits inside a pod until Kafka works for its clients: `python -m lab.kafka.ready kafka:9092 BROKERS TOPIC …`.

What a first client would have to wait for, or retry, is waited for here: every broker answers by the name that it
advertises, the topics are there with all their replicas in sync, and so are the coordinators of groups, transactions
and share groups, whose topics Kafka makes when they are first asked for.
"""

import argparse
import socket
import struct
import sys
import time
from contextlib import suppress
from itertools import count

from parsers.errors import ProtocolError
from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request, decode_response, encode_request, framed
from parsers.kafka.table import TABLE

ANSWER_TIMEOUT_S = 10.0
POLL_S = 0.05
MAX_ANSWER = 1 << 20  # of a handful of topics: some kilobytes

METADATA, CREATE_TOPICS, FIND_COORDINATOR = (
    TABLE.keys[name] for name in ("Metadata", "CreateTopics", "FindCoordinator")
)
METADATA_VERSION, CREATE_TOPICS_VERSION, FIND_COORDINATOR_VERSION = 12, 7, 6
TOPIC_ALREADY_EXISTS = 36
# any group, any transactional id, any share partition (group:topic id:partition, KIP-932), by key type
COORDINATORS = ("ready", "ready", "ready:AAAAAAAAAAAAAAAAAAAAAQ:0")


class NotYet(Exception):
    """What is still missing."""


class Client:
    """One connection to a broker, one request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), ANSWER_TIMEOUT_S)
        self._ids = count(1)

    def close(self) -> None:
        self._socket.close()

    def ask(self, key: int, version: int, body: Tree) -> Tree:
        """Raises OSError, ProtocolError."""
        self._socket.sendall(framed(encode_request(Request(key, version, next(self._ids), "tulle-lab", body))))
        (size,) = struct.unpack(">i", self._read(4))
        if not 0 <= size <= MAX_ANSWER:
            raise NotYet(f"an answer of {size} bytes")
        return decode_response(key, version, self._read(size)).body

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise NotYet("the broker closed the connection")
            data += piece
        return data


def check(host: str, port: int, brokers: int, topics: list[str]) -> None:
    """Raises NotYet, OSError, ProtocolError."""
    client = Client(host, port)
    try:
        wanted: Tree = {"Topics": None, "AllowAutoTopicCreation": False}
        cluster = client.ask(METADATA, METADATA_VERSION, wanted)
        if len(cluster["Brokers"]) < brokers:
            raise NotYet(f"{len(cluster['Brokers'])} of {brokers} brokers")
        create(client, topics, brokers)
        coordinators(client)
        cluster = client.ask(METADATA, METADATA_VERSION, wanted)
        for topic in cluster["Topics"]:
            for partition in topic["Partitions"]:
                if partition["LeaderId"] < 0 or len(partition["IsrNodes"]) < len(partition["ReplicaNodes"]):
                    raise NotYet(f"{topic['Name']}-{partition['PartitionIndex']} is not in sync")
        missing = set(topics) - {topic["Name"] for topic in cluster["Topics"]}
        if missing:
            raise NotYet(f"no topic {', '.join(sorted(missing))}")
    finally:
        client.close()
    for broker in cluster["Brokers"]:  # each has heard of the topics, by the name that clients are told
        each = Client(broker["Host"], broker["Port"])
        try:
            named: Tree = {"Topics": [{"Name": topic} for topic in topics], "AllowAutoTopicCreation": False}
            for topic in each.ask(METADATA, METADATA_VERSION, named)["Topics"]:
                if topic["ErrorCode"]:
                    raise NotYet(f"broker {broker['NodeId']} has error {topic['ErrorCode']} for {topic['Name']}")
        finally:
            each.close()


def create(client: Client, topics: list[str], brokers: int) -> None:
    """Make the topics: as many partitions as brokers, so that each leads some; up to three replicas."""
    made = client.ask(
        CREATE_TOPICS,
        CREATE_TOPICS_VERSION,
        {
            "Topics": [
                {"Name": name, "NumPartitions": brokers, "ReplicationFactor": min(3, brokers)} for name in topics
            ],
            "timeoutMs": int(ANSWER_TIMEOUT_S * 1000),
        },
    )
    for topic in made["Topics"]:
        if topic["ErrorCode"] not in (0, TOPIC_ALREADY_EXISTS):
            raise NotYet(f"topic {topic['Name']}: error {topic['ErrorCode']}: {topic['ErrorMessage']}")


def coordinators(client: Client) -> None:
    for kind, key in enumerate(COORDINATORS):
        answer = client.ask(FIND_COORDINATOR, FIND_COORDINATOR_VERSION, {"KeyType": kind, "CoordinatorKeys": [key]})
        for found in answer["Coordinators"]:
            if found["ErrorCode"]:
                raise NotYet(f"coordinator of kind {kind}: error {found['ErrorCode']}: {found['ErrorMessage']}")


def main() -> None:
    """Ends when it works; what is still missing goes to standard error whenever that changes."""
    parser = argparse.ArgumentParser(prog="python -m lab.kafka.ready", description=__doc__)
    parser.add_argument("bootstrap", metavar="HOST:PORT")
    parser.add_argument("brokers", type=int)
    parser.add_argument("topics", nargs="+", metavar="TOPIC")
    arguments = parser.parse_args()
    host, _, port = arguments.bootstrap.rpartition(":")
    said = ""
    while True:
        try:
            return check(host, int(port), arguments.brokers, arguments.topics)
        except (NotYet, OSError, ProtocolError) as error:
            if str(error) != said:
                said = str(error)
                with suppress(OSError):
                    print(f"{arguments.bootstrap}: {said}", file=sys.stderr, flush=True)
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
