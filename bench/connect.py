"""New connections from one client address for 90 s, each side closing first in its turn: whether the rate holds.

What would let it fall: ports that wait out TIME_WAIT, on the client's side or on the legs', and whatever a worker keeps
of a connection that has ended.
"""

import json
import subprocess
from dataclasses import dataclass

from bench import goals, processes
from bench.benchlab import CLIENT, WEB_PORT
from bench.errors import BenchError
from bench.peers.base import Peer
from bench.rows import Row

SECONDS = 90
WINDOW_S = 10
_CONCURRENCY = 32
_MIB = 1024 * 1024
_ANSWER_BYTES = 1024
SIDES = ("client", "server")


@dataclass(frozen=True, slots=True)
class Endurance:
    """One side's turn: a row per window, and what failed."""

    side: str
    rows: list[Row]
    failures: dict[str, int]

    @property
    def goals(self) -> list[goals.Goal]:
        rates = [row.requests_per_s for row in self.rows]
        return goals.of_connections(f"new connections, {self.side} closes first", rates, sum(self.failures.values()))


def measure(peer: Peer, side: str, seconds: int = SECONDS, window_s: int = WINDOW_S) -> Endurance:
    """Make connections through a peer that is in place and checked.

    Raises:
        BenchError: the load could not run.
    """
    # A client that closes first keeps its ports in TIME_WAIT for a minute: 28,000 of them would be 470 connections a
    # second, whatever is on the way. Busy clients set this, and then a port is free again after a second.
    peer.lab.in_pod_as_root(CLIENT, "sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1")
    arguments = [peer.lab.web_ipv4, str(WEB_PORT), str(seconds), str(_CONCURRENCY), side, str(window_s)]
    command = peer.lab.python_inside(CLIENT, "connections.py", *arguments)
    rows: list[Row] = []
    failures: dict[str, int] = {}
    with subprocess.Popen(  # noqa: S603 - a program of our own, no shell
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - asked for above
        assert process.stderr is not None  # noqa: S101 - asked for above
        meter = Meter(peer)
        for line in process.stdout:
            said = json.loads(line)
            rows.append(meter.row(f"connect_{side}_closes", len(rows) + 1, said))
            for reason, count in said["failures"].items():
                failures[reason] = failures.get(reason, 0) + count
        errors = process.stderr.read()
    if process.returncode != 0 or not rows:
        raise BenchError(f"the load of new connections ended with {process.returncode}: {errors.strip()[-500:]}")
    return Endurance(side, rows, failures)


class Meter:
    """CPU time from one window to the next."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._pids = peer.pids
        self._cpu = processes.usage(self._pids).cpu_s
        self._busy = processes.machine_busy_s()

    def row(self, case: str, window: int, said: dict[str, float]) -> Row:
        """One window; `round` is its number from 1."""
        used, busy = processes.usage(self._pids), processes.machine_busy_s()
        per_10k = 10_000 / max(1, said["connections"])
        failures: object = said["failures"]
        assert isinstance(failures, dict)  # noqa: S101 - the program's own line
        rate = said["connections"] / said["seconds"]
        row = Row(
            case=case,
            peer=self._peer.name,
            round=window,
            requests_per_s=round(rate, 1),
            bytes_per_s=round(rate * _ANSWER_BYTES, 1),
            p50_us=said["p50_us"],
            p99_us=said["p99_us"],
            p999_us=said["p999_us"],
            cpu_s_per_10k=round((used.cpu_s - self._cpu) * per_10k, 4),
            machine_cpu_s_per_10k=round((busy - self._busy) * per_10k, 4),
            rss_mib=round(used.rss_bytes / _MIB, 1),
            errors=sum(failures.values()) + len(set(self._pids) ^ set(self._peer.pids)),
        )
        self._cpu, self._busy = used.cpu_s, busy
        return row
