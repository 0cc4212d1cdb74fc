"""What `./dev bench scale` puts in force, judged by the engine itself."""

from pathlib import Path

import pytest

from bench import scale
from bench.benchlab import extra_group
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


@pytest.mark.parametrize("count", scale.PODS[1:])
def test_so_many_pods_are_selected_beside_web(count: int, tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(scale.yaml_of(scale.extra_protected(count)))
    pods = tuple(
        Pod("default", f"extra-{i}", {"app": "extra", "group": extra_group(i)}, (f"10.0.1.{i}",), i + 1)
        for i in range(scale.PODS[-1])
    )
    rules = resolve(compile_policies(load_files([file])), Inventory(pods), 1)
    assert len([each for each in rules.endpoints.values() if each.ingress.default_deny]) == count
