"""The whole language over real connections: peers that are no pods, UDP, deny rules, ranges, modes, changes."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.helpers.cluster import Cluster, Record, eventually, kill
from tests.helpers.live import connected, ended, status_of
from tests.helpers.places import (
    OUTSIDE_IPV4,
    echoing,
    from_node,
    from_outside,
    inventory_file,
    masqueraded,
    outside,
    replace_file,
    tcp,
    udp,
)

pytestmark = pytest.mark.root

type Spec = dict[str, object]

FRONTEND: Spec = {"matchLabels": {"app": "frontend"}}
WEB: Spec = {"matchLabels": {"app": "web"}}


def ports(*entries: str) -> list[Spec]:
    """toPorts of `80/TCP`, `8000-8010/UDP`, `http/TCP`."""
    found = []
    for entry in entries:
        port, _, protocol = entry.partition("/")
        first, dash, last = port.partition("-")
        found.append({"port": first, "protocol": protocol, **({"endPort": int(last)} if dash else {})})
    return [{"ports": found}]


def document(
    name: str, app: str = "web", *, kind: str = "CiliumNetworkPolicy", says: Spec | None = None, **spec: object
) -> str:
    """A Cilium policy that selects `app`; says: annotations."""
    metadata: Spec = {"name": name, **({"annotations": says} if says else {})}
    if kind == "CiliumNetworkPolicy":
        metadata["namespace"] = "default"
    selector = {"endpointSelector": {"matchLabels": {"app": app}}}
    return json.dumps({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": {**selector, **spec}})


def is_about(record: Record, port: int, protocol: str, source: str | None = None) -> bool:
    flow = record["flow"]
    return (
        flow["l4"].get(protocol, {}).get("destination_port") == port
        and (source is None or flow["source"].get("pod_name") == source)
        and not flow.get("l7")
    )


# -- UDP


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_udp_at_ingress(lab: Cluster, family: str) -> None:
    with echoing(lab, "web", 53, 54):
        assert udp(lab, "intruder", "web", 54, family=family) == "hello"
        lab.apply(document("dns", ingress=[{"fromEndpoints": [FRONTEND], "toPorts": ports("53/UDP")}]))
        for pod in ("frontend", "frontend-near"):
            for how in ("sendto", "connect", "sendmsg"):
                assert udp(lab, pod, "web", 53, how=how, family=family) == "hello", (pod, how)
        assert udp(lab, "frontend", "web", 54, family=family) in ("silence", "refused")
        assert udp(lab, "intruder", "web", 53, family=family) in ("silence", "refused")
        record = lab.find_record(lambda one: is_about(one, 53, "UDP", "intruder"), "--verdict", "DROPPED", "--all")
        assert record is not None
        assert record["tulle"]["rule"] == "default-deny"
        assert record["flow"]["ingress_denied_by"][0]["name"] == "dns"


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_udp_at_egress_is_refused_at_once_and_answers_come_back(lab: Cluster, family: str) -> None:
    with echoing(lab, "web", 53, 54):
        lab.apply(
            document("dns", "frontend", egress=[{"toEndpoints": [WEB], "toPorts": ports("53/UDP")}]),
            # the frontend's own ingress is shut too: the answer of a resolver is no new flow
            document("shut", "frontend", ingress=[{}]),
        )
        for how in ("sendto", "connect", "sendmsg"):
            assert udp(lab, "frontend", "web", 53, how=how, family=family) == "hello", how
            assert udp(lab, "frontend", "web", 54, how=how, family=family) == "EPERM", how
        record = lab.find_record(lambda one: is_about(one, 54, "UDP", "frontend"), "--verdict", "DROPPED", "--all")
        assert record is not None
        assert record["flow"]["traffic_direction"] == "EGRESS"


BROADCAST = """
import errno, socket, sys
found = []
for host in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    where = (host, 5400, 0, socket.if_nametoindex("eth0")) if ":" in host else (host, 5400)
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        if ":" not in host:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            s.sendto(host.encode(), where)
        except PermissionError:
            found.append(host)
