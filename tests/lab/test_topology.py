"""The network that `lab up` makes, looked at with ip(8), and used."""

import json
import subprocess
from pathlib import Path

import pytest

from lab import names
from tests.lab.helpers import LabUnderTest

pytestmark = pytest.mark.root


def ip(netns: str, *arguments: str) -> list[dict[str, object]]:
    done = subprocess.run(["ip", "-n", netns, "-d", "-j", *arguments], capture_output=True, check=True)  # noqa: S603, S607 - ip(8) from PATH
    answer = json.loads(done.stdout or b"[]")
    assert isinstance(answer, list)
    return answer


def text(netns: str, *command: str) -> str:
    done = subprocess.run(  # noqa: S603 - ip(8) from PATH
        ["ip", "netns", "exec", netns, *command],  # noqa: S607 - as above
        capture_output=True,
        check=True,
    )
    return done.stdout.decode()


def test_flannel_device_has_flannels_shape(bare: LabUnderTest) -> None:
    node = names.node_netns(bare.name, "node-a")
    (device,) = ip(node, "link", "show", "flannel.1")
    info = device["linkinfo"]
    assert isinstance(info, dict)
    assert device["mtu"] == 1450
    assert "UP" in str(device["flags"])
    assert info["info_kind"] == "vxlan"
    data = info["info_data"]
    assert (data["id"], data["port"], data["learning"], data["local"], data["link"]) == (
        1,
        8472,
        False,
        "172.30.0.1",
        "eth0",
    )
    assert "inet 10.244.0.0/32 scope global flannel.1" in text(node, "ip", "address", "show", "flannel.1")


def test_one_route_neighbour_and_forwarding_entry_per_remote_node(bare: LabUnderTest) -> None:
    node, far = names.node_netns(bare.name, "node-a"), names.node_netns(bare.name, "node-b")
    (device,) = ip(far, "link", "show", "flannel.1")
    mac = device["address"]
    assert text(node, "ip", "route", "show", "dev", "flannel.1").split("\n")[:-1] == [
        "10.244.1.0/24 via 10.244.1.0 proto static onlink "
    ]
    assert text(node, "ip", "neigh", "show", "dev", "flannel.1").split("\n")[:-1] == [
        f"10.244.1.0 lladdr {mac} PERMANENT "
    ]
    assert text(node, "bridge", "fdb", "show", "dev", "flannel.1").split("\n")[:-1] == [
        f"{mac} dst 172.30.0.2 self permanent"
    ]


def test_ipv6_overlay(bare: LabUnderTest) -> None:
    node = names.node_netns(bare.name, "node-b")
    assert "fd00:10:244::/64 via fd00:10:244:: dev flannel-v6.1" in text(node, "ip", "-6", "route")
    # Asked for 1450; the kernel subtracts what an IPv6 tunnel takes from the underlay's 1500.
    assert ip(node, "link", "show", "flannel-v6.1")[0]["mtu"] == 1430


def test_pod_interface(bare: LabUnderTest) -> None:
    pod = names.pod_netns(bare.name, "default", "web")
    (link,) = ip(pod, "link", "show", "eth0")
    assert link["mtu"] == 1450
    assert [route["gateway"] for route in ip(pod, "route", "show", "default")] == ["10.244.1.1"]
    assert "default via fd00:10:244:1::1 dev eth0" in text(pod, "ip", "-6", "route")
    (bridge_port,) = [
        port for port in ip(names.node_netns(bare.name, "node-b"), "link") if port["ifindex"] == link["link_index"]
    ]
    assert bridge_port["master"] == "cni0"


def test_nothing_of_it_is_in_the_machines_own_namespace(bare: LabUnderTest) -> None:
    here = subprocess.run(["ip", "-br", "link"], capture_output=True, check=True).stdout.decode()  # noqa: S607 - ip(8) from PATH
    assert "cni0" not in here
    assert "flannel" not in here


def test_addresses_are_usable_at_once(bare: LabUnderTest) -> None:
    pod = names.pod_netns(bare.name, "default", "frontend")
    assert "tentative" not in text(pod, "ip", "-6", "address")


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("client", ["frontend", "frontend-near", "intruder", "web"])
def test_every_pod_reaches_web_with_its_own_address(bare: LabUnderTest, client: str, family: str) -> None:
    address = bare.pod("web")[family]
    host = f"[{address}]" if family == "ipv6" else address
    assert bare.get(client, f"http://{host}/")["client"] == bare.pod(client)[family]


@pytest.mark.parametrize("name", ["web", "web.default"])
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_pods_find_each_other_by_name(bare: LabUnderTest, name: str, family: str) -> None:
    assert bare.get("frontend", f"http://{name}/x", family)["target"] == "/x"


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_bulk_crosses_the_overlay(bare: LabUnderTest, family: str) -> None:
    # Full segments: IPv6 must learn the tunnel's smaller MTU from the node.
    size = bare.output("frontend", "curl", family, "-s", "-o", "/dev/null", "-w", "%{size_download}",
                       "--max-time", "20", "http://web/?bytes=20000000")  # fmt: skip
    assert int(size) > 20_000_000


def test_ten_thousand_connections_of_one_client(bare: LabUnderTest) -> None:
    script = (
        "import resource, socket\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "held = [socket.create_connection(('web', 80)) for _ in range(10000)]\n"
        "for sock in held[::1000]:\n"
        "    sock.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n')\n"
        "    assert sock.recv(15) == b'HTTP/1.1 200 OK'\n"
        "print(len(held))\n"
    )
    assert bare.output("frontend", "python3", "-c", script) == "10000\n"


def test_an_unknown_name_fails_at_once(bare: LabUnderTest) -> None:
    assert bare.exec("frontend", "curl", "-s", "--max-time", "5", "http://nowhere/").returncode == 6


def test_pods_have_cgroups_of_their_own_below_their_node(bare: LabUnderTest) -> None:
    here = bare.output("frontend", "cat", "/proc/self/cgroup").splitlines()[-1]
    assert here == f"0::/tulle-lab/{bare.name}/node-a/pods/default_frontend"
    assert Path("/sys/fs/bpf/tulle", bare.name, "node-a").is_dir()
