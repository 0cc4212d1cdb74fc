"""Ingress on the real kernel: the three answers, fail closed, and the hazards that were seen at the server's side."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest

from redirect.sockets import open_listener, prepared_leg
from redirect.types import Answer, Direction, Flags, VerdictKey
from tests.redirect.conftest import ALLOWED, CLIENT_IDENTITY, DENIED, PROXIED, UNNAMED, Steered
from tests.redirect.pods import run, visiting

pytestmark = pytest.mark.root


def test_steered_and_the_server_sees_the_client(steered: Steered, family: int) -> None:
    client, server = steered.client, steered.server
    steered.protect(server, Flags.INGRESS)
    app = steered.app(server, family, PROXIED)
    copier = steered.copier(server, Direction.INGRESS)
    host = server.address(family)
    outcome, line, peer, _ = client.connect(host, PROXIED)
    assert (outcome, line, peer) == ("ok", f"{client.address(family)} {host} app", host)
    assert app.seen == [client.address(family)]
    assert steered.stop(copier) == [f"conn 0 {client.address(family)} {host} {PROXIED}"]
    assert steered.refused() == []


def test_allowed_meets_no_worker(steered: Steered, family: int) -> None:
    steered.protect(steered.server, Flags.INGRESS)
    steered.app(steered.server, family, ALLOWED)
    outcome, line, *_ = steered.client.connect(steered.server.address(family), ALLOWED)
    assert (outcome, line.split()[0]) == ("ok", steered.client.address(family))


@pytest.mark.parametrize(("port", "reason"), [(DENIED, "denied"), (UNNAMED, "no_rule"), (PROXIED, "no_listener")])
def test_refused_with_a_reset_and_one_record(steered: Steered, family: int, port: int, reason: str) -> None:
    """Proxied with no worker alive is refused too: fail closed."""
    client, server = steered.client, steered.server
    endpoint = steered.protect(server, Flags.INGRESS)
    app = steered.app(server, family, port)
    before, began = steered.kernel.counters(), time.time_ns()
    assert client.connect(server.address(family), port)[0] == "ECONNREFUSED"
    (denial,) = steered.refused()
    assert (denial.endpoint, denial.direction, denial.family) == (endpoint, Direction.INGRESS, family)
    assert (denial.src, denial.dst, denial.dport) == (client.address(family), server.address(family), port)
    assert (denial.proto, denial.identity, denial.reason) == (socket.IPPROTO_TCP, CLIENT_IDENTITY, reason)
    assert denial.sport > 0
    assert denial.suppressed == 0
    assert began <= denial.time_ns <= time.time_ns()
    assert steered.kernel.counters()[reason] == before[reason] + 1
    assert app.seen == []


def test_a_4_tuple_is_recorded_once_and_the_rest_counted(steered: Steered, family: int) -> None:
    steered.protect(steered.server, Flags.INGRESS)
    before = steered.kernel.counters()
    host = steered.server.address(family)
    source = "::" if family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104 - any source address
    bind = f"lambda s: (s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1), s.bind(({source!r}, 40001)))"
    outcomes = steered.client.run(f"say([attempt({host!r}, {DENIED}, before={bind})[0] for _ in range(5)])")
    assert outcomes == ["ECONNREFUSED"] * 5
    assert [denial.sport for denial in steered.refused()] == [40001]
    after = steered.kernel.counters()
    assert after["denied"] - before["denied"] == 5
    assert after["suppressed"] - before["suppressed"] == 4


def test_unnamed_peer_is_refused_where_a_named_one_is_not(steered: Steered, family: int) -> None:
    steered.protect(steered.server, Flags.INGRESS)
    steered.app(steered.server, family, ALLOWED)
    other = steered.net.pod("o")
    assert other.connect(steered.server.address(family), ALLOWED)[0] == "ECONNREFUSED"
    (denial,) = steered.refused()
    assert (denial.identity, denial.reason) == (0, "no_rule")
    assert steered.client.connect(steered.server.address(family), ALLOWED)[0] == "ok"


def test_dead_worker_empties_its_slot_and_another_takes_over(steered: Steered, family: int) -> None:
    steered.protect(steered.server, Flags.INGRESS)
    steered.app(steered.server, family, PROXIED)
    first = steered.copier(steered.server, Direction.INGRESS, slot=0)
    second = steered.copier(steered.server, Direction.INGRESS, slot=5)
    many = f"say([attempt({steered.server.address(family)!r}, {PROXIED})[0] for _ in range(16)])"
    assert steered.client.run(many) == ["ok"] * 16
    steered.kill(first)
    assert steered.client.run(many) == ["ok"] * 16
    assert len(steered.stop(second)) > 16  # both had some of the first 16
    assert steered.client.run(many) == ["ECONNREFUSED"] * 16


def test_cleared_slot_gets_nothing(steered: Steered, family: int) -> None:
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    steered.app(steered.server, family, PROXIED)
    steered.copier(steered.server, Direction.INGRESS, slot=3)
    host = steered.server.address(family)
    assert steered.client.connect(host, PROXIED)[0] == "ok"
    steered.kernel.clear_slot(3)
    assert steered.client.connect(host, PROXIED)[0] == "ECONNREFUSED"
    steered.copier(steered.server, Direction.INGRESS, slot=3)
    assert steered.client.connect(host, PROXIED)[0] == "ok"
    steered.kernel.clear_endpoint_listeners(endpoint)
    assert steered.client.connect(host, PROXIED)[0] == "ECONNREFUSED"


def test_the_pod_to_itself_is_left_alone(steered: Steered, family: int) -> None:
    server = steered.server
    steered.protect(server, Flags.INGRESS | Flags.EGRESS)
    steered.app(server, family, DENIED)
    loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    for host in (server.address(family), loopback):
        assert server.connect(host, DENIED)[0] == "ok"
    from_loopback = f"lambda s: s.bind(({loopback!r}, 0))"
    assert server.connect(server.address(family), DENIED, before=from_loopback)[0] == "ok"
    assert steered.refused() == []


@pytest.mark.parametrize("port", [PROXIED, ALLOWED, DENIED])
def test_link_local_neighbour_does_not_reach_the_app(steered: Steered, port: int) -> None:
    """Keyed on the pod's address alone, [fe80::...]:80 from the bridge reached the app (seen)."""
    server = steered.server
    steered.protect(server, Flags.INGRESS)
    steered.copier(server, Direction.INGRESS)
    app = steered.app(server, socket.AF_INET6, port)
    code = f"""
        def go(s): s.connect((sys.argv[1], {port}, 0, socket.if_nametoindex("eth0")))
        s = socket.socket(socket.AF_INET6)
        s.settimeout(3)
        try: go(s); say("ok")
        except OSError as e: say(errno.errorcode[e.errno])
    """
    assert steered.client.run(code, server.link_local) == "ECONNREFUSED"
    assert app.seen == []
    (denial,) = steered.refused()
    assert denial.identity == 0
    assert denial.dst == server.link_local


