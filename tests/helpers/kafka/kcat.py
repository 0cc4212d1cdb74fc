"""kcat, the command: an older librdkafka in C, driven as a person would."""

import re
import subprocess
from typing import Any

from tests.helpers.kafka.driver import Context, DeadlineError, Do, Step, main, name_of, values


class KcatError(Exception):
    """kcat ended with a failure, or wrote that something failed; its text is what it wrote."""


def _kcat(context: Context, *options: str, stdin: str | None = None) -> str:
    """Run kcat and give what it printed; what it wrote to standard error goes into the log, line by line."""
    command = ["kcat", "-b", context.bootstrap, "-X", f"client.id={context.client_id}", *options]
    if context.user:
        command += ["-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.mechanism=PLAIN"]
        command += ["-X", f"sasl.username={context.user}", "-X", f"sasl.password={context.user}"]
    try:
        done = subprocess.run(  # noqa: S603  the client that is tested
            command, input=stdin, capture_output=True, text=True, check=False, timeout=context.deadline_s
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineError from error
    said = [line for line in done.stderr.splitlines() if line and not line.startswith("% Auto-selecting")]
    context.log += said
    wrong = [line for line in said if "ERROR" in line or "failed" in line.lower()]
    if done.returncode or wrong:
        raise KcatError("; ".join(wrong or said or [f"status {done.returncode}"]))
    return done.stdout


def produce(context: Context, step: Step) -> dict[str, Any]:
    """One line of standard input is one record."""
    options = ["-P", "-t", step["topic"], "-X", f"acks={step.get('acks', 'all')}"]
    if step.get("compression"):
        options += ["-z", step["compression"]]
    if step.get("idempotent"):
        options += ["-X", "enable.idempotence=true"]
    sent = values(step)
    _kcat(context, *options, stdin="\n".join(sent) + "\n")
    return {"acked": len(sent)}


def consume(context: Context, step: Step) -> dict[str, Any]:
    """By a group (kcat commits when it ends), or plainly from the start."""
    options = ["-u", "-c", str(step["count"]), "-X", f"isolation.level={step.get('isolation', 'read_uncommitted')}"]
    if step.get("group"):
        options += ["-X", "auto.offset.reset=earliest", "-G", step["group"], step["topic"]]
    else:
        options += ["-C", "-t", step["topic"], "-o", "beginning"]
    return {"values": _kcat(context, *options).splitlines(), "committed": None}


def admin(context: Context, step: Step) -> list[Any]:
    """`list` and `describe`, which is what kcat has."""
    if step["call"] == "list":
        return sorted(re.findall(r'^  topic "([^"]+)" with', _kcat(context, "-L"), re.MULTILINE))
    text = _kcat(context, "-L", "-t", step["topic"])
    if wrong := re.search(r'topic "[^"]+" with \d+ partitions: (.+)$', text, re.MULTILINE):
        raise KcatError(wrong[1])
    return [[topic, int(count)] for topic, count in re.findall(r'topic "([^"]+)" with (\d+) partitions:', text)]


def name(error: BaseException) -> str:
    """kcat speaks to people: the error's sentence is its name."""
    if isinstance(error, KcatError):
        found = re.search(r"(?:Broker|FindCoordinator response error): [A-Z][a-z ]+", str(error))
        return found[0].strip() if found else "KcatError"
    return name_of(error)


STEPS: dict[str, Do] = {"produce": produce, "consume": consume, "admin": admin}

if __name__ == "__main__":
    raise SystemExit(main(STEPS, name=name))
