"""What a Kafka message names: rows for each kind of naming, and for every message a second way to find the same."""

from base64 import urlsafe_b64encode

import pytest

from parsers.kafka.codec import Tree
from parsers.kafka.entities import Entities, entities, share_key
from parsers.kafka.frames import (
    Request,
    Response,
    begin_request,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from parsers.kafka.table import Field
from tests.parsers.kafka_trees import seeded, tree, versions

ID_A, ID_B = bytes([10]) * 16, bytes([11]) * 16
SHARE_A = urlsafe_b64encode(ID_A).decode().rstrip("=")

ROWS: list[tuple[str, int, int, Tree, Entities]] = [
    ("nothing", 18, 3, {}, Entities()),
    ("produce, a repeated and an empty name", 0, 9,
     {"TransactionalId": "tx", "TopicData": [{"Name": "b"}, {"Name": ""}, {"Name": "b"}, {"Name": "a"}]},
     Entities(["b", "", "b", "a"], [], [], ["tx"])),
    ("produce by id", 0, 13, {"TopicData": [{"TopicId": ID_B}, {"TopicId": ID_A}]}, Entities([], [ID_B, ID_A])),
    ("fetch, topics to be forgotten behind the others", 1, 12,
     {"Topics": [{"Topic": "a"}], "ForgottenTopicsData": [{"Topic": "b"}]}, Entities(["a", "b"])),
    ("metadata of all topics", 3, 12, {"Topics": None}, Entities()),
    ("metadata by name and by id", 3, 12,
     {"Topics": [{"Name": "a", "TopicId": bytes(16)}, {"Name": None, "TopicId": ID_A}]}, Entities(["a"], [ID_A])),
    ("groups in a plain list", 15, 5, {"Groups": ["g", "h", "g"]}, Entities([], [], ["g", "h", "g"])),
    ("offset fetch of several groups", 9, 8,
     {"Groups": [{"GroupId": "g", "Topics": [{"Name": "a"}]}, {"GroupId": "h", "Topics": None}]},
     Entities(["a"], [], ["g", "h"])),
    ("coordinator of a group", 10, 0, {"Key": "g"}, Entities([], [], ["g"])),
    ("coordinator of a transaction", 10, 2, {"Key": "tx", "KeyType": 1}, Entities([], [], [], ["tx"])),
    ("coordinators of groups", 10, 4, {"KeyType": 0, "CoordinatorKeys": ["g", "h"]}, Entities([], [], ["g", "h"])),
    ("coordinators of transactions", 10, 6, {"KeyType": 1, "CoordinatorKeys": ["t"]}, Entities([], [], [], ["t"])),
    ("coordinators of share partitions", 10, 6, {"KeyType": 2, "CoordinatorKeys": [f"g:{SHARE_A}:3", "not one"]},
     Entities([], [ID_A], ["g"])),
    ("coordinator of a kind that is new", 10, 6, {"KeyType": 3, "CoordinatorKeys": ["x"]}, Entities()),
    ("configs of a topic, a broker and a group", 32, 4,
     {"Resources": [{"ResourceType": 2, "ResourceName": "a"}, {"ResourceType": 4, "ResourceName": "1"},
                    {"ResourceType": 32, "ResourceName": "g"}]}, Entities(["a"], [], ["g"])),
    ("configs to be altered", 33, 2, {"Resources": [{"ResourceType": 2, "ResourceName": "a"}]}, Entities(["a"])),
    ("configs to be altered one by one", 44, 1, {"Resources": [{"ResourceType": 32, "ResourceName": "g"}]},
     Entities([], [], ["g"])),
    ("names in ACLs are patterns", 30, 3, {"Creations": [{"ResourceType": 2, "ResourceName": "a"}]}, Entities()),
    ("transactions of old", 24, 3, {"V3AndBelowTransactionalId": "tx", "V3AndBelowTopics": [{"Name": "a"}]},
     Entities(["a"], [], [], ["tx"])),
    ("transactions in batches", 24, 4, {"Transactions": [{"TransactionalId": "tx", "Topics": [{"Name": "a"}]}]},
     Entities(["a"], [], [], ["tx"])),
    ("a group id that the definitions do not mark", 84, 0, {"GroupId": "g", "Topics": [{"TopicId": ID_A}]},
     Entities([], [ID_A], ["g"])),
    ("a struct that is null", 75, 0, {"Topics": [{"Name": "a"}], "Cursor": None}, Entities(["a"])),
    ("a struct that is there", 75, 0, {"Topics": [], "Cursor": {"TopicName": "a"}}, Entities(["a"])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "version", "body", "expected"), ROWS)
def test_requests(name: str, key: int, version: int, body: Tree, expected: Entities) -> None:
    assert entities(decode_request(encode_request(Request(key, version, 1, None, body)))) == expected


def test_responses() -> None:
    answer = {"Topics": [{"Name": "a", "TopicId": ID_A}, {"Name": None, "TopicId": ID_B}]}
    assert entities(Response(3, 12, 1, answer)) == Entities(["a"], [ID_A, ID_B])
    answer = {"Results": [{"ResourceType": 2, "ResourceName": "a"}, {"ResourceType": 8, "ResourceName": "1"}]}
    assert entities(Response(32, 4, 1, answer)) == Entities(["a"])
    assert entities(Response(10, 4, 1, {"Coordinators": [{"Key": "g"}]})) == Entities()


def test_resources_without_a_type_name_nothing() -> None:
    """Version 0 of ListConfigResources lists client metrics alone."""
    frame = encode_response(74, 0, 1, {"ConfigResources": [{"ResourceName": "metrics"}]})
    assert entities(decode_response(74, 0, frame)) == Entities()


def test_a_request_that_was_begun_names_what_its_first_fields_name() -> None:
    data = encode_request(Request(0, 9, 1, None, {"TransactionalId": "tx", "TopicData": [{"Name": "a"}]}))
    assert entities(begin_request(data, "TopicData")[0]) == Entities([], [], [], ["tx"])


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (f"g:{SHARE_A}:0", ("g", ID_A)),
        (f":{SHARE_A}:0", None),
        (f"g:{SHARE_A}:", None),
        (f"g:{SHARE_A}:-1", None),
        (f"g:{SHARE_A}", None),
        (f"a:b:{SHARE_A}:0", None),
        ("g:AAAAAAAAAAAAAAAAAAAAAA:0", None),
        ("g:short:0", None),
        ("g:ü:0", None),
        ("", None),
    ],
)
def test_share_keys(key: str, expected: tuple[str, bytes] | None) -> None:
    assert share_key(key) == expected


