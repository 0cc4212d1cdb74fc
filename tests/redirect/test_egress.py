"""Egress on the real kernel: the three answers, fail closed, what is left alone, and every way around that was seen.

The ways around are tried as uid 65534 (``nobody``) and with a container's default capabilities (``container``), which
have CAP_NET_RAW and so SO_MARK.
"""

from __future__ import annotations

import socket
import time

import pytest

from redirect import gate, plumbing
from redirect.sockets import LEG_MARK, STEER_MARK, open_listener
from redirect.types import Answer, Direction, Flags, VerdictKey
from tests.redirect.conftest import ALLOWED, DENIED, PROXIED, SERVER_IDENTITY, UNNAMED, Steered
from tests.redirect.pods import run

pytestmark = pytest.mark.root

TO_ETH0 = "s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0\\0')"
DEFER = "s.setsockopt(6, 30, 1), s.setsockopt(6, 34, 1)"  # TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE
who = pytest.mark.parametrize("who", ["nobody", "container"])


def mark(value: int) -> str:
    return f"lambda s: s.setsockopt(socket.SOL_SOCKET, 36, {value})"


def mapped(steered: Steered) -> str:
    return f"::ffff:{steered.server.ip4}"


def test_steered_and_the_client_sees_the_server(steered: Steered, family: int) -> None:
    client, server = steered.client, steered.server
    steered.protect(client, Flags.EGRESS)
    steered.app(server, family, PROXIED)
    copier = steered.copier(client, Direction.EGRESS)
    own, host = client.address(family), server.address(family)
    assert client.connect(host, PROXIED) == ["ok", f"{own} {host} app", host, own]
    assert steered.stop(copier) == [f"conn 1 {own} {host} {PROXIED}"]


def test_both_ends_on_one_node(steered: Steered, family: int) -> None:
    """Egress at the client's pod, ingress at the server's, each once."""
    client, server = steered.client, steered.server
    steered.protect(client, Flags.EGRESS | Flags.INGRESS)
    steered.protect(server, Flags.EGRESS | Flags.INGRESS)
    steered.app(server, family, PROXIED)
    out, into = steered.copier(client, Direction.EGRESS), steered.copier(server, Direction.INGRESS)
    own, host = client.address(family), server.address(family)
    assert client.connect(host, PROXIED) == ["ok", f"{own} {host} app", host, own]
    assert steered.stop(out) == [f"conn 1 {own} {host} {PROXIED}"]
    assert steered.stop(into) == [f"conn 0 {own} {host} {PROXIED}"]


@who
def test_allowed_goes_straight(steered: Steered, family: int, who: str) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    steered.app(steered.server, family, ALLOWED)
    assert steered.client.connect(steered.server.address(family), ALLOWED, who=who)[0] == "ok"


@who
@pytest.mark.parametrize(("port", "reason"), [(DENIED, "denied"), (UNNAMED, "no_rule")])
def test_denied_is_eperm_and_a_record(steered: Steered, family: int, port: int, reason: str, who: str) -> None:
    client, host = steered.client, steered.server.address(family)
    endpoint = steered.protect(client, Flags.EGRESS)
    assert client.connect(host, port, who=who)[0] == "EPERM"
    (denial,) = steered.refused()
    assert (denial.endpoint, denial.direction, denial.family) == (endpoint, Direction.EGRESS, family)
    assert (denial.src, denial.sport, denial.dst, denial.dport) == (client.address(family), 0, host, port)
    assert (denial.proto, denial.identity, denial.reason) == (socket.IPPROTO_TCP, SERVER_IDENTITY, reason)
    assert abs(denial.time_ns - time.time_ns()) < 10**10


def test_a_loop_of_refused_connects_does_not_bury_the_reader(steered: Steered, family: int) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    before = steered.kernel.counters()
    nobody_else_asks_for = 8084
    code = f"say([attempt({steered.server.address(family)!r}, {nobody_else_asks_for})[0] for _ in range(50)])"
    assert steered.client.run(code) == ["EPERM"] * 50
    after = steered.kernel.counters()
    assert len(steered.refused()) == 20
    assert (after["no_rule"] - before["no_rule"], after["suppressed"] - before["suppressed"]) == (50, 30)


