"""What somebody meets who has just cloned the repository: help, mistakes, the demo, and Ctrl-C."""

import argparse
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import _parser
from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, eventually, tulle
from tests.helpers.live import ended

pytestmark = pytest.mark.root

ROOT = EXAMPLES.parent
ESCAPE = "\x1b"
# The demo under a name of the test's own, so that a lab that somebody kept is left alone.
DEMO = "import sys; from lab import demo; raise SystemExit(demo.main(['--name', *sys.argv[1:]]))"
SHORT_DEMO = DEMO.replace("demo.main([", "demo.main(['--no-kafka', ")


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the command line, by the parser itself, so that none is forgotten."""
    yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from commands(below, (*words, name))


def test_version() -> None:
    done = tulle("--version")
    name, version = done.stdout.split()
    assert (done.returncode, name) == (0, "tulle")
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()


def test_every_help_has_an_example() -> None:
    found = list(commands(_parser()))
    assert {("agent",), ("observe",), ("status",), ("lab", "up"), ("lab", "exec"), ("lab", "logs")} < set(found)
    for words in found:
        done = tulle(*words, "--help")
        assert done.returncode == 0
        assert "example: tulle " in done.stdout, words
        assert ESCAPE not in done.stdout


def dev(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ./dev, from another folder."""
    return subprocess.run(  # noqa: S603  our own command
        [str(ROOT / "dev"), *arguments], capture_output=True, text=True, check=False, cwd="/"
    )


def test_dev_alone_prints_its_commands() -> None:
    done = dev()
    assert done.returncode == 0
    for what in ("demo", "test", "bench", "lint", "setup", "shell", "clean", "--unit", "MB", "minute", "installs"):
        assert what in done.stdout
    assert ESCAPE not in done.stdout + done.stderr
    done = dev("demmo")
    assert done.returncode == 1
    assert "demmo" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (("observ",), "observe"),
        (("lab", "aply", "x.yaml"), "apply"),
        (("lab", "exce", "web"), "exec"),
        (("observe", "--verdict", "DROPED"), "DROPPED"),
    ],
)
def test_a_mistyped_command_suggests_the_nearest(wrong: tuple[str, ...], right: str) -> None:
    done = tulle(*wrong)
    assert done.returncode == 2
    assert f"did you mean '{right}'" in done.stderr
    assert done.stdout == ""


def test_a_mistyped_name_suggests_the_nearest(lab: Cluster) -> None:
    lab.apply(EXAMPLES / "web-l7.yaml")
    for words, right in (
        (("exec", "--name", lab.name, "frontent", "--", "true"), "frontend"),
        (("exec", "--name", lab.name, "wbe", "--", "true"), "web"),
        (("logs", "--name", lab.name, "node-c"), "node-"),
        (("delete", "--name", lab.name, "web-l8"), "web-l7"),
    ):
        done = tulle("lab", *words)
        assert done.returncode not in (0, 2), words
        assert f"did you mean '{right}" in done.stderr, done.stderr
    done = tulle("status", "--name", lab.name, "--node", "nodea")
    assert done.returncode == 1
    assert "did you mean 'node-a'" in done.stderr
    done = tulle("status", "--name", lab.name + "x")
    assert done.returncode == 1
    assert lab.name in done.stderr


def test_a_second_up_says_that_it_is_up(lab: Cluster) -> None:
    lab.apply(EXAMPLES / "web-l7.yaml")
    before = lab.status()["nodes"]
    done = lab.lab("up")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"lab '{lab.name}' is up already" in done.stdout
    assert [node["processes"][0]["pid"] for node in lab.status()["nodes"]] == [
        node["processes"][0]["pid"] for node in before
    ]
    assert lab.curl("frontend", "http://web/private") == 403  # its policies too


def test_logs(lab: Cluster) -> None:
    done = lab.lab("logs")
    assert done.returncode == 0
    assert {line.split(" ")[0] for line in done.stdout.splitlines()} == {"node-a", "node-b"}
    one = lab.lab("logs", "node-b")
    assert one.returncode == 0
    assert "supervisor: agent started" in one.stdout
    assert "node-a " not in one.stdout


def in_terminal(*arguments: str, **environment: str) -> str:
    """What a command prints when its standard output is a terminal."""
    ours, theirs = os.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    with os.fdopen(ours, "rb", buffering=0) as screen:
        with os.fdopen(theirs, "wb") as output:
            subprocess.run(  # noqa: S603  our own command
                [*map(str, arguments)], stdout=output, check=True, env={**kept, "TERM": "xterm", **environment}
            )
        return screen.read(65536).decode()


def test_colours_are_for_terminals(lab: Cluster) -> None:
    lab.apply(EXAMPLES / "web-l7.yaml")
    assert lab.curl("frontend", "http://web/private") == 403
    assert lab.find_record(lambda record: record["flow"]["verdict"] == "DROPPED") is not None
    observe = [str(Path(sys.executable).with_name("tulle")), "observe", "--name", lab.name, "--last", "1"]
    assert ESCAPE in in_terminal(*observe)
    assert ESCAPE not in in_terminal(*observe, NO_COLOR="1")
    piped = tulle(*observe[1:]).stdout
    assert "DROPPED" in piped
    for words in (observe[1:], ["status", "--name", lab.name], ["lab", "status", "--name", lab.name]):
        done = tulle(*words)
        assert ESCAPE not in done.stdout + done.stderr


