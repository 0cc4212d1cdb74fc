"""The ways from `client` to the broker."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.benchlab import CLIENT, HERE
from bench.errors import BenchError
from bench.kafka.cluster import DENIED, PORT, PRODUCED, KafkaLab
from bench.peers.base import Peer
from bench.peers.redirected import Redirected
from bench.peers.tulle import Tulle

_TOPIC_DENIED = 29  # Kafka's TOPIC_AUTHORIZATION_FAILED
_MAX_CONNECTIONS = 1000


class KafkaPeer(Peer):
    """One entry of `--peers`."""

    lab: KafkaLab

    def check(self) -> None:
        """Prove that it does its work before it is measured: what is allowed is written and read, the rest refused.

        Raises:
            BenchError: says what happened instead.
        """
        found = json.loads(self.lab.ask_load(CLIENT, "check", PRODUCED, DENIED).splitlines()[-1])
        wanted = {"allowed": 0, "denied": _TOPIC_DENIED if self.policy else 0, "fetched": True}
        if found != wanted:
            raise BenchError(
                f"peer {self.name!r} is not correct, so it is not measured: errors for a topic that is allowed and one "
                f"that is not, and what was fetched: {found}, expected {wanted}"
            )


class KafkaDirect(KafkaPeer):
    """No proxy, no policy."""

    name = "direct"

    def start(self, workers: int = 1) -> None:
        return

    def processes(self) -> dict[str, list[int]]:
        return {}


class KafkaTulle(KafkaPeer, Tulle):
    """The product as it is, one worker, `policy.yaml` in force at the broker for its turn, records in a file."""

    name = "tulle"
    policy = True

    def start(self, workers: int = 1) -> None:
        self.with_workers(workers)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The policy in force, for as long as the turn lasts."""
        self.lab.tulle("lab", "apply", "--name", self.lab.name, str(HERE / "kafka" / "policy.yaml"))
        try:
            yield
        finally:
            self.lab.tulle("lab", "delete", "--name", self.lab.name, "bench-kafka")


class KafkaHAProxy(KafkaPeer, Redirected):
    """The distribution's HAProxy as a TCP proxy: one thread, splicing where it can; neither policy nor records."""

    name = "haproxy"
    port = 15012

    @property
    def target(self) -> tuple[str, int]:
        """The broker's listener for clients."""
        return self.lab.broker_ipv4, PORT

    def check(self) -> None:
        """As for all, and that it was on the way, which nothing else would tell: it refuses nothing."""
        super().check()
        if not self.redirected():
            raise BenchError(f"peer {self.name!r} is not on the way")

    def command(self, work: Path, workers: int) -> Sequence[str]:
        file = work / "haproxy.cfg"
        file.write_text(configuration(self.port, workers), encoding="utf-8")
        return ["haproxy", "-db", "-f", str(file)]


def configuration(port: int, threads: int) -> str:
    """haproxy.cfg: connections go on to where they were meant to go (0.0.0.0:0, configuration manual, 5.2)."""
    lines = [
        "global",
        f"  maxconn {_MAX_CONNECTIONS}",
        "  no strict-limits",
        f"  nbthread {threads}",
        "defaults",
        "  mode tcp",
        "  timeout connect 3s",
        "  timeout client 120s",
        "  timeout server 120s",
        "frontend f",
        f"  bind 0.0.0.0:{port}",
        "  default_backend b",
        "backend b",
        "  option splice-auto",
        "  server orig 0.0.0.0:0",
    ]
    return "\n".join(lines) + "\n"


PEERS: dict[str, type[KafkaPeer]] = {peer.name: peer for peer in (KafkaDirect, KafkaHAProxy, KafkaTulle)}
