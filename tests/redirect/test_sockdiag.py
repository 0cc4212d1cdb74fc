"""Connections of a netns as the kernel lists them, and ending one of them."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from redirect import netns, sockdiag
from redirect.sockdiag import Live

pytestmark = pytest.mark.root


@pytest.fixture
def own() -> Iterator[netns.Netns]:
    with netns.Netns.open(netns.OWN) as found:
        yield found


def find(own: netns.Netns, local_port: int, remote_port: int) -> Live:
    (found,) = [
        one for one in sockdiag.connections(own) if (one.local_port, one.remote_port) == (local_port, remote_port)
    ]
    return found


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_one_connection_is_listed_at_both_ends_and_ended_alone(own: netns.Netns, address: str) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
        port = server.getsockname()[1]
        one, other = (stack.enter_context(socket.create_connection((address, port))) for _ in range(2))
        ends = {end.getpeername()[1]: end for end in (stack.enter_context(server.accept()[0]) for _ in range(2))}
        mine = one.getsockname()[1]
        theirs = find(own, port, mine)
        assert (theirs.local, theirs.remote, theirs.inbound, theirs.protocol) == (address, address, True, 6)
        assert not find(own, mine, port).inbound
        assert sockdiag.destroy(own, theirs)
        assert not sockdiag.destroy(own, theirs)
        one.settimeout(5)
        with pytest.raises(ConnectionResetError):
            one.recv(1)
        other.sendall(b"x")
        alive = ends[other.getsockname()[1]]
        alive.settimeout(5)
        assert alive.recv(1) == b"x"


def test_listeners_and_what_is_over_are_not_connections(own: netns.Netns) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as one:
            server.accept()[0].close()
            assert one.recv(1) == b""
            mine = one.getsockname()[1]
        assert not [one for one in sockdiag.connections(own) if one.local_port == mine and one.protocol == 6]
        assert not [one for one in sockdiag.connections(own) if one.local_port == port and one.remote_port == 0]


def test_a_connected_datagram_socket_has_a_peer(own: netns.Netns) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
            client.connect(("127.0.0.1", port))
            found = find(own, client.getsockname()[1], port)
            assert (found.protocol, found.remote, found.inbound) == (17, "127.0.0.1", False)
