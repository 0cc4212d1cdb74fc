"""A lab under test, driven from outside as a user drives it, and what a lab may leave on a machine."""

import json
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import names

LAB = [sys.executable, "-m", "lab"]


def unique_name() -> str:
    return f"tt-{secrets.token_hex(4)}"


def run(command: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 120) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - the commands are written in the tests
        command, input=stdin, capture_output=True, timeout=timeout_s, check=False
    )


@dataclass(frozen=True, slots=True)
class LabUnderTest:
    """One lab by name; it need not be up."""

    name: str

    def argv(self, command: str, *arguments: str) -> list[str]:
        return [*LAB, command, "--name", self.name, *arguments]

    def run(self, command: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return run(self.argv(command, *arguments), stdin=stdin)

    def must(self, command: str, *arguments: str, stdin: bytes = b"") -> str:
        done = self.run(command, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def exec(self, pod: str, *command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return self.run("exec", pod, "--", *command, stdin=stdin)

    def output(self, pod: str, *command: str) -> str:
        return self.must("exec", pod, "--", *command)

    def get(self, pod: str, url: str, *options: str) -> dict[str, object]:
        """A request of `pod` by curl; gives the server's JSON."""
        answer = json.loads(self.output(pod, "curl", "--silent", "--show-error", "--max-time", "10", *options, url))
        assert isinstance(answer, dict)
        return answer

    def status(self) -> dict[str, list[dict[str, object]]]:
        answer = json.loads(self.must("status", "--json"))
        assert isinstance(answer, dict)
        return answer

    def pod(self, name: str) -> dict[str, str]:
        found = [pod for pod in self.status()["pods"] if pod["name"] == name]
        return {key: str(value) for key, value in found[0].items()}


def netns_of(lab: LabUnderTest) -> list[str]:
    prefix = names.netns_prefix(lab.name)
    root = names.NETNS_ROOT
    return sorted(entry.name for entry in root.iterdir() if entry.name.startswith(prefix)) if root.exists() else []


def processes_of(lab: LabUnderTest) -> list[int]:
    """Pids in the lab's cgroups, wherever their directory may be by now; zombies are nobody's."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            cgroups = (entry / "cgroup").read_text()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"/tulle-lab/{lab.name}/" in cgroups and state != "Z":
            found.append(int(entry.name))
    return found


def left_of(lab: LabUnderTest) -> list[str]:
    """Everything of the lab that can be found on the machine, for a message that says what stayed."""
    left = [f"netns {name}" for name in netns_of(lab)]
    for path in (
        names.run_dir(lab.name),
        names.data_dir(lab.name),
        names.lock_file(lab.name),
        names.lab_cgroup(lab.name),
    ):
        left += [str(path)] if path.exists() else []
    left += [str(names.lab_bpffs(lab.name))] if names.lab_bpffs(lab.name).exists() else []
    left += [f"process {pid}" for pid in processes_of(lab)]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return left + [line for line in mounts if f"/{names.netns_prefix(lab.name)}" in line or f"/{lab.name}/" in line]
