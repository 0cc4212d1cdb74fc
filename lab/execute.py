"""`lab exec`: become a command inside a pod."""

import errno
import os
import signal
from collections.abc import Sequence
from typing import NoReturn

from lab import confine, state
from lab.errors import LabError

# As the shell has it (POSIX 2.8.2), and env(1) and timeout(1) for their own failures.
OWN_FAILURE = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127


def execute(lab_name: str, pod_ref: str, command: Sequence[str]) -> NoReturn:
    """Replace this process by `command`, run inside the pod. Standard streams are passed on untouched.

    Raises:
        LabError: status 125, the lab or pod is not there; 126, the command cannot be executed; 127, not found.
    """
    try:
        lab = state.running(lab_name)
        pod = lab.find_pod(pod_ref)
        confine.enter_pod(pod.netns, pod.cgroup, lab.pod_dir(pod))
    except LabError as error:
        raise LabError(str(error), OWN_FAILURE) from error
    become(command)


def become(command: Sequence[str]) -> NoReturn:
    """exec(3) with PATH; raises LabError with status 126 or 127."""
    # Python ignores these two; an ignored signal stays ignored across exec, and `yes | head` would not end.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    name = command[0]
    try:
        os.execvp(name, list(command))  # noqa: S606 - running the user's command is the purpose
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LabError(f"{name}: not found", NOT_FOUND) from error
    except OSError as error:
        reason = "is a directory" if error.errno == errno.EISDIR else os.strerror(error.errno or 0).lower()
        raise LabError(f"{name}: cannot be executed: {reason}", NOT_EXECUTABLE) from error
