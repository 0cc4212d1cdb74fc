"""Requests that are refused before a rule looks at them: the record says which they were, and nothing secret."""

import pytest

from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, Record

pytestmark = pytest.mark.root

SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 80), timeout=10) as s:
    s.sendall(sys.argv[2].encode().decode("unicode_escape").encode("latin-1"))
    print(s.recv(65536).split(b" ", 2)[1].decode())
"""


@pytest.fixture(scope="module")
def policed(shared_lab: Cluster) -> Cluster:
    shared_lab.delete_policies()
    shared_lab.apply(EXAMPLES / "web-l7.yaml")
    return shared_lab


@pytest.mark.parametrize(
    ("request_bytes", "status", "method", "url"),
    [
        (r"GET /public/..%2fx1 HTTP/1.1\r\nHost: web\r\n\r\n", 400, "GET", "http://web/public/..%2fx1"),
        (r"GET /x2/%zz?a=secret HTTP/1.1\r\nHost: web\r\n\r\n", 400, "GET", "http://web/x2/%zz?a=***"),
        (r"GET /../x3 HTTP/1.1\r\nHost: web\r\n\r\n", 400, "GET", "http://web/../x3"),
        (r"CONNECT x4:443 HTTP/1.1\r\nHost: x4:443\r\n\r\n", 405, "CONNECT", "http://x4:443"),
        (r"GET /x5 HTTP/1.0\r\n\r\n", 403, "GET", "http://{address}:80/x5"),
        (r"GET /x6 HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nsecret", 400, "", None),
    ],
)
def test_the_record_of_a_refused_request(
    policed: Cluster, request_bytes: str, status: int, method: str, url: str | None
) -> None:
    address = policed.pods()["web"]["ipv4"]
    before = {record["flow"]["uuid"] for record in policed.observe("--http-status", str(status), "--all")}
    done = policed.python("frontend", SEND, address, request_bytes)
    assert done.stdout.strip() == str(status), done.stderr

    def fresh(record: Record) -> bool:
        return record["flow"]["uuid"] not in before

    record = policed.find_record(fresh, "--http-status", str(status), "--all")
    assert record is not None
    assert record["flow"]["verdict"] == "DROPPED"
    assert record["tulle"]["rule"]
    http = record["flow"]["l7"]["http"]
    assert http.get("method", "") == method
    if url is not None:
        assert http["url"] == url.format(address=address)
    assert "secret" not in str(record)
