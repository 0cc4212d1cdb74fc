"""The inventory file: strict about pods, and never two owners of one address."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.pods.inventory import load_inventory, parse_pod


def write(tmp_path: Path, *pods: Mapping[str, object], **more: object) -> Path:
    path = tmp_path / "inventory.json"
    path.write_text(json.dumps({"pods": pods, **more}))
    return path


def test_reads_pods(tmp_path: Path) -> None:
    pod = {"namespace": "shop", "name": "web", "labels": {"app": "web"}, "ipv4": "10.0.0.2", "ipv6": "fd00::2"}
    (found,) = load_inventory(write(tmp_path, pod)).values()
    assert found.key == ("shop", "web")
    assert found.addresses == ("10.0.0.2", "fd00::2")


def test_lab_status_is_an_inventory(tmp_path: Path) -> None:
    pods = load_inventory(write(tmp_path, {"name": "web", "node": "node-b"}, mode="vxlan", nodes=[]))
    assert list(pods) == [("default", "web")]


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        (
            [{"name": "a", "ipv4": "10.0.0.2"}, {"name": "b", "ipv4": "10.0.0.2"}],
            "'10.0.0.2' belongs to default/a and default/b",
        ),
        ([{"name": "a"}, {"name": "a"}], "'default/a' is there twice"),
        ([{"name": "a", "label": {}}], "pods.0.label: extra inputs are not permitted"),
        ([{"name": "a", "ipv4": "10.0.0.300"}], "pods.0.ipv4"),
        ([{"namespace": "default"}], "pods.0.name: field required"),
    ],
)
def test_refuses(tmp_path: Path, pods: list[dict[str, object]], said: str) -> None:
    with pytest.raises(AgentError) as caught:
        load_inventory(write(tmp_path, *pods))
    assert said in str(caught.value)


def test_unreadable_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="cannot read"):
        load_inventory(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(AgentError, match="not JSON"):
        load_inventory(tmp_path / "bad.json")


def test_a_control_message_is_checked_too() -> None:
    with pytest.raises(AgentError, match="bad pod: name"):
        parse_pod({"namespace": "default"})
    with pytest.raises(AgentError, match="bad pod"):
        parse_pod(None)
