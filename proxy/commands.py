"""What a layer can ask of the edge. Nothing returns anything: what comes of a command is a later event.

Bytes given within one event leave together, after it (`send` once per side and event).
"""

from typing import Protocol

from policies.engine import Permit
from proxy.events import Layer, Timer


class Edge(Protocol):
    """The sockets of one flow as a layer sees them. When both sides have ended and both ends were passed on, it
    closes."""

    @property
    def downstream_full(self) -> bool:
        """Unsent bytes to the client are above the high-water mark, or it is somebody else's turn: make no more of
        them; `downstream_drained` follows. Asked once for each request."""

    @property
    def downstream_unsent(self) -> int:
        """Bytes to the client that its socket has not taken yet."""

    def send_downstream(self, data: bytes | memoryview) -> None:
        """Send to the client."""

    def send_upstream(self, data: bytes | memoryview) -> None:
        """Send on the leg."""

    def pass_downstream(self, data: bytes) -> None:
        """Send to the client, now if nothing is waiting before it: for bytes that no others of this event follow."""

    def pass_upstream(self, data: bytes) -> None:
        """Send on the leg, likewise."""

    def open_upstream(self, permit: Permit) -> None:
        """Open a leg to the original destination. The permit is the proof that policy allowed it."""

    def close_upstream(self) -> None:
        """Close the leg, or stop opening it. Its unsent bytes are thrown away."""

    def pause_downstream(self) -> None:
        """Read nothing more from the client until `resume_downstream`."""

    def resume_downstream(self) -> None:
        """Read from the client again."""

    def end_downstream(self) -> None:
        """Send what is unsent, then the end of sending (half-close)."""

    def end_upstream(self) -> None:
        """Send what is unsent on the leg, then the end of sending (half-close)."""

    def hand_over(self, layer: Layer) -> None:
        """Tell this layer what happens from now on. The caller starts it."""

    def finish(self, *, linger: bool) -> None:
        """Close the leg now, send the client what is unsent, then close. With `linger`, read on for a while first, for
        a client that may still be sending. No event follows."""

    def reset(self) -> None:
        """Reset the leg and the client's connection now. No event follows."""

    def set_timer(self, timer: Timer, seconds: float) -> None:
        """Set the flow's one deadline; replaces the earlier one."""
