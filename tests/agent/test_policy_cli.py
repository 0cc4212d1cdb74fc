"""`tulle policy …` as people and CI run it: what it prints, and its exit status (0 good, 1 not, 2 bad input)."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from audit.record import (
    DROPPED,
    EGRESS,
    FORWARDED,
    INGRESS,
    Connection,
    FlowFacts,
    KafkaRequest,
    Request,
    Side,
)
from audit.sinks.file import FileSink
from audit.writer import Writer

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules:
            http:
              - {method: GET, path: "/public([/?].*)?"}
              - {path: /host, host: web}
              - {path: /key, headers: ["X-Key: k3y"]}
        - ports: [{port: "9092", protocol: TCP}]
          rules:
            kafka:
              - {role: produce, topic: orders}
"""
INVENTORY = {
    "pods": [
        {"name": "web", "labels": {"app": "web"}, "ipv4": "10.9.0.1", "ports": [{"name": "http", "port": 80}]},
        {"name": "frontend", "labels": {"app": "frontend"}, "ipv4": "10.9.0.2"},
        {"namespace": "other", "name": "frontend", "labels": {"app": "frontend"}, "ipv4": "10.9.0.3"},
    ]
}
TULLE = Path(sys.executable).with_name("tulle")


def tulle(*words: str, where: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  # our own command
        [TULLE, "policy", *words], capture_output=True, text=True, check=False, cwd=where, timeout=60
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "web.yaml").write_text(POLICY)
    (tmp_path / "pods.json").write_text(json.dumps(INVENTORY))
    return tmp_path


def explain(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return tulle("explain", "--policies", "policies", "--pods", "pods.json", *words, where=place)


def explained(place: Path, *words: str) -> dict[str, Any]:
    done = explain(place, *words, "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if report["verdict"] == "allow" else 1)
    assert not done.stderr
    return report


ENDS = ("--from", "frontend", "--to", "web", "--port", "80")


# -- check


def test_good_policies(place: Path) -> None:
    done = tulle("check", "policies", where=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("1 good document, 0 errors")


def test_warnings_alone_are_good(place: Path) -> None:
    (place / "policies" / "web.yaml").write_text(POLICY.replace("/public([/?].*)?", "/public"))
    done = tulle("check", "policies/web.yaml", where=place)
    assert done.returncode == 0
    line = done.stdout.splitlines()[0]
    assert line.startswith(
        "policies/web.yaml:12:17: warning: spec.ingress[0].toPorts[0].rules.http[0].path: "
        "a path pattern sees the query too: '/public' does not match '/public?x=1'"
    )


def test_mistakes_with_their_places_and_the_other_documents_are_still_read(place: Path) -> None:
    bad = POLICY.replace("name: web", "name: bad").replace("method: GET", "methood: GET")
    (place / "policies" / "both.yaml").write_text(f"{bad}---\n{POLICY.replace('name: web', 'name: third')}")
    (place / "policies" / "notes.txt").write_text("not a policy")
    done = tulle("check", "policies", where=place)
    assert done.returncode == 1
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert errors == [
        "policies/both.yaml:12:18: error: spec.ingress[0].toPorts[0].rules.http[0].methood: "
        "unknown field; did you mean method?"
    ]
    found = json.loads(tulle("check", "policies", "--json", where=place).stdout)
    assert found["documents"] == 2
    assert [one for one in found["problems"] if one["severity"] == "error"] == [
        {
            "file": "policies/both.yaml",
            "line": 12,
            "column": 18,
            "severity": "error",
            "field": "spec.ingress[0].toPorts[0].rules.http[0].methood",
            "message": "unknown field; did you mean method?",
        }
    ]


def test_what_no_pod_is(place: Path) -> None:
    (place / "policies" / "web.yaml").write_text(POLICY.replace("{app: frontend}", "{app: frontent}"))
    done = tulle("check", "policies", "--pods", "pods.json", where=place)
    assert done.returncode == 0
    assert "matches no pod: there is none with app=frontent in default" in done.stdout
    assert "matches no pod" not in tulle("check", "policies", where=place).stdout


def test_a_directory_without_policies_is_said(place: Path) -> None:
    (place / "empty").mkdir()
    done = tulle("check", "empty", where=place)
    assert done.returncode == 0
    assert "empty: warning: holds no policy file" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "policie"], "no such file or directory: 'policie': did you mean 'policies'?"),
        (["check", "policies/wab.yaml"], "did you mean 'policies/web.yaml'?"),
        (["check"], "the following arguments are required: PATH"),
        (["check", "policies", "--bogus"], "unrecognized arguments: --bogus"),
        (["chek", "policies"], "unknown command 'chek': did you mean 'check'?"),
        ([], "required: command"),
        (["check", "policies", "--pods", "pods.jso"], "cannot read inventory 'pods.jso'"),
        (["explain", "--policies", "policies", "--pods", "pods.json"], "required: --from, --to, --port"),
        (["explain", *ENDS], "give --policies DIR and --pods FILE, or --node NODE"),
        (["explain", *ENDS, "--policies", "policies"], "give --policies DIR and --pods FILE"),
        (["diff", "policies", "policies"], "required: --flows"),
        (["diff", "policies", "polices", "--flows", "pods.json"], "did you mean 'policies'?"),
        (["diff", "policies", "policies", "--flows", "none.jsonl"], "cannot read records 'none.jsonl'"),
        (["learn", "none.jsonl"], "cannot read records 'none.jsonl'"),
        (["learn"], "required: FILE"),
        (["learn", "/dev/null"], "'/dev/null' holds no record"),
    ],
)
def test_bad_usage(place: Path, words: Sequence[str], said: str) -> None:
    done = tulle(*words, where=place)
    assert done.returncode == 2
    assert said in done.stderr
    assert not done.stdout
    assert "Traceback" not in done.stderr


