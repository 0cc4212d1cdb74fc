"""Makes the archive of classes with which brokers start sooner (AppCDS, JEP 350): `python -m lab.kafka.archive`.

A broker runs once, in a network namespace of its own, does what it does at the start of a lab, and writes at its end
the classes that it had loaded. The archive is good for one Java and one set of jars; with another, Java does without.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from lab.kafka import java
from lab.kafka.broker import CLIENTS_PORT, format_storage, properties
from lab.kafka.ready import NotYet, check
from lab.netlink import Netlink
from parsers.errors import ProtocolError

START_TIMEOUT_S = 120.0


def main() -> None:
    """Exits with a message where it cannot be made."""
    java.ARCHIVE.unlink(missing_ok=True)
    made = java.ARCHIVE.with_suffix(".new")
    os.unshare(os.CLONE_NEWNET)
    with Netlink() as netlink:
        netlink.loopback_up()
    with tempfile.TemporaryDirectory(prefix="tulle-kafka-") as name:
        data = Path(name)
        file = data / "server.properties"
        file.write_text(properties(0, ["localhost"], "localhost", data))
        format_storage(data, file, "tullelabkafkaarchivexA")
        options = (*java.SMALL, f"-XX:ArchiveClassesAtExit={made}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off")
        command = java.java(java.BROKER, str(file), options=options, temporary=data)
        log = data / "log.txt"
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as broker:  # noqa: S603  our own command
            try:
                _wait(broker)
            finally:
                broker.terminate()
        if not made.exists():
            sys.exit(f"no archive of Kafka's classes was made: {log.read_text(errors='replace')[-2000:]}")
    made.replace(java.ARCHIVE)


def _wait(broker: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while broker.poll() is None and time.monotonic() < deadline:
        with suppress(NotYet, OSError, ProtocolError):
            return check("localhost", CLIENTS_PORT, 1, ["orders"])
        time.sleep(0.1)


if __name__ == "__main__":
    main()
