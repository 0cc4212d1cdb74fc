"""What the proxies in the node have in common: they listen on one port, reached by nftables REDIRECT in their turn."""

import os
import resource
import signal
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.benchlab import CLIENT, NODE, WEB_PORT, BenchLab
from bench.errors import BenchError
from bench.peers.base import Peer
from lab import confine, names, spawn
from lab.vxlan import gateways

_LISTEN_S = 30.0  # mitmproxy makes keys first
_STOP_S = 5.0
_TCP_LISTEN = "0A"  # column st of /proc/net/tcp, include/net/tcp_states.h


class Redirected(Peer):
    """A proxy of one process that asks the NAT table where a connection was meant to go."""

    port: int
    """Where it listens in the node; every peer has its own, so that all can be up at once."""

    def __init__(self, lab: BenchLab) -> None:
        super().__init__(lab)
        self._pid = 0

    @abstractmethod
    def command(self, work: Path, workers: int) -> Sequence[str]:
        """Write the configuration into `work`, which is there; give the command line that stays in the foreground."""

    def start(self, workers: int = 1) -> None:
        self.stop()
        work = self.lab.record.node_dir(NODE) / "peers" / self.name
        work.mkdir(parents=True, exist_ok=True)
        command = self.command(work, workers)
        # In the node's cgroup, so that `lab down` ends it whatever becomes of us.
        cgroup = names.node_cgroup(self.lab.name, NODE) / "bench"
        cgroup.mkdir(exist_ok=True)

        def enter() -> None:
            confine.join_cgroup(str(cgroup))
            confine.join_netns(str(names.NETNS_ROOT / names.node_netns(self.lab.name, NODE)))
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

        log = work / "output.log"
        self._pid = spawn.spawn(command, enter=enter, log=log)
        deadline = time.monotonic() + _LISTEN_S
        while not self._listens():
            if self._ended() or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace").strip()[-1000:]
                raise BenchError(f"{self.name} does not listen: {said}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, if it runs."""
        if not self._pid:
            return
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while not self._ended():
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.05)
        self._pid = 0

    @property
    def target(self) -> tuple[str, int]:
        """The server's address and port, whose connections are redirected."""
        return self.lab.web_ipv4, WEB_PORT

    def processes(self) -> dict[str, list[int]]:
        return {"proxy": [self._pid]}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """REDIRECT in the node, for as long as this peer's turn lasts; nothing of NAT is on the others' way."""
        server, server_port = self.target
        node = self.lab.record.find_node(NODE)
        # The client's frames for the server would be bridged past the node's IP layer: send them to the node instead.
        route = (f"{server}/32", "via", gateways(node)[0], "dev", "eth0")
        chain = "type nat hook prerouting priority dstnat"
        rule = f"ip daddr {server} tcp dport {server_port} counter redirect to :{self.port}"
        text = f"table ip {self._table} {{\n chain redirect_web {{\n {chain}\n {rule}\n }}\n}}\n"
        self.lab.in_node("nft", "-f", "-", stdin=text)
        try:
            self.lab.in_pod_as_root(CLIENT, "ip", "route", "replace", *route)
            yield
        finally:
            self.lab.in_pod_as_root(CLIENT, "ip", "route", "del", *route)
            self.lab.in_node("nft", "delete", "table", "ip", self._table)

    def redirected(self) -> int:
        """Connections that were redirected in this turn so far."""
        listed = self.lab.in_node("nft", "list", "table", "ip", self._table)
        return int(listed.partition("counter packets ")[2].partition(" ")[0])

    @property
    def _table(self) -> str:
        return f"tulle_bench_{self.port}"

    def _ended(self) -> bool:
        """Whether the process, our child, is over; it is reaped then."""
        with suppress(ChildProcessError):
            return os.waitpid(self._pid, os.WNOHANG)[0] == self._pid
        return True

    def _listens(self) -> bool:
        # Read, not probed: a connection straight to the proxy's port has no other destination.
        rows: list[list[str]] = []
        with suppress(FileNotFoundError, ProcessLookupError):
            for table in ("tcp", "tcp6"):
                lines = Path(f"/proc/{self._pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
                rows += [line.split() for line in lines]
        return any(row[3] == _TCP_LISTEN and int(row[1].rpartition(":")[2], 16) == self.port for row in rows)


def beside_python(name: str) -> str:
    """A program of this virtual environment."""
    return str(Path(sys.executable).with_name(name))
