"""What a pod's process can choose does not change whose record it is, and what a policy left behind goes with it."""

import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, Record, eventually

pytestmark = pytest.mark.root

FOREIGN = """
import encodings.idna, os, socket, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
sock = socket.socket(socket.AF_INET6)
sock.setsockopt(41, 78, 1)  # IPV6_FREEBIND takes no capability
sock.bind((sys.argv[2], 0))
sock.settimeout(5)
sock.connect((sys.argv[1], 80))
sock.sendall(b"POST /who-was-it HTTP/1.1\\r\\nHost: w\\r\\nContent-Length: 0\\r\\n\\r\\n")
print(sock.recv(4096)[:12])
"""


@pytest.mark.parametrize("claimed", ["intruder", "web"])
def test_a_foreign_source_does_not_change_whose_record_it_is(lab: Cluster, claimed: str) -> None:
    lab.apply(EXAMPLES / "frontend-egress.yaml")
    pods = lab.pods()
    before = {record["flow"]["uuid"] for record in lab.observe("--http-path", "/who-was-it", "--all")}
    done = lab.python("frontend", FOREIGN, pods["web"]["ipv6"], pods[claimed]["ipv6"])
    assert "403" in done.stdout, done.stderr

    def fresh(record: Record) -> bool:
        return record["flow"]["uuid"] not in before

    record = lab.find_record(fresh, "--http-path", "/who-was-it", "--all")
    assert record is not None
    source = record["flow"]["source"]
    assert (source["pod_name"], source["labels"]) == ("frontend", ["k8s:app=frontend"])
    assert record["flow"]["IP"]["source"] == pods[claimed]["ipv6"]  # what was on the wire is told too
    assert source["identity"] == lab.observe("--from-pod", "frontend", "--last", "1")[0]["flow"]["source"]["identity"]


CLOSING = """
import socket
listener = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    sock, _ = listener.accept()
    sock.recv(4096)
    sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
    sock.close()
"""
ASK = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], 8080))
sock.settimeout(10)
for _ in range(5):
    sock.sendall(b"GET / HTTP/1.1\\r\\nHost: w\\r\\n\\r\\n")
    assert sock.recv(4096)
    print("answered", flush=True)
    time.sleep(1)
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: leak, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
      toPorts: [{ports: [{port: "8080", protocol: TCP}], rules: {http: [{method: GET}]}}]
"""


def test_a_released_pod_has_no_prepared_sockets_left(spare_lab: Cluster) -> None:
    """A connection that outlives its policy asks for new legs: the stock must not be kept after it."""
    lab = spare_lab
    server = lab.start("web", sys.executable, "-c", CLOSING)
    try:
        assert server.stdout is not None
        server.stdout.readline()

        def held() -> int:
            return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in lab.processes("node-b", "worker"))

        before = held()
        lab.apply(POLICY)
        client = lab.start("frontend", sys.executable, "-c", ASK, lab.pods()["web"]["ipv4"])
        assert client.stdout is not None
        client.stdout.readline()
        assert held() > before
        lab.delete_policies()
        assert client.communicate()[0].count("answered") == 4
        assert eventually(lambda: not lab.node("node-b")["endpoints"])
        assert eventually(lambda: held() <= before, 5), (before, held())
    finally:
        server.kill()
        server.communicate()
