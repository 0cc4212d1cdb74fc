"""Properties of whole policy sets: order, union, denials, modes, and what a document says however it is written."""

import random
from itertools import product

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from policies.compile import compile_policies
from policies.ruleset import TCP, UDP, Answer, Direction
from policies.wire import decode, encode
from tests.policies.documents import Body, Maker, bodies, dumped, dumped_json, fewer, makers
from tests.policies.world import ICMP, PODS, World, documents, policy

PEERS = ("frontend", "other/frontend", "node-c", "203.0.113.10", None)
ENDPOINTS = ("web", "other/web")
PLACES = ((TCP, 80), (TCP, 8080), (UDP, 53), (ICMP, 0))
LINES = ("GET /a", "POST /b/1?k=v", "DELETE /")

type Place = tuple[str, str | None, int, int, Direction]
type Found = dict[Place, tuple[Answer, tuple[bool, ...]]]


def answers(world: World) -> Found:
    """What this part of the small world can be asked: connections, and requests over TCP."""
    found: Found = {}
    for to, peer, (protocol, port), direction in product(ENDPOINTS, PEERS, PLACES, Direction):
        asked: tuple[bool, ...] = ()
        if protocol == TCP:
            asked = tuple(world.ask(peer, line, to, port, direction).allow for line in LINES)
        found[to, peer, protocol, port, direction] = (world.connect(peer, to, port, direction, protocol), asked)
    return found


def allows_no_more(after: Found, before: Found) -> None:
    """Whatever is allowed after was so before."""
    for place, (answer, asked) in after.items():
        assert all(old or not new for old, new in zip(before[place][1], asked, strict=True))
        if place[2] != TCP:
            assert before[place][0] is not Answer.DENY or answer is Answer.DENY


def world_of(found: list[Body]) -> World:
    return World(*map(dumped_json, found))


def touching(direction: str, **rules: list[Body]) -> Body:
    """A document that touches one direction of every pod of the cluster, and says this beside."""
    spec: Body = {"endpointSelector": {}, direction: [{}]}
    spec[direction] += rules.pop("allow", [])
    spec |= rules
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "touching"},
        "spec": spec,
    }


@fewer
@given(bodies(), st.randoms(use_true_random=False))
def test_order_of_files_never_matters(found: list[Body], chance: random.Random) -> None:
    files = list(map(dumped_json, found))
    shuffled = list(files)
    chance.shuffle(shuffled)
    one, other = World(*files), World(*shuffled)
    together = World("---\n".join(map(dumped, reversed(found))))
    assert one.policies == other.policies == together.policies
    assert one.rules == other.rules == together.rules


@fewer
@given(bodies(most=2), st.randoms(use_true_random=False))
def test_order_of_rules_never_matters(found: list[Body], chance: random.Random) -> None:
    def shuffled(value: object) -> object:
        """Every list in another order; none of them has one that means anything."""
        if isinstance(value, dict):
            return {key: shuffled(part) for key, part in value.items()}
        if isinstance(value, list):
            return chance.sample([shuffled(part) for part in value], len(value))
        return value

    other = [{**body, "spec": shuffled(body["spec"])} for body in found]
    assert answers(world_of(found)) == answers(world_of(other))


@fewer
@given(bodies(l7="http", most=2), makers(), st.sampled_from(["ingress", "egress"]))
def test_adding_a_rule_never_denies(found: list[Body], maker: Maker, direction: str) -> None:
    """Beside rules that select the same endpoints already: what was allowed stays allowed."""
    rule = maker.rule(direction, "http", tulle=False)
    before = answers(world_of([*found, touching(direction)]))
    after = answers(world_of([*found, touching(direction, allow=[rule])]))
    allows_no_more(before, after)
    assert all(after[place][0] is not Answer.DENY for place, (old, _) in before.items() if old is not Answer.DENY)


