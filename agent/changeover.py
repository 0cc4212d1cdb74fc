"""From the verdicts and identities in the kernel to those of a new rule set: meanwhile every connection gets its old or
its new answer.

Two maps change one after the other: who an address is, and what that one may do. A new prefix inside a known one must
be judged by its own entries from the moment it is known, and not before by the new entries of the one around it: that
would open `allow 10.0.0.0/8 except 10.1.0.0/16` to 10.1.0.0/16 for a moment. A prefix that goes must keep its entries
until no address is judged by it: without them it would be any peer. So:

    entries of new identities ─▶ addresses that become new ones ─▶ entries of all that stay; those that go keep theirs
    ─▶ all other addresses ─▶ entries of those that went go, too

Where the entries for any peer change as well, identities of prefixes that come or go have entries that leave nothing
to those, for as long as it takes.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from policies.kernel import ANY_PEER, Value, VerdictKey, verdict_entries
from policies.ruleset import FIRST_CIDR_IDENTITY, EndpointRules
from redirect.types import Network
from redirect.types import VerdictKey as KernelKey

type Entries = dict[VerdictKey, Value]


class Maps(Protocol):
    """What is needed of the kernel side."""

    def identities(self) -> dict[Network, int]: ...
    def set_identities(self, identities: Mapping[Network, int]) -> None: ...
    def verdicts(self, endpoint: int) -> Mapping[KernelKey, Value]: ...
    def set_verdicts(self, endpoint: int, verdicts: Mapping[VerdictKey, Value]) -> None: ...


def change_over(
    kernel: Maps, identities: Mapping[Network, int], changed: Iterable[tuple[EndpointRules | None, EndpointRules]]
) -> None:
    """Put these identities and the rules of these endpoints in force. changed: for each, the rules that its entries in
    the kernel are of, None where that is not known, and the new ones.

    Raises:
        RedirectError: the kernel refused; each connection still gets its old or its new answer, and the same call made
            again goes on.
    """
    known = kernel.identities()
    before, after = set(known.values()), set(identities.values())
    coming, going = after - before, before - after
    work = [_Change(kernel, old, new, coming, going) for old, new in changed]
    if coming and work:
        for one in work:
            kernel.set_verdicts(one.id, one.have | one.coming)
        kernel.set_identities(known | {net: number for net, number in identities.items() if number in coming})
    for one in work:
        kernel.set_verdicts(one.id, one.want | one.coming | one.going)
    if known != identities:
        kernel.set_identities(identities)
    for one in work:
        if one.coming or one.going:
            kernel.set_verdicts(one.id, one.want)


class _Change:
    """The entries of one endpoint: as they are, as they shall be, and of the identities that come and go."""

    __slots__ = ("coming", "going", "have", "id", "want")

    def __init__(
        self,
        kernel: Maps,
        old: EndpointRules | None,
        new: EndpointRules,
        coming: Collection[int],
        going: Collection[int],
    ) -> None:
        self.id = new.id
        self.have: Entries = {VerdictKey(*key): value for key, value in kernel.verdicts(new.id).items()}
        self.want: Entries = verdict_entries(new)
        fresh, leaving = self.want, self.have
        if _of_any(self.have) != _of_any(self.want):
            if prefixes := _prefixes(coming):
                fresh = verdict_entries(new, prefixes)
            if old is not None and (prefixes := _prefixes(going)):
                leaving = verdict_entries(old, prefixes)
        self.coming = {key: value for key, value in fresh.items() if key.identity in coming}
        self.going = {key: value for key, value in leaving.items() if key.identity in going}


def _of_any(entries: Entries) -> Entries:
    return {key: value for key, value in entries.items() if key.identity == ANY_PEER}


def _prefixes(numbers: Collection[int]) -> frozenset[int]:
    """Pods are left out: one that comes or goes is anybody for a moment whatever is done, and there can be many."""
    return frozenset(number for number in numbers if number >= FIRST_CIDR_IDENTITY)
