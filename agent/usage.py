"""What a process uses, from /proc (proc(5))."""

import os
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/PID/stat behind the command's name, which may hold spaces and brackets
_UTIME, _STIME, _STARTED, _RSS = 11, 12, 19, 21


def usage_of(pid: int) -> dict[str, float]:
    """{"rss_bytes", "cpu_s", "up_s"}: resident now (pages shared with others counted in each), user and system time
    since the start, and how long ago that was; {} when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return {}
    started_s = int(fields[_STARTED]) / _TICKS_PER_S
    return {
        "rss_bytes": int(fields[_RSS]) * _PAGE_BYTES,
        "cpu_s": (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S,
        "up_s": round(max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s), 2),
    }
