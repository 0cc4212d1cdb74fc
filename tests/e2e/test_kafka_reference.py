"""What the clients do without Tulle: against Kafka's own broker and authorizer, on loopback.

The errors that `clients.denied` expects are those that each client makes of the broker's own refusals, not of ours.
"""

import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.kafka import broker, wire
from tests.helpers.kafka.clients import CLIENTS, SECRET, Client, Names, Outcome, allowed, denied, outcomes, share_group

pytestmark = pytest.mark.root

USER = "pod"


@pytest.fixture(scope="module")
def reference() -> Iterator[broker.Broker]:
    with broker.broker([USER]) as made:
        with broker.reached(made.plain) as admin:
            names = [Names(client, "alone") for client in CLIENTS.values()]
            wire.warm(admin)
            wire.create_topics(admin, SECRET, *(each.topic for each in names))
            for each in names:
                wire.set_config(admin, wire.GROUP_CONFIG, share_group(each), "share.auto.offset.reset", "earliest")
            broker.grant(admin, USER, broker.WORK)
        yield made


@pytest.fixture(scope="module")
def runs(reference: broker.Broker) -> Mapping[str, list[Outcome]]:
    """Of every client, its allowed steps and then its denied ones, as a user who may what the policies of the other
    tests allow."""

    def run(client: Client) -> list[Outcome]:
        names = Names(client, "alone")
        steps = [*allowed(names), *(step for step, _ in denied(names))]
        done = subprocess.run(  # noqa: S603  our own programs
            client.argv(reference.sasl, steps, USER), capture_output=True, text=True, check=False, timeout=280
        )
        return outcomes(done.stdout, done.stderr)

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(CLIENTS, pool.map(run, CLIENTS.values()), strict=True))


@pytest.mark.parametrize("name", CLIENTS)
def test_what_is_allowed_works(runs: Mapping[str, list[Outcome]], name: str) -> None:
    steps = allowed(Names(CLIENTS[name], "alone"))
    for step, outcome in zip(steps, runs[name], strict=False):
        assert outcome["ok"], (step, outcome)


@pytest.mark.parametrize("name", CLIENTS)
def test_what_is_denied_is_told_as_we_expect_it(runs: Mapping[str, list[Outcome]], name: str) -> None:
    names = Names(CLIENTS[name], "alone")
    told = runs[name][len(allowed(names)) :]
    expected = {step["name"]: error for step, error in denied(names)}
    assert {step["name"]: each["error"] for (step, _), each in zip(denied(names), told, strict=True)} == expected
