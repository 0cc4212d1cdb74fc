"""Kafka rules from questions that were asked: a role for each topic, and the API by name for what no role is.

A topic that was written is produced, one that was read is consumed. Cilium's roles reach every group and transactional
id; our kind names those that were seen, and what was administered.
"""

import re
from collections.abc import Iterable, Sequence

from policies.kafka import API_KEYS, API_NAMES, ROLES, Operations, acls
from policies.kafka_rules import EVERY_TOPIC
from policies.requests import KafkaRequest, Operation, Resource
from policies.ruleset import KafkaRule

type Yaml = str | int | list["Yaml"] | dict[str, "Yaml"]

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,255}")
_GROUP = re.compile(r"[^\x00-\x1f\x7f]{1,1024}")


def unlearnable(asked: KafkaRequest) -> str:
    """Why no rule can be written that allows this; "" where one can."""
    if asked.operation is Operation.CLUSTER_ACTION:
        return "asks for ClusterAction, which no rule allows"
    if asked.api_key not in API_NAMES:
        return "is of an API that has no name"
    if asked.resource is Resource.TOPIC and asked.name not in (None, EVERY_TOPIC) and not _TOPIC.fullmatch(asked.name):
        return "is about a topic that no rule can name"
    return ""


def learned_rules(
    questions: Iterable[KafkaRequest], most: int, *, ours: bool
) -> tuple[list[dict[str, Yaml]], list[str]]:
    """Rules that allow all of these, sorted, and what of them is wider than what was seen. more than `most` rules: of
    roles for every topic instead."""
    asked = [*dict.fromkeys(questions)]
    found = {
        (operation, resource): sorted(
            {one.name for one in asked if one.name not in (None, "", EVERY_TOPIC) and _is(one, operation, resource)}
        )
        for operation in (Operation.READ, Operation.WRITE, Operation.DESCRIBE)
        for resource in (Resource.TOPIC, Resource.GROUP, Resource.TRANSACTIONAL_ID)
    }
    read, written = found[Operation.READ, Resource.TOPIC], found[Operation.WRITE, Resource.TOPIC]
    groups = sorted({*found[Operation.READ, Resource.GROUP], *found[Operation.DESCRIBE, Resource.GROUP]})
    transactions = (
        found[Operation.WRITE, Resource.TRANSACTIONAL_ID] + found[Operation.DESCRIBE, Resource.TRANSACTIONAL_ID]
    )
    if not ours or not all(map(_GROUP.fullmatch, groups)):
        groups = []
    if not ours or not all(map(_GROUP.fullmatch, transactions)):
        transactions = []
    rules = _role("consume", read, "group", groups) + _role(
        "produce", written, "transactionalId", sorted({*transactions})
    )
    rules += _others(asked, rules, ours)
    if len(rules) <= most:
        return rules, []
    note = f"saw {len(read)} topics that were read and {len(written)} that were written: they are not told apart"
    rules = [{"role": role} for role, topics in (("consume", read), ("produce", written)) if topics]
    rules += [{"apiKey": name} for name in sorted({API_NAMES[one.api_key] for one in asked})]
    return rules, [note]


def is_ours(rule: dict[str, Yaml]) -> bool:
    """Whether it says what only our own kind can."""
    return "group" in rule or "transactionalId" in rule or rule.get("role") == "admin"


def _is(asked: KafkaRequest, operation: Operation, resource: Resource) -> bool:
    return asked.operation is operation and asked.resource is resource


def _role(role: str, topics: Sequence[str], word: str, names: Sequence[str]) -> list[dict[str, Yaml]]:
    """A rule for each topic, with the names shared out: rules of one role add up."""
    if not topics:
        return []
    return [
        {
            "role": role,
            "topic": topics[min(i, len(topics) - 1)],
            **({word: names[min(i, len(names) - 1)]} if names else {}),
        }
        for i in range(max(len(topics), len(names)))
    ]


def _others(asked: Iterable[KafkaRequest], rules: Sequence[dict[str, Yaml]], ours: bool) -> list[dict[str, Yaml]]:
    """Rules for what these rules do not allow."""
    known = _Known()
    for rule in rules:
        known.add(_compiled(rule))
    more: list[dict[str, Yaml]] = []
    for one in sorted(asked, key=lambda one: (one.operation, one.resource, one.name or "", one.api_key)):
        if not known.allows(one):
            rule = _rule_for(one, ours)
            more.append(rule)
            known.add(_compiled(rule))
    return more


class _Known:
    """Rules so far: (API key or None, operations) by resource and name, and by resource alone."""

    def __init__(self) -> None:
        self._lists: dict[tuple[Resource, str | None] | Resource, set[tuple[int | None, Operations]]] = {}

    def add(self, rule: KafkaRule) -> None:
        for acl in acls(rule):
            for key in ((acl.resource, acl.name), acl.resource):
                self._lists.setdefault(key, set()).add((rule.api_key, acl.operations))

    def allows(self, one: KafkaRequest) -> bool:
        if one.operation is Operation.NOTHING:
            return bool(self._lists)
        keys = (one.resource,) if one.name is None else ((one.resource, one.name), (one.resource, None))
        return any(
            key in (None, one.api_key) and (operations is None or one.operation in operations)
            for each in keys
            for key, operations in self._lists.get(each, ())
        )


_WORDS = {Resource.TOPIC: "topic", Resource.GROUP: "group", Resource.TRANSACTIONAL_ID: "transactionalId"}


def _rule_for(one: KafkaRequest, ours: bool) -> dict[str, Yaml]:
    word = _WORDS.get(one.resource, "")
    named: dict[str, Yaml] = {word: one.name} if word and one.name else {}
    if word == "topic" and one.name == EVERY_TOPIC:
        named = {}
    if word != "topic" and (not ours or (one.name and not _GROUP.fullmatch(one.name))):
        named = {}
    if ours and named and one.operation in ROLES["admin"].get(one.resource, ()) and one.operation != "Describe":
        return {"role": "admin", **named}
    return {"apiKey": API_NAMES[one.api_key], **named}


def _compiled(rule: dict[str, Yaml]) -> KafkaRule:
    topic, group, transaction = (rule.get(word) for word in ("topic", "group", "transactionalId"))
    return KafkaRule(
        "",
        str(rule.get("role", "")),
        API_KEYS.get(str(rule.get("apiKey"))),
        topic=None if topic is None else str(topic),
        group=None if group is None else str(group),
        transactional_id=None if transaction is None else str(transaction),
    )
