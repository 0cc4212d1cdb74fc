"""Where the parts are that set-up has put into the virtual environment for clients, and how Kafka's tools are run."""

import sys
from pathlib import Path

from lab.kafka.java import java

NODE_MODULES = Path(sys.prefix) / "share" / "tulle" / "kafkajs" / "node_modules"
SMALL = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""A tool runs for a second: a small heap, and no compiler that thinks for longer than that."""


def kafka(main_class: str, *arguments: str, temporary: Path) -> list[str]:
    """A command that runs one of Kafka's classes."""
    return java(main_class, *arguments, options=SMALL, temporary=temporary)
