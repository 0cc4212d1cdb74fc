"""`tulle policy check | explain | diff | learn`: what policies say, why, and what a change of them would change.

Exit status: 0 good (allowed, nothing changes), 1 not (problems, denied, something changes), 2 usage or bad input.
"""

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agent.config import Settings
    from policies.explain import End, Explanation, Question, Side
    from policies.inventory import Inventory
    from policies.policyset import Place, PolicySet
    from policies.replay import Difference
    from policies.requests import KafkaRequest

GOOD: Final = 0
NOT_GOOD: Final = 1
BAD_INPUT: Final = 2

SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
"""Files of a directory that are policies, as the agent reads its own."""

type Nodes = Callable[[argparse.Namespace], Mapping[str, Settings]]


def register(commands: Any, nodes: Nodes, add_node_arguments: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the command to argparse's subparsers (Any: their class has no public name).

    nodes: settings of the nodes that options of `add_node_arguments` name.
    """
    policy = commands.add_parser(
        "policy",
        help="check, explain, compare and learn policies",
        description="Check policies, explain verdicts, compare two sets of policies by recorded flows, learn policies.",
        epilog="example: tulle policy check policies/",
    )
    verbs = policy.add_subparsers(dest="verb", metavar="command", required=True, parser_class=type(policy))
    _add_check(verbs)
    _add_explain(verbs, nodes, add_node_arguments)
    _add_diff(verbs)
    _add_learn(verbs)


def _add_check(verbs: Any) -> None:
    check = verbs.add_parser(
        "check",
        help="find mistakes and surprises in policy files",
        description="Find mistakes and surprises in policy files; exit 0 when there is no mistake, 1 otherwise.",
        epilog="example: tulle policy check policies/ --pods inventory.json",
    )
    check.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a directory of them")
    check.add_argument("--pods", type=Path, metavar="FILE", help="inventory: warn of what no pod, port or service is")
    check.add_argument("--json", action="store_true", help="one JSON object")
    check.set_defaults(handler=lambda options: _guarded(_check, options))


def _add_explain(verbs: Any, nodes: Nodes, add_node_arguments: Callable[[argparse.ArgumentParser], None]) -> None:
    explain = verbs.add_parser(
        "explain",
        help="say why something is allowed or denied",
        description="Say what policies do with a connection or a request, and why; exit 0 when allowed, 1 when denied.",
        epilog="example: tulle policy explain --policies policies/ --pods inventory.json --from frontend --to web "
        "--port 80 --http 'GET /public'",
    )
    explain.add_argument("--policies", type=Path, action="append", metavar="DIR", help="a directory or a file")
    explain.add_argument("--pods", type=Path, metavar="FILE", help="inventory; 'tulle lab status --json' prints one")
    end = "[NAMESPACE/]POD, an IP address, world, host, remote-node or kube-apiserver"
    explain.add_argument("--from", required=True, dest="client", metavar="NS/POD", help=f"who connects: {end}")
    explain.add_argument("--to", required=True, dest="server", metavar="NS/POD", help="where to, likewise")
    explain.add_argument("--port", required=True, metavar="N", help="the server's port, or its name there")
    explain.add_argument("--protocol", type=str.upper, choices=("TCP", "UDP"), default="TCP", metavar="PROTOCOL")
    explain.add_argument("--http", metavar="'GET /path'", help="a request on that connection")
    explain.add_argument("--header", action="append", default=[], metavar="k:v", help="of the request; repeatable")
    explain.add_argument("--kafka", metavar="'produce TOPIC'", help="a Kafka request on that connection")
    explain.add_argument("--kafka-client", default="", metavar="ID", help="its client id")
    explain.add_argument("--kafka-group", metavar="GROUP", help="its consumer group; absent: any")
    explain.add_argument("--kafka-transactional-id", metavar="ID", help="its transactional id; absent: any, or none")
    explain.add_argument("--kafka-version", type=int, default=-1, metavar="N", help="its API version")
    explain.add_argument("--json", action="store_true", help="one JSON object")
    add_node_arguments(explain)
    explain.set_defaults(handler=lambda options: _guarded(lambda each: _explain(each, nodes), options))


def _add_diff(verbs: Any) -> None:
    diff = verbs.add_parser(
        "diff",
        help="replay recorded flows through two sets of policies",
        description="Judge recorded flows by two sets of policies; exit 0 when nothing changes, 1 when something does.",
        epilog="example: tulle policy diff policies/ proposed/ --flows flows.jsonl",
    )
    diff.add_argument("old", type=Path, metavar="OLD", help="a directory or a file")
    diff.add_argument("new", type=Path, metavar="NEW", help="likewise")
    diff.add_argument("--flows", type=Path, required=True, metavar="FILE", help="audit records, or a directory of them")
    diff.add_argument("--pods", type=Path, metavar="FILE", help="inventory: ports by name, services, namespaces, nodes")
    diff.add_argument("--json", action="store_true", help="one JSON object")
    diff.set_defaults(handler=lambda options: _guarded(_diff, options))


def _add_learn(verbs: Any) -> None:
    learn = verbs.add_parser(
        "learn",
        help="write policies that allow recorded flows",
        description="Print policies that allow the recorded flows and little more; how many, on standard error.",
        epilog="example: tulle policy learn flows.jsonl > learned.yaml",
    )
    learn.add_argument("flows", type=Path, metavar="FILE", help="audit records, or a directory of them")
    learn.add_argument(
        "--namespace", action="append", default=[], metavar="NS", help="policies of this one; repeatable"
    )
    learn.add_argument("--egress", action="store_true", help="for the pods that connect, too")
    learn.add_argument(
        "--tulle", action="store_true", help="TulleNetworkPolicies, where they say more of Kafka than Cilium's can"
    )
    learn.set_defaults(handler=lambda options: _guarded(_learn, options))


class _BadInput(Exception):
    """What was given cannot be used; the message has a line for each reason."""


def _guarded(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    from agent.errors import AgentError

    try:
        status = run(options)
        sys.stdout.flush()
        return status
    except _BadInput as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except AgentError as error:
        print(f"tulle: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


# -- what the commands read


def policy_files(paths: Sequence[Path]) -> list[Path]:
    """The files that some paths mean: a directory stands for the policy files in it, as for the agent.

    Raises:
        AgentError: there is no such file or directory.
    """
    from agent.errors import AgentError

    found: dict[Path, None] = {}
    for path in paths:
        try:
            if path.is_dir():
                inside = [each for each in path.iterdir() if each.suffix in SUFFIXES and not each.name.startswith(".")]
                found |= dict.fromkeys(sorted(inside))
                continue
            path.lstat()
        except FileNotFoundError as error:
            names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
            near = difflib.get_close_matches(path.name, names, n=1)
            hint = f": did you mean '{path.parent / near[0]}'?" if near else ""
            raise AgentError(f"no such file or directory: '{path}'{hint}") from error
        except OSError as error:
            raise AgentError(f"cannot read '{path}': {error.strerror}") from error
        found[path] = None
    return list(found)


def load_policies(paths: Sequence[Path]) -> "PolicySet":
    """Every document of these files and directories, compiled.

    Raises:
        AgentError: see `policy_files`.
        _BadInput: a document is bad; all problems are told.
    """
    from policies.compile import compile_policies
    from policies.errors import PolicyError
    from policies.load import load_files
    from policies.places import with_documents

    for path in paths:
        if path.is_dir() and not policy_files([path]):
            print(f"tulle: '{path}' holds no policy file (.yaml, .yml, .json)", file=sys.stderr)
    try:
        documents = load_files(policy_files(paths))
        return with_documents(compile_policies(documents), documents)
    except PolicyError as error:
        raise _BadInput(str(error)) from error


def load_pods(path: Path) -> "Inventory":
    """What an inventory file tells.

    Raises:
        AgentError: it cannot be read, or is wrong.
    """
    from agent.pods.cluster import load_cluster

    return load_cluster(path).to_inventory()


# -- check


def _check(options: argparse.Namespace) -> int:
    from policies.check import Checker, Finding, of_problem
    from policies.compile import compile_policies
    from policies.errors import PolicyError
    from policies.load import load_each
    from policies.places import with_documents
    from policies.policyset import PolicySet

    files = policy_files(options.paths)
    documents, problems = load_each(files)
    findings = [of_problem(problem) for problem in problems]
    try:
        policies = with_documents(compile_policies(documents), documents)
    except PolicyError as error:
        policies = PolicySet()
        findings += [of_problem(problem) for problem in error.problems]
    inventory = load_pods(options.pods) if options.pods is not None else None
    try:
        findings += Checker(policies, inventory).warnings()
    except ValueError as error:
        raise _BadInput(f"tulle: inventory '{options.pods}': {error}") from error
    findings += [
        Finding(str(path), 0, 0, "warning", "", "holds no policy file (.yaml, .yml, .json)")
        for path in options.paths
        if path.is_dir() and not policy_files([path])
    ]
    findings = sorted(set(findings))
    errors = sum(finding.severity == "error" for finding in findings)
    if options.json:
        names = ("file", "line", "column", "severity", "field", "message")
        listed = [{name: getattr(finding, name) for name in names} for finding in findings]
        print(json.dumps({"problems": listed, "documents": len(documents)}, indent=2))
    else:
        for finding in findings:
            print(finding)
        warnings = len(findings) - errors
        print(f"{_count(len(documents), 'good document')}, {_count(errors, 'error')}, {_count(warnings, 'warning')}")
    return NOT_GOOD if errors else GOOD


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# -- explain


def _explain(options: argparse.Namespace, nodes: Nodes) -> int:
    from agent.errors import AgentError
    from agent.policy_request import Refused
    from policies.explain import UnknownEnd, explain, explain_kafka, find_end, find_port
    from policies.ruleset import TCP, UDP

    if options.http is not None and options.kafka is not None:
        raise AgentError("--http and --kafka exclude each other")
    given = (options.kafka_client, options.kafka_group, options.kafka_transactional_id)
    if any(given) and options.kafka is None:
        raise AgentError("--kafka-client, --kafka-group and --kafka-transactional-id belong to --kafka")
    if options.header and options.http is None:
        raise AgentError("--header belongs to --http")
    if options.protocol == "UDP" and (options.http is not None or options.kafka is not None):
        raise AgentError("requests are judged on TCP alone")
    policies, inventory, revision, probes = _subject(options, nodes)
    protocol = UDP if options.protocol == "UDP" else TCP
    try:
        client, server = find_end(inventory, options.client), find_end(inventory, options.server)
        port = find_port(server, options.port, protocol)
        refused = ""
        try:
            question = _question(options, protocol, port)
        except Refused as error:
            refused = str(error)
            question = _question(argparse.Namespace(http=None), protocol, port)
        steps: list[tuple[str, Explanation]] = []
        if options.kafka is None:
            explanation = explain(policies, inventory, client, server, question, probes=probes)
        else:
            steps = explain_kafka(policies, inventory, client, server, port, _kafka_steps(options), probes=probes)
            answers = [each for _, each in steps]
            explanation = next((each for each in answers if not each.allow), answers[0])
            if explanation.allow:
                explanation = next((each for each in answers if each.audited), explanation)
    except UnknownEnd as error:
        raise AgentError(str(error)) from error
    except ValueError as error:  # the inventory contradicts itself
        raise AgentError(f"inventory: {error}") from error
    asked = _asked(options, client, server, question, revision)
    report = _report(explanation, refused, asked)
    if steps:
        report["kafka_asks"] = [_step(text, each) for text, each in steps]
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _print_explanation(report)
    return GOOD if report["verdict"] == "allow" else NOT_GOOD


def _subject(options: argparse.Namespace, nodes: Nodes) -> "tuple[PolicySet, Inventory, int | None, bool]":
    """What is asked about: files, or what a running agent has, or one of each; and whether probes of the node pass."""
    from agent.errors import AgentError

    live = options.node is not None or options.config is not None or options.name is not None
    if not live and (options.policies is None or options.pods is None):
        raise AgentError("give --policies DIR and --pods FILE, or --node NODE (or --config FILE) of a running agent")
    policies = load_policies(options.policies) if options.policies is not None else None
    inventory = load_pods(options.pods) if options.pods is not None else None
    if not live:
        if policies is None or inventory is None:
            raise AssertionError("checked above")
        return policies, inventory, None, True
    known = nodes(options)
    if len(known) > 1:
        raise AgentError(f"choose a node with --node: {', '.join(known)}")
    (settings,) = known.values()
    revision = None
    if policies is None:
        policies, revision = _live_policies(settings)
    return policies, inventory or _live_inventory(settings), revision, settings.node_probes


def _live_policies(settings: "Settings") -> "tuple[PolicySet, int | None]":
    """The set in force at an agent, and its revision; named by the files of the directory where those say the same."""
    from agent.control import ask
    from agent.errors import AgentError

    last_good = settings.state_dir / "last-good"
    try:
        policies = load_policies([last_good])
    except (AgentError, PermissionError) as error:
        raise AgentError(f"node '{settings.node}' has no policies in force to be read: {error}") from error
    try:
        written = load_policies([settings.policy_dir])
        if written.digest == policies.digest:
            policies = written
    except (AgentError, _BadInput, OSError) as error:
        print(f"tulle: the policy directory differs from what is in force: {error}", file=sys.stderr)
    try:
        return policies, int(str(ask(settings.control_socket, {"op": "status"}, 2.0)["revision"]))
    except AgentError as error:
        print(f"tulle: the agent does not answer, this is what it had last: {error}", file=sys.stderr)
        return policies, None


def _live_inventory(settings: "Settings") -> "Inventory":
    from agent.errors import AgentError
    from agent.pods.cluster import load_cluster
    from policies.inventory import NodeHost

    if settings.inventory is None:
        raise AgentError(f"node '{settings.node}' has no inventory file: give --pods FILE")
    return load_cluster(settings.inventory).to_inventory(here=NodeHost(settings.node, local=True))


def _question(options: argparse.Namespace, protocol: int, port: int) -> "Question":
    from agent.policy_request import http_request
    from policies.explain import Question

    http = http_request(options.http, options.header) if options.http is not None else None
    return Question(protocol, port, http)


def _kafka_steps(options: argparse.Namespace) -> "list[tuple[KafkaRequest, ...]]":
    from agent.policy_request import kafka_request

    return kafka_request(
        options.kafka,
        options.kafka_client,
        options.kafka_version,
        options.kafka_group,
        options.kafka_transactional_id,
    )


def _step(text: str, explanation: "Explanation") -> dict[str, object]:
    """What a Kafka request asks, and the answer."""
    side = explanation.decisive
    return {
        "asks": text,
        "verdict": "allow" if explanation.allow else "deny",
        "audited": explanation.audited,
        "rule": side.judgement.rule,
        **_place(side.place),
    }


def _asked(
    options: argparse.Namespace, client: "End", server: "End", question: "Question", revision: int | None
) -> dict[str, object]:
    asked: dict[str, object] = {
        "from": client.text,
        "to": server.text,
        "port": question.port,
        "protocol": options.protocol,
    }
    if options.http is not None:
        method, _, target = options.http.strip().partition(" ")
        asked["http"] = f"{method} {question.http.path if question.http is not None else target.strip()}"
    if options.kafka is not None:
        asked["kafka"] = options.kafka
    if revision is not None:
        asked["revision"] = revision
    return asked


def _report(explanation: "Explanation", refused: str, asked: dict[str, object]) -> dict[str, Any]:
    """The JSON object that `explain` prints; the text is made of it too."""
    from policies.explain import PROTOCOL

    side = explanation.decisive
    allow, rule, reason, place = explanation.allow, side.judgement.rule, side.judgement.reason, side.place
    proxied = any(each.judgement.requests for each in explanation.sides)
    if refused and allow and proxied:  # only who reads requests refuses them
        allow, rule, reason, place = False, PROTOCOL, refused, None
    return {
        "verdict": "allow" if allow else "deny",
        "audited": explanation.audited and allow,
        "rule": rule,
        **_place(place),
        "reason": reason,
        "requests_judged": proxied,
        **asked,
        "sides": [_side(each) for each in explanation.sides],
    }


def _place(place: "Place | None") -> dict[str, object]:
    return {"file": place.file if place else None, "line": place.line if place else None}


def _side(side: "Side") -> dict[str, object]:
    judgement = side.judgement
    return {
        "direction": side.direction.name.lower(),
        "endpoint": side.endpoint,
        "peer": side.peer,
        "enforced": side.enforced,
        "verdict": "allow" if judgement.allow else "deny",
        "audited": judgement.audited,
        "rule": judgement.rule,
        **_place(side.place),
        "reason": judgement.reason,
        "selected_by": [{"policy": name, **_place(place)} for name, place in side.selected_by],
        "considered": [
            {"rule": one.rule, **_place(one.place), "matched": one.matched, "why": one.why} for one in side.considered
        ],
    }


def _print_explanation(report: dict[str, Any]) -> None:
    from policies.explain import TO_ITSELF

    what = report.get("http") or report.get("kafka")
    where = f"{report['from']} -> {report['to']} port {report['port']}/{report['protocol']}"
    verdict = {"allow": "allowed", "deny": "denied"}[report["verdict"]]
    verdict += " (mode audit: would be denied)" if report["audited"] else ""
    print(f"{verdict}: {where}{f', {what}' if what else ''}")
    if "revision" in report:
        print(f"  revision {report['revision']} of the running agent")
    print(f"  by {_rule(report)}")
    print(f"  {report['reason']}")
    for step in report.get("kafka_asks", ()):
        print(f"  asks {step['asks']}: {'allowed' if step['verdict'] == 'allow' else 'denied'} by {_rule(step)}")
    for side in report["sides"]:
        print()
        head = f"{side['direction']} at {side['endpoint']}, {_preposition(side)} {side['peer']}"
        if not side["enforced"]:
            print(f"{head}: {side['reason'] if side['reason'] == TO_ITSELF else 'no policy selects it'}")
            continue
        print(f"{head}: {'allowed' if side['verdict'] == 'allow' else 'denied'} by {_rule(side)}")
        selecting = [_named(one["policy"], one) for one in side["selected_by"]]
        print(f"  selected by {', '.join(selecting)}")
        for one in side["considered"]:
            print(f"  {'+' if one['matched'] else '-'} {_rule(one)}")
            print(f"      {one['why']}")


def _preposition(side: dict[str, Any]) -> str:
    return "from" if side["direction"] == "ingress" else "to"


def _rule(one: dict[str, Any]) -> str:
    return _named(one["rule"] or "its request rules", one)


def _named(name: str, one: dict[str, Any]) -> str:
    return f"{name} ({one['file']}:{one['line']})" if one["file"] else name


# -- diff


def _diff(options: argparse.Namespace) -> int:
    from agent.policy_flows import read_flows
    from policies.replay import compare, unknown_without_inventory

    old, new = load_policies([options.old]), load_policies([options.new])
    inventory = load_pods(options.pods) if options.pods is not None else None
    tale = read_flows(options.flows)
    if inventory is None and (missing := unknown_without_inventory((old, new))):
        print(f"tulle: no record has {', '.join(missing)}: give --pods FILE", file=sys.stderr)
    try:
        found = compare(old, new, tale.flows, inventory)
    except ValueError as error:
        raise _BadInput(f"tulle: inventory '{options.pods}': {error}") from error
    skipped = found.skipped + tale.left_out
    if tale.bad_lines:
        skipped["is not a record"] += tale.bad_lines
    if options.json:
        print(json.dumps(_diff_report(found, skipped, tale.lost), indent=2))
    else:
        _print_difference(found, skipped, tale.lost)
    return NOT_GOOD if found.changes else GOOD


def _totals(found: "Difference", skipped: Mapping[str, int], lost: int) -> dict[str, int]:
    kinds: dict[str, int] = {"allow -> deny": 0, "deny -> allow": 0}
    for change in found.changes:
        kinds[change.kind] = kinds.get(change.kind, 0) + change.count
    return {
        "judged": found.judged,
        "unchanged": found.judged - found.changed,
        **kinds,
        "not replayable": sum(skipped.values()),
        **({"lost before they were recorded": lost} if lost else {}),
    }


def _diff_report(found: "Difference", skipped: Mapping[str, int], lost: int) -> dict[str, object]:
    from policies.describe import protocol_name

    return {
        "totals": _totals(found, skipped, lost),
        "not_replayable": dict(skipped),
        "changes": [
            {
                "change": change.kind,
                "count": change.count,
                "from": change.source,
                "to": change.destination,
                "direction": change.direction,
                "port": change.port,
                "protocol": protocol_name(change.protocol),
                "http": None if change.kafka else change.request or None,
                "kafka": change.request if change.kafka else None,
                "old_rule": change.before.rule,
                "new_rule": change.after.rule,
                "reason": change.after.reason,
            }
            for change in found.changes
        ],
    }


def _print_difference(found: "Difference", skipped: Mapping[str, int], lost: int) -> None:
    from policies.describe import protocol_name

    for change in found.changes:
        port = f"{change.port}/{protocol_name(change.protocol)}"
        what = f" {change.request}" if change.request else ""
        print(f"{change.kind}  {change.count} x  {change.source} -> {change.destination} port {port}{what}")
        print(f"    {change.direction}: {change.before.rule or 'requests'} -> {change.after.rule or 'requests'}")
        print(f"    {change.after.reason}")
    for name, count in _totals(found, skipped, lost).items():
        print(f"{name}: {count}")
    for why, count in sorted(skipped.items()):
        print(f"  {why}: {count}")


# -- learn


def _learn(options: argparse.Namespace) -> int:
    import yaml

    from agent.policy_flows import read_flows
    from policies.learn import learn
    from policies.source import MAX_BYTES

    tale = read_flows(options.flows)
    learned = learn(tale.flows, egress=options.egress, namespaces=frozenset(options.namespace), ours=options.tulle)
    text = yaml.safe_dump_all(learned.documents, sort_keys=False, explicit_start=True) if learned.documents else ""
    sys.stdout.write(text)
    skipped = learned.skipped + tale.left_out
    share = f" ({100 * learned.covered / learned.seen:.1f}%)" if learned.seen else ""
    print(f"coverage: {learned.covered} of {learned.seen} flows{share}", file=sys.stderr)
    for why, count in sorted(skipped.items()):
        print(f"  left out, {why}: {count}", file=sys.stderr)
    if tale.bad_lines:
        print(f"  left out, not a record: {tale.bad_lines}", file=sys.stderr)
    if tale.lost:
        print(f"  lost before they were recorded: {tale.lost}", file=sys.stderr)
    for note in learned.notes:
        print(f"  note: {note}", file=sys.stderr)
    if len(text) > MAX_BYTES:
        print(f"  note: larger than the {MAX_BYTES} bytes of one policy file: split it by --namespace", file=sys.stderr)
    return GOOD if learned.documents else NOT_GOOD
