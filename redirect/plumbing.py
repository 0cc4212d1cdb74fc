"""What steering needs inside a pod: rules, tables and sysctls; put in, taken out, and looked for.

    pref 10   fwmark LEG            table 12369   local default dev lo: our upstream leg and the app's replies to it
    pref 11   fwmark STEER          table 12386   local default dev lo src POD: a steered connect, to our listener
    pref 12   fwmark STEER oif DEV  table 12387   local default dev DEV: the same for a socket bound to a device
    pref 13   fwmark STEER          unreachable   nothing with the steer mark ever leaves
    pref 100                        table local   moved here from pref 0

The local rule is moved, added first and removed last, because it would take our loopback SYNs first: they then show
eth0 as their interface and the steering program sends our own leg back to us: an endless loop (seen).

pref 12 (IPv4): a route on lo does not match a socket bound to a device, and IPv4 then takes the destination to be on
that link, whatever a `prohibit` or `unreachable` rule says (ip_route_output_key_hash_rcu). The connect hook refuses
bound sockets, but one whose connect TCP_FASTOPEN_CONNECT deferred can be bound afterwards, by anybody. A local route on
the very device matches, and the SYN comes back to the steering program, which drops it.

Table 12386 mirrors where the pod has routes of its own: a pod without a route for a family is not steered in it, its
connect fails at once (pref 13 says "network is unreachable") and its clients fall back to the other family.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict  # Any: pyroute2 has no types

from redirect import gate
from redirect.errors import RedirectError, kernel_error
from redirect.netns import Netns
from redirect.rtnl import Rtnl
from redirect.sockets import LEG_MARK, STEER_MARK
from redirect.types import Address, Network

__all__ = ["PodState", "protect", "release", "traces"]

LEG_TABLE, STEER_TABLE, DEVICE_TABLE = 12369, 12386, 12387  # the marks in decimal, and one more: in no rt_tables file
OUR_TABLES = (LEG_TABLE, STEER_TABLE, DEVICE_TABLE)
LEG_PREF, STEER_PREF, DEVICE_PREF, UNREACHABLE_PREF, LOCAL_PREF = 10, 11, 12, 13, 100
FULL_MASK = 0xFFFFFFFF
RT_TABLE_LOCAL, RT_TABLE_MAIN = 255, 254
FR_ACT_TO_TBL, FR_ACT_UNREACHABLE = 1, 7
RTN_UNICAST, RTN_LOCAL = 1, 2
RT_SCOPE_HOST = 254
RTPROT_STATIC = 4
FAMILIES = (socket.AF_INET, socket.AF_INET6)
SYSCTLS = (
    "net/ipv4/tcp_fwmark_accept",  # the app's side of a leg inherits its mark; IPv6 too
    "net/ipv4/fwmark_reflect",  # or the reset of a closed port leaves the pod and the leg times out (seen)
    "net/ipv6/fwmark_reflect",
)
PROC_SYS = Path("/proc/sys")  # net/ shows the netns of the thread that looks


class PodState(TypedDict):
    """What was there before us, to be put back. JSON; the agent keeps it and gives it to ``release``."""

    sysctls: dict[str, str]


def protect(netns: Netns, addresses: Iterable[Address], state: PodState | None = None) -> PodState:
    """Put the plumbing in. Idempotent, also on a pod with live connections; call it again when routes changed.

    ``state`` is what an earlier call returned, if there was one: its earlier values are kept. A pod with IPv6 switched
    off gets IPv4's part alone.

    Raises:
        RedirectError: the kernel refused, as it does an IPv6 address that is still tentative (add it with nodad).
    """
    wanted = {address.version: address for address in addresses}
    now: PodState = {"sysctls": dict(state["sysctls"]) if state else {}}
    with Rtnl(netns) as rtnl:
        ours_before = bool(_our_rules(rtnl))
        try:
            with netns.entered():
                for name in SYSCTLS:
                    _switch_on(name, now, ours_before=ours_before)
                families = [family for family in FAMILIES if family == socket.AF_INET or _ipv6_enabled()]
            devices = {name: index for name, index in rtnl.links().items() if name != "lo"}
            for family in families:
                _put_in(rtnl, family, wanted.get(4 if family == socket.AF_INET else 6), devices)
        except RedirectError:
            if not ours_before:
                release(netns, now)  # half of it is no use, and the caller gets no state to put back
            raise
    return now


def _switch_on(name: str, state: PodState, *, ours_before: bool) -> None:
    value = _read(name)
    if value is None:
        return
    # Our rules without a state: an agent died before it wrote one. The kernel's default is 0 for all three.
    state["sysctls"].setdefault(name, "0" if ours_before else value)
    if value != "1":
        _write(name, "1")


def release(netns: Netns, state: PodState | None) -> None:
    """Take the plumbing (and the gate, if there is one) out and put earlier sysctl values back. Idempotent.

    Live steered connections break with it (seen): the caller waits for their end or closes them first.
    """
    with Rtnl(netns) as rtnl:
        ours = _our_rules(rtnl)
        for family in FAMILIES:
            if any(one["family"] == family and one["FRA_PRIORITY"] == LOCAL_PREF for one in ours):
                rtnl.add_rule(family, priority=0, table=RT_TABLE_LOCAL, action=FR_ACT_TO_TBL)
        for one in ours:
            fields: dict[str, object] = {"priority": one["FRA_PRIORITY"], "action": one["action"]}
            for key in ("FRA_FWMARK", "FRA_FWMASK", "FRA_OIFNAME", "FRA_TABLE"):
                if one.get(key) is not None:
                    fields[key.removeprefix("FRA_").lower()] = one[key]
            rtnl.del_rule(one["family"], **fields)
        for family in FAMILIES:
            for table in OUR_TABLES:
                for route in rtnl.routes(family, table):
                    _del_route(rtnl, family, table, route)
    gate.take_out(netns)
    earlier = state["sysctls"] if state else (dict.fromkeys(SYSCTLS, "0") if ours else {})
    with netns.entered():
        for name, value in earlier.items():
            if name in SYSCTLS and _read(name) not in (None, value):
                _write(name, value)


def traces(netns: Netns, state: PodState | None = None) -> list[str]:
    """What of ours is still in the pod, one line each; empty: nothing.

    Sysctls are compared with ``state`` if it is given; without it, one that is not 0 counts as ours.
    """
    found = [f"filter: on {device}" for device in gate.present(netns)]
    with Rtnl(netns) as rtnl:
        for one in _our_rules(rtnl):
            mark = one.get("FRA_FWMARK") or 0
            found.append(f"rule: {_name(one['family'])} pref {one['FRA_PRIORITY']} fwmark {mark:#x}")
        for family in FAMILIES:
            for table in OUR_TABLES:
                found += [
                    f"route: {_name(family)} table {table} {route.get('RTA_DST', 'default')}"
                    for route in rtnl.routes(family, table)
                ]
    with netns.entered():
        for name in SYSCTLS:
            value = _read(name)
            if value is not None and value != (state["sysctls"].get(name, value) if state else "0"):
                found.append(f"sysctl: {name.replace('/', '.')} = {value}")
    return found


def _put_in(rtnl: Rtnl, family: int, address: Address | None, devices: dict[str, int]) -> None:
    """Routes before the rules that use them; the local rule last."""
    _local_route(rtnl, family, LEG_TABLE, None, oif=1)
    wanted = {_network(family, route) for route in rtnl.routes(family, RT_TABLE_MAIN) if _reaches(route)}
    if address is None:
        wanted = set()  # no address, no source: nothing to steer
    if any(network.prefixlen == 0 for network in wanted):
        wanted = {network for network in wanted if network.prefixlen == 0}
    for network in wanted:
        _local_route(rtnl, family, STEER_TABLE, network, oif=1, prefsrc=str(address))
    for route in rtnl.routes(family, STEER_TABLE):
        if _network(family, route) not in wanted:
            _del_route(rtnl, family, STEER_TABLE, route)
    mark = {"fwmark": STEER_MARK, "fwmask": FULL_MASK}
    rtnl.add_rule(family, priority=UNREACHABLE_PREF, action=FR_ACT_UNREACHABLE, **mark)
    if family == socket.AF_INET:
        for metric, (device, index) in enumerate(sorted(devices.items()), start=1):
            _local_route(rtnl, family, DEVICE_TABLE, None, oif=index, priority=metric)
            rtnl.add_rule(
                family, priority=DEVICE_PREF, table=DEVICE_TABLE, action=FR_ACT_TO_TBL, oifname=device, **mark
            )
    rtnl.add_rule(family, priority=STEER_PREF, table=STEER_TABLE, action=FR_ACT_TO_TBL, **mark)
    rtnl.add_rule(family, priority=LEG_PREF, table=LEG_TABLE, action=FR_ACT_TO_TBL, fwmark=LEG_MARK, fwmask=FULL_MASK)
    rtnl.add_rule(family, priority=LOCAL_PREF, table=RT_TABLE_LOCAL, action=FR_ACT_TO_TBL)
    rtnl.del_rule(family, priority=0, table=RT_TABLE_LOCAL, action=FR_ACT_TO_TBL)


def _local_route(rtnl: Rtnl, family: int, table: int, network: Network | None, **fields: object) -> None:
    if network is not None and network.prefixlen:
        fields |= {"dst": str(network.network_address), "dst_len": network.prefixlen}
    rtnl.replace_route(family, table=table, type=RTN_LOCAL, scope=RT_SCOPE_HOST, proto=RTPROT_STATIC, **fields)


def _del_route(rtnl: Rtnl, family: int, table: int, route: dict[str, Any]) -> None:
    fields: dict[str, object] = {"dst_len": route["dst_len"], "type": route["type"]}
    for key in ("RTA_DST", "RTA_OIF", "RTA_PRIORITY"):
        if route.get(key) is not None:
            fields[key.removeprefix("RTA_").lower()] = route[key]
    rtnl.del_route(family, table=table, scope=route["scope"], **fields)


def _our_rules(rtnl: Rtnl) -> list[dict[str, Any]]:
    found = []
    for family in FAMILIES:
        for one in rtnl.rules(family):
            moved = one.get("FRA_PRIORITY") == LOCAL_PREF and one.get("FRA_TABLE") == RT_TABLE_LOCAL
            if moved or one.get("FRA_FWMARK") in (LEG_MARK, STEER_MARK):
                found.append(one)
    return found


def _reaches(route: dict[str, Any]) -> bool:
    """Whether a route of the main table leads somewhere a connection could go."""
    return route["type"] == RTN_UNICAST and not str(route.get("RTA_DST", "")).startswith(("fe80:", "ff"))


def _network(family: int, route: dict[str, Any]) -> Network:
    default = "0.0.0.0" if family == socket.AF_INET else "::"  # noqa: S104 - the default route's destination
    return ipaddress.ip_network(f"{route.get('RTA_DST') or default}/{route['dst_len']}")


def _ipv6_enabled() -> bool:
    """Whether lo has IPv6, without which no route can be put on it. Inside the netns."""
    return _read("net/ipv6/conf/lo/disable_ipv6") == "0"


def _name(family: int) -> str:
    return "IPv4" if family == socket.AF_INET else "IPv6"


def _read(name: str) -> str | None:
    try:
        return (PROC_SYS / name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None  # a kernel without IPv6


def _write(name: str, value: str) -> None:
    try:
        (PROC_SYS / name).write_text(value, encoding="ascii")
    except OSError as error:
        raise kernel_error(f"cannot set sysctl {name.replace('/', '.')}", error.errno or 0) from error
