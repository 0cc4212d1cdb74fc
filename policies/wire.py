"""A rule set as bytes, for the memfd that carries it from the agent to a worker (MessagePack)."""

import msgspec

from policies.ruleset import RuleSet

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(RuleSet)


def encode(rules: RuleSet) -> bytes:
    """The same rule set gives the same bytes, whatever order its dicts and sets were made in."""
    return _encoder.encode(rules)


def decode(data: bytes | bytearray | memoryview) -> RuleSet:
    """Read what `encode` wrote.

    Raises:
        ValueError: the bytes are not a rule set of this version (msgspec's errors are ValueErrors).
    """
    return _decoder.decode(data)
