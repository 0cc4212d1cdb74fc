"""A worker gives up every privilege before it reads its first hostile byte.

The bounding set is emptied first (that needs CAP_SETPCAP), then the uid changes, which clears the permitted and
effective sets (capabilities(7), "Effect of user ID changes"), then no_new_privs shuts the door. The process is made
undumpable, so that nothing of its own uid can attach to it.
"""

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


def confine(uid: int) -> None:
    """Drop to `uid` (also the gid) without groups, capabilities or a way back, and check that it is so.

    Raises:
        OSError: the kernel refused a step.
        RuntimeError: a capability is left; the caller must not go on.
    """
    raise_descriptor_limit()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold what passed through
    for number in range(_last_capability() + 1):
        _prctl(_PR_CAPBSET_DROP, number)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    left = capabilities()
    if any(left.values()):
        raise RuntimeError(f"capabilities are left after the drop: {left}")


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open descriptors to the hard one: each proxied connection takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def capabilities() -> dict[str, int]:
    """The capability sets of this process as masks, from /proc/self/status."""
    with open("/proc/self/status") as file:  # noqa: PTH123  one read of a proc file, nothing to resolve
        return {line.split(":")[0]: int(line.split()[1], 16) for line in file if line.startswith("Cap")}


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as file:  # noqa: PTH123  one read of a proc file, nothing to resolve
        return int(file.read())


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {argument}): {os.strerror(code)}")
