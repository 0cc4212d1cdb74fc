"""The sockets of one flow: carries out what its layer asks, and tells the layer what happened.

Every callback of the loop ends in `_settle`: what the layer gave is sent, one `send` a side, and what the loop watches
is set right. Back-pressure is here and nowhere else: a side is read only while the bytes it makes have somewhere to
go, so a flow holds at most `high_water` and one read in each direction. A layer that knows that its bytes are all there
is (`pass_upstream`, `pass_downstream`) has them sent at once; where that leaves nothing behind, there is nothing to
settle, and most events of most connections end so.

Every callback is guarded: an exception of ours ends the flow with a record and a reset. A confused enforcer passes
nothing.
"""

import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from policies.engine import Permit
from proxy.dial import Dial, Dialler
from proxy.events import Layer, LegFailure, Timer
from proxy.flow import Address, Flow
from proxy.flow_event import ERROR, RULE_GUARD
from proxy.limits import Limits
from proxy.relay import Relay
from proxy.side import Side
from proxy.timers import Timed, Timers
from proxy.watch import Watch

log = logging.getLogger("tulle.proxy")

SHARE: Final = 16
"""Requests that one event may begin. A read of bulk holds thousands of pipelined ones that are denied, and a few such
clients kept a worker from answering its agent for longer than it may be silent (seen: 20 clients, 15 s)."""


class Home(Protocol):
    """What all edges of a worker share."""

    watch: Watch
    timers: Timers
    limits: Limits
    counters: dict[str, int]
    dialler: Dialler
    relay: Relay
    lingering: int

    def forget(self, edge: "FlowEdge") -> None:
        """The flow's sockets are closed."""

    def later(self, edge: "FlowEdge") -> None:
        """Call the edge's `go_on` when others had their turn."""


