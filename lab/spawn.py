"""Start a process that outlives the command that starts it and holds nothing of the caller's."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.execute import become

_MAX_DESCRIPTOR = 2**31 - 1  # one close_range(2), whatever is open


def spawn(argv: Sequence[str], *, enter: Callable[[], None], log: Path) -> int:
    """Fork, run `enter` in the child, exec `argv`; input is empty, output goes to the end of `log`. Gives the pid.

    `enter` must join the lab's cgroup before anything else: that is how `lab down` finds the process, also
    when this one is killed right after the fork.

    Raises:
        LabError: `enter` failed or the command could not be executed; nothing is left running then.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    silence = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    # Both ends close on exec: the end of the pipe without a word says that the command runs.
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _child(argv, enter, silence, output, writer)
        os.close(writer)
        writer = -1
        complaint = _read_all(reader)
    finally:
        for descriptor in (output, silence, reader, writer):
            if descriptor >= 0:
                os.close(descriptor)
    if complaint:
        os.waitpid(pid, 0)
        raise LabError(complaint)
    return pid


def _child(argv: Sequence[str], enter: Callable[[], None], stdin: int, output: int, complaints: int) -> None:
    """Never returns: whatever happens, the child must not go on with the parent's work."""
    try:
        enter()
        os.setsid()
        os.chdir("/")
        for number, source in ((0, stdin), (1, output), (2, output)):
            os.dup2(source, number)
        # What the caller's shell left open, such as the pipe of a build system, must see its end.
        os.closerange(3, complaints)
        os.closerange(complaints + 1, _MAX_DESCRIPTOR)
        become(argv)
    except BaseException as error:  # noqa: BLE001 - a forked copy that unwinds would run the parent's clean-up
        os.write(complaints, str(error).encode()[:4096] or b"failed")
    finally:
        os._exit(1)


def _read_all(descriptor: int) -> str:
    pieces = []
    while piece := os.read(descriptor, 4096):
        pieces.append(piece)
    return b"".join(pieces).decode(errors="replace")
