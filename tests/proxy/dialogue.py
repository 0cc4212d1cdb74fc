r"""Flow tests as dialogues: `>>` is what happens to the flow, `<<` what it must ask of its edge then, all of it and in
order.

    >> downstream GET / HTTP/1.1|Host: a||
    << open
    << timer record
    >> open
    << upstream GET / HTTP/1.1|Host: a||

`|` stands for CRLF in bytes, `~N` at the end of a line for N more bytes of "x". Sends to one side in a row are one
line. No socket, no loop, no clock.
"""

import difflib

from parsers.http1.events import Http1Limits
from policies.engine import Permit
from policies.ruleset import HttpRule
from proxy.counters import new_counters
from proxy.events import Layer, LegFailure, Timer
from proxy.flow import Flow
from proxy.flow_event import FlowEvent
from proxy.layers.http1 import Http1Layer
from proxy.layers.opaque import OpaqueLayer
from proxy.limits import Limits
from proxy.policy_box import PolicyBox
from tests.proxy.helpers import EGRESS, ENDPOINT, rules

PORT = 80


class ScriptedEdge:
    """Implements `proxy.commands.Edge` by writing down what it is asked."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.layer: Layer | None = None  # the one that was handed over to
        self.downstream_full = False

    def _bytes(self, side: str, data: bytes | memoryview) -> None:
        text = bytes(data).decode("latin-1").replace("\r\n", "|")
        if len(text) > 200 and text.strip("x") == "":
            text = f"~{len(text)}"
        if self.said and self.said[-1].startswith(f"{side} "):
            self.said[-1] += text
        else:
            self.said.append(f"{side} {text}")

    def send_downstream(self, data: bytes | memoryview) -> None:
        self._bytes("downstream", data)

    def send_upstream(self, data: bytes | memoryview) -> None:
        if data:
            self._bytes("upstream", data)

    def pass_downstream(self, data: bytes) -> None:
        self.send_downstream(data)

    def pass_upstream(self, data: bytes) -> None:
        self.send_upstream(data)

    def open_upstream(self, permit: Permit) -> None:
        assert permit.port == PORT
        self.said.append("open")

    def close_upstream(self) -> None:
        self.said.append("close upstream")

    def pause_downstream(self) -> None:
        self.said.append("pause")

    def resume_downstream(self) -> None:
        self.said.append("resume")

    def end_downstream(self) -> None:
        self.said.append("end downstream")

    def end_upstream(self) -> None:
        self.said.append("end upstream")

    def hand_over(self, layer: Layer) -> None:
        self.layer = layer
        self.said.append("opaque" if layer.opaque else "hand over")

    def finish(self, *, linger: bool) -> None:
        self.said.append("finish, linger" if linger else "finish")

    def reset(self) -> None:
        self.said.append("reset")

    def set_timer(self, timer: Timer, seconds: float) -> None:
        self.said.append(f"timer {timer.value}")

    def emit(self, event: FlowEvent) -> None:
        reply = " reply" if event.is_reply else ""
        request = f" {event.method} {event.target}" if event.method else ""
        self.said.append(f"record {event.verdict} {event.code}{request} {event.reason} by {event.rule}{reply}")


class Dialogue:
    """One flow and its script."""

    def __init__(
        self, *http: HttpRule, opaque: bool = False, limits: Limits | None = None, audit: bool = False
    ) -> None:
        self.edge = ScriptedEdge()
        self.box = PolicyBox(rules(*http, port=PORT, l4=opaque, audit=audit))
        self.counters = new_counters()
        self.flow = Flow(
            self.box,
            self.edge.emit,
            limits or Limits(),
            self.counters,
            ENDPOINT,
            EGRESS,
            ("192.0.2.1", 1000),
            ("192.0.2.2", PORT),
        )
        self.layer: Layer = (
            OpaqueLayer(self.flow, self.edge)
            if opaque
            else Http1Layer(self.flow, self.edge, Http1Limits(), lenient=audit)
        )
        self.layer.start()
        self.edge.said.clear()

    def play(self, script: str) -> None:
        """Play the events and compare what was asked after each."""
        wanted: list[str] = []
        happened: list[str] = []
        for line in filter(None, map(str.strip, script.splitlines())):
            mark, _, what = line.partition(" ")
            wanted.append(line)
            if mark == ">>":
                happened += [f"<< {said}" for said in self.edge.said]
                self.edge.said.clear()
                happened.append(line)
                self._happen(what)
            else:
                assert mark == "<<", line
        happened += [f"<< {said}" for said in self.edge.said]
        self.edge.said.clear()
        if happened != wanted:
            raise AssertionError("\n" + "\n".join(difflib.ndiff(wanted, happened)))

    def _happen(self, what: str) -> None:
        layer = self.edge.layer or self.layer
        word, _, rest = what.partition(" ")
        text, tilde, count = rest.rpartition("~")
        if tilde and count.isdigit():
            rest = text + "x" * int(count)
        data = rest.replace("|", "\r\n").encode("latin-1")
        match word:
            case "downstream":
                layer.downstream_data(data)
            case "upstream":
                layer.upstream_data(data)
            case "downstream-eof":
                layer.downstream_eof()
            case "downstream-lost":
                layer.downstream_lost()
            case "downstream-drained":
                layer.downstream_drained()
            case "upstream-eof":
                layer.upstream_eof()
            case "upstream-lost":
                layer.upstream_lost()
            case "open":
                layer.upstream_open()
            case "failed":
                layer.upstream_failed(LegFailure(rest))
            case "expired":
                layer.expired(Timer(rest))
            case "drain":
                layer.drain()
            case "full":
                self.edge.downstream_full = True
            case "roomy":
                self.edge.downstream_full = False
            case "rules":
                allowed = [HttpRule(f"r-{path}", path=path) for path in rest.split()]
                self.box.swap(rules(*allowed, port=PORT, revision=self.box.revision + 1))
            case _:
                raise AssertionError(f"unknown event '{word}'")
