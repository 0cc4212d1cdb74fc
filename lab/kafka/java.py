"""Where set-up put Kafka, and how its classes are run."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError

HOME = Path(sys.prefix) / "share" / "tulle" / "kafka"
LIB = HOME / "lib"
LOGGING = Path(__file__).with_name("log4j2.properties")
ARCHIVE = HOME / "kafka.jsa"
"""What a broker's classes look like in memory (AppCDS): brokers and tools start with half the work."""

BROKER = "kafka.Kafka"
STORAGE = "kafka.tools.StorageTool"
SMALL = ("-Xms64m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""A broker of the lab: some 200 MiB resident until a request of 100 MB has to be held."""


def check() -> None:
    """Raises LabError when Java or the jars are not there, with what to do."""
    if shutil.which("java") is None:
        raise LabError("there is no Java for Kafka's brokers: run './dev kafka'")
    if not any(LIB.glob("kafka_*.jar")):
        raise LabError(f"Kafka is not set up, no jars in {LIB}: run './dev kafka'")


def java(main_class: str, *arguments: str, options: Sequence[str] = SMALL, temporary: Path | None = None) -> list[str]:
    """A command that runs one of Kafka's classes. temporary: where native parts of compressors are unpacked."""
    # Named one by one, sorted: an archive of classes is good for this very class path only.
    path = ":".join(map(str, sorted(LIB.glob("*.jar"))))
    shared = (f"-XX:SharedArchiveFile={ARCHIVE}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off") if ARCHIVE.exists() else ()
    place = (f"-Djava.io.tmpdir={temporary}",) if temporary else ()
    logging = f"-Dlog4j2.configurationFile={LOGGING.as_uri()}"
    return ["java", "-XX:-UsePerfData", *shared, *options, *place, logging, "-cp", path, main_class, *arguments]
