"""`python -m bench`, which is `./dev bench`: the command line."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from agent.cli import Parser
from bench import document, policies, processes, profile, scale
from bench.benchlab import sweep
from bench.cases import BULK, CASES, HTTP, chosen
from bench.errors import BenchError
from bench.kafka import run as kafka
from bench.kafka.cases import CASES as KAFKA_CASES
from bench.kafka.cases import Case as KafkaCase
from bench.kafka.peers import PEERS as KAFKA_PEERS
from bench.kafka.peers import KafkaPeer
from bench.results import Results
from bench.run import ALWAYS, DEFAULT, PEERS, endure, run, say

_NOT_MEASURED = 1
_USAGE = 2
_INTERRUPTED = 130
_SHORT = ("short_1k_c32",)
_ROUNDS, _SECONDS = 3, 3
_WORKERS = (1, 2)
_KAFKA_SECONDS, _DEEP_GIB = 2, 10


def parser() -> argparse.ArgumentParser:
    """The words that `./dev bench` knows."""
    top = Parser(
        prog="./dev bench",
        allow_abbrev=False,
        description="Measure Tulle beside other ways to the same server.",
        epilog="example: ./dev bench http --rounds 1 --json rows.json",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def add(name: str, text: str, more: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            allow_abbrev=False,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. {more} Exit status 0 when everything was measured, whatever the "
            "numbers are.",
            epilog=f"example: ./dev bench {name}{example}",
        )

    turns = "Peers take turns in one run, in labs of its own, and must be correct before they are measured."
    http = add(
        "http", "HTTP/1.1: requests/s, latency, CPU and memory", turns, " --peers direct,haproxy,envoy --rounds 3"
    )
    http.add_argument(
        "--cases",
        default=",".join(HTTP),
        metavar="LIST",
        help=f"of {', '.join(CASES)} (default: all but idle_10000)",
    )
    connect = add("connect", "new connections: their rate beside other peers, and whether it holds for 90 s", turns, "")
    bulk = add("bulk", "large bodies, down and up", turns, " --rounds 5")
    broker = add(
        "kafka",
        "Kafka: records/s, latency, CPU and memory",
        "Peers take turns in one run, at one broker in a lab of its own, and must be correct before they are measured.",
        " --gib 10 --json rows.json",
    )
    broker.add_argument(
        "--cases",
        default=",".join(KAFKA_CASES),
        metavar="LIST",
        help=f"of {', '.join(KAFKA_CASES)} (default: all)",
    )
    broker.add_argument(
        "--gib",
        type=_whole,
        default=1,
        metavar="N",
        help="for memory: GiB to write and read through tulle, after a first one; 0: none (default: %(default)s)",
    )
    every = add(
        "all", "http with 10,000 idle connections, connect, scale, policies and kafka", turns, " --json rows.json"
    )
    grows = add(
        "scale", "how cost grows with rules, documents, connections and pods", "Tulle alone.", " --axes rules,pods"
    )
    grows.add_argument("--axes", default=",".join(scale.AXES), metavar="LIST", help="of %(default)s (default: all)")
    for command in (http, connect, bulk, broker, every, grows):
        command.add_argument(
            "--rounds", type=_positive, default=_ROUNDS, metavar="N", help="interleaved rounds (default: %(default)s)"
        )
        command.add_argument(
            "--seconds",
            type=_positive,
            default=_KAFKA_SECONDS if command is broker else _SECONDS,
            metavar="S",
            help="length of each measurement in s (default: %(default)s)",
        )
        command.add_argument("--json", type=Path, metavar="FILE", help='write {"rows": [...]}')
        command.add_argument(
            "--write",
            action=argparse.BooleanOptionalAction,
            help="put tables and plots into docs/ (default: when everything that is measured is the default)",
        )
    for command in (http, connect, bulk, broker, every):
        known, default = (KAFKA_PEERS, KAFKA_PEERS) if command is broker else (PEERS, DEFAULT)
        others = ",".join(name for name in known if name != ALWAYS)
        command.add_argument(
            "--peers",
            default=",".join(name for name in default if name != ALWAYS),
            metavar="LIST",
            help=f"beside tulle, which is always measured; of {others} (default: %(default)s)",
        )
    for command in (http, bulk):
        command.add_argument(
            "--workers",
            type=int,
            choices=_WORKERS,
            default=1,
            help="workers of tulle, threads of the others (default: 1; case two_workers_1k_c32 always has 2)",
        )
    language = add("policies", "the cost of large policy sets: compile, one edit, one decision", "Without a lab.", "")
    language.add_argument("--rounds", type=_positive, default=5, metavar="N", help="median of so many (default: 5)")
    language.add_argument("--json", type=Path, metavar="FILE", help='write {"policies": [...]}')
    spy = add("profile", "flame graphs of a busy worker, by py-spy, into docs/plots", "One per case.", " --seconds 10")
    spy.add_argument("--seconds", type=_positive, default=10, metavar="S", help="of samples (default: 10)")
    spy.add_argument(
        "--cases", default=",".join(profile.PROFILED), metavar="LIST", help="which loads (default: %(default)s)"
    )
    return top


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _whole(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everything was measured. 1: something was not. 2: the arguments are wrong. 130: interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    try:
        work = _work(options)
        _check_place(getattr(options, "json", None))
    except BenchError as error:
        return _fail(str(error), _USAGE)
    try:
        if options.command != "policies":
            if os.geteuid() != 0:
                raise BenchError("the benchmark needs root: it makes network namespaces and loads eBPF programs")
            signal.signal(signal.SIGTERM, _end)  # so that the labs go down
            sweep()
            processes.allow_many_files()
        results = Results()
        work(results)
        return _tell(results, options, f"./dev bench {' '.join(given)}")
    except BenchError as error:
        return _fail(str(error), _NOT_MEASURED)
    except KeyboardInterrupt:
        return _fail("interrupted; the labs are down", _INTERRUPTED)


def _work(options: argparse.Namespace) -> Callable[[Results], None]:
    """What the command does, once its words are known to mean something.

    Raises:
        BenchError: one of them does not.
    """
    if options.command == "policies":
        return lambda results: results.language.extend(policies.measure(options.rounds))
    if options.command == "profile":
        profiled = tuple(case.name for case in chosen(options.cases, CASES, "case"))
        return lambda _: _profile(profiled, options)
    if options.command == "scale":
        axes = chosen(options.axes, {axis: axis for axis in scale.AXES}, "axis")
        if not axes:
            raise BenchError("--axes names none")
        return lambda results: _scale(results, axes, options)
    if options.command == "kafka":
        ways = chosen(f"{ALWAYS},{options.peers}", KAFKA_PEERS, "peer")
        loads = chosen(options.cases, KAFKA_CASES, "case")
        if not loads and not options.gib:
            raise BenchError("--cases names none")
        return lambda results: _kafka(results, ways, loads, options.gib, options)
    kinds = chosen(f"{ALWAYS},{options.peers}", PEERS, "peer")
    names = {"http": getattr(options, "cases", ""), "connect": ",".join(_SHORT), "bulk": ",".join(BULK)}.get(
        options.command, ",".join(CASES)
    )
    cases = chosen(names, CASES, "case")
    if not cases:
        raise BenchError("--cases names none")
    if getattr(options, "workers", 1) != 1:
        cases = [case.with_workers(options.workers) for case in cases]

    def measure(results: Results) -> None:
        with_memory = options.command in ("http", "all")
        results.http = run(kinds, cases, options.rounds, options.seconds, with_memory=with_memory)
        if options.command in ("connect", "all"):
            results.endurance = endure()
        if options.command == "all":
            _scale(results, scale.AXES, options)
            say("policies: documents to rules, one edit, one decision")
            results.language = policies.measure(1)
            _kafka(results, list(KAFKA_PEERS.values()), list(KAFKA_CASES.values()), _DEEP_GIB, options)

    return measure


def _scale(results: Results, axes: Sequence[str], options: argparse.Namespace) -> None:
    results.points = scale.measure_axes(axes, options.rounds, options.seconds, say)


def _kafka(
    results: Results,
    peers: Sequence[type[KafkaPeer]],
    cases: Sequence[KafkaCase],
    gib: int,
    options: argparse.Namespace,
) -> None:
    results.kafka = kafka.run(peers, cases, options.rounds, options.seconds, gib)


def _profile(names: tuple[str, ...], options: argparse.Namespace) -> None:
    for file in profile.record(names, options.seconds):
        print(file.relative_to(profile.FOLDER.parent.parent))
    document.write_profiles(f"./dev bench profile --cases {','.join(names)} --seconds {options.seconds}")


def is_default(options: argparse.Namespace) -> bool:
    """Whether nothing that decides what is measured was changed."""
    plain = parser().parse_args([options.command])
    return all(getattr(options, name) == value for name, value in vars(plain).items() if name not in ("json", "write"))


def _check_place(path: Path | None) -> None:
    """Five minutes are not spent before it turns out that the file cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise BenchError(f"--json: '{path}' is a directory")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise BenchError(f"--json: cannot write '{path}'")


def _tell(results: Results, options: argparse.Namespace, command: str) -> int:
    if getattr(options, "json", None) is not None:
        results.write_json(options.json)
    wanted = getattr(options, "write", False)
    if wanted or (wanted is None and is_default(options)):
        results.write_document(command)
    if said := results.text():
        print(said)
    for case, peer in results.missing:
        sys.stderr.write(f"bench: not measured: {case} of {peer}: every row has errors\n")
    return _NOT_MEASURED if results.missing else 0


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"bench: {message}\n")
    return status


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
