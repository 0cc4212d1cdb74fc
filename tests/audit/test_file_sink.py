"""Files: rotation, other hands, and disks without room."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.sinks.file import FileSink
from audit.writer import Writer
from tests.audit.makers import file_lines, numbers, parsed, request_facts, tulle


def test_rotation_under_load_loses_and_tears_nothing(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, "worker-0", max_bytes=50_000, backups=30)
    writer = Writer("node-a/worker-0", "boot", sink)
    for number in range(1000):
        writer.write(request_facts(f"/{number}"))
        if number % 7 == 0:
            writer.flush()
    assert writer.close() == 0
    backups = sorted(tmp_path.glob("worker-0.jsonl.*"), key=lambda path: -int(path.suffix[1:]))
    assert len(backups) >= 10
    assert all(path.stat().st_size <= 50_000 for path in [*backups, tmp_path / "worker-0.jsonl"])
    assert numbers(parsed(file_lines(*backups, tmp_path / "worker-0.jsonl"))) == list(range(1, 1001))


def test_only_the_newest_backups_stay(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, "s", max_bytes=100, backups=2)
    for number in range(10):
        assert sink.write([b"%02d" % number + b"x" * 57 + b"\n"]) == 1
    sink.close()
    assert sorted(path.name for path in tmp_path.glob("s.*")) == ["s.jsonl", "s.jsonl.1", "s.jsonl.2"]
    assert [path.read_bytes()[:2] for path in sorted(tmp_path.glob("s.*"))] == [b"09", b"08", b"07"]


def test_without_backups_the_file_starts_again(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, "s", 10, 0)
    sink.write([b"12345678\n", b"abcdefgh\n"])
    sink.close()
    assert [path.name for path in tmp_path.glob("s.*")] == ["s.jsonl"]
    assert (tmp_path / "s.jsonl").read_bytes() == b"abcdefgh\n"


def test_a_file_taken_away_is_made_again(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, "s")
    sink.write([b"1\n"])
    (tmp_path / "s.jsonl").rename(tmp_path / "moved")
    sink.write([b"2\n"])
    (tmp_path / "s.jsonl").unlink()
    sink.write([b"3\n"])
    sink.close()
    assert (tmp_path / "moved").read_bytes() == b"1\n"
    assert (tmp_path / "s.jsonl").read_bytes() == b"3\n"


def test_a_torn_line_of_a_killed_writer_ends_there(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_bytes(b"whole\ntor")
    sink = FileSink(tmp_path, "s")
    assert sink.write([b"next\n"]) == 1
    sink.close()
    assert (tmp_path / "s.jsonl").read_bytes() == b"whole\ntor\nnext\n"


def test_two_writers_of_one_stream_never_share_a_file(tmp_path: Path) -> None:
    first, second = FileSink(tmp_path, "w"), FileSink(tmp_path, "w")
    assert (first.stream, second.stream) == ("w", "w-2")
    first.close()
    third = FileSink(tmp_path, "w")
    assert third.stream == "w"
    second.close()
    third.close()


def test_too_many_writers_of_one_stream_are_refused(tmp_path: Path) -> None:
    sinks = [FileSink(tmp_path, "w") for _ in range(16)]
    with pytest.raises(OSError, match="write stream"):
        FileSink(tmp_path, "w")
    for sink in sinks:
        sink.close()


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "../x"])
def test_a_stream_is_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        FileSink(tmp_path, name)


def test_a_file_size_limit_counts_as_a_full_disk(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from audit.sinks.file import FileSink
        from audit.writer import Writer
        from tests.audit.makers import request_facts
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 100_000))
        writer = Writer("node-a/worker-0", "boot", FileSink(Path(sys.argv[1]), "worker-0"), buffer_bytes=20_000)
        for _ in range(200):
            writer.write(request_facts())
            writer.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for _ in range(3):
            writer.write(request_facts())
            writer.flush()
        writer.close()
        print(writer.counters.lost)
        """
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    lost = int(done.stdout)
    assert lost > 50
    records = parsed(file_lines(tmp_path / "worker-0.jsonl"))
    assert numbers(records) == list(range(1, 204))
    losses = [record["lost_events"] for record in records if "lost_events" in record]
    assert [int(str(loss["num_events_lost"])) for loss in losses if isinstance(loss, dict)] == [lost]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=64k", "tt-audit", str(place)], check=True)  # noqa: S603 - fixed
    try:
        yield place
    finally:
        subprocess.run(["/bin/umount", "-l", str(place)], check=True)  # noqa: S603 - fixed


@pytest.mark.root
def test_a_full_disk_is_survived_and_told(tiny_disk: Path) -> None:
    (tiny_disk / "ballast").write_bytes(b"x" * 32_768)
    writer = Writer("node-a/worker-0", "boot", FileSink(tiny_disk, "worker-0"), buffer_bytes=10_000)
    for _ in range(100):
        writer.write(request_facts())
        writer.flush()
    assert writer.counters.lost > 10
    on_disk = file_lines(tiny_disk / "worker-0.jsonl")
    parsed(on_disk)  # no torn line, also while the disk is full
    (tiny_disk / "ballast").unlink()
    writer.write(request_facts())
    assert writer.close() == 0
    records = parsed(file_lines(tiny_disk / "worker-0.jsonl"))
    assert numbers(records) == list(range(1, 102))
    assert [tulle(record)["lost_cause"] for record in records if "lost_events" in record] == ["ENOSPC"]


def test_killed_in_full_run_only_the_last_line_can_be_torn(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from audit.sinks.file import FileSink
        from audit.writer import Writer
        from tests.audit.makers import request_facts
        writer = Writer("node-a/worker-0", "boot", FileSink(Path(sys.argv[1]), "worker-0", 100_000, 3))
        while True:
            writer.write(request_facts())
            if writer.seq == 2000:
                print("going", flush=True)
        """
    )
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    sink = FileSink(tmp_path, "worker-0", 100_000, 3)
    assert sink.stream == "worker-0", "the dead writer's name is free"
    sink.close()
    paths = [tmp_path / f"worker-0.jsonl.{number}" for number in (3, 2, 1)]
    lines = file_lines(*(path for path in paths if path.exists()), tmp_path / "worker-0.jsonl")
    whole = parsed(lines if lines[-1].endswith(b"\n") else lines[:-1])
    seen = numbers(whole)
    assert seen == list(range(seen[0], seen[0] + len(seen)))
