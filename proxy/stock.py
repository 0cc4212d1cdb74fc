"""A worker's stock of prepared upstream sockets.

A worker has no privilege, so it cannot open a socket inside a pod. The broker does, in batches, and passes them over.

The stock of one kind (endpoint, direction, family) follows its use. It grows at once: to `COVER` times what went while
the broker was opening the last batch, so that the next batch comes before this one is gone, however slow the broker is
just then; and twofold each time it runs dry. It shrinks in steps, as each socket costs some KiB of kernel memory: what
is more than went in the last `LOOK_S` is halved. A pod at rest has `FIRST_TARGET` of each kind, and no timer runs.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable

from proxy import channel

log = logging.getLogger("tulle.stock")

FIRST_TARGET = 8
"""Sockets of one kind held for a pod that makes no connections."""
MAX_TARGET = 1024
"""Sockets of one kind at most: at 10,000 connections/s a tenth of a second, and about 4 MiB of kernel memory."""
BATCH = 240
"""Sockets asked for in one message; the broker sends no more (`channel.MAX_FDS`)."""
CUT_PAUSE_S = 0.1
"""Until the next batch is asked for when there was no room for the descriptors of the last."""
COVER = 4
LOOK_S = 1.0
"""How often a stock that has grown is looked at, whether it is still needed."""

type KindKey = tuple[int, int, int]
"""(endpoint id, direction, AF_INET or AF_INET6)"""


class _Kind:
    """The sockets of one kind and who waits for them."""

    __slots__ = ("asked", "have", "key", "since_ask", "since_look", "target", "waiting")

    def __init__(self, key: KindKey) -> None:
        self.key = key
        self.have: deque[socket.socket] = deque()
        self.target = FIRST_TARGET
        self.asked: int | None = None  # serial of the request that is under way
        self.waiting: deque[Callable[[], None]] = deque()
        self.since_ask = 0  # taken since the request under way was sent
        self.since_look = 0  # taken since the last look


class Stock:
    """Implements `proxy.server.Upstreams`. Not thread-safe: one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._broker: socket.socket | None = None
        self._kinds: dict[KindKey, _Kind] = {}
        self._serial = 0
        self._looking: asyncio.TimerHandle | None = None
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
        for kind in self._kinds.values():
            self._refill(kind)

    def keep(self, endpoint: int, direction: int, family: int) -> None:
        """Hold sockets of this kind from now on."""
        key = (endpoint, direction, family)
        if key not in self._kinds:
            kind = self._kinds[key] = _Kind(key)
            self._refill(kind)

    def drop(self, endpoint: int) -> None:
        """Close every socket held for an endpoint and hold none from now on; those who wait are called and find
        none."""
        for key in [key for key in self._kinds if key[0] == endpoint]:
            # What is on its way is of this pod; under the same number the next request may be for another, and will
            # have another serial.
            kind = self._kinds.pop(key)
            for sock in kind.have:
                sock.close()
            for callback in kind.waiting:
                self._loop.call_soon(callback)

    def close(self) -> None:
        """Close everything and ask for nothing more; for tests and the end of the process."""
        self._lose_broker()
        if self._looking is not None:
            self._looking.cancel()
        for endpoint in {key[0] for key in self._kinds}:
            self.drop(endpoint)

    def held(self) -> int:
        """Sockets in stock, of all kinds."""
        return sum(len(kind.have) for kind in self._kinds.values())

    def take(self, endpoint_id: int, direction: int, family: int) -> socket.socket | None:
        """A prepared, unconnected, non-blocking socket inside the pod; None when none is left just now."""
        kind = self._kinds.get((endpoint_id, direction, family))
        if kind is None:
            self.keep(endpoint_id, direction, family)
            self.dry += 1
            return None
        have = kind.have
        if not have:
            self._grow(kind, 2 * kind.target)
            self.dry += 1
            self._refill(kind)
            return None
        kind.since_ask += 1
        kind.since_look += 1
        sock = have.popleft()
        # A quarter or half a batch is worth a message.
        if kind.asked is None and kind.target - len(have) > min(kind.target >> 2, BATCH >> 1):
            self._refill(kind)
        return sock

    def when_ready(self, endpoint_id: int, direction: int, family: int, callback: Callable[[], None]) -> None:
        """Call back once when a socket of this kind may be there; the caller takes again and bounds its own
        waiting."""
        key = (endpoint_id, direction, family)
        self.keep(*key)
        kind = self._kinds[key]
        kind.waiting.append(callback)
        self._refill(kind)

    # ---- its size

    def _grow(self, kind: _Kind, target: int) -> None:
        kind.target = min(MAX_TARGET, target)
        if self._looking is None:
            self._looking = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Halve what is no longer needed; look again while there is something to look at."""
        self._looking = None
        for kind in self._kinds.values():
            if kind.target > FIRST_TARGET:
                if kind.since_look < kind.target:
                    kind.target = max(FIRST_TARGET, kind.since_look, kind.target // 2)
                    while len(kind.have) > kind.target:
                        kind.have.pop().close()
                if self._looking is None:
                    self._looking = self._loop.call_later(LOOK_S, self._look)
            kind.since_look = 0

    # ---- the broker

    def _refill(self, kind: _Kind) -> None:
        if self._broker is None or kind.asked is not None:
            return
        count = min(BATCH, max(kind.target - len(kind.have), len(kind.waiting)))
        if count < 1:
            return
        endpoint, direction, family = kind.key
        self._serial = kind.asked = self._serial + 1
        kind.since_ask = 0
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

    def _ask_again(self, kind: _Kind, serial: int | None) -> None:
        if kind.asked == serial and self._kinds.get(kind.key) is kind:
            kind.asked = None
            self._refill(kind)

    def _readable(self) -> None:
        if self._broker is None:
            return
        try:
            received = channel.receive(self._broker)
        except BlockingIOError:
            return
        except channel.CutError as error:
            self._cut(error.message)
            return
        except (OSError, channel.ChannelError) as error:
            log.warning("broker: %s", error)
            received = None
        if received is None:
            self._lose_broker()
            return
        message, fds = received
        key = (message["endpoint"], message["direction"], message["family"])
        kind = self._kinds.get(key)  # type: ignore[arg-type]  # a kind that is not ours is none
        if kind is None or kind.asked != message["serial"]:
            channel.close_all(fds)
            return
        # Family, type and protocol are given, or Python would ask the kernel, thrice; the broker made them
        # non-blocking, and with the flag in the type Python takes that for granted, too.
        family, kind_of_socket = kind.key[2], socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        kind.have.extend([socket.socket(family, kind_of_socket, socket.IPPROTO_TCP, fd) for fd in fds])
        kind.asked = None
        if kind.since_ask * COVER > kind.target:
            self._grow(kind, kind.since_ask * COVER)
        # after an error nobody is called beyond what came: they ask again by themselves, a little later
        for _ in range(min(len(kind.waiting), len(kind.have))):
            self._loop.call_soon(kind.waiting.popleft())
        if message.get("error") is None and len(kind.have) < kind.target:
            self._refill(kind)

    def _cut(self, message: channel.Message) -> None:
        """This process has no descriptors left for a batch: ask again, for less, when some flows may have ended."""
        log.warning("broker: no descriptors left for a batch of sockets")
        kind = self._kinds.get((message["endpoint"], message["direction"], message["family"]))  # type: ignore[arg-type]
        if kind is not None and kind.asked == message["serial"]:
            kind.target = FIRST_TARGET
            self._loop.call_later(CUT_PAUSE_S, self._ask_again, kind, kind.asked)

    def _lose_broker(self) -> None:
        if self._broker is not None:
            self._loop.remove_reader(self._broker.fileno())
            self._broker.close()
            self._broker = None
            for kind in self._kinds.values():
                kind.asked = None
