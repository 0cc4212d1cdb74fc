"""HTTP/1: judge every request, forward what was parsed, answer what is refused.

Theory of operation. Two parsers face the two sides; between them one request is under way at a time (an *exchange*).
The downstream parser is pumped until it has no more events or until the flow is held: while a leg is being opened,
while the request is complete and its response is not, and while the client does not take what it was sent. So a
pipelined request is parsed, judged and forwarded only when the response before it has been written, and responses
cannot change order.

Each side is in one state; an event that a state does not expect raises and the edge ends the flow as `internal_error`:

    request   state_idle ── allowed ──▶ state_request_body ── end ──▶ held ── response end ──▶ state_idle
                   └────── denied ───▶ state_denied_body ── end ─────────────────────────────▶ state_idle
    response  state_response_head ──▶ state_response_body ──▶ state_response_done (── next request ──▶
    state_response_head)

INVARIANT: bytes go upstream only with the permit of the verdict on the request they belong to.
INVARIANT: a flow that is over (`over`) sends no command but those that end it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from parsers.errors import RemoteProtocolError
from parsers.http1.body import BodyReader, BodyWriter, reader_for
from parsers.http1.connection import ClientConnection, ServerConnection
from parsers.http1.events import (
    NEED_DATA,
    PAUSED,
    ConnectionClosed,
    Data,
    EndOfMessage,
    FramingKind,
    Http1Limits,
    InformationalHead,
    RequestEvent,
    RequestHead,
    ResponseEvent,
    ResponseHead,
)
from parsers.http1.fields import forwarded_request_fields, forwarded_response_fields
from parsers.http1.heads import read_request
from parsers.http1.target import canonical_target
from policies.engine import HttpRequest
from proxy.commands import Edge
from proxy.events import Layer, LegFailure, Timer
from proxy.flow import Flow, RequestFacts, hide_query
from proxy.flow_event import AUDIT, DROPPED, ERROR, FORWARDED, RULE_LIMIT, RULE_PROTOCOL
from proxy.layers.answers import answer_head, body_of
from proxy.layers.exchange import Exchange, LowerFields, edited
from proxy.layers.opaque import OpaqueLayer

# RFC 9112 3, loosely: what is none of these cannot become a request, however long one waits for the rest of its head.
_REQUEST_LINE = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.[01]\r?")
_FIRST_PIECES = 16  # reads; who sends byte by byte is found out by the timer
_BINARY = re.compile(rb"[^ -~\r]")


def _is_no_request(start: bytes) -> bool:
    """Whether what a client began with is another protocol. Asked only where such may pass, and then at once."""
    line, end, _ = start.lstrip(b"\r\n").partition(b"\n")
    return _REQUEST_LINE.fullmatch(line) is None if end else _BINARY.search(line) is not None


def _asks_for_upgrade(head: RequestHead) -> bool:
    """Whether the connection is to become another protocol that a server might insist on; h2c never is one."""
    return b"upgrade" in head.connection and any(
        name.lower() == b"upgrade" and value.strip().lower() != b"h2c" for name, value in head.fields
    )


class Quick(Layer, Protocol):
    """The layer of the hot path (`proxy.layers.recognised`)."""

    def takes(self, data: bytes) -> bool:
        """Whether these octets begin with a request for it."""

    def resume(self, *, leg: bool, fresh: bool) -> None:
        """The flow is its own again, with nothing under way."""


@dataclass(slots=True)
class Taken:
    """An exchange that the quick layer began.

    head: the request's head as the client sent it. sent: it went upstream; otherwise the leg is still being opened and
    the whole body is yet to be read. reader, writer: of what is left of the request's body, None when it is complete.
    answered: the response's head is out; response_reader, response_writer likewise. response_rest: octets of it that
    were received and not used. leg_last: the leg ends with this exchange.
    """

    head: bytes
    facts: RequestFacts
    sent: bool
    body_began: bool
    reader: BodyReader | None
    writer: BodyWriter | None
    answered: bool
    response_reader: BodyReader | None
    response_writer: BodyWriter | None
    leg_last: bool
    response_rest: bytes


class Http1Layer:
    """One flow's HTTP/1. See the module's theory of operation."""

    __slots__ = (
        "_answer_seen",
        "_client_ended",
        "_closing",
        "_down",
        "_drained",
        "_edge",
        "_exchange",
        "_flow",
        "_head_timer",
        "_held",
        "_leg_fresh",
        "_limits",
        "_over",
        "_pumping",
        "_quick",
        "_raw",
        "_request_state",
        "_response_state",
        "_up",
    )

    opaque = False
    passing_down = passing_up = 0  # everything is read here

    def __init__(
        self,
        flow: Flow,
        edge: Edge,
        parser_limits: Http1Limits,
        *,
        lenient: bool = False,
        quick: "Quick | None" = None,
    ) -> None:
        """lenient: only policies in mode audit want this judged, so that it passes unparsed where it cannot be read.
        quick: who gets the flow back with the next plain request when nothing is under way."""
        self._quick = quick
        self._raw: list[bytes] | None = [] if lenient else None  # all that came, until the first head could be read
        self._flow = flow
        self._edge = edge
        self._limits = parser_limits
        self._down = ServerConnection(parser_limits)
        self._up: ClientConnection | None = None
        self._request_state: Callable[[RequestEvent], None] = self.state_idle
        self._response_state: Callable[[ResponseEvent], None] = self.state_response_done
        self._exchange: Exchange | None = None
        self._held = False
        self._over = False
        self._pumping = False
        self._closing = False  # the next response is the last one
        self._client_ended = False
        self._head_timer = False
        self._leg_fresh = True  # no request was answered on this leg yet
        self._answer_seen = False  # bytes came on the leg since the request was sent
        self._drained = 0  # bytes of a denied request's body thrown away

    # ---- events: downstream

    def start(self) -> None:
        """Wait for the first request."""
        limits = self._flow.limits
        self._edge.set_timer(Timer.IDLE, limits.idle_s if self._raw is None else limits.detect_s)

    def downstream_data(self, data: bytes) -> None:
        """Bytes of requests."""
        quick = self._quick
        if quick is not None and self._rests and quick.takes(data):
            quick.resume(leg=self._up is not None, fresh=self._leg_fresh)
            self._edge.hand_over(quick)
            quick.downstream_data(data)
            return
        if self._raw is not None:
            self._raw.append(data)
            other = len(self._raw) <= _FIRST_PIECES and _is_no_request(b"".join(self._raw))
            if other and self._passes("not http, no request line"):
                return
        self._down.receive(data)
        if self._held:
            self._edge.pause_downstream()
        else:
            self._pump_request()

    def downstream_eof(self) -> None:
        """Half-close is normal: what was asked for is still answered."""
        self._client_ended = True
        self._down.receive(b"")
        if not self._held:
            self._pump_request()

    def downstream_lost(self) -> None:
        """Nobody is left to answer."""
        self._give_up("client_aborted")

    def downstream_drained(self) -> None:
        """There is room for the answers to pipelined requests again."""
        if self._held and self._exchange is None:
            self._release()
            self._pump_request()

    @property
    def _rests(self) -> bool:
        """Whether nothing is under way that another layer would have to know of."""
        return (
            self._exchange is None
            and self._raw is None
            and not (self._held or self._over or self._closing or self._client_ended or self._head_timer)
            and self._request_state == self.state_idle
            and not self._down.buffered
        )

    def take_over(
        self, taken: "Taken | None", *, leg: bool, fresh: bool, closing: bool, ahead: bytes, client_ended: bool
    ) -> None:
        """Go on where the quick layer was. taken: the exchange under way. leg: there is one; fresh: it answered nothing
        yet. closing: the next response is the last. ahead: what the client sent and nobody used yet."""
        edge = self._edge
        self._closing = closing
        self._leg_fresh = fresh
        edge.resume_downstream()
        if taken is not None:
            self._adopt(taken)
        elif leg:
            self._up = ClientConnection(self._limits)
        if ahead:
            self._down.receive(ahead)
        if client_ended:
            self._client_ended = True
            self._down.receive(b"")
        if self._held:
            if ahead:
                edge.pause_downstream()
        elif ahead:
            self._pump_request()

    def _adopt(self, taken: "Taken") -> None:
        """Read the head again, strictly, and bring both machines to where the exchange is."""
        head = read_request(taken.head, self._limits)
        target = canonical_target(head.target, head.form, merge_slashes=self._flow.limits.merge_slashes)
        exchange = self._exchange = Exchange(head, target, forwarded_request_fields(head), taken.facts)
        self._request_state = self.state_request_body
        if not taken.sent:
            self._down.adopt(head, reader_for(head.framing, self._limits), answered=False)
            self._held = True
            return
        self._down.adopt(head, taken.reader, response=taken.response_writer, answered=taken.answered)
        up = self._up = ClientConnection(self._limits)
        up.adopt(
            head.method,
            taken.writer,
            close=taken.leg_last,
            answered=taken.answered,
            reader=taken.response_reader,
        )
        if taken.response_rest:
            up.receive(taken.response_rest)
        exchange.body_began = taken.body_began
        self._held = exchange.request_done = taken.reader is None
        self._answer_seen = exchange.response_began = taken.answered
        if not taken.answered:
            self._response_state = self.state_response_head
        elif taken.response_reader is not None:
            self._response_state = self.state_response_body
        else:
            exchange.response_done = True

    # ---- events: upstream

    def upstream_open(self) -> None:
        """Send the request that the leg was opened for."""
        exchange = self._running()
        self._up = ClientConnection(self._limits)
        self._leg_fresh = True
        self._send_request(exchange)
        if not exchange.request_done:
            self._release()
            self._pump_request()

    def upstream_failed(self, failure: LegFailure) -> None:
        """502 or 504."""
        if failure is LegFailure.TIMED_OUT:
            self._flow.counters["limit_connect"] += 1
            self._fail(504, failure.value)
        elif failure is LegFailure.NO_SOCKET:
            self._fail(503, failure.value)
        else:
            self._fail(502, failure.value)

    def upstream_data(self, data: bytes) -> None:
        """Bytes of a response."""
        up = self._up
        if up is None:
            raise RuntimeError("bytes from a leg that is not there")
        self._answer_seen = True
        up.receive(data)
        self._pump_response(up)

    def upstream_eof(self) -> None:
        """The server is done with this leg."""
        up = self._up
        if up is None:
            raise RuntimeError("end of a leg that is not there")
        if self._exchange is None:
            self._drop_leg()
            return
        up.receive(b"")
        self._pump_response(up)
        exchange = self._exchange
        if exchange is not None and self._up is up and not self._over and exchange.response_done:
            # The whole response is out and nobody reads the rest of the request.
            self._end(linger=True)

    def upstream_lost(self) -> None:
        """Reset by the server."""
        if self._exchange is None:
            self._drop_leg()
        else:
            self._upstream_broke("upstream_reset", reset=True)

    def passed_down(self, count: int) -> None:
        """Never."""
        raise RuntimeError("octets passed unseen")

    passed_up = passed_down

    # ---- events: time and management

    def expired(self, timer: Timer) -> None:
        """A wait was too long."""
        flow, exchange = self._flow, self._exchange
        if self._raw is not None and self._passes("not http, no request came in time"):
            return
        if timer is Timer.RECORD:
            if exchange is not None and not exchange.facts.recorded:
                self._record_allowed(exchange)
            self._edge.set_timer(Timer.IDLE, flow.limits.idle_s)
        elif timer is Timer.HEAD:
            flow.counters["limit_head_time"] += 1
            flow.record(DROPPED, "limit_head_time", RULE_LIMIT, code=408)
            self._answer_and_close(408)
        elif exchange is not None and not exchange.response_began:
            flow.counters["limit_idle"] += 1
            self._fail(504, "upstream_timeout", close=True)
        elif exchange is not None:
            flow.counters["limit_idle"] += 1
            self._give_up("limit_idle")
        else:
            flow.counters["limit_idle"] += 1
            flow.record(DROPPED, "limit_idle", RULE_LIMIT)
            self._end(linger=False)

    def drain(self) -> None:
        """The next response is the last. An idle connection is left alone until then: closing it could cross a
        request."""
        self._closing = True

    def rules_changed(self) -> None:
        """The next request meets them."""

    def closed(self) -> None:
        """Nothing of it outlives the flow."""

    # ---- the request side

    def _pump_request(self) -> None:
        if self._pumping:
            return  # a leg stood or failed at once, within the pumping of its request: that goes on
        down = self._down
        if self._exchange is None and self._edge.downstream_full:
            self._held = True  # until `downstream_drained`
        self._pumping = True
        try:
            while not self._held:
                event = down.next_event()
                if event is NEED_DATA:
                    self._head_begun()
                    return
                if event is PAUSED:
                    raise RuntimeError("the request parser paused while nothing was held")
                self._request_state(event)
        except RemoteProtocolError as error:
            self._refuse_unreadable(error)
        finally:
            self._pumping = False

    def _head_begun(self) -> None:
        """Bound the time of a head whose first bytes are here."""
        if self._exchange is None and not self._head_timer and self._down.buffered:
            if self._request_state == self.state_idle:
                self._head_timer = True
                limits = self._flow.limits
                self._edge.set_timer(Timer.HEAD, limits.head_read_s if self._raw is None else limits.detect_s)
        elif self._exchange is not None:
            self._moved(self._exchange)

    def state_idle(self, event: RequestEvent) -> None:
        """Between requests."""
        if type(event) is ConnectionClosed:
            if not self._passes("not http, no request came"):
                self._end(linger=False)
            return
        if type(event) is not RequestHead:
            raise RuntimeError(f"{type(event).__name__} between requests")
        if self._raw is not None and _asks_for_upgrade(event) and self._passes("not http, an upgrade is asked for"):
            return
        self._head_timer = False
        self._judge(event)

    def state_request_body(self, event: RequestEvent) -> None:
        """An allowed request goes upstream as it comes."""
        exchange, up = self._running(), self._up
        if up is None:
            raise RuntimeError("a body without a leg")
        if type(event) is Data:
            exchange.body_began = True
            for piece in up.send_data(event.data):
                self._edge.send_upstream(piece)
        elif type(event) is EndOfMessage:
            exchange.request_done = True
            if tail := up.send_end(event.trailers):
                self._edge.send_upstream(tail)
            if exchange.response_done:
                self._finish_exchange()
            else:
                self._held = True
        else:
            raise RuntimeError(f"{type(event).__name__} in a request's body")

    def state_denied_body(self, event: RequestEvent) -> None:
        """The body of a denied request is thrown away, within a bound, to find the next request behind it."""
        if type(event) is Data:
            self._drained += len(event.data)
            if self._drained > self._flow.limits.drain_body_bytes:
                self._end(linger=True)
        elif type(event) is EndOfMessage:
            self._next_request()
        else:
            raise RuntimeError(f"{type(event).__name__} in a denied request's body")

    def _judge(self, head: RequestHead) -> None:
        flow = self._flow
        flow.counters["requests"] += 1
        engine = flow.engine()
        method = head.method.decode("ascii", "replace")
        host = head.host.decode("latin-1") if head.host is not None else ""
        facts = flow.request(method, "", host, "HTTP/1.1" if head.version == b"1.1" else "HTTP/1.0")
        try:
            target = canonical_target(head.target, head.form, merge_slashes=flow.limits.merge_slashes)
        except RemoteProtocolError as error:
            facts.target = hide_query(head.target.decode("latin-1"))  # as sent: the record redacts any form of target
            if not self._passes(f"not readable as http, {error.reason}"):
                self._refuse_request(facts, error)
            return
        self._raw = None
        matched = target.matched
        facts.target = hide_query(matched) if target.query is not None else matched
        fields = forwarded_request_fields(head)
        verdict = facts.verdict = engine.decide(
            flow.endpoint,
            flow.direction,
            flow.facts.identity,
            flow.port,
            HttpRequest(method, matched, host, LowerFields(fields)),
        )
        if verdict.permit is None:
            self._deny(head, facts)
            return
        if verdict.edits:
            fields = edited(fields, verdict.edits)
        exchange = self._exchange = Exchange(head, target, fields, facts)
        self._request_state = self.state_request_body
        self._edge.set_timer(Timer.RECORD, flow.limits.record_s)
        if self._up is None:
            self._held = True
            self._edge.open_upstream(verdict.permit)
        else:
            self._send_request(exchange)

    def _send_request(self, exchange: Exchange) -> None:
        up = self._up
        if up is None:
            raise RuntimeError("a request without a leg")
        head = exchange.head
        self._answer_seen = False
        self._response_state = self.state_response_head
        data = up.send_request(
            head.method,
            exchange.target.wire,
            exchange.fields,
            head.framing,
            version=head.forward_version,
            close=not head.keep_alive and head.forward_version == b"1.1",
        )
        self._edge.send_upstream(data)
        if exchange.request_done:  # sent for the second time; it has no body
            self._edge.send_upstream(up.send_end())

    def _next_request(self) -> None:
        """A response is complete and so is its request: go on, or end."""
        down = self._down
        if not down.can_reuse:
            self._end(linger=not self._client_ended)
            return
        down.start_next_cycle()
        self._request_state = self.state_idle
        self._drained = 0
        self._edge.set_timer(Timer.IDLE, self._flow.limits.idle_s)
        if self._edge.downstream_full:
            self._held = True
        elif self._held:
            self._release()

    def _release(self) -> None:
        self._held = False
        self._edge.resume_downstream()

    # ---- the response side

    def _pump_response(self, up: ClientConnection) -> None:
        try:
            while self._up is up:
                event = up.next_event()
                if event is NEED_DATA or event is PAUSED:
                    break
                self._response_state(event)
                if self._exchange is None or type(event) is ConnectionClosed:
                    break  # a leg kept is known to hold no more; an end would be told again for ever
        except RemoteProtocolError as error:
            self._bad_response(error)
        if self._exchange is not None:
            self._moved(self._exchange)
        elif not self._held and not self._over and (self._down.buffered or self._client_ended):
            self._pump_request()

    def state_response_head(self, event: ResponseEvent) -> None:
        """Waiting for the response to the running request."""
        exchange, down = self._running(), self._down
        if type(event) is ResponseHead:
            exchange.response_began = True
            exchange.facts.answered = True
            # A client that waits for its 100 and gets this instead may send the body or not (RFC 9110 10.1.1): there is
            # no telling where its next request begins.
            unsure = exchange.head.expect_continue and not exchange.body_began and not exchange.request_done
            forwarded = ResponseHead(
                event.status, event.reason, event.version, forwarded_response_fields(event), event.framing
            )
            self._edge.send_downstream(down.send_response(forwarded, close=self._closing or unsure))
            self._record_allowed(exchange, event.status)
            self._response_state = self.state_response_body
        elif type(event) is InformationalHead:
            hint = InformationalHead(event.status, event.reason, forwarded_response_fields(event))
            if data := down.send_informational(hint):
                self._edge.send_downstream(data)
        else:
            self._upstream_broke("upstream_closed")

    def state_response_body(self, event: ResponseEvent) -> None:
        """The response goes downstream as it comes."""
        exchange = self._running()
        if type(event) is Data:
            for piece in self._down.send_data(event.data):
                self._edge.send_downstream(piece)
        elif type(event) is EndOfMessage:
            if tail := self._down.send_end(event.trailers):
                self._edge.send_downstream(tail)
            exchange.response_done = True
            self._response_state = self.state_response_done
            if exchange.request_done:
                self._finish_exchange()
            elif exchange.head.expect_continue and not exchange.body_began:
                self._end(linger=True)
        else:
            self._upstream_broke("upstream_closed")

    def state_response_done(self, event: ResponseEvent) -> None:
        """The response is out; the leg may end now, or when it likes between requests."""
        if type(event) is not ConnectionClosed:
            raise RuntimeError(f"{type(event).__name__} after the response")
        if self._exchange is None:
            self._drop_leg()

    def _finish_exchange(self) -> None:
        up = self._up
        self._exchange = None
        if up is not None:
            if up.can_reuse:
                up.start_next_cycle()
                self._leg_fresh = False
            else:
                self._drop_leg()
        self._next_request()

    def _drop_leg(self) -> None:
        self._up = None
        self._edge.close_upstream()

    def _bad_response(self, error: RemoteProtocolError) -> None:
        if self._exchange is None:  # bytes that answer nothing: whose response they would be is anybody's guess
            self._flow.counters["upstream_unsolicited"] += 1
            self._flow.record(ERROR, "upstream_unsolicited", RULE_PROTOCOL)
            self._drop_leg()
        elif not self._answer_seen:  # closed before it answered anything
            self._upstream_broke("upstream_closed")
        else:
            self._upstream_broke(error.reason)

    def _upstream_broke(self, reason: str, *, reset: bool = False) -> None:
        """The leg ended, or cannot be read, before the response was complete."""
        exchange = self._running()
        if not exchange.response_began:
            if not self._leg_fresh and not self._answer_seen and exchange.may_repeat and exchange.request_done:
                # The server closed an idle connection just as we used it (RFC 9112 9.3.1). Once: the new leg is fresh.
                verdict = exchange.facts.verdict
                if verdict is None or verdict.permit is None:
                    raise RuntimeError("an exchange without a permit")
                self._flow.counters["upstream_retried"] += 1
                self._drop_leg()
                self._edge.open_upstream(verdict.permit)
            else:
                self._fail(502, reason, close=True)
        elif exchange.response_done:
            self._end(linger=True)
        else:
            self._flow.record_request(exchange.facts, ERROR, reason)
            if reset or exchange.head.version != b"1.1":
                self._stop()
                self._edge.reset()  # a body that ends with the connection would look complete after a plain close
            else:
                self._end(linger=False)

    # ---- answers of our own, and ends

    def _deny(self, head: RequestHead, facts: RequestFacts) -> None:
        flow = self._flow
        flow.counters["denied"] += 1
        verdict = facts.verdict
        flow.record_request(facts, DROPPED, verdict.reason if verdict is not None else "", 403)
        framing = head.framing
        # Whether the end of this request can be found at a bearable price.
        usable = not head.expect_continue and (
            framing.kind is not FramingKind.LENGTH or framing.length <= flow.limits.drain_body_bytes
        )
        self._answer(403, close=self._closing or not usable)
        if usable:
            self._request_state = self.state_denied_body
            if framing.kind is not FramingKind.NONE:
                self._edge.set_timer(Timer.IDLE, flow.limits.head_read_s)
        else:
            self._end(linger=True)

    def _refuse_request(self, facts: RequestFacts, error: RemoteProtocolError) -> None:
        """A request whose head could be parsed, but not its target."""
        self._flow.counters["malformed"] += 1
        facts.rule = RULE_PROTOCOL
        self._flow.record_request(facts, DROPPED, error.reason, error.status)
        self._answer_and_close(error.status)

    def _refuse_unreadable(self, error: RemoteProtocolError) -> None:
        if self._passes(f"not readable as http, {error.reason}"):
            return
        flow, exchange = self._flow, self._exchange
        flow.counters["limit_head" if error.status == 431 else "malformed"] += 1
        if exchange is None:
            rule = RULE_LIMIT if error.status == 431 else RULE_PROTOCOL
            if self._request_state == self.state_idle:
                flow.engine()
                flow.record(DROPPED, error.reason, rule, code=error.status)
                self._answer_and_close(error.status)
            else:  # in the body of a denied request, which has its answer and its record
                self._end(linger=True)
            return
        # The head is allowed, its body is not readable. What is unsent of it goes no further.
        reason = "client_aborted" if self._client_ended else error.reason
        status = 0 if exchange.response_began else error.status
        flow.record_request(exchange.facts, ERROR if self._client_ended else DROPPED, reason, status)
        if status:
            self._answer_and_close(status)
        else:
            self._end(linger=True)

    def _fail(self, status: int, reason: str, *, close: bool = False) -> None:
        """An allowed request that got no response."""
        exchange = self._running()
        flow = self._flow
        flow.record_request(exchange.facts, ERROR, reason, status)
        self._exchange = None
        self._up = None
        self._edge.close_upstream()
        if not exchange.request_done and exchange.head.framing.kind is not FramingKind.NONE:
            close = True
        self._answer(status, close=close or self._closing)
        if close:
            self._end(linger=True)
        elif exchange.request_done:
            self._next_request()
            if not self._held and not self._over:
                self._pump_request()
        else:
            self._request_state = self.state_denied_body
            self._release()
            self._pump_request()

    def _answer(self, status: int, *, close: bool) -> None:
        edge, down = self._edge, self._down
        edge.send_downstream(down.send_response(answer_head(status), close=close))
        for piece in down.send_data(body_of(status)):
            edge.send_downstream(piece)
        edge.send_downstream(down.send_end())

    def _answer_and_close(self, status: int) -> None:
        self._answer(status, close=True)
        self._end(linger=True)

    def _record_allowed(self, exchange: Exchange, status: int = 0) -> None:
        verdict = exchange.facts.verdict
        if verdict is None:
            raise RuntimeError("an exchange without a verdict")
        reason = verdict.reason
        if verdict.logged:
            reason += f", not as wanted is the header {' and '.join(verdict.logged)}"
        self._flow.record_request(exchange.facts, AUDIT if verdict.audited else FORWARDED, reason, status)

    def _passes(self, why: str) -> bool:
        """Let the connection pass unparsed from its first byte on, if it may; False when it may not.

        Only before a request could be read: nothing of it has gone anywhere yet. Later there is no telling what of the
        bytes was meant for whom.
        """
        raw = self._raw
        self._raw = None
        if raw is None or self._flow.verdict_on_connection().permit is None:
            return False
        self._stop()
        layer = OpaqueLayer(self._flow, self._edge, unjudged=why)
        self._edge.hand_over(layer)
        layer.start()
        if raw:
            layer.downstream_data(b"".join(raw))
        if self._client_ended:
            layer.downstream_eof()
        return True

    def _give_up(self, reason: str) -> None:
        exchange = self._exchange
        if exchange is not None:
            self._flow.record_request(exchange.facts, ERROR, reason)
        self._stop()
        self._edge.reset()

    def _end(self, *, linger: bool) -> None:
        self._stop()
        self._edge.finish(linger=linger)

    def _stop(self) -> None:
        self._held = True
        self._over = True
        self._exchange = None
        self._up = None

    def _running(self) -> Exchange:
        if self._exchange is None:
            raise RuntimeError("no request is under way")
        return self._exchange

    def _moved(self, exchange: Exchange) -> None:
        if exchange.facts.recorded and not self._over:
            self._edge.set_timer(Timer.IDLE, self._flow.limits.idle_s)
