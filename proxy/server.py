"""The data plane of one worker: listeners, flows, rules in force, draining.

This file, `edge.py`, `side.py` and `dial.py` are the socket edge: nothing else accepts, reads, writes, connects or
waits. Sockets of our own on `add_reader` and `add_writer`, one thread, no task per request or connection
(docs/decisions/0005-socket-edge.md).
"""

import asyncio
import errno
import logging
import os
import resource
import socket
import time
from collections import deque
from collections.abc import Callable

from parsers.http1.events import Http1Limits
from policies.engine import Engine
from policies.ruleset import Answer
from proxy.accept import Origins, reaches_listener
from proxy.counters import new_counters
from proxy.dial import Dialler, Upstreams
from proxy.edge import FlowEdge
from proxy.flow import Address, Flow, Note
from proxy.flow_event import DROPPED, ERROR, RULE_GUARD, RULE_LIMIT, FlowEvent
from proxy.kafka.apis import judge, refuse
from proxy.kafka.shared import Shared
from proxy.layers.answers import bare_answer
from proxy.layers.http1 import Http1Layer
from proxy.layers.kafka import KafkaLayer
from proxy.layers.opaque import OpaqueLayer
from proxy.layers.recognised import Patterns, RecognisedLayer
from proxy.limits import Limits
from proxy.policy_box import PolicyBox
from proxy.relay import Relay
from proxy.timers import Timers
from proxy.watch import READ, Watch

__all__ = ["Limits", "PolicyBox", "Server", "Upstreams"]

log = logging.getLogger("tulle.proxy")

TURN_S = 0.005
"""How long flows that had their share of requests go on before everybody else has a turn."""
_KEPT_FILES = 512
"""Descriptors that accepting leaves for what else comes: a batch of sockets from the broker, what the agent hands over
(250 at a time), pipes, the audit file. A worker that accepted to the last one lost its agent's message, with it the
agent's trust, and 9,650 connections (seen)."""
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Listener:
    """One listening socket; closed with the endpoint or at draining."""

    __slots__ = ("_accept", "direction", "endpoint", "port", "sock")

    def __init__(
        self, sock: socket.socket, endpoint: int, direction: int, accept: Callable[["Listener"], None]
    ) -> None:
        self._accept = accept
        self.sock = sock
        self.endpoint = endpoint
        self.direction = direction
        self.port: int = sock.getsockname()[1]

    def readable(self, _events: int) -> None:
        """Connections wait."""
        self._accept(self)


