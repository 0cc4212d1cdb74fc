"""The kernel's look-ups over verdict_entries end as DirectionRules.connection does, and as the engine does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.engine import Engine
from policies.kernel import AUDIT, EXPLICIT, FAIL_OPEN, NO_HIT, PROTOCOLS, Value, VerdictKey, verdict_entries
from policies.ruleset import (
    ANY_PROTOCOL,
    MAX_PORT,
    OTHER_PROTOCOL,
    TCP,
    UDP,
    Answer,
    Direction,
    DirectionRules,
    EndpointRules,
    Line,
    RuleSet,
)
from tests.policies.documents import fewer, texts_of_documents
from tests.policies.rulesets import RANGES, REF, endpoints
from tests.policies.world import ALLOW, DENY, INGRESS, PROXY, World

L4_ALL = Line("l4", REF, None)
PEERS = (0, 9, 256, 257, 999)
PASS: Value = (int(ALLOW), 0)


def endpoint(ingress: DirectionRules) -> EndpointRules:
    return EndpointRules(1, "default", "web", {}, ingress, DirectionRules())


def denying(*lines: Line) -> DirectionRules:
    return DirectionRules(True, True, True, lines)


def looked_up(
    rules: EndpointRules,
    entries: dict[VerdictKey, Value],
    direction: Direction,
    identity: int,
    protocol: int,
    port: int,
) -> Value:
    """What the programs do: the endpoint's flags, then its peer's entries, then any peer's, each by longest prefix."""
    if not rules.direction(direction).enforced:
        return PASS
    for who in (identity, 0):
        for bits in range(16, -1, -1):
            masked = port >> (16 - bits) << (16 - bits)
            found = entries.get(VerdictKey(rules.id, who, int(direction), protocol, masked, bits))
            if found is not None:
                return found
    return NO_HIT


def expected(rules: DirectionRules, protocol: int, port: int, identity: int) -> Value:
    """From the verdict on the connection, without `policies.kernel`."""
    verdict = rules.connection(protocol, port, identity)
    flags = AUDIT if verdict.answer is not DENY and verdict.audited.answer is DENY else 0
    flags |= FAIL_OPEN if verdict.fail_open else 0
    flags |= EXPLICIT if verdict.enforced.answer is DENY and verdict.enforced.explicit else 0
    return int(verdict.answer), flags


