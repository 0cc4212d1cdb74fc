"""What all Kafka flows of one worker share."""

from collections.abc import Callable
from typing import Final

from parsers.kafka.frames import Request
from proxy.counters import Counters
from proxy.kafka.ids import TopicIds
from proxy.kafka.plan import Authorizer, Plan

FREE_BYTES: Final = 64 * 1024
"""One read: a connection that keeps no more of unfinished frames is not counted, and never refused for others' sake."""


class Shared:
    """judge, refuse: what becomes of a request, and how one code is told for all of it (`proxy.kafka.apis`). held:
    bytes of unfinished frames, of all flows."""

    __slots__ = ("held", "ids", "judge", "refuse")

    def __init__(
        self,
        counters: Counters,
        judge: Callable[[Request, Authorizer], Plan],
        refuse: Callable[[Request, int], Plan],
    ) -> None:
        self.judge = judge
        self.refuse = refuse
        self.ids = TopicIds(counters)
        self.held = 0


class Holding:
    """What one flow keeps, counted among all."""

    __slots__ = ("_counted", "_shared")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._counted = 0

    def set(self, count: int) -> int:
        """The flow keeps so many bytes now; gives what all keep together, 0 where this one is not asked."""
        counted = max(count - FREE_BYTES, 0)
        shared = self._shared
        shared.held += counted - self._counted
        self._counted = counted
        return shared.held if counted else 0
