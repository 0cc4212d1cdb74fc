"""`./dev bench scale`: how cost grows with rules on the port, connections, pods of the node, and policy documents.

All of it in labs of its own, with one worker, or two for more connections than one may open files for. The numbers of
rules take turns within a round, because a goal hangs on their ratio; everything else is measured once. The pods are all
there from the beginning, and ever more of them are protected.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from bench import processes, wrk
from bench.benchlab import EXTRA, BenchLab, extra_group
from bench.cases import CASES, Case
from bench.measure import Measured, affordable, idle_connections, measure
from bench.peers.rules import POLICY
from bench.peers.tulle import Tulle

RULES = (10, 100, 1000, 10_000)
CONNECTIONS = (1, 10, 100, 1000, 5000, 10_000, 20_000)
PODS = (1, 10, 50, 100, 200)
DOCUMENTS = (1, 10, 100, 1000)
AXES = ("rules", "connections", "pods", "documents")
_MIB = 1024 * 1024
_WARM_UP_S = 1
_SETTLE_S = 0.5
_IDLE_WATCH_S = 3.0
# One endpoint takes 20,000 in all, and the load wants some of them (proxy/limits.py).
_MOST_CONNECTIONS = 19_900

type Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of one axis: the load's measurements there, and what else it costs.

    count: what was there; less than was asked for where the machine does not allow it.
    memory: resident bytes by role, before the load. change_s: until the change was in force.
    idle_cores: cores that the processes take while nothing happens.
    """

    axis: str
    count: int
    measured: list[Measured]
    memory: dict[str, int]
    change_s: float
    idle_cores: float


def measure_axes(axes: Sequence[str], rounds: int, seconds: int, say: Say) -> list[Point]:
    """Every point of these axes.

    Raises:
        BenchError: a lab does not work.
    """
    points: list[Point] = []
    if set(axes) & {"rules", "connections", "documents"}:
        with ExitStack() as stack:
            tulle = _started(stack, "scale", 0)
            with tulle.in_place():
                if "rules" in axes:
                    points += _rules(tulle, rounds, seconds, say)
                if "documents" in axes:
                    points += _documents(tulle, seconds, say)
                if "connections" in axes:
                    points += _connections(tulle, seconds, say)
    if "pods" in axes:
        with ExitStack() as stack:
            points += _pods(stack, seconds, say)
    return points


def _started(stack: ExitStack, kind: str, extra_pods: int) -> Tulle:
    lab = BenchLab(kind, agents=True, extra_pods=extra_pods)
    stack.callback(lab.down)  # before `up`: what is half made goes, too
    lab.up()
    tulle = Tulle(lab)
    tulle.start()
    return tulle


def _rules(tulle: Tulle, rounds: int, seconds: int, say: Say) -> list[Point]:
    """Two loads: the same path again and again, and one that never came before; both match only the last rule."""
    points: dict[int, Point] = {}
    for number in range(1, rounds + 1):
        for count in RULES:
            took = _apply(tulle, [ruled(count)])
            tulle.check_served("/items/0", 1024)
            memory = tulle.memory()
            loads = (Case(f"rules_{count}", "", 32), Case(f"rules_varied_{count}", "", 32, items=True))
            measured = [_loaded(tulle, case, number, seconds, say) for case in loads]
            before = points.get(count)
            together = (before.measured if before else []) + measured
            points[count] = Point("rules", count, together, memory, took if not before else before.change_s, 0.0)
    _apply(tulle, [ruled(RULES[0])])
    return list(points.values())


def _documents(tulle: Tulle, seconds: int, say: Say) -> list[Point]:
    """Documents about pods that are not on this node, as most of a cluster's are."""
    points = []
    for count in DOCUMENTS:
        took = _apply(tulle, [about_others(number) for number in range(count)])
        memory = tulle.memory()
        case = Case(f"documents_{count}", "", 32)
        measured = [_loaded(tulle, case, 1, seconds, say)]
        points.append(Point("documents", count, measured, memory, took, _idle_cores(tulle)))
    tulle.lab.tulle("lab", "delete", "--name", tulle.lab.name, *(f"others-{number}" for number in range(DOCUMENTS[-1])))
    return points


def _connections(tulle: Tulle, seconds: int, say: Say) -> list[Point]:
    """Idle connections, and the usual load beside them. More than one worker may open goes to two."""
    points = []
    workers = 1
    for count in CONNECTIONS:
        wanted = min(count, _MOST_CONNECTIONS)
        if affordable(wanted) < wanted and workers == 1:
            workers = 2
            tulle.start(workers)
        with idle_connections(tulle, wanted, workers) as idle:
            time.sleep(_SETTLE_S)
            memory = tulle.memory()
            quiet = _idle_cores(tulle)
            case = Case(f"connections_{idle.count}", "", 32, workers=workers)
            measured = [_loaded(tulle, case, 1, seconds, say)]
        measured = [replace(one, row=replace(one.row, errors=one.row.errors + idle.errors)) for one in measured]
        points.append(Point("connections", idle.count, measured, memory, 0.0, quiet))
    return points


