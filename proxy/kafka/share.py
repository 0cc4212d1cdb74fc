"""ShareFetch and ShareAcknowledge: what may be read of share groups, and share sessions (KIP-932).

A share session belongs to a group and a member, and is counted by epochs: 0 opens it, -1 closes it. Unlike a fetch it
cannot do without. Denied topics are taken out of what goes on, so that the session at the broker never holds them, and
the denial is told in every answer of the session, as the broker would.

INVARIANT: as for fetch sessions (`proxy.kafka.fetch`): what the mirror does not know, or what is no longer as it was
judged, is answered SHARE_SESSION_NOT_FOUND (122), and the client opens its session anew.

A share session is found by two names that any client may choose, and not bound to a connection
(SharePartitionManager.newContext): whoever knows group and member can go on with a session of somebody else. So unlike
those of Fetch, answers are read: one that holds a topic which is not in the mirror is of another's session.
"""

from collections.abc import Iterable
from typing import Final

from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request
from policies.requests import Operation, Resource
from proxy.kafka.answers import insert_of
from proxy.kafka.fetch import (
    MAX_PARTITIONS,
    MAX_SESSIONS,
    TOPIC_AUTHORIZATION_FAILED,
    UNKNOWN_TOPIC_ID,
    Named,
    ReadPlan,
)
from proxy.kafka.plan import Action, Authorizer

SHARE_FETCH: Final = 78
SHARE_ACKNOWLEDGE: Final = 79
GROUP_AUTHORIZATION_FAILED: Final = 30
SHARE_SESSION_NOT_FOUND: Final = 122
MAX_BYTES: Final = 4 * 1024 * 1024
"""Of records that a client may ask for at once, as answers are read whole; brokers go above it for one batch."""
OPENS: Final = 0
CLOSES: Final = -1

type Member = tuple[str, str]
type Denied = dict[bytes, tuple[int, set[int]]]
"""By topic id: the error, and the partitions that it is told for."""


class ShareSession:
    """The mirror of one share session. topics: at least those that the broker's holds; a topic stays until the session
    is opened anew. denied: asked for, and told as errors. names: of the denied, where they are known."""

    __slots__ = ("denied", "names_denied", "topics")

    def __init__(self) -> None:
        self.topics: dict[bytes, Named] = {}
        self.denied: Denied = {}
        self.names_denied: dict[bytes, str] = {}

    @property
    def size(self) -> int:
        """Partitions."""
        return sum(topic.size for topic in self.topics.values()) + sum(
            3 + len(partitions) for _, partitions in self.denied.values()
        )


class ShareRead:
    """A ShareFetch under way. Implements `proxy.kafka.fetch.Watch`."""

    __slots__ = ("_session",)

    def __init__(self, session: ShareSession) -> None:
        self._session = session

    def names(self) -> Iterable[str]:
        """See `Watch`."""
        return {topic.name for topic in self._session.topics.values()}

    def withdrawn(self, names: set[str]) -> list[Tree] | None:
        """See `Watch`. A member that has lost its connection learns of it by its next heartbeat."""
        return None

    def answered(self, error: int, session_id: int) -> None:
        """The mirror was right before: it holds what was asked for, answered or not."""


