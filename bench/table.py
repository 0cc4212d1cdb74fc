"""The tables: the same cells for the terminal and for docs/performance.md."""

from collections.abc import Mapping, Sequence

from bench.cases import CASES
from bench.connect import Endurance
from bench.goals import Goal
from bench.memory import Memory
from bench.rows import Medians, medians
from bench.scale import Point

type Cells = list[tuple[str, ...]]

_REST_OF_HEAD = ("MiB/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU s/10k", "machine s/10k", "RSS MiB", "void")
_MIB = 1024 * 1024
_RATIOS = ("direct", "haproxy", "envoy", "py-h11")
"""Peers that others are divided by, where they were measured."""


def of_cases(found: Mapping[tuple[str, str], Medians]) -> list[tuple[str, Cells]]:
    """A title and a table per case, head first."""
    tables = []
    measured = {peer for _, peer in found}
    ratios = [peer for peer in _RATIOS if peer in measured]
    head = ("peer", "requests/s", *(f"of {peer}" for peer in ratios), *_REST_OF_HEAD)
    for name in dict.fromkeys(case for case, _ in found):
        rows: Cells = [head]
        for (case, peer), row in found.items():
            if case == name:
                rows.append(_of_peer(peer, row, [found.get((case, other)) for other in ratios]))
        tables.append((f"{name}: {CASES[name].what}", rows))
    return tables


def _of_peer(peer: str, row: Medians, others: Sequence[Medians | None]) -> tuple[str, ...]:
    proxied = row.rss_mib > 0
    return (
        peer,
        f"{row.requests_per_s:,.0f}",
        *(_ratio(row, other) for other in others),
        f"{row.bytes_per_s / _MIB:,.1f}",
        f"{row.p50_us:,.0f}",
        f"{row.p99_us:,.0f}",
        f"{row.p999_us:,.0f}",
        f"{row.cpu_s_per_10k:.2f}" if proxied else "-",
        f"{row.machine_cpu_s_per_10k:.2f}",
        f"{row.rss_mib:.1f}" if proxied else "-",
        str(row.void),
    )


def _ratio(row: Medians, other: Medians | None) -> str:
    return f"{row.requests_per_s / other.requests_per_s:.3f}" if other and other.requests_per_s else "-"


def of_memory(memories: Sequence[Memory]) -> Cells:
    """One row per peer that has processes."""
    rows: Cells = [
        (
            "peer",
            "at rest, MiB",
            "with idle connections, MiB",
            "KiB per idle connection",
            "1 GiB body: before, peak, MiB",
            "MiB/s",
        )
    ]
    for memory in memories:
        rest = ", ".join(f"{role} {size / _MIB:.1f}" for role, size in memory.at_rest.items())
        void = f" (void: {memory.idle_errors} errors)" if memory.idle_errors else ""
        rows.append(
            (
                memory.peer,
                rest,
                ", ".join(f"{count:,}: {sum(roles.values()) / _MIB:.1f}" for count, roles in memory.with_idle.items()),
                f"{memory.per_idle_connection / 1024:.1f}{void}",
                f"{memory.big_body_before / _MIB:.1f}, {memory.big_body_peak / _MIB:.1f}",
                f"{1024 / memory.big_body_s:,.0f}",
            )
        )
    return rows


def of_endurance(found: Sequence[Endurance]) -> Cells:
    """A row per side and window."""
    cells: Cells = [("closes first", "window", "connections/s", "p50 µs", "p99 µs", "CPU s/10k", "RSS MiB", "failures")]
    for turn in found:
        for row in turn.rows:
            cells.append(
                (
                    turn.side,
                    str(row.round),
                    f"{row.requests_per_s:,.0f}",
                    f"{row.p50_us:,.0f}",
                    f"{row.p99_us:,.0f}",
                    f"{row.cpu_s_per_10k:.2f}",
                    f"{row.rss_mib:.1f}",
                    f"{row.errors:,}",
                )
            )
    return cells


def of_points(axis: str, points: Sequence[Point]) -> Cells:
    """A row per setting of one axis and load; medians of its rounds."""
    cells: Cells = [
        (
            axis,
            "load",
            "requests/s",
            "p50 µs",
            "p99 µs",
            "CPU s/10k",
            "void",
            "idle cores",
            "in force, s",
            "memory, MiB",
        )
    ]
    for point in points:
        rows = [one.row for one in point.measured]
        found = medians(rows)
        for case in dict.fromkeys(row.case for row in rows):
            row = found.get((case, "tulle"))
            numbers = ("-",) * 4
            if row is not None:
                numbers = (
                    f"{row.requests_per_s:,.0f}",
                    f"{row.p50_us:,.0f}",
                    f"{row.p99_us:,.0f}",
                    f"{row.cpu_s_per_10k:.2f}",
                )
            void = row.void if row is not None else len([each for each in rows if each.case == case])
            cells.append(
                (
                    f"{point.count:,}",
                    "new paths" if "varied" in case else "one path",
                    *numbers,
                    str(void),
                    f"{point.idle_cores:.2f}",
                    f"{point.change_s:.1f}" if point.change_s else "-",
                    ", ".join(f"{role} {size / _MIB:.0f}" for role, size in point.memory.items()),
                )
            )
    return cells


def of_goals(goals: Sequence[Goal]) -> Cells:
    return [
        ("goal", "wanted", "measured", ""),
        *((goal.what, goal.wanted, goal.got, "reached" if goal.reached else "missed") for goal in goals),
    ]


def plain(cells: Cells) -> str:
    """Columns in line: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *rest = zip(row, widths, strict=True)
        lines.append("  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]).rstrip())
    return "\n".join(lines)


def markdown(cells: Cells) -> str:
    head, *rows = (f"| {' | '.join(row)} |" for row in cells)
    rule = "|---|" + "---:|" * (len(cells[0]) - 1)
    return "\n".join([head, rule, *rows])