@fewer
@given(bodies(most=2), makers(), st.sampled_from(["ingress", "egress"]))
def test_adding_a_deny_never_allows(found: list[Body], maker: Maker, direction: str) -> None:
    before = answers(world_of([*found, touching(direction)]))
    after = answers(world_of([*found, touching(direction, **{f"{direction}Deny": [maker.deny_rule(direction)]})]))
    allows_no_more(after, before)
    assert all(after[place][0] is Answer.DENY for place, (old, _) in before.items() if old is Answer.DENY)


@fewer
@given(bodies(l7="http", most=2), makers())
def test_adding_an_l7_deny_never_allows(found: list[Body], maker: Maker) -> None:
    def beside(*more: Body) -> Body:
        rules = {"http": [{"method": "GET", "pathExact": "/a", "action": "Deny"}, *more]}
        entry = {"ports": [{"port": "80", "protocol": "TCP"}], "rules": rules}
        metadata = {"name": "denials", "namespace": "default"}
        spec = {"endpointSelector": {}, "ingress": [{"toPorts": [entry]}]}
        return {"apiVersion": "tulle.dev/v1", "kind": "TulleNetworkPolicy", "metadata": metadata, "spec": spec}

    rule = {**maker.http_rule(tulle=True, denials=False), "action": "Deny"}
    rule.pop("headerMatches", None)
    before, after = answers(world_of([*found, beside()])), answers(world_of([*found, beside(rule)]))
    allows_no_more(after, before)
    # and what it denies depends on nothing else
    for (to, peer, protocol, port, direction), (_, asked) in after.items():
        if (to, protocol, port, direction) == ("web", TCP, 80, Direction.INGRESS):
            assert not asked[0], peer


def in_mode(body: Body, mode: str) -> Body:
    metadata = {**body["metadata"], "annotations": {"tulle.dev/mode": mode}}
    return {**body, "metadata": metadata}


@fewer
@given(bodies(), bodies(least=0, most=2))
def test_audit_mode_never_blocks(watching: list[Body], enforcing: list[Body]) -> None:
    """Alone it denies nothing, beside others it changes nothing."""
    for body in enforcing:
        body["metadata"]["name"] += "-e"
    enforcing = [in_mode(body, "enforce") for body in enforcing]
    watching = [in_mode(body, "audit") for body in watching]
    for (to, peer, protocol, port, direction), (answer, asked) in answers(alone := world_of(watching)).items():
        assert answer is not Answer.DENY
        assert all(asked)
        if answer is Answer.PROXY:
            assert alone.connection(peer, to, port, direction, protocol).fail_open
    before, after = answers(world_of(enforcing)), answers(world_of([*enforcing, *watching]))
    for place, (answer, asked) in before.items():
        assert after[place][1] == asked
        assert (after[place][0] is Answer.DENY) == (answer is Answer.DENY)


@fewer
@given(bodies(), bodies(least=0, most=1))
def test_what_audit_tells_is_what_enforcing_would_do(watching: list[Body], enforcing: list[Body]) -> None:
    for body in enforcing:
        body["metadata"]["name"] += "-e"
    enforcing = [in_mode(body, "enforce") for body in enforcing]
    told = world_of([*enforcing, *(in_mode(body, "audit") for body in watching)])
    done = world_of([*enforcing, *(in_mode(body, "enforce") for body in watching)])
    for to, peer, (protocol, port), direction in product(ENDPOINTS, PEERS, PLACES, Direction):
        verdict = told.connection(peer, to, port, direction, protocol)
        if verdict.answer is not Answer.DENY:
            denied = done.connect(peer, to, port, direction, protocol) is Answer.DENY
            assert verdict.would_deny is denied
        if protocol != TCP:
            continue
        for line in LINES:
            now, then = (world.ask(peer, line, to, port, direction) for world in (told, done))
            if now.allow:
                assert now.audited is not then.allow
                if now.audited:
                    assert (now.rule, now.policies) == (then.rule, then.policies)


