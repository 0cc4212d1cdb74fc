"""Pods for the kernel tests: a bridge in a node netns, pods on it, cgroups, and code run inside with chosen rights."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any  # Any: what a command inside a pod prints as JSON

from redirect.cgroups import find_root
from redirect.netns import Netns
from redirect.types import Address

PREFIX4, PREFIX6 = "10.77.0", "fd77:0:0:1"
NETNS_DIR = Path("/var/run/netns")
# Docker's and containerd's default set, as bits: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
# net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap
CONTAINER_CAPS = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31})

# Runs before the code of a test: go inside, then give rights up. Not by a second exec: the interpreter may lie where
# uid 65534 cannot read it, so everything is imported before.
ENTER = """
import ctypes, errno, json, os, select, socket, struct, sys, threading, time
netns, cgroup, who, code = sys.argv[1:5]
with open(cgroup + "/cgroup.procs", "w") as procs: procs.write("0")
os.setns(os.open(netns, os.O_RDONLY), os.CLONE_NEWNET)
libc = ctypes.CDLL(None, use_errno=True)
if who == "container":
    keep = {KEEP}
    for cap in range(41):
        if cap not in keep: libc.prctl(24, cap, 0, 0, 0)  # PR_CAPBSET_DROP
    bits = sum(1 << cap for cap in keep)
    low, high = bits & 0xffffffff, bits >> 32
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    if libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)) != 0: raise SystemExit("capset")
elif who == "nobody":
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.argv = sys.argv[4:]
exec(compile(code, "<pod>", "exec"), globals())
""".replace("{KEEP}", repr(set(CONTAINER_CAPS)))

HELPERS = """
def attempt(host, port, *, family=None, before=None, after=None, timeout=3.0):
    '''Connect and read one line: ("ok", line) or (errno name, "").'''
    family = family or (socket.AF_INET6 if ":" in host else socket.AF_INET)
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(timeout)
    try:
        peer = own = ""
        if before: before(s)
        s.connect((host, port))
        if after: after(s)
        s.sendall(b"hello\\n")
        line = s.makefile().readline().strip()
        if line: peer, own = s.getpeername()[0], s.getsockname()[0]
        return "ok", line, peer, own
    except TimeoutError:
        return "TIMEOUT", "", "", ""
    except OSError as e:
        return errno.errorcode[e.errno], "", "", ""
    finally:
        s.close()
def say(value): print(json.dumps(value))
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)  # noqa: S603 - ip(8) with names of our own


class App:
    """A server in a pod: answers each line with "<peer address> <own address> <name>"."""

    def __init__(self, netns: Netns, family: int, port: int, name: str = "app", host: str | None = None) -> None:
        with netns.entered():
            self.sock = socket.socket(family, socket.SOCK_STREAM)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.sock.bind((host or ("::" if family == socket.AF_INET6 else "0.0.0.0"), port))  # noqa: S104 - a pod's app
            self.sock.listen(64)
        self.name = name
        self.seen: list[str] = []
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, name=f"app {name}", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                conn, peer = self.sock.accept()
            except OSError:
                return
            self.seen.append(peer[0])
            threading.Thread(target=self._answer, args=(conn, peer), daemon=True).start()

    def _answer(self, conn: socket.socket, peer: tuple[str, int]) -> None:
        with conn:
            try:
                while data := conn.recv(4096):
                    self.heard.append(data)
                    conn.sendall(f"{peer[0]} {conn.getsockname()[0]} {self.name}\n".encode())
            except OSError:
                return

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self._thread.join(5)


