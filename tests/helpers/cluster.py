"""A lab as the tests drive it: through the product's command line, as a user would.

What a test says most often (apply, delete, status, observe) runs the same command line in the test's own process: a
process for it costs a third of a second of importing, thousands of times. `tulle` and `Cluster.lab` start the installed
command, for the tests that are about it.
"""

import io
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import RLock
from typing import Any

from agent import cli
from audit.filters import parse_since
from lab import names, state
from lab.kafka.cluster import BROKERS_POLICY_FILE

TULLE = Path(sys.executable).with_name("tulle")
Record = dict[str, Any]
"""A JSON object of the product's; its shape is what the test is about, so it is not typed further."""

# What `tulle lab exec` does, at half of its CPU time: the pod has been looked up, and nothing else is imported.
# tests/lab/test_exec.py is about the command.
ENTER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from lab.confine import enter_pod
enter_pod(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores these two, and exec would hand that on
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.execvp(sys.argv[5], sys.argv[5:])
"""
ROOT = Path(__file__).resolve().parents[2]


def tulle(*arguments: str, stdin: str | None = None, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
    """Run the command and give what it printed; never raises for its exit status."""
    return subprocess.run(  # noqa: S603  our own command
        [str(TULLE), *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
    )


_ONE_AT_A_TIME = RLock()
"""Standard streams are the process's: one command has them at a time, whatever threads a test has."""


def here(*arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process and give what it printed; for commands that end by themselves."""
    out, err = io.StringIO(), io.StringIO()
    with _ONE_AT_A_TIME, redirect_stdout(out), redirect_stderr(err), _stdin(stdin):
        try:
            status = cli.main(arguments)
        except SystemExit as ended:  # argparse's
            status = ended.code if isinstance(ended.code, int) else 1
    return subprocess.CompletedProcess(["tulle", *arguments], status, out.getvalue(), err.getvalue())


@contextmanager
def _stdin(text: str | None) -> Iterator[None]:
    before = sys.stdin
    sys.stdin = io.StringIO(text or "")
    try:
        yield
    finally:
        sys.stdin = before


def eventually(what: Callable[[], bool], timeout_s: float = 15.0, step_s: float = 0.05) -> bool:
    """Whether `what` becomes true in time; the bound is generous, as machines are shared."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(step_s)
    return what()


class Cluster:
    """One lab of the tests' own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._since = ""
        self._log_from: dict[str, int] = {}

    def forget(self) -> None:
        """Show no record from before now, and nothing of the agents' logs so far."""
        self._since = parse_since("0s", time.time())
        self._log_from = {
            path.parent.parent.name: path.stat().st_size for path in self.directory.glob("*/logs/agent.log")
        }

    @property
    def directory(self) -> Path:
        """Where the lab keeps its files."""
        return Path("/run/tulle/lab") / self.name

    def lab(self, command: str, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run `tulle lab COMMAND --name …`."""
        return tulle("lab", command, "--name", self.name, *arguments, stdin=stdin)

    def exec(
        self, pod: str, *command: str, stdin: str | None = None, timeout_s: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside a pod."""
        return subprocess.run(  # noqa: S603  the tests' own commands
            self._entering(pod, command), input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def _entering(self, pod: str, command: Sequence[str]) -> list[str]:
        lab = state.running(self.name)
        found = lab.find_pod(pod)
        place = [str(ROOT), found.netns, found.cgroup, str(lab.pod_dir(found))]
        return [sys.executable, "-S", "-E", "-c", ENTER, *place, *command]

    def start(self, pod: str, *command: str) -> "subprocess.Popen[str]":
        """Start a command inside a pod, with pipes."""
        return subprocess.Popen(  # noqa: S603  the tests' own commands
            self._entering(pod, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def python(
        self, pod: str, script: str, *arguments: str, timeout_s: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Run a Python script inside a pod."""
        return self.exec(pod, sys.executable, "-c", script, *arguments, timeout_s=timeout_s)

    def curl(self, pod: str, url: str, *options: str) -> int:
        """The status that curl got; 0 when there was no connection."""
        done = self.exec(
            pod, "curl", "-s", "-o", "/dev/null", "--path-as-is", "-m", "15", "-w", "%{http_code}", *options, url
        )
        return int(done.stdout or 0)

    def apply(self, *documents: str | Path) -> None:
        """Apply policies, as text or as files, and insist that they are in force."""
        for document in documents:
            file, text = (str(document), None) if isinstance(document, Path) else ("-", document)
            done = here("lab", "apply", "--name", self.name, file, stdin=text)
            assert done.returncode == 0, done.stderr

    def delete_policies(self) -> None:
        """Delete every policy, by the names that the node has; the lab's own for its brokers stays."""
        found = sorted({path.name for path in self.directory.glob("*/policies/*.yaml")} - {BROKERS_POLICY_FILE})
        names = [name.removesuffix(".yaml").split(".") for name in found]
        if names:
            wanted = sorted({f"{namespace}/{name}" for _, namespace, name in names})
            done = here("lab", "delete", "--name", self.name, *wanted)
            assert done.returncode == 0, done.stderr

    def status(self) -> Record:
        """`tulle status --json`."""
        found: Record = json.loads(here("status", "--name", self.name, "--json").stdout)
        return found

    def node(self, name: str) -> Record:
        """The status of one node."""
        (found,) = [node for node in self.status()["nodes"] if node["name"] == name]
        return dict(found)

    def pods(self) -> dict[str, Record]:
        """`tulle lab status --json`, pods by name."""
        return {
            pod["name"]: pod for pod in json.loads(here("lab", "status", "--name", self.name, "--json").stdout)["pods"]
        }

    def node_cgroup(self, node: str) -> Path:
        """The directory below which everything of a node is."""
        return names.node_cgroup(self.name, node)

    def record(self) -> Record:
        """What the lab wrote down of itself."""
        found: Record = json.loads((self.directory / "lab.json").read_text())
        return found

    def address(self, pod: str, family: str = "ipv4") -> str:
        """A pod's address, from the lab's record; POD as NAME or NAMESPACE/NAME."""
        namespace, _, name = pod.rpartition("/")
        pods: list[Record] = json.loads((self.directory / "lab.json").read_text())["pods"]
        (found,) = [one for one in pods if (one["namespace"], one["name"]) == (namespace or "default", name)]
        return str(found[family])

    def counters(self, node: str) -> dict[str, int]:
        """The counters of a node's workers, added up."""
        total: dict[str, int] = {}
        for process in self.node(node)["processes"]:
            for name, value in (process.get("counters") or {}).items():
                total[name] = total.get(name, 0) + value
        return total

    def processes(self, node: str, role: str) -> list[int]:
        """Pids of one role on a node."""
        return [process["pid"] for process in self.node(node)["processes"] if process["role"] == role]

    def observe(self, *options: str, ever: bool = False) -> list[Record]:
        """Records, oldest first; with `ever`, also those of the tests that had this lab before."""
        done = here("observe", "--name", self.name, "-o", "jsonpb", *(options or ("--all",)))
        assert done.returncode == 0, done.stderr
        records: list[Record] = [json.loads(line) for line in done.stdout.splitlines()]
        return [record for record in records if ever or record["time"] >= self._since]

    def find_record(self, wanted: Callable[[Record], bool], *options: str, timeout_s: float = 5.0) -> Record | None:
        """The newest record that `wanted` accepts, once there is one."""
        found: list[Record] = []

        def look() -> bool:
            found[:] = [record for record in self.observe(*options) if wanted(record)]
            return bool(found)

        return found[-1] if eventually(look, timeout_s) else None

    def log(self, node: str) -> str:
        """What the node's agent wrote."""
        written = (self.directory / node / "logs" / "agent.log").read_bytes()
        return written[self._log_from.get(node, 0) :].decode()


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process of a lab."""
    os.kill(pid, number)


@contextmanager
def cluster(*up: str) -> Iterator[Cluster]:
    """A lab with a name of its own, taken down whatever happens."""
    lab = Cluster(f"tt{secrets.token_hex(3)}")
    try:
        done = lab.lab("up", *up)
        assert done.returncode == 0, done.stderr
        yield lab
    finally:
        lab.lab("down")
