"""The tables, goals and the part of docs/performance.md."""

from collections.abc import Mapping, Sequence

from bench import document, table
from bench.goals import Goal
from bench.kafka.cases import CASES
from bench.kafka.memory import Memory
from bench.kafka.rows import Medians, Row, ratio
from bench.kafka.run import Outcome

_GIB = 1024**3
_HEAD = ("records/s", "MiB/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU s/GiB", "machine s/GiB", "RSS MiB", "void")
_THROUGHPUT, _LATENCY, _GROWTH_MIB = 0.95, 3.0, 8.0
"""_GROWTH_MIB: buffers of both directions and what the allocator keeps, as for a large HTTP body."""

type Found = Mapping[tuple[str, str], Medians]


def of_cases(outcome: Outcome) -> list[tuple[str, table.Cells]]:
    """A title and a table per case, head first."""
    found, tables = outcome.medians, []
    measured = list(dict.fromkeys(peer for _, peer in found))
    others = [peer for peer in ("direct", "haproxy") if peer in measured]
    for name in dict.fromkeys(case for case, _ in found):
        rows: table.Cells = [("peer", *(f"of {peer}" for peer in others), *_HEAD)]
        for (case, peer), row in found.items():
            if case == name:
                ratios = (_number(ratio(outcome.rows, name, peer, other), ".3f") for other in others)
                rows.append((peer, *ratios, *_numbers(row, CASES[name].size)))
        tables.append((f"{name}: {CASES[name].what}", rows))
    return tables


def _numbers(row: Medians, size: int) -> tuple[str, ...]:
    proxied = row.rss_mib > 0
    per_gib = _GIB / (10_000 * size)
    return (
        f"{row.records_per_s:,.0f}",
        f"{row.mib_per_s:,.1f}",
        *(_number(value, ",.0f") for value in (row.p50_us, row.p99_us, row.p999_us)),
        f"{row.cpu_s_per_10k * per_gib:.2f}" if proxied else "-",
        f"{row.machine_cpu_s_per_10k * per_gib:.2f}",
        f"{row.rss_mib:.1f}" if proxied else "-",
        str(row.void),
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def of_memory(memories: Sequence[Memory]) -> table.Cells:
    """A row per proxy."""
    rows: table.Cells = [
        ("peer", "after the first GiB, MiB", "after each further GiB, MiB", "peak, MiB", "growth, MiB")
    ]
    for memory in memories:
        after = ", ".join(f"{size:.1f}" for size in memory.after)
        rows.append((memory.peer, f"{memory.first:.1f}", after, f"{memory.peak:.1f}", f"{memory.growth:.1f}"))
    return rows


def goals(outcome: Outcome) -> list[Goal]:
    """Those that there are numbers for."""
    found = outcome.medians
    judged = [*_of_throughput(outcome.rows), *_of_latency(found)]
    for memory in outcome.memories:
        if memory.peer == "tulle":
            what = f"memory over {len(memory.after)} GiB each way: growth"
            reached = memory.growth <= _GROWTH_MIB
            judged.append(Goal(what, f"<= {_GROWTH_MIB:g} MiB", f"{memory.growth:.1f} MiB", reached))
    return judged


def _of_throughput(rows: Sequence[Row]) -> list[Goal]:
    judged = []
    for case in CASES.values():
        got = ratio(rows, case.name, "tulle", "direct")
        if case.kind != "sync" and got is not None:
            proxy = ratio(rows, case.name, "haproxy", "direct")
            beside = f" (haproxy {proxy:.3f})" if proxy is not None else ""
            judged.append(Goal(case.what, f">= {_THROUGHPUT} x direct", f"{got:.3f}{beside}", got >= _THROUGHPUT))
    return judged


def _of_latency(found: Found) -> list[Goal]:
    judged = []
    for case in CASES.values():
        p50 = [row.p50_us for peer in ("direct", "haproxy", "tulle") if (row := found.get((case.name, peer)))]
        if case.kind == "sync" and len(p50) == 3 and None not in p50:
            direct, haproxy, ours = (value or 0.0 for value in p50)
            added, allowed = ours - direct, haproxy - direct
            got = f"{added:,.0f} µs, haproxy {allowed:,.0f} µs"
            wanted = f"<= {_LATENCY:g} x haproxy"
            judged.append(Goal(f"{case.what}: p50 over direct", wanted, got, added <= _LATENCY * allowed))
    return judged


def text(outcome: Outcome) -> str:
    """For the terminal."""
    how = f"medians of {outcome.rounds} rounds of {outcome.seconds} s; {document.machine()}"
    parts = [f"{how}\n{outcome.disturbance}"]
    parts += [f"{title}\n{table.plain(cells)}" for title, cells in of_cases(outcome)]
    if outcome.memories:
        parts.append(f"memory\n{table.plain(of_memory(outcome.memories))}")
    if judged := goals(outcome):
        parts.append(table.plain(table.of_goals(judged)))
    return "\n\n".join(parts)


def sections(outcome: Outcome, command: str) -> list[str]:
    """What stands between the markers of the document."""
    parts = [
        f"`{command}` on {document.machine()}; medians of {outcome.rounds} interleaved rounds of {outcome.seconds} s; "
        f"{outcome.disturbance}."
    ]
    if judged := goals(outcome):
        parts += ["### Goals with Kafka", table.markdown(table.of_goals(judged))]
    for heading, cells in of_cases(outcome):
        parts += [f"### {heading}", table.markdown(cells)]
    if outcome.memories:
        parts += ["### Memory while gigabytes of records go through", table.markdown(of_memory(outcome.memories))]
    return parts
