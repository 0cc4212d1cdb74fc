"""What `tulle observe` shows of files that are there."""

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from audit.observe import Options, observe, options_of
from audit.observe_arguments import add_arguments
from audit.record import (
    DROPPED,
    EGRESS,
    ERROR,
    FORWARDED,
    INGRESS,
    Connection,
    FlowFacts,
    KafkaRequest,
    Request,
    Side,
    facts_from_denial,
)
from audit.sinks.file import FileSink
from audit.writer import Writer
from tests.audit.makers import (
    CLOCK,
    FRONTEND,
    TO_BROKER,
    WEB,
    ListSink,
    Policy,
    file_lines,
    kafka_facts,
    request_facts,
)

MS = 1_000_000
INTRUDER = Side("10.244.0.3", 5000, 259, "default", "intruder", {"app": "intruder"})
DB = Side("10.244.1.9", 5432, 260, "data", "db-0", {"app": "db"})


def fill(
    directory: Path, stream: str, facts: Sequence[FlowFacts], *, max_bytes: int = 1 << 26, backups: int = 99
) -> None:
    """Write records as the writer of `stream` on the node that the directory is called after."""
    directory.mkdir(parents=True, exist_ok=True)
    writer = Writer(f"{directory.name}/{stream}", "boot", FileSink(directory, stream, max_bytes, backups))
    for one in facts:
        writer.write(one)
    assert writer.close() == 0


def show(directories: dict[str, Path], *arguments: str) -> tuple[list[str], str]:
    """Lines on standard output and the text on standard error."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    out, err = io.StringIO(), io.StringIO()
    assert observe(options_of(parser.parse_args(arguments)), directories, out, err) == 0
    return out.getvalue().splitlines(), err.getvalue()


def targets(lines: Sequence[str]) -> list[str]:
    """The path of every line's request."""
    return [line.partition("http://web")[2].split(")")[0].split('"')[0] for line in lines]


def test_merged_by_time_over_writers_nodes_and_rotated_files(tmp_path: Path) -> None:
    every = [request_facts(f"/{number}", time_ns=CLOCK + number * MS) for number in range(300)]
    fill(tmp_path / "node-a", "worker-0", every[0::3], max_bytes=20_000)
    fill(tmp_path / "node-a" / "workers", "worker-1", every[1::3], max_bytes=30_000)
    fill(tmp_path / "node-b", "worker-0", every[2::3])
    assert len(list((tmp_path / "node-a").glob("worker-0.jsonl.*"))) > 2
    nodes = {"node-a": tmp_path / "node-a", "node-b": tmp_path / "node-b"}
    assert targets(show(nodes, "--all")[0]) == [f"/{number}" for number in range(300)]
    lines, err = show(nodes)
    assert targets(lines) == [f"/{number}" for number in range(280, 300)]
    assert "--last N or --all shows more" in err
    lines, err = show(nodes, "--last", "5")
    assert targets(lines) == [f"/{number}" for number in range(295, 300)]
    assert err == ""
    assert targets(show(nodes, "--last", "1000")[0]) == [f"/{number}" for number in range(300)]
    assert show(nodes, "--last", "0")[0] == []
    assert "[node-b]" in lines[-1]


