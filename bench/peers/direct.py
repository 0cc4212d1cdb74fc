"""Peer `direct`: no proxy, no agent on the machine's side of the lab."""

from bench.peers.base import Peer


class Direct(Peer):
    """Plain bridging and routing in a lab without agents."""

    name = "direct"

    def start(self, workers: int = 1) -> None:
        return

    def processes(self) -> dict[str, list[int]]:
        return {}
