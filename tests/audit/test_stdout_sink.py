"""A pipe that nobody reads costs records, never time."""

import asyncio
import errno
import os
import pty
import socket
from pathlib import Path

import pytest

from audit.sinks.stdout import StdoutSink
from audit.writer import Writer
from tests.audit.makers import numbers, parsed, request_facts, tulle


def drain(fd: int) -> bytes:
    """What is in a pipe now."""
    os.set_blocking(fd, False)
    found = b""
    try:
        while data := os.read(fd, 65536):
            found += data
    except BlockingIOError:
        pass
    return found


def test_lines_reach_a_pipe_and_its_flags_stay() -> None:
    reader, writer = os.pipe()
    sink = StdoutSink(writer)
    assert sink.write([b"1\n", b"2\n"]) == 2
    assert os.get_blocking(writer), "the pipe is shared with others"
    assert drain(reader) == b"1\n2\n"
    sink.close()
    os.close(reader)
    os.close(writer)


def test_a_blocked_pipe_neither_waits_nor_tears() -> None:
    reader, writer_fd = os.pipe()
    writer = Writer("node-a/worker-0", "boot", StdoutSink(writer_fd), buffer_bytes=50_000)
    for _ in range(1000):
        writer.write(request_facts())
    writer.flush()
    assert writer.counters.lost > 500
    received = drain(reader)
    while not writer.flush():
        received += drain(reader)
    received += drain(reader)
    records = parsed(received.splitlines(keepends=True))
    assert numbers(records) == list(range(1, 1001))
    assert writer.close() == 0
    os.close(reader)
    os.close(writer_fd)


def test_a_line_longer_than_the_pipe_goes_out_in_parts() -> None:
    reader, writer = os.pipe()
    sink = StdoutSink(writer)
    long = b"x" * 200_000 + b"\n"
    assert sink.write([b"a\n", long, b"b\n"]) == 2
    received = drain(reader)
    assert len(received) < len(long)
    assert sink.write([b"b\n"]) == 0, "nothing may come between the parts"
    received += drain(reader)
    while sink.write([b"b\n"]) == 0:
        received += drain(reader)
    received += drain(reader)
    assert received == b"a\n" + long + b"b\n"
    sink.close()
    os.close(reader)
    os.close(writer)


def test_a_reader_that_left_is_counted() -> None:
    reader, writer_fd = os.pipe()
    os.close(reader)
    writer = Writer("node-a/worker-0", "boot", StdoutSink(writer_fd))
    writer.write(request_facts())
    assert not writer.flush()
    assert writer.counters.write_errors == 1
    assert writer.close() == 1
    os.close(writer_fd)


def test_every_kind_of_output(tmp_path: Path) -> None:
    left, right = socket.socketpair()
    with left, right:
        sink = StdoutSink(left.fileno())
        while sink.write([b"x" * 1000 + b"\n"]):
            pass
        assert len(right.recv(1_000_000, socket.MSG_PEEK)) > 10_000
        assert sink.ready_fd() is not None
        sink.close()
    master, slave = pty.openpty()
    sink = StdoutSink(slave)
    assert sink.write([b"to a terminal\n"]) == 1
    assert os.read(master, 100) == b"to a terminal\r\n"
    sink.close()
    os.close(master)
    os.close(slave)
    with (tmp_path / "out").open("wb") as file:
        sink = StdoutSink(file.fileno())
        assert sink.write([b"1\n", b"2\n"]) == 2
        assert sink.ready_fd() is None
        sink.close()
    assert (tmp_path / "out").read_bytes() == b"1\n2\n"


def test_a_terminal_or_old_kernel_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "pwritev", refuse)
    reader, writer = os.pipe()
    sink = StdoutSink(writer)
    lines = [b"%04d" % number + b"x" * 995 + b"\n" for number in range(100)]
    taken = sink.write(lines)
    assert 0 < taken < 100
    assert sink.write(lines[taken:]) == 0
    assert drain(reader) == b"".join(lines[:taken])
    sink.close()
    os.close(reader)
    os.close(writer)


def test_the_loop_goes_on_when_the_reader_does() -> None:
    async def scenario() -> None:
        reader, writer_fd = os.pipe()
        writer = Writer("node-a/worker-0", "boot", StdoutSink(writer_fd))
        loop = asyncio.get_running_loop()
        writer.attach(loop)
        for _ in range(1000):
            writer.write(request_facts())
        received = b""
        while not writer.idle:
            await asyncio.sleep(0.001)
            received += drain(reader)
        received += drain(reader)
        records = parsed(received.splitlines(keepends=True))
        assert numbers(records) == list(range(1, 1001))
        assert all("seq" in tulle(record) for record in records)
        assert writer.close() == 0
        os.close(reader)
        os.close(writer_fd)

    asyncio.run(asyncio.wait_for(scenario(), 20))
