"""What one Kafka connection is between events: what came, what is due, why nothing is taken; and how it ends.

INVARIANT: the first exchange in the queue awaits the broker; ours go out as soon as they are first.
INVARIANT: a flow that is over sends no command but those that end it.
"""

import struct
from collections import deque
from typing import Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.frames import (
    HEAD_BYTES,
    Request,
    peek,
)
from parsers.kafka.table import TABLE
from policies.engine import Permit
from proxy.commands import Edge
from proxy.events import Timer
from proxy.flow import Flow
from proxy.flow_event import DROPPED, ERROR, RULE_LIMIT, RULE_PROTOCOL, ConnectionFacts, KafkaFacts
from proxy.kafka.exchange import Exchange
from proxy.kafka.fetch import Sessions
from proxy.kafka.ids import Place
from proxy.kafka.inbox import Inbox
from proxy.kafka.questions import Judge
from proxy.kafka.share import ShareSessions
from proxy.kafka.shared import Holding, Shared
from proxy.kafka.upload import Upload

PRODUCE: Final = 0
METADATA: Final = 3
METADATA_WITH_IDS: Final = 12

SIZE: Final = struct.Struct(">i")
"""Length of a frame."""
START: Final = struct.Struct(">ii")
"""Length and correlation id of an answer."""

# why no request is taken
OPENING: Final = 1  # a leg is being opened
ASKING: Final = 2  # topic ids are asked for
FULL: Final = 4  # the client does not read
PENDING: Final = 8  # too many answers are due
CLOSING: Final = 16  # the end comes behind the answers that are due
OVER: Final = 32


