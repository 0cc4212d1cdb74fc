"""docs/policy.md names tests that exist, and every line of its tables names one."""

import re
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent
TEXT = (TESTS.parent / "docs" / "policy.md").read_text()


def test_every_test_that_the_document_names_exists() -> None:
    source = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 100
    missing = {name for name in named if f"def {name}(" not in source}
    assert not missing
    assert all((HERE / name).exists() for name in re.findall(r"`(test_\w+\.py)`", TEXT))
    assert all((TESTS.parent / name).exists() for name in re.findall(r"`(tests/[\w/]+\.py)`", TEXT))


def test_every_line_of_the_algebra_names_a_test() -> None:
    algebra = TEXT[TEXT.index("## The algebra") : TEXT.index("## Who a peer is")]
    rows = [line for line in algebra.splitlines() if line.startswith("| ") and "holds it" not in line]
    assert len(rows) > 80
    assert not [row for row in rows if "`test_" not in row]
