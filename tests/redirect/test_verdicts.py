"""What the verdict map says besides yes and no: port ranges, flags, protocols, and CIDR prefixes with exceptions."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from redirect.types import Answer, Direction, Flags, VerdictFlags, VerdictKey
from tests.redirect.conftest import ALLOWED, CLIENT_IDENTITY, DENIED, PROXIED, SERVER_IDENTITY, UNNAMED, Steered

pytestmark = pytest.mark.root

TCP = socket.IPPROTO_TCP


@pytest.mark.parametrize(("port", "expected"), [(8079, "EPERM"), (8080, "ok"), (8095, "ok"), (8096, "EPERM")])
def test_range_is_a_prefix_of_the_port(steered: Steered, family: int, port: int, expected: str) -> None:
    """8080-8095 is one entry: 12 leading bits of the port, both ends included."""
    endpoint = steered.protect(steered.client, Flags.EGRESS)
    steered.app(steered.server, family, port)
    key = VerdictKey(endpoint, SERVER_IDENTITY, Direction.EGRESS, TCP, 8080, 12)
    steered.kernel.set_verdicts(endpoint, {key: (Answer.ALLOW, 0)})
    assert steered.client.connect(steered.server.address(family), port)[0] == expected


def test_longer_prefix_of_a_port_wins(steered: Steered) -> None:
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    for port in (8080, 8085, 8088):
        steered.app(steered.server, socket.AF_INET, port)
    entries = {(8080, 12): Answer.ALLOW, (8084, 14): Answer.DENY, (8085, 16): Answer.ALLOW, (0, 0): Answer.DENY}
    steered.kernel.set_verdicts(
        endpoint,
        {
            VerdictKey(endpoint, CLIENT_IDENTITY, Direction.INGRESS, TCP, port, bits): (answer, 0)
            for (port, bits), answer in entries.items()
        },
    )
    outcomes = {port: steered.client.connect(steered.server.ip4, port)[0] for port in (8080, 8084, 8085, 8088, 8096)}
    refused = "ECONNREFUSED"
    assert outcomes == {8080: "ok", 8084: refused, 8085: "ok", 8088: "ok", 8096: refused}
    assert {(one.dport, one.reason) for one in steered.refused()} == {(8084, "no_rule"), (8096, "no_rule")}


@pytest.mark.parametrize(("flags", "reason"), [(VerdictFlags.NONE, "no_rule"), (VerdictFlags.EXPLICIT, "denied")])
def test_denial_says_whether_a_rule_denied(steered: Steered, family: int, flags: VerdictFlags, reason: str) -> None:
    endpoint = steered.protect(steered.client, Flags.EGRESS)
    key = VerdictKey(endpoint, SERVER_IDENTITY, Direction.EGRESS, TCP, DENIED)
    steered.kernel.set_verdicts(endpoint, {key: (Answer.DENY, flags)})
    assert steered.client.connect(steered.server.address(family), DENIED)[0] == "EPERM"
    (denial,) = steered.refused()
    assert (denial.reason, denial.allowed, denial.proto) == (reason, False, TCP)


@pytest.mark.parametrize("direction", list(Direction))
def test_audit_passes_and_is_recorded(steered: Steered, family: int, direction: Direction) -> None:
    pod, peer = (steered.client, SERVER_IDENTITY) if direction else (steered.server, CLIENT_IDENTITY)
    endpoint = steered.protect(pod, Flags.EGRESS if direction else Flags.INGRESS)
    steered.app(steered.server, family, ALLOWED)
    key = VerdictKey(endpoint, peer, direction, TCP, ALLOWED)
    steered.kernel.set_verdicts(endpoint, {key: (Answer.ALLOW, VerdictFlags.AUDIT)})
    assert steered.client.connect(steered.server.address(family), ALLOWED)[0] == "ok"
    (record,) = steered.refused()
    assert (record.reason, record.allowed, record.direction, record.identity) == ("would_deny", True, direction, peer)
    assert (record.dst, record.dport) == (steered.server.address(family), ALLOWED)


@pytest.mark.parametrize("direction", list(Direction))
def test_fail_open_passes_only_without_a_listener(steered: Steered, family: int, direction: Direction) -> None:
    """The gate on the client's device lets it out, too; a worker that comes back gets the next connection."""
    pod, peer = (steered.client, SERVER_IDENTITY) if direction else (steered.server, CLIENT_IDENTITY)
    endpoint = steered.protect(pod, Flags.EGRESS if direction else Flags.INGRESS)
    app = steered.app(steered.server, family, PROXIED)
    key = VerdictKey(endpoint, peer, direction, TCP, PROXIED)
    host = steered.server.address(family)
    steered.kernel.set_verdicts(endpoint, {key: (Answer.PROXY, VerdictFlags.FAIL_OPEN)})
    assert steered.client.connect(host, PROXIED)[0] == "ok"
    (record,) = steered.refused()
    assert (record.reason, record.allowed, record.direction) == ("fail_open", True, direction)
    copier = steered.copier(pod, direction)
    assert steered.client.connect(host, PROXIED)[0] == "ok"
    steered.kill(copier)
    assert len(app.seen) == 2
    assert steered.client.connect(host, PROXIED)[0] == "ok"
    steered.kernel.set_verdicts(endpoint, {key: (Answer.PROXY, VerdictFlags.NONE)})
    steered.refused()
    assert steered.client.connect(host, PROXIED)[0] in ("EPERM", "ECONNREFUSED")
    assert [one.reason for one in steered.refused()] == ["no_listener"]


def test_cidr_with_an_exception(steered: Steered, family: int) -> None:
    """The exception is a longer prefix with an identity of its own, which no entry names."""
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    steered.app(steered.server, family, ALLOWED)
    own = ipaddress.ip_address(steered.client.address(family))
    wide = ipaddress.ip_network((own, 64 if family == socket.AF_INET6 else 24), strict=False)
    key = VerdictKey(endpoint, 1 << 24, Direction.INGRESS, TCP, ALLOWED)
    steered.kernel.set_verdicts(endpoint, {key: (Answer.ALLOW, 0)})
    steered.kernel.set_identities({wide: 1 << 24})
    assert steered.client.connect(steered.server.address(family), ALLOWED)[0] == "ok"
    steered.kernel.set_identities({wide: 1 << 24, ipaddress.ip_network(own): (1 << 24) + 1})
    assert steered.client.connect(steered.server.address(family), ALLOWED)[0] == "ECONNREFUSED"
    assert steered.client.connect(steered.server.address(family), UNNAMED)[0] == "ECONNREFUSED"
