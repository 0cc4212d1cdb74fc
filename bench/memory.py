"""Memory of a peer that has just started: at rest, with idle connections, and while a GiB goes through it.

Measured before any load, because an interpreter that has served a hundred thousand requests has room to spare, and
a thousand connections would seem to cost nothing. What the kernel keeps for their sockets is not the process's and is
not counted.
"""

import time
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
    """

    peer: str
    at_rest: dict[str, int]
    per_idle_connection: float
    idle_errors: int
    big_body_before: int
    big_body_peak: int
    big_body_s: float


def measure(peer: Peer) -> Memory:
    """Measure a peer that is in place and checked.

    Raises:
        BenchError: the big body did not arrive whole.
    """
    pids = peer.pids
    time.sleep(_SETTLE_S)
    roles = {role: processes.usage(some).rss_bytes for role, some in sorted(peer.processes().items())}
    before = processes.usage(pids).rss_bytes
    with idle_connections(peer, IDLE_CONNECTIONS) as idle:
        time.sleep(_SETTLE_S)
        grown = processes.usage(pids).rss_bytes - before
    return Memory(peer.name, roles, grown / IDLE_CONNECTIONS, idle.errors, *_big_body(peer))


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
