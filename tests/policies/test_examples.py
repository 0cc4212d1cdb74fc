"""Every policy of examples/ loads, compiles and does what its comment says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from policies.engine import Engine
from policies.inventory import Pod
from policies.load import load_files
from policies.requests import KafkaRequest, Operation, Resource
from policies.ruleset import Answer
from tests.policies.world import ALLOW, DENY, EGRESS, INGRESS, PROXY, World

EXAMPLES = Path(__file__).parents[2] / "examples"
TESTED = {
    "web-l7.yaml", "web-l7-reloaded.yaml", "frontend-egress.yaml", "web-l4.yaml",
    "kafka.yaml", "kafka-reloaded.yaml", "kafka-ours.yaml",
}  # fmt: skip


def world(*names: str) -> World:
    return World(*((EXAMPLES / name).read_text() for name in names))


def test_every_example_loads_and_is_tested_here() -> None:
    found = {path.name for path in EXAMPLES.glob("*.yaml")}
    policies = {name for name in found if "NetworkPolicy" in (EXAMPLES / name).read_text()}
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


BROKERS = [
    Pod("default", name, {"app": name.partition("-")[0]}, (f"10.9.0.{i}",), i)
    for i, name in enumerate(("kafka-0", "kafka-1", "frontend", "billing", "ops", "intruder"), 1)
]
READ, WRITE, TOPIC, GROUP = Operation.READ, Operation.WRITE, Resource.TOPIC, Resource.GROUP


def brokers(name: str) -> Callable[[str, Operation, Resource, str], str]:
    """What the example's rule for a peer says of an operation: the rule's name without its document's."""
    rules = World((EXAMPLES / name).read_text(), pods=BROKERS).engine.ruleset
    identities = {pod.name: rules.addresses[pod.addresses[0]][0] for pod in BROKERS}

    def ask(peer: str, operation: Operation, resource: Resource, of: str) -> str:
        request = KafkaRequest(0, 9, "c", None, operation, resource, of)
        verdict = Engine(rules).decide_kafka(1, INGRESS, identities[peer], 9092, request)
        return verdict.rule.rpartition(" ")[2] if verdict.allow else f"no: {verdict.rule.rpartition(' ')[2]}"

    return ask


NO = "no: default-deny"


def test_kafka_and_its_reload() -> None:
    before, after = brokers("kafka.yaml"), brokers("kafka-reloaded.yaml")
    produce, consume = (f"ingress[{i}].toPorts[0].kafka[0]" for i in (1, 2))
    for ask, topic, other in ((before, "orders", "invoices"), (after, "invoices", "orders")):
        assert ask("frontend", WRITE, TOPIC, "orders") == produce
        assert ask("frontend", READ, TOPIC, "orders") == NO
        assert ask("frontend", READ, GROUP, "any") == NO
        assert ask("billing", READ, TOPIC, topic) == consume
        assert ask("billing", READ, GROUP, "any") == consume
        assert [ask("billing", READ, TOPIC, each) for each in (other, "secrets")] == [NO, NO]
        assert ask("billing", WRITE, TOPIC, "orders") == NO
        assert ask("intruder", READ, TOPIC, "orders") == NO
        assert ask("kafka-1", Operation.CLUSTER_ACTION, Resource.CLUSTER, "") == "ingress[0]"


def test_kafka_in_our_own_kind() -> None:
    ask = brokers("kafka-ours.yaml")
    billing, secret = (f"ingress[1].toPorts[0].kafka[{i}]" for i in (0, 1))
    assert ask("billing", READ, TOPIC, "pay.in") == billing
    assert ask("billing", READ, GROUP, "billing-1") == billing
    assert ask("billing", READ, GROUP, "shop") == NO
    assert ask("billing", READ, TOPIC, "pay.secret") == f"no: {secret}"
    assert ask("frontend", WRITE, TOPIC, "orders") == "ingress[2].toPorts[0].kafka[0]"
    assert ask("frontend", WRITE, Resource.TRANSACTIONAL_ID, "frontend-tx") == "ingress[2].toPorts[0].kafka[0]"
    assert ask("frontend", WRITE, Resource.TRANSACTIONAL_ID, "other") == NO
    assert ask("ops", Operation.CREATE, TOPIC, "pay.new") == "ingress[3].toPorts[0].kafka[0]"
    assert ask("ops", Operation.DELETE, GROUP, "billing-1") == "ingress[3].toPorts[0].kafka[1]"
    assert [ask("ops", READ, TOPIC, "pay.in"), ask("ops", Operation.CREATE, Resource.CLUSTER, "")] == [NO, NO]
