"""What is lost, wrong or full around an agent: a pod under policy stays so, and one bad pod holds up no other."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from agent.control import ask
from agent.errors import AgentError
from redirect import cgroups, netns, plumbing
from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, Record, eventually, kill

pytestmark = pytest.mark.root

NODE = "node-b"


class Node:
    """One node of a lab with the files of its agent, to be spoilt."""

    def __init__(self, lab: Cluster) -> None:
        self.lab = lab
        self.directory = lab.directory / NODE
        self.state = self.directory / "state"
        self.inventory = self.directory / "inventory.json"
        self._first = self.inventory.read_text()

    def ask(self, op: str, **fields: object) -> Record:
        return ask(self.directory / "run" / "agent.sock", {"op": op, **fields})

    def pods(self) -> list[Record]:
        found: list[Record] = json.loads(self.inventory.read_text())["pods"]
        return found

    def pod(self, name: str) -> Record:
        (found,) = [pod for pod in self.pods() if pod["name"] == name]
        return found

    def list_pods(self, pods: list[Record] | str) -> None:
        """Write the inventory as a source of pods does."""
        fresh = self.inventory.with_suffix(".new")
        fresh.write_text(pods if isinstance(pods, str) else json.dumps({**json.loads(self._first), "pods": pods}))
        fresh.rename(self.inventory)

    def put_back(self) -> None:
        """The inventory as it was, and web known as it was; what cannot be put back shows in the lab's picture."""
        if self.inventory.read_text() == self._first:
            return
        self.list_pods(self._first)
        with suppress(AgentError):
            self.ask("pod.add", pod=self.pod("web"))

    @contextmanager
    def without_agent(self) -> Iterator[None]:
        """The agent is killed, and the next comes when the block ends."""
        freezer = cgroups.find_root() / "tulle-lab" / self.lab.name / NODE / "supervisor" / "cgroup.freeze"
        (agent,) = self.lab.processes(NODE, "agent")
        freezer.write_text("1")
        try:
            kill(agent)
            yield
        finally:
            freezer.write_text("0")

    def answers(self) -> bool:
        return self.lab.processes(NODE, "agent") != []

    def ready(self) -> bool:
        return bool(self.lab.node(NODE)["ready"])

    def endpoint(self, name: str) -> Record:
        (found,) = [one for one in self.lab.node(NODE)["endpoints"] if one["name"] == name]
        return dict(found)

    def enforced(self) -> bool:
        """Whether web's policy holds; asked of new connections."""
        return (
            self.lab.curl("intruder", "http://web/public", "-m", "2") == 0
            and self.lab.curl("frontend", "http://web/private") == 403
            and self.lab.curl("frontend", "http://web/public") == 200
        )


@pytest.fixture
def node(spare_lab: Cluster) -> Iterator[Node]:
    """A node of a lab that the test may break, with the example policy at web."""
    spare_lab.apply(EXAMPLES / "web-l7.yaml")
    made = Node(spare_lab)
    yield made
    made.put_back()


@pytest.fixture
def new_node(young_lab: Cluster) -> Node:
    """The same, just brought up."""
    young_lab.apply(EXAMPLES / "web-l7.yaml")
    return Node(young_lab)


@contextmanager
def stray_pod(name: str, device: str = "eth0") -> Iterator[Path]:
    """A network namespace that no lab knows of, with one address."""
    subprocess.run(["ip", "netns", "add", name], check=True)  # noqa: S603, S607  fixed
    try:
        for words in (
            f"link add {device} type veth peer name peer0",
            f"addr add 10.9.9.2/24 dev {device}",
            f"link set {device} up",
            "link set peer0 up",
            "link set lo up",
        ):
            subprocess.run(["ip", "-n", name, *words.split()], check=True)  # noqa: S603, S607  fixed
        yield Path("/run/netns") / name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)  # noqa: S603, S607  fixed


