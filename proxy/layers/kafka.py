"""Kafka: judge every request, forward what is allowed, answer what is not, in order.

Theory of operation. A client sends frames and waits for as many answers, in the same order. Each request that has an
answer becomes an `Exchange` in one queue: either the broker's answer is awaited, or ours lies ready. The broker answers
in order too, so its next frame belongs to the first exchange of the queue, which is never one of ours: those go out as
soon as they are first. What an API asks and how a denied client is told is `proxy.kafka.apis`; Fetch and its like,
whose answers depend on earlier requests, are `proxy.kafka.fetch` and `share`.

A request is taken when nothing holds it (`_holds`): a leg being opened, topic ids being asked for, too many answers
due, a client that does not read, or an end that is near. Bytes that nobody may use yet stay unread or in the inbox.

This file takes events and picks requests from what came; `proxy.kafka.requesting`, `uploading` and `answering` are the
three things that happen then, on one `state`.

INVARIANT: bytes go upstream only with the permit of a verdict on the request they belong to.
INVARIANT: the first exchange in the queue awaits the broker; the correlation id of its answer is its own.
INVARIANT: a flow that is over sends no command but those that end it.
"""

import time

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import Tree
from parsers.kafka.frames import (
    HEAD_BYTES,
    Request,
    begin_response,
    encode_response,
    framed,
)
from policies.requests import Operation, Resource
from proxy.events import LegFailure, Timer
from proxy.flow_event import DROPPED, RULE_LIMIT
from proxy.kafka.answers import inserted
from proxy.kafka.exchange import Exchange
from proxy.kafka.fetch import FETCH
from proxy.kafka.questions import ERRORS, Questions
from proxy.kafka.state import (
    ASKING,
    CLOSING,
    FULL,
    OPENING,
    OVER,
    PENDING,
    SIZE,
)
from proxy.kafka.upload import Stage
from proxy.kafka.uploading import Uploading


