"""What rows ask is what policy tells people that they ask: `policies.kafka_questions`, which `tulle policy explain`
uses."""

import pytest

from parsers.kafka.frames import Request, decode_request, encode_request
from parsers.kafka.table import TABLE
from policies.kafka_questions import MAIN
from policies.requests import Operation, Resource
from proxy.kafka.apis import ROWS, judge
from tests.kafka_parity.draw import Draw
from tests.kafka_parity.world import World

DRAWS = 60
IDS = {bytes([each]) * 16: f"open-{each}" for each in range(1, 5)}

BESIDE = {
    "AddPartitionsToTxn": {(Operation.CLUSTER_ACTION, Resource.CLUSTER)},  # in versions that are the brokers'
    "StreamsGroupHeartbeat": {(Operation.CREATE, Resource.TOPIC)},  # for internal topics
    "FindCoordinator": {(Operation.CLUSTER_ACTION, Resource.CLUSTER)},  # of a share group's state
}
"""What a row asks in cases that are not what its API is for."""


class Yes:
    """Allows everything, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: set[tuple[Operation, Resource]] = set()

    def allows(self, operation: Operation, resource: Resource, name: str | None) -> bool:
        """See `Authorizer`."""
        if operation is not Operation.NOTHING:
            self.asked.add((operation, resource))
        return True

    def sees(self, operation: Operation, resource: Resource, name: str) -> bool:
        """See `Authorizer`."""
        return True

    def topic_name(self, topic_id: bytes) -> str | None:
        """See `Authorizer`."""
        return IDS.get(topic_id)


@pytest.mark.parametrize("key", sorted(ROWS), ids=lambda key: ROWS[key].name)
def test_rows_ask_what_policy_says_they_ask(key: int) -> None:
    draw = Draw(World(dict(IDS), {name: topic_id for topic_id, name in IDS.items()}, {}), key, harmless=False)
    request = TABLE.apis[key].request
    assert request is not None
    asked = Yes()
    for version in range(request.versions[0], request.versions[1] + 1):
        for _ in range(DRAWS):
            frame = encode_request(Request(key, version, 7, "c", draw.body(key, version)))
            judge(decode_request(frame), asked)
    alternatives = [{(ask.operation, ask.resource) for ask in step} for step in MAIN[key]]
    said = set().union(*alternatives)
    assert asked.asked - said <= BESIDE.get(ROWS[key].name, set())
    assert all(step & asked.asked for step in alternatives), f"never asked: {alternatives}"
