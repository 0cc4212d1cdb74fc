"""An edit works out what it touches, and gives what working everything out anew gives; changes travel as changes."""

from dataclasses import replace

import pytest

from policies.inventory import Inventory, NamedPort, NodeHost, Pod, Service
from policies.policyset import CidrPeer, EntityPeer, Grant, Peer, PolicySet, PortSpec, Section, ServicePeer
from policies.resolve import Numbers, Resolver, allocate, resolve, selection, troubles
from policies.ruleset import ANY_PROTOCOL, TCP, UDP, Answer, HttpRule, PolicyRef, Reserved, RuleSet
from policies.selector import NAMESPACE_LABEL, Operator, Requirement, Selector
from policies.wire import apply_change, decode, encode, encode_change


def apps(app: str, namespace: str = "default") -> Selector:
    own = Requirement(NAMESPACE_LABEL, Operator.IN, (namespace,))
    return Selector((Requirement("app", Operator.IN, (app,)), own))


def section(name: str, app: str, *grants: Grant) -> Section:
    return Section(PolicyRef("CiliumNetworkPolicy", "default", name), apps(app), grants, None)


def grant(name: str, *peers: Peer, port: int = 80) -> Grant:
    http = (HttpRule(f"{name}.http[0]", "GET", "/"),)
    return Grant(name, peers, PortSpec(TCP, port, port), http)


def pods(count: int) -> tuple[Pod, ...]:
    return tuple(Pod("default", f"p{i}", {"app": f"a{i % 5}"}, (f"10.0.0.{i + 1}",), i + 1) for i in range(count))


POLICIES = PolicySet(
    tuple(section(f"pol{i}", f"a{i}", grant(f"default/pol{i} ingress[0]", apps(f"a{(i + 1) % 5}"))) for i in range(5))
)


def test_an_edit_touches_the_endpoints_that_it_is_about_and_no_others() -> None:
    inventory = Inventory(pods(20))
    resolver = Resolver()
    numbers = allocate(POLICIES, inventory)
    before = resolver.resolve(POLICIES, inventory, 1, numbers)
    sections = list(POLICIES.sections)
    sections[2] = section("pol2", "a2", grant("default/pol2 ingress[0]", apps("a0"), port=81))
    edited = PolicySet(tuple(sections), "edited")
    after = resolver.resolve(edited, inventory, 2, allocate(edited, inventory, numbers))
    touched = {n for n in before.endpoints if after.endpoints[n] is not before.endpoints[n]}
    assert touched == {n for n, rules in before.endpoints.items() if rules.labels["app"] == "a2"}
    assert after == resolve(edited, inventory, 2, numbers)


def test_a_label_change_of_one_pod_is_seen_by_those_that_name_it() -> None:
    inventory = Inventory(pods(10))
    resolver = Resolver()
    numbers = allocate(POLICIES, inventory)
    before = resolver.resolve(POLICIES, inventory, 1, numbers)
    moved = replace(inventory, pods=(replace(inventory.pods[0], labels={"app": "a3"}), *inventory.pods[1:]))
    numbers = allocate(POLICIES, moved, numbers)
    after = resolver.resolve(POLICIES, moved, 1, numbers)
    assert after == resolve(POLICIES, moved, 1, numbers)
    assert after.endpoints[1].ingress == before.endpoints[4].ingress
    assert after.endpoints[2] is before.endpoints[2] or after.endpoints[2] == before.endpoints[2]


def test_a_section_that_is_made_anew_under_its_old_name_is_worked_out_anew() -> None:
    inventory = Inventory(pods(5))
    resolver = Resolver()
    for port in range(80, 120):
        policies = PolicySet((section("pol", "a0", grant("default/pol ingress[0]", apps("a1"), port=port)),))
        rules = resolver.resolve(policies, inventory, port).endpoints[1].ingress
        assert rules.answer(port, resolver.resolve(policies, inventory, port).addresses["10.0.0.2"][0]) is Answer.PROXY
        assert [line.first for line in rules.lines] == [port]


