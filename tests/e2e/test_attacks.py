"""Ways around steering, tried from inside a pod, as uid 65534 and with a container's default capabilities.

What was tried and with which outcome stands in the tables below; a way that is not in them must end as a plain connect
does. `tests/helpers/evasions.py` has the ways themselves.
"""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lab.names import node_netns, pod_netns
from redirect.sockets import LEG_MARK, STEER_MARK
from tests.e2e.conftest import EXAMPLES
from tests.helpers import evasions
from tests.helpers.cluster import Cluster, Record, eventually

pytestmark = pytest.mark.root

NOBODY, CONTAINER = 65534, 0
# Setting these options takes CAP_NET_RAW, which uid 65534 has not.
PRIVILEGED = frozenset(
    (
        "mark_changed_while_connecting",
        "mark_cleared_after_a_deferred_connect",
        "forged_leg_mark",
        "forged_steer_mark",
        "leg_mark_after_a_deferred_connect",
        "loose_source_route",
        "strict_source_route",
        "source_route_to_nowhere",
        "source_route_to_loopback",
        "unspecified_from_a_foreign_source",
        "foreign_source_transparent",
    )
)
# Refused at once, whatever the rules would say.
REFUSED_AT_EGRESS = frozenset(
    (
        "bound_to_device",
        "bound_to_ifindex",
        "link_local_destination",
        "link_local_source",
        "mapped_address_bound_to_device",
        "multipath_bound_to_device",
    )
)
# Packets that nobody takes: no answer, or an error of the kernel's own.
NOWHERE = frozenset(("silence", "EINVAL", "ENETUNREACH", "EHOSTUNREACH", "ECONNABORTED", "ECONNREFUSED", "EPERM"))
LEADS_NOWHERE = frozenset(
    (
        "bound_to_device_after_a_deferred_connect",
        "loose_source_route",
        "strict_source_route",
        "source_route_to_nowhere",
        "source_route_to_loopback",
        "routing_header_2",
        "routing_header_4",
        "routing_header_4_by_loopback",
        "routing_header_4_by_self",
        "routing_header_after_a_deferred_connect",
        "unspecified_from_a_foreign_source",
    )
)
# IPv4 checks the source where IPv6 does not.
FOREIGN_SOURCE = frozenset(("foreign_source_not_checked", "foreign_source_transparent"))
# Setting a mark is refused where egress is enforced: between a connect that was judged and its SYN it would undo it.
MARKS = frozenset(
    (
        "mark_cleared_after_a_deferred_connect",
        "forged_leg_mark",
        "forged_steer_mark",
        "leg_mark_after_a_deferred_connect",
        "mark_changed_while_connecting",
    )
)
# At another pod these find nobody on the way.
ASTRAY = frozenset(("link_local_destination", "link_local_source", "mark_changed_while_connecting"))


def at_egress(way: str, uid: int) -> frozenset[str]:
    """The outcomes of a way that are right for a request that the egress rules deny with a 403."""
    if way in PRIVILEGED and uid == NOBODY:
        return frozenset(("EPERM",))
    if way in REFUSED_AT_EGRESS:
        return frozenset(("EPERM",))
    if way in LEADS_NOWHERE:
        return NOWHERE
    if way in MARKS:
        return frozenset(("EPERM",))
    if way in FOREIGN_SOURCE:
        return frozenset(("403",)) | NOWHERE
    return frozenset(("403",))


def at_egress_layer_4(way: str, uid: int) -> frozenset[str]:
    """The same for a port that no rule names."""
    if way in LEADS_NOWHERE and (uid == CONTAINER or way not in PRIVILEGED):
        return NOWHERE
    return frozenset(("EPERM",))


def at_ingress(way: str, uid: int, plain: str) -> frozenset[str]:
    """The outcomes that are right at the server; `plain` is that of a plain connect."""
    if way in PRIVILEGED and uid == NOBODY:
        return frozenset(("EPERM",))
    if way.startswith("link_local"):
        return NOWHERE
    nowhere = LEADS_NOWHERE | FOREIGN_SOURCE | {"do_not_route", "leg_mark_after_a_deferred_connect"}
    if way in nowhere - {"bound_to_device_after_a_deferred_connect"}:
        return NOWHERE | {plain}
    return frozenset((plain,))


