"""Identities, addresses and endpoints of a rule set."""

import pytest

from policies.compile import compile_policies
from policies.policyset import PolicySet
from policies.resolve import Inventory, Numbers, Pod, allocate, identity_key, plain_address, resolve
from policies.ruleset import Identity, Reserved
from tests.policies.world import PODS, World, documents, policy

A = Pod("default", "a", {"app": "a"}, ("10.0.0.1", "fd00::1"), 1)
B = Pod("default", "b", {"app": "b"}, ("10.0.0.2",))


def test_equal_namespace_and_labels_are_one_identity() -> None:
    twin = Pod("default", "a2", {"app": "a"}, ("10.0.0.9",))
    stranger = Pod("other", "a", {"app": "a"}, ("10.0.0.8",))
    rules = resolve(PolicySet(), Inventory((A, twin, stranger, B)), 3)
    assert rules.revision == 3
    assert {n: identity for n, identity in rules.identities.items() if not identity.reserved} == {
        256: Identity("default", {"app": "a"}, ("default/a", "default/a2")),
        257: Identity("default", {"app": "b"}, ("default/b",)),
        258: Identity("other", {"app": "a"}, ("other/a",)),
    }
    assert rules.addresses == {
        "10.0.0.1": (256, "default/a"),
        "10.0.0.2": (257, "default/b"),
        "10.0.0.8": (258, "other/a"),
        "10.0.0.9": (256, "default/a2"),
        "fd00::1": (256, "default/a"),
    }
    assert list(rules.endpoints) == [1]


def test_numbers_stay_and_are_not_given_to_others() -> None:
    first = allocate(PolicySet(), Inventory((A, B)))
    assert first.pods == {identity_key("default", {"app": "a"}): 256, identity_key("default", {"app": "b"}): 257}
    c = Pod("default", "c", {"app": "c"})
    second = allocate(PolicySet(), Inventory((c, A)), first)
    assert second.pods == {identity_key("default", {"app": "a"}): 256, identity_key("default", {"app": "c"}): 258}
    assert allocate(PolicySet(), Inventory((A, B)), first) == first


def test_numbers_of_prefixes_stay_too() -> None:
    def of(*cidrs: str) -> PolicySet:
        return compile_policies(
            documents(policy(f"endpointSelector: {{}}\ningress: [{{fromCIDR: [{', '.join(cidrs)}]}}]"))
        )

    first = allocate(of("10.0.0.0/8", "192.168.0.0/16"), Inventory())
    assert first.prefixes == {"10.0.0.0/8": 1 << 24, "192.168.0.0/16": (1 << 24) + 1}
    second = allocate(of("172.16.0.0/12", "192.168.0.0/16"), Inventory(), first)
    assert second.prefixes == {"172.16.0.0/12": (1 << 24) + 2, "192.168.0.0/16": (1 << 24) + 1}
    # also when two changes went by: the kernel may have failed to take the first of them
    third = allocate(PolicySet(), Inventory(), Numbers.from_json(second.to_json()))
    assert allocate(of("10.9.0.0/16"), Inventory(), third).prefixes == {"10.9.0.0/16": (1 << 24) + 3}


def test_numbers_survive_being_kept() -> None:
    numbers = allocate(PolicySet(), Inventory((A, B)))
    assert Numbers.from_json(numbers.to_json()) == numbers
    later = resolve(PolicySet(), Inventory((B,)), 2, allocate(PolicySet(), Inventory((B,)), numbers))
    assert later.addresses == {"10.0.0.2": (257, "default/b")}


def test_an_address_of_two_pods_belongs_to_nobody() -> None:
    thief = Pod("default", "thief", {"app": "x"}, ("10.0.0.1", "10.0.0.7"))
    addresses = resolve(PolicySet(), Inventory((A, thief)), 1).addresses
    assert addresses["10.0.0.1"] == (Reserved.UNKNOWN, "")
    assert addresses["10.0.0.7"][1] == "default/thief"
    assert addresses["fd00::1"][1] == "default/a"


def test_addresses_are_plain_and_link_local_ones_name_nobody() -> None:
    pod = Pod("default", "a", {}, ("::ffff:10.0.0.1", "FD00:0::1", "fe80::1", "169.254.0.1"))
    assert set(resolve(PolicySet(), Inventory((pod,)), 1).addresses) == {"10.0.0.1", "fd00::1"}
    assert str(plain_address("::ffff:10.0.0.1")) == "10.0.0.1"


@pytest.mark.parametrize(
    ("pods", "message"),
    [
        ((Pod("n", "p", {}, ("10.0.0.256",)),), "pod n/p: '10.0.0.256' is not an IP address"),
        ((Pod("n", "p"), Pod("n", "p")), "pod n/p is in the inventory twice"),
        ((Pod("n", "p", endpoint_id=1), Pod("n", "q", endpoint_id=1)), "pod n/q has endpoint id 1 of another pod"),
    ],
)
def test_an_inventory_that_cannot_be(pods: tuple[Pod, ...], message: str) -> None:
    with pytest.raises(ValueError, match="pod n") as caught:
        resolve(PolicySet(), Inventory(pods), 1)
    assert str(caught.value) == message


def test_endpoints_of_one_identity_share_their_rules() -> None:
    text = policy("endpointSelector: {}\ningress: [{toPorts: [{ports: [{port: 80}]}]}]")
    twin = Pod("default", "web2", {"app": "web"}, (), 9, PODS["web"].ports)
    rules = World(text, pods=[*PODS.values(), twin]).rules
    assert rules.endpoints[9].ingress is rules.endpoints[1].ingress
    assert rules.endpoints[9].name == "web2"