def _pods(stack: ExitStack, seconds: int, say: Say) -> list[Point]:
    """`web` and ever more pods that do nothing are protected; the lab has all of them from the beginning."""
    say(f"scale: lab with {PODS[-1]} pods goes up, which takes minutes")
    tulle = _started(stack, "pods", PODS[-1])
    points = []
    with tulle.in_place():
        for count in PODS:
            took = _apply(tulle, [extra_protected(count)]) if count > 1 else 0.0
            tulle.check()
            memory, quiet = tulle.memory(), _idle_cores(tulle)
            measured = [_loaded(tulle, Case(f"pods_{count}", "", 32), 1, seconds, say)]
            points.append(Point("pods", count, measured, memory, took, quiet))
    return points


def _loaded(tulle: Tulle, case: Case, number: int, seconds: int, say: Say) -> Measured:
    if number == 1:
        wrk.run(tulle.lab, CASES["keepalive_1k_c32"], _WARM_UP_S)
    done = measure(tulle, case, number, seconds)
    row = done.row
    say(
        f"scale: {case.name:<22} round {number}  {row.requests_per_s:>9,.0f} requests/s"
        f"  {row.cpu_s_per_10k:.2f} CPU s/10k" + (f"  VOID: {row.errors} errors" if row.errors else "")
    )
    return done


def _idle_cores(tulle: Tulle) -> float:
    pids = tulle.pids
    before, began = processes.usage(pids).cpu_s, time.monotonic()
    time.sleep(_IDLE_WATCH_S)
    return (processes.usage(pids).cpu_s - before) / (time.monotonic() - began)


def _apply(tulle: Tulle, documents: Sequence[dict[str, object]]) -> float:
    """Seconds until they are in force, the check and the command's own start included."""
    with tempfile.TemporaryDirectory(prefix="tulle-bench-") as directory:
        file = Path(directory, "policies.yaml")
        # a document each, as JSON, which is YAML: yaml.dump of 10,000 rules takes longer than what is measured
        file.write_text("\n---\n".join(yaml_of(document) for document in documents), encoding="utf-8")
        began = time.monotonic()
        tulle.lab.tulle("lab", "apply", "--name", tulle.lab.name, str(file))
        return time.monotonic() - began


def yaml_of(document: dict[str, object]) -> str:
    """One document as text."""
    return yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)


def ruled(count: int) -> dict[str, object]:
    """bench/policy.yaml with so many HTTP rules; the last one allows what the loads ask for.

    Of every ten, seven are literal paths, two prefixes, and one is an expression that is neither.
    """
    document: dict[str, object] = yaml.safe_load(POLICY.read_text(encoding="utf-8"))
    rules: list[dict[str, str]] = [_rule(number) for number in range(count - 1)]
    rules.append({"method": "GET", "path": "/bench/(1k|64k|1m|1g)|/items/[0-9]+"})
    spec: dict[str, list[dict[str, list[dict[str, dict[str, object]]]]]] = document["spec"]  # type: ignore[assignment]  # its form is this checkout's own
    spec["ingress"][0]["toPorts"][0]["rules"]["http"] = rules
    return document


def _rule(number: int) -> dict[str, str]:
    kind = number % 10
    path = f"/api/v1/things/{number}"
    if kind in (7, 8):
        path = f"/static/{number}/.*"
    elif kind == 9:
        path = f"/api/v2/{number}/items/[0-9]+(/[a-z]+)?"
    return {"method": ("GET", "POST")[number % 2], "path": path}


def about_others(number: int) -> dict[str, object]:
    """A document that selects no pod of the lab."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": f"others-{number}", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": f"other-{number}"}},
            "ingress": [
                {
                    "fromEndpoints": [{"matchLabels": {"app": f"peer-{number}"}}],
                    "toPorts": [
                        {
                            "ports": [{"port": "80", "protocol": "TCP"}],
                            "rules": {"http": [_rule(each) for each in range(10)]},
                        }
                    ],
                }
            ],
        },
    }


def extra_protected(count: int) -> dict[str, object]:
    """The ten rules for so many of the pods that do nothing, in tens."""
    document: dict[str, object] = yaml.safe_load(POLICY.read_text(encoding="utf-8"))
    document["metadata"] = {"name": "extra", "namespace": "default"}
    groups = sorted({extra_group(number) for number in range(count)})
    spec: dict[str, object] = document["spec"]  # type: ignore[assignment]  # its form is this checkout's own
    selected = {"key": "group", "operator": "In", "values": groups}
    spec["endpointSelector"] = {"matchLabels": {"app": EXTRA}, "matchExpressions": [selected]}
    return document
