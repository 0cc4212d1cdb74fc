"""Files of policy documents, YAML or JSON, to checked documents."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Document:
    """One policy document as its author wrote it. line: where it starts in `file`; text: its own source."""

    kind: str
    namespace: str
    name: str
    file: str
    line: int
    text: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What a document is known by: applying it again replaces it."""
        return self.kind, self.namespace, self.name


def load_text(text: str, name: str) -> list[Document]:
    """Documents of one text; `name` stands for the file in errors."""
    raise NotImplementedError


def load_files(paths: Iterable[Path]) -> list[Document]:
    """Documents of several files."""
    raise NotImplementedError