class KafkaLayer(Uploading):
    """One flow's Kafka. See the module's theory of operation."""

    __slots__ = ()

    opaque = False

    def start(self) -> None:
        """Wait for the first request."""
        limits = self._flow.limits
        self._edge.set_timer(Timer.IDLE, limits.detect_s if self._lenient else limits.idle_s)

    def downstream_data(self, data: bytes) -> None:
        """Bytes of requests."""
        if self._holds & (CLOSING | OVER):
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
        self._release(FULL)
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

    def upstream_open(self) -> None:
        """Send the request that the leg was opened for."""
        self._leg = True
        self._release(OPENING)
        data, self._unsent = self._unsent, b""
        self._edge.send_upstream(data)
        self._drain_queue()
        self._pump()

    def upstream_failed(self, failure: LegFailure) -> None:
        """What the client would have met without us."""
        self._fail(failure.value, reset=True)

    def upstream_data(self, data: bytes) -> None:
        """Bytes of answers."""
        if self._holds & OVER:
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

    def expired(self, timer: Timer) -> None:
        """A wait was too long."""
        flow = self._flow
        if self._holds & CLOSING and not self._pending:
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
        by the client. Where no byte of it is out, the client is told the denial in its place; then all ends."""
        if self._edge.downstream_unsent:
            for exchange in self._going_out:
                if self._withdrawn(exchange, told=False):
                    self._stop()
                    self._edge.reset()
                    return
        for place, exchange in enumerate(self._pending):
            told = exchange.api_key == FETCH and not (place == 0 and self._answer_left)
            names = self._withdrawn(exchange, told=told)
            if names:
                topics = exchange.watch.withdrawn(names) if exchange.watch is not None and told else None
                self._withdraw(place, exchange, topics)
                return

    def _withdrawn(self, exchange: Exchange, *, told: bool) -> set[str]:
        """The topics that an answer may hold and that may not be read any more; recorded. told: the client is told."""
        names: set[str] = set()
        if exchange.watch is None:
            return names
        flow = self._flow
        request = Request(exchange.api_key, exchange.version, exchange.correlation_id, exchange.client_id, {})
        for name in sorted(exchange.watch.names()):
            verdict = self._judge.ask(request, Operation.READ, Resource.TOPIC, name)
            if not verdict.allow:
                names.add(name)
                facts = Questions(flow, self._judge, request, {}).facts(Operation.READ, Resource.TOPIC, name)
                facts.error_code = ERRORS[Resource.TOPIC] if told else None
                flow.record_kafka(flow.kafka_request(), facts, DROPPED, verdict.reason, verdict.rule, verdict.policies)
        if names:
            flow.counters["kafka_withdrawn"] += 1
        return names

    def _withdraw(self, place: int, exchange: Exchange, topics: list[Tree] | None) -> None:
        """End with an answer of ours in place of this one, behind those before it; None: end now."""
        flow, pending = self._flow, self._pending
        self._drop_upload()
        for each in list(pending)[place:]:
            if not each.facts.recorded:
                each.record(flow, failure="withdrawn")
        if topics is None:
            self._stop()
            self._edge.reset()
            return
        while len(pending) > place:
            self._cost -= (
                pending.pop().cost
            )  # what is behind it gets no answer, as nothing of the broker's passes any more
        key, version = exchange.api_key, exchange.version
        frame = encode_response(key, version, exchange.correlation_id, {"SessionId": 0, "Responses": topics})
        exchange.answer = framed(frame)
        if exchange.insert is not None:
            _, at = begin_response(key, version, frame, "Responses")
            start, used = inserted(key, version, len(frame), frame, at, exchange.insert)
            exchange.answer = start + frame[used:]
        exchange.watch, exchange.cost = None, 0
        exchange.records.clear()
        pending.append(exchange)
        self._asking = None
        self._unsent = b""
        self._release(OPENING | ASKING)
        self._holds |= CLOSING
        self._inbox.clear()
        self._drain_queue()

    def closed(self) -> None:
        """Nothing is kept any more."""
        self._stop()

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
        if not self._holds & OVER:
            self._settle()

    def _take_some(self) -> bool:
        """Take what the client sent; False where nothing can be taken."""
        upload, holds = self._upload, self._holds
        if upload is None or upload.stage is Stage.HOLDING:
            return not holds and self._take_request()
        # what streams is one request, and holds nothing
        return not holds & ~(PENDING | FULL) and self._go_on(upload)

    def _settle(self) -> None:
        """Read where that is of use; pass the client's end on once everything before it went on."""
        edge, upload, holds = self._edge, self._upload, self._holds
        streams = upload is not None and upload.stage is not Stage.HOLDING
        if streams:
            holds &= ~(PENDING | FULL)
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
        elif not self._paused and (len(self._inbox) or self._holds & CLOSING):
            self._paused = True
            edge.pause_downstream()

    def _take_request(self) -> bool:
        """Take one request; False where none is whole."""
        inbox, limits = self._inbox, self._flow.limits
        have = len(inbox)
        if have < SIZE.size:
            if have and self._first and self._not_kafka(inbox.head(1)):
                return False
            self._wait(have)
            return False
        start = inbox.head(SIZE.size + HEAD_BYTES)
        (size,) = SIZE.unpack_from(start)
        if self._first and self._not_kafka(start):
            return False
        produces = start[4:6] in (b"\0\0", b"\0", b"")
        if not HEAD_BYTES <= size <= (limits.kafka_produce_bytes if produces else limits.kafka_request_bytes):
            self._bad_frame(start, size)
            return False
        if have < SIZE.size + size:
            if start[4:6] == b"\0\0" and self._upload_begins(size):
                return True
            self._wait(have)
            return False
        if self._edge.downstream_full:
            self._holds |= FULL
            return False
        asked = self._upload is not None and self._upload.asked
        self._frame_began = self._upload = None
        self._request(inbox.take(SIZE.size + size), asked=asked)
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
            if self._holds & OVER:
                return
        if oldest is not None:
            self._set_timer(Timer.RECORD, max(limits.record_s - (now_ns - oldest) / 1e9, 0.0))
        elif began is not None and not self._holds & CLOSING:
            self._set_timer(Timer.HEAD, max(limits.kafka_frame_s - (time.monotonic() - began), 0.0))
        else:
            self._set_timer(Timer.IDLE, limits.idle_s)
