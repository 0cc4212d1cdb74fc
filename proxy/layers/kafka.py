"""Kafka: judge every request, forward what is allowed, answer what is not, in order.

Theory of operation. A client sends frames and waits for as many answers, in the same order. Each request that has an
answer becomes an `Exchange` in one queue: either the broker's answer is awaited, or ours lies ready. The broker answers
in order too, so its next frame belongs to the first exchange of the queue, which is never one of ours: those go out as
soon as they are first. What an API asks and how a denied client is told is `proxy.kafka.apis`; Fetch and its like,
whose answers depend on earlier requests, are `proxy.kafka.fetch` and `share`.

A request is taken when nothing holds it (`_holds`): a leg being opened, topic ids being asked for, too many answers
due, a client that does not read, or an end that is near. Bytes that nobody may use yet stay unread or in the inbox.

INVARIANT: bytes go upstream only with the permit of a verdict on the request they belong to.
INVARIANT: the first exchange in the queue awaits the broker; the correlation id of its answer is its own.
INVARIANT: a flow that is over sends no command but those that end it.
"""

import contextlib
import struct
import time
from collections import deque
from typing import Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import Incomplete, Tree
from parsers.kafka.frames import (
    HEAD_BYTES,
    Request,
    begin_request,
    begin_response,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    framed,
    peek,
)
from parsers.kafka.table import TABLE
from policies.engine import Permit
from policies.requests import Operation, Resource
from proxy.commands import Edge
from proxy.events import LegFailure, Timer
from proxy.flow import Flow
from proxy.flow_event import AUDIT, DROPPED, ERROR, RULE_LIMIT, RULE_PROTOCOL, ConnectionFacts, KafkaFacts
from proxy.kafka.answers import error_of, inserted, quick_error
from proxy.kafka.exchange import API_VERSIONS, Exchange
from proxy.kafka.fetch import FETCH, ReadPlan, Sessions
from proxy.kafka.ids import Place, ids_in, pairs_in, question, told_by
from proxy.kafka.inbox import Inbox
from proxy.kafka.plan import Action, Plan
from proxy.kafka.questions import ERRORS, Judge, Questions, TooMany
from proxy.kafka.share import SHARE_ACKNOWLEDGE, SHARE_FETCH, ShareSessions
from proxy.kafka.shared import Holding, Shared
from proxy.kafka.upload import Stage, Upload
from proxy.layers.opaque import OpaqueLayer

PRODUCE: Final = 0
METADATA: Final = 3
METADATA_WITH_IDS: Final = 12
UNSUPPORTED_VERSION: Final = 35
MAX_ASKED: Final = 1000
"""Topic ids of one request that the broker is asked about; the rest count as unknown, and are counted."""
READ_FOR_RECORD: Final = 16 * 1024
"""Answers up to this size are read for the error that the record tells."""
ELEMENT_BYTES: Final = 110
"""That an object of a request takes while what edits its answer is kept."""
UPLOAD_START: Final = 128 * 1024
"""The fields of a Produce request before its topics: two strings of 32 KiB at most, and tagged fields that are
refused."""
ANSWER_START: Final = 4096
"""The first fields of an answer that streams; tagged fields of its header may stand before them."""
TLS_HANDSHAKE: Final = 0x16

_SIZE = struct.Struct(">i")
_START = struct.Struct(">ii")
_HEAD = struct.Struct(">hhi")

# why no request is taken
_OPENING, _ASKING, _FULL, _PENDING, _CLOSING, _OVER = (1 << bit for bit in range(6))


