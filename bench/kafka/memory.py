"""Memory of a peer while gigabytes go through it, both ways: whether it stays where it is."""

from collections.abc import Callable
from dataclasses import dataclass

from bench import processes
from bench.benchlab import CLIENT
from bench.errors import BenchError
from bench.kafka import load_result
from bench.kafka.cases import LARGE
from bench.kafka.cluster import PRODUCED
from bench.kafka.peers import KafkaPeer

_GIB = 1024**3
_MIB = 1024**2
_SECONDS = "600"
RECORDS = _GIB // LARGE


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the processes that records go through, in MiB. first: resident after the first GiB each way, which fills what
    is kept for reuse; after: after every further one; peak: the most since the first.
    """

    peer: str
    first: float
    after: list[float]
    peak: float

    @property
    def growth(self) -> float:
        """MiB from the first GiB to the peak."""
        return self.peak - self.first


def measure(peer: KafkaPeer, gib: int, say: Callable[[str], None]) -> Memory:
    """Write and read a GiB in records of 10 KiB, `gib` times after a first one; the peer is in place and checked.

    Raises:
        BenchError: not all records came.
    """
    through = [pid for role, pids in peer.processes().items() if role in ("worker", "proxy") for pid in pids]
    first, after = 0.0, []
    for number in range(gib + 1):
        peer.lab.make_topic(PRODUCED)
        for words in (["produce", PRODUCED, str(LARGE), "1", _SECONDS], ["fetch", PRODUCED, _SECONDS]):
            done = load_result.parse(peer.lab.ask_load(CLIENT, *words, str(RECORDS)))
            if done.errors or done.records < RECORDS:
                raise BenchError(f"{peer.name}: {words[0]} of 1 GiB: {done.records} of {RECORDS} records, {done.said}")
        now = processes.usage(through).rss_bytes / _MIB
        say(f"{peer.name}: {now:.1f} MiB after {number + 1} GiB written and read")
        if number:
            after.append(now)
        else:
            first = now
            processes.reset_peak(through)
    return Memory(peer.name, first, after, processes.peak_bytes(through) / _MIB)
