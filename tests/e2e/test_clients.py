"""Unmodified clients by IPv4, IPv6 by near, far by allowed, denied; and who is refused before a byte of HTTP."""

import json
import sys

import pytest

from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, eventually

pytestmark = pytest.mark.root

HTTPX = """
import httpx, sys
print(httpx.get(sys.argv[1], timeout=15).status_code)
"""
FETCH = """
fetch(process.argv[1]).then(a => console.log(a.status), e => { console.log(String(e.cause || e)); process.exit(1) })
"""
COMMANDS = {
    "curl": ["curl", "-s", "-o", "/dev/null", "-m", "15", "-w", "%{http_code}"],
    "wget": ["wget", "-q", "-S", "-O", "/dev/null", "-T", "15", "-t", "1"],
    "httpx": [sys.executable, "-c", HTTPX],
    "fetch": ["node", "-e", FETCH],
}


@pytest.fixture(scope="module")
def policed(shared_lab: Cluster) -> Cluster:
    shared_lab.delete_policies()
    shared_lab.apply(EXAMPLES / "web-l7.yaml")
    return shared_lab


@pytest.mark.parametrize("client", COMMANDS)
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("pod", ["frontend", "frontend-near"])
@pytest.mark.parametrize(("path", "status"), [("/public", "200"), ("/private", "403")])
def test_client(policed: Cluster, client: str, family: str, pod: str, path: str, status: str) -> None:
    address = policed.pods()["web"][family]
    host = f"[{address}]" if family == "ipv6" else address
    done = policed.exec(pod, *COMMANDS[client], f"http://{host}{path}")
    if client == "wget":
        assert f"HTTP/1.1 {status}" in done.stderr
        assert (done.returncode == 0) is (status == "200")
    else:
        assert done.stdout.strip() == status, done.stderr


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("pod", ["frontend", "frontend-near"])
def test_the_server_sees_the_pods_own_address_and_what_was_asked(policed: Cluster, family: str, pod: str) -> None:
    pods = policed.pods()
    flag = "-4" if family == "ipv4" else "-6"
    done = policed.exec(pod, "curl", "-s", flag, "-H", "X-Spelling: KePt", "http://web/public?b=2&a=1")
    seen = json.loads(done.stdout)
    assert seen["client"] == pods[pod][family]
    assert (seen["method"], seen["target"]) == ("GET", "/public?b=2&a=1")
    assert seen["headers"]["X-Spelling"] == "KePt"


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_the_client_sees_the_real_peer(policed: Cluster, family: str) -> None:
    address = policed.pods()["web"]["ipv4" if family == "-4" else "ipv6"]
    done = policed.exec("frontend", "curl", "-sv", family, "-o", "/dev/null", "http://web/public")
    assert f"Connected to web ({address}) port 80" in done.stderr


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_denial_is_a_403_that_says_so(policed: Cluster, family: str) -> None:
    done = policed.exec("frontend", "curl", "-si", family, "http://web/private")
    head, _, body = done.stdout.partition("\n\n")
    assert head.startswith("HTTP/1.1 403 ")
    assert "text/plain" in head
    assert body.encode() == b"Access denied\n"  # text mode turns the CRLF into LF


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_peer_that_no_rule_names_is_refused_when_it_connects(policed: Cluster, family: str) -> None:
    done = policed.exec("intruder", "curl", "-s", family, "-m", "10", "http://web/public")
    assert done.returncode == 7  # CURLE_COULDNT_CONNECT, a refusal; a time-out would be 28


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_port_that_no_rule_names_is_refused(policed: Cluster, family: str) -> None:
    done = policed.exec("frontend", "curl", "-s", family, "-m", "10", "http://web:81/public")
    assert done.returncode == 7


def test_the_pod_itself_is_left_alone(policed: Cluster) -> None:
    pods = policed.pods()
    for host in ("127.0.0.1", "[::1]", pods["web"]["ipv4"], f"[{pods['web']['ipv6']}]"):
        assert policed.curl("web", f"http://{host}/private") == 200


def test_egress_rules_are_enforced_at_the_client(lab: Cluster) -> None:
    lab.apply(EXAMPLES / "frontend-egress.yaml")
    for pod in ("frontend", "frontend-near"):
        for family in ("-4", "-6"):
            assert lab.curl(pod, "http://web/anything", family) == 200
            assert lab.curl(pod, "http://web/anything", family, "-X", "POST") == 403
            done = lab.exec(pod, "curl", "-sv", family, "-m", "10", "http://web:81/")
            assert done.returncode == 7
            assert "permission denied" in done.stderr.lower() or "not permitted" in done.stderr.lower(), done.stderr
    assert lab.curl("intruder", "http://web/anything", "-X", "POST") == 200  # no policy selects it


@pytest.mark.parametrize("pod", ["frontend", "frontend-near"])
def test_both_ends_enforce_once_each(lab: Cluster, pod: str) -> None:
    lab.apply(EXAMPLES / "frontend-egress.yaml", EXAMPLES / "web-l7.yaml")
    pods = lab.pods()
    seen = json.loads(lab.exec(pod, "curl", "-s", "http://web/public").stdout)
    assert seen["client"] in (pods[pod]["ipv4"], pods[pod]["ipv6"])
    assert lab.curl(pod, "http://web/private") == 403  # egress allows any GET, ingress does not
    assert lab.curl(pod, "http://web/orders", "-X", "POST") == 403  # ingress allows it, egress does not

    def directions() -> list[str]:
        return sorted(
            record["flow"]["traffic_direction"]
            for record in lab.observe("--http-path", "/public", "--last", "2", "--from-pod", pod)
            if record["flow"]["l7"]["http"]["code"] == 200
        )

    assert eventually(lambda: directions() == ["EGRESS", "INGRESS"]), directions()
