"""Produce requests that stream: `proxy.kafka.upload` reads them, this judges and moves them."""

import struct
from typing import Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import Incomplete
from parsers.kafka.frames import (
    HEAD_BYTES,
    begin_request,
    encode_response,
    framed,
)
from policies.engine import Permit
from proxy.events import Timer
from proxy.flow_event import RULE_PROTOCOL
from proxy.kafka.exchange import Exchange
from proxy.kafka.plan import Action, Plan
from proxy.kafka.questions import Questions
from proxy.kafka.requesting import Requesting
from proxy.kafka.state import (
    CLOSING,
    FULL,
    PRODUCE,
    SIZE,
)
from proxy.kafka.upload import Stage, Upload

UPLOAD_START: Final = 128 * 1024
"""The fields of a Produce request before its topics: two strings of 32 KiB at most, and tagged fields that are
refused."""
HEAD: Final = struct.Struct(">hhi")
"""API key, version and correlation id."""


class Uploading(Requesting):
    """The request side of a connection, requests included that are too big to wait for."""

    __slots__ = ()

    def _upload_begins(self, size: int) -> bool:
        """Look at a Produce request that is not whole yet; whether it streams from now on, one way or the other."""
        inbox, limits, upload = self._inbox, self._flow.limits, self._upload
        have = min(len(inbox), SIZE.size + size)
        try:
            if upload is None:
                request, at = begin_request(inbox.part(SIZE.size, min(have, UPLOAD_START)), "TopicData")
                if request.unknown_tags:
                    raise RemoteProtocolError("unknown_tag")
                upload = self._upload = Upload(request, size, at)
            upload.feed(inbox.part(SIZE.size + upload.fed, have))
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
            self._holds |= FULL
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
        data = self._inbox.take(SIZE.size + upload.fed)
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
            self._holds |= CLOSING
        if not silent and body is not None:
            ours.answer = framed(encode_response(PRODUCE, request.api_version, request.correlation_id, body))
            ours.cost = len(ours.answer)
            self._await(ours)
        self._drain_queue()

    def _refuse_upload(self, reason: str) -> None:
        """It cannot be read; where it went on in part, it is not finished."""
        upload = self._drop_upload()
        frame = self._inbox.head(SIZE.size + HEAD_BYTES)[SIZE.size :]
        if upload is not None:
            request = upload.request
            frame = HEAD.pack(request.api_key, request.api_version, request.correlation_id)
        self._first = False
        self._refuse_all(reason, RULE_PROTOCOL, frame)
