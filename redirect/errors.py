"""The family of errors of this room: the kernel refused, or is not what we need."""

from __future__ import annotations

import errno
import os

__all__ = ["RedirectError", "UnsupportedFeature", "kernel_error"]


class RedirectError(Exception):
    """The kernel refused something that steering needs. One line, causes joined by colons."""


class UnsupportedFeature(RedirectError):
    """This kernel lacks something.

    Args:
        name: what is missing, as a person would say it.
        since: the first kernel release that has it, "5.9".
    """

    def __init__(self, name: str, since: str) -> None:
        super().__init__(f"{name} is not supported by kernel {os.uname().release}: needs {since} or newer")
        self.name = name
        self.since = since


def kernel_error(what: str, code: int) -> RedirectError:
    """A RedirectError for a failed call: ``what: ENOENT no such file or directory``. ``code`` may be negative."""
    number = abs(code)
    return RedirectError(f"{what}: {errno.errorcode.get(number, number)} {os.strerror(number).lower()}")
