"""UDP: judged where it is sent and where it comes in, and answers that are never judged as new."""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any  # Any: what a command inside a pod prints as JSON

import pytest

from redirect import libbpf
from redirect.maps import U64
from redirect.sockets import LEG_MARK, STEER_MARK
from redirect.types import Answer, Direction, Flags, VerdictFlags, VerdictKey
from tests.redirect.conftest import ALLOWED, CLIENT_IDENTITY, DENIED, PROXIED, SERVER_IDENTITY, UNNAMED, Steered
from tests.redirect.pods import PREFIX4, PREFIX6, Pod

pytestmark = pytest.mark.root

UDP = socket.IPPROTO_UDP


@pytest.fixture(autouse=True)
def low_ports(steered: Steered) -> None:
    """Anybody may bind the ports that the verdicts name."""
    for pod in (steered.client, steered.server):
        with pod.netns.entered():
            Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0", encoding="ascii")


HELP = textwrap.dedent("""
    host, port, own = json.loads(sys.argv[1])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    def tried(act):
        '''What `act` gives, or the name of its error.'''
        try: return act()
        except TimeoutError: return "TIMEOUT"
        except OSError as e: return errno.errorcode[e.errno]
    def made(bound=None):
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.settimeout(0.5)
        if bound is not None: s.bind((own, bound))
        return s
    def asked(s, how="sendto", port=port):
        if how == "connect": s.connect((host, port)); s.send(b"ask")
        elif how == "sendto": s.sendto(b"ask", (host, port))
        elif how == "sendmsg": s.sendmsg([b"ask"], [], 0, (host, port))
        elif how == "mapped": s.sendto(b"ask", ("::ffff:" + host, port))
        elif how == "connect mapped": s.connect(("::ffff:" + host, port)); s.send(b"ask")
        return s.recv(100).decode()
""")
# Answers each datagram from the port that it came to, until it gets "end"; says what it heard.
ECHO = """
    s = made(port)
    print("ready", flush=True)
    s.settimeout(20)
    while True:
        data, peer = s.recvfrom(100)
        if data == b"end": break
        print(data.decode(), flush=True)
        HOW
"""
ANSWERS = {
    "sendto": "tried(lambda: s.sendto(b'answer', peer))",
    "connect": "tried(lambda: s.connect(peer)); tried(lambda: s.send(b'answer')); s.close(); s = made(port)",
}


def script(code: str) -> str:
    return HELP + textwrap.dedent(code)


def given(pod: Pod, host: str, port: int) -> str:
    return json.dumps([host, port, pod.ip6 if ":" in host else pod.ip4])


def run(pod: Pod, host: str, port: int, code: str, who: str = "nobody") -> Any:
    return pod.run(script(code), given(pod, host, port), who=who)


@contextmanager
def echo(pod: Pod, host: str, port: int, how: str = "sendto") -> Iterator[subprocess.Popen[str]]:
    """A UDP server in the pod."""
    code = script(ECHO.replace("HOW", ANSWERS[how]))
    with pod.start(code, given(pod, host, port)) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if ready != "ready\n":
            process.kill()
            raise AssertionError(ready + process.communicate()[1])
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> list[str]:
    """End it; what it said before."""
    process.kill()
    return process.communicate()[0].splitlines()


def allow(steered: Steered, endpoint: int, peer: int, direction: Direction, port: int = ALLOWED) -> None:
    steered.kernel.set_verdicts(endpoint, {VerdictKey(endpoint, peer, direction, UDP, port): (Answer.ALLOW, 0)})


WAYS = ("connect", "sendto", "sendmsg")


@pytest.mark.parametrize("how", WAYS)
def test_egress_is_judged_where_it_is_sent(steered: Steered, family: int, how: str) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    host = steered.server.address(family)
    code = f"say([tried(lambda: asked(made(), {how!r}, one)) for one in {[DENIED, UNNAMED, PROXIED, ALLOWED]}])"
    with echo(steered.server, host, ALLOWED) as app:
        assert run(steered.client, host, ALLOWED, code) == ["EPERM", "EPERM", "EPERM", "answer"]
        assert heard(app) == ["ask"]
    found = {one.dport: one for one in steered.refused()}
    reasons = {port: one.reason for port, one in found.items()}
    assert reasons == {DENIED: "denied", UNNAMED: "no_rule", PROXIED: "not_steered"}
    one = found[DENIED]
    assert (one.src, one.dst, one.proto) == (steered.client.address(family), host, UDP)
    assert (one.identity, one.direction, one.allowed) == (SERVER_IDENTITY, Direction.EGRESS, False)
    assert (one.sport == 0) == (how == "connect")


