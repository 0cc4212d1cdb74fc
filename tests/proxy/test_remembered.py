"""Verdicts are remembered, and never for anybody or anything else: real sockets, two pods, two peers, two ports in one
worker, whose rules say the opposite of each other about the same method, target and host."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from policies.engine import Engine
from policies.ruleset import (
    DirectionRules,
    EndpointRules,
    HeaderMatch,
    HttpRule,
    Identity,
    Line,
    Mismatch,
    QueryMatch,
    RuleSet,
)
from proxy import decided
from proxy.accept import Origins
from proxy.flow import Address
from proxy.flow_event import FlowEvent
from proxy.limits import Limits
from proxy.policy_box import PolicyBox
from proxy.server import Server
from tests.proxy.helpers import INGRESS, POLICY, App, Client, PlainUpstreams, hello_app, listening, rig, run

POD, OTHER_POD = 7, 8
PEER, OTHER_PEER = 256, 257
ADDRESSES = {PEER: "127.0.0.2", OTHER_PEER: "127.0.0.3"}
SAY_A, SAY_B = HttpRule("r-a", path="/a"), HttpRule("r-b", path="/b")


class ManyOrigins(Origins):
    """By listener: where its clients wanted to go."""

    def __init__(self) -> None:
        self.targets: dict[int, Address] = {}

    def of(self, sock: socket.socket, client: Address) -> tuple[Address, Address]:
        return client, self.targets[sock.getsockname()[1]]

    def forbidden(self, original: Address) -> bool:
        return False


class Node:
    """One worker with two pods, each with the same two ports."""

    def __init__(self, server: Server, box: PolicyBox, apps: list[App]) -> None:
        self.server = server
        self.box = box
        self.apps = apps
        self.events: list[FlowEvent] = []
        self.listeners: dict[tuple[int, int], Address] = {}
        self._clients: dict[tuple[int, int, int], Client] = {}

    async def ask(self, pod: int, peer: int, which: int, target: str, *fields: str, host: str = "h") -> int:
        """The status of a request on the one connection of this peer to this port of this pod."""
        key = (pod, peer, which)
        client = self._clients.get(key)
        if client is None:
            reader, writer = await asyncio.open_connection(
                *self.listeners[pod, which], local_addr=(ADDRESSES[peer], 0), limit=1 << 20
            )
            client = self._clients[key] = Client(reader, writer)
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *fields, "", ""]
        client.send("\r\n".join(lines).encode())
        return (await client.response())[0]

    def remembered(self) -> set[tuple[bytes, ...]]:
        """What any place keeps."""
        places = self.box._places.values()
        return {key for place in places for key in place.decisions or ()}

    async def close(self) -> None:
        self.server.close()
        for app in self.apps:
            app.stop()
        for client in self._clients.values():
            client.abort()
        for app in self.apps:
            await app.ended()


type Said = Iterable[tuple[int, int | None, int, tuple[HttpRule, ...]]]
"""(pod, peer or None for all, which port, rules)."""


@asynccontextmanager
async def node(said: Said, *, limits: Limits | None = None) -> AsyncIterator[Node]:
    apps = [App(hello_app), App(hello_app)]
    for app in apps:
        await app.start()
    ports = [app.address[1] for app in apps]
    lines: dict[int, list[Line]] = {POD: [], OTHER_POD: []}
    for pod, peer, which, http in said:
        peers = None if peer is None else frozenset((peer,))
        port = ports[which]
        lines[pod].append(Line(f"r{len(lines[pod])}", POLICY, peers, first=port, last=port, http=http))
    endpoints = {
        pod: EndpointRules(
            pod, "default", f"pod-{pod}", {}, DirectionRules(True, True, True, tuple(own), (POLICY,)), DirectionRules()
        )
        for pod, own in lines.items()
    }
    identities = {number: Identity("default", {"n": str(number)}, (f"default/{number}",)) for number in ADDRESSES}
    addresses = {address: (number, f"default/{number}") for number, address in ADDRESSES.items()}
    box = PolicyBox(Engine(RuleSet(1, endpoints, identities, addresses)))
    origins = ManyOrigins()
    made: list[Node] = []
    server = Server(
        asyncio.get_running_loop(),
        policy=box,
        upstreams=PlainUpstreams(),
        emit=lambda event: made[0].events.append(event),
        limits=limits,
        origins=origins,
    )
    made.append(Node(server, box, apps))
    for pod in lines:
        for which, app in enumerate(apps):
            sock = listening()
            origins.targets[sock.getsockname()[1]] = app.address
            made[0].listeners[pod, which] = sock.getsockname()
            server.add_listener(sock, pod, INGRESS)
    try:
        yield made[0]
    finally:
        await made[0].close()


async def opposite(it: Node, one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    """Ask both in turn, each several times on one connection: `one` may /a, `other` may /b."""
    for _ in range(3):
        for asked, target, status in (
            (one, "/a", 200),
            (other, "/a", 403),
            (one, "/b", 403),
            (other, "/b", 200),
            (other, "/a", 403),
            (one, "/a", 200),
        ):
            assert await it.ask(*asked, target) == status, (asked, target)
    # else it was not about remembering: each verdict was made once
    assert it.remembered() == {(b"GET", b"/a", b"h"), (b"GET", b"/b", b"h")}
    kept = [len(place.decisions or ()) for place in it.box._places.values()]
    assert kept == [2, 2]
    assert it.server.counters["internal_error"] == 0
    seen = [(e.connection.endpoint, e.connection.identity, e.connection.destination_port) for e in it.events]
    assert len(set(seen)) == 2
    assert len(seen) == 18


def test_two_pods_whose_rules_are_opposite() -> None:
    async def body() -> None:
        async with node([(POD, None, 0, (SAY_A,)), (OTHER_POD, None, 0, (SAY_B,))]) as it:
            await opposite(it, (POD, PEER, 0), (OTHER_POD, PEER, 0))

    run(body)


def test_two_peers_of_one_pod() -> None:
    async def body() -> None:
        async with node([(POD, PEER, 0, (SAY_A,)), (POD, OTHER_PEER, 0, (SAY_B,))]) as it:
            await opposite(it, (POD, PEER, 0), (POD, OTHER_PEER, 0))

    run(body)


def test_two_ports_of_one_pod_for_one_peer() -> None:
    async def body() -> None:
        async with node([(POD, PEER, 0, (SAY_A,)), (POD, PEER, 1, (SAY_B,))]) as it:
            await opposite(it, (POD, PEER, 0), (POD, PEER, 1))

    run(body)


def test_query_and_host_are_part_of_what_is_remembered() -> None:
    rules = (
        HttpRule("r-query", path="/q.*", query=(QueryMatch("x", "1"),)),
        HttpRule("r-host", path="/h", host="good"),
        HttpRule("r-method", method="HEAD", path="/m"),
    )

    async def body() -> None:
        async with node([(POD, PEER, 0, rules)]) as it:
            for _ in range(2):
                for target, host, status in (
                    ("/q?x=1", "h", 200),
                    ("/q?x=2", "h", 403),
                    ("/q", "h", 403),
                    ("/q?x=1&x=2", "h", 403),
                    ("/q?y&x=1", "h", 200),
                    ("/h", "good", 200),
                    ("/h", "bad", 403),
                    ("/h", "good.", 403),
                    ("/h?good", "good", 403),
                    ("/m", "h", 403),
                ):
                    assert await it.ask(POD, PEER, 0, target, host=host) == status, (target, host)
            assert len(it.remembered()) == 10

    run(body)


ACTIONS = [Mismatch.LOG, Mismatch.ADD, Mismatch.DELETE, Mismatch.REPLACE]


@pytest.mark.parametrize("audit", [False, True])
@pytest.mark.parametrize(
    ("action", "deny"),
    [(Mismatch.REFUSE, False), (Mismatch.REFUSE, True), *((action, False) for action in ACTIONS)],
)
def test_where_a_rule_reads_headers_nothing_is_remembered(action: Mismatch, deny: bool, audit: bool) -> None:
    """The same method, target and host in turn with and without the header. `audit`: the rule that reads it is of a
    policy in mode audit, beside one in mode enforce that allows all."""
    reading = HttpRule("r-reads", headers=(HeaderMatch("x-token", "yes", action),), deny=deny)
    every = HttpRule("r-all")

    async def body() -> None:
        async with rig(every, direction=INGRESS) as it:
            port = it.app.address[1]
            lines = [Line("m", POLICY, None, first=port, last=port, http=(reading,), audit=audit)]
            if audit or deny:
                lines.insert(0, Line("e", POLICY, None, first=port, last=port, http=(every,)))
            direction = DirectionRules(True, True, True, tuple(lines), (POLICY,))
            endpoint = EndpointRules(POD, "default", "web", {}, direction, direction)
            it.server.swap(Engine(RuleSet(2, {POD: endpoint})))
            client = await it.connect()
            outcomes: list[tuple[int, str, str, bytes]] = []
            for token in (b"yes", b"no") * 3:
                it.app.received.clear()
                client.send(b"GET /a HTTP/1.1\r\nHost: h\r\nX-Token: %b\r\n\r\n" % token)
                status, _, _ = await client.response()
                event = await it.event(len(outcomes) + 1)
                outcomes.append((status, event.verdict, event.reason, bytes(it.app.received)))
            assert outcomes == outcomes[:2] * 3
            assert outcomes[0] != outcomes[1] or (audit and action in ACTIONS)
            assert [place.decisions for place in it.box._places.values()] == [None]
            assert it.counters["internal_error"] == 0

    run(body)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decided, "MAX_DECISIONS", 8)

    async def body() -> None:
        async with rig(HttpRule("r-even", path="/.*[02468]")) as it:
            client = await it.connect()
            for number in [*range(50), *range(50), *[1, 2] * 10]:
                client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
                assert (await client.response())[0] == (403 if number % 2 else 200)
                (place,) = it.box._places.values()
                assert place.decisions is not None
                assert 0 < len(place.decisions) <= 8
            for number in (1, 2, 1, 2):
                target = b"/" + b"x" * decided.MAX_KEY_BYTES + b"%d" % number
                client.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
                assert (await client.response())[0] == (403 if number % 2 else 200)
                assert not any(len(key[1]) > decided.MAX_KEY_BYTES for key in place.decisions or ())

    run(body)


def test_places_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.policy_box.MAX_PLACES", 1)

    async def body() -> None:
        async with node([(POD, PEER, 0, (SAY_A,)), (POD, OTHER_PEER, 0, (SAY_B,))]) as it:
            for _ in range(3):
                for peer, target, status in (
                    (PEER, "/a", 200),
                    (OTHER_PEER, "/a", 403),
                    (PEER, "/b", 403),
                    (OTHER_PEER, "/b", 200),
                ):
                    assert await it.ask(POD, peer, 0, target) == status
            assert len(it.box._places) == 1

    run(body)


def test_a_target_that_is_not_canonical_is_never_recognised() -> None:
    """Even when its canonical form is allowed and remembered: what the application sees was written anew."""
    spelt = {
        "/x/../public": "/public",
        "/./public": "/public",
        "//public": "/public",
        "/%70ublic": "/public",
        "/public/%61": "/public/a",
        "/public/a/../a": "/public/a",
        "/public//a": "/public/a",
    }
    denied = ["/public/../secret", "/%73ecret", "//secret", "/public/%2e%2e/secret", "/public/..//./secret"]

    async def body() -> None:
        async with rig(HttpRule("r", path="/public(/.*)?")) as it:
            client = await it.connect()
            for _ in range(2):
                for plain in ("/public", "/public/a", "/secret"):
                    client.send(f"GET {plain} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    assert (await client.response())[0] == (403 if plain == "/secret" else 200)
                for target, canonical in spelt.items():
                    it.app.received.clear()
                    client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    assert (await client.response())[0] == 200
                    assert bytes(it.app.received).startswith(f"GET {canonical} HTTP/1.1\r\n".encode())
                it.app.received.clear()
                for target in denied:
                    client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    assert (await client.response())[0] == 403
                assert bytes(it.app.received) == b""
            (place,) = it.box._places.values()
            assert place.decisions is not None
            assert {key[1] for key in place.decisions} == {b"/public", b"/public/a", b"/secret"}

    run(body)


def test_without_merged_slashes_they_are_not_recognised_either() -> None:
    async def body() -> None:
        async with rig(HttpRule("r", path="/public"), limits=Limits(merge_slashes=False)) as it:
            client = await it.connect()
            for target, status in (("/public", 200), ("//public", 403), ("/public", 200), ("/public/", 403)) * 2:
                client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert (await client.response())[0] == status

    run(body)


@pytest.mark.parametrize("close_denied", [False, True])
def test_rules_that_change_between_two_requests_of_one_connection(close_denied: bool) -> None:
    """With `onChange: close-denied` the server asks the flow at the swap, before its next request does."""

    async def body() -> None:
        async with rig(SAY_A) as it:
            client = await it.connect()
            for revision in range(2, 8):
                for target in ("/a", "/b", "/a", "/b"):
                    client.send(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                    allowed = ("/b", "/a")[revision % 2 == 0]
                    assert (await client.response())[0] == (200 if target == allowed else 403)
                it.swap((SAY_A, SAY_B)[revision % 2 == 0], revision=revision, close_denied=close_denied)
            assert [e.revision for e in it.events] == [number for number in range(1, 7) for _ in range(4)]
            assert it.app.connections == 1

    run(body)


@pytest.mark.parametrize("length", [1, decided.MAX_KEY_BYTES + 1])
@pytest.mark.parametrize("action", [Mismatch.LOG, Mismatch.ADD, Mismatch.REPLACE])
def test_an_engine_that_forgets_to_say_that_it_reads_headers_passes_nothing(
    action: Mismatch, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second line behind `Engine.reads_headers`: a verdict with edits ends the flow where nobody would make them.
    It is not behind DELETE: who looks at no header finds nothing to delete."""
    monkeypatch.setattr(Engine, "reads_headers", lambda *_: False)

    async def body() -> None:
        async with rig(HttpRule("r", headers=(HeaderMatch("x-token", "yes", action),))) as it:
            client = await it.connect()
            client.send(b"GET /%b HTTP/1.1\r\nHost: h\r\nX-Token: no\r\n\r\n" % (b"a" * length))
            with pytest.raises(ConnectionResetError):
                await client.rest()
            assert bytes(it.app.received) == b""
            assert [e.reason for e in it.events] == ["internal_error"]

    run(body)


def test_all_places_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client fills a place for each port that it may ask, and idle connections keep those of earlier rules."""
    monkeypatch.setattr(decided, "MAX_REMEMBERED", 8)

    async def body() -> None:
        says: Said = [(pod, None, which, (SAY_A,)) for pod in (POD, OTHER_POD) for which in (0, 1)]
        async with node(says) as it:
            asked = [(pod, peer, which) for pod in (POD, OTHER_POD) for peer in ADDRESSES for which in (0, 1)]
            for number in range(3):
                for pod, peer, which in asked:
                    assert await it.ask(pod, peer, which, "/a", host=f"h{number}") == 200
                    assert await it.ask(pod, peer, which, "/b", host=f"h{number}") == 403
                    held = [len(place.decisions or ()) for place in it.box._places.values()]
                    assert 0 < sum(held) <= 8
            assert len(held) == len(asked)
            before = list(it.box._places.values())
            it.server.swap(it.box.engine)
            assert not any(place.decisions for place in before)
            assert await it.ask(POD, PEER, 0, "/b") == 403

    run(body)
