"""Whole requests: judged, recorded, and sent on, answered or refused.

INVARIANT: bytes go upstream only with the permit of a verdict on the request they belong to.
"""

from typing import Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import Incomplete, Tree
from parsers.kafka.frames import (
    HEAD_BYTES,
    Request,
    begin_request,
    decode_request,
    encode_request,
    encode_response,
    framed,
)
from parsers.kafka.table import TABLE
from policies.requests import Operation, Resource
from proxy.events import Timer
from proxy.flow_event import AUDIT, DROPPED, RULE_LIMIT, RULE_PROTOCOL, KafkaFacts
from proxy.kafka.answering import Answering
from proxy.kafka.answers import error_of
from proxy.kafka.apis import unknown_versions
from proxy.kafka.exchange import API_VERSIONS, Exchange
from proxy.kafka.fetch import FETCH, ReadPlan
from proxy.kafka.ids import ids_in, question, told_by
from proxy.kafka.plan import Action, Plan
from proxy.kafka.questions import ERRORS, Questions, TooMany
from proxy.kafka.share import SHARE_ACKNOWLEDGE, SHARE_FETCH
from proxy.kafka.state import (
    ASKING,
    CLOSING,
    METADATA,
    METADATA_WITH_IDS,
    PRODUCE,
    SIZE,
    seen_in,
)
from proxy.layers.opaque import OpaqueLayer

UNSUPPORTED_VERSION: Final = 35
ELEMENT_BYTES: Final = 110
"""That an object of a request takes while what edits its answer is kept."""
MAX_ASKED: Final = 1000
"""Topic ids of one request that the broker is asked about; the rest count as unknown, and are counted."""
TLS_HANDSHAKE: Final = 0x16


class Requesting(Answering):
    """The request side of a connection, as far as requests are whole."""

    __slots__ = ()

    def _request(self, raw: bytes, *, asked: bool) -> None:
        """One whole frame, its length included. asked: the broker was asked for its topic ids."""
        try:
            request = decode_request(raw[SIZE.size :])
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
            self._refuse_all("limit_kafka_questions", RULE_LIMIT, raw[SIZE.size :])
            return
        goes_on = plan.action is Action.PASS or plan.action is Action.EDIT
        if goes_on and questions.permit is None and not questions.allows(Operation.NOTHING, Resource.CLUSTER, ""):
            plan, goes_on = Plan(Action.CLOSE, reason="not_allowed"), False
        exchange = Exchange(key, request.api_version, request.correlation_id, request.client_id, facts)
        answers = key != PRODUCE or request.body["Acks"] != 0
        if plan.closes or plan.action is Action.CLOSE or not (goes_on or answers):
            self._holds |= CLOSING
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
            # a topic that is only tried out has an id that means nothing
            exchange.reads = key == API_VERSIONS or (told_by(key) and not request.body.get("validateOnly"))
            if plan.edit is not None:
                exchange.cost = _cost(request, raw)
                if key == PRODUCE:
                    _forget_records(request.body)
            self._await(exchange)
        else:
            self._silent = True
            self._moved()
        self._send(raw, questions.permit)

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
        self._holds |= ASKING
        self._await(exchange)
        self._send(framed(encode_request(ours)), verdict.permit)
        return True

    def _told(self, exchange: Exchange, raw: bytes) -> None:
        """The broker said what ids mean; the request that waits goes on. What it did not say is unknown for good."""
        self._read_answer(exchange, raw)
        asking, self._asking = self._asking, None
        self._pop()
        self._release(ASKING)
        if asking is not None:
            self._decide(*asking)
        elif self._upload is None:
            raise RuntimeError("an answer about topic ids that nobody waits for")

    def _not_kafka(self, start: bytes) -> bool:
        """Whether what a client began with is another protocol; then it is seen to."""
        if start[0] == TLS_HANDSHAKE:
            self._flow.counters["kafka_tls"] += 1
            if not self._pass_unparsed("tls_opaque", tls=True):
                self._refuse_all("tls_opaque", RULE_PROTOCOL)
            return True
        if len(start) < SIZE.size:
            return False
        (size,) = SIZE.unpack_from(start)
        if HEAD_BYTES <= size <= self._flow.limits.kafka_produce_bytes:
            api = start[SIZE.size : SIZE.size + 2]
            if not self._lenient or len(api) < 2 or int.from_bytes(api, signed=True) in TABLE.apis:
                return False
        if not self._pass_unparsed("not kafka"):
            self._refuse_all("not_kafka", RULE_PROTOCOL)
        return True

    def _bad_frame(self, start: bytes, size: int) -> None:
        if size > HEAD_BYTES:
            self._flow.counters["limit_kafka_frame"] += 1
            self._refuse_all("limit_kafka_frame", RULE_LIMIT, start[SIZE.size :])
        else:
            self._refuse_all("bad_frame_length", RULE_PROTOCOL, start[SIZE.size :])

    def _unreadable(self, raw: bytes, reason: str, request: Request | None = None) -> None:
        """A whole frame that cannot be read, or not whole: nothing of it goes on. request: as far as it could be."""
        flow = self._flow
        flow.engine()
        if self._first and self._pass_unparsed(f"not readable as kafka, {reason}", raw):
            return
        self._first = False
        seen = seen_in(raw[SIZE.size :])
        permit = flow.verdict_on_connection().permit if self._lenient else None
        exchange = Exchange(seen.api_key, seen.api_version, seen.correlation_id, None, flow.kafka_request())
        if permit is not None:  # mode audit never blocks
            flow.record_kafka(exchange.facts, seen, AUDIT, reason, RULE_PROTOCOL, flow.audit_policies())
            if seen.api_key == PRODUCE and _wants_no_answer(raw[SIZE.size :]):
                self._silent = True
            else:
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
            self._holds |= CLOSING
        flow.record_kafka(exchange.facts, seen, DROPPED, reason, RULE_PROTOCOL)
        self._drain_queue()

    def _refusal(self, seen: KafkaFacts, reason: str, request: Request | None) -> bytes | None:
        """Error 35 in the API's own shape; None where it has none that we know."""
        key, version, body = seen.api_key, seen.api_version, None
        if reason == "unknown_version" and key == API_VERSIONS:
            version, body = 0, unknown_versions()
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


def _cost(request: Request, raw: bytes) -> int:
    """Bytes that are kept with a request whose answer is edited, or that waits."""
    return len(raw) + request.elements * ELEMENT_BYTES


def _wants_no_answer(frame: bytes) -> bool:
    """Whether a Produce request that cannot be read whole says acks=0 before that."""
    try:
        request, _ = begin_request(frame, "TopicData")
    except (RemoteProtocolError, Incomplete):
        return False
    return bool(request.body["Acks"] == 0)


def _forget_records(body: Tree) -> None:
    """Let go of the frame: what edits the answer needs topics and partitions of the request, not its records."""
    for topic in body["TopicData"]:
        for partition in topic["PartitionData"]:
            partition["Records"] = None
