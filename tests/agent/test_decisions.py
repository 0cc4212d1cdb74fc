"""The rule behind an event of the kernel."""

import pytest

from agent.decisions import deciding
from policies.ruleset import (
    TCP,
    UDP,
    Direction,
    DirectionRules,
    EndpointRules,
    HttpRule,
    Line,
    PolicyRef,
    RuleSet,
)

ALLOW, DENY, WATCH, OPEN = (PolicyRef("CiliumNetworkPolicy", "default", name) for name in ("a", "d", "w", "o"))
LINES = (
    Line("default/a ingress[0].toPorts[0]", ALLOW, frozenset({300}), TCP, 80, 80),
    Line("default/d ingressDeny[0].toPorts[0]", DENY, frozenset({301}), UDP, 53, 53, deny=True),
    Line("default/w ingressDeny[0]", WATCH, frozenset({300}), TCP, 80, 80, deny=True, audit=True),
    Line("default/o ingress[0].toPorts[0]", OPEN, frozenset({302}), TCP, 80, 80, http=(HttpRule("x"),), fail_open=True),
)
EVERY = (ALLOW, DENY, OPEN, WATCH)
RULES = RuleSet(
    7,
    {
        4: EndpointRules(
            4, "default", "web", {}, DirectionRules(True, True, True, LINES, EVERY), DirectionRules(), identity=256
        )
    },
)


@pytest.mark.parametrize(
    ("protocol", "port", "identity", "reason", "wanted"),
    [
        (UDP, 53, 301, "denied", ("default/d ingressDeny[0].toPorts[0]", (DENY,))),
        (UDP, 53, 300, "no_rule", ("default-deny", EVERY)),
        (1, 0, 300, "no_rule", ("default-deny", EVERY)),
        (TCP, 80, 300, "would_deny", ("default/w ingressDeny[0]", (WATCH,))),
        (TCP, 80, 302, "fail_open", ("default/o ingress[0].toPorts[0]", (OPEN,))),
        (TCP, 81, 1, "node_probe", ("tulle:node-probe", EVERY)),
        (TCP, 80, 300, "no_rule", ("default-deny", EVERY)),  # refused before, allowed by now
        (TCP, 80, 0, "bound_device", ("default-deny", EVERY)),
    ],
)
def test_names_what_decided(
    protocol: int, port: int, identity: int, reason: str, wanted: tuple[str, tuple[PolicyRef, ...]]
) -> None:
    rule, policies = deciding(RULES, 4, Direction.INGRESS, protocol, port, identity, reason)
    assert (rule, tuple(policies)) == wanted


def test_an_endpoint_that_is_gone() -> None:
    assert deciding(RULES, 5, Direction.INGRESS, TCP, 80, 300, "no_rule") == ("default-deny", ())
