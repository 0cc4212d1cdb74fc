"""The tables of docs/performance.md and the plots beside it: between markers, the text around them is people's."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import plots, table
from bench.cases import CASES
from bench.connect import WINDOW_S, Endurance
from bench.errors import BenchError
from bench.goals import Goal
from bench.rows import medians
from bench.run import Outcome
from bench.scale import Point

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_PLOTS = "plots"
_MIB = 1024 * 1024
_PLOTTED_RATES = (
    "keepalive_1k_c32", "keepalive_varied_c32", "keepalive_1k_c1", "short_1k_c32", "denied_c32", "idle_1000",
    "overlay_1k_c32", "two_workers_1k_c32",
)  # fmt: skip
_PLOTTED_BYTES = ("body_64k_c32", "body_1m_c8", "upload_64k_c32")
_AXIS_NAMES = {
    "rules": "rules on the port",
    "connections": "idle connections",
    "pods": "protected pods of the node",
    "documents": "policy documents",
}


def machine() -> str:
    """What the numbers depend on, in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = " ".join(line.partition(":")[2].split())
            break
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}"


def write_http(outcome: Outcome, goals: Sequence[Goal], command: str, document: Path = DOCUMENT) -> None:
    """Goals, a table per case, memory; bars of rates, of bytes and of CPU time.

    Raises:
        BenchError: the document has no such place.
    """
    found = outcome.medians
    parts = [
        f"`{command}` on {machine()}; medians of {outcome.rounds} interleaved rounds of {outcome.seconds} s; "
        f"{outcome.disturbance}."
    ]
    if goals:
        parts += ["### Goals", table.markdown(table.of_goals(goals))]
    note = f"medians of {outcome.rounds} rounds; each case has its own scale"
    drawn = []
    for name, title, cases, field, scale, unit in (
        ("rates", "Requests per second", _PLOTTED_RATES, "requests_per_s", 1.0, ""),
        ("bytes", "MiB per second", _PLOTTED_BYTES, "bytes_per_s", 1.0 / _MIB, ""),
        ("cpu", "CPU seconds of the proxy per 10,000 requests", _PLOTTED_RATES, "cpu_s_per_10k", 1.0, " s"),
    ):
        groups = {
            case: values
            for case in cases
            if (
                values := {
                    p: getattr(r, field) * scale for (c, p), r in found.items() if c == case and getattr(r, field)
                }
            )
        }
        if groups:
            drawn.append(_plot(document, name, title, plots.bars(title, note, groups, unit)))
    parts += drawn
    for heading, cells in table.of_cases(found):
        parts += [f"### {heading}", table.markdown(cells)]
    if outcome.memories:
        parts += ["### Memory", table.markdown(table.of_memory(outcome.memories))]
    _between(document, "http", parts)


def write_connect(found: Sequence[Endurance], command: str, document: Path = DOCUMENT) -> None:
    """Rates per window, goals, and lines.

    Raises:
        BenchError: the document has no such place.
    """
    series = {
        f"{turn.side} closes first": [(float(row.round * WINDOW_S), row.requests_per_s) for row in turn.rows]
        for turn in found
    }
    title = "New connections per second from one address"
    drawing = plots.lines(title, f"windows of {WINDOW_S} s, one worker", "seconds", series, "", logarithmic=False)
    goals = [goal for turn in found for goal in turn.goals]
    failed = [f"{turn.side} closes first: {turn.failures}" for turn in found if turn.failures]
    parts = [
        f"`{command}` on {machine()}.",
        table.markdown(table.of_goals(goals)),
        *failed,
        _plot(document, "connect", title, drawing),
        table.markdown(table.of_endurance(found)),
    ]
    _between(document, "connect", parts)


def write_scale(
    points: Sequence[Point], axes: Mapping[str, table.Cells], disturbance: str, command: str, document: Path = DOCUMENT
) -> None:
    """A table and two plots per axis: CPU time per request, and memory.

    Raises:
        BenchError: the document has no such place.
    """
    parts = [f"`{command}` on {machine()}; {disturbance}."]
    for axis, cells in axes.items():
        some = [point for point in points if point.axis == axis]
        what = _AXIS_NAMES[axis]
        cpu: dict[str, list[tuple[float, float]]] = {}
        sizes: dict[str, list[tuple[float, float]]] = {}
        for point in some:
            for (case, _), row in medians([one.row for one in point.measured]).items():
                load = "new paths" if "varied" in case else "one path"
                cpu.setdefault(load, []).append((float(point.count), row.cpu_s_per_10k))
            for role, size in point.memory.items():
                sizes.setdefault(role, []).append((float(point.count), size / _MIB))
        parts += [f"### Cost by {what}", table.markdown(cells)]
        for name, title, series, unit in (
            (f"scale_{axis}_cpu", f"CPU seconds per 10,000 requests by {what}", cpu, " s"),
            (f"scale_{axis}_memory", f"Resident memory by {what}", sizes, " MiB"),
        ):
            if series:
                parts.append(_plot(document, name, title, plots.lines(title, "one worker", what, series, unit)))
    _between(document, "scale", parts)


def write_kafka(parts: Sequence[str], document: Path = DOCUMENT) -> None:
    """What `bench.kafka.report` has made of a run.

    Raises:
        BenchError: the document has no such place.
    """
    _between(document, "kafka", parts)


def write_profiles(command: str, document: Path = DOCUMENT) -> None:
    """A link to each flame graph that is there.

    Raises:
        BenchError: the document has no such place.
    """
    there = {case: f"{_PLOTS}/profile_{case.name}.svg" for case in CASES.values()}
    links = [f"- [{case.name}: {case.what}]({to})" for case, to in there.items() if (document.parent / to).exists()]
    _between(document, "profile", [f"`{command}` on {machine()}:", "\n".join(links)])


def _plot(document: Path, name: str, title: str, drawing: str) -> str:
    folder = document.parent / _PLOTS
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.svg").write_text(drawing, encoding="utf-8")
    return f"![{title}]({_PLOTS}/{name}.svg)"


def _between(document: Path, section: str, parts: Sequence[str]) -> None:
    """Replace what stands between the section's markers."""
    begin, end = f"<!-- bench {section}: begin -->", f"<!-- bench {section}: end -->"
    text = document.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise BenchError(f"{document.name} has no lines '{begin}' and '{end}'")
    body = "\n\n".join(parts)
    document.write_text(f"{before}{begin}\n{body}\n{end}{after}", encoding="utf-8")
