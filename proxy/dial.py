"""Opening one upstream leg: a prepared socket from the stock, a port where the client's address is kept, a connect
with bounds.

Ingress legs keep the client's address, so the application sees who is there; the port must be another one, as the
client's own is taken by the connection it made to us. A port of the client's ephemeral range would one day be used by
the client itself, and its SYN would hang. An unanswered SYN on loopback means that the 4-tuple is in use on the other
side, or that the application's backlog is full; both look the same, so the try is repeated with another socket and
port, less and less often. What was measured: docs/decisions/0013-connection-set-up.md.
"""

import asyncio
import errno
import random
import socket
from collections.abc import Callable
from typing import Protocol

from policies.ruleset import Direction
from proxy.events import LegFailure
from proxy.flow import Address
from proxy.limits import Limits
from proxy.timers import Timed, Timers

HIGH_PORTS = range(61000, 65536)
"""Above Linux's default ephemeral range (32768 to 60999): first choice."""
LOW_PORTS = range(1024, 32768)
"""Below it, when several of the first are taken in a row."""
HIGH_TRIES = 16
LOW_TRIES = 64
SOCKETS_PER_PORT_TROUBLE = 32
"""Sockets used up because connect found the 4-tuple taken (bind cannot tell), in one dial."""

SOCKETS_FOR_HIGH_PORTS = 3
"""Of these, the ones that the first choice may use up: after that the pair of client and destination counts as
crowded."""
CROWDED_S = 10.0
"""How long a crowded pair is served from the second choice before the first is tried again."""
MAX_CROWDED = 1024

_INGRESS = int(Direction.INGRESS)

# Failures of the way there; anything else in connect is a refusal.
_UNREACHABLE = frozenset(
    (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EACCES, errno.EPERM)
)


class Upstreams(Protocol):
    """Where prepared sockets come from: unconnected, non-blocking, inside the pod; for ingress transparent, marked and
    bound to its loopback device."""

    def take(self, endpoint_id: int, direction: int, family: int) -> socket.socket | None:
        """One socket, or None when none is left just now."""

    def when_ready(self, endpoint_id: int, direction: int, family: int, callback: Callable[[], None]) -> None:
        """Call once when it is worth asking again."""


class DialOwner(Protocol):
    """Who wants the leg."""

    def leg_open(self, sock: socket.socket) -> None:
        """It stands."""

    def leg_failed(self, failure: LegFailure) -> None:
        """It does not come."""

    def crashed(self) -> None:
        """Called in an exception handler: something of ours failed."""


class PortChoice:
    """Leg ports in turn, from a random start so that workers of one node seldom meet.

    Bind cannot tell that a 4-tuple is taken, connect can, and costs a prepared socket each time. A client that holds
    thousands of connections to one place fills the first choice; that is remembered for a while, so that its next legs
    go to the second at once. In the second a taken port makes the turn go on elsewhere, at random: connections that
    were opened one after another and are held occupy ports one after another, and a dial would use itself up on them
    (seen: 10,000 held by one client).
    """

    __slots__ = ("_crowded", "_high", "_low")

    def __init__(self) -> None:
        self._high = random.randrange(len(HIGH_PORTS))  # noqa: S311  spreads workers, keeps no secret
        self._low = random.randrange(len(LOW_PORTS))  # noqa: S311  as above
        self._crowded: dict[tuple[str, Address], float] = {}

    def crowded(self, client: str, original: Address, now: Callable[[], float]) -> bool:
        """Whether the first choice is full for this client and destination; `now` gives seconds of the loop."""
        if not self._crowded:
            return False
        until = self._crowded.get((client, original))
        if until is None:
            return False
        if until > now():
            return True
        del self._crowded[client, original]
        return False

    def crowd(self, client: str, original: Address, now: float) -> None:
        """Remember that it is."""
        if len(self._crowded) >= MAX_CROWDED:
            self._crowded.clear()
        self._crowded[client, original] = now + CROWDED_S

    def high(self) -> int:
        """The next first-choice port."""
        self._high = (self._high + 1) % len(HIGH_PORTS)
        return HIGH_PORTS[self._high]

    def scatter(self) -> None:
        """A port was taken: go on elsewhere among the second choice."""
        self._low = random.randrange(len(LOW_PORTS))  # noqa: S311  as above

    def low(self) -> int:
        """The next second-choice port."""
        self._low = (self._low + 1) % len(LOW_PORTS)
        return LOW_PORTS[self._low]


