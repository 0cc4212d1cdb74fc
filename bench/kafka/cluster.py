"""The benchmark's lab with Kafka: broker and clients on one node, agents on both.

One lab and one broker for all peers: what a broker has compiled, cached and written by then is the same for each of
them. A peer that is not `tulle` has its turn while no policy selects the broker, which then has nothing of Tulle's on
its way but one look-up when a connection is made.
"""

import os

from bench.benchlab import CLIENT, HERE, NODE, BenchLab
from bench.errors import BenchError
from bench.kafka.cases import LARGE, SMALL
from lab.kafka.broker import CLIENTS_PORT, JVM

BROKER, OPERATOR = "kafka", "operator"
PORT = CLIENTS_PORT
BOOTSTRAP = f"{BROKER}:{PORT}"
PRODUCED, DENIED = "bench", "secrets"
FETCHED = {SMALL: "bench-100", LARGE: "bench-10k"}
"""By the size of their records."""
_JVM = "-Xms512m -Xmx1g -XX:+UseSerialGC"
"""The whole compiler, and a heap in which garbage is not what is measured."""


class KafkaLab(BenchLab):
    """`client` bears the load, `operator` makes topics past every policy."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind, agents=True)

    def description(self) -> dict[str, object]:
        """lab.yaml, without what `--with kafka` adds."""
        known = super().description()
        known["pods"] = [
            {"name": CLIENT, "node": NODE, "labels": {"app": CLIENT, "role": "client"}},
            {"name": OPERATOR, "node": NODE, "labels": {"app": OPERATOR}},
        ]
        return known

    def up(self) -> None:
        """Make it; it works then.

        Raises:
            BenchError: with what `tulle lab up` said.
        """
        os.environ[JVM] = _JVM  # for the commands of this process alone
        self.make("--with", "kafka")
        if (node := self.record.find_pod(BROKER).node) != NODE:
            raise BenchError(f"the broker is on {node}, not beside its clients on {NODE}")

    @property
    def broker_ipv4(self) -> str:
        return self.record.find_pod(BROKER).ipv4

    def load(self, pod: str, *arguments: str) -> list[str]:
        """The command line of `load.py` in a pod."""
        return self.python_inside(pod, str(HERE / "kafka" / "load.py"), BOOTSTRAP, *arguments)

    def ask_load(self, pod: str, *arguments: str) -> str:
        """Run it; gives what it printed.

        Raises:
            BenchError: it failed.
        """
        return self.run(self.load(pod, *arguments))

    def make_topic(self, topic: str, records: int = 0, size: int = 0) -> None:
        """The topic anew, with so many records; raises BenchError."""
        counts = (str(records), str(size)) if records else ()
        self.ask_load(OPERATOR, "make", topic, *counts)
