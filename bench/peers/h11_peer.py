"""Peer `py-h11`: a proxy of asyncio streams and h11 in the node, reached by nftables REDIRECT."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.benchlab import CLIENT, HERE, NODE, WEB_PORT, BenchLab
from bench.errors import BenchError
from bench.peers.base import Peer
from lab import confine, names, spawn
from lab.vxlan import gateways

_PORT = 15001
_LISTEN_S = 10.0
_TCP_LISTEN = "0A"  # column st of /proc/net/tcp, include/net/tcp_states.h
_TABLE = "tulle_bench"


class PyH11(Peer):
    """Neither policy nor records: what h11 and streams alone cost."""

    name = "py-h11"
    what = "asyncio streams and h11 on both sides, no policy, no records; in the node, by REDIRECT"

    def __init__(self, lab: BenchLab) -> None:
        super().__init__(lab)
        self._pid = 0

    def start(self) -> None:
        # In the node's cgroup, so that `lab down` ends it whatever becomes of us.
        cgroup = names.node_cgroup(self.lab.name, NODE) / "bench"
        cgroup.mkdir(exist_ok=True)

        def enter() -> None:
            confine.join_cgroup(str(cgroup))
            confine.join_netns(str(names.NETNS_ROOT / names.node_netns(self.lab.name, NODE)))

        log = self.lab.record.node_dir(NODE) / "logs" / "py-h11.log"
        program = [sys.executable, "-P", str(HERE / "peers" / "py_h11.py"), str(_PORT)]
        self._pid = spawn.spawn(program, enter=enter, log=log)
        deadline = time.monotonic() + _LISTEN_S
        while not self._listens():
            if time.monotonic() > deadline:
                raise BenchError(f"py-h11 does not listen: {log.read_text(encoding='utf-8').strip()[-500:]}")
            time.sleep(0.05)

    def processes(self) -> dict[str, list[int]]:
        return {"proxy": [self._pid]}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """REDIRECT in the node, for as long as this peer's turn lasts; nothing of NAT is on the others' way."""
        web = self.lab.web_ipv4
        node = self.lab.record.find_node(NODE)
        # The client's frames for `web` would be bridged past the node's IP layer: send them to the node instead.
        route = (f"{web}/32", "via", gateways(node)[0], "dev", "eth0")
        chain = "type nat hook prerouting priority dstnat"
        rule = f"ip daddr {web} tcp dport {WEB_PORT} redirect to :{_PORT}"
        table = f"table ip {_TABLE} {{\n chain redirect_web {{\n {chain}\n {rule}\n }}\n}}\n"
        self.lab.in_node("nft", "-f", "-", stdin=table)
        try:
            self.lab.in_pod_as_root(CLIENT, "ip", "route", "replace", *route)
            yield
        finally:
            self.lab.in_pod_as_root(CLIENT, "ip", "route", "del", *route)
            self.lab.in_node("nft", "delete", "table", "ip", _TABLE)

    def _listens(self) -> bool:
        # Read, not probed: a connection straight to the proxy's port has no other destination.
        table = Path(f"/proc/{self._pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        fields = [line.split() for line in table]
        return any(row[3] == _TCP_LISTEN and int(row[1].rpartition(":")[2], 16) == _PORT for row in fields)
