"""What is put into a pod comes out again, whole, and nothing outside the pod changes."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from redirect import plumbing
from redirect.errors import RedirectError
from redirect.rtnl import Rtnl
from tests.redirect.pods import Net, Pod, network, run

pytestmark = pytest.mark.root


def everything(netns_name: str) -> str:
    """Rules, routes and sysctls of a netns as text."""
    commands = ("ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all")
    sysctls = " ".join(f"/proc/sys/{name}" for name in plumbing.SYSCTLS)
    script = "; ".join([*commands, f"grep -H . {sysctls}"])
    command = ["/sbin/ip", "netns", "exec", netns_name, "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own netns


@pytest.fixture
def net() -> Iterator[Net]:
    with network() as made:
        yield made


@pytest.fixture
def pod(net: Net) -> Pod:
    return net.pod("p")


def test_in_and_out_again(net: Net, pod: Pod) -> None:
    before, node = everything(pod.netns_name), everything(net.name)
    assert plumbing.traces(pod.netns) == []
    state = plumbing.protect(pod.netns, pod.addresses)
    inside = everything(pod.netns_name)
    assert inside != before
    assert plumbing.protect(pod.netns, pod.addresses, state) == state
    assert everything(pod.netns_name) == inside
    assert everything(net.name) == node
    kinds = {line.split(":")[0] for line in plumbing.traces(pod.netns, state)}
    assert kinds == {"rule", "route", "sysctl"}
    plumbing.release(pod.netns, state)
    assert plumbing.traces(pod.netns, state) == []
    assert everything(pod.netns_name) == before
    plumbing.release(pod.netns, state)
    assert everything(pod.netns_name) == before


def test_local_rule_is_there_at_every_moment(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added first, removed last: without one the pod could not reach itself."""
    seen: list[int] = []
    act = Rtnl._act

    def watch(self: Rtnl, *arguments: object) -> None:
        act(self, *arguments)  # type: ignore[arg-type]  # passed on as they came
        families = (socket.AF_INET, socket.AF_INET6)
        tables = [[one.get("FRA_TABLE") for one in self.rules(family)] for family in families]
        seen.extend(one.count(plumbing.RT_TABLE_LOCAL) for one in tables)

    monkeypatch.setattr(Rtnl, "_act", watch)
    state = plumbing.protect(pod.netns, pod.addresses)
    plumbing.release(pod.netns, state)
    assert set(seen) == {1, 2}


def test_earlier_sysctls_are_put_back(pod: Pod) -> None:
    with pod.netns.entered():
        plumbing._write("net/ipv4/fwmark_reflect", "1")
    state = plumbing.protect(pod.netns, pod.addresses)
    assert state["sysctls"]["net/ipv4/fwmark_reflect"] == "1"
    plumbing.release(pod.netns, state)
    assert plumbing.traces(pod.netns, state) == []
    with pod.netns.entered():
        values = [plumbing._read(name) for name in plumbing.SYSCTLS]
    assert values == ["0", "1", "0"]


def test_lost_state_means_the_kernels_defaults(pod: Pod) -> None:
    """An agent died before it wrote the state down: our own ones are not taken for what was there before."""
    plumbing.protect(pod.netns, pod.addresses)
    assert set(plumbing.protect(pod.netns, pod.addresses)["sysctls"].values()) == {"0"}
    plumbing.release(pod.netns, None)
    assert plumbing.traces(pod.netns) == []


def test_pod_without_ipv6(pod: Pod) -> None:
    with pod.netns.entered():
        for device in ("all", "default", "lo", "eth0"):
            plumbing._write(f"net/ipv6/conf/{device}/disable_ipv6", "1")
    before = everything(pod.netns_name)
    state = plumbing.protect(pod.netns, pod.addresses[:1])
    assert not any("IPv6" in line for line in plumbing.traces(pod.netns, state))
    plumbing.release(pod.netns, state)
    assert everything(pod.netns_name) == before


def test_pod_without_an_ipv6_address_is_not_steered_in_it(pod: Pod) -> None:
    state = plumbing.protect(pod.netns, pod.addresses[:1])
    lines = plumbing.traces(pod.netns, state)
    assert f"route: IPv6 table {plumbing.LEG_TABLE} default" in lines
    assert not any(f"IPv6 table {plumbing.STEER_TABLE}" in line for line in lines)
    plumbing.release(pod.netns, state)
    assert plumbing.traces(pod.netns, state) == []


def test_routes_are_followed_when_it_is_called_again(pod: Pod) -> None:
    run("ip", "-n", pod.netns_name, "route", "del", "default")
    state = plumbing.protect(pod.netns, pod.addresses)
    steered = [line for line in plumbing.traces(pod.netns, state) if f"IPv4 table {plumbing.STEER_TABLE}" in line]
    assert steered == [f"route: IPv4 table {plumbing.STEER_TABLE} 10.77.0.0"]
    run("ip", "-n", pod.netns_name, "route", "add", "default", "via", "10.77.0.1")
    plumbing.protect(pod.netns, pod.addresses, state)
    steered = [line for line in plumbing.traces(pod.netns, state) if f"IPv4 table {plumbing.STEER_TABLE}" in line]
    assert steered == [f"route: IPv4 table {plumbing.STEER_TABLE} default"]


def test_address_that_the_pod_does_not_have(net: Net, pod: Pod) -> None:
    other = net.pod("o")
    with pytest.raises(RedirectError, match="cannot add a route"):
        plumbing.protect(pod.netns, other.addresses)
    plumbing.release(pod.netns, None)
    assert plumbing.traces(pod.netns) == []


async def _inside_a_coroutine(pod: Pod) -> None:
    state = plumbing.protect(pod.netns, pod.addresses)
    plumbing.release(pod.netns, state)


def test_works_inside_a_running_event_loop(pod: Pod) -> None:
    """The agent calls it from a coroutine."""
    import asyncio

    asyncio.run(_inside_a_coroutine(pod))
    assert plumbing.traces(pod.netns) == []
