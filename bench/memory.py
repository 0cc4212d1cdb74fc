"""Memory of a peer that has just started: at rest, with idle connections, and while a GiB goes through it.

Measured before any load, because an interpreter that has served a hundred thousand requests has room to spare, and
a thousand connections would seem to cost nothing. What the kernel keeps for their sockets is not the process's and is
not counted.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import processes
from bench.benchlab import CLIENT
from bench.errors import BenchError
from bench.measure import idle_connections
from bench.peers.base import Peer

_GIB = 1024**3
_OK = 200
_SETTLE_S = 0.5
_BIG_BODY_S = 120
IDLE_CONNECTIONS = 1000


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one peer. Roles are those of `Peer.processes`; sizes are resident bytes of all their processes.

    big_body_before and big_body_peak: of the processes that bytes go through, around one answer of a GiB.
    with_idle: resident bytes by role for each number of idle connections.
    """

    peer: str
    at_rest: dict[str, int]
    with_idle: dict[int, dict[str, int]]
    idle_errors: int
    big_body_before: int
    big_body_peak: int
    big_body_s: float

    @property
    def per_idle_connection(self) -> float:
        """Bytes, by the first number of connections."""
        count, roles = next(iter(self.with_idle.items()))
        return (sum(roles.values()) - sum(self.at_rest.values())) / count


def measure(peer: Peer, counts: Sequence[int] = (IDLE_CONNECTIONS,)) -> Memory:
    """Measure a peer that is in place and checked, with each of these numbers of idle connections, smallest first.

    Raises:
        BenchError: the big body did not arrive whole.
    """
    time.sleep(_SETTLE_S)
    at_rest, with_idle, errors = peer.memory(), {}, 0
    for count in counts:
        with idle_connections(peer, count) as idle:
            time.sleep(_SETTLE_S)
            with_idle[idle.count] = peer.memory()
        errors += idle.errors
    return Memory(peer.name, at_rest, with_idle, errors, *_big_body(peer))


def _big_body(peer: Peer) -> tuple[int, int, float]:
    through = [pid for role, pids in peer.processes().items() if role in ("worker", "proxy") for pid in pids]
    time.sleep(_SETTLE_S)
    processes.reset_peak(through)
    before = processes.peak_bytes(through)
    started = time.monotonic()
    status, size = peer.lab.ask(CLIENT, "GET", "/bench/1g", _BIG_BODY_S)
    took = time.monotonic() - started
    if (status, size) != (_OK, _GIB):
        raise BenchError(f"peer {peer.name!r}: the body of 1 GiB came with status {status} and {size} bytes")
    return before, processes.peak_bytes(through), took
