"""What a message names: topics, topic ids, consumer groups, transactional ids; in the order of the frame, repeats kept.

The definitions say it themselves, field by field (`entityType`), with these exceptions: topic ids are the UUIDs called
TopicId, and a group id is every string called GroupId. Two kinds of name are typed by a number beside them: the keys
of FindCoordinator, and resources of the config APIs. The names in ACLs are patterns, and those inside the bytes of
consumer protocols are between the members of a group: neither is reported here.
"""

import binascii
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request, Response, message_of
from parsers.kafka.table import Field, Kind

FIND_COORDINATOR: Final = 10
_CONFIG_APIS: Final = frozenset({32, 33, 44, 74})  # Describe-, Alter-, IncrementalAlterConfigs, ListConfigResources
_LISTS: Final = {"topicName": "topics", "groupId": "groups", "transactionalId": "transactional_ids"}
_CONFIG_TYPES: Final = {2: "topics", 32: "groups"}  # ConfigResource.Type
_GROUP, _TRANSACTION, _SHARE = range(3)  # FindCoordinatorRequest.CoordinatorType
_ZERO_ID: Final = bytes(16)


@dataclass(slots=True)
class Entities:
    """What a message names. topic_ids: of 16 bytes; the zero id names nothing and is not among them."""

    topics: list[str] = field(default_factory=list)
    topic_ids: list[bytes] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    transactional_ids: list[str] = field(default_factory=list)


# What to do at a field: (name, is an array, the list that its value goes to or "", steps inside).
type _Step = tuple[str, bool, str, "_Steps"]
type _Steps = tuple[_Step, ...]
_TYPED: Final = "typed"  # a struct of ResourceType and ResourceName


def entities(message: Request | Response) -> Entities:
    """What a decoded request or response names; of one that was only begun, what its first fields name."""
    found = Entities()
    kind: Kind = "request" if isinstance(message, Request) else "response"
    steps = _steps_of(message.api_key, message.api_version, kind)
    if steps:
        _collect(steps, message.body, found)
    if message.api_key == FIND_COORDINATOR and kind == "request":
        _coordinator_keys(message.body, found)
    return found


def _collect(steps: _Steps, tree: Tree, found: Entities) -> None:
    for name, is_array, goes_to, inner in steps:
        if goes_to == _TYPED:
            into = _CONFIG_TYPES.get(tree.get("ResourceType", 0))  # version 0 of ListConfigResources has none
            if into is not None:
                getattr(found, into).append(tree["ResourceName"])
            continue
        value = tree.get(name)
        if value is None:
            continue
        if inner:
            for each in value if is_array else (value,):
                _collect(inner, each, found)
        elif goes_to == "topic_ids":
            found.topic_ids += [each for each in (value if is_array else (value,)) if each != _ZERO_ID]
        elif is_array:
            getattr(found, goes_to).extend(value)
        else:
            getattr(found, goes_to).append(value)


@cache
def _steps_of(key: int, version: int, kind: Kind) -> _Steps:
    return _steps(message_of(key, version, kind).fields, version, is_config=key in _CONFIG_APIS)


def _steps(fields: tuple[Field, ...], version: int, *, is_config: bool) -> _Steps:
    steps: list[_Step] = []
    for each in fields:
        if not each.in_version(version):
            continue
        is_array, kind = each.type.startswith("[]"), each.type.removeprefix("[]")
        goes_to = _goes_to(each, kind, is_config=is_config)
        inner = _steps(each.fields, version, is_config=is_config)
        if goes_to or inner:
            steps.append((each.name, is_array, goes_to, inner))
    return tuple(steps)


def _goes_to(each: Field, kind: str, *, is_config: bool) -> str:
    if kind == "uuid":
        return "topic_ids" if each.name == "TopicId" else ""
    if kind != "string":
        return ""
    if is_config and each.name == "ResourceName":
        return _TYPED
    return _LISTS.get(each.entity, "groups" if each.name == "GroupId" else "")


def _coordinator_keys(tree: Tree, found: Entities) -> None:
    """One key up to version 3, a list from 4 on; version 0 knows groups alone."""
    keys: list[Any] = tree["CoordinatorKeys"] if "CoordinatorKeys" in tree else [tree.get("Key")]
    kind = tree.get("KeyType", _GROUP)
    for key in keys:
        if key is None:
            continue
        if kind == _GROUP:
            found.groups.append(key)
        elif kind == _TRANSACTION:
            found.transactional_ids.append(key)
        elif kind == _SHARE and (share := share_key(key)) is not None:
            found.groups.append(share[0])
            found.topic_ids.append(share[1])


def share_key(key: str) -> tuple[str, bytes] | None:
    """Group and topic id of a share coordinator's key, "group:topic id:partition" with the id in unpadded URL-safe
    base64 as Kafka writes it; None where it is no such key, which brokers refuse (SharePartitionKey.validate)."""
    group, _, rest = key.partition(":")
    written, _, partition = rest.partition(":")
    if not group or not partition.isdecimal():
        return None
    try:
        topic_id = urlsafe_b64decode(written + "==")
    except (binascii.Error, ValueError):
        return None
    return (group, topic_id) if len(topic_id) == 16 and topic_id != _ZERO_ID else None
