"""`--follow` over rotation, new writers and unfinished lines."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit.reading import Damage, Follower
from audit.sinks.file import FileSink
from audit.writer import Writer
from tests.audit.makers import request_facts
from tests.audit.test_observe import fill, targets


class Output:
    """A running `observe --follow` and what it printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def take(self, count: int) -> list[str]:
        """The next lines; fails after 10 s without one."""
        return [self._lines.get(timeout=10) for _ in range(count)]

    def empty(self) -> bool:
        """Nothing more was printed."""
        return self._lines.empty()

    def join(self) -> None:
        """Wait for the end of the output."""
        self._thread.join()


@contextmanager
def follow(*arguments: str) -> Iterator[Output]:
    """`observe --last 1 --follow`: the first line tells that it looks."""
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "audit.observe", *arguments, "--follow"], stdout=subprocess.PIPE, text=True
    )
    output = Output(process)
    try:
        yield output
    finally:
        process.kill()
        process.wait()
        output.join()
        assert process.stdout is not None
        process.stdout.close()


def test_every_line_comes_once_over_rotation_and_new_writers(tmp_path: Path) -> None:
    fill(tmp_path, "worker-0", [request_facts("/before")])
    with follow(str(tmp_path), "--last", "1") as output:
        assert targets(output.take(1)) == ["/before"]
        writer = Writer("n/worker-0", "b", FileSink(tmp_path, "worker-0", 40_000, 5))
        for number in range(400):
            writer.write(request_facts(f"/{number}"))
            if number % 20 == 19:
                writer.flush()
            if number % 100 == 99:
                assert targets(output.take(100)) == [f"/{one}" for one in range(number - 99, number + 1)]
        fill(tmp_path / "later", "worker-9", [request_facts("/new")])
        assert targets(output.take(1)) == ["/new"]
        assert output.empty()
        writer.close()


def test_writers_come_out_in_order_of_time(tmp_path: Path) -> None:
    fill(tmp_path, "a", [request_facts("/before")])
    with follow(str(tmp_path), "--last", "1") as output:
        output.take(1)
        early, late = (Writer(f"n/{name}", "b", FileSink(tmp_path, name)) for name in "ab")
        early.write(request_facts("/1"))
        late.write(request_facts("/2"))
        late.flush()
        early.flush()
        assert targets(output.take(2)) == ["/1", "/2"]
        early.close()
        late.close()


def test_an_unfinished_line_waits_for_its_end(tmp_path: Path) -> None:
    fill(tmp_path, "w", [request_facts("/1"), request_facts("/2")])
    data = (tmp_path / "w.jsonl").read_bytes()
    first, second = data.splitlines(keepends=True)
    (tmp_path / "w.jsonl").write_bytes(first)
    damage = Damage()
    follower = Follower({"n": tmp_path}, damage)
    with (tmp_path / "w.jsonl").open("ab") as file:
        for byte in range(0, len(second), 100):
            assert follower.poll() == ([], False)
            file.write(second[byte : byte + 100])
            file.flush()
    assert follower.poll() == ([second[:-1]], False)
    follower.close()
    assert damage.bad_lines == 0


def test_starting_in_the_middle_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_bytes(b"old\nbegin")
    follower = Follower({"n": tmp_path}, Damage())
    with (tmp_path / "w.jsonl").open("ab") as file:
        file.write(b"ning\n")
    assert follower.poll()[0] == [b"beginning"]
    follower.close()


def test_a_line_cut_back_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes(b"1\n")
    follower = Follower({"n": tmp_path}, Damage())
    path.write_bytes(b"1\nhal")
    assert follower.poll()[0] == []
    os.truncate(path, 2)
    assert follower.poll()[0] == []
    path.write_bytes(b"1\nwhole\n")
    assert follower.poll()[0] == [b"whole"]
    path.write_bytes(b"")
    assert follower.poll()[0] == []
    path.write_bytes(b"again\n")
    assert follower.poll()[0] == [b"again"]
    follower.close()


def test_several_rotations_between_two_looks(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, "w", 30, 9)
    sink.write([b"line-0\n"])
    follower = Follower({"n": tmp_path}, Damage())
    expected = [b"line-%d" % number for number in range(1, 21)]
    sink.write([line + b"\n" for line in expected])
    assert len(list(tmp_path.glob("w.jsonl.*"))) > 3
    assert follower.poll()[0] == expected
    sink.write([b"more\n"])
    assert follower.poll()[0] == [b"more"]
    sink.close()
    follower.close()


def test_much_at_once_comes_in_bounded_parts(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_bytes(b"")
    follower = Follower({"n": tmp_path}, Damage())
    (tmp_path / "w.jsonl").write_bytes(b"".join(b"%06d\n" % number for number in range(1000)))
    seen: list[bytes] = []
    more = True
    while more:
        lines, more = follower.poll(max_bytes=700)
        assert len(lines) <= 100
        seen += lines
    assert seen == [b"%06d" % number for number in range(1000)]
    follower.close()


def test_a_line_without_end_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.reading.MAX_PARTIAL", 1000)
    path = tmp_path / "w.jsonl"
    path.write_bytes(b"")
    damage = Damage()
    follower = Follower({"n": tmp_path}, damage)
    path.write_bytes(b"x" * 5000)
    while follower.poll(max_bytes=512)[1]:
        pass
    with path.open("ab") as file:
        file.write(b"xxx\nok\n")
    assert follower.poll()[0] == [b"ok"]
    assert damage.bad_lines == 1
    follower.close()


def test_a_reader_that_leaves_ends_it(tmp_path: Path) -> None:
    fill(tmp_path, "w", [request_facts("/1")])
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "audit.observe", str(tmp_path), "--last", "1", "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()  # nothing is written any more: it has to notice by itself
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_an_interrupt_ends_it_quietly(tmp_path: Path) -> None:
    fill(tmp_path, "w", [request_facts("/1")])
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "audit.observe", str(tmp_path), "--last", "1", "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, "")
