"""Processes that die, hang, stop and come back: what is enforced meanwhile, and how soon it is all there again."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyroute2 import IPRoute, NetNS  # type: ignore[import-untyped]  # pyroute2 carries no types

from redirect import cgroups, netns, plumbing
from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, eventually, kill, tulle

pytestmark = pytest.mark.root

# Asks for /public and /private on new connections until its stdin ends; says a line when both were answered, and one of
# counts at the end.
NEW_CONNECTIONS = """
import collections, json, select, socket, sys, time
counts, gap, last_ok = collections.Counter(), 0.0, time.monotonic()
def ask(path):
    try:
        with socket.create_connection(("web", 80), timeout=3) as s:
            s.sendall(f"GET {path} HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n".encode())
            data = b""
            while chunk := s.recv(65536):
                data += chunk
        return data.split(b" ", 2)[1].decode() if data else "empty"
    except OSError as error:
        return type(error).__name__
while not select.select([sys.stdin], [], [], 0)[0]:
    answer = ask("/public")
    counts["public " + answer] += 1
    if answer == "200":
        gap, last_ok = max(gap, time.monotonic() - last_ok), time.monotonic()
    counts["private " + ask("/private")] += 1
    if counts.total() == 2:
        print("begun", flush=True)
print(json.dumps({"counts": counts, "longest_gap_s": round(gap, 3)}))
"""
# One keep-alive connection, a request every 5 ms, until its stdin ends; says a line with the first answer.
KEEP_ALIVE = """
import http.client, json, select, sys, time
c = http.client.HTTPConnection("web", 80, timeout=10)
good = 0
port = None
while not select.select([sys.stdin], [], [], 0.005)[0]:
    c.request("GET", "/public")
    a = c.getresponse()
    a.read()
    assert a.status == 200, a.status
    assert port in (None, c.sock.getsockname()[1]), "the connection was closed"
    port = c.sock.getsockname()[1]
    good += 1
    if good == 1:
        print("begun", flush=True)
print(json.dumps({"good": good}))
"""


@pytest.fixture
def own_lab(spare_lab: Cluster) -> Cluster:
    """A lab that the test may break, with the example policy at web."""
    spare_lab.apply(EXAMPLES / "web-l7.yaml")
    return spare_lab


@pytest.fixture
def new_lab(young_lab: Cluster) -> Cluster:
    """The same, just brought up."""
    young_lab.apply(EXAMPLES / "web-l7.yaml")
    return young_lab


class Load:
    """A script that runs inside a pod until it is told to end, and then says what it saw."""

    def __init__(self, lab: Cluster, pod: str, script: str) -> None:
        self._child = lab.start(pod, "python3", "-c", script)

    def begin(self) -> None:
        """Return when it has: what follows happens under load."""
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "begun\n"

    def end(self) -> dict[str, object]:
        out, err = self._child.communicate(input="end\n", timeout=60)
        assert self._child.returncode == 0, err
        found: dict[str, object] = json.loads(out)
        return found

    def stop(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.communicate()


@contextmanager
def load(lab: Cluster, pod: str, script: str) -> Iterator[Load]:
    running = Load(lab, pod, script)
    try:
        running.begin()
        yield running
    finally:
        running.stop()


def check_new_connections(result: dict[str, object]) -> None:
    """Nothing was let past the policy: /private was never answered by the server, and the allowed path came back."""
    counts = result["counts"]
    print(result)
    assert isinstance(counts, dict)
    assert counts["public 200"] > 0
    assert "private 200" not in counts
    assert counts.get("public 403", 0) == 0


def status_word(pid: int, key: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return line.split()[1]
    raise AssertionError(f"no {key} in the status of {pid}")


def documented(role: str) -> int:
    """The capability mask that ARCHITECTURE.md states for a role."""
    text = (EXAMPLES.parent / "ARCHITECTURE.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| {role} |"))
    names = row.split("|")[2]
    numbers = {"CHOWN": 0, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8, "NET_ADMIN": 12, "NET_RAW": 13}
    numbers |= {"SYS_ADMIN": 21, "BPF": 39}
    return sum(1 << numbers[word.strip(" `").removeprefix("CAP_")] for word in names.split(",") if "CAP_" in word)


def test_privileges_are_those_that_are_documented(lab: Cluster) -> None:
    node = lab.node("node-b")
    masks = {"worker": 0, "agent": documented("agent"), "broker": documented("broker")}
    assert documented("worker") == 0
    assert masks["agent"] != 0
    roles = [(process["role"], process["pid"]) for process in node["processes"]] + [("broker", node["broker"])]
    assert {role for role, _ in roles} == {"agent", "worker", "broker"}
    for role, pid in roles:
        for key in ("CapEff", "CapPrm", "CapBnd"):
            assert int(status_word(pid, key), 16) == masks[role], f"{role} {key}"
        assert int(status_word(pid, "CapInh"), 16) == 0
        assert int(status_word(pid, "CapAmb"), 16) == 0
        if role == "worker":
            assert status_word(pid, "NoNewPrivs") == "1"
            assert status_word(pid, "Uid") not in ("0", "65534")


def test_memory_and_cpu_time_of_every_process_are_in_the_status(lab: Cluster) -> None:
    node = lab.node("node-b")
    used = [*node["processes"], node["broker_usage"] | {"pid": node["broker"]}]
    assert len(used) >= 3
    for process in used:
        page_kib = int(Path(f"/proc/{process['pid']}/statm").read_text().split()[1]) * 4
        assert process["rss_bytes"] / 1024 == pytest.approx(page_kib, rel=0.5)
        assert 0 < process["cpu_s"] <= process["up_s"] * 8  # threads of a process run at once, too


def test_workers_cannot_be_reached_by_other_users(lab: Cluster) -> None:
    """Who is not root gets no word in: the control sockets are root's alone, a worker's memory is nobody's."""
    script = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