def test_link_local_neighbour_of_an_any_peer_rule_is_not_proxied(steered: Steered) -> None:
    """No leg can be dialled for it, so it is refused in the kernel rather than accepted and dropped."""
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    steered.copier(steered.server, Direction.INGRESS)
    key = VerdictKey(endpoint, 0, Direction.INGRESS, socket.IPPROTO_TCP, PROXIED)
    steered.kernel.set_verdicts(endpoint, {key: (Answer.PROXY, 0)})
    code = f"""
        s = socket.socket(socket.AF_INET6)
        s.settimeout(3)
        try: s.connect((sys.argv[1], {PROXIED}, 0, socket.if_nametoindex("eth0"))); say("ok")
        except OSError as e: say(errno.errorcode[e.errno])
    """
    assert steered.client.run(code, steered.server.link_local) == "ECONNREFUSED"
    assert [denial.reason for denial in steered.refused()] == ["link_local"]


def test_closed_app_port_is_a_refusal_not_a_time_out(steered: Steered, family: int) -> None:
    """Needs fwmark_reflect: without it the reset leaves the pod instead of coming back to our leg (seen)."""
    steered.protect(steered.server, Flags.INGRESS)
    copier = steered.copier(steered.server, Direction.INGRESS)
    began = time.monotonic()
    outcome = steered.client.connect(steered.server.address(family), PROXIED)
    assert outcome[:2] in (["ok", ""], ["ECONNRESET", ""])  # accepted by us, then closed
    assert time.monotonic() - began < 4  # the leg's own limit is 5 s
    assert steered.stop(copier)[1] == "leg ConnectionRefusedError 111"


