"""What `./dev bench` says to wrong arguments, and that its help shows how it is used."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from bench import __main__ as command
from bench import policies, scale
from bench.__main__ import is_default, main, parser
from bench.cases import BULK, CASES, HTTP
from bench.kafka import run as kafka
from bench.kafka.cases import CASES as KAFKA_CASES
from bench.results import Results

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
        (["http", "--workers", "3"], "unknown value '3': choose from 1, 2"),
        (["bulk", "--peers", "haprox"], "no peer 'haprox'; did you mean 'haproxy'?"),
        (["connect", "--cases", "x"], "unrecognized arguments: --cases x"),
        (["scale", "--peers", "direct"], "unrecognized arguments: --peers direct"),
        (["scale", "--axes", "rule"], "no axis 'rule'; did you mean 'rules'?"),
        (["scale", "--axes", ""], "--axes names none"),
        (["profile", "--cases", "nothing"], "no case 'nothing'"),
        (["all", "--json", "/"], "--json: '/' is a directory"),
        (["kafka", "--peers", "envoy"], "no peer 'envoy'; there are direct, haproxy, tulle"),
        (["kafka", "--cases", "fetch_java_10"], "no case 'fetch_java_10'; did you mean 'fetch_java_10"),
        (["kafka", "--cases", "", "--gib", "0"], "--cases names none"),
        (["kafka", "--gib", "-1"], "expected a whole number from 1, got '-1'"),
        (["kafka", "--workers", "2"], "unrecognized arguments: --workers 2"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


COMMANDS = ("http", "connect", "bulk", "kafka", "all", "scale", "policies", "profile")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended([command, "--help"]) == 0
    assert f"example: ./dev bench {command}" in capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n    {command} " in said for command in COMMANDS)
    usage = (ROOT / "dev").read_text()
    assert all(f"  ./dev bench {command} " in usage for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "default"),
    [
        (["http"], True),
        (["http", "--json", "x.json"], True),
        (["http", "--rounds", "3"], True),
        (["http", "--rounds", "4"], False),
        (["http", "--cases", "denied_c32"], False),
        (["all", "--peers", "direct"], False),
        (["scale", "--seconds", "1"], False),
        (["kafka"], True),
        (["kafka", "--seconds", "2", "--json", "x.json"], True),
        (["kafka", "--gib", "10"], False),
    ],
)
def test_the_document_is_written_when_nothing_that_is_measured_was_changed(arguments: list[str], default: bool) -> None:
    assert is_default(parser().parse_args(arguments)) is default


@pytest.mark.parametrize(
    ("name", "cases", "besides"),
    [
        ("http", HTTP, set()),
        ("connect", ("short_1k_c32",), {"endure"}),
        ("bulk", BULK, set()),
        ("scale", None, {"scale"}),
        ("kafka", None, {"kafka"}),
        ("all", tuple(CASES), {"endure", "scale", "policies", "kafka"}),
    ],
)
def test_what_a_command_measures(
    name: str, cases: tuple[str, ...] | None, besides: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs is noted in place of the labs; without options, 3 rounds beside direct, haproxy and envoy."""
    asked: dict[str, tuple[object, ...]] = {}

    def noted(what: str) -> Callable[..., list[object]]:
        def note(*arguments: object, **_: object) -> list[object]:
            asked[what] = arguments
            return []

        return note

    for place, attribute, what in (
        (command, "run", "run"),
        (command, "endure", "endure"),
        (scale, "measure_axes", "scale"),
        (policies, "measure", "policies"),
        (kafka, "run", "kafka"),
    ):
        monkeypatch.setattr(place, attribute, noted(what))
    command._work(parser().parse_args([name]))(Results())
    assert asked.keys() == besides | ({"run"} if cases else set())
    if cases:
        kinds, measured, rounds, _ = asked["run"]
        assert isinstance(kinds, list)
        assert isinstance(measured, list)
        assert [kind.name for kind in kinds] == ["direct", "tulle", "haproxy", "envoy"]
        assert tuple(case.name for case in measured) == cases
        assert rounds == 3
    if "kafka" in besides:
        kinds, loads, rounds, seconds, gib = asked["kafka"]
        assert isinstance(kinds, list)
        assert isinstance(loads, list)
        assert [kind.name for kind in kinds] == ["direct", "haproxy", "tulle"]
        assert loads == list(KAFKA_CASES.values())
        assert (rounds, seconds, gib) == (3, 2, 1) if name == "kafka" else (3, 3, 10)
    if "scale" in besides:
        assert tuple(cast("list[str]", asked["scale"][0])) == ("rules", "connections", "pods", "documents")


@pytest.mark.root
def test_without_root_it_says_so() -> None:
    # The interpreter may be where another user cannot go, so this one is dropped behind its start.
    code = "import os; from bench.__main__ import main; os.setuid(65534); raise SystemExit(main(['http']))"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "bench: the benchmark needs root: it makes network namespaces and loads eBPF programs\n"
