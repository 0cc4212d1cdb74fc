"""`lab up --with kafka`: brokers that real clients reach from pods, that come back, and of which nothing stays."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import names
from lab.errors import LabError
from lab.kafka import java
from lab.kafka.broker import properties
from lab.kafka.cluster import BROKERS_POLICY, MAX_BROKERS, TOPICS, cluster_id, extended
from lab.model import LabSpec, PodSpec, default_spec
from policies.compile import compile_policies
from policies.load import load_text
from tests.helpers.cluster import eventually
from tests.lab.helpers import LabUnderTest, left_of, processes_of, run, unique_name

BIN = Path(sys.executable).parent
BOOTSTRAP = "kafka:9092"
ONLY_BILLING = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: only-billing}
spec:
  endpointSelector: {matchLabels: {app: kafka}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: billing}}]
    toPorts: [{ports: [{port: "9092", protocol: TCP}]}]
  egress:
  - toEndpoints: [{matchLabels: {app: billing}}]
"""


# What it is made of


def test_one_broker_is_called_kafka() -> None:
    spec = extended(default_spec(), "x", 1)
    assert [(pod.name, pod.node, pod.labels) for pod in spec.pods[-2:]] == [
        ("kafka", "node-b", {"app": "kafka"}),
        ("billing", "node-a", None),
    ]
    assert spec.pods[:-2] == default_spec().pods


def test_several_are_numbered_and_spread_over_the_nodes() -> None:
    spec = extended(default_spec(2), "x", 3)
    assert [(pod.name, pod.node, pod.aliases) for pod in spec.pods if pod.labels == {"app": "kafka"}] == [
        ("kafka-0", "node-b", ["kafka"]),
        ("kafka-1", "node-a", ["kafka"]),
        ("kafka-2", "node-b", ["kafka"]),
    ]


def test_a_file_may_have_its_own_billing_but_no_pod_of_a_brokers_name() -> None:
    own = LabSpec(nodes=["n"], pods=[PodSpec(name="billing", labels={"team": "money"})])
    assert [pod.name for pod in extended(own, "x", 1).pods] == ["billing", "kafka"]
    elsewhere = LabSpec(nodes=["n"], pods=[PodSpec(name="kafka", namespace="shop")])
    assert [pod.name for pod in extended(elsewhere, "x", 1).pods] == ["kafka", "kafka", "billing"]
    for count, taken in ((1, "kafka"), (3, "kafka"), (3, "kafka-2")):
        with pytest.raises(LabError, match=f"there is a pod '{taken}' already"):
            extended(LabSpec(nodes=["n"], pods=[PodSpec(name=taken)]), "x", count)


@pytest.mark.parametrize("count", [0, MAX_BROKERS + 1])
def test_numbers_of_brokers_that_cannot_be(count: int) -> None:
    with pytest.raises(LabError, match=f"kafka={count}: expected 1 to") as caught:
        extended(default_spec(), "x", count)
    assert caught.value.status == 2  # a wrong use


def test_listeners_have_ports_of_their_own_and_one_brokers_inner_ones_are_on_loopback() -> None:
    def given(*peers: str, number: int = 0, advertise: str) -> dict[str, str]:
        lines = properties(number, peers, advertise, Path("/data")).splitlines()
        return dict(line.split("=", 1) for line in lines)

    one = given("localhost", advertise="kafka")
    assert one["listeners"] == "CLIENTS://:9092,BROKERS://localhost:9091,CONTROLLER://localhost:9093"
    assert one["advertised.listeners"] == "CLIENTS://kafka:9092,BROKERS://localhost:9091"
    assert (one["default.replication.factor"], one["min.insync.replicas"]) == ("1", "1")
    three = given("kafka-0", "kafka-1", "kafka-2", number=2, advertise="kafka-2")
    assert three["advertised.listeners"] == "CLIENTS://kafka-2:9092,BROKERS://kafka-2:9091"
    assert three["controller.quorum.voters"] == "0@kafka-0:9093,1@kafka-1:9093,2@kafka-2:9093"
    assert (three["default.replication.factor"], three["min.insync.replicas"]) == ("3", "2")
    assert three["offsets.topic.replication.factor"] == three["transaction.state.log.replication.factor"] == "3"


def test_cluster_ids_are_kafkas_form_and_a_labs_own() -> None:
    ids = {cluster_id(f"lab-{number}") for number in range(500)}
    assert len(ids) == 500
    assert all(len(made) == 22 and made.isalnum() for made in ids)


def test_the_document_for_brokers_compiles_and_asks_for_no_default_deny() -> None:
    (document,) = load_text(BROKERS_POLICY, "brokers")
    assert document.key == ("CiliumNetworkPolicy", "default", "kafka-brokers")
    compile_policies([document])
    assert "enableDefaultDeny: {ingress: false, egress: false}" in BROKERS_POLICY