def edges(rules: EndpointRules) -> list[int]:
    """Ports where anything can change, and their neighbours."""
    ends = {0, 1, 79, 80, 81, 82, 443, 8080, MAX_PORT}
    for direction in Direction:
        for line in rules.direction(direction).lines:
            ends |= {line.first - 1, line.first, line.last, line.last + 1, (line.first + line.last) // 2}
    return sorted(port for port in ends if 0 <= port <= MAX_PORT)


@fewer
@given(endpoints)
def test_look_ups_agree_with_judge_peer(rules: EndpointRules) -> None:
    entries = verdict_entries(rules)
    engine = Engine(RuleSet(1, {rules.id: rules}))
    for direction in Direction:
        for identity in PEERS:
            for port in (80, 81, 443, 9999):
                answer = engine.judge_peer(rules.id, direction, identity, port)
                assert looked_up(rules, entries, direction, identity, TCP, port)[0] == answer


@fewer
@given(endpoints)
def test_look_ups_agree_at_the_ends_of_ranges(rules: EndpointRules) -> None:
    entries = verdict_entries(rules)
    for direction in Direction:
        part = rules.direction(direction)
        for identity in PEERS:
            for protocol in PROTOCOLS:
                for port in edges(rules):
                    wanted = expected(part, protocol, port, identity)
                    assert looked_up(rules, entries, direction, identity, protocol, port) == wanted


@given(st.integers(0, MAX_PORT), st.integers(0, MAX_PORT), st.sampled_from(RANGES), st.booleans())
def test_any_range_and_a_denial_inside_it(one: int, other: int, inner: tuple[int, int], named: bool) -> None:
    peers = frozenset({256}) if named else None
    allow = Line("allow", REF, None, TCP, min(one, other), max(one, other))
    deny = Line("deny", REF, peers, TCP, *inner, deny=True)
    rules = endpoint(denying(allow, deny))
    entries = verdict_entries(rules)
    assert len(entries) <= 120  # a range is at most 30 prefixes
    for identity in (0, 256, 257):
        for port in edges(rules):
            got = looked_up(rules, entries, INGRESS, identity, TCP, port)
            assert got == expected(rules.ingress, TCP, port, identity)


@fewer
@given(texts_of_documents())
def test_look_ups_agree_for_documents(texts: list[str]) -> None:
    world = World(*texts)
    for rules in world.rules.endpoints.values():
        entries = verdict_entries(rules)
        for direction in Direction:
            for identity in (0, *world.rules.identities):
                for protocol in PROTOCOLS:
                    for port in (0, 53, 79, 80, 81, 82, 8000, 8080, 8081, MAX_PORT):
                        wanted = expected(rules.direction(direction), protocol, port, identity)
                        assert looked_up(rules, entries, direction, identity, protocol, port) == wanted


@fewer
@given(endpoints)
def test_every_entry_is_needed(rules: EndpointRules) -> None:
    entries = verdict_entries(rules)
    for key, value in entries.items():
        rest = {other: answer for other, answer in entries.items() if other != key}
        first, last = key.port, key.port + (1 << (16 - key.bits)) - 1
        ports = [port for port in {*edges(rules), first, last} if first <= port <= last]
        who = [key.identity] if key.identity else PEERS
        direction = Direction(key.direction)
        assert any(
            looked_up(rules, rest, direction, identity, key.protocol, port)
            != looked_up(rules, entries, direction, identity, key.protocol, port)
            for identity in who
            for port in ports
        ), (key, value)


def test_a_direction_that_is_not_enforced_has_no_entries() -> None:
    assert verdict_entries(endpoint(DirectionRules(False, lines=(L4_ALL,)))) == {}


def test_default_deny_has_no_entries() -> None:
    assert verdict_entries(endpoint(denying())) == {}


def test_no_default_deny_lets_pass_what_no_line_speaks_of() -> None:
    entries = verdict_entries(endpoint(DirectionRules(True)))
    assert entries == {VerdictKey(1, 0, INGRESS, protocol, 0, 0): PASS for protocol in (TCP, UDP, OTHER_PROTOCOL)}


def test_a_line_for_every_protocol_is_an_entry_for_each() -> None:
    entries = verdict_entries(endpoint(denying(Line("l3", REF, frozenset({256}), ANY_PROTOCOL))))
    assert entries == {VerdictKey(1, 256, INGRESS, protocol, 0, 0): PASS for protocol in (TCP, UDP, OTHER_PROTOCOL)}


def test_general_rules_are_merged_into_specific_entries() -> None:
    named = Line("l7", REF, frozenset({256}), TCP, 80, 80, http=())
    all80 = Line("l4", REF, None, TCP, 80, 80)
    all81 = Line("l4", REF, None, TCP, 81, 81)
    wide = Line("l3", REF, frozenset({256}), TCP)
    proxy: Value = (int(PROXY), 0)
    assert verdict_entries(endpoint(denying(named, all81))) == {
        VerdictKey(1, 0, INGRESS, TCP, 81, 16): PASS,
        VerdictKey(1, 256, INGRESS, TCP, 80, 16): proxy,
    }
    # L7 for one peer beside an L4 allow for all: the specific entry would end the look-up, so it holds the union
    assert verdict_entries(endpoint(denying(named, all80))) == {VerdictKey(1, 0, INGRESS, TCP, 80, 16): PASS}
    # a peer that may use every port must not lose it to the more specific L7 entry
    assert verdict_entries(endpoint(denying(named, wide))) == {VerdictKey(1, 256, INGRESS, TCP, 0, 0): PASS}
    # L7 for everybody on 80, every port for one: that peer's own entries come first and hold both
    l7_all = Line("l7", REF, None, TCP, 80, 80, http=())
    assert verdict_entries(endpoint(denying(l7_all, wide))) == {
        VerdictKey(1, 0, INGRESS, TCP, 80, 16): proxy,
        VerdictKey(1, 256, INGRESS, TCP, 0, 0): PASS,
    }


def test_flags_say_what_the_kernel_cannot_know() -> None:
    denial = Line("deny", REF, frozenset({256}), TCP, 80, 80, deny=True)
    watched = Line("watched", REF, frozenset({257}), TCP, 80, 80, deny=True, audit=True)
    judged = Line("judged", REF, frozenset({258}), TCP, 80, 80, http=(), fail_open=True)
    allow = Line("allow", REF, frozenset({256, 257}), TCP, 80, 80)
    entries = verdict_entries(endpoint(denying(denial, watched, judged, allow)))
    assert entries == {
        VerdictKey(1, 256, INGRESS, TCP, 80, 16): (int(DENY), EXPLICIT),
        VerdictKey(1, 257, INGRESS, TCP, 80, 16): (int(ALLOW), AUDIT),
        VerdictKey(1, 258, INGRESS, TCP, 80, 16): (int(PROXY), FAIL_OPEN),
    }


@pytest.mark.parametrize(
    ("first", "last", "prefixes"),
    [
        (0, MAX_PORT, [(0, 0)]),
        (80, 80, [(80, 16)]),
        (80, 81, [(80, 15)]),
        (81, 82, [(81, 16), (82, 16)]),
        (1024, MAX_PORT, [(0, 0), (0, 6)]),  # all but what is below
        (0, 32767, [(0, 1)]),
        (MAX_PORT, MAX_PORT, [(MAX_PORT, 16)]),
        (30000, 30007, [(30000, 13)]),
    ],
)
def test_ranges_are_a_few_prefixes(first: int, last: int, prefixes: list[tuple[int, int]]) -> None:
    entries = verdict_entries(endpoint(denying(Line("l", REF, None, UDP, first, last))))
    assert sorted((key.port, key.bits) for key in entries) == sorted(prefixes)
    assert {key.protocol for key in entries} == {UDP}


def test_identity_zero_in_a_line_names_nobody() -> None:
    # entries for identity 0 mean "any peer": a line that names 0 must not become one
    rules = endpoint(denying(Line("l", REF, frozenset({0}), TCP, 80, 80)))
    assert verdict_entries(rules) == {}
    assert Engine(RuleSet(1, {1: rules})).judge_peer(1, INGRESS, 0, 80) is Answer.DENY
