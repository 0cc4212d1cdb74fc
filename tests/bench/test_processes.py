"""What /proc says of processes."""

import os
import subprocess
import sys
import time

import pytest

from bench import processes
from bench.processes import Process


def test_descendants_are_all_below() -> None:
    table = {1: Process(0, 0.0), 5: Process(1, 0.0), 6: Process(5, 0.0), 7: Process(6, 0.0), 8: Process(1, 0.0)}
    assert processes.descendants(5, table) == {5, 6, 7}


def test_cpu_time_of_others() -> None:
    before = {1: Process(0, 5.0), 2: Process(1, 9.0), 3: Process(1, 1.0), 9: Process(1, 7.0)}
    # 2 is excluded, 3 is a new process under an old pid, 4 has come, 9 is gone
    after = {1: Process(0, 6.0), 2: Process(1, 19.0), 3: Process(1, 0.5), 4: Process(1, 0.25)}
    assert processes.spent_between(before, after, {2}) == pytest.approx(1.75)


def test_own_use_is_seen() -> None:
    before, busy = processes.usage([os.getpid()]), processes.machine_busy_s()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    spent = processes.usage([os.getpid()]).cpu_s - before.cpu_s
    assert 0.25 <= spent < 2
    assert processes.machine_busy_s() - busy >= 0.2
    assert before.rss_bytes > 1024 * 1024
    assert processes.everyone()[os.getpid()].parent == os.getppid()


def test_one_that_is_gone_counts_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    assert processes.alive(gone.pid)
    gone.wait()
    assert processes.usage([gone.pid]) == processes.Usage(0.0, 0)
    assert not processes.alive(gone.pid)


@pytest.mark.root
def test_the_peak_begins_anew() -> None:
    pid = [os.getpid()]
    size = 64 * 1024 * 1024
    processes.reset_peak(pid)
    before = processes.peak_bytes(pid)
    block = b"\1" * size  # zeros would not be touched
    block = block[:1]
    assert processes.peak_bytes(pid) >= before + size - 1024 * 1024
    processes.reset_peak(pid)
    assert processes.peak_bytes(pid) < before + size / 2
    assert block == b"\1"
