"""A record batch with one record, as brokers want it: magic 2, CRC-32C."""

import struct
from functools import cache


@cache
def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _table()[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


@cache
def batch(value: bytes = b"v") -> bytes:
    """One record without a key, of no producer."""
    body = b"\0" + b"\0" + b"\0" + b"\x01" + bytes([len(value) << 1]) + value + b"\0"
    record = bytes([len(body) << 1]) + body
    rest = struct.pack(">hiqqqhii", 0, 0, 1_700_000_000_000, 1_700_000_000_000, -1, -1, -1, 1) + record
    head = struct.pack(">ib", -1, 2) + struct.pack(">I", _crc32c(rest))
    return struct.pack(">qi", 0, len(head) + len(rest)) + head + rest
