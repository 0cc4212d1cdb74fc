"""What is measured: names, client and load. The names are a contract of `--json`."""

from dataclasses import dataclass
from typing import Literal

SMALL, LARGE = 100, 10 * 1024
SIZES = {"100": SMALL, "10k": LARGE}

type Kind = Literal["produce", "fetch", "sync"]
type Client = Literal["java", "rdkafka"]


@dataclass(frozen=True, slots=True)
class Case:
    """One load of one client. size: bytes of a record's value. acks: as producers have it; "" for consumers."""

    kind: Kind
    client: Client
    size: int
    acks: Literal["", "1", "all"] = ""

    @property
    def name(self) -> str:
        size = next(text for text, size in SIZES.items() if size == self.size)
        return "_".join(filter(None, (self.kind, self.client, size, self.acks and f"acks{self.acks}")))

    @property
    def group(self) -> tuple[str, int, str]:
        """Cases of one group follow each other while a peer has its turn."""
        return self.kind, self.size, self.client

    @property
    def what(self) -> str:
        """For people."""
        client = {"java": "Kafka's own perf tools", "rdkafka": "librdkafka"}[self.client]
        acks = f", acks={self.acks}" if self.acks else ""
        how = {"produce": "batched produce", "fetch": "batched fetch", "sync": "one synchronous produce at a time"}
        return f"{how[self.kind]}, {self.size:,} B{acks}, {client}"


_CASES = (
    *(
        Case("produce", client, size, acks)
        for client in ("java", "rdkafka")
        for size in SIZES.values()
        for acks in ("1", "all")
    ),
    *(Case("fetch", client, size) for client in ("java", "rdkafka") for size in SIZES.values()),
    *(Case("sync", "rdkafka", size, acks) for size in SIZES.values() for acks in ("1", "all")),
)
CASES = {case.name: case for case in _CASES}
