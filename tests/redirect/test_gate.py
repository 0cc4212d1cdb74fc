"""The last gate, on what leaves the pod's device: raw and packet sockets, which meet no connect hook."""

from __future__ import annotations

import json
import socket
import subprocess
import time

import pytest

from redirect import gate, plumbing
from redirect.rtnl import Rtnl
from redirect.sockets import LEG_MARK
from redirect.types import Direction, Flags
from tests.redirect.conftest import ALLOWED, DENIED, PROXIED, Steered
from tests.redirect.pods import Pod

pytestmark = pytest.mark.root

DEFER = "s.setsockopt(6, 30, 1), s.setsockopt(6, 34, 1)"  # TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE

RAW = """
    def checksum(data):
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        while total >> 16: total = (total & 0xffff) + (total >> 16)
        return ~total & 0xffff
    def syn(src, dst, sport, dport):
        family = socket.AF_INET6 if ":" in src else socket.AF_INET
        a, b = socket.inet_pton(family, src), socket.inet_pton(family, dst)
        tcp = struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 5 << 4, 2, 1000, 0, 0)
        pseudo = a + b + (struct.pack("!BBH", 0, 6, len(tcp)) if len(a) == 4 else struct.pack("!II", len(tcp), 6))
        return tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    def ip4(src, dst, payload, offset=0, more=0):
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, more << 13 | offset, 64, 6, 0)
        head += socket.inet_aton(src) + socket.inet_aton(dst)
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload
    def ip6(src, dst, payload, next=6, extension=b""):
        head = struct.pack("!IHBB", 6 << 28, len(extension) + len(payload), next, 64)
        ends = [socket.inet_pton(socket.AF_INET6, one) for one in (src, dst)]
        return head + b"".join(ends) + extension + payload
    own, host, mine, theirs = json.loads(sys.argv[1])
    family = socket.AF_INET6 if ":" in own else socket.AF_INET
    frame_head = bytes.fromhex(theirs + mine) + (b"\\x86\\xdd" if ":" in own else b"\\x08\\x00")
    def packet(ip):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        s.bind(("eth0", 0))
        try: s.send(frame_head + ip)
        except OSError as e: return errno.errorcode[e.errno]
    def raw(segment, mark=None):
        s = socket.socket(family, socket.SOCK_RAW, 6)
        try:
            if mark is not None: s.setsockopt(socket.SOL_SOCKET, 36, mark)
            s.sendto(segment, (host, 0))
        except OSError as e: return errno.errorcode[e.errno]
"""


def macs(steered: Steered) -> list[str]:
    """The client's and the server's, in hexadecimal."""

    def mac(pod: Pod) -> str:
        with pod.netns.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.bind(("eth0", 0))
            raw: bytes = sock.getsockname()[4]
        return raw.hex()

    return [mac(steered.client), mac(steered.server)]


def syns(steered: Steered, family: int, code: str) -> set[int]:
    """Run ``code`` with the helpers above inside the client; the source ports of what the server's eth0 saw of it."""
    client, server = steered.client, steered.server
    with server.netns.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with tap:
        tap.bind(("eth0", 3))
        given = [client.address(family), server.address(family), *macs(steered)]
        client.run(RAW + code, json.dumps(given), who="container")
        time.sleep(0.1)
        tap.setblocking(False)
        seen: set[int] = set()
        while True:
            try:
                frame = tap.recv(2000)
            except BlockingIOError:
                return seen
            # wherever the header begins; with the destination's beside it, as a checksum can look like a port
            pairs = ((own, other) for own in range(45000, 45020) for other in (PROXIED, ALLOWED, DENIED))
            seen |= {own for own, other in pairs if own.to_bytes(2) + other.to_bytes(2) in frame[34:]}


def test_gate_stops_raw_and_packet_sockets(steered: Steered, family: int) -> None:
    """They meet no connect hook; the first segment is judged on its way out (seen)."""
    steered.protect(steered.client, Flags.EGRESS)
    build = "ip6" if family == socket.AF_INET6 else "ip4"
    code = f"""
    wanted = [({PROXIED}, 0), ({DENIED}, 1), ({ALLOWED}, 2)]
    for port, number in wanted:
        raw(syn(own, host, 45000 + number, port))
        raw(syn(own, host, 45003 + number, port), mark={LEG_MARK + 5})
        packet({build}(own, host, syn(own, host, 45006 + number, port)))
    say(1)
    """
    assert syns(steered, family, code) == {45002, 45005, 45008}
    assert {(one.reason, one.dport) for one in steered.refused()} == {("raw_packet", PROXIED), ("raw_packet", DENIED)}


