"""One socket of a flow: what is sent when, what is left over, what is watched, and how it ends."""

import select
import socket
import struct
from collections.abc import Iterator

import pytest

from proxy.side import Side
from proxy.watch import READ, WRITE, Handler, Watch

MIB = 1024 * 1024


class SpiedWatch(Watch):
    """Keeps what is watched now, and how often that changed."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, int] = {}
        self.calls = 0

    def add(self, fd: int, events: int, handler: Handler) -> None:
        assert fd not in self.watched
        super().add(fd, events, handler)
        self.watched[fd] = events
        self.calls += 1

    def change(self, fd: int, events: int, handler: Handler) -> None:
        super().change(fd, events, handler)
        self.watched[fd] = events
        self.calls += 1

    def remove(self, fd: int) -> None:
        super().remove(fd)
        del self.watched[fd]
        self.calls += 1

    def forget(self, fd: int) -> None:
        super().forget(fd)
        del self.watched[fd]


class Ends:
    """A side and its peer, with small buffers."""

    def __init__(self, *, shared: bool = False) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.connect(listener.getsockname())
            self.peer, _ = listener.accept()
        sock.setblocking(False)
        self.peer.setblocking(False)
        self.watch = SpiedWatch()
        self.readable: list[int] = []
        self.writable = 0
        self.kept: list[bool] = []
        self.side = Side(self.watch, sock, self.readable.append, self._writable, shared=shared)
        self.fd = sock.fileno()

    def _writable(self) -> None:
        self.writable += 1
        self.kept.append(self.side.writable())

    @property
    def watched(self) -> int:
        return self.watch.watched.get(self.fd, 0)

    def fill(self) -> bytes:
        """Give more than the socket takes."""
        data = bytes(range(256)) * (MIB // 256)
        assert not self.side.pass_on(data)
        assert 0 < self.side.unsent < MIB
        return data

    def take(self, size: int = 1 << 30) -> bytes:
        """What the peer reads, while the loop turns."""
        got = b""
        for _ in range(100_000):
            self.watch.turn(0)
            try:
                data = self.peer.recv(65536)
            except BlockingIOError:
                if not self.side.unsent:
                    break
                select.select([self.peer], [], [], 1)
                continue
            if not data:
                break
            got += data
            if len(got) >= size:
                break
        return got

    def break_off(self) -> None:
        """The peer resets."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()

    def close(self) -> None:
        self.side.close()
        self.peer.close()
        self.watch._epoll.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    it = Ends()
    yield it
    it.close()


def test_what_the_socket_takes_goes_at_once_and_needs_nothing_more(ends: Ends) -> None:
    assert ends.side.pass_on(b"hello")
    assert (ends.side.unsent, ends.side.wants_flush, ends.watched, ends.watch.calls) == (0, False, 0, 0)
    assert ends.take() == b"hello"


def test_what_is_left_over_goes_when_there_is_room_and_in_order(ends: Ends) -> None:
    data = ends.fill()
    assert ends.watched == WRITE
    assert not ends.side.pass_on(b"behind")  # not before what waits
    ends.side.give(b"it")
    assert ends.side.flush()  # and not now
    assert ends.take() == data + b"behindit"
    assert (ends.side.unsent, ends.watched, ends.kept[-1]) == (0, 0, True)
    assert ends.side.pass_on(b"again")


def test_a_full_socket_takes_nothing(ends: Ends) -> None:
    ends.fill()
    while True:
        try:
            ends.side.sock.send(b"x" * 65536)
        except BlockingIOError:
            break
    ends.side.discard()
    ends.side.writable()  # nothing is unsent, nothing is watched, and the socket is still full
    assert ends.watched == 0
    assert not ends.side.pass_on(b"hello")
    assert (ends.side.unsent, ends.watched) == (5, WRITE)


def test_given_goes_with_the_flush_in_one_piece(ends: Ends) -> None:
    ends.side.give(b"he")
    ends.side.give(memoryview(b"llo"))
    assert (ends.side.unsent, ends.side.wants_flush) == (5, True)
    with pytest.raises(BlockingIOError):
        ends.peer.recv(10)
    assert ends.side.flush()
    assert ends.peer.recv(10) == b"hello"
    assert (ends.side.unsent, ends.side.wants_flush) == (0, False)


def test_passed_on_behind_what_was_given(ends: Ends) -> None:
    ends.side.give(b"one")
    assert not ends.side.pass_on(b"two")
    assert ends.side.flush()
    assert ends.peer.recv(10) == b"onetwo"


