"""`tulle decode kafka`: lines in, lines out, and no traceback whatever comes."""

import io
import json
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.cli import main
from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request, encode_request, encode_response, framed

KEYS = [
    "id", "api", "api_key", "api_version", "client_id", "correlation_id", "topics", "topic_ids", "groups",
    "transactional_ids", "trailing_bytes", "error",
]  # fmt: skip
EMPTY = dict.fromkeys(KEYS[:6]) | {key: [] for key in KEYS[6:10]} | {"trailing_bytes": 0}


def request(key: int, version: int, body: Tree, client_id: str | None = "c1") -> bytes:
    return encode_request(Request(key, version, 7, client_id, body))


def line(name: object, frame: bytes) -> str:
    return json.dumps({"id": name, "frame": b64encode(frame).decode()})


type Ran = tuple[int, list[dict[str, Any]], str]


class Decode:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, given: bytes | str, *options: str) -> Ran:
        data = given.encode() if isinstance(given, str) else given
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        status = main(["decode", "kafka", *options])
        out, err = self._capsys.readouterr()
        rows = [json.loads(each) for each in out.splitlines()]
        for row in rows:
            assert list(row) == KEYS
        return status, rows, err


@pytest.fixture
def decode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Decode:
    return Decode(monkeypatch, capsys)


PRODUCE = request(0, 9, {"TransactionalId": "tx", "TopicData": [{"Name": "b"}, {"Name": ""}, {"Name": "b"}]})
FETCH = request(1, 13, {"Topics": [{"TopicId": UUID("ABCDEF00-0000-0000-0000-00000000000F").bytes}]}, None)


def test_requests_of_standard_input(decode: Decode) -> None:
    status, rows, err = decode(line(1, PRODUCE) + "\n" + line("two", FETCH + b"xyz") + "\n")
    assert (status, err) == (0, "")
    assert rows == [
        {
            "id": 1, "api": "Produce", "api_key": 0, "api_version": 9, "client_id": "c1", "correlation_id": 7,
            "topics": ["b", "", "b"], "topic_ids": [], "groups": [], "transactional_ids": ["tx"],
            "trailing_bytes": 0, "error": None,
        },
        {
            "id": "two", "api": "Fetch", "api_key": 1, "api_version": 13, "client_id": None, "correlation_id": 7,
            "topics": [], "topic_ids": ["abcdef00-0000-0000-0000-00000000000f"], "groups": [],
            "transactional_ids": [], "trailing_bytes": 3, "error": None,
        },
    ]  # fmt: skip


def test_a_file(decode: Decode, tmp_path: Path) -> None:
    file = tmp_path / "frames.jsonl"
    file.write_text(line(1, request(12, 4, {"GroupId": "g"})))  # no line end
    status, rows, _ = decode(b"", str(file))
    assert (status, rows[0]["groups"]) == (0, ["g"])
    assert decode(line(1, PRODUCE), "-")[1][0]["api"] == "Produce"


def test_a_file_that_is_not_there(decode: Decode, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        status, rows, err = decode(b"", str(path))
        assert (status, rows) == (1, [])
        assert err.startswith(f"tulle: '{path}': ")


@pytest.mark.parametrize(
    ("frame", "known", "error"),
    [
        (b"", {}, "truncated"),
        (b"\0", {}, "truncated"),
        (b"\0\0\0", {"api": "Produce", "api_key": 0}, "truncated"),
        (b"\0\0\0\x09\0", {"api": "Produce", "api_key": 0, "api_version": 9}, "truncated"),
        (PRODUCE[:-5], {"api": "Produce", "api_key": 0, "api_version": 9, "correlation_id": 7, "client_id": "c1"},
         "truncated"),
        (PRODUCE[:8] + b"\0\x01\xff" + PRODUCE[12:],
         {"api": "Produce", "api_key": 0, "api_version": 9, "correlation_id": 7}, "not_utf8"),
        (b"\0\x5d\0\x01\0\0\0\x05\0\x01x", {"api_key": 93, "api_version": 1, "correlation_id": 5, "client_id": "x"},
         "unknown_api"),
        (b"\0\x04\0\x01\0\0\0\x05\0\x01x",
         {"api": "LeaderAndIsr", "api_key": 4, "api_version": 1, "correlation_id": 5, "client_id": "x"}, "unknown_api"),
        (b"\0\0\0\x63\0\0\0\x05\xff\xff", {"api": "Produce", "api_key": 0, "api_version": 99, "correlation_id": 5},
         "unknown_version"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", {"api_key": -1, "api_version": -1, "correlation_id": -1},
         "unknown_api"),
    ],
)  # fmt: skip
def test_a_frame_that_cannot_be_read_says_why(
    decode: Decode, frame: bytes, known: dict[str, object], error: str
) -> None:
    status, (row,), err = decode(line(1, frame))
    assert (status, err) == (0, "")
    assert row.pop("error").partition(":")[0] == error
    assert row == EMPTY | {"id": 1} | known


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        (b"no json", None, "bad_json"),
        (b"\xff\xfe\xfd", None, "bad_json"),
        (b"[" * 100_000, None, "bad_json"),
        (b'{"id": NaN}', None, "bad_json"),
        (b"9" * 10_000, None, "bad_json"),
        (b"[1]", None, "bad_json"),
        (b'{"id": 3}', 3, "bad_frame"),
        (b'{"id": 3, "frame": null}', 3, "bad_frame"),
        (b'{"id": 3, "frame": 5}', 3, "bad_frame"),
        (b'{"id": 3, "frame": "!!"}', 3, "bad_base64"),
        (b'{"id": 3, "frame": "AAA"}', 3, "bad_base64"),
        (b'{"id": 3, "frame": "\xc3\xbc"}', 3, "bad_base64"),
        (b'{"frame": ""}', None, "truncated"),
        (b'{"id": {"a": [1, "\\ud800"]}, "frame": ""}', {"a": [1, "\ud800"]}, "truncated"),
    ],
)
def test_a_line_that_is_no_frame_says_why_and_the_next_is_read(
    decode: Decode, text: bytes, name: object, error: str
) -> None:
    status, rows, err = decode(text + b"\r\n \n" + line("next", PRODUCE).encode())
    assert (status, err) == (0, "")
    assert [(row["id"], (row["error"] or "").partition(":")[0]) for row in rows] == [(name, error), ("next", "")]
    assert rows[0] == EMPTY | {"id": name, "error": rows[0]["error"]}


