"""kafka-python 3: pure Python, driven by Kafka's message definitions; classic groups, transactions."""

import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import for_code
from kafka.structs import OffsetAndMetadata

from tests.helpers.kafka.driver import Context, DeadlineError, Do, Step, main, name_of, ready, values

POLL_MS = 100
UNAUTHORIZED = "is not authorized for this client"


class LoggedError(Exception):
    """The consumer raises nothing for a topic that it may not read, and waits: it says so in its log alone."""


def _where(context: Context) -> dict[str, Any]:
    where: dict[str, Any] = {"bootstrap_servers": context.bootstrap, "client_id": context.client_id}
    if context.user:
        where |= {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
        where |= {"sasl_plain_username": context.user, "sasl_plain_password": context.user}
    return where


def produce(context: Context, step: Step) -> dict[str, Any]:
    """As in `aio`. It is idempotent unless told otherwise."""
    transactional_id = step.get("transactional_id")
    producer = KafkaProducer(
        **_where(context),
        acks={"all": "all", "1": 1, "0": 0}[step.get("acks", "all")],
        compression_type=step.get("compression"),
        enable_idempotence=step.get("idempotent", False) or bool(transactional_id),
        transactional_id=transactional_id,
        max_block_ms=int(context.deadline_s * 1000),
    )
    try:
        if transactional_id:
            producer.init_transactions()
            producer.begin_transaction()
        sent = [producer.send(step["topic"], value.encode()) for value in values(step)]
        producer.flush(timeout=context.deadline_s)
        for future in sent:
            future.get(timeout=context.deadline_s)
        if step.get("offsets"):
            group, topic, offset = step["offsets"]
            producer.send_offsets_to_transaction({TopicPartition(topic, 0): OffsetAndMetadata(offset, "", -1)}, group)
        if transactional_id:
            (producer.abort_transaction if step.get("abort") else producer.commit_transaction)()
    finally:
        producer.close(timeout=1)
    return {"acked": len(sent)}


def consume(context: Context, step: Step) -> dict[str, Any]:
    """As in `aio`."""
    group = step.get("group")
    consumer = KafkaConsumer(
        step["topic"],
        **_where(context),
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level=step.get("isolation", "read_uncommitted"),
    )
    seen = context.seen
    committed = None
    until = context.until()
    try:
        watched = not step.get("watch")
        while len(seen) < step["count"] or step.get("watch"):
            for messages in consumer.poll(timeout_ms=POLL_MS).values():
                seen += [message.value.decode() for message in messages]
            if any(UNAUTHORIZED in line for line in context.log):
                raise LoggedError(UNAUTHORIZED)
            if not watched and len(seen) >= step["count"]:
                watched = True
                ready()
            if time.monotonic() > until:
                raise DeadlineError
        if group:
            consumer.commit()
            committed = consumer.committed(TopicPartition(step["topic"], 0))
    finally:
        consumer.close(autocommit=False)
    return {"values": list(seen), "committed": committed}


def _list(client: Any, step: Step) -> list[str]:
    return sorted(client.list_topics())


def _describe(client: Any, step: Step) -> list[list[Any]]:
    (topic,) = client.describe_topics([step["topic"]])
    if topic["error_code"]:
        raise for_code(topic["error_code"])
    return [[topic["name"], len(topic["partitions"])]]


def _create(client: Any, step: Step) -> None:
    client.create_topics({step["topic"]: {"num_partitions": 1, "replication_factor": 1}})


def _delete(client: Any, step: Step) -> None:
    client.delete_topics([step["topic"]])


def _configs(client: Any, step: Step) -> list[str]:
    found = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, step["topic"])], config_filter="all")
    return sorted(found["topic"][step["topic"]])


def _groups(client: Any, step: Step) -> list[str]:
    return sorted(group["group_id"] for group in client.list_groups())


def _describe_group(client: Any, step: Step) -> list[str]:
    found = client.describe_groups([step["group"]])
    if found[step["group"]]["error"]:
        raise RuntimeError(found[step["group"]]["error"])
    return sorted(found)


def _offsets(client: Any, step: Step) -> list[list[Any]]:
    found = client.list_group_offsets({step["group"]: None})[step["group"]]
    return sorted([topic.topic, topic.partition, meta.offset] for topic, meta in found.items())


CALLS: dict[str, Callable[[Any, Step], Any]] = {
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
    client = KafkaAdminClient(**_where(context))
    try:
        return CALLS[step["call"]](client, step)
    finally:
        client.close()


def name(error: BaseException) -> str:
    """The class of an error says it; what was only logged is the line itself."""
    return str(error) if isinstance(error, LoggedError) else name_of(error)


STEPS: dict[str, Do] = {"produce": produce, "consume": consume, "admin": admin}

if __name__ == "__main__":
    raise SystemExit(main(STEPS, "kafka", name=name))
