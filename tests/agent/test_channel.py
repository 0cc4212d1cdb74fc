"""Messages with descriptors: whole, bounded, and no descriptor is left open by one that is not understood."""

import os
import resource
import socket
from pathlib import Path

import pytest

from agent.pool import make_pair
from proxy import channel


def open_fds() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def pair() -> "list[socket.socket]":
    return list(make_pair())


def test_message_and_descriptors_arrive(pair: list[socket.socket]) -> None:
    left, right = pair
    with left, right:
        read, write = os.pipe()
        channel.send(left, {"op": "x", "id": 1}, [read])
        received = channel.receive(right)
        assert received is not None
        message, (fd,) = received
        assert message == {"op": "x", "id": 1}
        os.write(write, b"hello")
        assert os.read(fd, 5) == b"hello"
        assert os.get_inheritable(fd) is False
        for each in (read, write, fd):
            os.close(each)


def test_the_end_is_none(pair: list[socket.socket]) -> None:
    left, right = pair
    left.close()
    with right:
        assert channel.receive(right) is None


@pytest.mark.parametrize("data", [b"[1]", b"{", b"\xff", b"nothing", b'{"a":1}x'])
def test_nonsense_closes_its_descriptors(pair: list[socket.socket], data: bytes) -> None:
    left, right = pair
    with left, right, open(os.devnull) as file:  # noqa: PTH123  a descriptor to send is all that is wanted
        socket.send_fds(left, [data], [file.fileno()])
        before = open_fds()
        with pytest.raises(channel.ChannelError):
            channel.receive(right)
        assert open_fds() == before


def test_too_large_is_refused_before_it_is_sent(pair: list[socket.socket]) -> None:
    left, right = pair
    with left, right:
        with pytest.raises(channel.ChannelError):
            channel.send(left, {"x": "y" * channel.MAX_MESSAGE})
        right.setblocking(False)
        with pytest.raises(BlockingIOError):
            channel.receive(right)


def test_a_message_cut_by_the_kernel_is_an_error(pair: list[socket.socket]) -> None:
    left, right = pair
    with left, right:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        left.send(b'{"x":"' + b"y" * (channel.MAX_MESSAGE + 100) + b'"}')
        with pytest.raises(channel.ChannelError, match="cut"):
            channel.receive(right)


def test_descriptors_without_room_are_an_error_that_keeps_the_message(pair: list[socket.socket]) -> None:
    left, right = pair
    with left, right, open(os.devnull) as file:  # noqa: PTH123  a descriptor to send is all that is wanted
        channel.send(left, {"op": "hold"}, [file.fileno()] * 20)
        channel.send(left, {"op": "state"})
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = open_fds()
        top = os.dup(0)
        os.close(top)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + 5, limits[1]))
            with pytest.raises(channel.CutError) as caught:
                channel.receive(right)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert caught.value.message == {"op": "hold"}
        assert open_fds() == before
        assert channel.receive(right) == ({"op": "state"}, [])
