"""The probes on this machine, and what they say where something is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from redirect import features

pytestmark = pytest.mark.root


def probe_as(*before: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "redirect.features"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)  # noqa: S603 - our own module


def test_one_line_when_all_is_there() -> None:
    done = probe_as()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_without_rights() -> None:
    done = probe_as("/usr/bin/setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    assert done.returncode == 1
    assert done.stderr == (
        "missing: root, with CAP_SYS_ADMIN\n"
        "   what to do: run as root; in a container, --privileged or these capabilities\n"
    )


def test_what_is_missing_is_said_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "DIST_PACKAGES", tmp_path)
    monkeypatch.setattr(features, "MINIMUM_KERNEL", (99, 1))
    found = features.probe()
    assert [one.missing.split(":")[0] for one in found] == ["a kernel of 99.1 or newer", "the BPF compiler"]
    assert all(one.remedy for one in found)
