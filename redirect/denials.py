"""What the kernel refused, as the agent's audit gets it."""

from __future__ import annotations

import socket
import time

from redirect.layout import PASSED, REASONS, Event, unpack_address
from redirect.libbpf import RingBuffer
from redirect.steer import Kernel
from redirect.types import Denial, Direction

__all__ = ["DenialReader"]


class DenialReader:
    """Reads the ring buffer of denials; one reader per node. ``Kernel`` must outlive it.

    Records that found the ring full are in ``Kernel.counters()["event_lost"]``, those that were one too many of a
    4-tuple in 10 s in ``["suppressed"]`` and in the next record of that 4-tuple.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._found: list[Denial] = []
        self._boot_ns = 0
        self._ring = RingBuffer(kernel.maps.fd("l7_events"), self._sample)

    def fileno(self) -> int:
        """Readable when there is something to read."""
        return self._ring.fileno()

    def read(self) -> list[Denial]:
        """All there is now; never blocks."""
        self._boot_ns = time.time_ns() - time.monotonic_ns()  # each time: the wall clock may have been set
        self._ring.consume()
        found, self._found = self._found, []
        return found

    def close(self) -> None:
        self._ring.close()

    def _sample(self, raw: bytes) -> None:
        event = Event.from_buffer_copy(raw)
        src, dst = unpack_address(bytes(event.src)), unpack_address(bytes(event.dst))
        reason = REASONS[event.reason] if event.reason < len(REASONS) else f"reason_{event.reason}"
        self._found.append(
            Denial(
                time_ns=event.time_ns + self._boot_ns,
                endpoint=event.endpoint,
                direction=Direction(event.direction),
                family=socket.AF_INET if dst.version == 4 else socket.AF_INET6,
                src=str(src),
                sport=event.sport,
                dst=str(dst),
                dport=event.dport,
                proto=event.protocol,
                identity=event.identity,
                reason=reason,
                suppressed=event.suppressed,
                allowed=reason in PASSED,
            )
        )
