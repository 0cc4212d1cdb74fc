"""Capabilities: what the agent and the broker keep, and how the rest is given up for good.

ARCHITECTURE.md lists the same names and a test compares them with CapEff of the live processes. `capset(2)` and
`prctl(2)` through ctypes: the standard library has neither.
"""

import ctypes
import os

CAP = {
    "CHOWN": 0,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_ADMIN": 21,
    "BPF": 39,
}

AGENT_KEEPS = frozenset(CAP)
"""CHOWN: the workers' audit directory. KILL: workers have another uid. SETUID, SETGID, SETPCAP: a worker drops to that
uid and empties its bounding set. NET_ADMIN, NET_RAW: marks, transparent sockets, a pod's rules. SYS_ADMIN: entering a
pod's network namespace, cgroup programs. BPF: programs and maps."""
BROKER_KEEPS = frozenset({"SYS_ADMIN", "NET_ADMIN", "NET_RAW"})
"""Entering a pod's network namespace; marked and transparent sockets bound to a device."""

_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def keep_only(names: frozenset[str], *, no_new_privs: bool = False) -> None:
    """Keep these capabilities in the effective, permitted and bounding sets of this thread and drop all others.

    Call before any other thread is started: capabilities belong to a thread.

    Raises:
        OSError: the kernel refused, for example because one of `names` is not held.
    """
    keep = {CAP[name] for name in names}
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(_last_capability() + 1):
        if number not in keep:
            _prctl(_PR_CAPBSET_DROP, number)
    mask = sum(1 << number for number in keep)
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _libc.capset(header, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")
    if no_new_privs:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as file:  # noqa: PTH123  one read of a proc file, nothing to resolve
        return int(file.read())


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {argument}): {os.strerror(code)}")