LISTS = {"topicName": "topics", "groupId": "groups", "transactionalId": "transactional_ids"}


def slow_walk(fields: tuple[Field, ...], body: Tree, found: Entities) -> None:
    """Every field of a tree in order, by what the table says of it."""
    for field in fields:
        value = body.get(field.name)
        for each in value if isinstance(value, list) else [value]:
            if each is None:
                continue
            if isinstance(each, dict):
                slow_walk(field.fields, each, found)
            elif field.entity in LISTS:
                getattr(found, LISTS[field.entity]).append(each)
            elif field.name == "GroupId":
                found.groups.append(each)
            elif field.name == "TopicId":
                found.topic_ids.append(each)


def test_every_message_names_what_a_walk_through_its_fields_finds() -> None:
    rng = seeded(7)
    named = 0
    for kind in ("request", "response"):
        for api, message, version in versions(kind):
            if api.key in (10, 32, 33, 44, 74):
                continue
            body = tree(message, version, rng)
            expected = Entities()
            slow_walk(message.fields, body, expected)
            read: Request | Response
            if kind == "request":
                read = decode_request(encode_request(Request(api.key, version, 1, "c", body)))
            else:
                read = decode_response(api.key, version, encode_response(api.key, version, 1, body))
            assert entities(read) == expected, (message.name, version)
            named += expected != Entities()
    assert named > 200
