"""What the agent's configuration file changes, on a running node."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import EXAMPLES
from tests.helpers.cluster import Cluster, Record, cluster, eventually, kill

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Cluster]:
    with cluster() as lab:
        lab.apply(EXAMPLES / "web-l7.yaml")
        yield lab


def restart_with(lab: Cluster, node: str, **changes: object) -> None:
    path = lab.directory / node / "agent.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (old,) = lab.processes(node, "agent")
    kill(old, signal.SIGTERM)
    assert eventually(lambda: lab.processes(node, "agent") not in ([], [old]) and bool(lab.node(node)["ready"]))


def test_records_go_to_standard_output_too(own_lab: Cluster) -> None:
    directory = str(own_lab.directory / "node-b" / "audit")
    restart_with(own_lab, "node-b", audit={"directory": directory}, workers=1)
    assert own_lab.curl("frontend", "http://web/private/on-stdout") == 403
    assert own_lab.curl("intruder", "http://web/", "-4") == 0

    def of_path(record: Record) -> bool:
        return "on-stdout" in str(record)

    in_file = own_lab.find_record(of_path)
    assert in_file is not None

    def on_stdout() -> list[Record]:
        return [json.loads(line) for line in own_lab.log("node-b").splitlines() if line.startswith("{")]

    assert eventually(lambda: in_file in on_stdout())
    assert eventually(lambda: any(r["tulle"]["writer"] == "node-b/kernel" for r in on_stdout()))


def test_the_number_of_workers(own_lab: Cluster) -> None:
    restart_with(own_lab, "node-b", workers=3)

    def serving() -> list[Record]:
        return [p for p in own_lab.node("node-b")["processes"] if p["role"] == "worker" and not p["draining"]]

    assert eventually(lambda: len(serving()) == 3)
    assert own_lab.curl("frontend", "http://web/public") == 200


def test_a_bad_configuration_is_said_and_enforcement_stays(own_lab: Cluster) -> None:
    path = own_lab.directory / "node-b" / "agent.yaml"
    good = path.read_text()
    (old,) = own_lab.processes("node-b", "agent")
    path.write_text(json.dumps(json.loads(good) | {"wrokers": 1}))
    try:
        kill(old, signal.SIGTERM)
        assert eventually(lambda: "wrokers: extra inputs are not permitted" in own_lab.log("node-b"))
        assert own_lab.curl("frontend", "http://web/private") == 403
        assert own_lab.curl("frontend", "http://web/public") == 200
    finally:
        path.write_text(good)
    assert eventually(lambda: own_lab.processes("node-b", "agent") not in ([], [old]))
