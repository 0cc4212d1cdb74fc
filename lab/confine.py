"""Enter a pod as a container runtime would: cgroup, network, /etc/hosts, and no more capabilities than a container.

Standard library only: this is on the way of every `lab exec`. The calls are Linux's own, by ctypes where
Python has none: mount(2), prctl(2), capset(2).
"""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from lab.errors import LabError

_libc = ctypes.CDLL(None, use_errno=True)

# include/uapi/linux/mount.h
MS_BIND = 1 << 12
MS_REC = 1 << 14
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2

# include/uapi/linux/prctl.h
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

# What Docker and containerd give a container by default (moby/profiles, oci/caps/defaults.go), by number from
# include/uapi/linux/capability.h. NET_RAW is there, NET_ADMIN is not: policy must hold against exactly this.
CONTAINER_CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
    "MKNOD": 27,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}


class _CapHeader(ctypes.Structure):
    """struct __user_cap_header_struct."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    """struct __user_cap_data_struct: 32 capabilities; version 3 takes two of them."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """mount(2) without data; raises OSError that names the target."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), None)
    _check(result, f"mount on {target}")


def unmount(target: str) -> None:
    """umount2(2), detached; raises OSError that names the target."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"unmount {target}")


def join_cgroup(cgroup: str) -> None:
    """Move this process into a cgroup v2 directory. Its sockets belong there from now on."""
    # 0 is "the process that writes". One write(2): no buffering that could fail later, at close.
    descriptor = os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, b"0")
    finally:
        os.close(descriptor)


def join_netns(path: str) -> None:
    """Move this thread into a named network namespace."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.setns(descriptor, os.CLONE_NEWNET)
    finally:
        os.close(descriptor)


def private_files(files: dict[str, Path]) -> None:
    """Show `files` (path on the machine -> what to show there) to this process and its children alone.

    The rest of the file system stays the machine's own. A path that the machine does not have, such as a
    dangling /etc/resolv.conf, cannot be mounted over and stays absent.
    """
    os.unshare(os.CLONE_NEWNS)
    # Slave, not private: an unmount on the machine must reach us, or the copy of /run/netns/* in this mount
    # namespace would keep the network namespace of every pod alive that is deleted while the command runs.
    mount("none", "/", None, MS_REC | MS_SLAVE)
    for target, source in files.items():
        with suppress(FileNotFoundError):
            mount(str(source), target, None, MS_BIND)


def limit_capabilities() -> None:
    """Keep a container's default capabilities, across exec and for every user id."""
    keep = set(CONTAINER_CAPABILITIES.values())
    for number in range(64):
        if number not in keep and _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            _check(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), f"drop capability {number}")
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient capabilities")
    mask = sum(1 << number for number in keep)
    # Nothing inheritable: user id 0 gets the bounding set at exec (capabilities(7)), other users get nothing.
    data = (_CapData * 2)(_CapData(mask, mask, 0), _CapData(0, 0, 0))
    _check(_libc.capset(ctypes.byref(_CapHeader(_CAPABILITY_VERSION_3, 0)), data), "capset")


def enter_pod(netns: str, cgroup: str, files: Path) -> None:
    """Make this process one of the pod's; `files` is the folder with its hosts and resolv.conf.

    Raises:
        LabError: the pod is gone or this is not root.
    """
    try:
        # The cgroup first: `lab down` ends what it finds there, so from here on we cannot be forgotten.
        join_cgroup(cgroup)
        join_netns(netns)
        private_files({"/etc/hosts": files / "hosts", "/etc/resolv.conf": files / "resolv.conf"})
        limit_capabilities()
    except OSError as error:
        raise LabError(f"cannot enter the pod: {error}") from error
