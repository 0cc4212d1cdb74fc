"""The tables of docs/performance.md: written between two markers, the text around them is people's."""

import os
import platform
from pathlib import Path

from bench import table
from bench.errors import BenchError
from bench.run import Outcome

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_BEGIN, _END = "<!-- bench http: begin -->", "<!-- bench http: end -->"


def machine() -> str:
    """What the numbers depend on, in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = " ".join(line.partition(":")[2].split())
            break
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}"


def write(outcome: Outcome, command: str, document: Path = DOCUMENT) -> None:
    """Replace what stands between the markers.

    Raises:
        BenchError: the document has no such place.
    """
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise BenchError(f"{document.name} has no lines '{_BEGIN}' and '{_END}'")
    document.write_text(f"{before}{_BEGIN}\n{_tables(outcome, command)}\n{_END}{after}", encoding="utf-8")


def _tables(outcome: Outcome, command: str) -> str:
    parts = [
        f"`{command}` on {machine()}; medians of {outcome.rounds} interleaved rounds of {outcome.seconds} s; "
        f"{outcome.disturbance}."
    ]
    if outcome.goals:
        parts += ["### Goals", table.markdown(table.of_goals(outcome.goals))]
    for title, cells in table.of_cases(outcome.medians):
        parts += [f"### {title}", table.markdown(cells)]
    if outcome.memories:
        parts += ["### Memory", table.markdown(table.of_memory(outcome.memories))]
    return "\n\n".join(parts)
