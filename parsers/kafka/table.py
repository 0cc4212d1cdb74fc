"""Kafka's messages as its own definitions have them: which APIs there are, in which versions, of which fields.

The table is generated (`./dev kafka-tables`, `parsers.kafka.generate`) and never edited. Versions are pairs (first,
last), inclusive; a message whose newest version is unstable has it all the same: brokers offer it only where they are
told to. Fields and messages are equal only to themselves: they are keys of caches, and hashing all that is in one takes
longer than decoding a frame.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

FILE: Final = Path(__file__).with_name("messages.json")

type Kind = Literal["request", "response"]
type Versions = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field. type: bool, int8 to int64, uint16, uint32, float64, string, bytes, records, uuid, the name of a
    struct, or one of these behind "[]". nullable, tagged: the versions in which it is; () is none. flexible: False
    where it keeps the old form in flexible versions. entity: what it names (topicName, groupId, transactionalId),
    or ""."""

    name: str
    type: str
    versions: Versions
    nullable: tuple[int, ...] = ()
    tagged: tuple[int, ...] = ()
    tag: int = -1
    flexible: bool = True
    default: object = None
    null_by_default: bool = False
    entity: str = ""
    fields: tuple["Field", ...] = ()

    def in_version(self, version: int) -> bool:
        """Whether the version has it."""
        return self.versions[0] <= version <= self.versions[1]

    def nullable_in(self, version: int) -> bool:
        """Whether it may be null there."""
        return bool(self.nullable) and self.nullable[0] <= version <= self.nullable[1]

    def tagged_in(self, version: int) -> bool:
        """Whether it is among the tagged fields there (KIP-482)."""
        return bool(self.tagged) and self.tagged[0] <= version <= self.tagged[1]


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A request, a response, a header or a struct that travels inside one. flexible: the first flexible version."""

    name: str
    versions: Versions
    flexible: int
    fields: tuple[Field, ...]

    def is_flexible(self, version: int) -> bool:
        """Whether strings and arrays are compact and tagged fields follow (KIP-482)."""
        return version >= self.flexible


@dataclass(frozen=True)
class Api:
    """One API key. request, response: None where no version of it is left. listeners: who serves it."""

    key: int
    name: str
    request: Message | None
    response: Message | None
    listeners: tuple[str, ...]

    def has(self, version: int) -> bool:
        """Whether the table has this version."""
        return self.request is not None and self.request.versions[0] <= version <= self.request.versions[1]

    def message(self, kind: Kind) -> Message | None:
        """Its request or its response."""
        return self.request if kind == "request" else self.response


class Table:
    """All of them; read once, when first asked for."""

    @cached_property
    def _read(self) -> tuple[str, Mapping[int, Api], Mapping[str, Message]]:
        given = json.loads(FILE.read_bytes())
        apis: dict[int, Api] = {}
        others: dict[str, Message] = {}
        for each in given["messages"]:
            name = each["name"]
            if "key" in each:
                request, response = (
                    _message(f"{name}{kind.title()}", each.get(kind)) for kind in ("request", "response")
                )
                apis[each["key"]] = Api(each["key"], name, request, response, tuple(each["listeners"]))
            else:
                made = _message(name, each["message"])
                if made is not None:
                    others[name] = made
        return given["kafka"], apis, others

    def load(self) -> None:
        """Read it now: a process that gives up its rights may not be able to later."""
        _ = self._read

    @property
    def release(self) -> str:
        """Of Apache Kafka, whose definitions these are: "4.3.1"."""
        return self._read[0]

    @property
    def apis(self) -> Mapping[int, Api]:
        """By API key."""
        return self._read[1]

    @property
    def others(self) -> Mapping[str, Message]:
        """ConsumerProtocolSubscription and ConsumerProtocolAssignment, which travel as bytes inside others; headers."""
        return self._read[2]

    @cached_property
    def keys(self) -> Mapping[str, int]:
        """API keys by name."""
        return {api.name: key for key, api in self.apis.items()}


TABLE: Final = Table()


def _message(name: str, given: dict[str, Any] | None) -> Message | None:
    if given is None:
        return None
    first, last = given["versions"]
    return Message(name, (first, last), given["flexible"], tuple(map(_field, given["fields"])))


def _field(given: dict[str, Any]) -> Field:
    first, last = given["versions"] or (1, 0)
    return Field(
        given["name"],
        given["type"],
        (first, last),
        tuple(given.get("nullable") or ()),
        tuple(given.get("tagged") or ()),
        given.get("tag", -1),
        given.get("flexible", True) is not None,
        given.get("default"),
        "default" in given and given["default"] is None,
        given.get("entity", ""),
        tuple(map(_field, given.get("fields", ()))),
    )
