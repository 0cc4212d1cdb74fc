"""One measurement: a case, a peer, a round."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence

from bench import processes
from bench.benchlab import CLIENT, pids_of_labs
from bench.errors import BenchError
from bench.kafka import load_result, tools
from bench.kafka.cases import Case
from bench.kafka.cluster import BOOTSTRAP
from bench.kafka.load_result import Load
from bench.kafka.peers import KafkaPeer
from bench.kafka.rows import Row

_MIB = 1024 * 1024
_SLACK_S = 120.0
# As in bench/wrk.py: what starts the load is not part of what is measured.
_GATE = 'echo ready; read -r go; exec "$@"'


def measure(peer: KafkaPeer, case: Case, topic: str, number: int, seconds: float, records: int) -> tuple[Row, float]:
    """Put the case's load on the peer, which is in place and checked: for so long, or of so many records where the
    client wants to be told that. Gives the row, and how many cores processes of nobody's here had meanwhile."""
    pids = peer.pids
    busy_before = used_before = started = 0.0
    all_before: dict[int, processes.Process] = {}

    def before() -> None:
        nonlocal busy_before, used_before, started
        all_before.update(processes.everyone())
        started = time.monotonic()
        busy_before, used_before = processes.machine_busy_s(), processes.usage(pids).cpu_s

    load = run(peer, case, topic, seconds, records, before)
    busy, used, took_s = processes.machine_busy_s(), processes.usage(pids), time.monotonic() - started
    all_after = processes.everyone()
    ours = processes.descendants(os.getpid(), all_after) | pids_of_labs()
    replaced = len(set(peer.pids) ^ set(pids))  # one that died has lost connections, and its CPU time with it
    per_10k = 10_000 / max(1, load.records)
    row = Row(
        case=case.name,
        peer=peer.name,
        round=number,
        records_per_s=round(load.records_per_s, 1),
        mib_per_s=round(load.records_per_s * case.size / _MIB, 2),
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        p999_us=load.p999_us,
        cpu_s_per_10k=round((used.cpu_s - used_before) * per_10k, 6),
        machine_cpu_s_per_10k=round((busy - busy_before) * per_10k, 6),
        rss_mib=round(used.rss_bytes / _MIB, 1),
        errors=load.errors + replaced + (load.records == 0),
    )
    return row, processes.spent_between(all_before, all_after, ours) / took_s


def run(
    peer: KafkaPeer, case: Case, topic: str, seconds: float, records: int, before: Callable[[], None] = lambda: None
) -> Load:
    """One load; `before` is called right before it begins.

    Raises:
        BenchError: the client could not run.
    """
    if case.client == "java":
        command = tools.command(case, BOOTSTRAP, topic, records)
        return tools.parse(
            case, gated(peer.lab.inside(CLIENT, "sh", "-c", _GATE, "java", *command), seconds, before), records
        )
    words = [case.kind, topic, *([str(case.size), case.acks] if case.kind != "fetch" else []), str(seconds)]
    inside = peer.lab.load(CLIENT, *words)
    at = inside.index("--") + 1
    return load_result.parse(gated([*inside[:at], "sh", "-c", _GATE, "python", *inside[at:]], seconds, before))


def gated(command: Sequence[str], seconds: float, before: Callable[[], None]) -> str:
    """What the command printed, let go when `before` has been called.

    Raises:
        BenchError: it could not begin, or did not end.
    """
    with subprocess.Popen(  # noqa: S603 - a command of our own; the shell inside gets its arguments apart
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - asked for above
            first = process.stdout.readline()
            if first != "ready\n":
                raise BenchError(f"cannot run the load: {first.strip()} {process.stdout.read().strip()[-500:]}")
            before()
            return process.communicate("go\n", timeout=seconds + _SLACK_S)[0]
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"the load did not end within {seconds + _SLACK_S:.0f} s") from error
        finally:
            process.kill()
