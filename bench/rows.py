"""What one measurement gives, and what several give together. The fields are the contract of `--json`."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Row:
    """One case, one peer, one round.

    cpu_s_per_10k: seconds of user and system time of the peer's processes per 10,000 requests; machine_cpu_s_per_10k:
    of the whole machine, load and server included. rss_mib: resident memory of the peer's processes behind the load
    (`idle_1000`: with the idle connections, before the load). errors: socket errors, answers of an unexpected status,
    idle connections that failed or were closed, and processes of the peer that died; a row with any is void.
    """

    case: str
    peer: str
    round: int
    requests_per_s: float
    bytes_per_s: float
    p50_us: float
    p99_us: float
    p999_us: float
    cpu_s_per_10k: float
    machine_cpu_s_per_10k: float
    rss_mib: float
    errors: int


@dataclass(frozen=True, slots=True)
class Medians:
    """Each field is the median of the rounds that are not void; `void` says how many are."""

    requests_per_s: float
    bytes_per_s: float
    p50_us: float
    p99_us: float
    p999_us: float
    cpu_s_per_10k: float
    machine_cpu_s_per_10k: float
    rss_mib: float
    void: int


def medians(rows: Sequence[Row]) -> dict[tuple[str, str], Medians]:
    """By (case, peer), in the order of first appearance; a pair without one good row is not there."""
    together: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        together.setdefault((row.case, row.peer), []).append(row)
    found = {}
    for key, some in together.items():
        good = [row for row in some if row.errors == 0]
        if good:
            found[key] = Medians(
                requests_per_s=median(row.requests_per_s for row in good),
                bytes_per_s=median(row.bytes_per_s for row in good),
                p50_us=median(row.p50_us for row in good),
                p99_us=median(row.p99_us for row in good),
                p999_us=median(row.p999_us for row in good),
                cpu_s_per_10k=median(row.cpu_s_per_10k for row in good),
                machine_cpu_s_per_10k=median(row.machine_cpu_s_per_10k for row in good),
                rss_mib=median(row.rss_mib for row in good),
                void=len(some) - len(good),
            )
    return found


def missing(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(case, peer) pairs of which every row is void: they were not measured."""
    good = medians(rows)
    return list(dict.fromkeys((row.case, row.peer) for row in rows if (row.case, row.peer) not in good))