def test_a_change_travels_as_what_changed() -> None:
    inventory = Inventory(pods(20))
    resolver = Resolver()
    before = resolver.resolve(POLICIES, inventory, 1)
    sections = (*POLICIES.sections[:4], section("pol4", "a4"))
    after = resolver.resolve(PolicySet(sections, "x"), inventory, 2)
    data = encode_change(before, after)
    assert len(data) < len(encode(after)) / 3
    assert apply_change(decode(encode(before)), memoryview(data)) == after
    fewer = RuleSet(3, {1: after.endpoints[1]}, {}, {}, {"::/0": 10})
    assert apply_change(after, encode_change(after, fewer)) == fewer
    with pytest.raises(ValueError):  # noqa: PT011  # msgspec's words are not ours to pin
        apply_change(after, data[:-1])


def test_selection_is_what_resolve_enforces() -> None:
    inventory = Inventory((*pods(7), Pod("other", "p0", {"app": "a0"}, (), 8)))
    rules = resolve(POLICIES, inventory, 1)
    enforced = {
        (rule.namespace, rule.name): (rule.ingress.enforced, rule.egress.enforced)
        for rule in rules.endpoints.values()
        if rule.ingress.enforced or rule.egress.enforced
    }
    assert selection(POLICIES, inventory) == enforced
    assert ("other", "p0") not in enforced


def identities_of(*peers: Peer, inventory: Inventory) -> set[int]:
    policies = PolicySet((section("pol", "a0", Grant("default/pol ingress[0]", peers)),))
    (line,) = resolve(policies, inventory, 1).endpoints[1].ingress.lines
    return set(line.identities or ())


def test_cidrs_nest_and_never_name_pods_or_nodes() -> None:
    inventory = Inventory(pods(3), (NodeHost("n1", ("10.0.0.200",), local=True),))
    wide, narrow = CidrPeer("10.0.0.0/8", ("10.1.0.0/16",)), CidrPeer("10.1.2.0/24")
    policies = PolicySet(
        (
            section("wide", "a0", Grant("default/wide ingress[0]", (wide,))),
            section("narrow", "a0", Grant("default/narrow ingress[0]", (narrow,))),
        )
    )
    rules = resolve(policies, inventory, 1)
    first, second = rules.endpoints[1].ingress.lines
    assert first.identities == frozenset({rules.prefixes["10.0.0.0/8"]})
    assert second.identities == frozenset({rules.prefixes["10.1.2.0/24"]})
    assert rules.addresses["10.0.0.200"] == (Reserved.HOST, "n1")
    everything = identities_of(CidrPeer("0.0.0.0/0"), inventory=inventory)
    assert everything == {Reserved.WORLD_IPV4}


def test_entities() -> None:
    nodes = (NodeHost("n1", ("192.168.0.1",), local=True), NodeHost("n2", ("192.168.0.2", "192.168.0.3")))
    inventory = Inventory(pods(2), nodes, apiserver=("192.168.0.2", "172.16.0.9"))
    rules = resolve(POLICIES, inventory, 1)
    assert rules.addresses["192.168.0.2"] == (Reserved.KUBE_APISERVER, "n2")
    assert rules.addresses["192.168.0.3"] == (Reserved.REMOTE_NODE, "n2")
    outside = rules.prefixes["172.16.0.9/32"]
    of_pods = {number for number, identity in rules.identities.items() if not identity.reserved}

    def named(entity: str) -> set[int]:
        return identities_of(EntityPeer(entity), inventory=inventory)

    assert named("world") == {Reserved.WORLD_IPV4, Reserved.WORLD_IPV6, outside}
    assert named("kube-apiserver") == {outside, Reserved.KUBE_APISERVER, Reserved.HOST_KUBE_APISERVER}
    assert named("remote-node") == {Reserved.REMOTE_NODE, Reserved.KUBE_APISERVER}
    assert named("host") == {Reserved.HOST, Reserved.HOST_KUBE_APISERVER}
    assert named("cluster") == of_pods | named("host") | named("remote-node") | {outside}
    assert named("all") == named("cluster") | named("world")
    assert named("none") == named("init") == set()
    assert Reserved.UNKNOWN not in named("all")


