"""Promises of the documents that no other test would miss: each test here fails when its promise is taken away."""

import json
import mmap
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.control import ask
from agent.errors import AgentError
from agent.protection import sealed_file
from agent.workers import WorkerFolder
from lab.names import node_netns
from proxy.limits import Limits
from redirect import cgroups
from redirect.sockets import LEG_MARK, STEER_MARK
from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, Record, eventually, kill, tulle
from tests.helpers.live import ingress, inside, policy, port_rule, status_of

ROOT = EXAMPLES.parent
WORKER_UID = 64738


@pytest.fixture
def own_lab(spare_lab: Cluster) -> Cluster:
    """A lab that the test may break, with the example policy at web."""
    spare_lab.apply(EXAMPLES / "web-l7.yaml")
    return spare_lab


@contextmanager
def supervisor_frozen(lab: Cluster, node: str) -> Iterator[None]:
    """Nobody starts the node's agent again."""
    freezer = cgroups.find_root() / "tulle-lab" / lab.name / node / "supervisor" / "cgroup.freeze"
    freezer.write_text("1")
    try:
        yield
    finally:
        freezer.write_text("0")


# -- raw sockets, through the agent and not only through the program

RAW_SYNS = """
import json, socket, struct, sys
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
own, host, family, marks, ports = json.loads(sys.argv[1])
a, b = socket.inet_pton(family, own), socket.inet_pton(family, host)
for sport, dport in ports:
    tcp = struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 5 << 4, 2, 1000, 0, 0)
    pseudo = a + b + (struct.pack("!BBH", 0, 6, len(tcp)) if len(a) == 4 else struct.pack("!II", len(tcp), 6))
    segment = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    for mark in marks:
        sock = socket.socket(family, socket.SOCK_RAW, 6)
        try:
            sock.setsockopt(socket.SOL_SOCKET, 36, mark)
            sock.sendto(segment, (host, 0))
        except OSError:
            pass
print("sent")
"""


def raw_syns_seen(lab: Cluster, pod: str, family: str, ports: list[tuple[int, int]]) -> set[int]:
    """Send raw first segments from a pod with a container's capabilities; the source ports that reached web."""
    number = socket.AF_INET6 if family == "ipv6" else socket.AF_INET
    marks = [0, 1, LEG_MARK, STEER_MARK]
    given = json.dumps([lab.address(pod, family), lab.address("web", family), int(number), marks, ports])
    with inside(lab, "web"):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with tap:
        tap.bind(("eth0", 3))
        tap.setblocking(False)
        assert lab.python(pod, RAW_SYNS, given).stdout == "sent\n"
        time.sleep(0.3)
        seen: set[int] = set()
        with suppress(BlockingIOError):
            while True:
                frame = tap.recv(2000)
                seen |= {sport for sport, dport in ports if sport.to_bytes(2) + dport.to_bytes(2) in frame[34:]}
        return seen


@pytest.mark.root
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("pod", ["frontend", "frontend-near"])
def test_raw_sockets_do_not_get_past_egress_rules(lab: Cluster, pod: str, family: str) -> None:
    ports = [(45001, 80), (45002, 81)]
    assert raw_syns_seen(lab, pod, family, ports) == {45001, 45002}  # before the policy: what is sent is seen
    lab.apply(EXAMPLES / "frontend-egress.yaml")
    assert raw_syns_seen(lab, pod, family, ports) == set()
    record = lab.find_record(lambda one: one["tulle"]["reason"] == "raw_packet", "--since", "1m", "--all")
    assert record is not None
    assert record["flow"]["verdict"] == "DROPPED"


PAST_THE_GATE = """
import errno, socket
found = []
for sock, level, option in (
    (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0), 263, 20),  # PACKET_QDISC_BYPASS
    (socket.socket(), 283, 1),  # SOL_XDP: the level counts, whatever kind of socket the kernel was built with
):
    try:
        sock.setsockopt(level, option, 1)
        found.append("ok")
    except OSError as error:
        found.append(errno.errorcode[error.errno])
print(*found)
"""


@pytest.mark.root
def test_what_leaves_past_the_gate_is_refused(lab: Cluster) -> None:
    assert lab.python("frontend", PAST_THE_GATE).stdout == "ok ENOPROTOOPT\n"
    lab.apply(EXAMPLES / "frontend-egress.yaml")
    assert lab.python("frontend", PAST_THE_GATE).stdout == "EPERM EPERM\n"
    assert lab.python("intruder", PAST_THE_GATE).stdout == "ok ENOPROTOOPT\n"


