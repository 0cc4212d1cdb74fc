"""What wrk says, what the tables and goals make of it, and where they are written."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import document, goals, plots, table, wrk
from bench.cases import CASES
from bench.connect import Endurance
from bench.errors import BenchError
from bench.measure import Measured
from bench.memory import Memory
from bench.rows import medians
from bench.run import Outcome
from bench.scale import Point
from tests.bench.test_rows import ROW

MIB = 1024 * 1024
MEMORY = Memory(
    peer="tulle",
    at_rest={"agent": 50 * MIB, "broker": 15 * MIB, "worker": 30 * MIB},
    with_idle={1000: {"agent": 50 * MIB, "broker": 15 * MIB, "worker": 30 * MIB + 4096 * 1000}},
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
    envoy = replace(ROW, peer="envoy", requests_per_s=1000.0)
    for rate, reached in ((2499.0, False), (2500.0, True)):
        judged = goals.judged(medians([replace(ROW, requests_per_s=rate), envoy]), [])
        (goal,) = [goal for goal in judged if goal.wanted == ">= 2.5 x envoy"]
        assert (goal.reached, goal.got) == (reached, f"{rate / 1000:.2f} ({rate:,.0f} / 1,000)")


def test_a_cost_goal_is_reached_up_to_its_ratio() -> None:
    haproxy = replace(ROW, peer="haproxy", cpu_s_per_10k=0.3)
    for cost, reached in ((0.3, True), (0.31, False)):
        judged = goals.judged(medians([replace(ROW, cpu_s_per_10k=cost), haproxy]), [])
        (goal,) = [goal for goal in judged if goal.wanted == "<= 1 x haproxy"]
        assert goal.reached is reached


def test_latency_is_what_is_added_to_direct() -> None:
    one = replace(ROW, case="keepalive_1k_c1")
    rows = [
        replace(one, peer=peer, p50_us=p50) for peer, p50 in (("direct", 80.0), ("haproxy", 180.0), ("envoy", 300.0))
    ]
    for p50, reached in ((180.0, [True, True]), (190.0, [False, True]), (191.0, [False, False])):
        judged = goals.judged(medians([*rows, replace(one, p50_us=p50)]), [])
        assert [goal.reached for goal in judged if goal.what == "one connection: p50 over direct"] == reached


def test_no_goal_without_its_numbers() -> None:
    assert goals.judged({}, []) == []
    assert goals.judged(medians([ROW]), []) == []


def test_rules_are_judged_by_their_cost() -> None:
    few, many = replace(ROW, case="rules_varied_10"), replace(ROW, case="rules_varied_10000", cpu_s_per_10k=1.66)
    (goal,) = goals.judged(medians([few, many]), [])
    assert not goal.reached
    assert goal.got == "1.11 (1.66 / 1.50)"


def test_goals_of_memory() -> None:
    envoy = replace(MEMORY, peer="envoy", at_rest={"proxy": 60 * MIB}, with_idle={9500: {"proxy": 200 * MIB}})
    ours = replace(MEMORY, with_idle={**MEMORY.with_idle, 9500: {"agent": 60 * MIB, "worker": 141 * MIB}})
    judged = goals.judged({}, [ours, envoy])
    assert [(goal.got.partition(" (")[0], goal.reached) for goal in judged] == [
        ("1.33", True),
        ("1.00", False),
        ("4.0 KiB", True),
        ("2.0 MiB", True),
    ]
    heavy = replace(MEMORY, with_idle={1000: {"worker": 200 * MIB}}, big_body_peak=1024 * MIB)
    assert not any(goal.reached for goal in goals.judged({}, [heavy]))


def test_a_rate_that_falls_and_connections_that_fail_are_missed_goals() -> None:
    failures, rate = goals.of_connections("x", [1000.0, 990.0, 1010.0, 900.0, 880.0, 870.0], 0)
    assert failures.reached
    assert (rate.got, rate.reached) == ("0.88 (875 / 995)", True)
    failures, rate = goals.of_connections("x", [1000.0, 990.0, 1010.0, 900.0, 500.0, 400.0], 2)
    assert not failures.reached
    assert not rate.reached


HTTP_GOALS: list[goals.Goal] = [goals.Goal("a", "b", "c", True)]
SECTIONS = ("http", "connect", "scale", "profile")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    file = tmp_path / "performance.md"
    marked = "".join(f"<!-- bench {name}: begin -->\nold\n<!-- bench {name}: end -->\n\n" for name in SECTIONS)
    file.write_text(f"above\n\n{marked}below\n")
    return file


def test_the_document_keeps_what_people_wrote(place: Path) -> None:
    document.write_http(outcome(), HTTP_GOALS, "./dev bench http --write", place)
    text = place.read_text()
    assert text.startswith("above\n\n<!-- bench http: begin -->\n`./dev bench http --write` on ")
    assert text.endswith("<!-- bench profile: begin -->\nold\n<!-- bench profile: end -->\n\nbelow\n")
    assert text.count("old") == 3
    assert "other processes took 0.2 cores meanwhile (median; at most 1.5): too much to compare" in text
    assert "| tulle | 1,000 | 0.125 | 2.000 |" in text
    assert "![Requests per second](plots/rates.svg)" in text
    document.write_http(outcome(), HTTP_GOALS, "./dev bench http --write", place)
    assert place.read_text() == text


def test_endurance_and_scale_have_places_of_their_own(place: Path) -> None:
    turn = Endurance("client", [replace(ROW, round=n) for n in (1, 2, 3)], {"ECONNRESET": 2})
    document.write_connect([turn], "./dev bench connect", place)
    measured = [Measured(replace(ROW, case=f"rules_{count}"), 0.0) for count in (10, 100)]
    points = [
        Point("rules", count, [one], {"worker": MIB * count}, 1.5, 0.0)
        for count, one in zip((10, 100), measured, strict=True)
    ]
    document.write_scale(points, {"rules": table.of_points("rules", points)}, "quiet", "./dev bench scale", place)
    text = place.read_text()
    assert "client closes first: {'ECONNRESET': 2}" in text
    assert "| client | 3 | 1,000 |" in text
    assert "| 100 | one path | 1,000 | 900 | 2,000 | 1.50 | 0 | 0.00 | 1.5 | worker 100 |" in text
    drawn = {path.name for path in (place.parent / "plots").iterdir()}
    assert drawn == {"connect.svg", "scale_rules_cpu.svg", "scale_rules_memory.svg"}


def test_flame_graphs_are_linked_when_they_are_there(place: Path) -> None:
    folder = place.parent / "plots"
    folder.mkdir()
    for name in ("profile_short_1k_c32", "profile_denied_c32", "rates"):
        (folder / f"{name}.svg").write_text("<svg/>")
    document.write_profiles("./dev bench profile", place)
    links = [line for line in place.read_text().splitlines() if line.startswith("- ")]
    assert links == [
        "- [short_1k_c32: 1 KiB, a connection per request, 32 at a time](plots/profile_short_1k_c32.svg)",
        "- [denied_c32: denied requests, 32 connections](plots/profile_denied_c32.svg)",
    ]


def test_a_document_without_a_place_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    file.write_text("no marker\n")
    with pytest.raises(BenchError, match=r"performance\.md has no lines"):
        document.write_http(outcome(), HTTP_GOALS, "./dev bench http --write", file)
    assert file.read_text() == "no marker\n"


@pytest.mark.parametrize("section", SECTIONS)
def test_the_document_of_this_checkout_has_a_place(section: str) -> None:
    text = document.DOCUMENT.read_text()
    assert text.count(f"<!-- bench {section}: begin -->") == text.count(f"<!-- bench {section}: end -->") == 1


def test_plots_are_well_formed_and_say_what_they_show() -> None:
    groups = {"case <a>": {"tulle": 100.0, "envoy": 25.0}, "b": {"tulle": 0.001}}
    drawn = plots.bars("Title & more", "note", groups, " s")
    root = ElementTree.fromstring(drawn)  # noqa: S314 - made above
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Title & more", "case <a>", "tulle 100 s", "envoy 25 s", "tulle 0.001 s"} <= set(texts)
    widths = [float(element.get("width", 0)) for element in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == pytest.approx(4 * widths[1])
    assert widths[0] == widths[2]


def test_lines_are_placed_by_the_logarithm() -> None:
    drawn = plots.lines("T", "note", "across", {"one": [(10, 1.0), (100, 2.0), (10_000, 4.0)], "two": [(10, 0.0)]}, "")
    root = ElementTree.fromstring(drawn)  # noqa: S314 - made above
    line = next(root.iter("{http://www.w3.org/2000/svg}polyline")).get("points", "")
    xs, ys = zip(*(map(float, point.split(",")) for point in line.split()), strict=True)
    assert xs[2] - xs[0] == pytest.approx(3 * (xs[1] - xs[0]), abs=0.5)
    assert ys[0] > ys[1] > ys[2]
