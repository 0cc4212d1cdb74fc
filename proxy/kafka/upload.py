"""A Produce request that is too big to wait for: judged topic by topic while its records pass.

    holding ── enough is known, and allowed ──▶ passing ── a topic is denied ──▶ draining (late)
       └────── enough is known, and denied ───▶ draining
       └────── it is whole ───▶ as any other request

While it is held its bytes stay where they are. What passes was read by the walk before, so that the broker never gets
the last byte of a request that was not allowed whole; what is drained is read for the partitions that the denial is
told for.
"""

from enum import Enum
from typing import Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import MAX_ELEMENTS, Tree
from parsers.kafka.frames import Request
from parsers.kafka.produce import End, Partition, ProduceWalk, Topic, TopicCount

NOT_LEADER_OR_FOLLOWER: Final = 6
"""What allowed topics are told in a request that did not go on whole: every client looks for the leader again and sends
them once more, and nothing was written."""
UNKNOWN_TOPIC_ID: Final = 100
TOPIC_AUTHORIZATION_FAILED: Final = 29

_BY_ID: Final = 13
_INDEX_AND_LENGTH: Final = 5
"""The least that stands between the start of a partition and its records."""
MAX_TOPICS: Final = 5000
"""Of one such request: they are all judged at once when it was denied."""
ELEMENT_BYTES: Final = 230
"""That a topic or a partition takes here."""
_ZEROS: Final = memoryview(bytes(256 * 1024))


class Stage(Enum):
    """What becomes of the bytes."""

    HOLDING = "holding"
    PASSING = "passing"
    DRAINING = "draining"


class Upload:
    """One such request. request: its body grows as topics are read. size: of the frame. late: part of it went on.
    asked: the broker was asked for its topic ids. judged: topics that are allowed."""

    __slots__ = (
        "_blind_until",
        "_elements",
        "_fed",
        "_walk",
        "asked",
        "count",
        "ended",
        "judged",
        "late",
        "request",
        "size",
        "stage",
        "topics",
    )

    def __init__(self, request: Request, size: int, at: int) -> None:
        """at: where TopicData begins in the frame; what is before it was read."""
        self.request = request
        self.size = size
        self.stage = Stage.HOLDING
        self.topics: list[Tree] = []
        request.body["TopicData"] = self.topics
        self.count: int | None = None  # of topics, once it is known
        self.late = False
        self.asked = False
        self.judged = 0
        self.ended = False
        self._walk = ProduceWalk(request.api_version, size, at)
        self._fed = at
        self._blind_until = 0
        self._elements = 0

    @property
    def fed(self) -> int:
        """Bytes of the frame that were read."""
        return self._fed

    @property
    def left(self) -> int:
        """Bytes of the frame that were not."""
        return self.size - self._fed

    @property
    def blind(self) -> int:
        """Bytes from here on that are records, at least."""
        return max(self._blind_until - self._fed, 0)

    def feed(self, data: bytes | memoryview) -> None:
        """Read more.

        Raises:
            RemoteProtocolError: as `ProduceWalk.feed`, and too_many_elements.
        """
        for event in self._walk.feed(data):
            if type(event) is Partition:
                self._spend()
                self.topics[-1]["PartitionData"].append({"Index": event.index, "Records": None})
                self._blind_until = event.at + _INDEX_AND_LENGTH + max(event.record_bytes, 0)
            elif type(event) is Topic:
                self._spend()
                name: Tree = {"Name": event.name} if event.id is None else {"TopicId": event.id}
                self.topics.append(name | {"PartitionData": []})
            elif type(event) is TopicCount:
                self.count = event.count
            elif type(event) is End:
                self.ended = True
        self._fed += len(data)

    @property
    def cost(self) -> int:
        """Bytes that are kept of what was read."""
        return self._elements * ELEMENT_BYTES

    def passed(self, count: int) -> None:
        """So many bytes of records passed unseen."""
        if count > self.blind:
            raise RuntimeError("bytes passed unseen that are no records")
        while count:
            piece = min(count, len(_ZEROS))
            self.feed(_ZEROS[:piece])  # it steps over them, whatever they are
            count -= piece

    def unjudged(self) -> Request:
        """The request with the topics alone that are to be judged yet."""
        request = self.request
        body = request.body | {"TopicData": self.topics[self.judged :]}
        return Request(request.api_key, request.api_version, request.correlation_id, request.client_id, body)

    def answer(self, names: dict[bytes, str], denied: set[str]) -> Tree:
        """Body of the answer: denied topics are told so, unknown ids too, and all others to try again.

        names: of topic ids.
        """
        by_id = self.request.api_version >= _BY_ID
        told: list[Tree] = []
        for topic in self.topics:
            name = names.get(topic["TopicId"]) if by_id else topic["Name"]
            error = NOT_LEADER_OR_FOLLOWER
            if name is None:
                error = UNKNOWN_TOPIC_ID
            elif name in denied:
                error = TOPIC_AUTHORIZATION_FAILED
            partitions = [
                {"Index": each["Index"], "ErrorCode": error, "BaseOffset": -1} for each in topic["PartitionData"]
            ]
            key = "TopicId" if by_id else "Name"
            told.append({key: topic[key], "PartitionResponses": partitions})
        return {"Responses": told}

    def _spend(self) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(self.topics) > MAX_TOPICS:
            raise RemoteProtocolError("too_many_elements")
