"""Where lines go. A sink takes whole lines and never waits; what it does not take stays with the writer."""

from collections.abc import Sequence
from typing import Protocol


class Sink(Protocol):
    """One destination of one writer."""

    name: str
    """For counters and lost-records records: "file", "stdout"."""

    def write(self, lines: Sequence[bytes]) -> int:
        """Take as many lines (each with its newline) from the front as is possible now; returns how many.

        A line is taken whole or not at all, as a reader sees it. Fewer than all means: not now, try again later.

        Raises:
            OSError: nothing more can be taken now (disk full, directory gone); no line of this call was taken.
        """

    def ready_fd(self) -> int | None:
        """The descriptor whose writability ends a "not now"; None when only time can tell."""

    def close(self) -> None:
        """Give the descriptors back. Lines that were taken are out."""
