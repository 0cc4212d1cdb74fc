"""What sockets that are made in a pod are set to."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from redirect.sockets import open_listener, prepared_leg
from redirect.types import Direction
from tests.redirect.pods import Pod, network

pytestmark = pytest.mark.root

AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text(encoding="ascii").split()
needs_bbr = pytest.mark.skipif("bbr" not in AVAILABLE, reason=f"this kernel has {AVAILABLE}")


def accepted_with(pod: Pod, default: str, direction: Direction, family: int) -> str:
    """The congestion control of what a listener accepts in a pod that has this default."""
    with pod.netns.entered():
        Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(default, encoding="ascii")
    with open_listener(pod.netns, direction, family, device="lo") as listener:
        loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        with pod.netns.entered():
            client = socket.create_connection((loopback, listener.getsockname()[1]))
        with client, listener.accept()[0] as accepted:
            return accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).partition(b"\0")[0].decode()


@needs_bbr
@pytest.mark.parametrize("direction", Direction)
def test_accepted_sockets_do_not_pace_where_that_is_only_the_default(family: int, direction: Direction) -> None:
    with network() as net:
        assert accepted_with(net.pod("s"), "bbr", direction, family) == "cubic"


def test_another_default_stays(family: int) -> None:
    with network() as net:
        assert accepted_with(net.pod("s"), "reno", Direction.INGRESS, family) == "reno"


@needs_bbr
def test_without_the_other_algorithm_it_goes_on_with_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redirect.sockets.UNPACED", b"nonesuch")
    with network() as net:
        assert accepted_with(net.pod("s"), "bbr", Direction.INGRESS, socket.AF_INET) == "bbr"


def test_a_leg_is_what_a_worker_takes_for_granted(family: int) -> None:
    """`proxy.stock` asks the kernel for none of this."""
    with network() as net, net.pod("s").netns.entered(), prepared_leg(Direction.INGRESS, family) as leg:
        assert os.get_blocking(leg.fileno()) is False
        assert leg.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == family
        assert leg.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        assert leg.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
        assert leg.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).partition(b"\0")[0] == b"lo"
        assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