def test_compact_is_the_line_people_know(tmp_path: Path) -> None:
    fill(
        tmp_path / "node-b",
        "worker-0",
        [
            request_facts("/public", time_ns=CLOCK),
            request_facts("/admin", code=403, time_ns=CLOCK + MS),
            facts_from_denial(
                INGRESS,
                Side("fd00::9", 4000),
                WEB,
                rule="default-deny",
                revision=1,
                suppressed=3,
                time_ns=CLOCK + 2 * MS,
            ),
            facts_from_denial(
                INGRESS,
                Side("192.0.2.9", 53, 9, reserved=("reserved:world", "reserved:world-ipv4")),
                WEB,
                rule="default/web-l4 ingress[0]",
                revision=1,
                reason="would_deny",
                time_ns=CLOCK + 3 * MS,
                protocol=17,
            ),
            facts_from_denial(
                INGRESS,
                Side("10.0.0.7", 8, 1 << 24, reserved=("cidr:10.0.0.0/8", "reserved:world")),
                WEB,
                rule="default-deny",
                revision=1,
                time_ns=CLOCK + 4 * MS,
                protocol=255,
            ),
        ],
    )
    lines, err = show({"node-b": tmp_path / "node-b"})
    assert lines == [
        "Nov 23 17:00:00.123: default/frontend:41234 (ID:258) -> default/web:80 (ID:257) http-request FORWARDED "
        "(HTTP/1.1 GET http://web/public) code 200 in 0.8ms rule default/web-l7 ingress[0].toPorts[0].http[0]",
        "Nov 23 17:00:00.124: default/frontend:41234 (ID:258) -> default/web:80 (ID:257) http-request DROPPED "
        "(HTTP/1.1 GET http://web/admin) code 403 in 0.8ms rule default/web-l7 ingress[0].toPorts[0].http[0] "
        "reason allowed by default/web-l7 ingress[0].toPorts[0].http[0]",
        "Nov 23 17:00:00.125: [fd00::9]:4000 (unknown) -> default/web:80 (ID:257) connection DROPPED (TCP) "
        "rule default-deny reason policy denied and 3 more like it",
        "Nov 23 17:00:00.126: 192.0.2.9:53 (world) -> default/web:80 (ID:257) connection AUDIT (UDP) "
        "rule default/web-l4 ingress[0] reason would_deny",
        "Nov 23 17:00:00.127: 10.0.0.7 (cidr:10.0.0.0/8) -> default/web (ID:257) connection DROPPED (other) "
        "rule default-deny reason policy denied",
    ]
    assert err == ""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("kafka") / "node-a"

    def facts(number: int, verdict: str, request: KafkaRequest, *, is_reply: bool = False) -> FlowFacts:
        return FlowFacts(
            TO_BROKER, verdict, "x", "r", 1, (Policy(),), request, 2 * MS, is_reply, time_ns=CLOCK + number * MS
        )

    joins = KafkaRequest("joingroup", 9, 2, "", "c-2", 'a" rule b', "", "Read", "Group", 'a" rule b', 30)
    fetch = KafkaRequest("fetch", 17, 8, "orders", "c-1", "", "", "Read", "Topic", "orders")
    fill(
        directory,
        "w",
        [
            kafka_facts(time_ns=CLOCK),
            facts(
                1, FORWARDED, KafkaRequest("offsets", 9, 3, "orders", "c-1", "", "", "Describe", "Topic", "orders", 0)
            ),
            facts(2, DROPPED, joins),
            facts(3, FORWARDED, fetch),
            facts(4, ERROR, fetch, is_reply=True),
            facts(
                5,
                FORWARDED,
                KafkaRequest("apiversions", 4, 1, client_id="c-1", operation="Nothing", resource="Cluster"),
            ),
            facts(6, DROPPED, KafkaRequest("initproducerid", 5, 9, "", "", "", "t", "Write", "Topic", "", 31)),
            request_facts("/public", time_ns=CLOCK + 7 * MS),
            facts_from_denial(INGRESS, INTRUDER, WEB, rule="r", revision=1, time_ns=CLOCK + 8 * MS, protocol=17),
        ],
    )
    return {"node-a": directory}