class Dialler:
    """What all dials of a worker share."""

    __slots__ = ("counters", "limits", "loop", "ports", "timers", "upstreams")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        upstreams: Upstreams,
        limits: Limits,
        counters: dict[str, int],
    ) -> None:
        self.loop = loop
        self.timers = timers
        self.upstreams = upstreams
        self.limits = limits
        self.counters = counters
        self.ports = PortChoice()

    def dial(
        self, endpoint: int, direction: int, family: int, client: Address, original: Address, owner: DialOwner
    ) -> "Dial | None":
        """Open a leg. None: it is over, the owner was called; else a dial that goes on and will call its owner.

        On loopback a connect is done when it returns, so nearly every leg of an ingress flow ends here, without a
        `Dial` and without a timer. The owner may open another leg before this returns: what comes back then is of the
        first one, and None says nothing of the second.
        """
        sock = self.upstreams.take(endpoint, direction, family)
        bound = error = 0
        if sock is not None:
            bound = direction != _INGRESS or self.bind(sock, client, original)
            if bound:
                error = sock.connect_ex(original)
                if error == errno.EINPROGRESS and _stands(sock):
                    self.counters["upstream_opened"] += 1
                    owner.leg_open(sock)
                    return None
        dial = Dial(self, endpoint, direction, family, client, original, owner)
        dial.go_on(sock, bound=bool(bound), error=error)
        return dial if dial.going else None

    def bind(self, sock: socket.socket, client: Address, original: Address) -> bool:
        """Give an ingress leg the client's address and a port; False when no port tried can be bound."""
        ports = self.ports
        address, own_port = client
        crowded = ports.crowded(address, original, self.timers.now)
        for attempt in range(HIGH_TRIES + LOW_TRIES):
            port = ports.low() if crowded or attempt >= HIGH_TRIES else ports.high()
            if port == own_port:
                continue
            try:
                sock.bind((address, port))
            except OSError:
                self.counters["leg_port_busy"] += 1
                continue
            return True
        return False