def test_gate_reads_what_hides_a_first_segment(steered: Steered) -> None:
    """Fragments that part the flags from the ports, and IPv6 extension headers."""
    steered.protect(steered.client, Flags.EGRESS)
    code = f"""
    one = syn(own, host, 45001, {PROXIED})
    packet(ip4(own, host, one[:8], more=1)); packet(ip4(own, host, one[8:], offset=1))
    two = syn(own, host, 45002, {PROXIED})
    packet(ip4(own, host, b"\\0\\0\\0\\0" + two, offset=1))
    say(1)
    """
    assert syns(steered, socket.AF_INET, code) == set()
    pad = "b'\\x06\\0\\1\\4\\0\\0\\0\\0'"
    code = f"""
    packet(ip6(own, host, syn(own, host, 45003, {PROXIED}), next=0, extension={pad}))
    packet(ip6(own, host, syn(own, host, 45004, {PROXIED}), next=60, extension={pad}))
    packet(ip6(own, host, syn(own, host, 45005, {ALLOWED}), next=60, extension={pad}))
    packet(ip6(own, host, syn(own, host, 45006, {PROXIED}), next=44, extension=b"\\x06\\0\\0\\0\\0\\0\\0\\1"))
    packet(ip6(own, host, syn(own, host, 45007, {PROXIED}), next=60, extension={pad.replace("06", "3c")} * 6 + {pad}))
    say(1)
    """
    assert syns(steered, socket.AF_INET6, code) == {45005}


def test_gate_reads_past_no_vlan_tag(steered: Steered, family: int) -> None:
    """The node takes VLAN 0 for no tag: a frame that the gate cannot read is a connection all the same (seen)."""
    steered.protect(steered.client, Flags.EGRESS)
    build = "ip6" if family == socket.AF_INET6 else "ip4"
    code = f"""
    untagged = frame_head
    for number, tag in enumerate(("81000000", "88a80000")):
        frame_head = untagged[:12] + bytes.fromhex(tag) + untagged[12:]
        packet({build}(own, host, syn(own, host, 45001 + number, {PROXIED})))
    say(1)
    """
    assert syns(steered, family, code) == set()