print(*found)
"""
HEAR = """
import socket
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
    s.bind(("::", 5400))
    s.settimeout(3)
    print(flush=True)
    try:
        while True:
            print(s.recv(100).decode(), flush=True)
    except TimeoutError:
        pass
"""


def test_broadcast_reaches_no_pod_as_world(lab: Cluster) -> None:
    subnet = lab.address("frontend").rpartition(".")[0] + ".255"
    hosts = (subnet, "255.255.255.255", "ff02::1")

    def heard(*documents: str) -> tuple[list[str], list[str]]:
        """What the pod beside it heard, and what was refused at once."""
        if documents:
            lab.apply(*documents)
        with lab.start("intruder", sys.executable, "-c", HEAR) as child, ended(child):
            assert child.stdout is not None
            child.stdout.readline()
            refused = lab.exec("frontend", sys.executable, "-c", BROADCAST, *hosts).stdout.split()
            return child.communicate(timeout=10)[0].split(), refused

    assert heard() == ([*hosts], [])
    world: Spec = {"toEntities": ["world"]}
    assert heard(document("out", "frontend", egress=[world])) == ([], [*hosts[1:]])
    inside: Spec = {"toCIDR": [f"{subnet.rpartition('.')[0]}.0/24"]}
    assert heard(document("out", "frontend", egress=[world, inside])) == ([], [*hosts[1:]])


def test_a_server_answers_although_its_egress_is_shut(lab: Cluster) -> None:
    with echoing(lab, "web", 53):
        lab.apply(
            document("dns", ingress=[{"fromEndpoints": [FRONTEND], "toPorts": ports("53/UDP")}], egress=[{}]),
        )
        assert udp(lab, "frontend", "web", 53) == "hello"
        assert udp(lab, "web", "frontend", 53) == "EPERM"


# -- deny rules, ranges, names


def test_a_deny_rule_beats_every_allow_and_is_named(lab: Cluster) -> None:
    lab.apply(
        document(
            "both",
            ingress=[{"fromEntities": ["all"]}],
            ingressDeny=[{"fromEndpoints": [{"matchLabels": {"app": "intruder"}}], "toPorts": ports("80/TCP")}],
        )
    )
    assert [tcp(lab, pod, "web") for pod in ("frontend", "frontend-near", "intruder")] == ["200", "200", "refused"]
    record = lab.find_record(lambda one: is_about(one, 80, "TCP", "intruder"), "--verdict", "DROPPED", "--all")
    assert record is not None
    assert record["tulle"]["rule"] == "default/both ingressDeny[0].toPorts[0]"


def test_a_deny_rule_at_egress(lab: Cluster) -> None:
    lab.apply(
        document("some", "frontend", egressDeny=[{"toEndpoints": [WEB], "toPorts": ports("80-89/TCP")}]),
        document("rest", "frontend", egress=[{"toEntities": ["all"]}]),
    )
    assert tcp(lab, "frontend", "web") == "EPERM"
    assert tcp(lab, "frontend", "web", 90) == "refused"  # nobody listens, which the server's own pod says
    assert tcp(lab, "frontend-near", "web") == "EPERM"
    assert tcp(lab, "intruder", "web") == "200"


def test_ranges_end_where_they_end(lab: Cluster) -> None:
    with ExitStack() as stack:
        for port in (8079, 8080, 8085, 8086):
            child = lab.start("web", sys.executable, "-m", "lab.webserver", "--port", str(port))
            stack.enter_context(child)
            stack.enter_context(ended(child))
            assert eventually(lambda port=port: status_of(lab, "frontend", "/", port=port) == 200)  # type: ignore[misc]
        lab.apply(document("range", ingress=[{"fromEndpoints": [FRONTEND], "toPorts": ports("8080-8085/TCP")}]))
        found = {port: status_of(lab, "frontend", "/", port=port) for port in (8079, 8080, 8085, 8086)}
        assert found == {8079: 0, 8080: 200, 8085: 200, 8086: 0}


def test_a_named_port_is_the_pods_own(lab: Cluster) -> None:
    lab.apply(document("named", ingress=[{"fromEndpoints": [FRONTEND], "toPorts": ports("http/TCP")}]))
    assert [tcp(lab, "frontend", "web", port) for port in (80, 81)] == ["200", "refused"]
    lab.apply(document("named", ingress=[{"fromEndpoints": [FRONTEND], "toPorts": ports("admin/TCP")}]))
    assert tcp(lab, "frontend", "web") == "refused"
    assert any("no pod has a port named 'admin'" in line for line in lab.node("node-b")["references"])
    lab.apply(document("out", "frontend", egress=[{"toPorts": ports("http/TCP")}]))
    lab.delete_policies()
    lab.apply(document("out", "frontend", egress=[{"toPorts": ports("http/TCP")}]))
    assert [tcp(lab, "frontend", "web", port) for port in (80, 81)] == ["200", "EPERM"]


# -- peers that are no pods


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_cidrs_are_hosts_outside_and_never_nodes_or_pods(lab: Cluster, family: str) -> None:
    everything = "0.0.0.0/0" if family == "ipv4" else "::/0"
    host = "172.30.0.250/32" if family == "ipv4" else "fd00:172:30::250/128"
    net = "172.30.0.0/24" if family == "ipv4" else "fd00:172:30::/64"
    with outside(lab):
        assert from_outside(lab, "web", family=family) == "200"
        for rule, wanted in (
            ({"fromCIDR": [host]}, "200"),
            ({"fromCIDR": [net]}, "200"),
            ({"fromCIDR": [everything]}, "200"),
            ({"fromCIDRSet": [{"cidr": everything, "except": [net]}]}, "refused"),
            ({"fromCIDRSet": [{"cidr": net, "except": [host]}]}, "refused"),
            ({"fromEndpoints": [{}]}, "refused"),
        ):
            lab.apply(document("cidr", ingress=[{**rule, "toPorts": ports("80/TCP")}]))
            assert from_outside(lab, "web", family=family) == wanted, rule
            if "fromEndpoints" not in rule:
                assert tcp(lab, "frontend", "web", family=family) == "refused", rule
                assert from_node(lab, "node-a", "web", family=family) == "refused", rule


def test_cidrs_at_egress(lab: Cluster) -> None:
    with outside(lab):
        lab.apply(document("out", "frontend", egress=[{"toCIDR": ["172.30.0.128/25"]}]))
        ask = "import socket,sys; s=socket.socket(); s.settimeout(2); print(s.connect_ex((sys.argv[1], 9)))"
        assert lab.python("frontend", ask, OUTSIDE_IPV4).stdout.strip() == "111"  # it answers that nobody listens
        assert lab.python("frontend", ask, "172.30.0.1").stdout.strip() == "1"
        assert lab.python("frontend", ask, lab.address("web")).stdout.strip() == "1"


def test_entities(lab: Cluster) -> None:
    with outside(lab):
        callers: dict[str, Callable[[], str]] = {
            "world": lambda: from_outside(lab, "web"),
            "remote-node": lambda: from_node(lab, "node-a", "web"),
            "pod": lambda: tcp(lab, "frontend", "web"),
        }
        allowed = {
            "world": {"world"},
            "remote-node": {"remote-node"},
            "cluster": {"remote-node", "pod"},
            "all": {"world", "remote-node", "pod"},
        }
        for entity, who in allowed.items():
            lab.apply(document("entity", ingress=[{"fromEntities": [entity], "toPorts": ports("80/TCP")}]))
            found = {caller: ask() for caller, ask in callers.items()}
            assert found == {caller: "200" if caller in who else "refused" for caller in found}, entity


def test_a_probe_of_the_node_passes_and_what_is_masqueraded_to_its_address_does_not(lab: Cluster) -> None:
    """Pod frontend is on node-a; what node-b masquerades comes from node-b's own address on cni0."""
    lab.apply(document("shut", ingress=[{}]))
    assert from_node(lab, "node-b", "web") == "200"
    record = lab.find_record(lambda one: one["tulle"]["rule"] == "tulle:node-probe", "--verdict", "FORWARDED", "--all")
    assert record is not None
    assert record["flow"]["l4"]["TCP"]["destination_port"] == 80
    assert from_node(lab, "node-b", "web", family="ipv6") == "200"
    assert from_node(lab, "node-a", "web") == "refused"
    with masqueraded(lab, "node-b", "frontend"):
        assert tcp(lab, "frontend", "web") == "refused"
        lab.apply(document("shut", ingress=[{"fromEntities": ["host"]}]))
        assert tcp(lab, "frontend", "web") == "refused"
        lab.apply(document("shut", ingress=[{"fromEntities": ["world"]}]))
        assert tcp(lab, "frontend", "web") == "200"
    lab.apply(document("shut", ingressDeny=[{"fromEntities": ["host"]}]))
    assert from_node(lab, "node-b", "web") == "refused"