# -- explain


def test_allowed_with_the_rule_and_its_place(place: Path) -> None:
    done = explain(place, *ENDS, "--http", "GET /public?x=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [
        "allowed: default/frontend -> default/web port 80/TCP, GET /public?x=1",
        "  by default/web ingress[0].toPorts[0].http[0] (policies/web.yaml:12)",
    ]


def test_denied_with_why_each_rule_did_not_match(place: Path) -> None:
    done = explain(place, *ENDS, "--http", "POST /publi")
    assert done.returncode == 1
    assert "denied: default/frontend -> default/web port 80/TCP, POST /publi" in done.stdout
    assert "  by default-deny" in done.stdout
    assert "selected by default/web (policies/web.yaml:1)" in done.stdout
    assert "method: POST is not GET" in done.stdout
    assert "path: /publi is not /host" in done.stdout


def test_json_has_what_the_text_has(place: Path) -> None:
    report = explained(place, *ENDS, "--http", "GET /publi")
    assert report["verdict"] == "deny"
    assert report["rule"] == "default-deny"
    assert (report["from"], report["to"], report["port"], report["http"]) == (
        "default/frontend",
        "default/web",
        80,
        "GET /publi",
    )
    egress, ingress = report["sides"]
    assert (egress["direction"], egress["enforced"], egress["verdict"]) == ("egress", False, "allow")
    assert ingress["selected_by"] == [{"policy": "default/web", "file": "policies/web.yaml", "line": 1}]
    assert ingress["considered"][1] == {
        "rule": "default/web ingress[0].toPorts[0].http[0]",
        "file": "policies/web.yaml",
        "line": 12,
        "matched": False,
        "why": "path: /publi is not /public([/?].*)?",
    }


@pytest.mark.parametrize(
    ("words", "verdict", "rule"),
    [
        (["--http", "GET /host"], "deny", "default-deny"),  # no host, so no host rule matches
        (["--http", "GET /host", "--header", "Host: web"], "allow", "default/web ingress[0].toPorts[0].http[1]"),
        (["--http", "GET /host", "--header", "host:web"], "allow", "default/web ingress[0].toPorts[0].http[1]"),
        (["--http", "GET /host", "--header", "Host: api"], "deny", "default-deny"),
        (["--http", "GET /key", "--header", "x-key:k3y"], "allow", "default/web ingress[0].toPorts[0].http[2]"),
        (["--http", "GET /key", "--header", "A: b", "--header", "X-Key: k3y"], "allow",
         "default/web ingress[0].toPorts[0].http[2]"),
        (["--http", "GET /key", "--header", "X-Key: no"], "deny", "default-deny"),
        (["--http", "GET /x/../public"], "allow", "default/web ingress[0].toPorts[0].http[0]"),
        (["--http", "GET http://web/host"], "allow", "default/web ingress[0].toPorts[0].http[1]"),
        (["--http", "GET /public/%2e%2e/admin"], "deny", "default-deny"),
        (["--http", "GET /public%2fx"], "deny", "tulle:protocol"),
        (["--http", "GET /../etc"], "deny", "tulle:protocol"),
        (["--http", "CONNECT web:80"], "deny", "tulle:protocol"),
        (["--http", "GET /public", "--header", "Host: a", "--header", "Host: b"], "deny", "tulle:protocol"),
        (["--kafka", "produce orders"], "deny", "tulle:protocol"),  # an http port
    ],
)  # fmt: skip
def test_requests_are_read_as_the_proxy_reads_them(place: Path, words: list[str], verdict: str, rule: str) -> None:
    report = explained(place, *ENDS, *words)
    assert (report["verdict"], report["rule"]) == (verdict, rule)