class FlowEdge(Timed):
    """Implements `proxy.commands.Edge` for one accepted connection."""

    __slots__ = (
        "_client",
        "_dial",
        "_down",
        "_finishing",
        "_full_seen",
        "_home",
        "_layer",
        "_linger",
        "_lingered",
        "_original",
        "_paused",
        "_read_down",
        "_read_up",
        "_share",
        "_small",
        "_timer",
        "_unsettled",
        "_up",
        "_waits",
        "flow",
        "lingers",
    )

    def __init__(self, home: Home, flow: Flow, sock: socket.socket, client: Address, original: Address) -> None:
        super().__init__()
        self._home = home
        self.flow = flow
        self._client = client
        self._original = original
        self._layer: Layer | None = None
        self._down = Side(home.watch, sock, self._down_readable, self._down_writable, shared=False)
        self._up: Side | None = None
        self._dial: Dial | None = None
        self._timer = Timer.IDLE
        self._paused = False
        self._unsettled = True
        self._full_seen = False
        self._finishing = False
        self._linger = False
        self.lingers = False  # our end is sent, we wait for the client's
        self._lingered = 0  # bytes thrown away since
        self._share = SHARE  # requests that may still begin before others have their turn
        self._waits = False  # until `go_on`
        self._small = self._read_down = self._read_up = home.limits.read_bytes

    # ---- for the server

    @property
    def opaque(self) -> bool:
        """Whether the flow is copied unparsed."""
        return self._layer is not None and self._layer.opaque

    @property
    def ending(self) -> bool:
        """Whether the layer has said that it is over."""
        return self._finishing

    def start(self, layer: Layer) -> None:
        """Serve the connection."""
        self._layer = layer
        try:
            layer.start()
            self._down_readable()  # the first bytes are often there already
        except Exception:  # noqa: BLE001  whatever it is, the flow ends, with a record
            self.crashed()

    def refuse(self, answer: bytes) -> None:
        """Send this and close; no layer is made."""
        try:
            self._down.give(answer)
            self.finish(linger=True)
            self._settle()
        except Exception:  # noqa: BLE001  as above
            self.crashed()

    def drain(self) -> None:
        """Let the layer end at its next good moment."""
        if self._layer is not None and not self._finishing:
            self._layer.drain()

    def rules_changed(self) -> None:
        """Tell the layer; also where it has ended, and the client has not taken all yet."""
        if self._layer is None or self._down.fd < 0:
            return
        try:
            self._layer.rules_changed()
            if self._unsettled:
                self._settle()
        except Exception:  # noqa: BLE001  as above
            self.crashed()

    def go_on(self) -> None:
        """It is this flow's turn again, after its share of requests."""
        self._waits = False
        if self._down.fd < 0 or self._finishing:
            return
        self._share = SHARE
        self._leg_told(self._the_layer().downstream_drained)

    # ---- commands

    @property
    def downstream_full(self) -> bool:
        """See `proxy.commands.Edge`."""
        if self._down.unsent > self._home.limits.high_water:
            self._full_seen = True
            return True
        self._share -= 1
        if self._share >= 0:
            return False
        if not self._waits:
            self._waits = self._unsettled = True
            self._home.later(self)
        return True

    @property
    def downstream_unsent(self) -> int:
        """See `proxy.commands.Edge`."""
        return self._down.unsent

    def send_downstream(self, data: bytes | memoryview) -> None:
        """See `proxy.commands.Edge`."""
        self._unsettled = True
        self._down.give(data)

    def send_upstream(self, data: bytes | memoryview) -> None:
        """See `proxy.commands.Edge`."""
        if self._up is None:
            raise RuntimeError("bytes for a leg that is not there")
        self._unsettled = True
        self._up.give(data)

    def pass_downstream(self, data: bytes) -> None:
        """See `proxy.commands.Edge`."""
        if not self._down.pass_on(data):
            self._unsettled = True

    def pass_upstream(self, data: bytes) -> None:
        """See `proxy.commands.Edge`."""
        if self._up is None:
            raise RuntimeError("bytes for a leg that is not there")
        if not self._up.pass_on(data):
            self._unsettled = True

    def open_upstream(self, permit: Permit) -> None:
        """See `proxy.commands.Edge`."""
        flow = self.flow
        if (permit.endpoint_id, permit.direction, permit.port) != (flow.endpoint, flow.direction, flow.port):
            raise RuntimeError("a permit for another connection")
        if self._up is not None or self._dial is not None:
            raise RuntimeError("a second leg")
        family = socket.AF_INET6 if ":" in self._original[0] else socket.AF_INET
        self._unsettled = True
        dial = self._home.dialler.dial(flow.endpoint, flow.direction, family, self._client, self._original, self)
        if dial is not None:
            self._dial = dial

    def close_upstream(self) -> None:
        """See `proxy.commands.Edge`."""
        self._unsettled = True
        if self._dial is not None:
            self._dial.stop()
            self._dial = None
        if self._up is not None:
            self._up.close()
            self._up = None

    def pause_downstream(self) -> None:
        """See `proxy.commands.Edge`."""
        self._unsettled = True
        self._paused = True

    def resume_downstream(self) -> None:
        """See `proxy.commands.Edge`."""
        self._unsettled = True
        self._paused = False

    def end_downstream(self) -> None:
        """See `proxy.commands.Edge`."""
        self._unsettled = True
        self._down.end()

    def end_upstream(self) -> None:
        """See `proxy.commands.Edge`."""
        self._unsettled = True
        if self._up is not None:
            self._up.end()

    def hand_over(self, layer: Layer) -> None:
        """See `proxy.commands.Edge`."""
        self._unsettled = True
        self._layer = layer

    def finish(self, *, linger: bool) -> None:
        """See `proxy.commands.Edge`."""
        self.close_upstream()
        self._unsettled = True
        self._finishing = True
        self._linger = linger
        self._home.timers.set(self, self._home.limits.idle_s)

    def reset(self) -> None:
        """See `proxy.commands.Edge`."""
        self._close(reset=True)

    def set_timer(self, timer: Timer, seconds: float) -> None:
        """See `proxy.commands.Edge`."""
        self._timer = timer
        self._home.timers.set(self, seconds)

    # ---- what the loop calls

    def _down_readable(self, _events: int = 0) -> None:
        self._share = SHARE
        try:
            size = self._read_down
            layer = self._layer
            if size != self._small and self._up is not None and layer is not None:
                moved = self._relay(self._down, self._up, layer.passing_up)
                if moved:
                    layer.passed_up(moved)
                    if self._unsettled:
                        self._settle()
                    return
            try:
                data = self._down.recv(size)
            except BlockingIOError:
                self._settle()
                return
            except OSError:
                data = None
            if data is None or (not data and self._down.was_reset):
                self._down.want_read(False)
                self._lost()
                return
            if self._finishing:
                self._throw_away(data)
                return
            if layer is None:
                raise RuntimeError("a flow without a layer")
            if data:
                if size != self._small or len(data) == size:
                    self._read_down = self._next_size(size, len(data))
                layer.downstream_data(data)
            else:
                self._down.ended = True
                self._down.want_read(False)  # it would be told for ever
                self._unsettled = True
                layer.downstream_eof()
            if self._unsettled:
                self._settle()
        except Exception:  # noqa: BLE001  whatever it is, the flow ends, with a record
            self.crashed()

    def _up_readable(self, _events: int = 0) -> None:
        self._share = SHARE
        try:
            up, layer = self._up, self._layer
            if up is None or layer is None:
                raise RuntimeError("bytes from a leg that is not there")
            size = self._read_up
            if size != self._small:
                moved = self._relay(up, self._down, layer.passing_down)
                if moved:
                    layer.passed_down(moved)
                    if self._unsettled:
                        self._settle()
                    return
            try:
                data = up.recv(size)
            except BlockingIOError:
                return
            except OSError:
                data = None
            if data is None or (not data and up.was_reset):
                up.want_read(False)
                layer.upstream_lost()
                self._settle()
                return
            if data:
                if size != self._small or len(data) == size:
                    self._read_up = self._next_size(size, len(data))
                layer.upstream_data(data)
            else:
                up.ended = True
                up.want_read(False)
                self._unsettled = True
                layer.upstream_eof()
            if self._unsettled:
                self._settle()
        except Exception:  # noqa: BLE001  as above
            self.crashed()

    def _relay(self, source: Side, target: Side, most: int) -> int:
        """Move octets that the layer need not see; 0 when they are better read, or are not there."""
        limits = self._home.limits
        if most < limits.relay_bytes or target.unsent or target.broken or self._finishing:
            return 0
        try:
            moved = self._home.relay.move(source, target, min(most, limits.bulk_read_bytes))
        except OSError:
            return 0  # whoever reads finds an end, and that the side was reset
        if target.unsent:
            self._unsettled = True
        return moved or 0

    def _down_writable(self) -> None:
        try:
            if not self._down.writable():
                self._lost()
                return
            if self._finishing:
                self._home.timers.set(self, self._home.limits.idle_s)  # it still takes bytes
            self._settle()
        except Exception:  # noqa: BLE001  as above
            self.crashed()

    def _up_writable(self) -> None:
        try:
            up = self._up
            if up is None:
                raise RuntimeError("room on a leg that is not there")
            up.writable()  # where it fails, reading tells the layer what became of it
            self._settle()
        except Exception:  # noqa: BLE001  as above
            self.crashed()

    def expired(self) -> None:
        """The deadline has passed."""
        try:
            if self._finishing:
                self._close(reset=not self.lingers)
            elif self._layer is not None:
                self._layer.expired(self._timer)
                self._settle()
        except Exception:  # noqa: BLE001  as above
            self.crashed()

    def leg_open(self, sock: socket.socket) -> None:
        """The dial succeeded."""
        self._dial = None
        self._read_up = self._home.limits.read_bytes
        self._unsettled = True
        self._up = Side(self._home.watch, sock, self._up_readable, self._up_writable, shared=True)
        self._leg_told(self._the_layer().upstream_open)

    def leg_failed(self, failure: LegFailure) -> None:
        """The dial failed."""
        self._dial = None
        self._leg_told(partial(self._the_layer().upstream_failed, failure))

    def _leg_told(self, tell: Callable[[], None]) -> None:
        try:
            tell()
            self._settle()
        except Exception:  # noqa: BLE001  as above
            self.crashed()

    def _the_layer(self) -> Layer:
        if self._layer is None:
            raise RuntimeError("a flow without a layer")
        return self._layer

    def crashed(self) -> None:
        """Called in an exception handler: end the flow, reset it, record and tell the operator."""
        log.exception("flow ended by an internal error endpoint=%d", self.flow.endpoint)
        self._home.counters["internal_error"] += 1
        self._close(reset=True)
        try:
            self.flow.record(ERROR, "internal_error", RULE_GUARD)
        except Exception:
            log.exception("the end of a flow could not be recorded endpoint=%d", self.flow.endpoint)

    # ---- the settling

    def _settle(self) -> None:
        """Send what was given, then set right what is watched, or go on closing."""
        self._unsettled = False
        down = self._down
        if down.fd < 0:
            return
        limits = self._home.limits
        while True:
            up = self._up
            if up is not None and up.wants_flush:
                up.flush()  # where it fails, reading tells the layer what became of it
            if down.wants_flush and not down.flush():
                self._lost()
                return
            if self._finishing:
                self._finish_step()
                return
            if not self._full_seen or down.unsent > limits.low_water or self._layer is None:
                break
            self._full_seen = False
            self._layer.downstream_drained()
            if down.fd < 0:
                return
        # INVARIANT: whoever is not read here is read again by a later settling, which the writer of the full side
        # causes. A side stops at the high-water mark and goes on at the low one.
        high, low = limits.high_water, limits.low_water
        room = down.unsent <= (high if down.reading or (up is not None and up.reading) else low)
        want_down = room and not self._paused and not self._waits
        if up is not None:
            if up.unsent > low:
                want_down = want_down and down.reading and up.unsent <= high
            if room is not up.reading:
                up.want_read(room)
            if down.ended and up.ended and down.fin_sent and up.fin_sent:
                self._close()
                return
        if want_down is not down.reading:
            down.want_read(want_down)

    def _finish_step(self) -> None:
        down, home = self._down, self._home
        if down.unsent:
            down.want_read(False)
            return
        if not self._linger or down.ended:
            self._close()
            return
        if not self.lingers:
            if home.lingering >= home.limits.max_lingering:
                home.counters["limit_lingering"] += 1
                self._close(reset=True)
                return
            home.lingering += 1
            self.lingers = True
            down.end()
            home.timers.set(self, home.limits.linger_s)
            if not down.flush():
                self._close()
                return
        down.want_read(True)

    def _throw_away(self, data: bytes) -> None:
        """What a client sends that has had its last answer."""
        self._lingered += len(data)
        if not data:
            self._down.ended = True
            self._close()
        elif self._lingered > self._home.limits.linger_bytes:
            self._close(reset=True)

    def _lost(self) -> None:
        """The client is gone."""
        if self._finishing or self._layer is None:
            self._close()
            return
        self._layer.downstream_lost()
        self._settle()

    def _close(self, *, reset: bool = False) -> None:
        if self._down.fd < 0:
            return
        self._finishing = True
        if reset and self._up is not None:
            self._up.close(reset=True)  # or a client's reset would reach the server as the end of what it said
        self.close_upstream()
        self._down.close(reset=reset)
        self._home.timers.cancel(self)
        if self.lingers:
            self.lingers = False
            self._home.lingering -= 1
        self._home.forget(self)
        if self._layer is not None:
            self._layer.closed()

    def _next_size(self, size: int, got: int) -> int:
        """Read big when there is much, small again when there is not."""
        limits = self._home.limits
        if got == size:
            return limits.bulk_read_bytes
        return size if got > limits.read_bytes else limits.read_bytes
