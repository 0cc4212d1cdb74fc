"""Every policy of examples/ loads, compiles and does what its comment says."""

from pathlib import Path

import pytest

from policies.load import load_files
from policies.ruleset import Answer
from tests.policies.world import ALLOW, DENY, EGRESS, INGRESS, PROXY, World

EXAMPLES = Path(__file__).parents[2] / "examples"
TESTED = {"web-l7.yaml", "web-l7-reloaded.yaml", "frontend-egress.yaml", "web-l4.yaml"}


def world(*names: str) -> World:
    return World(*((EXAMPLES / name).read_text() for name in names))


def test_every_example_loads_and_is_tested_here() -> None:
    found = {path.name for path in EXAMPLES.glob("*.yaml")}
    policies = {name for name in found if "cilium.io" in (EXAMPLES / name).read_text()}
    assert policies == TESTED
    for name in policies:
        assert len(load_files([EXAMPLES / name])) == 1


RULE = "default/web-l7 ingress[0].toPorts[0].http[{}]"


@pytest.mark.parametrize(
    ("request_line", "before", "after"),
    [
        ("GET /public", RULE.format(0), "default-deny"),
        ("GET /public/", RULE.format(0), "default-deny"),
        ("GET /public/a/b?c=1", RULE.format(0), "default-deny"),
        ("GET /public?x=1", RULE.format(0), "default-deny"),
        ("GET /publicity", "default-deny", "default-deny"),
        ("HEAD /public", "default-deny", "default-deny"),
        ("POST /public", "default-deny", "default-deny"),
        ("GET /private", "default-deny", RULE.format(0)),
        ("GET /private/x", "default-deny", RULE.format(0)),
        ("POST /orders", RULE.format(1), RULE.format(1)),
        ("POST /orders/1", "default-deny", "default-deny"),
        ("GET /orders", "default-deny", "default-deny"),
        ("GET /", "default-deny", "default-deny"),
    ],
)
def test_web_l7_and_its_reload(request_line: str, before: str, after: str) -> None:
    assert world("web-l7.yaml").ask("frontend", request_line).rule == before
    assert world("web-l7-reloaded.yaml").ask("frontend", request_line).rule == after


@pytest.mark.parametrize("name", ["web-l7.yaml", "web-l7-reloaded.yaml"])
def test_web_l7_connections(name: str) -> None:
    one = world(name)
    assert one.connect("frontend") is PROXY
    assert [one.connect(peer) for peer in ("intruder", "web", "other/frontend", None)] == [DENY] * 4
    assert one.connect("frontend", port=81) is DENY
    assert one.connect("web", "frontend") is ALLOW
    assert one.connect("intruder", "web", 443, EGRESS) is ALLOW


def test_the_reload_has_the_same_key() -> None:
    (one,), (other,) = load_files([EXAMPLES / "web-l7.yaml"]), load_files([EXAMPLES / "web-l7-reloaded.yaml"])
    assert one.key == other.key == ("CiliumNetworkPolicy", "default", "web-l7")


def test_frontend_egress() -> None:
    one = world("frontend-egress.yaml")
    reach = [one.connect(peer, "frontend", port, EGRESS) for peer in ("web", "intruder", None) for port in (80, 443)]
    assert reach == [PROXY, DENY, DENY, DENY, DENY, DENY]
    assert one.ask("web", "GET /anything", "frontend", 80, EGRESS).allow
    assert not one.ask("web", "POST /orders", "frontend", 80, EGRESS).allow
    assert one.connect("web", "frontend", 22, INGRESS) is ALLOW
    assert one.connect("frontend") is ALLOW


@pytest.mark.parametrize(
    ("peer", "port", "answer"),
    [("frontend", 80, ALLOW), ("frontend", 81, DENY), ("intruder", 80, DENY), (None, 80, DENY)],
)
def test_web_l4(peer: str | None, port: int, answer: Answer) -> None:
    assert world("web-l4.yaml").connect(peer, port=port) is answer