@pytest.mark.parametrize("how", ["mapped", "connect mapped"])
def test_mapped_destination_is_judged_as_ipv4(steered: Steered, how: str) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    code = f"""
    family = socket.AF_INET6
    say([tried(lambda: asked(made(), {how!r}, one)) for one in ({DENIED}, {ALLOWED})])
    """
    with echo(steered.server, steered.server.ip4, ALLOWED):
        assert run(steered.client, steered.server.ip4, 0, code) == ["EPERM", "answer"]
    (denial,) = steered.refused()
    assert denial.dst == steered.server.ip4


def test_answers_come_in_under_ingress_default_deny(steered: Steered, family: int) -> None:
    """A resolver's socket is not connected; nothing allows what comes from port 81, and it is an answer."""
    endpoint = steered.protect(steered.client, Flags.EGRESS | Flags.INGRESS)
    allow(steered, endpoint, SERVER_IDENTITY, Direction.EGRESS)
    host = steered.server.address(family)
    with echo(steered.server, host, ALLOWED):
        code = "say([tried(lambda: asked(made(), how)) for how in ('sendto', 'sendmsg', 'connect')])"
        assert run(steered.client, host, ALLOWED, code) == ["answer"] * 3
        # from another port it is nobody's answer
        code = "s = made(45000); print('ready', flush=True); say(tried(lambda: s.recv(9).decode()))"
        with steered.client.start(script(code), given(steered.client, host, ALLOWED)) as process:
            assert process.stdout is not None
            process.stdout.readline()
            run(steered.server, steered.client.address(family), 45000, "made(95).sendto(b'new', (host, port)); say(0)")
            assert json.loads(process.communicate(timeout=10)[0]) == "TIMEOUT"
    (denial,) = steered.refused()
    assert (denial.direction, denial.sport, denial.dport) == (Direction.INGRESS, 95, 45000)
    assert (denial.reason, denial.identity) == ("no_rule", SERVER_IDENTITY)


@pytest.mark.parametrize("how", ANSWERS)
def test_server_answers_under_egress_default_deny(steered: Steered, family: int, how: str) -> None:
    endpoint = steered.protect(steered.server, Flags.EGRESS | Flags.INGRESS)
    allow(steered, endpoint, CLIENT_IDENTITY, Direction.INGRESS)
    host = steered.server.address(family)
    with echo(steered.server, host, ALLOWED, how):
        assert run(steered.client, host, ALLOWED, "say(tried(lambda: asked(made())))") == "answer"
        # what it begins itself is no answer, from the same port neither
        code = (
            "say([tried(lambda: made().sendto(b'new', (host, 45001))), tried(lambda: made().connect((host, 45001)))])"
        )
        assert run(steered.server, steered.client.address(family), 0, code) == ["EPERM", "EPERM"]
    assert {(one.direction, one.dport) for one in steered.refused()} == {(Direction.EGRESS, 45001)}


@pytest.mark.parametrize(("port", "reason"), [(DENIED, "denied"), (UNNAMED, "no_rule"), (PROXIED, "not_steered")])
def test_ingress_is_refused(steered: Steered, family: int, port: int, reason: str) -> None:
    steered.protect(steered.server, Flags.INGRESS)
    host = steered.server.address(family)
    with echo(steered.server, host, port) as app:
        assert run(steered.client, host, port, "say(tried(lambda: asked(made())))") == "TIMEOUT"
        assert heard(app) == []
    (denial,) = steered.refused()
    assert (denial.reason, denial.dport, denial.direction) == (reason, port, Direction.INGRESS)
    assert (denial.src, denial.dst, denial.identity) == (steered.client.address(family), host, CLIENT_IDENTITY)


def test_sk_lookup_holds_without_the_gates(steered: Steered, family: int) -> None:
    """Two gates: somebody took the programs off the device."""
    endpoint = steered.protect(steered.server, Flags.INGRESS, attach=False)
    steered.kernel.attach_pod(steered.server.netns, endpoint, (), steered.server.cgroup)
    host = steered.server.address(family)
    with echo(steered.server, host, DENIED) as app:
        run(steered.client, host, DENIED, "say(tried(lambda: asked(made())))")
        assert heard(app) == []
    assert [one.reason for one in steered.refused()] == ["denied"]


