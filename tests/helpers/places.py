"""Peers of a lab that are no pods: a node's own processes, and a host outside of the cluster; and datagrams."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import confine, names
from tests.helpers.cluster import Cluster

OUTSIDE_IPV4, OUTSIDE_IPV6 = "172.30.0.250", "fd00:172:30::250"

# Prints what came back, or what went wrong: EPERM (refused here), refused (refused there), silence.
ASK_UDP = """
import socket, sys
how, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(0.7)
    try:
        if how == "connect":
            s.connect((host, port))
            s.send(b"hello")
        elif how == "sendmsg":
            s.sendmsg([b"hel", b"lo"], [], 0, (host, port))
        else:
            s.sendto(b"hello", (host, port))
        print(s.recv(100).decode())
    except TimeoutError:
        print("silence")
    except ConnectionRefusedError:
        print("refused")
    except PermissionError:
        print("EPERM")
"""
# Sends every datagram back to where it came from; says a line when it is there.
ECHO_UDP = """
import socket, sys, threading
def serve(port):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(("::", port))
    print(flush=True)
    while True:
        data, peer = s.recvfrom(2000)
        try:
            s.sendto(data, peer)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
for port in map(int, sys.argv[1:]):
    threading.Thread(target=serve, args=(port,), daemon=True).start()
sys.stdin.read()
"""
# Prints what a TCP connection gets: the status of one GET, EPERM, refused, silence.
ASK_TCP = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
path = sys.argv[3] if len(sys.argv) > 3 else "/x"
try:
    with socket.create_connection((host, port), timeout=2) as s:
        s.sendall(f"GET {path} HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n".encode())
        answer = s.recv(65536)
        print(answer.split(b" ", 2)[1].decode() if answer else "closed")
except TimeoutError:
    print("silence")
except (ConnectionRefusedError, ConnectionResetError):
    print("refused")
except PermissionError:
    print("EPERM")
"""


def udp(lab: Cluster, pod: str, to: str, port: int, *, how: str = "sendto", family: str = "ipv4") -> str:
    """What a datagram from a pod to a pod brings back."""
    done = lab.python(pod, ASK_UDP, how, lab.address(to, family), str(port))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def tcp(lab: Cluster, pod: str, to: str, port: int = 80, *, path: str = "/x", family: str = "ipv4") -> str:
    """What one request of a process of a pod gets."""
    done = lab.python(pod, ASK_TCP, lab.address(to, family), str(port), path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def echoing(lab: Cluster, pod: str, *ports: int) -> Iterator[None]:
    """UDP ports of a pod that echo, both families."""
    child = lab.start(pod, sys.executable, "-c", ECHO_UDP, *map(str, ports))
    try:
        assert child.stdout is not None
        for _ in ports:
            child.stdout.readline()
        yield
    finally:
        child.kill()
        child.communicate()


def on_node(lab: Cluster, node: str, *command: str) -> str:
    """Run a command as a process of a node: in its network namespace and below its root of cgroups, where no pod is."""
    cgroup = names.node_cgroup(lab.name, node) / "processes"
    cgroup.mkdir(exist_ok=True)

    def enter() -> None:
        confine.join_cgroup(str(cgroup))
        confine.join_netns(str(names.NETNS_ROOT / names.node_netns(lab.name, node)))

    done = subprocess.run(  # noqa: S603  our own commands
        command,
        preexec_fn=enter,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def from_node(lab: Cluster, node: str, to: str, port: int = 80, *, path: str = "/x", family: str = "ipv4") -> str:
    """What one request of a process of a node gets."""
    return on_node(lab, node, sys.executable, "-c", ASK_TCP, lab.address(to, family), str(port), path)


def in_netns(name: str, *command: str) -> str:
    """Run a command in a named network namespace."""
    done = subprocess.run(["ip", "netns", "exec", name, *command], capture_output=True, text=True, check=False)  # noqa: S603, S607  fixed
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def outside(lab: Cluster) -> Iterator[str]:
    """A host on the underlay that is no node: gives its network namespace. It routes to pods by their nodes,
    and answers pods, as nothing masquerades here."""
    netns = names.underlay_netns(lab.name)
    record = lab.record()
    in_netns(netns, "ip", "address", "replace", f"{OUTSIDE_IPV4}/24", "dev", "underlay0")
    in_netns(netns, "ip", "address", "replace", f"{OUTSIDE_IPV6}/64", "dev", "underlay0", "nodad")
    for node in record["nodes"]:
        in_netns(netns, "ip", "route", "replace", node["subnet_ipv4"], "via", node["underlay_ipv4"])
        in_netns(netns, "ip", "-6", "route", "replace", node["subnet_ipv6"], "via", node["underlay_ipv6"])
    try:
        yield netns
    finally:
        in_netns(netns, "ip", "address", "flush", "dev", "underlay0", "scope", "global")


def from_outside(lab: Cluster, to: str, port: int = 80, *, path: str = "/x", family: str = "ipv4") -> str:
    """What one request from a host outside of the cluster gets; inside `outside`."""
    netns = names.underlay_netns(lab.name)
    return in_netns(netns, sys.executable, "-c", ASK_TCP, lab.address(to, family), str(port), path)


@contextmanager
def masqueraded(lab: Cluster, node: str, source: str) -> Iterator[None]:
    """What a pod sends to pods of that node gets the node's own address there, as kube-proxy does with some traffic."""
    netns = names.node_netns(lab.name, node)
    rules = f"""
        table inet masquerade_test {{
            chain after {{
                type nat hook postrouting priority 100; policy accept;
                ip saddr {lab.address(source)} oifname "cni0" masquerade
            }}
        }}"""
    in_netns(netns, "nft", rules)
    try:
        yield
    finally:
        in_netns(netns, "nft", "delete table inet masquerade_test")


def inventory_file(lab: Cluster, node: str) -> Path:
    """The inventory that a node's agent follows."""
    return lab.directory / node / "inventory.json"


def replace_file(path: Path, text: str) -> None:
    """Write so that a reader sees all or nothing."""
    fresh = path.with_name(f".{path.name}.test")
    fresh.write_text(text)
    os.replace(fresh, path)  # noqa: PTH105  the same
