"""Ways around, run inside a pod: `python evasions.py < JSON`, prints one outcome per way as JSON.

Input: {"uid", "host" (address of the server), "link_local" (of the server), "self" (own address), "marks": [numbers],
"ways": [names], "unanswered": [those of them that are given up soon], "targets": {name: {"port", "request" (text sent
once connected)}}}. Output: {target: {way: outcome}}. An outcome is the status line's code of the answer ("200"), or the
name of the error ("EPERM"), or "silence" when nothing came in time, or "closed".

Standard library only and imported before the uid changes: an unprivileged user may not see the checkout.
"""

import contextlib
import ctypes
import encodings.idna
import errno
import json
import mmap
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

assert encodings.idna  # used by connect(2) of names; must be loaded before the uid changes

SO_BINDTOIFINDEX = 62
SO_MARK = 36
IP_OPTIONS, IP_FREEBIND, IP_TRANSPARENT, IP_UNICAST_IF = 4, 15, 19, 50
IPV6_ADDRFORM, IPV6_PKTINFO, IPV6_RTHDR, IPV6_UNICAST_IF, IPV6_TRANSPARENT, IPV6_FREEBIND = 1, 50, 57, 76, 75, 78
TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE = 30, 34
MSG_FASTOPEN = 0x20000000
IPPROTO_MPTCP = 262
TIMEOUT_S = 5.0
SHORT_TIMEOUT_S = 0.7
"""For ways that nobody answers."""

Spec = dict[str, Any]
Way = Callable[["Attempt"], socket.socket]
WAYS: dict[str, Way] = {}


IPV4_ALONE = frozenset(
    (
        "mapped_address",
        "mapped_address_bound_to_device",
        "turned_into_ipv4",
        "loose_source_route",
        "strict_source_route",
        "source_route_to_nowhere",
        "source_route_to_loopback",
    )
)
IPV6_ALONE = frozenset(
    (
        "link_local_source",
        "packet_info",
        "routing_header_2",
        "routing_header_4",
        "routing_header_4_by_loopback",
        "routing_header_4_by_self",
        "routing_header_after_a_deferred_connect",
    )
)


def ways(family: str) -> list[str]:
    """Names of the ways that make sense in a family, "ipv4" or "ipv6"."""
    others = IPV6_ALONE if family == "ipv4" else IPV4_ALONE
    return [name for name in WAYS if name not in others]


def way(function: Way) -> Way:
    """Register one way under its name."""
    WAYS[function.__name__] = function
    return function


class Attempt:
    """What one way may use."""

    def __init__(self, spec: Spec) -> None:
        self.host: str = spec["host"]
        self.port: int = spec["port"]
        self.own: str = spec["self"]
        self.link_local: str = spec["link_local"]
        self.request: bytes = spec["request"].encode()
        self.marks: list[int] = spec["marks"]
        self.family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.six = self.family == socket.AF_INET6
        self.timeout_s: float = TIMEOUT_S
        self.eth0 = socket.if_nametoindex("eth0")

    def tcp(self, family: int = 0, protocol: int = 0) -> socket.socket:
        """A TCP socket with a time-out."""
        sock = socket.socket(family or self.family, socket.SOCK_STREAM, protocol)
        sock.settimeout(self.timeout_s)
        return sock

    def connected(self, sock: socket.socket) -> socket.socket:
        """The socket, connected to the server."""
        sock.connect((self.host, self.port))
        return sock

    def deferred(self) -> socket.socket:
        """A socket whose connect was judged and whose SYN waits for the first byte."""
        sock = self.tcp()
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
        return self.connected(sock)


@way
def plainly(a: Attempt) -> socket.socket:
    """No trick: what all others are compared with."""
    return a.connected(a.tcp())


@way
def bound_to_device(a: Attempt) -> socket.socket:
    sock = a.tcp()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    return a.connected(sock)