@pytest.mark.parametrize("direction", list(Direction))
def test_withdrawn_policy_ends_answers(steered: Steered, family: int, direction: Direction) -> None:
    """The client keeps one socket, connected or not; the next answer is refused, whoever would send it."""
    pod, peer = (steered.client, SERVER_IDENTITY) if direction else (steered.server, CLIENT_IDENTITY)
    endpoint = steered.protect(pod, Flags.EGRESS | Flags.INGRESS)
    allow(steered, endpoint, peer, direction)
    host = steered.server.address(family)
    code = """
    s = made(); s.connect((host, port)); s.send(b"one")
    print(json.dumps(s.recv(9).decode()), flush=True)
    sys.stdin.readline()
    say(tried(lambda: (s.send(b"two"), s.recv(9).decode())[1]))
    """
    with (
        echo(steered.server, host, ALLOWED) as app,
        steered.client.start(script(code), given(steered.client, host, ALLOWED)) as process,
    ):
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == "answer"
        assert steered.refused() == []
        steered.kernel.set_verdicts(endpoint, {})
        out, _ = process.communicate("go\n", timeout=10)
        assert json.loads(out) == "TIMEOUT"
        assert heard(app) == ["one"]
    assert {one.direction for one in steered.refused()} == {direction}


def test_withdrawn_policy_ends_what_is_still_coming(steered: Steered, family: int) -> None:
    """A stream of answers to one question, on a socket that is connected, which l7_sk_lookup is never asked about."""
    endpoint = steered.protect(steered.client, Flags.EGRESS | Flags.INGRESS)
    allow(steered, endpoint, SERVER_IDENTITY, Direction.EGRESS)
    host = steered.server.address(family)
    stream = """
    s = made(port); print("ready", flush=True); s.settimeout(10)
    _, peer = s.recvfrom(9)
    for _ in range(100): s.sendto(b"answer", peer); time.sleep(0.05)
    """
    code = """
    s = made(); s.settimeout(3); s.connect((host, port)); s.send(b"one"); s.recv(9)
    print("begun", flush=True)
    sys.stdin.readline()
    s.setblocking(False)
    while tried(lambda: s.recv(9)) != "EAGAIN": pass
    s.settimeout(0.5)
    say(tried(lambda: s.recv(9).decode()))
    """
    with ExitStack() as stack:
        app = stack.enter_context(steered.server.start(script(stream), given(steered.server, host, ALLOWED)))
        assert app.stdout is not None
        assert app.stdout.readline() == "ready\n"  # before that a datagram is answered by an ICMP error
        process = stack.enter_context(steered.client.start(script(code), given(steered.client, host, ALLOWED)))
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        steered.kernel.set_verdicts(endpoint, {})
        time.sleep(0.1)
        out, _ = process.communicate("go\n", timeout=10)
        assert json.loads(out) == "TIMEOUT"
        app.kill()
    assert {(one.direction, one.sport) for one in steered.refused()} == {(Direction.INGRESS, ALLOWED)}


def test_old_flow_is_no_excuse(steered: Steered, family: int) -> None:
    """180 s after the last packet an answer is judged as new: here the entry is made older, not waited for."""
    endpoint = steered.protect(steered.client, Flags.EGRESS | Flags.INGRESS)
    allow(steered, endpoint, SERVER_IDENTITY, Direction.EGRESS)
    host = steered.server.address(family)
    code = """
    s = made(); s.sendto(b"one", (host, port))
    print("sent", flush=True)
    sys.stdin.readline()
    say(tried(lambda: s.recv(9).decode()))
    """
    stream = """
    s = made(port); print("ready", flush=True); s.settimeout(10)
    _, peer = s.recvfrom(9)
    print("got", flush=True)
    sys.stdin.readline()
    s.sendto(b"answer", peer); say(1)
    """
    for age_s, expected in ((170, "answer"), (181, "TIMEOUT")):
        with ExitStack() as stack:
            app = stack.enter_context(steered.server.start(script(stream), given(steered.server, host, ALLOWED)))
            assert app.stdout is not None
            app.stdout.readline()
            process = stack.enter_context(steered.client.start(script(code), given(steered.client, host, ALLOWED)))
            assert process.stdout is not None
            process.stdout.readline()
            assert app.stdout.readline() == "got\n"
            make_older(steered, age_s)
            app.communicate("go\n", timeout=10)
            assert json.loads(process.communicate("go\n", timeout=10)[0]) == expected
            empty_flows(steered)


FLOW_KEY_BYTES = 32  # struct l7_flow_key