def never_open(node: Node, seconds: float) -> None:
    """For a while nobody whom policy refuses gets through."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert node.lab.curl("intruder", "http://web/public", "-m", "1") == 0


def test_an_agent_that_cannot_read_the_inventory_lets_go_of_no_pod(node: Node) -> None:
    good = node.pods()
    with node.without_agent():
        node.list_pods('{"pods": [')
    assert eventually(node.answers)
    never_open(node, 2)
    assert node.enforced()
    assert "no good inventory" in node.lab.node(NODE)["trouble"]
    node.list_pods(good)
    assert eventually(node.ready)
    assert node.enforced()


def test_a_pod_that_only_pod_add_named_is_known_to_the_next_agent(node: Node) -> None:
    web = node.pod("web")
    node.list_pods([pod for pod in node.pods() if pod["name"] != "web"])
    node.ask("pod.del", name="web")
    assert eventually(lambda: node.lab.curl("intruder", "http://web/public") == 200)
    node.ask("pod.add", pod=web)
    assert node.enforced()
    with node.without_agent():
        pass
    assert eventually(node.ready)
    assert node.enforced()
    node.ask("pod.del", name="web")
    with node.without_agent():
        pass
    assert eventually(node.ready)
    assert node.lab.curl("intruder", "http://web/public") == 200


@pytest.mark.parametrize("line", [{"netns": None, "cgroup": None}, {"netns": "/run/netns/none"}, {"node": "node-a"}])
def test_pod_add_is_the_later_word_on_where_a_pod_is(node: Node, line: Record) -> None:
    good, web = node.pods(), node.pod("web")
    node.list_pods([{**pod, **line} if pod["name"] == "web" else pod for pod in good])
    node.ask("pod.del", name="web")
    assert node.lab.curl("intruder", "http://web/public") == 200
    node.ask("pod.add", pod=web)
    assert node.enforced()
    node.ask("policy.sync")
    assert node.enforced()


def test_pod_add_does_not_promise_what_is_not_so(node: Node) -> None:
    with pytest.raises(AgentError, match="is on node 'node-a', and this is 'node-b'"):
        node.ask("pod.add", pod={**node.pod("web"), "node": "node-a"})
    own = f"/run/netns/tulle_{node.lab.name}_node_{NODE}"
    with pytest.raises(AgentError, match="the network namespace of the node"):
        node.ask("pod.add", pod={"name": "host", "labels": {"app": "web"}, "ipv4": "10.9.9.2", "netns": own})
    node.ask("pod.del", name="host")
    with pytest.raises(AgentError, match="the network namespace of pod 'default/web'"):
        node.ask("pod.add", pod={**node.pod("web"), "name": "twin"})
    node.ask("pod.del", name="twin")
    assert eventually(node.ready)
    assert node.enforced()


@pytest.mark.parametrize("text", ['{"id": 1, "na', "[]", '{"id": "x"}', ""])
def test_a_lost_record_does_not_end_enforcement(node: Node, text: str) -> None:
    (record,) = (node.state / "endpoints").glob("*.json")
    with node.without_agent():
        record.write_text(text)
    assert eventually(node.answers)
    never_open(node, 2)
    assert eventually(node.ready)
    assert node.enforced()
    node.lab.delete_policies()
    with netns.Netns.open(node.pod("web")["netns"]) as pod:
        assert eventually(lambda: plumbing.traces(pod) == [])
    assert node.lab.curl("intruder", "http://web/private") == 200


def test_half_a_counter_file_does_not_keep_the_agent_from_starting(node: Node) -> None:
    with node.without_agent():
        (node.state / "refusals-lost").write_text("")
    assert eventually(node.ready)


def test_a_pod_that_cannot_be_protected_holds_up_no_other(new_node: Node) -> None:
    node = new_node
    near = node.lab
    with stray_pod(f"{near.name}-odd", device="net1") as path:  # no eth0 to listen on, and no such cgroup
        with pytest.raises(AgentError, match="cannot listen"):
            node.ask("pod.add", pod={"name": "odd", "labels": {"app": "web"}, "ipv4": "10.9.9.2", "netns": str(path)})
        assert near.lab("apply", str(EXAMPLES / "frontend-egress.yaml")).returncode == 1
        assert near.curl("frontend-near", "http://web/private") == 403  # said, but the other pods' part is in force
        assert node.endpoint("frontend-near")["egress"] is True
        for _ in range(2):
            before = set(near.processes(NODE, "worker"))
            for pid in before:
                kill(pid)
            assert eventually(lambda old=before: len(set(near.processes(NODE, "worker")) - old) == len(old))  # type: ignore[misc]  # called at once
        assert eventually(node.enforced)
        with node.without_agent():
            pass
        assert eventually(lambda: "default/odd" in str(near.node(NODE)["trouble"]))
        assert eventually(node.enforced)
        node.ask("pod.del", name="odd")
    assert eventually(node.ready)


def test_a_pod_without_its_rules_is_steered_nowhere(node: Node) -> None:
    """An address that the pod has not got yet: the rules cannot be made, and a leg without them would come back to
    us."""
    good, web = node.pods(), node.pod("web")
    before = node.lab.counters(NODE)["accepted"]
    node.ask("pod.del", name="web")
    wrong = {**web, "ipv6": "fd00:10:244::77"}
    node.list_pods([wrong if pod["name"] == "web" else pod for pod in good])
    with pytest.raises(AgentError, match="cannot add a route"):
        node.ask("pod.add", pod=wrong)
    assert node.lab.curl("intruder", "http://web/public", "-m", "2") == 0
    assert node.lab.curl("frontend", "http://web/public", "-m", "2") == 0
    assert node.lab.counters(NODE)["accepted"] == before
    node.list_pods(good)
    assert eventually(node.enforced)


def test_another_pod_at_the_same_path_with_the_same_inode_number_is_another_pod(node: Node) -> None:
    with stray_pod(f"{node.lab.name}-x") as path:
        pod = {"name": "x", "labels": {"app": "web"}, "ipv4": "10.9.9.2", "netns": str(path)}
        node.ask("pod.add", pod=pod)
        before = path.stat().st_ino
        with ExitStack() as stack:
            with node.without_agent():
                subprocess.run(["ip", "netns", "del", path.name], check=True)  # noqa: S603, S607  fixed
                time.sleep(3)  # workers and broker have let go, and the kernel has ended it
                stack.enter_context(stray_pod(path.name))
            reused = path.stat().st_ino == before
            print(f"inode number reused: {reused}")
            assert eventually(node.answers)
            node.ask("pod.add", pod=pod)
            assert node.endpoint("x")["ingress"] is True
            with netns.Netns.open(path) as inside:
                assert any("rule:" in trace for trace in plumbing.traces(inside))
            node.ask("pod.del", name="x")
    assert eventually(node.ready)
    assert node.enforced()


def test_a_full_disk_holds_up_no_policy_and_cuts_off_no_pod(node: Node) -> None:
    folder = node.state / "endpoints"
    kept = {path.name: path.read_text() for path in folder.glob("*.json")}
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(folder)], check=True)  # noqa: S603, S607  fixed
    try:
        for name, text in kept.items():
            (folder / name).write_text(text)
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
        done = node.lab.lab("delete", "web-l7")
        assert "record cannot be written" in done.stderr
        assert eventually(lambda: node.lab.node(NODE)["endpoints"] == [])
        assert node.lab.curl("intruder", "http://web/private") == 200  # not cut off for good
        done = node.lab.lab("apply", str(EXAMPLES / "web-l7.yaml"))
        assert done.returncode == 1
        assert node.enforced()  # in force, and said that it would not outlive an agent
        assert node.ready() is False
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607  fixed
    assert eventually(node.ready)
    with node.without_agent():
        pass
    assert eventually(node.ready)
    assert node.enforced()


def test_a_worker_that_cannot_be_written_down_is_not_left_behind(new_node: Node) -> None:
    node = new_node
    folder = node.directory / "run" / "workers"
    cgroup = cgroups.find_root() / "tulle-lab" / node.lab.name / NODE / "tulle" / "workers"
    (victim, *_) = node.lab.processes(NODE, "worker")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "none", str(folder)], check=True)  # noqa: S603, S607  fixed
    try:
        kill(victim)
        time.sleep(3)
        assert len((cgroup / "cgroup.procs").read_text().split()) <= 2
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607  fixed
    assert eventually(node.enforced)
    assert eventually(lambda: len((cgroup / "cgroup.procs").read_text().split()) == 2)


def test_a_broker_that_hangs_is_replaced(node: Node) -> None:
    old = node.lab.node(NODE)["broker"]
    os.kill(old, 19)  # SIGSTOP
    assert eventually(lambda: node.lab.node(NODE)["broker"] not in (None, old))
    script = """
import http.client
for _ in range(100):
    c = http.client.HTTPConnection("web", 80, timeout=10)
    c.request("GET", "/public")
    assert c.getresponse().status == 200
    c.close()
"""
    done = node.lab.python("frontend", script)
    assert done.returncode == 0, done.stderr


def test_policies_that_come_and_go_leave_nothing_open(node: Node) -> None:
    """Selected, released and selected again within the time that listeners linger; then descriptors are counted."""
    (agent,) = node.lab.processes(NODE, "agent")
    everybody = [agent, *node.lab.processes(NODE, "worker"), node.lab.node(NODE)["broker"]]
    policies = node.directory / "policies"
    (file,) = policies.glob("*.yaml")
    text = file.read_text()

    def descriptors() -> list[int]:
        return [sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) for pid in everybody]

    def turn() -> None:
        file.unlink()
        node.ask("policy.sync")
        file.write_text(text)
        node.ask("policy.sync")
        assert node.enforced()

    turn()
    time.sleep(2)
    before = descriptors()
    for _ in range(10):
        turn()
    time.sleep(2)
    assert all(now <= then + 8 for now, then in zip(descriptors(), before, strict=True)), (before, descriptors())
