r"""Flow tests as dialogues: `>>` is what happens to the flow, `<<` what it must ask of its edge then, all of it and in
order.

    >> downstream GET / HTTP/1.1|Host: a||
    << open
    << timer record
    >> open
    << upstream GET / HTTP/1.1|Host: a||

`|` stands for CRLF in bytes, `~N` at the end of a line for N more bytes of "x". Sends to one side in a row are one
line. No socket, no loop, no clock.

Every dialogue is for both paths (`Dialogue.recognise`, or the fixture `both_paths`). The script is word for word what
the strict layer does. The layer of the hot path must do the same, but: when timers are set, and when reading pauses,
is its own affair; one event's bytes are compared as messages (`decode`), as the line Connection stays where the peer
put it and a body in chunks keeps them; and a record may stand before or behind the bytes of its event.
"""

import difflib
from functools import cache
from typing import ClassVar

from parsers.http1.events import Http1Limits
from policies.engine import Permit
from policies.ruleset import HttpRule
from proxy.counters import new_counters
from proxy.events import Layer, LegFailure, Timer
from proxy.flow import Flow
from proxy.flow_event import FlowEvent
from proxy.layers.http1 import Http1Layer
from proxy.layers.opaque import OpaqueLayer
from proxy.layers.recognised import Patterns, RecognisedLayer
from proxy.limits import Limits
from proxy.policy_box import PolicyBox
from tests.proxy.decode import Message, requests, responses
from tests.proxy.helpers import EGRESS, ENDPOINT, rules

PORT = 80


@cache
def patterns(head_bytes: int, headers: int) -> Patterns:
    """What all flows with these limits share."""
    return Patterns(Http1Limits(max_head_bytes=head_bytes, max_fields=headers))


def octets(text: str) -> bytes:
    """Bytes as a script has them."""
    start, tilde, count = text.rpartition("~")
    if tilde and count.isdigit():
        text = start + "x" * int(count)
    return text.replace("|", "\r\n").encode("latin-1")


class ScriptedEdge:
    """Implements `proxy.commands.Edge` by writing down what it is asked.

    terse: timers, pauses and changes between the two paths are not written down. Kept besides: `down` and `legs`, all
    bytes that were sent; `paused`, `timer`, `events`.
    """

    def __init__(self, *, terse: bool = False) -> None:
        self.said: list[str] = []
        self.layer: Layer | None = None  # the one that was handed over to
        self.full = False
        self.full_seen = False
        self.downstream_unsent = 0
        self.paused = False
        self.timer = Timer.IDLE
        self.down = bytearray()
        self.legs: list[bytearray] = []
        self.events: list[FlowEvent] = []
        self._terse = terse

    def _say(self, word: str) -> None:
        if not self._terse:
            self.said.append(word)

    def _bytes(self, side: str, data: bytes | memoryview) -> None:
        text = bytes(data).decode("latin-1").replace("\r\n", "|")
        if len(text) > 200 and text.strip("x") == "":
            text = f"~{len(text)}"
        if self.said and self.said[-1].startswith(f"{side} "):
            self.said[-1] += text
        else:
            self.said.append(f"{side} {text}")

    @property
    def downstream_full(self) -> bool:
        self.full_seen |= self.full
        return self.full

    def send_downstream(self, data: bytes | memoryview) -> None:
        self.down += data
        self._bytes("downstream", data)

    def send_upstream(self, data: bytes | memoryview) -> None:
        if data:
            self.legs[-1] += data
            self._bytes("upstream", data)

    def pass_downstream(self, data: bytes) -> None:
        self.send_downstream(data)

    def pass_upstream(self, data: bytes) -> None:
        self.send_upstream(data)

    def open_upstream(self, permit: Permit) -> None:
        assert permit.port == PORT
        self.legs.append(bytearray())
        self.said.append("open")

    def close_upstream(self) -> None:
        self.said.append("close upstream")

    def pause_downstream(self) -> None:
        self.paused = True
        self._say("pause")

    def resume_downstream(self) -> None:
        self.paused = False
        self._say("resume")

    def end_downstream(self) -> None:
        self.said.append("end downstream")

    def end_upstream(self) -> None:
        self.said.append("end upstream")

    def hand_over(self, layer: Layer) -> None:
        self.layer = layer
        if layer.opaque:
            self.said.append("opaque")
        else:
            self._say("hand over")

    def finish(self, *, linger: bool) -> None:
        self.said.append("finish, linger" if linger else "finish")

    def reset(self) -> None:
        self.said.append("reset")

    def set_timer(self, timer: Timer, seconds: float) -> None:
        self.timer = timer
        self._say(f"timer {timer.value}")

    def emit(self, event: FlowEvent) -> None:
        self.events.append(event)
        reply = " reply" if event.is_reply else ""
        request = f" {event.method} {event.target}" if event.method else ""
        self.said.append(f"record {event.verdict} {event.code}{request} {event.reason} by {event.rule}{reply}")


