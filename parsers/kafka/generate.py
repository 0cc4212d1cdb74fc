"""`python -m parsers.kafka.generate JAR`: the message table from Apache Kafka's own definitions.

JAR is a `kafka-clients` jar; its `common/message/*.json` are the definitions that Kafka's own code is generated from.
What the table leaves out is what does not show on the wire (about, ignorable, mapKey, zeroCopy).
"""

import json
import re
import sys
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from parsers.kafka.table import FILE

_FOLDER = "common/message/"
_COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)
_LAST = 32767
_EXTRA = ("ConsumerProtocolSubscription", "ConsumerProtocolAssignment")
_TYPES = frozenset(
    {
        "bool", "int8", "int16", "int32", "int64", "uint16", "uint32", "float64", "string", "bytes", "records", "uuid",
    }
)  # fmt: skip
_KNOWN = frozenset(
    {
        "name", "type", "versions", "nullableVersions", "taggedVersions", "tag", "flexibleVersions", "default",
        "entityType", "fields", "about", "ignorable", "mapKey", "zeroCopy",
    }
)  # fmt: skip
"""What a field of the definitions may say: of anything else nobody knows whether it shows on the wire."""


type Json = dict[str, Any]


def versions(text: str) -> list[int] | None:
    """ "3+", "0-12", "5", "none"."""
    if text == "none":
        return None
    first, dash, last = text.rstrip("+").partition("-")
    return [int(first), _LAST if text.endswith("+") else int(last) if dash else int(first)]


def field(given: Json, structs: dict[str, list[Json]]) -> Json:
    """One field as the table has it."""
    kind = given["type"]
    new = given.keys() - _KNOWN
    if new or given.get("flexibleVersions", "none") != "none":
        raise ValueError(f"field {given['name']}: definitions in a form that is new: {sorted(new)}")
    made: dict[str, object] = {"name": given["name"], "type": kind, "versions": versions(given.get("versions", "0+"))}
    for ours, theirs in (
        ("nullable", "nullableVersions"),
        ("tagged", "taggedVersions"),
        ("flexible", "flexibleVersions"),
    ):
        if theirs in given:
            made[ours] = versions(given[theirs])
    for ours, theirs in (("tag", "tag"), ("entity", "entityType")):
        if theirs in given:
            made[ours] = given[theirs]
    if "default" in given:
        made["default"] = default(kind, given["default"])
    inner = given.get("fields") or structs.get(kind.removeprefix("[]"))
    if inner:
        made["fields"] = [field(each, structs) for each in inner]
    elif kind.removeprefix("[]") not in _TYPES:
        raise ValueError(f"field {given['name']}: type '{kind}' is new")
    return made


def default(kind: str, given: object) -> object:
    """A default as JSON has it: the definitions write numbers and null as strings, too."""
    if given == "null" or given is None:
        return None
    if kind == "bool":
        return given in (True, "true")
    if kind.startswith(("int", "uint")):
        return given if isinstance(given, int) else int(str(given), 0)
    return given


def message(given: Json) -> Json | None:
    """A request, a response or a header; None for one that no version has any more."""
    valid = versions(given["validVersions"])
    if valid is None:
        return None
    structs = {each["name"]: each["fields"] for each in given.get("commonStructs", ())}
    flexible = versions(given.get("flexibleVersions", "none"))
    made: dict[str, object] = {"versions": valid, "flexible": flexible[0] if flexible else _LAST + 1}
    if given.get("latestVersionUnstable"):
        made["unstable"] = valid[1]
    made["fields"] = [field(each, structs) for each in given["fields"]]
    return made


def generate(jar: Path) -> str:
    """The text of the table.

    Raises:
        OSError, BadZipFile, KeyError, ValueError: not a jar of kafka-clients, or definitions in a form that is new.
    """
    apis: dict[int, Json] = {}
    others: dict[str, Json] = {}
    with ZipFile(jar) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(_FOLDER) and name.endswith(".json"))
        version = re.search(r"version=(\S+)", archive.read("kafka/kafka-version.properties").decode())
        for name in names:
            given = json.loads(_COMMENT.sub("", archive.read(name).decode()))
            kind, title = given["type"], given["name"]
            if kind in ("request", "response"):
                api = apis.setdefault(
                    given["apiKey"], {"key": given["apiKey"], "name": title.removesuffix(kind.title())}
                )
                api[kind] = message(given)
                if kind == "request":
                    api["listeners"] = given.get("listeners", [])
            elif kind == "header" or title in _EXTRA:
                others[title] = {"name": title, "message": message(given)}
    if not apis:
        raise ValueError("no message definitions: not a kafka-clients jar")
    lines = [json.dumps(apis[key], separators=(",", ":")) for key in sorted(apis)]
    lines += [json.dumps(others[name], separators=(",", ":")) for name in sorted(others)]
    release = version[1] if version else "unknown"
    return f'{{"kafka":"{release}","messages":[\n' + ",\n".join(lines) + "\n]}\n"


def changes(old: str, new: str) -> list[str]:
    """What is new from one table to another, a line for each API."""
    before, after = (
        {each["name"]: each.get("request") for each in json.loads(text)["messages"] if "key" in each}
        for text in (old, new)
    )
    lines = [f"{name}: gone" for name in before if name not in after]
    for name, request in after.items():
        now = request and request["versions"]
        was = (before[name] and before[name]["versions"]) if name in before else "no such API"
        if now != was:
            lines.append(f"{name}: versions {was or 'none'} before, {now or 'none'} now")
    return lines


def main() -> int:
    """Write the table from the jar named on the command line, and say what is new in it."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m parsers.kafka.generate KAFKA-CLIENTS.JAR\n")
        return 2
    try:
        old, new = FILE.read_text(encoding="utf-8"), generate(Path(sys.argv[1]))
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        sys.stderr.write(f"{sys.argv[1]}: {error}\n")
        return 1
    FILE.write_text(new, encoding="utf-8")
    release = json.loads(new)["kafka"]
    lines = changes(old, new) or ["no API or version is new" if old == new else "fields alone have changed"]
    sys.stdout.write(f"{FILE.name}: Apache Kafka {release}\n" + "".join(f"  {line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
