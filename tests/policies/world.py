"""A small cluster that every policy test judges: `World(policy texts)`, then ask it."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from policies.compile import compile_policies
from policies.engine import Engine, HttpRequest, KafkaRequest, Verdict
from policies.inventory import Inventory, NamedPort, NodeHost, Pod, Service
from policies.load import Document, load_text
from policies.resolve import resolve
from policies.ruleset import OTHER_PROTOCOL, TCP, UDP, Answer, ConnectionVerdict, Direction, RuleSet

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
DENY, ALLOW, PROXY = Answer.DENY, Answer.ALLOW, Answer.PROXY
ICMP = OTHER_PROTOCOL
"""Any protocol that is neither TCP nor UDP is judged alike."""

HTTP, DNS = NamedPort("http", 80, TCP), NamedPort("dns", 53, UDP)
PODS = {
    "web": Pod("default", "web", {"app": "web"}, ("10.9.0.1", "fd09::1"), 1, (HTTP, DNS)),
    "frontend": Pod("default", "frontend", {"app": "frontend", "tier": "edge"}, ("10.9.0.2", "fd09::2"), 2),
    "intruder": Pod("default", "intruder", {"app": "intruder"}, ("10.9.0.3", "fd09::3"), 3),
    "other/frontend": Pod("other", "frontend", {"app": "frontend"}, ("10.9.0.4", "fd09::4"), 4),
    "other/web": Pod("other", "web", {"app": "web"}, ("10.9.0.5", "fd09::5"), 5, (NamedPort("http", 8080, TCP),)),
}
NODES = {
    "node-a": NodeHost("node-a", ("192.168.0.1", "fd00::1"), local=True),
    "node-b": NodeHost("node-b", ("192.168.0.2",)),
    "node-c": NodeHost("node-c", ("192.168.0.3",)),  # the API server is there
}
OUTSIDE = ("203.0.113.10", "203.0.113.200", "198.51.100.7", "2001:db8::1", "2001:db8:1::1")
NAMESPACES = {"default": {"team": "a"}, "other": {"team": "b"}}
SERVICES = (
    Service("default", "api", {"reach": "outside"}, None, ("203.0.113.10",)),
    Service("default", "web", {}, {"app": "web"}),
)
INVENTORY = Inventory(tuple(PODS.values()), tuple(NODES.values()), NAMESPACES, SERVICES, ("192.168.0.3",))

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"


def policy(spec: str, name: str = "p", namespace: str = "default", part: str = "spec") -> str:
    """A document around the text of a spec."""
    return f"{HEAD}metadata: {{name: {name}, namespace: {namespace}}}\n{part}:\n{indented(spec)}\n"


def clusterwide(spec: str, name: str = "guard") -> str:
    """A cluster-wide document around the text of a spec."""
    head = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\n"
    return f"{head}metadata: {{name: {name}}}\nspec:\n{indented(spec)}\n"


def kubernetes(spec: str, name: str = "np", namespace: str = "default") -> str:
    """A NetworkPolicy around the text of a spec."""
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
    return f"{head}metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{indented(spec)}\n"


def tulle(spec: str, name: str = "t", namespace: str = "default") -> str:
    """A TulleNetworkPolicy around the text of a spec."""
    head = "apiVersion: tulle.dev/v1\nkind: TulleNetworkPolicy\n"
    return f"{head}metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{indented(spec)}\n"


def annotated(text: str, **words: str) -> str:
    """A document of `policy` or its like with `tulle.dev/` annotations."""
    inside = ", ".join(f"tulle.dev/{word}: {value}" for word, value in words.items())
    at = text.index("}\nspec")
    return f"{text[:at]}, annotations: {{{inside}}}{text[at:]}"


def indented(text: str) -> str:
    """The text as a block inside a document."""
    return "\n".join("  " + line for line in text.strip("\n").splitlines())


def documents(*texts: str) -> list[Document]:
    """The documents of several texts, each a file of its own."""
    return [document for i, text in enumerate(texts) for document in load_text(text, f"{i}.yaml")]


def identity_at(rules: RuleSet, address: str) -> int:
    """Who an address is, by the plainest reading of docs/policy.md: its own entry, else the longest prefix."""
    ip = ip_address(address)
    if str(ip) in rules.addresses:
        return rules.addresses[str(ip)][0]
    if ip.is_link_local:
        return 0
    holding = [prefix for prefix in rules.prefixes if ip in ip_network(prefix)]
    return rules.prefixes[max(holding, key=lambda prefix: ip_network(prefix).prefixlen)]


class World:
    """INVENTORY under the policies of some texts.

    A peer is a pod or a node by its name here, or an address; None is one of which nothing is known.
    """

    def __init__(
        self,
        *texts: str,
        pods: Sequence[Pod] | None = None,
        inventory: Inventory = INVENTORY,
        revision: int = 7,
    ) -> None:
        self.policies = compile_policies(documents(*texts))
        self.inventory = inventory
        if pods is not None:
            self.inventory = Inventory(
                tuple(pods), inventory.nodes, inventory.namespaces, inventory.services, inventory.apiserver
            )
        self.rules = resolve(self.policies, self.inventory, revision)
        self.engine = Engine(self.rules)

    def identity(self, peer: str | None) -> int:
        """The number that this peer is judged by."""
        if peer is None:
            return 0
        if peer in PODS:
            return identity_at(self.rules, PODS[peer].addresses[0])
        return identity_at(self.rules, NODES[peer].addresses[0] if peer in NODES else peer)

    def connection(
        self,
        peer: str | None,
        to: str = "web",
        port: int = 80,
        direction: Direction = INGRESS,
        protocol: int = TCP,
    ) -> ConnectionVerdict:
        """What happens to a connection; for EGRESS `to` is the endpoint that connects and `peer` the one it reaches."""
        endpoint = PODS[to].endpoint_id
        assert endpoint is not None
        return self.engine.connection(endpoint, direction, self.identity(peer), port, protocol)

    def connect(
        self,
        peer: str | None,
        to: str = "web",
        port: int = 80,
        direction: Direction = INGRESS,
        protocol: int = TCP,
    ) -> Answer:
        """The answer to a connection."""
        return self.connection(peer, to, port, direction, protocol).answer

    def answers(self, peers: Sequence[str | None], to: str = "web", port: int = 80, **how: int) -> list[Answer]:
        """The answers to several peers."""
        direction, protocol = Direction(how.get("direction", INGRESS)), how.get("protocol", TCP)
        return [self.connect(peer, to, port, direction, protocol) for peer in peers]

    def ask(
        self,
        peer: str | None,
        line: str = "GET /",
        to: str = "web",
        port: int = 80,
        direction: Direction = INGRESS,
        host: str = "web",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> Verdict:
        """The verdict on one request, as "METHOD path"."""
        endpoint = PODS[to].endpoint_id
        assert endpoint is not None
        method, _, path = line.partition(" ")
        request = HttpRequest(method, path, host, headers)
        return self.engine.decide(endpoint, direction, self.identity(peer), port, request)

    def ask_kafka(
        self, peer: str | None, request: KafkaRequest, to: str = "web", port: int = 80, direction: Direction = INGRESS
    ) -> Verdict:
        """The verdict on one Kafka request."""
        endpoint = PODS[to].endpoint_id
        assert endpoint is not None
        return self.engine.decide_kafka(endpoint, direction, self.identity(peer), port, request)
