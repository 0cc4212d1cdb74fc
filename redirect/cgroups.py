"""Control groups, version 2: where they are mounted, and the number by which the kernel's programs know one."""

from __future__ import annotations

import os
from pathlib import Path

from redirect.errors import RedirectError, kernel_error

__all__ = ["cgroup_id", "find_root"]


def find_root(mounts: str | os.PathLike[str] = "/proc/self/mounts") -> Path:
    """The first mount point of cgroup v2: ``/sys/fs/cgroup``, or ``/sys/fs/cgroup/unified`` on a hybrid machine.

    Raises:
        RedirectError: it is not mounted.
    """
    for line in Path(mounts).read_text(encoding="utf-8").splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1].encode().decode("unicode_escape"))  # proc(5): space is written \040
    raise RedirectError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")


def cgroup_id(path: str | os.PathLike[str]) -> int:
    """What bpf_get_current_cgroup_id() gives for tasks in this directory: its inode number (64 bit, kernel 5.5).

    Raises:
        RedirectError: no such directory.
    """
    try:
        return Path(path).stat().st_ino
    except OSError as error:
        raise kernel_error(f"cannot use cgroup '{os.fspath(path)}'", error.errno or 0) from error