def test_kafka_requests_are_lines_too(kafka: dict[str, Path]) -> None:
    begin = "default/frontend:41234 (ID:258) -> default/kafka:9092 (ID:260) kafka-request"
    lines, _ = show(kafka, "--protocol", "kafka")
    assert [line[21:] for line in lines] == [
        f"{begin} DROPPED (Kafka request produce correlation id 7 topic 'secrets') error 29 in 0.4ms rule default-deny "
        "reason default deny asks Write on Topic client billing-1 transactional id tx-1",
        f"{begin} FORWARDED (Kafka request offsets correlation id 3 topic 'orders') in 2.0ms rule r "
        "asks Describe on Topic client c-1",
        f"{begin} DROPPED (Kafka request joingroup correlation id 2) error 30 in 2.0ms rule r reason x "
        'asks Read on Group "a\\" rule b" client c-2 group "a\\" rule b"',
        f"{begin} FORWARDED (Kafka request fetch correlation id 8 topic 'orders') in 2.0ms rule r "
        "asks Read on Topic client c-1",
        "default/frontend:41234 (ID:258) <- default/kafka:9092 (ID:260) kafka-response ERROR "
        "(Kafka response fetch correlation id 8 topic 'orders' return code 0) rule r reason x "
        "asks Read on Topic client c-1",
        f"{begin} FORWARDED (Kafka request apiversions correlation id 1) in 2.0ms rule r client c-1",
        f"{begin} DROPPED (Kafka request initproducerid correlation id 9) error 31 in 2.0ms rule r reason x "
        "asks Write on any Topic transactional id t",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--protocol kafka", "0123456"),
        ("--protocol http", "7"),
        ("--protocol tcp", "01234567"),
        ("--protocol udp --protocol HTTP", "78"),
        ("--topic orders", "134"),
        ("--topic o*", "134"),
        ("--topic *", "0134"),
        ("--topic orders --topic secrets", "0134"),
        ("--topic order", ""),
        ("--topic Orders", ""),
        ("--api-key produce", "0"),
        ("--api-key ListOffsets", "1"),
        ("--api-key offsets --api-key Join-Group", "12"),
        ("--api-key init_producer_id", "6"),
        ("--client-id c-1", "1345"),
        ("--client-id c-?", "12345"),
        ("--client-id *", "012345"),
        ("--group a*", "2"),
        ("--group *", "2"),
        ("--error-code 29", "0"),
        ("--error-code 29 --error-code 30", "02"),
        ("--verdict DROPPED --topic *", "0"),
        ("--topic orders --api-key fetch", "34"),
        ("--topic orders --http-status 200", ""),
        ("--http-status 200", "7"),
        ("--from-pod frontend --topic orders", "134"),
    ],
)
def test_kafka_filters(kafka: dict[str, Path], arguments: str, expected: str) -> None:
    lines, _ = show(kafka, *arguments.split())
    assert "".join(str(int(line[16:19]) - 123) for line in lines) == expected


def test_jsonpb_is_the_line_as_written(tmp_path: Path) -> None:
    fill(tmp_path / "n", "w", [request_facts("/é?x=1"), request_facts("/b")])
    lines, _ = show({"n": tmp_path / "n"}, "-o", "jsonpb")
    assert [line.encode() + b"\n" for line in lines] == file_lines(tmp_path / "n" / "w.jsonl")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("mixed") / "node-a"

    def facts(number: int, source: Side, destination: Side, verdict: str, request: Request | None) -> FlowFacts:
        connection = Connection(EGRESS, source, destination)
        return FlowFacts(connection, verdict, "x", "r", 1, (Policy(),), request, time_ns=CLOCK + number * MS)

    fill(
        directory,
        "w",
        [
            facts(0, FRONTEND, WEB, FORWARDED, Request("GET", "/public/a", "web", code=200)),
            facts(1, FRONTEND, WEB, DROPPED, Request("POST", "/public/b?x=1", "web", code=403)),
            facts(2, INTRUDER, WEB, DROPPED, Request("GET", "/x/public", "web", code=404)),
            facts(3, WEB, DB, "ERROR", Request("PUT", "/db", "web", code=502)),
            facts(4, INTRUDER, DB, DROPPED, None),
            facts(5, WEB, Side("192.0.2.1", 443), "AUDIT", Request("GET", "/", "web")),
        ],
    )
    return {"node-a": directory}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "012345"),
        ("--verdict DROPPED", "124"),
        ("--verdict dropped --verdict ERROR", "1234"),
        ("--verdict AUDIT", "5"),
        ("--http-path /public", "01"),
        ("--http-path /public/[b-z]", "1"),
        ("--http-path .*public", "012"),
        ("--http-path /public/b$", "1"),
        ("--http-path /db --http-path /$", "35"),
        ("--http-status 403", "1"),
        ("--http-status 4+", "12"),
        ("--http-status 40+", "12"),
        ("--http-status 200 --http-status 5+", "03"),
        ("--http-method get", "025"),
        ("--http-method GET --verdict DROPPED", "2"),
        ("--pod web", "01235"),
        ("--pod intruder", "24"),
        ("--pod data/db-0", "34"),
        ("--pod data/", "34"),
        ("--pod other/web", ""),
        ("--from-pod web", "35"),
        ("--from-pod default/front*", "01"),
        ("--to-pod web", "012"),
        ("--to-pod db-?", "34"),
        ("--from-pod intruder --to-pod web", "2"),
        ("--from-pod front", ""),
        ("--since 2026-11-23T17:00:00.126Z", "345"),
        ("--since 2026-11-23T18:00:00.127+01:00", "45"),
        ("--since 2030-01-01T00:00:00Z", ""),
    ],
)
def test_filters(mixed: dict[str, Path], arguments: str, expected: str) -> None:
    numbers = "".join(str(int(line[16:19]) - 123) for line in show(mixed, *arguments.split())[0])
    assert numbers == expected
    numbers = "".join(str(int(line[16:19]) - 123) for line in show(mixed, "--last", "9", *arguments.split())[0])
    assert numbers == expected