def test_no_worker_alive_is_refused(steered: Steered, family: int) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    app = steered.app(steered.server, family, PROXIED)
    steered.kill(steered.copier(steered.client, Direction.EGRESS))
    assert steered.client.connect(steered.server.address(family), PROXIED)[0] == "EPERM"
    assert [denial.reason for denial in steered.refused()] == ["no_listener"]
    assert app.seen == []


def test_steer_mark_without_a_steering_program_goes_nowhere(steered: Steered, family: int) -> None:
    """The hooks are up, the pod's program is not: the redirect is not the only gate. (No reset for IPv4, see there.)"""
    steered.protect(steered.client, Flags.EGRESS, attach=False)
    app = steered.app(steered.server, family, PROXIED)
    steered.copier(steered.client, Direction.EGRESS)
    code = f"say(attempt({steered.server.address(family)!r}, {PROXIED}, timeout=0.5)[0])"
    assert steered.client.run(code) == ("ECONNREFUSED" if family == socket.AF_INET6 else "TIMEOUT")
    assert app.seen == []


def test_a_pod_that_is_not_ours_is_not_touched(steered: Steered, family: int) -> None:
    """Nor is its use of marks."""
    steered.protect(steered.server, Flags.EGRESS)
    steered.app(steered.server, family, UNNAMED)
    code = f"""
        s = socket.socket({int(family)})
        s.setsockopt(socket.SOL_SOCKET, 36, {STEER_MARK})
        s.connect(({steered.server.address(family)!r}, {UNNAMED}))
        say(s.getsockopt(socket.SOL_SOCKET, 36))
    """
    assert steered.client.run(code, who="container") == STEER_MARK
    assert plumbing.traces(steered.client.netns) == []


def test_the_pod_to_itself_and_loopback_are_left_alone(steered: Steered, family: int) -> None:
    client = steered.client
    steered.protect(client, Flags.EGRESS)
    steered.app(client, family, UNNAMED)
    hosts = [client.ip6, "::1", "::"]
    if family == socket.AF_INET:
        hosts = [client.ip4, "127.0.0.1", "127.8.8.8", "0.0.0.0"]  # noqa: S104 - as a destination: loopback
    for host in hosts:
        assert client.connect(host, UNNAMED)[0] == "ok", host
    if family == socket.AF_INET:
        for host in ("::ffff:127.0.0.1", "::ffff:0.0.0.0", f"::ffff:{client.ip4}"):
            assert client.connect(host, UNNAMED)[0] == "ok", host
    assert steered.refused() == []


# Ways around.


@who
@pytest.mark.parametrize("port", [PROXIED, ALLOWED])
def test_socket_bound_to_eth0(steered: Steered, family: int, port: int, who: str) -> None:
    """What `curl --interface eth0` does."""
    steered.protect(steered.client, Flags.EGRESS)
    app = steered.app(steered.server, family, port)
    assert (
        steered.client.connect(steered.server.address(family), port, who=who, before=f"lambda s: {TO_ETH0}")[0]
        == "EPERM"
    )
    assert [denial.reason for denial in steered.refused()] == ["bound_device"]
    assert app.seen == []


@who
def test_socket_bound_to_lo_is_steered_or_goes_nowhere(steered: Steered, family: int, who: str) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    app = steered.app(steered.server, family, DENIED)
    to_lo = f"lambda s: {TO_ETH0.replace('eth0', 'lo')}"
    assert steered.client.connect(steered.server.address(family), DENIED, who=who, before=to_lo)[0] == "EPERM"
    assert app.seen == []


