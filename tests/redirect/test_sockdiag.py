"""What connections a pod has, and ending one of them."""

from __future__ import annotations

import contextlib
import socket

import pytest

from redirect.cgroups import cgroup_id
from redirect.sockdiag import Live, connections, destroy
from tests.redirect.conftest import ALLOWED, Steered
from tests.redirect.pods import Pod

pytestmark = pytest.mark.root

HOLD = """
    family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    s = socket.socket(family, int(sys.argv[3])); s.settimeout(5)
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.send(b"hello\\n")
    if s.type == socket.SOCK_STREAM: s.recv(100)
    print(s.getsockname()[1], flush=True)
    try: say(s.recv(100).decode())
    except OSError as e: say(errno.errorcode[e.errno])
"""


def between(pod: Pod, port: int) -> list[Live]:
    return [one for one in connections(pod.netns) if port in (one.local_port, one.remote_port)]


def test_tcp_is_listed_and_destroyed_at_either_end(steered: Steered, family: int) -> None:
    host = steered.server.address(family)
    steered.app(steered.server, family, ALLOWED)
    for end in (steered.client, steered.server):
        with steered.client.start(HOLD, host, str(ALLOWED), str(int(socket.SOCK_STREAM))) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            (mine,), (theirs,) = between(steered.client, port), between(steered.server, port)
            assert (str(mine.local), mine.local_port) == (steered.client.address(family), port)
            assert (str(mine.remote), mine.remote_port, mine.state) == (host, ALLOWED, "established")
            assert (mine.inbound, theirs.inbound) == (False, True)
            assert (theirs.remote, theirs.remote_port) == (mine.local, port)
            assert mine.cgroup == cgroup_id(steered.client.cgroup)
            assert destroy(end.netns, mine if end is steered.client else theirs)
            said = process.communicate(timeout=10)[0]
            assert said.strip() == ('"ECONNABORTED"' if end is steered.client else '"ECONNRESET"')
            assert between(end, port) == []
            assert not destroy(end.netns, mine if end is steered.client else theirs)  # no error: it has ended


def test_cookie_guards_a_port_that_is_used_again(steered: Steered) -> None:
    """A connection with the same ends, but another one, is left alone."""
    steered.app(steered.server, socket.AF_INET, ALLOWED)
    with contextlib.ExitStack() as stack, steered.client.netns.entered():
        sock = stack.enter_context(socket.create_connection((steered.server.ip4, ALLOWED), 3))
        (one,) = between(steered.client, sock.getsockname()[1])
        other = Live(
            **{name: getattr(one, name) for name in one.__slots__} | {"socket_id": one.socket_id[:-8] + b"\7" * 8}
        )
        assert not destroy(steered.client.netns, other)
        assert between(steered.client, sock.getsockname()[1]) == [one]


def test_connected_udp_is_listed_and_destroyed(steered: Steered, family: int) -> None:
    host = steered.server.address(family)
    with steered.server.netns.entered():
        server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((host, ALLOWED))
    with server, steered.client.start(HOLD, host, str(ALLOWED), str(int(socket.SOCK_DGRAM))) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        (one,) = between(steered.client, port)
        assert (one.protocol, str(one.remote), one.remote_port) == (socket.IPPROTO_UDP, host, ALLOWED)
        assert (one.state, one.inbound) == ("established", False)
        assert between(steered.server, port) == []  # it is not connected
        assert destroy(steered.client.netns, one)
        assert process.communicate(timeout=10)[0].strip() == '"ECONNABORTED"'


def test_mapped_connection_is_ipv4_and_can_be_destroyed(steered: Steered) -> None:
    steered.app(steered.server, socket.AF_INET, ALLOWED)
    host = f"::ffff:{steered.server.ip4}"
    with steered.client.start(HOLD, host, str(ALLOWED), str(int(socket.SOCK_STREAM))) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        (one,) = between(steered.client, port)
        assert (str(one.remote), one.family) == (steered.server.ip4, socket.AF_INET6)
        assert destroy(steered.client.netns, one)
        assert process.communicate(timeout=10)[0].strip() == '"ECONNABORTED"'