class Server:
    """All flows of one worker. Implements `proxy.edge.Home`. Not thread-safe: everything runs on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        policy: PolicyBox,
        upstreams: Upstreams,
        emit: Callable[[FlowEvent], None],
        limits: Limits | None = None,
        counters: dict[str, int] | None = None,
        origins: Origins | None = None,
        note: Note | None = None,
        watch: Watch | None = None,
    ) -> None:
        """watch: of a loop that has one (`proxy.watch.new_loop`); any other loop is given one to watch. note: records
        what `emit` would be told of requests that share a shape."""
        self.loop = loop
        self._own_watch = watch is None
        self.watch = Watch() if watch is None else watch
        if self._own_watch:
            self.watch.attach(loop)
        self._note = note
        self.limits = limits or Limits()
        self.counters = new_counters() if counters is None else counters
        self.timers = Timers(loop)
        self.dialler = Dialler(loop, self.timers, upstreams, self.limits, self.counters)
        self.relay = Relay()
        self._kafka = Shared(self.counters, judge, refuse)
        self.lingering = 0
        self._later: deque[FlowEdge] = deque()
        self._goes_on = False
        self._policy = policy
        self._emit = emit
        self._origins = origins or Origins()
        self._patterns = Patterns(Http1Limits(max_head_bytes=self.limits.head_bytes, max_fields=self.limits.headers))
        self._listeners: dict[int, list[Listener]] = {}
        self._ports: dict[int, set[int]] = {}
        self._flows: dict[int, set[FlowEdge]] = {}
        self._draining = False
        self._resting: asyncio.TimerHandle | None = None
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._last_file = files - min(_KEPT_FILES, files // 4)
        policy.subscribe(self._rules_changed)

    # ---- for the worker

    def add_listener(self, sock: socket.socket, endpoint_id: int, direction: int) -> None:
        """Accept on this socket, which is the server's from now on."""
        if self._draining:
            raise RuntimeError("a listener for a server that drains")
        sock.setblocking(False)
        # Accepted sockets inherit it: one system call here and none per connection.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener = Listener(sock, endpoint_id, direction, self._accept)
        self._listeners.setdefault(endpoint_id, []).append(listener)
        self._ports.setdefault(endpoint_id, set()).add(listener.port)
        if self._resting is None:
            self.watch.add(sock.fileno(), READ, listener.readable)

    def remove_endpoint(self, endpoint_id: int) -> None:
        """Close the endpoint's listeners; live flows go on."""
        for listener in self._listeners.pop(endpoint_id, []):
            if self._resting is None:
                self.watch.remove(listener.sock.fileno())
            listener.sock.close()
        self._ports.pop(endpoint_id, None)

    def close_flows(self, endpoint_id: int, reason: str) -> None:
        """Reset the endpoint's live flows, each with a record of this reason (a code of `[a-z_]+`)."""
        for edge in list(self._flows.get(endpoint_id, ())):
            edge.flow.record(ERROR, reason, RULE_GUARD)
            edge.reset()

    def flows(self, endpoint_id: int) -> int:
        """Live flows of the endpoint."""
        return len(self._flows.get(endpoint_id, ()))

    def flow_counts(self) -> dict[int, int]:
        """Live flows of every endpoint that has any."""
        return {endpoint: len(edges) for endpoint, edges in self._flows.items() if edges}

    def swap(self, engine: Engine) -> None:
        """Put new rules in force: every later request meets them, opaque flows that they do not allow are closed."""
        self._policy.swap(engine)

    def start_drain(self) -> None:
        """Close all listeners. Live flows go on as if nothing had happened: an upgrade is none of their business."""
        self._draining = True
        for endpoint in list(self._listeners):
            self.remove_endpoint(endpoint)

    def end_flows(self) -> None:
        """Every HTTP connection's next response is its last. Idle ones are left until they speak or time out: to close
        one could cross a request on its way."""
        for edges in self._flows.values():
            for edge in list(edges):
                edge.drain()

    @property
    def idle(self) -> bool:
        """Whether no flow is left."""
        return not any(self._flows.values())

    def close(self) -> None:
        """Close everything now; for tests and the end of the process."""
        if self._resting is not None:
            self._resting.cancel()
        for endpoint in list(self._listeners):
            self.remove_endpoint(endpoint)
        for edges in list(self._flows.values()):
            for edge in list(edges):
                edge.reset()
        self.timers.close()
        self.relay.close()
        if self._own_watch:
            self.watch.close(self.loop)

    # ---- for edges

    def forget(self, edge: FlowEdge) -> None:
        """See `proxy.edge.Home`."""
        endpoint = edge.flow.endpoint
        edges = self._flows.get(endpoint)
        if edges is not None:
            edges.discard(edge)
            if not edges:
                del self._flows[endpoint]

    def later(self, edge: FlowEdge) -> None:
        """See `proxy.edge.Home`."""
        self._later.append(edge)
        if not self._goes_on:
            self._goes_on = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        until = time.monotonic() + TURN_S
        while self._later:
            self._later.popleft().go_on()
            if self._later and time.monotonic() >= until:
                self.loop.call_soon(self._go_on)
                return
        self._goes_on = False

    # ---- accepting

    def _accept(self, listener: Listener) -> None:
        for _ in range(self.limits.accept_batch):
            try:
                sock, client = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(listener, error)
                    return
                if listener.sock.fileno() < 0:
                    return
                continue  # the client was gone before we came (accept(2): network errors of the new socket)
            self.counters["accepted"] += 1
            full = sock.fileno() >= self._last_file
            try:
                self._take(sock, client, listener)
            except Exception:
                log.exception("a connection could not be taken endpoint=%d", listener.endpoint)
                self.counters["internal_error"] += 1
                sock.close()
            if full:
                self._rest(listener, OSError(errno.EMFILE, "nearly all descriptors are in use"))
                return

    def _rest(self, listener: Listener, error: OSError) -> None:
        """Nothing is left to accept with: wait for flows to end. The connections wait in the backlog meanwhile."""
        self.counters["accept_paused"] += 1
        if self._resting is not None:
            return
        log.warning("accepting rests: %s", error.strerror)
        unknown: Address = ("0.0.0.0", 0)  # noqa: S104  no address: the connection was not accepted
        flow = self._flow(listener, unknown, unknown)
        flow.record(ERROR, "accept_paused", RULE_LIMIT)
        for listeners in self._listeners.values():
            for each in listeners:
                self.watch.remove(each.sock.fileno())
        self._resting = self.loop.call_later(self.limits.accept_pause_s, self._resume)

    def _resume(self) -> None:
        if self._full():
            self.counters["accept_paused"] += 1
            self._resting = self.loop.call_later(self.limits.accept_pause_s, self._resume)
            return
        self._resting = None
        for listeners in self._listeners.values():
            for listener in listeners:
                self.watch.add(listener.sock.fileno(), READ, listener.readable)

    def _full(self) -> bool:
        """Whether the next descriptor is one that is kept. The kernel gives the lowest that is free (open(2))."""
        try:
            fd = os.dup(self.watch.fileno)
        except OSError:
            return True
        os.close(fd)
        return fd >= self._last_file

    def _flow(self, listener: Listener, client: Address, original: Address) -> Flow:
        return Flow(
            self._policy,
            self._emit,
            self.limits,
            self.counters,
            listener.endpoint,
            listener.direction,
            client,
            original,
            self._note,
        )

    def _take(self, sock: socket.socket, peer: Address, listener: Listener) -> None:
        """Judge a new connection and put it into a flow."""
        sock.setblocking(False)
        try:
            client, original = self._origins.of(sock, peer)
        except OSError:
            sock.close()  # gone already
            return
        flow = self._flow(listener, client, original)
        edge = FlowEdge(self, flow, sock, client, original)
        try:
            self._place(edge, flow, listener, client, original)
        except Exception:  # noqa: BLE001  whatever it is, the flow ends, with a record
            edge.crashed()

    def _place(self, edge: FlowEdge, flow: Flow, listener: Listener, client: Address, original: Address) -> None:
        endpoint, direction = listener.endpoint, listener.direction
        ports = self._ports.get(endpoint, set[int]())
        if self._origins.forbidden(original) or (
            original[1] in ports
            and reaches_listener(
                client, original, direction, ports, own_address=self._policy.owns(endpoint, original[0])
            )
        ):
            self.counters["dialled_listener"] += 1
            flow.record(DROPPED, "dialled_listener", RULE_GUARD)
            edge.reset()
            return
        place = flow.place()
        if place.connection.answer is Answer.DENY:
            # The kernel refuses such connections; this one was accepted as the rules changed.
            verdict = flow.verdict_on_connection()
            self.counters["peer_denied"] += 1
            flow.record(DROPPED, "peer_denied", verdict.rule, verdict.policies)
            edge.reset()
            return
        protocol, passes = place.protocol, place.passes
        if protocol == "conflict" and not passes:
            verdict = flow.verdict_on_connection()
            self.counters["unjudged_protocol"] += 1
            flow.record(DROPPED, verdict.reason, verdict.rule, verdict.policies)
            edge.reset()
            return
        edges = self._flows.setdefault(endpoint, set())
        if len(edges) >= self.limits.connections_per_endpoint:
            self.counters["limit_connections"] += 1
            flow.record(DROPPED, "limit_connections", RULE_LIMIT, code=503 if protocol == "http" else 0)
            if protocol == "http":
                edges.add(edge)
                edge.refuse(bare_answer(503))
            else:
                edge.reset()
            return
        edges.add(edge)
        if protocol == "http":
            quick = RecognisedLayer(flow, edge, self._patterns, place) if self.limits.recognise else None
            if quick is None or passes or place.decisions is None:
                edge.start(Http1Layer(flow, edge, self._patterns.limits, lenient=passes, quick=quick))
            else:
                edge.start(quick)
        elif protocol == "kafka":
            edge.start(KafkaLayer(flow, edge, self._kafka, lenient=passes))
        else:
            edge.start(OpaqueLayer(flow, edge, unjudged=f"{protocol} rules cannot be judged yet" if protocol else ""))

    def _rules_changed(self) -> None:
        """Flows that are no longer allowed end now where a policy wants that (`onChange: close-denied`), and meet the
        change at their next request where none does. What cannot wait for one, layers see to: opaque bytes, and answers
        under way that may hold what is denied now (`Layer.rules_changed`)."""
        for edges in list(self._flows.values()):
            for edge in list(edges):
                flow = edge.flow
                if edge.opaque:
                    edge.rules_changed()
                elif flow.closes_denied and not edge.ending and flow.judge().answer is Answer.DENY:
                    self.counters["denied_closed"] += 1
                    verdict = flow.verdict_on_connection()
                    flow.record(DROPPED, "no_longer_allowed", verdict.rule, verdict.policies)
                    edge.reset()
                else:
                    edge.rules_changed()
