"""`./dev demo`: the main job on real input, told on one screen.

Everything goes through the commands that a user would type; what the record of a request says comes from `tulle
observe`. The exit status is 0 only if every outcome was as stated.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab import state
from lab.agents import tulle_command

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RECORD_WAIT_S = 5.0
"""A record is there for `observe` within a second of its decision; a busy machine gets more."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request and what must come of it. status 0: the connection is refused before a byte of HTTP is sent."""

    pod: str
    method: str
    url: str
    status: int
    why: str


BEFORE = (
    Request("frontend", "GET", "http://web/public", 200, "another node, allowed"),
    Request("frontend-near", "GET", "http://web/public/logo?size=2", 200, "the same node, allowed"),
    Request("frontend", "POST", "http://web/orders", 200, "allowed by the second rule"),
    Request("frontend", "GET", "http://web/private", 403, "no rule for this path"),
    Request("frontend", "DELETE", "http://web/public", 403, "no rule for this method"),
    Request("frontend", "GET", "http://web/public/%2e%2e/private", 403, "judged by the path it means"),
    Request("frontend", "GET", "http://web/public/..%2fprivate", 400, "a path that can be read two ways"),
    Request("intruder", "GET", "http://web/public", 0, "a peer that no rule names: refused in the kernel"),
)

# One keep-alive connection: asks for the path of each line that it reads.
KEEP_ALIVE = """
import http.client, sys
connection = http.client.HTTPConnection("web", 80, timeout=20)
for line in sys.stdin:
    connection.request("GET", line.strip())
    answer = connection.getresponse()
    answer.read()
    print(answer.status, connection.sock.getsockname()[1], flush=True)
"""


class Failed(Exception):
    """A step of the demo did not do what it should."""


@dataclass(slots=True)
class Outcome:
    """A row of the table at the end."""

    what: str
    wanted: str
    got: str
    rule: str
    note: str

    @property
    def good(self) -> bool:
        return self.wanted == self.got


