"""Live connections of a netns, and ending single ones: sock_diag(7) over a netlink socket opened inside.

Only what has a peer is told of: TCP connections that can carry data, and connected UDP sockets.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from redirect.errors import RedirectError, kernel_error
from redirect.netns import Netns

__all__ = ["Live", "connections", "destroy"]

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21  # include/uapi/linux/sock_diag.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
REQUEST = struct.Struct("=BBBxI48s")  # struct inet_diag_req_v2
MESSAGE = struct.Struct("=BBBB48sIIIII")  # struct inet_diag_msg
SOCKET_ID = struct.Struct("!HH16s16s12x")  # struct inet_diag_sockid, without the device and the cookie at its end

# include/net/tcp_states.h
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE, CLOSE_WAIT, LISTEN = 1, 4, 5, 7, 8, 10
OPEN = 1 << ESTABLISHED | 1 << FIN_WAIT1 | 1 << FIN_WAIT2 | 1 << CLOSE_WAIT
WAITING = {socket.IPPROTO_TCP: 1 << LISTEN, socket.IPPROTO_UDP: 1 << CLOSE}  # UDP: bound and not connected
TIMEOUT_S = 5.0
BUFFER = 1 << 18
FAMILIES = (int(socket.AF_INET), int(socket.AF_INET6))


@dataclass(frozen=True, slots=True)
class Live:
    """One socket with a peer.

    Addresses are plain text (no ``::ffff:``). inbound: something waits at its local port, so the other side most likely
    began it. uid: its owner. identity: what `destroy` finds it by, and no other.
    """

    protocol: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    inbound: bool
    uid: int
    family: int
    identity: bytes


def connections(netns: Netns) -> list[Live]:
    """Every one, IPv4 and IPv6, in no order.

    Raises:
        RedirectError: the kernel does not tell.
    """
    found: list[Live] = []
    with _open(netns) as sock:
        for protocol, waiting in WAITING.items():
            waits = {
                SOCKET_ID.unpack(identity)[0]
                for family in FAMILIES
                for identity, _ in _dump(sock, family, protocol, waiting)
            }
            states = OPEN if protocol == socket.IPPROTO_TCP else 1 << ESTABLISHED
            for family in FAMILIES:
                for identity, uid in _dump(sock, family, protocol, states):
                    sport, dport, src, dst = SOCKET_ID.unpack(identity)
                    local, remote = _text(family, src), _text(family, dst)
                    found.append(Live(protocol, local, sport, remote, dport, sport in waits, uid, family, identity))
    return found


def destroy(netns: Netns, live: Live) -> bool:
    """End one connection: both sides see a reset. False when it had ended already.

    Raises:
        RedirectError: the kernel refused, or cannot do that (CONFIG_INET_DIAG_DESTROY).
    """
    with _open(netns) as sock:
        request = REQUEST.pack(live.family, live.protocol, 0, OPEN, live.identity)
        _send(sock, SOCK_DESTROY, NLM_F_ACK, request)
        for kind, data in _answers(sock):
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", data)[0]
                if code and code != errno.ENOENT:
                    raise kernel_error("cannot end a connection", code)
                return not code
    return False


def _open(netns: Netns) -> socket.socket:
    with netns.entered():
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    sock.settimeout(TIMEOUT_S)
    return sock


def _dump(sock: socket.socket, family: int, protocol: int, states: int) -> Iterator[tuple[bytes, int]]:
    _send(sock, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, REQUEST.pack(family, protocol, 0, states, bytes(48)))
    for kind, data in _answers(sock):
        if kind == NLMSG_ERROR:
            raise kernel_error("cannot list connections", -struct.unpack_from("=i", data)[0])
        fields = MESSAGE.unpack_from(data)
        yield fields[4], fields[8]


def _send(sock: socket.socket, kind: int, flags: int, payload: bytes) -> None:
    sock.send(HEADER.pack(HEADER.size + len(payload), kind, NLM_F_REQUEST | flags, 1, 0) + payload)


def _answers(sock: socket.socket) -> list[tuple[int, bytes]]:
    """(kind, payload) of each message of one answer, up to its end or its error; all of it, so that the next request
    meets none of it."""
    found: list[tuple[int, bytes]] = []
    while True:
        try:
            data = sock.recv(BUFFER)
        except OSError as error:
            raise RedirectError(f"no answer from netlink: {os.strerror(error.errno or 0)}") from error
        offset = 0
        while offset + HEADER.size <= len(data):
            length, kind, _, _, _ = HEADER.unpack_from(data, offset)
            if kind == NLMSG_DONE:
                return found
            found.append((kind, data[offset + HEADER.size : offset + length]))
            if kind == NLMSG_ERROR:
                return found
            offset += (length + 3) & ~3


def _text(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return str(ipaddress.IPv4Address(raw[:4]))
    address = ipaddress.IPv6Address(raw)
    return str(address.ipv4_mapped or address)
