"""Typed access to the pinned maps."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Self

from redirect import libbpf
from redirect.errors import RedirectError
from redirect.layout import (
    PREFIX_NO_PORT,
    REASONS,
    EndpointValue,
    IdentityKey,
    NodeValue,
    VerdictKeyC,
    VerdictValue,
    listener_index,
    pack_address,
    unpack_address,
)
from redirect.types import (
    MAX_ENDPOINT,
    SLOTS,
    Address,
    Answer,
    Direction,
    Endpoint,
    Flags,
    Network,
    VerdictFlags,
    VerdictKey,
    VerdictKeyLike,
)

__all__ = ["Maps"]

U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")
PORT_BITS = 16
PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, 255)  # 255: every other
FAMILIES = (socket.AF_INET, socket.AF_INET6)

type Verdict = tuple[int, int]  # answer, flags


def check_endpoint(endpoint: int) -> None:
    """Raises RedirectError for an id the maps have no room for."""
    if not 1 <= endpoint <= MAX_ENDPOINT:
        raise RedirectError(f"endpoint id {endpoint} is not in 1..{MAX_ENDPOINT}")


class Maps:
    """Descriptors of the maps, and what is known to be in the two tries (each has one writer, the agent)."""

    def __init__(self, fds: dict[str, int]) -> None:
        self._fd = fds
        self._verdicts: dict[int, dict[VerdictKey, Verdict]] = {}
        self._identities: dict[tuple[int, bytes], int] = {}
        self._read_tries()

    @classmethod
    def open(cls, bpffs: Path, names: Iterable[str]) -> Self:
        """Open every pin. Raises RedirectError if one is missing."""
        fds: dict[str, int] = {}
        try:
            for name in names:
                fds[name] = libbpf.obj_get(bpffs / name)
            return cls(fds)
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            raise

    def fd(self, name: str) -> int:
        return self._fd[name]

    def close(self) -> None:
        while self._fd:
            os.close(self._fd.popitem()[1])

    # Endpoints. Order: a netns is known only while its endpoint is, so a program that finds one finds the other.

    def set_endpoint(self, cookie: int, endpoint: int, flags: int, addresses: Iterable[Address]) -> None:
        check_endpoint(endpoint)
        for other in self.endpoints().values():
            if other.id == endpoint and other.cookie != cookie:
                raise RedirectError(f"endpoint id {endpoint} belongs to netns cookie {other.cookie}, not {cookie}")
            if other.id != endpoint and other.cookie == cookie:
                raise RedirectError(f"netns cookie {cookie} is endpoint {other.id} already, not {endpoint}")
        value = EndpointValue(cookie=cookie, id=endpoint, flags=int(flags))
        for address in addresses:
            field = value.addr4 if address.version == 4 else value.addr6
            if any(field):
                raise RedirectError(f"endpoint {endpoint} has more than one IPv{address.version} address: '{address}'")
            field[:] = list(pack_address(address))
        libbpf.map_update(self.fd("l7_endpoints"), U32.pack(endpoint), value, f"l7_endpoints[{endpoint}]")
        libbpf.map_update(self.fd("l7_netns"), U64.pack(cookie), U32.pack(endpoint), f"l7_netns[{cookie}]")

    def del_endpoint(self, cookie: int) -> None:
        raw = libbpf.map_lookup(self.fd("l7_netns"), U64.pack(cookie), 4)
        libbpf.map_delete(self.fd("l7_netns"), U64.pack(cookie), "l7_netns")
        numbers = [U32.unpack(raw)[0]] if raw else [one.id for one in self.endpoints().values() if one.cookie == cookie]
        for endpoint in numbers:
            libbpf.map_delete(self.fd("l7_endpoints"), U32.pack(endpoint), "l7_endpoints")
            self.set_verdicts(endpoint, {})
            self.clear_endpoint_listeners(endpoint)

    def endpoints(self) -> dict[int, Endpoint]:
        found: dict[int, Endpoint] = {}
        for key in list(libbpf.map_keys(self.fd("l7_endpoints"), 4)):
            raw = libbpf.map_lookup(self.fd("l7_endpoints"), key, ctypes.sizeof(EndpointValue))
            if raw is None:
                continue
            value = EndpointValue.from_buffer_copy(raw)
            addresses = tuple(unpack_address(bytes(one)) for one in (value.addr4, value.addr6) if any(one))
            found[value.id] = Endpoint(value.id, value.cookie, Flags(value.flags), addresses)
        return found

    # Verdicts and identities.

    def set_verdicts(self, endpoint: int, verdicts: Mapping[VerdictKey, Verdict]) -> None:
        """INVARIANT: at every moment a connection gets its old or its new answer: more specific entries are added first
        and removed last, so none falls through to a general one that is not meant for it. (Between the first and the
        last step the longest entry that hits is either old and the longest among the old, or new and the longest among
        the new.)"""
        check_endpoint(endpoint)
        for key, (answer, flags) in verdicts.items():
            if key.endpoint != endpoint:
                raise RedirectError(f"verdict for endpoint {key.endpoint} among those of {endpoint}")
            if not (0 <= key.port < 65536 and 0 <= key.bits <= PORT_BITS and 0 <= key.identity < 2**32):
                raise RedirectError(f"verdict key out of range: {key}")
            if key.port & ((1 << (PORT_BITS - key.bits)) - 1):
                raise RedirectError(f"verdict key has a port beyond its {key.bits} bits: {key}")
            if key.protocol not in PROTOCOLS:
                raise RedirectError(f"expected protocol 6, 17 or 255 in verdict key: {key}")
            Direction(key.direction)
            Answer(answer)
            VerdictFlags(flags)
        have = self._verdicts.setdefault(endpoint, {})
        for key in sorted(verdicts, key=_specificity, reverse=True):
            if have.get(key) != verdicts[key]:
                answer, flags = verdicts[key]
                value = VerdictValue(answer=answer, flags=flags)
                libbpf.map_update(self.fd("l7_verdicts"), _verdict_key(key), value, f"l7_verdicts {key}")
                have[key] = verdicts[key]
        for key in sorted(have.keys() - verdicts.keys(), key=_specificity):
            libbpf.map_delete(self.fd("l7_verdicts"), _verdict_key(key), f"l7_verdicts {key}")
            del have[key]
        if not have:
            del self._verdicts[endpoint]

    def verdicts(self, endpoint: int) -> dict[VerdictKey, Verdict]:
        return dict(self._verdicts.get(endpoint, {}))

    def set_identities(self, identities: Mapping[Network, int]) -> None:
        want: dict[tuple[int, bytes], int] = {}
        for network, identity in identities.items():
            if not 0 < identity < 2**32:
                raise RedirectError(f"identity {identity} of '{network}' is not in 1..{2**32 - 1}")
            length = network.prefixlen + (96 if network.version == 4 else 0)
            want[length, pack_address(network.network_address)] = identity
        have = self._identities
        for key in sorted(want, reverse=True):
            if have.get(key) != want[key]:
                libbpf.map_update(self.fd("l7_identities"), _identity_key(key), U32.pack(want[key]), "l7_identities")
                have[key] = want[key]
        for key in sorted(have.keys() - want.keys()):
            libbpf.map_delete(self.fd("l7_identities"), _identity_key(key), "l7_identities")
            del have[key]

    def identities(self) -> dict[Network, int]:
        return {_network(*key): number for key, number in self._identities.items()}

    def _read_tries(self) -> None:
        for raw in list(libbpf.map_keys(self.fd("l7_verdicts"), ctypes.sizeof(VerdictKeyC))):
            value = libbpf.map_lookup(self.fd("l7_verdicts"), raw, ctypes.sizeof(VerdictValue))
            if value is not None:
                one = VerdictKeyC.from_buffer_copy(raw)
                bits = one.prefixlen - PREFIX_NO_PORT
                key = VerdictKey(
                    one.endpoint, one.identity, one.direction, one.protocol, socket.ntohs(one.port_be), bits
                )
                self._verdicts.setdefault(one.endpoint, {})[key] = value[0], value[1]
        for raw in list(libbpf.map_keys(self.fd("l7_identities"), ctypes.sizeof(IdentityKey))):
            value = libbpf.map_lookup(self.fd("l7_identities"), raw, 4)
            if value is not None:
                identity = IdentityKey.from_buffer_copy(raw)
                self._identities[identity.prefixlen, bytes(identity.addr)] = U32.unpack(value)[0]

    # Listeners, own cgroups, counters.

    def set_listener(
        self, endpoint: int, direction: Direction, family: int, slot: int, sock: socket.socket | int
    ) -> None:
        check_endpoint(endpoint)
        if not 0 <= slot < SLOTS:
            raise RedirectError(f"slot {slot} is not in 0..{SLOTS - 1}")
        if family not in FAMILIES:
            raise RedirectError(f"expected AF_INET or AF_INET6, got family {family}")
        fd = sock if isinstance(sock, int) else sock.fileno()
        index = listener_index(endpoint, direction, family, slot)
        libbpf.map_update(self.fd("l7_listeners"), U32.pack(index), U32.pack(fd), f"l7_listeners[{index}]")

    def clear_slot(self, slot: int) -> None:
        if not 0 <= slot < SLOTS:
            raise RedirectError(f"slot {slot} is not in 0..{SLOTS - 1}")
        self._clear(range(slot, (MAX_ENDPOINT + 1) * 4 * SLOTS, SLOTS))

    def clear_endpoint_listeners(self, endpoint: int) -> None:
        check_endpoint(endpoint)
        self._clear(range(endpoint * 4 * SLOTS, (endpoint + 1) * 4 * SLOTS))

    def _clear(self, indices: Iterable[int]) -> None:
        for index in indices:
            libbpf.map_delete(self.fd("l7_listeners"), U32.pack(index), "l7_listeners")

    def add_own_cgroup(self, number: int) -> None:
        libbpf.map_update(self.fd("l7_own_cgroups"), U64.pack(number), b"\1", "l7_own_cgroups")

    def own_cgroups(self) -> set[int]:
        return {U64.unpack(key)[0] for key in libbpf.map_keys(self.fd("l7_own_cgroups"), 8)}

    def del_own_cgroup(self, number: int) -> None:
        libbpf.map_delete(self.fd("l7_own_cgroups"), U64.pack(number), "l7_own_cgroups")

    def set_node(self, cookie: int, probes: bool) -> None:
        libbpf.map_update(self.fd("l7_nodes"), U32.pack(0), NodeValue(cookie=cookie, probes=probes), "l7_nodes")

    def counters(self) -> dict[str, int]:
        cpus = libbpf.possible_cpus()
        totals: dict[str, int] = {}
        for code, name in enumerate(REASONS):
            raw = libbpf.map_lookup(self.fd("l7_counters"), U32.pack(code), 8 * cpus)
            totals[name] = sum(struct.unpack(f"={cpus}Q", raw)) if raw else 0
        del totals["none"]
        return totals


def as_key(key: VerdictKeyLike) -> VerdictKey:
    """Any object with the attributes of a key, as our own kind."""
    return VerdictKey(key.endpoint, key.identity, int(key.direction), key.protocol, key.port, key.bits)


def _specificity(key: VerdictKey) -> tuple[bool, int]:
    """The order in which the programs look: a named peer before any peer, then the longer prefix of the port."""
    return key.identity != 0, key.bits


def _verdict_key(key: VerdictKey) -> VerdictKeyC:
    return VerdictKeyC(
        prefixlen=PREFIX_NO_PORT + key.bits,
        endpoint=key.endpoint,
        identity=key.identity,
        direction=int(key.direction),
        protocol=key.protocol,
        port_be=socket.htons(key.port),
    )


def _identity_key(key: tuple[int, bytes]) -> IdentityKey:
    return IdentityKey(prefixlen=key[0], addr=(ctypes.c_uint8 * 16)(*key[1]))


def _network(length: int, raw: bytes) -> Network:
    """The reverse of what `Maps.set_identities` does to a network."""
    address = unpack_address(raw)
    return ip_network((address, length - 96 if address.version == 4 else length))