class ShareSessions:
    """The mirrors of one connection."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[Member, ShareSession] = {}

    def judge(self, request: Request, authorizer: Authorizer) -> ReadPlan:
        """What becomes of a ShareFetch or a ShareAcknowledge. Every topic id that can be known is."""
        body = request.body
        if not authorizer.allows(Operation.READ, Resource.GROUP, body["GroupId"] or ""):
            return ReadPlan(Action.ANSWER, answer={"ErrorCode": GROUP_AUTHORIZATION_FAILED, "Responses": []})
        errors: Denied = {}
        names: dict[bytes, str] = {}
        for entry in body["Topics"]:
            topic_id = entry["TopicId"]
            name = authorizer.topic_name(topic_id)
            if name is not None:
                names[topic_id] = name
                if authorizer.allows(Operation.READ, Resource.TOPIC, name):
                    continue
            error = UNKNOWN_TOPIC_ID if name is None else TOPIC_AUTHORIZATION_FAILED
            _, partitions = errors.setdefault(topic_id, (error, set()))
            partitions.update(each["PartitionIndex"] for each in entry["Partitions"])
        if request.api_key == SHARE_ACKNOWLEDGE:
            return self._acknowledge(request, errors)
        return self._fetch(request, authorizer, names, errors)

    def _acknowledge(self, request: Request, errors: Denied) -> ReadPlan:
        body = request.body
        if body["ShareSessionEpoch"] == CLOSES:
            self._known.pop((body["GroupId"] or "", body["MemberId"] or ""), None)
        if not errors:
            return ReadPlan()
        told = _told(errors)
        kept = [entry for entry in body["Topics"] if entry["TopicId"] not in errors]
        if not kept and body["ShareSessionEpoch"] != CLOSES:
            return ReadPlan(Action.ANSWER, answer={"Responses": told})
        insert = insert_of(request.api_key, request.api_version, told)
        return ReadPlan(Action.EDIT, body | {"Topics": kept}, insert=insert)

    def _fetch(self, request: Request, authorizer: Authorizer, names: dict[bytes, str], errors: Denied) -> ReadPlan:
        body = request.body
        member = (body["GroupId"] or "", body["MemberId"] or "")
        epoch = body["ShareSessionEpoch"]
        session = self._known.pop(member, None)
        if epoch == OPENS:
            session = ShareSession()
        if session is None:
            return _begin_anew("unknown_session")
        if not errors.keys().isdisjoint(session.topics) or not self._holds(session, authorizer, names):
            return _begin_anew("session_denied")
        for topic_id, (error, partitions) in errors.items():
            session.denied.setdefault(topic_id, (error, set()))[1].update(partitions)
            if topic_id in names:
                session.names_denied[topic_id] = names[topic_id]
        for entry in body["ForgottenTopicsData"]:
            if entry["TopicId"] in session.denied:
                _, partitions = session.denied[entry["TopicId"]]
                partitions.difference_update(entry["Partitions"])
                if not partitions:
                    del session.denied[entry["TopicId"]]
                    session.names_denied.pop(entry["TopicId"], None)
        kept = [entry for entry in body["Topics"] if entry["TopicId"] not in errors]
        for entry in kept:
            session.denied.pop(entry["TopicId"], None)
            session.names_denied.pop(entry["TopicId"], None)
            topic = session.topics.setdefault(entry["TopicId"], Named(names[entry["TopicId"]]))
            topic.partitions.update(each["PartitionIndex"] for each in entry["Partitions"])
        if session.size > MAX_PARTITIONS:
            return _begin_anew("session_too_large")
        if epoch != CLOSES:
            if len(self._known) >= MAX_SESSIONS:
                del self._known[next(iter(self._known))]
            self._known[member] = session
        watch = ShareRead(session)
        told = _told(session.denied)

        def edit(answer: Tree) -> Tree:
            if answer["ErrorCode"]:
                return answer
            for each in answer["Responses"]:
                topic = session.topics.get(each["TopicId"])
                if topic is None or not authorizer.sees(Operation.READ, Resource.TOPIC, topic.name):
                    self._forget(member, session)
                    return {"ErrorCode": SHARE_SESSION_NOT_FOUND, "Responses": []}
            answer["Responses"] = told + answer["Responses"]
            return answer

        changed: Tree = {}
        if body["MaxBytes"] > MAX_BYTES:
            changed["MaxBytes"] = MAX_BYTES
        if told:
            forgotten = [entry for entry in body["ForgottenTopicsData"] if entry["TopicId"] in session.topics]
            # the denial is told at once, whether there are records or not
            changed.update(Topics=kept, ForgottenTopicsData=forgotten, MaxWaitMs=0, MinBytes=0)
        if not changed:
            return ReadPlan(edit=edit, watch=watch)
        return ReadPlan(Action.EDIT, body | changed, edit=edit, watch=watch)

    def _forget(self, member: Member, session: ShareSession) -> None:
        if self._known.get(member) is session:
            del self._known[member]

    def _holds(self, session: ShareSession, authorizer: Authorizer, names: dict[bytes, str]) -> bool:
        """Whether all that is in the session is still as it was judged."""
        asked = set(names.values())
        for name in sorted({topic.name for topic in session.topics.values()} - asked):
            if not authorizer.allows(Operation.READ, Resource.TOPIC, name):
                return False
        for name in sorted(set(session.names_denied.values()) - asked):
            if authorizer.allows(Operation.READ, Resource.TOPIC, name):
                return False
        return True


def _told(denied: Denied) -> list[Tree]:
    """Topics with their errors as an answer tells them; of both APIs."""
    return [
        {
            "TopicId": topic_id,
            "Partitions": [
                {
                    "PartitionIndex": index,
                    "ErrorCode": error,
                    "AcknowledgeErrorCode": error,
                    "CurrentLeader": {"LeaderId": 0, "LeaderEpoch": 0},
                    "Records": b"",
                    "AcquiredRecords": [],
                }
                for index in sorted(partitions)
            ],
        }
        for topic_id, (error, partitions) in denied.items()
    ]


def _begin_anew(why: str) -> ReadPlan:
    return ReadPlan(
        Action.ANSWER,
        answer={"ErrorCode": SHARE_SESSION_NOT_FOUND, "Responses": []},
        refused=why,
    )
