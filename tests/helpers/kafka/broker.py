"""A broker of Apache Kafka on loopback, alone: what a client does without Tulle, and what it is told by Kafka's own
authorizer.

Two listeners for clients: PLAINTEXT, which may do everything, and SASL PLAIN, where user NAME has password NAME,
`admin` may do everything and everyone else what an ACL gives.
"""

import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.kafka.cluster import cluster_id
from lab.kafka.java import BROKER, STORAGE
from tests.helpers.kafka.artifacts import kafka
from tests.helpers.kafka.wire import TIMEOUT_S, Wire

START_S = 60.0
STOP_S = 30.0
STARTED = "Kafka Server started"
END_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""A test run that is ended by a signal leaves no broker."""

PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config={jaas}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:ANONYMOUS
log.dirs={data}
num.partitions=1
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=2097152
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """plain, sasl: where clients connect, as HOST:PORT."""

    plain: str
    sasl: str


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


@contextmanager
def broker(users: Sequence[str] = ()) -> Iterator[Broker]:
    """A broker that lives as long as the block; `users` can log in beside `admin`."""
    plain, sasl, controller = _free_ports(3)
    known = " ".join(f'user_{user}="{user}"' for user in ("admin", *users))
    jaas = f"org.apache.kafka.common.security.plain.PlainLoginModule required {known};"
    with tempfile.TemporaryDirectory(prefix="tulle-kafka-") as scratch:
        place = Path(scratch)
        (place / "server.properties").write_text(
            PROPERTIES.format(plain=plain, sasl=sasl, controller=controller, jaas=jaas, data=place / "data"),
            encoding="ascii",
        )
        config = str(place / "server.properties")
        subprocess.run(  # noqa: S603  Kafka's own program
            kafka(STORAGE, "format", "-t", cluster_id(scratch), "-c", config, temporary=place),
            check=True, capture_output=True, timeout=START_S,
        )  # fmt: skip
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603  Kafka's own program
                [*END_WITH_US, *kafka(BROKER, config, temporary=place)], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            _wait(process, place / "log")
            yield Broker(f"127.0.0.1:{plain}", f"127.0.0.1:{sasl}")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while STARTED not in (said := log.read_text(encoding="utf-8", errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the broker did not start: {said[-2000:]}")
        time.sleep(0.05)


TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID = 2, 3, 4, 5
READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE = (
    3,
    4,
    5,
    6,
    7,
    8,
    10,
    11,
    12,
)
LITERAL, PREFIXED = 3, 4
ALLOW = 3

WORK = (
    *((TOPIC, "t-", PREFIXED, each) for each in (READ, WRITE, DESCRIBE, CREATE, DELETE, ALTER)),
    *((TOPIC, "t-", PREFIXED, each) for each in (DESCRIBE_CONFIGS, ALTER_CONFIGS)),
    *((GROUP, "g-", PREFIXED, each) for each in (READ, DESCRIBE)),
    *((TRANSACTIONAL_ID, "x-", PREFIXED, each) for each in (WRITE, DESCRIBE)),
    (CLUSTER, "kafka-cluster", LITERAL, IDEMPOTENT_WRITE),
)
"""What `policy.work_rules` mean, as Kafka's own ACLs: (resource type, name, pattern, operation)."""


@contextmanager
def reached(address: str) -> Iterator[Wire]:
    """A connection to HOST:PORT."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as sock:
        yield Wire(sock)


def grant(wire: Wire, user: str, acls: Sequence[tuple[int, str, int, int]]) -> None:
    """Give a user what it may (CreateAcls)."""
    creations = [
        {"ResourceType": kind, "ResourceName": name, "ResourcePatternType": pattern, "Principal": f"User:{user}",
         "Host": "*", "Operation": operation, "PermissionType": ALLOW}
        for kind, name, pattern, operation in acls
    ]  # fmt: skip
    answer = wire.ask("CreateAcls", 3, {"Creations": creations})
    assert {one["ErrorCode"] for one in answer["Results"]} == {0}
