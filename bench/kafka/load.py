"""librdkafka's part of the benchmark, run inside a pod as a file; and the topics that loads need.

    python -P bench/kafka/load.py BOOTSTRAP make TOPIC [RECORDS SIZE]
    python -P bench/kafka/load.py BOOTSTRAP produce TOPIC SIZE ACKS SECONDS [RECORDS]
    python -P bench/kafka/load.py BOOTSTRAP sync TOPIC SIZE ACKS SECONDS
    python -P bench/kafka/load.py BOOTSTRAP fetch TOPIC SECONDS [RECORDS]
    python -P bench/kafka/load.py BOOTSTRAP check TOPIC DENIED

Prints one line of JSON. Rates are of a window that begins when the load has run for WARM_UP_S; `records` are all.
RECORDS ends a load earlier. No callback per record where latency is not what is measured: Python's own cost would be.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

WARM_UP_S = 0.3
TIMEOUT_S = 20.0
PARTITIONS = 4
_CHUNK = 500  # records between two looks at the clock
_WAIT_S = 0.002

type Json = dict[str, float | int | list[str] | None]


class Pending(Protocol):
    """A future of the library's."""

    def result(self) -> object: ...


def common(bootstrap: str, errors: list[str]) -> dict[str, Any]:  # Any: the library's clients do not agree on a type
    """What every client is told. IPv4: redirected peers see nothing else."""
    return {
        "bootstrap.servers": bootstrap,
        "broker.address.family": "v4",
        "client.id": "bench",
        "error_cb": lambda error: errors.append(error.str()),
        "socket.nagle.disable": True,
    }


class Window:
    """Counts from the end of the warm-up; `over` when the seconds are."""

    def __init__(self, seconds: float) -> None:
        now = time.monotonic()
        self._begins, self._ends = now + WARM_UP_S, now + WARM_UP_S + seconds
        self._first: tuple[float, int] | None = None
        self._last = (now, 0)

    def over(self, records: int) -> bool:
        """Tell how many there were so far."""
        now = time.monotonic()
        if self._first is None and now >= self._begins:
            self._first = (now, records)
        self._last = (now, records)
        return now >= self._ends

    def rate(self) -> float:
        """Records/s in the window; of all of it where the load ended in its warm-up."""
        start, before = self._first or (self._begins - WARM_UP_S, 0)
        return (self._last[1] - before) / max(1e-9, self._last[0] - start)


def produce(bootstrap: str, topic: str, size: int, acks: str, seconds: float, most: int = sys.maxsize) -> Json:
    """As fast as it goes, batched as librdkafka does it by itself."""
    errors: list[str] = []

    def failed(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            errors.append(error.str())

    producer = Producer(
        {
            **common(bootstrap, errors),
            "acks": acks,
            "delivery.report.only.error": True,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 65_536,
        }
    )
    value, window, sent = bytes(size), Window(seconds), 0
    while not window.over(sent - len(producer)) and sent < most and not errors:
        try:
            for _ in range(min(_CHUNK, most - sent)):
                producer.produce(topic, value, on_delivery=failed)
                sent += 1
        except BufferError:
            producer.poll(_WAIT_S)
        producer.poll(0)
    if most != sys.maxsize:  # all of them count, and the last are on their way
        producer.flush(TIMEOUT_S)
        window.over(sent - len(producer))
    left = producer.flush(TIMEOUT_S)
    return {"records": sent - left, "records_per_s": window.rate(), "errors": len(errors) + left, "said": errors[:3]}


def sync(bootstrap: str, topic: str, size: int, acks: str, seconds: float) -> Json:
    """One record, its acknowledgement, the next one."""
    errors: list[str] = []
    done: list[KafkaError | None] = []
    producer = Producer({**common(bootstrap, errors), "acks": acks, "linger.ms": 0})
    value, latencies, window, sent = bytes(size), [], Window(seconds), 0
    clock = time.perf_counter_ns

    def delivered(error: KafkaError | None, _: Message) -> None:
        done.append(error)

    while not window.over(sent):
        began = clock()
        producer.produce(topic, value, on_delivery=delivered)
        while not done:
            if producer.poll(TIMEOUT_S) == 0:
                break
        if not done or done[0] is not None:
            errors.append(done[0].str() if done and done[0] else "no acknowledgement")
            break
        latencies.append(clock() - began)
        done.clear()
        sent += 1
    latencies = sorted(latencies[len(latencies) // 10 :])  # the first ones find a broker and warm up
    return {
        "records": sent,
        "records_per_s": window.rate(),
        "p50_us": percentile(latencies, 0.5),
        "p99_us": percentile(latencies, 0.99),
        "p999_us": percentile(latencies, 0.999),
        "errors": len(errors),
        "said": errors[:3],
    }


def percentile(ordered: Sequence[int], part: float) -> float | None:
    """µs of sorted nanoseconds; None of nothing."""
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))] / 1000, 1) if ordered else None


