"""What one run of a load says, whichever client it was."""

import json
from dataclasses import dataclass, field

from bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class Load:
    """records: all that were sent or came, warm-up included. records_per_s: of what is measured. Latencies are None
    where the load has none. said: the first complaints."""

    records: int
    records_per_s: float
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    errors: int = 0
    said: list[str] = field(default_factory=list)


def parse(output: str) -> Load:
    """The line of `load.py` among what it and its library print.

    Raises:
        BenchError: it is not there.
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return Load(**json.loads(line))
    raise BenchError(f"the load gave no numbers: {output.strip()[-800:]}")
