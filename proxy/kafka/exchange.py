"""One answer that a client of Kafka waits for, and the records that wait for it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from parsers.kafka.codec import Tree
from policies.engine import Verdict
from proxy.flow import Flow, KafkaRequestFacts
from proxy.flow_event import AUDIT, ERROR, FORWARDED, KafkaFacts
from proxy.kafka.answers import Insert, error_of
from proxy.kafka.fetch import Watch

API_VERSIONS: Final = 18


class Exchange:
    """A request whose answer is due, or one of ours whose answer nobody gets.

    answer: ours, framed, waiting for the answers before it; None where the broker's is awaited. sent_version: in which
    it was sent to the broker. edit, insert, watch: as in `Plan` and `ReadPlan`. reads: the answer is read although it
    goes on as it came. asked: it is a question of ours. records: questions with their verdicts whose records wait for
    the answer. ids: names of topic ids in it. cost: bytes that are kept until then. told: `watch` knows of the answer.
    size: bytes of the answer.
    """

    __slots__ = (
        "answer",
        "api_key",
        "asked",
        "client_id",
        "correlation_id",
        "cost",
        "edit",
        "facts",
        "ids",
        "insert",
        "reads",
        "records",
        "sent_version",
        "size",
        "told",
        "version",
        "watch",
    )

    def __init__(
        self, api_key: int, version: int, correlation_id: int, client_id: str | None, facts: KafkaRequestFacts
    ) -> None:
        self.api_key = api_key
        self.version = version
        self.correlation_id = correlation_id
        self.client_id = client_id
        self.facts = facts
        self.sent_version = version
        self.answer: bytes | None = None
        self.edit: Callable[[Tree], Tree] | None = None
        self.insert: Insert | None = None
        self.watch: Watch | None = None
        self.reads = False
        self.asked = False
        self.records: list[tuple[KafkaFacts, Verdict]] = []
        self.ids: Mapping[bytes, str] = {}
        self.cost = 0
        self.told = False
        self.size = 0

    @property
    def only_reads(self) -> bool:
        """Whether the answer is read for what it tells, and goes on as it came."""
        return self.reads and self.edit is None and not self.asked and self.sent_version == self.version

    @property
    def whole(self) -> bool:
        """Whether the answer has to be read whole before any of it goes on."""
        return self.edit is not None or self.reads or self.asked or self.sent_version != self.version

    def record(self, flow: Flow, error: int | None = None, *, body: Tree | None = None, failure: str = "") -> None:
        """Write the records that wait. error: that the answer tells, None where it is not known; body: the answer,
        where it was read. failure: a code of `[a-z_]+` where there will be no answer."""
        request = self.facts
        for facts, verdict in self.records:
            if request.recorded:
                facts = replace(facts)
            facts.error_code = error if body is None else error_of(body, facts.resource, facts.name, self.ids)
            word = AUDIT if verdict.audited else FORWARDED
            flow.record_kafka(
                request, facts, ERROR if failure else word, failure or verdict.reason, verdict.rule, verdict.policies
            )
        request.recorded = True
