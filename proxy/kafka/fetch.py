"""Fetch: what may be read, and the fetch sessions of one connection (KIP-227).

A session lives at the broker: a client names its topics once, and every later request returns records of all of them.
So what a request says is not what its answer may hold. Our side is kept simple:

INVARIANT: a session at the broker that this connection can use holds allowed topics only, as far as this connection put
them there, and the mirror of it here holds at least these. Where a rule has changed since, or where the mirror knows
nothing of a session, the client is told that there is no such session (error 70), and names all its topics again.

A fetch of which some topics are denied goes on without a session and without waiting, and the denial is put before what
the broker answers. Answers are not looked at, but for their first fields.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request
from policies.requests import Operation, Resource
from proxy.kafka.answers import Insert, insert_of
from proxy.kafka.plan import Action, Authorizer, Plan

FETCH: Final = 1
MAX_SESSIONS: Final = 8
"""Of one connection; a client has one to a broker. The oldest is forgotten."""
MAX_PARTITIONS: Final = 10_000
"""In all mirrors of one connection, some 70 bytes each; a topic counts as three, a long name as more. A fetch of more
goes on without a session."""

_FIRST_SESSION: Final = 7  # versions
_FIRST_ID: Final = 13
_FIRST_STATE: Final = 15

NO_SESSION_EPOCH: Final = -1
NEW_SESSION_EPOCH: Final = 0
FETCH_SESSION_ID_NOT_FOUND: Final = 70
TOPIC_AUTHORIZATION_FAILED: Final = 29
UNKNOWN_TOPIC_ID: Final = 100

type TopicKey = str | bytes
"""A topic as a request names it: by name, or by id from version 13 on."""


class Watch(Protocol):
    """What a request leaves behind until its answer is out."""

    def names(self) -> Iterable[str]:
        """The topics of which the answer may hold records."""

    def answered(self, error: int, session_id: int) -> None:
        """The answer's first fields came."""

    def withdrawn(self, names: set[str]) -> "list[Tree] | None":
        """Topics of an answer of ours in its place, where these are not allowed any more; None where there is none."""


@dataclass(slots=True)
class ReadPlan(Plan):
    """A plan for a request whose answer holds records. insert: put before the answer's topics. watch: see there.
    refused: why no policy was to blame where the client is sent back: a code of `[a-z_]+`."""

    insert: Insert | None = None
    watch: Watch | None = None
    refused: str = ""


@dataclass(slots=True)
class Named:
    """One topic and the partitions of it that a request, or a session, has."""

    name: str
    partitions: set[int] = field(default_factory=set)

    @property
    def size(self) -> int:
        """What it takes, in partitions."""
        return 3 + len(self.name) // 64 + len(self.partitions)


type Topics = dict[TopicKey, Named]


class Session:
    """The mirror of one session. waiting: what requests without an answer add and forget, in order."""

    __slots__ = ("topics", "waiting")

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.waiting: deque[Change] = deque()

    def names(self) -> set[str]:
        """All topics that it may hold by now."""
        names = {topic.name for topic in self.topics.values()}
        for change in self.waiting:
            names.update(topic.name for topic in change.adds.values())
        return names

    @property
    def size(self) -> int:
        """Partitions, those that are on their way included."""
        held = sum(topic.size for topic in self.topics.values())
        return held + sum(len(topic.partitions) for change in self.waiting for topic in change.adds.values())


class Change:
    """An incremental fetch under way. Implements `Watch`."""

    __slots__ = ("adds", "forgets", "session")

    def __init__(self, session: Session, adds: Topics, forgets: list[tuple[TopicKey, list[int]]]) -> None:
        self.session = session
        self.adds = adds
        self.forgets = forgets
        session.waiting.append(self)

    def names(self) -> Iterable[str]:
        """See `Watch`."""
        return self.session.names()

    def withdrawn(self, names: set[str]) -> list[Tree] | None:
        """See `Watch`. What did not change need not be told in a session."""
        known: Topics = {}
        for topics in (self.session.topics, *(change.adds for change in self.session.waiting)):
            for key, topic in topics.items():
                if topic.name in names:
                    known.setdefault(key, Named(topic.name)).partitions.update(topic.partitions)
        return [_empty(key, topic, TOPIC_AUTHORIZATION_FAILED) for key, topic in known.items()]

    def answered(self, error: int, session_id: int) -> None:
        """The broker adds, then forgets. What it did before it met an error nobody knows: it may have added, and need
        not have forgotten."""
        session = self.session
        if session.waiting and session.waiting[0] is self:
            session.waiting.popleft()
        else:
            raise RuntimeError("an answer to a fetch that is not the oldest of its session")
        topics = session.topics
        for key, added in self.adds.items():
            topics.setdefault(key, Named(added.name)).partitions.update(added.partitions)
        if error:
            return
        for key, partitions in self.forgets:
            known = topics.get(key)
            if known is not None:
                known.partitions.difference_update(partitions)
                if not known.partitions:
                    del topics[key]