class State:
    """Everything of one connection that its parts share (`answering`, `requesting`, `uploading`, `layers.kafka`)."""

    __slots__ = (
        "_answer_left",
        "_asking",
        "_client_ended",
        "_cost",
        "_draining",
        "_edge",
        "_end_passed",
        "_exchange",
        "_fetches",
        "_first",
        "_flow",
        "_frame_began",
        "_going_bytes",
        "_going_out",
        "_holding",
        "_holds",
        "_inbox",
        "_judge",
        "_last_place",
        "_leg",
        "_lenient",
        "_metadata_version",
        "_outbox",
        "_paused",
        "_pending",
        "_placed",
        "_pumping",
        "_shared",
        "_shares",
        "_silent",
        "_timer",
        "_unsent",
        "_upload",
    )

    def __init__(self, flow: Flow, edge: Edge, shared: Shared, *, lenient: bool = False) -> None:
        """lenient: only policies in mode audit want this judged, so that it passes where it cannot be read."""
        self._flow = flow
        self._edge = edge
        self._shared = shared
        self._lenient = lenient
        self._judge = Judge(flow)
        self._placed: ConnectionFacts | None = None
        self._last_place: Place = (0, 0, 0, "", 0)
        self._holding = Holding(shared)
        self._inbox = Inbox()  # from the client
        self._outbox = Inbox()  # from the broker
        self._pending: deque[Exchange] = deque()
        self._going_out: deque[Exchange] = deque()  # answered with records that may be unsent
        self._going_bytes = 0
        self._fetches = Sessions()
        self._shares = ShareSessions()
        self._holds = 0
        self._pumping = False
        self._paused = False
        self._first = True  # no frame came yet
        self._leg = False
        self._unsent = b""  # what the leg is being opened for
        self._silent = False  # a request without an answer went on since the last answer
        self._answer_left = 0  # bytes of an answer that streams
        self._upload: Upload | None = None
        self._exchange: Exchange | None = None  # of the upload that passes
        self._asking: tuple[Request, bytes] | None = None  # waits until its topic ids are known
        self._metadata_version = METADATA_WITH_IDS
        self._client_ended = False
        self._end_passed = False
        self._draining = False
        self._cost = 0  # bytes that exchanges keep
        self._frame_began: float | None = None
        self._timer = Timer.IDLE

    @property
    def _place(self) -> Place:
        facts = self._flow.facts
        if facts is not self._placed:
            self._placed = facts
            broker = facts.destination_address, facts.destination_port
            self._last_place = (facts.endpoint, facts.direction, facts.identity, *broker)
        return self._last_place

    def _account(self) -> None:
        """Count what is kept; end the flow where all together keep too much."""
        kept = len(self._inbox) + len(self._outbox) + self._cost
        if self._upload is not None:
            kept += self._upload.cost
        if self._holding.set(kept) > self._flow.limits.kafka_held_bytes and not self._holds & OVER:
            self._flow.counters["limit_kafka_held"] += 1
            self._drop_upload()
            self._refuse_all("limit_kafka_held", RULE_LIMIT)

    def _await(self, exchange: Exchange) -> None:
        """An answer is due."""
        pending, limits = self._pending, self._flow.limits
        pending.append(exchange)
        self._cost += exchange.cost
        if len(pending) >= limits.kafka_pending or self._cost >= limits.kafka_request_bytes:
            self._holds |= PENDING
        if exchange.cost:
            self._account()

    def _send(self, raw: bytes, permit: Permit | None) -> None:
        """Send a whole frame, on a leg that there is or will be."""
        if permit is None:
            raise RuntimeError("a request goes on without a permit")
        if self._holds & OVER:
            return
        if self._leg:
            self._edge.pass_upstream(raw)
        else:
            self._unsent = raw
            self._holds |= OPENING
            self._edge.open_upstream(permit)

    def _pop(self) -> None:
        exchange = self._pending.popleft()
        self._cost -= exchange.cost
        limits = self._flow.limits
        if len(self._pending) < limits.kafka_pending and self._cost < limits.kafka_request_bytes:
            self._release(PENDING)

    def _goes_out(self, exchange: Exchange) -> None:
        """Remember whose records the client may not have taken yet: of the answers that the unsent bytes reach back
        to."""
        out = self._going_out
        out.append(exchange)
        self._going_bytes += exchange.size
        while out and self._going_bytes - out[0].size >= self._edge.downstream_unsent:
            self._going_bytes -= out.popleft().size

    def _drain_queue(self) -> None:
        """Send the answers of ours that are first, and end where nothing is due."""
        pending = self._pending
        while pending and (answer := pending[0].answer) is not None:
            self._edge.send_downstream(answer)
            self._moved()
            self._pop()
        if self._holds & CLOSING and not pending and not self._holds & (OPENING | OVER):
            if self._leg and self._silent:
                # what went on without an answer must not be thrown away with the leg
                self._edge.end_upstream()
                self._set_timer(Timer.IDLE, self._flow.limits.linger_s)
            else:
                self._end(linger=not self._client_ended)

    def _cut(self) -> None:
        """End the leg inside a request that was denied late, once the answers before it are in."""
        upload = self._upload
        if upload is not None and upload.late and self._leg and not self._pending:
            self._leg = False
            self._edge.close_upstream()

    def _drop_upload(self) -> Upload | None:
        """It is not finished, and nobody answers it."""
        upload, self._upload = self._upload, None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.records.clear()
            if self._pending and self._pending[-1] is exchange:
                self._pending.pop()
        return upload

    def _refuse_all(self, reason: str, rule: str, frame: bytes = b"") -> None:
        """Record, and end once the answers that are due are out: there is no telling where the next request begins."""
        flow = self._flow
        flow.engine()
        if rule == RULE_PROTOCOL:
            flow.counters["malformed"] += 1
        if len(frame) >= HEAD_BYTES:
            flow.record_kafka(flow.kafka_request(), seen_in(frame), DROPPED, reason, rule)
        else:
            flow.record(DROPPED, reason, rule)
        self._holds |= CLOSING
        self._inbox.clear()
        self._drain_queue()

    def _broke(self, reason: str) -> None:
        """The broker says what it may not say: whose answer that would be is anybody's guess."""
        if not self._pending:
            self._flow.record(ERROR, reason, RULE_PROTOCOL)
        self._fail(reason, reset=False)

    def _fail(self, reason: str, *, reset: bool) -> None:
        """The answers that are due from the broker do not come."""
        flow = self._flow
        for exchange in self._pending:
            if exchange.answer is None and exchange.records:
                exchange.record(flow, failure=reason)
        if self._exchange is not None and self._exchange not in self._pending:
            self._exchange.record(flow, failure=reason)
        if self._asking is not None:
            _, raw = self._asking
            flow.record_kafka(flow.kafka_request(), seen_in(raw[SIZE.size :]), ERROR, reason, RULE_PROTOCOL)
        if reset:
            self._stop()
            self._edge.reset()
        else:
            self._end(linger=not self._client_ended)

    def _end(self, *, linger: bool) -> None:
        self._stop()
        self._edge.finish(linger=linger)

    def _stop(self) -> None:
        self._holds |= OVER
        if self._answer_left and self._pending:
            self._goes_out(self._pending[0])
        self._pending.clear()
        self._inbox.clear()
        self._outbox.clear()
        self._unsent = b""
        self._asking = None
        self._upload = self._exchange = None
        self._answer_left = 0
        self._leg = False
        self._holding.set(0)

    def _release(self, hold: int) -> None:
        self._holds &= ~hold

    def _moved(self) -> None:
        if self._timer is Timer.IDLE:
            self._edge.set_timer(Timer.IDLE, self._flow.limits.idle_s)

    def _set_timer(self, timer: Timer, seconds: float) -> None:
        self._timer = timer
        self._edge.set_timer(timer, seconds)


def seen_in(frame: bytes) -> KafkaFacts:
    """What a record can say of a frame of which only the start could be read."""
    try:
        key, version, correlation_id = peek(frame)
    except RemoteProtocolError:
        key, version, correlation_id = -1, -1, 0
    api = TABLE.apis.get(key)
    return KafkaFacts(key, api.name if api is not None else "", version, "", correlation_id)
