"""Named network namespaces, as `ip netns` makes them, and a way to work inside one for a moment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lab import confine, names


def share_root() -> None:
    """Make /run/netns a shared mount point, so that an unmount reaches every mount namespace (ip-netns(8))."""
    names.NETNS_ROOT.mkdir(parents=True, exist_ok=True)
    root = str(names.NETNS_ROOT)
    try:
        confine.mount("", root, None, confine.MS_SHARED | confine.MS_REC)
    except OSError:
        # Not a mount point yet: mount it over itself, then it can be shared.
        confine.mount(root, root, None, confine.MS_BIND | confine.MS_REC)
        confine.mount("", root, None, confine.MS_SHARED | confine.MS_REC)


def create(name: str) -> None:
    """Make a namespace and give it a name; raises FileExistsError when the name is taken."""
    path = names.NETNS_ROOT / name
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    with _own_netns_kept():
        os.unshare(os.CLONE_NEWNET)
        # thread-self: unshare moves this thread alone.
        confine.mount("/proc/thread-self/ns/net", str(path), None, confine.MS_BIND)


def delete(name: str) -> None:
    """Take the name away; the namespace goes with its last process and socket. Nothing there is fine."""
    path = names.NETNS_ROOT / name
    with suppress(OSError):  # a crash between the file and the mount leaves a plain file
        confine.unmount(str(path))
    path.unlink(missing_ok=True)


def with_prefix(prefix: str) -> list[str]:
    """Names in /run/netns that begin with `prefix`, sorted."""
    try:
        return sorted(entry.name for entry in names.NETNS_ROOT.iterdir() if entry.name.startswith(prefix))
    except FileNotFoundError:
        return []


@contextmanager
def entered(name: str) -> Iterator[None]:
    """This thread is inside the namespace; sockets opened here stay there for life, /proc/sys/net is its own."""
    with _own_netns_kept():
        confine.join_netns(str(names.NETNS_ROOT / name))
        yield


@contextmanager
def descriptor(name: str) -> Iterator[int]:
    """An open descriptor of the namespace, to put a device there."""
    number = os.open(names.NETNS_ROOT / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield number
    finally:
        os.close(number)


def sysctl(values: dict[str, str]) -> None:
    """Write settings of the network namespace this thread is in, as `net/ipv4/ip_forward`."""
    for key, value in values.items():
        Path("/proc/sys", key).write_text(value, encoding="ascii")


@contextmanager
def _own_netns_kept() -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.setns(home, os.CLONE_NEWNET)
        os.close(home)
