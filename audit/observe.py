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
from audit.filters import Filters, parse_api_key, parse_since, parse_status
from audit.gaps import Gaps
from audit.observe_arguments import DEFAULT_LAST, add_arguments
from audit.reading import NOWHERE, Damage, Follower, Position, backwards, forwards, streams

POLL_S: Final = 0.1
HOLD_S: Final = 0.4
MAX_HELD: Final = 20_000
"""Lines held for ordering, some 20 MB; past this the oldest go out early and order between writers may suffer."""
DISORDER_S: Final = 2.0
"""A writer's lines are in order of time to within this: a record waits at most half a second for its response."""
TROUBLE_SAID_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """last: None is 20 without `follow`, `since` or `everything`, 0 with `follow`. output: "compact" or "jsonpb"."""

    filters: Filters = field(default_factory=Filters)
    last: int | None = None
    everything: bool = False
    follow: bool = False
    output: str = "compact"
    colour: bool = False


def options_of(args: argparse.Namespace, *, colour: bool = False) -> Options:
    """Check what was parsed with `observe_arguments.add_arguments`.

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
        protocol=frozenset(args.protocol),
        api_key=frozenset(map(parse_api_key, args.api_key)),
        topic=tuple(args.topic),
        group=tuple(args.group),
        client_id=tuple(args.client_id),
        error_code=frozenset(args.error_code),
        since=_named("--since", lambda value: parse_since(value, time.time()), args.since) if args.since else "",
    )
    return Options(filters, args.last, args.everything, args.follow, args.output, colour)


def run(args: argparse.Namespace, directories: Mapping[str, Path]) -> int:
    """`tulle observe` on standard output. Returns the exit status.

    directories: node name -> its audit directory; files are found in it and in its immediate subdirectories.
    """
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    try:
        options = options_of(args, colour=colour)
    except ValueError as error:
        print(f"tulle observe: {error}", file=sys.stderr)
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
        self.gaps = Gaps()
        self.shown = 0
        self.bad_said = 0
        self.missing_said = 0
        self.said_at = 0.0
        # Opened before anything is printed, so that nothing falls between what was and what comes.
        self.follower = Follower(directories, self.damage) if options.follow else None

    def run(self) -> int:
        if not any(streams(directory) for directory in self.directories.values()):
            places = ", ".join(str(directory) for directory in self.directories.values())
            print(f"tulle observe: no audit records in {places or 'no directory at all'} yet", file=self.err)
        options = self.options
        if options.everything or (options.filters.since and options.last is None):
            self._everything()
        elif options.last is not None or not options.follow:
            self._last(DEFAULT_LAST if options.last is None else options.last)
        self.out.flush()
        self._say_trouble(at_once=True)
        if self.follower is not None:
            self._follow(self.follower)
        elif not self.shown:
            print("tulle observe: no record matches", file=self.err)
        return 0

    def close(self) -> None:
        if self.follower is not None:
            self.follower.close()
        self._say_trouble(at_once=True)

    def _decode(self, line: bytes) -> schema.Record | None:
        """The record, or None for an empty line and for one that is none, which is counted."""
        if not line:
            return None
        try:
            return schema.decode(line)
        except ValueError:
            self.damage.bad_lines += 1
            return None

    def _show(self, record: schema.Record, line: bytes) -> None:
        if self.options.output == "jsonpb":
            text = line.decode("utf-8", "backslashreplace")
        else:
            text = compact.line(record, node=len(self.directories) > 1, colour=self.options.colour)
        self.shown += 1
        self.out.write(text + "\n")

    def _until(self, node: str, stream: str) -> Position | None:
        """Where looking back ends and following begins."""
        return None if self.follower is None else self.follower.began.get((node, stream), NOWHERE)

    def _last(self, count: int) -> None:
        """Each stream is read from its end until it gave `count` records or its time is before `since`."""
        found: list[tuple[str, int, schema.Record, bytes]] = []
        more = False
        since = self.options.filters.since
        long_before = parse_since("60s", _seconds(since)) if since else ""  # lines of a stream are nearly in order
        wants = self.options.filters.wants
        for node, directory in self.directories.items():
            for stream in streams(directory):
                until = self._until(node, stream)
                taken = 0
                for line in backwards(directory, stream, until):
                    if (record := self._decode(line)) is None:
                        continue
                    if record.time < long_before:
                        break
                    if not wants(record):
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
                f"tulle observe: these are the last {count}; --last N or --all shows more, --follow what comes",
                file=self.err,
            )

    def _everything(self) -> None:
        def wanted(node: str, directory: Path, stream: str) -> Iterator[tuple[str, schema.Record, bytes]]:
            for line in forwards(directory, stream, self._until(node, stream)):
                if (record := self._decode(line)) is not None:
                    self.gaps.feed(record)
                    if self.options.filters.wants(record):
                        yield record.time, record, line

        sources = [
            _in_order(wanted(node, directory, stream))
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
                    self.gaps.feed(record)
                    if self.options.filters.wants(record):
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
            self._say_trouble()
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

    def _say_trouble(self, *, at_once: bool = False) -> None:
        bad, missing = self.damage.bad_lines - self.bad_said, self.gaps.missing - self.missing_said
        now = time.monotonic()
        if not (bad or missing) or not (at_once or now - self.said_at >= TROUBLE_SAID_S):
            return
        self.bad_said, self.missing_said, self.said_at = self.damage.bad_lines, self.gaps.missing, now
        if bad:
            print(
                f"tulle observe: {bad} {'line' if bad == 1 else 'lines'} could not be read as a record", file=self.err
            )
        if missing:
            print(f"tulle observe: {missing} {'record is' if missing == 1 else 'records are'} missing", file=self.err)


def _in_order(records: Iterator[tuple[str, schema.Record, bytes]]) -> Iterator[tuple[str, schema.Record, bytes]]:
    """One stream by the time of its decisions: a record waits for its response's status, so lines are only nearly in
    order. Holds what lies within `DISORDER_S` of the newest time seen."""
    held: list[tuple[str, int, tuple[str, schema.Record, bytes]]] = []
    newest = 0.0
    for number, item in enumerate(records):
        heapq.heappush(held, (item[0], number, item))
        newest = max(newest, _seconds(item[0]))
        while held and (_seconds(held[0][0]) < newest - DISORDER_S or len(held) > MAX_HELD):
            yield heapq.heappop(held)[2]
    while held:
        yield heapq.heappop(held)[2]


def _seconds(text: str) -> float:
    """RFC 3339 as seconds since 1970; 0 when it is none, so that the line goes out at once."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _named[T](option: str, parse: Callable[[str], T], value: str) -> T:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m audit.observe`: for directories that no agent on this machine knows."""
    parser = argparse.ArgumentParser(prog="python -m audit.observe", description="Print audit records.")
    parser.add_argument("directories", nargs="+", metavar="[NODE=]DIRECTORY")
    add_arguments(parser)
    args = parser.parse_args(argv)
    directories: dict[str, Path] = {}
    for text in args.directories:
        node, mark, path = text.rpartition("=")
        directories[node if mark else path] = Path(path)
    return run(args, directories)


if __name__ == "__main__":
    raise SystemExit(main())