@way
def bound_to_ifindex(a: Attempt) -> socket.socket:
    sock = a.tcp()
    sock.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, a.eth0)
    return a.connected(sock)


@way
def bound_to_device_after_a_deferred_connect(a: Attempt) -> socket.socket:
    sock = a.deferred()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    return sock


@way
def mark_cleared_after_a_deferred_connect(a: Attempt) -> socket.socket:
    sock = a.deferred()
    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, 0)
    return sock


@way
def mark_changed_while_connecting(a: Attempt) -> socket.socket:
    """One thread connects, the other clears the mark without pause."""
    sock = a.tcp()
    sock.setblocking(False)
    over = False

    def clear() -> None:
        while not over:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, SO_MARK, 0)

    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, 0)  # refused: nothing to try
    thread = threading.Thread(target=clear)
    thread.start()
    try:
        time.sleep(0.01)
        sock.connect_ex((a.host, a.port))
        time.sleep(0.05)
    finally:
        over = True
        thread.join()
    sock.settimeout(a.timeout_s)
    return sock


@way
def link_local_destination(a: Attempt) -> socket.socket:
    sock = a.tcp(socket.AF_INET6)
    sock.connect((a.link_local, a.port, 0, a.eth0))
    return sock


@way
def link_local_source(a: Attempt) -> socket.socket:
    own = next(line.split() for line in open("/proc/net/if_inet6") if line.startswith("fe80"))  # noqa: PTH123, SIM115  one read of a proc file
    sock = a.tcp(socket.AF_INET6)
    sock.bind((":".join(own[0][at : at + 4] for at in range(0, 32, 4)), 0, 0, a.eth0))
    return a.connected(sock)


@way
def mapped_address(a: Attempt) -> socket.socket:
    sock = a.tcp(socket.AF_INET6)
    sock.connect((f"::ffff:{a.host}", a.port))
    return sock


@way
def mapped_address_bound_to_device(a: Attempt) -> socket.socket:
    sock = a.tcp(socket.AF_INET6)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    sock.connect((f"::ffff:{a.host}", a.port))
    return sock


def _marked(a: Attempt, mark: int) -> socket.socket:
    sock = a.tcp()
    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
    return a.connected(sock)


@way
def forged_leg_mark(a: Attempt) -> socket.socket:
    return _marked(a, a.marks[0])


@way
def forged_steer_mark(a: Attempt) -> socket.socket:
    return _marked(a, a.marks[1])


@way
def leg_mark_after_a_deferred_connect(a: Attempt) -> socket.socket:
    sock = a.deferred()
    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, a.marks[0])
    return sock


@way
def stale_mark(a: Attempt) -> socket.socket:
    """Steered once, dissolved, and used again."""
    sock = a.connected(a.tcp())
    libc_connect_unspec(sock)
    return a.connected(sock)


@way
def again_after_a_refusal(a: Attempt) -> socket.socket:
    sock = a.tcp()
    with contextlib.suppress(OSError):
        sock.connect((a.host, 9))
    return a.connected(sock)


