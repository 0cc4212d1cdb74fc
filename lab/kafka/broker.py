"""One broker, and controller beside it (KRaft, combined), as a pod's own command: `python -m lab.kafka.broker …`.

It makes the broker's directory once, and starts the broker again when that ends, as a kubelet would.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.kafka import java
from lab.supervisor import supervise

CLIENTS_PORT, BROKERS_PORT, CONTROLLER_PORT = 9092, 9091, 9093
JVM = "TULLE_LAB_KAFKA_JVM"
"""Options for the brokers' Java in place of java.SMALL, as one string; for benchmarks."""


def properties(node_id: int, peers: Sequence[str], advertise: str, data: Path) -> str:
    """server.properties of one broker. peers: what each broker is called by the others, by node id."""
    host = peers[node_id]
    copies = min(3, len(peers))
    voters = ",".join(f"{number}@{peer}:{CONTROLLER_PORT}" for number, peer in enumerate(peers))
    listeners = f"CLIENTS://:{CLIENTS_PORT},BROKERS://{host}:{BROKERS_PORT},CONTROLLER://{host}:{CONTROLLER_PORT}"
    given = {
        "process.roles": "broker,controller",
        "node.id": node_id,
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        "listeners": listeners,
        "advertised.listeners": f"CLIENTS://{advertise}:{CLIENTS_PORT},BROKERS://{host}:{BROKERS_PORT}",
        "listener.security.protocol.map": "CLIENTS:PLAINTEXT,BROKERS:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "BROKERS",
        "log.dirs": data / "log",
        "default.replication.factor": copies,
        # with three, what is acknowledged outlives one broker, and one may be away
        "min.insync.replicas": max(1, copies - 1),
        # a batch as large as a request may be; Kafka's own default for batches is 1 MiB
        "message.max.bytes": 104857600,
        # a lab is small: a few threads, and internal topics of 4 partitions where Kafka has 50
        "num.network.threads": 2,
        "num.io.threads": 4,
        "log.cleaner.dedupe.buffer.size": 2097152,  # else 128 MiB of heap
        # no waiting: the first member of a group is alone, a broker killed is away within 2 s
        "group.initial.rebalance.delay.ms": 0,
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
    }
    for topic in ("offsets", "transaction.state.log", "share.coordinator.state"):
        prefix = f"{topic}.topic" if topic != "transaction.state.log" else topic
        given[f"{prefix}.num.partitions"] = 4
        given[f"{prefix}.replication.factor"] = copies
        if topic != "offsets":
            given[f"{prefix}.min.isr"] = max(1, copies - 1)
    return "".join(f"{key}={value}\n" for key, value in given.items())


def format_storage(temporary: Path, file: Path, cluster_id: str) -> None:
    """Make a broker's log directory, as server.properties has it; exits where that fails."""
    command = java.java(java.STORAGE, "format", "-c", str(file), "-t", cluster_id, temporary=temporary)
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:  # noqa: S603  our own command
        sys.exit(f"cannot format the storage of {file}")


def main() -> None:
    """Never returns."""
    parser = argparse.ArgumentParser(prog="tulle-kafka", description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="the broker's own directory")
    parser.add_argument("--cluster-id", required=True, help="22 characters of base64")
    parser.add_argument("--node-id", required=True, type=int, help="its place among the peers")
    parser.add_argument("--advertise", required=True, help="the name that clients are told")
    parser.add_argument("--peers", required=True, help="names of all brokers, by node id")
    arguments = parser.parse_args()
    data: Path = arguments.data
    temporary, file = data / "tmp", data / "server.properties"
    temporary.mkdir(parents=True, exist_ok=True)
    file.write_text(properties(arguments.node_id, arguments.peers.split(","), arguments.advertise, data))
    if not (data / "log" / "meta.properties").exists():
        format_storage(temporary, file, arguments.cluster_id)
    options = os.environ[JVM].split() if JVM in os.environ else java.SMALL
    log = Path("/proc/self/fd/2").readlink()
    supervise(java.java(java.BROKER, str(file), options=options, temporary=temporary), None, log, what="broker")


if __name__ == "__main__":
    main()
