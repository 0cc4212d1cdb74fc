"""The configuration file: what is missing, unknown or out of range is an error that names it."""

from pathlib import Path

import pytest

from agent.config import MAX_WORKERS, load_settings
from agent.errors import ConfigError
from redirect.types import SLOTS

GOOD = "node: node-a\naudit: {directory: /var/log/tulle}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return path


def test_defaults(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))
    assert settings.node == "node-a"
    assert settings.worker_silent_s == 2.0
    assert settings.control_socket == Path("/run/tulle/agent.sock")
    assert 1 <= settings.workers <= MAX_WORKERS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("node: a\n", "audit: field required"),
        (GOOD + "wokers: 2\n", "wokers: extra inputs are not permitted"),
        (GOOD + "workers: 0\n", "workers: input should be greater than or equal to 1"),
        (GOOD + f"workers: {MAX_WORKERS + 1}\n", "workers: input should be less than or equal to"),
        (GOOD + "worker_uid: 0\n", "worker_uid: input should be greater than or equal to 1"),
        (GOOD + "limits: {head: 1}\n", "limits.head: extra inputs are not permitted"),
        (GOOD.replace("node-a", "../x"), "node: string should match pattern"),
        ("- a\n", "document: input should be a valid dictionary"),
        ("node: [", "is not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.yaml")


def test_two_generations_of_workers_fit_in_the_slots() -> None:
    assert 2 * MAX_WORKERS <= SLOTS
