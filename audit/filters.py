"""Which records a person wants to see. Values of one option are alternatives; different options must all hold."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from audit.schema import Endpoint, Flow, Record

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)").fullmatch
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_URL_PATH = re.compile(r"[^:/]*://[^/?#]*([^?#]*)")


@dataclass(frozen=True, slots=True)
class Filters:
    """Empty means no constraint.

    http_path: regular expressions matched from the start of the path, so plain text is a prefix. pods: "name",
    "namespace/name" or "namespace/", with `*` and `?`, which topics, groups and client ids know too. http_status: "403"
    or "4+" for all of 4xx. protocol: of PROTOCOLS. api_key: as records have it, see `parse_api_key`. since: RFC 3339 in
    UTC with nanoseconds, as `parse_since` gives it.
    """

    verdicts: frozenset[str] = frozenset()
    http_path: tuple[re.Pattern[str], ...] = ()
    http_status: tuple[str, ...] = ()
    http_method: frozenset[str] = frozenset()
    pod: tuple[str, ...] = ()
    from_pod: tuple[str, ...] = ()
    to_pod: tuple[str, ...] = ()
    protocol: frozenset[str] = frozenset()
    api_key: frozenset[str] = frozenset()
    topic: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    client_id: tuple[str, ...] = ()
    error_code: frozenset[int] = frozenset()
    since: str = ""

    def wants(self, record: Record) -> bool:
        """Whether to show this record. A loss is shown whatever it may have held: only time can exclude it."""
        if self.since and record.time < self.since:
            return False
        flow = record.flow
        if flow is None:
            return record.lost_events is not None
        if self.verdicts and flow.verdict not in self.verdicts:
            return False
        source, destination = flow.source, flow.destination
        if flow.is_reply:  # a reply's record has its sides swapped; people mean the side that connected
            source, destination = destination, source
        if self.from_pod and not _is_pod(source, self.from_pod):
            return False
        if self.to_pod and not _is_pod(destination, self.to_pod):
            return False
        if self.pod and not (_is_pod(source, self.pod) or _is_pod(destination, self.pod)):
            return False
        if self.protocol and not (self.protocol & set(_protocols(flow))):
            return False
        return self._wants_http(flow) and self._wants_kafka(record, flow)

    def _wants_http(self, flow: Flow) -> bool:
        if not (self.http_path or self.http_status or self.http_method):
            return True
        http = flow.l7.http if flow.l7 else None
        if http is None:
            return False
        if self.http_method and http.method.upper() not in self.http_method:
            return False
        if self.http_status and not any(_is_status(http.code, wanted) for wanted in self.http_status):
            return False
        if self.http_path:
            match = _URL_PATH.match(http.url)
            path = match[1] if match else http.url
            return any(pattern.match(path) for pattern in self.http_path)
        return True

    def _wants_kafka(self, record: Record, flow: Flow) -> bool:
        if not (self.api_key or self.topic or self.group or self.client_id or self.error_code):
            return True
        kafka = flow.l7.kafka if flow.l7 else None
        if kafka is None:
            return False
        if self.api_key and kafka.api_key not in self.api_key:
            return False
        if self.error_code and kafka.error_code not in self.error_code:
            return False
        asked = record.tulle and record.tulle.kafka
        for patterns, name in (
            (self.topic, kafka.topic),
            (self.group, asked.group if asked else ""),
            (self.client_id, asked.client_id if asked else ""),
        ):
            if patterns and not (name and any(fnmatchcase(name, pattern) for pattern in patterns)):
                return False
        return True


def _protocols(flow: Flow) -> Iterator[str]:
    if flow.l7 is not None:
        if flow.l7.http is not None:
            yield "http"
        if flow.l7.kafka is not None:
            yield "kafka"
    if flow.l4 is not None:
        if flow.l4.TCP is not None:
            yield "tcp"
        if flow.l4.UDP is not None:
            yield "udp"


def _is_pod(side: Endpoint | None, patterns: Iterable[str]) -> bool:
    if side is None or not side.pod_name:
        return False
    for pattern in patterns:
        namespace, slash, name = pattern.rpartition("/")
        if (not slash or fnmatchcase(side.namespace, namespace)) and fnmatchcase(side.pod_name, name or "*"):
            return True
    return False


def _is_status(code: int, wanted: str) -> bool:
    if not code:
        return False
    return str(code).startswith(wanted[:-1]) if wanted.endswith("+") else str(code) == wanted


def parse_since(value: str, now: float) -> str:
    """A span ("90s", "5m", "2h", "1d") before `now` (seconds since 1970) or an RFC 3339 time, as records spell times.

    Raises:
        ValueError: neither form.
    """
    if match := _DURATION(value):
        moment = datetime.fromtimestamp(now - float(match[1]) * _UNITS[match[2]], UTC)
    else:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                f'"{value}" is neither a time like 2026-01-31T12:00:00Z nor a span like 90s, 5m or 2h'
            ) from None
        moment = moment.astimezone(UTC)  # a time without zone is local, as the person who types it means it
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def parse_status(value: str) -> str:
    """Check one --http-status value.

    Raises:
        ValueError: not three digits, nor up to two digits and "+".
    """
    if not re.fullmatch(r"[1-9][0-9]{2}|[1-9][0-9]?\+", value):
        raise ValueError(f'"{value}" is not a status like 403 or a class like 4+')
    return value


def parse_api_key(value: str) -> str:
    """The name of a Kafka API as records have it: "Produce", "InitProducerId" or "init-producer-id" will do."""
    name = re.sub(r"[-_ ]", "", value).lower()
    return "offsets" if name == "listoffsets" else name  # as Cilium's rules spell it