@pytest.mark.root
def test_strict_reverse_path_filters_change_nothing(own_lab: Cluster) -> None:
    own_lab.apply(EXAMPLES / "frontend-egress.yaml")
    for pod in ("web", "frontend", "frontend-near"):
        with inside(own_lab, pod):
            for device in ("all", "default", "eth0", "lo"):
                Path(f"/proc/sys/net/ipv4/conf/{device}/rp_filter").write_text("1")
    for pod in ("frontend", "frontend-near"):
        assert own_lab.curl(pod, "http://web/public", "-4") == 200
        assert own_lab.curl(pod, "http://web/private", "-4") == 403
        assert own_lab.curl(pod, "http://web/public", "-4", "-X", "POST") == 403
        assert own_lab.curl(pod, "http://web:81/", "-4") == 0


# -- a worker that is taken over


def test_the_rules_that_workers_share_cannot_be_written() -> None:
    """All of them have the same file: who owns one worker must not own the others' rules."""
    with sealed_file(b"rules") as fd:
        assert os.pread(fd, 100, 0) == b"rules"
        for attempt in (lambda: os.pwrite(fd, b"R", 0), lambda: os.ftruncate(fd, 0), lambda: os.ftruncate(fd, 100)):
            with pytest.raises(PermissionError):
                attempt()
        with pytest.raises(PermissionError):
            mmap.mmap(fd, 5, prot=mmap.PROT_WRITE | mmap.PROT_READ)


READ_MEMORY = """
import os, sys
uid = int(sys.argv[2])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
for name in ("mem", "environ", "fd", "maps"):
    path = f"/proc/{sys.argv[1]}/{name}"
    try:
        os.listdir(path) if name == "fd" else open(path, "rb").read(1)
    except PermissionError:
        continue
    sys.exit(f"{path} can be read")
"""


@pytest.mark.root
def test_a_workers_memory_is_nobodys(lab: Cluster) -> None:
    """Not even of who has its uid: a worker that was taken over does not read the others."""
    for pid in lab.processes("node-b", "worker"):
        for uid in (WORKER_UID, 65534):
            done = subprocess.run(  # noqa: S603  our own interpreter
                [sys.executable, "-c", READ_MEMORY, str(pid), str(uid)], check=False, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr


TALK = """
import os, socket, sys
os.chdir(sys.argv[1])
uid = int(sys.argv[3])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.settimeout(5)
sock.connect(sys.argv[2])
try:
    sock.send(b'{"id": 1, "op": "state"}')
    print(len(sock.recv(65536)))
except (BrokenPipeError, ConnectionResetError):
    print(0)
"""


@pytest.mark.root
@pytest.mark.parametrize(("uid", "answered"), [(0, True), (65534, False), (WORKER_UID, False)])
def test_a_worker_answers_root_alone(lab: Cluster, uid: int, answered: bool) -> None:
    """Whatever the socket's permissions say: they are opened to all here."""
    folder = lab.directory / "node-b" / "run" / "workers"
    workers = WorkerFolder(folder)
    name = [name for name in workers.names() if workers.process(name)][-1]  # one of an earlier agent may have ended
    path = folder / f"{name}.sock"
    before = path.stat().st_mode
    path.chmod(0o777)
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter
            [sys.executable, "-c", TALK, str(folder), path.name, str(uid)], check=True, capture_output=True, text=True
        )
    finally:
        path.chmod(before)
    assert (int(done.stdout) > 0) is answered


# -- agents that are away, pins that are lost, nodes that know nothing


@pytest.mark.root
def test_no_record_is_lost_while_the_agent_is_away(own_lab: Cluster) -> None:
    (agent,) = own_lab.processes("node-b", "agent")
    with supervisor_frozen(own_lab, "node-b"):
        kill(agent)
        assert eventually(lambda: own_lab.processes("node-b", "agent") == [])
        for number in range(20):
            assert status_of(own_lab, "frontend", f"/public/away/{number}") == 200
            assert status_of(own_lab, "frontend", f"/private/away/{number}") == 403

        def found() -> list[Record]:
            return own_lab.observe("--all", "--http-path", "/(public|private)/away/")

        assert eventually(lambda: len(found()) == 40)  # for observe, with no agent there
    numbers: dict[str, list[int]] = {}
    for record in own_lab.observe("--all", ever=True):
        own = record["tulle"]
        numbers.setdefault(f"{own['writer']} {own['boot']}", []).append(own["seq"])
    for writer, got in numbers.items():
        assert sorted(got) == list(range(1, len(got) + 1)), writer


