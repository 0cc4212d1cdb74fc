"""What policies mean, asked of real pods; a lab of its own, with a second namespace and pods of many labels."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from redirect import plumbing
from redirect.netns import Netns
from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, cluster, eventually
from tests.helpers.live import FRONTEND, Peer, connected, ended, ingress, inside, netns_of, policy, port_rule, status_of

pytestmark = pytest.mark.root

PODS = """
pods:
  - {name: web, node: node-b, command: [tulle-web]}
  - {name: frontend, node: node-a}
  - {name: gold, node: node-a, labels: {app: client, tier: gold}}
  - {name: tin, node: node-b, labels: {app: client, tier: tin}}
  - {name: bare, node: node-a, labels: {}}
  - {name: gold, namespace: other, node: node-b, labels: {app: client, tier: gold}}
"""
CLIENTS = ("frontend", "gold", "tin", "bare", "other/gold")
ALL = frozenset(CLIENTS)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    file = tmp_path_factory.mktemp("lab") / "lab.yaml"
    file.write_text(PODS)
    with cluster("--file", str(file)) as made:
        yield made


@pytest.fixture
def pods(many: Cluster) -> Iterator[Cluster]:
    many.delete_policies()
    yield many
    many.delete_policies()


def statuses(lab: Cluster, path: str = "/x") -> dict[str, int]:
    """What each client gets for one path; 0: refused."""
    return {pod: status_of(lab, pod, path, family=("ipv4", "ipv6")[at % 2]) for at, pod in enumerate(CLIENTS)}


def expression(key: str, operator: str, *values: str) -> Peer:
    """A selector of one matchExpression."""
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


PEERS: dict[str, tuple[list[Peer] | None, set[str]]] = {
    "[{}] is every pod of the namespace": ([{}], set(ALL - {"other/gold"})),
    "absent is every peer": (None, set(ALL)),
    "empty is no peer": ([], set()),
    "matchLabels": ([{"matchLabels": {"tier": "gold"}}], {"gold"}),
    "labels of one entry must all hold": ([{"matchLabels": {"app": "client", "tier": "tin"}}], {"tin"}),
    "entries are alternatives": ([{"matchLabels": {"tier": "tin"}}, FRONTEND], {"tin", "frontend"}),
    "In": ([expression("tier", "In", "gold", "tin")], {"gold", "tin"}),
    "NotIn holds without the label": ([expression("tier", "NotIn", "gold")], {"frontend", "tin", "bare"}),
    "Exists": ([expression("tier", "Exists")], {"gold", "tin"}),
    "DoesNotExist": ([expression("app", "DoesNotExist")], {"bare"}),
    "labels and expressions must both hold": (
        [{"matchLabels": {"app": "client"}, **expression("tier", "NotIn", "tin")}],
        {"gold"},
    ),
    "another namespace by name": (
        [{"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other", "tier": "gold"}}],
        {"other/gold"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PEERS)
def test_peers(pods: Cluster, what: str) -> None:
    peers, allowed = PEERS[what]
    pods.apply(policy("peers", ingress(port_rule(80, [{"path": "/x"}]), peers=peers)))
    assert statuses(pods) == {pod: 200 if pod in allowed else 0 for pod in CLIENTS}
    assert statuses(pods, "/y") == {pod: 403 if pod in allowed else 0 for pod in CLIENTS}


RULES: dict[str, tuple[dict[str, object], dict[tuple[str, str, str], int]]] = {
    # (method, path, fields) -> status
    "an empty rule matches every request": ({}, {("GET", "/a", ""): 200, ("BREW", "/b?c", "X: y"): 200}),
    "method and path are matched whole": (
        {"method": "GET|HEAD", "path": "/a[0-9]"},
        {
            ("GET", "/a1", ""): 200,
            ("HEAD", "/a2", ""): 200,
            ("GETX", "/a1", ""): 403,
            ("get", "/a1", ""): 403,
            ("GET", "/a1/", ""): 403,
            ("GET", "/xa1", ""): 403,
            ("GET", "/a1?q", ""): 403,
        },
    ),
    "the path is the canonical one with its query": (
        {"path": "/a/b\\?q=.*"},
        {
            ("GET", "/a/b?q=1", ""): 200,
            ("GET", "/a//b?q=1", ""): 200,
            ("GET", "/a/c/../%62?q=1", ""): 200,
            ("GET", "/a/b", ""): 403,
            ("GET", "/a%2fb?q=1", ""): 400,
        },
    ),
    "host": (
        {"host": "(www\\.)?shop\\.example"},
        {
            ("GET", "/", "Host: shop.example"): 200,
            ("GET", "/", "Host: www.shop.example"): 200,
            ("GET", "/", "Host: shop.example.evil"): 403,
            ("GET", "/", "Host: shopxexample"): 403,
            ("GET", "/", "Host: web"): 403,
            ("GET", "http://shop.example/", "Host: shop.example"): 200,
        },
    ),
    "headers must all be there": (
        {"headers": ["X-Token", "X-Team: blue"]},
        {
            ("GET", "/", "X-Token: 1\r\nX-Team: blue"): 200,
            ("GET", "/", "x-token: 1\r\nx-TEAM: blue"): 200,
            ("GET", "/", "X-Token: 1"): 403,
            ("GET", "/", "X-Team: blue"): 403,
            ("GET", "/", "X-Token: 1\r\nX-Team: bluer"): 403,
            ("GET", "/", ""): 403,
        },
    ),
}


@pytest.mark.parametrize("what", RULES)
def test_http_rules(pods: Cluster, what: str) -> None:
    rule, table = RULES[what]
    pods.apply(policy("rules", ingress(port_rule(80, [rule]))))
    for (method, target, fields), status in table.items():
        with connected(pods, "frontend") as client:
            lines = [f"{method} {target} HTTP/1.1", *([] if "Host:" in fields else ["Host: web"])]
            client.send("\r\n".join([*lines, *([fields] if fields else []), "", ""]).encode())
            assert client.response(method).status == status, (method, target, fields)


def test_rules_without_an_entry_are_a_proxied_allow(pods: Cluster) -> None:
    pods.apply(policy("rules", ingress(port_rule(80, []))))
    before = pods.counters("node-b")["requests"]
    assert [status_of(pods, "frontend", path) for path in ("/a", "/b")] == [200, 200]
    assert pods.counters("node-b")["requests"] == before + 2


def test_a_port_without_rules_beside_one_with(pods: Cluster) -> None:
    """frontend may ask port 80 for /x alone, everybody may connect to port 81; nothing else."""
    pods.apply(
        policy(
            "ports",
            ingress(port_rule(80, [{"path": "/x"}])),
            ingress(port_rule(81, None), peers=None),
        )
    )
    with pods.start("web", sys.executable, "-m", "lab.webserver", "--port", "81") as second, ended(second):
        assert eventually(lambda: status_of(pods, "bare", "/any", port=81) == 200)
        before = pods.counters("node-b")["accepted"]
        assert {status_of(pods, pod, "/any", port=81) for pod in CLIENTS} == {200}
        assert pods.counters("node-b")["accepted"] == before
        assert [status_of(pods, "frontend", path) for path in ("/x", "/any")] == [200, 403]
        assert status_of(pods, "bare", "/x") == 0
        assert status_of(pods, "frontend", "/x", port=82) == 0


def test_policies_add_up_and_an_l4_allow_widens(pods: Cluster) -> None:
    pods.apply(policy("one", ingress(port_rule(80, [{"path": "/x"}]))))
    assert [status_of(pods, "frontend", path) for path in ("/x", "/y")] == [200, 403]
    pods.apply(policy("two", ingress(port_rule(80, [{"path": "/y"}]), peers=[{"matchLabels": {"tier": "gold"}}])))
    assert [status_of(pods, "gold", path) for path in ("/x", "/y")] == [403, 200]
    assert [status_of(pods, "frontend", path) for path in ("/x", "/y")] == [200, 403]
    pods.apply(policy("three", ingress(port_rule(80, None), peers=[{"matchLabels": {"app": "frontend"}}])))
    assert [status_of(pods, "frontend", path) for path in ("/x", "/y")] == [200, 200]
    assert [status_of(pods, "gold", path) for path in ("/x", "/y")] == [403, 200]


def test_a_layer_4_policy_is_not_proxied(pods: Cluster) -> None:
    pods.apply(EXAMPLES / "web-l4.yaml")
    before, records = pods.counters("node-b"), len(pods.observe("--all", "--http-path", "/l4-only"))
    for family in ("ipv4", "ipv6"):
        with connected(pods, "frontend", family=family) as client:
            assert client.ask("/l4-only").status == 200
            done = pods.exec("web", "ss", "-Htn", "state", "established", "sport = :80")
            # the server's own peer is the client's socket: a leg would have another port
            peers = [line.split()[3] for line in done.stdout.splitlines()]
            assert len(peers) == 1, done.stdout
            assert peers[0].endswith(f":{client.port}")
            assert pods.address("frontend", family) in peers[0]
    assert status_of(pods, "gold", "/l4-only") == 0
    assert status_of(pods, "frontend", "/l4-only", port=81) == 0
    after = pods.counters("node-b")
    assert (after["accepted"], after["requests"]) == (before["accepted"], before["requests"])
    assert len(pods.observe("--all", "--http-path", "/l4-only")) == records


def inventory(lab: Cluster, pod: str) -> dict[str, str]:
    """Everything of a pod's network namespace that we could have changed."""
    commands = (
        "ip -4 rule",
        "ip -6 rule",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ss -Hltn",
        "nft list ruleset",
    )
    done = lab.exec(pod, "sh", "-c", "; echo ====; ".join(commands))
    parts = re.sub(r" expires \S+| users \S+| age \S+", "", done.stdout).split("====\n")  # what counts down by itself
    found = dict(zip(commands, parts, strict=True))
    with inside(lab, pod):
        for folder in ("ipv4", "ipv6", "core"):
            for path in sorted(Path("/proc/sys/net", folder).rglob("*")):
                if path.is_file() and path.stat().st_mode & 0o200 and path.stat().st_mode & 0o400:
                    try:
                        found[str(path)] = path.read_text()
                    except OSError as error:  # some have no value, as stable_secret
                        found[str(path)] = str(error.errno)
    return found


