"""A rule set as bytes, for the memfd that carries it from the agent to a worker (MessagePack)."""

import msgspec

from policies.ruleset import RuleSet

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RuleSet)


def encode(rules: RuleSet) -> bytes:
    """Bytes that `decode` turns into an equal rule set."""
    return _encoder.encode(rules)


def decode(data: bytes | bytearray | memoryview) -> RuleSet:
    """Read what `encode` wrote.

    Raises:
        ValueError: the bytes are not a rule set of this version (msgspec's errors are ValueErrors).
    """
    return _decoder.decode(data)