class Dial(Timed):
    """One leg being opened. Ends with one call of its owner, or with `stop`."""

    __slots__ = (
        "_by",
        "_client",
        "_direction",
        "_endpoint",
        "_family",
        "_give_up_at",
        "_original",
        "_owner",
        "_port_trouble",
        "_sock",
        "_tries",
        "_waiting",
    )

    def __init__(
        self,
        by: Dialler,
        endpoint: int,
        direction: int,
        family: int,
        client: Address,
        original: Address,
        owner: DialOwner,
    ) -> None:
        super().__init__()
        self._by = by
        self._endpoint = endpoint
        self._direction = direction
        self._family = family
        self._client = client
        self._original = original
        self._owner: DialOwner | None = owner
        self._sock: socket.socket | None = None
        self._tries = 0
        self._port_trouble = 0
        self._waiting = False
        self._give_up_at = by.timers.now() + by.limits.connect_s

    @property
    def going(self) -> bool:
        """Whether the owner is still to be called."""
        return self._owner is not None

    def start(self) -> None:
        """Begin, or try again with another socket. The owner may be called before this returns."""
        by = self._by
        sock = by.upstreams.take(self._endpoint, self._direction, self._family)
        bound = error = 0
        if sock is not None:
            bound = self._direction != _INGRESS or by.bind(sock, self._client, self._original)
            if bound:
                error = sock.connect_ex(self._original)
        self.go_on(sock, bound=bool(bound), error=error)

    def go_on(self, sock: socket.socket | None, *, bound: bool, error: int) -> None:
        """What becomes of a try: no socket, one that could not be bound, or what connect said of it."""
        by = self._by
        if sock is None:
            if not self._waiting:
                self._waiting = True
                by.counters["stock_empty"] += 1
                by.upstreams.when_ready(self._endpoint, self._direction, self._family, self._stock_ready)
            self._wait(by.limits.clash_s)  # asks again by itself too: a wake-up may go to a dial that has ended
        elif not bound:
            sock.close()
            self._end(LegFailure.NO_PORT)
        elif error in (errno.EADDRNOTAVAIL, errno.EADDRINUSE) and self._direction == _INGRESS:
            # the 4-tuple is taken; a bound socket cannot be bound again
            sock.close()
            by.counters["leg_port_busy"] += 1
            by.ports.scatter()
            self._port_trouble += 1
            if self._port_trouble == SOCKETS_FOR_HIGH_PORTS:
                by.ports.crowd(self._client[0], self._original, by.timers.now())
            if self._port_trouble < SOCKETS_PER_PORT_TROUBLE:
                self.start()
            else:
                self._end(LegFailure.NO_PORT)
        else:
            self._sock = sock
            if error == 0 or (error == errno.EINPROGRESS and _stands(sock)):
                self._established()
            elif error == errno.EINPROGRESS:
                by.loop.add_writer(sock.fileno(), self._guarded, self._writable)
                self._wait(self._patience())
            else:
                self._failed(error)

    def stop(self) -> None:
        """Give up without a word."""
        self._owner = None
        self._by.timers.cancel(self)
        self._drop_socket()

    def expired(self) -> None:
        """The try, or the whole, took too long."""
        self._guarded(self._next_try)

    def _next_try(self) -> None:
        if self._by.timers.now() >= self._give_up_at:
            self._end(LegFailure.NO_SOCKET if self._sock is None else LegFailure.TIMED_OUT)
            return
        if self._sock is not None:
            self._by.counters["leg_clash"] += 1
            self._tries += 1
            self._drop_socket()
        self.start()

    def _patience(self) -> float:
        if self._direction != _INGRESS:
            return self._by.limits.connect_s
        return self._by.limits.clash_s * (1 << max(0, self._tries - 1))

    def _wait(self, seconds: float) -> None:
        timers = self._by.timers
        timers.set(self, max(0.0, min(seconds, self._give_up_at - timers.now())))

    def _stock_ready(self) -> None:
        self._waiting = False
        if self._owner is not None and self._sock is None:
            self._guarded(self.start)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run what the loop calls: an exception ends the flow, it is not the loop's to log."""
        owner = self._owner
        try:
            step()
        except Exception:
            if owner is None:
                raise
            self.stop()
            owner.crashed()

    def _writable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._by.loop.remove_writer(sock.fileno())
        if error == 0:
            self._established()
        else:
            self._failed(error)

    def _failed(self, error: int) -> None:
        if error == errno.ETIMEDOUT:
            self._end(LegFailure.TIMED_OUT)
        elif error in _UNREACHABLE:
            self._end(LegFailure.UNREACHABLE)
        else:
            self._end(LegFailure.REFUSED)

    def _established(self) -> None:
        sock, self._sock = self._sock, None
        owner, self._owner = self._owner, None
        self._by.timers.cancel(self)
        if sock is None or owner is None:
            raise RuntimeError("a leg stands that nobody waits for")
        self._by.counters["upstream_opened"] += 1
        owner.leg_open(sock)

    def _end(self, failure: LegFailure) -> None:
        owner, self._owner = self._owner, None
        self._by.timers.cancel(self)
        self._drop_socket()
        self._by.counters["upstream_failed"] += 1
        if failure is LegFailure.NO_PORT:
            self._by.counters["leg_ports_exhausted"] += 1
        if owner is not None:
            owner.leg_failed(failure)

    def _drop_socket(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._by.loop.remove_writer(sock.fileno())
            sock.close()


def _stands(sock: socket.socket) -> bool:
    """Whether a connect in progress is done already, as it is on loopback: saves a round through the loop."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
