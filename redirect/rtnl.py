"""Rules, routes and links of one netns over a netlink socket of our own, with pyroute2's messages.

pyroute2's own IPRoute runs an event loop, so it cannot be called from a coroutine of the agent, and its netns option
starts a process. A netlink socket keeps its netns as any other does: open it inside, use it from anywhere.
"""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from types import TracebackType
from typing import Any, Self  # Any: pyroute2 has no types; its messages are dicts with attribute lists

from pyroute2.netlink.rtnl.fibmsg import fibmsg  # type: ignore[import-untyped]  # pyroute2 has no types
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped]  # pyroute2 has no types
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped]  # pyroute2 has no types
from pyroute2.netlink.rtnl.tcmsg import tcmsg  # type: ignore[import-untyped]  # pyroute2 has no types

from redirect.errors import RedirectError, kernel_error
from redirect.netns import Netns

__all__ = ["CLSACT_EGRESS", "CLSACT_INGRESS", "Rtnl"]

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_GETLINK = 18
RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
# include/uapi/linux/pkt_sched.h
TC_H_CLSACT, CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
CLSACT_INGRESS, CLSACT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
BPF_ACT_DIRECT = 1  # TCA_BPF_FLAG_ACT_DIRECT: the program's answer is the action
ETH_P_ALL = 3
# include/uapi/linux/rtnetlink.h: RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
NEWS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
TIMEOUT_S = 5.0  # the kernel answers at once; this is for a machine that swaps
BUFFER = 1 << 18  # a dump message is at most 32 KiB


class RouteNews:
    """Tells whether links, addresses or routes of one netns may have changed: reading them takes milliseconds."""

    def __init__(self, netns: Netns) -> None:
        with netns.entered():
            self._sock = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
        self._sock.bind((0, NEWS))

    def came(self) -> bool:
        """Whether something was reported since the last call, or may have been. Look only after the call: what changes
        later is reported again."""
        came = False
        while True:
            try:
                self._sock.recv(BUFFER)
            except BlockingIOError:
                return came
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more came than the socket holds: that is news too
                    return True
            came = True

    def close(self) -> None:
        """Ask no more."""
        self._sock.close()


