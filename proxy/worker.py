"""A worker process: gives up its privileges, then does what its agent says over a Unix socket.

Started as `python -m proxy.worker FD SETTINGS` with a listening SOCK_SEQPACKET socket as descriptor FD, made by the
agent. Whoever
connects to it must be root: this agent, the next one after an upgrade, or `tulle status`. SETTINGS is JSON:
{"name", "node", "uid", "audit": {"directory", "max_bytes", "backups", "stdout"}, "limits": {...}}.

    {"op": "rules", "epoch"} + 2 memfds    judge by this rule set (policies.wire) from now on; the other is JSON,
                                           {endpoint: [path, inode]}: where the pods' network namespaces are. With
                                           "base" the first is what changed since that epoch, and refused by a worker
                                           that has another
    {"op": "listeners", "endpoint", "slot", "kinds": [[direction, family], ...]} + sockets   accept on these
    {"op": "remove", "endpoint", "now"}    close the endpoint's listeners and stock; now: its flows too (the pod is
    gone)
    {"op": "close_flows", "endpoint", "reason"}
    {"op": "broker"} + 1 socket            take upstream sockets from here
    {"op": "hold", "more"} + descriptors   keep the kernel's links alive beside the pins; more: beside those held
    {"op": "drain", "limit_s", "final_s"}  accept nothing more; exit when the last flow has ended; from limit_s on every
                                           response is its connection's last, and final_s later what is left is closed
    {"op": "state"}                        answer only

Every message carries "id"; every answer is {"id", "ok", "error", ...state}. Without an agent a worker serves on by
the last rule set, and closes what it holds of a pod that is gone.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import struct
import sys
from pathlib import Path

from parsers.kafka.table import TABLE
from policies.engine import Engine
from policies.ruleset import RuleSet
from policies.wire import apply_change, decode
from proxy import channel
from proxy.confine import confine
from proxy.records import Recorder
from proxy.server import Limits, PolicyBox, Server
from proxy.stock import Stock
from proxy.watch import Watch, new_loop

log = logging.getLogger("tulle.worker")

PLACE_CHECK_S = 0.4
"""How often the pods' network namespaces are checked: our sockets would keep a dead one alive."""
LINGER_S = 1.0
"""A listener that nothing is steered to any more stays this long: a handshake under way ends in an accept, not in a
reset."""
IDLE_EXIT_CHECK_S = 0.2
ORPHAN_S = 30.0
"""A worker that nobody gave rules in this time, and to whom nobody is connected, ends."""


