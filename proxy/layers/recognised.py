"""The hot path: requests and responses whose heads the recogniser takes go on as they came.

Theory of operation. A flow starts here. A head in the recogniser's subset has one reading only, and its octets are what
a strict parser would have written, so nothing is parsed further, nothing is written anew: the verdict comes from the
place's table of decisions, the octets go out, and the body is counted and not touched. Everything else is none of this
file's business. `_hand_over` makes a `Http1Layer`, brings it to where this exchange is (a head is read again, by the
strict path), and lets it go on; when it has nothing under way it hands the flow back with the next request.

    WAITING ── request ──▶ OPENING (no leg yet) ──▶ SENT ── response's head ──▶ ANSWERED ── both ends ──▶ WAITING
       │                       │                     │                             │
       └──────────── what is not plain, what fails, what takes too long ───────────┴──▶ Http1Layer, at that point

INVARIANT: bytes go upstream only with a decision that has a permit, made under the rules in force when their head came.
INVARIANT: what is not understood here is judged there; nothing here answers, refuses or records anything but a plain
request and its denial.
"""

import time
from typing import Final

from parsers.http1.body import BodyReader, BodyWriter, LengthReader
from parsers.http1.events import Http1Limits, length_framing
from parsers.http1.follow import ChunkFollower
from parsers.http1.recognise import CONNECTION, CONTINUE, R_CONNECTION, request_pattern, response_pattern
from proxy.commands import Edge
from proxy.decided import Decision, Place
from proxy.events import LegFailure, Timer
from proxy.flow import Flow
from proxy.layers.answers import whole_answer
from proxy.layers.http1 import Http1Layer, Taken

_FORBIDDEN: Final = b"403"
_DENIAL: Final = whole_answer(403)
_LAST_DENIAL: Final = whole_answer(403, close=True)
_CLOSE: Final = b"Connection: close\r\n"
_WAITS, _WAITED = 1, 2

WAITING, OPENING, SENT, ANSWERED = range(4)


def _is_size(data: bytes, start: int, end: int) -> bool:
    """Whether this much of a chunked body has none of its payload yet."""
    return start == end or data.find(b"\r\n", start, end) + 2 == end


class Patterns:
    """The recogniser's patterns for one set of limits, shared by all flows of a worker."""

    __slots__ = ("limits", "request", "response")

    def __init__(self, limits: Http1Limits) -> None:
        self.limits = limits
        self.request = request_pattern(limits.max_fields).match
        self.response = response_pattern(limits.max_fields).match


