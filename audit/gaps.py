"""Records that were written once and are missing now: sequence numbers tell."""

from dataclasses import dataclass, field
from typing import Final

from audit.schema import Record

MAX_WRITERS: Final = 4096
"""Writers and boots remembered at once; the one seen first is forgotten first, which can only hide a gap."""


@dataclass(slots=True)
class Gaps:
    """Feed it every record of a stream in order, wanted or not."""

    missing: int = 0
    _last: dict[tuple[str, str], int] = field(default_factory=dict)

    def feed(self, record: Record) -> None:
        """Compare with the number before. A stream may begin anywhere: what rotation took is no gap."""
        tulle = record.tulle
        if tulle is None:
            return
        first, last = (tulle.seq, tulle.seq) if tulle.seq else (tulle.lost_from, tulle.lost_to)
        if not last:
            return
        key = (tulle.writer, tulle.boot)
        before = self._last.get(key)
        if before is None and len(self._last) >= MAX_WRITERS:
            del self._last[next(iter(self._last))]
        elif before is not None and first > before + 1:
            self.missing += first - before - 1
        self._last[key] = last if before is None else max(before, last)
