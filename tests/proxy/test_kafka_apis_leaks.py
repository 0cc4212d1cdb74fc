"""Invariant: what goes on to a broker names no topic, group or transactional id that is denied, whatever is asked."""

import pytest

from parsers.kafka.entities import entities
from parsers.kafka.frames import Request, decode_request, encode_request
from parsers.kafka.table import TABLE
from policies.requests import Operation, Resource
from proxy.kafka.apis import ROWS, judge
from proxy.kafka.plan import Action
from tests.kafka_parity.draw import Draw
from tests.kafka_parity.world import World

DRAWS = 40
IDS = {bytes([each]) * 16: name for each, name in enumerate(("open-a", "open-b", "shut-a", "shut-b"), 1)}
CLOSED_IDS = [topic_id for topic_id, name in IDS.items() if "shut" in name]
ABOUT_OTHERS = {"CreateAcls", "DeleteAcls", "DescribeAcls"}
"""Names in these are about other principals' rights: for who may alter or describe the cluster."""
NOT_ASKED = {
    "Fetch": ("ForgottenTopicsData",),  # of a session, where only allowed topics are
    "ShareFetch": ("ForgottenTopicsData",),
    "ConsumerGroupHeartbeat": ("TopicPartitions",),  # what a member says it has; it is given what it subscribes to
    "DescribeTopicPartitions": ("Cursor",),  # where a page begins
    "DescribeQuorum": ("Topics",),  # a broker knows one topic here, its own log
}
"""Fields that name what nothing is asked of."""


class Open:
    """Allows what is called open, and the cluster if `cluster`."""

    def __init__(self, *, cluster: bool) -> None:
        self.cluster = cluster

    def allows(self, operation: Operation, resource: Resource, name: str | None) -> bool:
        """See `Authorizer`."""
        if resource is Resource.CLUSTER:
            return operation is Operation.NOTHING or (self.cluster and operation is not Operation.CLUSTER_ACTION)
        return name is None or "open" in name

    def sees(self, operation: Operation, resource: Resource, name: str) -> bool:
        """See `Authorizer`."""
        return self.allows(operation, resource, name)

    def topic_name(self, topic_id: bytes) -> str | None:
        """See `Authorizer`."""
        return IDS.get(topic_id)


@pytest.mark.parametrize("cluster", [False, True])
@pytest.mark.parametrize("key", sorted(ROWS), ids=lambda key: ROWS[key].name)
def test_nothing_that_is_denied_is_named_to_a_broker(key: int, cluster: bool) -> None:
    if cluster and ROWS[key].name in ABOUT_OTHERS:
        return
    draw = Draw(World(dict(IDS), {name: topic_id for topic_id, name in IDS.items()}, {}), key, harmless=False)
    request = TABLE.apis[key].request
    assert request is not None
    for version in range(request.versions[0], request.versions[1] + 1):
        for _ in range(DRAWS):
            asked = decode_request(encode_request(Request(key, version, 7, "c", draw.body(key, version))))
            plan = judge(asked, Open(cluster=cluster))
            if plan.action in (Action.ANSWER, Action.CLOSE):
                continue
            body = asked.body if plan.body is None else plan.body
            for field in NOT_ASKED.get(ROWS[key].name, ()):
                body = {**body, field: None}
            named = entities(Request(key, version if plan.version is None else plan.version, 7, "c", body))
            names = (*named.topics, *named.groups, *named.transactional_ids)
            assert not any("shut" in name for name in names), (asked.body, plan)
            assert not set(CLOSED_IDS) & set(named.topic_ids), (asked.body, plan)
