"""Steering on the real kernel: ingress and egress, IPv4 and IPv6, source kept, fail closed."""

from __future__ import annotations

import pytest

from redirect.types import Direction, Flags
from tests.redirect.conftest import ALLOWED, DENIED, PROXIED, UNNAMED, Steered

pytestmark = pytest.mark.root


def test_ingress_is_steered_and_the_server_sees_the_client(steered: Steered, family: int) -> None:
    client, server = steered.client, steered.server
    steered.protect(server, Flags.INGRESS)
    app = steered.app(server, family, PROXIED)
    copier = steered.copier(server, Direction.INGRESS)
    host = server.address(family)
    outcome, line, peer, _ = client.connect(host, PROXIED)
    assert (outcome, line, peer) == ("ok", f"{client.address(family)} {host} app", host)
    assert app.seen == [client.address(family)]
    assert steered.stop(copier) == [f"conn 0 {client.address(family)} {host} {PROXIED}"]
    assert steered.refused() == []


def test_egress_is_steered_and_the_client_sees_the_server(steered: Steered, family: int) -> None:
    client, server = steered.client, steered.server
    steered.protect(client, Flags.EGRESS)
    steered.app(server, family, PROXIED)
    copier = steered.copier(client, Direction.EGRESS)
    host = server.address(family)
    assert client.connect(host, PROXIED) == ["ok", f"{client.address(family)} {host} app", host, client.address(family)]
    assert steered.stop(copier) == [f"conn 1 {client.address(family)} {host} {PROXIED}"]
