"""Python mirrors of the C structs in ``bpf/types.bpf.h``, and the numbers both sides share.

``c_assertions`` turns the mirrors into C that is compiled with the programs: a mirror that is wrong does not load.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
from typing import ClassVar

from redirect.sockets import LEG_MARK, STEER_MARK
from redirect.types import MAX_ENDPOINT, SLOTS, Address, Answer, Direction, Flags, VerdictFlags

__all__ = [
    "PASSED",
    "REASONS",
    "Backend",
    "EndpointValue",
    "Event",
    "IdentityKey",
    "NodeValue",
    "ServiceKey",
    "VerdictKeyC",
    "VerdictValue",
    "c_assertions",
    "c_prefix",
    "listener_index",
    "pack_address",
    "unpack_address",
]

LAYOUT = 2  # raise it when what a map's bytes mean changes and their sizes do not: the loader then makes new maps
PREFIX_ALL = 96
PREFIX_NO_PORT = 80

# Index is the code, name as counters and records have it. Append only (enum l7_reason).
REASONS = (
    "none",
    "no_rule",
    "denied",
    "no_listener",
    "bound_device",
    "link_local",
    "no_endpoint",
    "mark_failed",
    "forged_mark",
    "assign_failed",
    "mark_change",
    "suppressed",
    "event_lost",
    "steered",
    "raw_packet",
    "bypass",
    "bind_failed",
    "would_deny",
    "fail_open",
    "node_probe",
    "not_steered",
    "unreadable",
    "forged_source",
)
PASSED = frozenset({"would_deny", "fail_open", "node_probe"})  # reasons of records of what passed


class EndpointValue(ctypes.Structure):
    """struct l7_endpoint."""

    _fields_: ClassVar = [
        ("cookie", ctypes.c_uint64),
        ("id", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("addr4", ctypes.c_uint8 * 16),
        ("addr6", ctypes.c_uint8 * 16),
    ]
    cookie: int
    id: int
    flags: int
    addr4: ctypes.Array[ctypes.c_uint8]
    addr6: ctypes.Array[ctypes.c_uint8]


class VerdictKeyC(ctypes.Structure):
    """struct l7_verdict_key."""

    _fields_: ClassVar = [
        ("prefixlen", ctypes.c_uint32),
        ("endpoint", ctypes.c_uint32),
        ("identity", ctypes.c_uint32),
        ("direction", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
        ("port_be", ctypes.c_uint16),
    ]
    prefixlen: int
    endpoint: int
    identity: int
    direction: int
    protocol: int
    port_be: int


class VerdictValue(ctypes.Structure):
    """struct l7_verdict."""

    _fields_: ClassVar = [("answer", ctypes.c_uint8), ("flags", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 2)]
    answer: int
    flags: int


class IdentityKey(ctypes.Structure):
    """struct l7_identity_key."""

    _fields_: ClassVar = [("prefixlen", ctypes.c_uint32), ("addr", ctypes.c_uint8 * 16)]
    prefixlen: int
    addr: ctypes.Array[ctypes.c_uint8]


class Event(ctypes.Structure):
    """struct l7_event."""

    _fields_: ClassVar = [
        ("time_ns", ctypes.c_uint64),
        ("suppressed", ctypes.c_uint64),
        ("endpoint", ctypes.c_uint32),
        ("identity", ctypes.c_uint32),
        ("src", ctypes.c_uint8 * 16),
        ("dst", ctypes.c_uint8 * 16),
        ("sport", ctypes.c_uint16),
        ("dport", ctypes.c_uint16),
        ("protocol", ctypes.c_uint16),
        ("direction", ctypes.c_uint8),
        ("reason", ctypes.c_uint8),
    ]
    time_ns: int
    suppressed: int
    endpoint: int
    identity: int
    src: ctypes.Array[ctypes.c_uint8]
    dst: ctypes.Array[ctypes.c_uint8]
    sport: int
    dport: int
    protocol: int
    direction: int
    reason: int


class NodeValue(ctypes.Structure):
    """struct l7_node."""

    _fields_: ClassVar = [("cookie", ctypes.c_uint64), ("probes", ctypes.c_uint32), ("pad", ctypes.c_uint32)]
    cookie: int
    probes: int


class ServiceKey(ctypes.Structure):
    """struct l7_service_key."""

    _fields_: ClassVar = [
        ("addr", ctypes.c_uint8 * 16),
        ("port_be", ctypes.c_uint16),
        ("protocol", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
    ]


class Backend(ctypes.Structure):
    """struct l7_backend."""

    _fields_: ClassVar = [("addr", ctypes.c_uint8 * 16), ("port_be", ctypes.c_uint16), ("pad", ctypes.c_uint16)]


MIRRORS: dict[str, type[ctypes.Structure]] = {
    "l7_endpoint": EndpointValue,
    "l7_verdict_key": VerdictKeyC,
    "l7_verdict": VerdictValue,
    "l7_identity_key": IdentityKey,
    "l7_event": Event,
    "l7_node": NodeValue,
    "l7_service_key": ServiceKey,
    "l7_backend": Backend,
}


def c_prefix() -> str:
    """What the C text takes from Python: one definition, no second number to forget."""
    return f"#define L7_STEER_MARK {STEER_MARK:#x}\n#define L7_LEG_MARK {LEG_MARK:#x}\n"


def c_assertions() -> str:
    """C that compiles only if every mirror and shared number is as the C text has it."""
    checks: list[tuple[str, int]] = [
        ("L7_MAX_ENDPOINTS", MAX_ENDPOINT + 1),
        ("L7_SLOTS", SLOTS),
        ("L7_PREFIX_ALL", PREFIX_ALL),
        ("L7_PREFIX_NO_PORT", PREFIX_NO_PORT),
    ]
    checks += [(f"L7_{direction.name}", direction.value) for direction in Direction]
    checks += [(f"L7_{answer.name}", answer.value) for answer in Answer]
    checks += [(f"L7_F_{flag.name}", flag.value) for flag in Flags]
    checks += [(f"L7_V_{flag.name}", flag.value) for flag in VerdictFlags]
    checks += [(f"L7_R_{name.upper()}", code) for code, name in enumerate(REASONS)]
    for name, mirror in MIRRORS.items():
        checks.append((f"sizeof(struct {name})", ctypes.sizeof(mirror)))
        for field in mirror._fields_:
            checks.append((f"__builtin_offsetof(struct {name}, {field[0]})", getattr(mirror, field[0]).offset))
    return "".join(f'_Static_assert({left} == {right}, "{left} is not {right}");\n' for left, right in checks)


def pack_address(address: Address) -> bytes:
    """16 bytes as the maps have it, IPv4 as ::ffff:a.b.c.d."""
    if address.version == 4:
        return b"\0" * 10 + b"\xff\xff" + address.packed
    return address.packed


def unpack_address(raw: bytes) -> Address:
    """The reverse of ``pack_address``."""
    address = ipaddress.IPv6Address(raw)
    return address.ipv4_mapped or address


def listener_index(endpoint: int, direction: int, family: int, slot: int) -> int:
    """Where a worker's listener is in l7_listeners."""
    return ((endpoint * 2 + direction) * 2 + (1 if family == socket.AF_INET6 else 0)) * SLOTS + slot
