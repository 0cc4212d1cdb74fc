"""Every limit of the proxy, crossed on a live connection: what the client gets, and the record of it.

The times are made small in the node's agent.yaml; sizes are the defaults.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import raw, upstream
from tests.helpers.cluster import Cluster, Record, cluster, eventually, kill

pytestmark = pytest.mark.root

LIMITS = {"idle_s": 2.0, "head_read_s": 1.5, "connect_s": 1.0, "connections_per_endpoint": 20}
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: limited, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
      toPorts:
        - ports: [{port: "8080", protocol: TCP}, {port: "8081", protocol: TCP}]
          rules: {http: [{method: GET, path: "/public([/?].*)?"}]}
"""
HEAD = "GET /public HTTP/1.1\r\nHost: web\r\n"
DEAF = """
import socket, time
listener = socket.create_server(("::", 8081), family=socket.AF_INET6, dualstack_ipv6=True, backlog=0)
held = []
for _ in range(4):  # fills the queue: whoever comes now gets no answer to its SYN
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", 8081))
    held.append(sock)
time.sleep(0.2)
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A lab whose node-b has small limits, with a server on 8080 and one on 8081 that takes no connection."""
    with cluster() as lab:
        config = lab.directory / "node-b" / "agent.yaml"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"limits": LIMITS}))
        old = set(lab.processes("node-b", "worker"))
        (agent,) = lab.processes("node-b", "agent")
        kill(agent)
        assert eventually(lambda: lab.node("node-b")["ready"] and not old & set(lab.processes("node-b", "worker")), 30)
        log = tmp_path_factory.mktemp("upstream") / "log"
        server = lab.start("web", sys.executable, str(upstream.__file__), "8080", str(log))
        deaf = lab.start("web", sys.executable, "-c", DEAF)
        try:
            assert deaf.stdout is not None
            assert deaf.stdout.readline() == "ready\n"
            assert eventually(log.exists)
            lab.apply(POLICY)
            yield lab
        finally:
            for process in (server, deaf):
                process.kill()
                process.communicate()


def send(lab: Cluster, *cases: list[Any], port: int = 8080, wait: float = 5.0) -> list[Record]:
    """Send the pieces of each case from frontend on a connection of its own."""
    host = lab.pods()["web"]["ipv4"]
    spec = [{"host": host, "port": port, "pieces": pieces, "wait": wait} for pieces in cases]
    done = lab.exec("frontend", sys.executable, str(Path(raw.__file__)), stdin=json.dumps(spec))
    assert done.returncode == 0, done.stderr
    found: list[Record] = json.loads(done.stdout)
    return found


def reasons(lab: Cluster, result: Record, port: int = 8080, at_least: int = 1) -> list[tuple[str, str, str]]:
    """(verdict, rule, reason) of a connection's records, once there are that many; a reply has its ends swapped."""
    found: list[tuple[str, str, str]] = []

    def look() -> bool:
        found[:] = [
            (record["flow"]["verdict"], record["tulle"]["rule"], record["tulle"]["reason"])
            for record in lab.observe("--since", "1m", "--all")
            if set(record["flow"].get("l4", {}).get("TCP", {}).values()) == {result["port"], port}
        ]
        return len(found) >= at_least

    assert eventually(look, 5.0)
    return found


def outcomes(lab: Cluster, result: Record, port: int = 8080) -> list[tuple[str, str]]:
    """(verdict, reason without the rule it names) of the records of a connection."""
    return [(verdict, reason.partition("/")[0]) for verdict, _, reason in reasons(lab, result, port, at_least=2)]


def count(lab: Cluster, name: str) -> int:
    """A counter of all workers of node-b."""
    return sum(p["counters"][name] for p in lab.node("node-b")["processes"] if p["role"] == "worker")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (HEAD + "X-A: " + "a" * 16384 + "\r\n\r\n", "head_too_long"),
        (HEAD + "X-A: " + "a" * 17000, "head_too_long"),  # without an end
        (HEAD + "X-A: b\r\n" * 100 + "\r\n", "too_many_fields"),  # and Host
    ],
)
def test_head(limited: Cluster, head: str, reason: str) -> None:
    before = count(limited, "limit_head")
    (result,) = send(limited, [head])
    assert result["answer"].startswith("HTTP/1.1 431 ")
    assert result["end"] == "eof"
    assert reasons(limited, result) == [("DROPPED", "tulle:limit", reason)]
    assert count(limited, "limit_head") == before + 1