s = socket.socket(socket.AF_UNIX, int(sys.argv[3]))
try:
    s.connect(sys.argv[1])
except PermissionError:
    sys.exit(0)
sys.exit(1)
"""
    run = lab.directory / "node-b" / "run"
    sockets = [(str(run / "agent.sock"), "1"), *((str(path), "5") for path in run.glob("workers/*.sock"))]
    assert len(sockets) > 1
    for uid in ("65534", "64738"):
        for path, kind in sockets:
            done = subprocess.run(["python3", "-c", script, path, uid, kind], check=False)  # noqa: S603, S607  fixed
            assert done.returncode == 0, (path, uid)


def test_kill_9_of_a_worker_under_load(new_lab: Cluster) -> None:
    with load(new_lab, "frontend", NEW_CONNECTIONS) as fresh:
        for _ in range(2):
            before = new_lab.processes("node-b", "worker")
            kill(before[0])
            assert eventually(lambda old=before: len(set(new_lab.processes("node-b", "worker")) - set(old)) == 1)  # type: ignore[misc]  # the lambda is called before the next turn
            time.sleep(0.3)
        check_new_connections(fresh.end())


def test_kill_9_of_every_worker_at_once_under_load(new_lab: Cluster) -> None:
    with load(new_lab, "frontend", NEW_CONNECTIONS) as fresh:
        before = new_lab.processes("node-b", "worker")
        for pid in before:
            kill(pid)
        assert eventually(lambda: len(set(new_lab.processes("node-b", "worker")) - set(before)) == len(before))
        assert eventually(lambda: new_lab.curl("frontend", "http://web/public") == 200)
        time.sleep(0.3)
        check_new_connections(fresh.end())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_an_agent_changes_nothing_for_live_and_new_connections(
    own_lab: Cluster, number: signal.Signals
) -> None:
    with load(own_lab, "frontend", NEW_CONNECTIONS) as fresh, load(own_lab, "frontend-near", KEEP_ALIVE) as alive:
        old_workers = own_lab.processes("node-b", "worker")
        (old,) = own_lab.processes("node-b", "agent")
        kill(old, number)
        assert eventually(lambda: own_lab.processes("node-b", "agent") not in ([], [old]))
        assert eventually(lambda: own_lab.node("node-b")["ready"])
        assert set(own_lab.processes("node-b", "worker")) - set(old_workers)
        time.sleep(0.5)
        result = fresh.end()
        check_new_connections(result)
        counts = result["counts"]
        assert isinstance(counts, dict)
        assert set(counts) == {"public 200", "private 403"}
        good = alive.end()["good"]
        assert isinstance(good, int)
        assert good > 50
    # the workers of the old agent end with their last connection
    assert eventually(lambda: not set(own_lab.processes("node-b", "worker")) & set(old_workers))
    assert own_lab.curl("frontend", "http://web/private") == 403


def test_a_draining_worker_meets_new_rules_too(own_lab: Cluster) -> None:
    script = """