@pytest.mark.root
def test_workers_alone_keep_enforcement_when_the_pins_are_lost(own_lab: Cluster) -> None:
    """The agent is dead and bpffs is empty: the links live by what the workers hold."""
    settings = json.loads((own_lab.directory / "node-b" / "agent.yaml").read_text())
    own_lab.apply(EXAMPLES / "frontend-egress.yaml")
    (agent,) = own_lab.processes("node-b", "agent")
    with supervisor_frozen(own_lab, "node-b"):
        kill(agent)
        assert eventually(lambda: own_lab.processes("node-b", "agent") == [])
        for pin in [path for path in Path(settings["bpffs"]).glob("**/*") if path.is_file()]:
            pin.unlink()
        for family in ("-4", "-6"):
            assert own_lab.curl("frontend", "http://web/private", family) == 403
            assert own_lab.curl("intruder", "http://web/public", family) == 0
            assert own_lab.curl("frontend", "http://web/public", family) == 200
        assert own_lab.curl("frontend-near", "http://web/public", "-X", "POST") == 403
        assert own_lab.curl("frontend-near", "http://web:81/") == 0


@pytest.mark.root
def test_a_node_that_never_had_good_policies_is_not_ready(own_lab: Cluster) -> None:
    """And starts no pod."""
    node = own_lab.directory / "node-a"
    (agent,) = own_lab.processes("node-a", "agent")
    bad = node / "policies" / "by-hand.yaml"
    with supervisor_frozen(own_lab, "node-a"):
        kill(agent, signal.SIGTERM)
        assert eventually(lambda: own_lab.processes("node-a", "agent") == [])
        for file in bad.parent.glob("*.yaml"):  # a good one beside it would be in force
            file.unlink()
        bad.write_text("kind: nonsense\n")
        shutil.rmtree(node / "state" / "last-good")
    try:
        assert eventually(lambda: own_lab.processes("node-a", "agent") not in ([], [agent]))
        assert eventually(lambda: "by-hand.yaml" in str(own_lab.node("node-a")))
        assert own_lab.node("node-a")["ready"] is False
        netns = f"/run/netns/tulle_{own_lab.name}_pod_default_frontend"
        pod = {"namespace": "default", "name": "frontend", "netns": netns}
        with pytest.raises(AgentError, match="no good policies"):
            ask(node / "run" / "agent.sock", {"op": "pod.add", "pod": pod}, timeout_s=60)
    finally:
        bad.unlink()
    assert eventually(lambda: bool(own_lab.node("node-a")["ready"]))


# -- what is not touched

OUTSIDE = ("ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all", "nft list ruleset")


def outside(name: str | None) -> dict[str, str]:
    """Rules, routes, filters and settings of a network namespace; None: the machine's own."""
    enter = [] if name is None else ["ip", "netns", "exec", name]
    found = {}
    for command in (*OUTSIDE, "tc qdisc show", "sysctl -a --pattern fwmark"):
        done = subprocess.run([*enter, *command.split()], capture_output=True, text=True, check=False)  # noqa: S603  fixed
        found[command] = re.sub(r" expires \S+| users \S+| age \S+", "", done.stdout)
    return found


@pytest.mark.root
def test_nothing_is_changed_outside_the_pods_network_namespace(lab: Cluster) -> None:
    places = [None, *(node_netns(lab.name, node) for node in ("node-a", "node-b"))]
    before = [outside(place) for place in places]
    assert any("flannel" in text for text in before[1].values())  # or the comparison sees nothing
    lab.apply(EXAMPLES / "web-l7.yaml", EXAMPLES / "frontend-egress.yaml")
    for pod in ("frontend", "frontend-near"):
        assert lab.curl(pod, "http://web/public") == 200
    during = [outside(place) for place in places]
    for place, was, is_now in zip(places, before, during, strict=True):
        assert is_now == was, place


# -- no unprotected first packet

FIRST_PACKET = """
import socket, sys, time
try:
    socket.create_connection((sys.argv[1], 80), timeout=5).close()
    print("connected", flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
time.sleep(600)
"""
NOBODY_ASKS_WEB = policy("nobody", {})


