"""The lab with its agents: they come up, they are kept up, and `apply` and `delete` return when it is in force."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import names
from lab.agents import agent_cgroup, supervisor_cgroup
from lab.state import Lab, running
from tests.lab.helpers import LabUnderTest, left_of, processes_of, unique_name

pytestmark = pytest.mark.root

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: /public}]}
"""
BOTH_PATHS = POLICY.replace("/public", "/public|/more")
WEB = "http://web"


@pytest.fixture(scope="module")
def lab() -> Iterator[LabUnderTest]:
    """The default lab, with agents."""
    made = LabUnderTest(unique_name())
    try:
        made.must("up")
        yield made
    finally:
        made.must("down")


@pytest.fixture
def clean(lab: LabUnderTest) -> Iterator[LabUnderTest]:
    """The same, and afterwards without policies."""
    yield lab
    for path in running(lab.name).policy_dir("node-a").glob("*.yaml"):
        lab.must("delete", path.name.split(".")[2])


def code(lab: LabUnderTest, pod: str, path: str) -> str:
    """Status of a GET, or `refused`."""
    done = lab.exec(pod, "curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", WEB + path)
    return "refused" if done.returncode == 7 else done.stdout.decode()


def pids(cgroup: Path) -> list[int]:
    return [int(line) for line in (cgroup / "cgroup.procs").read_text().split()]


def soon(condition: Callable[[], bool], what: str, limit_s: float = 15) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def record(lab: LabUnderTest) -> Lab:
    return running(lab.name)


def test_up_returns_when_every_agent_is_ready(lab: LabUnderTest) -> None:
    assert [(node["name"], node["ready"]) for node in lab.status()["nodes"]] == [("node-a", True), ("node-b", True)]


def test_a_fresh_lab_has_no_policy(lab: LabUnderTest) -> None:
    assert code(lab, "intruder", "/anything") == "200"


def test_apply_and_delete_return_when_it_is_in_force(clean: LabUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "some-name.yaml"
    file.write_text(POLICY)
    assert "CiliumNetworkPolicy default/web applied" in clean.must("apply", str(file))
    assert [code(clean, "frontend", path) for path in ("/public", "/more")] == ["200", "403"]
    assert code(clean, "intruder", "/public") == "refused"
    assert code(clean, "frontend-near", "/public") == "200"
    revision = clean.status()["nodes"][1]["revision"]
    clean.must("delete", "web")
    assert code(clean, "intruder", "/more") == "200"
    assert int(str(clean.status()["nodes"][1]["revision"])) > int(str(revision))


def test_applying_again_replaces_whatever_the_file_is_called(clean: LabUnderTest, tmp_path: Path) -> None:
    first, second = tmp_path / "one.yaml", tmp_path / "other.json"
    first.write_text(POLICY)
    clean.must("apply", str(first))
    second.write_text(BOTH_PATHS)
    assert "replaced" in clean.must("apply", str(second))
    assert code(clean, "frontend", "/more") == "200"
    stored = [path.name for path in record(clean).policy_dir("node-b").iterdir()]
    assert stored == ["CiliumNetworkPolicy.default.web.yaml"]


def test_json_from_standard_input(clean: LabUnderTest) -> None:
    document = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "shut"},
        # One rule that allows nobody: selected, and so default deny.
        "spec": {"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]},
    }
    clean.must("apply", "-", stdin=json.dumps(document).encode())
    assert code(clean, "frontend", "/") == "refused"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (POLICY.replace("matchLabels: {app: web}", "matchLabel: {app: web}"), ":5:"),
        (POLICY.replace("path: /public", "path: '('"), "path"),
        ("{", "error"),
        (POLICY + "---\n" + POLICY, "web"),
    ],
)
def test_a_bad_document_changes_nothing(clean: LabUnderTest, tmp_path: Path, wrong: str, said: str) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(POLICY)
    clean.must("apply", str(good))
    before = clean.status()["nodes"]
    bad.write_text(wrong)
    done = clean.run("apply", str(bad))
    assert done.returncode == 1
    assert str(bad).encode() in done.stderr
    assert said.encode() in done.stderr
    assert clean.status()["nodes"] == before
    assert code(clean, "frontend", "/public") == "200"


