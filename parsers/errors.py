"""What a parser may raise, and nothing else.

`RemoteProtocolError` is the peer's fault and turns into a reply or a closed connection. `LocalProtocolError` is ours: a
caller asked for something the protocol does not allow at that point, which would have put bytes on the wire that
nobody judged.
"""


class ProtocolError(Exception):
    """Something that the protocol does not allow. Never raised itself."""

    __slots__ = ()


class RemoteProtocolError(ProtocolError):
    """The peer sent what cannot be read, or cannot be read one way only.

    Attributes:
        reason: short stable code in snake_case, for records and counters (`"bare_lf"`, `"two_lengths"`).
        status: the HTTP status that answers it: 400, 405, 417, 431, 501, 505 for a request, 502 for a response.
        detail: one line for an operator. It never repeats what the peer sent: that may hold credentials.
    """

    __slots__ = ("detail", "reason", "status")

    def __init__(self, reason: str, status: int = 400, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.status = status
        self.detail = detail


class LocalProtocolError(ProtocolError):
    """Our own side broke the rules: a bug in the caller. The connection must be closed."""

    __slots__ = ()