# -- other kinds


def test_a_kubernetes_policy(lab: Cluster) -> None:
    lab.apply(
        json.dumps(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {
                    "podSelector": WEB,
                    "policyTypes": ["Ingress"],
                    "ingress": [
                        {
                            "from": [{"podSelector": FRONTEND}, {"ipBlock": {"cidr": f"{OUTSIDE_IPV4}/32"}}],
                            "ports": [{"port": "http"}],
                        }
                    ],
                },
            }
        )
    )
    with outside(lab):
        assert from_outside(lab, "web") == "200"
    assert [tcp(lab, pod, "web") for pod in ("frontend", "intruder")] == ["200", "refused"]
    assert tcp(lab, "frontend", "web", 81) == "refused"
    assert tcp(lab, "web", "frontend", 81) == "refused"  # its egress is free: nobody listens there


def test_a_cluster_wide_policy(lab: Cluster) -> None:
    lab.apply(
        document(
            "all-web",
            kind="CiliumClusterwideNetworkPolicy",
            ingress=[
                {"fromEndpoints": [FRONTEND], "toPorts": [{**ports("80/TCP")[0], "rules": {"http": [{"path": "/x"}]}}]}
            ],
        )
    )
    assert [tcp(lab, "frontend", "web", path=path) for path in ("/x", "/y")] == ["200", "403"]
    assert tcp(lab, "intruder", "web") == "refused"
    record = lab.find_record(lambda one: one["tulle"]["rule"].startswith("all-web ingress[0]"), "--all")
    assert record is not None
    assert lab.lab("delete", "all-web").returncode == 0
    assert tcp(lab, "intruder", "web") == "200"


