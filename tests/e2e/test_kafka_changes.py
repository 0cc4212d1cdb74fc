"""What changes under a client's feet: rules, topics, leaders."""

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cluster import Cluster, Record, cluster, eventually, kill
from tests.helpers.kafka import policy, wire
from tests.helpers.kafka.clients import CLIENTS, Outcome, outcomes
from tests.helpers.kafka.wire import fetch, fetched

pytestmark = pytest.mark.root

TOPIC = "invoices"
READS = {"role": "consume", "topic": TOPIC}
WRITES = {"role": "produce", "topic": TOPIC}
ELSEWHERE = {"role": "consume", "topic": "orders"}
SIDES = {"ingress": policy.ingress, "egress": policy.egress}
BOOTSTRAP = f"kafka:{wire.PORT}"


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_a_withdrawn_topic_ends_the_fetch_that_waits_for_it(kafka_lab: Cluster, side: str) -> None:
    lab = kafka_lab
    with wire.behind(lab) as inside:
        end = len(inside.values(TOPIC))
    lab.apply(SIDES[side](READS))
    with wire.wired(lab, "billing") as client:
        port = client.port
        client.send("Fetch", 12, fetch([TOPIC], offset=end, wait_ms=60_000))
        assert lab.find_record(lambda record: _of(record, port)) is not None, "the fetch is on its way"
        lab.apply(SIDES[side](ELSEWHERE))
        rest = client.ended()  # at most an answer of ours that says so
    assert b"late" not in rest
    assert not rest or TOPIC.encode() in rest
    with wire.behind(lab) as inside:
        assert inside.produce(TOPIC, "too late") == wire.NONE
    assert lab.find_record(lambda record: _of(record, port) and record["flow"]["verdict"] != "FORWARDED") is not None
    with wire.wired(lab, "billing") as client:
        assert client.fetch(TOPIC, end) == (wire.TOPIC_DENIED, [])


def _of(record: Record, port: int) -> bool:
    found: int = record["flow"].get("l4", {}).get("TCP", {}).get("source_port", 0)
    return found == port


def test_a_session_meets_the_new_rules(kafka_lab: Cluster, side: str) -> None:
    """An incremental fetch names nothing, and still returns what the session has."""
    lab = kafka_lab
    lab.apply(SIDES[side](READS))
    with wire.wired(lab, "billing") as client:
        opened = client.ask("Fetch", 12, fetch([TOPIC], epoch=0))
        assert opened["ErrorCode"] == wire.NONE
        lab.apply(SIDES[side](ELSEWHERE))
        with wire.behind(lab) as inside:
            assert inside.produce(TOPIC, "after the reload") == wire.NONE
        try:
            answer = client.ask("Fetch", 12, fetch([], session=opened["SessionId"], epoch=1))
        except (wire.Closed, BrokenPipeError, ConnectionResetError):
            return
    assert fetched(answer).get(TOPIC, (wire.TOPIC_DENIED, [])) == (wire.TOPIC_DENIED, [])


@pytest.mark.parametrize("name", ["confluent", "aiokafka", "kafka-python"])
def test_a_running_consumer_gets_nothing_more(kafka_lab: Cluster, name: str) -> None:
    """And is told, by 29 in the answer to what it asks next; what the library makes of that is its own affair: a broker
    that is asked for the topic's metadata tells librdkafka no more, and it goes on asking."""
    lab, client, run = kafka_lab, CLIENTS[name], secrets.token_hex(4)
    late = f"too late {run}"
    with wire.behind(lab) as inside:
        assert inside.produce(TOPIC, f"for {name}") == wire.NONE
        lab.apply(policy.ingress(READS))
        step = {"do": "consume", "topic": TOPIC, "group": f"running-{run}", "count": 1, "watch": True}
        running = lab.start("billing", *client.argv(BOOTSTRAP, [step], deadline_s=8))
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            lab.apply(policy.ingress(ELSEWHERE))
            assert lab.find_record(lambda record: _told(record, client.name)) is not None
            assert inside.produce(TOPIC, late) == wire.NONE
            (outcome,) = _ended(running)
        finally:
            running.kill()
            running.communicate()
    assert not outcome["ok"]
    assert late not in str(outcome)


def _told(record: Record, name: str) -> bool:
    code = record["flow"].get("l7", {}).get("kafka", {}).get("error_code")
    return bool(code == wire.TOPIC_DENIED and record["tulle"]["kafka"]["client_id"] == f"c-{name}")


def _ended(process: "subprocess.Popen[str]") -> list[Outcome]:
    stdout, stderr = process.communicate(timeout=120)
    return outcomes(stdout, stderr)