@pytest.mark.parametrize("wrong", ["kafak", "kafka=", "kafka=0", "kafka=-1", "kafka=x", "kafka=²", ""])
def test_what_with_does_not_know_is_said(wrong: str) -> None:
    done = LabUnderTest(unique_name()).run("up", "--with", wrong)
    assert done.returncode == 2
    assert f"argument --with: expected kafka or kafka=N, got {wrong!r}".encode() in done.stderr


# One broker


@pytest.fixture(scope="module")
def lab() -> Iterator[LabUnderTest]:
    """With agents and one broker."""
    made = LabUnderTest(unique_name())
    try:
        made.must("up", "--with", "kafka")
        yield made
    finally:
        made.must("down")


def tool(lab: LabUnderTest, pod: str, name: str, *arguments: str, stdin: str = "") -> str:
    """Run one of Kafka's own tools in a pod; gives what it printed."""
    done = lab.exec(pod, str(BIN / name), "--bootstrap-server", BOOTSTRAP, *arguments, stdin=stdin.encode())
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    return done.stdout.decode()


def produce(lab: LabUnderTest, pod: str, topic: str, *lines: str) -> None:
    tool(lab, pod, "kafka-console-producer", "--topic", topic, stdin="".join(f"{line}\n" for line in lines))


def consume(lab: LabUnderTest, pod: str, topic: str, count: int) -> list[str]:
    """The first so many records of a topic, by a consumer group."""
    wanted = ("--topic", topic, "--from-beginning", "--max-messages", str(count), "--timeout-ms", "30000")
    return tool(lab, pod, "kafka-console-consumer", *wanted).splitlines()


def javas(lab: LabUnderTest) -> list[int]:
    return [pid for pid in processes_of(lab) if Path(f"/proc/{pid}/comm").read_text() == "java\n"]


@pytest.mark.root
def test_status_shows_the_pods(lab: LabUnderTest) -> None:
    pods = {str(pod["name"]): pod for pod in lab.status()["pods"]}
    assert set(pods) == {"frontend", "intruder", "web", "frontend-near", "kafka", "billing"}
    assert (pods["kafka"]["labels"], pods["billing"]["labels"]) == ({"app": "kafka"}, {"app": "billing"})
    assert pods["kafka"]["ports"] == [{"name": "kafka", "port": 9092, "protocol": "TCP"}]
    assert all(word in lab.must("status") for word in ("kafka", "app=billing"))


@pytest.mark.root
def test_a_second_up_says_that_it_is_up(lab: LabUnderTest) -> None:
    assert "is up already" in lab.must("up", "--with", "kafka")
    other = lab.run("up", "--with", "kafka=3")
    assert other.returncode == 1
    assert b"is up, with another description" in other.stderr


@pytest.mark.root
def test_topics_and_records_are_there_for_real_clients_in_pods(lab: LabUnderTest) -> None:
    listed = tool(lab, "billing", "kafka-topics", "--list").split()
    assert set(TOPICS) <= set(listed)
    produce(lab, "frontend", "orders", "one", "two", "three")
    assert consume(lab, "billing", "orders", 3) == ["one", "two", "three"]


@pytest.mark.root
def test_it_answers_over_both_families(lab: LabUnderTest) -> None:
    script = (
        "import socket\nfor family in (socket.AF_INET, socket.AF_INET6):\n"
        " with socket.socket(family) as s:\n  s.settimeout(10); s.connect(('kafka', 9092))\n"
    )
    assert lab.exec("billing", sys.executable, "-c", script).returncode == 0


@pytest.mark.root
def test_a_broker_that_was_killed_comes_back_with_its_records(lab: LabUnderTest) -> None:
    produce(lab, "frontend", "invoices", "kept")
    (pid,) = javas(lab)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: javas(lab) not in ([], [pid]), 30)
    assert consume(lab, "billing", "invoices", 1) == ["kept"]
    log = (names.run_dir(lab.name) / "node-b" / "logs" / "default_kafka.log").read_text()
    assert f"supervisor: broker {pid} ended by SIGKILL" in log


@pytest.mark.root
def test_a_policy_on_9092_meets_clients_and_leaves_the_broker_whole(lab: LabUnderTest, tmp_path: Path) -> None:
    """The pod may neither be reached on another port nor connect to any pod but billing, and goes on, also afresh."""
    file = tmp_path / "p.yaml"
    file.write_text(ONLY_BILLING)
    lab.must("apply", str(file))
    try:
        (pid,) = javas(lab)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: javas(lab) not in ([], [pid]), 30)
        produce(lab, "billing", "secrets", "quiet")
        refused = "import socket; socket.create_connection(('kafka', 9092), 10)"
        done = lab.exec("frontend", sys.executable, "-c", refused)
        assert b"ConnectionRefusedError" in done.stderr
    finally:
        lab.must("delete", "only-billing")