def libc_connect_unspec(sock: socket.socket) -> None:
    """connect(2) with AF_UNSPEC, which dissolves a connection; Python's socket has no way to say it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), bytes(28), 28) != 0:
        raise OSError(ctypes.get_errno(), "connect")


@way
def bound_before(a: Attempt) -> socket.socket:
    sock = a.tcp()
    sock.bind((a.own, 0))
    return a.connected(sock)


@way
def fast_open(a: Attempt) -> socket.socket:
    sock = a.tcp()
    sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
    sock.sendto(a.request, MSG_FASTOPEN, (a.host, a.port))
    return sock


@way
def multipath(a: Attempt) -> socket.socket:
    return a.connected(a.tcp(protocol=IPPROTO_MPTCP))


@way
def multipath_bound_to_device(a: Attempt) -> socket.socket:
    sock = a.tcp(protocol=IPPROTO_MPTCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    return a.connected(sock)


@way
def multipath_fast_open(a: Attempt) -> socket.socket:
    sock = a.tcp(protocol=IPPROTO_MPTCP)
    sock.setblocking(True)  # or it says "in progress" and has taken nothing
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(a.timeout_s), 0))
    sock.sendto(a.request, MSG_FASTOPEN, (a.host, a.port))
    return sock


@way
def unicast_if(a: Attempt) -> socket.socket:
    sock = a.tcp()
    if a.six:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_IF, struct.pack("!I", a.eth0))
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_UNICAST_IF, struct.pack("!I", a.eth0))
    return a.connected(sock)


@way
def do_not_route(a: Attempt) -> socket.socket:
    sock = a.tcp()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    return a.connected(sock)


@way
def packet_info(a: Attempt) -> socket.socket:
    sock = a.tcp()
    info = socket.inet_pton(socket.AF_INET6, a.own) + struct.pack("I", a.eth0)
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_PKTINFO, info)
    return a.connected(sock)


def _source_routed(a: Attempt, kind: int) -> socket.socket:
    sock = a.tcp()
    # by way of the server itself: the route's one hop (RFC 791 3.1)
    sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, struct.pack("BBBB", 1, kind, 7, 4) + socket.inet_aton(a.host))
    return a.connected(sock)


@way
def loose_source_route(a: Attempt) -> socket.socket:
    return _source_routed(a, 0x83)


@way
def strict_source_route(a: Attempt) -> socket.socket:
    return _source_routed(a, 0x89)


@way
def source_route_to_nowhere(a: Attempt) -> socket.socket:
    """Connects to 0.0.0.0, which the hook takes for loopback, by way of the server."""
    sock = a.tcp()
    sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, struct.pack("BBBB", 1, 0x83, 7, 4) + socket.inet_aton(a.host))
    sock.connect(("0.0.0.0", a.port))  # noqa: S104  a destination
    return sock


@way
def source_route_to_loopback(a: Attempt) -> socket.socket:
    sock = a.tcp()
    sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, struct.pack("BBBB", 1, 0x83, 7, 4) + socket.inet_aton(a.host))
    sock.connect(("127.0.0.1", a.port))
    return sock


def _routing_header(a: Attempt, kind: int, left: int) -> bytes:
    address = socket.inet_pton(socket.AF_INET6, a.host)
    return struct.pack("BBBBI", 0, 2, kind, left, 0) + address


def _routed(a: Attempt, kind: int, left: int, to: str) -> socket.socket:
    sock = a.tcp()
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, _routing_header(a, kind, left))
    sock.connect((to, a.port))
    return sock


@way
def routing_header_2(a: Attempt) -> socket.socket:
    return _routed(a, 2, 1, a.host)


@way
def routing_header_4(a: Attempt) -> socket.socket:
    return _routed(a, 4, 0, a.host)


@way
def routing_header_4_by_loopback(a: Attempt) -> socket.socket:
    """The hook sees ::1; the header's one segment is the server."""
    return _routed(a, 4, 0, "::1")


@way
def routing_header_4_by_self(a: Attempt) -> socket.socket:
    return _routed(a, 4, 0, a.own)


@way
def routing_header_after_a_deferred_connect(a: Attempt) -> socket.socket:
    sock = a.deferred()
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, _routing_header(a, 4, 0))
    return sock


@way
def unspecified_from_a_foreign_source(a: Attempt) -> socket.socket:
    """0.0.0.0 stands for the socket's own source where it has one: here the server's address."""
    sock = a.tcp()
    if a.six:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    sock.bind((a.host, 0))
    sock.connect(("::" if a.six else "0.0.0.0", a.port))  # noqa: S104  a destination
    return sock


@way
def foreign_source_not_checked(a: Attempt) -> socket.socket:
    sock = a.tcp()
    if a.six:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    sock.bind((a.host, 0))
    return a.connected(sock)


