"""Facts to record and files to read, made short."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.record import DROPPED, FORWARDED, INGRESS, Connection, FlowFacts, KafkaRequest, Request, Side

CLOCK = 1_795_453_200_123_456_789  # 2026-11-23T17:00:00.123456789Z
FRONTEND = Side("10.244.0.2", 41234, 258, "default", "frontend", {"app": "frontend"})
WEB = Side("10.244.1.2", 80, 257, "default", "web", {"app": "web", "tier": "front"}, 7)
CONNECTION = Connection(INGRESS, FRONTEND, WEB)
RULE = "default/web-l7 ingress[0].toPorts[0].http[0]"
REASON = f"allowed by {RULE}"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy's name as `policies` gives it."""

    kind: str = "CiliumNetworkPolicy"
    namespace: str = "default"
    name: str = "web-l7"


def request_facts(
    target: str = "/public", *, code: int = 200, time_ns: int | None = None, host: str = "web"
) -> FlowFacts:
    """A request from frontend to web that was allowed (below 400) or denied."""
    verdict = FORWARDED if code < 400 else DROPPED
    request = Request("GET", target, host, code=code)
    return FlowFacts(CONNECTION, verdict, REASON, RULE, 3, (Policy(),), request, 812_000, time_ns=time_ns)


BROKER = Side("10.244.1.3", 9092, 260, "default", "kafka", {"app": "kafka"}, 9)
TO_BROKER = Connection(INGRESS, FRONTEND, BROKER)


def kafka_facts(
    topic: str = "secrets", *, error_code: int | None = 29, time_ns: int | None = None, api: str = "produce"
) -> FlowFacts:
    """A transactional produce request of frontend to the broker that was allowed (error 0 or None) or denied."""
    request = KafkaRequest(api, 13, 7, topic, "billing-1", "", "tx-1", "Write", "Topic", topic, error_code)
    verdict = DROPPED if error_code else FORWARDED
    return FlowFacts(
        TO_BROKER, verdict, "default deny", "default-deny", 3, (Policy(),), request, 412_000, time_ns=time_ns
    )


class ListSink:
    """Takes lines until `room` of them are in; `error` is raised instead where it is set."""

    name = "list"

    def __init__(self, room: int = 1_000_000) -> None:
        self.lines: list[bytes] = []
        self.room = room
        self.error: OSError | None = None
        self.closed = False

    def write(self, lines: Sequence[bytes]) -> int:
        """Take what there is room for."""
        if self.error is not None:
            raise self.error
        taken = min(len(lines), self.room - len(self.lines))
        self.lines.extend(lines[:taken])
        return taken

    def ready_fd(self) -> int | None:
        """Nothing to wait for."""
        return None

    def close(self) -> None:
        """Remember that it was called."""
        self.closed = True


type Json = dict[str, "Json | list[Json] | str | int | bool"]


def parsed(lines: Sequence[bytes]) -> list[Json]:
    """Lines as JSON objects; every one must be whole."""
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    return [json.loads(line) for line in lines]


def file_lines(*paths: Path) -> list[bytes]:
    """The lines of files, in order."""
    return [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]


def tulle(record: Json) -> Json:
    """The `tulle` object of a record."""
    part = record["tulle"]
    assert isinstance(part, dict)
    return part


def numbers(records: Sequence[Json]) -> list[int]:
    """The sequence numbers that records and lost-records records account for, in the order of the lines."""
    found: list[int] = []
    for record in records:
        part = tulle(record)
        if "seq" in part:
            found.append(int(str(part["seq"])))
        else:
            found.extend(range(int(str(part["lost_from"])), int(str(part["lost_to"])) + 1))
    return found