class RecognisedLayer:
    """One flow's HTTP/1 while it is plain. See the module's theory of operation."""

    __slots__ = (
        "_ahead",
        "_at",
        "_began_ns",
        "_body",
        "_chunks",
        "_client_ended",
        "_closing",
        "_decision",
        "_edge",
        "_expects",
        "_facts",
        "_flow",
        "_fresh",
        "_head",
        "_last",
        "_leg",
        "_leg_last",
        "_match_request",
        "_match_response",
        "_patterns",
        "_place",
        "_pumping",
        "_response",
        "_response_chunks",
        "_response_rest",
        "_rest",
        "_sent_body",
        "_stage",
        "_time_ns",
        "_unsent",
    )

    opaque = False

    def __init__(self, flow: Flow, edge: Edge, patterns: Patterns, place: Place) -> None:
        self._flow = flow
        self._edge = edge
        self._patterns = patterns
        self._place = place
        self._match_request = patterns.request
        self._match_response = patterns.response
        self._leg = False
        self._fresh = True  # no request was answered on this leg yet
        self._closing = False  # the next response is the last one
        self._client_ended = False
        self._pumping = False
        self._stage = WAITING
        self._ahead = b""  # what the client sent behind the running request, or before there was room for its answer
        self._at = 0  # where in it the next request begins
        # of the running exchange
        self._decision: Decision | None = None
        self._facts = flow.facts
        self._head = b""
        self._unsent = b""
        self._time_ns = self._began_ns = 0
        self._last = False  # the client asks for the connection's end
        self._leg_last = False  # the leg ends with this response
        self._expects = 0  # whether the client waits for a 100 before it sends its body
        self._sent_body = 0  # octets of the body that go out with the head
        self._body = 0  # octets of the request's body still to come
        self._chunks: ChunkFollower | None = None  # where its chunks are
        self._rest = b""  # the beginning of a line between them
        self._response = 0  # likewise of the response
        self._response_chunks: ChunkFollower | None = None
        self._response_rest = b""

    # ---- for the strict layer

    def resume(self, *, leg: bool, fresh: bool) -> None:
        """Go on with a flow on which nothing is under way."""
        self._leg = leg
        self._fresh = fresh

    # ---- events: downstream

    def takes(self, data: bytes) -> bool:
        """Whether it is worth handing the flow back: these octets begin with a request for here."""
        if self._match_request(data) is None:
            return False
        if self._flow.outdated(self._place):
            self._place = self._flow.place()
        return self._place.decisions is not None

    def start(self) -> None:
        """Wait for the first request."""
        self._edge.set_timer(Timer.IDLE, self._flow.limits.idle_s)

    def downstream_data(self, data: bytes) -> None:
        """Bytes of requests."""
        if self._stage == WAITING and not self._ahead:
            self._ahead, self._at = data, 0
            self._pump()
        elif self._body or self._chunks is not None:
            self._request_body(data)
        else:  # behind the running request, or while its answers wait
            self._keep_for_later(data)

    def downstream_eof(self) -> None:
        """Half-close is normal: what was asked for is still answered."""
        if self._stage != WAITING and not self._body and self._chunks is None:
            self._client_ended = True
        elif self._stage == WAITING and not self._ahead:
            self._end(linger=False)
        else:
            self._hand_over().downstream_eof()

    def downstream_lost(self) -> None:
        """Nobody is left to answer."""
        if self._stage == WAITING:
            self._leg = False
            self._edge.reset()
        else:
            self._hand_over().downstream_lost()

    def downstream_drained(self) -> None:
        """There is room for answers again."""
        if self._stage == WAITING:
            self._edge.resume_downstream()
            self._pump()

    # ---- events: upstream

    def upstream_open(self) -> None:
        """Send what the leg was opened for."""
        if self._stage != OPENING:
            raise RuntimeError("a leg that nobody waits for")
        self._leg = self._fresh = True
        self._stage = SENT
        unsent, self._unsent = self._unsent, b""
        self._edge.pass_upstream(unsent)
        if self._body or self._chunks is not None:
            self._edge.resume_downstream()
            if self._ahead:  # more of the body, which came meanwhile
                data, self._ahead = self._ahead, b""
                self._request_body(data)

    def upstream_failed(self, failure: LegFailure) -> None:
        """502, 503 or 504."""
        self._hand_over().upstream_failed(failure)

    def upstream_data(self, data: bytes) -> None:
        """Bytes of a response."""
        if self._stage == SENT:
            self._response_head(data)
        elif self._stage == ANSWERED:
            self._response_body(data)
        else:  # they answer nothing
            self._hand_over().upstream_data(data)

    def upstream_eof(self) -> None:
        """The server is done with this leg."""
        if self._stage == WAITING:
            self._drop_leg()
        else:
            self._hand_over().upstream_eof()

    def upstream_lost(self) -> None:
        """Reset by the server."""
        if self._stage == WAITING:
            self._drop_leg()
        else:
            self._hand_over().upstream_lost()

    @property
    def passing_down(self) -> int:
        """What is to come of a response with a length, but for its last octet: that one is read, with whatever is
        behind it, so that what answers nothing is seen before another request goes there."""
        return self._response - 1 if self._stage == ANSWERED and self._response else 0

    @property
    def passing_up(self) -> int:
        """What is to come of a request with a length."""
        return self._body if self._stage in (SENT, ANSWERED) else 0

    def passed_down(self, count: int) -> None:
        """Some of the response went."""
        self._response -= count
        if self._response or self._body or self._chunks is not None:
            self._moved()
        else:
            self._finish()

    def passed_up(self, count: int) -> None:
        """Some of the request went."""
        self._body -= count
        self._expects = 0
        self._body_went()

    # ---- events: time and management

    def expired(self, timer: Timer) -> None:
        """A wait was too long."""
        self._hand_over().expired(timer)

    def drain(self) -> None:
        """The next response is the last."""
        self._closing = True
        if self._stage in (OPENING, SENT):
            self._hand_over().drain()

    def rules_changed(self) -> None:
        """The next request meets them."""

    def closed(self) -> None:
        """Nothing of it outlives the flow."""

    # ---- the request side

    def _pump(self) -> None:
        """Take one request after the other from what came, as long as none is under way."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._stage == WAITING and self._ahead:
                if self._edge.downstream_full:
                    return  # until `downstream_drained`
                if not self._take():
                    return
        finally:
            self._pumping = False
        if self._client_ended and self._stage == WAITING:
            self._end(linger=False)

    def _take(self) -> bool:
        """Take one request; False when the flow is another layer's, or over."""
        data, start, edge, flow = self._ahead, self._at, self._edge, self._flow
        match = self._match_request(data, start)
        if match is None or self._closing or match.end() - start > flow.limits.head_bytes:
            return self._strict()
        place = self._place
        if flow.outdated(place):
            place = self._place = flow.place()
        decisions = place.decisions
        if decisions is None:
            return self._strict()
        method, target, host, length, _, chunked, connection, expect = match.groups()
        key = (method, target, host)
        decision = decisions.get(key)
        if decision is None:
            decision = flow.decide(method, target, host)
            place.remember(key, decision)
        permit = decision.verdict.permit
        end = body_start = match.end()
        last = connection is not None and b"close" in connection.lower()  # or keep-alive
        if permit is None:
            if length is not None or chunked is not None or decision.is_head:
                return self._strict()
            self._deny(decision, data, end, last=last)
            return not last
        chunks = None
        left = 0
        rest = b""
        if length is not None:
            end += int(length)
            if end > len(data):
                if self._client_ended:
                    return self._strict()  # the rest does not come
                left, end = end - len(data), len(data)
        elif chunked is not None:
            chunks = ChunkFollower()
            end = chunks.follow(data, end)
            if chunks.odd or (self._client_ended and not chunks.done):
                return self._strict()
            if chunks.done:
                chunks = None
            else:
                rest, data = data[end:], data[:end]
        if end == len(data):
            self._ahead, self._at = b"", 0
            octets = data if not start else data[start:]
        else:
            self._at = end
            octets = data[start:end]
        head = octets if body_start == end else octets[: body_start - start]
        if connection is not None and not last:
            first, behind = match.span(CONNECTION)
            octets = octets[: first - start] + octets[behind - start :]
        flow.counters["requests"] += 1
        self._time_ns, self._began_ns = time.time_ns(), time.monotonic_ns()
        self._facts = flow.facts
        self._decision = decision
        self._head = head
        self._last = self._leg_last = last
        self._expects = 0
        if expect is not None and (body_start == end or (chunks is not None and _is_size(data, body_start, end))):
            self._expects = _WAITS
        self._body = left
        self._chunks = chunks
        self._rest = rest
        self._sent_body = end - body_start
        edge.set_timer(Timer.RECORD, flow.limits.record_s)
        if self._leg:
            self._stage = SENT
            edge.pass_upstream(octets)
        else:
            self._stage = OPENING
            self._unsent = octets
            edge.open_upstream(permit)
        return True

    def _deny(self, decision: Decision, data: bytes, end: int, *, last: bool) -> None:
        flow, edge = self._flow, self._edge
        flow.counters["requests"] += 1
        flow.counters["denied"] += 1
        if end == len(data):
            self._ahead, self._at = b"", 0
        else:
            self._at = end
        flow.note(flow.facts, decision.shape(_FORBIDDEN), time.time_ns(), None)
        edge.pass_downstream(_LAST_DENIAL if last else _DENIAL)
        if last:
            self._end(linger=not self._client_ended)
        else:
            edge.set_timer(Timer.IDLE, flow.limits.idle_s)

    def _strict(self) -> bool:
        self._hand_over()
        return False

    def _request_body(self, data: bytes) -> None:
        """More of the running request."""
        if self._stage == OPENING:
            self._keep_for_later(data)
            return
        chunks = self._chunks
        if chunks is not None:
            if self._rest:
                data = self._rest + data
            inside = chunks.left
            end = chunks.follow(data, 0)
            if self._expects and (inside or not _is_size(data, 0, end)):
                self._expects = 0
            if end:
                self._edge.pass_upstream(data if end == len(data) else data[:end])
            self._rest = b""
            if chunks.odd:
                self._keep_for_later(data[end:])
                self._hand_over()
                return
            if chunks.done:
                self._chunks = None
                if end < len(data):
                    self._keep_for_later(data[end:])
            else:
                self._rest = data[end:]
        else:
            left = self._body
            if len(data) > left:
                self._keep_for_later(data[left:])
                data = data[:left]
            self._body = left - len(data)
            self._expects = 0
            self._edge.pass_upstream(data)
        self._body_went()

    def _body_went(self) -> None:
        if self._stage == ANSWERED:
            self._moved()
            # INVARIANT: what is left of a body is never looked at as a request
            if not (self._body or self._response) and self._chunks is None and self._response_chunks is None:
                self._finish()

    def _keep_for_later(self, data: bytes) -> None:
        if not data:
            return
        self._ahead = self._ahead[self._at :] + data if self._ahead else data
        self._at = 0
        self._edge.pause_downstream()

    # ---- the response side

    def _response_head(self, data: bytes) -> None:
        match = self._match_response(data)
        decision = self._decision
        if match is None or decision is None or match.end() > self._flow.limits.head_bytes:
            if data == CONTINUE and self._expects == _WAITS:
                self._expects = _WAITED  # more of them are for who counts them
                self._edge.pass_downstream(data)
            else:
                self._hand_over().upstream_data(data)
            return
        status, _, length, chunked, connection = match.groups()
        end = match.end()
        left = 0
        chunks = None
        strict = self._expects != 0  # the client waits for its 100: there is no telling where its next request begins
        if decision.is_head:
            strict = strict or chunked is not None or len(data) > end
        elif length is not None:
            left = int(length) - (len(data) - end)
            strict = strict or left < 0
        elif chunked is not None:
            chunks = ChunkFollower()
        else:  # 204 or 304
            strict = strict or len(data) > end
        last = False
        if connection is not None:
            last = b"close" in connection.lower()
        if strict or (self._last and not last):
            self._hand_over().upstream_data(data)
            return
        flow = self._flow
        flow.note(self._facts, decision.shape(status), self._time_ns, time.monotonic_ns() - self._began_ns)
        self._leg_last |= last
        self._stage = ANSWERED
        self._response = left
        if connection is not None:
            first, behind = match.span(R_CONNECTION)
            line = _CLOSE if self._last else b""
            data = data[:first] + line + data[behind:]
            end += len(line) - (behind - first)
        if chunks is None:
            self._edge.pass_downstream(data)
            if left == 0 and not self._body and self._chunks is None:
                self._finish()
            else:
                self._moved()
        else:
            self._response_chunks = chunks
            self._response_rest = b""
            self._follow_response(chunks, data, end)

    def _response_body(self, data: bytes) -> None:
        chunks = self._response_chunks
        if chunks is not None:
            if self._response_rest:
                data = self._response_rest + data
                self._response_rest = b""
            self._follow_response(chunks, data, 0)
            return
        left = self._response - len(data)
        if left < 0:
            self._hand_over().upstream_data(data)
            return
        self._response = left
        self._edge.pass_downstream(data)
        if left or self._body or self._chunks is not None:
            self._moved()
        else:
            self._finish()

    def _follow_response(self, chunks: ChunkFollower, data: bytes, start: int) -> None:
        end = chunks.follow(data, start)
        if end:
            self._edge.pass_downstream(data if end == len(data) else data[:end])
        if chunks.done:
            self._response_chunks = None
            done = not self._body and self._chunks is None
            if end < len(data):
                if not done:
                    self._hand_over().upstream_data(data[end:])
                    return
                self._leg_last = True  # what answers nothing goes nowhere, and no other request goes there
            if done:
                self._finish()
            else:
                self._moved()
        elif chunks.odd:
            self._hand_over().upstream_data(data[end:])
        else:
            self._response_rest = data[end:]
            self._moved()

    def _finish(self) -> None:
        """Request and response are complete."""
        self._stage = WAITING
        self._head = b""
        if self._leg_last:
            self._drop_leg()
        else:
            self._fresh = False
        if self._last:
            self._end(linger=not self._client_ended)
            return
        edge = self._edge
        edge.set_timer(Timer.IDLE, self._flow.limits.idle_s)
        if self._ahead:
            if not edge.downstream_full:
                edge.resume_downstream()
                self._pump()
        elif self._client_ended:
            self._end(linger=False)

    def _moved(self) -> None:
        self._edge.set_timer(Timer.IDLE, self._flow.limits.idle_s)

    def _drop_leg(self) -> None:
        self._leg = False
        self._edge.close_upstream()

    def _end(self, *, linger: bool) -> None:
        self._ahead = b""
        self._leg = False
        self._edge.finish(linger=linger)

    # ---- to the strict layer

    def _hand_over(self) -> Http1Layer:
        """From here on the flow is a strict layer's, which is brought to where we are. It has what the client sent and
        was not used, and may have acted upon it before this returns."""
        flow, edge = self._flow, self._edge
        layer = Http1Layer(flow, edge, self._patterns.limits, quick=self)
        ahead = self._ahead[self._at :] if self._at else self._ahead
        if self._rest:
            ahead = self._rest + ahead
        if self._stage == OPENING and self._sent_body:
            ahead = self._unsent[-self._sent_body :] + ahead
        stage, self._stage = self._stage, WAITING
        edge.hand_over(layer)
        taken = None
        if stage != WAITING:
            taken = self._taken(stage)
        self._ahead, self._at = b"", 0
        self._head = self._rest = b""
        self._body = self._response = 0
        self._chunks = self._response_chunks = None
        client_ended, self._client_ended = self._client_ended, False
        layer.take_over(
            taken, leg=self._leg, fresh=self._fresh, closing=self._closing, ahead=ahead, client_ended=client_ended
        )
        return layer

    def _taken(self, stage: int) -> Taken:
        """The running exchange as the strict layer needs it."""
        decision = self._decision
        if decision is None:
            raise RuntimeError("an exchange without a decision")
        facts = self._flow.request(decision.method, decision.target, decision.host, "HTTP/1.1")
        facts.connection = self._facts
        facts.revision = decision.revision
        facts.verdict = decision.verdict
        facts.time_ns, facts.began_ns = self._time_ns, self._began_ns
        facts.recorded = facts.answered = stage == ANSWERED
        chunks, response = self._chunks, self._response_chunks
        reader: BodyReader | None = None
        writer: BodyWriter | None = None
        if chunks is not None:
            reader, writer = chunks.reader(self._patterns.limits), chunks.writer()
        elif self._body:
            reader, writer = LengthReader(self._body), BodyWriter(length_framing(self._body))
        response_reader: BodyReader | None = None
        response_writer: BodyWriter | None = None
        if response is not None and not response.done:
            response_reader, response_writer = response.reader(self._patterns.limits), response.writer()
        elif stage == ANSWERED and self._response:
            response_reader = LengthReader(self._response)
            response_writer = BodyWriter(length_framing(self._response))
        return Taken(
            head=self._head,
            facts=facts,
            sent=stage != OPENING,
            body_began=self._expects == 0,
            reader=reader,
            writer=writer,
            answered=stage == ANSWERED,
            response_reader=response_reader,
            response_writer=response_writer,
            leg_last=self._leg_last,
            response_rest=self._response_rest,
        )
