"""`lab down`: everything that belongs to a lab goes, whatever state a crash left it in.

Nothing here trusts a record: processes are those in the lab's cgroup, namespaces those with its prefix,
directories those with its name (lab/names.py). The state folder goes last, so that a `down` that is itself
killed can be repeated.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from lab import names, namespaces, state
from lab.errors import LabError

KILL_TIMEOUT_S = 10.0


def down(name: str) -> bool:
    """Take a lab down; gives whether there was anything of it."""
    names.check_lab_name(name)
    with state.locked(name):
        return remove(name)


def remove(name: str) -> bool:
    """The same for who holds the lab's lock already."""
    cgroup, bpffs, run, data = (
        names.lab_cgroup(name),
        names.lab_bpffs(name),
        names.run_dir(name),
        names.data_dir(name),
    )
    spaces = namespaces.with_prefix(names.netns_prefix(name))
    found = bool(spaces) or any(path.exists() for path in (cgroup, bpffs, run, data))
    if cgroup.exists():
        end_processes(cgroup)
    # Pins first: with the processes gone they are the last that holds our links to cgroups and namespaces.
    _remove_pins(bpffs)
    for space in spaces:
        namespaces.delete(space)
    if cgroup.exists():
        _remove_cgroups(cgroup)
    state.remove_tree(data)
    state.remove_tree(run)
    for parent in (bpffs.parent, cgroup.parent, data.parent, data.parent.parent):
        with suppress(OSError):  # other labs, or an agent that is no lab's
            parent.rmdir()
    return found


def end_processes(cgroup: Path) -> None:
    """Kill everything in a cgroup and below, and wait until it is gone.

    cgroup.kill (Linux 5.14) also meets processes that are forking at this moment.

    Raises:
        LabError: something would not die in KILL_TIMEOUT_S seconds; names the pids.
    """
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while pids := _pids(cgroup):
        (cgroup / "cgroup.kill").write_text("1", encoding="ascii")
        _reap(pids)
        if time.monotonic() > deadline:
            raise LabError(f"processes of the lab do not end: {', '.join(map(str, pids))}")
        time.sleep(0.005)


def _pids(cgroup: Path) -> list[int]:
    pids = []
    for directory, _, _ in os.walk(cgroup):
        with suppress(OSError):
            pids += [int(line) for line in Path(directory, "cgroup.procs").read_text(encoding="ascii").split()]
    return pids


def _reap(pids: list[int]) -> None:
    """Our own children, when `lab up` cleans up after itself."""
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _remove_pins(directory: Path) -> None:
    # shutil.rmtree would do, but a loader that was killed while it pinned may add a name while we look.
    for _ in range(3):
        state.remove_tree(directory)
        if not directory.exists():
            return


def _remove_cgroups(top: Path) -> None:
    """Remove a tree of empty cgroups, deepest first; the kernel may need a moment to let go of the dead."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    for directory, _, _ in os.walk(top, topdown=False):
        while True:
            try:
                Path(directory).rmdir()
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LabError(f"cannot remove cgroup {directory}: {error.strerror}") from error
                end_processes(top)
                time.sleep(0.005)
