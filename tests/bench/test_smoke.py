"""The benchmark itself, for a second per case: that it measures, not what."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.benchlab import NODE, BenchLab, sweep
from bench.cases import CASES
from bench.errors import BenchError
from bench.measure import measure
from bench.peers.direct import Direct
from bench.peers.envoy import Envoy
from bench.peers.h11_peer import PyH11
from bench.peers.haproxy import HAProxy
from bench.peers.redirected import Redirected
from lab import state
from tests.bench.test_rows import FIELDS

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def lab() -> Iterator[BenchLab]:
    lab = BenchLab("plain", agents=False)
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def test_direct_has_no_cost_of_its_own(lab: BenchLab) -> None:
    direct = Direct(lab)
    direct.start()
    direct.check()
    row = measure(direct, CASES["short_1k_c32"], 1, 1).row
    assert row.requests_per_s > 0
    assert (row.cpu_s_per_10k, row.rss_mib, row.errors) == (0.0, 0.0, 0)
    assert row.machine_cpu_s_per_10k > 0


def test_py_h11_is_on_the_way_for_its_turn_only(lab: BenchLab) -> None:
    peer = PyH11(lab)
    peer.start()
    with peer.in_place():
        peer.check()
        near, far = (measure(peer, CASES[name], 1, 1).row for name in ("keepalive_1k_c1", "overlay_1k_c32"))
    behind = measure(peer, CASES["keepalive_1k_c1"], 1, 1).row
    assert near.errors == far.errors == behind.errors == 0
    assert near.cpu_s_per_10k > 0
    assert far.cpu_s_per_10k > 0
    assert behind.cpu_s_per_10k == 0


@pytest.mark.parametrize("kind", [HAProxy, Envoy])
def test_a_c_proxy_enforces_and_records(lab: BenchLab, kind: type[Redirected]) -> None:
    peer = kind(lab)
    peer.start()
    try:
        with peer.in_place():
            peer.check()
            allowed, denied = (measure(peer, CASES[name], 1, 1).row for name in ("keepalive_varied_c32", "denied_c32"))
    finally:
        peer.stop()
    assert allowed.errors == denied.errors == 0
    assert allowed.cpu_s_per_10k > 0
    assert allowed.rss_mib > 1
    work = lab.record.node_dir(NODE) / "peers" / peer.name
    records = "".join(file.read_text(errors="replace") for file in work.glob("*.log")).replace("\\/", "/")
    assert records.count('"/admin"') >= denied.requests_per_s * 0.5
    assert records.count('"/bench/1k"') >= allowed.requests_per_s * 0.5


def test_a_peer_that_lets_everything_through_is_not_measured_as_policy(lab: BenchLab) -> None:
    class Careless(Direct):
        name = "careless"
        policy = True

    with pytest.raises(BenchError, match=r"peer 'careless' is not correct.*GET /admin gave 404.*expected 403"):
        Careless(lab).check()


def test_answers_of_another_status_are_errors(lab: BenchLab) -> None:
    wrong = replace(CASES["keepalive_1k_c1"], path="/nowhere")
    row = measure(Direct(lab), wrong, 1, 1).row
    assert row.errors == pytest.approx(row.requests_per_s, rel=0.5)  # every one: the load lasts a second


def test_a_lab_of_a_run_that_was_killed_goes_with_the_next() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lab = BenchLab("plain", agents=False)
    lab.name = f"bench-{gone.pid}-plain"
    lab.up()
    assert lab.name in state.all_labs()
    sweep()
    assert lab.name not in state.all_labs()


def test_the_command_measures_tulle_and_writes_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    cases = "keepalive_1k_c32,denied_c32,idle_1000"
    command = [sys.executable, "-m", "bench", "http", "--peers", "direct", "--rounds", "1", "--seconds", "1"]
    done = subprocess.run(  # noqa: S603 - our own command
        [*command, "--cases", cases, "--json", str(file)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert all({name: type(value) for name, value in row.items()} == FIELDS for row in rows)
    expected = {(case, peer) for case in cases.split(",") for peer in ("direct", "tulle")}
    assert {(row["case"], row["peer"]) for row in rows} == expected - {("denied_c32", "direct")}
    assert [row for row in rows if row["errors"]] == []
    assert all((row["cpu_s_per_10k"] > 0) == (row["rss_mib"] > 0) == (row["peer"] == "tulle") for row in rows)
    assert "per idle connection" in done.stdout
    assert [name for name in state.all_labs() if name.startswith("bench-") and name.endswith("-tulle")] == []