def test_last_counts_what_matches(mixed: dict[str, Path]) -> None:
    lines, _ = show(mixed, "--verdict", "DROPPED", "--last", "2")
    assert [line[16:19] for line in lines] == ["125", "127"]


def test_since_counts_back_from_now(tmp_path: Path) -> None:
    now = time.time_ns()
    fill(
        tmp_path / "n",
        "w",
        [request_facts(f"/{age}", time_ns=now - age * 1_000_000_000) for age in (4000, 200, 100, 5)],
    )
    assert targets(show({"n": tmp_path / "n"}, "--since", "150s")[0]) == ["/100", "/5"]
    assert targets(show({"n": tmp_path / "n"}, "--since", "5m")[0]) == ["/200", "/100", "/5"]
    assert len(show({"n": tmp_path / "n"}, "--since", "2h")[0]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--http-path (", '--http-path "(" is no regular expression'),
        ("--http-status abc", '--http-status: "abc" is not a status'),
        ("--since yesterday", '--since: "yesterday" is neither a time'),
        ("--last 3 --all", "exclude each other"),
    ],
)
def test_bad_values_are_refused(arguments: str, message: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below, as plain text
        options_of(parser.parse_args(arguments.split()))
    assert message in str(caught.value)


def test_bad_lines_are_counted_and_the_unfinished_one_is_not(tmp_path: Path) -> None:
    fill(tmp_path, "w", [request_facts("/1"), request_facts("/2")])
    first, second = file_lines(tmp_path / "w.jsonl")
    (tmp_path / "w.jsonl").write_bytes(first + b"torn{\n" + second + b"\xff\xfe\n" + second[:50])
    for arguments in ((), ("--all",)):
        lines, err = show({"n": tmp_path}, *arguments)
        assert targets(lines) == ["/1", "/2"]
        assert err == "tulle observe: 2 lines could not be read as a record\n"


def test_lines_over_block_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "w", [request_facts(f"/{number}") for number in range(20)])
    for block in (1, 7, 100, 1000, 1021):
        monkeypatch.setattr("audit.reading.BLOCK", block)
        for arguments in (("--last", "20"), ("--all",)):
            lines, err = show({"n": tmp_path}, *arguments)
            assert targets(lines) == [f"/{number}" for number in range(20)]
            assert err == ""


def test_missing_numbers_are_said_and_told_losses_are_not(tmp_path: Path) -> None:
    fill(tmp_path, "w", [request_facts(f"/{number}") for number in range(9)])
    lines = file_lines(tmp_path / "w.jsonl")
    (tmp_path / "w.jsonl").write_bytes(b"".join(lines[2:5] + lines[7:]))
    assert show({"n": tmp_path}, "--all")[1] == "tulle observe: 2 records are missing\n"
    sink = ListSink(room=0)
    writer = Writer("n/w", "other", sink, buffer_bytes=5000)
    for _ in range(30):
        writer.write(request_facts())
    sink.room = 1000
    assert writer.flush()
    assert len(sink.lines) < 30
    (tmp_path / "w.jsonl").write_bytes(b"".join(lines[:3] + sink.lines))
    assert show({"n": tmp_path}, "--all")[1] == ""


def test_nothing_there_is_said(tmp_path: Path) -> None:
    lines, err = show({"n": tmp_path / "absent"})
    assert lines == []
    assert "no audit records" in err


def test_links_and_pipes_of_a_writer_are_not_followed(tmp_path: Path) -> None:
    fill(tmp_path / "n", "w", [request_facts("/1")])
    (tmp_path / "secret").write_bytes(b"secret\n")
    (tmp_path / "n" / "link.jsonl").symlink_to(tmp_path / "secret")
    (tmp_path / "n" / "dir").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "n" / "pipe.jsonl")
    lines, err = show({"n": tmp_path / "n"}, "-o", "jsonpb")
    assert len(lines) == 1
    assert err == ""


