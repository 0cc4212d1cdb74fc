"""Connections that outlive their worker's or their policy's time: told or reset at the limit, and recorded."""

import json
import signal
from collections.abc import Iterator

import pytest

from redirect import netns, plumbing
from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, Record, cluster, eventually, kill

pytestmark = pytest.mark.root

# One request, then silence: prints when the connection ends and how.
SILENT = """
import socket, sys
with socket.create_connection((sys.argv[1], 80), timeout=60) as s:
    s.sendall(b"GET /public HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n")
    print(s.recv(65536).split(b" ", 2)[1].decode(), flush=True)
    try:
        print("end" if not s.recv(65536) else "more", flush=True)
    except ConnectionResetError:
        print("reset", flush=True)
"""


@pytest.fixture(scope="module")
def impatient_lab() -> Iterator[Cluster]:
    """A lab whose node-b drains for a second."""
    with cluster() as lab:
        path = lab.directory / "node-b" / "agent.yaml"
        settings = json.loads(path.read_text()) | {"drain_limit_s": 1.0, "drain_final_s": 1.0, "workers": 1}
        path.write_text(json.dumps(settings))
        restart(lab)
        assert eventually(lambda: len(lab.processes("node-b", "worker")) == 1)  # the earlier ones had no connection
        yield lab


@pytest.fixture
def impatient(impatient_lab: Cluster) -> Cluster:
    """The same with the example policy, showing no record from before."""
    impatient_lab.apply(EXAMPLES / "web-l7.yaml")
    impatient_lab.forget()
    return impatient_lab


def restart(lab: Cluster) -> None:
    (old,) = lab.processes("node-b", "agent")
    kill(old, signal.SIGTERM)
    assert eventually(lambda: lab.processes("node-b", "agent") not in ([], [old]) and bool(lab.node("node-b")["ready"]))


def drain_record(lab: Cluster) -> Record | None:
    return lab.find_record(lambda record: record["tulle"]["reason"] == "drain_limit", "--all")


def test_a_drained_worker_ends_its_silent_connections_at_the_limit(impatient: Cluster) -> None:
    client = impatient.start("frontend", "python3", "-c", SILENT, impatient.pods()["web"]["ipv4"])
    try:
        assert client.stdout is not None
        assert client.stdout.readline().strip() == "200"
        (old,) = impatient.processes("node-b", "worker")
        restart(impatient)
        assert client.stdout.readline().strip() == "reset"
        assert eventually(lambda: old not in impatient.processes("node-b", "worker"))
        assert drain_record(impatient) is not None
    finally:
        client.kill()
        client.communicate()


def test_a_pod_that_is_no_longer_selected_is_released_at_the_limit(impatient: Cluster) -> None:
    client = impatient.start("frontend", "python3", "-c", SILENT, impatient.pods()["web"]["ipv4"])
    try:
        assert client.stdout is not None
        assert client.stdout.readline().strip() == "200"
        impatient.delete_policies()
        assert client.stdout.readline().strip() == "reset"
        assert drain_record(impatient) is not None
        assert eventually(lambda: impatient.node("node-b")["endpoints"] == [])
        with netns.Netns.open(f"/run/netns/tulle_{impatient.name}_pod_default_web") as inside:
            assert plumbing.traces(inside) == []
    finally:
        client.kill()
        client.communicate()
