"""Sockets that live in a pod and are used from the node: listeners, and prepared upstream legs.

Only a privileged process can make them; an unprivileged one can use them: seen, a socket prepared by root (mark,
transparent, bound to lo) is bound to the client's address and connected by a process without capabilities.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Set as AbstractSet
from contextlib import suppress

from redirect.errors import RedirectError, kernel_error
from redirect.netns import Netns
from redirect.types import Direction

__all__ = ["LEG_MARK", "STEER_MARK", "listener_port", "open_listener", "prepared_leg"]

# Both are compared with a full mask. They use only bits that no one masks for itself: not kube-proxy's 0x4000 and
# 0x8000, Cilium's 0x0f00, Amazon VPC's 0x80, nor the upper half, where Calico (0xffff0000), Weave and Tailscale live.
# Two marks, not one: with one the app's steered SYN and our own leg take the same way, and that looped (seen).
LEG_MARK = 0x3051  # our upstream leg at the server; the app's side inherits it (tcp_fwmark_accept)
STEER_MARK = 0x3062  # written by the connect hooks: this connection goes to the egress listener

LISTENER_PORTS = range(20000, 60000)  # below the leg ports (61000 up), above what services usually choose
BACKLOG = 4096  # net.core.somaxconn cuts it; full means a SYN dropped and sent again after 1 s
ATTEMPTS = 64  # ports tried: with half of them taken, all fail once in 2**64

PACED = b"bbr"  # and its later versions: bbr2, bbr3
UNPACED = b"cubic"

IP_TRANSPARENT = 19  # include/uapi/linux/in.h
IPV6_TRANSPARENT = 75  # include/uapi/linux/in6.h
SO_BINDTOIFINDEX = 62  # include/uapi/asm-generic/socket.h, kernel 5.0; a third of what a device's name costs
LO_IFINDEX = 1  # include/net/flow.h LOOPBACK_IFINDEX: lo is 1 in every netns
_random = random.SystemRandom()  # apps must not be able to guess and take a port before us


def _transparent(sock: socket.socket, family: int) -> None:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)


def _choose_congestion_control(listener: socket.socket) -> None:
    """Let what a listener accepts send by CUBIC where the pod's default is BBR, which takes a sixth more CPU time for
    bulk (docs/decisions/0013-connection-set-up.md). Any other default is somebody's choice and stays, and so does BBR
    where CUBIC is not to be had."""
    default = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)  # TCP_CA_NAME_MAX
    if default.startswith(PACED):
        with suppress(OSError):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, UNPACED)


def _tcp(family: int) -> socket.socket:
    if family not in (socket.AF_INET, socket.AF_INET6):
        raise RedirectError(f"expected AF_INET or AF_INET6, got family {family}")
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP)


def listener_port(sock: socket.socket) -> int:
    """The port a listener is bound to."""
    port: int = sock.getsockname()[1]
    return port


def open_listener(
    netns: Netns, direction: Direction, family: int, device: str = "eth0", avoid: AbstractSet[int] = frozenset()
) -> socket.socket:
    """A non-blocking listener inside the pod on a random port that is not in ``avoid``.

    Ingress: bound to the pod's ``device``, so that its accepted sockets cannot match packets on lo. Egress: bound to
    lo, where steered connections arrive. Both are transparent: an accepted socket's own address is the original
    destination.

    Raises:
        RedirectError: the netns, the device or every port tried is not to be had.
    """
    try:
        with netns.entered():
            sock = _tcp(family)
            try:
                bound = device if direction == Direction.INGRESS else "lo"
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bound.encode() + b"\0")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                _transparent(sock, family)
                _choose_congestion_control(sock)
                _bind_random(sock, "::" if family == socket.AF_INET6 else "0.0.0.0", avoid)  # noqa: S104 - any original destination
                sock.listen(BACKLOG)
            except BaseException:
                sock.close()
                raise
    except OSError as error:
        raise kernel_error(f"cannot listen in netns '{netns.path}'", error.errno or 0) from error
    return sock


def _bind_random(sock: socket.socket, host: str, avoid: AbstractSet[int]) -> None:
    for _ in range(ATTEMPTS):
        port = _random.choice(LISTENER_PORTS)
        if port in avoid:
            continue
        try:
            sock.bind((host, port))
        except OSError:
            continue
        return
    raise RedirectError(f"no free port for a listener after {ATTEMPTS} attempts")


def prepared_leg(direction: Direction, family: int) -> socket.socket:
    """A non-blocking upstream socket for a worker, made in the netns the calling thread is in.

    Ingress: transparent, marked, bound to lo: the worker binds the client's address and a port of its choice, then
    connects to the original destination. SO_REUSEADDR lets it use a port in TIME_WAIT again. Egress: a plain socket.

    Raises:
        OSError: out of descriptors, or without CAP_NET_ADMIN.
    """
    sock = _tcp(family)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if direction == Direction.INGRESS:
            _transparent(sock, family)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, LEG_MARK)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, LO_IFINDEX)
    except BaseException:
        sock.close()
        raise
    return sock
