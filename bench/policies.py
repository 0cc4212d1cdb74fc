"""`./dev bench policies`: what large policy sets cost, in one process and without the kernel: documents to rules, one
edit, and one decision by the number of rules on a port. Times are this machine's; what counts is how they grow.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from policies.compile import compile_policies
from policies.engine import Engine, HttpRequest
from policies.inventory import Inventory, Pod
from policies.kernel import verdict_entries
from policies.load import Document, load_each
from policies.policyset import Grant, PolicySet, PortSpec, Section
from policies.resolve import Resolver, allocate, resolve
from policies.ruleset import TCP, Direction, HttpRule, PathKind, PolicyRef, RuleSet
from policies.selector import NAMESPACE_LABEL, Operator, Requirement, Selector
from policies.wire import apply_change, decode, encode, encode_change

PODS, POLICIES, RULES = 500, 1000, 10
APPS = 250
DECISIONS = (10, 100, 1000, 10_000)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: median of the rounds, and its unit."""

    case: str
    value: float
    unit: str


def _document(number: int, changed: bool = False) -> str:
    peers = "\n".join(
        f"""  - fromEndpoints: [{{matchLabels: {{app: a{(number + k) % APPS}}}}}]
    toPorts:
    - ports: [{{port: "{8000 + k}", protocol: TCP}}]
      rules: {{http: [{{method: GET, path: "/x{k}{"-changed" if changed else ""}"}}]}}"""
        for k in range(RULES)
    )
    return f"""apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: p{number}}}
spec:
  endpointSelector: {{matchLabels: {{app: a{number % APPS}}}}}
  ingress:
{peers}
"""


def _inventory() -> Inventory:
    return Inventory(
        tuple(
            Pod("default", f"p{i}", {"app": f"a{i % APPS}"}, (f"10.{i // 250}.{i % 250}.5",), i + 1)
            for i in range(PODS)
        )
    )


class Cluster:
    """One large cluster, every pod of it on this node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inventory = _inventory()
        self._documents: dict[Path, list[Document]] = {}
        self._resolver = Resolver()
        self._entries: dict[int, object] = {}
        self._last = RuleSet()
        for number in range(POLICIES):
            (folder / f"{number}.yaml").write_text(_document(number))

    def read(self) -> None:
        """Every document from its file."""
        for path in self._folder.iterdir():
            self._documents[path], problems = load_each([path])
            if problems:
                raise AssertionError(problems[0])

    def rules(self) -> RuleSet:
        """The rule set of all documents, and the kernel's entries of the endpoints that it changed."""
        policies = compile_policies([each for found in self._documents.values() for each in found])
        rules = self._resolver.resolve(policies, self._inventory, 1, allocate(policies, self._inventory))
        for number, endpoint in rules.endpoints.items():
            if self._last.endpoints.get(number) is not endpoint:
                self._entries[number] = verdict_entries(endpoint)
        return rules

    def full(self) -> None:
        """From files to what workers judge by."""
        self.read()
        self._resolver, self._last, self._entries = Resolver(), RuleSet(), {}
        rules = self.rules()
        Engine(decode(encode(rules)))
        self._last = rules

    def edit(self, number: int) -> None:
        """One file changes, and it is in force but for the kernel's own calls and the sockets to the workers."""
        path = self._folder / f"{number}.yaml"
        path.write_text(_document(number, changed=True))
        self._documents[path], _ = load_each([path])
        rules = self.rules()
        Engine(apply_change(self._last, encode_change(self._last, rules)))
        self._last = rules


def _decision_engine(rules: int, kind: PathKind | None) -> Engine:
    """An engine with one endpoint and so many rules on one port; kind None: regexes that are no literals."""
    name = "default/p ingress[0].toPorts[0]"
    http = tuple(
        HttpRule(
            f"{name}.http[{i}]",
            "GET",
            f"/a[0-9]+/{i}/.*" if kind is None else f"/a/{i}",
            path_kind=kind or PathKind.REGEX,
        )
        for i in range(rules)
    )
    selector = Selector((Requirement(NAMESPACE_LABEL, Operator.IN, ("default",)),))
    grant = Grant(name, None, PortSpec(TCP, 80, 80), http)
    policies = PolicySet((Section(PolicyRef("CiliumNetworkPolicy", "default", "p"), selector, (grant,), None),))
    return Engine(resolve(policies, Inventory((Pod("default", "web", {}, ("10.0.0.1",), 1),)), 1))


def _median_ms(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def measure(rounds: int) -> list[Row]:
    """Every row, each the median of `rounds`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder))
        size = f"{PODS} pods, {POLICIES} policies, {RULES} rules each"
        cluster.read()
        rows.append(Row(f"{size}: read and check the documents", _median_ms(cluster.read, rounds), "ms"))
        rows.append(Row(f"{size}: from files to rules and entries", _median_ms(cluster.full, rounds), "ms"))
        edits = iter(range(POLICIES))
        rows.append(Row(f"{size}: one edit", _median_ms(lambda: cluster.edit(next(edits)), max(5, rounds)), "ms"))
    for label, kind in (("exact", PathKind.EXACT), ("prefix", PathKind.PREFIX), ("regex", None)):
        for count in DECISIONS:
            engine = _decision_engine(count, kind)
            # by the last rule, but an exact one, which nothing new can match: no rule does, and all were asked
            start = f"/a1/{count - 1}/" if kind is None else f"/a/{count - 1}/"
            fresh = iter(range(1_000_000))
            first = engine.decide(1, Direction.INGRESS, 9, 80, HttpRequest("GET", f"{start}x"))
            if first.allow is (kind is PathKind.EXACT):
                raise AssertionError(f"{label} {count}: not the verdict that is to be measured")

            def thousand(engine: Engine = engine, start: str = start, fresh: Iterator[int] = fresh) -> None:
                for number in itertools.islice(fresh, 1000):
                    engine.decide(1, Direction.INGRESS, 9, 80, HttpRequest("GET", f"{start}{number}"))

            rows.append(Row(f"one new request, {count} {label} rules on the port", _median_ms(thousand, rounds), "µs"))
    return rows


def report(rows: list[Row]) -> str:
    """A line per row."""
    width = max(len(row.case) for row in rows)
    return "\n".join(f"{row.case:<{width}}  {row.value:10.2f} {row.unit}" for row in rows)
