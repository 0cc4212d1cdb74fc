"""`python -m bench`, which is `./dev bench`: the command line."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from agent.cli import Parser
from bench import document, policies, rows, table
from bench.cases import CASES, HTTP, chosen
from bench.errors import BenchError
from bench.peers.base import Peer
from bench.run import ALWAYS, DEFAULT, PEERS, Outcome, run

_NOT_MEASURED = 1
_USAGE = 2
_INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="./dev bench",
        allow_abbrev=False,
        description="Measure Tulle beside other ways to the same server.",
        epilog="example: ./dev bench http --rounds 1 --json rows.json",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    http = commands.add_parser(
        "http",
        allow_abbrev=False,
        help="HTTP/1.1: requests/s, latency, CPU and memory",
        description="Requests/s, latency, CPU and memory with and without Tulle, in one interleaved run in labs of its "
        "own. Exit status 0 when everything was measured, whatever the numbers are.",
        epilog="example: ./dev bench http --peers direct,haproxy,envoy --rounds 3 --json rows.json",
    )
    http.add_argument("--rounds", type=_positive, default=3, metavar="N", help="interleaved rounds (default: 3)")
    http.add_argument(
        "--seconds", type=_positive, default=3, metavar="S", help="length of each measurement in s (default: 3)"
    )
    others = ",".join(name for name in PEERS if name != ALWAYS)
    default = ",".join(DEFAULT)
    http.add_argument(
        "--peers", default=default, metavar="LIST", help=f"beside tulle; of {others} (default: {default})"
    )
    http.add_argument(
        "--cases",
        default=",".join(HTTP),
        metavar="LIST",
        help=f"of {', '.join(CASES)} (default: all but idle_10000)",
    )
    http.add_argument("--json", type=Path, metavar="FILE", help='write {"rows": [...]}, a row per case, peer and round')
    http.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    language = commands.add_parser(
        "policies",
        allow_abbrev=False,
        help="the cost of large policy sets: compile, one edit, one decision",
        description="What a large cluster's policies cost, in one process, without a lab.",
        epilog="example: ./dev bench policies --rounds 5",
    )
    language.add_argument("--rounds", type=_positive, default=5, metavar="N", help="median of so many (default: 5)")
    language.add_argument("--json", type=Path, metavar="FILE", help='write {"rows": [...]}')
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everything was measured. 1: something was not. 2: the arguments are wrong. 130: interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.command == "policies":
        return _policies(options)
    try:
        kinds = _peers(options.peers)
        cases = chosen(options.cases, CASES, "case")
        if not cases:
            raise BenchError("--cases names none")
        _check_place(options.json)
    except BenchError as error:
        return _fail(str(error), _USAGE)
    try:
        if os.geteuid() != 0:
            raise BenchError("the benchmark needs root: it makes network namespaces and loads eBPF programs")
        signal.signal(signal.SIGTERM, _end)  # so that the labs go down
        outcome = run(kinds, cases, options.rounds, options.seconds)
        return _tell(outcome, options, f"./dev bench {' '.join(given)}")
    except BenchError as error:
        return _fail(str(error), _NOT_MEASURED)
    except KeyboardInterrupt:
        return _fail("interrupted; the labs are down", _INTERRUPTED)


def _policies(options: argparse.Namespace) -> int:
    try:
        _check_place(options.json)
    except BenchError as error:
        return _fail(str(error), _USAGE)
    rows_of = policies.measure(options.rounds)
    if options.json is not None:
        policies.write_json(rows_of, options.json)
    print(policies.report(rows_of))
    return 0


def _peers(names: str) -> list[type[Peer]]:
    return chosen(f"{ALWAYS},{names}", PEERS, "peer")


def _check_place(path: Path | None) -> None:
    """Five minutes are not spent before it turns out that the file cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise BenchError(f"--json: '{path}' is a directory")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise BenchError(f"--json: cannot write '{path}'")


def _tell(outcome: Outcome, options: argparse.Namespace, command: str) -> int:
    if options.json is not None:
        rows.write_json(outcome.rows, options.json)
    if options.write:
        document.write(outcome, command)
    print(_report(outcome))
    for case, peer in outcome.missing:
        sys.stderr.write(f"bench: not measured: {case} of {peer}: every row has errors\n")
    return _NOT_MEASURED if outcome.missing else 0


def _report(outcome: Outcome) -> str:
    parts = [f"medians of {outcome.rounds} rounds of {outcome.seconds} s; {document.machine()}\n{outcome.disturbance}"]
    parts += [f"{title}\n{table.plain(cells)}" for title, cells in table.of_cases(outcome.medians)]
    if outcome.memories:
        parts.append(f"memory\n{table.plain(table.of_memory(outcome.memories))}")
    if outcome.goals:
        parts.append(table.plain(table.of_goals(outcome.goals)))
    return "\n\n".join(parts)


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"bench: {message}\n")
    return status


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