def test_delete_suggests_the_nearest(clean: LabUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(POLICY)
    clean.must("apply", str(file))
    done = clean.run("delete", "wep")
    assert done.returncode == 1
    assert done.stderr == f"tulle: no policy 'wep' in lab '{clean.name}'; did you mean 'web'?\n".encode()


def test_apply_of_no_file(clean: LabUnderTest, tmp_path: Path) -> None:
    done = clean.run("apply", str(tmp_path / "none.yaml"))
    assert done.returncode == 1
    assert b"none.yaml" in done.stderr


def test_a_dead_agent_is_started_again(lab: LabUnderTest) -> None:
    cgroup = agent_cgroup(record(lab), record(lab).find_node("node-a"))
    for _ in range(2):
        old = pids(cgroup)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        soon(lambda: bool(set(pids(cgroup)) - set(old)), "no new agent")  # noqa: B023 - called within this turn
        soon(lambda: all(node["ready"] for node in lab.status()["nodes"]), "the new agent is not ready")
    assert "ended by SIGKILL" in lab.must("logs", "node-a")


@contextmanager
def held(cgroup: Path) -> Iterator[None]:
    """Freeze what is in a cgroup."""
    (cgroup / "cgroup.freeze").write_text("1")
    try:
        yield
    finally:
        (cgroup / "cgroup.freeze").write_text("0")


def test_a_frozen_supervisor_leaves_a_killed_agent_dead(clean: LabUnderTest, tmp_path: Path) -> None:
    """How tests hold an agent dead; status still answers, and apply waits for the agent that comes back."""
    file = tmp_path / "p.yaml"
    file.write_text(POLICY)
    lab = clean
    node = record(lab).find_node("node-b")
    cgroup = agent_cgroup(record(lab), node)
    with held(supervisor_cgroup(record(lab), node)):
        for pid in pids(cgroup):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        assert lab.status()["nodes"][1]["ready"] is False
        waiting = subprocess.Popen(lab.argv("apply", str(file)), stdout=subprocess.DEVNULL)  # noqa: S603 - written here
        time.sleep(0.5)
        assert waiting.poll() is None
    assert waiting.wait(60) == 0
    assert code(lab, "intruder", "/public") == "refused"
    soon(lambda: lab.status()["nodes"][1]["ready"] is True, "the agent did not come back")


def test_logs(lab: LabUnderTest) -> None:
    assert "supervisor: agent started" in lab.must("logs", "node-b")
    assert {line.split()[0] for line in lab.must("logs").splitlines()} == {"node-a", "node-b"}
    wrong = lab.run("logs", "node-x")
    assert wrong.returncode == 1
    assert b"did you mean 'node-" in wrong.stderr


def test_logs_follow_until_the_reader_goes(lab: LabUnderTest) -> None:
    with subprocess.Popen(lab.argv("logs", "--follow"), stdout=subprocess.PIPE) as started:  # noqa: S603 - written here
        assert started.stdout is not None
        assert started.stdout.readline().startswith(b"node-a ")
        started.send_signal(signal.SIGINT)
        assert started.wait(10) == 130


def test_nothing_left_running_holds_the_callers_pipes(fresh: LabUnderTest) -> None:
    started = subprocess.Popen(  # noqa: S603 - written here
        fresh.argv("up"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, errors = started.communicate(timeout=120)  # returns at the end of both streams
    assert started.returncode == 0, errors
    assert len(processes_of(fresh)) > 4
    fresh.must("down")
    assert left_of(fresh) == []


@pytest.mark.parametrize("seen", ["agent.sock", "workers", "links"])
def test_down_after_kill_9_of_up_leaves_nothing(fresh: LabUnderTest, seen: str) -> None:
    """Killed when an agent has come this far."""
    with subprocess.Popen(fresh.argv("up"), stdout=subprocess.DEVNULL) as started:  # noqa: S603 - written here
        places = [names.run_dir(fresh.name), names.lab_bpffs(fresh.name)]
        soon(lambda: any(found for place in places for found in place.rglob(seen)), f"no {seen}", 60)
        started.kill()
    fresh.must("down")
    assert left_of(fresh) == []


def test_the_supervisor_waits_longer_for_an_agent_that_keeps_dying(fresh: LabUnderTest, tmp_path: Path) -> None:
    cgroup = names.lab_cgroup(fresh.name) / "n"
    cgroup.mkdir(parents=True)
    log = tmp_path / "log"
    argv = [sys.executable, "-m", "lab.supervisor", "--cgroup", str(cgroup), "--log", str(log), "--", "false"]
    with log.open("wb") as output, subprocess.Popen(argv, stderr=output) as started:  # noqa: S603 - written here
        soon(lambda: b"starting again in 0.4 s" in log.read_bytes(), "no back-off")
        started.kill()
    assert b"ended with status 1; starting again in 0.05 s" in log.read_bytes()
