"""Messages with descriptors between the agent, the broker and the workers: one datagram, one JSON object.

Unix sockets of type SOCK_SEQPACKET keep message borders and tell when the other side is gone. A descriptor that came
with a message that is not understood is closed, never kept.
"""

import array
import json
import os
import socket
from collections.abc import Sequence

MAX_MESSAGE = 64 * 1024
"""Bytes of one message; what is larger (a rule set) travels as a memfd beside a small message."""
MAX_FDS = 250
"""Descriptors of one message; the kernel's own limit is 253 (SCM_MAX_FD)."""

type Message = dict[str, object]


class ChannelError(Exception):
    """A message that is truncated, too large or not one JSON object."""


class CutError(ChannelError):
    """Not all descriptors of a message could be taken: this process has no room for them. Message borders are kept, so
    the channel is as good as before. message: what it said."""

    def __init__(self, message: Message) -> None:
        super().__init__("no room for the descriptors of a message")
        self.message = message


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message; the caller still owns and closes its copies of `fds`.

    Raises:
        OSError: the other side is gone, or its queue is full (EAGAIN on a non-blocking socket).
        ChannelError: the message is over `MAX_MESSAGE` or has more than `MAX_FDS` descriptors.
    """
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE or len(fds) > MAX_FDS:
        raise ChannelError(f"message of {len(data)} bytes and {len(fds)} descriptors is over the limit")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Receive one message and the descriptors that came with it; None when the other side is gone.

    Raises:
        OSError: as of recvmsg(2); EAGAIN when nothing is there.
        ChannelError: truncated or not a JSON object; CutError: not all descriptors are there. Those that came along are
            closed.
    """
    data, ancillary, flags, _ = sock.recvmsg(
        MAX_MESSAGE, socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if not data:
        close_all(fds)
        return None
    try:
        if flags & socket.MSG_TRUNC:
            raise ChannelError("message was cut by the kernel")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ChannelError("message is not an object")
        if flags & socket.MSG_CTRUNC:
            raise CutError(message)
    except ChannelError:
        close_all(fds)
        raise
    except (ValueError, RecursionError) as error:
        close_all(fds)
        raise ChannelError(str(error)) from error
    return message, list(fds)


def close_all(fds: Sequence[int] | array.array[int]) -> None:
    """Close descriptors that nobody will use."""
    for fd in fds:
        os.close(fd)
