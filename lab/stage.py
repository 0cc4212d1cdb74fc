"""What every act of the demo needs: showing commands, finding records, keeping outcomes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab.agents import tulle_command

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RECORD_WAIT_S = 5.0
"""A record is there for `observe` within a second of its decision; a busy machine gets more."""

type Record = dict[str, object]


class Failed(Exception):
    """A step of the demo did not do what it should."""


@dataclass(slots=True)
class Outcome:
    """A row of the table at the end."""

    what: str
    wanted: str
    got: str
    rule: str
    note: str

    @property
    def good(self) -> bool:
        return self.wanted == self.got


class Stage:
    """One run of the demo in one lab."""

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self.outcomes: list[Outcome] = []
        self._bold = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def act(self, title: str) -> None:
        """The title of the next act."""
        print(f"\n\033[1m{title}\033[0m" if self._bold else f"\n{title}", flush=True)

    def show(self, *arguments: str) -> None:
        """Run a command whose output is the point."""
        print(f"$ tulle {' '.join(arguments)}", flush=True)
        subprocess.run([*tulle_command(), *arguments], check=False)  # noqa: S603  our own command

    def tulle(self, command: str, *arguments: str) -> None:
        """Run `tulle lab COMMAND`; raises Failed when it fails."""
        line = ["lab", command, "--name", self.lab, *arguments]
        shown = [os.path.relpath(word) if word.startswith("/") else word for word in line]
        print(f"$ tulle {' '.join(shown)}", flush=True)
        if subprocess.run([*tulle_command(), *line], check=False).returncode:  # noqa: S603  our own command
            raise Failed(f"tulle lab {command} failed")

    def inside(self, pod: str, *command: str) -> list[str]:
        """A command inside a pod."""
        return [*tulle_command(), "lab", "exec", "--name", self.lab, pod, "--", *command]

    def find(self, pod: str, since: str, options: Sequence[str], wanted: Callable[[Record], bool]) -> Record:
        """The newest record of a pod since then that `wanted` accepts; empty when there is none in RECORD_WAIT_S."""
        command = [
            "observe",
            "--name",
            self.lab,
            "--from-pod",
            pod,
            "--since",
            since,
            "--all",
            "-o",
            "jsonpb",
            *options,
        ]
        deadline = time.monotonic() + RECORD_WAIT_S
        while True:
            done = subprocess.run([*tulle_command(), *command], check=False, capture_output=True, text=True)  # noqa: S603  our own command
            for line in reversed(done.stdout.splitlines()):
                record: Record = json.loads(line)
                if wanted(record):
                    return record
            if time.monotonic() > deadline:
                return {}
            time.sleep(0.1)

    def table(self) -> None:
        """What was stated, what came, and by which rule."""
        width = max(len(outcome.what) for outcome in self.outcomes)
        rule = max(len(outcome.rule) for outcome in self.outcomes)
        came = max(len(word) for outcome in self.outcomes for word in (outcome.wanted, outcome.got))
        print(f"\n{'':4} {'request':<{width}}  {'stated':<{came}}  {'came':<{came}}  {'rule':<{rule}}  note")
        for outcome in self.outcomes:
            mark = "ok" if outcome.good else "BAD"
            print(
                f"{mark:<4} {outcome.what:<{width}}  {outcome.wanted:<{came}}  {outcome.got:<{came}}  "
                f"{outcome.rule:<{rule}}  {outcome.note}"
            )
        bad = sum(not outcome.good for outcome in self.outcomes)
        print(f"\n{len(self.outcomes) - bad} of {len(self.outcomes)} outcomes as stated", flush=True)


def now() -> str:
    """As `tulle observe --since` takes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def rule_of(record: Record) -> str:
    """The rule that decided."""
    tulle = record.get("tulle")
    return str(tulle.get("rule", "?")) if isinstance(tulle, dict) else "no record"


def verdict_of(record: Record) -> str:
    """Hubble's word: FORWARDED, DROPPED and so on."""
    flow = record.get("flow")
    return str(flow.get("verdict", "?")) if isinstance(flow, dict) else "?"
