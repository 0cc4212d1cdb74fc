"""Hostile HTTP through the real proxy: no forbidden request reaches the server, and each refusal has its record.

The server of these tests (tests/helpers/upstream.py) keeps every byte and takes requests apart in the most careless
way, so what was smuggled would show as a request of its own. The policy allows `GET /public` and what is below it.

The corpora are sent to both paths: with the recogniser, and to an agent that was told to do without it.
"""

import json
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import raw, upstream
from tests.helpers.cluster import Cluster, Record, eventually, kill

pytestmark = pytest.mark.root

PORT = 8080
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: only-public, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
      toPorts:
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{method: GET, path: "/public([/?].*)?"}]}
"""
FORBIDDEN = "GET /secret HTTP/1.1\r\nHost: web\r\n\r\n"
ALLOWED = "GET /public HTTP/1.1\r\nHost: web\r\n"
CHUNKED = ALLOWED + "Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = ALLOWED + "Connection: Upgrade\r\nUpgrade: "

# Refused: the bytes (a forbidden request behind most), the status, and the reason of the record.
REFUSED: dict[str, tuple[str, int, str]] = {
    "length and coding": (
        ALLOWED + f"Content-Length: {5 + len(FORBIDDEN)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + FORBIDDEN,
        400,
        "length_and_coding",
    ),
    "coding and length": (
        ALLOWED
        + f"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{len(FORBIDDEN):x}\r\n{FORBIDDEN}\r\n0\r\n\r\n",
        400,
        "length_and_coding",
    ),
    "two codings": (
        ALLOWED + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + FORBIDDEN,
        400,
        "bad_transfer_coding",
    ),
    "unknown coding": (
        ALLOWED + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + FORBIDDEN,
        501,
        "bad_transfer_coding",
    ),
    "coding with a tail": (
        ALLOWED + "Transfer-Encoding:\tchunked, \r\n\r\n0\r\n\r\n" + FORBIDDEN,
        501,
        "bad_transfer_coding",
    ),
    "space before colon": (
        ALLOWED + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + FORBIDDEN,
        400,
        "space_before_colon",
    ),
    "coding in HTTP/1.0": (
        "GET /public HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + FORBIDDEN,
        400,
        "coding_in_http10",
    ),
    "folded": (ALLOWED + "X-A: b\r\n c\r\n\r\n" + FORBIDDEN, 400, "obs_fold"),
    "folded coding": (ALLOWED + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + FORBIDDEN, 400, "obs_fold"),
    "bare LF": ("GET /public HTTP/1.1\nHost: web\n\n" + FORBIDDEN, 400, "bare_lf"),
    "bare LF in a field": (ALLOWED + "X-A: b\nX-C: d\r\n\r\n" + FORBIDDEN, 400, "bare_lf"),
    "bare CR": (ALLOWED + "X-A: b\rGET /secret HTTP/1.1\r\n\r\n", 400, "bare_cr"),
    "NUL in a field": (ALLOWED + "X-A: b\0c\r\n\r\n" + FORBIDDEN, 400, "nul"),
    "NUL in the target": ("GET /public\0 HTTP/1.1\r\nHost: web\r\n\r\n" + FORBIDDEN, 400, "nul"),
    "two lengths": (
        ALLOWED + f"Content-Length: 0\r\nContent-Length: {len(FORBIDDEN)}\r\n\r\n" + FORBIDDEN,
        400,
        "two_lengths",
    ),
    "two equal lengths": (ALLOWED + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n" + FORBIDDEN, 400, "two_lengths"),
    "list of lengths": (ALLOWED + f"Content-Length: 0, {len(FORBIDDEN)}\r\n\r\n" + FORBIDDEN, 400, "bad_length"),
    "signed length": (ALLOWED + "Content-Length: +5\r\n\r\nhello" + FORBIDDEN, 400, "bad_length"),
    "hex length": (ALLOWED + "Content-Length: 0x5\r\n\r\nhello" + FORBIDDEN, 400, "bad_length"),
    "length with underscore": (ALLOWED + "Content-Length: 1_0\r\n\r\n" + FORBIDDEN, 400, "bad_length"),
    "length beyond all": (ALLOWED + f"Content-Length: {10**25}\r\n\r\n" + FORBIDDEN, 400, "bad_length"),
    "chunk size with 0x": (CHUNKED + "0x5\r\nhello\r\n0\r\n\r\n" + FORBIDDEN, 400, "bad_chunk_size"),
    "negative chunk": (CHUNKED + "-5\r\nhello\r\n0\r\n\r\n" + FORBIDDEN, 400, "bad_chunk_size"),
    "chunk beyond all": (CHUNKED + "f" * 17 + "\r\nhello\r\n0\r\n\r\n" + FORBIDDEN, 400, "bad_chunk_size"),
    "chunk ended by LF": (CHUNKED + "5\nhello\n0\n\n" + FORBIDDEN, 400, "bare_lf"),
    "LF in an extension": (CHUNKED + "5;a\nb\r\nhello\r\n0\r\n\r\n" + FORBIDDEN, 400, "bare_lf"),
    "chunk longer than said": (CHUNKED + "2\r\nhello\r\n0\r\n\r\n" + FORBIDDEN, 400, "bad_chunk_end"),
    "Host in a trailer": (CHUNKED + "0\r\nHost: evil\r\n\r\n" + FORBIDDEN, 400, "bad_trailer"),
    "length in a trailer": (CHUNKED + "0\r\nContent-Length: 9\r\n\r\n" + FORBIDDEN, 400, "bad_trailer"),
    "two hosts": (ALLOWED + "Host: evil\r\n\r\n", 400, "two_hosts"),
    "no host": ("GET /public HTTP/1.1\r\n\r\n" + FORBIDDEN, 400, "no_host"),
    "another host in absolute form": ("GET http://evil/public HTTP/1.1\r\nHost: web\r\n\r\n", 400, "host_differs"),
    "userinfo": ("GET http://web@evil/public HTTP/1.1\r\nHost: web\r\n\r\n", 400, "bad_target"),
    "authority in the path": ("GET web:80/public HTTP/1.1\r\nHost: web\r\n\r\n", 400, "bad_target"),
    "another scheme": ("GET ftp://web/public HTTP/1.1\r\nHost: web\r\n\r\n", 400, "bad_target"),
    "CONNECT": ("CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n" + FORBIDDEN, 405, "connect_refused"),
    "HTTP/2 preface": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505, "bad_version"),
    "HTTP/0.9": ("GET /secret\r\n\r\n", 400, "bad_request_line"),
    "HTTP/1.2": ("GET /public HTTP/1.2\r\nHost: web\r\n\r\n" + FORBIDDEN, 505, "bad_version"),
    "two spaces": ("GET  /public HTTP/1.1\r\nHost: web\r\n\r\n" + FORBIDDEN, 400, "bad_request_line"),
    "space in the target": ("GET /public /secret HTTP/1.1\r\nHost: web\r\n\r\n", 400, "bad_request_line"),
    "obfuscated expectation": (
        ALLOWED + "Content-Length: 5\r\nExpect: y 100-continue\r\n\r\n" + FORBIDDEN,
        417,
        "bad_expect",
    ),
    "Connection hides a field": (ALLOWED + "Connection: Host\r\n\r\n" + FORBIDDEN, 400, "bad_connection_option"),
}
PATHS_400 = {
    "/public/..%2fsecret": "encoded_separator",
    "/public%2f..%2fsecret": "encoded_separator",
    "/public/%5c..%5csecret": "encoded_separator",
    "/public%00/secret": "encoded_separator",
    "/public/..;/secret": "dot_segment_parameter",
    "/public/.;/../secret": "dot_segment_parameter",
    "/public/%2e%2e%3b/secret": "dot_segment_parameter",
    "/public//../secret": "ambiguous_dots",
    "/public/%252e%252e/secret": "double_encoding",
    "/public/%25252e%25252e/secret": "double_encoding",
    "/public/%c0%ae%c0%ae/secret": "overlong_utf8",
    "/public/..\\secret": "backslash_in_path",
    "/../secret": "above_root",
    "/public%3f/../../secret": "above_root",
    "/public#/../secret": "fragment_in_target",
    "/public/%zz": "bad_percent",
}
PATHS_403 = (
    "/secret",
    "/public/../secret",
    "//secret",
    "/public/%2e%2e/secret",
    "/./public/./../secret",
    "/public/x/../../secret",
    "/%73ecret",
    "/PUBLIC",
    "/publicx",
    "/public;x",
    "/secret?/public",
    "/secret/public/",
    "http://web/secret",
    "http://web/public/../secret",
)
# What a malicious server answers, and what the client gets for it.
ANSWERS_502 = {
    "switch": "upgrade_refused",
    "two-lengths": "two_lengths",
    "length-and-coding": "length_and_coding",
    "bare-lf": "bare_lf",
    "fold": "obs_fold",
    "nul": "nul",
    "cr-in-value": "bare_cr",
    "not-http": "bad_status_line",
    "http09": "closed_early",
    "http2": "bad_status_line",
    "status": "bad_status_line",
    "head-too-long": "head_too_long",
    "fields": "too_many_fields",
    "nothing": "upstream_closed",
    "no-content": "framing_without_body",
}


class Target:
    """The server's side and the client's side of these tests."""

    def __init__(self, lab: Cluster, log: Path) -> None:
        self._lab = lab
        self._log = log
        self._pods = lab.pods()
        self._begin = 0
        self._since = ""

    def recognise(self, wanted: bool) -> None:
        """Restart the agent of the server's node with this setting; its new workers have it."""
        lab = self._lab
        path = lab.directory / "node-b" / "agent.yaml"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"limits": {"recognise": wanted}}))
        (old,) = lab.processes("node-b", "agent")
        kill(old, signal.SIGTERM)
        assert eventually(lambda: lab.processes("node-b", "agent") not in ([], [old]))
        assert eventually(lambda: bool(lab.node("node-b")["ready"]))

    def forget(self) -> None:
        """Let what the server has seen so far count no more, nor records: client ports come again."""
        self._begin = len(self._log.read_text())
        self._since = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")

    def send(self, *cases: list[Any], pod: str = "frontend", family: str = "ipv4", wait: float = 1.0) -> list[Record]:
        """Send the pieces of each case on a connection of its own; gives `raw.run`'s results."""
        host = self._pods["web"][family]
        spec = [{"host": host, "port": PORT, "pieces": pieces, "wait": wait} for pieces in cases]
        done = self._lab.exec(pod, sys.executable, str(raw.__file__), stdin=json.dumps(spec))
        assert done.returncode == 0, done.stderr
        found: list[Record] = json.loads(done.stdout)
        return found

    def lines(self) -> list[str]:
        """Request lines that the server saw, in the most careless reading."""
        return [entry["line"] for entry in self._entries() if "line" in entry]

    def connections(self) -> list[str]:
        """All bytes of each connection that ended."""
        return [entry["bytes"] for entry in self._entries() if "bytes" in entry]

    def _entries(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self._log.read_text()[self._begin :].splitlines()]

    def records(self, results: list[Record]) -> list[list[Record]]:
        """The records of each of these connections, request records alone, once every one has any."""
        found: list[list[Record]] = []

        def look() -> bool:
            by_port: dict[int, list[Record]] = {}
            for record in self._lab.observe("--since", "2m", "--all"):
                if record["time"] < self._since:
                    continue
                if record["flow"].get("l4", {}).get("TCP", {}).get("destination_port") == PORT:
                    by_port.setdefault(record["flow"]["l4"]["TCP"]["source_port"], []).append(record)
            found[:] = [by_port.get(result["port"], []) for result in results]
            return all(found)

        assert eventually(look, 5.0), [result for result, records in zip(results, found, strict=True) if not records]
        return found


