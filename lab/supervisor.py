"""Keeps one node's agent running, as systemd or the kubelet would: `python -m lab.supervisor --cgroup DIR -- CMD …`;
and, inside a pod, a broker (lab/kafka/broker.py).

A dead agent is started again at once, whatever its exit status; one that keeps dying young waits longer each
time, up to a bound. The agent runs in its own cgroup, so that a test can freeze or kill it (or this process,
to hold the agent dead) without touching the workers, which are in another. Workers that outlive their agent
become children of this process and are reaped here.

Standard library only and small: it lives as long as the lab.
"""

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab import confine
from lab.errors import LabError
from lab.execute import become

STABLE_S = 5.0  # who lived this long is started again without delay
FIRST_DELAY_S = 0.05
MAX_DELAY_S = 1.0  # "back within a second" must hold for an agent that was killed twice in a row, too
MAX_LOG_BYTES = 16 * 1024 * 1024

_PR_SET_CHILD_SUBREAPER = 36


def next_delay(lived_s: float, last_delay_s: float) -> float:
    """Seconds to wait before the next start: none after a stable life, else doubling up to the bound."""
    if lived_s >= STABLE_S:
        return 0.0
    return min(MAX_DELAY_S, last_delay_s * 2 if last_delay_s else FIRST_DELAY_S)


def start(command: Sequence[str], cgroup: str | None) -> int:
    """Start the command in a cgroup, or in this one; gives its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            if cgroup is not None:
                confine.join_cgroup(cgroup)
            become(command)
        except (OSError, LabError) as error:
            say(f"cannot start: {error}")
        finally:
            os._exit(127)
    return pid


def wait_for(pid: int) -> int:
    """Reap children until `pid` is among them; gives its wait status."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return status


def say(text: str) -> None:
    """One line to the log, which is our standard error."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    os.write(2, f"{stamp}Z supervisor: {text}\n".encode())


def rotate(log: Path) -> None:
    """Keep one older log, so that an agent that fails for days does not fill the machine."""
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)


def supervise(command: Sequence[str], cgroup: str | None, log: Path, *, what: str = "agent") -> None:
    """Never returns. cgroup: None for the one that this process is in; what: the word for it in the log."""
    # Workers of a dead agent come to us; without this they would become zombies where pid 1 does not reap.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    delay_s = 0.0
    while True:
        started = time.monotonic()
        pid = start(command, cgroup)
        say(f"{what} started, pid {pid}")
        code = os.waitstatus_to_exitcode(wait_for(pid))
        delay_s = next_delay(time.monotonic() - started, delay_s)
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        say(f"{what} {pid} ended {how}; starting again" + (f" in {delay_s:g} s" if delay_s else ""))
        rotate(log)
        time.sleep(delay_s)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.supervisor", description=__doc__)
    parser.add_argument("--cgroup", required=True, help="cgroup v2 directory for the agent")
    parser.add_argument("--log", required=True, type=Path, help="file that standard output already goes to")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        sys.exit("no command")
    supervise(command, arguments.cgroup, arguments.log)


if __name__ == "__main__":
    main()
