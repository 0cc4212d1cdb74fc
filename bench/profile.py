"""`./dev bench profile`: a flame graph of the worker under each of some loads, by py-spy."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from bench import wrk
from bench.benchlab import BenchLab
from bench.cases import CASES, Case
from bench.errors import BenchError
from bench.peers.redirected import beside_python
from bench.peers.tulle import Tulle

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "plots"
PROFILED = ("keepalive_1k_c32", "keepalive_varied_c32", "short_1k_c32")
_WARM_UP_S = 2
_RATE = 250  # samples a second; py-spy stops the worker for each


def record(names: tuple[str, ...], seconds: int, folder: Path = FOLDER) -> list[Path]:
    """Profile one worker under each of these cases; gives the files, profile_<case>.svg.

    Raises:
        BenchError: py-spy is not installed or could not read the worker.
    """
    made = []
    with ExitStack() as stack:
        lab = BenchLab("profile", agents=True)
        stack.callback(lab.down)
        lab.up()
        tulle = Tulle(lab)
        tulle.start()
        tulle.check()
        for name in names:
            wrk.run(lab, CASES[name], _WARM_UP_S)
            made.append(_record(tulle, CASES[name], seconds, folder / f"profile_{name}.svg"))
    return made


def _record(tulle: Tulle, case: Case, seconds: int, file: Path) -> Path:
    spy = beside_python("py-spy")
    if not os.access(spy, os.X_OK):
        raise BenchError("py-spy is not installed: ./dev bench does that")
    (worker,) = tulle.processes()["worker"]
    file.parent.mkdir(exist_ok=True)
    command = [spy, "record", "-p", str(worker), "-o", str(file), "-d", str(seconds), "-r", str(_RATE)]
    started: list[subprocess.Popen[str]] = []

    def begin() -> None:
        started.append(
            subprocess.Popen(  # noqa: S603 - a program of this virtual environment
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )

    wrk.run(tulle.lab, case, seconds + 1, before=begin)
    said, _ = started[0].communicate(timeout=60)
    if started[0].returncode != 0 or not file.exists():
        raise BenchError(f"py-spy could not read the worker: {said.strip()[-500:]}")
    text = file.read_text(encoding="utf-8")
    # no paths of this machine in a file that is kept
    for prefix in (f"{FOLDER.parent.parent}/", f"{sys.prefix}/lib/", f"{sys.base_prefix}/lib/"):
        text = text.replace(prefix, "")
    file.write_text(text, encoding="utf-8")
    return file