@pytest.mark.parametrize("moved", [True, False])
def test_moving_the_local_rule_keeps_an_unbound_leg_from_coming_back_to_us(steered: Steered, *, moved: bool) -> None:
    """Through the local table a loopback SYN shows eth0 and is steered again: an endless loop (seen, IPv4).

    Our legs are bound to lo, which alone would do; the move holds for one that is not. (Here the listener is bound to
    eth0, so its answer leaves the pod and the loop ends at its first turn.)
    """
    client, server = steered.client, steered.server
    endpoint = steered.protect(server, Flags.INGRESS)
    app = steered.app(server, socket.AF_INET, PROXIED)
    if not moved:
        run("ip", "-n", server.netns_name, "rule", "add", "pref", "0", "lookup", "local")
    before = steered.kernel.counters()["steered"]
    with open_listener(server.netns, Direction.INGRESS, socket.AF_INET) as listener:
        steered.kernel.set_listener(endpoint, Direction.INGRESS, socket.AF_INET, 0, listener)
        with server.netns.entered():
            leg = prepared_leg(Direction.INGRESS, socket.AF_INET)
        with leg:
            leg.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"\0")
            leg.settimeout(0.5)
            leg.bind((client.ip4, 61000))
            if moved:
                leg.connect((server.ip4, PROXIED))
                leg.sendall(b"hello\n")
                assert leg.recv(100) == f"{client.ip4} {server.ip4} app\n".encode()
            else:
                with pytest.raises(TimeoutError):
                    leg.connect((server.ip4, PROXIED))
                assert app.seen == []
    assert (steered.kernel.counters()["steered"] == before) is moved


def test_listener_dialled_from_outside_is_recognisable(steered: Steered, family: int) -> None:
    """Its original destination is the listener's own port: the worker closes and counts it, never dials it."""
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    key = VerdictKey(endpoint, 0, Direction.INGRESS, socket.IPPROTO_TCP, 0, 0)
    steered.kernel.set_verdicts(endpoint, {key: (Answer.ALLOW, 0)})
    with open_listener(steered.server.netns, Direction.INGRESS, family) as listener:
        port = listener.getsockname()[1]
        assert 20000 <= port < 60000
        assert (
            steered.client.run(f"say(attempt({steered.server.address(family)!r}, {port}, timeout=0.5)[0])") == "TIMEOUT"
        )
        conn, peer = listener.accept()
        with conn:
            assert conn.getsockname()[1] == port
            assert peer[0] == steered.client.address(family)


def test_listener_is_not_there_on_loopback(steered: Steered, family: int) -> None:
    """An ingress listener is bound to eth0: nobody dials it at 127.0.0.1 or ::1."""
    loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with open_listener(steered.server.netns, Direction.INGRESS, family) as listener:
        assert steered.server.connect(loopback, listener.getsockname()[1])[0] == "ECONNREFUSED"


