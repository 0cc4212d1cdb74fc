"""Where an accepted connection came from and wanted to go, and the destinations that are never dialled."""

import socket
from functools import lru_cache
from ipaddress import ip_address

from policies.ruleset import Direction
from proxy.flow import Address


def plain(address: str) -> str:
    """Address text as policies know it: IPv4 without `::ffff:`, no scope."""
    if ":" in address:
        address = address.partition("%")[0]
        if address.startswith("::ffff:") and "." in address:
            return address[7:]
    return address


class Origins:
    """Reads both addresses of an accepted connection.

    Steered sockets were never translated: their own address is the original destination, their peer the real client.
    """

    def of(self, sock: socket.socket, client: Address) -> tuple[Address, Address]:
        """(client, original destination) of an accepted connection; `client` is what accept said.

        Raises:
            OSError: the client is gone already.
        """
        original = sock.getsockname()
        return (plain(client[0]), client[1]), (plain(original[0]), original[1])

    def forbidden(self, original: Address) -> bool:
        """Whether a destination can only have been dialled from inside, or by mistake: loopback and what is no address
        of one host. Dialling it would reach ourselves or the pod's own loopback on behalf of somebody else."""
        return _is_no_host(original[0])


@lru_cache(maxsize=4096)  # a pod has a few addresses and dials some more; to read one costs 2 µs
def _is_no_host(text: str) -> bool:
    address = ip_address(text)
    return address.is_loopback or address.is_unspecified or address.is_multicast


def reaches_listener(
    client: Address, original: Address, direction: int, listener_ports: set[int], *, own_address: bool
) -> bool:
    """Whether the original destination is one of the endpoint's own listeners.

    The listeners take every local address of the pod, so their ports alone tell at ingress, where every destination is
    local. At egress another host may well have something on that port; there the destination must be the pod itself.
    """
    if original[1] not in listener_ports:
        return False
    return direction == Direction.INGRESS or original[0] == client[0] or own_address