class Demo:
    """Runs the acts and keeps their outcomes."""

    def __init__(self, lab: str) -> None:
        self._lab = lab
        self.outcomes: list[Outcome] = []
        self._bold = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def run(self) -> bool:
        """All acts; whether every outcome was as stated."""
        self._act("1. Two nodes on a VXLAN overlay, pods on both; no policy yet")
        self._tulle("up")
        self._show("lab", "status", "--name", self._lab)
        self._act("2. A policy: who may ask web for what")
        print((EXAMPLES / "web-l7.yaml").read_text())
        self._tulle("apply", str(EXAMPLES / "web-l7.yaml"))
        self._act("3. Requests: what was asked, what came of it, and the rule that decided")
        for request in BEFORE:
            self._request(request)
        self._act("4. A reload, while a keep-alive connection is open")
        self._reload()
        self._act("5. What was recorded")
        self._show("observe", "--name", self._lab, "--last", "6")
        self._table()
        return all(outcome.good for outcome in self.outcomes)

    def _act(self, title: str) -> None:
        print(f"\n\033[1m{title}\033[0m" if self._bold else f"\n{title}", flush=True)

    def _show(self, *arguments: str) -> None:
        print(f"$ tulle {' '.join(arguments)}", flush=True)
        subprocess.run([*tulle_command(), *arguments], check=False)  # noqa: S603  our own command

    def _tulle(self, command: str, *arguments: str) -> None:
        line = ["lab", command, "--name", self._lab, *arguments]
        shown = [os.path.relpath(word) if word.startswith("/") else word for word in line]
        print(f"$ tulle {' '.join(shown)}", flush=True)
        if subprocess.run([*tulle_command(), *line], check=False).returncode:  # noqa: S603  our own command
            raise Failed(f"tulle lab {command} failed")

    def _request(self, request: Request) -> None:
        command = ["curl", "-sS", "--path-as-is", "-m", "10", "-X", request.method, "-w", "\n%{http_code}", request.url]
        print(f"$ tulle lab exec {request.pod} -- curl -X {request.method} {request.url}", flush=True)
        since = _now()
        done = subprocess.run(  # noqa: S603  our own command
            [*tulle_command(), "lab", "exec", "--name", self._lab, request.pod, "--", *command],
            check=False,
            capture_output=True,
            text=True,
        )
        body, _, code = done.stdout.rpartition("\n")
        status = int(code) if code.isdigit() else 0
        record = self._record(request.pod, status, since)
        seen = self._seen(body) if status == 200 else ""
        got = str(status) if status else "refused"
        rule = _rule_of(record)
        print(f"  {got}  {_verdict_of(record)} by {rule}" + (f"\n  web saw {seen}" if seen else ""), flush=True)
        what = f"{request.pod}: {request.method} {request.url.removeprefix('http://web')}"
        self.outcomes.append(
            Outcome(what, str(request.status) if request.status else "refused", got, rule, request.why)
        )

    def _seen(self, body: str) -> str:
        try:
            heard = json.loads(body)
            return f"{heard['method']} {heard['target']} from {heard['client']}"
        except (ValueError, KeyError, TypeError):
            return f"something that is not its own answer: {body[:60]!r}"

    def _record(self, pod: str, status: int, since: str) -> dict[str, object]:
        """The newest record of this pod's requests with this status that is not older than the request."""
        deadline = time.monotonic() + RECORD_WAIT_S
        wanted = ["--verdict", "DROPPED"] if not status else ["--http-status", str(status)]
        while time.monotonic() < deadline:
            line = subprocess.run(  # noqa: S603  our own command
                [
                    *tulle_command(),
                    *("observe", "--name", self._lab, "--from-pod", pod, "--since", since),
                    *("--last", "1", "-o", "jsonpb", *wanted),
                ],
                check=False,
                capture_output=True,
                text=True,
            ).stdout.strip()
            if line:
                record: dict[str, object] = json.loads(line)
                return record
            time.sleep(0.1)
        return {}

    def _reload(self) -> None:
        command = [
            *tulle_command(),
            "lab",
            "exec",
            "--name",
            self._lab,
            "frontend",
            "--",
            sys.executable,
            "-c",
            KEEP_ALIVE,
        ]
        with subprocess.Popen(  # noqa: S603  our own command
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            try:
                first = self._ask(client, "/public", 200, "before the reload")
                self._tulle("apply", str(EXAMPLES / "web-l7-reloaded.yaml"))
                second = self._ask(client, "/public", 403, "after the reload, the same connection")
                third = self._ask(client, "/private", 200, "after the reload, the same connection")
            finally:
                if client.stdin:
                    client.stdin.close()
                client.terminate()
        same = "yes" if first == second == third else "no"
        self.outcomes.append(Outcome("one connection throughout", "yes", same, "", "client port unchanged"))

    def _ask(self, client: "subprocess.Popen[str]", path: str, status: int, note: str) -> str:
        if client.stdin is None or client.stdout is None:
            raise Failed("the client has no pipes")
        since = _now()
        client.stdin.write(path + "\n")
        client.stdin.flush()
        got, _, port = client.stdout.readline().strip().partition(" ")
        rule = _rule_of(self._record("frontend", int(got or 0), since))
        print(f"  keep-alive connection from port {port}: GET {path}: {got} by {rule}", flush=True)
        self.outcomes.append(Outcome(f"frontend: GET {path} (keep-alive)", str(status), got, rule, note))
        return port

    def _table(self) -> None:
        width = max(len(outcome.what) for outcome in self.outcomes)
        rule = max(len(outcome.rule) for outcome in self.outcomes)
        print(f"\n{'':4} {'request':<{width}}  {'stated':<7}  {'came':<7}  {'rule':<{rule}}  note")
        for outcome in self.outcomes:
            mark = "ok" if outcome.good else "BAD"
            print(
                f"{mark:<4} {outcome.what:<{width}}  {outcome.wanted:<7}  {outcome.got:<7}  "
                f"{outcome.rule:<{rule}}  {outcome.note}"
            )
        bad = sum(not outcome.good for outcome in self.outcomes)
        print(f"\n{len(self.outcomes) - bad} of {len(self.outcomes)} outcomes as stated", flush=True)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _rule_of(record: dict[str, object]) -> str:
    tulle = record.get("tulle")
    return str(tulle.get("rule", "?")) if isinstance(tulle, dict) else "no record"


def _verdict_of(record: dict[str, object]) -> str:
    flow = record.get("flow")
    return str(flow.get("verdict", "?")) if isinstance(flow, dict) else "?"


@contextlib.contextmanager
def _lab_down(lab: str, *, keep: bool) -> Iterator[None]:
    """Take the lab down whatever happens, a Ctrl-C and a SIGTERM included; with `keep` only if something did."""
    failed = True
    try:
        yield
        failed = False
    finally:
        if failed or not keep:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half a lab
            print(f"\n$ tulle lab down --name {lab}", flush=True)
            subprocess.run([*tulle_command(), "lab", "down", "--name", lab], check=False)  # noqa: S603  our own command


TRY_NEXT = """
The lab is up. Try:
  .venv/bin/tulle lab exec --name {lab} frontend -- curl -i http://web/private
  .venv/bin/tulle observe --name {lab} --follow
  .venv/bin/tulle status --name {lab}
  .venv/bin/tulle lab apply --name {lab} examples/frontend-egress.yaml
  .venv/bin/tulle lab down --name {lab}
"""


def _free_name() -> str:
    """`demo`, or `demo-2` and so on where somebody kept an earlier one: a lab that is up is never disturbed."""
    taken = set(state.all_labs())
    return next(name for name in ("demo", *(f"demo-{n}" for n in range(2, 1000))) if name not in taken)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `./dev demo`."""
    parser = argparse.ArgumentParser(
        prog="./dev demo", description="The main job on real input.", epilog="example: ./dev demo --keep"
    )
    parser.add_argument("--keep", action="store_true", help="leave the lab up and print what to try next")
    parser.add_argument("--name", metavar="LAB", help="name of the lab (default: demo, or demo-2 where one is up)")
    options = parser.parse_args(arguments)
    keep = options.keep
    signal.signal(signal.SIGTERM, _interrupt)
    lab = options.name or _free_name()
    if options.name in state.all_labs():
        print(f"demo: lab '{lab}' is up: choose another name, or none", file=sys.stderr)
        return 1
    try:
        with _lab_down(lab, keep=keep):
            good = Demo(lab).run()
    except Failed as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if keep:
        print(TRY_NEXT.format(lab=lab))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
