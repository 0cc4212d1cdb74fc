"""Java: Kafka's own command line tools, each in a JVM of its own, as an operator starts them."""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.helpers.kafka.artifacts import kafka
from tests.helpers.kafka.driver import Context, DeadlineError, Do, Step, main, name_of, values

TOOLS = "org.apache.kafka.tools"
EXCEPTION = re.compile(r"\b(?:[a-z]+\.)+(?P<name>[A-Z]\w+(?:Exception|Error))\b")


class ToolError(Exception):
    """A tool wrote an exception of Kafka's, or ended with a failure."""


def _tool(
    context: Context, tool: str, *options: str, stdin: str | None = None, config: Mapping[str, str | None] | None = None
) -> str:
    """Run a tool with a file of client configuration, give its standard output; a failure is what it wrote.

    Raises:
        ToolError: it names an exception, or its status is not 0.
        DeadlineError: it did not end in time.
    """
    with tempfile.TemporaryDirectory() as scratch:
        properties = {"client.id": context.client_id, **_sasl(context), **(config or {})}
        file = Path(scratch, "client.properties")
        file.write_text("".join(f"{key}={value}\n" for key, value in properties.items() if value), encoding="utf-8")
        command = kafka(tool, *options, "--command-config", str(file), temporary=Path(scratch))
        try:
            done = subprocess.run(  # noqa: S603  the client that is tested
                command,
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=context.deadline_s,
            )
        except subprocess.TimeoutExpired as error:
            context.log += _trouble(_text(error.stderr))
            raise DeadlineError from error
    context.log += _trouble(done.stderr)
    wrong = [line for line in (done.stderr + done.stdout).splitlines() if EXCEPTION.search(line)]
    if done.returncode or wrong:
        raise ToolError("\n".join(wrong) or done.stderr or done.stdout)
    return done.stdout


def _text(said: bytes | str | None) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said or ""


def _trouble(stderr: str) -> list[str]:
    return [
        line for line in stderr.splitlines() if line.strip() and not line.startswith(("\tat ", "Processed a total"))
    ]


def _sasl(context: Context) -> dict[str, str]:
    if not context.user:
        return {}
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.jaas.config": f'{module} required username="{context.user}" password="{context.user}";',
    }


def produce(context: Context, step: Step) -> dict[str, Any]:
    """The console producer, which is idempotent by default; in a transaction: the performance tool, whose values are
    those of a file."""
    sent = values(step)
    config = {
        "acks": step.get("acks", "all"),
        "compression.type": step.get("compression"),
        "enable.idempotence": "true" if step.get("idempotent") else "false",
    }
    if not step.get("transactional_id"):
        _tool(
            context,
            f"{TOOLS}.ConsoleProducer",
            *("--bootstrap-server", context.bootstrap, "--topic", step["topic"]),
            stdin="\n".join(sent) + "\n",
            config=config,
        )
        return {"acked": len(sent)}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as payload:
        payload.write(sent[0] + "\n")
        payload.flush()
        said = _tool(
            context,
            f"{TOOLS}.ProducerPerformance",
            *("--topic", step["topic"], "--num-records", str(len(sent)), "--throughput", "-1"),
            *("--payload-file", payload.name, "--transactional-id", step["transactional_id"]),
            *("--transaction-duration-ms", "60000", "--bootstrap-server", context.bootstrap),
        )
    counted = re.search(r"^(\d+) records sent", said, re.MULTILINE)
    return {"acked": int(counted[1]) if counted else 0}


def consume(context: Context, step: Step) -> dict[str, Any]:
    """The console consumer, by `protocol` classic or consumer."""
    config = {
        "auto.offset.reset": "earliest",
        "isolation.level": step.get("isolation", "read_uncommitted"),
        "group.protocol": step.get("protocol", "classic"),
    }
    where = ["--group", step["group"]] if step.get("group") else ["--partition", "0", "--offset", "earliest"]
    said = _tool(
        context,
        f"{TOOLS}.consumer.ConsoleConsumer",
        *("--bootstrap-server", context.bootstrap, "--topic", step["topic"], *where),
        *("--max-messages", str(step["count"]), "--timeout-ms", str(int(context.deadline_s * 800))),
        config=config,
    )
    return {"values": _all(said, step), "committed": None}


