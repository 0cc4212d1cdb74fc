"""Peer `py-h11`: a proxy of asyncio streams and h11 in the node, reached by nftables REDIRECT."""

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.benchlab import HERE
from bench.peers.redirected import Redirected


class PyH11(Redirected):
    """Neither policy nor records: what h11 and streams alone cost."""

    name = "py-h11"
    port = 15001
    max_workers = 1

    def command(self, work: Path, workers: int) -> Sequence[str]:
        return [sys.executable, "-P", str(HERE / "peers" / "py_h11.py"), str(self.port)]
