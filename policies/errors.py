"""What is wrong with a document, said so that its author finds the place."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake. line and column count from 1; 0 means that the file as a whole is meant. field may be empty."""

    file: str
    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: error: {self.field}: {self.message}" if self.field else f"{place}: error: {self.message}"


class PolicyError(Exception):
    """Every problem found in the documents at hand, at least one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems))
        super().__init__("\n".join(map(str, self.problems)))
