"""The file system that pins live in."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from redirect.errors import RedirectError, kernel_error

__all__ = ["ensure_mounted", "is_bpffs"]

MOUNT_POINT = Path("/sys/fs/bpf")
BPF_FS_MAGIC = 0xCAFE4A11  # include/uapi/linux/magic.h


def is_bpffs(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` (or its nearest parent that exists) lies on a bpffs."""
    where = Path(path).resolve()
    while not where.exists():
        where = where.parent
    libc = ctypes.CDLL(None, use_errno=True)
    raw = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes on 64 bit; its first word is f_type
    if libc.statfs(os.fsencode(where), raw) != 0:
        raise kernel_error(f"cannot look at '{where}'", ctypes.get_errno())
    return ctypes.c_long.from_buffer(raw).value & 0xFFFFFFFF == BPF_FS_MAGIC


def ensure_mounted(path: str | os.PathLike[str] = MOUNT_POINT) -> Path:
    """Make ``path`` a directory on a bpffs; mount one at /sys/fs/bpf where there is none. Idempotent.

    Raises:
        RedirectError: it cannot be mounted, or ``path`` is on another file system.
    """
    where = Path(path)
    if not is_bpffs(where):
        if not where.is_relative_to(MOUNT_POINT):
            raise RedirectError(f"'{where}' is not on a bpffs and not under {MOUNT_POINT}")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"bpf", os.fsencode(MOUNT_POINT), b"bpf", 0, b"mode=0700") != 0:
            raise kernel_error(f"cannot mount bpffs at {MOUNT_POINT}", ctypes.get_errno())
    where.mkdir(parents=True, exist_ok=True)
    return where
