"""`lab up` and `lab down`: side by side, twice, killed, and nothing left."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lab import names
from tests.lab.helpers import LabUnderTest, left_of, processes_of, run, unique_name

pytestmark = pytest.mark.root


def test_down_without_a_lab(fresh: LabUnderTest) -> None:
    assert fresh.must("down") == f"no lab '{fresh.name}': nothing to do\n"
    assert left_of(fresh) == []


def test_up_then_down_leaves_nothing(fresh: LabUnderTest) -> None:
    assert fresh.must("up", "--no-agent") == f"lab '{fresh.name}' is up: 2 nodes, 4 pods, no agents\n"
    assert len(processes_of(fresh)) == 1  # web
    assert fresh.must("down") == f"lab '{fresh.name}' is down\n"
    assert left_of(fresh) == []


def test_a_second_up_says_that_it_is_up(bare: LabUnderTest) -> None:
    before = processes_of(bare)
    assert "is up already" in bare.must("up", "--no-agent")
    other = bare.run("up", "--no-agent", "--nodes", "3")
    assert other.returncode == 1
    assert b"is up, with another description" in other.stderr
    assert processes_of(bare) == before


def test_two_labs_side_by_side_share_nothing(bare: LabUnderTest, fresh: LabUnderTest) -> None:
    fresh.must("up", "--no-agent", "--nodes", "3")
    assert fresh.pod("web")["ipv4"] == bare.pod("web")["ipv4"]
    mine = fresh.get("frontend", "http://web/mine")
    assert mine["target"] == "/mine"
    fresh.must("down")
    assert bare.get("frontend", "http://web/other")["target"] == "/other"
    assert left_of(fresh) == []


def test_three_nodes_reach_each_other(fresh: LabUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    pods = [{"name": f"p{n}", "namespace": f"s{n}", "node": f"n{n}", "command": ["tulle-web"]} for n in range(3)]
    file.write_text(json.dumps({"nodes": ["n0", "n1", "n2"], "pods": pods}))
    fresh.must("up", "--no-agent", "--file", str(file))
    for client in range(3):
        for server in range(3):
            seen = fresh.get(f"s{client}/p{client}", f"http://p{server}.s{server}/")
            assert seen["client"] in fresh.pod(f"p{client}").values()
    # A short name is for the pod's own namespace.
    assert fresh.exec("s0/p0", "curl", "-s", "http://p1/").returncode == 6


def test_status_has_the_contracts_keys(bare: LabUnderTest) -> None:
    """The first keys are the contract; the others make the output an inventory that `tulle policy explain` reads."""
    status = bare.status()
    assert set(status) == {"mode", "nodes", "pods", "namespaces"}
    assert str(status["mode"]) == "vxlan"
    for node, name in zip(status["nodes"], ("node-a", "node-b"), strict=True):
        assert {key: node[key] for key in ("name", "ready", "revision")} == {
            "name": name,
            "ready": False,
            "revision": 0,
        }
        assert set(node) == {"name", "ready", "revision", "addresses"}
        assert node["addresses"]
    keys = {"namespace", "name", "node", "labels", "ipv4", "ipv6", "ports"}
    assert [set(pod) for pod in status["pods"]] == [keys] * 4
    (web,) = [pod for pod in status["pods"] if pod["name"] == "web"]
    assert web == {
        "namespace": "default",
        "name": "web",
        "node": "node-b",
        "labels": {"app": "web"},
        "ipv4": "10.244.1.2",
        "ipv6": "fd00:10:244:1::2",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    }


def test_nothing_left_running_holds_the_callers_pipes(fresh: LabUnderTest) -> None:
    reader, writer = os.pipe()  # as a build system hands one to everything it starts
    started = subprocess.Popen(  # noqa: S603 - written here
        fresh.argv("up", "--no-agent"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[writer],
    )
    os.close(writer)
    # communicate returns at the end of both streams, which a process with a copy would hold off.
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 0, errors
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert len(processes_of(fresh)) == 1


def test_a_command_that_cannot_start_fails_up_and_leaves_nothing(fresh: LabUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("pods:\n- {name: w, command: [no-such-command]}\n")
    done = fresh.run("up", "--no-agent", "--file", str(file))
    assert done.returncode == 1
    assert done.stderr == b"tulle: pod 'w': no-such-command: not found\n"
    assert left_of(fresh) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_end_of_up_leaves_nothing(fresh: LabUnderTest, number: signal.Signals) -> None:
    with subprocess.Popen(fresh.argv("up", "--no-agent")) as started:  # noqa: S603 - written here
        wait_for_trace(fresh)
        started.send_signal(number)
        assert started.wait(30) == 128 + number
    assert left_of(fresh) == []


def wait_for_trace(lab: LabUnderTest) -> None:
    """Return when `up` has made its first network namespace."""
    deadline = time.monotonic() + 20
    while not any(item.startswith("netns") for item in left_of(lab)):
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.04, 0.07, 0.1, 0.14, 0.18, 0.25])
def test_down_after_kill_9_of_up_leaves_nothing(fresh: LabUnderTest, delay_s: float) -> None:
    with subprocess.Popen(fresh.argv("up", "--no-agent"), stdout=subprocess.DEVNULL) as started:  # noqa: S603 - written here
        wait_for_trace(fresh)
        time.sleep(delay_s)
        started.kill()
    fresh.must("down")
    assert left_of(fresh) == []


def test_up_after_kill_9_of_up_works(fresh: LabUnderTest) -> None:
    with subprocess.Popen(fresh.argv("up", "--no-agent")) as started:  # noqa: S603 - written here
        wait_for_trace(fresh)
        started.kill()
    assert b"half made" in fresh.run("status").stderr
    fresh.must("up", "--no-agent")
    assert fresh.get("frontend", "http://web/")["method"] == "GET"


def test_down_ends_commands_that_run_in_pods(fresh: LabUnderTest) -> None:
    fresh.must("up", "--no-agent")
    command = ["sh", "-c", "trap '' TERM INT HUP; setsid sleep 1000 & echo; sleep 1000"]
    with subprocess.Popen(fresh.argv("exec", "frontend", "--", *command), stdout=subprocess.PIPE) as started:  # noqa: S603 - written here
        assert started.stdout is not None
        started.stdout.readline()
        fresh.must("down")
        assert started.wait(10) == -signal.SIGKILL
    assert left_of(fresh) == []


def test_up_and_down_of_one_lab_take_turns(fresh: LabUnderTest) -> None:
    commands = [fresh.argv("up", "--no-agent"), fresh.argv("down")] * 3
    started = [subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for argv in commands]  # noqa: S603 - written here
    assert [process.wait(60) for process in started] == [0] * len(started)
    fresh.must("down")
    assert left_of(fresh) == []


def test_down_needs_no_record(fresh: LabUnderTest) -> None:
    fresh.must("up", "--no-agent")
    (names.run_dir(fresh.name) / "lab.json").write_text("{")
    fresh.must("down")
    assert left_of(fresh) == []


def test_a_kernel_that_refuses_is_said(fresh: LabUnderTest) -> None:
    """Without CAP_NET_ADMIN, as in a container that may not make devices."""
    argv = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *fresh.argv("up", "--no-agent")]
    done = run(argv)
    assert done.returncode == 1
    assert done.stderr.startswith(b"tulle: ")
    assert b"not permitted" in done.stderr
    assert left_of(fresh) == []


def test_a_name_that_cannot_be_one() -> None:
    done = LabUnderTest("../x").run("up", "--no-agent")
    assert done.returncode == 1
    assert b"lab name '../x'" in done.stderr


def test_mistakes_in_a_file_are_said_and_nothing_is_made(fresh: LabUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("pods:\n- name: web\n  nod: a\n")
    done = fresh.run("up", "--file", str(file))
    assert done.returncode == 1
    assert f"{file}:3:3: error: pods[0].nod:".encode() in done.stderr
    assert left_of(fresh) == []


@pytest.mark.parametrize("command", ["up", "down", "exec", "apply", "delete", "status", "logs"])
def test_every_help_has_an_example(command: str) -> None:
    lab = LabUnderTest(unique_name())
    assert "example: tulle lab " in lab.must(command, "--help")


def test_policy_commands_say_that_there_are_no_agents(bare: LabUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("")
    done = bare.run("apply", str(file))
    assert done.returncode == 1
    assert b"--no-agent" in done.stderr
