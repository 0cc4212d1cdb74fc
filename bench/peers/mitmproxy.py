"""Peer `mitmproxy`: mitmdump in its transparent mode in the node, reached by nftables REDIRECT."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.benchlab import HERE
from bench.errors import BenchError
from bench.peers import rules
from bench.peers.redirected import Redirected

# `./dev bench` makes it; a sibling of what else set-up keeps in the virtual environment
_MITMDUMP = Path(sys.prefix) / "share" / "tulle" / "mitmproxy" / "bin" / "mitmdump"


class Mitmproxy(Redirected):
    """One process, ten rules in an addon, a JSON line per request in a file; bodies over 32 KiB are streamed."""

    name = "mitmproxy"
    policy = True
    port = 15004
    max_workers = 1

    def command(self, work: Path, workers: int) -> Sequence[str]:
        if not _MITMDUMP.exists():
            raise BenchError("mitmproxy is not installed: ./dev bench does that, or leave it out of --peers")
        known = json.dumps([[rule.methods, rule.path] for rule in rules.read()])
        environment = [f"BENCH_RULES={known}", f"BENCH_LOG={work / 'access.log'}"]
        options = ["-q", "--mode", "transparent", "--listen-port", str(self.port), "--set", f"confdir={work / 'keys'}"]
        options += ["--set", "stream_large_bodies=32k", "-s", str(HERE / "peers" / "mitm_rules.py")]
        return ["env", *environment, str(_MITMDUMP), *options]