@who
@pytest.mark.parametrize("option", ["SO_BINDTODEVICE", "SO_BINDTOIFINDEX"])
def test_socket_bound_to_eth0_after_a_deferred_connect(steered: Steered, family: int, option: str, who: str) -> None:
    """TCP_FASTOPEN_CONNECT sends no SYN before the first write, and binding to a device is free to anybody."""
    steered.protect(steered.client, Flags.EGRESS)
    app = steered.app(steered.server, family, PROXIED)
    steered.copier(steered.client, Direction.EGRESS)
    after = (
        TO_ETH0 if option == "SO_BINDTODEVICE" else "s.setsockopt(socket.SOL_SOCKET, 62, socket.if_nametoindex('eth0'))"
    )
    code = f"""say(attempt({steered.server.address(family)!r}, {PROXIED}, timeout=1.2,
                before=lambda s: ({DEFER}), after=lambda s: {after})[0])"""
    assert steered.client.run(code, who=who) in ("TIMEOUT", "ECONNREFUSED", "ECONNABORTED", "ENETUNREACH", "EPIPE")
    assert app.seen == []


@pytest.mark.parametrize("guarded", [True, False])
def test_mark_taken_off_after_a_deferred_connect(steered: Steered, family: int, *, guarded: bool) -> None:
    """Needs CAP_NET_RAW. The other half shows that it is the guard which holds."""
    endpoint = steered.protect(steered.client, Flags.EGRESS)
    if not guarded:
        gate.take_out(steered.client.netns)
        steered.kernel.attach_pod(steered.client.netns, endpoint)
    app = steered.app(steered.server, family, PROXIED)
    steered.copier(steered.client, Direction.EGRESS)
    outcome = steered.client.connect(
        steered.server.address(family), PROXIED, who="container", before=f"lambda s: ({DEFER})", after=mark(0)
    )
    assert outcome[0] == ("EPERM" if guarded else "ok")
    assert bool(app.seen) is not guarded


def test_guard_leaves_other_options_alone(steered: Steered) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    code = """
        s = socket.socket()
        s.setsockopt(6, 1, 1)
        s.setsockopt(0, 1, 16)
        # more than a page: the kernel shows a program only the first, and the rest must not be lost
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, struct.pack("i", 65536) + bytes(5000))
        say([s.getsockopt(6, 1), s.getsockopt(0, 1), s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)])
    """
    assert steered.client.run(code, who="container") == [1, 16, 2 * 65536]


@pytest.mark.parametrize(
    ("flags", "outcome"),
    [
        (Flags.EGRESS, "EPERM"),
        (Flags.EGRESS | Flags.WATCH_INGRESS, "EPERM"),
        (Flags.EGRESS | Flags.WATCH_EGRESS, "ok"),
        (Flags.INGRESS, "ok"),
        (Flags.EGRESS | Flags.STOPPED, "ok"),
    ],
)
def test_guard_acts_while_egress_is_enforced(steered: Steered, flags: Flags, outcome: str) -> None:
    steered.protect(steered.client, Flags.INGRESS)
    steered.protect(steered.client, flags, attach=False)  # attached before: it follows the flags
    code = """
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, 36, 5)
        try: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 5); say("ok")
        except OSError as e: say(errno.errorcode[e.errno])
    """
    assert steered.client.run(code, who="container") == outcome


@pytest.mark.parametrize("port", [PROXIED, ALLOWED])
def test_where_only_audit_asks_nothing_is_refused_for_not_being_steered(steered: Steered, port: int) -> None:
    endpoint = steered.protect(steered.client, Flags.EGRESS | Flags.WATCH_EGRESS)
    everybody = VerdictKey(endpoint, 0, Direction.EGRESS, socket.IPPROTO_TCP, port)
    steered.kernel.set_verdicts(endpoint, {everybody: (Answer.PROXY if port == PROXIED else Answer.ALLOW, 0)})
    steered.app(steered.server, socket.AF_INET6, port)
    code = f"""
        said = []
        for host, scope in (sys.argv[1], socket.if_nametoindex("eth0")), (sys.argv[2], 0):
            s = socket.socket(socket.AF_INET6)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            s.settimeout(3)
            try: s.connect((host, {port}, 0, scope)); said.append("ok")
            except OSError as e: said.append(errno.errorcode.get(e.errno, "timeout"))
        say(said)
    """
    said = steered.client.run(code, steered.server.link_local, steered.server.address(socket.AF_INET6))
    assert said == ["ok", "ok"]


