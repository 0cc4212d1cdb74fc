"""The rule set of an endpoint as entries of the kernel's verdict map.

Theory of operation: the kernel looks (endpoint, identity, direction, protocol) up first and the same with any peer
second; within each, the entry with the longest port prefix wins, a range of ports being a few prefixes; the first
look-up that hits is final, and no hit is a denial. It cannot form a union. So the union is formed here: the ports are
cut into intervals in which nothing changes, each is judged once, and an entry is left out only where the look-ups
without it would end in the same answer. Peers that the same lines name share the work.
INVARIANT: for every identity, protocol and port, those look-ups end as `DirectionRules.connection` does.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from policies.ruleset import (
    ANY_PROTOCOL,
    MAX_PORT,
    OTHER_PROTOCOL,
    TCP,
    UDP,
    Answer,
    ConnectionVerdict,
    Direction,
    DirectionRules,
    EndpointRules,
    Line,
)

ANY_PEER = 0
PROTOCOLS = (TCP, UDP, OTHER_PROTOCOL)
PORT_BITS = 16

AUDIT = 1  # it passes, and is recorded: a policy in mode audit would refuse it
FAIL_OPEN = 2  # PROXY, and with no listener left it passes
EXPLICIT = 4  # DENY by a deny rule

type Value = tuple[int, int]
"""(answer, flags)"""

NO_HIT: Value = (int(Answer.DENY), 0)


class VerdictKey(NamedTuple):
    """One entry. identity 0 is any peer; protocol is TCP, UDP or OTHER_PROTOCOL; of `port` the `bits` leading bits
    count, the others are 0: 16 is that port, 0 every port."""

    endpoint: int
    identity: int
    direction: int
    protocol: int
    port: int
    bits: int


def verdict_entries(rules: EndpointRules, apart: Collection[int] = ()) -> dict[VerdictKey, Value]:
    """Entries for both directions, merged so that the most specific hit is final.

    apart: identities whose entries say all there is to say of them and leave nothing to those for any peer, which may
    then change.

    A direction that no policy selects has none: the endpoint's flags say so, and the kernel does not look.
    """
    entries: dict[VerdictKey, Value] = {}
    for direction in Direction:
        part = rules.direction(direction)
        if not part.enforced:
            continue
        for identity, protocol, port, bits, value in _direction_entries(part, apart):
            entries[VerdictKey(rules.id, identity, int(direction), protocol, port, bits)] = value
    return entries


def value_of(verdict: ConnectionVerdict) -> Value:
    """What the kernel is told of a connection."""
    flags = AUDIT if verdict.would_deny else 0
    if verdict.fail_open:
        flags |= FAIL_OPEN
    if verdict.answer is Answer.DENY and verdict.enforced.explicit:
        flags |= EXPLICIT
    return int(verdict.answer), flags


def _direction_entries(part: DirectionRules, apart: Collection[int]) -> Iterator[tuple[int, int, int, int, Value]]:
    everyone = [i for i, line in enumerate(part.lines) if line.identities is None]
    named: dict[int, list[int]] = {}
    for i, line in enumerate(part.lines):
        for identity in line.identities or ():
            if identity != ANY_PEER:
                named.setdefault(identity, []).append(i)
    for identity in apart:
        named.setdefault(identity, [])
    for protocol in PROTOCOLS:
        relevant = [line.protocol in (protocol, ANY_PROTOCOL) for line in part.lines]
        general = _intervals(part, [part.lines[i] for i in everyone if relevant[i]])
        for port, bits, value in _prefixes(general, [(0, MAX_PORT, NO_HIT)]):
            yield ANY_PEER, protocol, port, bits, value
        known: dict[tuple[int, ...], list[tuple[int, int, Value]]] = {}
        for identity in sorted(named):
            mine = tuple(i for i in named[identity] if relevant[i])
            if identity in apart:
                lines = [part.lines[i] for i in sorted((*mine, *everyone)) if relevant[i]]
                for port, bits, value in _whole(_intervals(part, lines)):
                    yield identity, protocol, port, bits, value
                continue
            if not mine:
                continue
            found = known.get(mine)
            if found is None:
                lines = [part.lines[i] for i in sorted((*mine, *everyone)) if relevant[i]]
                found = known[mine] = list(_prefixes(_intervals(part, lines), general))
            for port, bits, value in found:
                yield identity, protocol, port, bits, value


type Intervals = list[tuple[int, int, Value]]
"""(first, last, value), in order, without gaps, neighbours differing."""


def _intervals(part: DirectionRules, lines: Sequence[Line]) -> Intervals:
    """What happens at each port, for a peer and a protocol that these lines speak of."""
    edges = sorted({0, *(line.first for line in lines), *(line.last + 1 for line in lines if line.last < MAX_PORT)})
    starts: dict[int, list[int]] = {}
    for i, line in enumerate(lines):
        starts.setdefault(line.first, []).append(i)
    active: set[int] = set()
    known: dict[frozenset[int], Value] = {}
    out: Intervals = []
    for first, following in zip(edges, [*edges[1:], MAX_PORT + 1], strict=True):
        active = {i for i in active if lines[i].last >= first} | set(starts.get(first, ()))
        key = frozenset(active)
        if key not in known:
            known[key] = value_of(part.judge(lines[i] for i in sorted(active)))
        if out and out[-1][2] == known[key]:
            out[-1] = out[-1][0], following - 1, known[key]
        else:
            out.append((first, following - 1, known[key]))
    return out


def _prefixes(wanted: Intervals, below: Intervals) -> Iterator[tuple[int, int, Value]]:
    """(port, bits, value): the fewer of two ways to say `wanted` above `below`, which answers where nothing hits."""
    plain = list(_differences(wanted, below))
    if not plain:
        return
    whole = _whole(wanted)
    apart = [piece for first, last, value in plain for piece in _cover(first, last, value)]
    yield from whole if len(whole) <= len(apart) else apart


def _whole(wanted: Intervals) -> list[tuple[int, int, Value]]:
    """`wanted` with nothing below it: what most ports get for every port, and the others."""
    spans: dict[Value, int] = {}
    for first, last, value in wanted:
        spans[value] = spans.get(value, 0) + last - first + 1
    base = max(spans, key=lambda value: spans[value])
    covered = [piece for first, last, value in wanted if value != base for piece in _cover(first, last, value)]
    return [(0, 0, base), *covered]


def _differences(wanted: Intervals, below: Intervals) -> Iterator[tuple[int, int, Value]]:
    """The parts of `wanted` that `below` does not say already."""
    at = 0
    for first, last, value in wanted:
        while below[at][1] < first:
            at += 1
        i = at
        start = first
        while start <= last:
            end = min(last, below[i][1])
            if below[i][2] != value:
                yield start, end, value
            start = end + 1
            i += 1


def _cover(first: int, last: int, value: Value) -> Iterator[tuple[int, int, Value]]:
    """The fewest prefixes that are exactly first..last: at most 30."""
    while first <= last:
        size = first & -first or 1 << PORT_BITS
        while size > last - first + 1:
            size >>= 1
        yield first, PORT_BITS - size.bit_length() + 1, value
        first += size
