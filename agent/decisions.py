"""Which rule gave the kernel's answer: its map has answers alone, the rule set has the rules that they come from."""

from collections.abc import Sequence
from dataclasses import dataclass

from audit.record import AUDIT, DROPPED, FORWARDED
from policies.ruleset import OTHER_PROTOCOL, TCP, UDP, Answer, Outcome, PolicyRef, RuleSet

DEFAULT_DENY = "default-deny"
NODE_PROBE = "tulle:node-probe"
"""Names what lets a probe of this node pass that no rule allows: a setting of the agent, no document."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a record says of it."""

    verdict: str
    rule: str
    policies: Sequence[PolicyRef]


def decide(
    rules: RuleSet, endpoint: int, direction: int, protocol: int, port: int, identity: int, reason: str
) -> Decision:
    """The decision behind an event of the kernel. The rules may have changed since: then it is told by the default."""
    known = rules.endpoints.get(endpoint)
    if known is None:
        return Decision(_verdict(reason), DEFAULT_DENY, ())
    part = known.direction(direction)
    kind = protocol if protocol in (TCP, UDP) else OTHER_PROTOCOL
    if reason == "node_probe":
        return Decision(FORWARDED, NODE_PROBE, part.policies)
    if reason == "fail_open":
        lines = part.matching(kind, port, identity)
        judging = [line for line in lines if line.l7 and line.fail_open] or [line for line in lines if line.l7]
        if judging:
            return Decision(FORWARDED, judging[0].name, (judging[0].policy,))
        return Decision(FORWARDED, DEFAULT_DENY, part.policies)
    verdict = part.connection(kind, port, identity)
    return _of(verdict.audited if reason == "would_deny" else verdict.enforced, _verdict(reason), part.policies)


def _of(outcome: Outcome, verdict: str, policies: Sequence[PolicyRef]) -> Decision:
    if outcome.answer is Answer.DENY and outcome.explicit and outcome.line is not None:
        return Decision(verdict, outcome.line.name, (outcome.line.policy,))
    return Decision(verdict, DEFAULT_DENY, policies)


def _verdict(reason: str) -> str:
    if reason == "would_deny":
        return AUDIT
    return FORWARDED if reason in ("node_probe", "fail_open") else DROPPED