def test_a_pod_that_no_policy_selects_is_not_touched(pods: Cluster) -> None:
    def clean() -> bool:
        netns = Netns.open(netns_of(pods, "web"))
        try:
            return plumbing.traces(netns) == []
        finally:
            netns.close()

    assert eventually(clean, timeout_s=10)
    before = {pod: inventory(pods, pod) for pod in ("web", "tin", "frontend")}
    pods.apply(EXAMPLES / "web-l7.yaml")
    assert status_of(pods, "frontend", "/public") == 200
    after = {pod: inventory(pods, pod) for pod in ("web", "tin", "frontend")}
    assert after["tin"] == before["tin"]  # of web's own node
    assert after["frontend"] == before["frontend"]
    assert after["web"] != before["web"]  # or the comparison sees nothing
    for node, links in (("node-a", 0), ("node-b", 1)):
        assert len(list(Path("/sys/fs/bpf/tulle", pods.name, node, "links").glob("pod_*"))) == links
    pods.delete_policies()
    assert eventually(clean, timeout_s=10)
    assert inventory(pods, "web") == before["web"]


# of each example: pod, method, path, port -> status; 0: refused
EXAMPLE_OUTCOMES: dict[str, dict[tuple[str, str, str, int], int]] = {
    "web-l7.yaml": {
        ("frontend", "GET", "/public", 80): 200,
        ("frontend", "GET", "/public/below?x", 80): 200,
        ("frontend", "GET", "/publicity", 80): 403,
        ("frontend", "POST", "/orders", 80): 200,
        ("frontend", "GET", "/orders", 80): 403,
        ("frontend", "GET", "/public", 81): 0,
        ("gold", "GET", "/public", 80): 0,
    },
    "web-l7-reloaded.yaml": {
        ("frontend", "GET", "/public", 80): 403,
        ("frontend", "GET", "/private", 80): 200,
        ("frontend", "POST", "/orders", 80): 200,
        ("gold", "GET", "/private", 80): 0,
    },
    "web-l4.yaml": {
        ("frontend", "DELETE", "/anything", 80): 200,
        ("frontend", "GET", "/", 81): 0,
        ("gold", "GET", "/", 80): 0,
    },
    "frontend-egress.yaml": {
        ("frontend", "GET", "/anything", 80): 200,
        ("frontend", "POST", "/anything", 80): 403,
        ("frontend", "GET", "/", 81): 0,
        ("gold", "POST", "/anything", 80): 200,
    },
}


# The demo plays the first two with Kafka's own clients; tests/policies/test_examples.py has what all of them mean.
KAFKA_EXAMPLES = {"kafka.yaml", "kafka-reloaded.yaml", "kafka-ours.yaml"}


def test_every_example_has_its_outcomes() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(EXAMPLE_OUTCOMES) | KAFKA_EXAMPLES


@pytest.mark.parametrize("example", EXAMPLE_OUTCOMES)
def test_examples(pods: Cluster, example: str) -> None:
    pods.apply(EXAMPLES / example)
    for (pod, method, path, port), status in EXAMPLE_OUTCOMES[example].items():
        assert pods.curl(pod, f"http://web:{port}{path}", "-X", method) == status, (pod, method, path, port)
