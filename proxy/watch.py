"""What the data plane's sockets are watched with: epoll, and one dictionary from descriptor to method.

asyncio's own way from a ready descriptor to its callback (a selector's key, a handle, a context) costs two
microseconds, twice in a request that costs thirty. Here it is a look-up and a call. asyncio stays the loop: timers,
the agent's channel and the broker's are its own. In a worker both share one epoll instance and one system call
(`WatchSelector`); in a loop that somebody else made, the data plane's instance is a descriptor that the loop watches
(`Watch.attach`).

Level-triggered, as asyncio is: what was not read is told again, so nobody has to remember that there was more. An
event may be late: its descriptor can have been closed, and even be another connection's, since the kernel reported it.
Methods take one as a hint and meet an EAGAIN.
"""

import asyncio
import logging
import math
import os
import select
import selectors
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger("tulle.proxy")

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
BATCH: Final = 256
"""Events taken in one system call."""
STAY_S: Final = 0.002
"""How long callbacks that a method left to the loop (`call_soon`), and deadlines it set, can be late because the data
plane is busy. Whatever comes for asyncio's own descriptors ends it at once."""

type Handler = Callable[[int], None]
"""Told the events (a mask of epoll_ctl(2)); must not raise."""


class Watch:
    """The descriptors of one data plane. Not thread-safe."""

    __slots__ = ("_epoll", "_handlers", "quiet")

    def __init__(self, epoll: select.epoll | None = None) -> None:
        self._epoll = select.epoll() if epoll is None else epoll
        self._handlers: dict[int, Handler] = {}
        self.quiet = True
        """Whether the last turn brought nothing."""

    @property
    def fileno(self) -> int:
        """Its own descriptor."""
        return self._epoll.fileno()

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler` when one of `events` (READ, WRITE) is there, or when the connection broke."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int, handler: Handler) -> None:
        """Watch for other events from now on."""
        self._epoll.modify(fd, events)
        self._handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Watch it no more."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """The same for a descriptor closed next that no other process has: closing is enough (epoll(7))."""
        del self._handlers[fd]

    def __len__(self) -> int:
        return len(self._handlers)

    def __bool__(self) -> bool:
        return True  # one that watches nothing yet is one all the same

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a loop call that does not know us."""
        loop.add_reader(self._epoll.fileno(), self.turn, 0)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Undo `attach`."""
        if not self._epoll.closed:
            loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def turn(self, timeout: float) -> list[tuple[int, int]]:
        """Wait so many seconds (-1: without end), call whom events are for; returns the events that are nobody's."""
        others: list[tuple[int, int]] = []
        find = self._handlers.get
        found = self._epoll.poll(timeout, BATCH)
        self.quiet = not found
        for fd, events in found:
            handler = find(fd)
            if handler is None:
                others.append((fd, events))
                continue
            try:
                handler(events)
            except Exception:  # they guard themselves; the loop must outlive one that does not
                log.exception("an event could not be handled")
                if self._handlers.get(fd) is handler:
                    self.remove(fd)
        return others


class WatchSelector(selectors.EpollSelector):
    """A selector for asyncio that serves a data plane in its own system call: `watch`."""

    def __init__(self) -> None:
        super().__init__()
        self.watch = Watch(select.epoll.fromfd(os.dup(self.fileno())))

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors.BaseSelector`. Events of the data plane are handled before it returns, and when there were
        some, it waits a moment for more: asyncio's own turn costs as much as half a request."""
        # epoll_wait(2) counts milliseconds
        wait = -1.0 if timeout is None else math.ceil(max(timeout, 0.0) * 1000) / 1000
        ready: list[tuple[selectors.SelectorKey, int]] = []
        until = 0.0
        try:
            while True:
                others = self.watch.turn(wait)
                if others or self.watch.quiet or not wait:
                    break
                now = time.monotonic()
                if not until:
                    until = now + (STAY_S if timeout is None else min(STAY_S, timeout))
                if now >= until:
                    break
                wait = math.ceil((until - now) * 1000) / 1000
        except InterruptedError:
            return ready
        if others:
            keys = self.get_map()
            for fd, events in others:
                key = keys.get(fd)
                if key is not None:
                    # as the standard library has it: an error is both
                    found = (selectors.EVENT_WRITE if events & ~select.EPOLLIN else 0) | (
                        selectors.EVENT_READ if events & ~select.EPOLLOUT else 0
                    )
                    ready.append((key, found & key.events))
        return ready

    def close(self) -> None:
        """Close both descriptors of the instance."""
        self.watch._epoll.close()
        super().close()


def new_loop() -> tuple[asyncio.SelectorEventLoop, Watch]:
    """A loop with a data plane in it."""
    selector = WatchSelector()
    return asyncio.SelectorEventLoop(selector), selector.watch
