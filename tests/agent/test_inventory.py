"""The inventory file: strict about its parts, and never two owners of one address."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.pods.cluster import load_cluster, parse_cluster
from agent.pods.inventory import parse_pod
from policies.inventory import NamedPort, NodeHost, Service


def write(tmp_path: Path, *pods: Mapping[str, object], **more: object) -> Path:
    path = tmp_path / "inventory.json"
    path.write_text(json.dumps({"pods": pods, **more}))
    return path


def test_reads_pods(tmp_path: Path) -> None:
    pod = {"namespace": "shop", "name": "web", "labels": {"app": "web"}, "ipv4": "10.0.0.2", "ipv6": "fd00::2"}
    (found,) = load_cluster(write(tmp_path, pod)).pods.values()
    assert found.key == ("shop", "web")
    assert found.addresses == ("10.0.0.2", "fd00::2")


def test_pods_alone_are_an_inventory() -> None:
    cluster = parse_cluster({"pods": [{"name": "web"}]})
    assert list(cluster.pods) == [("default", "web")]
    assert (cluster.nodes, cluster.namespaces, cluster.services, cluster.apiserver) == ((), {}, (), ())


def test_what_the_lab_prints_is_an_inventory(tmp_path: Path) -> None:
    nodes = [{"name": "node-a", "ready": True, "revision": 3, "addresses": ["172.30.0.1"]}, {"name": "node-b"}]
    cluster = load_cluster(write(tmp_path, {"name": "web", "node": "node-b"}, mode="vxlan", nodes=nodes))
    assert list(cluster.pods) == [("default", "web")]
    assert cluster.nodes == (NodeHost("node-a", ("172.30.0.1",)), NodeHost("node-b"))


def test_the_whole_file_becomes_what_policies_ask_for() -> None:
    cluster = parse_cluster(
        {
            "pods": [
                {"name": "web", "ipv4": "10.0.0.2", "ports": [{"name": "http", "port": 80}]},
                {"name": "dns", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
            ],
            "nodes": [
                {"name": "node-a", "addresses": ["172.30.0.1", "fd00:0::1"]},
                {"name": "node-b", "addresses": ["172.30.0.2"]},
            ],
            "namespaces": {"shop": {"labels": {"team": "blue"}}, "bare": {}},
            "services": [
                {"name": "web", "selector": {"app": "web"}, "cluster_ips": ["10.96.0.1"], "ports": [{"port": 80}]},
                {"namespace": "shop", "name": "db", "selector": {}, "endpoints": ["192.0.2.1"]},
            ],
            "kube_apiserver": {"addresses": ["172.30.0.1"]},
        }
    )
    here = NodeHost("node-a", ("10.244.0.1", "172.30.0.1"), local=True)
    inventory = cluster.to_inventory({("default", "web"): 7}, here)
    web, dns = inventory.pods
    assert (web.endpoint_id, web.ports) == (7, (NamedPort("http", 80, 6),))
    assert (dns.endpoint_id, dns.ports) == (None, (NamedPort("dns", 53, 17),))
    assert inventory.nodes == (
        NodeHost("node-a", ("10.244.0.1", "172.30.0.1", "fd00::1"), local=True),
        NodeHost("node-b", ("172.30.0.2",)),
    )
    assert inventory.namespaces == {"shop": {"team": "blue"}, "bare": {}}
    assert inventory.services == (
        Service("default", "web", {}, {"app": "web"}, ()),
        Service("shop", "db", {}, None, ("192.0.2.1",)),
    )
    assert inventory.apiserver == ("172.30.0.1",)


def test_a_node_that_the_file_does_not_name_is_there_all_the_same() -> None:
    here = NodeHost("node-a", ("10.244.0.1",), local=True)
    assert parse_cluster({"pods": []}).to_inventory(here=here).nodes == (here,)


@pytest.mark.parametrize(
    ("pods", "more", "said"),
    [
        (
            [{"name": "a", "ipv4": "10.0.0.2"}, {"name": "b", "ipv4": "10.0.0.2"}],
            {},
            "'10.0.0.2' belongs to default/a and default/b",
        ),
        ([{"name": "a"}, {"name": "a"}], {}, "'default/a' is there twice"),
        ([{"name": "a", "label": {}}], {}, "pods.0.label: extra inputs are not permitted"),
        ([{"name": "a", "ipv4": "10.0.0.300"}], {}, "pods.0.ipv4"),
        ([{"namespace": "default"}], {}, "pods.0.name: field required"),
        ([{"name": "a", "ports": [{"name": "x", "port": 0}]}], {}, "pods.0.ports.0.port"),
        ([{"name": "a", "ports": [{"name": "x", "port": 1, "protocol": "QUIC"}]}], {}, "pods.0.ports.0.protocol"),
        ([], {"nodes": [{"name": "n", "addresses": ["x"]}]}, "nodes.0.addresses.0"),
        ([], {"nodes": [{"name": "n"}, {"name": "n"}]}, "nodes.1: node 'n' is there twice"),
        ([], {"nodes": [{"name": "n", "address": []}]}, "nodes.0.address: extra"),
        ([], {"namespaces": {"a": {"label": {}}}}, "namespaces.a.label: extra"),
        ([], {"services": [{"name": "s"}, {"name": "s"}]}, "services.1: service 'default/s' is there twice"),
        ([], {"services": [{"name": "s", "endpoints": ["x"]}]}, "services.0.endpoints.0"),
        ([], {"kube_apiserver": {"addresses": "x"}}, "kube_apiserver.addresses"),
        ([], {"service": []}, "unknown key 'service'; did you mean 'services'?"),
    ],
)
def test_refuses(tmp_path: Path, pods: list[dict[str, object]], more: dict[str, object], said: str) -> None:
    with pytest.raises(AgentError) as caught:
        load_cluster(write(tmp_path, *pods, **more))
    assert said in str(caught.value)


def test_unreadable_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="cannot read"):
        load_cluster(tmp_path / "none.json")
    for text in ("{", "[" * 100_000, "\xff"):
        (tmp_path / "bad.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(AgentError, match="not JSON"):
            load_cluster(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(AgentError, match="inventory"):
        load_cluster(tmp_path / "bad.json")


def test_a_control_message_is_checked_too() -> None:
    with pytest.raises(AgentError, match="bad pod: name"):
        parse_pod({"namespace": "default"})
    with pytest.raises(AgentError, match="bad pod"):
        parse_pod(None)
