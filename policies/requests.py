"""The facts of one request that policy judges; layers fill them from what their parsers saw."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What an http rule can ask about.

    method: as sent, case-sensitive. path: canonical path, then "?query" if there is a query.
    host: the authority as the client wrote it, port included; "" when it sent none, which no host pattern of a rule
    that allows matches.
    headers: (name in lower case, value) pairs in order, as h11 gives them.
    """

    method: str
    path: str
    host: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()


@dataclass(frozen=True, slots=True)
class KafkaRequest:
    """What a kafka rule can ask about. topic None: a request that names no topic; one that names several is judged once
    for each, and all must be allowed."""

    api_key: int
    api_version: int
    client_id: str = ""
    topic: str | None = None