def test_services_are_their_endpoints() -> None:
    services = (
        Service("default", "web", {"tier": "x"}, {"app": "a1"}),
        Service("default", "outside", {}, None, ("172.16.0.5", "10.0.0.1")),
    )
    inventory = Inventory(pods(2), services=services)
    rules = resolve(POLICIES, inventory, 1)
    web = rules.addresses["10.0.0.2"][0]
    assert identities_of(ServicePeer("default", "web"), inventory=inventory) == {web}
    labelled = ServicePeer(None, selector=Selector((Requirement("tier", Operator.EXISTS),)))
    assert identities_of(labelled, inventory=inventory) == {web}
    both = identities_of(ServicePeer("default", "outside"), inventory=inventory)
    assert both == {rules.prefixes["172.16.0.5/32"], rules.addresses["10.0.0.1"][0]}
    missing = PolicySet((section("pol", "a0", Grant("default/pol ingress[0]", (ServicePeer("default", "nope"),))),))
    assert identities_of(ServicePeer("default", "nope"), inventory=inventory) == set()
    assert troubles(missing, inventory) == ["default/pol ingress[0]: there is no service 'default/nope'"]


def test_a_named_port_is_each_pods_own_at_ingress_and_the_peers_at_egress() -> None:
    one = Pod("default", "one", {"app": "a0"}, ("10.0.0.1",), 1, (NamedPort("web", 8080), NamedPort("web", 53, UDP)))
    two = Pod("default", "two", {"app": "a0"}, ("10.0.0.2",), 2, (NamedPort("web", 9090),))
    other = Pod("default", "other", {"app": "a1"}, ("10.0.0.3",), 3)
    grants = (Grant("default/pol ingress[0]", None, PortSpec(TCP, named="web")),)
    out = (Grant("default/pol egress[0]", (apps("a0"), apps("a1")), PortSpec(ANY_PROTOCOL, named="web")),)
    policies = PolicySet((replace(section("pol", "a0", *grants), egress=out),))
    rules = resolve(policies, Inventory((one, two, other)), 1)
    assert [(line.protocol, line.first) for line in rules.endpoints[1].ingress.lines] == [(TCP, 8080)]
    assert [(line.protocol, line.first) for line in rules.endpoints[2].ingress.lines] == [(TCP, 9090)]
    assert {(line.protocol, line.first) for line in rules.endpoints[1].egress.lines} == {
        (TCP, 8080),
        (TCP, 9090),
        (UDP, 53),
    }
    assert all(
        line.identities == frozenset({rules.addresses["10.0.0.1"][0]}) for line in rules.endpoints[1].egress.lines
    )
    nobody = PolicySet((section("pol", "a0", Grant("default/pol ingress[0]", None, PortSpec(TCP, named="nope"))),))
    assert resolve(nobody, Inventory((one,)), 1).endpoints[1].ingress.lines == ()
    assert troubles(nobody, Inventory((one,))) == ["default/pol ingress[0]: no pod has a port named 'nope'"]


def test_an_address_of_two_pods_is_nobody_known() -> None:
    twins = (Pod("default", "x", {"app": "a0"}, ("10.0.0.1",), 1), Pod("default", "y", {"app": "a1"}, ("10.0.0.1",)))
    rules = resolve(POLICIES, Inventory(twins), 1)
    assert rules.addresses == {"10.0.0.1": (Reserved.UNKNOWN, "")}
    assert Reserved.UNKNOWN not in identities_of(
        EntityPeer("all"), CidrPeer("0.0.0.0/0"), apps("a0"), inventory=Inventory(twins)
    )


def test_numbers_outlive_a_restart_and_an_upgrade() -> None:
    policies = PolicySet((section("p", "a0", Grant("default/p ingress[0]", (CidrPeer("10.0.0.0/8"),))),))
    numbers = allocate(policies, Inventory(pods(3)))
    assert Numbers.from_json(numbers.to_json()) == numbers
    assert Numbers.from_json('[["default", [["app", "web"]], 300]]').pods == {("default", (("app", "web"),)): 300}
    wider = PolicySet((section("p", "a0", Grant("default/p ingress[0]", (CidrPeer("0.0.0.0/1"),))),))
    later = allocate(wider, Inventory(pods(3)), numbers)
    assert later.prefixes["0.0.0.0/1"] not in numbers.prefixes.values()
    assert later.pods == numbers.pods
