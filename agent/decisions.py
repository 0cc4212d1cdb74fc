"""Which rule gave the kernel's answer: its map has answers alone, the rule set has the rules that they come from."""

from collections.abc import Sequence

from policies.ruleset import OTHER_PROTOCOL, TCP, UDP, Answer, PolicyRef, RuleSet

DEFAULT_DENY = "default-deny"
NODE_PROBE = "tulle:node-probe"
"""Names what lets a probe of this node pass that no rule allows: a setting of the agent, no document."""


def deciding(
    rules: RuleSet, endpoint: int, direction: int, protocol: int, port: int, identity: int, reason: str
) -> tuple[str, Sequence[PolicyRef]]:
    """The rule behind an event of the kernel, and the documents that it is of; for a default, those that select the
    endpoint. The rules may have changed since: then it is told by the default."""
    known = rules.endpoints.get(endpoint)
    if known is None:
        return DEFAULT_DENY, ()
    part = known.direction(direction)
    kind = protocol if protocol in (TCP, UDP) else OTHER_PROTOCOL
    if reason == "node_probe":
        return NODE_PROBE, part.policies
    if reason == "fail_open":
        lines = [line for line in part.matching(kind, port, identity) if line.l7]
        lines.sort(key=lambda line: not line.fail_open)
        return (lines[0].name, (lines[0].policy,)) if lines else (DEFAULT_DENY, part.policies)
    verdict = part.connection(kind, port, identity)
    outcome = verdict.audited if reason == "would_deny" else verdict.enforced
    if outcome.answer is Answer.DENY and outcome.explicit and outcome.line is not None:
        return outcome.line.name, (outcome.line.policy,)
    return DEFAULT_DENY, part.policies
