"""What is measured: names, load and what a good answer is. The names are a contract of `--json`."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bench.errors import BenchError

UPLOAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """One load of wrk's, one thread. `status` is the answer that every request must get."""

    name: str
    what: str
    connections: int
    path: str = "/bench/1k"
    status: int = 200
    close: bool = False
    """One request per connection."""
    far: bool = False
    """The client is on the other node, so every packet crosses the overlay."""
    idle: int = 0
    """So many idle keep-alive connections, each of which made one request, are held meanwhile."""
    upload_bytes: int = 0
    """Each request is a POST with a body of so many bytes; bytes/s are then those of request bodies."""
    varied: bool = False
    """Each request has a head like a browser's, about 600 bytes, with a cookie and a header that never come again."""
    items: bool = False
    """Each request has a path that never came before, below /items/."""
    workers: int = 1
    """Workers of tulle, threads of the other proxies."""

    @property
    def needs_policy(self) -> bool:
        """Whether only a peer that enforces policy can answer so."""
        return self.status == 403  # RFC 9110 15.5.4

    def with_workers(self, workers: int) -> "Case":
        """The same load with at least so many workers, under the same name."""
        return replace(self, workers=max(workers, self.workers))

    @property
    def headers(self) -> tuple[str, ...]:
        return ("Connection: close",) if self.close else ()


_CASES = (
    Case("keepalive_1k_c32", "1 KiB, 32 keep-alive connections", 32),
    Case("keepalive_1k_c1", "1 KiB, 1 keep-alive connection", 1),
    Case("keepalive_varied_c32", "1 KiB, 32 keep-alive connections, no two heads alike", 32, varied=True),
    Case("short_1k_c32", "1 KiB, a connection per request, 32 at a time", 32, close=True),
    Case("body_64k_c32", "64 KiB bodies, 32 connections", 32, path="/bench/64k"),
    Case("body_1m_c8", "1 MiB bodies, 8 connections", 8, path="/bench/1m"),
    Case("upload_64k_c32", "POST of 64 KiB, 32 connections", 32, path="/api/v1/orders", upload_bytes=UPLOAD_BYTES),
    Case("denied_c32", "denied requests, 32 connections", 32, path="/admin", status=403),
    Case("idle_1000", "keepalive_1k_c32 while 1,000 more connections are idle", 32, idle=1000),
    Case("idle_10000", "keepalive_1k_c32 while 10,000 more connections are idle", 32, idle=10_000),
    Case("overlay_1k_c32", "keepalive_1k_c32 from the other node, over VXLAN", 32, far=True),
    Case("two_workers_1k_c32", "keepalive_1k_c32 with two workers or threads", 32, workers=2),
)  # fmt: skip
CASES = {case.name: case for case in _CASES}
HTTP = tuple(name for name in CASES if name != "idle_10000")
BULK = ("body_64k_c32", "body_1m_c8", "upload_64k_c32")


def chosen[T](names: str, known: dict[str, T], what: str) -> list[T]:
    """The values that a comma-separated list means, in the order of `known`, each once.

    Raises:
        BenchError: a name is not known; the message has the nearest, or all.
    """
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    for name in sorted(wanted - known.keys()):
        raise BenchError(f"no {what} {name!r}{_nearest(name, known)}")
    return [value for name, value in known.items() if name in wanted]


def _nearest(wrong: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(wrong, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
