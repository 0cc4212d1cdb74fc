"""One timer for all connections: deadlines in coarse buckets, one loop timer for the earliest.

A request moves its connection's deadline several times, so moving must cost next to nothing: a deadline that moves
later is only stored, and the bucket it still sits in puts it right when it comes up. One that moves earlier changes
its bucket. A deadline fires at or up to one tick after its time, never before it.
"""

import asyncio
import heapq
import time
from collections.abc import Callable
from math import ceil, inf

TICK_S = 0.02
COARSE_TICKS = 64
"""Deadlines further than this many ticks off are rounded up to a multiple of it: an hour's idle timers share few
buckets."""


class Timed:
    """Something with one deadline. `deadline` is loop time in seconds, `inf` for none; change it through `Timers`."""

    __slots__ = ("deadline", "tick")

    def __init__(self) -> None:
        self.deadline = inf
        self.tick: float = inf  # the bucket it sits in; inf: in none

    def expired(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError


class Timers:
    """All deadlines of one worker."""

    __slots__ = ("_buckets", "_handle", "_handle_tick", "_loop", "_ticks", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # asyncio's own loops count by this clock; it is asked several times in a request
        own = isinstance(loop, asyncio.BaseEventLoop) and type(loop).time is asyncio.BaseEventLoop.time
        self.now: Callable[[], float] = time.monotonic if own else loop.time
        self._buckets: dict[int, set[Timed]] = {}
        self._ticks: list[int] = []
        self._handle: asyncio.TimerHandle | None = None
        self._handle_tick: float = inf

    def set(self, timed: Timed, seconds: float) -> None:
        """Let it expire in so many seconds, whatever was set before."""
        deadline = self.now() + seconds
        timed.deadline = deadline
        if deadline < timed.tick * TICK_S:
            self._place(timed, deadline)

    def cancel(self, timed: Timed) -> None:
        """Forget it. Must be called before the last other reference goes, or the bucket keeps it."""
        timed.deadline = inf
        if timed.tick != inf:
            self._leave(timed)

    def close(self) -> None:
        """Fire nothing more."""
        self._buckets.clear()
        self._ticks.clear()
        if self._handle is not None:
            self._handle.cancel()

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def _leave(self, timed: Timed) -> None:
        bucket = self._buckets.get(int(timed.tick))
        if bucket is not None:
            bucket.discard(timed)
        timed.tick = inf

    def _place(self, timed: Timed, deadline: float) -> None:
        if timed.tick != inf:
            self._leave(timed)
        tick = ceil(deadline / TICK_S)
        if deadline - self.now() > COARSE_TICKS * TICK_S:
            tick = -(-tick // COARSE_TICKS) * COARSE_TICKS
        timed.tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            heapq.heappush(self._ticks, tick)
            if tick < self._handle_tick:
                self._arm(tick)
        bucket.add(timed)

    def _arm(self, tick: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle_tick = tick
        self._handle = self._loop.call_at(tick * TICK_S, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._handle_tick = inf
        now = self.now()
        due: list[Timed] = []
        moved: list[Timed] = []
        while self._ticks and self._ticks[0] * TICK_S <= now:
            for timed in self._buckets.pop(heapq.heappop(self._ticks)):
                timed.tick = inf
                if timed.deadline <= now:
                    due.append(timed)
                elif timed.deadline != inf:
                    moved.append(timed)
        for timed in moved:
            self._place(timed, timed.deadline)
        if self._ticks and self._ticks[0] < self._handle_tick:
            self._arm(self._ticks[0])
        for timed in due:
            if timed.deadline <= now:  # an earlier one of this round may have moved it
                timed.deadline = inf
                timed.expired()
