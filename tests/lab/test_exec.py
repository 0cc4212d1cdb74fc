"""`lab exec`: the contract of running a command inside a pod."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lab.confine import CONTAINER_CAPABILITIES
from tests.lab.helpers import LabUnderTest, run

pytestmark = pytest.mark.root


def test_stdin_passes_byte_for_byte_to_its_end(bare: LabUnderTest) -> None:
    data = os.urandom(3_000_000)
    assert bare.exec("frontend", "cat", stdin=data).stdout == data


def test_stdout_and_stderr_are_apart(bare: LabUnderTest) -> None:
    done = bare.exec("frontend", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_no_tty_is_made(bare: LabUnderTest) -> None:
    assert bare.exec("frontend", "sh", "-c", "test -t 0 || test -t 1 || test -t 2").returncode == 1


@pytest.mark.parametrize("status", [0, 1, 7, 125, 255])
def test_exit_status_is_the_commands(bare: LabUnderTest, status: int) -> None:
    assert bare.exec("frontend", "sh", "-c", f"exit {status}").returncode == status


def test_not_found_and_not_executable(bare: LabUnderTest, tmp_path: Path) -> None:
    missing = bare.exec("frontend", "no-such-command")
    assert (missing.returncode, missing.stderr) == (127, b"tulle: no-such-command: not found\n")
    plain = tmp_path / "plain"
    plain.write_text("x")
    denied = bare.exec("frontend", str(plain))
    assert denied.returncode == 126
    assert denied.stderr == f"tulle: {plain}: cannot be executed: permission denied\n".encode()


def test_unknown_pod_suggests_the_nearest(bare: LabUnderTest) -> None:
    done = bare.exec("fronted", "true")
    assert done.returncode == 125
    assert b"no pod 'fronted'" in done.stderr
    assert b"did you mean 'frontend'?" in done.stderr


def test_unknown_lab(fresh: LabUnderTest) -> None:
    done = fresh.exec("frontend", "true")
    assert done.returncode == 125
    assert f"no lab '{fresh.name}' is up".encode() in done.stderr


@pytest.mark.parametrize("pod", ["frontend", "default/frontend"])
def test_pod_with_and_without_namespace(bare: LabUnderTest, pod: str) -> None:
    assert bare.exec(pod, "true").returncode == 0


def test_options_stand_before_the_command_only(bare: LabUnderTest) -> None:
    expected = b"-h --name -- x\n"
    echo = ["echo", "-h", "--name", "--", "x"]
    assert bare.exec("frontend", *echo).stdout == expected
    assert run([*bare.argv("exec")[:-2], "frontend", "--name", bare.name, "--", *echo]).stdout == expected
    assert bare.run("exec", "frontend", *echo).stdout == expected
    assert bare.exec("frontend", "--odd", "--").stderr == b"tulle: --odd: not found\n"


def test_without_a_command(bare: LabUnderTest) -> None:
    assert bare.run("exec", "frontend").returncode == 2
    assert bare.run("exec", "frontend", "--").returncode == 2


def test_kill_9_ends_the_command(bare: LabUnderTest) -> None:
    with subprocess.Popen(bare.argv("exec", "frontend", "--", "sleep", "1000")) as started:  # noqa: S603 - written here
        deadline = time.monotonic() + 10
        while Path(f"/proc/{started.pid}/comm").read_text() != "sleep\n":  # it became the command itself
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started.kill()
        assert started.wait(10) == -signal.SIGKILL


def test_a_broken_pipe_ends_the_command(bare: LabUnderTest) -> None:
    # Python ignores SIGPIPE; a command that inherited this would write on for ever, or complain.
    done = bare.exec("frontend", "sh", "-c", "(yes; echo $? >&2) | head -1")
    assert done.stdout == b"y\n"
    assert done.stderr == b"141\n"


def test_capabilities_are_a_containers(bare: LabUnderTest) -> None:
    lines = bare.output("frontend", "cat", "/proc/self/status").splitlines()
    found = {key: int(value, 16) for key, value in (line.split(":\t") for line in lines if line.startswith("Cap"))}
    mask = sum(1 << number for number in CONTAINER_CAPABILITIES.values())
    # The number Docker shows for a default container.
    assert mask == 0xA80425FB
    assert found == {"CapInh": 0, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": 0}


def test_net_admin_is_refused_and_raw_sockets_are_not(bare: LabUnderTest) -> None:
    assert bare.exec("frontend", "ip", "link", "set", "eth0", "down").returncode != 0
    raw = "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"
    assert bare.exec("frontend", "python3", "-c", raw).returncode == 0


def test_other_users_have_no_capability(bare: LabUnderTest) -> None:
    script = "import os; os.setgid(65534); os.setuid(65534); os.execvp('grep', ['grep', 'CapEff', '/proc/self/status'])"
    assert bare.output("frontend", "python3", "-c", script).split() == ["CapEff:", "0" * 16]


def test_environment_and_file_system_are_the_machines(bare: LabUnderTest, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("here")
    environment = os.environ | {"TT_MARK": "a b"}
    done = subprocess.run(  # noqa: S603 - written here
        bare.argv("exec", "frontend", "--", "sh", "-c", f'cat {tmp_path}/f; echo ".$TT_MARK.$PATH"; pwd'),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == f"here.a b.{environment['PATH']}\n{tmp_path}\n"


def test_only_hosts_and_resolv_conf_differ(bare: LabUnderTest) -> None:
    here = Path("/proc/self/mountinfo").read_text().splitlines()
    there = bare.output("frontend", "cat", "/proc/self/mountinfo").splitlines()

    def targets(lines: list[str]) -> list[str]:
        # Other labs come and go on this machine.
        return sorted(target for target in (line.split()[4] for line in lines) if not target.startswith("/run/netns/"))

    assert targets(there) == sorted([*targets(here), "/etc/hosts", "/etc/resolv.conf"])
    assert "web.default" not in Path("/etc/hosts").read_text()


def test_a_command_does_not_keep_a_deleted_namespace_alive(bare: LabUnderTest) -> None:
    """Its mount namespace has a copy of every name in /run/netns; an unmount on the machine must reach it."""
    name = f"{bare.name}-gone"
    subprocess.run(["ip", "netns", "add", name], check=True)  # noqa: S603, S607 - ip(8) from PATH
    path = f"/run/netns/{name}"
    command = ["sh", "-c", f"grep -c ' {path} ' /proc/self/mountinfo; read x; grep -c ' {path} ' /proc/self/mountinfo"]
    with subprocess.Popen(  # noqa: S603 - written here
        bare.argv("exec", "frontend", "--", *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        assert started.stdout.readline() == b"1\n"
        subprocess.run(["ip", "netns", "del", name], check=True)  # noqa: S603, S607 - ip(8) from PATH
        started.stdin.write(b"\n")
        started.stdin.flush()
        assert started.stdout.readline() == b"0\n"


def test_what_exec_imports_is_little(bare: LabUnderTest) -> None:
    """It runs thousands of times in a test run: none of the big libraries may be on its way."""
    code = (
        "import sys, os\n"
        "os.execvp = lambda *a: print(*sorted({'pyroute2', 'pydantic', 'yaml', 'asyncio', 'lab'} & set(sys.modules)))\n"
        f"sys.argv = ['lab', 'exec', '--name', '{bare.name}', 'frontend', '--', 'true']\n"
        "from lab.cli import main\n"
        "try:\n    main()\nexcept AssertionError:\n    pass\n"
    )
    assert run([bare.argv("x")[0], "-c", code]).stdout.decode().strip() == "lab"
