"""A policy that changes under traffic: nothing allowed fails, nothing withdrawn passes once `apply` has returned."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import policy as lab_policy
from proxy.worker import _content
from redirect import plumbing
from redirect.netns import Netns
from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, eventually, tulle
from tests.helpers.live import connected, ended, ingress, netns_of, policy, port_rule, server, status_of

pytestmark = pytest.mark.root

RELOADS = int(os.environ.get("TULLE_RELOADS", "100"))
CONNECTIONS = 4
RATE = 300
"""Requests per second that the load is paced at, over all connections; the promise is about 200."""
PORT = 8080
GONE_S = 5.0
SLACK_S = 5.0
"""What a busy machine may add to a bound that is promised."""

# Four keep-alive connections, each with one request at a time, paced together. One line at the end: of each request
# when it was sent and answered (CLOCK_MONOTONIC, the machine's), its path and its status; -1: the connection broke.
LOAD = """
import json, select, socket, sys, time
address, connections, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
socks = [socket.create_connection((address, 80), timeout=20) for _ in range(connections)]
paths = ["/always", "/odd"]
done, sent, free, total, stopping = [], {}, list(socks), 0, False
print("ready", flush=True)
start = time.monotonic()
while not (stopping and not sent):
    now = time.monotonic()
    while free and not stopping and total < (now - start) * rate:
        sock = free.pop(0)
        path = paths[total % 2]
        sent[sock] = (time.monotonic(), path, b"")
        sock.sendall(f"GET {path} HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n".encode())
        total += 1
    wait = max(0.0, min(0.05, start + total / rate - now)) if free and not stopping else 0.05
    for sock in select.select([*sent, sys.stdin], [], [], wait)[0]:
        if sock is sys.stdin:
            stopping = True
            continue
        began, path, data = sent.pop(sock)
        try:
            piece = sock.recv(65536)
        except OSError:
            piece = b""
        data += piece
        head, split, body = data.partition(b"\\r\\n\\r\\n")
        if not piece:
            done.append((began, time.monotonic(), path, -1))
        elif split and len(body) >= int(head.lower().partition(b"content-length:")[2].split()[0]):
            done.append((began, time.monotonic(), path, int(head.split()[1])))
            free.append(sock)
        else:
            sent[sock] = (began, path, data)
broken = 0
for sock in free:
    sock.setblocking(False)
    try:
        sock.recv(1)
        broken += 1
    except BlockingIOError:
        pass
print(json.dumps({"seconds": time.monotonic() - start, "closed": broken + connections - len(free), "done": done}))
"""


@dataclass(frozen=True, slots=True)
class Swap:
    """An `apply`: when it began and returned, and whether /odd is allowed by what it put in force."""

    began: float
    ended: float
    odd: bool


def version(number: int) -> str:
    """Of two versions of one policy, the odd one allows /odd as well."""
    paths = ["/always", "/odd"] if number % 2 else ["/always"]
    return policy("reloaded", ingress(port_rule(80, [{"path": path} for path in paths])))


def put(lab: Cluster, file: Path) -> None:
    """`tulle lab apply` without a process for it: the time between its return and what follows is shorter."""
    lab_policy.apply(lab.name, [str(file)])


def pod_links(lab: Cluster, node: str = "node-b") -> list[str]:
    """The steering programs that are attached to pods of a node."""
    return sorted(path.name for path in Path("/sys/fs/bpf/tulle", lab.name, node, "links").glob("pod_*"))


def traces(lab: Cluster, pod: str) -> list[str]:
    """What of ours is inside a pod's network namespace."""
    netns = Netns.open(netns_of(lab, pod))
    try:
        return plumbing.traces(netns)
    finally:
        netns.close()


@pytest.fixture
def versions(tmp_path: Path) -> dict[bool, Path]:
    files = {odd: tmp_path / f"{odd}.yaml" for odd in (False, True)}
    for odd, file in files.items():
        file.write_text(version(int(odd)))
    return files


@pytest.mark.timeout(60 + RELOADS)
def test_reloads_under_load(lab: Cluster, versions: dict[bool, Path], capsys: pytest.CaptureFixture[str]) -> None:
    put(lab, versions[True])
    before = lab.counters("node-b")
    swaps = [Swap(0.0, time.monotonic(), odd=True)]
    command = [sys.executable, "-c", LOAD, lab.address("web"), str(CONNECTIONS), str(RATE)]
    with lab.start("frontend", *command) as load, ended(load):
        assert load.stdout is not None
        assert load.stdout.readline() == "ready\n"
        for number in range(RELOADS):
            odd = bool(number % 2)
            began = time.monotonic()
            put(lab, versions[odd])
            swaps.append(Swap(began, time.monotonic(), odd))
            time.sleep(0.03)  # requests between two reloads, so that there is something to judge
        out, err = load.communicate("stop\n", timeout=60)
    assert load.returncode == 0, err
    result = json.loads(out)
    after = lab.counters("node-b")
    failed, passed, certain = judge(result["done"], swaps)
    total, seconds = len(result["done"]), result["seconds"]
    with capsys.disabled():
        print(
            f"\n{RELOADS} reloads in {seconds:.1f} s, {CONNECTIONS} connections, {total} requests "
            f"({total / seconds:.0f}/s), {certain} of /odd judged, {len(failed)} failed, {len(passed)} wrongly allowed"
        )
    assert failed == []
    assert passed == []
    assert result["closed"] == 0
    assert total >= 200 * seconds
    assert certain > RELOADS  # or nothing was tried
    assert after["requests"] - before["requests"] == total
    assert after["accepted"] - before["accepted"] == CONNECTIONS
    assert lab.node("node-b")["revision"] >= RELOADS


