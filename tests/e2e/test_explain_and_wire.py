"""What `tulle policy explain` says is what a real connection gets: random documents, random requests.

`explain` is the oracle, the wire is the proof. The documents are of the whole language. TULLE_SEED chooses the run; it
is printed, and in every failure.
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.policy_cli import load_pods, load_policies
from agent.policy_request import http_request
from policies.explain import Explanation, Question, explain, find_end
from policies.ruleset import TCP, UDP
from tests.helpers.cluster import Cluster, cluster, eventually, tulle
from tests.policies.documents import Body, Maker, Words, from_seed

pytestmark = pytest.mark.root

SETS = 10
REQUESTS_PER_SET = 48
PEER = Path(__file__).resolve().parents[1] / "helpers" / "wire_peer.py"

WORDS = Words(
    cidrs=(
        ("10.244.0.0/16", "10.244.0.0/24"),
        ("0.0.0.0/0", "172.30.0.0/24"),
        ("fd00:10:244::/48", "fd00:10:244:1::/64"),
    ),
    services=("nowhere",),
    ports=(80, 81, 8080, 53),
    ranges=((80, 81), (8000, 8080), (1, 79)),
)
HTTP, DNS = {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}
SERVER = [sys.executable, str(PEER), "server"]
LAB: Body = {
    "nodes": ["node-a", "node-b"],
    "namespaces": {"default": {"labels": {"team": "a"}}, "other": {"labels": {"team": "b"}}},
    "pods": [
        {"name": "web", "node": "node-b", "labels": {"app": "web"}, "ports": [HTTP, DNS]},
        {"name": "frontend", "node": "node-a", "labels": {"app": "frontend", "tier": "edge"}},
        {"name": "intruder", "node": "node-b", "labels": {"app": "intruder"}},
        {
            "name": "web",
            "namespace": "other",
            "node": "node-a",
            "labels": {"app": "web"},
            "ports": [{**HTTP, "port": 8080}],
        },
        {"name": "frontend", "namespace": "other", "node": "node-b", "labels": {"app": "frontend"}},
    ],
}
PODS = [f"{pod.get('namespace', 'default')}/{pod['name']}" for pod in LAB["pods"]]
TARGETS = (
    "GET /a",
    "POST /a",
    "GET /a?k=v",
    "GET /a?k=w",
    "GET /b/1",
    "GET /b/x",
    "DELETE /",
    "GET /ab",
    "POST /a/b?k",
)
HEADERS: tuple[tuple[str, ...], ...] = ((), (), ("X-Key: 1",), ("X-Key: 2",))


@dataclass(frozen=True)
class Asked:
    """One request between two pods."""

    client: str
    server: str
    family: str
    protocol: str
    port: int
    line: str = ""
    headers: tuple[str, ...] = ()
    connected: bool = False

    def question(self) -> Question:
        if self.protocol == "UDP":
            return Question(UDP, self.port)
        return Question(TCP, self.port, http_request(self.line, self.headers))


class Clients:
    """A client in every pod, kept for the whole test."""

    def __init__(self, lab: Cluster) -> None:
        self._lab = lab
        self._addresses = {pod: {family: lab.address(pod, family) for family in ("ipv4", "ipv6")} for pod in PODS}
        self._running = {pod: lab.start(pod, sys.executable, str(PEER), "client") for pod in PODS}

    def close(self) -> None:
        for process in self._running.values():
            process.communicate(timeout=20)  # closes its input, and so ends it

    def ask(self, asked: list[Asked]) -> list[str]:
        """The outcomes, in order; the pods work at once."""
        mine = {pod: [one for one in asked if one.client == pod] for pod in PODS}
        for pod, requests in mine.items():
            self._write(self._running[pod], [self._told(one) for one in requests])
        found = {pod: iter(self._read(self._running[pod])) for pod in PODS}
        return [next(found[one.client]) for one in asked]

    def _told(self, one: Asked) -> dict[str, Any]:
        return {
            "protocol": one.protocol,
            "address": self._addresses[one.server][one.family],
            "port": one.port,
            "line": one.line,
            "headers": one.headers,
            "connected": one.connected,
        }

    @staticmethod
    def _write(process: "subprocess.Popen[str]", requests: list[dict[str, Any]]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(requests) + "\n")
        process.stdin.flush()

    @staticmethod
    def _read(process: "subprocess.Popen[str]") -> list[str]:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        found: list[str] = json.loads(line)
        return found


@pytest.fixture(scope="module")
def wire_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, five pods in two namespaces, a server in each."""
    file = tmp_path_factory.mktemp("lab") / "lab.yaml"
    file.write_text(yaml.safe_dump({**LAB, "pods": [{**pod, "command": SERVER} for pod in LAB["pods"]]}))
    with cluster("--file", str(file)) as lab:
        yield lab


def requests(chance: random.Random) -> list[Asked]:
    """Requests between any two pods, on ports where something listens."""
    found = []
    for _ in range(REQUESTS_PER_SET):
        client, server = chance.sample(PODS, 2)
        family = chance.choice(["ipv4", "ipv6"])
        if chance.random() < 0.25:
            port, connected = chance.choice([53, 80, 8080]), chance.random() < 0.5
            found.append(Asked(client, server, family, "UDP", port, connected=connected))
        else:
            port = chance.choice([80, 80, 81, 8080])
            headers = ("Host: web", *chance.choice(HEADERS))
            found.append(Asked(client, server, family, "TCP", port, chance.choice(TARGETS), headers))
    return found


