"""What `tulle status` says of memory and CPU time, of real processes."""

import io
import os
import subprocess
import sys
from pathlib import Path

from agent import status
from agent.config import Settings
from agent.usage import usage_of
from agent.workers import Process, WorkerFolder

MIB = 1024 * 1024
# Takes 64 MiB and half a second of CPU time, then waits: a name with a bracket and a space must not shift the fields.
BUSY = """
import ctypes, time
ctypes.CDLL(None).prctl(15, b"a) b", 0, 0, 0)  # PR_SET_NAME
held = b"x" * (64 * 1024 * 1024)
while time.process_time() < 0.5: pass
print("ready", flush=True)
input()
"""


def test_a_process_is_measured_and_one_that_is_gone_is_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # noqa: S603  our own interpreter
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        used = usage_of(child.pid)
        assert 64 * MIB < used["rss_bytes"] < 512 * MIB
        assert used["cpu_s"] >= 0.4  # the kernel books whole ticks
        assert used["up_s"] >= 0.4
        child.communicate(b"\n")
    assert usage_of(child.pid) == {}


def test_own_usage_is_the_kernels_own_count() -> None:
    before, used, after = os.times(), usage_of(os.getpid()), os.times()
    tick_s = 2 / os.sysconf("SC_CLK_TCK")
    assert before.user + before.system - tick_s <= used["cpu_s"] <= after.user + after.system + tick_s


def test_a_worker_that_does_not_answer_and_has_no_agent_is_measured(tmp_path: Path) -> None:
    settings = Settings.model_validate({"node": "node-a", "run_dir": tmp_path, "audit": {"directory": tmp_path}})
    folder = WorkerFolder(tmp_path / "workers")
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # noqa: S603  our own interpreter
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        process = Process.of(child.pid)
        assert process is not None
        with folder.listener("worker-0"):
            folder.record("worker-0", process)
        found = status.node_status(settings)["processes"]
        child.communicate(b"\n")
    assert isinstance(found, list)
    (worker,) = found
    assert (worker["pid"], worker["revision"]) == (child.pid, None)
    assert worker["rss_bytes"] > 64 * MIB
    assert worker["cpu_s"] >= 0.4
    assert status.node_status(settings)["processes"] == []


def test_status_shows_each_process_and_the_broker() -> None:
    out = io.StringIO()
    usage = {"rss_bytes": 31 * MIB, "cpu_s": 1.5, "up_s": 6.0}
    status.print_node(
        {
            "name": "node-a",
            "ready": True,
            "revision": 4,
            "processes": [
                {"role": "agent", "pid": 7, "revision": 4, **usage},
                {"role": "worker", "pid": 8, "revision": 4, "flows": {"1": 2}, "draining": True, **usage},
                {"role": "worker", "pid": 9, "revision": None},
            ],
            "broker": 10,
            "broker_usage": {"rss_bytes": MIB, "cpu_s": 0.25, "up_s": 0.5},
        },
        out,
    )
    assert out.getvalue().splitlines() == [
        "node-a: ready, revision 4",
        "  agent   pid 7, revision 4, 31 MiB, 1.50 s CPU (25% of 6 s)",
        "  worker  pid 8, revision 4, 2 connections, draining, 31 MiB, 1.50 s CPU (25% of 6 s)",
        "  worker  pid 9, revision None",
        "  broker  pid 10, 1 MiB, 0.25 s CPU",
    ]
