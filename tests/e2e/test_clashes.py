"""4-tuples that meet: our leg to the server has the client's address, so its port must be nobody else's.

With ports out of the client's own range, of 200 legs 15 hung beside 3,000 idle connections of that client (seen).
"""

import json
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster

pytestmark = pytest.mark.root

# Opens `held` connections, asks once on each and keeps them; then makes `fresh` new ones while asking on kept ones.
# One thread, one epoll, answers checked by status.
CROWD = """
import json, resource, selectors, socket, sys, time
host, held, fresh = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
REQUEST = b"GET /public HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n"
family = socket.AF_INET6 if ":" in host else socket.AF_INET
selector = selectors.DefaultSelector()
wrong = []

def ask(count, window=100, timeout_s=60.0):
    kept, waiting, begun, deadline = [], 0, 0, time.monotonic() + timeout_s
    slowest = 0.0
    while len(kept) < count and time.monotonic() < deadline and not wrong:
        while waiting < window and begun < count:
            sock = socket.socket(family)
            sock.setblocking(False)
            sock.connect_ex((host, 80))
            selector.register(sock, selectors.EVENT_WRITE, time.monotonic())
            begun += 1
            waiting += 1
        for key, event in selector.select(1.0):
            sock = key.fileobj
            try:
                if event & selectors.EVENT_WRITE:
                    sock.send(REQUEST)
                    selector.modify(sock, selectors.EVENT_READ, key.data)
                    continue
                answer = sock.recv(4096)
            except OSError as error:
                answer = type(error).__name__.encode()
            selector.unregister(sock)
            waiting -= 1
            slowest = max(slowest, time.monotonic() - key.data)
            if not answer.startswith(b"HTTP/1.1 200 "):
                wrong.append(answer[:60].decode("latin-1"))
            kept.append(sock)
    for key in list(selector.get_map().values()):
        selector.unregister(key.fileobj)
        wrong.append("no answer")
    return kept, slowest

crowd, _ = ask(held)
ports = {sock.getsockname()[1] for sock in crowd}
begun = time.monotonic()
new, slowest = ask(fresh, window=10)
again = 0
for sock in crowd[:: max(1, held // 200)]:  # those who waited are still served, on the leg they had
    sock.setblocking(True)
    sock.settimeout(10)
    sock.sendall(REQUEST)
    again += sock.recv(4096).startswith(b"HTTP/1.1 200 ")
print(json.dumps({"held": len(crowd), "ports": len(ports), "new": len(new), "again": again, "wrong": wrong[:5],
                  "slowest_s": slowest}))
"""


@pytest.fixture(scope="module")
def policed(shared_lab: Cluster) -> Iterator[Cluster]:
    shared_lab.delete_policies()
    shared_lab.apply(EXAMPLES / "web-l7.yaml")
    yield shared_lab
    shared_lab.delete_policies()


def test_new_connections_of_a_client_that_holds_ten_thousand(policed: Cluster) -> None:
    host = policed.pods()["web"]["ipv4"]
    done = policed.python("frontend", CROWD, host, "10000", "200", timeout_s=180)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert (found["held"], found["ports"], found["new"], found["again"]) == (10000, 10000, 200, 200)


SHORT = """
import socket, sys
host, count, low = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
right = 0
for number in range(count):
    sock = socket.socket(family)
    sock.settimeout(10)
    if low:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", low + number))
    sock.connect((host, 80))
    sock.sendall(b"GET /public HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n")
    answer = b""
    while chunk := sock.recv(4096):
        answer += chunk
    right += answer.startswith(b"HTTP/1.1 200 ")
    sock.close()
print(right)
"""


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_five_hundred_short_connections(policed: Cluster, family: str) -> None:
    """Each leaves a TIME_WAIT on the leg's side or the server's."""
    host = policed.pods()["web"][family]
    done = policed.python("frontend", SHORT, host, "500", "0")
    assert done.stdout.strip() == "500", done.stderr


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("pod", ["frontend", "frontend-near"])
def test_a_client_that_binds_ports_of_the_range_that_legs_take(policed: Cluster, pod: str, family: str) -> None:
    host = policed.pods()["web"][family]
    low = 61000 if family == "ipv4" else 65000
    done = policed.python(pod, SHORT, host, "300", str(low))
    assert done.stdout.strip() == "300", done.stderr


CLOSING_SERVER = """
import socket
listener = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
print("ready", flush=True)
while True:
    sock, _ = listener.accept()
    while b"\\r\\n\\r\\n" not in sock.recv(4096):
        pass
    sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
    sock.close()
"""
CLOSING_POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closing, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: intruder}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{method: GET}]}
"""


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_server_that_closes_first(policed: Cluster, family: str) -> None:
    """TIME_WAIT stays on the server's side of the loopback: its 4-tuples cannot be used for a while."""
    policed.apply(CLOSING_POLICY)
    server = policed.start("intruder", sys.executable, "-c", CLOSING_SERVER)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        host = policed.pods()["intruder"][family]
        done = policed.python("frontend", SHORT, host, "500", "0")
        assert done.stdout.strip() == "500", done.stderr
    finally:
        server.kill()
        server.communicate()


HOLD_RANGE = """
import resource, socket, sys
host = sys.argv[1]
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
for port in range(61000, 65536, 2):
    sock = socket.socket()
    sock.settimeout(10)
    sock.bind(("0.0.0.0", port))
    sock.connect((host, 80))
    held.append(sock)
right = 0
for sock in held[::10]:
    sock.sendall(b"GET /public HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n")
    right += sock.recv(4096).startswith(b"HTTP/1.1 200 ")
print(len(held), right)
"""


def test_a_client_that_holds_half_of_that_range(policed: Cluster) -> None:
    host = policed.pods()["web"]["ipv4"]
    done = policed.python("frontend", HOLD_RANGE, host)
    assert done.stdout.split() == ["2268", "227"], done.stderr
