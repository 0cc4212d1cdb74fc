"""One measurement: a case, a peer, a round."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bench import processes, wrk
from bench.benchlab import CLIENT, WEB_PORT, pids_of_labs
from bench.cases import Case
from bench.errors import BenchError
from bench.peers.base import Peer
from bench.rows import Row

_MIB = 1024 * 1024
_OWN_FILES = 700  # stock, listeners, log, the load's own connections
_EVEN = 0.9
_SETTLE_S = 0.3  # a proxy may tidy up behind the last request


class Idle:
    """Idle connections that are held; `errors` is right once they are no longer."""

    def __init__(self, opened: int, wanted: int) -> None:
        self.count = wanted
        self.errors = wanted - opened


def affordable(count: int, workers: int = 1) -> int:
    """How many of `count` connections one run can hold: two files each in a worker, some are its own.

    The same for every peer. Workers share connections by a hash, so that two have room for a little less than twice.
    """
    room = (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _OWN_FILES) // 2
    return min(count, room if workers == 1 else int(room * workers * _EVEN))


@contextmanager
def idle_connections(peer: Peer, count: int, workers: int = 1) -> Iterator[Idle]:
    """Hold `count` keep-alive connections, or as many as are affordable; each made one request, from the client pod.

    Raises:
        BenchError: they could not be opened at all.
    """
    count = affordable(count, workers)
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
            closed, said = process.communicate("")
            if idle.errors:
                sys.stderr.write(f"bench: idle connections: {idle.errors} were not to be had: {said.strip()[-200:]}\n")
            idle.errors += int(closed) if closed.strip().isdecimal() else count


@dataclass(frozen=True, slots=True)
class Measured:
    """A row, and how many cores processes that are not of this run had meanwhile."""

    row: Row
    foreign_cores: float


def measure(peer: Peer, case: Case, number: int, seconds: int) -> Measured:
    """Put the case's load on the peer, which is in place and checked, for so long."""
    if not case.idle:
        return _measure(peer, case, number, seconds, None)
    with idle_connections(peer, case.idle, case.workers) as idle:
        time.sleep(_SETTLE_S)
        done = _measure(peer, case, number, seconds, processes.usage(peer.pids).rss_bytes)
    return replace(done, row=replace(done.row, errors=done.row.errors + idle.errors))


def _measure(peer: Peer, case: Case, number: int, seconds: int, rss_bytes: int | None) -> Measured:
    pids = peer.pids
    busy_before = used_before = started = 0.0
    all_before: dict[int, processes.Process] = {}

    def before() -> None:
        nonlocal busy_before, used_before, started
        all_before.update(processes.everyone())
        started = time.monotonic()
        busy_before, used_before = processes.machine_busy_s(), processes.usage(pids).cpu_s

    load = wrk.run(peer.lab, case, seconds, before=before)
    busy, used, took_s = processes.machine_busy_s(), processes.usage(pids), time.monotonic() - started
    all_after = processes.everyone()
    ours = processes.descendants(os.getpid(), all_after) | pids_of_labs()
    replaced = len(set(peer.pids) ^ set(pids))  # one that died has lost connections, and its CPU time with it
    per_10k = 10_000 / max(1, load.requests)
    row = Row(
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
    return Measured(row, processes.spent_between(all_before, all_after, ours) / took_s)
