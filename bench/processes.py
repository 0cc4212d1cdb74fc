"""What processes and the machine have used, from /proc (proc(5)); and how many files they may open."""

import os
import resource
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/PID/stat behind the command's name, which is where they can be counted from
_PPID, _UTIME, _STIME, _RSS = 1, 11, 12, 21
_OPEN_FILES = 131_072  # both ends of 20,000 connections, and of a proxy that is told to be ready for more
_RESET_PEAK = "5"  # clear_refs: resets VmHWM (Linux 4.0)


def allow_many_files() -> int:
    """Let this process, and those that it starts, open as many files as can be; gives how many.

    Root without CAP_SYS_RESOURCE, as in many containers, cannot have more than it was given.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else max(hard, _OPEN_FILES)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return most
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass(frozen=True, slots=True)
class Usage:
    """cpu_s: seconds of user and system time so far; rss_bytes: resident now. Sums over processes."""

    cpu_s: float
    rss_bytes: int


def usage(pids: Iterable[int]) -> Usage:
    """What these processes have used together; one that is gone counts nothing."""
    ticks = pages = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
            ticks += int(fields[_UTIME]) + int(fields[_STIME])
            pages += int(fields[_RSS])
    return Usage(ticks / _TICKS_PER_S, pages * _PAGE_BYTES)


@dataclass(frozen=True, slots=True)
class Process:
    """parent: its pid. cpu_s: seconds of user and system time so far."""

    parent: int
    cpu_s: float


def everyone() -> dict[int, Process]:
    """All processes of this pid namespace."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text(encoding="latin-1").rpartition(")")[2].split()
                ticks = int(fields[_UTIME]) + int(fields[_STIME])
                found[int(entry.name)] = Process(int(fields[_PPID]), ticks / _TICKS_PER_S)
    return found


def descendants(root: int, among: Mapping[int, Process]) -> set[int]:
    """`root` and everything below it."""
    children: dict[int, list[int]] = {}
    for pid, process in among.items():
        children.setdefault(process.parent, []).append(pid)
    found, left = set(), [root]
    while left:
        found.add(pid := left.pop())
        left += children.get(pid, ())
    return found


def spent_between(before: Mapping[int, Process], after: Mapping[int, Process], without: Collection[int]) -> float:
    """Seconds of CPU time that processes other than `without` have taken; those that ended meanwhile are missed."""
    total = 0.0
    for pid, process in after.items():
        if pid not in without:
            earlier = before.get(pid)
            total += process.cpu_s - (earlier.cpu_s if earlier is not None and earlier.cpu_s <= process.cpu_s else 0.0)
    return total


def machine_busy_s() -> float:
    """Seconds that the machine's cores have worked so far, interrupts included, time taken by a hypervisor not."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:8]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields)
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def reset_peak(pids: Iterable[int]) -> None:
    """Let `peak_bytes` begin from now. Root may do it to every process."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def peak_bytes(pids: Iterable[int]) -> int:
    """The most that was resident since `reset_peak`, summed over the processes' own peaks."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