@fewer
@given(bodies(most=1, l7="http"), bodies(most=1, l7="http"))
def test_two_documents_are_the_union_where_both_select(one: list[Body], other: list[Body]) -> None:
    """For documents without denials that ask for default deny."""
    for found, name in ((one, "one"), (other, "other")):
        found[0] = in_mode(found[0], "enforce")
        found[0]["metadata"]["name"] = name
        for part in ("ingressDeny", "egressDeny", "enableDefaultDeny"):
            found[0]["spec"].pop(part, None)
        denials = '"action": "Deny"'
        found[0] = msgspec.json.decode(dumped_json(found[0]).replace(denials, '"action": "Allow"'))
        if not found[0]["spec"].keys() & {"ingress", "egress"}:
            found[0]["spec"]["ingress"] = [{}]
    worlds = world_of(one), world_of(other)
    parts = [(world, answers(world)) for world in worlds]
    for place, (answer, asked) in answers(world_of([*one, *other])).items():
        to, _, _, _, direction = place
        selecting = [
            found
            for world, found in parts
            if world.rules.endpoints[PODS[to].endpoint_id or 0].direction(direction).enforced
        ] or [found for _, found in parts]
        assert asked == tuple(any(each) for each in zip(*(found[place][1] for found in selecting), strict=True))
        assert (answer is Answer.DENY) == all(found[place][0] is Answer.DENY for found in selecting)


@fewer
@given(bodies())
def test_connection_and_request_never_contradict(found: list[Body]) -> None:
    """A refused connection has no allowed request, an unproxied one no denied request, a verdict always its names."""
    world = world_of(found)
    for (to, peer, protocol, port, direction), (answer, allowed) in answers(world).items():
        if protocol != TCP:
            assert answer is not Answer.PROXY
            continue
        assert {Answer.DENY: not any(allowed), Answer.ALLOW: all(allowed), Answer.PROXY: True}[answer]
        verdict = world.ask(peer, "GET /a", to, port, direction)
        assert (verdict.permit is not None) is verdict.allow
        assert verdict.rule
        assert verdict.reason


@fewer
@given(bodies(least=0))
def test_a_rule_set_survives_the_wire(found: list[Body]) -> None:
    world = world_of(found)
    assert decode(encode(world.rules)) == world.rules


@fewer
@given(bodies(most=2))
def test_the_digest_is_of_what_is_said(found: list[Body]) -> None:
    files = list(map(dumped, found))
    plain = compile_policies(documents(*files))
    assert compile_policies(documents(*(f"# a comment\n{text}" for text in reversed(files)))).digest == plain.digest
    more = policy("endpointSelector: {}\ningress: [{}]", "z")
    assert compile_policies(documents(*files, more)).digest != plain.digest


@fewer
@given(bodies())
def test_what_is_read_and_written_again_says_the_same(found: list[Body]) -> None:
    """compile(parse(dump(x))) == compile(x): as YAML, as JSON, and from what the reader made of it."""
    read = documents(*map(dumped_json, found))
    once = compile_policies(read)
    assert compile_policies(documents(*map(dumped, found))) == once
    again = [document.model.model_dump(mode="json", by_alias=True, exclude_unset=True) for document in read]
    twice = compile_policies(documents(*map(dumped, again)))
    assert twice == once
    assert twice.digest == once.digest
    assert world_of(again).rules == world_of(found).rules


@fewer
@given(bodies(most=2))
def test_every_rule_has_a_place(found: list[Body]) -> None:
    """Every name that a verdict can give is one that `explain` finds in a file."""
    policies = compile_policies(documents(*map(dumped, found)))
    for section in policies.sections:
        for grant in (*(section.ingress or ()), *(section.egress or ())):
            assert grant.name in policies.places
            assert all(rule.name in policies.places for rule in grant.http or ())
            assert all(rule.name in policies.places for rule in grant.kafka or ())
