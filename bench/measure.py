"""One measurement: a case, a peer, a round."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench import processes, wrk
from bench.benchlab import CLIENT, WEB_PORT
from bench.cases import Case
from bench.errors import BenchError
from bench.peers.base import Peer
from bench.rows import Row

_MIB = 1024 * 1024
_SETTLE_S = 0.3  # a proxy may tidy up behind the last request


class Idle:
    """Idle connections that are held; `errors` is right once they are no longer."""

    def __init__(self, opened: int, wanted: int) -> None:
        self.errors = wanted - opened


@contextmanager
def idle_connections(peer: Peer, count: int) -> Iterator[Idle]:
    """Hold `count` keep-alive connections, each of which made one request, from the client pod.

    Raises:
        BenchError: they could not be opened at all.
    """
    command = peer.lab.python_inside(CLIENT, "idle.py", peer.lab.web_ipv4, str(WEB_PORT), str(count))
    with subprocess.Popen(  # noqa: S603 - a program of our own, no shell
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - asked for above
        assert process.stderr is not None  # noqa: S101 - asked for above
        opened = process.stdout.readline().strip()
        if not opened.isdecimal():
            raise BenchError(f"cannot hold idle connections: {process.stderr.read().strip()[-500:]}")
        idle = Idle(int(opened), count)
        try:
            yield idle
        finally:
            closed, _ = process.communicate("")
            idle.errors += int(closed) if closed.strip().isdecimal() else count


def measure(peer: Peer, case: Case, number: int, seconds: int) -> Row:
    """Put the case's load on the peer, which is in place and checked, for so long."""
    if not case.idle:
        return _measure(peer, case, number, seconds, None)
    with idle_connections(peer, case.idle) as idle:
        time.sleep(_SETTLE_S)
        row = _measure(peer, case, number, seconds, processes.usage(peer.pids).rss_bytes)
    return replace(row, errors=row.errors + idle.errors)


def _measure(peer: Peer, case: Case, number: int, seconds: int, rss_bytes: int | None) -> Row:
    pids = peer.pids
    busy_before = used_before = 0.0

    def before() -> None:
        nonlocal busy_before, used_before
        busy_before, used_before = processes.machine_busy_s(), processes.usage(pids).cpu_s

    load = wrk.run(peer.lab, case, seconds, before=before)
    busy, used = processes.machine_busy_s(), processes.usage(pids)
    replaced = len(set(peer.pids) ^ set(pids))  # one that died has lost connections, and its CPU time with it
    per_10k = 10_000 / max(1, load.requests)
    return Row(
        case=case.name,
        peer=peer.name,
        round=number,
        requests_per_s=round(load.requests / load.seconds, 1),
        bytes_per_s=round(load.bytes / load.seconds, 1),
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        p999_us=load.p999_us,
        cpu_s_per_10k=round((used.cpu_s - used_before) * per_10k, 4),
        machine_cpu_s_per_10k=round((busy - busy_before) * per_10k, 4),
        rss_mib=round((used.rss_bytes if rss_bytes is None else rss_bytes) / _MIB, 1),
        errors=load.errors + replaced,
    )
