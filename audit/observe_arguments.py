"""The options of `tulle observe`, apart from `audit.observe`: a command line that only parses them loads nothing."""

import argparse
from typing import Final

DEFAULT_LAST: Final = 20
VERDICTS: Final = ("FORWARDED", "DROPPED", "ERROR", "AUDIT")
PROTOCOLS: Final = ("http", "kafka", "tcp", "udp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All but the choice of nodes, which is the caller's. `audit.observe.options_of` checks the values."""
    parser.add_argument("-f", "--follow", action="store_true", help="show new records as they come, until interrupted")
    parser.add_argument(
        "--last", type=_count, metavar="N", help=f"the last N matching records (default {DEFAULT_LAST})"
    )
    parser.add_argument("--all", action="store_true", dest="everything", help="every matching record that is kept")
    parser.add_argument("--since", metavar="TIME", help="nothing older: 90s, 5m, 2h, or 2026-01-31T12:00:00Z")
    parser.add_argument(
        "--verdict",
        action="append",
        default=[],
        type=str.upper,
        choices=VERDICTS,
        metavar="VERDICT",
        help=f"{', '.join(VERDICTS)}; may be given several times, as all below",
    )
    parser.add_argument("--http-path", action="append", default=[], metavar="REGEX", help="from the start of the path")
    parser.add_argument("--http-status", action="append", default=[], metavar="CODE", help="403, or 4+ for all of 4xx")
    parser.add_argument("--http-method", action="append", default=[], type=str.upper, metavar="METHOD", help="as GET")
    parser.add_argument(
        "--protocol", action="append", default=[], type=str.lower, choices=PROTOCOLS, metavar="NAME",
        help=", ".join(PROTOCOLS),
    )  # fmt: skip
    parser.add_argument("--topic", action="append", default=[], metavar="TOPIC", help="of Kafka; * and ? work")
    parser.add_argument("--api-key", action="append", default=[], metavar="NAME", help="of Kafka, as produce or fetch")
    parser.add_argument("--group", action="append", default=[], metavar="GROUP", help="of Kafka; * and ? work")
    parser.add_argument("--client-id", action="append", default=[], metavar="ID", help="of Kafka; * and ? work")
    parser.add_argument(
        "--error-code", action="append", default=[], type=int, metavar="CODE", help="of Kafka, as 29 for a denied topic"
    )
    pod = "[NAMESPACE/]POD"
    parser.add_argument("--pod", action="append", default=[], metavar=pod, help="either side; * and ? work")
    parser.add_argument("--from-pod", action="append", default=[], metavar=pod, help="the side that connected")
    parser.add_argument("--to-pod", action="append", default=[], metavar=pod, help="the side that was connected to")
    parser.add_argument(
        "-o",
        "--output",
        choices=("compact", "jsonpb"),
        default="compact",
        help="jsonpb: the lines as they were written",
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


_count.__name__ = "count"  # argparse names the type in its message
