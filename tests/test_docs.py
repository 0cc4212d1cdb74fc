"""What the documents name is there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
ROOMS = ("agent", "audit", "bench", "docs", "examples", "lab", "parsers", "policies", "proxy", "redirect", "tests")
NAME = re.compile(rf"`((?:{'|'.join(ROOMS)})/[\w./-]+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_files_that_a_document_names_are_there(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert not [link for link in links if not (document.parent / link).exists()]
    assert not [name for name in NAME.findall(text) if not (ROOT / name).exists()]


def test_commands_of_the_script_are_those_that_it_tells_of() -> None:
    usage = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout  # noqa: S603 - ours
    commands = set(re.findall(r"\./dev (\w+)", usage))
    measured = set(re.findall(r"\./dev bench (\w+)", usage))
    for document in DOCUMENTS:
        for words in re.findall(r"`\./dev ([\w |]+)", document.read_text()):
            first, *more = re.findall(r"\w+", words)
            assert first in commands, f"{document.name}: ./dev {words}"
            assert first != "bench" or set(more) <= measured, f"{document.name}: ./dev {words}"
