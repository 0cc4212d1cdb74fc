"""Topic names inside the bytes that members of a classic group hand each other through the broker.

The broker never reads them, so its authorizer does not either: a member, or whoever describes the group, sees the
topics of all. The bytes are Java's ConsumerProtocol, which every client that joins as "consumer" speaks: a version,
then what the definitions say. What cannot be read is replaced by the same without topics.
"""

from collections.abc import Callable
from typing import Final

from parsers.errors import RemoteProtocolError
from parsers.kafka.codec import Reader, Tree, body_reader, body_writer
from parsers.kafka.table import TABLE

CONSUMER: Final = "consumer"
"""The protocol type whose bytes we read. Those of others (Connect) name no topics that a broker knows of."""

SUBSCRIPTION: Final = "ConsumerProtocolSubscription"
ASSIGNMENT: Final = "ConsumerProtocolAssignment"

type Bytes = bytes | memoryview


def without_hidden(name: str, data: Bytes, shows: Callable[[str], bool], *, certain: bool = True) -> Bytes:
    """A subscription or an assignment without the topics that may not be shown; the very bytes where all may.

    What else its sender put in (UserData) is left out with them: an assignor keeps topics there too. certain: that
    these are a consumer's bytes; else what cannot be read as that is something else, and stays.
    """
    if not len(data):
        return data  # a member that has no assignment yet
    try:
        version, tree = _read(name, bytes(data))
    except RemoteProtocolError:
        return _written(name, 0, {}) if certain else data
    kept: Tree = dict(tree)
    for field, topic in (("Topics", ""), ("OwnedPartitions", "Topic"), ("AssignedPartitions", "Topic")):
        if field in tree:
            kept[field] = [each for each in tree[field] if shows(each[topic] if topic else each)]
    if all(len(kept[field]) == len(tree[field]) for field in kept if isinstance(tree[field], list)):
        return data
    kept["UserData"] = None
    return _written(name, version, kept)


def _read(name: str, data: bytes) -> tuple[int, Tree]:
    """Version and content. A version that the definitions do not have yet is read as their last, as Java does."""
    if len(data) < 2:  # an int16
        raise RemoteProtocolError("truncated")
    message = TABLE.others[name]
    given = int.from_bytes(data[:2], signed=True)
    if given < message.versions[0]:
        raise RemoteProtocolError("unknown_version")
    version = min(given, message.versions[1])
    return version, body_reader(message, version)(Reader(data, 2))


def _written(name: str, version: int, tree: Tree) -> bytes:
    out: list[bytes | memoryview] = [version.to_bytes(2)]
    body_writer(TABLE.others[name], version)(out, tree)
    return b"".join(out)
