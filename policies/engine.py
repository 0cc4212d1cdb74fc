"""decide(): facts of one request against one rule set. Pure: no clock, no I/O, no pydantic, no YAML."""

from collections.abc import Sequence
from dataclasses import dataclass

from policies.ruleset import Answer, Direction, PolicyRef, RuleSet


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a rule can ask about.

    method: as sent, case-sensitive. path: canonical path, then "?query" if there is a query.
    host: the authority as the client wrote it, port included; "" when it sent none, which no host pattern matches.
    headers: (name in lower case, value) pairs in order, as h11 gives them.
    """

    method: str
    path: str
    host: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Permit:
    """The value an allow verdict hands out; without it no upstream is opened. Tells what was allowed and by what."""

    endpoint_id: int
    direction: Direction
    port: int
    rule: str
    revision: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one request.

    rule: name of the rule that allowed it; for a denial DEFAULT_DENY or UNKNOWN: never empty, it goes into the record.
    reason: one line for people. policies: those that allowed, or whose selection made the default a denial.
    permit: present exactly when `allow` is True.
    """

    allow: bool
    reason: str
    rule: str
    policies: tuple[PolicyRef, ...]
    permit: Permit | None


class Engine:
    """Judges connections and requests by one rule set; build a new one for a new revision."""

    def __init__(self, ruleset: RuleSet) -> None:
        self.ruleset = ruleset
        self.revision = ruleset.revision

    def judge_peer(self, endpoint_id: int, direction: Direction | int, identity: int, port: int) -> Answer:
        """What the kernel map answers for a new connection."""
        raise NotImplementedError

    def decide(
        self, endpoint_id: int, direction: Direction | int, peer_identity: int, port: int, request: HttpRequest
    ) -> Verdict:
        """Judge one request. `port` is the port of the original destination."""
        raise NotImplementedError
