"""Properties of whole policy sets: order, union, and what a further document can do."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from policies.compile import compile_policies
from policies.ruleset import Answer, Direction
from policies.wire import decode, encode
from tests.policies.rulesets import rule_text, rules, specs
from tests.policies.world import PODS, World, documents, policy

PEERS = (None, *PODS)
LINES = ("GET /a", "POST /b/c", "DELETE /")


def answers(world: World) -> dict[tuple[str, str | None, int, Direction], tuple[Answer, tuple[bool, ...]]]:
    """Everything the small world can be asked."""
    found = {}
    for to, peer, port, direction in product(PODS, PEERS, (80, 81, 443), Direction):
        allowed = tuple(world.ask(peer, line, to, port, direction).allow for line in LINES)
        found[to, peer, port, direction] = (world.connect(peer, to, port, direction), allowed)
    return found


def texts(specs: list[str]) -> list[str]:
    return [policy(spec, f"p{i}") for i, spec in enumerate(specs)]


@given(st.lists(specs(), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_order_of_files_never_matters(found: list[str], random: object) -> None:
    files = texts(found)
    shuffled = list(files)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types its Random as an object
    one, other = World(*files), World(*shuffled)
    assert one.policies == other.policies
    assert one.rules == other.rules


@given(st.lists(rules(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_order_of_rules_never_matters(found: list[tuple[str | None, str | None]], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types its Random as an object
    one, other = (
        World(policy(f"endpointSelector: {{}}\ningress: [{', '.join(rule_text(r, 'fromEndpoints') for r in each)}]"))
        for each in (found, shuffled)
    )
    assert answers(one) == answers(other)


@given(st.lists(specs(), min_size=1, max_size=2), rules())
def test_adding_a_rule_never_denies(found: list[str], rule: tuple[str | None, str | None]) -> None:
    """Beside rules that select the same endpoints already: what was allowed stays allowed."""
    selecting = "endpointSelector: {}\ningress: [{}]"
    before = World(*texts([*found, selecting]))
    after = World(*texts([*found, selecting.replace("[{}]", f"[{{}}, {rule_text(rule, 'fromEndpoints')}]")]))
    now = answers(after)
    for place, (answer, allowed) in answers(before).items():
        if answer is not Answer.DENY:
            assert now[place][0] is not Answer.DENY
        assert all(new or not old for old, new in zip(allowed, now[place][1], strict=True))


@given(specs(), specs())
def test_two_documents_are_the_union_where_both_select(one: str, other: str) -> None:
    first, second, both = World(*texts([one])), World(*texts([other])), World(*texts([one, other]))
    union = answers(both)
    a, b = answers(first), answers(second)
    for place in union:
        to, _, _, direction = place
        selecting = [
            found
            for world, found in ((first, a), (second, b))
            if any(r.name == to.split("/")[-1] and r.direction(direction).enforced and r.namespace == PODS[to].namespace
                   for r in world.rules.endpoints.values())
        ]  # fmt: skip
        parts = selecting or [a, b]
        allowed = tuple(any(part[place][1][i] for part in parts) for i in range(len(LINES)))
        assert union[place][1] == allowed
        assert (union[place][0] is Answer.DENY) == all(part[place][0] is Answer.DENY for part in parts)


@given(specs())
def test_connection_and_request_never_contradict(spec: str) -> None:
    """A refused connection has no allowed request, an unproxied one no denied request, a verdict always its names."""
    world = World(policy(spec))
    for (to, peer, port, direction), (answer, allowed) in answers(world).items():
        assert {Answer.DENY: not any(allowed), Answer.ALLOW: all(allowed), Answer.PROXY: True}[answer]
        verdict = world.ask(peer, "GET /a", to, port, direction)
        assert (verdict.permit is not None) is verdict.allow
        assert verdict.rule
        assert verdict.reason


@given(st.lists(specs(), max_size=2))
def test_a_rule_set_survives_the_wire(found: list[str]) -> None:
    world = World(*texts(found))
    assert decode(encode(world.rules)) == world.rules


@given(st.lists(specs(), min_size=1, max_size=2))
def test_the_digest_is_of_what_is_said(found: list[str]) -> None:
    files = texts(found)
    plain = compile_policies(documents(*files))
    assert compile_policies(documents(*(f"# a comment\n{text}" for text in reversed(files)))).digest == plain.digest
    assert (
        compile_policies(documents(*files, policy("endpointSelector: {}\ningress: [{}]", "z"))).digest != plain.digest
    )
