"""`pod add` and `pod del` on the agent's control socket, as a CNI plugin or the lab calls them."""

import json
from pathlib import Path

import pytest

from agent.control import ask
from agent.errors import AgentError
from redirect import netns, plumbing
from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, Record

pytestmark = pytest.mark.root


def pod_of(lab: Cluster, name: str) -> Record:
    inventory = json.loads((lab.directory / "node-b" / "inventory.json").read_text())
    (pod,) = [pod for pod in inventory["pods"] if pod["name"] == name]
    return dict(pod)


def agent_of(lab: Cluster, node: str) -> Path:
    return lab.directory / node / "run" / "agent.sock"


def test_delete_takes_everything_out_and_add_protects_before_it_returns(lab: Cluster) -> None:
    lab.apply(EXAMPLES / "web-l7.yaml")
    pod, socket = pod_of(lab, "web"), agent_of(lab, "node-b")
    assert lab.curl("frontend", "http://web/private") == 403
    try:
        ask(socket, {"op": "pod.del", "namespace": "default", "name": "web"})
        with netns.Netns.open(pod["netns"]) as inside:
            assert plumbing.traces(inside) == []
        assert lab.curl("frontend", "http://web/private") == 200
        assert lab.curl("intruder", "http://web/private") == 200
        ask(socket, {"op": "policy.sync"})  # the inventory still lists it, and it stays deleted
        assert lab.curl("frontend", "http://web/private") == 200
        for _ in range(5):
            ask(socket, {"op": "pod.add", "pod": pod})
            assert lab.curl("frontend", "http://web/private") == 403
            assert lab.curl("intruder", "http://web/public") == 0
            ask(socket, {"op": "pod.del", "namespace": "default", "name": "web"})
    finally:
        ask(socket, {"op": "pod.add", "pod": pod})
    assert lab.curl("frontend", "http://web/public") == 200


def test_a_pod_that_nobody_knows_is_deleted_already(lab: Cluster) -> None:
    assert ask(agent_of(lab, "node-b"), {"op": "pod.del", "namespace": "default", "name": "nobody"})["ok"] is True


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"op": "pod.add", "pod": {"name": "x"}}, "'default/x' has no network namespace"),
        ({"op": "pod.add", "pod": {"name": "x", "netns": "/run/netns/none"}}, "'default/x' has no network namespace"),
        ({"op": "pod.add", "pod": {"nam": "x"}}, "bad pod"),
        ({"op": "pod.add"}, "bad pod"),
        ({"op": "pod.ad"}, "operations are pod.add, pod.del, policy.sync, status"),
        ([], "not a request"),
    ],
)
def test_a_request_that_cannot_be_done_says_why(lab: Cluster, message: Record, said: str) -> None:
    with pytest.raises(AgentError, match=said):
        ask(agent_of(lab, "node-b"), message)
