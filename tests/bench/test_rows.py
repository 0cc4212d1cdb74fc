"""The form of `--json`, and what several rows give together."""

import json
from dataclasses import replace
from pathlib import Path

from bench.cases import CASES, HTTP
from bench.measure import Measured
from bench.results import Results
from bench.rows import Row, medians, missing
from bench.run import ALWAYS, DEFAULT, PEERS, Outcome

ROW = Row(
    case="keepalive_1k_c32",
    peer="tulle",
    round=1,
    requests_per_s=1000.0,
    bytes_per_s=1_110_000.0,
    p50_us=900.0,
    p99_us=2000.0,
    p999_us=3000.0,
    cpu_s_per_10k=1.5,
    machine_cpu_s_per_10k=4.0,
    rss_mib=90.0,
    errors=0,
)
FIELDS = {
    "case": str,
    "peer": str,
    "round": int,
    "requests_per_s": float,
    "bytes_per_s": float,
    "p50_us": float,
    "p99_us": float,
    "p999_us": float,
    "cpu_s_per_10k": float,
    "machine_cpu_s_per_10k": float,
    "rss_mib": float,
    "errors": int,
}
"""The contract: these fields, in this order, of these types."""


PEERS_OF_ROWS = {"direct", "tulle", "haproxy", "envoy", "mitmproxy"}
CASES_OF_ROWS = {
    "keepalive_1k_c32", "keepalive_1k_c1", "short_1k_c32", "body_64k_c32", "body_1m_c8", "denied_c32", "idle_1000",
}  # fmt: skip
"""As above; there may be more. `idle_10000` is in `all` alone."""


def test_peers_and_cases_have_the_names_of_the_contract() -> None:
    assert set(PEERS) >= PEERS_OF_ROWS
    assert set(HTTP) >= CASES_OF_ROWS
    assert set(CASES) - set(HTTP) == {"idle_10000"}
    assert (ALWAYS, DEFAULT) == ("tulle", ("direct", "haproxy", "envoy"))
    assert all(case.name == name for name, case in CASES.items())


def test_json_has_exactly_the_fields_of_the_contract(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    measured = [Measured(ROW, 0.0), Measured(replace(ROW, round=2), 0.0)]
    Results(http=Outcome(2, 3, measured, [])).write_json(file)
    document = json.loads(file.read_text())
    assert list(document) == ["rows"]
    assert [row["round"] for row in document["rows"]] == [1, 2]
    for row in document["rows"]:
        assert {name: type(value) for name, value in row.items()} == FIELDS
        assert list(row) == list(FIELDS)


def test_medians_leave_void_rows_out() -> None:
    rates = (1000.0, 3000.0, 2000.0)
    rows = [replace(ROW, round=n, requests_per_s=rate) for n, rate in enumerate(rates, 1)]
    rows.append(replace(ROW, round=4, requests_per_s=9_000_000.0, errors=1))
    found = medians(rows)[("keepalive_1k_c32", "tulle")]
    assert (found.requests_per_s, found.void) == (2000.0, 1)
    assert missing(rows) == []


def test_a_pair_without_a_good_row_was_not_measured() -> None:
    rows = [ROW, replace(ROW, case="denied_c32", errors=3), replace(ROW, case="denied_c32", round=2, errors=1)]
    assert missing(rows) == [("denied_c32", "tulle")]
    assert list(medians(rows)) == [("keepalive_1k_c32", "tulle")]