def test_an_id_of_any_depth(decode: Decode) -> None:
    for depth in (10, 500, 2000, 20_000):
        status, (row,), _ = decode('{"id":' + "[" * depth + "]" * depth + ',"frame":""}')
        assert status == 0
        assert row["error"]


ANSWER = encode_response(3, 12, 5, {"Topics": [{"Name": "a", "TopicId": bytes([1]) * 16}]})


@pytest.mark.parametrize("option", ["Metadata:12", "metadata:12", "3:12"])
def test_answers(decode: Decode, option: str) -> None:
    status, (row,), _ = decode(line(1, ANSWER + b"?"), "--response-to", option)
    assert status == 0
    assert row == EMPTY | {
        "id": 1, "api": "Metadata", "api_key": 3, "api_version": 12, "correlation_id": 5, "topics": ["a"],
        "topic_ids": ["01010101-0101-0101-0101-010101010101"], "trailing_bytes": 1, "error": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "option", "known", "error"),
    [
        (ANSWER[:-1], "3:12", {"api": "Metadata", "api_key": 3, "api_version": 12, "correlation_id": 5}, "truncated"),
        (ANSWER[:3], "3:12", {"api": "Metadata", "api_key": 3, "api_version": 12}, "truncated"),
        (ANSWER, "3:99", {"api": "Metadata", "api_key": 3, "api_version": 99, "correlation_id": 5}, "unknown_version"),
        (ANSWER, "300:0", {"api_key": 300, "api_version": 0, "correlation_id": 5}, "unknown_api"),
    ],
)
def test_an_answer_that_cannot_be_read_says_why(
    decode: Decode, frame: bytes, option: str, known: dict[str, object], error: str
) -> None:
    status, (row,), _ = decode(line(1, frame), "--response-to", option)
    assert status == 0
    assert row.pop("error").partition(":")[0] == error
    assert row == EMPTY | {"id": 1} | known


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("Fetch", "is not API:VERSION"),
        ("Fetch:x", "is not API:VERSION"),
        ("Fetsh:1", "did you mean 'Fetch'?"),
        ("", ""),
    ],
)
def test_an_option_that_names_no_api(capsys: pytest.CaptureFixture[str], option: str, said: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["decode", "kafka", "--response-to", option])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_raw_capture(decode: Decode) -> None:
    status, rows, err = decode(framed(PRODUCE) + framed(b"") + framed(FETCH), "--raw")
    assert (status, err) == (0, "")
    assert [(row["id"], row["api"]) for row in rows] == [(0, "Produce"), (1, None), (2, "Fetch")]
    assert rows[1]["error"].startswith("truncated")
    assert decode(b"", "--raw") == (0, [], "")
    assert decode(framed(ANSWER), "--raw", "--response-to", "3:12")[1][0]["topics"] == ["a"]


def test_a_raw_capture_that_ends_inside_a_frame(decode: Decode) -> None:
    for rest in (framed(FETCH)[:-1], framed(FETCH)[:4], b"\0\0\0", b"\x7f\xff\xff\xffx"):
        status, rows, err = decode(framed(PRODUCE) + rest, "--raw")
        assert (status, err) == (0, "")
        assert [row["id"] for row in rows] == [0, 1]
        assert rows[1]["error"].startswith("truncated")


def test_a_raw_capture_behind_a_negative_length_cannot_be_read(decode: Decode) -> None:
    status, rows, err = decode(framed(PRODUCE) + b"\xff\xff\xff\xff" + framed(FETCH), "--raw")
    assert status == 1
    assert [row["id"] for row in rows] == [0, 1]
    assert rows[1]["error"].startswith("bad_length")
    assert "frame 1" in err


def test_nobody_reads_the_output() -> None:
    command = [sys.executable, "-c", "import sys; from agent.cli import main; sys.exit(main())", "decode", "kafka"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603  our own
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.write(line(1, PRODUCE).encode())
    process.stdin.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_the_help_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["decode", "kafka", "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for key in KEYS:
        assert key in said