import http.client, sys
c = http.client.HTTPConnection("web", 80, timeout=10)
for line in sys.stdin:
    c.request("GET", line.strip())
    a = c.getresponse()
    a.read()
    print(a.status, flush=True)
"""
    child = own_lab.start("frontend", "python3", "-u", "-c", script)
    assert child.stdin
    assert child.stdout
    try:

        def ask(path: str) -> str:
            child.stdin.write(path + "\n")  # type: ignore[union-attr]  # asserted above
            child.stdin.flush()  # type: ignore[union-attr]  # asserted above
            return child.stdout.readline().strip()  # type: ignore[union-attr]  # asserted above

        assert ask("/public") == "200"
        (old,) = own_lab.processes("node-b", "agent")
        kill(old)
        assert eventually(lambda: own_lab.node("node-b")["ready"])

        def draining() -> int:
            return sum(bool(process.get("draining")) for process in own_lab.node("node-b")["processes"])

        assert eventually(lambda: draining() == 1)  # the other had no connection and has ended
        own_lab.apply(EXAMPLES / "web-l7-reloaded.yaml")
        assert (ask("/public"), ask("/private")) == ("403", "200")
    finally:
        child.kill()
        child.communicate()


def test_a_worker_that_hangs_is_killed_and_replaced(new_lab: Cluster) -> None:
    before = new_lab.processes("node-b", "worker")
    kill(before[0], signal.SIGSTOP)
    assert eventually(lambda: not Path(f"/proc/{before[0]}").exists(), 20)
    assert eventually(lambda: len(new_lab.processes("node-b", "worker")) == len(before))
    assert "was silent" in new_lab.log("node-b")
    for _ in range(8):
        assert new_lab.curl("frontend", "http://web/public") == 200


def test_workers_that_die_again_and_again_are_followed_by_ones_that_the_agent_knows(new_lab: Cluster) -> None:
    """The successor of a worker that lived for long starts at once and may have its name: the agent lost it with the
    old one, so that it served on by the rules of its first moment."""
    for _ in range(3):
        before = new_lab.processes("node-b", "worker")
        assert len(before) == 2
        time.sleep(10.5)  # agent/pool.py starts the successor of an older worker at once
        for pid in before:
            kill(pid)
        assert eventually(lambda old=before: len(set(new_lab.processes("node-b", "worker")) - set(old)) == 2)  # type: ignore[misc]  # the lambda is called before the next turn
    new_lab.apply(EXAMPLES / "web-l7-reloaded.yaml")
    for _ in range(8):
        assert new_lab.curl("frontend", "http://web/public") == 403


def test_the_broker_is_replaced(own_lab: Cluster) -> None:
    old = own_lab.node("node-b")["broker"]
    kill(old)
    assert eventually(lambda: own_lab.node("node-b")["broker"] not in (None, old))
    script = """
import http.client
for _ in range(300):
    c = http.client.HTTPConnection("web", 80, timeout=10)
    c.request("GET", "/public")
    assert c.getresponse().status == 200
    c.close()
