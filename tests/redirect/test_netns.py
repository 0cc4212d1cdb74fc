"""Entering a pod and coming back, always."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from redirect.errors import RedirectError
from redirect.netns import Netns, same
from tests.redirect.pods import NETNS_DIR, run

pytestmark = pytest.mark.root


def here() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


@pytest.fixture
def path() -> Iterator[Path]:
    name = f"tt-{secrets.token_hex(4)}"
    run("ip", "netns", "add", name)
    yield NETNS_DIR / name
    run("ip", "netns", "del", name)


def test_enters_and_comes_back(path: Path) -> None:
    home = here()
    with Netns.open(path) as netns:
        assert netns.inode == path.stat().st_ino != home
        assert netns.cookie > 0
        with netns.entered():
            assert here() == netns.inode
            with netns.entered():
                pass
            assert here() == netns.inode
        assert here() == home


def test_comes_back_from_an_exception(path: Path) -> None:
    home = here()
    with Netns.open(path) as netns:
        with pytest.raises(ZeroDivisionError), netns.entered():
            _ = 1 // 0
        assert here() == home


def test_moves_the_calling_thread_alone(path: Path) -> None:
    inside, leave = threading.Event(), threading.Event()
    with Netns.open(path) as netns:

        def visit() -> None:
            with netns.entered():
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=visit)
        thread.start()
        assert inside.wait(10)
        assert here() != netns.inode
        leave.set()
        thread.join(10)


def test_descriptors_do_not_leak(path: Path) -> None:
    with Netns.open(path) as netns:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is all we want
        for _ in range(20):
            with netns.entered():
                pass
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - a count is all we want


def test_same(path: Path) -> None:
    assert same(path, path.stat().st_ino)
    assert not same(path, 1)
    assert not same("/nowhere", 1)


def test_what_is_no_netns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    home = here()
    with pytest.raises(RedirectError, match="cannot enter netns"):
        Netns.open(file)
    with pytest.raises(RedirectError, match="cannot open netns '/nowhere': ENOENT"):
        Netns.open("/nowhere")
    assert here() == home


def test_closed_handle_is_refused(path: Path) -> None:
    netns = Netns.open(path)
    netns.close()
    netns.close()
    with pytest.raises(RedirectError, match="cannot enter"), netns.entered():
        pass


def test_process_dies_rather_than_stay_inside(path: Path) -> None:
    code = f"""
import os
from redirect.netns import Netns
netns = Netns.open({str(path)!r})
true, count = os.setns, 0
def setns(fd, kind):
    global count
    count += 1
    if count == 2: raise OSError(1, "no way back")
    true(fd, kind)
os.setns = setns
try:
    with netns.entered(): pass
except BaseException: pass
print("went on in the wrong netns")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=20)  # noqa: S603 - our own interpreter
    assert done.returncode == -signal.SIGABRT
    assert "cannot come back" in done.stderr
    assert done.stdout == ""
