"""What Tulle is meant to reach, and whether it did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.memory import Memory
from bench.rows import Medians

_KIB = 1024
_MB = 1000 * 1000
_MIB = _KIB * _KIB
# Buffers of both directions and what the allocator keeps; a body that is held in memory would take a thousand.
_CONSTANT_MIB = 8


@dataclass(frozen=True, slots=True)
class Goal:
    """One line: what was wanted, what came of it."""

    what: str
    wanted: str
    got: str
    reached: bool


def judged(found: Mapping[tuple[str, str], Medians], memories: Sequence[Memory]) -> list[Goal]:
    """Those goals for which there are numbers."""
    goals = []
    for case, field, what in (
        ("keepalive_1k_c32", "requests_per_s", "keep-alive rate, of py-h11's"),
        ("body_1m_c8", "bytes_per_s", "1 MiB throughput, of py-h11's"),
    ):
        ours, theirs = found.get((case, "tulle")), found.get((case, "py-h11"))
        if ours and theirs:
            ratio = float(getattr(ours, field)) / float(getattr(theirs, field))
            goals.append(Goal(what, ">= 0.9", f"{ratio:.2f}", ratio >= 0.9))
    for memory in memories:
        if memory.peer == "tulle":
            goals += _of_memory(memory)
    return goals


def _of_memory(memory: Memory) -> list[Goal]:
    rest = (memory.at_rest.get("agent", 0) + memory.at_rest.get("worker", 0)) / _MB
    per_connection = memory.per_idle_connection / _KIB
    growth = (memory.big_body_peak - memory.big_body_before) / _MIB
    return [
        Goal("per idle connection", "<= 40 KiB", f"{per_connection:.1f} KiB", per_connection <= 40),
        Goal("agent and one idle worker", "<= 100 MB", f"{rest:.0f} MB", rest <= 100),
        Goal("growth over a body of 1 GiB", f"<= {_CONSTANT_MIB} MiB", f"{growth:.1f} MiB", growth <= _CONSTANT_MIB),
    ]