def opening(maker: Maker, name: str) -> Body:
    """A document that lets every pod reach every other, and judges requests on two ports: chance alone denies much."""
    judged = [{"port": str(port), "protocol": "TCP"} for port in (80, 81)]
    free = [{"port": "8080", "protocol": "TCP"}, {"port": "0", "protocol": "UDP"}]
    rules = {"http": maker.several(lambda: maker.http_rule(tulle=False), 2, 3)}
    ports = [{"ports": judged, "rules": rules}, {"ports": free}]
    spec = {"endpointSelector": {}, "ingress": [{"fromEntities": ["cluster"], "toPorts": ports}]}
    kind = "CiliumClusterwideNetworkPolicy"
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": {"name": name}, "spec": spec}


def refs(documents: list[Body]) -> list[str]:
    """What `lab delete` knows them by."""
    names = [(body["metadata"].get("namespace"), body["metadata"]["name"]) for body in documents]
    return [name if namespace is None else f"{namespace}/{name}" for namespace, name in names]


def reached(asked: Asked, outcome: str) -> bool:
    """Whether the server answered. Everything else must be a refusal of ours: none comes from a server that is away."""
    if outcome == ("echo" if asked.protocol == "UDP" else "200"):
        return True
    refusals = {
        "403",
        "502",
        "503",
        "closed",
        "timeout",
        "PermissionError",
        "ConnectionRefusedError",
        "ConnectionResetError",
    }
    assert outcome in refusals, (asked, outcome)
    return False


def told(seed: int, documents: list[Body], asked: Asked, outcome: str, explanation: Explanation) -> str:
    """One disagreement, as a person needs it to look into it."""
    sides = [
        f"{side.direction.name.lower()} of {side.endpoint}: {'allow' if side.judgement.allow else 'deny'} by "
        f"{side.judgement.rule}: {side.judgement.reason}"
        for side in explanation.sides
    ]
    text = yaml.safe_dump_all(documents, sort_keys=False)
    return f"TULLE_SEED={seed}: {asked} got {outcome!r}, but explain says\n" + "\n".join(sides) + f"\nby\n{text}"


def test_explain_and_wire_never_disagree(wire_lab: Cluster) -> None:
    seed = int(os.environ.get("TULLE_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"TULLE_SEED={seed}")
    chance = random.Random(seed)  # noqa: S311  not for secrets
    maker = from_seed(seed, WORDS)
    inventory = load_pods(wire_lab.directory / "node-a" / "inventory.json")
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    with ExitStack() as stack:
        clients = Clients(wire_lab)
        stack.callback(clients.close)
        every = [
            Asked(PODS[0], pod, "ipv4", "TCP", port, "GET /", ("Host: x",))
            for pod in PODS[1:]
            for port in (80, 81, 8080)
        ]
        assert eventually(lambda: set(clients.ask(every)) == {"200"}), "the servers do not answer without policies"
        for number in range(SETS):
            documents = [maker.document(f"s{number}p{i}") for i in range(chance.randint(1, 4))]
            if number % 2:
                documents.append(opening(maker, f"s{number}open"))
            done = wire_lab.lab("apply", "-", stdin=yaml.safe_dump_all(documents, sort_keys=False))
            assert done.returncode == 0, f"TULLE_SEED={seed}: {done.stderr}"
            policies = load_policies([wire_lab.directory / "node-a" / "policies"])
            batch = requests(chance)
            for asked, outcome in zip(batch, clients.ask(batch), strict=True):
                client, server = find_end(inventory, asked.client), find_end(inventory, asked.server)
                explanation = explain(policies, inventory, client, server, asked.question())
                judged = "requests " if any(side.judgement.requests for side in explanation.sides) else ""
                outcomes[f"{asked.protocol} {judged}{'allow' if explanation.allow else 'deny'}: {outcome}"] += 1
                if explanation.allow is not reached(asked, outcome):
                    wrong.append(told(seed, documents, asked, outcome, explanation))
            done = wire_lab.lab("delete", *refs(documents))
            assert done.returncode == 0, f"TULLE_SEED={seed}: {done.stderr}"
    print("\n".join(f"{count:5} {what}" for what, count in sorted(outcomes.items())))
    assert not wrong, f"{len(wrong)} of {outcomes.total()}:\n" + "\n".join(wrong[:5])
    assert outcomes.total() >= 200
    kinds = ("TCP allow", "TCP deny", "TCP requests allow", "TCP requests deny", "UDP allow", "UDP deny")
    for kind in kinds:  # a run that only denies proves little
        assert any(what.startswith(kind) for what in outcomes), kind


def test_the_command_says_what_its_function_says(wire_lab: Cluster, tmp_path: Path) -> None:
    """The test above asks the function that the command calls; here both are asked, of the lab's own status as FILE."""
    chance = random.Random(7)  # noqa: S311  not for secrets
    maker = from_seed(7, WORDS)
    folder = tmp_path / "policies"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.yaml").write_text(yaml.safe_dump(maker.document(f"p{i}"), sort_keys=False))
    pods = tmp_path / "pods.json"
    pods.write_text(wire_lab.lab("status", "--json").stdout)
    policies, inventory = load_policies([folder]), load_pods(pods)
    for asked in requests(chance)[:6]:
        ends = ["--from", asked.client, "--to", asked.server, "--port", str(asked.port), "--protocol", asked.protocol]
        lines = [part for header in asked.headers for part in ("--header", header)]
        http = ["--http", asked.line, *lines] if asked.line else []
        done = tulle("policy", "explain", "--policies", str(folder), "--pods", str(pods), "--json", *ends, *http)
        client, server = find_end(inventory, asked.client), find_end(inventory, asked.server)
        explanation = explain(policies, inventory, client, server, asked.question())
        assert done.returncode == (0 if explanation.allow else 1), done.stderr
        assert json.loads(done.stdout)["verdict"] == ("allow" if explanation.allow else "deny")