@pytest.mark.root
def test_a_pods_command_starts_after_its_protection(tmp_path: Path) -> None:
    """The policy is there when the lab comes up; the first thing that a pod does is what the policy forbids."""
    script, described = tmp_path / "first.py", tmp_path / "lab.yaml"
    script.write_text(FIRST_PACKET)
    pods = [
        {"name": "web", "command": ["tulle-web"]},
        {"name": "client", "command": [sys.executable, str(script), "10.244.0.2"]},
    ]
    described.write_text(json.dumps({"nodes": ["node-a"], "pods": pods}))
    name = f"tt{os.urandom(3).hex()}"
    lab = Cluster(name)
    folder = lab.directory / "node-a" / "policies"

    def put() -> None:
        if eventually(folder.is_dir, 30.0, 0.002):
            (folder / "nobody.yaml").write_text(NOBODY_ASKS_WEB)

    writer = threading.Thread(target=put)
    writer.start()
    try:
        done = lab.lab("up", "--file", str(described))
        assert done.returncode == 0, done.stderr
        assert lab.address("web") == "10.244.0.2"
        log = lab.directory / "node-a" / "logs" / "default_client.log"
        assert eventually(lambda: log.exists() and log.read_text() != "")
        assert log.read_text() == "ConnectionRefusedError\n"
    finally:
        writer.join()
        lab.lab("down")


# -- records of egress, and of settings that are on only when asked for


@pytest.mark.root
def test_records_of_egress_name_their_policies(lab: Cluster) -> None:
    lab.apply(EXAMPLES / "frontend-egress.yaml")
    assert lab.curl("frontend", "http://web/egress-record") == 200
    assert lab.curl("frontend", "http://web/egress-record", "-X", "POST") == 403
    for verdict, field in (("FORWARDED", "egress_allowed_by"), ("DROPPED", "egress_denied_by")):
        record = lab.find_record(
            lambda one: bool(one["flow"]["traffic_direction"] == "EGRESS"),
            *("--all", "--http-path", "/egress-record", "--verdict", verdict),
        )
        assert record is not None
        assert record["node_name"] == "node-a"
        named = {(one["kind"], one["namespace"], one["name"]) for one in record["flow"][field]}
        assert ("CiliumNetworkPolicy", "default", "frontend-egress") in named
        assert not {name for name in record["flow"] if name.startswith("ingress_")}


@pytest.mark.root
def test_repeated_slashes_can_be_told_apart(own_lab: Cluster) -> None:
    own_lab.apply(policy("slashes", ingress(port_rule(80, [{"path": "/one/two"}]))))
    assert own_lab.curl("frontend", "http://web/one//two") == 200
    path = own_lab.directory / "node-b" / "agent.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"limits": {"merge_slashes": False}}))
    (old,) = own_lab.processes("node-b", "agent")
    kill(old, signal.SIGTERM)
    assert eventually(
        lambda: own_lab.processes("node-b", "agent") not in ([], [old]) and bool(own_lab.node("node-b")["ready"])
    )
    assert own_lab.curl("frontend", "http://web/one//two") == 403
    assert own_lab.curl("frontend", "http://web/one/two") == 200


# -- the first five minutes

FAILING_DEMO = """
import dataclasses, sys
from lab import demo
demo.BEFORE = (dataclasses.replace(demo.BEFORE[3], status=200), demo.BEFORE[0])
raise SystemExit(demo.main(['--no-kafka', '--name', sys.argv[1]]))
"""


@pytest.mark.root
def test_a_demo_with_another_outcome_than_stated_fails() -> None:
    name = f"tt{os.urandom(3).hex()}"
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter
            [sys.executable, "-c", FAILING_DEMO, name], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert done.returncode == 1, done.stdout + done.stderr
        assert "BAD  frontend: GET /private" in done.stdout
        assert "4 of 5 outcomes as stated" in done.stdout or "5 of 6 outcomes as stated" in done.stdout
        assert not (Path("/run/tulle/lab") / name).exists()
    finally:
        tulle("lab", "down", "--name", name)


@pytest.mark.parametrize("command", ["setup", "demo", "test", "bench"])
def test_dev_says_that_it_needs_root(tmp_path: Path, command: str) -> None:
    """`id` says another user here, so that this is tried whoever runs the tests."""
    fake = tmp_path / "id"
    fake.write_text("#!/bin/sh\necho 1000\n")
    fake.chmod(0o755)
    done = subprocess.run(  # noqa: S603  our own command
        [str(ROOT / "dev"), command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"'./dev {command}' needs root" in done.stderr
    assert "./dev test --unit" in done.stderr


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--index" not in text
    pinned = re.split(r"\n(?=\S)", text.strip())
    assert len(pinned) > 15
    for entry in pinned:
        assert re.match(r"[A-Za-z0-9_.-]+==\S+", entry), entry[:60]
        assert "--hash=sha256:" in entry, entry[:60]


def test_limits_are_those_that_are_promised() -> None:
    limits = Limits()
    assert (limits.head_bytes, limits.headers) == (16 * 1024, 100)
    assert (limits.idle_s, limits.head_read_s, limits.connect_s) == (3600.0, 10.0, 5.0)
