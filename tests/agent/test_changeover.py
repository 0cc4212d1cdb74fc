"""A change of policies: at no moment does an address get an answer that is neither its old nor its new one."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from agent.changeover import change_over
from policies.compile import compile_policies
from policies.inventory import Inventory, Pod
from policies.kernel import Value, VerdictKey, verdict_entries
from policies.load import load_text
from policies.resolve import Numbers, allocate, resolve
from policies.ruleset import Direction, RuleSet
from redirect.types import Network
from redirect.types import VerdictKey as KernelKey
from tests.policies.test_kernel import looked_up

INVENTORY = Inventory((Pod("default", "web", {"app": "web"}, ("10.244.0.2",), endpoint_id=1),))
ADDRESSES = [ip_address(text) for text in ("10.0.0.1", "10.1.0.1", "10.1.2.1", "10.200.0.1", "8.8.8.8")]
PORTS = (80, 443)


class Recorded:
    """The kernel's two maps, and what every address gets after each change of one of them."""

    def __init__(self, identities: Mapping[Network, int], entries: Mapping[VerdictKey, Value]) -> None:
        self._identities, self._entries = dict(identities), dict(entries)
        self.answers: list[dict[tuple[object, int], Value]] = []
        self.rules: RuleSet | None = None

    def identities(self) -> dict[Network, int]:
        return dict(self._identities)

    def set_identities(self, identities: Mapping[Network, int]) -> None:
        # one by one, in the order of redirect/maps.py
        for network in sorted(identities, key=lambda each: -each.prefixlen):
            self._identities[network] = identities[network]
            self.look()
        for network in sorted(self._identities.keys() - identities.keys(), key=lambda each: each.prefixlen):
            del self._identities[network]
            self.look()

    def verdicts(self, endpoint: int) -> Mapping[KernelKey, Value]:
        return {KernelKey(*key): value for key, value in self._entries.items()}

    def set_verdicts(self, endpoint: int, verdicts: Mapping[VerdictKey, Value]) -> None:
        self._entries = dict(verdicts)
        self.look()

    def look(self) -> None:
        assert self.rules is not None
        mine = self.rules.endpoints[1]
        self.answers.append(
            {
                (address, port): looked_up(mine, self._entries, Direction.EGRESS, self._who(address), 6, port)
                for address in ADDRESSES
                for port in PORTS
            }
        )

    def _who(self, address: IPv4Address | IPv6Address) -> int:
        holding = [net for net in self._identities if address in net]
        return self._identities[max(holding, key=lambda each: each.prefixlen)] if holding else 0


def cidrs(*texts: str, excepts: Iterable[str] = ()) -> str:
    return str([{"cidr": text, "except": list(excepts)} if excepts else {"cidr": text} for text in texts])


def document(*, allow: str = "", deny: str = "", anybody: str = "[443]") -> str:
    parts = [f"{{toPorts: [{{ports: [{{port: '{port}'}}]}}]}}" for port in anybody.strip("[]").split(",") if port]
    if allow:
        parts.append(f"{{toCIDRSet: {allow}}}")
    denies = f"  egressDeny: [{{toCIDRSet: {deny}}}]\n" if deny else ""
    return (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\nspec:\n"
        f"  endpointSelector: {{}}\n  egress: [{', '.join(parts) or '{}'}]\n{denies}"
    )


def rules_of(text: str, previous: Numbers | None = None) -> tuple[RuleSet, Numbers]:
    policies = compile_policies(load_text(text, "x.yaml"))
    numbers = allocate(policies, INVENTORY, previous)
    return resolve(policies, INVENTORY, 1, numbers), numbers


def identities_of(rules: RuleSet) -> dict[Network, int]:
    found: dict[Network, int] = {ip_network(prefix): number for prefix, number in rules.prefixes.items()}
    return found | {ip_network(address): number for address, (number, _) in rules.addresses.items()}


STEPS = {
    "the same denial in two halves": (
        document(deny=cidrs("10.0.0.0/8")),
        document(deny=cidrs("10.0.0.0/9", "10.128.0.0/9")),
    ),
    "more allowed, with an exception": (
        document(allow=cidrs("10.0.0.0/16")),
        document(allow=cidrs("10.0.0.0/8", excepts=("10.1.0.0/16",))),
    ),
    "a known prefix allowed, with an exception": (
        document(deny=cidrs("10.0.0.0/8")),
        document(allow=cidrs("10.0.0.0/8", excepts=("10.1.0.0/16",))),
    ),
    "less denied": (document(deny=cidrs("10.0.0.0/8")), document(deny=cidrs("10.1.0.0/16"))),
    "an exception gone": (
        document(allow=cidrs("10.0.0.0/8", excepts=("10.1.0.0/16",))),
        document(allow=cidrs("10.0.0.0/8")),
    ),
    "what anybody may do, and prefixes": (
        document(deny=cidrs("10.0.0.0/8"), anybody="[]"),
        document(deny=cidrs("10.0.0.0/9", "10.128.0.0/9"), anybody="[80,443]"),
    ),
}


@pytest.mark.parametrize("there_and_back", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_every_moment_has_the_old_or_the_new_answer(name: str, there_and_back: bool) -> None:
    texts = STEPS[name][::-1] if there_and_back else STEPS[name]
    old, numbers = rules_of(texts[0])
    new, _ = rules_of(texts[1], numbers)
    kernel = Recorded(identities_of(old), verdict_entries(old.endpoints[1]))
    kernel.rules = new
    kernel.look()
    before = kernel.answers[0]
    change_over(kernel, identities_of(new), [(old.endpoints[1], new.endpoints[1])])
    assert kernel.identities() == identities_of(new)
    assert {VerdictKey(*key): value for key, value in kernel.verdicts(1).items()} == verdict_entries(new.endpoints[1])
    after = kernel.answers[-1]
    for moment in kernel.answers:
        assert {each: got for each, got in moment.items() if got not in (before[each], after[each])} == {}