class Dialogue:
    """One flow and its script. recognise: begin on the hot path; by default what `Dialogue.recognise` says."""

    recognise: ClassVar[bool] = False

    def __init__(
        self,
        *http: HttpRule,
        opaque: bool = False,
        limits: Limits | None = None,
        audit: bool = False,
        recognise: bool | None = None,
    ) -> None:
        self.hot = not opaque and (self.recognise if recognise is None else recognise)
        self.edge = ScriptedEdge(terse=self.hot)
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
        # what the script says was sent, when that cannot be compared word for word
        self._down = bytearray()
        self._legs: list[bytearray] = []
        self._first = self._layer(opaque=opaque, audit=audit)
        self._first.start()
        self.edge.said.clear()

    def _layer(self, *, opaque: bool, audit: bool) -> Layer:
        if opaque:
            return OpaqueLayer(self.flow, self.edge)
        limits = patterns(self.flow.limits.head_bytes, self.flow.limits.headers)
        quick = RecognisedLayer(self.flow, self.edge, limits, self.flow.place()) if self.hot else None
        if quick is not None and not audit:  # as `Server._place` does
            return quick
        return Http1Layer(self.flow, self.edge, limits.limits, lenient=audit, quick=quick)

    @property
    def layer(self) -> Layer:
        """Whose flow it is now."""
        return self.edge.layer or self._first

    @property
    def methods(self) -> list[str]:
        """Of the requests that have a response or will get one, by their records."""
        return [e.method for e in self.edge.events if not e.is_reply and e.reason != "upstream_unsolicited"]

    def sent(self) -> tuple[list[Message], list[list[Message]]]:
        """All that went to the client, and on each leg."""
        return responses(bytes(self.edge.down), self.methods), [requests(bytes(leg)) for leg in self.edge.legs]

    def play(self, script: str) -> None:
        """Play the events and compare what was asked after each."""
        wanted: list[str] = []
        happened: list[str] = []
        for line in filter(None, map(str.strip, script.splitlines())):
            mark, _, what = line.partition(" ")
            if mark == ">>":
                self._compare(wanted, happened)
                wanted.append(line)
                happened.append(line)
                self._happen(what)
            else:
                assert mark == "<<", line
                wanted.append(line)
        self._compare(wanted, happened)

    def _compare(self, wanted: list[str], happened: list[str]) -> None:
        happened += [f"<< {said}" for said in self.edge.said]
        self.edge.said.clear()
        if (happened != wanted) if not self.hot else not self._same(wanted, happened):
            raise AssertionError("\n" + "\n".join(difflib.ndiff(wanted, happened)))
        if self.hot:
            wanted.clear()
            happened.clear()

    def _same(self, wanted: list[str], happened: list[str]) -> bool:
        """Whether both mean the same, by the module's docstring."""
        words: list[str] = []
        for line in wanted:
            _, _, said = line.partition(" ")
            what, _, rest = said.partition(" ")
            if line == "<< open":
                self._legs.append(bytearray())
            if line.startswith(">> ") or what not in ("timer", "pause", "resume", "downstream", "upstream"):
                words.append(line)
            elif what == "downstream":
                self._down += octets(rest)
            elif what == "upstream":
                self._legs[-1] += octets(rest)
        if words != [
            line for line in happened if line.startswith(">> ") or line.split()[1] not in ("downstream", "upstream")
        ]:
            return False
        if self.layer.opaque:
            return (self._down, self._legs) == (self.edge.down, self.edge.legs)
        legs = [requests(bytes(leg)) for leg in self._legs]
        return (responses(bytes(self._down), self.methods), legs) == self.sent()

    def _happen(self, what: str) -> None:
        layer = self.layer
        word, _, rest = what.partition(" ")
        data = octets(rest)
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
                self.edge.full = True
            case "roomy":
                self.edge.full = False
            case "rules":
                allowed = [HttpRule(f"r-{path}", path=path) for path in rest.split()]
                self.box.swap(rules(*allowed, port=PORT, revision=self.box.revision + 1))
            case _:
                raise AssertionError(f"unknown event '{word}'")
