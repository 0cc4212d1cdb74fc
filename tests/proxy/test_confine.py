"""What a confined process can no longer do; each in a process of its own, as there is no way back."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

CONFINED = """
import ctypes, errno, os, sys
from proxy.confine import capabilities, confine
libc = ctypes.CDLL(None, use_errno=True)
NUMBER = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
LINK_DETACH = 34

def bpf(command):
    attributes = (ctypes.c_uint32 * 16)(1_000_000)  # a descriptor that is not there
    code = libc.syscall(NUMBER, command, attributes, 64)
    return errno.errorcode[ctypes.get_errno()] if code < 0 else "done"

print(bpf(LINK_DETACH))
confine(64738)
print(bpf(LINK_DETACH), *{bpf(command) for command in range(38)}, any(capabilities().values()), os.getuid())
print(os.getpid() == os.getppid(), os.uname().sysname)
"""


def test_a_worker_that_holds_a_link_cannot_detach_it() -> None:
    done = subprocess.run([sys.executable, "-c", CONFINED], capture_output=True, text=True, check=True)  # noqa: S603  fixed
    assert done.stdout.splitlines() == ["EBADF", "EPERM EPERM False 64738", "False Linux"]
