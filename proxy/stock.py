"""A worker's stock of prepared upstream sockets.

A worker has no privilege, so it cannot open a socket inside a pod. The broker does, in batches, and passes them over.
The stock of one kind (endpoint, direction, family) starts small and doubles each time it runs dry, up to
`MAX_TARGET`, so that a pod at rest costs little and a busy one seldom waits.
"""

import asyncio
import logging
import socket
from collections import defaultdict, deque
from collections.abc import Callable

from proxy import channel

log = logging.getLogger("tulle.stock")

FIRST_TARGET = 8
"""Sockets of one kind held for a pod that has made no connection yet."""
MAX_TARGET = 256
"""Sockets of one kind at most."""
BATCH = 64
"""Sockets asked for in one message; the broker sends no more."""

type Kind = tuple[int, int, int]
"""(endpoint id, direction, AF_INET or AF_INET6)"""


class Stock:
    """Implements `proxy.server.Upstreams`. Not thread-safe: one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._broker: socket.socket | None = None
        self._have: dict[Kind, deque[socket.socket]] = {}
        self._target: dict[Kind, int] = {}
        self._asked: dict[Kind, int] = {}
        """Serial of the request that is under way for a kind."""
        self._serial = 0
        self._waiting: dict[Kind, deque[Callable[[], None]]] = defaultdict(deque)
        self.dry = 0
        """Times that a connection found no socket and had to wait."""

    @property
    def connected(self) -> bool:
        """Whether there is a channel to a broker."""
        return self._broker is not None

    def use_broker(self, sock: socket.socket) -> None:
        """Take sockets from this broker from now on; an earlier channel is closed."""
        self._lose_broker()
        sock.setblocking(False)
        self._broker = sock
        self._loop.add_reader(sock.fileno(), self._readable)
        self._asked.clear()
        for kind in self._have:
            self._refill(kind)

    def keep(self, endpoint: int, direction: int, family: int) -> None:
        """Hold sockets of this kind from now on."""
        kind = (endpoint, direction, family)
        if kind not in self._have:
            self._have[kind] = deque()
            self._target[kind] = FIRST_TARGET
            self._refill(kind)

    def drop(self, endpoint: int) -> None:
        """Close every socket held for an endpoint and hold none from now on; those who wait are called and find
        none."""
        for kind in [kind for kind in self._have if kind[0] == endpoint]:
            for sock in self._have.pop(kind):
                sock.close()
            del self._target[kind]
            # what is on its way is of this pod; under the same number the next request may be for another
            self._asked.pop(kind, None)
            self._wake(kind, everybody=True)

    def held(self) -> int:
        """Sockets in stock, of all kinds."""
        return sum(map(len, self._have.values()))

    def take(self, endpoint_id: int, direction: int, family: int) -> socket.socket | None:
        """A prepared, unconnected, non-blocking socket inside the pod; None when none is left just now."""
        kind = (endpoint_id, direction, family)
        have = self._have.get(kind)
        if have is None:
            self.keep(endpoint_id, direction, family)
            self.dry += 1
            return None
        if not have:
            self._target[kind] = min(MAX_TARGET, self._target[kind] * 2)
            self.dry += 1
            self._refill(kind)
            return None
        sock = have.popleft()
        if len(have) * 2 < self._target[kind]:
            self._refill(kind)
        return sock

    def when_ready(self, endpoint_id: int, direction: int, family: int, callback: Callable[[], None]) -> None:
        """Call back once when a socket of this kind may be there; the caller takes again and bounds its own
        waiting."""
        kind = (endpoint_id, direction, family)
        self._waiting[kind].append(callback)
        self._refill(kind)

    def _refill(self, kind: Kind) -> None:
        if self._broker is None or kind not in self._have or kind in self._asked:
            return
        count = min(BATCH, max(self._target[kind] - len(self._have[kind]), len(self._waiting[kind])))
        if count < 1:
            return
        endpoint, direction, family = kind
        self._serial = self._asked[kind] = self._serial + 1
        message: channel.Message = {
            "endpoint": endpoint,
            "direction": direction,
            "family": int(family),
            "count": count,
            "serial": self._serial,
        }
        try:
            channel.send(self._broker, message)
        except BlockingIOError:
            self._loop.call_later(0.01, self._ask_again, kind, self._serial)
        except OSError:
            self._lose_broker()

    def _ask_again(self, kind: Kind, serial: int) -> None:
        if self._asked.get(kind) == serial:
            del self._asked[kind]
            self._refill(kind)

    def _readable(self) -> None:
        if self._broker is None:
            return
        try:
            received = channel.receive(self._broker)
        except BlockingIOError:
            return
        except (OSError, channel.ChannelError) as error:
            log.warning("broker: %s", error)
            received = None
        if received is None:
            self._lose_broker()
            return
        message, fds = received
        kind = (message["endpoint"], message["direction"], message["family"])
        opened = [socket.socket(fileno=fd) for fd in fds]
        have = self._have.get(kind)  # type: ignore[arg-type]  # a kind that is not ours is closed below
        known: Kind = kind  # type: ignore[assignment]  # where it is no key of _have it is used for nothing
        if have is None or self._asked.get(known) != message["serial"]:
            for sock in opened:
                sock.close()
            return
        del self._asked[known]
        for sock in opened:
            sock.setblocking(False)
            have.append(sock)
        # after an error nobody is called beyond what came: they ask again by themselves, a little later
        self._wake(known, everybody=False)
        if message.get("error") is None and len(have) < self._target[known]:
            self._refill(known)

    def _wake(self, kind: Kind, *, everybody: bool) -> None:
        waiting = self._waiting[kind]
        calls = len(waiting) if everybody else min(len(waiting), len(self._have.get(kind, ())))
        for _ in range(calls):
            self._loop.call_soon(waiting.popleft())

    def _lose_broker(self) -> None:
        if self._broker is not None:
            self._loop.remove_reader(self._broker.fileno())
            self._broker.close()
            self._broker = None
            self._asked.clear()