def test_a_topic_made_again_has_another_id_and_the_same_rights(kafka_lab: Cluster, side: str) -> None:
    lab, name = kafka_lab, f"again-{secrets.token_hex(4)}"
    rights = ({"role": "produce", "topic": name}, {"role": "consume", "topic": name})
    with wire.behind(lab) as inside:
        wire.create_topics(inside, name)
        before = inside.topic_id(name)
        lab.apply(SIDES[side](*rights))
        with wire.wired(lab, "billing") as client:
            assert client.topic_id(name) == before
            assert client.produce(name, "first life") == wire.NONE
            assert fetched(client.ask("Fetch", 13, fetch([before])))[before] == (wire.NONE, ["first life"])
            wire.delete_topic(inside, name)
            assert eventually(lambda: inside.topics(name)[name]["ErrorCode"] == wire.UNKNOWN_TOPIC)
            wire.create_topics(inside, name)
            assert eventually(lambda: inside.topics(name)[name]["ErrorCode"] == wire.NONE)
            after = inside.topic_id(name)
            assert after != before
            assert client.produce(name, "second life") == wire.NONE
            told = fetched(client.ask("Fetch", 13, fetch([before])))
            assert told[before] in ((wire.UNKNOWN_TOPIC_ID, []), (wire.TOPIC_DENIED, []))
            assert fetched(client.ask("Fetch", 13, fetch([after])))[after] == (wire.NONE, ["second life"])
        with wire.wired(lab, "billing") as client:  # which has asked for nothing by name
            assert fetched(client.ask("Fetch", 13, fetch([after])))[after] == (wire.NONE, ["second life"])
        done = lab.exec("billing", *CLIENTS["confluent"].argv(BOOTSTRAP, [
            {"do": "produce", "topic": name, "prefix": "real", "count": 3},
            {"do": "consume", "topic": name, "group": f"g-{name}", "count": 4},
        ]))  # fmt: skip
        sent, got = outcomes(done.stdout, done.stderr)
        assert sent["ok"], sent
        assert got["result"]["values"] == ["second life", "real-0", "real-1", "real-2"], got


# ---- three brokers


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    with cluster("--with", "kafka=3") as lab:
        yield lab


@pytest.mark.parametrize("side", SIDES)
def test_clients_follow_a_leader_that_changes(three: Cluster, side: str) -> None:
    lab, topic = three, {"ingress": "orders", "egress": "invoices"}[side]
    rights = ({"role": "produce", "topic": topic}, {"role": "consume", "topic": topic})
    lab.delete_policies()
    assert eventually(lambda: _whole(lab, topic), 120)
    lab.apply(SIDES[side](*rights))
    confluent, aiokafka = CLIENTS["confluent"], CLIENTS["aiokafka"]
    bootstrap = ",".join(f"kafka-{number}:{wire.PORT}" for number in range(3))
    read = {"do": "consume", "topic": topic, "group": f"three-{side}", "count": 40, "prefix": side}
    consumer = lab.start("billing", *aiokafka.argv(bootstrap, [read]))
    try:
        _send(lab, confluent.argv(bootstrap, [_write(topic, f"{side}-before")]))
        with wire.behind(lab, "kafka-0") as inside:
            leader = _leader(inside, topic)
        _kill_broker(lab, f"kafka-{leader}")
        _send(lab, confluent.argv(bootstrap, [_write(topic, f"{side}-after")]))
        (got,) = _ended(consumer)
    finally:
        consumer.kill()
        consumer.communicate()
    wanted = sorted(f"{side}-{when}-{n}" for when in ("before", "after") for n in range(20))
    assert sorted(got["result"]["values"]) == wanted, got  # of several partitions, in any order


def _write(topic: str, prefix: str) -> dict[str, object]:
    return {"do": "produce", "topic": topic, "prefix": prefix, "count": 20, "idempotent": True}


def _send(lab: Cluster, argv: list[str]) -> None:
    done = lab.exec("billing", *argv)
    (outcome,) = outcomes(done.stdout, done.stderr)
    assert outcome["ok"], outcome


def _whole(lab: Cluster, topic: str) -> bool:
    """Whether every broker has every partition, as after a start."""
    try:
        with wire.behind(lab, "kafka-0") as inside:
            partitions = inside.topics(topic)[topic]["Partitions"]
    except OSError:
        return False
    return all(len(partition["IsrNodes"]) == 3 for partition in partitions)


def _leader(inside: wire.Wire, topic: str) -> int:
    number: int = inside.topics(topic)[topic]["Partitions"][0]["LeaderId"]
    return number


def _kill_broker(lab: Cluster, pod: str) -> None:
    """The broker of a pod, as a crash would."""
    (found,) = [each for each in json.loads((lab.directory / "lab.json").read_text())["pods"] if each["name"] == pod]
    for pid in Path(found["cgroup"], "cgroup.procs").read_text().split():
        if b"kafka.Kafka" in Path("/proc", pid, "cmdline").read_bytes():
            kill(int(pid))
