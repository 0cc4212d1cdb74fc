"""What one run of `./dev bench` has found, all parts together, and what is said of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import document, goals, policies, table
from bench.connect import Endurance
from bench.kafka import report as kafka_report
from bench.kafka.run import Outcome as KafkaOutcome
from bench.measure import Measured
from bench.rows import Row, medians, missing
from bench.run import Outcome, disturbance
from bench.scale import AXES, Point


@dataclass
class Results:
    """Parts that were not asked for are empty."""

    http: Outcome | None = None
    kafka: KafkaOutcome | None = None
    endurance: list[Endurance] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    language: list[policies.Row] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """Of everything that has a load, in the order in which it was measured."""
        found = list(self.http.rows) if self.http is not None else []
        found += [row for turn in self.endurance for row in turn.rows]
        return found + [one.row for one in self._of_scale]

    @property
    def goals(self) -> list[goals.Goal]:
        """Those that there are numbers for."""
        found = goals.judged(medians(self.rows), self.http.memories if self.http is not None else [])
        return found + [goal for turn in self.endurance for goal in turn.goals]

    @property
    def missing(self) -> list[tuple[str, str]]:
        """(case, peer) that were not measured; connections that failed are a result of theirs, and a goal."""
        kept = {row.case for turn in self.endurance for row in turn.rows}
        found = [pair for pair in missing(self.rows) if pair[0] not in kept]
        return found + (self.kafka.missing if self.kafka is not None else [])

    @property
    def _of_scale(self) -> list[Measured]:
        return [one for point in self.points for one in point.measured]

    def write_json(self, path: Path) -> None:
        """`{"rows": [...]}`, those of Kafka in it too; `policies` and `kafka_memory` where those were measured."""
        rows = [asdict(row) for row in self.rows]
        whole: dict[str, object] = {"rows": rows}
        if self.kafka is not None:
            rows += [asdict(row) for row in self.kafka.rows]
            whole["kafka_memory"] = [{**asdict(each), "growth": each.growth} for each in self.kafka.memories]
        if self.language:
            whole["policies"] = [asdict(row) for row in self.language]
        path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")

    def text(self) -> str:
        """For the terminal."""
        parts = []
        if self.http is not None:
            parts.append(f"{self._how(self.http)}\n{self.http.disturbance}")
            parts += [f"{title}\n{table.plain(cells)}" for title, cells in table.of_cases(self.http.medians)]
            if self.http.memories:
                parts.append(f"memory\n{table.plain(table.of_memory(self.http.memories))}")
        if self.kafka is not None:
            parts.append(kafka_report.text(self.kafka))
        if self.endurance:
            parts.append(f"new connections from one address\n{table.plain(table.of_endurance(self.endurance))}")
        parts += [f"{axis}\n{table.plain(cells)}" for axis, cells in self._axes().items()]
        if self.language:
            parts.append(policies.report(self.language))
        if self.goals:
            parts.append(table.plain(table.of_goals(self.goals)))
        return "\n\n".join(parts)

    def write_document(self, command: str) -> None:
        """The sections of docs/performance.md that this run has numbers for, and their plots.

        Raises:
            BenchError: the document has no such place.
        """
        if self.http is not None and self.http.is_whole:
            document.write_http(self.http, goals.judged(self.http.medians, self.http.memories), command)
        if self.kafka is not None and self.kafka.is_whole:
            document.write_kafka(kafka_report.sections(self.kafka, command))
        if self.endurance:
            document.write_connect(self.endurance, command)
        if self.points:
            document.write_scale(self.points, self._axes(), disturbance(self._of_scale), command)

    def _axes(self) -> Mapping[str, table.Cells]:
        together = {axis: [point for point in self.points if point.axis == axis] for axis in AXES}
        return {axis: table.of_points(axis, points) for axis, points in together.items() if points}

    @staticmethod
    def _how(outcome: Outcome) -> str:
        return f"medians of {outcome.rounds} rounds of {outcome.seconds} s; {document.machine()}"
