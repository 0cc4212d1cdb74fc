"""The clients, what each can do, what it calls a refusal; and the work that all of them are given.

Every client has a topic, groups and transactional ids of its own on every way, so that runs may go side by side and
their results can be compared.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.kafka.artifacts import NODE_MODULES
from tests.helpers.kafka.driver import DEADLINE_S

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent

type Step = dict[str, Any]
type Outcome = dict[str, Any]
"""As `driver.Outcome`, read back."""

SECRET = "secrets"  # noqa: S105  a topic
"""The topic that nobody may."""
OTHER = "other"
"""The group and transactional id that nobody may."""


@dataclass(frozen=True, slots=True)
class Client:
    """can: what of the work it knows, beside plain producing and consuming. compression: the codecs to try. calls: of
    administration. topic, group, transactional_id: what it calls these three refusals; reading: what a consumer calls
    the first, where that is something else. refused: the calls to try where they are refused; None: all."""

    name: str
    command: tuple[str, ...]
    can: frozenset[str]
    compression: tuple[str, ...]
    calls: tuple[str, ...]
    topic: str
    group: str
    transactional_id: str
    reading: str = ""
    refused: tuple[str, ...] | None = None

    def argv(self, bootstrap: str, steps: Sequence[Step], user: str = "", deadline_s: float = DEADLINE_S) -> list[str]:
        """The whole command line of one run."""
        plain = [{key: value for key, value in step.items() if key != "name"} for step in steps]
        how = {"client_id": f"c-{self.name}", "user": user, "deadline_s": deadline_s}
        wanted = {"bootstrap": bootstrap, "steps": plain, **how}
        return [*self.command, json.dumps(wanted)]


def _python(module: str) -> tuple[str, ...]:
    return ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", f"tests.helpers.kafka.{module}")


_ALL_CALLS = ("describe", "configs", "create", "delete", "offsets", "describe_group", "list", "groups")
_PYTHON_ERRORS = (
    "TopicAuthorizationFailedError",
    "GroupAuthorizationFailedError",
    "TransactionalIdAuthorizationFailedError",
)
_CODES = ("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED")

CLIENTS: Mapping[str, Client] = {
    client.name: client
    for client in (
        Client(
            "aiokafka", _python("aio"), frozenset({"transactions", "idempotent"}),
            ("gzip", "snappy", "lz4", "zstd"), _ALL_CALLS,
            *_PYTHON_ERRORS[:2], "TransactionalIdAuthorizationFailed",
        ),
        Client(
            "confluent", _python("librdkafka"), frozenset({"transactions", "idempotent", "consumer", "share"}),
            ("gzip", "snappy", "lz4", "zstd"), _ALL_CALLS,
            *_CODES,
        ),
        Client(
            "kafka-python", _python("pure"), frozenset({"transactions", "idempotent"}),
            ("gzip", "snappy", "lz4", "zstd"), _ALL_CALLS,
            *_PYTHON_ERRORS, "is not authorized for this client",
            tuple(call for call in _ALL_CALLS if call != "configs"),  # it gives nothing, and no error
        ),
        Client(
            "kcat", _python("kcat"), frozenset({"idempotent"}),
            ("gzip", "snappy", "lz4", "zstd"), ("describe", "list"),
            "Broker: Topic authorization failed", "FindCoordinator response error: Group authorization failed", "",
        ),
        Client(
            "kafkajs", ("env", f"NODE_PATH={NODE_MODULES}", "node", str(HERE / "kafkajs.cjs")),
            frozenset({"transactions", "idempotent"}),
            ("gzip",), _ALL_CALLS,
            _CODES[0], "KafkaJSGroupCoordinatorNotFound", "KafkaJSGroupCoordinatorNotFound",
        ),
        Client(
            "java", _python("java"), frozenset({"transactions", "consumer", "share"}),  # few: a JVM for each
            ("snappy",), ("describe", "create", "delete", "offsets", "list"),
            "TopicAuthorizationException", "GroupAuthorizationException", "TransactionalIdAuthorizationException",
            refused=("create",),  # its other tools look at a list first, and find nothing there
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Names:
    """What one client uses on one way."""

    client: Client
    way: str

    @property
    def topic(self) -> str:
        """The topic that it may use."""
        return f"t-{self.client.name}-{self.way}"

    @property
    def group(self) -> str:
        """The group that it may use; others that it may begin so."""
        return f"g-{self.client.name}-{self.way}"

    @property
    def transactional_id(self) -> str:
        """The transactional id that it may use."""
        return f"x-{self.client.name}-{self.way}"


def allowed(names: Names) -> list[Step]:
    """What a client does that may: everything that it can."""
    client, topic = names.client, names.topic
    steps: list[Step] = []
    sent: list[str] = []

    def send(name: str, count: int = 5, **more: Any) -> None:
        steps.append({"name": name, "do": "produce", "topic": topic, "prefix": name, "count": count, **more})
        if not more.get("abort"):
            sent.extend(f"{name}-{n}" for n in range(count))

    def read(name: str, **more: Any) -> None:
        group = more.pop("group", f"{names.group}-{name}")
        steps.append({"name": name, "do": "consume", "topic": topic, "group": group, "count": len(sent)} | more)
        if client.name == "kafkajs":
            steps[-1]["committed"] = len(sent)  # it commits what it is told

    send("plain", 20)
    for codec in client.compression:
        send(codec, compression=codec, idempotent="idempotent" not in client.can)
    if "idempotent" in client.can:
        send("acks-0", acks="0")
        send("idempotent", idempotent=True)
    read("by-group")
    if "consumer" in client.can:
        read("by-new-group", protocol="consumer")
    if "share" in client.can:
        steps.append({"name": "share", "do": "share", "topic": topic, "group": share_group(names), "count": len(sent)})
    if "transactions" in client.can:
        if client.name != "java":  # its performance tool commits only
            send("aborted", transactional_id=f"{names.transactional_id}-a", abort=True)
        more = {} if client.name == "java" else {"offsets": [f"{names.group}-by-group", topic, 3]}
        same = client.name == "java"  # and sends one value again and again
        steps.append(
            {"name": "committed", "do": "produce", "topic": topic, "prefix": "committed", "count": 5}
            | {"transactional_id": names.transactional_id}
            | more
        )
        sent.extend(f"committed-{0 if same else n}" for n in range(5))
        read("read-committed", isolation="read_committed")
    steps += [{"name": call, "do": "admin", "call": call, **_about(call, names)} for call in client.calls]
    return steps


def share_group(names: Names) -> str:
    """The share group of this run; that it begins at the earliest record is the group's own configuration."""
    return f"{names.group}-share"


