"""Whatever both sides send and whenever: no exception leaves the layer, nothing goes upstream without a permit, and a
flow that is over stays over."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.events import LegFailure
from tests.proxy.dialogue import Dialogue
from tests.proxy.helpers import POST_ANY, PUBLIC

REQUESTS = [
    b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /private HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    b"PATCH /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HEAD /public HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /public HTTP/1.0\r\n\r\n",
    b"GET /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    b"GET /public HTTP/1.1\r\n",
    b"hello",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"\r\n",
    b"zz\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    b"hello",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.1 2",
]
STEPS = st.one_of(
    st.tuples(st.just("down"), st.sampled_from(REQUESTS)),
    st.tuples(st.just("down"), st.sampled_from(REQUESTS)),
    st.tuples(st.just("down"), st.lists(st.sampled_from(REQUESTS), min_size=2, max_size=4).map(b"".join)),
    st.tuples(st.just("up"), st.sampled_from(RESPONSES)),
    st.tuples(st.just("up"), st.sampled_from(RESPONSES)),
    st.tuples(st.just("up"), st.lists(st.sampled_from(RESPONSES), min_size=2, max_size=4).map(b"".join)),
    st.tuples(st.sampled_from(["exchange", "forward", "forward"]), st.sampled_from(REQUESTS[:8])),
    st.tuples(st.sampled_from(["leg", "leg", "leg", "up-eof", "up-lost", "down-eof", "down-lost"]), st.just(b"")),
    st.tuples(st.sampled_from(["fail", "timer", "drain", "rules", "full", "roomy"]), st.just(b"")),
)


class Player:
    """Keeps to what the edge guarantees: no event for a leg that is not there, none after the end."""

    def __init__(self, *, recognise: bool) -> None:
        self.talk = Dialogue(PUBLIC, POST_ANY, recognise=recognise)
        self.dialling = self.leg = self.client_ended = self.leg_ended = self.over = False

    @property
    def paused(self) -> bool:
        return self.talk.edge.paused

    def listen(self) -> None:
        said = self.talk.edge.said
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
                self.over = True
        said.clear()

    def step(self, what: str, data: bytes) -> None:
        layer = self.talk.layer
        if what in ("exchange", "forward"):  # a way into the deeper states that chance seldom finds
            for each in (("down", data), ("leg", b""), ("up", RESPONSES[1]))[: 3 if what == "exchange" else 2]:
                if not self.over:
                    self.step(*each)
            return
        if what == "down" and not self.client_ended and not self.paused:
            layer.downstream_data(data)
        elif what == "down-eof" and not self.client_ended and not self.paused:
            self.client_ended = True
            layer.downstream_eof()
        elif what == "down-lost":
            layer.downstream_lost()
        elif what == "up" and self.leg and not self.leg_ended:
            layer.upstream_data(data)
        elif what == "up-eof" and self.leg and not self.leg_ended:
            self.leg_ended = True
            layer.upstream_eof()
        elif what == "up-lost" and self.leg:
            self.leg_ended = True
            layer.upstream_lost()
        elif what == "leg" and self.dialling:
            self.dialling, self.leg, self.leg_ended = False, True, False
            layer.upstream_open()
        elif what == "fail" and self.dialling:
            self.dialling = False
            layer.upstream_failed(LegFailure.REFUSED)
        elif what == "timer":
            layer.expired(self.talk.edge.timer)
        elif what == "drain":
            layer.drain()
        elif what == "rules":
            box = self.talk.box
            box.swap(type(box.engine)(box.engine.ruleset))
        elif what == "full":
            self.talk.edge.full = True
        elif what == "roomy" and self.talk.edge.full:
            self.talk.edge.full = False
            layer.downstream_drained()
        self.listen()


@pytest.mark.parametrize("recognise", [False, True], ids=["strict", "recognised"])
@settings(max_examples=max(400, settings().max_examples))
@given(steps=st.lists(STEPS, max_size=25))
def test_nothing_confuses_the_layer(recognise: bool, steps: list[tuple[str, bytes]]) -> None:
    player = Player(recognise=recognise)
    for what, data in steps:
        if player.over:
            break
        player.step(what, data)