class Worker:
    """Everything one worker process holds; one event loop, no threads."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, watch: Watch, control: socket.socket, settings: dict[str, object]
    ) -> None:
        self._loop = loop
        self._control = control
        self._name = str(settings["name"])
        audit: dict[str, object] = settings["audit"]  # type: ignore[assignment]  # written by our own agent
        limits: dict[str, object] = settings["limits"]  # type: ignore[assignment]  # as above
        self._recorder = Recorder(str(settings["node"]), self._name, audit)
        self._recorder.attach(loop)
        self._policy = PolicyBox()
        self._stock = Stock(loop)
        self._server = Server(
            loop,
            policy=self._policy,
            upstreams=self._stock,
            emit=self._recorder.emit,
            note=self._recorder.note,
            watch=watch,
            limits=Limits(**limits),  # type: ignore[arg-type]  # checked by the agent's LimitSettings
        )
        self._epoch = 0
        self._places: dict[int, tuple[str, int]] = {}
        self._lingering: dict[int, asyncio.TimerHandle] = {}
        self._held: list[int] = []
        self._draining = False
        self._slot: int | None = None
        self._told = False
        self._agents = 0
        self.finished = asyncio.Event()

    def start(self) -> None:
        """Begin to listen for the agent."""
        self._control.setblocking(False)
        self._loop.add_reader(self._control.fileno(), self._accept)
        self._loop.call_later(PLACE_CHECK_S, self._check_places)
        self._loop.call_later(ORPHAN_S, self._check_orphan)

    def _check_orphan(self) -> None:
        """End when nobody ever said what to do: the agent died before it wrote down that we are there."""
        if self._agents == 0 and not self._told:
            self.finished.set()
        elif not self._told:
            self._loop.call_later(ORPHAN_S, self._check_orphan)

    def stop(self) -> None:
        """Write out what is left."""
        self._recorder.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._control.accept()
        except BlockingIOError:
            return
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != 0:
            log.warning("control connection from uid %d refused", uid)
            sock.close()
            return
        sock.setblocking(False)
        self._agents += 1
        self._loop.add_reader(sock.fileno(), self._readable, sock)

    def _readable(self, sock: socket.socket) -> None:
        try:
            received = channel.receive(sock)
        except BlockingIOError:
            return
        except channel.CutError as error:  # the agent is told, and the channel stays
            log.error("control: '%s' failed: %s", error.message.get("op"), error)
            self._answer(sock, {"id": error.message.get("id"), "ok": False, "error": str(error)})
            return
        except (OSError, channel.ChannelError) as error:
            log.warning("control: %s", error)
            received = None
        if received is None:
            self._loop.remove_reader(sock.fileno())
            sock.close()
            self._agents -= 1
            return
        message, fds = received
        answer: channel.Message = {"id": message.get("id"), "ok": True, "error": None}
        try:
            self._do(message, fds)
        except (KeyError, TypeError, ValueError, OSError) as error:
            channel.close_all(fds)
            log.error("control: '%s' failed: %r", message.get("op"), error)
            answer |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
        self._answer(sock, answer)

    def _answer(self, sock: socket.socket, answer: channel.Message) -> None:
        try:
            channel.send(sock, answer | self._state())
        except OSError as error:
            log.warning("control: no answer sent: %s", error)

    def _do(self, message: channel.Message, fds: list[int]) -> None:
        """Do one thing; takes the descriptors out of `fds` as it makes them its own."""
        endpoint = message.get("endpoint", 0)
        if not isinstance(endpoint, int):
            raise TypeError("endpoint is not a number")
        match message["op"]:
            case "state":
                pass
            case "rules":
                self._rules(message, fds)
            case "listeners":
                self._listeners(endpoint, message, fds)
            case "remove":
                self._remove(endpoint, now=bool(message["now"]))
            case "close_flows":
                self._server.close_flows(endpoint, str(message["reason"]))
            case "broker":
                self._stock.use_broker(socket.socket(fileno=fds.pop()))
            case "hold":
                if not message["more"]:
                    channel.close_all(self._held)
                    self._held = []
                self._held += fds
                fds.clear()
            case "drain":
                self._drain(float(str(message["limit_s"])), float(str(message["final_s"])))
            case other:
                raise ValueError(f"unknown operation '{other}'")
        if fds:
            raise ValueError(f"{len(fds)} descriptors too many")

    def _rules(self, message: channel.Message, fds: list[int]) -> None:
        rules_fd, places_fd = fds
        ruleset = self._ruleset(_content(rules_fd), message.get("base"))
        places: dict[str, tuple[str, int]] = json.loads(_content(places_fd))
        channel.close_all(fds)
        fds.clear()
        held = {int(key): (str(path), int(inode)) for key, (path, inode) in places.items()}
        epoch = int(str(message["epoch"]))
        engine = Engine(ruleset, self._policy.engine)
        self._recorder.names(ruleset)
        self._server.swap(engine)
        # INVARIANT: the epoch is of the rules in force; the next change would be put upon others without a word
        self._places, self._epoch, self._told = held, epoch, True

    def _ruleset(self, data: bytes, base: object) -> RuleSet:
        if base is None:
            return decode(data)
        if base != self._epoch or not self._told:
            raise ValueError(f"a change of epoch {base}, this worker has {self._epoch}")
        return apply_change(self._policy.engine.ruleset, data)

    def _listeners(self, endpoint: int, message: channel.Message, fds: list[int]) -> None:
        kinds: list[list[int]] = message["kinds"]  # type: ignore[assignment]  # a wrong shape raises below
        if len(kinds) != len(fds):
            raise ValueError(f"{len(kinds)} kinds for {len(fds)} sockets")
        if self._draining:
            raise ValueError("this worker is draining")
        self._end_lingering(endpoint)
        self._slot = int(str(message["slot"]))
        for direction, family in kinds:
            sock = socket.socket(fileno=fds.pop(0))
            self._stock.keep(endpoint, direction, family)
            self._server.add_listener(sock, endpoint, direction)

    def _remove(self, endpoint: int, *, now: bool) -> None:
        self._end_lingering(endpoint)
        if now:
            self._server.close_flows(endpoint, "endpoint_gone")
            self._places.pop(endpoint, None)
        else:
            timer = self._loop.call_later(LINGER_S, self._end_lingering, endpoint)
            self._lingering[endpoint] = timer
            return
        self._server.remove_endpoint(endpoint)
        self._stock.drop(endpoint)

    def _end_lingering(self, endpoint: int) -> None:
        """Close the listeners of an endpoint that was removed a moment ago, if it was."""
        if timer := self._lingering.pop(endpoint, None):
            timer.cancel()
            self._server.remove_endpoint(endpoint)
            self._stock.drop(endpoint)

    def _drain(self, limit_s: float, final_s: float) -> None:
        if not self._draining:
            self._draining = True
            self._loop.call_later(LINGER_S, self._drained)
            self._loop.call_later(limit_s, self._server.end_flows)
            self._loop.call_later(limit_s + final_s, self._close_all)

    def _drained(self) -> None:
        self._server.start_drain()
        self._exit_when_idle()

    def _close_all(self) -> None:
        for endpoint in self._server.flow_counts():
            self._server.close_flows(endpoint, "drain_limit")

    def _exit_when_idle(self) -> None:
        if self._server.idle:
            self.finished.set()
        else:
            self._loop.call_later(IDLE_EXIT_CHECK_S, self._exit_when_idle)

    def _check_places(self) -> None:
        for endpoint, (path, inode) in list(self._places.items()):
            if not _same(path, inode):
                log.info("endpoint %d is gone", endpoint)
                self._remove(endpoint, now=True)
        self._loop.call_later(PLACE_CHECK_S, self._check_places)

    def _state(self) -> channel.Message:
        flows = {str(endpoint): count for endpoint, count in self._server.flow_counts().items()}
        return {
            "pid": os.getpid(),
            "name": self._name,
            "revision": self._policy.revision,
            "epoch": self._epoch,
            "draining": self._draining,
            "slot": self._slot,
            "broker": self._stock.connected,
            "flows": flows,
            "counters": dict(self._server.counters) | self._recorder.counters() | {"stock_dry": self._stock.dry},
        }


def _content(memfd: int) -> bytes:
    """All of it. Every worker has the same open file, and with it the same position, which must not be used (seen)."""
    return os.pread(memfd, os.fstat(memfd).st_size, 0)


def _same(path: str, inode: int) -> bool:
    try:
        return Path(path).stat().st_ino == inode
    except PermissionError:
        return True  # a path that an unprivileged process may not see: the agent and the broker look after it
    except OSError:
        return False


async def _serve(watch: Watch, control: socket.socket, settings: dict[str, object]) -> None:
    loop = asyncio.get_running_loop()
    worker = Worker(loop, watch, control, settings)
    # The agent stops workers by draining or SIGKILL; a signal meant for the agent's terminal must not end
    # enforcement.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGTERM, worker.finished.set)
    worker.start()
    try:
        await worker.finished.wait()
    finally:
        worker.stop()


def main() -> int:
    """Entry of the process."""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s worker[{os.getpid()}] %(levelname)s %(message)s")
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    TABLE.load()  # who is confined cannot read it
    confine(int(settings["uid"]))
    loop, watch = new_loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_serve(watch, control, settings))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
