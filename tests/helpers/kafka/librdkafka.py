"""confluent-kafka, which is librdkafka: classic and KIP-848 groups, transactions, share groups.

Its statistics say what its log does not: how often a request was sent again and a connection was lost.
"""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    Producer,
    ShareConsumer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from tests.helpers.kafka.driver import Context, DeadlineError, Do, Step, main, name_of, ready, values

POLL_S = 0.1
STATISTICS_MS = 100
WAIT_MS = 500
"""The share consumer ends when its last fetch has come back."""
NO_GROUP = "g-none"
"""It wants a group to be named where it is given its partitions, too; nothing is committed."""
UNWANTED = ("txretries", "txerrs", "rxerrs", "rxcorriderrs", "req_timeouts")
"""Counters of a broker in the statistics that are 0 as long as all goes well."""


class Watch:
    """What librdkafka says beside its log: errors of the instance, and the last statistics."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.statistics: dict[str, Any] = {}

    def config(self, **more: Any) -> dict[str, Any]:
        """Configuration that reports here."""
        sasl = {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": self.context.user,
            "sasl.password": self.context.user,
        }
        return {
            "bootstrap.servers": self.context.bootstrap,
            "client.id": self.context.client_id,
            "logger": logging.getLogger("confluent"),
            "error_cb": lambda error: self.context.log.append(f"error_cb: {error.name()}"),
            "stats_cb": self._keep,
            "statistics.interval.ms": STATISTICS_MS,
            **(sasl if self.context.user else {}),
            **{name.replace("_", "."): value for name, value in more.items() if value is not None},
        }

    def _keep(self, text: str) -> None:
        self.statistics = json.loads(text)

    def close(self) -> None:
        """Put counters that ought to be 0 into the log, after the last statistics have come."""
        for broker in self.statistics.get("brokers", {}).values():
            self.context.log += [f"statistics: {name} {broker[name]}" for name in UNWANTED if broker.get(name)]


def name(error: BaseException) -> str:
    """librdkafka has one exception; which error it is, the error object inside says."""
    if isinstance(error, KafkaException):
        return str(error.args[0].name())
    return name_of(error)


def produce(context: Context, step: Step) -> dict[str, Any]:
    """As in `aio`; the idempotent producer where the step says so."""
    watch = Watch(context)
    transactional_id = step.get("transactional_id")
    producer = Producer(
        watch.config(
            acks=step.get("acks", "all"),
            compression_type=step.get("compression"),
            enable_idempotence=step.get("idempotent", False) or bool(transactional_id),
            transactional_id=transactional_id,
        )
    )
    acked = 0
    failed: list[KafkaException] = []

    def delivered(error: Any, message: Message) -> None:
        nonlocal acked
        if error is None:
            acked += 1
        else:
            failed.append(KafkaException(error))

    if transactional_id:
        producer.init_transactions(context.deadline_s)
        producer.begin_transaction()
    for value in values(step):
        producer.produce(step["topic"], value.encode(), on_delivery=delivered)
    if producer.flush(context.deadline_s):
        raise DeadlineError
    if failed:
        if transactional_id:
            producer.abort_transaction(context.deadline_s)
        raise failed[0]
    if step.get("offsets"):
        group, topic, offset = step["offsets"]
        with_group = Consumer(watch.config(group_id=group))
        producer.send_offsets_to_transaction(
            [TopicPartition(topic, 0, offset)], with_group.consumer_group_metadata(), context.deadline_s
        )
        with_group.close()
    if transactional_id:
        (producer.abort_transaction if step.get("abort") else producer.commit_transaction)(context.deadline_s)
    producer.poll(STATISTICS_MS * 2 / 1000)
    watch.close()
    return {"acked": acked}


def _value(message: Message) -> str:
    if message.error() is not None:
        raise KafkaException(message.error())
    value = message.value()
    assert value is not None
    return value.decode()


def consume(context: Context, step: Step) -> dict[str, Any]:
    """As in `aio`, by `protocol` classic or consumer (KIP-848). Without a group: one of its own, never committed."""
    watch = Watch(context)
    group = step.get("group")
    consumer = Consumer(
        watch.config(
            group_id=group or NO_GROUP,
            group_protocol=step.get("protocol", "classic"),
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level=step.get("isolation", "read_uncommitted"),
        )
    )
    seen = context.seen
    committed = None
    until = context.until()
    try:
        if group:
            consumer.subscribe([step["topic"]])
        else:
            consumer.assign([TopicPartition(step["topic"], 0, 0)])
        while len(seen) < step["count"] or step.get("watch"):
            message = consumer.poll(POLL_S)
            if message is not None:
                seen.append(_value(message))
                if step.get("watch") and len(seen) == step["count"]:
                    ready()
            elif time.monotonic() > until:
                raise DeadlineError
        if group:
            consumer.commit(asynchronous=False)
            committed = consumer.committed([TopicPartition(step["topic"], 0)], context.deadline_s)[0].offset
        consumer.poll(STATISTICS_MS * 2 / 1000)
        watch.close()
    finally:
        consumer.close()
    return {"values": list(seen), "committed": committed}


def share(context: Context, step: Step) -> dict[str, Any]:
    """Read by a share group (KIP-932), records acknowledged by the next poll."""
    watch = Watch(context)
    consumer = ShareConsumer(watch.config(group_id=step["group"], fetch_wait_max_ms=WAIT_MS))
    seen = context.seen
    until = context.until()
    try:
        consumer.subscribe([step["topic"]])
        while len(seen) < step["count"]:
            seen += [_value(message) for message in consumer.poll(POLL_S)]
            if time.monotonic() > until:
                raise DeadlineError
        consumer.commit_sync()
    finally:
        consumer.close()
    return {"values": sorted(seen)}


def _result(futures: Any, context: Context) -> Any:
    """Of the only future of an administrative call."""
    ((_, future),) = futures.items()
    return future.result(context.deadline_s)


def _list(client: AdminClient, step: Step, context: Context) -> list[str]:
    return sorted(client.list_topics(timeout=context.deadline_s).topics)


def _describe(client: AdminClient, step: Step, context: Context) -> list[list[Any]]:
    found = _result(client.describe_topics(TopicCollection([step["topic"]])), context)
    return [[found.name, len(found.partitions)]]


def _create(client: AdminClient, step: Step, context: Context) -> None:
    _result(client.create_topics([NewTopic(step["topic"], 1, 1)]), context)


def _delete(client: AdminClient, step: Step, context: Context) -> None:
    _result(client.delete_topics([step["topic"]]), context)


def _configs(client: AdminClient, step: Step, context: Context) -> list[str]:
    return sorted(_result(client.describe_configs([ConfigResource(ResourceType.TOPIC, step["topic"])]), context))


def _groups(client: AdminClient, step: Step, context: Context) -> list[str]:
    found = client.list_consumer_groups().result(context.deadline_s)
    if found.errors:
        raise found.errors[0]
    return sorted(group.group_id for group in found.valid)


def _describe_group(client: AdminClient, step: Step, context: Context) -> list[str]:
    return [_result(client.describe_consumer_groups([step["group"]]), context).group_id]


def _offsets(client: AdminClient, step: Step, context: Context) -> list[list[Any]]:
    found = _result(client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(step["group"])]), context)
    return sorted([one.topic, one.partition, one.offset] for one in found.topic_partitions)


CALLS: dict[str, Callable[[AdminClient, Step, Context], Any]] = {
    "list": _list,
    "describe": _describe,
    "create": _create,
    "delete": _delete,
    "configs": _configs,
    "groups": _groups,
    "describe_group": _describe_group,
    "offsets": _offsets,
}


def admin(context: Context, step: Step) -> Any:
    """One administrative call: `call` names it."""
    return CALLS[step["call"]](AdminClient(Watch(context).config()), step, context)


STEPS: dict[str, Do] = {"produce": produce, "consume": consume, "share": share, "admin": admin}

if __name__ == "__main__":
    raise SystemExit(main(STEPS, "confluent", name=name))
