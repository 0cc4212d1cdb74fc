"""Apache Kafka's own perf tools: how they are run, and what they say."""

import re

from bench.errors import BenchError
from bench.kafka.cases import Case
from bench.kafka.load_result import Load
from lab.errors import LabError
from lab.kafka import java

PRODUCER = "org.apache.kafka.tools.ProducerPerformance"
CONSUMER = "org.apache.kafka.tools.ConsumerPerformance"
# The whole compiler, unlike the lab's brokers; IPv4, because redirected peers see nothing else.
_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-Djava.net.preferIPv4Stack=true")
# Its own default of 16 KiB makes a request of little more than one record of 10 KiB.
_BATCH = ("batch.size=262144", "linger.ms=5")
_WARM_UP = 4  # the first of so many parts is not measured: a cold JVM
_PRODUCED = re.compile(
    r"^(\d+) (?:steady state )?records sent, ([\d.]+) records/sec \([\d.]+ MB/sec\), [\d.]+ ms avg latency, "
    r"[\d.]+ ms max latency, (\d+) ms 50th, \d+ ms 95th, (\d+) ms 99th, (\d+) ms 99\.9th\.",
    re.MULTILINE,
)
_COMPLAINT = re.compile(r"^.*(?:Exception|\bERROR\b|WARNING: Exiting before).*$", re.MULTILINE)


def check() -> None:
    """Raises BenchError where Java or the jars are not there."""
    try:
        java.check()
    except LabError as error:
        raise BenchError(str(error)) from error


def command(case: Case, bootstrap: str, topic: str, records: int) -> list[str]:
    """What puts the load of so many records on the topic."""
    if case.kind == "fetch":
        words = ["--bootstrap-server", bootstrap, "--topic", topic, "--num-records", str(records), "--timeout", "20000"]
        words += ["--command-property", "client.id=bench"]
        return java.java(CONSUMER, *words, options=_OPTIONS)
    words = ["--bootstrap-server", bootstrap, "--topic", topic, "--num-records", str(records), "--throughput", "-1"]
    words += ["--record-size", str(case.size), "--warmup-records", str(records // _WARM_UP)]
    words += ["--command-property", f"acks={case.acks}", "client.id=bench", *_BATCH]
    return java.java(PRODUCER, *words, options=_OPTIONS)


def parse(case: Case, output: str, wanted: int) -> Load:
    """What a tool printed. Records that are missing and what it complains of are errors.

    Raises:
        BenchError: it gave no numbers.
    """
    complaints = _COMPLAINT.findall(output)
    if case.kind == "fetch":
        records, rate = _consumed(output)
        return Load(records, rate, errors=len(complaints) + abs(min(0, records - wanted)), said=complaints[:3])
    found = _PRODUCED.findall(output)
    if not found:
        raise BenchError(f"{case.name}: the tool gave no numbers: {output.strip()[-800:]}")
    records = found[0][0]
    _, rate, *latencies = found[-1]  # without the warm-up
    p50_us, p99_us, p999_us = (1000.0 * int(latency) for latency in latencies)
    errors = len(complaints) + wanted - int(records)
    return Load(int(records), float(rate), p50_us, p99_us, p999_us, errors=errors, said=complaints[:3])


def _consumed(output: str) -> tuple[int, float]:
    """Records, and their rate without the time that joining the group took: times, MB, MB/s, records, records/s, ms of
    joining, ms of fetching, MB/s and records/s of fetching."""
    for line in reversed(output.splitlines()):
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 10 and parts[4].isdecimal():
            return int(parts[4]), float(parts[9])
    raise BenchError(f"the consumer's tool gave no numbers: {output.strip()[-800:]}")