# What goes wrong, and what stays


def test_without_jars_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "LIB", tmp_path)
    with pytest.raises(LabError, match=f"no jars in {tmp_path}: run './dev kafka'"):
        java.check()


@pytest.mark.root
def test_without_java_it_says_what_to_do(fresh: LabUnderTest, tmp_path: Path) -> None:
    argv = ["env", f"PATH={tmp_path}", *fresh.argv("up", "--with", "kafka")]
    done = run(argv)
    assert done.returncode == 1
    assert done.stderr == b"tulle: there is no Java for Kafka's brokers: run './dev kafka'\n"
    assert left_of(fresh) == []


@pytest.mark.root
def test_it_goes_with_a_file_and_nothing_stays_when_everything_was_killed(fresh: LabUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(json.dumps({"nodes": ["solo"], "pods": [{"name": "mine"}]}))
    assert "1 nodes, 3 pods, no agents" in fresh.must("up", "--no-agent", "--file", str(file), "--with", "kafka")
    assert names.data_dir(fresh.name).is_dir()
    produce(fresh, "mine", "orders", "a")
    for pid in processes_of(fresh):
        os.kill(pid, signal.SIGKILL)
    fresh.must("down")
    assert left_of(fresh) == []


@pytest.mark.root
def test_an_up_that_is_ended_while_it_waits_for_the_broker_leaves_nothing(fresh: LabUnderTest) -> None:
    with subprocess.Popen(fresh.argv("up", "--no-agent", "--with", "kafka")) as started:  # noqa: S603 - written here
        assert eventually(lambda: bool(javas(fresh)), 60)
        started.send_signal(signal.SIGTERM)
        assert started.wait(30) == 128 + signal.SIGTERM
    assert left_of(fresh) == []


@pytest.mark.root
def test_a_broker_that_cannot_start_fails_up_and_leaves_nothing(
    fresh: LabUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TULLE_LAB_KAFKA_JVM", "-XX:NoSuchOption")
    done = fresh.run("up", "--no-agent", "--with", "kafka")
    assert done.returncode == 1
    assert done.stderr.startswith(b"tulle: the broker of 'kafka' does not start\nthe end of default_kafka.log:")
    assert b"NoSuchOption" in done.stderr
    assert left_of(fresh) == []


# Three brokers


@pytest.mark.root
def test_three_brokers_and_a_leader_that_goes(fresh: LabUnderTest, tmp_path: Path) -> None:
    fresh.must("up", "--with", "kafka=3")
    assert [pod["name"] for pod in fresh.status()["pods"] if pod["labels"] == {"app": "kafka"}] == [
        "kafka-0",
        "kafka-1",
        "kafka-2",
    ]
    names_lead = "import socket; print(*sorted({x[4][0] for x in socket.getaddrinfo('kafka', 1, socket.AF_INET)}))"
    led = fresh.output("frontend", sys.executable, "-c", names_lead).split()
    assert led == sorted(str(pod["ipv4"]) for pod in fresh.status()["pods"] if str(pod["name"]).startswith("kafka-"))
    described = describe(fresh)
    assert {partition["Leader"] for partition in described} == {"0", "1", "2"}
    assert all(len(partition["Isr"].split(",")) == 3 for partition in described)
    # whatever else selects the brokers, they reach each other
    file = tmp_path / "p.yaml"
    file.write_text(ONLY_BILLING)
    fresh.must("apply", str(file))
    victim = next(
        pid for pid in javas(fresh) if "kafka-1/server.properties" in Path(f"/proc/{pid}/cmdline").read_text()
    )
    supervisor = int(Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGSTOP)  # it stays away
    os.kill(victim, signal.SIGKILL)
    assert eventually(lambda: {each["Leader"] for each in describe(fresh)} == {"0", "2"}, 60)
    produce(fresh, "billing", "orders", *"abcdef")
    os.kill(supervisor, signal.SIGCONT)
    assert eventually(lambda: all(len(each["Isr"].split(",")) == 3 for each in describe(fresh)), 60)
    assert sorted(consume(fresh, "billing", "orders", 6)) == list("abcdef")
    fresh.must("down")
    assert left_of(fresh) == []


def describe(lab: LabUnderTest) -> list[dict[str, str]]:
    """Partitions of `orders`, as Kafka's own tool tells: Topic, Partition, Leader, Replicas, Isr and more."""
    lines = tool(lab, "billing", "kafka-topics", "--describe", "--topic", "orders").splitlines()
    return [
        dict(part.strip().split(": ") for part in line.split("\t") if ": " in part.strip())
        for line in lines
        if "Partition:" in line
    ]
