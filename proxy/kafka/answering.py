"""Answers of the broker: each to the first exchange of the queue, narrowed where it must be, else as it came."""

import contextlib
from typing import Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import Incomplete, Tree
from parsers.kafka.frames import (
    begin_response,
    decode_response,
    encode_response,
    framed,
)
from parsers.kafka.table import TABLE
from proxy.kafka.answers import inserted, quick_error
from proxy.kafka.exchange import API_VERSIONS, Exchange
from proxy.kafka.fetch import FETCH
from proxy.kafka.ids import pairs_in, told_by
from proxy.kafka.state import (
    METADATA,
    OVER,
    PRODUCE,
    SIZE,
    START,
    State,
)

READ_FOR_RECORD: Final = 16 * 1024
"""Answers up to this size are read for the error that the record tells."""
ANSWER_START: Final = 4096
"""The first fields of an answer that streams; tagged fields of its header may stand before them."""


class Answering(State):
    """The answer side of a connection."""

    __slots__ = ()

    def _take_answer(self) -> bool:
        """Take one answer, or the start of one that streams; False where there is nothing to take."""
        outbox, limits = self._outbox, self._flow.limits
        have = len(outbox)
        if self._holds & OVER or not have:
            return False
        if not self._pending:
            self._flow.counters["upstream_unsolicited"] += 1
            self._broke("upstream_unsolicited")
            return False
        if have < START.size:
            return False
        exchange = self._pending[0]
        if exchange is self._exchange:
            self._broke("answer_before_request")
            return False
        size, correlation_id = START.unpack(outbox.head(START.size))
        if size < SIZE.size or correlation_id != exchange.correlation_id:
            self._broke("bad_length" if size < SIZE.size else "wrong_correlation_id")
            return False
        exchange.size = SIZE.size + size
        if have >= SIZE.size + size and (exchange.whole or exchange.insert is None):
            self._whole_answer(exchange, outbox.take(SIZE.size + size))
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
                error, _ = self._first_fields(exchange, raw[SIZE.size : ANSWER_START])
        self._edge.pass_downstream(raw)
        if exchange.records and body is None and len(raw) <= READ_FOR_RECORD:
            frame = raw[SIZE.size :]
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
            if len(start) >= ANSWER_START - SIZE.size:
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
        response = decode_response(key, exchange.sent_version, raw[SIZE.size :])
        version, body = response.api_version, response.body
        if key == API_VERSIONS:
            for api in body["ApiKeys"]:
                if api["ApiKey"] == METADATA:
                    ours = TABLE.apis[METADATA].request
                    newest = ours.versions[1] if ours is not None else 0
                    self._metadata_version = min(api["MaxVersion"], newest)
        elif (exchange.reads or exchange.asked) and told_by(key):
            self._shared.ids.learn(self._place, pairs_in(key, body))
        return version, body

    def _begin_answer(self, exchange: Exchange, size: int) -> bool:
        """Send on the start of an answer; the rest follows as it comes."""
        outbox, edge = self._outbox, self._edge
        error: int | None = None
        left = SIZE.size + size
        insert = exchange.insert
        if exchange.watch is not None or insert is not None:
            start = outbox.head(min(left, ANSWER_START))[SIZE.size :]
            try:
                error, at = self._first_fields(exchange, start)
                if insert is not None:
                    head, used = inserted(exchange.api_key, exchange.sent_version, size, start, at, insert)
                    outbox.take(SIZE.size + used)
                    left -= SIZE.size + used
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
        if self._draining and not busy and not self._holds & OVER:
            self._end(linger=False)

    def _told(self, exchange: Exchange, raw: bytes) -> None:
        """The answer to a question of ours came."""
        raise NotImplementedError
