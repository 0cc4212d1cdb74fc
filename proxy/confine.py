"""A worker gives up every privilege before it reads its first hostile byte.

The bounding set is emptied first (that needs CAP_SETPCAP), then the uid changes, which clears the permitted and
effective sets (capabilities(7), "Effect of user ID changes"), then no_new_privs shuts the door. The process is made
undumpable, so that nothing of its own uid can attach to it.

Last, bpf(2) is taken away by a seccomp filter. A worker holds the descriptors of the kernel's links, so that
enforcement outlives a lost bpffs, and BPF_LINK_DETACH asks for the descriptor and for no capability: a worker that an
attacker owns could end enforcement in every pod of the node (seen).
"""

import ctypes
import os
import resource
import struct

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_libc = ctypes.CDLL(None, use_errno=True)

# uapi/linux/audit.h AUDIT_ARCH_*, and the number of bpf(2) there
_BPF_SYSCALL = {"x86_64": (0xC000003E, 321), "aarch64": (0xC00000B7, 280)}
_LD_ABS, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06  # uapi/linux/bpf_common.h: classic BPF, words
_RET_KILL, _RET_EPERM, _RET_ALLOW = 0x80000000, 0x00050001, 0x7FFF0000  # uapi/linux/seccomp.h
_X32 = 0x40000000  # the bit of x86-64's other table of system calls, which we do not use


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


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
    _refuse_bpf()
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


def _refuse_bpf() -> None:
    """EPERM for bpf(2) from now on; the end of the process for system calls of another architecture's numbers."""
    machine = os.uname().machine
    if machine not in _BPF_SYSCALL:
        raise RuntimeError(f"cannot take bpf(2) from a worker on '{machine}'")
    arch, number = _BPF_SYSCALL[machine]
    code = [  # (code, jump if true, jump if false, operand): struct sock_filter
        (_LD_ABS, 0, 0, 4),  # seccomp_data.arch
        (_JEQ, 1, 0, arch),
        (_RET, 0, 0, _RET_KILL),
        (_LD_ABS, 0, 0, 0),  # seccomp_data.nr
        (_JEQ, 1, 0, number),
        (_JGE, 0, 1, _X32),
        (_RET, 0, 0, _RET_EPERM),
        (_RET, 0, 0, _RET_ALLOW),
    ]
    data = b"".join(struct.pack("=HBBI", *one) for one in code)
    program = _Program(len(code), data)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def _prctl(option: int, argument: int, pointer: int = 0) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(pointer), 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {argument}): {os.strerror(code)}")