# -- modes and changes


def test_mode_audit_blocks_nothing_and_says_what_it_would(lab: Cluster) -> None:
    http: Spec = {**ports("80/TCP")[0], "rules": {"http": [{"path": "/x"}]}}
    lab.apply(
        document("watch", says={"tulle.dev/mode": "audit"}, ingress=[{"fromEndpoints": [FRONTEND], "toPorts": [http]}])
    )
    assert [tcp(lab, "frontend", "web", path=path) for path in ("/x", "/y")] == ["200", "200"]
    assert tcp(lab, "intruder", "web") == "200"
    with echoing(lab, "web", 53):
        assert udp(lab, "intruder", "web", 53) == "hello"

    def would(record: Record) -> bool:
        return is_about(record, 80, "TCP", "intruder") and record["flow"]["verdict"] == "AUDIT"

    record = lab.find_record(would, "--verdict", "AUDIT", "--all")
    assert record is not None
    assert record["tulle"]["rule"] == "default-deny"
    assert lab.find_record(
        lambda one: one["flow"].get("l7", {}).get("http", {}).get("url", "").endswith("/y"),
        "--verdict",
        "AUDIT",
        "--all",
    )
    assert [one["mode"] for one in lab.node("node-b")["documents"]] == ["audit"]


BOUND_TO_ITS_DEVICE = """
import socket, sys
sock = socket.socket()
sock.settimeout(5)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 5)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
sock.connect((sys.argv[1], 80))
sock.sendall(b"GET /x HTTP/1.0\\r\\n\\r\\n")
print(sock.recv(100).split()[1].decode())
"""