class Inside:
    """A netns and a cgroup to run code in."""

    netns_name: str
    cgroup: Path

    def start(self, code: str, *arguments: str, who: str = "nobody") -> subprocess.Popen[str]:
        """Start Python code inside, as ``nobody`` (uid 65534), ``container`` (default capabilities) or ``root``."""
        command = [sys.executable, "-S", "-E", "-c", ENTER, str(NETNS_DIR / self.netns_name), str(self.cgroup), who]
        text = HELPERS + textwrap.dedent(code)
        return subprocess.Popen(  # noqa: S603 - our own interpreter
            [*command, text, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, *arguments: str, who: str = "nobody", timeout_s: float = 30) -> Any:
        """Run Python code inside and return the JSON it said."""
        with self.start(code, *arguments, who=who) as process:
            out, err = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, err
        return json.loads(out.splitlines()[-1])

    def connect(self, host: str, port: int, *, who: str = "nobody", before: str = "None", after: str = "None") -> Any:
        """Connect from inside and read a line: [outcome, line, getpeername, getsockname]."""
        return self.run(f"say(attempt({host!r}, {port}, before={before}, after={after}))", who=who)


class Node(Inside):
    """The node's own netns, with a cgroup for its processes."""

    def __init__(self, net: Net) -> None:
        self.netns_name, self.cgroup = net.name, net.cgroup / "node"
        self.cgroup.mkdir()
        self.netns = Netns.open(NETNS_DIR / net.name)

    def close(self) -> None:
        self.netns.close()


class Pod(Inside):
    """One pod: netns with eth0 on the node's bridge, a cgroup, an address per family."""

    def __init__(self, net: Net, name: str, number: int) -> None:
        self.net, self.name, self.number = net, name, number
        self.netns_name = f"{net.name}-{name}"
        self.ip4, self.ip6 = f"{PREFIX4}.{number}", f"{PREFIX6}::{number:x}"
        self.cgroup = net.cgroup / name
        self.cgroup.mkdir()
        run("ip", "netns", "add", self.netns_name)
        veth = f"{net.name[-5:]}{name}"
        run("ip", "-n", net.name, "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", self.netns_name)
        run("ip", "-n", net.name, "link", "set", veth, "master", "cni0", "up")
        self.netns = Netns.open(NETNS_DIR / self.netns_name)
        with self.netns.entered():  # an address must not be tentative when a test begins
            Path("/proc/sys/net/ipv6/conf/eth0/accept_dad").write_text("0", encoding="ascii")
        for command in (
            ["link", "set", "lo", "up"],
            ["link", "set", "eth0", "up"],
            ["addr", "add", f"{self.ip4}/24", "dev", "eth0"],
            ["addr", "add", f"{self.ip6}/64", "dev", "eth0", "nodad"],
            ["route", "add", "default", "via", f"{PREFIX4}.1"],
            ["-6", "route", "add", "default", "via", f"{PREFIX6}::1"],
        ):
            run("ip", "-n", self.netns_name, *command)

    @property
    def addresses(self) -> tuple[Address, Address]:
        return ipaddress.ip_address(self.ip4), ipaddress.ip_address(self.ip6)

    @property
    def link_local(self) -> str:
        """The fe80 address of eth0."""
        with self.netns.entered():
            lines = Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii").splitlines()
        (raw,) = (line.split()[0] for line in lines if line.startswith("fe80"))
        return str(ipaddress.IPv6Address(bytes.fromhex(raw)))

    def address(self, family: int) -> str:
        return self.ip6 if family == socket.AF_INET6 else self.ip4

    def close(self) -> None:
        self.netns.close()
        subprocess.run(["/sbin/ip", "netns", "del", self.netns_name], check=False, capture_output=True)  # noqa: S603 - our own netns


class Net:
    """A node netns with a bridge, and pods on it."""

    def __init__(self) -> None:
        self.name = f"tt-{secrets.token_hex(3)}"
        self.cgroup = find_root() / self.name
        self.pods: list[Pod] = []

    def pod(self, name: str) -> Pod:
        pod = Pod(self, name, len(self.pods) + 2)
        self.pods.append(pod)
        return pod

    def close(self) -> None:
        for pod in self.pods:
            pod.close()


@contextmanager
def network() -> Iterator[Net]:
    """A fresh node; everything in it goes at the end, whatever happened."""
    net = Net()
    with ExitStack() as stack:
        net.cgroup.mkdir()
        stack.callback(_remove_cgroup, net.cgroup)
        run("ip", "netns", "add", net.name)
        stack.callback(run, "ip", "netns", "del", net.name)
        for command in (
            ["link", "set", "lo", "up"],
            ["link", "add", "cni0", "type", "bridge", "forward_delay", "0"],
            ["addr", "add", f"{PREFIX4}.1/24", "dev", "cni0"],
            ["addr", "add", f"{PREFIX6}::1/64", "dev", "cni0", "nodad"],
            ["link", "set", "cni0", "up"],
        ):
            run("ip", "-n", net.name, *command)
        stack.callback(net.close)
        yield net


def _remove_cgroup(path: Path) -> None:
    for below in sorted(path.rglob("*/"), reverse=True):
        below.rmdir()
    path.rmdir()


@contextmanager
def visiting(cgroup: Path) -> Iterator[None]:
    """The test's own process is in another cgroup meanwhile: a socket keeps the one it was made in."""
    (line,) = (
        one for one in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines() if one.startswith("0::")
    )
    home = find_root() / line[4:]
    in_cgroup(cgroup)
    try:
        yield
    finally:
        in_cgroup(home)


def in_cgroup(path: Path) -> None:
    """Move the calling process to a cgroup."""
    (path / "cgroup.procs").write_text(str(os.getpid()))
