"""Real Kafka clients over the overlay: what is allowed goes as without Tulle, what is denied is told as a broker would.

Each client does the same work three times: with no policy at all, with a policy at the broker's pod, with one at its
own. What it prints the first time is what it must print the other times: results, warnings, retries.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.cluster import Cluster
from tests.helpers.kafka import policy, wire
from tests.helpers.kafka.clients import (
    CLIENTS,
    SECRET,
    Client,
    Names,
    Outcome,
    allowed,
    denied,
    outcomes,
    plain,
    share_group,
)

pytestmark = pytest.mark.root

WAYS = {"direct": None, "ingress": policy.ingress, "egress": policy.egress}
POLICED = tuple(way for way in WAYS if WAYS[way])
AT_ONCE = 3
"""Clients that run side by side: they disturb each other in nothing but CPU time."""

BUSY = "It is blocking the event loop"
"""kafka-python's warning of a machine that has no time for it."""
UNTOLD = "No partition metadata for topic"
"""kafka-python's warning when its group settles before its own first metadata came, which it asks for beside (seen once
in many runs, on a busy machine): it joins again, with the same result."""

type Runs = Mapping[tuple[str, str], list[Outcome]]
"""By way and client: its allowed steps, and where there is a policy its denied ones."""


@pytest.fixture(scope="module")
def secret(shared_kafka: Cluster) -> list[str]:
    """What is in the topic that nobody may, before any client has tried."""
    shared_kafka.delete_policies()
    with wire.behind(shared_kafka) as admin:
        assert admin.produce(SECRET, "untouched") == wire.NONE
        return admin.values(SECRET)


@pytest.fixture(scope="module")
def runs(shared_kafka: Cluster, secret: list[str]) -> Runs:
    lab = shared_kafka
    every = [Names(client, way) for way in WAYS for client in CLIENTS.values()]
    with wire.behind(lab) as admin:
        wire.warm(admin)
        wire.create_topics(admin, *(each.topic for each in every))
        for each in every:
            wire.set_config(admin, wire.GROUP_CONFIG, share_group(each), "share.auto.offset.reset", "earliest")
    found: dict[tuple[str, str], list[Outcome]] = {}
    for way, made in WAYS.items():
        if made is not None:
            lab.apply(made(*policy.work_rules(), kind=policy.OURS))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            names = [each for each in every if each.way == way]
            keys = [(way, each.client.name) for each in names]
            found |= zip(keys, pool.map(lambda one: _run(lab, one), names), strict=True)
        lab.delete_policies()
    return found


def _run(lab: Cluster, names: Names) -> list[Outcome]:
    steps = allowed(names)
    if names.way in POLICED:
        steps += [step for step, _ in denied(names)]
    done = lab.exec("billing", *names.client.argv(f"kafka:{wire.PORT}", steps), timeout_s=280)
    return outcomes(done.stdout, done.stderr)


def _work(runs: Runs, client: Client, way: str) -> list[tuple[str, Outcome]]:
    """The allowed steps by name."""
    names = [step["name"] for step in allowed(Names(client, way))]
    return list(zip(names, runs[way, client.name], strict=False))


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_the_work_can_be_done(runs: Runs, client: Client) -> None:
    assert {name: each["error"] for name, each in _work(runs, client, "direct") if not each["ok"]} == {}


@pytest.mark.parametrize("way", POLICED)
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_what_is_allowed_goes_as_without_tulle(runs: Runs, client: Client, way: str) -> None:
    for (name, without), (_, with_us) in zip(_work(runs, client, "direct"), _work(runs, client, way), strict=True):
        assert with_us["ok"], (name, with_us)
        if name in ("list", "groups"):
            continue  # what is hidden there, the next test is about
        assert _same(name, with_us, way) == _same(name, without, "direct"), name
        more = {plain(line, way) for line in with_us["log"]} - {plain(line, "direct") for line in without["log"]}
        more = {line for line in more if BUSY not in line and UNTOLD not in line}
        assert not more, name


def _same(name: str, outcome: Outcome, way: str) -> object:
    """The result of a step, with one name for what each way calls its own."""
    if name == "read-committed":  # whether the commit marker, the last record, is behind or before what is committed
        return outcome["result"]["values"]
    return plain(repr(outcome["result"]), way) if outcome["do"] == "admin" else outcome["result"]


@pytest.mark.parametrize("way", POLICED)
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_only_what_may_be_seen_is_listed(runs: Runs, client: Client, way: str) -> None:
    names = Names(client, way)
    for name, own, begins in (("list", names.topic, "t-"), ("groups", f"{names.group}-by-group", "g-")):
        if name not in client.calls:
            continue
        seen, without = (dict(_work(runs, client, each))[name]["result"] for each in (way, "direct"))
        assert own in seen
        assert [each for each in seen if not each.startswith(begins)] == []
        assert name == "groups" or SECRET in without


@pytest.mark.parametrize("way", POLICED)
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_what_is_denied_is_told_by_the_clients_own_error(runs: Runs, client: Client, way: str) -> None:
    names = Names(client, way)
    told = runs[way, client.name][len(allowed(names)) :]
    steps = denied(names)
    expected = {step["name"]: error for step, error in steps}
    assert {step["name"]: each["error"] for (step, _), each in zip(steps, told, strict=True)} == expected


def test_nothing_reached_what_was_denied(runs: Runs, shared_kafka: Cluster, secret: list[str]) -> None:
    with wire.behind(shared_kafka) as admin:
        assert admin.values(SECRET) == secret
        assert "made-up" not in admin.topics()
