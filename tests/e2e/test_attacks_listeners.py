"""Dialling our own listeners, which a pod can see: closed and counted, never dialled on."""

import json
import sys

import pytest

from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, Record, eventually

pytestmark = pytest.mark.root

EVERY_PORT = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: every-port, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
"""
LISTENERS = """
import json
found = {}
for family, path in (("ipv4", "/proc/net/tcp"), ("ipv6", "/proc/net/tcp6")):
    lines = [line.split() for line in open(path).read().splitlines()[1:]]
    found[family] = [int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A"]
print(json.dumps(found))
"""
DIAL = """
import json, socket, sys
found = []
for host, port in json.load(sys.stdin):
    try:
        with socket.create_connection((host, port), 5) as sock:
            sock.sendall(b"GET /public HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n")
            found.append(sock.recv(4096).decode())
    except OSError as error:
        found.append(type(error).__name__)
print(json.dumps(found))
"""
REFUSED = {"ConnectionRefusedError", "ConnectionResetError"}


def listeners(lab: Cluster, pod: str, family: str) -> list[int]:
    """Ports of our listeners in a pod; only the lab's own server listens there beside them."""
    found: dict[str, list[int]] = json.loads(lab.python(pod, LISTENERS).stdout)
    return [port for port in found[family] if port >= 20000]


def dial(lab: Cluster, pod: str, hosts: list[str], ports: list[int]) -> list[str]:
    """Try every host with every port; the answers or errors."""
    targets = [(host, port) for host in hosts for port in ports]
    done = lab.exec(pod, sys.executable, "-c", DIAL, stdin=json.dumps(targets))
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def counters(lab: Cluster) -> Record:
    """Sums over all workers."""
    found: dict[str, int] = {}
    for node in lab.status()["nodes"]:
        for process in node["processes"]:
            for name, count in (process.get("counters") or {}).items():
                found[name] = found.get(name, 0) + count
    return found


def own(lab: Cluster, pod: str, family: str) -> list[str]:
    """The addresses by which a pod reaches itself."""
    loopback = ["127.0.0.1", "127.8.8.8"] if family == "ipv4" else ["::1"]
    return [*loopback, "0.0.0.0" if family == "ipv4" else "::", lab.pods()[pod][family]]  # noqa: S104  destinations


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_pod_that_dials_its_egress_listeners(lab: Cluster, family: str) -> None:
    lab.apply(EXAMPLES / "frontend-egress.yaml")
    ports = listeners(lab, "frontend", family)
    assert len(ports) >= len(lab.processes("node-a", "worker"))
    before = counters(lab)
    found = dial(lab, "frontend", own(lab, "frontend", family), ports)
    assert set(found) <= REFUSED
    after = counters(lab)
    # by every loopback address the listener is there, and the connection is accepted to be closed
    dialled = after["dialled_listener"] - before["dialled_listener"]
    assert dialled >= 2 * len(ports)
    assert after["upstream_opened"] == before["upstream_opened"]
    assert after["accepted"] - before["accepted"] == dialled  # each once: no loop
    assert after["requests"] == before["requests"]
    record = lab.find_record(lambda record: record["tulle"]["reason"] == "dialled_listener", "--since", "1m", "--all")
    assert record is not None
    assert record["flow"]["verdict"] == "DROPPED"
    address = lab.pods()["frontend"][family]
    assert set(dial(lab, "web", [address], ports)) <= REFUSED
    assert set(dial(lab, "intruder", [address], ports)) <= REFUSED
    assert counters(lab)["upstream_opened"] == before["upstream_opened"]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_peer_that_dials_ingress_listeners(lab: Cluster, family: str) -> None:
    lab.apply(EXAMPLES / "web-l7.yaml")
    address = lab.pods()["web"][family]
    ports = listeners(lab, "web", family)
    assert len(ports) >= len(lab.processes("node-b", "worker"))
    before = counters(lab)
    for pod in ("frontend", "frontend-near", "intruder"):
        assert set(dial(lab, pod, [address], ports)) == {"ConnectionRefusedError"}  # no rule names the port
    assert counters(lab)["accepted"] == before["accepted"]
    assert set(dial(lab, "web", own(lab, "web", family), ports)) <= REFUSED
    lab.apply(EVERY_PORT)  # a rule that does name it
    for pod in ("frontend", "frontend-near"):
        assert set(dial(lab, pod, [address], ports)) <= REFUSED
    after = counters(lab)
    assert after["dialled_listener"] - before["dialled_listener"] >= 2 * len(ports)
    assert after["accepted"] - before["accepted"] == after["dialled_listener"] - before["dialled_listener"]
    assert after["upstream_opened"] == before["upstream_opened"]
    assert eventually(lambda: lab.curl("frontend", "http://web/public") == 200)
