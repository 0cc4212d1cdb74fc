"""Peer `haproxy`: the distribution's HAProxy in the node, reached by nftables REDIRECT.

The address 0.0.0.0:0 of its server means the one that the client asked for (HAProxy's configuration manual, 5.2).
"""

from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.peers import rules
from bench.peers.redirected import Redirected

_LOG_FORMAT = (
    r"{\"t\":\"%[date(0,ms)]\",\"ms\":%Ta,\"verdict\":\"%tsc\",\"status\":%ST,\"method\":\"%HM\","
    r"\"path\":\"%[capture.req.uri,json(utf8s)]\",\"from\":\"%ci:%cp\",\"to\":\"%si:%sp\"}"
)
_MAX_CONNECTIONS = 12_000
# Outside quotes these mean something to its parser (configuration manual, 2.2).
_UNSAFE = frozenset(" \t\"'\\#")


class HAProxy(Redirected):
    """One thread, ten rules as ACLs, a JSON line per request in a file."""

    name = "haproxy"
    policy = True
    port = 15002

    def command(self, work: Path, workers: int) -> Sequence[str]:
        file = work / "haproxy.cfg"
        file.write_text(configuration(rules.read(), self.port, workers), encoding="utf-8")
        # Its log goes to its output, which is a file: the fastest way it has, without a syslog daemon behind it.
        return ["haproxy", "-db", "-f", str(file)]


def configuration(allowed: Sequence[rules.Rule], port: int, threads: int) -> str:
    """haproxy.cfg.

    Raises:
        BenchError: an expression cannot be written in it.
    """
    for rule in allowed:
        if _UNSAFE & set(rule.path):
            raise BenchError(f"haproxy: expression {rule.path!r} would have to be quoted")
    lines = [
        "global",
        "  log stdout len 1024 format raw local0 info",
        f"  maxconn {_MAX_CONNECTIONS}",
        # It would not start where it may not open two files per connection; server connections are shared, one will do.
        "  no strict-limits",
        f"  nbthread {threads}",
        "defaults",
        "  mode http",
        "  timeout connect 3s",
        "  timeout client 120s",
        "  timeout server 120s",
        "frontend f",
        f"  bind 0.0.0.0:{port}",
        "  log global",
        f"  log-format {_LOG_FORMAT}",
        *(f"  http-request allow if {{ method {' '.join(r.methods)} }} {{ path_reg {r.path} }}" for r in allowed),
        "  http-request deny deny_status 403",
        "  default_backend b",
        "backend b",
        "  option splice-auto",
        # As Envoy does: server connections are shared between clients. Its default opens one for most short ones.
        "  http-reuse always",
        "  server orig 0.0.0.0:0",
    ]
    return "\n".join(lines) + "\n"
