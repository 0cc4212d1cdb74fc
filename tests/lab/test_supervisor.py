"""How long the supervisor waits, and how it keeps its log small."""

from pathlib import Path

import pytest

from lab.supervisor import FIRST_DELAY_S, MAX_DELAY_S, MAX_LOG_BYTES, STABLE_S, next_delay, rotate


@pytest.mark.parametrize(
    ("lived_s", "last_s", "expected_s"),
    [
        (STABLE_S, 0.0, 0.0),
        (STABLE_S + 1, MAX_DELAY_S, 0.0),
        (0.1, 0.0, FIRST_DELAY_S),
        (0.1, 0.1, 0.2),
        (0.1, MAX_DELAY_S, MAX_DELAY_S),
    ],
)
def test_next_delay(lived_s: float, last_s: float, expected_s: float) -> None:
    assert next_delay(lived_s, last_s) == expected_s


def test_a_small_log_stays(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    rotate(log)
    log.write_bytes(b"x")
    rotate(log)
    assert [path.name for path in tmp_path.iterdir()] == ["agent.log"]
    assert MAX_LOG_BYTES > 1