@who
@pytest.mark.parametrize("port", [PROXIED, ALLOWED])
def test_link_local_destination(steered: Steered, port: int, who: str) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    app = steered.app(steered.server, socket.AF_INET6, port)
    code = f"""
        s = socket.socket(socket.AF_INET6)
        try: s.connect((sys.argv[1], {port}, 0, socket.if_nametoindex("eth0"))); say("ok")
        except OSError as e: say(errno.errorcode[e.errno])
    """
    assert steered.client.run(code, steered.server.link_local, who=who) == "EPERM"
    assert [denial.reason for denial in steered.refused()] == ["link_local"]
    assert app.seen == []


@who
def test_mapped_destination_is_judged_as_ipv4(steered: Steered, who: str) -> None:
    client, server = steered.client, steered.server
    steered.protect(client, Flags.EGRESS)
    steered.app(server, socket.AF_INET, PROXIED)
    steered.app(server, socket.AF_INET, ALLOWED)
    copier = steered.copier(client, Direction.EGRESS)
    assert client.connect(mapped(steered), ALLOWED, who=who)[0] == "ok"
    outcome, line, peer, _ = client.connect(mapped(steered), PROXIED, who=who)
    assert (outcome, line, peer) == ("ok", f"{client.ip4} {server.ip4} app", mapped(steered))
    assert client.connect(mapped(steered), DENIED, who=who)[0] == "EPERM"
    (denial,) = steered.refused()
    assert (denial.family, denial.dst, denial.reason) == (socket.AF_INET, server.ip4, "denied")
    assert steered.stop(copier) == [f"conn 1 {client.ip4} {server.ip4} {PROXIED}"]


@pytest.mark.parametrize(
    "flags", [Flags.INGRESS, Flags.EGRESS, Flags.INGRESS | Flags.EGRESS, Flags.EGRESS | Flags.STOPPED]
)
def test_forged_mark_changes_nothing(steered: Steered, family: int, flags: Flags) -> None:
    """In every combination of what is enforced; without the guard, which would refuse it before."""
    client, host = steered.client, steered.server.address(family)
    endpoint = steered.protect(client, flags, attach=False)
    steered.kernel.attach_pod(client.netns, endpoint)
    enforced = bool(flags & Flags.EGRESS) and not flags & Flags.STOPPED
    for port in (ALLOWED, PROXIED, DENIED):
        steered.app(steered.server, family, port)
    copier = steered.copier(client, Direction.EGRESS)
    code = f"""
        out = []
        for value in ({LEG_MARK}, {STEER_MARK}, 1):
            before = lambda s: s.setsockopt(socket.SOL_SOCKET, 36, value)
            out.append([attempt({host!r}, port, before=before)[0] for port in ({ALLOWED}, {PROXIED}, {DENIED})])
        say(out)
    """
    assert client.run(code, who="container") == [["ok", "ok", "EPERM" if enforced else "ok"]] * 3
    assert len(steered.stop(copier)) == (3 if enforced else 0)  # the proxied ones went through the proxy


@pytest.mark.parametrize("flags", [Flags.INGRESS, Flags.EGRESS | Flags.STOPPED])
def test_forged_mark_after_connect_goes_nowhere(steered: Steered, family: int, flags: Flags) -> None:
    """Set after the hook ran: the SYN comes to lo, where no listener waits and the pod's own apps must not answer."""
    client, host = steered.client, steered.server.address(family)
    endpoint = steered.protect(client, flags, attach=False)
    steered.kernel.attach_pod(client.netns, endpoint)
    inside, outside = steered.app(client, family, PROXIED), steered.app(steered.server, family, PROXIED)
    code = f"""
        out = []
        for value in ({LEG_MARK}, {STEER_MARK}):
            after = lambda s: s.setsockopt(socket.SOL_SOCKET, 36, value)
            out.append(attempt({host!r}, {PROXIED}, before=lambda s: ({DEFER}), after=after, timeout=0.5)[1])
        say(out)
    """
    assert client.run(code, who="container") == ["", ""]
    assert (inside.seen, outside.seen) == ([], [])
    assert {denial.reason for denial in steered.refused()} == {"forged_mark"}