@pytest.mark.parametrize(
    ("words", "verdict", "rule"),
    [
        (["--kafka", "produce orders"], "allow", "default/web ingress[0].toPorts[1].kafka[0]"),
        (["--kafka", "metadata"], "allow", "default/web ingress[0].toPorts[1].kafka[0]"),
        (["--kafka", "produce payments"], "deny", "default-deny"),
        (["--kafka", "consume orders"], "deny", "default-deny"),
        (["--kafka", "initproducerid"], "allow", "default/web ingress[0].toPorts[1].kafka[0]"),
        (
            ["--kafka", "produce orders", "--kafka-transactional-id", "t"],
            "allow",
            "default/web ingress[0].toPorts[1].kafka[0]",
        ),
        (["--kafka", "joingroup", "--kafka-group", "g"], "deny", "default-deny"),
        (["--kafka", "listgroups"], "allow", "default/web ingress[0].toPorts[1].kafka[0]"),
        (["--kafka", "vote"], "deny", "default-deny"),
        ([], "allow", ""),
    ],
)
def test_kafka(place: Path, words: list[str], verdict: str, rule: str) -> None:
    report = explained(place, "--from", "frontend", "--to", "web", "--port", "9092", *words)
    assert (report["verdict"], report["rule"]) == (verdict, rule)


def test_what_a_kafka_request_asks(place: Path) -> None:
    words = ["--from", "frontend", "--to", "web", "--port", "9092", "--kafka", "txnoffsetcommit orders"]
    words += ["--kafka-group", "g"]
    report = explained(place, *words)
    assert [(each["asks"], each["verdict"]) for each in report["kafka_asks"]] == [
        ("Write any transactional id", "allow"),
        ("Read group g", "deny"),
        ("Read topic orders", "deny"),
    ]
    first = report["kafka_asks"][0]
    assert (first["rule"], first["audited"]) == ("default/web ingress[0].toPorts[1].kafka[0]", False)
    assert (first["file"], first["line"]) == ("policies/web.yaml", 18)
    done = explain(place, *words)
    assert "  asks Read group g: denied by default-deny\n" in done.stdout
    assert "      group: Read is not in role produce\n" in done.stdout


def test_without_a_request_an_accepted_connection_is_allowed(place: Path) -> None:
    report = explained(place, *ENDS)
    assert (report["verdict"], report["requests_judged"]) == ("allow", True)
    assert "http requests on it are judged" in report["reason"]
    assert explained(place, "--from", "frontend", "--to", "web", "--port", "81")["verdict"] == "deny"
    assert explained(place, *ENDS, "--protocol", "UDP")["verdict"] == "deny"
    assert explained(place, *ENDS, "--protocol", "udp")["protocol"] == "UDP"


@pytest.mark.parametrize("end", ["other/frontend", "world", "10.9.0.77", "2001:db8::1", "remote-node"])
def test_far_ends(place: Path, end: str) -> None:
    assert explained(place, "--from", end, "--to", "web", "--port", "80")["verdict"] == "deny"
    assert explained(place, "--from", "web", "--to", end, "--port", "80")["verdict"] == "allow"