def judge(done: list[tuple[float, float, str, int]], swaps: list[Swap]) -> tuple[list[object], list[object], int]:
    """(failed though allowed, allowed though withdrawn, requests for /odd whose answer was certain)."""
    failed: list[object] = []
    passed: list[object] = []
    certain = 0
    at = 0
    for sent, answered, path, status in sorted(done):
        if path == "/always":
            if status != 200:
                failed.append((path, status))
            continue
        while at + 1 < len(swaps) and swaps[at + 1].ended <= sent:
            at += 1
        if at + 1 < len(swaps) and swaps[at + 1].began < answered:
            if status not in (200, 403):
                failed.append((path, status))
            continue  # a reload was under way: both are right
        certain += 1
        if swaps[at].odd and status != 200:
            failed.append((path, status))
        if not swaps[at].odd and status != 403:
            passed.append((path, status))
    return failed, passed, certain


def test_a_rule_set_is_read_without_the_position_that_all_workers_share() -> None:
    memfd = os.memfd_create("rules")
    try:
        os.write(memfd, b"rules")
        for position in (0, 2, 5):  # wherever the reading of another worker has left it
            os.lseek(memfd, position, os.SEEK_SET)
            assert _content(memfd) == b"rules"
            assert os.lseek(memfd, 0, os.SEEK_CUR) == position
    finally:
        os.close(memfd)


def test_an_open_connection_meets_the_new_rules_at_its_next_request(lab: Cluster) -> None:
    lab.apply(EXAMPLES / "web-l7.yaml")
    with connected(lab, "frontend") as near, connected(lab, "frontend-near", family="ipv6") as far:
        for client in (near, far):
            assert [client.ask(path).status for path in ("/public", "/private")] == [200, 403]
        lab.apply(EXAMPLES / "web-l7-reloaded.yaml")
        for client in (near, far):
            assert [client.ask(path).status for path in ("/public", "/private")] == [403, 200]
            assert client.alive()


