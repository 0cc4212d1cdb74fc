"""wrk inside the client pod, and what it says."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.benchlab import CLIENT, FAR, HERE, BenchLab
from bench.cases import Case
from bench.errors import BenchError

_TIMEOUT = "10s"  # of one request
_SLACK_S = 60.0
# `lab exec` starts a Python first. Whoever samples CPU time does so between "ready" and the answer, so that this
# start is not part of what is measured.
_GATE = 'echo ready; read -r go; exec wrk "$@"'


@dataclass(frozen=True, slots=True)
class Load:
    """One run. bytes are those of whole answers, heads included; of an upload, those of the request bodies."""

    requests: int
    seconds: float
    bytes: int
    p50_us: float
    p99_us: float
    p999_us: float
    errors: int


def run(lab: BenchLab, case: Case, seconds: int, *, before: Callable[[], None] = lambda: None) -> Load:
    """Put the case's load on `web` for so long; `before` is called right before it begins.

    Raises:
        BenchError: wrk could not run.
    """
    arguments = ["-t1", f"-c{case.connections}", f"-d{seconds}s", "--timeout", _TIMEOUT, "-s", str(HERE / "report.lua")]
    for header in case.headers:
        arguments += ["-H", header]
    script = _script_arguments(case)
    load = [*arguments, lab.url(case.path), *(["--", *script] if script else [])]
    command = lab.inside(FAR if case.far else CLIENT, "sh", "-c", _GATE, "wrk", *load)
    with subprocess.Popen(  # noqa: S603 - a command of our own; the shell inside gets its arguments apart
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - asked for above
            first = process.stdout.readline()
            if first != "ready\n":
                raise BenchError(f"cannot run wrk in the pod: {first.strip()} {process.stdout.read().strip()[-500:]}")
            before()
            output, _ = process.communicate("go\n", timeout=seconds + _SLACK_S)
        except BaseException:
            process.kill()
            raise
    load_done = parse(output, case.status)
    if case.upload_bytes:
        return replace(load_done, bytes=load_done.requests * case.upload_bytes)
    return load_done


def _script_arguments(case: Case) -> list[str]:
    """What report.lua is told."""
    if case.upload_bytes:
        return ["upload", str(case.upload_bytes)]
    if case.items:
        return ["paths", "/items/"]
    return ["varied"] if case.varied else []


def parse(output: str, status: int) -> Load:
    """The line of report.lua among what wrk prints.

    wrk counts every status above 399 as an error; when a denial is what must come, the others are the errors.

    Raises:
        BenchError: it is not there.
    """
    for line in output.splitlines():
        if line.startswith("@@"):
            said = json.loads(line[2:])
            refused = said["status_errors"]
            return Load(
                requests=said["requests"],
                seconds=said["duration_us"] / 1e6,
                bytes=said["bytes"],
                p50_us=said["p50_us"],
                p99_us=said["p99_us"],
                p999_us=said["p999_us"],
                # a load without a single answer has measured nothing
                errors=said["socket_errors"]
                + (said["requests"] - refused if status >= 400 else refused)
                + (said["requests"] == 0),
            )
    raise BenchError(f"wrk gave no numbers: {output.strip()[-500:]}")
