"""The acts of the demo about Kafka, played with Kafka's own console clients."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from lab.stage import EXAMPLES, Failed, Outcome, Record, Stage, now, rule_of, verdict_of

BOOTSTRAP = "kafka:9092"
POLICY = EXAMPLES / "kafka.yaml"
RELOADED = EXAMPLES / "kafka-reloaded.yaml"
CLIENT_TIMEOUT_S = 60.0
END_TIMEOUT_S = 30.0
MAX_TOLD = 1 << 20
_ERROR = re.compile(r"\b\w+AuthorizationException\b")

# What Java's clients are told, and Kafka's number of the error.
NO_TOPIC, NO_GROUP, NO_CLUSTER = (f"{what}AuthorizationException" for what in ("Topic", "Group", "Cluster"))
CODES = {NO_TOPIC: 29, NO_GROUP: 30, NO_CLUSTER: 31}


@dataclass(frozen=True, slots=True)
class Step:
    """One client and what must come of it: what it printed, or the error it ended with."""

    pod: str
    verb: str
    topic: str
    wanted: str
    why: str


STEPS = (
    Step("frontend", "produce", "orders", "sent", "allowed by role produce"),
    Step("billing", "consume", "orders", "1 from frontend", "allowed by role consume"),
    Step("frontend", "produce", "invoices", NO_TOPIC, "no rule for this topic"),
    Step("frontend", "consume", "orders", NO_GROUP, "may write, not read: no group is open to it"),
    Step("billing", "produce", "orders", NO_CLUSTER, "may read, not write: no producer id either"),
    Step("billing", "consume", "secrets", NO_TOPIC, "no rule for this topic"),
    Step("billing", "list", "", "orders", "other topics are not even named"),
    Step("intruder", "connect", "", "refused", "a peer that no rule names: refused in the kernel"),
)

# What Kafka's clients do not do by themselves: give up at once where nobody listens.
CONNECT = "import socket; socket.create_connection(('kafka', 9092), 20)"


def command(step: Step) -> list[str]:
    """What the step runs in its pod."""
    if step.verb == "connect":
        return [sys.executable, "-c", CONNECT]
    topic = ["--topic", step.topic] if step.topic else []
    name, *options = {
        "produce": ["kafka-console-producer", "--sync"],
        "consume": ["kafka-console-consumer", "--from-beginning", "--max-messages", "1", "--timeout-ms", "20000"],
        "list": ["kafka-topics", "--list", "--exclude-internal"],
    }[step.verb]
    return [str(Path(sys.executable).with_name(name)), "--bootstrap-server", BOOTSTRAP, *topic, *options]


def clients(stage: Stage) -> None:
    """Each step, one after the other."""
    print(POLICY.read_text())
    stage.tulle("apply", str(POLICY))
    for step in STEPS:
        _play(stage, step)
    stage.show("observe", "--name", stage.lab, "--last", "6")


def _play(stage: Stage, step: Step) -> None:
    shown = " ".join(word.rpartition("/")[2] if word.startswith("/") else word for word in command(step))
    if step.verb != "connect":
        print(f"$ tulle lab exec {step.pod} -- .venv/bin/{shown}", flush=True)
    since = now()
    try:
        done = subprocess.run(  # noqa: S603  our own command
            stage.inside(step.pod, *command(step)),
            input=f"1 from {step.pod}\n" if step.verb == "produce" else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=CLIENT_TIMEOUT_S,
        )
        got = outcome(step, done)
    except subprocess.TimeoutExpired:
        got = f"nothing in {CLIENT_TIMEOUT_S:g} s"
    record = stage.find(step.pod, since, [], lambda each: _is_of(each, step, got))
    print(f"  {got}  {verdict_of(record)} by {rule_of(record)}", flush=True)
    what = f"{step.pod}: {step.verb} {step.topic}".rstrip()
    stage.outcomes.append(Outcome(what, step.wanted, got, rule_of(record), step.why))


def outcome(step: Step, done: "subprocess.CompletedProcess[str]") -> str:
    """The error that a client was told, or what it printed."""
    if error := _ERROR.search(done.stderr + done.stdout):
        return error[0]
    if "ConnectionRefusedError" in done.stderr:
        return "refused"
    if done.returncode:
        return f"exit status {done.returncode}: {done.stderr.strip()[-200:]}"
    return "sent" if step.verb == "produce" else ", ".join(done.stdout.split("\n")).strip(", ")


def _is_of(record: Record, step: Step, got: str) -> bool:
    """Whether a record says what the client saw, and of the step's topic where that is what it was about."""
    kafka, allowed = _inside(record, "flow", "l7", "kafka"), verdict_of(record) == "FORWARDED"
    if got == "refused":
        return not allowed
    if got in CODES and (allowed or kafka.get("error_code") != CODES[got]):
        return False
    return allowed == (got not in CODES) and (got in (NO_GROUP, NO_CLUSTER) or kafka.get("topic", "") == step.topic)


def _inside(record: Record, *path: str) -> Record:
    """An object inside a record; empty where it is not there."""
    for word in path:
        found = record.get(word)
        if not isinstance(found, dict):
            return {}
        record = found
    return record


def _error_of(client: "subprocess.Popen[str]", told: IO[bytes]) -> str:
    """What a client said until it told an error, or ended; else "still running". It is not waited for: Kafka's console
    consumer can hang for good where its last commit is refused too (seen; its exit waits for its own shutdown hook)."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while time.monotonic() < deadline:
        ended = client.poll() is not None
        said = os.pread(told.fileno(), MAX_TOLD, 0).decode(errors="replace")  # read() would move the client's own place
        if ended or _ERROR.search(said):
            return said
        time.sleep(0.1)
    return "still running"


def reload(stage: Stage) -> None:
    """A consumer waits for more of a topic, and may no longer: it ends with its own error, and gets nothing more."""
    consume, produce = (
        Step(pod, verb, "orders", "", "") for pod, verb in (("billing", "consume"), ("frontend", "produce"))
    )
    argv = [word for word in command(consume) if word not in ("--max-messages", "1", "--timeout-ms", "20000")]
    with (
        TemporaryFile() as told,
        subprocess.Popen(  # noqa: S603  our own command
            stage.inside("billing", *argv), stdout=subprocess.PIPE, stderr=told, text=True
        ) as client,
    ):
        try:
            if client.stdout is None:
                raise Failed("the consumer has no pipes")
            first = client.stdout.readline().strip()
            print(f"  a consumer in billing runs, and has {first!r}", flush=True)
            since = now()
            stage.tulle("apply", str(RELOADED))
            errors = _error_of(client, told)
        finally:
            client.kill()
        output = client.stdout.read()
    error = _ERROR.search(errors)
    got = error[0] if error else errors.strip()[-200:]
    record = stage.find("billing", since, [], lambda each: _is_of(each, consume, got))
    print(f"  it ended: {got}, {verdict_of(record)} by {rule_of(record)}", flush=True)
    stage.outcomes.append(
        Outcome("billing: consume orders, at the reload", NO_TOPIC, got, rule_of(record), "while it ran")
    )
    stage.outcomes.append(Outcome("records it got after the reload", "none", output.strip() or "none", "", ""))
    _play(stage, Step(produce.pod, produce.verb, "orders", "sent", "who still may is not disturbed"))
