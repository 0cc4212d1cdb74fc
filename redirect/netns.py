"""Entering a pod's network namespace and coming back.

A socket keeps the netns it was opened in for life, so a process on the node opens it inside the pod and takes it out.
setns(2) with CLONE_NEWNET moves the calling thread only; so does everything here.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from redirect.errors import RedirectError, UnsupportedFeature, kernel_error

__all__ = ["Netns", "same"]

SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, kernel 5.14; not in Python's socket module
OWN = "/proc/thread-self/ns/net"  # not /proc/self: that is the main thread's


def same(path: str | os.PathLike[str], inode: int) -> bool:
    """Whether ``path`` still names the netns with this inode number. A path that is gone names nothing."""
    try:
        return Path(path).stat().st_ino == inode
    except OSError:
        return False


class Netns:
    """A handle on one network namespace. It keeps the namespace alive until ``close``."""

    __slots__ = ("cookie", "fd", "inode", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self.inode = os.fstat(fd).st_ino
        self.cookie = self._cookie()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open the netns at ``path`` (``/var/run/netns/NAME``, ``/proc/PID/ns/net``).

        Raises:
            RedirectError: no such path, or it is not a network namespace.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise kernel_error(f"cannot open netns '{os.fspath(path)}'", error.errno or 0) from error
        try:
            return cls(fd, os.fspath(path))
        except BaseException:
            os.close(fd)
            raise

    def _cookie(self) -> int:
        """The number by which the kernel's programs know this netns: never used again while the machine is up."""
        with self.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                raw = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
            except OSError as error:
                raise UnsupportedFeature("SO_NETNS_COOKIE", since="5.14") from error
        cookie: int = struct.unpack("=Q", raw)[0]
        return cookie

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside the netns for the length of the block. No await inside.

        Raises:
            RedirectError: the netns could not be entered; the thread has not moved.
        """
        if self.fd < 0:
            raise RedirectError(f"cannot enter netns '{self.path}': it is closed")
        home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                os.setns(self.fd, os.CLONE_NEWNET)
            except OSError as error:
                raise kernel_error(f"cannot enter netns '{self.path}'", error.errno or 0) from error
            try:
                yield
            finally:
                try:
                    os.setns(home, os.CLONE_NEWNET)
                except OSError:
                    # INVARIANT: nobody goes on in the wrong netns: every later socket would be a pod's. Enforcement
                    # is pinned and survives the process, so dying is the safe side.
                    with suppress(OSError):
                        os.write(2, b"tulle: cannot come back from a pod's netns\n")
                    os.abort()
        finally:
            os.close(home)

    def close(self) -> None:
        """Let go of the namespace. Twice is fine."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Netns({self.path!r}, inode={self.inode}, cookie={self.cookie})"
