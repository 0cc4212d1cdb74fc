"""The command line. Nouns read, verbs change; every command's help has an example.

Importing this file is cheap on purpose: `tulle lab exec` runs thousands of times in a test. What a command needs is
imported when it runs.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agent.decode_cli import register as register_decode
from agent.policy_cli import register as register_policy
from audit.observe_arguments import add_arguments as add_observe_arguments
from lab.cli import register as register_lab

if TYPE_CHECKING:
    from agent.config import Settings

DEFAULT_CONFIG = Path("/etc/tulle/agent.yaml")


class Parser(argparse.ArgumentParser):
    """argparse, with the nearest word suggested for one that it does not know."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how to find out more, and exit with 2."""
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            near = difflib.get_close_matches(str(value), names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(names)}"
            raise argparse.ArgumentError(None, f"unknown {action.metavar or 'value'} '{value}': {hint}")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="tulle",
        description="L7 network policy for the network you already have.",
        epilog="example: tulle lab up && tulle lab exec frontend -- curl -s http://web/",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=Parser)
    agent = commands.add_parser(
        "agent",
        help="run this node's agent",
        description="Run this node's agent in the foreground. SIGTERM ends it and leaves enforcement in place.",
        epilog="example: tulle agent --config /etc/tulle/agent.yaml",
    )
    agent.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"default: {DEFAULT_CONFIG}")
    agent.add_argument("--uninstall", action="store_true", help="take enforcement away and end the workers")
    agent.set_defaults(handler=_agent)
    register_policy(commands, _nodes, _add_node_arguments)
    register_decode(commands)
    register_lab(commands)  # type: ignore[arg-type]  # invariant in the parser's class, which it only adds to
    observe = commands.add_parser(
        "observe",
        help="print audit records",
        description="Print audit records of every node of the running lab, or of this node's agent.",
        epilog="example: tulle observe --follow --verdict DROPPED",
    )
    _add_node_arguments(observe)
    add_observe_arguments(observe)
    observe.set_defaults(handler=_observe)
    status = commands.add_parser(
        "status",
        help="print nodes, processes and revisions",
        description="Print the state of every node of the running lab, or of this node; exit 0 when all are ready.",
        epilog="example: tulle status --json",
    )
    _add_node_arguments(status)
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.set_defaults(handler=_status)
    return parser


def _add_node_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="LAB", help="name of the lab, when several are up")
    parser.add_argument("--node", metavar="NODE", help="one node only")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the agent's configuration, instead of a lab's")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command `tulle`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.version:
        from importlib.metadata import version

        print(f"tulle {version('tulle')}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    status: int = options.handler(options)
    return status


def _agent(options: argparse.Namespace) -> int:
    import logging

    from agent.app import run
    from agent.config import load_settings
    from agent.errors import AgentError
    from redirect.errors import RedirectError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s agent %(levelname)s %(message)s")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it logs every change it sees
    try:
        run(load_settings(options.config), uninstall=options.uninstall)
    except (AgentError, RedirectError, OSError) as error:
        return _fail(str(error))
    return 0


def _status(options: argparse.Namespace) -> int:
    from agent.errors import AgentError
    from agent.status import show

    try:
        return show(_nodes(options), sys.stdout, as_json=options.json)
    except AgentError as error:
        return _fail(str(error))
    except BrokenPipeError:
        return _quiet()


def _observe(options: argparse.Namespace) -> int:
    from agent.errors import AgentError
    from audit.observe import run

    try:
        nodes = _nodes(options)
    except AgentError as error:
        return _fail(str(error))
    return run(options, {name: settings.audit.directory for name, settings in nodes.items()})


def _nodes(options: argparse.Namespace) -> dict[str, "Settings"]:
    """Settings of the nodes that a command is about, by name.

    Raises:
        AgentError: no lab is up and there is no configuration, or there is no such node.
    """
    from agent.config import load_settings
    from agent.errors import AgentError

    paths = [options.config] if options.config is not None else _lab_configs(options.name)
    if not paths and options.name is None and DEFAULT_CONFIG.exists():
        paths = [DEFAULT_CONFIG]
    if not paths:
        raise AgentError("no lab is up and there is no configuration: see 'tulle lab up --help', or give --config FILE")
    nodes = {settings.node: settings for settings in map(load_settings, paths)}
    if options.node is None:
        return nodes
    if options.node not in nodes:
        near = difflib.get_close_matches(options.node, nodes, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(nodes)}"
        raise AgentError(f"no node '{options.node}': {hint}")
    return {options.node: nodes[options.node]}


def _lab_configs(name: str | None) -> list[Path]:
    """Configurations of the agents of one lab: the named one, the default one, or the only one that is up."""
    from agent.errors import AgentError
    from lab import names, state
    from lab.errors import LabError

    if name is None:
        labs = state.all_labs()
        if names.DEFAULT_LAB in labs:
            name = names.DEFAULT_LAB
        elif len(labs) == 1:
            name = labs[0]
        elif labs:
            raise AgentError(f"several labs are up, choose one with --name: {', '.join(labs)}")
        else:
            return []
    try:
        lab = state.running(name)
    except LabError as error:
        raise AgentError(str(error)) from error
    return [lab.agent_config(node.name) for node in lab.nodes if lab.agent_config(node.name).exists()]


def _fail(message: str) -> int:
    print(f"tulle: {message}", file=sys.stderr)
    return 1


def _quiet() -> int:
    """Who read our output is gone, as in `tulle status | head -1`: nobody to complain to."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


if __name__ == "__main__":
    raise SystemExit(main())
