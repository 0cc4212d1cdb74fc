"""The data plane's dispatch: who is called, and who is not any more. On a loop of its own and on anybody's."""

import asyncio
import contextlib
import functools
import select
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from proxy import watch as module
from proxy.watch import READ, WRITE, Watch, new_loop

PAIRS = 3 * module.BATCH


@contextlib.contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(count)]
    for pair in made:
        for sock in pair:
            sock.setblocking(False)
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


@pytest.fixture
def watch() -> Iterator[Watch]:
    it = Watch()
    yield it
    it._epoll.close()


def test_added_changed_removed(watch: Watch) -> None:
    with pairs(1) as [(one, other)]:
        seen: list[tuple[str, int]] = []
        watch.add(one.fileno(), READ, lambda events: seen.append(("first", events)))
        assert len(watch) == 1
        assert watch.turn(0) == []
        assert seen == []
        other.send(b"x")
        watch.turn(-1)
        watch.turn(-1)  # it was not read: told again
        assert seen == [("first", READ)] * 2
        watch.change(one.fileno(), READ | WRITE, lambda events: seen.append(("second", events)))
        watch.turn(-1)
        assert seen[2:] == [("second", READ | WRITE)]
        watch.remove(one.fileno())
        assert len(watch) == 0
        assert watch.turn(0) == []
        assert len(seen) == 3
        with pytest.raises(KeyError):
            watch.remove(one.fileno())


def test_forgotten_is_gone_when_closed(watch: Watch) -> None:
    with pairs(1) as [(one, other)]:
        other.send(b"x")
        watch.add(one.fileno(), READ, lambda events: pytest.fail("called"))
        watch.forget(one.fileno())
        one.close()
        assert (watch.turn(0), len(watch)) == ([], 0)


def test_an_event_for_one_that_was_removed_in_the_same_turn_is_nobodys(watch: Watch) -> None:
    with pairs(2) as [(one, one_peer), (two, two_peer)]:
        called: list[int] = []

        def handler(mine: socket.socket, its: socket.socket) -> Callable[[int], None]:
            def ready(_events: int) -> None:
                called.append(mine.fileno())
                watch.forget(its.fileno())
                its.close()

            return ready

        numbers = (one.fileno(), two.fileno())
        watch.add(one.fileno(), READ, handler(one, two))
        watch.add(two.fileno(), READ, handler(two, one))
        one_peer.send(b"x")
        two_peer.send(b"x")
        others = watch.turn(-1)
        assert len(called) == 1
        assert [fd for fd, _ in others] == [fd for fd in numbers if fd != called[0]]


