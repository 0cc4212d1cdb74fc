"""The kernel's look-ups over verdict_entries end as judge_peer does."""

from hypothesis import given

from policies.engine import Engine
from policies.kernel import TCP, VerdictKey, verdict_entries
from policies.ruleset import Answer, Direction, DirectionRules, EndpointRules, Line, PolicyRef, RuleSet
from tests.policies.rulesets import IDENTITIES, PORTS, endpoints
from tests.policies.world import ALLOW, DENY, INGRESS, PROXY

REF = PolicyRef("CiliumNetworkPolicy", "default", "p")
L4_ALL = Line("l4", REF, None, None)


def endpoint(ingress: DirectionRules) -> EndpointRules:
    return EndpointRules(1, "default", "web", {}, ingress, DirectionRules())


def kernel_answer(
    rules: EndpointRules, entries: dict[VerdictKey, Answer], direction: Direction, identity: int, port: int
) -> Answer:
    """What the programs do: flags, then (endpoint, identity), then (endpoint, any peer), each by longest prefix."""
    if not rules.direction(direction).enforced:
        return ALLOW
    for who in (identity, 0):
        for which in (port, 0):
            found = entries.get(VerdictKey(rules.id, who, direction, TCP, which))
            if found is not None:
                return found
    return DENY


@given(endpoints)
def test_look_ups_agree_with_judge_peer(rules: EndpointRules) -> None:
    entries = verdict_entries(rules)
    engine = Engine(RuleSet(1, {rules.id: rules}))
    for direction in Direction:
        for identity in (0, *IDENTITIES, 999):
            for port in (*PORTS, 9999):
                expected = engine.judge_peer(rules.id, direction, identity, port)
                assert kernel_answer(rules, entries, direction, identity, port) is expected


@given(endpoints)
def test_every_entry_is_needed(rules: EndpointRules) -> None:
    entries = verdict_entries(rules)
    for key in entries:
        rest = {other: answer for other, answer in entries.items() if other != key}
        ports = [key.port] if key.port else [*PORTS, 9999]
        who = [key.identity] if key.identity else [0, *IDENTITIES, 999]
        direction = Direction(key.direction)
        assert any(
            kernel_answer(rules, rest, direction, identity, port)
            is not kernel_answer(rules, entries, direction, identity, port)
            for identity in who
            for port in ports
        )


def test_a_direction_that_is_not_enforced_has_no_entries() -> None:
    assert verdict_entries(endpoint(DirectionRules(False, {80: (L4_ALL,)}, (L4_ALL,)))) == {}


def test_default_deny_has_no_entries() -> None:
    assert verdict_entries(endpoint(DirectionRules(True))) == {}


def test_general_rules_are_merged_into_specific_entries() -> None:
    named = Line("l7", REF, frozenset({256}), ())
    wide = Line("l3", REF, frozenset({256}), None)
    entries = verdict_entries(endpoint(DirectionRules(True, {80: (named,), 81: (L4_ALL,)}, ())))
    assert entries == {
        VerdictKey(1, 0, INGRESS, TCP, 81): ALLOW,
        VerdictKey(1, 256, INGRESS, TCP, 80): PROXY,
    }
    # L7 for one peer beside an L4 allow for all: the specific entry would end the look-up, so it holds the union
    entries = verdict_entries(endpoint(DirectionRules(True, {80: (named, L4_ALL)})))
    assert entries == {VerdictKey(1, 0, INGRESS, TCP, 80): ALLOW}
    # a peer that may use every port must not lose it to the more specific L7 entry
    entries = verdict_entries(endpoint(DirectionRules(True, {80: (named,)}, (wide,))))
    assert entries == {VerdictKey(1, 256, INGRESS, TCP, 0): ALLOW}
    # L7 for everybody on 80, every port for one: that peer's own entries come first and hold both
    l7_all = Line("l7", REF, None, ())
    entries = verdict_entries(endpoint(DirectionRules(True, {80: (l7_all,)}, (wide,))))
    assert entries == {VerdictKey(1, 0, INGRESS, TCP, 80): PROXY, VerdictKey(1, 256, INGRESS, TCP, 0): ALLOW}


def test_identity_zero_in_a_line_names_nobody() -> None:
    # entries for identity 0 mean "any peer": a line that names 0 must not become one
    line = Line("l", REF, frozenset({0}), None)
    rules = endpoint(DirectionRules(True, {80: (line,)}))
    assert verdict_entries(rules) == {}
    assert Engine(RuleSet(1, {1: rules})).judge_peer(1, INGRESS, 0, 80) is DENY
