"""The rule set of an endpoint as entries of the kernel's verdict map."""

from typing import NamedTuple

from policies.ruleset import Answer, EndpointRules


class VerdictKey(NamedTuple):
    """One entry. identity 0 is any peer, port 0 is any port, protocol is the IP protocol number."""

    endpoint: int
    identity: int
    direction: int
    protocol: int
    port: int


def verdict_entries(rules: EndpointRules) -> dict[VerdictKey, Answer]:
    """Entries for both enforced directions, merged so that the most specific hit is final."""
    raise NotImplementedError
