"""`bench kafka`: a lab up, peers checked, every case of every peer in turn, the lab down."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench import processes
from bench.benchlab import sweep
from bench.kafka import measure as one
from bench.kafka import tools
from bench.kafka.cases import CASES, SIZES, Case
from bench.kafka.cluster import FETCHED, PRODUCED, KafkaLab
from bench.kafka.memory import Memory
from bench.kafka.memory import measure as measure_memory
from bench.kafka.peers import PEERS, KafkaDirect, KafkaPeer
from bench.kafka.rows import Medians, Row, medians, missing
from bench.run import say, words_of_disturbance

_WARM_UP = ("produce_rdkafka_100_acks1", "produce_rdkafka_10k_acksall", "fetch_rdkafka_10k", "sync_rdkafka_100_acks1")
_WARM_UP_S = 2
_MIN_RECORDS = 1_000
_MAX_BYTES = 1 << 30
_SYNC_PART = 0.5
"""Of the seconds: a second holds thousands of round trips."""
_PER_S = {"100": 400_000, "10k": 15_000}
"""Records/s that a topic for fetching is filled for; a client that is faster begins again, Kafka's own tool ends."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that one run found. `seconds` is the length of one measurement."""

    rounds: int
    seconds: int
    rows: list[Row]
    foreign_cores: list[float]
    memories: list[Memory]

    @property
    def disturbance(self) -> str:
        """What else the machine did, for the line above the tables."""
        return words_of_disturbance(self.foreign_cores, "CPU s/GiB")

    @property
    def medians(self) -> dict[tuple[str, str], Medians]:
        cases, peers = list(CASES), list(PEERS)
        return medians(sorted(self.rows, key=lambda row: (cases.index(row.case), peers.index(row.peer))))

    @property
    def is_whole(self) -> bool:
        """Whether it is a table of all of `bench kafka`, as the document has it."""
        return set(CASES) <= {row.case for row in self.rows}

    @property
    def missing(self) -> list[tuple[str, str]]:
        return missing(self.rows)


def run(kinds: Sequence[type[KafkaPeer]], cases: Sequence[Case], rounds: int, seconds: int, gib: int) -> Outcome:
    """Measure these peers in a lab made for it; gib: how much goes through `tulle` for memory, 0: not at all.

    Raises:
        BenchError: the lab or a peer does not work.
    """
    tools.check()
    sweep()
    processes.allow_many_files()
    with ExitStack() as stack:
        say("lab with Kafka goes up")
        lab = KafkaLab("kafka")
        stack.callback(lab.down)  # before `up`: what is half made goes, too
        lab.up()
        peers = [kind(lab) for kind in kinds]
        _ready(lab, peers)
        rows, cores = _Rounds(lab, peers, rounds, seconds).measured(cases)
        memories = []
        for peer in peers:
            if gib and peer.policy:  # what a TCP proxy keeps is no question
                with peer.in_place():
                    memories.append(measure_memory(peer, gib, say))
    return Outcome(rounds, seconds, rows, cores, memories)


def _ready(lab: KafkaLab, peers: Sequence[KafkaPeer]) -> None:
    """Start every peer and prove that it is correct."""
    for peer in peers:
        say(f"{peer.name}: starts, and is checked")
        lab.make_topic(PRODUCED)
        peer.start()
        with peer.in_place():
            peer.check()
    say("the broker warms up")
    lab.make_topic(PRODUCED)
    for name in _WARM_UP:
        one.run(KafkaDirect(lab), CASES[name], PRODUCED, _WARM_UP_S, 0)  # the fetch reads what the others wrote


class _Rounds:
    """Group by group of cases, and within a group peer by peer: what else the machine does meets all of them alike."""

    def __init__(self, lab: KafkaLab, peers: Sequence[KafkaPeer], rounds: int, seconds: int) -> None:
        self._lab, self._peers, self._rounds, self._seconds = lab, peers, rounds, seconds
        self._records: dict[str, int] = {}
        self._cores: list[float] = []

    def measured(self, cases: Sequence[Case]) -> tuple[list[Row], list[float]]:
        """All rows, and the cores that others had at each."""
        rows: list[Row] = []
        self._fill({case.size for case in cases if case.kind == "fetch"})
        for case in cases:
            self._records[case.name] = self._count(case)
        groups = sorted({case.group for case in cases})
        for number in range(1, self._rounds + 1):
            for group in groups:
                if group[0] != "fetch":
                    self._lab.make_topic(PRODUCED)  # anew, so that no disk fills
                turn = number % len(self._peers)  # another one goes first in every round
                for peer in [*self._peers[turn:], *self._peers[:turn]]:
                    with peer.in_place():
                        rows += [self._one(peer, case, number) for case in cases if case.group == group]
        return rows, self._cores

    def _fill(self, sizes: Collection[int]) -> None:
        """The topics for consumers, once."""
        for size in sorted(sizes):
            say(f"{FETCHED[size]}: {self._filled(size):,} records")
            self._lab.make_topic(FETCHED[size], self._filled(size), size)

    def _one(self, peer: KafkaPeer, case: Case, number: int) -> Row:
        topic = FETCHED[case.size] if case.kind == "fetch" else PRODUCED
        row, cores = one.measure(peer, case, topic, number, self._length(case), self._records[case.name])
        self._cores.append(cores)
        latency = f"  p50 {row.p50_us:>7,.0f} µs" if row.p50_us is not None else ""
        say(
            f"round {number}/{self._rounds}  {case.name:<24} {peer.name:<8} {row.records_per_s:>9,.0f} records/s"
            f"  {row.mib_per_s:>6,.1f} MiB/s{latency}" + (f"  VOID: {row.errors} errors" if row.errors else "")
        )
        return row

    def _length(self, case: Case) -> float:
        return self._seconds * _SYNC_PART if case.kind == "sync" else self._seconds

    def _filled(self, size: int) -> int:
        per_s = next(_PER_S[text] for text, known in SIZES.items() if known == size)
        return min(per_s * self._seconds, _MAX_BYTES // size)

    def _count(self, case: Case) -> int:
        """How many records make the seconds, for a client that has to be told: by its own rate without a proxy."""
        if case.client != "java":
            return 0
        if case.kind == "fetch":
            return self._filled(case.size)
        known = [
            self._records[other.name] for other in CASES.values() if other.name in self._records and _alike(other, case)
        ]
        if known:
            return known[0]
        self._lab.make_topic(PRODUCED)
        first = self._filled(case.size) // 4
        say(f"{case.name}: how many records make {self._seconds} s")
        rate = one.run(KafkaDirect(self._lab), case, PRODUCED, self._seconds, first).records_per_s
        return max(_MIN_RECORDS, min(int(rate * self._seconds), 2 * _MAX_BYTES // case.size))


def _alike(one_case: Case, other: Case) -> bool:
    return (one_case.kind, one_case.client, one_case.size) == (other.kind, other.client, other.size)
