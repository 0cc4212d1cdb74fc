"""The message table: generated from Apache Kafka's definitions, and regenerated here wherever set-up has their jar."""

import json
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from parsers.kafka import generate
from parsers.kafka.table import FILE, TABLE, Field

JARS = Path(sys.prefix) / "share/tulle/kafka"


def test_the_table_is_what_its_release_says() -> None:
    jars = {jar.name: jar for folder in ("lib", "clients") for jar in (JARS / folder).glob("kafka-clients-*.jar")}
    if not jars:
        pytest.skip(f"set-up has no kafka-clients: there is no such jar in {JARS}/lib or {JARS}/clients")
    jar = jars[f"kafka-clients-{TABLE.release}.jar"]
    assert generate.generate(jar) == FILE.read_text(encoding="utf-8")


def test_every_api_key_up_to_the_last_is_there() -> None:
    assert sorted(TABLE.apis) == list(range(93))
    gone = [api.name for api in TABLE.apis.values() if api.request is None]
    assert gone == ["LeaderAndIsr", "StopReplica", "UpdateMetadata", "ControlledShutdown"]
    assert TABLE.keys["Produce"] == 0
    assert {"ConsumerProtocolSubscription", "ConsumerProtocolAssignment"} <= TABLE.others.keys()


def test_versions_of_some_apis() -> None:
    for name, first, last, flexible in [("Produce", 3, 13, 9), ("Fetch", 4, 18, 12), ("Metadata", 0, 13, 9)]:
        api = TABLE.apis[TABLE.keys[name]]
        assert api.request is not None
        assert (api.request.versions, api.request.flexible) == ((first, last), flexible)
        assert api.has(first)
        assert api.has(last)
        assert not api.has(first - 1)
        assert not api.has(last + 1)


def test_requests_and_responses_have_the_same_versions() -> None:
    for api in TABLE.apis.values():
        request, response = api.request, api.response
        assert (request and request.versions) == (response and response.versions)


def every_field(fields: tuple[Field, ...]) -> list[Field]:
    return [each for field in fields for each in (field, *every_field(field.fields))]


def test_what_the_codec_takes_for_granted() -> None:
    for api in TABLE.apis.values():
        for message in (api.request, api.response):
            for field in every_field(message.fields) if message else ():
                if field.tagged:  # it is in no version without being tagged
                    assert field.tagged == field.versions
                    assert field.tag >= 0
                assert field.flexible


REQUEST = """// a comment
{"apiKey": 7, "type": "request", "listeners": ["broker"], "name": "ThingRequest", "validVersions": "1-3",
 "flexibleVersions": "2+", "latestVersionUnstable": true,
 "commonStructs": [{"name": "Inner", "versions": "0+", "fields": [
   // another
   {"name": "Topic", "type": "string", "versions": "0+", "entityType": "topicName", "about": "words"}]}],
 "fields": [
   {"name": "Size", "type": "int32", "versions": "0+", "default": "0x7f", "ignorable": true},
   {"name": "Flag", "type": "bool", "versions": "1-2", "default": "true"},
   {"name": "Text", "type": "string", "versions": "3+", "nullableVersions": "3+", "default": "null",
    "taggedVersions": "3+", "tag": 0},
   {"name": "Many", "type": "[]Inner", "versions": "0+", "mapKey": true}]}
"""
RESPONSE = """{"apiKey": 7, "type": "response", "name": "ThingResponse", "validVersions": "1-3", "fields": []}"""


def jar_of(path: Path, **texts: str) -> Path:
    jar = path / "some.jar"
    with ZipFile(jar, "w") as archive:
        archive.writestr("kafka/kafka-version.properties", "commitId=1\nversion=9.9.9\n")
        for name, text in texts.items():
            archive.writestr(f"common/message/{name}.json", text)
    return jar


def test_a_table_of_a_small_jar(tmp_path: Path) -> None:
    made = json.loads(generate.generate(jar_of(tmp_path, ThingRequest=REQUEST, ThingResponse=RESPONSE)))
    assert made["kafka"] == "9.9.9"
    (thing,) = made["messages"]
    assert thing["response"] == {"versions": [1, 3], "flexible": 32768, "fields": []}
    assert thing["request"] == {
        "versions": [1, 3],
        "flexible": 2,
        "unstable": 3,
        "fields": [
            {"name": "Size", "type": "int32", "versions": [0, 32767], "default": 127},
            {"name": "Flag", "type": "bool", "versions": [1, 2], "default": True},
            {
                "name": "Text", "type": "string", "versions": [3, 32767], "nullable": [3, 32767],
                "tagged": [3, 32767], "tag": 0, "default": None,
            },
            {
                "name": "Many", "type": "[]Inner", "versions": [0, 32767],
                "fields": [{"name": "Topic", "type": "string", "versions": [0, 32767], "entity": "topicName"}],
            },
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"ignorable": true', '"sizeOf": 3'),
        ('"type": "int32"', '"type": "int24"'),
        ('"mapKey": true', '"flexibleVersions": "4+"'),
    ],
)
def test_definitions_in_a_form_that_is_new_are_refused(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(ValueError, match="is new"):
        generate.generate(jar_of(tmp_path, ThingRequest=REQUEST.replace(old, new)))


def test_a_jar_without_definitions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no message definitions"):
        generate.generate(jar_of(tmp_path))


def test_what_is_new_is_said() -> None:
    def table(**apis: tuple[int, int] | None) -> str:
        messages = [{"name": name, "key": 1, "request": each and {"versions": each}} for name, each in apis.items()]
        return json.dumps({"kafka": "1", "messages": [*messages, {"name": "Header"}]})

    assert generate.changes(table(A=(0, 1), B=(0, 1), C=(0, 1)), table(A=(0, 1), B=(0, 2), C=None, D=(0, 0))) == [
        "B: versions [0, 1] before, [0, 2] now",
        "C: versions [0, 1] before, none now",
        "D: versions no such API before, [0, 0] now",
    ]


def test_the_command_refuses_what_is_no_jar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = FILE.read_bytes()
    other = tmp_path / "no.jar"
    for content in (None, b"no zip"):
        if content is not None:
            other.write_bytes(content)
        monkeypatch.setattr(sys, "argv", ["generate", str(other)])
        assert generate.main() == 1
        assert "no.jar" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["generate"])
    assert generate.main() == 2
    assert FILE.read_bytes() == before