def test_stale_mark_of_an_earlier_connect(steered: Steered, family: int) -> None:
    """The same socket connects again: the mark is written each time, 0 included (seen otherwise)."""
    client, host = steered.client, steered.server.address(family)
    steered.protect(client, Flags.EGRESS)
    steered.app(steered.server, family, ALLOWED)
    steered.copier(client, Direction.EGRESS)
    code = f"""
        s = socket.socket({int(family)})
        s.settimeout(3)
        s.connect(({host!r}, {PROXIED}))
        stale = s.getsockopt(socket.SOL_SOCKET, 36)
        libc.connect(s.fileno(), struct.pack("=H14x", 0), 16)  # AF_UNSPEC: the socket is free again
        s.connect(({host!r}, {ALLOWED}))
        s.sendall(b"hello\\n")
        say([stale, s.recv(100).decode().split()[0], s.getsockopt(socket.SOL_SOCKET, 36)])
    """
    assert client.run(code) == [STEER_MARK, client.address(family), 0]


@who
def test_mptcp_is_judged_as_tcp(steered: Steered, family: int, who: str) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    app = steered.app(steered.server, family, PROXIED)
    copier = steered.copier(steered.client, Direction.EGRESS)
    code = f"""
        out = []
        for port in ({DENIED}, {PROXIED}):
            s = socket.socket({int(family)}, socket.SOCK_STREAM, 262)
            s.settimeout(3)
            try:
                s.connect(({steered.server.address(family)!r}, port))
                s.sendall(b"hello\\n")
                out.append(s.recv(100).decode().split()[0])
            except OSError as e: out.append(errno.errorcode[e.errno])
        say(out)
    """
    assert steered.client.run(code, who=who) == ["EPERM", steered.client.address(family)]
    assert len(steered.stop(copier)) == 1
    assert len(app.seen) == 1


@who
def test_fast_open_write_and_bind_before_connect(steered: Steered, family: int, who: str) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    app = steered.app(steered.server, family, DENIED)
    own, host = steered.client.address(family), steered.server.address(family)
    code = f"""
        s = socket.socket({int(family)})
        try: s.sendto(b"hello\\n", socket.MSG_FASTOPEN, ({host!r}, {DENIED})); first = "ok"
        except OSError as e: first = errno.errorcode[e.errno]
        say([first, attempt({host!r}, {DENIED}, before=lambda s: s.bind(({own!r}, 40000)))[0]])
    """
    assert steered.client.run(code, who=who) == ["EPERM", "EPERM"]
    assert app.seen == []
    assert [denial.sport for denial in steered.refused()] == [0, 40000]


def test_listener_dialled_by_the_pod_is_recognisable(steered: Steered, family: int) -> None:
    """127.0.0.1:<our port> reaches us (seen): its destination is the listener's own port, the worker closes it."""
    steered.protect(steered.client, Flags.EGRESS)
    loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with open_listener(steered.client.netns, Direction.EGRESS, family) as listener:
        port = listener.getsockname()[1]
        assert steered.client.run(f"say(attempt({loopback!r}, {port}, timeout=0.5)[0])") == "TIMEOUT"
        conn, _ = listener.accept()
        with conn:
            assert conn.getsockname()[:2] == (loopback, port)


def test_family_without_a_route_is_not_steered(steered: Steered, family: int) -> None:
    """The connect fails at once, as it would without us, and clients fall back; and nothing leaves by it either."""
    client = steered.client
    where = "fd99::1" if family == socket.AF_INET6 else "10.99.0.1"
    flag = ["-6"] if family == socket.AF_INET6 else []
    run("ip", "-n", client.netns_name, *flag, "route", "del", "default")
    endpoint = steered.protect(client, Flags.EGRESS)
    everybody = VerdictKey(endpoint, 0, Direction.EGRESS, socket.IPPROTO_TCP, PROXIED)
    steered.kernel.set_verdicts(endpoint, {everybody: (Answer.PROXY, 0)})
    steered.app(steered.server, family, PROXIED)
    copier = steered.copier(client, Direction.EGRESS)
    assert client.connect(where, PROXIED)[0] == "ENETUNREACH"
    assert client.connect(steered.server.address(family), PROXIED)[0] == "ok"  # on the link: there is a route
    assert len(steered.stop(copier)) == 1