class Whole:
    """A fetch that names all its topics, under way. Implements `Watch`."""

    __slots__ = ("_sessions", "_topics")

    def __init__(self, topics: Topics, sessions: "Sessions | None") -> None:
        """sessions: where to put the session that the broker may make of it."""
        self._topics = topics
        self._sessions = sessions

    def names(self) -> Iterable[str]:
        """See `Watch`."""
        return {topic.name for topic in self._topics.values()}

    def withdrawn(self, names: set[str]) -> list[Tree] | None:
        """See `Watch`. Clients want all that they asked for, outside of a session."""
        return [
            _empty(key, topic, TOPIC_AUTHORIZATION_FAILED if topic.name in names else 0)
            for key, topic in self._topics.items()
        ]

    def answered(self, error: int, session_id: int) -> None:
        """The broker may have made a session."""
        if self._sessions is not None and session_id and not error:
            self._sessions.put(session_id, self._topics)


class Sessions:
    """The mirrors of one connection."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, Session] = {}

    def put(self, session_id: int, topics: Topics) -> None:
        """The broker has made a session."""
        self._known.pop(session_id, None)
        if len(self._known) >= MAX_SESSIONS:
            del self._known[next(iter(self._known))]
        self._known[session_id] = Session(topics)

    @property
    def size(self) -> int:
        """Partitions of all of them."""
        return sum(session.size for session in self._known.values())

    def judge(self, request: Request, authorizer: Authorizer) -> ReadPlan:
        """What becomes of a Fetch request. Every topic id that can be known is."""
        body, version = request.body, request.api_version
        session_id, epoch = body.get("SessionId", 0), body.get("SessionEpoch", NO_SESSION_EPOCH)
        entries = body["Topics"]
        if _replica(body, version) >= 0 and not authorizer.allows(Operation.CLUSTER_ACTION, Resource.CLUSTER, ""):
            return _answer(request, entries, _all_denied(entries))  # as a follower, KafkaApis.handleFetchRequest
        whole = version < _FIRST_SESSION or epoch in (NO_SESSION_EPOCH, NEW_SESSION_EPOCH)
        names, errors = _judged(entries, version, authorizer)
        if whole:
            self._known.pop(session_id, None)
            return self._whole(request, names, errors)
        return self._incremental(request, self._known.get(session_id), names, errors, authorizer)

    def _whole(self, request: Request, names: list[str | None], errors: list[int]) -> ReadPlan:
        body, version = request.body, request.api_version
        entries = body["Topics"]
        if entries and all(errors):
            return _answer(request, entries, errors)
        allowed = [(entry, name) for entry, name, error in zip(entries, names, errors, strict=True) if not error]
        topics = _topics((entry, name) for entry, name in allowed if name is not None)
        size = sum(topic.size for topic in topics.values())
        fits = self.size + size <= MAX_PARTITIONS
        if not any(errors) and (fits or body.get("SessionEpoch", NO_SESSION_EPOCH) == NO_SESSION_EPOCH):
            makes = version >= _FIRST_SESSION and body["SessionEpoch"] == NEW_SESSION_EPOCH
            return ReadPlan(watch=Whole(topics, self if makes else None))
        changed = body | {"Topics": [entry for entry, _ in allowed]}
        if version >= _FIRST_SESSION:
            changed["SessionEpoch"] = NO_SESSION_EPOCH
        plan = ReadPlan(Action.EDIT, changed, watch=Whole(topics, None))
        if any(errors):
            changed["MaxWaitMs"] = changed["MinBytes"] = (
                0  # the denial is told at once, whether there are records or not
            )
            plan.insert = insert_of(FETCH, version, _denied(entries, errors))
        return plan

    def _incremental(
        self,
        request: Request,
        session: Session | None,
        names: list[str | None],
        errors: list[int],
        authorizer: Authorizer,
    ) -> ReadPlan:
        if session is None:
            return _begin_anew(request, "unknown_session")
        allowed = not any(errors)
        for name in sorted(session.names().difference(name for name in names if name is not None)):
            allowed &= authorizer.allows(Operation.READ, Resource.TOPIC, name)
        if not allowed:
            return _begin_anew(request, "session_denied")
        entries = request.body["Topics"]
        adds = _topics((entry, name) for entry, name in zip(entries, names, strict=True) if name is not None)
        if self.size + sum(topic.size for topic in adds.values()) > MAX_PARTITIONS:
            return _begin_anew(request, "session_too_large")
        forgets = [(_key(entry), entry["Partitions"]) for entry in request.body["ForgottenTopicsData"]]
        return ReadPlan(watch=Change(session, adds, forgets))


def _replica(body: Tree, version: int) -> int:
    """-1 for a consumer."""
    replica: int = body["ReplicaState"]["ReplicaId"] if version >= _FIRST_STATE else body["ReplicaId"]
    return replica


def _key(entry: Tree) -> TopicKey:
    key: TopicKey = entry["TopicId"] if "TopicId" in entry else entry["Topic"]
    return key


def _judged(entries: list[Tree], version: int, authorizer: Authorizer) -> tuple[list[str | None], list[int]]:
    """Name (None where nobody knows it) and error (0: allowed) of each topic of a request."""
    names: list[str | None] = []
    errors: list[int] = []
    for entry in entries:
        name = authorizer.topic_name(entry["TopicId"]) if version >= _FIRST_ID else entry["Topic"]
        names.append(name)
        if name is None:
            errors.append(UNKNOWN_TOPIC_ID)
        else:
            allowed = authorizer.allows(Operation.READ, Resource.TOPIC, name)
            errors.append(0 if allowed else TOPIC_AUTHORIZATION_FAILED)
    return names, errors


def _all_denied(entries: list[Tree]) -> list[int]:
    return [TOPIC_AUTHORIZATION_FAILED] * len(entries)


def _topics(entries: Iterable[tuple[Tree, str]]) -> Topics:
    topics: Topics = {}
    for entry, name in entries:
        topic = topics.setdefault(_key(entry), Named(name))
        topic.partitions.update(each["Partition"] for each in entry["Partitions"])
    return topics


def _denied(entries: list[Tree], errors: list[int]) -> list[Tree]:
    """The topics with an error as an answer tells them."""
    return [
        _no_records(_key(entry), [each["Partition"] for each in entry["Partitions"]], error)
        for entry, error in zip(entries, errors, strict=True)
        if error
    ]


def _empty(key: TopicKey, topic: Named, error: int) -> Tree:
    return _no_records(key, sorted(topic.partitions), error)


def _no_records(key: TopicKey, partitions: Iterable[int], error: int) -> Tree:
    """A topic of an answer (FetchResponse.partitionResponse)."""
    name: Tree = {"TopicId": key} if isinstance(key, bytes) else {"Topic": key}
    return name | {
        "Partitions": [
            {
                "PartitionIndex": index,
                "ErrorCode": error,
                "HighWatermark": -1,
                "LastStableOffset": -1,
                "LogStartOffset": -1,
                "AbortedTransactions": [],
                "PreferredReadReplica": -1,
                "Records": b"",
            }
            for index in partitions
        ]
    }


def _answer(request: Request, entries: list[Tree], errors: list[int]) -> ReadPlan:
    answer = {"SessionId": 0, "Responses": _denied(entries, errors)}
    return ReadPlan(Action.ANSWER, answer=answer)


def _begin_anew(request: Request, why: str) -> ReadPlan:
    answer = {"ErrorCode": FETCH_SESSION_ID_NOT_FOUND, "SessionId": 0, "Responses": []}
    return ReadPlan(Action.ANSWER, answer=answer, refused=why)
