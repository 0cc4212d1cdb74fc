"""`tulle lab`: the commands, and what each needs to know. Everything else is imported when a command runs.

`lab exec` is on the way of every request a test makes, so this module imports argparse and little else.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.names import DEFAULT_LAB

if TYPE_CHECKING:
    type SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "SubParsers") -> None:
    """Mount `lab` and its commands; each sets `handler`, a function from the namespace to an exit status."""
    lab = subparsers.add_parser(
        "lab",
        help="a cluster on one machine: nodes and pods as network namespaces",
        description="A cluster on one machine: nodes and pods as network namespaces, each node with an agent.",
        epilog="example: tulle lab up && tulle lab exec frontend -- curl -s http://web/",
    )
    commands = lab.add_subparsers(dest="lab_command", metavar="COMMAND")

    def show_help(_: argparse.Namespace) -> int:
        lab.print_help()
        return 2

    lab.set_defaults(handler=show_help)
    _register_life(commands)
    _register_policy(commands)
    _register_view(commands)


def _add(commands: "SubParsers", name: str, what: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", default=DEFAULT_LAB, metavar="NAME", help=f"which lab (default: {DEFAULT_LAB})")
    parser.set_defaults(lab_handler=name, handler=handle)
    return parser


def _register_life(commands: "SubParsers") -> None:
    up = _add(commands, "up", "bring a lab up and return when it works", "tulle lab up --name trial --nodes 3")
    what = up.add_mutually_exclusive_group()
    what.add_argument("--nodes", type=int, metavar="N", help="number of nodes (default: 2)")
    what.add_argument("--file", type=Path, metavar="lab.yaml", help="description of nodes and pods")
    up.add_argument("--mode", choices=["vxlan"], default="vxlan", help="how pods are routed (default: vxlan)")
    up.add_argument(
        "--with",
        dest="brokers",
        type=_with,
        default=0,
        metavar="kafka[=N]",
        help="Apache Kafka: pod 'kafka' (or N pods, 'kafka-0' and so on) with topics, and a client pod 'billing'",
    )
    up.add_argument("--no-agent", action="store_true", help="networks and pods only: nothing enforces policy")
    down = _add(commands, "down", "take a lab down, also what a crash left of it", "tulle lab down --name trial")
    down.add_argument("--all", action="store_true", help="every lab on this machine")
    run = _add(
        commands, "exec", "run a command inside a pod", "tulle lab exec shop/web -- ss -tln\n"
        "\nThe exit status is the command's; 125: no such lab or pod, 126: not executable, 127: not found."
    )  # fmt: skip
    run.add_argument("pod", metavar="POD", help="NAME (in namespace default) or NAMESPACE/NAME")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD …", help="the command and its arguments")


def _with(text: str) -> int:
    """`kafka` or `kafka=N` -> the number of brokers."""
    name, equals, count = text.partition("=")
    if name != "kafka" or (equals and not (count.isascii() and count.isdigit() and int(count))):
        raise argparse.ArgumentTypeError(f"expected kafka or kafka=N, got {text!r}")
    return int(count) if equals else 1


def _register_policy(commands: "SubParsers") -> None:
    apply = _add(commands, "apply", "put policy documents in force on every node", "tulle lab apply policy.yaml")
    apply.add_argument("files", nargs="+", metavar="FILE", help="YAML or JSON, several documents each; - is stdin")
    delete = _add(commands, "delete", "take policy documents out of force", "tulle lab delete allow-frontend")
    delete.add_argument("policies", nargs="+", metavar="NAME", help="NAME (in default) or NAMESPACE/NAME")


def _register_view(commands: "SubParsers") -> None:
    status = _add(commands, "status", "show nodes and pods of a running lab", "tulle lab status --json")
    status.add_argument("--json", action="store_true", help="one JSON object")
    logs = _add(commands, "logs", "print what the agents of a lab wrote", "tulle lab logs node-b --follow")
    logs.add_argument("node", nargs="?", metavar="NODE", help="one node (default: all, lines begin with its name)")
    logs.add_argument("--follow", "-f", action="store_true", help="go on until interrupted")


def handle(arguments: argparse.Namespace) -> int:
    """Run the command that `register` parsed; errors are one message on stderr and an exit status."""
    try:
        return _COMMANDS[arguments.lab_handler](arguments)
    except LabError as error:
        sys.stderr.write(f"tulle: {error}\n")
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Who read our output is gone, as in `lab logs | head`; the interpreter must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:  # not root, or a file that is not what it should be
        sys.stderr.write(f"tulle: {error}\n")
        return 1


def _up(arguments: argparse.Namespace) -> int:
    from lab import model
    from lab.up import up

    nodes = 2 if arguments.nodes is None else arguments.nodes
    spec = model.load_spec(arguments.file) if arguments.file else model.default_spec(nodes)
    lab, made = up(
        arguments.name,
        spec,
        mode=arguments.mode,
        with_agents=not arguments.no_agent,
        with_kafka=arguments.brokers,
    )
    what = f"{len(lab.nodes)} nodes, {len(lab.pods)} pods" + ("" if lab.agents else ", no agents")
    print(f"lab {lab.name!r} is up: {what}" if made else f"lab {lab.name!r} is up already: {what}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    from lab import state
    from lab.down import down

    chosen = state.all_labs() if arguments.all else [arguments.name]
    if not chosen:
        print("no lab on this machine: nothing to do")
    for name in chosen:
        print(f"lab {name!r} is down" if down(name) else f"no lab {name!r}: nothing to do")
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    from lab.execute import execute

    command, name = list(arguments.command), arguments.name
    # argparse drops a `--` right behind POD. With options of ours in between it leaves options, `--` and
    # command together; a command itself does not begin with a dash.
    if command and command[0].startswith("-"):
        extra = argparse.ArgumentParser(prog="tulle lab exec", add_help=False, allow_abbrev=False)
        extra.add_argument("--name", default=name)
        at = command.index("--") if "--" in command else len(command)
        own, unknown = extra.parse_known_args(command[:at])
        if not unknown:
            name, command = own.name, command[at + 1 :]
    if not command:
        raise LabError("lab exec: no command; example: tulle lab exec frontend -- curl -s http://web/", 2)
    execute(name, arguments.pod, command)


def _apply(arguments: argparse.Namespace) -> int:
    from lab.policy import apply

    for line in apply(arguments.name, arguments.files):
        print(line)
    return 0


def _delete(arguments: argparse.Namespace) -> int:
    from lab.policy import delete

    for line in delete(arguments.name, arguments.policies):
        print(line)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from lab.status import show

    show(arguments.name, as_json=arguments.json)
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    from lab.logs import show

    show(arguments.name, arguments.node, follow=arguments.follow)
    return 0


_COMMANDS = {
    "up": _up,
    "down": _down,
    "exec": _exec,
    "apply": _apply,
    "delete": _delete,
    "status": _status,
    "logs": _logs,
}


def main() -> int:
    """`python -m lab`: the same commands without the product's own command line."""
    parser = argparse.ArgumentParser(prog="python -m lab", epilog="example: python -m lab lab up")
    register(parser.add_subparsers(required=True, metavar="COMMAND"))
    arguments = parser.parse_args(["lab", *sys.argv[1:]])
    return int(arguments.handler(arguments))
