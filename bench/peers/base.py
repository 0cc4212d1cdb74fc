"""What a peer is: a way from `client` to `web`, with or without a proxy on it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from bench import processes
from bench.benchlab import CLIENT, BenchLab
from bench.errors import BenchError

_GOOD = {"/bench/1k": 1024, "/bench/64k": 65536, "/bench/1m": 1024 * 1024}
_BAD = (("GET", "/admin"), ("POST", "/bench/1k"), ("GET", "/bench/2k"))
_FORBIDDEN = 403


class Peer(ABC):
    """One entry of `--peers`. `start` comes once, then `in_place` around every measurement."""

    name: str
    policy = False
    """Whether it enforces bench/policy.yaml and keeps a record of every request."""
    max_workers: int | None = None
    """How many workers or threads it can have; None: any number."""

    def __init__(self, lab: BenchLab) -> None:
        self.lab = lab

    @abstractmethod
    def start(self, workers: int = 1) -> None:
        """Start what there is to start, with so many workers or threads; again, when it runs. Raises BenchError."""

    @abstractmethod
    def processes(self) -> dict[str, list[int]]:
        """Pids by role, as "worker"; what is measured is all of them. Asked anew each time: they may be replaced."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The client's connections go through the peer."""
        yield

    @property
    def pids(self) -> list[int]:
        return [pid for pids in self.processes().values() for pid in pids]

    def check(self) -> None:
        """Prove that it does its work before it is measured: what is allowed arrives whole, the rest is denied.

        Raises:
            BenchError: names the first request that had another outcome.
        """
        for path, size in _GOOD.items():
            self._expect("GET", path, (200, size))
        if self.policy:
            for method, path in _BAD:
                self._expect(method, path, (_FORBIDDEN, None))

    def check_served(self, path: str, size: int) -> None:
        """Prove that one path arrives whole; raises BenchError."""
        self._expect("GET", path, (200, size))

    def memory(self) -> dict[str, int]:
        """Resident bytes by role, now."""
        return {role: processes.usage(pids).rss_bytes for role, pids in sorted(self.processes().items())}

    def _expect(self, method: str, path: str, wanted: tuple[int, int | None]) -> None:
        status, size = self.lab.ask(CLIENT, method, path)
        if status != wanted[0] or (wanted[1] is not None and size != wanted[1]):
            expected = f"{wanted[0]}" + (f" with {wanted[1]} bytes" if wanted[1] is not None else "")
            raise BenchError(
                f"peer {self.name!r} is not correct, so it is not measured: "
                f"{method} {path} gave {status} with {size} bytes, expected {expected}"
            )
