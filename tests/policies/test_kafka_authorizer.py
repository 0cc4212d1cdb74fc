"""Rules, as the access lists that they are, beside Apache Kafka's own StandardAuthorizer with the same lists.

Kafka has no globs and no conditions on clients, so the rules have none; and no rule of ours allows ClusterAction.
"""

import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from policies.kafka import Acl, acls
from policies.requests import KafkaRequest, Operation, Resource
from policies.ruleset import KafkaRule, NameKind
from tests.policies.made import PEER, Made, line

ROOT: Final = Path(__file__).resolve().parents[2]
JARS: Final = ROOT / ".venv/share/tulle/kafka/lib"
"""What `./dev kafka` fetches, as `./dev setup` does."""
PROGRAM: Final = Path(__file__).with_name("Authorize.java")

TOPIC, GROUP, TRANSACTION, CLUSTER = (
    Resource.TOPIC, Resource.GROUP, Resource.TRANSACTIONAL_ID, Resource.CLUSTER
)  # fmt: skip
NAMES: Final = ("a", "ab", "abc", "b", "ba")
CASES: Final = 300
OPERATIONS: Final = [each for each in Operation if each not in (Operation.NOTHING, Operation.CLUSTER_ACTION)]


def kafkas(name: str) -> str:
    """As Kafka's enums spell it: AlterConfigs is ALTER_CONFIGS."""
    return "".join(f"_{sign}" if sign.isupper() else sign for sign in name).lstrip("_").upper()


def made_up(chance: random.Random) -> list[KafkaRule]:
    rules = []
    for i in range(chance.randrange(6)):
        role = chance.choice(["", "", "produce", "consume", "admin"])
        topic, group, transaction = (
            chance.choice(NAMES) if chance.random() < share else None for share in (0.6, 0.3, 0.3)
        )
        kinds = [chance.choice([NameKind.EXACT, NameKind.PREFIX]) for _ in range(3)]
        deny = chance.random() < 0.35
        rules.append(
            KafkaRule(
                f"r{i}", role, topic=topic, deny=deny, topic_kind=kinds[0], group=group, group_kind=kinds[1],
                transactional_id=transaction, transactional_id_kind=kinds[2],
            )
        )  # fmt: skip
    return rules


def questions() -> Iterator[KafkaRequest]:
    for operation in OPERATIONS:
        for resource in (TOPIC, GROUP, TRANSACTION):
            for name in (None, *NAMES, "bab"):
                yield KafkaRequest(0, 9, "", None, operation, resource, name)
        yield KafkaRequest(0, 9, "", None, operation, CLUSTER, "")


def written(user: str, deny: bool, acl: Acl) -> Iterable[str]:
    """An access list as Kafka has it."""
    name = "kafka-cluster" if acl.resource is CLUSTER else acl.name or "*"
    kind = "PREFIXED" if acl.name is not None and acl.kind is NameKind.PREFIX else "LITERAL"
    for operation in ("All",) if acl.operations is None else acl.operations:
        words = ("acl", user, "DENY" if deny else "ALLOW", kafkas(acl.resource), kind, name, kafkas(operation))
        yield "\t".join(words)


def asked(user: str, request: KafkaRequest) -> str:
    resource, operation = kafkas(request.resource), kafkas(request.operation)
    if request.name is None:
        return "\t".join(("any", user, resource, operation))
    return "\t".join(("ask", user, resource, request.name or "kafka-cluster", operation))


def test_rules_are_to_the_engine_what_their_lists_are_to_kafka() -> None:
    assert shutil.which("java"), "Java is missing: ./dev setup installs it"
    assert JARS.is_dir(), "Kafka's jars are missing: ./dev kafka fetches them"
    chance = random.Random(20261125)  # noqa: S311  no secret
    sets = [made_up(chance) for _ in range(CASES)]
    lists: dict[str, None] = {}  # Kafka has each once
    for i, rules in enumerate(sets):
        for rule in rules:
            for acl in acls(rule):
                if acl.resource in (TOPIC, GROUP, TRANSACTION, CLUSTER):
                    lists |= dict.fromkeys(written(f"u{i}", rule.deny, acl))
    lines = [*lists]
    for i in range(CASES):
        lines += [asked(f"u{i}", request) for request in questions()]
    command = ["java", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", f"{JARS}/*", str(PROGRAM)]
    done = subprocess.run(  # noqa: S603  our own words
        command, input="\n".join(lines), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = iter(line for line in done.stdout.splitlines() if line in ("ALLOWED", "DENIED"))
    differ: list[tuple[list[KafkaRule], KafkaRequest, bool, str]] = []
    counts = {"ALLOWED": 0, "DENIED": 0}
    for rules in sets:
        made = Made(line("k", kafka=rules))
        for request in questions():
            answer = next(answers)
            counts[answer] += 1
            allow = made.engine.decide_kafka(1, 0, PEER, 80, request).allow
            if allow is not (answer == "ALLOWED"):
                differ.append((rules, request, allow, answer))
    assert not differ, (len(differ), differ[:3])
    assert next(answers, None) is None
    assert min(counts.values()) > 5000, counts
