"""Which topic an id means (KIP-516), as brokers told it.

INVARIANT: a place is an enforcement point, a peer by policy and the address that the client dialled. What one broker
says is believed for requests to it alone: a broker that lies deceives those who ask it, and nobody else.

An id means one topic for ever: a topic that is made again has another. So nothing here grows old, and what has no room
costs a question to the broker.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from parsers.kafka.codec import Tree
from parsers.kafka.entities import FIND_COORDINATOR, entities
from parsers.kafka.frames import Request, message_of
from parsers.kafka.table import Field
from proxy.counters import Counters

type Place = tuple[int, int, int, str, int]
"""Endpoint id, direction, identity of the peer, original address and port."""

MAX_IDS: Final = 65_536
"""Of one worker, some 200 bytes each: 13 MB."""
MAX_IDS_OF_PLACE: Final = 16_384
"""Of one place, so that no broker can crowd out all others."""

MAX_NAME: Final = 249
"""Characters of a topic's name (org.apache.kafka.common.internals.Topic); longer ones are no topic's."""

NO_ID: Final = bytes(16)


class TopicIds:
    """What one worker knows. The oldest goes first, and is counted."""

    __slots__ = ("_count", "_counters", "_places")

    def __init__(self, counters: Counters) -> None:
        self._places: dict[Place, dict[bytes, str]] = {}
        self._counters = counters
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, place: Place) -> dict[bytes, str]:
        """Names by id, of one place; not to be changed."""
        return self._places.get(place, _NOTHING)

    def learn(self, place: Place, pairs: Iterable[tuple[bytes, str]]) -> None:
        """The broker of this place said what these ids mean."""
        known = self._places.setdefault(place, {})
        for topic_id, name in pairs:
            if topic_id == NO_ID or known.get(topic_id) == name:
                continue
            if topic_id not in known:
                full = len(known) >= MAX_IDS_OF_PLACE
                if full or self._count >= MAX_IDS:
                    self._drop_one(place if full else next(iter(self._places)))
                    self._places[place] = known  # it may have been the one that lost its last
                self._count += 1
            known[topic_id] = name
        if not known:
            del self._places[place]

    def _drop_one(self, place: Place) -> None:
        known = self._places[place]
        del known[next(iter(known))]
        self._count -= 1
        self._counters["kafka_ids_evicted"] += 1
        if not known:
            del self._places[place]


_NOTHING: Final[dict[bytes, str]] = {}

_TOPICS: Final = {3: "Topics", 19: "Topics", 75: "Topics"}
"""Answers that name topics beside their ids: Metadata, CreateTopics, DescribeTopicPartitions."""


def told_by(api_key: int) -> bool:
    """Whether answers of this API tell ids."""
    return api_key in _TOPICS


def pairs_in(api_key: int, body: Tree) -> list[tuple[bytes, str]]:
    """The ids that an answer tells, with their names."""
    topics: list[dict[str, Any]] = body.get(_TOPICS[api_key]) or []
    return [
        (topic["TopicId"], topic["Name"])
        for topic in topics
        if topic.get("TopicId", NO_ID) != NO_ID and topic.get("Name") and len(topic["Name"]) <= MAX_NAME
    ]


def _has_ids(fields: tuple[Field, ...], version: int) -> bool:
    return any(
        (field.name == "TopicId" or _has_ids(field.fields, version)) and field.in_version(version) for field in fields
    )


@cache
def _may_have_ids(api_key: int, version: int) -> bool:
    return api_key == FIND_COORDINATOR or _has_ids(message_of(api_key, version, "request").fields, version)


def ids_in(request: Request) -> Iterable[bytes]:
    """The topic ids of a request, each once."""
    if not _may_have_ids(request.api_key, request.api_version):
        return ()
    return dict.fromkeys(entities(request).topic_ids)


def question(topic_ids: Iterable[bytes]) -> Tree:
    """Body of a Metadata request, version 12 or later, that asks for names and creates nothing."""
    return {
        "Topics": [{"TopicId": topic_id, "Name": None} for topic_id in topic_ids],
        "AllowAutoTopicCreation": False,
        "IncludeTopicAuthorizedOperations": False,
    }
