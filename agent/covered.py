"""Live TCP connections of a pod that no proxy of ours is in: those older than the pod's policy, and those that a change
no longer allows.

A connection that is steered shows as sockets of the app and of ours. Ours are told by what they are: owned by a worker,
or bound to an address that is not the pod's, as a leg is; and the app's end of one has its mirror among them. What is
left has no proxy in it. Datagrams are judged one by one, so a flow of them is never older than its policy.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from policies.ruleset import TCP, Answer, ConnectionVerdict, Direction, EndpointRules, Reserved
from proxy.peers import Peers
from redirect import sockdiag
from redirect.netns import Netns
from redirect.sockdiag import Live

MAX_REMEMBERED = 256
"""Connections older than their policy that are remembered, for each pod."""
MAX_LISTED = 100
"""Connections that `status` lists of each pod; the rest are counted."""
OPEN = frozenset({"established", "fin_wait1", "fin_wait2", "close_wait"})
"""States of a connection that has begun."""
THIS_NODE = frozenset({Reserved.HOST, Reserved.HOST_KUBE_APISERVER})


class Ends(NamedTuple):
    """What a connection is known by, seen from the pod."""

    local: str
    local_port: int
    remote: str
    remote_port: int


def ends_of(live: Live) -> Ends:
    """Its ends."""
    return Ends(str(live.local), live.local_port, str(live.remote), live.remote_port)


def direct(live: Collection[Live], addresses: Collection[str], worker_uid: int) -> list[Live]:
    """Those of a pod's TCP connections that no proxy is in; addresses: the pod's own."""
    tcp = [(ends_of(one), one) for one in live if one.protocol == TCP and one.state in OPEN]
    every = {ends for ends, _ in tcp}
    return [
        one
        for ends, one in tcp
        if ends.local in addresses
        and one.uid != worker_uid
        and Ends(ends.remote, ends.remote_port, ends.local, ends.local_port) not in every
    ]


def direct_of(pod: Netns, addresses: Collection[str], worker_uid: int) -> list[Live]:
    """`direct` of a pod as it is now.

    Raises:
        RedirectError: the kernel does not tell.
    """
    return direct(sockdiag.connections(pod), addresses, worker_uid)


def direction_of(live: Live) -> Direction:
    """Which of the pod's directions a connection is of."""
    return Direction.INGRESS if live.inbound else Direction.EGRESS


def verdict_of(rules: EndpointRules, peers: Peers, live: Live) -> ConnectionVerdict:
    """What the rules say of it now.

    A connection with this node's address may be the node's own or one that was masqueraded, which cannot be told any
    more: it is refused when it would be as either.
    """
    direction = direction_of(live)
    part = rules.direction(direction)
    port = live.local_port if live.inbound else live.remote_port
    found = part.connection(TCP, port, peers.judged(str(live.remote), direction))
    identity = peers.find(str(live.remote))[0]
    if live.inbound and found.answer is Answer.DENY and identity in THIS_NODE:
        return part.connection(TCP, port, identity)
    return found


def denied(rules: EndpointRules, peers: Peers, live: Collection[Live]) -> Iterator[Live]:
    """Those that the rules refuse, of directions in which a policy says `onChange: close-denied`."""
    for one in live:
        if rules.direction(direction_of(one)).close_denied and verdict_of(rules, peers, one).answer is Answer.DENY:
            yield one


def uncovered(
    rules: EndpointRules, peers: Peers, live: Collection[Live], older: Collection[Ends]
) -> list[dict[str, object]]:
    """What `status` says of those that enforcement does not reach: older than the policy, or not as its rules want."""
    found: list[dict[str, object]] = []
    for one in live:
        direction = direction_of(one)
        if not rules.direction(direction).enforced:
            continue
        if ends_of(one) in older or verdict_of(rules, peers, one).answer is not Answer.ALLOW:
            found.append(
                {
                    "pod": f"{rules.namespace}/{rules.name}",
                    "direction": direction.name.lower(),
                    "peer": str(one.remote),
                    "port": one.local_port if one.inbound else one.remote_port,
                    "protocol": "TCP",
                }
            )
    return found