def link_local(lab: Cluster, pod: str) -> str:
    """The fe80:: address of a pod."""
    shown = subprocess.run(  # noqa: S603  fixed command
        ["ip", "-n", pod_netns(lab.name, "default", pod), "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"],  # noqa: S607  iproute2 is in PATH
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.split()[3].partition("/")[0]


def request(method: str, path: str) -> str:
    """A request of one head."""
    return f"{method} {path} HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n"


def attempts(lab: Cluster, pod: str, family: str, uid: int, targets: Record, ways: list[str]) -> Record:
    """Try these ways to reach `web`; gives {target: {way: outcome}}."""
    pods = lab.pods()
    spec = {
        "uid": uid,
        "host": pods["web"][family],
        "self": pods[pod][family],
        "link_local": link_local(lab, "web"),
        "marks": [LEG_MARK, STEER_MARK],
        "targets": targets,
        "ways": ways,
        "unanswered": sorted(LEADS_NOWHERE | FOREIGN_SOURCE | {"leg_mark_after_a_deferred_connect", *ASTRAY}),
    }
    done = lab.exec(pod, sys.executable, str(evasions.__file__), stdin=json.dumps(spec))
    assert done.returncode == 0, done.stderr
    found: Record = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def served(shared_lab: Cluster) -> Iterator[Cluster]:
    """The shared lab with a second server in web: what gets past the rules must find somebody."""
    shared_lab.delete_policies()
    server = shared_lab.start("web", sys.executable, "-m", "lab.webserver", "--port", "81")
    try:
        assert eventually(lambda: shared_lab.curl("intruder", "http://web:81/") == 200)
        yield shared_lab
    finally:
        server.kill()
        server.communicate()
        shared_lab.delete_policies()


@pytest.fixture(scope="module")
def egress(served: Cluster) -> Cluster:
    served.delete_policies()
    served.apply(EXAMPLES / "frontend-egress.yaml")
    return served


@pytest.mark.parametrize("uid", [NOBODY, CONTAINER])
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("pod", ["frontend", "frontend-near"])
def test_no_way_around_egress_rules(egress: Cluster, pod: str, family: str, uid: int) -> None:
    targets = {
        "denied": {"port": 80, "request": request("POST", "/")},
        "no rule": {"port": 81, "request": request("GET", "/")},
    }
    found = attempts(egress, pod, family, uid, targets, evasions.ways(family))
    wrong = {way: got for way, got in found["denied"].items() if got not in at_egress(way, uid)}
    assert wrong == {}
    wrong = {way: got for way, got in found["no rule"].items() if got not in at_egress_layer_4(way, uid)}
    assert wrong == {}
    allowed = {"allowed": {"port": 80, "request": request("GET", "/")}}
    harmless = ["plainly", "bound_before", "fast_open", "multipath", "stale_mark", "again_after_a_refusal"]
    found = attempts(egress, pod, family, uid, allowed, harmless)
    assert found["allowed"] == dict.fromkeys(harmless, "200")


def test_refusals_at_connect_have_their_records(egress: Cluster) -> None:
    target = {"refused": {"port": 80, "request": request("GET", "/")}}
    attempts(egress, "frontend", "ipv6", NOBODY, target, ["bound_to_device", "link_local_destination"])
    target = {"refused": {"port": 4711, "request": ""}}
    attempts(egress, "frontend", "ipv6", NOBODY, target, ["plainly"])
    for reason, port in (("bound_device", 80), ("link_local", 80), ("no_rule", 4711)):

        def wanted(record: Record, reason: str = reason, port: int = port) -> bool:
            flow = record["flow"]
            return bool(
                record["tulle"]["reason"] == reason
                and flow.get("l4", {}).get("TCP", {}).get("destination_port") == port
                and flow["source"].get("pod_name") == "frontend"
                and flow["verdict"] == "DROPPED"
                and flow["traffic_direction"] == "EGRESS"
            )

        record = egress.find_record(wanted, "--since", "1m", "--all")
        assert record is not None, reason
        assert record["tulle"]["rule"] == "default-deny"


def test_curl_bound_to_the_interface_is_refused(egress: Cluster) -> None:
    for flag in ("-4", "-6"):
        for user in ([], ["setpriv", "--reuid", "65534", "--clear-groups"]):
            done = egress.exec("frontend", *user, "curl", "-s", flag, "-m", "5", "--interface", "eth0", "http://web/")
            assert done.returncode in (7, 45)  # could not connect, or could not bind to the interface
            assert done.stdout == ""


HAND_OVER = """
import os, socket, sys, time
role, path, family, host, port, request = sys.argv[1:]
unix = socket.socket(socket.AF_UNIX)
if role == "maker":
    unix.bind(path)
    unix.listen()
    print("ready", flush=True)
    peer, _ = unix.accept()
    sock = socket.socket(int(family), socket.SOCK_STREAM)
    socket.send_fds(peer, [b"x"], [sock.fileno()])
    peer.recv(1)
else:
    unix.connect(path)
    _, (fd,), _, _ = socket.recv_fds(unix, 1, 1)
    sock = socket.socket(fileno=fd)
    sock.settimeout(5)
    try:
        sock.connect((host, int(port)))
        sock.sendall(request.encode())
        print(sock.recv(4096).split()[1].decode())
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize(
    ("maker", "user", "port", "outcome"),
    [
        ("frontend", "intruder", 80, "403"),
        ("frontend", "intruder", 81, "PermissionError"),
        ("intruder", "frontend", 80, "200"),
    ],
)
def test_a_socket_is_judged_by_its_own_pod_whoever_connects_it(
    egress: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    family: str,
    maker: str,
    user: str,
    port: int,
    outcome: str,
) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    number = "2" if family == "ipv4" else "10"
    host = egress.pods()["web"][family]
    arguments = [str(path), number, host, str(port), request("POST", "/")]
    giver = egress.start(maker, sys.executable, "-c", HAND_OVER, "maker", *arguments)
    try:
        assert giver.stdout is not None
        assert giver.stdout.readline() == "ready\n"
        done = egress.python(user, HAND_OVER, "user", *arguments)
        assert done.stdout.strip() == outcome, done.stderr
    finally:
        giver.kill()
        giver.communicate()


LISTEN_MARKED = """
import socket, sys
sock = socket.socket(socket.AF_INET6)
try:
    sock.setsockopt(socket.SOL_SOCKET, 36, int(sys.argv[1]))
except PermissionError:
    pass
sock.bind(("::", 7070))
sock.listen()
print("ready", flush=True)
while True:
    peer, _ = sock.accept()
    peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    peer.close()
"""


@pytest.mark.parametrize("mark", [LEG_MARK, STEER_MARK])
def test_a_forged_mark_on_a_listening_socket_makes_no_loop(egress: Cluster, mark: int) -> None:
    """The app's answers go astray, which harms the app alone."""
    server = egress.start("frontend", sys.executable, "-c", LISTEN_MARKED, str(mark))
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        before = counter(egress, "accepted")
        for flag in ("-4", "-6"):
            egress.exec("intruder", "curl", "-s", flag, "-m", "1", "http://frontend:7070/")
        assert counter(egress, "accepted") - before <= 4
        assert egress.curl("frontend", "http://web/") == 200
    finally:
        server.kill()
        server.communicate()


def counter(lab: Cluster, name: str) -> int:
    """A counter of all workers of both nodes together."""
    return sum(
        process["counters"][name]
        for node in lab.status()["nodes"]
        for process in node["processes"]
        if process["role"] == "worker"
    )


@pytest.fixture(scope="module")
def ingress(served: Cluster) -> Cluster:
    served.delete_policies()
    served.apply(EXAMPLES / "web-l7.yaml")
    return served


@pytest.mark.parametrize("uid", [NOBODY, CONTAINER])
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize(
    ("pod", "plain"), [("frontend", "403"), ("frontend-near", "403"), ("intruder", "ECONNREFUSED")]
)
def test_no_way_around_ingress_rules(ingress: Cluster, pod: str, plain: str, family: str, uid: int) -> None:
    targets = {"denied": {"port": 80, "request": request("GET", "/private")}}
    # what comes after a refused connect on the same socket is the kernel's own business
    ways = [way for way in evasions.ways(family) if way != "again_after_a_refusal"]
    found = attempts(ingress, pod, family, uid, targets, ways)
    wrong = {way: got for way, got in found["denied"].items() if got not in at_ingress(way, uid, plain)}
    assert wrong == {}


DIAL = """
import socket, sys
for line in sys.stdin.read().split():
    host, port, device = line.split(",")
    try:
        sock = socket.socket(socket.AF_INET6)
        sock.settimeout(2)
        sock.connect((host, int(port), 0, socket.if_nametoindex(device)))
        sock.sendall(b"GET /public HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n")
        print(sock.recv(4096).split()[1].decode())
    except OSError as error:
        print(type(error).__name__)
"""


def test_a_link_local_peer_is_nobody(ingress: Cluster) -> None:
    """From the pod beside and from the node's bridge: the way by which `[fe80::…]:80` reached the app."""
    web, near = link_local(ingress, "web"), link_local(ingress, "frontend-near")
    done = ingress.exec("frontend-near", sys.executable, "-c", DIAL, stdin=f"{web},80,eth0 {web},81,eth0")
    assert done.stdout.split() == ["ConnectionRefusedError"] * 2, done.stderr
    bridge = subprocess.run(  # noqa: S603  our own interpreter
        ["ip", "netns", "exec", node_netns(ingress.name, "node-b"), sys.executable, "-c", DIAL],  # noqa: S607  iproute2 is in PATH
        input=f"{web},80,cni0 {web},81,cni0",
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert bridge.stdout.split() == ["ConnectionRefusedError"] * 2, bridge.stderr
    # and the other direction is nobody's business: no policy selects frontend-near
    back = ingress.exec("web", sys.executable, "-c", DIAL, stdin=f"{near},4711,eth0")
    assert back.stdout.split() == ["ConnectionRefusedError"]


def test_the_node_itself_is_nobody(ingress: Cluster) -> None:
    host = ingress.pods()["web"]["ipv6"]
    done = subprocess.run(  # noqa: S603  our own interpreter
        ["ip", "netns", "exec", node_netns(ingress.name, "node-b"), sys.executable, "-c", DIAL],  # noqa: S607  iproute2 is in PATH
        input=f"{host},80,cni0 {host},81,cni0",
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.split() == ["ConnectionRefusedError"] * 2, done.stderr