def share(context: Context, step: Step) -> dict[str, Any]:
    """The console consumer of share groups; the group begins at the earliest record only if it has been told so."""
    said = _tool(
        context,
        f"{TOOLS}.consumer.ConsoleShareConsumer",
        *("--bootstrap-server", context.bootstrap, "--topic", step["topic"], "--group", step["group"]),
        *("--max-messages", str(step["count"]), "--timeout-ms", str(int(context.deadline_s * 800))),
    )
    return {"values": sorted(_all(said, step))}


def _all(said: str, step: Step) -> list[str]:
    """The records; the tool ends well, too, when it has waited in vain."""
    lines = said.splitlines()
    if len(lines) < step["count"]:
        raise DeadlineError
    return lines


def _topics(context: Context, *options: str) -> str:
    return _tool(context, f"{TOOLS}.TopicCommand", "--bootstrap-server", context.bootstrap, *options)


def _list(context: Context, step: Step) -> list[str]:
    return sorted(_topics(context, "--list").split())


def _describe(context: Context, step: Step) -> list[list[Any]]:
    said = _topics(context, "--describe", "--topic", step["topic"])
    return [[topic, int(count)] for topic, count in re.findall(r"^Topic: (\S+)\t.*PartitionCount: (\d+)", said, re.M)]


def _create(context: Context, step: Step) -> None:
    _topics(context, "--create", "--topic", step["topic"], "--partitions", "1", "--replication-factor", "1")


def _delete(context: Context, step: Step) -> None:
    _topics(context, "--delete", "--topic", step["topic"])


def _configs(context: Context, step: Step) -> list[str]:
    said = _tool(
        context,
        "kafka.admin.ConfigCommand",
        *("--bootstrap-server", context.bootstrap, "--describe", "--all", "--topic", step["topic"]),
    )
    return sorted(re.findall(r"^  ([a-z.]+)=", said, re.M))


def _groups(context: Context, step: Step) -> list[str]:
    said = _tool(context, f"{TOOLS}.GroupsCommand", "--bootstrap-server", context.bootstrap, "--list")
    return sorted(line.split()[0] for line in said.splitlines()[1:] if line.strip())


def _offsets(context: Context, step: Step) -> list[list[Any]]:
    said = _tool(
        context,
        f"{TOOLS}.consumer.group.ConsumerGroupCommand",
        *("--bootstrap-server", context.bootstrap, "--describe", "--group", step["group"]),
    )
    rows = [line.split() for line in said.splitlines() if line.startswith(f"{step['group']} ")]
    return sorted([row[1], int(row[2]), int(row[3])] for row in rows)


CALLS = {
    "list": _list,
    "describe": _describe,
    "create": _create,
    "delete": _delete,
    "configs": _configs,
    "groups": _groups,
    "offsets": _offsets,
}


def admin(context: Context, step: Step) -> Any:
    """One administrative call: `call` names the tool."""
    return CALLS[step["call"]](context, step)


def name(error: BaseException) -> str:
    """The exception of Kafka's that a tool wrote: the last one of the line, which is the cause."""
    if isinstance(error, ToolError):
        found = [match["name"] for match in EXCEPTION.finditer(str(error))]
        kafkas = [one for one in found if one not in {"ExecutionException", "KafkaException", "RuntimeException"}]
        return (kafkas or found or ["ToolError"])[0]
    return name_of(error)


STEPS: dict[str, Do] = {"produce": produce, "consume": consume, "share": share, "admin": admin}

if __name__ == "__main__":
    raise SystemExit(main(STEPS, name=name))