def test_a_port_by_its_name(place: Path) -> None:
    assert explained(place, "--from", "frontend", "--to", "default/web", "--port", "http")["port"] == 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--from", "frontent", "--to", "web", "--port", "80"],
            "no pod 'default/frontent': did you mean 'default/frontend'",
        ),
        (["--from", "frontend", "--to", "web", "--port", "htpp"], "no TCP port named 'htpp': did you mean 'http'?"),
        (["--from", "frontend", "--to", "web", "--port", "0"], "'0' is not a port"),
        (["--from", "world", "--to", "host", "--port", "80"], "neither 'world' nor 'host' is a pod"),
        ([*ENDS, "--http", "/public"], "is not a request: expected a method and a path, as 'GET /public'"),
        ([*ENDS, "--http", "GET /a b"], "is not a request"),
        ([*ENDS, "--http", "GET /", "--header", "s3cret"], "a header is written 'name: value'"),
        ([*ENDS, "--http", "GET /", "--header", "a: b\r\nc: d"], "holds a line break"),
        ([*ENDS, "--header", "a: b"], "--header belongs to --http"),
        ([*ENDS, "--http", "GET /", "--kafka", "produce x"], "--http and --kafka exclude each other"),
        ([*ENDS, "--http", "GET /", "--protocol", "UDP"], "requests are judged on TCP alone"),
        ([*ENDS, "--protocol", "SCTP"], "unknown PROTOCOL 'SCTP'"),
        ([*ENDS, "--kafka-group", "g"], "--kafka-client, --kafka-group and --kafka-transactional-id belong to --kafka"),
        ([*ENDS, "--kafka", "produce a b"], "is not a request: expected an API and a topic, as 'produce orders'"),
        ([*ENDS, "--kafka", "prodce orders"], "no Kafka API 'prodce': did you mean 'produce'?"),
    ],
)
def test_questions_that_cannot_be_asked(place: Path, words: list[str], said: str) -> None:
    done = explain(place, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "s3cret" not in done.stderr
    assert not done.stdout


def test_bad_policies_and_pods_are_told(place: Path) -> None:
    (place / "policies" / "web.yaml").write_text(POLICY.replace("path: /host", "pathh: /host"))
    done = explain(place, *ENDS)
    assert done.returncode == 2
    assert (
        "policies/web.yaml:13:18: error: spec.ingress[0].toPorts[0].rules.http[1].pathh: unknown field" in done.stderr
    )
    (place / "policies" / "web.yaml").write_text(POLICY)
    (place / "pods.json").write_text('{"pods": [{"nam": "web"}]}')
    done = explain(place, *ENDS)
    assert done.returncode == 2
    assert "pods.0.nam" in done.stderr


def test_a_directory_without_policies_is_no_silent_yes(place: Path) -> None:
    (place / "empty").mkdir()
    done = tulle("explain", "--policies", "empty", "--pods", "pods.json", *ENDS, where=place)
    assert done.returncode == 0
    assert "'empty' holds no policy file" in done.stderr


def test_an_unknown_node_or_lab(place: Path) -> None:
    done = tulle("explain", *ENDS, "--config", "none.yaml", where=place)
    assert done.returncode == 2
    assert "cannot read configuration 'none.yaml'" in done.stderr


def test_against_an_agent_that_ran(place: Path) -> None:
    """Its last good policies count, not what the directory has now; named by the directory where both say the same."""
    state = place / "state"
    (state / "last-good").mkdir(parents=True)
    (state / "last-good" / "x.yaml").write_text(POLICY)
    config = place / "agent.yaml"
    config.write_text(
        f"node: node-a\nrun_dir: {place}/run\nstate_dir: {state}\npolicy_dir: {place}/policies\n"
        f"inventory: {place}/pods.json\naudit: {{directory: {place}/audit}}\n"
    )
    done = tulle("explain", *ENDS, "--http", "GET /public", "--config", str(config), "--json", where=place)
    assert done.returncode == 0
    assert json.loads(done.stdout)["file"] == str(place / "policies" / "web.yaml")
    assert "the agent does not answer" in done.stderr
    (place / "policies" / "web.yaml").write_text(POLICY.replace("/public", "/private"))
    done = tulle("explain", *ENDS, "--http", "GET /public", "--config", str(config), "--json", where=place)
    assert json.loads(done.stdout)["file"] == str(state / "last-good" / "x.yaml")
    done = tulle("explain", *ENDS, "--config", str(config), "--node", "node-b", where=place)
    assert done.returncode == 2
    assert "no node 'node-b': did you mean 'node-a'?" in done.stderr

    done = tulle("explain", "--from", "host", *ENDS[2:], "--config", str(config), where=place)
    assert done.returncode == 0
    assert "tulle:node-probe" in done.stdout
    config.write_text(config.read_text() + "node_probes: false\n")
    done = tulle("explain", "--from", "host", *ENDS[2:], "--config", str(config), where=place)
    assert done.returncode == 1, done.stdout


def test_a_pod_to_itself(place: Path) -> None:
    done = explain(place, "--from", "web", "--to", "10.9.0.1", "--port", "81")
    assert done.returncode == 0
    assert "egress at default/web, to default/web: a pod to itself is not judged" in done.stdout


# -- diff and learn, from records that the agent's own writer wrote


def record(directory: Path, facts: Sequence[FlowFacts]) -> Path:
    """A file of records, as a worker writes it."""
    directory.mkdir()
    sink = FileSink(directory, "worker-0", max_bytes=1 << 20, backups=1)
    writer = Writer("node-a/worker-0", "boot", [sink], node="node-a")
    for each in facts:
        writer.write(each)
    writer.close()
    return directory / "worker-0.jsonl"


FRONTEND = Side("10.9.0.2", 40000, 257, "default", "frontend", {"app": "frontend"})
WEB = Side("10.9.0.1", 80, 258, "default", "web", {"app": "web", "pod-template-hash": "abc"})
WORLD = Side("203.0.113.9", 50000, 9, reserved=("reserved:world-ipv4",))
KAFKA = Side("10.9.0.1", 9092, 258, "default", "web", {"app": "web"})
DNS = Side("203.0.113.53", 53, 9, reserved=("reserved:world-ipv4",))


@pytest.fixture
def flows(place: Path) -> Path:
    """A file of records: three requests that passed, one that was denied, UDP, and a parser's refusal."""
    allowed = "default/web ingress[0].toPorts[0].http[0]"
    return record(place / "audit", [*requests(allowed), *OTHERS])


def requests(rule: str) -> list[FlowFacts]:
    """What frontend asked of web."""
    inside = Connection(INGRESS, FRONTEND, WEB)
    return [
        FlowFacts(inside, verdict, "why", name, 1, (), Request("GET", target, "web", code=code))
        for verdict, name, target, code in (
            (FORWARDED, rule, "/public", 200),
            (FORWARDED, rule, "/public/42?id=1", 200),
            (FORWARDED, rule, "/public/43", 200),
            (DROPPED, "default-deny", "/admin", 403),
            (DROPPED, "tulle:protocol", "/a%2fb", 400),
        )
    ]


OTHERS = [
    FlowFacts(Connection(INGRESS, WORLD, WEB), DROPPED, "why", "default-deny", 1),
    FlowFacts(Connection(EGRESS, FRONTEND, DNS, 17), FORWARDED, "why", "default-allow", 1),
]


def test_nothing_changes(place: Path, flows: Path) -> None:
    done = tulle("diff", "policies", "policies", "--flows", str(flows), where=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "judged: 6",
        "unchanged: 6",
        "allow -> deny: 0",
        "deny -> allow: 0",
        "not replayable: 1",
        "  tulle:protocol decided, whatever policies say: 1",
    ]


def test_what_changes_is_printed_and_counted(place: Path, flows: Path) -> None:
    (place / "new.yaml").write_text(POLICY.replace("/public([/?].*)?", "/public|/admin"))
    done = tulle("diff", "policies", "new.yaml", "--flows", str(flows), where=place)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "allow -> deny  1 x  default/frontend -> default/web port 80/TCP GET /public/43" in lines
    assert "deny -> allow  1 x  default/frontend -> default/web port 80/TCP GET /admin" in lines
    assert "allow -> deny: 2" in lines
    found = json.loads(tulle("diff", "policies", "new.yaml", "--flows", str(flows), "--json", where=place).stdout)
    assert found["totals"] == {
        "judged": 6,
        "unchanged": 3,
        "allow -> deny": 2,
        "deny -> allow": 1,
        "not replayable": 1,
    }
    assert found["changes"][0]["old_rule"] == "default/web ingress[0].toPorts[0].http[0]"


def test_a_directory_of_records(place: Path, flows: Path) -> None:
    done = tulle("diff", "policies", "policies", "--flows", str(flows.parent), where=place)
    assert done.returncode == 0
    assert "judged: 6" in done.stdout


def test_lines_that_are_no_records_are_counted(place: Path, flows: Path) -> None:
    flows.write_bytes(flows.read_bytes() + b"{torn\n")
    done = tulle("diff", "policies", "policies", "--flows", str(flows), where=place)
    assert done.returncode == 0
    assert "  is not a record: 1" in done.stdout


def test_what_is_learned_passes_check_and_allows_the_flows(place: Path, flows: Path) -> None:
    done = tulle("learn", str(flows), "--egress", where=place)
    assert done.returncode == 0
    assert "coverage: 4 of 7 flows (57.1%)" in done.stderr
    assert "left out, was denied: 3" in done.stderr
    assert "/public/[0-9]+([?].*)?" in done.stdout
    assert "pod-template-hash" not in done.stdout
    (place / "learned.yaml").write_text(done.stdout)
    checked = tulle("check", "learned.yaml", where=place)
    assert checked.returncode == 0, checked.stdout
    compared = tulle("diff", "policies", "learned.yaml", "--flows", str(flows), where=place)
    assert "allow -> deny: 0" in compared.stdout
    assert "deny -> allow: 0" in compared.stdout


def asks(api: str, operation: str, resource: str, name: str, verdict: str = FORWARDED, group: str = "") -> FlowFacts:
    """A record of one question of a Kafka request."""
    topic = name if resource == "Topic" else ""
    request = KafkaRequest(api, 9, 7, topic, "shop", group, "", operation, resource, name, 0)
    return FlowFacts(Connection(INGRESS, FRONTEND, KAFKA), verdict, "why", "rule", 1, (), request)


def test_kafka_records_are_learned_and_compared(place: Path) -> None:
    facts = [
        asks("apiversions", "Nothing", "Cluster", ""),
        asks("metadata", "Describe", "Topic", "invoices"),
        asks("fetch", "Read", "Topic", "invoices"),
        asks("offsetcommit", "Read", "Topic", "invoices", group="billing"),
        asks("initproducerid", "Write", "Topic", ""),  # any topic
        asks("produce", "Write", "Topic", "orders"),
        asks("produce", "Write", "Topic", "secrets", DROPPED),
        asks("produce", "Write", "Topic", "x" * 300),  # cut
        asks("", "", "", ""),  # could not be read
    ]
    flows = record(place / "audit", facts)
    for words, kind, consume in (
        ([], "CiliumNetworkPolicy", "- role: consume\n          topic: invoices\n"),
        (["--tulle"], "TulleNetworkPolicy", "- role: consume\n          topic: invoices\n          group: billing\n"),
    ):
        done = tulle("learn", str(flows), *words, where=place)
        assert (done.returncode, f"kind: {kind}\n" in done.stdout, consume in done.stdout) == (0, True, True), done
        assert "- role: produce\n          topic: orders\n" in done.stdout
        assert "coverage: 6 of 7 flows" in done.stderr
        assert "left out, was cut to its limit: 1" in done.stderr
        assert "left out, does not say what its Kafka request asked: 1" in done.stderr
        (place / "learned.yaml").write_text(done.stdout)
        assert tulle("check", "learned.yaml", where=place).stdout == "1 good document, 0 errors, 0 warnings\n"
        compared = tulle("diff", "policies", "learned.yaml", "--flows", str(flows), "--json", where=place)
        changes = {each["kafka"]: each["change"] for each in json.loads(compared.stdout)["changes"]}
        assert changes == {
            "fetch Read topic invoices": "deny -> allow",
            "offsetcommit Read topic invoices": "deny -> allow",
            "metadata Describe topic invoices": "deny -> allow",
        }


def test_learning_nothing_is_not_good(place: Path, flows: Path) -> None:
    done = tulle("learn", str(flows), "--namespace", "other", where=place)
    assert done.returncode == 1
    assert not done.stdout
    assert "coverage: 0 of 7 flows (0.0%)" in done.stderr


def test_help_has_examples() -> None:
    for words in ([], ["check"], ["explain"], ["diff"], ["learn"]):
        done = tulle(*words, "--help")
        assert done.returncode == 0
        assert "example: tulle policy" in done.stdout


def test_the_document_shows_what_is_printed(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    policy = (root / "examples" / "web-l7.yaml").read_text()
    for name, text in (("policies", policy), ("proposed", policy.replace("/public([/?].*)?", "/public"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "web-l7.yaml").write_text(text)
    pods = [*INVENTORY["pods"][:2], {"name": "intruder", "labels": {"app": "intruder"}, "ipv4": "10.9.0.4"}]
    (tmp_path / "pods.json").write_text(json.dumps({"pods": pods}))
    facts = [*requests("default/web-l7 ingress[0].toPorts[0].http[0]"), OTHERS[1]]
    record(tmp_path / "audit", facts).rename(tmp_path / "flows.jsonl")
    shown = re.findall(
        r"```text\n\$ tulle policy (.*)\n((?s:.*?))\$ echo \$\?\n([0-9]+)\n```",
        (root / "docs" / "policy-commands.md").read_text(),
    )
    assert len(shown) == 5
    for words, printed, status in shown:
        done = tulle(*shlex.split(words), where=tmp_path)
        assert (done.stdout + done.stderr, str(done.returncode)) == (printed, status)
