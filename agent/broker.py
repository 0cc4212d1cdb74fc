"""The broker: opens sockets inside pods for workers, which may not.

A process of its own, because it must outlive the agent: workers that serve while the agent is stopped, upgraded or
dead still need upstream sockets. It reads no byte of a pod's traffic; what it reads from workers is one small fixed
message. It ends when the agent and every worker have closed their channels.

    agent  → {"op": "pod", "endpoint", "path", "inode"}   serve sockets in this pod's network namespace
             {"op": "gone", "endpoint"}                    close it
             {"op": "worker", "name"} + 1 descriptor       serve this worker
             {"op": "ping"}                                answered with the same
    worker → {"endpoint", "direction", "family", "count", "serial"}
           ← {"endpoint", "direction", "family", "serial", "error"} + up to `count` descriptors

Started as `python -m agent.broker FD` with the agent's channel as descriptor FD.
"""

import contextlib
import logging
import selectors
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agent.privileges import BROKER_KEEPS, keep_only
from proxy import channel
from proxy.confine import raise_descriptor_limit
from redirect import netns, sockets
from redirect.errors import RedirectError
from redirect.types import Direction

log = logging.getLogger("tulle.broker")

MAX_BATCH = 240
"""Sockets of one request; a worker that asks for more is served this many. It is below `channel.MAX_FDS`, and opening
them takes some 2 ms, which is how long the others wait."""
PLACE_CHECK_S = 0.3
"""How often a pod's network namespace is checked: our descriptor would keep a dead one alive."""


class Broker:
    """State of the process; one thread, one selector."""

    def __init__(self, agent: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._pods: dict[int, tuple[netns.Netns, Path]] = {}
        self._agent: socket.socket | None = agent
        self._watch(agent, self._agent_readable)

    def run(self) -> None:
        """Serve until nobody is left."""
        checked = time.monotonic()
        while self._selector.get_map():
            for key, _ in self._selector.select(PLACE_CHECK_S):
                serve: Callable[[socket.socket], None] = key.data
                sock: socket.socket = key.fileobj  # type: ignore[assignment]  # only sockets are registered
                try:
                    serve(sock)
                except (OSError, channel.ChannelError, ValueError, ArithmeticError, KeyError, TypeError) as error:
                    log.warning("channel closed: %s", error)
                    self._drop(sock)
            if time.monotonic() - checked >= PLACE_CHECK_S:
                checked = time.monotonic()
                self._close_dead_pods()

    def _watch(self, sock: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, serve)

    def _drop(self, sock: socket.socket) -> None:
        if sock is self._agent:
            self._agent = None
        self._selector.unregister(sock)
        sock.close()

    def _agent_readable(self, _: socket.socket) -> None:
        self.take_agents_word()

    def take_agents_word(self) -> None:
        """Do all that the agent has said so far. Its end or its mistake is no worker's fault and stays here."""
        while (agent := self._agent) is not None:
            try:
                received = channel.receive(agent)
                if received is None:
                    self._drop(agent)
                    return
                self._told(agent, *received)
            except BlockingIOError:
                return
            except (OSError, channel.ChannelError, ValueError, KeyError, TypeError) as error:
                log.warning("channel of the agent closed: %s", error)
                self._drop(agent)

    def _told(self, sock: socket.socket, message: channel.Message, fds: list[int]) -> None:
        match message["op"]:
            case "ping":
                channel.send(sock, message)
            case "worker":
                (fd,) = fds
                self._watch(socket.socket(fileno=fd), self._worker_readable)
            case "pod":
                self._add_pod(int(str(message["endpoint"])), Path(str(message["path"])), int(str(message["inode"])))
            case "gone":
                self._forget(int(str(message["endpoint"])))
            case other:
                raise ValueError(f"unknown operation '{other}'")

    def _add_pod(self, endpoint: int, path: Path, inode: int) -> None:
        self._forget(endpoint)
        try:
            pod = netns.Netns.open(path)
        except (OSError, RedirectError) as error:
            log.warning("endpoint %d has no network namespace: %s", endpoint, error)
            return
        if pod.inode != inode:  # made again under the same name since the agent looked: the agent will tell us anew
            pod.close()
            return
        self._pods[endpoint] = (pod, path)

    def _forget(self, endpoint: int) -> None:
        if held := self._pods.pop(endpoint, None):
            held[0].close()

    def _close_dead_pods(self) -> None:
        for endpoint, (pod, path) in list(self._pods.items()):
            if not netns.same(path, pod.inode):
                log.info("endpoint %d is gone", endpoint)
                self._forget(endpoint)

    def _worker_readable(self, sock: socket.socket) -> None:
        received = channel.receive(sock)
        if received is None:
            self._drop(sock)
            return
        message, fds = received
        channel.close_all(fds)
        # INVARIANT: what the agent said before the worker asked is done first: an endpoint's number may be another
        # pod's by now, and a socket of the wrong pod speaks in its name.
        self.take_agents_word()
        endpoint, direction, family, count, serial = (
            int(message.get(key, 0))  # type: ignore[call-overload]  # a non-number raises, and the channel is closed
            for key in ("endpoint", "direction", "family", "count", "serial")  # a worker of before has no serial
        )
        if direction not in (0, 1) or family not in (socket.AF_INET, socket.AF_INET6) or count < 1:
            raise ValueError(f"bad request {message}")
        opened, trouble = self._open(endpoint, direction, family, min(count, MAX_BATCH))
        kind = {"endpoint": endpoint, "direction": direction, "family": family, "serial": serial}
        self._answer(sock, {**kind, "error": trouble}, opened)

    def _answer(self, sock: socket.socket, answer: channel.Message, opened: list[socket.socket]) -> None:
        """Send, now or when the worker has read what is before it. One that does not read waits alone, and is not read
        meanwhile."""
        try:
            channel.send(sock, answer, [leg.fileno() for leg in opened])
        except BlockingIOError:
            self._selector.modify(sock, selectors.EVENT_WRITE, lambda ready: self._answer(ready, answer, opened))
            return
        except OSError:
            for leg in opened:
                leg.close()
            raise
        for leg in opened:
            leg.close()
        if self._selector.get_key(sock).events != selectors.EVENT_READ:
            self._selector.modify(sock, selectors.EVENT_READ, self._worker_readable)

    def _open(self, endpoint: int, direction: int, family: int, count: int) -> tuple[list[socket.socket], str | None]:
        if endpoint not in self._pods:
            return [], "no such endpoint"
        opened: list[socket.socket] = []
        try:
            with self._pods[endpoint][0].entered():
                opened.extend(sockets.prepared_leg(Direction(direction), family) for _ in range(count))
        except (OSError, RedirectError) as error:
            log.warning("cannot open sockets for endpoint %d: %s", endpoint, error)
            return opened, str(error)
        return opened, None


def main() -> int:
    """Entry of the process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s broker %(levelname)s %(message)s")
    raise_descriptor_limit()
    keep_only(BROKER_KEEPS, no_new_privs=True)
    with contextlib.suppress(KeyboardInterrupt):
        Broker(socket.socket(fileno=int(sys.argv[1]))).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