def test_the_end_goes_behind_what_is_unsent(ends: Ends) -> None:
    data = ends.fill()
    ends.side.end()
    assert ends.side.flush()
    assert not ends.side.fin_sent
    assert ends.take() == data
    assert ends.side.fin_sent
    assert ends.watched == 0
    ends.side.end()
    assert ends.side.flush()  # once is enough
    ends.peer.send(b"still read")
    assert ends.side.recv(100) == b"still read"


def test_reading_and_writing_are_watched_apart(ends: Ends) -> None:
    ends.side.want_read(True)
    ends.side.want_read(True)
    assert (ends.watched, ends.watch.calls) == (READ, 1)
    ends.peer.send(b"x")
    ends.watch.turn(-1)
    assert (ends.readable, ends.writable) == ([READ], 0)
    ends.side.recv(10)
    data = ends.fill()
    assert ends.watched == READ | WRITE
    ends.side.want_read(False)
    assert ends.watched == WRITE
    ends.peer.send(b"y")
    assert ends.take(MIB) == data
    ends.watch.turn(0)
    assert (len(ends.readable), ends.watched) == (1, 0)  # not told while it is not wanted
    ends.side.want_read(True)
    ends.watch.turn(-1)
    assert len(ends.readable) == 2
    ends.side.ended = True
    ends.side.want_read(False)
    ends.side.want_read(True)
    assert ends.watched == 0  # there is nothing more to be told


def test_both_are_told_in_one_turn_writing_first(ends: Ends) -> None:
    ends.side.want_read(True)
    data = ends.fill()
    assert ends.peer.send(b"x") == 1
    got = ends.take(MIB)
    assert got == data
    assert ends.readable
    assert all(events & READ for events in ends.readable)


def test_a_connection_that_broke_is_found_out_by_a_flush(ends: Ends) -> None:
    ends.break_off()
    assert not ends.side.pass_on(b"x")  # ECONNRESET or EPIPE
    assert ends.side.wants_flush
    assert not ends.side.flush()
    assert (ends.side.broken, ends.side.unsent) == (True, 0)
    ends.side.give(b"more")
    assert not ends.side.pass_on(b"more")
    assert (ends.side.unsent, ends.side.flush()) == (0, True)
    assert ends.watched == 0


def test_a_connection_that_breaks_while_it_is_full(ends: Ends) -> None:
    ends.fill()
    ends.break_off()
    ends.watch.turn(-1)
    assert ends.kept == [False]
    assert (ends.side.broken, ends.side.unsent, ends.watched) == (True, 0, 0)
    ends.watch.turn(0)
    assert ends.writable == 1  # and is not told for ever


def test_one_that_broke_while_nothing_is_wanted_wakes_nobody(ends: Ends) -> None:
    """EPOLLHUP comes whatever is watched, so a side that wants nothing must not be in epoll at all."""
    ends.side.want_read(True)
    ends.side.want_read(False)
    ends.break_off()
    for _ in range(3):
        assert ends.watch.turn(0) == []
    assert (ends.readable, ends.writable) == ([], 0)
    ends.side.want_read(True)
    ends.watch.turn(-1)
    assert len(ends.readable) == 1
    with pytest.raises(ConnectionResetError):
        ends.side.recv(10)


@pytest.mark.parametrize("shared", [False, True])
def test_closed_is_watched_no_more(shared: bool) -> None:
    ends = Ends(shared=shared)
    ends.side.want_read(True)
    other = ends.side.sock.dup() if shared else None  # as the broker may still have one
    ends.side.close()
    ends.side.close()
    assert (len(ends.watch), ends.watch.watched, ends.side.fd) == (0, {}, -1)
    ends.peer.send(b"x")
    assert ends.watch.turn(0) == []
    ends.side.want_read(True)  # it is over: nothing comes of it
    assert ends.watch.watched == {}
    if other is not None:
        other.close()
    ends.close()


@pytest.mark.parametrize("reset", [False, True])
def test_closed_or_reset(reset: bool) -> None:
    ends = Ends()
    ends.side.close(reset=reset)
    ends.peer.setblocking(True)
    if reset:
        with pytest.raises(ConnectionResetError):
            ends.peer.recv(10)
    else:
        assert ends.peer.recv(10) == b""
    ends.close()


def test_closing_in_the_midst_of_an_event_ends_it() -> None:
    ends = Ends()
    ends.side.want_read(True)
    data = ends.fill()
    side = ends.side

    def close() -> None:
        side.close()

    side._on_write = close
    ends.peer.send(b"x")
    while side.fd >= 0:
        ends.peer.recv(len(data))
        ends.watch.turn(0)
    assert all(events == READ for events in ends.readable)
    count = len(ends.readable)
    ends.watch.turn(0)
    assert len(ends.readable) == count
    ends.close()
