"""A rule set as bytes, for the memfd that carries it from the agent to a worker (MessagePack): whole, or what changed
since the one that the worker has."""

from dataclasses import dataclass

import msgspec

from policies.ruleset import EndpointRules, Identity, RuleSet

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RuleSet)


@dataclass(frozen=True, slots=True)
class Change:
    """From one rule set to the next. endpoints: new ones and those that changed; None: that part did not change."""

    revision: int
    endpoints: dict[int, EndpointRules]
    gone: tuple[int, ...]
    identities: dict[int, Identity] | None
    addresses: dict[str, tuple[int, str]] | None
    prefixes: dict[str, int] | None


_change_decoder = msgspec.msgpack.Decoder(Change)


def encode(rules: RuleSet) -> bytes:
    """Bytes that `decode` turns into an equal rule set."""
    return _encoder.encode(rules)


def decode(data: bytes | bytearray | memoryview) -> RuleSet:
    """Read what `encode` wrote.

    Raises:
        ValueError: the bytes are not a rule set of this version (msgspec's errors are ValueErrors).
    """
    return _decoder.decode(data)


def encode_change(old: RuleSet, new: RuleSet) -> bytes:
    """Bytes that `apply_change` turns `old` into `new` with. Endpoints are compared by object first, so that a set
    whose unchanged endpoints are the same objects costs what changed."""
    changed = {
        number: rules
        for number, rules in new.endpoints.items()
        if (have := old.endpoints.get(number)) is not rules and have != rules
    }
    return _encoder.encode(
        Change(
            new.revision,
            changed,
            tuple(old.endpoints.keys() - new.endpoints.keys()),
            None if old.identities == new.identities else new.identities,
            None if old.addresses == new.addresses else new.addresses,
            None if old.prefixes == new.prefixes else new.prefixes,
        )
    )


def apply_change(old: RuleSet, data: bytes | bytearray | memoryview) -> RuleSet:
    """The rule set that `encode_change` was given as `new`; `old` must equal the one it was given as `old`.

    Raises:
        ValueError: the bytes are not a change of this version.
    """
    change = _change_decoder.decode(data)
    endpoints = {number: rules for number, rules in old.endpoints.items() if number not in change.gone}
    return RuleSet(
        change.revision,
        endpoints | change.endpoints,
        old.identities if change.identities is None else change.identities,
        old.addresses if change.addresses is None else change.addresses,
        old.prefixes if change.prefixes is None else change.prefixes,
    )