# Reads the newest segment of our upstream leg off eth0, then writes one of its own where that ended. Runs after `RAW`.
INJECT = """
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    tap.settimeout(0.5)
    c = socket.create_connection((host, {port}), 3)
    c.sendall(b"asked\\n")
    lines = c.makefile()
    lines.readline()
    leg, at = None, 40 if ":" in own else 20
    while True:
        try: data, whence = tap.recvfrom(4000)
        except TimeoutError: break
        if whence[0] != "eth0" or data[0] >> 4 != (6 if at == 40 else 4): continue
        sport, dport, seq, ack, offset = struct.unpack_from("!HHIIB", data, at)
        if dport == {port} and whence[2] == 4:
            length = (struct.unpack_from("!H", data, 4)[0] if at == 40 else struct.unpack_from("!H", data, 2)[0] - 20)
            leg = sport, seq + length - (offset >> 4) * 4 & 0xffffffff, ack, data[at + 20:at + (offset >> 4) * 4]
    port, seq, ack, options = leg
    stamp = b""
    if options[:4] == b"\\1\\1\\x08\\x0a":
        stamp = options[:4] + struct.pack("!I", struct.unpack_from("!I", options, 4)[0] + 1) + options[8:12]
    a, b = socket.inet_pton(family, own), socket.inet_pton(family, host)
    def segment(text, flags=0x18, first=seq):
        tcp = struct.pack("!HHIIBBHHH", port, {port}, first, ack, (5 + len(stamp) // 4) << 4, flags, 500, 0, 0) + stamp
        tcp += text
        pseudo = a + b + (struct.pack("!BBH", 0, 6, len(tcp)) if len(a) == 4 else struct.pack("!II", len(tcp), 6))
        even = pseudo + tcp + bytes(len(tcp) % 2)
        return tcp[:16] + struct.pack("!H", checksum(even)) + tcp[18:]
"""
WAYS_IN = {
    "raw": "said = raw(segment(b'FORGED\\n'))",
    "packet": "said = packet(build(own, host, segment(b'FORGED\\n')))",
    "fragments": """
    whole, cut = segment(b"FORGED\\n"), 32
    if family == socket.AF_INET:
        packet(ip4(own, host, whole[:cut], more=1))
        packet(ip4(own, host, whole[cut:], offset=cut // 8))
    else:
        packet(ip6(own, host, whole[:cut], next=44, extension=struct.pack("!BBHI", 6, 0, 1, 7)))
        packet(ip6(own, host, whole[cut:], next=44, extension=struct.pack("!BBHI", 17, 0, cut, 7)))
    """,
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_gate_keeps_our_own_legs_to_us(steered: Steered, family: int, way: str) -> None:
    """CAP_NET_RAW reads their sequence numbers on eth0: what it writes there would never have been judged (seen)."""
    steered.protect(steered.client, Flags.EGRESS)
    app = steered.app(steered.server, family, PROXIED)
    steered.copier(steered.client, Direction.EGRESS)
    after = """
    c.sendall(b"again\\n")
    say([lines.readline() != "", said])
    """
    build = "    build = ip6 if family == socket.AF_INET6 else ip4\n    said = None\n    "
    code = INJECT.replace("{port}", str(PROXIED)) + build + WAYS_IN[way].lstrip() + "\n    time.sleep(0.2)" + after
    given = json.dumps([steered.client.address(family), steered.server.address(family), *macs(steered)])
    alive, said = steered.client.run(RAW + code, given, who="container")
    assert said in (None, "ENOBUFS")
    assert alive
    assert b"".join(app.heard) == b"asked\nagain\n"
    assert {(one.reason, one.dst) for one in steered.refused()} == {("raw_packet", steered.server.address(family))}


def test_gate_lets_what_tcp_sockets_send_pass(steered: Steered, family: int) -> None:
    """A connection that rules allow is the app's own; so is what a raw socket adds to it. No records are made of it."""
    steered.protect(steered.client, Flags.EGRESS | Flags.INGRESS)
    app = steered.app(steered.server, family, ALLOWED)
    code = (
        INJECT.replace("{port}", str(ALLOWED))
        + """
    raw(segment(b"added\\n"))
    raw(segment(b"", flags=0x10, first=5)); raw(syn(own, host, 45001, 9)[:13] + b"\\x18" + bytes(6))
    time.sleep(0.2)
    print(1, flush=True)
    os._exit(0)  # both ends now disagree on what was sent
    """
    )
    given = json.dumps([steered.client.address(family), steered.server.address(family), *macs(steered)])
    assert steered.client.run(RAW + code, given, who="container")
    assert b"".join(app.heard) == b"asked\nadded\n"
    assert steered.refused() == []


def test_gate_refuses_what_would_go_past_it(steered: Steered) -> None:
    steered.protect(steered.client, Flags.EGRESS)
    code = """
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try: s.setsockopt(263, 20, 1); say("ok")
        except OSError as e: say(errno.errorcode[e.errno])
    """
    assert steered.client.run(code, who="container") == "EPERM"


def test_gate_stops_a_mark_that_was_taken_off(steered: Steered, family: int) -> None:
    """Without the guard on the pod's cgroup: two gates, either holds."""
    endpoint = steered.protect(steered.client, Flags.EGRESS)
    steered.kernel.attach_pod(steered.client.netns, endpoint, gate=True)
    app = steered.app(steered.server, family, PROXIED)
    steered.copier(steered.client, Direction.EGRESS)
    code = f"""say(attempt({steered.server.address(family)!r}, {PROXIED}, timeout=0.5,
                before=lambda s: ({DEFER}), after=lambda s: s.setsockopt(socket.SOL_SOCKET, 36, 0))[0])"""
    assert steered.client.run(code, who="container") == "TIMEOUT"
    assert app.seen == []


@pytest.mark.parametrize("flags", [Flags.INGRESS, Flags.EGRESS | Flags.STOPPED])
def test_gate_acts_while_egress_is_enforced(steered: Steered, family: int, flags: Flags) -> None:
    steered.protect(steered.client, flags)
    code = f"""
    raw(syn(own, host, 45001, {DENIED}))
    say(1)
    """
    assert syns(steered, family, code) == {45001}


def test_gate_goes_with_the_plumbing(steered: Steered) -> None:
    client = steered.client
    steered.protect(client, Flags.EGRESS)
    assert gate.present(client.netns) == ["eth0"]
    assert "filter: on eth0" in plumbing.traces(client.netns)
    steered.kernel.attach_pod(client.netns, 7, gate=True)  # again: replaced, not added
    with Rtnl(client.netns) as rtnl:
        assert sorted(rtnl.filters(rtnl.links()["eth0"])) == sorted((one, gate.PREFERENCE) for one in gate.PARENTS)
    plumbing.release(client.netns, steered.states[client.name])
    assert plumbing.traces(client.netns) == []
    plumbing.release(client.netns, steered.states[client.name])
    shown = subprocess.run(["/sbin/tc", "-n", client.netns_name, "qdisc"], capture_output=True, text=True, check=True)  # noqa: S603 - our own netns
    assert "clsact" not in shown.stdout
