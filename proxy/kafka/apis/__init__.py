"""What each API of Kafka asks of policy, what a denied client is told, and what is left out of answers.

One row per API key, after the authorizer of Kafka 4.3 (KafkaApis, ControllerApis), as if the pod were a principal whose
ACLs are the policy. docs/kafka.md has the same table in words; a test compares. An API without a row is refused.
"""

from typing import Final

from parsers.kafka.frames import Request
from policies.requests import Operation, Resource
from proxy.kafka.apis import cluster, fetch, groups, metadata, new_groups, topics, transactions
from proxy.kafka.apis.case import Case, Row
from proxy.kafka.apis.codes import Code
from proxy.kafka.apis.metadata import unknown_versions
from proxy.kafka.apis.shape import Shape, has_field
from proxy.kafka.plan import Action, Authorizer, Plan

__all__ = ["ROWS", "Code", "judge", "refuse", "unknown_versions"]

ROWS: Final[dict[int, Row]] = {
    **topics.ROWS,
    **metadata.ROWS,
    **groups.ROWS,
    **new_groups.ROWS,
    **transactions.ROWS,
    **cluster.ROWS,
    **fetch.ROWS,
}
"""By API key."""

_PRODUCE: Final = 0


def judge(request: Request, authorizer: Authorizer) -> Plan:
    """What becomes of a request. Topic ids in it that `authorizer` has no name for are unknown to the broker.

    Where the API asks for nothing, policy is asked once for no operation: so there is a record, and deny rules hold.
    """
    row = ROWS.get(request.api_key)
    if row is None:
        return Plan(Action.CLOSE, reason="unknown_api")
    case = Case(request, authorizer, row.shape)
    plan = row.judge(case)
    if not case.asked and not authorizer.allows(Operation.NOTHING, Resource.CLUSTER, ""):
        return refuse(request, Code.CLUSTER_AUTHORIZATION_FAILED)
    return plan


def refuse(request: Request, code: int) -> Plan:
    """One code for everything that a request names, in its API's own shape. Where that has no place for it, or nobody
    waits for an answer, the connection ends.

    request: its body may be empty, when it could not be read: then a code at the top of the answer is all there is.
    """
    row = ROWS.get(request.api_key)
    if row is None or (request.api_key == _PRODUCE and request.body.get("Acks") == 0):
        return Plan(Action.CLOSE, reason="refused")
    if not _tells(request, row.shape):
        return Plan(Action.CLOSE, reason="refused")
    return Plan(Action.ANSWER, answer=row.shape.refused(request.body, code))


def _tells(request: Request, shape: Shape) -> bool:
    """Whether an answer in this shape has a place for a code."""
    if shape.top and has_field(request.api_key, request.api_version, shape.top):
        return True
    return any(request.body.get(part.asked) for part in shape.parts)
