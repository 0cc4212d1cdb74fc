"""Verdicts that are remembered: one `Place` for each (endpoint, direction, peer, port) of the rules in force, and in it
one `Decision` for each (method, target, host).

A verdict may be remembered only where nothing else of a request can change it. So a place whose rules read headers has
no table at all, and everything is forgotten when rules are swapped: `PolicyBox` makes new places for every generation.
"""

from typing import Final

from policies.engine import Verdict
from policies.ruleset import Answer, ConnectionVerdict
from proxy.flow_event import AUDIT, DROPPED, FORWARDED, Shape

MAX_DECISIONS: Final = 1024
"""Decisions remembered in one place. When it is full all are forgotten: that costs time, never a verdict."""
MAX_REMEMBERED: Final = 16_384
"""Decisions remembered in all places together, of up to 3 KiB with the text of their records. There can be a place for
every peer and port of every pod, and one client that asks a range of ports fills as many: without this, gigabytes."""
MAX_KEY_BYTES: Final = 512
"""Target and host together; longer ones are judged anew each time."""
MAX_PLACES: Final = 8192
"""Places of one worker. When there are more all are forgotten, as above."""
MAX_SHAPES: Final = 16
"""Statuses of one decision whose shapes are kept."""

type Key = tuple[bytes, bytes, bytes]
"""(method, target, host), as they stand in the head."""


class Decision:
    """The verdict on every request of one key, and the shapes of its records."""

    __slots__ = ("_shapes", "host", "is_head", "method", "revision", "target", "verdict")

    def __init__(self, verdict: Verdict, revision: int, method: str, target: str, host: str) -> None:
        """target: with the query's values hidden, as records have it."""
        self.verdict = verdict
        self.method = method
        self.target = target
        self.host = host
        self.is_head = method == "HEAD"
        self.revision = revision
        self._shapes: dict[bytes, Shape] = {}

    def shape(self, status: bytes) -> Shape:
        """What the records of its requests with this status (three digits) have in common."""
        shape = self._shapes.get(status)
        if shape is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            shape = self._shapes[status] = self._make_shape(int(status))
        return shape

    def _make_shape(self, code: int) -> Shape:
        verdict = self.verdict
        word = (AUDIT if verdict.audited else FORWARDED) if verdict.allow else DROPPED
        return Shape(
            word,
            verdict.reason,
            verdict.rule,
            verdict.policies,
            self.revision,
            self.method,
            self.target,
            self.host,
            "HTTP/1.1",
            code,
        )


class Memory:
    """What all places of one generation of rules remember, counted together."""

    __slots__ = ("_filled", "_held")

    def __init__(self) -> None:
        self._held = 0
        self._filled: list[dict[Key, Decision]] = []

    def keep(self, decisions: dict[Key, Decision], key: Key, decision: Decision) -> None:
        """Put one more decision among those of a place, and forget others where there is no room."""
        if self._held >= MAX_REMEMBERED:
            self.forget()
        if not decisions:
            self._filled.append(decisions)
        elif len(decisions) >= MAX_DECISIONS:
            self._held -= len(decisions)
            decisions.clear()
        decisions[key] = decision
        self._held += 1

    def forget(self) -> None:
        """Forget everything, also what places hold that only an idle connection still knows."""
        for decisions in self._filled:
            decisions.clear()
        self._filled.clear()
        self._held = 0


class Place:
    """What the rules in force say of one peer at one port of one endpoint.

    decisions: None where a rule reads headers, so that nothing may be remembered. generation: of `PolicyBox`; the place
    says nothing of any other.
    """

    __slots__ = ("_memory", "closes_denied", "connection", "decisions", "generation", "protocol")

    def __init__(
        self,
        connection: ConnectionVerdict,
        protocol: str,
        generation: int,
        memory: Memory,
        *,
        closes_denied: bool,
        reads_headers: bool,
    ) -> None:
        self.generation = generation
        self._memory = memory
        self.connection = connection
        self.protocol = protocol
        self.closes_denied = closes_denied
        self.decisions: dict[Key, Decision] | None = None if reads_headers else {}

    @property
    def passes(self) -> bool:
        """Whether the connection is allowed whatever it carries: at most policies in mode audit judge its requests."""
        return self.connection.enforced.answer is Answer.ALLOW

    def remember(self, key: Key, decision: Decision) -> None:
        """Keep it for the next request of this key."""
        decisions = self.decisions
        # Also where it would not be kept: who made it has looked at no header, and carries out no edit.
        if decision.verdict.edits or decision.verdict.logged:
            raise RuntimeError("a verdict that depends on headers cannot be remembered")
        if decisions is None or len(key[1]) + len(key[2]) > MAX_KEY_BYTES:
            return
        self._memory.keep(decisions, key, decision)