def _about(call: str, names: Names) -> Step:
    return {
        "create": {"topic": f"{names.topic}-new"},
        "delete": {"topic": f"{names.topic}-new"},
        "offsets": {"group": f"{names.group}-by-group"},
        "describe_group": {"group": f"{names.group}-by-group"},
    }.get(call, {"topic": names.topic})


def denied(names: Names) -> list[tuple[Step, str]]:
    """What a client does that may not, and the error that it must tell of."""
    client = names.client
    write = {"do": "produce", "topic": SECRET, "prefix": names.topic, "count": 1}
    read = {"do": "consume", "topic": SECRET, "count": 1}
    reading = client.reading or client.topic
    steps: list[tuple[Step, str]] = [
        ({"name": "denied topic, produce", **write}, client.topic),
        ({"name": "denied topic, consume by group", **read, "group": f"{names.group}-d"}, reading),
        ({"name": "denied group", **read, "topic": names.topic, "group": OTHER}, client.group),
    ]
    if client.name not in ("kafkajs", "java", "confluent"):  # kafkajs must have a group; librdkafka's assigned wait
        steps.append(({"name": "denied topic, consume without group", **read}, reading))
    if "idempotent" in client.can:
        steps.append(({"name": "denied topic, produce idempotent", **write, "idempotent": True}, client.topic))
    if "consumer" in client.can:
        step = {"name": "denied topic, consume by new group", **read, "group": f"{names.group}-n"}
        steps.append((step | {"protocol": "consumer"}, client.topic))
    if "share" in client.can and client.name != "java":  # where a refused heartbeat is sent again without a pause
        step = {"name": "denied topic, share", "do": "share", "topic": SECRET, "group": share_group(names), "count": 1}
        steps.append((step, client.topic))
    if "transactions" in client.can:
        step = {"name": "denied transactional id", **write, "topic": names.topic, "transactional_id": OTHER}
        steps.append((step, client.transactional_id))
        step = {"name": "denied topic in a transaction", **write, "transactional_id": names.transactional_id}
        steps.append((step, client.topic))
    wanted = dict.fromkeys(("describe", "configs", "create", "delete"), client.topic)
    wanted |= dict.fromkeys(("offsets", "describe_group"), client.group)
    for call in client.calls:
        if call in wanted and (client.refused is None or call in client.refused):
            step = {"name": f"denied {call}", "do": "admin", "call": call, "topic": SECRET, "group": OTHER}
            if call == "create":
                step["topic"] = "made-up"
            steps.append((step, wanted[call]))
    return steps


_NOISE = (
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?"), "ADDRESS"),
    (re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\d+"), "N"),
)


def plain(text: str, way: str) -> str:
    """A line of a log without what differs between two runs anyway: the way's name, addresses, ids, numbers."""
    text = text.replace(f"-{way}", "-WAY")
    for pattern, word in _NOISE:
        text = pattern.sub(word, text)
    return text


def outcomes(stdout: str, stderr: str) -> list[Outcome]:
    """What a run printed."""
    lines = stdout.splitlines()
    assert lines, f"the client program printed nothing: {stderr[-2000:]}"
    found: list[Outcome] = json.loads(lines[-1])
    return found