@pytest.mark.parametrize("rules", [{}, {"http": [{"path": "/y"}]}])
def test_mode_audit_refuses_nothing_that_cannot_be_steered(lab: Cluster, rules: Spec) -> None:
    egress: Spec = {"toEndpoints": [WEB], "toPorts": [{**ports("80/TCP")[0], "rules": rules}]} if rules else {}
    lab.apply(document("watch", "frontend", says={"tulle.dev/mode": "audit"}, egress=[egress]))
    done = lab.python("frontend", BOUND_TO_ITS_DEVICE, lab.address("web", "ipv4"))
    assert (done.returncode, done.stdout.strip()) == (0, "200"), done.stderr
    lab.apply(document("watch", "frontend", egress=[egress]))
    refused = lab.python("frontend", BOUND_TO_ITS_DEVICE, lab.address("web", "ipv4"))
    assert "PermissionError" in refused.stderr


CLOSE_DENIED: Spec = {"tulle.dev/onChange": "close-denied"}


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_connections_that_a_change_denies_are_closed_where_the_policy_says_so(lab: Cluster, family: str) -> None:
    def allow(name: str, *who: str, says: Spec | None = None) -> str:
        peers = [{"matchLabels": {"app": app}} for app in who]
        return document(name, says=says, ingress=[{"fromEndpoints": peers, "toPorts": ports("80/TCP")}])

    lab.apply(allow("l4", "frontend", "intruder", says=CLOSE_DENIED))
    with connected(lab, "frontend", family=family) as kept, connected(lab, "intruder", family=family) as closed:
        assert [kept.ask("/x").status, closed.ask("/x").status] == [200, 200]
        lab.apply(allow("l4", "frontend", says=CLOSE_DENIED))
        assert eventually(lambda: not closed.alive())
        assert kept.ask("/x").status == 200
        record = lab.find_record(lambda one: is_about(one, 80, "TCP", "intruder"), "--verdict", "DROPPED", "--all")
        assert record is not None
        assert record["tulle"]["reason"] == "policy_changed"
    lab.apply(allow("l4", "frontend", "intruder"))
    with connected(lab, "intruder", family=family) as untouched:
        assert untouched.ask("/x").status == 200
        lab.apply(allow("l4", "frontend"))
        time.sleep(0.5)
        assert untouched.ask("/x").status == 200


def test_connections_older_than_their_policy_are_told_of(lab: Cluster) -> None:
    with connected(lab, "frontend") as old:
        assert old.ask("/x").status == 200
        lab.apply(document("shut", ingress=[{}]))
        assert old.ask("/x").status == 200
        (found,) = lab.node("node-b")["uncovered"]
        assert found == {
            "pod": "default/web",
            "direction": "ingress",
            "peer": lab.address("frontend"),
            "port": 80,
            "protocol": "TCP",
        }
    assert eventually(lambda: lab.node("node-b")["uncovered"] == [])