def test_listener_avoids_ports(steered: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redirect.sockets.LISTENER_PORTS", range(30000, 30004))
    with open_listener(steered.server.netns, Direction.INGRESS, socket.AF_INET, avoid={30000, 30001, 30003}) as one:
        assert one.getsockname()[1] == 30002


def leg_outcome(steered: Steered, family: int, source_port: int, port: int) -> tuple[str, socket.socket]:
    """Dial a leg as a worker would, from the client's address and this port."""
    with steered.server.netns.entered():
        leg = prepared_leg(Direction.INGRESS, family)
    leg.settimeout(0.5)
    leg.bind((steered.client.address(family), source_port))
    try:
        leg.connect((steered.server.address(family), port))
    except OSError as error:
        return type(error).__name__, leg
    return "ok", leg


HOLD = """
    s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
    s.settimeout(0.5)
    s.bind((sys.argv[1], int(sys.argv[2])))
    try: s.connect((sys.argv[3], int(sys.argv[4]))); say("ok")
    except OSError as e: say(type(e).__name__)
    sys.stdout.flush()
    sys.stdin.read()
"""


@pytest.mark.parametrize(("port", "clash"), [(ALLOWED, True), (PROXIED, False)])
def test_leg_on_the_port_of_a_live_connection(steered: Steered, family: int, port: int, *, clash: bool) -> None:
    """Of one that went straight to the app it gets no answer, so a worker takes another port; of one of ours it works,
    because the listener and with it the accepted socket are bound to eth0."""
    client, server = steered.client, steered.server
    endpoint = steered.protect(server, Flags.INGRESS)
    steered.app(server, family, port)
    with open_listener(server.netns, Direction.INGRESS, family) as listener:
        steered.kernel.set_listener(endpoint, Direction.INGRESS, family, 0, listener)
        with client.start(HOLD, client.address(family), "61005", server.address(family), str(port)) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == '"ok"\n'
            outcomes = []
            for source_port in (61005, 61006):
                outcome, leg = leg_outcome(steered, family, source_port, port)
                outcomes.append(outcome)
                leg.close()
            holder.communicate(timeout=10)
    assert outcomes == ["TimeoutError" if clash else "ok", "ok"]


def test_client_that_connects_from_the_port_of_a_leg_hangs(steered: Steered, family: int) -> None:
    """Why legs take ports outside the usual ephemeral range (seen)."""
    client, server = steered.client, steered.server
    steered.protect(server, Flags.INGRESS)
    steered.app(server, family, PROXIED)
    steered.copier(server, Direction.INGRESS)
    outcome, leg = leg_outcome(steered, family, 61005, PROXIED)
    assert outcome == "ok"
    said = []
    for port in ("61005", "61006"):
        with client.start(HOLD, client.address(family), port, server.address(family), str(PROXIED)) as holder:
            out, _ = holder.communicate(timeout=10)
            said.append(out.strip())
    leg.close()
    assert said == ['"TimeoutError"', '"ok"']


def test_port_in_time_wait_is_usable_again_on_lo(steered: Steered, family: int) -> None:
    """Bound to lo a port in TIME_WAIT serves again after about 1 s, else after 60 s (seen)."""
    client, server = steered.client, steered.server
    steered.protect(server, Flags.INGRESS)
    steered.app(server, family, PROXIED)
    for _ in range(2):
        with server.netns.entered():
            leg = prepared_leg(Direction.INGRESS, family)
        with leg:
            leg.settimeout(3)
            leg.bind((client.address(family), 61010))
            leg.connect((server.address(family), PROXIED))
            leg.sendall(b"hello\n")
            assert leg.recv(100)
            leg.shutdown(socket.SHUT_WR)  # we close first: TIME_WAIT is ours
            assert leg.recv(100) == b""
        time.sleep(1.2)


def test_stopped_endpoint_is_no_longer_judged(steered: Steered, family: int) -> None:
    steered.protect(steered.server, Flags.INGRESS)
    steered.app(steered.server, family, DENIED)
    host = steered.server.address(family)
    assert steered.client.connect(host, DENIED)[0] == "ECONNREFUSED"
    steered.protect(steered.server, Flags.INGRESS | Flags.STOPPED)
    assert steered.client.connect(host, DENIED)[0] == "ok"


def test_live_connections_survive_the_end_of_steering(steered: Steered, family: int) -> None:
    """Stopped, then detached: what is established goes on, with the plumbing still in place."""
    client, server = steered.client, steered.server
    endpoint = steered.protect(server, Flags.INGRESS)
    steered.app(server, family, PROXIED)
    steered.copier(server, Direction.INGRESS)
    code = f"""
        s = socket.socket({int(family)})
        s.settimeout(5)
        s.connect(({server.address(family)!r}, {PROXIED}))
        f = s.makefile()
        for _ in range(3):
            s.sendall(b"hello\\n")
            print(f.readline().strip(), flush=True)
            sys.stdin.readline()
    """
    with client.start(code) as live:
        assert live.stdout is not None
        assert live.stdin is not None
        want = f"{client.address(family)} {server.address(family)} app\n"
        for step in range(3):
            assert live.stdout.readline() == want
            if step == 0:
                steered.protect(server, Flags.INGRESS | Flags.STOPPED)
            else:
                steered.kernel.detach_pod(endpoint)
            live.stdin.write("\n")
            live.stdin.flush()


def test_listener_keeps_a_dead_netns_alive_until_it_is_closed(steered: Steered) -> None:
    """The netns descriptor and every socket in it: what the agent must let go of when a pod ends (seen)."""
    pod = steered.net.pod("d")
    kernel = steered.kernel
    kernel.set_endpoint(pod.netns.cookie, 9, Flags.INGRESS, pod.addresses)
    kernel.attach_pod(pod.netns, 9, pod.addresses)
    listener = open_listener(pod.netns, Direction.INGRESS, socket.AF_INET)
    pod.close()
    time.sleep(0.3)
    assert [one.alive for one in kernel.attached() if one.endpoint == 9] == [True]
    listener.close()
    deadline = time.monotonic() + 5  # the kernel takes netns down in a worker
    while not kernel.reap():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [one.endpoint for one in kernel.attached()] == []
    assert not (kernel.bpffs / "links" / "pod_9").exists()


MEET = """
    host, port, local = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(3)
    s.bind(("", local))
    s.connect((host, port))
    lines = s.makefile()
    for _ in range(2):
        s.sendall(b"hello\\n")
        print(lines.readline(), end="", flush=True)
    sys.stdin.readline()
"""


def bound_to(sock: socket.socket) -> bytes:
    """The device of a socket."""
    device: bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
    return device.rstrip(b"\0")


@pytest.mark.parametrize("dual", [False, True], ids=["one family", "dual stack"])
@pytest.mark.parametrize("leg_first", [True, False], ids=["leg first", "client first"])
def test_a_client_on_the_port_of_a_live_leg(steered: Steered, family: int, leg_first: bool, dual: bool) -> None:
    """The app's end of our leg is bound to lo: the same 4-tuple on eth0 is another connection (seen to hang)."""
    server, source = steered.server, steered.client.address(family)
    endpoint, address = steered.protect(server, Flags.INGRESS), server.address(family)
    with ExitStack() as stack:
        down_listener = stack.enter_context(open_listener(server.netns, Direction.INGRESS, family))
        steered.kernel.set_listener(endpoint, Direction.INGRESS, family, 0, down_listener)
        with visiting(server.cgroup), server.netns.entered():
            app_family = socket.AF_INET6 if dual else family
            app = stack.enter_context(socket.create_server(("", PROXIED), family=app_family, dualstack_ipv6=dual))
        with server.netns.entered():
            leg = stack.enter_context(prepared_leg(Direction.INGRESS, family))
        for sock in (down_listener, app, leg):
            sock.settimeout(3)
        leg.bind((source, 61000))
        if leg_first:
            leg.connect((address, PROXIED))
        client = stack.enter_context(steered.client.start(MEET, address, str(PROXIED), "61000"))
        stack.callback(client.kill)
        down, peer = down_listener.accept()
        stack.enter_context(down)
        if not leg_first:
            leg.connect((address, PROXIED))
        end, seen = app.accept()
        stack.enter_context(end)
        assert (bound_to(end), bound_to(app), bound_to(down)) == (b"lo", b"", b"eth0")
        mapped = "::ffff:" if dual and family == socket.AF_INET else ""
        assert (seen[:2], end.getsockname()[:2]) == ((mapped + source, 61000), (mapped + address, PROXIED))
        assert peer[:2] == (source, 61000)
        for sock in (down, end):
            sock.settimeout(3)
        assert client.stdout is not None
        for line in (b"1\n", b"2\n"):
            assert down.recv(100) == b"hello\n"
            for one, other in ((leg, end), (end, leg)):
                one.sendall(line)
                assert other.recv(100) == line
            down.sendall(line)
            assert client.stdout.readline() == line.decode()
    assert steered.kernel.counters()["bind_failed"] == 0