def fetch(bootstrap: str, topic: str, seconds: float, most: int = sys.maxsize) -> Json:
    """The topic from its beginning, and again when a partition's end is reached."""
    errors: list[str] = []
    consumer = Consumer(
        {
            **common(bootstrap, errors),
            "group.id": "bench",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    window, got, waited = Window(seconds), 0, time.monotonic()
    while not window.over(got) and got < most and not errors:
        messages = consumer.consume(10_000, 0.05)
        if messages:
            waited = time.monotonic()
        elif time.monotonic() - waited > TIMEOUT_S:
            errors.append("no records")
        ends = [message for message in messages if message.error() is not None]
        got += len(messages) - len(ends)
        for message in ends:
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                errors.append(error.str())
            elif got < most:
                consumer.seek(TopicPartition(topic, message.partition() or 0, 0))
    consumer.close()
    return {"records": got, "records_per_s": window.rate(), "errors": len(errors) + (got == 0), "said": errors[:3]}


def make(bootstrap: str, topic: str, records: int = 0, size: int = 0) -> Json:
    """The topic anew, and empty or with so many records; what it held before leaves the disk within a second or two."""
    errors: list[str] = []
    admin = AdminClient(common(bootstrap, errors))
    until(lambda: admin.delete_topics([topic], operation_timeout=TIMEOUT_S), KafkaError.UNKNOWN_TOPIC_OR_PART)
    config = {"file.delete.delay.ms": "1000", "segment.bytes": str(256 << 20)}
    wanted = NewTopic(topic, PARTITIONS, 1, config=config)
    until(lambda: admin.create_topics([wanted], operation_timeout=TIMEOUT_S))
    if records:
        return produce(bootstrap, topic, size, "1", 10 * TIMEOUT_S, records)
    return {"errors": len(errors), "said": errors[:3]}


def until(ask: Callable[[], Mapping[str, Pending]], also_good: int | None = None) -> None:
    """Ask until it is done: a name is free some time after its topic has been deleted."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            for future in ask().values():
                future.result()
            return
        except KafkaException as error:
            if error.args[0].code() == also_good:
                return
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def check(bootstrap: str, topic: str, denied: str) -> Json:
    """Error codes of one record to each topic, None for no answer at all; records fetched from the first."""
    found: Json = {}
    for name, where in (("allowed", topic), ("denied", denied)):
        errors: list[str] = []
        codes: list[int] = []
        producer = Producer({**common(bootstrap, errors), "acks": "all", "message.timeout.ms": int(TIMEOUT_S * 1000)})
        producer.produce(where, b"x", on_delivery=_code_to(codes))
        producer.flush(2 * TIMEOUT_S)
        found[name] = codes[0] if codes else None
    records = fetch(bootstrap, topic, TIMEOUT_S, 1)["records"]
    found["fetched"] = bool(records)
    return found


def _code_to(codes: list[int]) -> Callable[[KafkaError | None, Message], None]:
    return lambda error, _: codes.append(0 if error is None else error.code())


def main(arguments: Sequence[str]) -> None:
    bootstrap, what, topic, *rest = arguments
    told: Json
    match what, rest:
        case "make", []:
            told = make(bootstrap, topic)
        case "make", [records, size]:
            told = make(bootstrap, topic, int(records), int(size))
        case "produce", [size, acks, seconds, *most]:
            told = produce(bootstrap, topic, int(size), acks, float(seconds), *map(int, most))
        case "sync", [size, acks, seconds]:
            told = sync(bootstrap, topic, int(size), acks, float(seconds))
        case "fetch", [seconds, *most]:
            told = fetch(bootstrap, topic, float(seconds), *map(int, most))
        case "check", [denied]:
            told = check(bootstrap, topic, denied)
        case _:
            sys.exit(__doc__)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