def test_a_reader_that_goes_away_is_no_error(lab: Cluster) -> None:
    for words in ("observe --all", "status", "lab logs", "lab status"):
        line = f"{Path(sys.executable).with_name('tulle')} {words} --name {lab.name} | head -c 1"
        done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)  # noqa: S603  ours
        assert "Traceback" not in done.stderr, words
        assert "BrokenPipe" not in done.stderr, words


def left_of(name: str) -> list[str]:
    """What is on the machine of a lab: files, network namespaces, cgroups, pins, processes."""
    found = [
        path
        for pattern in (
            f"/run/tulle/lab/{name}",
            f"/run/tulle/lab/.{name}.lock",
            f"/run/netns/tulle_{name}_*",
            f"/sys/fs/cgroup/tulle-lab/{name}",
            f"/sys/fs/cgroup/unified/tulle-lab/{name}",
            f"/sys/fs/bpf/tulle/{name}",
        )
        for path in map(str, Path("/").glob(pattern[1:]))
    ]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if f"/lab/{name}/" in words:
            found.append(f"{entry}: {words}")
    return found


@pytest.fixture
def demo_name() -> Iterator[str]:
    name = f"tt{secrets.token_hex(3)}"
    yield name
    tulle("lab", "down", "--name", name)


def test_the_demo_shows_what_it_says_and_leaves_nothing(demo_name: str) -> None:
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-c", DEMO, demo_name], capture_output=True, text=True, check=False, cwd=ROOT, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BAD" not in done.stdout
    assert ESCAPE not in done.stdout
    assert (EXAMPLES / "web-l7.yaml").read_text() in done.stdout
    table = done.stdout[done.stdout.index("     request ") :]
    rows = [line for line in table.splitlines() if line.startswith("ok ")]
    assert len(rows) >= 23
    assert f"{len(rows)} of {len(rows)} outcomes as stated" in done.stdout
    for word in (
        "403",
        "refused",
        "400",
        "keep-alive",
        "web-l7",
        "TopicAuthorizationException",
        "default/kafka ingress",
    ):
        assert word in table
    assert "no record" not in table
    assert "web saw GET /public from " in done.stdout
    assert left_of(demo_name) == []


def test_the_demo_that_is_kept_says_what_to_try_and_it_works(demo_name: str) -> None:
    code = SHORT_DEMO.replace("demo.main([", "demo.main(['--keep', ")
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-c", code, demo_name], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert tulle("status", "--name", demo_name).returncode == 0
    assert left_of(demo_name) != []  # or the search finds nothing at all
    tried = [line.strip() for line in done.stdout.splitlines() if line.startswith("  .venv/bin/tulle ")]
    assert len(tried) >= 4
    for line in tried:
        words = line.replace("--name demo", f"--name {demo_name}").split()[1:]
        if "--follow" not in words:
            assert tulle(*words).returncode == 0, line
    assert left_of(demo_name) == []  # the last of them takes it down


@pytest.mark.parametrize("when", ["$ tulle lab up", "3. Requests"])
def test_ctrl_c_takes_the_demos_lab_down(demo_name: str, when: str) -> None:
    with (
        subprocess.Popen(  # noqa: S603  our own command
            [sys.executable, "-c", SHORT_DEMO, demo_name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        ) as demo,
        ended(demo),
    ):
        assert demo.stdout is not None
        for line in demo.stdout:
            if when in line:
                break
        assert eventually(lambda: left_of(demo_name) != [])
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: everybody in the foreground
        for line in demo.stdout:
            if "lab down" in line:
                os.killpg(demo.pid, signal.SIGINT)  # the impatient
        assert demo.wait(60) == 130
    assert left_of(demo_name) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tset"], "unknown command 'tset': did you mean 'test'?"),
        (["demmo"], "did you mean 'demo'?"),
        (["setup", "now"], "'./dev setup' takes no arguments"),
    ],
)
def test_a_mistyped_dev_command_suggests_the_nearest_and_does_nothing(words: list[str], said: str) -> None:
    done = subprocess.run(["./dev", *words], cwd=ROOT, check=False, capture_output=True, text=True)  # noqa: S603  our own script
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize("command", ["clean", "setup", "lint"])
def test_help_of_a_dev_command_is_no_work(command: str) -> None:
    done = subprocess.run(["./dev", command, "--help"], cwd=ROOT, check=False, capture_output=True, text=True)  # noqa: S603  our own script
    assert done.returncode == 0
    assert "./dev clean" in done.stdout
    assert Path(sys.executable).exists()


def test_dev_clean_leaves_labs_that_are_up_their_checkout(lab: Cluster) -> None:
    done = subprocess.run(["./dev", "clean"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert lab.name in done.stderr
    assert lab.curl("frontend", "http://web/") == 200


def test_observe_says_that_nothing_matches(lab: Cluster) -> None:
    done = tulle("observe", "--name", lab.name, "--pod", "nobody-has-this-name")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no record matches" in done.stderr


def test_the_demo_uses_no_lab_that_is_up(lab: Cluster) -> None:
    done = subprocess.run(  # noqa: S603  our own module
        [sys.executable, "-m", "lab.demo", "--name", lab.name], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "is up" in done.stderr
    assert lab.curl("frontend", "http://web/") == 200