def make_older(steered: Steered, age_s: int) -> None:
    """Set back the time of every flow that goes out."""
    fd = steered.kernel.maps.fd("l7_flows")
    keys = list(libbpf.map_keys(fd, FLOW_KEY_BYTES))
    assert keys
    for key in keys:
        seen = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - age_s * 10**9
        libbpf.map_update(fd, key, U64.pack(seen) + U64.pack(0), "l7_flows")


def empty_flows(steered: Steered) -> None:
    fd = steered.kernel.maps.fd("l7_flows")
    for key in list(libbpf.map_keys(fd, FLOW_KEY_BYTES)):
        libbpf.map_delete(fd, key, "l7_flows")


@pytest.mark.parametrize("direction", list(Direction))
def test_audit_passes_and_answers_are_not_recorded(steered: Steered, family: int, direction: Direction) -> None:
    """Every direction is in audit mode and nothing is allowed: one record for the question, none for the answer."""
    pod, peer = (steered.client, SERVER_IDENTITY) if direction else (steered.server, CLIENT_IDENTITY)
    endpoint = steered.protect(pod, Flags.EGRESS | Flags.INGRESS)
    steered.kernel.set_verdicts(
        endpoint,
        {VerdictKey(endpoint, 0, one, UDP, 0, 0): (Answer.ALLOW, VerdictFlags.AUDIT) for one in Direction},
    )
    host = steered.server.address(family)
    with echo(steered.server, host, ALLOWED):
        assert run(steered.client, host, ALLOWED, "say(tried(lambda: asked(made())))") == "answer"
    (record,) = steered.refused()
    assert (record.reason, record.allowed, record.direction) == ("would_deny", True, direction)
    assert (record.dport, record.identity, record.sport != 0) == (ALLOWED, peer, True)


def test_own_loopback_is_never_judged(steered: Steered, family: int) -> None:
    """A resolver on 127.0.0.1, or on the pod's own address."""
    steered.protect(steered.client, Flags.EGRESS | Flags.INGRESS)
    loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    code = """
    server = socket.socket(family, socket.SOCK_DGRAM); server.bind((host, 5353)); port = 5353
    def answer():
        data, peer = server.recvfrom(9); server.sendto(b"answer", peer)
    threading.Thread(target=answer, daemon=True).start()
    say(tried(lambda: asked(made())))
    """
    for host in (loopback, steered.client.address(family)):
        assert run(steered.client, host, 5353, code) == "answer"
    assert steered.refused() == []


