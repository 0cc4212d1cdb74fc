"""What this machine lacks to steer connections, and what to do about it.

``python -m redirect.features`` prints one line when all is there; else what is missing, and exits 1.

The oldest kernel is 5.17: struct bpf_sk_lookup has ``ingress_ifindex`` since then (commit f89315650ba3), by which a
program tells the pod's own packets from those of others. What else is needed is older: SO_NETNS_COOKIE 5.14, sk_lookup
programs and the detaching of links 5.9, bpf_setsockopt in connect hooks and ring buffers 5.8, bpf_get_netns_cookie and
bpf_get_current_cgroup_id there 5.7.
BTF is not needed.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from redirect.errors import RedirectError

__all__ = ["MINIMUM_KERNEL", "Finding", "probe"]

MINIMUM_KERNEL = (5, 17)
DIST_PACKAGES = Path("/usr/lib/python3/dist-packages")
# include/uapi/linux/capability.h
NEEDED_CAPS = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 21: "CAP_SYS_ADMIN"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is missing, and what to do."""

    missing: str
    remedy: str


def probe() -> list[Finding]:
    """Everything that is missing; empty: steering can work. Changes nothing but, as root, mounts a bpffs."""
    checks = (_rights, _kernel, _cgroups, _libbpf, _bpffs, _bcc, _headers, _programs)
    found = []
    for check in checks:
        finding = check()
        if finding is not None:
            found.append(finding)
            if check is _rights:
                break  # without them the others would only find that they may not look
    return found


def kernel_version(release: str) -> tuple[int, int]:
    """``6.18.44-fc`` -> (6, 18).

    Raises:
        RedirectError: it does not begin with two numbers.
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        raise RedirectError(f"cannot read kernel release '{release}'")
    return int(match[1]), int(match[2])


def missing_caps(status: str) -> list[str]:
    """Names of the needed capabilities that the text of /proc/PID/status lacks in CapEff."""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    return [name for bit, name in NEEDED_CAPS.items() if not effective >> bit & 1]


def _rights() -> Finding | None:
    missing = missing_caps(Path("/proc/self/status").read_text(encoding="ascii"))
    if os.geteuid() != 0 or missing:
        what = f"root, with {', '.join(missing)}" if missing else "root"
        return Finding(what, "run as root; in a container, --privileged or these capabilities")
    return None


def _kernel() -> Finding | None:
    release = os.uname().release
    if kernel_version(release) < MINIMUM_KERNEL:
        return Finding(f"a kernel of {MINIMUM_KERNEL[0]}.{MINIMUM_KERNEL[1]} or newer: this is {release}", "upgrade it")
    return None


def _cgroups() -> Finding | None:
    from redirect.cgroups import find_root

    try:
        find_root()
    except RedirectError as error:
        return Finding("cgroup v2", str(error))
    return None


def _libbpf() -> Finding | None:
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError:
        return Finding("libbpf.so.1", "apt-get install libbpf1")
    return None


def _bpffs() -> Finding | None:
    from redirect.bpffs import ensure_mounted

    try:
        ensure_mounted()
    except (RedirectError, OSError) as error:
        return Finding(f"a bpffs: {error}", "mount -t bpf bpf /sys/fs/bpf")
    return None


def _bcc() -> Finding | None:
    if not (DIST_PACKAGES / "bcc" / "__init__.py").exists():
        return Finding("the BPF compiler", "apt-get install python3-bpfcc (not PyPI's 'bcc', which is something else)")
    return None


def _headers() -> Finding | None:
    try:
        from redirect.loader import find_headers

        find_headers()
    except RedirectError as error:
        return Finding(f"kernel headers: {error}", "./dev setup, or name a tree in BCC_KERNEL_SOURCE")
    return None


def _programs() -> Finding | None:
    """The one true probe: ask the kernel for each kind of program that we load."""
    try:
        from redirect import libbpf
    except RedirectError:
        return None  # libbpf itself is missing, which was said
    # r0 = 1; exit
    code = bytes([0xB7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])
    for name, kind, attach in (
        ("sk_lookup", libbpf.PROG_SK_LOOKUP, libbpf.SK_LOOKUP),
        ("cgroup/connect4", libbpf.PROG_CGROUP_SOCK_ADDR, libbpf.CGROUP_INET4_CONNECT),
        ("cgroup/connect6", libbpf.PROG_CGROUP_SOCK_ADDR, libbpf.CGROUP_INET6_CONNECT),
        ("cgroup/sendmsg4", libbpf.PROG_CGROUP_SOCK_ADDR, libbpf.CGROUP_UDP4_SENDMSG),
        ("cgroup/sendmsg6", libbpf.PROG_CGROUP_SOCK_ADDR, libbpf.CGROUP_UDP6_SENDMSG),
        ("sock_ops", libbpf.PROG_SOCK_OPS, libbpf.CGROUP_SOCK_OPS),
    ):
        try:
            os.close(libbpf.load_program("probe", kind, attach, code))
        except RedirectError as error:
            return Finding(
                f"{name} programs: {error}", "a kernel with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF, CONFIG_INET"
            )
    return None


def main() -> int:
    found = probe()
    for one in found:
        print(f"missing: {one.missing}\n   what to do: {one.remedy}", file=sys.stderr)
    if found:
        return 1
    print(f"kernel {os.uname().release}: everything that steering needs is there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
