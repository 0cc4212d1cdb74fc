"""What wrk says, what the tables and goals make of it, and where they are written."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench import document, goals, table, wrk
from bench.cases import CASES
from bench.errors import BenchError
from bench.measure import Measured
from bench.memory import Memory
from bench.rows import medians
from bench.run import Outcome
from tests.bench.test_rows import ROW

MIB = 1024 * 1024
MEMORY = Memory(
    peer="tulle",
    at_rest={"agent": 50 * MIB, "broker": 15 * MIB, "worker": 30 * MIB},
    per_idle_connection=4096.0,
    idle_errors=0,
    big_body_before=30 * MIB,
    big_body_peak=32 * MIB,
    big_body_s=2.0,
)


def said(requests: int, socket_errors: int, status_errors: int) -> str:
    return (
        "Running 1s test @ http://10.244.1.2:80/\n"
        f'@@{{"requests":{requests},"duration_us":2000000,"bytes":4096,"p50_us":1.5,"p99_us":2.5,"p999_us":3.5,'
        f'"socket_errors":{socket_errors},"status_errors":{status_errors}}}\n'
    )


@pytest.mark.parametrize(
    ("status", "output", "errors"),
    [
        (200, said(100, 0, 0), 0),
        (200, said(100, 2, 3), 5),
        (403, said(100, 0, 100), 0),
        (403, said(100, 1, 90), 11),
    ],
)
def test_errors_are_answers_that_should_not_be(status: int, output: str, errors: int) -> None:
    load = wrk.parse(output, status)
    assert (load.requests, load.seconds, load.p999_us, load.errors) == (100, 2.0, 3.5, errors)


def test_a_load_without_an_answer_is_void() -> None:
    assert wrk.parse(said(0, 0, 0), 200).errors == 1


def test_wrk_without_numbers_is_an_error() -> None:
    with pytest.raises(BenchError, match="wrk gave no numbers: unable to connect"):
        wrk.parse("unable to connect to 10.244.1.2:80 Connection refused\n", 200)


def test_the_path_of_the_cases_is_what_only_the_last_rule_allows() -> None:
    allowed = {case.path for case in CASES.values() if not case.needs_policy and not case.upload_bytes}
    assert allowed == {"/bench/1k", "/bench/64k", "/bench/1m"}
    assert [case.name for case in CASES.values() if case.needs_policy] == ["denied_c32"]


def outcome() -> Outcome:
    direct = replace(ROW, peer="direct", requests_per_s=8000.0, cpu_s_per_10k=0.0, rss_mib=0.0)
    h11 = replace(ROW, peer="py-h11", requests_per_s=500.0)
    measured = [Measured(h11, 0.0), Measured(ROW, 0.25), Measured(direct, 1.5)]
    return Outcome(rounds=1, seconds=3, measured=measured, memories=[MEMORY])


def test_a_quiet_machine_is_not_warned_about() -> None:
    quiet = Outcome(rounds=1, seconds=3, measured=[Measured(ROW, cores) for cores in (0.0, 0.05, 1.0)], memories=[])
    assert quiet.disturbance == "other processes took 0.1 cores meanwhile (median; at most 1.0)"


def test_ratios_are_to_the_named_peer() -> None:
    (title, cells), *others = table.of_cases(outcome().medians)
    assert others == []
    assert title == "keepalive_1k_c32: 1 KiB, 32 keep-alive connections"
    assert cells[0][:5] == ("peer", "requests/s", "of direct", "of py-h11", "MiB/s")
    assert [row[:4] for row in cells[1:]] == [
        ("direct", "8,000", "1.000", "16.000"),
        ("tulle", "1,000", "0.125", "2.000"),
        ("py-h11", "500", "0.062", "1.000"),
    ]


def test_a_goal_is_missed_below_its_ratio_and_reached_from_it() -> None:
    h11 = replace(ROW, peer="py-h11")
    for rate, reached in ((899.0, False), (900.0, True)):
        (goal,) = goals.judged(medians([replace(ROW, requests_per_s=rate), h11]), [])
        assert goal.reached is reached


def test_goals_of_memory() -> None:
    judged = goals.judged({}, [MEMORY, replace(MEMORY, peer="py-h11")])
    assert [(goal.got, goal.reached) for goal in judged] == [("4.0 KiB", True), ("84 MB", True), ("2.0 MiB", True)]
    heavy = replace(MEMORY, per_idle_connection=50_000.0, big_body_peak=1024 * MIB, at_rest={"worker": 101 * MIB})
    assert not any(goal.reached for goal in goals.judged({}, [heavy]))


def test_the_document_keeps_what_people_wrote(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    file.write_text("above\n\n<!-- bench http: begin -->\nold\n<!-- bench http: end -->\n\nbelow\n")
    document.write(outcome(), "./dev bench http --write", file)
    text = file.read_text()
    assert text.startswith("above\n\n<!-- bench http: begin -->\n`./dev bench http --write` on ")
    assert text.endswith("|\n<!-- bench http: end -->\n\nbelow\n")
    assert "old" not in text
    assert "other processes took 0.2 cores meanwhile (median; at most 1.5): too much to compare" in text
    assert "| tulle | 1,000 | 0.125 | 2.000 |" in text
    document.write(outcome(), "./dev bench http --write", file)
    assert file.read_text() == text


def test_a_document_without_a_place_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    file.write_text("no marker\n")
    with pytest.raises(BenchError, match=r"performance\.md has no lines"):
        document.write(outcome(), "./dev bench http --write", file)
    assert file.read_text() == "no marker\n"


def test_the_document_of_this_checkout_has_a_place() -> None:
    text = document.DOCUMENT.read_text()
    assert text.count("<!-- bench http: begin -->") == text.count("<!-- bench http: end -->") == 1
