"""mitmproxy's part in peer `mitmproxy`, run by mitmdump in an environment of its own: 403 for what no rule allows, and
a JSON line per request.

Reads BENCH_RULES, a JSON list of [methods, expression], and appends to the file BENCH_LOG.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from mitmproxy import http  # type: ignore[import-not-found,unused-ignore]  # not in the project's environment

_RULES = [(frozenset(methods), re.compile(path)) for methods, path in json.loads(os.environ["BENCH_RULES"])]
_LOG = Path(os.environ["BENCH_LOG"]).open("a", encoding="utf-8", buffering=65536)  # noqa: SIM115 - for as long as it runs


def requestheaders(flow: Any) -> None:  # Any: mitmproxy's types are not in the project's environment
    """Judge by the head alone, before a body comes."""
    request = flow.request
    path = request.path.partition("?")[0]
    if not any(request.method in methods and expression.fullmatch(path) for methods, expression in _RULES):
        flow.response = http.Response.make(403, b"denied\n", {"Content-Type": "text/plain"})


def response(flow: Any) -> None:  # Any: as above
    """One line per answer."""
    line = {
        "t": flow.request.timestamp_start,
        "status": flow.response.status_code,
        "method": flow.request.method,
        "path": flow.request.path,
        "from": flow.client_conn.peername,
        "to": flow.server_conn.peername,
    }
    _LOG.write(json.dumps(line) + "\n")
