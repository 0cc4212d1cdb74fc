"""Apache Kafka itself with its own authorizer, for comparing with: one node, started and stopped by the test.

It listens twice: SASL is for users with ACLs, OPEN for nobody in particular, who may do everything, as at a broker
that has no authorizer.
"""

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
JARS: Final = ROOT / ".venv/share/tulle/kafka/lib"
START_S: Final = 90.0

_PROPERTIES: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=SASL://127.0.0.1:{sasl},OPEN://127.0.0.1:{open},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL://127.0.0.1:{sasl},OPEN://127.0.0.1:{open}
listener.security.protocol.map=SASL:SASL_PLAINTEXT,OPEN:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=OPEN
sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=2097152
log.dirs={data}
"""
_LOGGING: Final = """
rootLogger.level=warn
rootLogger.appenderRef.a.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%m%n%throwable{short}
"""


class Broker:
    """A running one. sasl, opened: the ports of its listeners."""

    def __init__(self, sasl: int, opened: int) -> None:
        self.sasl = sasl
        self.opened = opened


def _free_ports(count: int) -> list[int]:
    """Free a moment ago, and different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def running(directory: Path, users: list[str]) -> Iterator[Broker]:
    """A broker whose users have their names for passwords; ended and forgotten when left."""
    java = shutil.which("java")
    assert java is not None, "java is missing: run ./dev setup"
    assert list(JARS.glob("kafka_2.13-*.jar")), f"no Kafka in {JARS}: run ./dev setup"
    sasl, opened, controller = _free_ports(3)
    properties = directory / "server.properties"
    logins = " ".join(f'user_{name}="{name}"' for name in users)
    properties.write_text(
        _PROPERTIES.format(sasl=sasl, open=opened, controller=controller, users=logins, data=directory / "data")
    )
    (directory / "log4j2.properties").write_text(_LOGGING)
    command = [java, "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += [f"-Dlog4j2.configurationFile=file:{directory / 'log4j2.properties'}", "-cp", f"{JARS}/*"]
    log = directory / "broker.log"
    with log.open("wb") as out:
        storage = [
            *command,
            "kafka.tools.StorageTool",
            "format",
            "-c",
            str(properties),
            "-t",
            "dHVsbGUtcGFyaXR5LXRlc3Q",
        ]
        subprocess.run(storage, check=True, stdout=out, stderr=subprocess.STDOUT)  # noqa: S603  ours
        process = subprocess.Popen([*command, "kafka.Kafka", str(properties)], stdout=out, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        _wait_for(process, (sasl, opened), log)
        yield Broker(sasl, opened)
    finally:
        process.send_signal(signal.SIGKILL)  # its data goes with the directory
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], ports: tuple[int, ...], log: Path) -> None:
    """Until it accepts connections on all of them."""
    end = time.monotonic() + START_S
    left = list(ports)
    while left:
        assert process.poll() is None, f"the broker ended: {tail(log)}"
        assert time.monotonic() < end, f"the broker does not answer: {tail(log)}"
        try:
            socket.create_connection(("127.0.0.1", left[0]), 1).close()
            left.pop(0)
        except OSError:
            time.sleep(0.1)


def tail(log: Path) -> str:
    """The end of what a broker wrote."""
    return re.sub(r"\s+", " ", log.read_text(errors="replace")[-2000:])