@pytest.fixture(scope="module")
def prepared(shared_lab: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    log = tmp_path_factory.mktemp("upstream") / "log"
    shared_lab.delete_policies()
    server = shared_lab.start("web", sys.executable, str(upstream.__file__), str(PORT), str(log))
    try:
        assert eventually(log.exists)
        shared_lab.apply(POLICY)
        yield Target(shared_lab, log)
    finally:
        server.kill()
        server.communicate()
        shared_lab.delete_policies()


@pytest.fixture
def target(prepared: Target) -> Target:
    prepared.forget()
    return prepared


@pytest.fixture(scope="module", params=[True, False], ids=["recognised", "strict"])
def recognise(prepared: Target, request: pytest.FixtureRequest) -> Iterator[bool]:
    wanted: bool = request.param
    if not wanted:
        prepared.recognise(wanted)
    yield wanted
    if not wanted:
        prepared.recognise(True)


def statuses(result: Record) -> list[int]:
    """Statuses of the responses in an answer, in order; their bodies hold none."""
    return [int(part[:3]) for part in result["answer"].split("HTTP/1.1 ")[1:]]


def outcome(record: Record) -> tuple[str, int, str]:
    """Verdict, status (0 where the record has none) and reason."""
    flow = record["flow"]
    return flow["verdict"], flow.get("l7", {}).get("http", {}).get("code", 0), record["tulle"]["reason"]


def test_both_paths_are_met(target: Target, recognise: bool) -> None:
    """A body in chunks goes on as it came, or is framed anew: that is how one can tell."""
    before = len(target.connections())
    (result,) = target.send([CHUNKED + "1\r\na\r\n1\r\nb\r\n0\r\n\r\n"])
    assert statuses(result)[0] == 200
    assert eventually(lambda: len(target.connections()) > before)
    (seen,) = target.connections()[before:]
    assert ("1\r\na\r\n1\r\nb\r\n" in seen) is recognise
    assert ("2\r\nab\r\n" in seen) is not recognise


@pytest.mark.usefixtures("recognise")
def test_what_can_be_read_two_ways_is_refused_behind_a_good_request_too(target: Target) -> None:
    results = target.send(*([ALLOWED + "\r\n" + text] for text, _, _ in REFUSED.values()))
    records = target.records(results)
    for name, result, found in zip(REFUSED, results, records, strict=True):
        _, status, reason = REFUSED[name]
        assert (name, statuses(result), result["end"]) == (name, [200, status], "eof")
        outcomes = [(outcome(one)[0], outcome(one)[2]) for one in found]
        assert (name, outcomes[0][0], outcomes[1:]) == (name, "FORWARDED", [("DROPPED", reason)])
    assert not any("secret" in line for line in target.lines())
    assert not any("secret" in seen for seen in target.connections())


@pytest.mark.usefixtures("recognise")
@pytest.mark.parametrize("pod", ["frontend", "frontend-near"])
def test_what_can_be_read_two_ways_is_refused(target: Target, pod: str) -> None:
    family = "ipv4" if pod == "frontend" else "ipv6"
    results = target.send(*([text] for text, _, _ in REFUSED.values()), pod=pod, family=family)
    records = target.records(results)
    for name, result, found in zip(REFUSED, results, records, strict=True):
        _, status, reason = REFUSED[name]
        assert (name, statuses(result), result["end"]) == (name, [status], "eof")
        assert (name, [(outcome(one)[0], outcome(one)[2]) for one in found]) == (name, [("DROPPED", reason)])
    assert not any("secret" in line for line in target.lines())
    assert not any("secret" in seen for seen in target.connections())


@pytest.mark.usefixtures("recognise")
def test_a_path_that_can_be_read_two_ways_is_refused(target: Target) -> None:
    results = target.send(*([f"GET {path} HTTP/1.1\r\nHost: web\r\n\r\n"] for path in PATHS_400))
    records = target.records(results)
    for path, result, found in zip(PATHS_400, results, records, strict=True):
        assert (path, statuses(result), result["end"]) == (path, [400], "eof")
        assert (path, [outcome(one) for one in found]) == (path, [("DROPPED", 400, PATHS_400[path])])
    assert not any("secret" in seen for seen in target.connections())


@pytest.mark.usefixtures("recognise")
def test_a_path_is_judged_in_its_canonical_form(target: Target) -> None:
    heads = [f"GET {path} HTTP/1.1\r\nHost: web\r\n\r\n" for path in PATHS_403]
    heads += ["get /public HTTP/1.1\r\nHost: web\r\n\r\n", "POST /public HTTP/1.1\r\nHost: web\r\n\r\n"]
    results = target.send(*([head + ALLOWED + "\r\n"] for head in heads))
    records = target.records(results)
    for head, result, found in zip(heads, results, records, strict=True):
        assert (head, statuses(result)) == (head, [403, 200])  # the connection stays usable
        assert [outcome(one)[:2] for one in found] == [("DROPPED", 403), ("FORWARDED", 200)]
        assert found[0]["tulle"]["rule"] == "default-deny"
    assert set(target.lines()) == {"GET /public HTTP/1.1"}


@pytest.mark.usefixtures("recognise")
def test_a_denied_request_between_allowed_ones(target: Target) -> None:
    text = (ALLOWED + "\r\n" + FORBIDDEN) * 20 + ALLOWED + "\r\n"
    (result,) = target.send([text])
    assert statuses(result) == [200, 403] * 20 + [200]
    (found,) = target.records([result])
    assert [outcome(one)[1] for one in found] == [200, 403] * 20 + [200]
    assert not any("secret" in line for line in target.lines())


@pytest.mark.usefixtures("recognise")
def test_a_forbidden_request_byte_by_byte(target: Target) -> None:
    pieces: list[Any] = []
    for octet in FORBIDDEN:
        pieces += [octet, 0.002]
    (result,) = target.send(pieces)
    assert statuses(result) == [403]


@pytest.mark.usefixtures("recognise")
@pytest.mark.parametrize(
    "upgrade",
    [
        UPGRADE + "websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n",
        ALLOWED + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n",
        UPGRADE + "TLS/1.0\r\n\r\n",
        ALLOWED + "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n",  # that Connection does not name
    ],
)
def test_an_upgrade_does_not_end_judgement(target: Target, upgrade: str) -> None:
    before = len(target.connections())
    (result,) = target.send([upgrade + FORBIDDEN])
    assert statuses(result) == [200, 403]
    assert eventually(lambda: len(target.connections()) > before)
    (seen,) = target.connections()[before:]
    assert "pgrade" not in seen
    assert "Settings" not in seen
    assert "secret" not in seen


@pytest.mark.usefixtures("recognise")
def test_a_body_is_a_body(target: Target) -> None:
    """A forbidden request as the body of an allowed one is none; the server's second answer is nobody's."""
    before = len(target.connections())
    (result,) = target.send([ALLOWED + f"Content-Length: {len(FORBIDDEN)}\r\n\r\n" + FORBIDDEN])
    assert statuses(result) == [200]
    assert eventually(lambda: len(target.connections()) > before)
    (seen,) = target.connections()[before:]
    head, _, body = seen.partition("\r\n\r\n")
    assert f"Content-Length: {len(FORBIDDEN)}" in head
    assert body == FORBIDDEN


@pytest.mark.usefixtures("recognise")
@pytest.mark.parametrize("length", [10, 10_000_000])
def test_the_body_of_a_denied_request_goes_nowhere(target: Target, length: int) -> None:
    before = len(target.connections())
    head = f"POST /secret HTTP/1.1\r\nHost: web\r\nContent-Length: {length}\r\n\r\n"
    small, expecting = target.send([head, 0.1, "x" * 10 + FORBIDDEN], [head[:-2] + "Expect: 100-continue\r\n\r\n"])
    assert statuses(small)[0] == statuses(expecting)[0] == 403
    assert 200 not in statuses(small)
    assert len(target.connections()) == before


@pytest.mark.usefixtures("recognise")
@pytest.mark.parametrize("answer", ANSWERS_502)
def test_a_hostile_answer_is_a_502(target: Target, answer: str) -> None:
    """And ends both sides: the request behind it meets nothing."""
    (result,) = target.send([f"GET /public/answer/{answer} HTTP/1.1\r\nHost: web\r\n\r\n" + ALLOWED + "\r\n"])
    assert (statuses(result), result["end"]) == ([502], "eof")
    assert "Set-Cookie" not in result["answer"]
    (found,) = target.records([result])
    assert [outcome(one) for one in found] == [("ERROR", 502, ANSWERS_502[answer])]


@pytest.mark.usefixtures("recognise")
def test_a_second_answer_answers_nobody(target: Target) -> None:
    (result,) = target.send(["GET /public/answer/twice HTTP/1.1\r\nHost: web\r\n\r\n" + ALLOWED + "\r\n"])
    assert statuses(result) == [200, 200]
    assert "POISONED" not in result["answer"]
    (result,) = target.send(["GET /public/answer/twice HTTP/1.1\r\nHost: web\r\n\r\n", 0.3, ALLOWED + "\r\n"])
    assert statuses(result) == [200, 200]
    assert "POISONED" not in result["answer"]


@pytest.mark.usefixtures("recognise")
@pytest.mark.parametrize("answer", ["short", "bad-chunk"])
def test_an_answer_that_breaks_off_never_looks_whole(target: Target, answer: str) -> None:
    (result,) = target.send([f"GET /public/answer/{answer} HTTP/1.1\r\nHost: web\r\n\r\n" + ALLOWED + "\r\n"])
    assert statuses(result) == [200]
    assert result["end"] in ("eof", "reset")
    assert not result["answer"].endswith("0\r\n\r\n")


@pytest.mark.usefixtures("recognise")
def test_informational_answers_are_bounded(target: Target) -> None:
    (result,) = target.send(["GET /public/answer/informational HTTP/1.1\r\nHost: web\r\n\r\n"])
    assert statuses(result) == [103] * 16 + [502]


@pytest.mark.usefixtures("recognise")
def test_a_client_that_leaves_at_any_byte_harms_nobody(target: Target) -> None:
    text = ALLOWED + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + FORBIDDEN
    target.send(*([text[:length], 0.05] for length in range(1, len(text), 3)), wait=0.1)
    (result,) = target.send([ALLOWED + "\r\n"])
    assert statuses(result) == [200]
    assert not any("secret" in line for line in target.lines())
