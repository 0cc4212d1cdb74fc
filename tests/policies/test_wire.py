"""What a worker loads: the rules as bytes, and no more code than judging needs. Round trips: test_properties."""

import subprocess
import sys

import pytest

from policies.engine import Engine, HttpRequest
from policies.ruleset import RuleSet
from policies.wire import decode, encode
from tests.policies.world import INGRESS, World, policy


def test_a_worker_loads_neither_pydantic_nor_yaml() -> None:
    code = "import policies.engine, policies.wire, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  # our own interpreter and text
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"policies", "msgspec", "re2"} <= loaded
    assert not loaded & {"pydantic", "pydantic_core", "yaml"}


def test_a_decoded_rule_set_gives_the_same_verdicts() -> None:
    text = policy("endpointSelector: {}\ningress: [{toPorts: [{ports: [{port: 80}], rules: {http: [{path: /a}]}}]}]")
    world = World(text)
    there = Engine(decode(memoryview(encode(world.rules))))
    for path in ("/a", "/b"):
        request = HttpRequest("GET", path)
        assert there.decide(1, INGRESS, 256, 80, request) == world.engine.decide(1, INGRESS, 256, 80, request)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x80", encode(RuleSet(1))[:-1], encode(RuleSet(1)) + b"\x00"])
def test_other_bytes_are_refused_or_empty(data: bytes) -> None:
    if data == b"\x80":  # an empty map: every field absent is an empty rule set, which denies everything
        assert decode(data) == RuleSet()
        return
    with pytest.raises(ValueError):  # noqa: PT011  # msgspec's words are not ours to pin
        decode(data)