class Rtnl:
    """One netlink socket in one netns; blocking, for a few messages."""

    def __init__(self, netns: Netns) -> None:
        with netns.entered():
            self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sock.settimeout(TIMEOUT_S)
        self._sock.bind((0, 0))
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()

    def add_rule(self, family: int, **fields: object) -> None:
        """Add a rule; one that is there already is no error."""
        self._act(_rule(family, **fields), RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, {errno.EEXIST}, "add a rule")

    def del_rule(self, family: int, **fields: object) -> None:
        """Remove a rule; one that is not there is no error."""
        self._act(_rule(family, **fields), RTM_DELRULE, 0, {errno.ENOENT, errno.EAFNOSUPPORT}, "remove a rule")

    def rules(self, family: int) -> list[dict[str, Any]]:
        """The rules of a family: the message's fields with its attributes beside them."""
        return self._dump(_rule(family), RTM_GETRULE, fibmsg)

    def replace_route(self, family: int, **fields: object) -> None:
        """Add or replace a route."""
        self._act(_route(family, **fields), RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, set(), "add a route")

    def del_route(self, family: int, **fields: object) -> None:
        """Remove a route; one that is not there is no error."""
        self._act(_route(family, **fields), RTM_DELROUTE, 0, {errno.ESRCH, errno.ENOENT}, "remove a route")

    def routes(self, family: int, table: int) -> list[dict[str, Any]]:
        """The routes of one table. Without strict checking the kernel dumps all tables; we choose."""
        return [one for one in self._dump(_route(family), RTM_GETROUTE, rtmsg) if one.get("RTA_TABLE") == table]

    def links(self) -> dict[str, int]:
        """Interface names and indices."""
        found = self._dump(ifinfmsg(), RTM_GETLINK, ifinfmsg)
        return {one["IFLA_IFNAME"]: one["index"] for one in found}

    def add_clsact(self, index: int) -> None:
        """Give a device the queue discipline that filters hang on; one that is there already is no error."""
        fields = {"index": index, "parent": TC_H_CLSACT, "handle": CLSACT_HANDLE, "kind": "clsact"}
        self._act(_tc(**fields), RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, {errno.EEXIST}, "add a clsact")

    def del_clsact(self, index: int) -> None:
        """Take it away again; one that is not there is no error."""
        fields = {"index": index, "parent": TC_H_CLSACT, "handle": CLSACT_HANDLE}
        self._act(_tc(**fields), RTM_DELQDISC, 0, {errno.ENOENT, errno.EINVAL}, "remove a clsact")

    def replace_filter(self, index: int, parent: int, preference: int, program: int, name: str) -> None:
        """Add or replace a BPF program that judges what leaves a device (CLSACT_EGRESS) or comes in (CLSACT_INGRESS).

        The program's fd is of this process.
        """
        options = {"attrs": [("TCA_BPF_FD", program), ("TCA_BPF_NAME", name), ("TCA_BPF_FLAGS", BPF_ACT_DIRECT)]}
        message = _tc(options=options, kind="bpf", **_filter(index, parent, preference))
        self._act(message, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_REPLACE, set(), "add a filter")

    def del_filter(self, index: int, parent: int, preference: int) -> None:
        """Remove such a program; one that is not there is no error."""
        message = _tc(kind="bpf", **_filter(index, parent, preference))
        self._act(message, RTM_DELTFILTER, 0, {errno.ENOENT, errno.EINVAL}, "remove a filter")

    def filters(self, index: int) -> list[tuple[int, int]]:
        """(parent, preference) of all filters of a device's clsact, both directions."""
        found: list[tuple[int, int]] = []
        for parent in (CLSACT_INGRESS, CLSACT_EGRESS):
            entries = self._dump(_tc(index=index, parent=parent), RTM_GETTFILTER, tcmsg)
            found += [(parent, one["info"] >> 16) for one in entries if one.get("TCA_OPTIONS")]
        return found

    def _act(self, message: Any, kind: int, flags: int, fine: set[int], what: str) -> None:
        sequence = self._send(message, kind, NLM_F_ACK | flags)
        for _, _, code in self._answers(sequence):
            if code and code not in fine:
                raise kernel_error(f"cannot {what}", code)

    def _dump(self, message: Any, kind: int, cls: Any) -> list[dict[str, Any]]:
        sequence = self._send(message, kind, NLM_F_DUMP)
        found: list[dict[str, Any]] = []
        for data, offset, code in self._answers(sequence):
            if code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                return []
            if code:
                raise kernel_error("cannot read a table", code)
            if data:
                one = cls(data, offset=offset)
                one.decode()
                fields = {name: one[name] for name, _ in cls.fields}
                fields.update(dict(one["attrs"]))
                found.append(fields)
        return found

    def _send(self, message: Any, kind: int, flags: int) -> int:
        sequence = next(self._numbers)
        message["header"]["type"] = kind
        message["header"]["flags"] = NLM_F_REQUEST | flags
        message["header"]["sequence_number"] = sequence
        message.encode()
        self._sock.send(bytes(message.data))
        return sequence

    def _answers(self, sequence: int) -> list[tuple[bytes, int, int]]:
        """(datagram, offset of one message, errno) until the last; an empty datagram with the acknowledgement."""
        found: list[tuple[bytes, int, int]] = []
        while True:
            try:
                data = self._sock.recv(BUFFER)
            except OSError as error:
                raise RedirectError(f"no answer from netlink: {error}") from error
            offset = 0
            while offset + HEADER.size <= len(data):
                length, kind, _, number, _ = HEADER.unpack_from(data, offset)
                if number == sequence:
                    if kind == NLMSG_ERROR:
                        return [*found, (b"", 0, -struct.unpack_from("=i", data, offset + HEADER.size)[0])]
                    if kind == NLMSG_DONE:
                        return found
                    found.append((data, offset, 0))
                offset += (length + 3) & ~3


def _fill(message: Any, prefix: str, fields: dict[str, object]) -> Any:
    plain = {name for name, _ in type(message).fields}
    attributes = []
    for name, value in fields.items():
        if name == "table":  # a byte in the header, which is too small, and an attribute, which is not
            attributes.append((f"{prefix}TABLE", value))
        elif name in plain:
            message[name] = value
        else:
            attributes.append((f"{prefix}{name.upper()}", value))
    message["attrs"] = attributes
    return message


def _rule(family: int, **fields: object) -> Any:
    return _fill(fibmsg(), "FRA_", {"family": family, **fields})


def _route(family: int, **fields: object) -> Any:
    return _fill(rtmsg(), "RTA_", {"family": family, **fields})


def _tc(**fields: object) -> Any:
    return _fill(tcmsg(), "TCA_", fields)


def _filter(index: int, parent: int, preference: int) -> dict[str, object]:
    info = preference << 16 | socket.htons(ETH_P_ALL)
    return {"index": index, "parent": parent, "handle": 1, "info": info}
