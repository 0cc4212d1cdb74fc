"""Octets that are moved and not read: all of them arrive, none of them in another flow."""

import asyncio
import errno
import hashlib
import os
import socket
from collections.abc import Iterator

import pytest

from proxy.limits import Limits
from proxy.relay import Relay
from proxy.side import Side
from proxy.watch import Watch
from tests.proxy.helpers import EGRESS, GET_ANY, POST_ANY, read_head, rig, run


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of TCP sockets, the second non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    far.setblocking(False)
    return near, far


class Ends:
    """source ══▶ relay ══▶ target, with both outer ends."""

    def __init__(self) -> None:
        watch = Watch()
        self.writer, inner = pair()
        self.reader, outer = pair()
        self.source = Side(watch, inner, lambda events: None, lambda: None, shared=False)
        self.target = Side(watch, outer, lambda events: None, lambda: None, shared=False)
        self.relay = Relay()

    def close(self) -> None:
        for side in (self.source, self.target):
            side.close()
        self.writer.close()
        self.reader.close()
        self.relay.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def empty(relay: Relay) -> bool:
    """Whether nothing is in the pipe."""
    try:
        return os.read(relay._read, 1) == b""
    except BlockingIOError:
        return True


def test_moves_what_is_there_and_not_more_than_was_asked_for(ends: Ends) -> None:
    assert ends.relay.move(ends.source, ends.target, 1000) is None
    ends.writer.sendall(b"abcdefgh")
    assert ends.relay.move(ends.source, ends.target, 5) == 5
    assert ends.reader.recv(100) == b"abcde"
    assert ends.relay.move(ends.source, ends.target, 1000) == 3
    assert ends.reader.recv(100) == b"fgh"
    ends.writer.close()
    assert ends.relay.move(ends.source, ends.target, 1000) == 0
    assert empty(ends.relay)


def test_what_the_target_does_not_take_is_unsent_and_leaves_the_pipe(ends: Ends) -> None:
    ends.target.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ends.reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sent = moved = 0
    ends.writer.setblocking(False)
    while not ends.target.unsent:
        try:
            sent += ends.writer.send(bytes(range(256)) * 64)
        except BlockingIOError:
            assert ends.target.unsent, "everything was taken by a target with a small buffer"
        moved += ends.relay.move(ends.source, ends.target, 65536) or 0
        assert moved < 64 << 20
    assert empty(ends.relay)
    waiting = ends.target.unsent
    got = b""
    while len(got) < moved:
        got += ends.reader.recv(65536)
        ends.target.flush()
        if ends.target.unsent:
            ends.target.writable()
    assert waiting > 0
    assert hashlib.sha256(got).digest() == hashlib.sha256((bytes(range(256)) * (moved // 256 + 1))[:moved]).digest()


def test_a_lost_target_leaves_nothing_behind_for_the_next_flow(ends: Ends) -> None:
    ends.reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    ends.reader.close()
    ends.writer.sendall(b"secret of the first flow")
    assert ends.relay.move(ends.source, ends.target, 1000) == 24
    assert not ends.target.flush()
    assert empty(ends.relay)
    other = Ends()
    try:
        other.writer.sendall(b"second")
        assert ends.relay.move(other.source, other.target, 1000) == 6
        assert other.reader.recv(100) == b"second"
    finally:
        other.close()


def test_a_lost_source_is_told(ends: Ends) -> None:
    ends.writer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    ends.writer.close()
    with pytest.raises(ConnectionResetError):
        ends.relay.move(ends.source, ends.target, 1000)


def test_a_pipe_of_which_nobody_can_tell_is_made_anew(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.splice, 0

    def breaks_in_the_middle(source: int, target: int, count: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(source, target, count)

    ends.writer.sendall(b"left in the pipe")
    monkeypatch.setattr(os, "splice", breaks_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        ends.relay.move(ends.source, ends.target, 1000)
    monkeypatch.undo()
    assert empty(ends.relay)
    ends.writer.sendall(b"next")
    assert ends.relay.move(ends.source, ends.target, 1000) == 4
    assert ends.reader.recv(100) == b"next"


def test_without_a_pipe_nothing_is_moved_until_there_is_one_again(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed pipe's numbers may be another flow's socket by now."""
    real, calls = os.splice, 0

    def breaks_in_the_middle(source: int, target: int, count: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(source, target, count)

    def exhausted(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "no descriptors")

    ends.writer.sendall(b"left in the pipe")
    with monkeypatch.context() as patch:
        patch.setattr(os, "splice", breaks_in_the_middle)
        patch.setattr(os, "pipe2", exhausted)
        with pytest.raises(OSError, match="no descriptors"):
            ends.relay.move(ends.source, ends.target, 1000)
    assert (ends.relay._read, ends.relay._write) == (-1, -1)
    ends.writer.sendall(b"next")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", exhausted)
        with pytest.raises(OSError, match="no descriptors"):
            ends.relay.move(ends.source, ends.target, 1000)
    assert not ends.source.was_reset
    assert ends.relay.move(ends.source, ends.target, 1000) == 4
    assert ends.reader.recv(100) == b"next"


BODY = bytes(range(251)) * 20_000  # 5 MB
SMALL = Limits(relay_bytes=64 * 1024)


@pytest.mark.parametrize("slow", [False, True])
def test_big_bodies_both_ways_among_other_flows(slow: bool) -> None:
    seen = 0

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        while head := await read_head(reader):
            if head.startswith(b"POST"):
                assert await reader.readexactly(len(BODY)) == BODY
                seen += 1
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
            await writer.drain()

    async def body() -> None:
        async with rig(GET_ANY, POST_ANY, app=app, limits=SMALL, direction=EGRESS) as it:
            moved = 0
            real = it.server.relay.move

            class Counting(Relay):
                def move(self, source: Side, target: Side, most: int) -> int | None:
                    nonlocal moved
                    count = real(source, target, most)
                    moved += count or 0
                    return count

            before, it.server.relay = it.server.relay, Counting()
            before_close = before.close

            async def one(number: int) -> None:
                client = await it.connect()
                for _ in range(2):
                    client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
                    if slow:
                        await asyncio.sleep(0.1)
                    status, _, content = await client.response()
                    assert (status, content == BODY) == (200, True)
                    client.send(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (number, len(BODY)))
                    client.send(BODY)
                    status, _, content = await client.response()
                    assert (status, content) == (201, b"ok")

            await asyncio.gather(*(one(number) for number in range(4)))
            assert seen == 8
            assert moved > len(BODY)  # else this tested nothing
            before_close()

    run(body)