def test_a_late_event_may_meet_the_next_owner_of_the_descriptor(watch: Watch) -> None:
    """Which then finds nothing there: a hint, and an EAGAIN."""
    with pairs(3) as [(one, one_peer), (two, two_peer), (fresh, _)]:
        found: list[str] = []
        number = {one: two, two: one}

        def handler(mine: socket.socket) -> Callable[[int], None]:
            def ready(_events: int) -> None:
                found.append("old")
                other = number[mine]
                fd = other.fileno()
                watch.forget(fd)
                other.close()
                again = socket.fromfd(fresh.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
                assert again.fileno() == fd
                stack.callback(again.close)
                watch.add(fd, READ, lambda events: late(again))

            return ready

        def late(sock: socket.socket) -> None:
            found.append("late")
            with pytest.raises(BlockingIOError):
                sock.recv(10)

        with contextlib.ExitStack() as stack:
            for sock in (one, two):
                watch.add(sock.fileno(), READ, handler(sock))
            one_peer.send(b"x")
            two_peer.send(b"x")
            watch.turn(-1)
            assert found == ["old", "late"]


def test_a_handler_that_raises_is_watched_no_more_and_harms_nobody(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    with pairs(3) as made:
        called: list[int] = []

        def bad(_events: int) -> None:
            called.append(-1)
            raise ZeroDivisionError

        for number, (sock, peer) in enumerate(made):
            good = functools.partial(lambda number, _events: called.append(number), number)
            watch.add(sock.fileno(), READ, bad if number == 1 else good)
            peer.send(b"x")
        watch.turn(-1)
        assert sorted(called) == [-1, 0, 2]
        assert len(watch) == 2
        watch.turn(-1)
        assert sorted(called) == [-1, 0, 0, 2, 2]
    assert "an event could not be handled" in caplog.text


def test_a_handler_that_raises_after_somebody_took_its_place(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    with pairs(1) as [(one, other)]:
        other.send(b"x")
        called: list[int] = []

        def bad(_events: int) -> None:
            watch.change(one.fileno(), READ, called.append)
            raise ZeroDivisionError

        watch.add(one.fileno(), READ, bad)
        watch.turn(-1)
        watch.turn(-1)
        assert (called, len(watch)) == ([READ], 1)
    assert "ZeroDivisionError" in caplog.text


def test_more_descriptors_than_fit_in_one_call_all_get_their_turn(watch: Watch) -> None:
    """Those that are always ready do not keep others from theirs."""
    with pairs(PAIRS) as made:
        called: dict[int, int] = {}
        for number, (sock, _) in enumerate(made):
            called[number] = 0

            def ready(_events: int, number: int = number) -> None:
                called[number] += 1

            watch.add(sock.fileno(), WRITE, ready)
        for _ in range(2 * PAIRS // module.BATCH):
            watch.turn(0)
        assert set(called.values()) == {2}


@pytest.mark.parametrize("events", [READ, WRITE, READ | WRITE])
def test_a_connection_that_broke_is_told_whatever_is_watched(watch: Watch, events: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        sock, _ = listener.accept()
        with sock:
            sock.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            seen: list[int] = []
            watch.add(sock.fileno(), events, seen.append)
            watch.turn(-1)
            assert seen[0] & select.EPOLLHUP
            assert seen[0] & select.EPOLLERR


# ---- with a loop


type Body = Callable[[asyncio.AbstractEventLoop, Watch], Awaitable[None]]


def own(body: Body) -> None:
    """A loop that shares its system call."""
    loop, watch = new_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(body(loop, watch), 30))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def foreign(body: Body) -> None:
    """A loop that somebody else made."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        watch = Watch()
        watch.attach(loop)
        try:
            await asyncio.wait_for(body(loop, watch), 30)
        finally:
            watch.close(loop)
            watch.close(loop)  # twice does no harm

    asyncio.run(main())


LOOPS = pytest.mark.parametrize("on", [own, foreign])


@LOOPS
def test_both_kinds_of_descriptors_timers_and_threads_get_their_turn(on: Callable[[Body], None]) -> None:
    async def body(loop: asyncio.AbstractEventLoop, watch: Watch) -> None:
        with pairs(2) as [(ours, our_peer), (theirs, their_peer)]:
            done = {name: asyncio.Event() for name in ("ours", "theirs", "timer", "thread")}
            watch.add(ours.fileno(), READ, lambda events: done["ours"].set())  # never read: always ready
            loop.add_reader(theirs.fileno(), done["theirs"].set)
            our_peer.send(b"x")
            their_peer.send(b"x")
            loop.call_later(0.01, done["timer"].set)
            thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(done["thread"].set))
            thread.start()
            for event in done.values():
                await event.wait()
            thread.join()
            assert loop.remove_reader(theirs.fileno())
            watch.remove(ours.fileno())

    on(body)


@LOOPS
def test_a_loop_that_waits_is_woken_by_a_descriptor_and_by_a_timer(on: Callable[[Body], None]) -> None:
    async def body(loop: asyncio.AbstractEventLoop, watch: Watch) -> None:
        with pairs(1) as [(ours, peer)]:
            got: asyncio.Queue[bytes] = asyncio.Queue()
            watch.add(ours.fileno(), READ, lambda events: got.put_nowait(ours.recv(100)))
            for number in range(20):
                loop.call_later(0.001 * (number % 3), peer.send, b"%d" % number)
                assert await got.get() == b"%d" % number
            began = loop.time()
            await asyncio.sleep(0.05)
            assert loop.time() >= began + 0.04
            watch.remove(ours.fileno())

    on(body)


@LOOPS
def test_an_event_of_the_loops_own_that_its_owner_gave_up_in_the_same_turn(on: Callable[[Body], None]) -> None:
    async def body(loop: asyncio.AbstractEventLoop, watch: Watch) -> None:
        with pairs(2) as [(ours, our_peer), (theirs, their_peer)]:
            called: list[str] = []

            def ready(_events: int) -> None:
                called.append("ours")
                loop.remove_reader(theirs.fileno())
                watch.remove(ours.fileno())

            watch.add(ours.fileno(), READ, ready)
            loop.add_reader(theirs.fileno(), called.append, "theirs")
            our_peer.send(b"x")
            their_peer.send(b"x")
            await asyncio.sleep(0.01)
            assert called in (["ours"], ["theirs", "ours"])  # never after it

    on(body)


@LOOPS
def test_asyncio_s_own_streams_work_beside(on: Callable[[Body], None]) -> None:
    async def body(loop: asyncio.AbstractEventLoop, watch: Watch) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read(100))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
        server.close()
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionRefusedError):  # which epoll tells as an error alone
                await asyncio.open_connection(*nobody.getsockname())

    on(body)
