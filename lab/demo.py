"""`./dev demo`: the main job on real input, told on one screen.

Everything goes through the commands that a user would type; what the record of a request says comes from `tulle
observe`. The exit status is 0 only if every outcome was as stated.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lab import demo_kafka, state
from lab.agents import tulle_command
from lab.stage import EXAMPLES, Failed, Outcome, Record, Stage, now, rule_of, verdict_of


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


class Demo(Stage):
    """The acts, in order."""

    def run(self, *, with_kafka: bool) -> bool:
        """All acts, or those without Kafka; whether every outcome was as stated."""
        kafka = ", Apache Kafka in one" if with_kafka else ""
        self.act(f"1. Two nodes on a VXLAN overlay, pods on both{kafka}; no policy yet")
        self.tulle("up", *(["--with", "kafka"] if with_kafka else []))
        self.show("lab", "status", "--name", self.lab)
        self.act("2. A policy: who may ask web for what")
        print((EXAMPLES / "web-l7.yaml").read_text())
        self.tulle("apply", str(EXAMPLES / "web-l7.yaml"))
        self.act("3. Requests: what was asked, what came of it, and the rule that decided")
        for request in BEFORE:
            self._request(request)
        self.act("4. A reload, while a keep-alive connection is open")
        self._reload()
        self.act("5. What was recorded")
        self.show("observe", "--name", self.lab, "--last", "6")
        if with_kafka:
            self.act("6. Kafka: who may produce and consume what")
            demo_kafka.clients(self)
            self.act("7. A reload takes a topic from a consumer that runs")
            demo_kafka.reload(self)
        self.table()
        return all(outcome.good for outcome in self.outcomes)

    def _request(self, request: Request) -> None:
        command = ["curl", "-sS", "--path-as-is", "-m", "10", "-X", request.method, "-w", "\n%{http_code}", request.url]
        print(f"$ tulle lab exec {request.pod} -- curl -X {request.method} {request.url}", flush=True)
        since = now()
        done = subprocess.run(  # noqa: S603  our own command
            self.inside(request.pod, *command),
            check=False,
            capture_output=True,
            text=True,
        )
        body, _, code = done.stdout.rpartition("\n")
        status = int(code) if code.isdigit() else 0
        record = self._record(request.pod, status, since)
        seen = self._seen(body) if status == 200 else ""
        got = str(status) if status else "refused"
        rule = rule_of(record)
        print(f"  {got}  {verdict_of(record)} by {rule}" + (f"\n  web saw {seen}" if seen else ""), flush=True)
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

    def _record(self, pod: str, status: int, since: str) -> Record:
        """The newest record of this pod's requests with this status that is not older than the request."""
        wanted = ["--verdict", "DROPPED"] if not status else ["--http-status", str(status)]
        return self.find(pod, since, wanted, lambda _: True)

    def _reload(self) -> None:
        command = self.inside("frontend", sys.executable, "-c", KEEP_ALIVE)
        with subprocess.Popen(  # noqa: S603  our own command
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            try:
                first = self._ask(client, "/public", 200, "before the reload")
                self.tulle("apply", str(EXAMPLES / "web-l7-reloaded.yaml"))
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
        since = now()
        client.stdin.write(path + "\n")
        client.stdin.flush()
        got, _, port = client.stdout.readline().strip().partition(" ")
        rule = rule_of(self._record("frontend", int(got or 0), since))
        print(f"  keep-alive connection from port {port}: GET {path}: {got} by {rule}", flush=True)
        self.outcomes.append(Outcome(f"frontend: GET {path} (keep-alive)", str(status), got, rule, note))
        return port


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
  .venv/bin/tulle observe --name {lab} --protocol kafka --verdict DROPPED
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
    parser.add_argument("--no-kafka", action="store_true", help="without the acts that need Java and Apache Kafka")
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
            good = Demo(lab).run(with_kafka=not options.no_kafka)
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
