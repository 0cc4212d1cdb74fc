"""Two paths, one meaning: whatever comes and whenever, a flow with the recogniser does what a strict flow does.

Each example is played to both at once, by an edge that keeps to what the real one guarantees. After every event these
must be the same: what went to the client and on each leg, as messages (`decode`); the records; the counters; the legs;
whether the connection is over, and how. What may differ, and is taken away by `decode`, is the place of the line
Connection and the cut of a chunked body; timers must be the same in kind.

The deep profile (TULLE_HYPOTHESIS=deep) plays some seventy times as many. The same seed plays the same example.
"""

import os
import random
from dataclasses import dataclass, replace

import pytest

from policies.engine import Engine
from policies.ruleset import HttpRule
from proxy.events import LegFailure
from proxy.limits import Limits
from tests.proxy.dialogue import PORT, Dialogue
from tests.proxy.helpers import GET_ANY, POST_ANY, PUBLIC, WITH_HEADER, rules

EXAMPLES = 40_000 if os.environ.get("TULLE_HYPOTHESIS") == "deep" else 600
LIMITS = Limits(head_bytes=400, headers=12, drain_body_bytes=64)

# ---- what is said

_HOST = b"Host: a\r\n"


def request(line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return line + b" HTTP/1.1\r\n" + _HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked"
LENGTH_5, LENGTH_0 = b"Content-Length: 5", b"Content-Length: 0"
EXPECT = b"Expect: 100-continue"
# What a server must never take for a request: it stands in bodies.
INNER = b"GET /inner HTTP/1.1\r\nHost: a\r\n\r\n"
PLAIN_REQUESTS = [
    request(b"GET /public"),
    request(b"GET /public/x?q=secret&b", b"Accept: */*", b"X-Token: yes"),
    request(b"GET /header", b"X-Token: yes"),
    request(b"GET /header"),
    request(b"GET /private"),
    request(b"HEAD /public"),
    request(b"HEAD /private"),
    request(b"DELETE /public", LENGTH_0),
    request(b"POST /x", LENGTH_5, body=b"hello"),
    request(b"POST /x", b"Content-Length: %d" % len(INNER), body=INNER),
    request(b"PATCH /x", b"Content-Length: %d" % len(INNER), body=INNER),
    request(b"PATCH /x", LENGTH_5, body=b"hello"),
    request(b"PATCH /x"),
    request(b"POST /x", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"),
    request(b"POST /x", CHUNKED, body=b"1\r\na\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)),
    request(b"PATCH /x", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"),
    request(b"POST /x", EXPECT, LENGTH_5, body=b"hello"),
    request(b"POST /x", EXPECT, CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"),
    request(b"PATCH /x", EXPECT, LENGTH_5, body=b"hello"),
    request(b"GET /public", b"Connection: close"),
    request(b"GET /public", b"Connection: Keep-Alive", b"Accept: */*"),
    request(b"GET /private", b"connection: Close"),
    request(b"POST /x", b"Connection: keep-alive", LENGTH_5, body=b"hello"),
    request(b"POST /x", b"Connection: close", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"),
]
ODD_REQUESTS = [
    b"\r\n" + request(b"GET /public"),
    request(b"GET /x/../public"),
    request(b"GET /%70ublic"),
    request(b"GET //public"),
    request(b"GET /public%2fx"),
    request(b"GET http://a/public"),
    request(b"OPTIONS *"),
    request(b"GET /public", EXPECT),
    request(b"GET /public", b"Connection: x-token", b"X-Token: yes"),
    request(b"GET /public", b"Upgrade: websocket", b"Connection: Upgrade"),
    request(b"GET /public", b"X-Empty: "),
    request(b"GET /public", b"X-Tab: a\tb"),
    request(b"GET /public", b"X: " + b"y" * 380),
    request(b"GET /public", *[b"X: y"] * 12),
    request(b"POST /x", CHUNKED, body=b"5;ext=1\r\nhello\r\n0\r\n\r\n"),
    request(b"POST /x", CHUNKED, body=b"3\r\nabc\r\n05\r\nhello\r\n000\r\n\r\n"),
    request(b"POST /x", CHUNKED, body=b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"),
    request(b"POST /x", CHUNKED, body=b"3\r\nabc\r\nzz\r\n"),
    request(b"POST /x", CHUNKED, body=b"3\r\nabcd\r\n0\r\n\r\n"),
    request(b"POST /x", LENGTH_5, CHUNKED, body=b"0\r\n\r\n"),
    request(b"PATCH /x", b"Content-Length: 100", body=b"x" * 100),
    request(b"PATCH /x", CHUNKED, body=b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n"),
    b"GET /public HTTP/1.0\r\n\r\n",
    b"GET /public HTTP/1.0\r\nHost: a\r\n\r\n",
    b"GET /public HTTP/1.1\r\n\r\n",
    b"GET /public HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    b"GET /public HTTP/1.1\nHost: a\n\n",
    b"hello\r\n\r\n",
]


def response(status: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


PLAIN_RESPONSES = [
    response(b"200 OK", LENGTH_5, body=b"hello"),
    response(b"200 OK", LENGTH_0),
    response(b"200 OK", b"Content-Type: text/plain", LENGTH_5, b"ETag: x", body=b"hello"),
    response(b"204 No Content"),
    response(b"304 Not Modified", b"ETag: x"),
    response(b"200 OK", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"),
    response(
        b"200 OK",
        CHUNKED,
        body=b"1\r\na\r\n24\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n0\r\n\r\n".replace(
            b"24\r\n", b"26\r\n"
        ).replace(b"9\r\n\r\n0", b"9\r\n\r\n\r\n0"),
    ),
    response(b"100 Continue"),
    response(b"100 Continue") + response(b"201 Created", LENGTH_0),
    response(b"417 Expectation Failed", LENGTH_0),
    response(b"413 Content Too Large", LENGTH_5, b"Connection: close", body=b"hello"),
    response(b"200 OK", b"Connection: close", LENGTH_0),
    response(b"200 OK", b"Connection: keep-alive", b"Keep-Alive: timeout=5", LENGTH_5, body=b"hello"),
    response(b"200 OK", b"Keep-Alive: timeout=5", b"Connection: Close", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"),
    response(b"200 OK", LENGTH_5),  # to HEAD; else a body is missing
]
ODD_RESPONSES = [
    response(b"200 OK", body=b"until close"),
    b"HTTP/1.0 200 OK\r\n\r\nuntil close",
    response(b"200 OK", CHUNKED),  # to HEAD
    response(b"204 No Content", LENGTH_0),
    response(b"304 Not Modified", b"Content-Length: 77"),
    response(b"103 Early Hints", b"Link: x"),
    response(b"101 Switching Protocols", b"Upgrade: x", b"Connection: Upgrade"),
    response(b"200 OK", LENGTH_5, body=b"hello and more"),
    response(b"200 OK", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\nand more"),
    response(b"200 OK", LENGTH_0) * 2,
    response(b"200 OK", CHUNKED, body=b"5;x=y\r\nhello\r\n0\r\n\r\n"),
    response(b"200 OK", CHUNKED, body=b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
    response(b"200 OK", CHUNKED, body=b"5\r\nhello\r\nzz\r\n"),
    response(b"200 OK", CHUNKED, body=b"2\r\nhello\r\n0\r\n\r\n"),
    response(b"200 OK", b"Connection: x-hop", b"X-Hop: 1", LENGTH_0),
    response(b"200 OK", b"X: " + b"y" * 390, LENGTH_0),
    response(b"200 OK", LENGTH_5, b"Content-Length: 6", body=b"hello!"),
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"SSH-2.0-x\r\n\r\n",
]

# ---- what happens

ENGINES: list[Engine] = [
    rules(PUBLIC, POST_ANY, port=PORT, revision=2),
    rules(POST_ANY, port=PORT, revision=3),
    rules(GET_ANY, port=PORT, revision=3),  # another generation of the same revision
    rules(WITH_HEADER, PUBLIC, POST_ANY, port=PORT, revision=4),
    rules(PUBLIC, port=PORT, revision=5, audit=True),
    rules(HttpRule("r-host", host="b"), port=PORT, revision=6),
    rules(port=PORT, revision=7, deny=True),
    rules(port=PORT, revision=8, l4=True),
]


class Stream:
    """The octets that one side has to say, in messages without end, taken in pieces."""

    def __init__(self, chance: random.Random, plain: list[bytes], odd: list[bytes], share_odd: float) -> None:
        self._chance = chance
        self._plain = plain
        self._odd = odd
        self._share_odd = share_odd
        self._left = b""

    def take(self) -> bytes:
        """The rest of a message, some more, or less."""
        chance = self._chance
        if not self._left:
            self._next()
        kind = chance.random()
        if kind < 0.4:
            size = chance.choice((1, 2, 3, 5, 9, 20, 47, 60, len(self._left) - 1, len(self._left) - 5))
            size = max(size, 1)
        else:
            size = len(self._left)
            while kind > 0.75:
                self._next()
                size = max(len(self._left) - (chance.randrange(1, 30) if chance.random() < 0.3 else 0), 1)
                kind = chance.random()
        data, self._left = self._left[:size], self._left[size:]
        return data

    def skip(self) -> None:
        """Go to the next message: the leg is another one."""
        self._left = b""

    def _next(self) -> None:
        odd = self._chance.random() < self._share_odd
        self._left += self._chance.choice(self._odd if odd else self._plain)


class Track:
    """One flow, as the edge treats it."""

    def __init__(self, *, recognise: bool, audit: bool) -> None:
        self.talk = Dialogue(PUBLIC, POST_ANY, limits=LIMITS, recognise=recognise, audit=audit)
        self.edge = self.talk.edge
        self.dialling = self.leg = self.leg_ended = False
        self.over = ""

    def state(self) -> dict[str, object]:
        """What must be the same on both paths."""
        opaque = self.talk.layer.opaque
        return {
            "over": self.over,
            "dialling": self.dialling,
            "leg": self.leg,
            "timer": self.edge.timer if not self.over else None,
            "opaque": opaque,
            "counters": {name: count for name, count in self.talk.counters.items() if count},
            "records": [
                replace(e, time_ns=0, latency_ns=None if e.latency_ns is None else 0) for e in self.edge.events
            ],
            "sent": (bytes(self.edge.down), list(map(bytes, self.edge.legs))) if opaque else self.talk.sent(),
        }

    @property
    def awaits(self) -> bool:
        """Whether a server has something to say. Asked of the strict flow."""
        exchange = getattr(self.talk.layer, "_exchange", None)
        return exchange is not None and not exchange.response_done

    @property
    def reads(self) -> bool:
        """Whether the edge would read from the client."""
        return not (self.over or self.edge.paused or self.edge.full)

    def _relay(self, what: str, data: bytes) -> bytes:
        """Move what the layer need not see, as the edge does with big bodies; gives what is left to be read."""
        layer, edge = self.talk.layer, self.edge
        most = layer.passing_up if what == "down" else layer.passing_down
        moved = data[:most]
        if moved and what == "down":
            edge.send_upstream(moved)
            layer.passed_up(len(moved))
        elif moved:
            edge.send_downstream(moved)
            layer.passed_down(len(moved))
        return data[most:]

    def step(self, what: str, data: bytes, engine: Engine, *, moved: bool = False) -> None:
        if moved and what in ("down", "up") and (what == "down" or (self.leg and not self.leg_ended)):
            data = self._relay(what, data)
            self._listen()
            if not data or self.over:
                return
        layer = self.talk.layer
        match what:
            case "down" if data:
                layer.downstream_data(data)
            case "down":
                layer.downstream_eof()
            case "up" if self.leg and not self.leg_ended:
                layer.upstream_data(data)
            case "up-eof" if self.leg and not self.leg_ended:
                self.leg_ended = True
                layer.upstream_eof()
            case "up-lost" if self.leg:
                self.leg_ended = True
                layer.upstream_lost()
            case "leg" if self.dialling:
                self.dialling, self.leg, self.leg_ended = False, True, False
                layer.upstream_open()
            case "fail" if self.dialling:
                self.dialling = False
                layer.upstream_failed(LegFailure.REFUSED)
            case "down-lost":
                layer.downstream_lost()
            case "timer":
                layer.expired(self.edge.timer)
            case "drain":
                layer.drain()
            case "rules":
                self.talk.box.swap(engine)
            case "full":
                self.edge.full = True
            case "roomy":
                self.edge.full = False
        self._listen()
        if self.edge.full_seen and not self.edge.full and not self.over:
            self.edge.full_seen = False
            self.talk.layer.downstream_drained()
            self._listen()

    def _listen(self) -> None:
        said = self.edge.said
        for word in said:
            assert not self.over, f"after the end: {said}"
            if word == "open":
                assert not self.dialling
                assert not self.leg
                self.dialling = True
            elif word == "close upstream":
                self.dialling = self.leg = False
            elif word.startswith("upstream "):
                assert self.leg
            elif word in ("reset", "finish", "finish, linger"):
                self.over = word
                self.dialling = self.leg = False
        said.clear()


@dataclass(frozen=True)
class Event:
    """data: of "down" and "up". which: the rules to swap to. moved: the edge moves what nobody has to see."""

    what: str
    data: bytes = b""
    which: int = 0
    moved: bool = False


class Player:
    """Both flows, and what happened to them. When reading pauses is a path's own affair, so each piece of the client's
    is read when both would."""

    def __init__(self, *, audit: bool) -> None:
        self.strict, self.hot = Track(recognise=False, audit=audit), Track(recognise=True, audit=audit)
        self.ended = False  # the client's sending
        self._unread: list[Event] = []  # no data: the end

    def happen(self, event: Event) -> None:
        """Tell both and compare what came of it."""
        if event.what not in ("down", "down-eof"):
            self._tell(event)
        elif not self.ended:
            self.ended = event.what == "down-eof"
            self._unread.append(replace(event, what="down"))
        while self._unread and self.strict.reads and self.hot.reads:
            self._tell(self._unread.pop(0))
        strict = self.strict
        if not (strict.over or strict.awaits or strict.edge.full or strict.talk.layer.opaque):
            assert not self._unread, f"reading paused for nothing: {strict.edge.paused=} {self.hot.edge.paused=}"

    def _tell(self, event: Event) -> None:
        for track in (self.strict, self.hot):
            moved = event.moved and bool(event.data)
            track.step(event.what, event.data, Engine(ENGINES[event.which].ruleset), moved=moved)
        expected, found = self.strict.state(), self.hot.state()
        if found != expected:
            name = next(name for name in expected if found[name] != expected[name])
            raise AssertionError(f"{name}: {found[name]} is not {expected[name]}")


def weights(it: Player) -> dict[str, float]:
    """What may happen next, and how likely: mostly what makes sense."""
    strict = it.strict
    return {
        "down": 0 if it.ended else 4,
        "leg": 6 * strict.dialling,
        "fail": 0.3 * strict.dialling,
        "up": 5 * (strict.leg and strict.awaits),
        "rude": 0.1 * strict.leg,
        "up-eof": 0.2 * strict.leg,
        "up-lost": 0.1 * strict.leg,
        "down-eof": 0 if it.ended else 0.1,
        "down-lost": 0.03,
        "timer": 0.15,
        "drain": 0.05,
        "full": 0 if strict.edge.full else 0.2,
        "roomy": 1.5 * strict.edge.full,
        "rules": 0.3,
    }


def example(seed: int) -> None:
    """Play one example."""
    chance = random.Random(seed)  # noqa: S311  no secret
    audit = chance.random() < 0.1
    share_odd = chance.choice((0, 0.1, 0.3))
    client = Stream(chance, PLAIN_REQUESTS, ODD_REQUESTS, share_odd)
    server = Stream(chance, PLAIN_RESPONSES, ODD_RESPONSES, share_odd)
    it = Player(audit=audit)
    happened: list[Event] = []
    try:
        for _ in range(60):
            if it.strict.over:
                break
            likely = weights(it)
            (what,) = chance.choices(list(likely), list(likely.values()))
            match what:
                case "down":
                    event = Event("down", client.take(), moved=chance.random() < 0.3)
                case "up" | "rude":
                    event = Event("up", server.take(), moved=chance.random() < 0.3)
                case "rules":
                    event = Event("rules", which=chance.randrange(len(ENGINES)))
                case _:
                    event = Event(what)
            if what in ("leg", "up-lost", "up-eof"):
                server.skip()
            happened.append(event)
            it.happen(event)
    except Exception as error:
        shortest = shrink(happened, audit=audit)
        raise AssertionError(f"seed {seed}, {audit=}:\n" + "\n".join(map(str, shortest))) from error


def fails(events: list[Event], *, audit: bool) -> bool:
    it = Player(audit=audit)
    try:
        for event in events:
            if it.strict.over:
                return False
            it.happen(event)
    except Exception:  # noqa: BLE001  whatever it is
        return True
    return False


def shrink(events: list[Event], *, audit: bool) -> list[Event]:
    """Leave out what is not needed to fail."""
    at = len(events) - 2
    while at >= 0:
        fewer = events[:at] + events[at + 1 :]
        if fails(fewer, audit=audit):
            events = fewer
        at -= 1
    return events


@pytest.mark.parametrize("part", range(10))
def test_both_paths_do_the_same(part: int) -> None:
    for seed in range(part, EXAMPLES, 10):
        example(seed)
