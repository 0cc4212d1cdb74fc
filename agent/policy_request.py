"""Requests as a person writes them on a command line, read by the parser that reads them on the wire."""

from collections.abc import Iterable
from difflib import get_close_matches

from agent.errors import AgentError
from parsers.errors import RemoteProtocolError
from parsers.http1.connection import ServerConnection
from parsers.http1.events import RequestHead
from parsers.http1.fields import forwarded_request_fields
from parsers.http1.target import canonical_target
from policies.engine import HttpRequest, KafkaRequest
from policies.kafka import API_KEYS
from policies.kafka_questions import questions
from policies.requests import Resource


class Refused(Exception):
    """The proxy would not take the request, whatever policies say; the message is the reason of the record."""


def http_request(text: str, headers: Iterable[str]) -> HttpRequest:
    """`GET /path` and `name: value` lines as the proxy would judge them.

    Without a Host header the request is read as HTTP/1.0, where none is needed.

    Raises:
        AgentError: it is not written that way.
        Refused: the proxy answers it with an error of its own.
    """
    method, space, target = text.strip().partition(" ")
    target = target.strip()
    if not space or not method or not target or " " in target:
        raise AgentError(f"'{text}' is not a request: expected a method and a path, as 'GET /public'")
    fields = [_field(header) for header in headers]
    version = "1.1" if any(name.lower() == "host" for name, _ in fields) else "1.0"
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in fields)]
    try:
        raw = "\r\n".join(lines).encode("latin-1")
    except UnicodeEncodeError as error:
        raise AgentError(f"character {error.object[error.start]!r} cannot be in a request: encode it") from error
    if raw.count(b"\n") != len(lines) - 1 or raw.count(b"\r") != len(lines) - 1:
        raise AgentError("a request or header holds a line break")
    try:
        head = _head(raw + b"\r\n\r\n")
        matched = canonical_target(head.target, head.form).matched
    except RemoteProtocolError as error:
        raise Refused(str(error)) from error
    host = head.host.decode("latin-1") if head.host is not None else ""
    lowered = tuple((name.lower(), value) for name, value in forwarded_request_fields(head))
    return HttpRequest(head.method.decode("ascii", "replace"), matched, host, lowered)


def _head(raw: bytes) -> RequestHead:
    connection = ServerConnection()
    connection.receive(raw)
    event = connection.next_event()
    if not isinstance(event, RequestHead):
        raise AgentError("the request is not whole")
    return event


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise AgentError("a header is written 'name: value'")  # its text may be a secret
    return name.strip(), value.strip()


def kafka_request(
    text: str, client_id: str, version: int, group: str | None, transactional_id: str | None
) -> list[tuple[KafkaRequest, ...]]:
    """`produce orders`: the main questions of an API by its name, about a topic where one is named; `consume` is
    `fetch`. Of each tuple one must be allowed.

    Raises:
        AgentError: there is no such API, or more is written.
    """
    words = text.split()
    if not 1 <= len(words) <= 2:
        raise AgentError(f"'{text}' is not a request: expected an API and a topic, as 'produce orders'")
    name = words[0].lower()
    key = API_KEYS.get("fetch" if name == "consume" else name)
    if key is None:
        near = get_close_matches(name, [*API_KEYS, "consume"], n=1)
        raise AgentError(f"no Kafka API '{words[0]}'" + (f": did you mean '{near[0]}'?" if near else ""))
    given = {
        Resource.TOPIC: words[1] if len(words) == 2 else None,
        Resource.GROUP: group,
        Resource.TRANSACTIONAL_ID: transactional_id,
    }
    names = {resource: name for resource, name in given.items() if name is not None}
    return [*questions(key, version, client_id, names)]
