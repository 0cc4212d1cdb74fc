"""The coverage-guided fuzzer for a moment: it runs, and finds nothing. By hand it runs for hours."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = 3000


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform")
def test_the_fuzzer_finds_nothing_in_a_moment(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.fuzz.fuzz_kafka", str(tmp_path / "corpus"), f"-runs={RUNS}", "-seed=1"]
    ran = subprocess.run(  # noqa: S603  our own
        [*command, f"-artifact_prefix={tmp_path}/"], cwd=root, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "Done " in ran.stderr
    assert len(list((tmp_path / "corpus").iterdir())) > 300