def test_in_force_means_in_force(lab: Cluster) -> None:
    file = EXAMPLES / "web-l7.yaml"
    for number in range(20):
        pod, family = ("frontend", "frontend-near")[number % 2], ("ipv4", "ipv6")[number // 2 % 2]
        put(lab, file)
        assert status_of(lab, pod, "/private", family=family) == 403, f"round {number}, applied"
        assert status_of(lab, "intruder", "/public", family=family) == 0, f"round {number}, applied"
        lab_policy.delete(lab.name, ["web-l7"])
        assert status_of(lab, pod, "/private", family=family) == 200, f"round {number}, deleted"
        assert status_of(lab, "intruder", "/public", family=family) == 200, f"round {number}, deleted"


def test_a_pod_selected_for_the_first_time_is_steered_before_apply_returns(lab: Cluster, tmp_path: Path) -> None:
    for pod in ("intruder", "frontend-near", "frontend"):
        app = "intruder" if pod == "intruder" else "frontend"
        file = tmp_path / f"{pod}.yaml"
        file.write_text(policy(f"first-{pod}", ingress(port_rule(PORT, [{"path": "/yes"}]), peers=[{}]), app=app))

        def handler(peer: "object") -> None:
            raise AssertionError("no request may arrive")

        with server(lab, pod, PORT, handler):
            put(lab, file)
            assert status_of(lab, "web", "/no", to=pod, port=PORT) == 403
            assert status_of(lab, "web", "/no", to=pod, port=PORT + 1) == 0
        lab_policy.delete(lab.name, [f"first-{pod}"])


def test_a_document_is_known_by_kind_namespace_and_name(lab: Cluster, tmp_path: Path) -> None:
    text = (EXAMPLES / "web-l7.yaml").read_text()
    first, second = tmp_path / "one.yaml", tmp_path / "something-else.json"
    first.write_text(text)
    second.write_text(policy("web-l7", ingress(port_rule(80, [{"path": "/json"}]))))
    assert "applied" in lab.lab("apply", str(first)).stdout
    done = lab.lab("apply", str(second))
    assert (done.returncode, "replaced" in done.stdout) == (0, True), done.stderr
    assert status_of(lab, "frontend", "/public") == 403
    assert status_of(lab, "frontend", "/json") == 200
    # another name is another document: both are in force, and one can go
    lab.apply(text.replace("name: web-l7", "name: second"))
    assert [status_of(lab, "frontend", path) for path in ("/public", "/json")] == [200, 200]
    assert lab.lab("delete", "web-l7").returncode == 0
    assert [status_of(lab, "frontend", path) for path in ("/public", "/json")] == [200, 403]


BAD = {
    "a typing mistake in a field": ("endpointSelector:", "endpointSelectro:", "spec.endpointSelectro"),
    "a pattern that is none": ("path: /orders", 'path: "/(orders"', "spec.ingress[0].toPorts[0].rules.http[1].path"),
    "a kind that nobody knows": ("kind: CiliumNetworkPolicy", "kind: CiliumNetworkPolice", "kind"),
    "no YAML": ("  name: web-l7", "  name: [web-l7", ""),
}


def test_a_bad_file_is_refused_and_changes_nothing(lab: Cluster, tmp_path: Path) -> None:
    text = (EXAMPLES / "web-l7.yaml").read_text()
    lab.apply(text)
    before = lab.node("node-b")["revision"]
    for what, (right, wrong, field) in BAD.items():
        assert right in text
        file = tmp_path / "bad.yaml"
        lines = text.replace("/public", "/other").replace(right, wrong).splitlines(keepends=True)
        file.write_text("".join(lines))
        done = lab.lab("apply", str(file))
        assert (done.returncode, done.stdout) == (1, ""), what
        (place, *_) = [word for word in done.stderr.split() if word.startswith(f"{file}:")]
        _, line, column = place.removesuffix(":").rsplit(":", 2)
        assert int(column) > 0
        if field:
            assert wrong in lines[int(line) - 1], what
            assert f"{field}: " in done.stderr, what
    assert lab.node("node-b")["revision"] == before
    assert lab.node("node-b")["errors"] == []
    assert [status_of(lab, "frontend", path) for path in ("/public", "/other")] == [200, 403]


def test_a_good_file_beside_a_bad_one_is_not_applied(lab: Cluster, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: nonsense\n")
    assert lab.lab("apply", str(EXAMPLES / "web-l7.yaml"), str(bad)).returncode == 1
    assert status_of(lab, "frontend", "/private") == 200


def test_a_bad_file_in_the_nodes_directory_leaves_the_last_good_revision(lab: Cluster) -> None:
    lab.apply(EXAMPLES / "web-l7.yaml")
    revision = lab.node("node-b")["revision"]
    file = lab.directory / "node-b" / "policies" / "by-hand.yaml"
    file.write_text(version(1).replace('"toPorts"', '"toPort"'))
    try:
        assert eventually(lambda: bool(lab.node("node-b")["errors"]))
        (error,) = lab.node("node-b")["errors"]
        assert error.startswith(f"{file}:1:")
        assert "spec.ingress[0].toPort" in error
        assert error in tulle("status", "--name", lab.name).stdout
        assert lab.node("node-b")["revision"] == revision
        assert [status_of(lab, "frontend", path) for path in ("/public", "/private", "/always")] == [200, 403, 403]
        done = lab.lab("apply", str(EXAMPLES / "web-l7-reloaded.yaml"))
        assert done.returncode == 1  # the directory as a whole is not good, and that is said
        assert "by-hand.yaml" in done.stderr
        # but a bad document holds up no other
        assert [status_of(lab, "frontend", path) for path in ("/public", "/private")] == [403, 200]
    finally:
        file.unlink()
    assert eventually(lambda: lab.node("node-b")["errors"] == [])
    assert eventually(lambda: status_of(lab, "frontend", "/private") == 200)
    assert tulle("status", "--name", lab.name).returncode == 0


@pytest.fixture
def untouched(lab: Cluster) -> Iterator[Cluster]:
    """A lab in whose pods nothing of ours is left from an earlier test."""
    assert eventually(lambda: traces(lab, "web") == [], timeout_s=GONE_S + SLACK_S)
    yield lab
    with suppress(Exception):
        lab_policy.delete(lab.name, ["web-l7"])


def test_a_pod_that_is_no_longer_selected(untouched: Cluster) -> None:
    lab = untouched
    assert pod_links(lab) == []
    lab.apply(EXAMPLES / "web-l7.yaml")
    assert len(pod_links(lab)) == 1
    assert any("rule" in trace for trace in traces(lab, "web"))
    with connected(lab, "frontend") as client:
        assert [client.ask(path).status for path in ("/public", "/private")] == [200, 403]
        assert lab.lab("delete", "web-l7").returncode == 0
        assert pod_links(lab) == []  # at once
        before = lab.counters("node-b")["accepted"]
        assert status_of(lab, "intruder", "/anything") == 200
        assert lab.counters("node-b")["accepted"] == before
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:  # a live connection goes on; without it all would be gone by now
            assert client.ask("/public").status == 200
            time.sleep(0.5)
        assert traces(lab, "web") != []
        client.send(b"GET /public?bytes=3000000 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        assert len(client.response().body) > 3_000_000
        assert client.ended()
    ended = time.monotonic()
    assert eventually(lambda: traces(lab, "web") == [], timeout_s=GONE_S + SLACK_S)
    print(f"traces went {time.monotonic() - ended:.1f} s after the last proxied connection")
    assert eventually(lambda: lab.node("node-b")["endpoints"] == [])
