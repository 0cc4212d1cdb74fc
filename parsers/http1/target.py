"""One normal form of a request target, or refusal."""

from dataclasses import dataclass

from parsers.http1.events import TargetForm


@dataclass(slots=True)
class Target:
    """A request target that can be read one way only.

    Attributes:
        path: canonical path (`b"*"` for asterisk form).
        query: what follows the first `?`, as sent; None without one.
        wire: what goes upstream: `path`, or `path?query`.
        matched: the same as text, what policy judges.
    """

    path: bytes
    query: bytes | None
    wire: bytes
    matched: str


def canonical_target(target: bytes, form: TargetForm, *, merge_slashes: bool = True) -> Target:
    """The one normal form of `target`.

    Raises:
        RemoteProtocolError: 400 when there is more than one way to read it, 405 for authority form (CONNECT).
    """
    raise NotImplementedError
