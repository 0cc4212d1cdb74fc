"""Who an address belongs to: a pod or a node by the address itself, others by the longest prefix that holds it."""

from ipaddress import ip_address, ip_network

from policies.ruleset import Direction, Reserved, RuleSet

MAX_FOUND = 4096
"""Answers remembered; when so many are, all are forgotten."""

_THIS_NODE = frozenset((Reserved.HOST, Reserved.HOST_KUBE_APISERVER))


class Peers:
    """One rule set's addresses and prefixes, ready to be asked."""

    __slots__ = ("_addresses", "_found", "_prefixes", "_source")

    def __init__(self, rules: RuleSet, previous: "Peers | None" = None) -> None:
        """previous: that of the rule set before; what is the same object in both is not worked out again.

        Raises:
            ValueError: a prefix is none.
        """
        self._addresses = rules.addresses
        self._found: dict[str, tuple[int, str]] = {}
        self._source = rules.prefixes
        # per family, longest prefix first: how far to shift an address, and what it is then looked up in
        self._prefixes: dict[int, list[tuple[int, dict[int, int]]]]
        if previous is not None and previous._source is rules.prefixes:
            self._prefixes = previous._prefixes
            return
        tables: dict[int, dict[int, dict[int, int]]] = {4: {}, 6: {}}
        for text, identity in rules.prefixes.items():
            network = ip_network(text)
            shift = network.max_prefixlen - network.prefixlen
            tables[network.version].setdefault(shift, {})[int(network.network_address) >> shift] = identity
        self._prefixes = {version: sorted(by_shift.items()) for version, by_shift in tables.items()}

    def find(self, address: str) -> tuple[int, str]:
        """(identity, name) of a plain address; the name is that of a pod ("namespace/pod") or a node, "" for others.

        A link-local IPv6 peer is nobody, whatever the tables say: its address means something else on every link.
        """
        found = self._found.get(address)
        if found is None:
            if len(self._found) >= MAX_FOUND:
                self._found.clear()
            found = self._found[address] = self._find(address)
        return found

    def _find(self, address: str) -> tuple[int, str]:
        ip = ip_address(address)
        if ip.version == 6 and ip.is_link_local:
            return Reserved.NONE, ""
        known = self._addresses.get(address)
        if known is not None:
            return known
        number = int(ip)
        for shift, table in self._prefixes[ip.version]:
            identity = table.get(number >> shift)
            if identity is not None:
                return identity, ""
        return Reserved.NONE, ""

    def judged(self, address: str, direction: int) -> int:
        """The identity that a peer is judged by in user space.

        What claims to come from this node is judged as world: connections that a process of this node really opened are
        let through by the kernel, which saw them begin; what arrives here with the node's address was masqueraded.
        """
        identity = self.find(address)[0]
        if direction == Direction.INGRESS and identity in _THIS_NODE:
            return Reserved.WORLD_IPV6 if ":" in address else Reserved.WORLD_IPV4
        return identity
