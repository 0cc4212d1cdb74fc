"""The benchmark's own lab: made, used and taken down by the product's command.

Pods: `client` and `web` on node-b, `far` on node-a. Two labs are up at once, one without agents for `direct` and the
other proxies, one with agents for `tulle`: so peers take turns within seconds and nothing is set up between them.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import processes
from bench.errors import BenchError
from lab import names, state
from lab.agents import tulle_command

HERE = Path(__file__).resolve().parent
WEB_PORT = 80
CLIENT, FAR, WEB, EXTRA = "client", "far", "web", "extra"
FAR_NODE, NODE = "node-a", "node-b"
_READY_S = 10.0
_COMMAND_S = 600.0  # two hundred pods on a busy machine
# The pid of who made it is part of the name: labs of a run that was killed can be told from those of one at work.
_NAME = re.compile(r"bench-(\d+)-[a-z]+")


class BenchLab:
    """One lab; `up` and `down` may each be called once. `extra_pods` more pods, app: extra, idle on node-b."""

    def __init__(self, kind: str, *, agents: bool, extra_pods: int = 0) -> None:
        self.name = f"bench-{os.getpid()}-{kind}"
        self._agents = agents
        self._extra_pods = extra_pods

    def up(self) -> None:
        """Make it and wait until `web` answers.

        Raises:
            BenchError: with what `tulle lab up` said.
        """
        self.make()
        deadline = time.monotonic() + _READY_S
        while self.ask(CLIENT, "GET", "/bench/1k")[0] == 0:
            if time.monotonic() > deadline:
                raise BenchError("the benchmark's server does not answer")
            time.sleep(0.1)

    def make(self, *options: str) -> None:
        """`tulle lab up` with its description and these options; raises BenchError."""
        # The pod's command has this checkout's paths, so the description is written here and not kept as a file.
        with TemporaryDirectory(prefix="tulle-bench-") as directory:
            description = Path(directory, "lab.yaml")
            description.write_text(json.dumps(self.description()), encoding="utf-8")
            agents = [] if self._agents else ["--no-agent"]
            self.tulle("lab", "up", "--name", self.name, "--file", str(description), *agents, *options)

    def description(self) -> dict[str, object]:
        """lab.yaml; JSON is YAML."""
        serve = [sys.executable, "-P", str(HERE / "server.py"), "--port", str(WEB_PORT)]
        return {
            "nodes": [FAR_NODE, NODE],
            "pods": [
                {"name": FAR, "node": FAR_NODE, "labels": {"app": FAR, "role": "client"}},
                {"name": WEB, "node": NODE, "command": serve},
                {"name": CLIENT, "node": NODE, "labels": {"app": CLIENT, "role": "client"}},
                *(
                    {"name": f"extra-{i}", "node": NODE, "labels": {"app": EXTRA, "group": extra_group(i)}}
                    for i in range(self._extra_pods)
                ),
            ],
        }

    def down(self) -> None:
        self.tulle("lab", "down", "--name", self.name)

    @property
    def record(self) -> state.Lab:
        """What `lab up` wrote down: addresses, places."""
        return state.running(self.name)

    @property
    def web_ipv4(self) -> str:
        return self.record.find_pod(WEB).ipv4

    def url(self, path: str) -> str:
        return f"http://{self.web_ipv4}:{WEB_PORT}{path}"

    def inside(self, pod: str, *command: str) -> list[str]:
        """The command line that runs `command` inside a pod."""
        return [*tulle_command(), "lab", "exec", "--name", self.name, pod, "--", *command]

    def python_inside(self, pod: str, script: str, *arguments: str) -> list[str]:
        """The same for a program of the benchmark's, by its file name."""
        return self.inside(pod, sys.executable, "-P", str(HERE / script), *arguments)

    def ask(self, pod: str, method: str, path: str, timeout_s: int = 10) -> tuple[int, int]:
        """(status, bytes of the body) of one request on a connection of its own; status 0 when there is no answer."""
        command = ["curl", "-s", "-o", "/dev/null", "-m", str(timeout_s), "-X", method]
        command += ["-w", "%{http_code} %{size_download}", self.url(path)]
        answer = _run(self.inside(pod, *command))
        said = answer.stdout.split()
        if len(said) != 2:
            raise BenchError(f"cannot run curl in pod {pod!r}: {answer.stderr.strip()[-500:]}")
        return int(said[0]), int(said[1])

    def tulle(self, *arguments: str, good: Collection[int] = (0,)) -> str:
        """Run a command of the product's; gives what it printed.

        Raises:
            BenchError: its exit status is not `good`; with the end of what it said.
        """
        return self.run([*tulle_command(), *arguments], good=good)

    def run(self, command: Sequence[str], *, good: Collection[int] = (0,)) -> str:
        """Run a command of this checkout's, begun with the path of a program; gives what it printed.

        Raises:
            BenchError: as `tulle`.
        """
        done = _run(command)
        if done.returncode not in good:
            said = (done.stderr or done.stdout).strip()
            words = command[len(tulle_command()) :][:2]
            raise BenchError(f"'tulle {' '.join(words)}' ended with {done.returncode}: {said[-2000:]}")
        return done.stdout

    def in_node(self, *command: str, stdin: str = "") -> str:
        """Run a command in node-b's network namespace, with the privileges of root there; gives what it printed."""
        return self._in_netns(str(names.NETNS_ROOT / names.node_netns(self.name, NODE)), command, stdin)

    def in_pod_as_root(self, pod: str, *command: str) -> None:
        """Run a command in a pod's network namespace with more privileges than `lab exec` gives."""
        self._in_netns(self.record.find_pod(pod).netns, command, "")

    def _in_netns(self, netns: str, command: Sequence[str], stdin: str) -> str:
        done = _run(["nsenter", f"--net={netns}", *command], stdin)
        if done.returncode != 0:
            raise BenchError(f"'{' '.join(command)}' ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout


def pids_of_labs() -> set[int]:
    """Every process in a lab of this run."""
    found: set[int] = set()
    for directory in names.labs_cgroup().glob(f"bench-{os.getpid()}-*"):
        for file in directory.rglob("cgroup.procs"):
            with suppress(OSError):  # a cgroup that has just gone
                found.update(map(int, file.read_text(encoding="ascii").split()))
    return found


def extra_group(number: int) -> str:
    """The label `group` of an idle pod: so a policy selects the first so many, in tens."""
    return f"g{number // 10}"


def _run(command: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - commands of our own, no shell
        command, input=stdin, capture_output=True, text=True, timeout=_COMMAND_S, check=False
    )


def sweep() -> None:
    """Take down the labs that earlier runs, killed in the middle, have left."""
    for name in state.all_labs():
        made = _NAME.fullmatch(name)
        if made and not processes.alive(int(made[1])):
            _run([*tulle_command(), "lab", "down", "--name", name])
