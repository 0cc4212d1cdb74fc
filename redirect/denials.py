"""What the kernel refused, as the agent's audit gets it."""

from __future__ import annotations

from redirect.steer import Kernel
from redirect.types import Denial

__all__ = ["DenialReader"]


class DenialReader:
    """Reads the ring buffer of denials; one reader per node. ``Kernel`` must outlive it."""

    def __init__(self, kernel: Kernel) -> None:
        raise NotImplementedError

    def fileno(self) -> int:
        """Readable when there is something to read."""
        raise NotImplementedError

    def read(self) -> list[Denial]:
        """All there is now; never blocks."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
