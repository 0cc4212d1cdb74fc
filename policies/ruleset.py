"""One immutable rule set: what `resolve` makes of documents and pods, and what every process of a node judges by.

Only plain values (str, int, bool, tuple, frozenset, dict, None) inside frozen dataclasses, so that `policies.wire` can
send it to workers and nothing here needs pydantic or YAML. INVARIANT: a dict inside never changes after it was made.

Absent and empty are different values everywhere: `None` is "no constraint", an empty tuple or set "matches nothing".
"""

from dataclasses import dataclass, field
from enum import IntEnum


class Direction(IntEnum):
    """Seen from the endpoint: INGRESS is a connection made to it, EGRESS one it makes."""

    INGRESS = 0
    EGRESS = 1


class Answer(IntEnum):
    """What happens to a new connection: refused in the kernel, let through untouched, or steered to the proxy."""

    DENY = 0
    ALLOW = 1
    PROXY = 2


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """The document a rule comes from."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod as policy sees it."""

    namespace: str
    name: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identity:
    """A set of (namespace, labels) that peers are judged by, with the "namespace/name" of the pods that have it now."""

    namespace: str
    labels: dict[str, str]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A header that must be there; with a value, it must be exactly that value.

    `name` is in lower case. `value` None asks for presence alone.
    """

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One L7 allow: every part that is not None must match. method, path and host are RE2, matched whole."""

    name: str
    method: str | None = None
    path: str | None = None
    host: str | None = None
    headers: tuple[HeaderMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One (rule, port) of one policy.

    identities: None is every peer, known or not; an empty set is no peer; 0 in a set names nobody.
    http: None is an L4 allow, never proxied; () matches no request.
    """

    name: str
    policy: PolicyRef
    identities: frozenset[int] | None
    http: tuple[HttpRule, ...] | None


@dataclass(frozen=True, slots=True)
class DirectionRules:
    """What one endpoint may do in one direction.

    enforced: some policy selects the endpoint in this direction, so what no line allows is denied.
    ports: TCP port to its lines. any_port: lines that hold for every port. policies: those that select the endpoint.
    """

    enforced: bool = False
    ports: dict[int, tuple[Line, ...]] = field(default_factory=dict)
    any_port: tuple[Line, ...] = ()
    policies: tuple[PolicyRef, ...] = ()

    def lines(self, port: int, identity: int) -> list[Line]:
        """The lines that name this peer on this port, in the order of their names' documents. 0 is an unknown peer."""
        every = self.ports.get(port, ()) + self.any_port
        return [line for line in every if line.identities is None or (identity and identity in line.identities)]

    def answer(self, port: int, identity: int) -> Answer:
        """What happens to a new connection: the union of all lines, an L4 allow before an L7 one, deny when none."""
        if not self.enforced:
            return Answer.ALLOW
        answer = Answer.DENY
        for line in self.lines(port, identity):
            if line.http is None:
                return Answer.ALLOW
            answer = Answer.PROXY
        return answer


@dataclass(frozen=True, slots=True)
class EndpointRules:
    """Both directions of one local endpoint; `id` is the endpoint id that the agent gave it."""

    id: int
    namespace: str
    name: str
    labels: dict[str, str]
    ingress: DirectionRules
    egress: DirectionRules

    def direction(self, direction: Direction | int) -> DirectionRules:
        """The rules of that direction."""
        return self.ingress if direction == Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything a worker of one node needs to judge and to name both ends of a connection.

    endpoints: local endpoints by id. identities: by number, 256 and up; 0 means unknown and is not in it.
    addresses: plain IP text (IPv4 without `::ffff:`, IPv6 compressed) to (identity, "namespace/pod").
    """

    revision: int = 0
    endpoints: dict[int, EndpointRules] = field(default_factory=dict)
    identities: dict[int, Identity] = field(default_factory=dict)
    addresses: dict[str, tuple[int, str]] = field(default_factory=dict)
