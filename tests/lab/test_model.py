"""lab.yaml: what it means, and what is said about mistakes in it."""

import json
from pathlib import Path

import pytest

from agent.pods.cluster import parse_cluster
from lab import agents
from lab.errors import LabError
from lab.model import MAX_PODS_PER_NODE, LabSpec, PodSpec, default_spec, load_spec, node_names, plan
from lab.state import PodPort
from lab.status import NodeStatus, report


def test_the_default_lab() -> None:
    lab = plan("x", default_spec(), mode="vxlan", agents=True)
    assert [node.name for node in lab.nodes] == ["node-a", "node-b"]
    found = {pod.name: (pod.namespace, pod.node, pod.labels) for pod in lab.pods}
    assert found == {
        "frontend": ("default", "node-a", {"app": "frontend"}),
        "intruder": ("default", "node-a", {"app": "intruder"}),
        "web": ("default", "node-b", {"app": "web"}),
        "frontend-near": ("default", "node-b", {"app": "frontend"}),
    }


@pytest.mark.parametrize(("count", "last_of_web"), [(1, "node-a"), (2, "node-b"), (5, "node-b")])
def test_number_of_nodes(count: int, last_of_web: str) -> None:
    spec = default_spec(count)
    assert len(spec.nodes) == count
    assert next(pod.node for pod in spec.pods if pod.name == "web") == last_of_web


@pytest.mark.parametrize("count", [0, -1, 201])
def test_impossible_number_of_nodes(count: int) -> None:
    with pytest.raises(LabError, match="expected 1 to 200"):
        default_spec(count)


def test_node_names_do_not_repeat() -> None:
    assert len(set(node_names(200))) == 200


def test_addresses_are_distinct_and_in_their_nodes_subnet() -> None:
    spec = LabSpec(nodes=["a", "b"], pods=[PodSpec(name=f"p{n}", node="ab"[n % 2]) for n in range(100)])
    lab = plan("x", spec, mode="vxlan", agents=False)
    assert len({pod.ipv4 for pod in lab.pods}) == len({pod.ipv6 for pod in lab.pods}) == 100
    assert {pod.ipv4.rpartition(".")[0] for pod in lab.pods if pod.node == "b"} == {"10.244.1"}
    assert lab.pods[0].ipv4 == "10.244.0.2"
    assert lab.pods[1].ipv6 == "fd00:10:244:1::2"


def test_a_file_with_everything(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(
        "nodes: [n1]\npods:\n"
        "- {name: w, namespace: shop, labels: {a: b}, command: [tulle-web, --port, '81'],"
        " ports: [{name: http, port: 81}, {name: dns, port: 53, protocol: UDP}]}\n- name: c\n"
        "namespaces: {shop: {labels: {team: blue}}, none: {}}\n"
    )
    lab = plan("x", load_spec(file), mode="vxlan", agents=True)
    assert lab.pods[0].ref == "shop/w"
    assert lab.pods[0].labels == {"a": "b"}
    assert lab.pods[0].command == ("tulle-web", "--port", "81")
    assert lab.pods[0].ports == (PodPort("http", 81, "TCP"), PodPort("dns", 53, "UDP"))
    assert lab.namespaces == {"shop": {"team": "blue"}, "none": {}, "default": {}}
    assert lab.pods[1].ref == "c"
    assert lab.pods[1].labels == {"app": "c"}
    assert lab.pods[1].node == "n1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pods:\n- name: web\n  nodee: x\n", ":3:3: error: pods[0].nodee: Extra inputs are not permitted"),
        ("pods:\n- name: web\n- namespace: x\n", ":3:3: error: pods[1].name: Field required"),
        ("nodes: [a]\npods:\n- {name: w, node: b}\n", "pods[0].node: no node 'b'; there are a"),
        ("pods:\n- name: Web\n", ":2:3: error: pods[0].name: expected lower-case letters"),
        ("pods:\n- name: web\n- name: web\n", "pods[1]: pod default/web is there twice"),
        ("nodes: [a, a]\n", "node 'a' is there twice"),
        ("nodes: []\n", ":1:1: error: nodes: List should have at least 1 item"),
        (
            "pods:\n- name: web\n  labels: {app: 1}\n",
            ":3:12: error: pods[0].labels.app: Input should be a valid string",
        ),
        ("pods:\n- name: web\n  command: curl\n", ":3:3: error: pods[0].command: Input should be a valid list"),
        ("nodes: [a\n", ":2:1: error: not YAML"),
        ("- a\n", ":1:1: error: Input should be"),
    ],
)
def test_mistakes_are_named_with_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(text)
    with pytest.raises(LabError) as caught:
        load_spec(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(file))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="No such file"):
        load_spec(tmp_path / "none.yaml")


def test_a_subnet_is_not_overfilled(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("pods:\n" + "".join(f"- name: p{n}\n" for n in range(MAX_PODS_PER_NODE + 1)))
    with pytest.raises(LabError, match="254 pods, its subnet has room for 253"):
        load_spec(file)


def test_what_the_lab_tells_of_itself_is_an_inventory() -> None:
    lab = plan("x", default_spec(), mode="vxlan", agents=True)
    printed = report(lab, [NodeStatus(node.name, ready=True, revision=3) for node in lab.nodes])
    for told in (printed, agents.inventory(lab)):
        cluster = parse_cluster(json.loads(json.dumps(told)))
        assert [key[1] for key in cluster.pods] == ["frontend", "intruder", "web", "frontend-near"]
        assert [(port.name, port.port) for port in cluster.pods["default", "web"].ports] == [("http", 80)]
        assert [node.name for node in cluster.nodes] == ["node-a", "node-b"]
        assert {"172.30.0.1", "fd00:172:30::1", "10.244.0.1", "10.244.0.0"} <= set(cluster.nodes[0].addresses)
        assert cluster.namespaces == {"default": {}}