"""
    done = own_lab.python("frontend", script)  # far more than was in stock
    assert done.returncode == 0, done.stderr


REFUSED = """
import collections, socket, sys
counts = collections.Counter()
for _ in range(int(sys.argv[2])):
    try:
        socket.create_connection((sys.argv[1], 80), timeout=5).close()
        counts["connected"] += 1
    except ConnectionRefusedError:
        counts["refused"] += 1
    except OSError as error:
        counts[type(error).__name__] += 1
print(dict(counts))
"""


@contextmanager
def held_dead(lab: Cluster, node: str) -> Iterator[None]:
    """Agent and workers of a node are killed, and the supervisor that would bring them back is frozen."""
    freezer = cgroups.find_root() / "tulle-lab" / lab.name / node / "supervisor" / "cgroup.freeze"
    victims = lab.processes(node, "agent") + lab.processes(node, "worker")
    assert len(victims) >= 2
    freezer.write_text("1")
    try:
        for pid in victims:
            kill(pid)
        assert eventually(lambda: lab.processes(node, "agent") + lab.processes(node, "worker") == [])
        yield
    finally:
        freezer.write_text("0")


def test_fail_closed_with_everything_dead(own_lab: Cluster) -> None:
    pods = own_lab.pods()
    started = time.monotonic()
    with held_dead(own_lab, "node-b"):
        results: dict[tuple[str, str], str] = {}

        def connect(pod: str, family: str) -> None:
            done = own_lab.python(pod, REFUSED, pods["web"][family], "250")
            results[pod, family] = done.stdout.strip() or done.stderr

        threads = [
            threading.Thread(target=connect, args=(pod, family))
            for pod in ("frontend", "frontend-near")
            for family in ("ipv4", "ipv6")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(max(0.0, 5.0 - (time.monotonic() - started)))
        assert own_lab.curl("frontend", "http://web/public") == 0
        assert tulle("status", "--name", own_lab.name, "--json").returncode == 1
        assert own_lab.node("node-b")["ready"] is False
    assert results == dict.fromkeys(results, "{'refused': 250}")
    assert len(results) == 4
    assert eventually(lambda: own_lab.curl("frontend", "http://web/public") == 200)
    assert own_lab.curl("frontend", "http://web/private") == 403


def test_refusals_without_an_agent_are_recorded_by_the_next(own_lab: Cluster) -> None:
    with held_dead(own_lab, "node-b"):
        assert own_lab.exec("intruder", "curl", "-s", "-4", "-m", "5", "http://web/").returncode == 7
    record = own_lab.find_record(
        lambda r: r["flow"]["source"].get("pod_name") == "intruder", "--verdict", "DROPPED", timeout_s=20
    )
    assert record is not None
    assert record["tulle"]["writer"] == "node-b/kernel"


def test_of_a_pod_that_is_gone_nothing_of_ours_stays(own_lab: Cluster) -> None:
    """The pod's veth end on the node goes when its network namespace does, which every socket of ours would keep
    alive."""
    own_lab.apply(EXAMPLES / "frontend-egress.yaml")
    assert own_lab.curl("frontend-near", "http://web/public") == 200
    name = f"tulle_{own_lab.name}_pod_default_frontend-near"
    pod_path = Path("/run/netns") / name
    with NetNS(f"tulle_{own_lab.name}_node_node-b") as node, netns.Netns.open(pod_path) as pod:
        with pod.entered(), IPRoute() as inside:
            peer = inside.get_links(ifname="eth0")[0].get_attr("IFLA_LINK")
        assert node.get_links(peer)
        pod.close()
        cgroup = cgroups.find_root() / "tulle-lab" / own_lab.name / "node-b" / "pods" / "default_frontend-near"
        (cgroup / "cgroup.kill").write_text("1")
        subprocess.run(["ip", "netns", "del", name], check=True)  # noqa: S603, S607  as a CNI plugin does it

        def gone() -> bool:
            return peer not in {link["index"] for link in node.get_links()}

        assert eventually(gone, 10)
    assert [e["name"] for e in own_lab.node("node-b")["endpoints"]] == ["web"]
    assert own_lab.curl("frontend", "http://web/public") == 200


def test_of_a_pod_that_is_gone_nothing_stays_without_an_agent(own_lab: Cluster) -> None:
    own_lab.apply(EXAMPLES / "frontend-egress.yaml")
    name = f"tulle_{own_lab.name}_pod_default_frontend-near"
    (agent,) = own_lab.processes("node-b", "agent")
    freezer = cgroups.find_root() / "tulle-lab" / own_lab.name / "node-b" / "supervisor" / "cgroup.freeze"
    with NetNS(f"tulle_{own_lab.name}_node_node-b") as node:
        with netns.Netns.open(Path("/run/netns") / name) as pod, pod.entered(), IPRoute() as inside:
            peer = inside.get_links(ifname="eth0")[0].get_attr("IFLA_LINK")
        freezer.write_text("1")
        try:
            kill(agent)
            subprocess.run(["ip", "netns", "del", name], check=True)  # noqa: S603, S607  as a CNI plugin does it
            assert eventually(lambda: peer not in {link["index"] for link in node.get_links()}, 10)
        finally:
            freezer.write_text("0")
    assert eventually(lambda: own_lab.node("node-b")["ready"])


def test_uninstall_takes_everything_away(own_lab: Cluster) -> None:
    own_lab.apply(EXAMPLES / "frontend-egress.yaml")
    config = own_lab.directory / "node-b" / "agent.yaml"
    settings = json.loads(config.read_text())
    freezer = cgroups.find_root() / "tulle-lab" / own_lab.name / "node-b" / "supervisor" / "cgroup.freeze"
    pods = [Path("/run/netns") / f"tulle_{own_lab.name}_pod_default_{pod}" for pod in ("web", "frontend-near")]
    assert own_lab.curl("frontend-near", "http://web/private") == 403
    freezer.write_text("1")
    try:
        busy = tulle("agent", "--config", str(config), "--uninstall")
        assert busy.returncode == 1
        assert "another agent" in busy.stderr
        (agent,) = own_lab.processes("node-b", "agent")
        kill(agent, signal.SIGTERM)
        assert eventually(lambda: own_lab.processes("node-b", "agent") == [])
        assert own_lab.curl("frontend-near", "http://web/private") == 403  # SIGTERM leaves enforcement in place
        in_node = ["nsenter", f"--net=/run/netns/tulle_{own_lab.name}_node_node-b"]
        done = subprocess.run(  # noqa: S603  our own command
            [*in_node, ".venv/bin/tulle", "agent", "--config", str(config), "--uninstall"],
            cwd=EXAMPLES.parent,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert own_lab.processes("node-b", "worker") == []
        assert list(Path(settings["bpffs"]).glob("**/*")) == []
        for path in pods:
            with netns.Netns.open(path) as pod:
                assert plumbing.traces(pod) == []
        assert own_lab.curl("frontend-near", "http://web/private") == 200
        assert own_lab.curl("intruder", "http://web/private") == 200
    finally:
        freezer.write_text("0")


def test_a_second_agent_of_a_node_is_refused(lab: Cluster) -> None:
    done = tulle("agent", "--config", str(lab.directory / "node-a" / "agent.yaml"))
    assert done.returncode == 1
    assert "another agent of node 'node-a' runs" in done.stderr
    assert lab.node("node-a")["ready"] is True


def test_pins_that_are_unmounted_do_not_end_enforcement(own_lab: Cluster) -> None:
    """Agent and workers hold the links beside the pins."""
    settings = json.loads((own_lab.directory / "node-b" / "agent.yaml").read_text())
    for pin in [path for path in Path(settings["bpffs"]).glob("**/*") if path.is_file()]:
        os.unlink(pin)  # noqa: PTH108  a pin, as losing the file system would lose it
    assert own_lab.curl("frontend", "http://web/private") == 403
    assert own_lab.curl("intruder", "http://web/public") == 0
    assert own_lab.curl("frontend", "http://web/public") == 200
