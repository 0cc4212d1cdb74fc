"""bench/policy.yaml for the other proxies: its HTTP rules as methods and an anchored expression."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.errors import BenchError

POLICY = Path(__file__).resolve().parent.parent / "policy.yaml"


@dataclass(frozen=True, slots=True)
class Rule:
    """One allow rule. `path` is a regular expression for the whole path, with its anchors."""

    name: str
    methods: tuple[str, ...]
    path: str


def read(policy: Path = POLICY) -> list[Rule]:
    """The rules in the order of the document.

    Methods are alternatives of plain words, which is the only kind that every peer can be told.

    Raises:
        BenchError: a rule asks for something else than a method and a path.
    """
    rules = []
    for number, rule in enumerate(_http_rules(policy), 1):
        methods = tuple(str(rule.get("method", "")).split("|"))
        if rule.keys() != {"method", "path"} or not all(word.isascii() and word.isalpha() for word in methods):
            raise BenchError(f"{policy.name}: rule {number} cannot be said in every peer's own words: {rule}")
        rules.append(Rule(f"r{number:02}", methods, f"^{_one(rule['path'])}$"))
    return rules


def _one(path: str) -> str:
    """An expression that anchors may be put around."""
    return f"(?:{path})" if "|" in path.partition("(")[0] else path


def _http_rules(policy: Path) -> list[dict[str, str]]:
    document = yaml.safe_load(policy.read_text(encoding="utf-8"))
    (ingress,) = document["spec"]["ingress"]
    (ports,) = ingress["toPorts"]
    rules: list[dict[str, str]] = ports["rules"]["http"]
    return rules
