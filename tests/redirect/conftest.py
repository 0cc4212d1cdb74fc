"""Fixtures of the kernel tests: programs compiled once, pods made anew where a test changes them."""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from redirect import plumbing
from redirect.denials import DenialReader
from redirect.loader import load
from redirect.plumbing import PodState
from redirect.sockets import open_listener, prepared_leg
from redirect.steer import Kernel
from redirect.types import Answer, Denial, Direction, Flags, VerdictFlags, VerdictKey
from tests.redirect.pods import App, Net, Pod, in_cgroup, network, visiting

COPIER = Path(__file__).with_name("copier.py")
FAMILIES = (socket.AF_INET, socket.AF_INET6)
CLIENT_IDENTITY, SERVER_IDENTITY = 300, 301
PROXIED, ALLOWED, DENIED, UNNAMED = 80, 81, 82, 83  # what the verdicts of every test say of these ports
ANSWERS = {
    PROXIED: (Answer.PROXY, VerdictFlags.NONE),
    ALLOWED: (Answer.ALLOW, VerdictFlags.NONE),
    DENIED: (Answer.DENY, VerdictFlags.EXPLICIT),
}


class Steered:
    """Two pods, client and server, with programs, plumbing, listeners and a copier; and what tests do with them."""

    def __init__(self, net: Net, kernel: Kernel) -> None:
        self.net, self.kernel = net, kernel
        self.client, self.server = net.pod("c"), net.pod("s")
        self.own = net.cgroup / "own"
        self.own.mkdir()
        self.denials = DenialReader(kernel)
        self.denials.read()  # of the test before
        self.stack = ExitStack()
        self.states: dict[str, PodState] = {}
        self.copiers: list[subprocess.Popen[str]] = []
        kernel.set_identities(
            {
                ipaddress.ip_network(address): identity
                for pod, identity in ((self.client, CLIENT_IDENTITY), (self.server, SERVER_IDENTITY))
                for address in pod.addresses
            }
        )
        kernel.set_own_cgroups([self.own])
        kernel.attach_cgroup(net.cgroup)

    def app(self, pod: Pod, family: int, port: int, host: str | None = None) -> App:
        app = App(pod.netns, family, port, host=host)
        self.stack.callback(app.close)
        return app

    def protect(self, pod: Pod, flags: Flags, *, attach: bool = True) -> int:
        """Make ``pod`` an endpoint with the verdicts of the ports above for its peer; returns its id."""
        endpoint, peer = (7, SERVER_IDENTITY) if pod is self.client else (8, CLIENT_IDENTITY)
        self.kernel.set_endpoint(pod.netns.cookie, endpoint, flags, pod.addresses)
        self.kernel.set_verdicts(
            endpoint,
            {
                VerdictKey(endpoint, peer, direction, protocol, port): answer
                for direction in Direction
                for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
                for port, answer in ANSWERS.items()
            },
        )
        self.states[pod.name] = plumbing.protect(pod.netns, pod.addresses, self.states.get(pod.name))
        if attach:
            self.kernel.attach_pod(pod.netns, endpoint, pod.addresses, pod.cgroup, gate=True)
        return endpoint

    def copier(self, pod: Pod, direction: Direction, slot: int = 0, stock: int = 48) -> subprocess.Popen[str]:
        """Start a worker for one direction of a pod, both families, in its slot."""
        endpoint = 7 if pod is self.client else 8
        listeners = {family: open_listener(pod.netns, direction, family) for family in FAMILIES}
        legs = {}
        with visiting(self.own), pod.netns.entered():
            for family in FAMILIES:
                legs[family] = [prepared_leg(direction, family) for _ in range(stock)]
        given = {
            "listeners": [[sock.fileno(), direction, family] for family, sock in listeners.items()],
            "stock": [[direction, family, [leg.fileno() for leg in socks]] for family, socks in legs.items()],
        }
        held = [*listeners.values(), *(leg for socks in legs.values() for leg in socks)]
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-S", "-E", str(COPIER), json.dumps(given)],
            pass_fds=[sock.fileno() for sock in held],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: in_cgroup(self.own),
        )
        for family, sock in listeners.items():
            self.kernel.set_listener(endpoint, direction, family, slot, sock)
        for sock in held:
            sock.close()  # workers alone hold listeners, so that a dead worker's slot empties by itself
        self.copiers.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def stop(self, process: subprocess.Popen[str]) -> list[str]:
        """End a copier; returns what it said."""
        self.copiers.remove(process)
        out, _ = process.communicate(timeout=10)
        return out.splitlines()

    def kill(self, process: subprocess.Popen[str]) -> None:
        self.copiers.remove(process)
        process.kill()
        process.communicate(timeout=10)

    def refused(self) -> list[Denial]:
        return self.denials.read()

    def close(self) -> None:
        for process in list(self.copiers):
            self.kill(process)
        self.stack.close()
        self.denials.close()


@pytest.fixture(scope="session")
def bpffs() -> Iterator[Path]:
    """A bpffs directory with everything compiled and pinned, once for all tests."""
    where = Path("/sys/fs/bpf") / f"tt-{secrets.token_hex(4)}"
    load(where)
    yield where
    if where.exists():
        Kernel.open(where).detach_all()


@pytest.fixture
def kernel(bpffs: Path) -> Iterator[Kernel]:
    """An open handle; what a test put into the maps and attached is taken out afterwards."""
    kernel = Kernel.open(bpffs)
    yield kernel
    fresh = Kernel.open(bpffs)
    for one in fresh.attached():
        fresh.detach_pod(one.endpoint)
    fresh.detach_cgroup()
    for endpoint in fresh.endpoints().values():
        fresh.del_endpoint(endpoint.cookie)
    fresh.set_identities({})
    fresh.close()
    kernel.close()


@pytest.fixture
def steered(kernel: Kernel) -> Iterator[Steered]:
    with network() as net:
        made = Steered(net, kernel)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value
