"""A handful of pods that every policy test judges: `World(policy texts)`, then ask it."""

from collections.abc import Sequence

from policies.compile import compile_policies
from policies.engine import Engine, HttpRequest, Verdict
from policies.load import Document, load_text
from policies.resolve import Inventory, Pod, identity_key, numbers_of, resolve
from policies.ruleset import Answer, Direction

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
DENY, ALLOW, PROXY = Answer.DENY, Answer.ALLOW, Answer.PROXY

PODS = {
    "web": Pod("default", "web", {"app": "web"}, ("10.9.0.1", "fd09::1"), 1),
    "frontend": Pod("default", "frontend", {"app": "frontend", "tier": "edge"}, ("10.9.0.2", "fd09::2"), 2),
    "intruder": Pod("default", "intruder", {"app": "intruder"}, ("10.9.0.3", "fd09::3"), 3),
    "other/frontend": Pod("other", "frontend", {"app": "frontend"}, ("10.9.0.4", "fd09::4"), 4),
    "other/web": Pod("other", "web", {"app": "web"}, ("10.9.0.5", "fd09::5"), 5),
}

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"


def policy(spec: str, name: str = "p", namespace: str = "default", part: str = "spec") -> str:
    """A document around the text of a spec."""
    body = "\n".join("  " + line for line in spec.strip("\n").splitlines())
    return f"{HEAD}metadata: {{name: {name}, namespace: {namespace}}}\n{part}:\n{body}\n"


def documents(*texts: str) -> list[Document]:
    """The documents of several texts, each a file of its own."""
    return [document for i, text in enumerate(texts) for document in load_text(text, f"{i}.yaml")]


class World:
    """PODS under the policies of some texts. A source of None is a peer that is no pod."""

    def __init__(self, *texts: str, pods: Sequence[Pod] = tuple(PODS.values()), revision: int = 7) -> None:
        self.policies = compile_policies(documents(*texts))
        self.rules = resolve(self.policies, Inventory(tuple(pods)), revision)
        self.engine = Engine(self.rules)

    def identity(self, peer: str | None) -> int:
        if peer is None:
            return 0
        pod = PODS[peer]
        return numbers_of(self.rules)[identity_key(pod.namespace, pod.labels)]

    def connect(self, peer: str | None, to: str = "web", port: int = 80, direction: Direction = INGRESS) -> Answer:
        """The answer to a connection; for EGRESS `to` is the endpoint that connects and `peer` the one it reaches."""
        endpoint = PODS[to].endpoint_id
        assert endpoint is not None
        return self.engine.judge_peer(endpoint, direction, self.identity(peer), port)

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