@pytest.mark.parametrize("port", [ALLOWED, DENIED])
def test_multicast_in_is_judged(steered: Steered, family: int, port: int) -> None:
    """l7_sk_lookup is never asked for it."""
    steered.protect(steered.server, Flags.INGRESS)
    group = "ff02::1234" if family == socket.AF_INET6 else "239.1.2.3"
    listen = """
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(1.5)
    if family == socket.AF_INET: s.setsockopt(0, 35, socket.inet_aton(host) + socket.inet_aton(own))
    else: s.setsockopt(41, 20, socket.inet_pton(family, host) + struct.pack("I", socket.if_nametoindex("eth0")))
    s.bind(("", port)); print("ready", flush=True)
    say(tried(lambda: s.recv(9).decode()))
    """
    send = """
    s = made(0)
    if family == socket.AF_INET6: s.setsockopt(41, 17, socket.if_nametoindex("eth0"))
    say(tried(lambda: s.sendto(b"news", (host, port))))
    """
    with steered.server.start(script(listen), given(steered.server, group, port)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert run(steered.client, group, port, send) == 4
        out, err = process.communicate(timeout=10)
        assert json.loads(out) == ("news" if port == ALLOWED else "TIMEOUT"), err
    refused = [(one.dst, one.dport, one.reason) for one in steered.refused() if one.proto == UDP]
    assert refused == ([] if port == ALLOWED else [(group, DENIED, "denied")])


@pytest.mark.parametrize("port", [ALLOWED, DENIED])
def test_broadcast_in_is_judged(steered: Steered, port: int) -> None:
    steered.protect(steered.server, Flags.INGRESS)
    everybody = f"{PREFIX4}.255"
    listen = """
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(1.5); s.bind(("", port)); print("ready", flush=True)
    say(tried(lambda: s.recv(9).decode()))
    """
    send = "s = made(); s.setsockopt(1, 6, 1); say(tried(lambda: s.sendto(b'news', (host, port))))"
    with steered.server.start(script(listen), given(steered.server, everybody, port)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert run(steered.client, everybody, port, send) == 4
        out, _ = process.communicate(timeout=10)
        assert json.loads(out) == ("news" if port == ALLOWED else "TIMEOUT")


def test_multicast_and_broadcast_out_are_judged_by_address(steered: Steered, family: int) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    hosts = (
        ["ff02::1234", "ff05::1"] if family == socket.AF_INET6 else ["239.1.2.3", f"{PREFIX4}.255", "255.255.255.255"]
    )
    code = """
    s = made(0)
    s.setsockopt(1, 6, 1)
    if family == socket.AF_INET6: s.setsockopt(41, 17, socket.if_nametoindex("eth0"))
    say([tried(lambda: s.sendto(b"news", (host, port))) for host in HOSTS])
    """.replace("HOSTS", repr(hosts))
    assert run(steered.client, hosts[0], ALLOWED, code) == ["EPERM"] * len(hosts)
    assert {(one.dst, one.reason) for one in steered.refused()} == {(host, "no_rule") for host in hosts}


def test_fragments(steered: Steered, family: int) -> None:
    """Only the first shows ports: it is judged, and the rest is nothing without it. Out and in."""
    steered.protect(steered.client, Flags.EGRESS)
    steered.protect(steered.server, Flags.INGRESS | Flags.EGRESS)
    host = steered.server.address(family)
    big = "(s.sendto(b'a' * 5000, (host, port)), s.recv(9).decode())[1]"
    code = f"s = made(); say(tried(lambda: {big}))"
    with echo(steered.server, host, ALLOWED):
        assert run(steered.client, host, ALLOWED, code) == "answer"
        assert steered.refused() == []
        assert run(steered.client, host, DENIED, code) == "EPERM"


def test_a_flow_is_of_one_endpoint_and_one_port(steered: Steered, family: int) -> None:
    """What the client asked the server opens nothing for another of its ports, or for the gateway."""
    endpoint = steered.protect(steered.client, Flags.EGRESS | Flags.INGRESS)
    allow(steered, endpoint, SERVER_IDENTITY, Direction.EGRESS)
    host, own = steered.server.address(family), steered.client.address(family)
    gateway = f"{PREFIX6}::1" if family == socket.AF_INET6 else f"{PREFIX4}.1"
    assert gateway != host
    code = """
    s, t = made(45010), made(45011)
    s.sendto(b"ask", (host, port))
    print("ready", flush=True)
    say([tried(lambda: s.recv(9).decode()), tried(lambda: t.recv(9).decode())])
    """
    send = "s = made(81); s.sendto(b'new', (host, 45011)); say(tried(lambda: s.sendto(b'answer', (host, 45010))))"
    with steered.client.start(script(code), given(steered.client, host, ALLOWED)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        run(steered.server, own, 0, send)
        assert json.loads(process.communicate(timeout=10)[0]) == ["answer", "TIMEOUT"]


def test_a_new_pod_inherits_no_flow_with_the_id_of_one_that_is_gone(steered: Steered, family: int) -> None:
    """Ids are given again at once. What the pod that had it before opened must not let its peer into the next one."""
    gone, host = steered.client, steered.server.address(family)
    endpoint = steered.protect(gone, Flags.INGRESS)
    assert run(gone, host, ALLOWED, "say(tried(lambda: made(45010).sendto(b'open', (host, port))))") == 4
    steered.kernel.detach_pod(endpoint)
    steered.kernel.del_endpoint(gone.netns.cookie)
    following = steered.net.pod("n")
    steered.kernel.set_endpoint(following.netns.cookie, endpoint, Flags.INGRESS, following.addresses)
    steered.kernel.attach_pod(following.netns, endpoint, following.addresses, following.cgroup, gate=True)
    wait = "s = made(45010); s.settimeout(2); print('ready', flush=True); say(tried(lambda: s.recv(9).decode()))"
    with following.start(script(wait), given(following, host, ALLOWED)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        run(steered.server, following.address(family), 45010, "say(made(81).sendto(b'in', (host, port)))")
        assert json.loads(process.communicate(timeout=10)[0]) == "TIMEOUT"


RAW_UDP = textwrap.dedent("""
    def checksum(data):
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        while total >> 16: total = (total & 0xffff) + (total >> 16)
        return ~total & 0xffff
    a, b = socket.inet_pton(family, own), socket.inet_pton(family, host)
    def datagram(sport, dport, data=b"forged"):
        head = struct.pack("!HHHH", sport, dport, 8 + len(data), 0)
        size = 8 + len(data)
        pseudo = a + b + (struct.pack("!BBH", 0, 17, size) if len(a) == 4 else struct.pack("!II", size, 17))
        return head[:6] + struct.pack("!H", checksum(pseudo + head + data + bytes(len(data) % 2)) or 0xffff) + data
    def raw(data, protocol=17):
        s = socket.socket(family, socket.SOCK_RAW, protocol)
        try: s.sendto(data, (host, 0))
        except OSError as e: return errno.errorcode[e.errno]
    def ip(payload, protocol=17, offset=0, more=0, options=b""):
        if len(a) == 16:
            extension = struct.pack("!BBHI", protocol, 0, offset << 3 | more, 7) if offset or more else b""
            head = struct.pack("!IHBB", 6 << 28, len(extension + payload), 44 if extension else protocol, 64)
            return head + a + b + extension + payload
        size = 20 + len(options)
        flags = more << 13 | offset
        head = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), 7, flags, 64, protocol, 0)
        head += a + b + options
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload
    def packet(data):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        mac = bytes.fromhex(MAC)
        tried(lambda: s.sendto(data, ("eth0", 0x86dd if len(a) == 16 else 0x0800, 0, 0, mac)))
""")


def raw_code(steered: Steered, code: str) -> str:
    with steered.server.netns.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind(("eth0", 0))
        mac: bytes = sock.getsockname()[4]
    return RAW_UDP.replace("MAC", repr(mac.hex())) + textwrap.dedent(code)


def test_raw_and_packet_sockets_do_not_get_past(steered: Steered, family: int) -> None:
    """They meet neither connect nor sendmsg: the gate judges each packet."""
    steered.protect(steered.client, Flags.EGRESS)
    host = steered.server.address(family)
    code = raw_code(
        steered,
        """
    raw(datagram(45000, port)); packet(ip(datagram(45001, port)))
    packet(ip(datagram(45002, port)[:8], more=1)); packet(ip(datagram(45002, port)[8:], offset=1))
    # the rest of a datagram that another packet began: an overlap could change what that one showed
    packet(ip(datagram(45003, port), offset=1)); packet(ip(datagram(45003, port), offset=3))
    say(1)
    """,
    )
    with echo(steered.server, host, DENIED) as app:
        run(steered.client, host, DENIED, code, who="container")
        time.sleep(0.2)
        assert heard(app) == []
    with echo(steered.server, host, ALLOWED) as app:
        run(steered.client, host, ALLOWED, raw_code(steered, "raw(datagram(45004, port)); say(1)"), who="container")
        time.sleep(0.2)
        assert heard(app) == ["forged"]
    reasons = {(one.reason, one.sport) for one in steered.refused()}
    assert reasons == {("denied", 45000), ("denied", 45001), ("denied", 45002), ("raw_packet", 0)}


def test_source_routes_are_refused(steered: Steered) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    code = raw_code(steered, "packet(ip(datagram(45005, port), options=b'\\x83\\7\\4' + b + b'\\0')); say(1)")
    run(steered.client, steered.server.ip4, ALLOWED, code, who="container")
    assert [(one.reason, one.proto) for one in steered.refused()] == [("unreadable", UDP)]


def test_connected_socket_is_judged_after_a_change(steered: Steered, family: int) -> None:
    """send() on it meets no hook; the gate refuses it, and says so once in 10 s."""
    endpoint = steered.protect(steered.client, Flags.EGRESS)
    host = steered.server.address(family)
    code = """
    s = made(); s.settimeout(5); s.connect((host, port)); s.send(b"one")
    s.recv(9)  # an answer that came later would begin a flow of its own: ingress is open here
    print("sent", flush=True)
    sys.stdin.readline()
    say([tried(lambda: s.send(b"two")) for _ in range(5)])
    """
    with (
        echo(steered.server, host, ALLOWED) as app,
        steered.client.start(script(code), given(steered.client, host, ALLOWED)) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        steered.kernel.set_verdicts(endpoint, {})
        process.communicate("go\n", timeout=10)
        assert heard(app) == ["one"]
    (denial,) = steered.refused()
    assert (denial.reason, denial.dport, denial.direction) == ("no_rule", ALLOWED, Direction.EGRESS)
    assert steered.kernel.counters()["suppressed"] >= 4


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("direction", list(Direction))
def test_other_protocols_are_judged_as_one(steered: Steered, family: int, direction: Direction, allowed: bool) -> None:
    """Echo requests, and GRE and SCTP by their number: this kernel has no SCTP, so packets are written by hand."""
    pod, peer = (steered.client, SERVER_IDENTITY) if direction else (steered.server, CLIENT_IDENTITY)
    endpoint = steered.protect(pod, Flags.EGRESS if direction else Flags.INGRESS)
    if allowed:
        key = VerdictKey(endpoint, peer, direction, 255, 0, 0)
        steered.kernel.set_verdicts(endpoint, {key: (Answer.ALLOW, 0)})
    host = steered.server.address(family)
    ping = """
    s = socket.socket(family, socket.SOCK_RAW, 58 if family == socket.AF_INET6 else 1); s.settimeout(0.5)
    kind, reply = (128, 129) if family == socket.AF_INET6 else (8, 0)
    body = struct.pack("!BBHHH", kind, 0, 0, 7, 1) + b"ping"
    if kind == 8: body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    def ping():
        s.sendto(body, (host, 0))
        while True:
            data, peer = s.recvfrom(200)
            if data[20 if kind == 8 else 0] == reply and peer[0] == host: return "reply"
    pinged = tried(ping)
    raw(b"\\0\\0\\x08\\0" + bytes(8), 47); raw(struct.pack("!HH", 45006, 80) + bytes(8), 132)
    say(pinged)
    """
    with steered.server.netns.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    with tap:
        tap.bind(("eth0", 3))
        said = run(steered.client, host, 0, raw_code(steered, ping), who="container")
        time.sleep(0.1)
        seen = set()
        tap.setblocking(False)
        while True:
            try:
                data, whence = tap.recvfrom(2000)
            except BlockingIOError:
                break
            if whence[2] != 4:
                seen.add(data[6] if data[0] >> 4 == 6 else data[9])
    refused = {(one.proto, one.reason, one.direction) for one in steered.refused()}
    echoes = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    if allowed:
        assert said == "reply"
        assert refused == set()
        assert {47, 132} <= seen
    else:
        assert said in ("TIMEOUT", "ENOBUFS", "EPERM")
        assert refused == {(one, "no_rule", direction) for one in (echoes, 47, 132)}
        if direction == Direction.EGRESS:
            assert not {47, 132} & seen


def test_errors_and_replies_of_icmp_pass(steered: Steered, family: int) -> None:
    """Under default deny both ways: a closed port is a refusal, and a neighbour is found."""
    endpoint = steered.protect(steered.client, Flags.EGRESS | Flags.INGRESS)
    other = steered.protect(steered.server, Flags.EGRESS | Flags.INGRESS)
    allow(steered, endpoint, SERVER_IDENTITY, Direction.EGRESS)
    allow(steered, other, CLIENT_IDENTITY, Direction.INGRESS)
    for pod in (steered.client, steered.server):
        subprocess.run(["/sbin/ip", "-n", pod.netns_name, "neigh", "flush", "all"], check=True)  # noqa: S603 - our own netns
    code = "say(tried(lambda: asked(made(), 'connect')))"
    assert run(steered.client, steered.server.address(family), ALLOWED, code) == "ECONNREFUSED"
    assert steered.refused() == []


def test_forged_own_address_from_outside(steered: Steered, family: int) -> None:
    """l7_sk_lookup takes own to own for the pod itself, and IPv6 filters no such source."""
    steered.protect(steered.server, Flags.INGRESS)
    host = steered.server.address(family)
    with echo(steered.server, host, ALLOWED) as app:
        code = raw_code(steered, "a = b; packet(ip(datagram(45007, port))); say(1)")
        run(steered.client, host, ALLOWED, code, who="container")
        time.sleep(0.2)
        assert heard(app) == []
    assert [one.reason for one in steered.refused()] == ["forged_source"]


@pytest.mark.parametrize("flags", [Flags.NONE, Flags.EGRESS | Flags.INGRESS | Flags.STOPPED])
def test_nothing_is_judged_where_nothing_is_enforced(steered: Steered, family: int, flags: Flags) -> None:
    steered.protect(steered.client, flags)
    host = steered.server.address(family)
    with echo(steered.server, host, DENIED):
        assert run(steered.client, host, DENIED, "say(tried(lambda: asked(made())))") == "answer"
    assert steered.refused() == []


def test_own_cgroup_passes(steered: Steered, family: int) -> None:
    steered.protect(steered.client, Flags.EGRESS | Flags.INGRESS)
    host = steered.server.address(family)
    steered.kernel.set_own_cgroups([steered.own, steered.client.cgroup])
    code = "made().sendto(b'ask', (host, port)); say(1)"
    with echo(steered.server, host, DENIED) as app:
        run(steered.client, host, DENIED, code)
        time.sleep(0.1)
        assert heard(app) == ["ask"]


# Each sends to the denied port of `host`; `port` is an allowed one. Run with a container's default capabilities.
WAYS_OUT = {
    "bound to a device": "s.setsockopt(1, 25, b'eth0'); s.sendto(b'x', (host, DENIED))",
    "another name after an allowed connect": "s.connect((host, port)); s.sendto(b'x', (host, DENIED))",
    "connected again": "s.connect((host, port)); s.connect((host, DENIED)); s.send(b'x')",
    "corked": "s.sendto(b'x', socket.MSG_MORE, (host, port)); s.sendto(b'x', (host, DENIED))",
    "in segments": "s.setsockopt(17, 103, 100); s.sendto(b'x' * 300, (host, DENIED))",
    "marked as a leg": "s.setsockopt(1, 36, LEG); s.sendto(b'x', (host, DENIED))",
    "marked as steered": "s.setsockopt(1, 36, STEER); s.sendto(b'x', (host, DENIED))",
    "foreign source": (
        "s.setsockopt(*((41, 78) if family == 10 else (0, 15)), 1);s.bind((FOREIGN, 0)); s.sendto(b'x', (host, DENIED))"
    ),
    "from a server's port": "s.bind((own, port)); s.sendto(b'x', (host, DENIED))",
    "raw": (
        "r = socket.socket(family, socket.SOCK_RAW, 17);"
        "r.sendto(struct.pack('!HHHH', 9, DENIED, 9, 0) + b'x', (host, 0))"
    ),
    "light": "r = socket.socket(family, socket.SOCK_DGRAM, 136); r.sendto(b'x', (host, DENIED))",
    "raw light": (
        "r = socket.socket(family, socket.SOCK_RAW, 136);"
        "r.sendto(struct.pack('!HHHH', 9, DENIED, 8, 0) + b'x', (host, 0))"
    ),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_way_out_with_what_containers_may(steered: Steered, family: int, way: str) -> None:
    """Whatever the call says, nothing for the denied port leaves the pod's device; another port is allowed."""
    steered.protect(steered.client, Flags.EGRESS | Flags.INGRESS)
    host = steered.server.address(family)
    foreign = "fd99::5" if family == socket.AF_INET6 else "10.99.0.5"
    code = f"""
    DENIED, LEG, STEER, FOREIGN = {DENIED}, {LEG_MARK}, {STEER_MARK}, {foreign!r}
    s = made()
    def act(): {WAYS_OUT[way]}
    say(tried(act))
    """
    with steered.server.netns.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    with tap:
        tap.bind(("eth0", 3))
        run(steered.client, host, ALLOWED, code, who="container")
        time.sleep(0.1)
        tap.setblocking(False)
        while True:
            try:
                data, whence = tap.recvfrom(4000)
            except BlockingIOError:
                break
            at = 40 if data[0] >> 4 == 6 else (data[0] & 15) * 4
            protocol = data[6] if at == 40 else data[9]
            if whence[2] != 4 and protocol in (17, 136, 43, 44):
                assert int.from_bytes(data[at + 2 : at + 4]) == ALLOWED, (whence, data)


def test_source_route_of_a_socket_is_refused(steered: Steered, family: int) -> None:
    """It goes to the allowed hop first, and from there to where nobody was asked about. Any user may."""
    steered.protect(steered.client, Flags.EGRESS)
    hop = f"{PREFIX6}::1" if family == socket.AF_INET6 else f"{PREFIX4}.1"
    steered.kernel.set_identities({ipaddress.ip_network(hop): SERVER_IDENTITY})
    code = """
    s = made()
    def act():
        if family == socket.AF_INET:
            s.setsockopt(0, 4, b"\\x83\\7\\4" + socket.inet_aton("10.99.0.9") + b"\\0")
            s.sendto(b"x", (host, port))
        else:
            # RFC 8754: one segment, last entry 0; the header's destination is the segment, the real one is sendto's
            header = bytes([0, 2, 4, 0, 0, 0, 0, 0]) + socket.inet_pton(10, host)
            s.setsockopt(41, 57, header)
            s.sendto(b"x", (host, port))
        return "sent"
    say(tried(act))
    """
    said = run(steered.client, hop, ALLOWED, code, who="container")
    assert (said, [one.reason for one in steered.refused()]) == ("sent", ["unreadable"])
