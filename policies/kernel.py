"""The rule set of an endpoint as entries of the kernel's verdict map.

Theory of operation: the kernel looks (endpoint, identity) up first and (endpoint, any peer) second; within each the
entry for the exact port is longer, so it wins over the entry for every port; the first look-up that hits is final, and
no hit is a denial. It cannot form a union. So the union is formed here: an entry for a peer already holds what the
general lines give it, and is left out only where the look-ups without it would end in the same answer.
INVARIANT: for every identity and port, those look-ups end as `DirectionRules.answer` does.
"""

from typing import NamedTuple

from policies.ruleset import Answer, Direction, EndpointRules

TCP = 6  # IP protocol number
ANY_PEER = 0
ANY_PORT = 0


class VerdictKey(NamedTuple):
    """One entry. identity 0 is any peer, port 0 is any port, protocol is the IP protocol number."""

    endpoint: int
    identity: int
    direction: int
    protocol: int
    port: int


def verdict_entries(rules: EndpointRules) -> dict[VerdictKey, Answer]:
    """Entries for both directions, merged so that the most specific hit is final.

    A direction that no policy enforces has none: the endpoint's flags say so, and the kernel does not look.
    """
    entries: dict[VerdictKey, Answer] = {}
    for direction in Direction:
        part = rules.direction(direction)
        if not part.enforced:
            continue
        lines = [*part.any_port, *(line for lines in part.ports.values() for line in lines)]
        named = frozenset[int]().union(*(line.identities for line in lines if line.identities is not None))
        general: dict[int, Answer] = {}
        for identity in (ANY_PEER, *sorted(named - {ANY_PEER})):
            # port 0 is in no `ports`, so these are the lines that hold for every port
            wide = part.answer(ANY_PORT, identity)
            without = Answer.DENY if identity == ANY_PEER else general[ANY_PORT]
            specific = wide != without
            if specific:
                entries[VerdictKey(rules.id, identity, direction, TCP, ANY_PORT)] = wide
            if identity == ANY_PEER:
                general[ANY_PORT] = wide
            for port in part.ports:
                answer = part.answer(port, identity)
                without = wide if specific or identity == ANY_PEER else general[port]
                if answer != without:
                    entries[VerdictKey(rules.id, identity, direction, TCP, port)] = answer
                if identity == ANY_PEER:
                    general[port] = answer
    return entries