def test_just_below_the_limits_of_a_head(limited: Cluster) -> None:
    fill = 16384 - len(HEAD) - len("X-A: \r\n\r\n")
    long, many = send(
        limited, [HEAD + "X-A: " + "a" * fill + "\r\n\r\n"], [HEAD + "X-A: b\r\n" * 99 + "\r\n"], wait=1.0
    )
    assert long["answer"].startswith("HTTP/1.1 200 ")
    assert many["answer"].startswith("HTTP/1.1 200 ")


def test_time_of_a_head(limited: Cluster) -> None:
    """A byte now and then does not keep it alive."""
    before = count(limited, "limit_head_time")
    (result,) = send(limited, [piece for octet in HEAD[:20] for piece in (octet, 0.15)])
    assert result["answer"].startswith("HTTP/1.1 408 ")
    assert reasons(limited, result) == [("DROPPED", "tulle:limit", "limit_head_time")]
    assert count(limited, "limit_head_time") == before + 1


def test_idle_before_and_between_requests(limited: Cluster) -> None:
    before = count(limited, "limit_idle")
    silent, kept = send(limited, [], [HEAD + "\r\n"])
    assert (silent["answer"], silent["end"]) == ("", "eof")
    assert kept["answer"].startswith("HTTP/1.1 200 ")
    assert kept["end"] == "eof"
    assert reasons(limited, silent) == [("DROPPED", "tulle:limit", "limit_idle")]
    assert [reason for _, _, reason in reasons(limited, kept, at_least=2)][-1] == "limit_idle"
    assert count(limited, "limit_idle") == before + 2


def test_a_server_that_does_not_answer(limited: Cluster) -> None:
    (result,) = send(limited, ["GET /public/answer/slow HTTP/1.1\r\nHost: web\r\n\r\n"], wait=8.0)
    assert result["answer"].startswith("HTTP/1.1 504 ")
    assert outcomes(limited, result) == [("FORWARDED", "allowed by default"), ("ERROR", "upstream_timeout")]


def test_a_body_that_does_not_come(limited: Cluster) -> None:
    (result,) = send(limited, [HEAD + "Content-Length: 10\r\n\r\nhalf"])
    assert result["end"] in ("eof", "reset")
    assert not result["answer"].startswith("HTTP/1.1 403 ")


def test_a_server_that_takes_no_connection(limited: Cluster) -> None:
    before = count(limited, "limit_connect")
    (result,) = send(limited, [HEAD + "\r\n"], port=8081)
    assert result["answer"].startswith("HTTP/1.1 504 ")
    expected = [("FORWARDED", "allowed by default"), ("ERROR", "upstream_connect_timeout")]
    assert outcomes(limited, result, 8081)[:2] == expected  # then it stays open until it is idle for too long
    assert count(limited, "limit_connect") == before + 1


def test_connections_of_a_pod(limited: Cluster) -> None:
    before = count(limited, "limit_connections")
    results = send(limited, *([HEAD + "\r\n"] for _ in range(100)), wait=1.0)
    served = [result for result in results if result["answer"].startswith("HTTP/1.1 200 ")]
    refused = [result for result in results if result["answer"].startswith("HTTP/1.1 503 ")]
    assert len(served) + len(refused) == 100
    assert 0 < len(served) <= LIMITS["connections_per_endpoint"]  # both workers together
    assert count(limited, "limit_connections") == before + len(refused)
    assert reasons(limited, refused[0]) == [("DROPPED", "tulle:limit", "limit_connections")]
    assert eventually(lambda: limited.curl("frontend", "http://web:8080/public") == 200)