class KafkaLayer:
    """One flow's Kafka. See the module's theory of operation."""

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

    opaque = False

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

    # ---- events: downstream

    def start(self) -> None:
        """Wait for the first request."""
        limits = self._flow.limits
        self._edge.set_timer(Timer.IDLE, limits.detect_s if self._lenient else limits.idle_s)

    def downstream_data(self, data: bytes) -> None:
        """Bytes of requests."""
        if self._holds & (_CLOSING | _OVER):
            return
        self._inbox.feed(data)
        self._pump()

    def downstream_eof(self) -> None:
        """Half-close is normal: what was asked for is still answered."""
        self._client_ended = True
        self._pump()

    def downstream_lost(self) -> None:
        """Nobody is left to answer."""
        self._fail("client_aborted", reset=True)

    def downstream_drained(self) -> None:
        """There is room for answers again."""
        self._release(_FULL)
        self._pump()

    @property
    def passing_down(self) -> int:
        """What is to come of an answer that streams."""
        return self._answer_left

    @property
    def passing_up(self) -> int:
        """Records to come of a request that streams."""
        upload = self._upload
        if upload is None or upload.stage is not Stage.PASSING or not self._leg or len(self._inbox):
            return 0
        return upload.blind

    def passed_down(self, count: int) -> None:
        """Some of the answer went."""
        self._answer_left -= count
        self._moved()
        if not self._answer_left:
            self._answered()
            self._pump()

    def passed_up(self, count: int) -> None:
        """Some of the request went."""
        upload = self._upload
        if upload is None:
            raise RuntimeError("bytes of no request passed unseen")
        upload.passed(count)
        self._moved()
        if not upload.left:
            self._upload_ends(upload)
            self._pump()

    # ---- events: upstream

    def upstream_open(self) -> None:
        """Send the request that the leg was opened for."""
        self._leg = True
        self._release(_OPENING)
        data, self._unsent = self._unsent, b""
        self._edge.send_upstream(data)
        self._drain_queue()
        self._pump()

    def upstream_failed(self, failure: LegFailure) -> None:
        """What the client would have met without us."""
        self._fail(failure.value, reset=True)

    def upstream_data(self, data: bytes) -> None:
        """Bytes of answers."""
        if self._holds & _OVER:
            return
        left = self._answer_left
        if left:
            self._moved()
            if len(data) < left:
                self._answer_left = left - len(data)
                self._edge.pass_downstream(data)
                return
            self._answer_left = 0
            if len(data) == left:
                self._edge.pass_downstream(data)
                self._answered()
                self._pump()
                return
            self._edge.send_downstream(data[:left])
            self._answered()
            data = data[left:]
        self._outbox.feed(data)
        try:
            while self._take_answer():
                pass
        except RemoteProtocolError as error:
            self._broke(error.reason)
        self._account()
        self._pump()

    def upstream_eof(self) -> None:
        """The broker is done with this connection, and so are we."""
        self._fail("upstream_closed", reset=False)

    def upstream_lost(self) -> None:
        """Reset by the broker. Answers of ours still go out."""
        self._fail("upstream_reset", reset=False)

    # ---- events: time and management

    def expired(self, timer: Timer) -> None:
        """A wait was too long."""
        flow = self._flow
        if self._holds & _CLOSING and not self._pending:
            self._end(linger=True)  # a broker that does not end
        elif timer is Timer.RECORD or timer is Timer.HEAD:
            self._overdue()
        elif self._lenient and self._first and not len(self._inbox):
            self._pass_unparsed("not kafka, no request came in time")
        else:
            flow.counters["limit_idle"] += 1
            if self._pending:
                self._fail("limit_idle", reset=False)
            else:
                flow.record(DROPPED, "limit_idle", RULE_LIMIT)
                self._end(linger=False)

    def drain(self) -> None:
        """End after the next answer that leaves nothing due. A connection at rest is left alone: to close it could
        cross a request."""
        self._draining = True

    def rules_changed(self) -> None:
        """No byte more of a topic that is no longer allowed: of answers that are awaited, under way, or not yet taken
        by the client."""
        under_way = [exchange for exchange in self._pending if exchange.watch is not None]
        if self._edge.downstream_unsent:
            under_way += self._going_out
        for exchange in under_way:
            for name in sorted(exchange.watch.names() if exchange.watch is not None else ()):
                if self._withdrawn(exchange, name):
                    return

    def _withdrawn(self, exchange: Exchange, name: str) -> bool:
        """Whether a topic may not be read any more; then the flow is over."""
        flow = self._flow
        request = Request(exchange.api_key, exchange.version, exchange.correlation_id, exchange.client_id, {})
        verdict = self._judge.ask(request, Operation.READ, Resource.TOPIC, name)
        if verdict.allow:
            return False
        flow.counters["kafka_withdrawn"] += 1
        facts = Questions(flow, self._judge, request, {}).facts(Operation.READ, Resource.TOPIC, name)
        flow.record_kafka(flow.kafka_request(), facts, DROPPED, verdict.reason, verdict.rule, verdict.policies)
        self._stop()
        self._edge.reset()
        return True

    def closed(self) -> None:
        """Nothing is kept any more."""
        self._stop()

    # ---- the request side

    def _pump(self) -> None:
        """Take requests as long as nothing holds them."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._take_some():
                pass
        finally:
            self._pumping = False
        if not self._holds & _OVER:
            self._settle()

    def _take_some(self) -> bool:
        """Take what the client sent; False where nothing can be taken."""
        upload, holds = self._upload, self._holds
        if upload is None or upload.stage is Stage.HOLDING:
            return not holds and self._take_request()
        # what streams is one request, and holds nothing
        return not holds & ~(_PENDING | _FULL) and self._go_on(upload)

    def _settle(self) -> None:
        """Read where that is of use; pass the client's end on once everything before it went on."""
        edge, upload, holds = self._edge, self._upload, self._holds
        streams = upload is not None and upload.stage is not Stage.HOLDING
        if streams:
            holds &= ~(_PENDING | _FULL)
        if not holds:
            if self._paused:
                self._paused = False
                edge.resume_downstream()
            if self._client_ended and streams:
                self._fail("client_aborted", reset=True)
            elif self._client_ended and not self._end_passed:
                self._end_passed = True
                if self._leg:
                    edge.end_upstream()
                elif not self._pending:
                    self._end(linger=False)
        elif not self._paused and (len(self._inbox) or self._holds & _CLOSING):
            self._paused = True
            edge.pause_downstream()

    def _take_request(self) -> bool:
        """Take one request; False where none is whole."""
        inbox, limits = self._inbox, self._flow.limits
        have = len(inbox)
        if have < _SIZE.size:
            if have and self._first and self._not_kafka(inbox.head(1)):
                return False
            self._wait(have)
            return False
        start = inbox.head(_SIZE.size + HEAD_BYTES)
        (size,) = _SIZE.unpack_from(start)
        if self._first and self._not_kafka(start):
            return False
        produces = start[4:6] in (b"\0\0", b"\0", b"")
        if not HEAD_BYTES <= size <= (limits.kafka_produce_bytes if produces else limits.kafka_request_bytes):
            self._bad_frame(start, size)
            return False
        if have < _SIZE.size + size:
            if start[4:6] == b"\0\0" and self._upload_begins(size):
                return True
            self._wait(have)
            return False
        if self._edge.downstream_full:
            self._holds |= _FULL
            return False
        asked = self._upload is not None and self._upload.asked
        self._frame_began = self._upload = None
        self._request(inbox.take(_SIZE.size + size), asked=asked)
        return True

    def _wait(self, have: int) -> None:
        """A frame is not whole. Its time is bounded, and what all flows keep of such frames."""
        if not have:
            return
        if self._frame_began is None:
            self._frame_began = time.monotonic()
            if self._timer is Timer.IDLE:
                limits = self._flow.limits
                unsure = self._lenient and self._first
                self._set_timer(Timer.HEAD, limits.detect_s if unsure else limits.kafka_frame_s)
        self._account()

    def _account(self) -> None:
        """Count what is kept; end the flow where all together keep too much."""
        kept = len(self._inbox) + len(self._outbox) + self._cost
        if self._upload is not None:
            kept += self._upload.cost
        if self._holding.set(kept) > self._flow.limits.kafka_held_bytes and not self._holds & _OVER:
            self._flow.counters["limit_kafka_held"] += 1
            self._drop_upload()
            self._refuse_all("limit_kafka_held", RULE_LIMIT)

    def _request(self, raw: bytes, *, asked: bool) -> None:
        """One whole frame, its length included. asked: the broker was asked for its topic ids."""
        try:
            request = decode_request(raw[_SIZE.size :])
        except RemoteProtocolError as error:
            self._unreadable(raw, error.reason)
            return
        if request.unknown_tags:
            self._unreadable(raw, "unknown_tag", request)
            return
        self._first = False
        missing = [] if asked else self._unknown_ids(request)
        if not missing or not self._ask(request, raw, missing):
            self._decide(request, raw)

    def _decide(self, request: Request, raw: bytes) -> None:
        """Ask policy and do what it says."""
        flow = self._flow
        flow.counters["requests"] += 1
        flow.engine()
        facts = flow.kafka_request()
        questions = Questions(flow, self._judge, request, self._shared.ids.of(self._place))
        key = request.api_key
        try:
            plan = self._plan(request, questions)
        except TooMany:
            flow.counters["limit_kafka_questions"] += 1
            self._refuse_all("limit_kafka_questions", RULE_LIMIT, raw[_SIZE.size :])
            return
        goes_on = plan.action is Action.PASS or plan.action is Action.EDIT
        if goes_on and questions.permit is None and not questions.allows(Operation.NOTHING, Resource.CLUSTER, ""):
            plan, goes_on = Plan(Action.CLOSE, reason="not_allowed"), False
        exchange = Exchange(key, request.api_version, request.correlation_id, request.client_id, facts)
        answers = key != PRODUCE or request.body["Acks"] != 0
        if plan.closes or plan.action is Action.CLOSE or not (goes_on or answers):
            self._holds |= _CLOSING
        if goes_on:
            self._forward(request, raw, plan, exchange, questions, answers=answers)
        self._record(exchange, plan, questions, goes_on=goes_on)
        if goes_on:
            if not answers:
                exchange.record(flow)
            elif exchange.records and self._timer is not Timer.RECORD:
                self._set_timer(Timer.RECORD, flow.limits.record_s)
        elif plan.answer is not None and answers:
            exchange.answer = framed(encode_response(key, request.api_version, request.correlation_id, plan.answer))
            exchange.cost = len(exchange.answer)
            self._await(exchange)
        self._drain_queue()

    def _plan(self, request: Request, questions: Questions) -> Plan:
        if request.api_key == FETCH:
            return self._fetches.judge(request, questions)
        if request.api_key in (SHARE_FETCH, SHARE_ACKNOWLEDGE):
            return self._shares.judge(request, questions)
        return self._shared.judge(request, questions)

    def _record(self, exchange: Exchange, plan: Plan, questions: Questions, *, goes_on: bool) -> None:
        """Record what is denied, now; what goes on has its record when its answer comes."""
        flow, denied = self._flow, False
        code = plan.answer.get("ErrorCode") if plan.answer is not None else None
        for operation, resource, name, verdict in questions.deciding():
            facts = questions.facts(operation, resource, name)
            if not verdict.allow:
                denied = True
                facts.error_code = code or ERRORS[resource]
                flow.record_kafka(exchange.facts, facts, DROPPED, verdict.reason, verdict.rule, verdict.policies)
            elif goes_on:
                exchange.records.append((facts, verdict))
        if denied:
            flow.counters["denied"] += 1
        elif not goes_on:
            reason = plan.reason or "not_forwarded"
            if isinstance(plan, ReadPlan) and plan.refused:
                flow.counters["kafka_sessions_refused"] += 1
                reason = plan.refused
            facts = questions.facts()
            if plan.answer is not None:
                facts.error_code = error_of(plan.answer)
            flow.record_kafka(exchange.facts, facts, DROPPED, reason, RULE_PROTOCOL)

    def _forward(
        self, request: Request, raw: bytes, plan: Plan, exchange: Exchange, questions: Questions, *, answers: bool
    ) -> None:
        key = request.api_key
        if plan.action is Action.EDIT:
            if plan.body is None:
                raise RuntimeError("a request to be edited without a body")
            version = request.api_version if plan.version is None else plan.version
            edited = Request(key, version, request.correlation_id, request.client_id, plan.body)
            raw = framed(encode_request(edited))
            exchange.sent_version = version
        if answers:
            exchange.edit = plan.edit
            exchange.ids = questions.ids
            if isinstance(plan, ReadPlan):
                exchange.insert, exchange.watch = plan.insert, plan.watch
            exchange.reads = key == API_VERSIONS or told_by(key)
            if plan.edit is not None:
                exchange.cost = _cost(request, raw)
                if key == PRODUCE:
                    _forget_records(request.body)
            self._await(exchange)
        else:
            self._silent = True
            self._moved()
        self._send(raw, questions.permit)

    def _await(self, exchange: Exchange) -> None:
        """An answer is due."""
        pending, limits = self._pending, self._flow.limits
        pending.append(exchange)
        self._cost += exchange.cost
        if len(pending) >= limits.kafka_pending or self._cost >= limits.kafka_request_bytes:
            self._holds |= _PENDING
        if exchange.cost:
            self._account()

    def _send(self, raw: bytes, permit: Permit | None) -> None:
        """Send a whole frame, on a leg that there is or will be."""
        if permit is None:
            raise RuntimeError("a request goes on without a permit")
        if self._holds & _OVER:
            return
        if self._leg:
            self._edge.pass_upstream(raw)
        else:
            self._unsent = raw
            self._holds |= _OPENING
            self._edge.open_upstream(permit)

    # ---- requests that stream

    def _upload_begins(self, size: int) -> bool:
        """Look at a Produce request that is not whole yet; whether it streams from now on, one way or the other."""
        inbox, limits, upload = self._inbox, self._flow.limits, self._upload
        have = min(len(inbox), _SIZE.size + size)
        try:
            if upload is None:
                request, at = begin_request(inbox.part(_SIZE.size, min(have, UPLOAD_START)), "TopicData")
                if request.unknown_tags:
                    raise RemoteProtocolError("unknown_tag")
                upload = self._upload = Upload(request, size, at)
            upload.feed(inbox.part(_SIZE.size + upload.fed, have))
        except Incomplete:
            if have < UPLOAD_START:
                return False
            self._refuse_upload("truncated")
            return True
        except RemoteProtocolError as error:
            self._refuse_upload(error.reason)
            return True
        self._first = False
        known = upload.count == 1 and bool(upload.topics)
        if not known and have < limits.kafka_hold_bytes:
            return False
        if self._edge.downstream_full:
            self._holds |= _FULL
            return False
        missing = [] if upload.asked else self._unknown_ids(upload.request)
        if missing:
            upload.asked = True
            if self._ask(upload.request, b"", missing):
                return False
        self._frame_began = None
        self._flow.counters["requests"] += 1
        self._start_upload(upload)
        return True

    def _start_upload(self, upload: Upload) -> None:
        """Judge what is known of it."""
        flow, request = self._flow, upload.request
        flow.engine()
        exchange = Exchange(
            request.api_key, request.api_version, request.correlation_id, request.client_id, flow.kafka_request()
        )
        permit = self._allows_upload(upload, exchange)
        data = self._inbox.take(_SIZE.size + upload.fed)
        if permit is None:
            upload.stage = Stage.DRAINING
        else:
            upload.stage = Stage.PASSING
            self._exchange = exchange
            if request.body["Acks"] != 0:
                self._await(exchange)
                if self._timer is not Timer.RECORD:
                    self._set_timer(Timer.RECORD, flow.limits.record_s)
            self._send(data, permit)
        self._account()

    def _allows_upload(self, upload: Upload, exchange: Exchange) -> Permit | None:
        """Judge the topics that were not judged yet; the permit, if all of them may go on."""
        request = upload.unjudged()
        questions = Questions(self._flow, self._judge, request, self._shared.ids.of(self._place))
        plan = self._shared.judge(request, questions)
        if plan.action is not Action.PASS or plan.edit is not None or questions.permit is None:
            return None
        upload.judged = len(upload.topics)
        exchange.ids = {**exchange.ids, **questions.ids}
        for operation, resource, name, verdict in questions.deciding():
            exchange.records.append((questions.facts(operation, resource, name), verdict))
        return questions.permit

    def _go_on(self, upload: Upload) -> bool:
        """Let more of it pass, or throw it away."""
        data = self._inbox.take(upload.left)
        if not data and upload.left:
            return False
        self._moved()
        try:
            upload.feed(data)
        except RemoteProtocolError as error:
            self._refuse_upload(error.reason)
            return False
        if upload.stage is Stage.PASSING:
            exchange = self._exchange
            if exchange is None:
                raise RuntimeError("a request passes and no answer is due")
            if len(upload.topics) > upload.judged and self._allows_upload(upload, exchange) is None:
                self._deny_late(upload, exchange)
            else:
                self._edge.pass_upstream(data)
        self._account()
        if self._upload is None:
            return False
        if not upload.left:
            self._upload_ends(upload)
        return True

    def _deny_late(self, upload: Upload, exchange: Exchange) -> None:
        """A request that went on in part is not finished: the broker acts on whole ones. Its answer is ours."""
        self._flow.counters["kafka_late_denials"] += 1
        upload.stage = Stage.DRAINING
        upload.late = True
        exchange.records.clear()
        if self._pending and self._pending[-1] is exchange:
            self._pending.pop()
        self._cut()

    def _cut(self) -> None:
        """End the leg inside a request that was denied late, once the answers before it are in."""
        upload = self._upload
        if upload is not None and upload.late and self._leg and not self._pending:
            self._leg = False
            self._edge.close_upstream()

    def _upload_ends(self, upload: Upload) -> None:
        """The last byte of it was read."""
        self._upload = None
        self._holding.set(len(self._inbox) + len(self._outbox) + self._cost)
        exchange, self._exchange = self._exchange, None
        request, flow = upload.request, self._flow
        silent = request.body["Acks"] == 0
        if upload.stage is Stage.PASSING:
            if exchange is None:
                raise RuntimeError("a request passed and no answer is due")
            if silent:
                self._silent = True
                exchange.record(flow)
            return
        flow.engine()
        questions = Questions(flow, self._judge, request, self._shared.ids.of(self._place))
        plan = self._shared.judge(request, questions)
        ours = Exchange(
            request.api_key, request.api_version, request.correlation_id, request.client_id, flow.kafka_request()
        )
        body = plan.answer
        if body is None and plan.action is not Action.CLOSE:
            denied = {name for _, resource, name, verdict in questions.asked if not verdict.allow and name}
            body = upload.answer(questions.ids, denied)
            plan = Plan(Action.ANSWER, answer=body, reason="late_denial")
        self._record(ours, plan, questions, goes_on=False)
        if upload.late or silent or plan.closes or body is None:
            self._holds |= _CLOSING
        if not silent and body is not None:
            ours.answer = framed(encode_response(PRODUCE, request.api_version, request.correlation_id, body))
            ours.cost = len(ours.answer)
            self._await(ours)
        self._drain_queue()

    def _refuse_upload(self, reason: str) -> None:
        """It cannot be read; where it went on in part, it is not finished."""
        upload = self._drop_upload()
        frame = self._inbox.head(_SIZE.size + HEAD_BYTES)[_SIZE.size :]
        if upload is not None:
            request = upload.request
            frame = _HEAD.pack(request.api_key, request.api_version, request.correlation_id)
        self._first = False
        self._refuse_all(reason, RULE_PROTOCOL, frame)

    def _drop_upload(self) -> Upload | None:
        """It is not finished, and nobody answers it."""
        upload, self._upload = self._upload, None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.records.clear()
            if self._pending and self._pending[-1] is exchange:
                self._pending.pop()
        return upload

    # ---- topic ids

    @property
    def _place(self) -> Place:
        facts = self._flow.facts
        if facts is not self._placed:
            self._placed = facts
            broker = facts.destination_address, facts.destination_port
            self._last_place = (facts.endpoint, facts.direction, facts.identity, *broker)
        return self._last_place

    def _unknown_ids(self, request: Request) -> list[bytes]:
        """Topic ids of a request that this broker has not told yet."""
        ids = ids_in(request)
        if not ids:
            return []
        known = self._shared.ids.of(self._place)
        return [topic_id for topic_id in ids if topic_id not in known]

    def _ask(self, request: Request, raw: bytes, ids: list[bytes]) -> bool:
        """Ask the broker what ids mean, in the client's own connection; the request waits. False where that cannot
        be."""
        flow = self._flow
        flow.engine()
        version = self._metadata_version
        if version < METADATA_WITH_IDS:
            return False
        if len(ids) > MAX_ASKED:
            flow.counters["kafka_ids_unasked"] += len(ids) - MAX_ASKED
            del ids[MAX_ASKED:]
        ours = Request(METADATA, version, request.correlation_id, request.client_id, question(ids))
        verdict = self._judge.ask(ours, Operation.NOTHING, Resource.CLUSTER, "")
        if verdict.permit is None:
            return False
        flow.counters["kafka_ids_asked"] += len(ids)
        exchange = Exchange(METADATA, version, request.correlation_id, request.client_id, flow.kafka_request())
        exchange.asked = True
        exchange.cost = _cost(request, raw)
        self._asking = (request, raw) if raw else None  # a request that streams waits where it is
        self._holds |= _ASKING
        self._await(exchange)
        self._send(framed(encode_request(ours)), verdict.permit)
        return True

    # ---- the answer side

    def _take_answer(self) -> bool:
        """Take one answer, or the start of one that streams; False where there is nothing to take."""
        outbox, limits = self._outbox, self._flow.limits
        have = len(outbox)
        if self._holds & _OVER or not have:
            return False
        if not self._pending:
            self._flow.counters["upstream_unsolicited"] += 1
            self._broke("upstream_unsolicited")
            return False
        if have < _START.size:
            return False
        exchange = self._pending[0]
        if exchange is self._exchange:
            self._broke("answer_before_request")
            return False
        size, correlation_id = _START.unpack(outbox.head(_START.size))
        if size < _SIZE.size or correlation_id != exchange.correlation_id:
            self._broke("bad_length" if size < _SIZE.size else "wrong_correlation_id")
            return False
        exchange.size = _SIZE.size + size
        if have >= _SIZE.size + size and (exchange.whole or exchange.insert is None):
            self._whole_answer(exchange, outbox.take(_SIZE.size + size))
        elif not exchange.whole:
            return self._begin_answer(exchange, size)
        elif size > limits.kafka_answer_bytes and exchange.only_reads:
            exchange.reads = False  # what it would tell can be asked for later
        elif size > limits.kafka_answer_bytes:
            self._flow.counters["limit_kafka_answer"] += 1
            self._broke("limit_kafka_answer")
            return False
        else:
            return False
        return True

    def _whole_answer(self, exchange: Exchange, raw: bytes) -> None:
        if exchange.asked:
            self._told(exchange, raw)
            return
        key, version = exchange.api_key, exchange.sent_version
        error: int | None = None
        body: Tree | None = None
        if exchange.whole:
            version, body = self._read_answer(exchange, raw)
            if exchange.edit is not None or version != exchange.version:
                if exchange.edit is not None:
                    body = exchange.edit(body)
                client_version = version if version != exchange.sent_version else exchange.version
                raw = framed(encode_response(key, client_version, exchange.correlation_id, body))
                exchange.size = len(raw)
        else:
            if exchange.watch is not None:
                error, _ = self._first_fields(exchange, raw[_SIZE.size : ANSWER_START])
        self._edge.pass_downstream(raw)
        if exchange.records and body is None and len(raw) <= READ_FOR_RECORD:
            frame = raw[_SIZE.size :]
            quick = quick_error(key, version, frame) if key in (PRODUCE, FETCH) else None
            if quick is not None:
                error = quick
            else:
                with contextlib.suppress(RemoteProtocolError):  # the client's to complain about
                    body = decode_response(key, version, frame).body
        self._answered(error, body)

    def _first_fields(self, exchange: Exchange, start: bytes) -> tuple[int, int]:
        """Read an answer that holds records as far as that is of use; gives its error, and where its topics begin.

        Raises:
            Incomplete: more is needed; RemoteProtocolError.
        """
        try:
            response, at = begin_response(exchange.api_key, exchange.sent_version, start, "Responses")
        except Incomplete:
            if len(start) >= ANSWER_START - _SIZE.size:
                raise RemoteProtocolError("truncated") from None
            raise
        error: int = response.body.get("ErrorCode", 0)
        if exchange.watch is not None and not exchange.told:
            exchange.told = True
            exchange.watch.answered(error, response.body.get("SessionId", 0))
        return error, at

    def _read_answer(self, exchange: Exchange, raw: bytes) -> tuple[int, Tree]:
        """Read an answer whole, and learn from it. Gives the version that it is written in: a broker that does not know
        the version of an ApiVersions request answers in version 0 (KIP-511)."""
        key = exchange.api_key
        response = decode_response(key, exchange.sent_version, raw[_SIZE.size :])
        version, body = response.api_version, response.body
        if key == API_VERSIONS:
            for api in body["ApiKeys"]:
                if api["ApiKey"] == METADATA:
                    ours = TABLE.apis[METADATA].request
                    newest = ours.versions[1] if ours is not None else 0
                    self._metadata_version = min(api["MaxVersion"], newest)
        elif told_by(key):
            self._shared.ids.learn(self._place, pairs_in(key, body))
        return version, body

    def _told(self, exchange: Exchange, raw: bytes) -> None:
        """The broker said what ids mean; the request that waits goes on. What it did not say is unknown for good."""
        self._read_answer(exchange, raw)
        asking, self._asking = self._asking, None
        self._pop()
        self._release(_ASKING)
        if asking is not None:
            self._decide(*asking)
        elif self._upload is None:
            raise RuntimeError("an answer about topic ids that nobody waits for")

    def _begin_answer(self, exchange: Exchange, size: int) -> bool:
        """Send on the start of an answer; the rest follows as it comes."""
        outbox, edge = self._outbox, self._edge
        error: int | None = None
        left = _SIZE.size + size
        insert = exchange.insert
        if exchange.watch is not None or insert is not None:
            start = outbox.head(min(left, ANSWER_START))[_SIZE.size :]
            try:
                error, at = self._first_fields(exchange, start)
                if insert is not None:
                    head, used = inserted(exchange.api_key, exchange.sent_version, size, start, at, insert)
                    outbox.take(_SIZE.size + used)
                    left -= _SIZE.size + used
                    edge.send_downstream(head)
            except Incomplete:
                if len(outbox) >= left:
                    raise RemoteProtocolError("truncated") from None
                return False
        rest = outbox.take(left)
        left -= len(rest)
        edge.pass_downstream(rest)
        exchange.facts.answered = True
        if exchange.records:
            exchange.record(self._flow, error)
            exchange.records.clear()
        self._answer_left = left
        if not left:
            self._answered(error)
        return True

    def _answered(self, error: int | None = None, body: Tree | None = None) -> None:
        """The first exchange is done."""
        exchange = self._pending[0]
        exchange.facts.answered = True
        if exchange.records:
            exchange.record(self._flow, error, body=body)
        self._silent = False
        if exchange.watch is not None:
            self._goes_out(exchange)
        self._pop()
        self._cut()
        self._drain_queue()
        busy = self._pending or len(self._inbox) or self._upload is not None
        if self._draining and not busy and not self._holds & _OVER:
            self._end(linger=False)

    def _goes_out(self, exchange: Exchange) -> None:
        """Remember whose records the client may not have taken yet: of the answers that the unsent bytes reach back
        to."""
        out = self._going_out
        out.append(exchange)
        self._going_bytes += exchange.size
        while out and self._going_bytes - out[0].size >= self._edge.downstream_unsent:
            self._going_bytes -= out.popleft().size

    def _pop(self) -> None:
        exchange = self._pending.popleft()
        self._cost -= exchange.cost
        limits = self._flow.limits
        if len(self._pending) < limits.kafka_pending and self._cost < limits.kafka_request_bytes:
            self._release(_PENDING)

    def _drain_queue(self) -> None:
        """Send the answers of ours that are first, and end where nothing is due."""
        pending = self._pending
        while pending and (answer := pending[0].answer) is not None:
            self._edge.send_downstream(answer)
            self._moved()
            self._pop()
        if self._holds & _CLOSING and not pending and not self._holds & (_OPENING | _OVER):
            if self._leg and self._silent:
                # what went on without an answer must not be thrown away with the leg
                self._edge.end_upstream()
                self._set_timer(Timer.IDLE, self._flow.limits.linger_s)
            else:
                self._end(linger=not self._client_ended)

    # ---- refusals

    def _not_kafka(self, start: bytes) -> bool:
        """Whether what a client began with is another protocol; then it is seen to."""
        if start[0] == TLS_HANDSHAKE:
            self._flow.counters["kafka_tls"] += 1
            if not self._pass_unparsed("tls_opaque", tls=True):
                self._refuse_all("tls_opaque", RULE_PROTOCOL)
            return True
        if len(start) < _SIZE.size:
            return False
        (size,) = _SIZE.unpack_from(start)
        if HEAD_BYTES <= size <= self._flow.limits.kafka_produce_bytes:
            api = start[_SIZE.size : _SIZE.size + 2]
            if not self._lenient or len(api) < 2 or int.from_bytes(api, signed=True) in TABLE.apis:
                return False
        if not self._pass_unparsed("not kafka"):
            self._refuse_all("not_kafka", RULE_PROTOCOL)
        return True

    def _bad_frame(self, start: bytes, size: int) -> None:
        if size > HEAD_BYTES:
            self._flow.counters["limit_kafka_frame"] += 1
            self._refuse_all("limit_kafka_frame", RULE_LIMIT, start[_SIZE.size :])
        else:
            self._refuse_all("bad_frame_length", RULE_PROTOCOL, start[_SIZE.size :])

    def _refuse_all(self, reason: str, rule: str, frame: bytes = b"") -> None:
        """Record, and end once the answers that are due are out: there is no telling where the next request begins."""
        flow = self._flow
        flow.engine()
        if rule == RULE_PROTOCOL:
            flow.counters["malformed"] += 1
        if len(frame) >= HEAD_BYTES:
            flow.record_kafka(flow.kafka_request(), _seen(frame), DROPPED, reason, rule)
        else:
            flow.record(DROPPED, reason, rule)
        self._holds |= _CLOSING
        self._inbox.clear()
        self._drain_queue()

    def _unreadable(self, raw: bytes, reason: str, request: Request | None = None) -> None:
        """A whole frame that cannot be read, or not whole: nothing of it goes on. request: as far as it could be."""
        flow = self._flow
        flow.engine()
        if self._first and self._pass_unparsed(f"not readable as kafka, {reason}", raw):
            return
        self._first = False
        seen = _seen(raw[_SIZE.size :])
        permit = flow.verdict_on_connection().permit if self._lenient else None
        exchange = Exchange(seen.api_key, seen.api_version, seen.correlation_id, None, flow.kafka_request())
        if permit is not None:  # mode audit never blocks
            flow.record_kafka(exchange.facts, seen, AUDIT, reason, RULE_PROTOCOL, flow.audit_policies())
            self._await(exchange)
            self._send(raw, permit)
            return
        flow.counters["malformed"] += 1
        exchange.answer = self._refusal(seen, reason, request)
        if exchange.answer is not None:
            seen.error_code = UNSUPPORTED_VERSION
            exchange.cost = len(exchange.answer)
            self._await(exchange)
        else:
            self._holds |= _CLOSING
        flow.record_kafka(exchange.facts, seen, DROPPED, reason, RULE_PROTOCOL)
        self._drain_queue()

    def _refusal(self, seen: KafkaFacts, reason: str, request: Request | None) -> bytes | None:
        """Error 35 in the API's own shape; None where it has none that we know."""
        key, version, body = seen.api_key, seen.api_version, None
        if reason == "unknown_version" and key == API_VERSIONS:
            version, body = 0, _own_versions()
        elif reason not in ("unknown_api", "unknown_version") and key >= 0:
            request = request or Request(key, version, seen.correlation_id, None, {})
            body = self._shared.refuse(request, UNSUPPORTED_VERSION).answer
        return None if body is None else framed(encode_response(key, version, seen.correlation_id, body))

    def _pass_unparsed(self, why: str, raw: bytes = b"", *, tls: bool = False) -> bool:
        """Let the connection pass unparsed from its first byte on, if it may. Only before any request went on."""
        flow = self._flow
        if self._lenient and flow.verdict_on_connection().permit is not None:
            tls = False
        elif not tls or flow.kafka_unread().permit is None:
            return False
        data = raw + self._inbox.take(len(self._inbox))
        self._stop()
        if self._paused:
            self._edge.resume_downstream()
        layer = OpaqueLayer(flow, self._edge, unjudged="" if tls else why, tls=tls)
        self._edge.hand_over(layer)
        layer.start()
        if data:
            layer.downstream_data(data)
        if self._client_ended:
            layer.downstream_eof()
        return True

    # ---- ends

    def _overdue(self) -> None:
        """Records that waited long enough go out; a frame that takes too long ends the flow."""
        flow = self._flow
        limits = flow.limits
        now_ns = time.monotonic_ns()
        wait_ns = limits.record_s * 1e9
        oldest: int | None = None
        for exchange in self._pending:
            if exchange.records and not exchange.facts.recorded:
                if now_ns - exchange.facts.began_ns >= wait_ns:
                    exchange.record(flow)
                elif oldest is None:
                    oldest = exchange.facts.began_ns
        if self._holds:
            self._frame_began = None  # it is us who do not read
        began = self._frame_began
        if began is not None and self._first and self._pass_unparsed("not kafka, no request came in time"):
            return
        if began is not None and time.monotonic() - began >= limits.kafka_frame_s:
            flow.counters["limit_kafka_frame"] += 1
            self._refuse_all("limit_kafka_frame", RULE_LIMIT)
            if self._holds & _OVER:
                return
        if oldest is not None:
            self._set_timer(Timer.RECORD, max(limits.record_s - (now_ns - oldest) / 1e9, 0.0))
        elif began is not None and not self._holds & _CLOSING:
            self._set_timer(Timer.HEAD, max(limits.kafka_frame_s - (time.monotonic() - began), 0.0))
        else:
            self._set_timer(Timer.IDLE, limits.idle_s)

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
            flow.record_kafka(flow.kafka_request(), _seen(raw[_SIZE.size :]), ERROR, reason, RULE_PROTOCOL)
        if reset:
            self._stop()
            self._edge.reset()
        else:
            self._end(linger=not self._client_ended)

    def _end(self, *, linger: bool) -> None:
        self._stop()
        self._edge.finish(linger=linger)

    def _stop(self) -> None:
        self._holds |= _OVER
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


def _seen(frame: bytes) -> KafkaFacts:
    """What a record can say of a frame of which only the start could be read."""
    try:
        key, version, correlation_id = peek(frame)
    except RemoteProtocolError:
        key, version, correlation_id = -1, -1, 0
    api = TABLE.apis.get(key)
    return KafkaFacts(key, api.name if api is not None else "", version, "", correlation_id)


def _cost(request: Request, raw: bytes) -> int:
    """Bytes that are kept with a request whose answer is edited, or that waits."""
    return len(raw) + request.elements * ELEMENT_BYTES


def _own_versions() -> Tree:
    """What a client is told that asks for ApiVersions in a version that we do not know (KIP-511)."""
    request = TABLE.apis[API_VERSIONS].request
    if request is None:
        raise RuntimeError("a table without ApiVersions")
    first, last = request.versions
    return {
        "ErrorCode": UNSUPPORTED_VERSION,
        "ApiKeys": [{"ApiKey": API_VERSIONS, "MinVersion": first, "MaxVersion": last}],
    }


def _forget_records(body: Tree) -> None:
    """Let go of the frame: what edits the answer needs topics and partitions of the request, not its records."""
    for topic in body["TopicData"]:
        for partition in topic["PartitionData"]:
            partition["Records"] = None
