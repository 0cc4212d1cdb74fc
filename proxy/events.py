"""What can happen to a flow: the edge calls these, one at a time, and a layer answers with commands (`proxy.commands`).

Plain method calls and not event objects through one `handle`: a keep-alive request is four events and nine commands,
and an object and a dispatch for each cost a fifth of the request (docs/decisions/0005-socket-edge.md). What matters of
the idea is kept: no layer sees a socket, a clock or a loop, none waits, and a test plays both sides as a dialogue.
"""

from enum import Enum
from typing import Protocol


class Timer(Enum):
    """What a flow's one deadline is for."""

    IDLE = "idle"  # nothing moved
    HEAD = "head"  # a request head is not complete
    RECORD = "record"  # a forwarded request's record waits for the status


class LegFailure(Enum):
    """Why there is no upstream leg; the values are reasons of records."""

    REFUSED = "upstream_refused"
    UNREACHABLE = "upstream_unreachable"
    TIMED_OUT = "upstream_connect_timeout"
    NO_PORT = "leg_ports_exhausted"
    NO_SOCKET = "no_upstream_socket"


class Layer(Protocol):
    """One protocol on one flow. Every method may send commands; an exception ends the flow as `internal_error`."""

    @property
    def opaque(self) -> bool:
        """Whether bytes pass unparsed, so that only the connection can be judged."""

    def start(self) -> None:
        """The downstream connection was accepted."""

    def downstream_data(self, data: bytes) -> None:
        """Bytes came; never empty. At most one more comes after `pause_downstream`."""

    def downstream_eof(self) -> None:
        """The client sends no more; it may still read."""

    def downstream_lost(self) -> None:
        """The client reset the connection, or does not take our bytes. Sending is of no use."""

    def downstream_drained(self) -> None:
        """Unsent bytes to the client fell below the low-water mark after `downstream_full` was true."""

    @property
    def passing_down(self) -> int:
        """Octets from the leg that may go to the client without being seen; `passed_down` tells when some did."""

    @property
    def passing_up(self) -> int:
        """Likewise from the client to the leg."""

    def passed_down(self, count: int) -> None:
        """So many of them went."""

    def passed_up(self, count: int) -> None:
        """So many of them went."""

    def upstream_open(self) -> None:
        """The leg asked for stands."""

    def upstream_failed(self, failure: LegFailure) -> None:
        """The leg asked for does not come."""

    def upstream_data(self, data: bytes) -> None:
        """Bytes came; never empty."""

    def upstream_eof(self) -> None:
        """The server sends no more."""

    def upstream_lost(self) -> None:
        """The server reset the connection."""

    def expired(self, timer: Timer) -> None:
        """The deadline set last has passed."""

    def drain(self) -> None:
        """End as soon as that harms nobody."""

    def rules_changed(self) -> None:
        """Other rules are in force; the next request is judged by them."""

    def closed(self) -> None:
        """The sockets are closed. The last event; no command is of use."""
