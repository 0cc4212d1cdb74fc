"""What `./dev bench` says to wrong arguments, and that its help shows how it is used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main

ROOT = Path(__file__).resolve().parent.parent.parent


def ended(arguments: list[str]) -> int:
    """The exit status, whether it comes from argparse or from main."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(str(end.code))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["htp"], "did you mean 'http'?"),
        (["http", "--round", "3"], "unrecognized arguments: --round 3"),
        (["http", "--rounds", "0"], "expected a whole number from 1, got '0'"),
        (["http", "--rounds", "x"], "expected a whole number from 1, got 'x'"),
        (["http", "--seconds", "-1"], "expected a whole number from 1, got '-1'"),
        (["http", "--peers", "direkt"], "no peer 'direkt'; did you mean 'direct'?"),
        (["http", "--peers", "qqq"], "no peer 'qqq'; there are direct, tulle, haproxy, envoy, mitmproxy, py-h11"),
        (["http", "--cases", "keepalive_1k_c33"], "no case 'keepalive_1k_c33'; did you mean 'keepalive_1k_c32'?"),
        (["http", "--cases", ""], "--cases names none"),
        (["http", "--json", "/nowhere/rows.json"], "--json: cannot write '/nowhere/rows.json'"),
        (["http", "--json", "/"], "--json: '/' is a directory"),
        (["http", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


@pytest.mark.parametrize("arguments", [["--help"], ["http", "--help"]])
def test_help_has_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(arguments) == 0
    assert "example: ./dev bench http" in capsys.readouterr().out


@pytest.mark.root
def test_without_root_it_says_so() -> None:
    # The interpreter may be where another user cannot go, so this one is dropped behind its start.
    code = "import os; from bench.__main__ import main; os.setuid(65534); raise SystemExit(main(['http']))"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "bench: the benchmark needs root: it makes network namespaces and loads eBPF programs\n"
