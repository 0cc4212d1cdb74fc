"""`bench http`: labs up, peers checked, every case of every peer in turn, labs down."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench import connect, memory, processes, wrk
from bench.benchlab import BenchLab, sweep
from bench.cases import CASES, HTTP, Case
from bench.measure import Measured, measure
from bench.peers.base import Peer
from bench.peers.direct import Direct
from bench.peers.envoy import Envoy
from bench.peers.h11_peer import PyH11
from bench.peers.haproxy import HAProxy
from bench.peers.mitmproxy import Mitmproxy
from bench.peers.tulle import Tulle
from bench.rows import Medians, Row, medians, missing

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Direct, Tulle, HAProxy, Envoy, Mitmproxy, PyH11)}
ALWAYS = Tulle.name
DEFAULT = (Direct.name, HAProxy.name, Envoy.name)
_WARM_UP_S = 1
_QUIET_CORES = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that one run found. `seconds` is the length of one measurement."""

    rounds: int
    seconds: int
    measured: list[Measured]
    memories: list[memory.Memory]

    @property
    def rows(self) -> list[Row]:
        return [one.row for one in self.measured]

    @property
    def disturbance(self) -> str:
        """What else the machine did, for the line above the tables."""
        return disturbance(self.measured)

    @property
    def medians(self) -> dict[tuple[str, str], Medians]:
        cases, peers = list(CASES), list(PEERS)
        return medians(sorted(self.rows, key=lambda row: (cases.index(row.case), peers.index(row.peer))))

    @property
    def is_whole(self) -> bool:
        """Whether it is a table of all of `bench http`, as the document has it."""
        return set(HTTP) <= {row.case for row in self.rows}

    @property
    def missing(self) -> list[tuple[str, str]]:
        return missing(self.rows)


def disturbance(measured: Sequence[Measured]) -> str:
    """What processes of nobody's here took meanwhile, in words."""
    return words_of_disturbance([one.foreign_cores for one in measured])


def words_of_disturbance(cores: Sequence[float], steadier: str = "CPU s/10k") -> str:
    """cores: those that others had, by measurement. steadier: what may be compared all the same."""
    text = f"other processes took {median(cores):.1f} cores meanwhile (median; at most {max(cores):.1f})"
    if median(cores) > _QUIET_CORES:
        text += f": too much to compare rates, {steadier} is steadier"
    return text


def say(text: str) -> None:
    """Progress; standard output is for the tables."""
    sys.stderr.write(f"bench: {time.strftime('%H:%M:%S')} {text}\n")


def run(
    kinds: Sequence[type[Peer]], cases: Sequence[Case], rounds: int, seconds: int, *, with_memory: bool = True
) -> Outcome:
    """Measure these peers in labs made for it.

    Raises:
        BenchError: a lab or a peer does not work.
    """
    sweep()
    processes.allow_many_files()
    with ExitStack() as stack:
        peers = _made(kinds, stack)
        memories: list[memory.Memory] = []
        measured: list[Measured] = []
        for workers in sorted({case.workers for case in cases}):
            now = [case for case in cases if case.workers == workers]
            able = [peer for peer in peers if peer.max_workers is None or workers <= peer.max_workers]
            counts = sorted({memory.IDLE_CONNECTIONS, *(case.idle for case in cases if case.idle)})
            memories += _ready(able, workers, counts if with_memory and not memories else ())
            measured += _rounds(able, now, rounds, seconds)
    return Outcome(rounds, seconds, measured, memories)


def _ready(peers: Sequence[Peer], workers: int, idle: Sequence[int]) -> list[memory.Memory]:
    """Start every peer with so many workers, prove that it is correct, warm it up; before that, its memory with these
    numbers of idle connections."""
    memories = []
    for peer in peers:
        say(f"{peer.name}: starts with {workers} worker{'s' if workers > 1 else ''}, and is checked")
        peer.start(workers)
        with peer.in_place():
            peer.check()
            if peer.pids and idle:
                say(f"{peer.name}: memory")
                memories.append(memory.measure(peer, idle))
            wrk.run(peer.lab, CASES["keepalive_1k_c32"], _WARM_UP_S)
    return memories


def endure(seconds: int = connect.SECONDS) -> list[connect.Endurance]:
    """New connections to `tulle` for so long, each side closing first in its turn, in a lab made for it.

    Raises:
        BenchError: the lab or the load does not work.
    """
    sweep()
    processes.allow_many_files()
    with ExitStack() as stack:
        (peer,) = _made([Tulle], stack)
        _ready([peer], 1, ())
        found = []
        for side in connect.SIDES:
            say(f"new connections for {seconds} s, the {side} closes first")
            found.append(connect.measure(peer, side, seconds))
            rates = ", ".join(f"{row.requests_per_s:,.0f}" for row in found[-1].rows)
            say(f"connections/s in windows of {connect.WINDOW_S} s: {rates}; failures: {found[-1].failures or 'none'}")
        return found


def _made(kinds: Sequence[type[Peer]], stack: ExitStack) -> list[Peer]:
    """`tulle` has a lab with agents; all others share one without."""
    labs: dict[str, BenchLab] = {}
    peers = []
    for kind in kinds:
        wanted = "tulle" if kind is Tulle else "plain"
        if wanted not in labs:
            say(f"lab for {kind.name} goes up")
            labs[wanted] = BenchLab(wanted, agents=kind is Tulle)
            stack.callback(labs[wanted].down)  # before `up`: what is half made goes, too
            labs[wanted].up()
        peers.append(kind(labs[wanted]))
    return peers


def _rounds(peers: Sequence[Peer], cases: Sequence[Case], rounds: int, seconds: int) -> list[Measured]:
    """Case by case, and within a case peer by peer: what else the machine does meets all of them alike."""
    measured = []
    for number in range(1, rounds + 1):
        for case in cases:
            able = [peer for peer in peers if peer.policy or not case.needs_policy]
            turn = number % max(1, len(able))  # another one goes first in every round
            for peer in [*able[turn:], *able[:turn]]:
                with peer.in_place():
                    measured.append(measure(peer, case, number, seconds))
                row = measured[-1].row
                say(
                    f"round {number}/{rounds}  {case.name:<20} {peer.name:<9} {row.requests_per_s:>9,.0f} requests/s"
                    f"  p50 {row.p50_us:>7,.0f} µs  {row.cpu_s_per_10k:.2f} CPU s/10k"
                    + (f"  VOID: {row.errors} errors" if row.errors else "")
                )
    return measured
