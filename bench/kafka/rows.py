"""What one measurement gives, and what several give together. The fields are the contract of `--json`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Row:
    """One case, one peer, one round.

    mib_per_s: of record values. p50_us and so on: from handing a record over to its acknowledgement; in `produce_java`
    most of it is time in the client's own queue, and the tool gives whole milliseconds; None where the load has none.
    cpu_s_per_10k: seconds of user and system time of the peer's processes per 10,000 records; machine_cpu_s_per_10k: of
    the whole machine, client and broker included. rss_mib: resident memory of the peer's processes behind the load.
    errors: records that failed, what the client complained of, and processes of the peer that died; a row with any is
    void.
    """

    case: str
    peer: str
    round: int
    records_per_s: float
    mib_per_s: float
    p50_us: float | None
    p99_us: float | None
    p999_us: float | None
    cpu_s_per_10k: float
    machine_cpu_s_per_10k: float
    rss_mib: float
    errors: int


@dataclass(frozen=True, slots=True)
class Medians:
    """Each field is the median of the rounds that are not void; `void` says how many are."""

    records_per_s: float
    mib_per_s: float
    p50_us: float | None
    p99_us: float | None
    p999_us: float | None
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
                records_per_s=median(row.records_per_s for row in good),
                mib_per_s=median(row.mib_per_s for row in good),
                p50_us=_median(row.p50_us for row in good),
                p99_us=_median(row.p99_us for row in good),
                p999_us=_median(row.p999_us for row in good),
                cpu_s_per_10k=median(row.cpu_s_per_10k for row in good),
                machine_cpu_s_per_10k=median(row.machine_cpu_s_per_10k for row in good),
                rss_mib=median(row.rss_mib for row in good),
                void=len(some) - len(good),
            )
    return found


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def ratio(rows: Sequence[Row], case: str, peer: str, other: str) -> float | None:
    """Median over the rounds of one peer's rate to the other's in the same round: what the machine did meets both."""
    rates = {(row.peer, row.round): row.records_per_s for row in rows if row.case == case and row.errors == 0}
    pairs = [
        rate / rates[other, number]
        for (who, number), rate in rates.items()
        if who == peer and rates.get((other, number))
    ]
    return median(pairs) if pairs else None


def missing(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(case, peer) pairs of which every row is void: they were not measured."""
    good = medians(rows)
    return list(dict.fromkeys((row.case, row.peer) for row in rows if (row.case, row.peer) not in good))