def test_losses_are_shown(tmp_path: Path) -> None:
    writer = Writer("node-a/kernel", "boot", FileSink(tmp_path, "kernel"), lambda: CLOCK)
    writer.write_loss(17, "ring full")
    writer.close()
    assert show({"n": tmp_path}, "--verdict", "FORWARDED")[0] == [
        "Nov 23 17:00:00.123: LOST 17 records of node-a/kernel (ring full)"
    ]


def test_a_file_cannot_move_the_terminal(tmp_path: Path) -> None:
    evil = (
        '{"flow":{"time":"\\u001b]0;x","verdict":"\\u001b[2J","Summary":"\\u009b1m\\n","IP":{"source":"\\r"}},'
        '"node_name":"\\u202e"}\n'
    )
    (tmp_path / "w.jsonl").write_text(evil)
    (line,), _ = show({"n": tmp_path, "m": tmp_path / "x"})
    assert line.isprintable()


def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`python -m audit.observe` with pipes."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "audit.observe", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_a_broken_pipe_ends_quietly(tmp_path: Path) -> None:
    fill(tmp_path, "w", [request_facts(f"/{number}") for number in range(2000)])
    with run(str(tmp_path), "--all") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "/0" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(10) == 0


def test_a_wrong_value_exits_with_2(tmp_path: Path) -> None:
    with run(str(tmp_path), "--since", "soon") as process:
        out, err = process.communicate(timeout=10)
    assert (out, process.returncode) == ("", 2)
    assert err.startswith("tulle observe: --since")


def test_colour_is_for_terminals_alone(tmp_path: Path) -> None:
    fill(tmp_path, "w", [request_facts("/1", code=403)])
    with run(str(tmp_path), TERM="xterm") as process:
        assert "\x1b" not in process.communicate(timeout=10)[0]
    for environment, coloured in (({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        master, slave = os.openpty()
        done = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", "audit.observe", str(tmp_path)],
            stdout=slave,
            check=True,
            timeout=10,
            env={**os.environ, "TERM": "xterm", **environment},
        )
        assert done.returncode == 0
        os.close(slave)
        assert (b"\x1b[31mDROPPED\x1b[0m" in os.read(master, 10_000)) == coloured
        os.close(master)


def test_all_is_in_order_of_time_where_a_writers_lines_are_not(tmp_path: Path) -> None:
    """A record waits for its response, so an earlier decision may be written later."""
    lines = [line_at(second) for second in (1.0, 1.4, 1.2, 9.0, 8.7, 9.1)]
    (tmp_path / "worker-0.jsonl").write_text("".join(lines))
    (tmp_path / "worker-1.jsonl").write_text(line_at(1.3))
    out = io.StringIO()
    assert observe(Options(everything=True, output="jsonpb"), {"node-a": tmp_path}, out) == 0
    times = [json.loads(line)["time"] for line in out.getvalue().splitlines()]
    assert len(times) == 7
    assert times == sorted(times)


def line_at(second: float) -> str:
    when = f"2026-01-31T12:00:{second:012.9f}Z"
    return json.dumps({"flow": {"time": when, "verdict": "FORWARDED"}, "node_name": "node-a", "time": when}) + "\n"
