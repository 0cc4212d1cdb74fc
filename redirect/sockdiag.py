"""The connections of a pod as the kernel has them, and an end to one: sock_diag over a netlink socket of our own.

For ``onChange: close-denied``, which reaches connections that no worker sees, and for those that predate a policy. The
structs are those of include/uapi/linux/inet_diag.h; a netlink socket keeps its netns, so it is opened inside.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from redirect.errors import RedirectError, UnsupportedFeature, kernel_error
from redirect.netns import Netns
from redirect.types import Address

__all__ = ["Live", "connections", "destroy"]

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
REQUEST = struct.Struct("=BBBBI48s")  # struct inet_diag_req_v2; the last is struct inet_diag_sockid
MESSAGE = struct.Struct("=BBBB48s5I")  # struct inet_diag_msg
SOCKET_ID = struct.Struct("!HH16s16s")  # its ports and addresses; interface and cookie follow, in machine order
COOKIE = struct.Struct("=Q")
COOKIE_AT = 40
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
INET_DIAG_MARK, INET_DIAG_CGROUP_ID = 15, 21
STATES = {1: "established", 2: "syn_sent", 3: "syn_recv", 4: "fin_wait1", 5: "fin_wait2", 8: "close_wait"}  # bytes flow
LISTEN, CLOSE = 10, 7  # CLOSE: a UDP socket that is not connected
FAMILIES = (socket.AF_INET, socket.AF_INET6)
TIMEOUT_S = 5.0  # the kernel answers at once; this is for a machine that swaps
BUFFER = 1 << 18  # a dump message is at most 32 KiB


@dataclass(frozen=True, slots=True)
class Live:
    """One end, in the pod, of a TCP connection over which bytes can still go, or a connected UDP socket.

    ``inbound``: a socket of the same protocol listens on (UDP: is bound to) the local port, which says that the other
    side began it; a guess, as a client can use such a port too. ``mark`` and ``cgroup`` are the socket's own: our legs,
    steered connections and workers are known by them (0: not told by this kernel). ``uid``: whose it is, after an
    accept the accepting process's.
    """

    protocol: int
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    state: str
    cookie: int
    inbound: bool
    mark: int = 0
    cgroup: int = 0
    uid: int = 0
    family: int = socket.AF_INET  # of the socket: AF_INET6 also where the addresses are IPv4 (::ffff:a.b.c.d)
    socket_id: bytes = field(default=b"", repr=False)


def connections(netns: Netns) -> list[Live]:
    """All that the pod has, IPv4 and IPv6, those over lo included.

    Raises:
        RedirectError: the kernel refused.
    """
    found: list[Live] = []
    with _open(netns) as sock:
        for protocol, awaiting in ((socket.IPPROTO_TCP, LISTEN), (socket.IPPROTO_UDP, CLOSE)):
            states = 1 << awaiting
            for state in STATES if protocol == socket.IPPROTO_TCP else (1,):
                states |= 1 << state
            raw = [one for family in FAMILIES for one in _dump(sock, family, protocol, states)]
            open_ports = {SOCKET_ID.unpack_from(one, 4)[0] for one in raw if one[1] == awaiting}
            found += [_live(one, protocol, open_ports) for one in raw if one[1] != awaiting]
    return found


def destroy(netns: Netns, live: Live) -> bool:
    """End that connection: the app gets ECONNABORTED, a TCP peer a reset. False: it had ended before.

    Raises:
        UnsupportedFeature: the kernel was built without CONFIG_INET_DIAG_DESTROY.
        RedirectError: it refused.
    """
    request = REQUEST.pack(live.family, live.protocol, 0, 0, 0xFFFFFFFF, live.socket_id)
    with _open(netns) as sock:
        _send(sock, SOCK_DESTROY, NLM_F_ACK, request)
        for code, _ in _answers(sock):
            if code in (errno.ENOENT, errno.ESTALE):
                return False
            if code == errno.EOPNOTSUPP:
                raise UnsupportedFeature("ending connections of others (CONFIG_INET_DIAG_DESTROY)", since="4.5")
            if code:
                raise kernel_error(f"cannot end the connection to '{live.remote}' port {live.remote_port}", code)
    return True


def _open(netns: Netns) -> socket.socket:
    with netns.entered():
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    sock.settimeout(TIMEOUT_S)
    return sock


def _dump(sock: socket.socket, family: int, protocol: int, states: int) -> list[bytes]:
    _send(sock, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, REQUEST.pack(family, protocol, 0, 0, states, bytes(48)))
    found = []
    for code, data in _answers(sock):
        if code == errno.ENOENT:
            return []  # a kernel without this family or protocol
        if code:
            raise kernel_error("cannot list connections", code)
        if data:
            found.append(data)
    return found


def _send(sock: socket.socket, kind: int, flags: int, body: bytes) -> None:
    sock.send(HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body)


def _answers(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    """(errno, body) until the last."""
    while True:
        try:
            data = sock.recv(BUFFER)
        except OSError as error:
            raise RedirectError(f"no answer from netlink: {error}") from error
        offset = 0
        while offset + HEADER.size <= len(data):
            length, kind, *_ = HEADER.unpack_from(data, offset)
            body = data[offset + HEADER.size : offset + length]
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                yield code, b""
                return
            yield 0, body
            offset += max(length + 3 & ~3, HEADER.size)


def _live(raw: bytes, protocol: int, open_ports: set[int]) -> Live:
    family, state, _, _, socket_id, _, _, _, uid, _ = MESSAGE.unpack_from(raw)
    local_port, remote_port, local, remote = SOCKET_ID.unpack_from(socket_id)
    attributes = dict(_attributes(raw[MESSAGE.size :]))
    return Live(
        protocol=protocol,
        local=_address(family, local),
        local_port=local_port,
        remote=_address(family, remote),
        remote_port=remote_port,
        state=STATES.get(state, str(state)),
        cookie=COOKIE.unpack_from(socket_id, COOKIE_AT)[0],
        inbound=local_port in open_ports,
        mark=int.from_bytes(attributes.get(INET_DIAG_MARK, b"")[:4], sys.byteorder),
        cgroup=int.from_bytes(attributes.get(INET_DIAG_CGROUP_ID, b"")[:8], sys.byteorder),
        uid=uid,
        family=family,
        socket_id=socket_id,
    )


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + ATTRIBUTE.size <= len(raw):
        length, kind = ATTRIBUTE.unpack_from(raw, offset)
        yield kind & 0x3FFF, raw[offset + ATTRIBUTE.size : offset + length]
        offset += max(length + 3 & ~3, ATTRIBUTE.size)


def _address(family: int, raw: bytes) -> Address:
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(raw[:4])
    address = ipaddress.IPv6Address(raw)
    return address.ipv4_mapped or address
