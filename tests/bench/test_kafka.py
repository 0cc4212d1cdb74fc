"""What clients of Kafka say, and what rows, tables and goals make of it."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from bench import document
from bench.errors import BenchError
from bench.kafka import cluster, load_result, peers, report, tools
from bench.kafka.cases import CASES, SIZES
from bench.kafka.memory import Memory
from bench.kafka.rows import Row, medians, missing, ratio
from bench.kafka.run import Outcome
from bench.results import Results
from lab import state

ROOT = Path(__file__).resolve().parent.parent.parent
PRODUCED = """\
250001 records sent, 50000.2 records/sec (4.77 MB/sec), 2.1 ms avg latency, 300.0 ms max latency.
1000000 records sent, 254735.709649 records/sec (23.83 MB/sec), 9.12 ms avg latency, 300.00 ms max latency, \
4 ms 50th, 13 ms 95th, 21 ms 99th, 32 ms 99.9th.
750000 steady state records sent, 354735.709649 records/sec (33.83 MB/sec), 5.12 ms avg latency, 66.00 ms max latency, \
3 ms 50th, 12 ms 95th, 20 ms 99th, 31 ms 99.9th.
"""
CONSUMED = """\
start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, fetch.time.ms, \
fetch.MB.sec, fetch.nMsg.sec
2026-11-25 15:00:00:000, 2026-11-25 15:00:02:000, 95.3674, 47.6837, 1000000, 500000.0, 500, 1500, 63.5783, 666666.6667
"""
ROW = Row("sync_rdkafka_100_acks1", "tulle", 1, 2000.0, 0.19, 400.0, 900.0, 2000.0, 0.7, 4.0, 90.0, 0)


def test_every_client_size_and_acknowledgement_is_measured() -> None:
    assert len(CASES) == 16
    produced = {(case.client, case.size, case.acks) for case in CASES.values() if case.kind == "produce"}
    assert produced == {
        (client, size, acks) for client in ("java", "rdkafka") for size in (100, 10240) for acks in ("1", "all")
    }
    assert {(case.client, case.size) for case in CASES.values() if case.kind == "fetch"} == {
        (client, size) for client in ("java", "rdkafka") for size in SIZES.values()
    }
    assert [case.name for case in CASES.values() if case.kind == "sync"] == [
        f"sync_rdkafka_{size}_acks{acks}" for size in SIZES for acks in ("1", "all")
    ]


def test_the_producers_tool_is_read() -> None:
    case = CASES["produce_java_100_acksall"]
    load = tools.parse(case, PRODUCED, 1_000_000)
    assert (load.records, load.records_per_s, load.errors) == (1_000_000, 354735.709649, 0)
    assert (load.p50_us, load.p99_us, load.p999_us) == (3000.0, 20_000.0, 31_000.0)
    refused = PRODUCED + "org.apache.kafka.common.errors.TopicAuthorizationException: Not authorized\n"
    assert tools.parse(case, refused, 1_000_000).errors == 1
    assert tools.parse(case, PRODUCED, 1_000_005).errors == 5
    with pytest.raises(BenchError, match="the tool gave no numbers: Error: no such class"):
        tools.parse(case, "Error: no such class\n", 1)


def test_the_consumers_tool_is_read() -> None:
    case = CASES["fetch_java_100"]
    load = tools.parse(case, CONSUMED, 1_000_000)
    assert (load.records, load.records_per_s, load.errors, load.p50_us) == (1_000_000, 666666.6667, 0, None)
    assert tools.parse(case, CONSUMED, 1_000_002).errors == 2
    assert tools.parse(case, CONSUMED, 999_999).errors == 0  # the last poll brings more than was asked for
    early = "WARNING: Exiting before consuming the expected number of messages: timeout (20000 ms) exceeded.\n"
    assert tools.parse(case, early + CONSUMED, 1_000_000).errors == 1
    with pytest.raises(BenchError, match="the consumer's tool gave no numbers"):
        tools.parse(case, CONSUMED.splitlines()[0], 1)


def test_the_load_program_is_read() -> None:
    said = '%3|1|FAIL|bench#producer-1| refused\n{"records": 5, "records_per_s": 2.5, "errors": 1, "said": ["x"]}\n'
    assert load_result.parse(said) == load_result.Load(5, 2.5, errors=1, said=["x"])
    with pytest.raises(BenchError, match="the load gave no numbers: Traceback"):
        load_result.parse("Traceback\n")


def test_the_last_four_of_ten_rules_are_the_loads() -> None:
    policy = yaml.safe_load((ROOT / "bench" / "kafka" / "policy.yaml").read_text())
    by_operator, by_client = policy["spec"]["ingress"]
    (judged,) = by_client["toPorts"]
    assert "rules" not in by_operator["toPorts"][0]
    assert judged["ports"] == [{"port": str(cluster.PORT), "protocol": "TCP"}]
    rules = judged["rules"]["kafka"]
    assert len(rules) == 10
    topics = [cluster.PRODUCED, cluster.PRODUCED, *cluster.FETCHED.values()]
    roles = ["produce", "consume", "consume", "consume"]
    assert rules[6:] == [{"role": role, "topic": topic} for role, topic in zip(roles, topics, strict=True)]
    assert not set(topics) & {rule["topic"] for rule in rules[:6]}
    assert cluster.DENIED not in {rule["topic"] for rule in rules}
    assert policy["spec"]["endpointSelector"] == {"matchLabels": {"app": cluster.BROKER}}


def test_haproxy_reads_nothing_of_it() -> None:
    lines = peers.configuration(15012, 1).splitlines()
    assert "  mode tcp" in lines
    assert "  bind 0.0.0.0:15012" in lines
    assert "  nbthread 1" in lines
    assert not [line for line in lines if "log" in line or "http" in line]


def test_a_row_with_errors_is_void() -> None:
    rows = [replace(ROW, records_per_s=rate, errors=errors) for rate, errors in ((1.0, 0), (3.0, 0), (99.0, 1))]
    (found,) = medians(rows).values()
    assert (found.records_per_s, found.p50_us, found.void) == (2.0, 400.0, 1)
    assert medians([replace(ROW, errors=1)]) == {}
    assert missing([replace(ROW, errors=1)]) == [(ROW.case, "tulle")]
    (fetched,) = medians([replace(ROW, p50_us=None, p99_us=None, p999_us=None)]).values()
    assert fetched.p50_us is None


def test_a_ratio_is_within_a_round() -> None:
    rates = {"tulle": (90.0, 190.0, 50.0), "direct": (100.0, 200.0, 500.0)}
    rows = [
        replace(ROW, peer=peer, round=number, records_per_s=rate)
        for peer, some in rates.items()
        for number, rate in enumerate(some, 1)
    ]
    assert ratio(rows, ROW.case, "tulle", "direct") == pytest.approx(0.9)
    assert ratio([*rows[:1], replace(rows[1], errors=1), *rows[2:]], ROW.case, "tulle", "direct") == pytest.approx(0.5)
    assert ratio(rows, ROW.case, "tulle", "haproxy") is None
    assert ratio(rows, "fetch_java_100", "tulle", "direct") is None


def outcome(tulle_p50: float = 460.0, rate: float = 95.0, peak: float = 40.0) -> Outcome:
    sync = [
        replace(ROW, peer=peer, p50_us=p50, rss_mib=rss)
        for peer, p50, rss in (("direct", 400.0, 0.0), ("haproxy", 420.0, 15.0), ("tulle", tulle_p50, 90.0))
    ]
    batched = [
        replace(
            ROW, case="produce_rdkafka_10k_acks1", peer=peer, records_per_s=each, p50_us=None, p99_us=None, p999_us=None
        )
        for peer, each in (("direct", 100.0), ("haproxy", 98.0), ("tulle", rate))
    ]
    memories = [Memory("haproxy", 15.0, [15.0], 400.0), Memory("tulle", 33.0, [34.0, 35.5], peak)]
    return Outcome(1, 2, [*batched, *sync], [0.0, 0.3, 0.02], memories)


@pytest.mark.parametrize(
    ("found", "reached"),
    [
        (outcome(), [True, True, True]),
        (outcome(rate=94.9), [False, True, True]),
        (outcome(tulle_p50=460.1), [True, False, True]),
        (outcome(peak=41.1), [True, True, False]),
    ],
)
def test_goals(found: Outcome, reached: list[bool]) -> None:
    judged = report.goals(found)
    assert [goal.reached for goal in judged] == reached
    assert [goal.wanted for goal in judged] == [">= 0.95 x direct", "<= 3 x haproxy", "<= 8 MiB"]


def test_no_goal_without_its_numbers() -> None:
    assert report.goals(Outcome(1, 2, [ROW], [0.0], [])) == []


def test_what_is_shown_and_written(tmp_path: Path) -> None:
    found = outcome()
    text = report.text(found)
    assert "sync_rdkafka_100_acks1: one synchronous produce at a time, 100 B, acks=1, librdkafka" in text
    assert "0.950 (haproxy 0.980)" in text
    assert "60 µs, haproxy 20 µs" in text
    cells = dict(report.of_cases(found))["produce_rdkafka_10k_acks1: batched produce, 10,240 B, acks=1, librdkafka"]
    assert cells[0][:4] == ("peer", "of direct", "of haproxy", "records/s")
    assert cells[3][:4] == ("tulle", "0.950", "0.969", "95")
    assert cells[3][5:8] == ("-", "-", "-")
    assert cells[3][8] == f"{0.7 * 1024**3 / (10_000 * 10_240):.2f}"
    file = tmp_path / "performance.md"
    file.write_text("a\n<!-- bench kafka: begin -->\nold\n<!-- bench kafka: end -->\nz\n")
    document.write_kafka(report.sections(found, "./dev bench kafka"), file)
    written = file.read_text()
    assert written.startswith("a\n<!-- bench kafka: begin -->\n`./dev bench kafka` on ")
    assert "| tulle | 33.0 | 34.0, 35.5 | 40.0 | 7.0 |" in written
    assert written.endswith("<!-- bench kafka: end -->\nz\n")
    assert not found.is_whole
    document.write_kafka(report.sections(found, "./dev bench kafka"), file)
    assert file.read_text() == written


def test_rows_are_in_the_json(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    results = Results(kafka=outcome())
    results.write_json(file)
    whole = yaml.safe_load(file.read_text())
    assert whole["rows"] == [asdict(row) for row in outcome().rows]
    assert whole["kafka_memory"][1] == {
        "peer": "tulle",
        "first": 33.0,
        "after": [34.0, 35.5],
        "peak": 40.0,
        "growth": 7.0,
    }
    assert results.missing == []
    assert "Kafka's own" not in results.text()


FIELDS: dict[str, set[type]] = {
    "case": {str},
    "peer": {str},
    "round": {int},
    "records_per_s": {float},
    "mib_per_s": {float},
    "p50_us": {float, type(None)},
    "p99_us": {float, type(None)},
    "p999_us": {float, type(None)},
    "cpu_s_per_10k": {float},
    "machine_cpu_s_per_10k": {float},
    "rss_mib": {float},
    "errors": {int},
}


@pytest.mark.root
@pytest.mark.timeout(
    600
)  # a minute where nothing else runs; JVMs that share two cores with other tests take their time
def test_the_command_measures_every_peer_and_writes_rows(tmp_path: Path) -> None:
    """A second per case: that it measures, not what."""
    file = tmp_path / "rows.json"
    cases = "produce_java_10k_acksall,fetch_rdkafka_10k,sync_rdkafka_100_acks1"
    command = [sys.executable, "-m", "bench", "kafka", "--rounds", "1", "--seconds", "1", "--gib", "0"]
    done = subprocess.run(  # noqa: S603 - our own command
        [*command, "--cases", cases, "--json", str(file)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert all(row.keys() == FIELDS.keys() for row in rows)
    assert all(type(value) in FIELDS[name] for row in rows for name, value in row.items())
    expected = [(case, peer) for case in cases.split(",") for peer in ("direct", "haproxy", "tulle")]
    assert sorted((row["case"], row["peer"]) for row in rows) == sorted(expected)
    assert [row for row in rows if row["errors"]] == []
    assert all((row["cpu_s_per_10k"] > 0) == (row["rss_mib"] > 0) == (row["peer"] != "direct") for row in rows)
    assert all((row["p50_us"] is None) == row["case"].startswith(("fetch", "produce_rdkafka")) for row in rows)
    assert "p50 over direct" in done.stdout
    assert [name for name in state.all_labs() if name.startswith("bench-") and name.endswith("-kafka")] == []
