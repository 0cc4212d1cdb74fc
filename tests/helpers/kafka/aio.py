"""aiokafka: pure Python on asyncio, classic groups."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from tests.helpers.kafka.driver import Context, DeadlineError, Do, Step, main, ready, values

type Work = Callable[[Context, Step], Coroutine[Any, Any, Any]]


def bounded(work: Work) -> Do:
    """Run a coroutine within the step's deadline."""

    def do(context: Context, step: Step) -> Any:
        async def all_of_it() -> Any:
            return await asyncio.wait_for(work(context, step), context.deadline_s)

        try:
            return asyncio.run(all_of_it())
        except TimeoutError as error:
            raise DeadlineError from error

    return do


def _where(context: Context) -> dict[str, Any]:
    where: dict[str, Any] = {"bootstrap_servers": context.bootstrap, "client_id": context.client_id}
    if context.user:
        where |= {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
        where |= {"sasl_plain_username": context.user, "sasl_plain_password": context.user}
    return where


async def produce(context: Context, step: Step) -> dict[str, Any]:
    """Send values; with `transactional_id` in a transaction that is committed, or aborted where `abort` says so; with
    `offsets` = [group, topic, offset] that offset is part of the transaction."""
    transactional_id = step.get("transactional_id")
    producer = AIOKafkaProducer(
        **_where(context),
        acks={"all": "all", "1": 1, "0": 0}[step.get("acks", "all")],
        compression_type=step.get("compression"),
        enable_idempotence=step.get("idempotent", False),
        transactional_id=transactional_id,
    )
    await producer.start()
    try:
        if transactional_id:
            await producer.begin_transaction()
        sent = [await producer.send(step["topic"], value.encode()) for value in values(step)]
        answers = await asyncio.gather(*sent)
        if step.get("offsets"):
            group, topic, offset = step["offsets"]
            await producer.send_offsets_to_transaction({TopicPartition(topic, 0): offset}, group)
        if transactional_id:
            await (producer.abort_transaction() if step.get("abort") else producer.commit_transaction())
    finally:
        await producer.stop()
    return {"acked": len(answers)}


async def consume(context: Context, step: Step) -> dict[str, Any]:
    """Read from the start, by a group if one is named, until the step's count is there; commit, and read that back."""
    group = step.get("group")
    consumer = AIOKafkaConsumer(
        step["topic"],
        **_where(context),
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level=step.get("isolation", "read_uncommitted"),
    )
    await consumer.start()
    committed = None
    seen = context.seen
    try:
        while len(seen) < step["count"]:
            message = await consumer.getone()
            seen.append(message.value.decode())
        if step.get("watch"):
            ready()
            while True:
                seen.append((await consumer.getone()).value.decode())
        if group:
            await consumer.commit()
            committed = await consumer.committed(TopicPartition(step["topic"], 0))
    finally:
        await consumer.stop()
    return {"values": list(seen), "committed": committed}


def _checked(code: int) -> None:
    if code:
        raise for_code(code)


async def admin(context: Context, step: Step) -> Any:
    """One administrative call: `call` names it."""
    client = AIOKafkaAdminClient(**_where(context))
    await client.start()
    try:
        return await CALLS[step["call"]](client, step)
    finally:
        await client.close()


async def _list(client: Any, step: Step) -> list[str]:
    return sorted(await client.list_topics())


async def _describe(client: Any, step: Step) -> list[list[Any]]:
    found = await client.describe_topics([step["topic"]])
    for topic in found:
        _checked(topic["error_code"])
    return [[topic["topic"], len(topic["partitions"])] for topic in found]


async def _create(client: Any, step: Step) -> None:
    answer = await client.create_topics([NewTopic(step["topic"], 1, 1)])
    for one in answer.topic_errors:
        _checked(one[1])


async def _delete(client: Any, step: Step) -> None:
    answer = await client.delete_topics([step["topic"]])
    for _, code in answer.topic_error_codes:
        _checked(code)


async def _configs(client: Any, step: Step) -> list[str]:
    answers = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, step["topic"])])
    names: list[str] = []
    for answer in answers:
        for code, _, _, _, entries in answer.resources:
            _checked(code)
            names += [entry[0] for entry in entries]
    return sorted(names)


async def _groups(client: Any, step: Step) -> list[str]:
    return sorted(name for name, _ in await client.list_consumer_groups())


async def _describe_group(client: Any, step: Step) -> list[str]:
    (answer,) = await client.describe_consumer_groups([step["group"]])
    for group in answer.groups:
        _checked(group[0])
    return [group[1] for group in answer.groups]


async def _offsets(client: Any, step: Step) -> list[list[Any]]:
    found = await client.list_consumer_group_offsets(step["group"])
    return sorted([topic.topic, topic.partition, meta.offset] for topic, meta in found.items())


CALLS: dict[str, Callable[[Any, Step], Coroutine[Any, Any, Any]]] = {
    "list": _list,
    "describe": _describe,
    "create": _create,
    "delete": _delete,
    "configs": _configs,
    "groups": _groups,
    "describe_group": _describe_group,
    "offsets": _offsets,
}

STEPS: dict[str, Do] = {"produce": bounded(produce), "consume": bounded(consume), "admin": bounded(admin)}

if __name__ == "__main__":
    raise SystemExit(main(STEPS, "aiokafka"))