@way
def foreign_source_transparent(a: Attempt) -> socket.socket:
    sock = a.tcp()
    if a.six:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    sock.bind((a.host, 0))
    return a.connected(sock)


@way
def turned_into_ipv4(a: Attempt) -> socket.socket:
    """An IPv6 socket, connected by a mapped address, that becomes an IPv4 one and connects again."""
    sock = a.tcp(socket.AF_INET6)
    sock.connect((f"::ffff:{a.host}", a.port))
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_ADDRFORM, socket.AF_INET)
    old = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=sock.detach())
    old.settimeout(a.timeout_s)
    libc_connect_unspec(old)
    return a.connected(old)


@way
def by_io_uring(a: Attempt) -> socket.socket:
    """IORING_OP_CONNECT, by raw system calls (x86-64 and arm64 have the same numbers)."""
    libc = ctypes.CDLL(None, use_errno=True)
    params = ctypes.create_string_buffer(120)
    ring = libc.syscall(425, 4, params)
    if ring < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    sq_off = struct.unpack_from("10I", params, 40)
    cq_off = struct.unpack_from("10I", params, 80)
    submissions = mmap.mmap(ring, 4096, offset=0)
    completions = mmap.mmap(ring, 4096, offset=0x8000000)
    entries = mmap.mmap(ring, 4 * 64, offset=0x10000000)
    sock = a.tcp()
    if a.six:
        address = (
            struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", a.port, 0) + socket.inet_pton(a.family, a.host)
        )
        address += bytes(4)
    else:
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", a.port) + socket.inet_aton(a.host) + bytes(8)
    memory = ctypes.create_string_buffer(address, len(address))
    # struct io_uring_sqe: opcode 16 (CONNECT), fd, off = length of the address, addr
    entries[0:64] = struct.pack("=BBHiQQ", 16, 0, 0, sock.fileno(), len(address), ctypes.addressof(memory)).ljust(
        64, b"\0"
    )
    submissions[sq_off[6] : sq_off[6] + 4] = bytes(4)
    submissions[sq_off[1] : sq_off[1] + 4] = struct.pack("I", 1)
    sock.setblocking(True)
    if libc.syscall(426, ring, 1, 1, 1, None, 0) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_enter")
    _, result = struct.unpack_from("=Qi", completions, cq_off[5])
    os.close(ring)
    if result < 0:
        raise OSError(-result, "connect")
    sock.settimeout(a.timeout_s)
    return sock


def answer(sock: socket.socket, request: bytes) -> str:
    """Send the request and give the status of the answer."""
    if request:
        with contextlib.suppress(BlockingIOError):
            sock.sendall(request)
    data = b""
    try:
        while b"\r\n" not in data:
            chunk = sock.recv(4096)
            if not chunk:
                return "closed"
            data += chunk
    except (TimeoutError, BlockingIOError):
        return "silence"
    return data.split(b" ")[1].decode()


def attempt(name: str, spec: Spec) -> str:
    """The outcome of one way."""
    trying = Attempt(spec)
    if name in spec["unanswered"]:
        trying.timeout_s = SHORT_TIMEOUT_S
    try:
        with contextlib.closing(WAYS[name](trying)) as sock:
            return answer(sock, b"" if name.endswith("fast_open") else trying.request)
    except TimeoutError:
        return "silence"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def main() -> None:
    """Try what standard input says."""
    spec: Spec = json.load(sys.stdin)
    if spec["uid"]:
        os.setgroups([])
        os.setresgid(spec["uid"], spec["uid"], spec["uid"])
        os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    results: dict[str, dict[str, str]] = {target: {} for target in spec["targets"]}

    def run(target: str, name: str) -> None:
        results[target][name] = attempt(name, spec | spec["targets"][target])

    threads = [threading.Thread(target=run, args=(target, name)) for target in spec["targets"] for name in spec["ways"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
