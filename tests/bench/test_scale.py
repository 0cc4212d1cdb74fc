"""What `./dev bench scale` puts in force, judged by the engine itself."""

from pathlib import Path

import pytest

from bench import scale
from policies.compile import compile_policies
from policies.engine import Engine, HttpRequest
from policies.inventory import Inventory, Pod
from policies.load import load_files
from policies.resolve import resolve
from policies.ruleset import Direction


def allowed(documents: list[dict[str, object]], folder: Path, *paths: str) -> list[bool]:
    """Whether `client` may GET these at `web` with these documents in force."""
    file = folder / "policies.yaml"
    file.write_text("\n---\n".join(map(scale.yaml_of, documents)))
    pods = (
        Pod("default", "web", {"app": "web"}, ("10.0.0.1",), 1),
        Pod("default", "client", {"app": "client", "role": "client"}, ("10.0.0.2",), 2),
    )
    rules = resolve(compile_policies(load_files([file])), Inventory(pods), 1)
    identity, _ = rules.addresses["10.0.0.2"]
    made = Engine(rules)
    return [made.decide(1, Direction.INGRESS, identity, 80, HttpRequest("GET", path)).allow for path in paths]


@pytest.mark.parametrize("count", [10, 100])
def test_so_many_rules_and_the_last_allows_the_loads(count: int, tmp_path: Path) -> None:
    document = scale.ruled(count)
    spec = document["spec"]
    assert isinstance(spec, dict)
    rules = spec["ingress"][0]["toPorts"][0]["rules"]["http"]
    assert len(rules) == len({rule["path"] for rule in rules}) == count
    assert allowed([document], tmp_path, "/bench/1k", "/items/17", "/items/x", "/admin") == [True, True, False, False]
    rules.pop()
    assert allowed([document], tmp_path, "/bench/1k", "/items/17") == [False, False]


def test_documents_about_others_leave_web_alone(tmp_path: Path) -> None:
    others = [scale.about_others(number) for number in range(20)]
    assert allowed([scale.ruled(10), *others], tmp_path, "/bench/1k", "/admin") == [True, False]


def test_every_extra_pod_is_selected() -> None:
    spec = scale.extra_protected()["spec"]
    assert isinstance(spec, dict)
    assert spec["endpointSelector"] == {"matchLabels": {"app": "extra"}}
    assert len(spec["ingress"][0]["toPorts"][0]["rules"]["http"]) == 10
