"""Show audit records: of several writers and nodes, merged by time, filtered, once or as they come.

    python -m audit.observe node-a=/var/log/tulle/audit --verdict DROPPED --follow

Writers flush within 0.25 s and files are looked at ten times a second; `--follow` holds each line for `HOLD_S` so that
lines of different writers come out in order of time, still well within a second of the decision.
"""

import argparse
import contextlib
import heapq
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

from audit import compact, schema
from audit.filters import Filters, parse_since, parse_status
from audit.reading import NOWHERE, Damage, Follower, Position, backwards, forwards, streams

DEFAULT_LAST: Final = 20
POLL_S: Final = 0.1
HOLD_S: Final = 0.4
MAX_HELD: Final = 20_000
"""Lines held for ordering, some 20 MB; past this the oldest go out early and order between writers may suffer."""
BAD_LINES_SAID_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """last: None is 20 without `follow`, `since` or `everything`, 0 with `follow`. output: "compact" or "jsonpb"."""

    filters: Filters = field(default_factory=Filters)
    last: int | None = None
    everything: bool = False
    follow: bool = False
    output: str = "compact"
    colour: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tulle observe`, but for the choice of directories."""
    parser.add_argument("-f", "--follow", action="store_true", help="show new records as they come, until interrupted")
    parser.add_argument(
        "--last", type=_count, metavar="N", help=f"the last N matching records (default {DEFAULT_LAST})"
    )
    parser.add_argument("--all", action="store_true", dest="everything", help="every matching record that is kept")
    parser.add_argument("--since", metavar="TIME", help="nothing older: 90s, 5m, 2h, or 2026-01-31T12:00:00Z")
    parser.add_argument(
        "--verdict",
        action="append",
        default=[],
        type=str.upper,
        choices=schema.VERDICTS,
        help="may be given several times, as all below",
    )
    parser.add_argument("--http-path", action="append", default=[], metavar="REGEX", help="from the start of the path")
    parser.add_argument("--http-status", action="append", default=[], metavar="CODE", help="403, or 4+ for all of 4xx")
    parser.add_argument("--http-method", action="append", default=[], type=str.upper, metavar="METHOD")
    parser.add_argument(
        "--pod", action="append", default=[], metavar="[NAMESPACE/]POD", help="either side; * and ? work"
    )
    parser.add_argument(
        "--from-pod", action="append", default=[], metavar="[NAMESPACE/]POD", help="the side that connected"
    )
    parser.add_argument("--to-pod", action="append", default=[], metavar="[NAMESPACE/]POD")
    parser.add_argument("--node", action="append", default=[], metavar="NODE", help="* and ? work")
    parser.add_argument(
        "-o",
        "--output",
        choices=("compact", "jsonpb"),
        default="compact",
        help="jsonpb: the lines as they were written",
    )


def options_of(args: argparse.Namespace, *, colour: bool = False) -> Options:
    """Check what was parsed with `add_arguments`.

    Raises:
        ValueError: a value that is no regular expression, status or time; the message names the option.
    """
    if args.last is not None and args.everything:
        raise ValueError("--last and --all exclude each other")
    patterns: list[re.Pattern[str]] = []
    for text in args.http_path:
        try:
            patterns.append(re.compile(text))
        except re.error as error:
            raise ValueError(f'--http-path "{text}" is no regular expression: {error}') from None
    filters = Filters(
        verdicts=frozenset(args.verdict),
        http_path=tuple(patterns),
        http_status=tuple(_named("--http-status", parse_status, value) for value in args.http_status),
        http_method=frozenset(args.http_method),
        pod=tuple(args.pod),
        from_pod=tuple(args.from_pod),
        to_pod=tuple(args.to_pod),
        node=tuple(args.node),
        since=_named("--since", lambda value: parse_since(value, time.time()), args.since) if args.since else "",
    )
    return Options(filters, args.last, args.everything, args.follow, args.output, colour)


def run(args: argparse.Namespace, directories: Mapping[str, Path]) -> int:
    """`tulle observe` on standard output; `directories` are the nodes' audit directories. Returns the exit status."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    try:
        options = options_of(args, colour=colour)
    except ValueError as error:
        print(f"observe: {error}", file=sys.stderr)
        return 2
    try:
        return observe(options, directories, sys.stdout)
    except KeyboardInterrupt:
        return 130


def observe(options: Options, directories: Mapping[str, Path], out: TextIO, err: TextIO | None = None) -> int:
    """Print what `options` ask for; remarks go to `err`, standard error by default. Returns the exit status.

    A reader of `out` that goes away ends it quietly, with 0.
    """
    session = _Session(options, directories, out, err or sys.stderr)
    try:
        return session.run()
    except BrokenPipeError:
        # Python flushes standard output once more at exit: give it a place where that works.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, out.fileno())
            os.close(null)
        return 0
    finally:
        session.close()


class _Session:
    def __init__(self, options: Options, directories: Mapping[str, Path], out: TextIO, err: TextIO) -> None:
        self.options = options
        self.directories = directories
        self.out = out
        self.err = err
        self.damage = Damage()
        self.said = 0
        self.said_at = 0.0
        # Opened before anything is printed, so that nothing falls between what was and what comes.
        self.follower = Follower(directories, self.damage) if options.follow else None

    def run(self) -> int:
        if not any(streams(directory) for directory in self.directories.values()):
            places = ", ".join(str(directory) for directory in self.directories.values())
            print(f"observe: no audit records in {places or 'no directory at all'} yet", file=self.err)
        options = self.options
        if options.everything or (options.filters.since and options.last is None):
            self._everything()
        elif options.last is not None or not options.follow:
            self._last(DEFAULT_LAST if options.last is None else options.last)
        self.out.flush()
        self._say_bad_lines(at_once=True)
        if self.follower is not None:
            self._follow(self.follower)
        return 0

    def close(self) -> None:
        if self.follower is not None:
            self.follower.close()
        self._say_bad_lines(at_once=True)

    def _decode(self, line: bytes) -> schema.Record | None:
        """The record if it is wanted."""
        if not line:
            return None
        try:
            record = schema.decode(line)
        except ValueError:
            self.damage.bad_lines += 1
            return None
        return record if self.options.filters.wants(record) else None

    def _show(self, record: schema.Record, line: bytes) -> None:
        if self.options.output == "jsonpb":
            text = line.decode("utf-8", "backslashreplace")
        else:
            text = compact.line(record, node=len(self.directories) > 1, colour=self.options.colour)
        self.out.write(text + "\n")

    def _until(self, node: str, stream: str) -> Position | None:
        """Where looking back ends and following begins."""
        return None if self.follower is None else self.follower.began.get((node, stream), NOWHERE)

    def _last(self, count: int) -> None:
        """Each stream is read from its end until it gave `count` records or its time is before `since`."""
        found: list[tuple[str, int, schema.Record, bytes]] = []
        more = False
        since = self.options.filters.since
        for node, directory in self.directories.items():
            for stream in streams(directory):
                until = self._until(node, stream)
                taken = 0
                for line in backwards(directory, stream, until):
                    if (record := self._decode(line)) is None:
                        continue
                    if taken == count:
                        more = True
                        break
                    taken += 1
                    found.append((record.time, -len(found), record, line))
        found.sort(key=lambda item: item[:2])
        more = more or len(found) > count
        for _, _, record, line in found[len(found) - min(count, len(found)) :]:
            self._show(record, line)
        if more and self.options.last is None and not since:
            self.out.flush()
            print(
                f"observe: these are the last {count}; --last N or --all shows more, --follow what comes", file=self.err
            )

    def _everything(self) -> None:
        def wanted(node: str, directory: Path, stream: str) -> Iterator[tuple[str, schema.Record, bytes]]:
            for line in forwards(directory, stream, self._until(node, stream)):
                if (record := self._decode(line)) is not None:
                    yield record.time, record, line

        sources = [
            wanted(node, directory, stream)
            for node, directory in self.directories.items()
            for stream in streams(directory)
        ]
        for _, record, line in heapq.merge(*sources, key=lambda item: item[0]):
            self._show(record, line)

    def _follow(self, follower: Follower) -> None:
        held: list[tuple[str, int, float, schema.Record, bytes]] = []
        number = 0
        poller = self._reader_poll()
        while True:
            lines, more = follower.poll()
            arrived = time.time()
            for line in lines:
                if (record := self._decode(line)) is not None:
                    number += 1
                    heapq.heappush(held, (record.time, number, arrived, record, line))
            now = time.time()
            shown = False
            while held and (len(held) > MAX_HELD or min(_seconds(held[0][0]), held[0][2]) + HOLD_S <= now):
                _, _, _, record, line = heapq.heappop(held)
                self._show(record, line)
                shown = True
            if shown:
                self.out.flush()
            self._say_bad_lines()
            if poller is not None:
                if poller.poll(0 if more else POLL_S * 1000):
                    raise BrokenPipeError
            elif not more:
                time.sleep(POLL_S)

    def _reader_poll(self) -> "select.poll | None":  # quoted: at run time `select.poll` is a function
        """Tells when the reader of our output has gone, also while there is nothing to write."""
        try:
            fd = self.out.fileno()
        except (OSError, ValueError):
            return None
        poller = select.poll()
        poller.register(fd, 0)
        return poller

    def _say_bad_lines(self, *, at_once: bool = False) -> None:
        new = self.damage.bad_lines - self.said
        now = time.monotonic()
        if new and (at_once or now - self.said_at >= BAD_LINES_SAID_S):
            self.said, self.said_at = self.damage.bad_lines, now
            print(f"observe: {new} {'line' if new == 1 else 'lines'} could not be read as a record", file=self.err)


def _seconds(text: str) -> float:
    """RFC 3339 as seconds since 1970; 0 when it is none, so that the line goes out at once."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _named[T](option: str, parse: Callable[[str], T], value: str) -> T:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m audit.observe", description=__doc__.splitlines()[0])
    parser.add_argument("directories", nargs="+", metavar="[NODE=]DIRECTORY")
    add_arguments(parser)
    args = parser.parse_args(argv)
    directories: dict[str, Path] = {}
    for text in args.directories:
        node, mark, path = text.rpartition("=")
        directories[node if mark else path] = Path(path)
    return run(args, directories)


if __name__ == "__main__":
    raise SystemExit(_main())
