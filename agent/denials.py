"""The kernel reader: what the hooks refused, or let pass for a reason worth a record, as audit records of a stream of
their own.

Refusals wait in a ring buffer that is pinned, so those of the time without an agent are recorded when the next one
starts; what did not fit in was counted by the kernel and becomes a lost-records record here.
"""

import asyncio
import contextlib

from agent.config import Settings
from agent.decisions import deciding
from agent.protection import Protector
from audit.record import FlowFacts, facts_from_denial
from proxy.records import both_sides, make_writer
from redirect import steer
from redirect.denials import DenialReader
from redirect.types import Denial

POLL_S = 0.2
"""The ring is also read this often: a wake-up that was lost must not hold a record back for long."""


class DenialRecorder:
    """Reads refusals and writes their records."""

    def __init__(self, settings: Settings, kernel: steer.Kernel, protector: Protector) -> None:
        audit = settings.audit.model_dump(mode="json") | {"directory": str(settings.audit.directory / "kernel")}
        (settings.audit.directory / "kernel").mkdir(exist_ok=True)
        self._reader = DenialReader(kernel)
        self._kernel = kernel
        self._protector = protector
        self._lost_file = settings.state_dir / "refusals-lost"
        self._lost_told = self._read_lost()
        self._writer = make_writer(settings.node, "kernel", audit)
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read whenever there is something."""
        self._loop = loop
        self._writer.attach(loop)
        loop.add_reader(self._reader.fileno(), self._read)
        self._poll()

    def _poll(self) -> None:
        if self._loop is not None:
            self._loop.call_later(POLL_S, self._poll)
            self._read()

    def _read(self) -> None:
        for denial in self._reader.read():
            self._record(denial)
        lost = self._kernel.counters()["event_lost"]
        if lost > self._lost_told:
            self._writer.write_loss(lost - self._lost_told, "kernel ring full")
        if lost != self._lost_told:  # less: the programs were loaded anew and count from 0
            self._lost_told = lost
            with contextlib.suppress(OSError):  # a full disk: the next agent tells some of them again
                self._lost_file.with_suffix(".new").write_text(str(lost))
                self._lost_file.with_suffix(".new").rename(self._lost_file)

    def _read_lost(self) -> int:
        try:
            return int(self._lost_file.read_text())
        except (OSError, ValueError):  # none yet, or half a file: told again is better than never
            return 0

    def _record(self, denial: Denial) -> None:
        rules = self._protector.rules
        rule, policies = deciding(
            rules, denial.endpoint, denial.direction, denial.proto, denial.dport, denial.identity, denial.reason
        )
        source, destination = (denial.src, denial.sport), (denial.dst, denial.dport)
        self._writer.write(
            facts_from_denial(
                denial.direction,
                *both_sides(rules, denial.endpoint, denial.direction, source, destination, denial.identity),
                rule=rule,
                revision=rules.revision,
                reason=denial.reason,
                policies=policies,
                suppressed=denial.suppressed,
                time_ns=denial.time_ns,
                protocol=denial.proto,
            )
        )

    def write(self, facts: FlowFacts) -> None:
        """A record of what the agent itself did to a connection."""
        self._writer.write(facts)

    def close(self) -> None:
        """Write out what waits and stop reading."""
        if self._loop is not None:
            self._loop.remove_reader(self._reader.fileno())
            self._loop = None
        self._writer.close()
