"""`python -m parsers.kafka.generate JAR`: the message table from Apache Kafka's own definitions.

JAR is a `kafka-clients` jar; its `common/message/*.json` are the definitions that Kafka's own code is generated from. What
the table leaves out is what does not show on the wire (about, ignorable, mapKey, zeroCopy).
"""

import json
import re
import sys
from pathlib import Path
from zipfile import ZipFile

from parsers.kafka.table import FILE

_FOLDER = "common/message/"
_COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)
_LAST = 32767
_EXTRA = ("ConsumerProtocolSubscription", "ConsumerProtocolAssignment")


def versions(text: str) -> list[int] | None:
    """ "3+", "0-12", "5", "none"."""
    if text == "none":
        return None
    first, dash, last = text.rstrip("+").partition("-")
    return [int(first), _LAST if text.endswith("+") else int(last) if dash else int(first)]


def field(given: dict, structs: dict[str, list]) -> dict:
    """One field as the table has it."""
    kind = given["type"]
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


def message(given: dict) -> dict | None:
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
        OSError, KeyError, ValueError: not a jar of kafka-clients, or definitions in a form that is new.
    """
    apis: dict[int, dict] = {}
    others: dict[str, dict] = {}
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
    lines = [json.dumps(apis[key], separators=(",", ":")) for key in sorted(apis)]
    lines += [json.dumps(others[name], separators=(",", ":")) for name in sorted(others)]
    release = version[1] if version else "unknown"
    return f'{{"kafka":"{release}","messages":[\n' + ",\n".join(lines) + "\n]}\n"


def main() -> int:
    """Write the table from the jar named on the command line."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m parsers.kafka.generate KAFKA-CLIENTS.JAR\n")
        return 2
    FILE.write_text(generate(Path(sys.argv[1])), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
