"""What all client programs share: work comes as one JSON argument, one JSON line goes out.

    python -m tests.helpers.kafka.aio '{"bootstrap": "kafka:9092", "client_id": "t", "steps": [{"do": "produce", …}]}'

A step is {"do": what, …}; what it may be is the client program's table. Its outcome is
{"do", "ok", "result", "error", "text", "log"}: `error` is the client's own name for what it met ("" when all went
well), `log` every line of level WARNING or above, and what tells of a retry, that the client wrote meanwhile.
A step that has not ended after `deadline_s` seconds is an error called "deadline", so that a hang is seen as one.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

type Step = dict[str, Any]
"""One step as the test wrote it; each client reads of it what it knows."""

type Do = Callable[["Context", Step], Any]
"""Does one step and gives its result; a failure is the client's own exception."""

DEADLINE_S = 25.0
"""More than any step takes on a busy machine, and less than the default time-outs of a client that hangs."""

RETRY_WORDS = ("retry", "retri", "backoff", "backing off", "reconnect")
"""What the clients write when they try again, at whatever level."""


class DeadlineError(Exception):
    """A step did not end in time."""


@dataclass(slots=True)
class Context:
    """What all steps of a run have in common."""

    bootstrap: str
    client_id: str
    deadline_s: float = DEADLINE_S
    user: str = ""
    """Who to be by SASL PLAIN, the password being the same; "": no SASL."""
    log: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    """What a consumer has read in this step, for where it does not come to an end."""

    def until(self) -> float:
        """When a step that begins now must have ended, by `time.monotonic`."""
        return time.monotonic() + self.deadline_s


@dataclass(slots=True)
class Outcome:
    """Of one step."""

    do: str
    ok: bool = False
    result: Any = None
    error: str = ""
    text: str = ""
    log: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Lines(logging.Handler):
    """Keeps what the client's loggers say, as far as `Outcome.log` wants it."""

    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.INFO)
        self.into = into

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING or any(word in text.lower() for word in RETRY_WORDS):
            self.into.append(f"{record.levelname} {record.name}: {text}")


def values(step: Step) -> list[str]:
    """What a produce step sends: PREFIX-0, PREFIX-1, …, padded to `bytes` if that is there."""
    pad = int(step.get("bytes", 0))
    return [f"{step['prefix']}-{n}".ljust(pad, ".") for n in range(int(step["count"]))]


def ready() -> None:
    """Tell the test that a consumer which is to `watch` until an error ends it has read what was there."""
    print("ready", flush=True)


def name_of(error: BaseException) -> str:
    """The client's own name of an error; a library that has one class for all of them brings its own."""
    return type(error).__name__


def main(steps: dict[str, Do], *loggers: str, name: Callable[[BaseException], str] = name_of) -> int:
    """Run the steps of argv[1] one after the other and print the line."""
    wanted = json.loads(sys.argv[1])
    context = Context(
        wanted["bootstrap"], wanted["client_id"], wanted.get("deadline_s", DEADLINE_S), wanted.get("user", "")
    )
    logging.captureWarnings(True)
    for logger in (*loggers, "py.warnings"):
        found = logging.getLogger(logger)
        found.setLevel(logging.INFO)
        found.addHandler(Lines(context.log))
    outcomes = [asdict(run(steps, context, step, name)) for step in wanted["steps"]]
    print(json.dumps(outcomes))
    return 0


def run(steps: dict[str, Do], context: Context, step: Step, name: Callable[[BaseException], str]) -> Outcome:
    """One step; whatever it raises is its outcome."""
    context.log.clear()
    context.seen.clear()
    outcome = Outcome(step["do"])
    started = time.monotonic()
    try:
        outcome.result = steps[step["do"]](context, step)
        outcome.ok = True
    except DeadlineError:
        outcome.error = "deadline"
    except Exception as error:  # noqa: BLE001  the outcome is whatever the client raised
        outcome.error, outcome.text = name(error), str(error)
    if not outcome.ok and context.seen:
        outcome.result = {"values": list(context.seen)}
    outcome.seconds = round(time.monotonic() - started, 2)
    outcome.log = list(context.log)
    return outcome