def test_one_bad_file_keeps_the_rest(lab: Cluster) -> None:
    lab.apply(document("good", ingress=[{"fromEndpoints": [FRONTEND], "toPorts": ports("80/TCP")}]))
    folder = lab.directory / "node-b" / "policies"
    try:
        replace_file(folder / "bad.yaml", "kind: [")
        assert eventually(lambda: any("bad.yaml" in error for error in lab.node("node-b")["errors"]))
        # another good document comes into force beside it
        other = document(
            "more", ingress=[{"fromEndpoints": [{"matchLabels": {"app": "intruder"}}], "toPorts": ports("80/TCP")}]
        )
        replace_file(folder / "more.yaml", other)
        assert eventually(lambda: status_of(lab, "intruder", "/x") == 200)
        assert status_of(lab, "frontend", "/x") == 200
        # the file of a document in force turns bad: its last good revision stays
        replace_file(folder / "more.yaml", other.replace("ingress", "igress"))
        assert eventually(lambda: any("more.yaml" in error for error in lab.node("node-b")["errors"]))
        assert status_of(lab, "intruder", "/x") == 200
        assert [one["name"] for one in lab.node("node-b")["documents"] if one["stale"]] == ["more"]
    finally:
        for name in ("bad.yaml", "more.yaml"):
            (folder / name).unlink(missing_ok=True)
    assert eventually(lambda: lab.node("node-b")["errors"] == [])
    assert eventually(lambda: status_of(lab, "intruder", "/x") == 0)


def test_one_pods_labels_change(lab: Cluster) -> None:
    lab.apply(document("l4", ingress=[{"fromEndpoints": [FRONTEND], "toPorts": ports("80/TCP")}]))
    files = [inventory_file(lab, node) for node in ("node-a", "node-b")]
    before = [file.read_text() for file in files]
    try:
        for file, text in zip(files, before, strict=True):
            told = json.loads(text)
            for pod in told["pods"]:
                if pod["name"] == "intruder":
                    pod["labels"] = {"app": "frontend"}
            replace_file(file, json.dumps(told))
        assert eventually(lambda: status_of(lab, "intruder", "/x") == 200)
    finally:
        for file, text in zip(files, before, strict=True):
            replace_file(file, text)
    assert eventually(lambda: status_of(lab, "intruder", "/x") == 0)
    assert status_of(lab, "frontend", "/x") == 200


# -- with nobody left


def test_what_fails_open_says_so_in_its_policy(spare_lab: Cluster) -> None:
    def l7(name: str, port: int, says: Spec | None) -> str:
        entry: Spec = {**ports(f"{port}/TCP")[0], "rules": {"http": [{"path": "/x"}]}}
        return document(name, says=says, ingress=[{"fromEndpoints": [FRONTEND], "toPorts": [entry]}])

    lab = spare_lab
    with lab.start("web", sys.executable, "-m", "lab.webserver", "--port", "81") as second, ended(second):
        assert eventually(lambda: status_of(lab, "frontend", "/", port=81) == 200)
        lab.apply(l7("open", 80, {"tulle.dev/onFailure": "open"}), l7("closed", 81, None))
        assert [status_of(lab, "frontend", path) for path in ("/x", "/y")] == [200, 403]
        cgroups = [
            path for path in lab.node_cgroup("node-b").rglob("cgroup.freeze") if path.parent.name == "supervisor"
        ]
        for path in cgroups:
            path.write_text("1")  # nobody starts another agent
        node = lab.node("node-b")
        for process in node["processes"]:
            kill(process["pid"])
        kill(node["broker"])
        assert eventually(lambda: tcp(lab, "frontend", "web", path="/y") == "200")
        assert tcp(lab, "frontend", "web", 81) == "refused"
        assert tcp(lab, "intruder", "web") == "refused"
        for path in cgroups:
            path.write_text("0")
        record = lab.find_record(lambda one: one["tulle"]["reason"] == "fail_open", "--all", timeout_s=30)
        assert record is not None
        assert record["tulle"]["rule"].startswith("default/open ingress[0].toPorts[0]")
        assert eventually(lambda: tcp(lab, "frontend", "web", path="/y") == "403", timeout_s=30)
