"""One immutable rule set: what `resolve` makes of documents and pods, and what every process of a node judges by.

Only plain values (str, int, bool, tuple, frozenset, dict, None) inside frozen dataclasses, so that `policies.wire` can
send it to workers and nothing here needs pydantic or YAML. INVARIANT: a dict inside never changes after it was made.

Absent and empty are different values everywhere: `None` is "no constraint", an empty tuple or set "matches nothing".

The algebra of connections stands here, in `DirectionRules.connection`; that of requests in `policies.engine`. What they
mean is in docs/policy.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

ANY_PROTOCOL = 0
"""Every IP protocol, TCP and UDP among them. A line of this protocol names no ports."""
TCP = 6
UDP = 17
OTHER_PROTOCOL = 255
"""Stands for every IP protocol but TCP and UDP where one number is asked for: only lines of ANY_PROTOCOL cover it."""
MAX_PORT = 65535


class Reserved(IntEnum):
    """Identities of peers that are not pods; the numbers are Cilium's where it has one.

    NONE is a peer of which nothing is known (link-local, or an address that two pods claim): it matches no selector,
    no entity and no CIDR, only a rule that names no peers at all.
    """

    NONE = 0
    HOST = 1  # this node; at ingress only what a process of this node opened
    UNKNOWN = 3  # an address that is claimed twice: as NONE
    REMOTE_NODE = 6
    KUBE_APISERVER = 7  # on a remote node: remote-node and kube-apiserver
    WORLD_IPV4 = 9
    WORLD_IPV6 = 10
    HOST_KUBE_APISERVER = 11  # on this node: host and kube-apiserver


FIRST_IDENTITY = 256
"""Pods' identities are numbered from here."""
FIRST_CIDR_IDENTITY = 1 << 24
"""Identities of CIDR prefixes, local to a node, as in Cilium."""


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
    """What peers are judged by: a set of (namespace, labels) with the "namespace/name" of the pods that have it now;
    for a peer that is no pod, `reserved` names what it is ("host", "world", "cidr:10.0.0.0/8") and there are no names.
    """

    namespace: str
    labels: dict[str, str]
    names: tuple[str, ...]
    reserved: str = ""


class Mismatch(StrEnum):
    """What is done with a header that is not as wanted (Cilium, `headerMatches[].mismatch`).

    REFUSE (the field is absent): the rule does not match. With the others it matches all the same: LOG records the
    mismatch, ADD adds the header, DELETE deletes it, REPLACE replaces it.
    """

    REFUSE = ""
    LOG = "LOG"
    ADD = "ADD"
    DELETE = "DELETE"
    REPLACE = "REPLACE"


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A header that must be there; with a value, it must be exactly that value.

    `name` is in lower case. `value` None asks for presence alone.
    """

    name: str
    value: str | None
    mismatch: Mismatch = Mismatch.REFUSE


class PathKind(StrEnum):
    """How `HttpRule.path` is read. REGEX sees path and query (`/a?b=c`), as Cilium; the others the path alone."""

    REGEX = "regex"
    EXACT = "exact"
    PREFIX = "prefix"  # whole segments: /public matches /public and /public/a, not /publicity
    TEMPLATE = "template"  # /users/{id}: a name in braces stands for one segment that is not empty


@dataclass(frozen=True, slots=True)
class QueryMatch:
    """A query key that must be there, at least once; with a value, each of its values must be exactly that."""

    key: str
    value: str | None


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One L7 rule: every part that is not None must match. method and host are RE2, matched whole; path by its kind.

    deny: what it matches is denied, whatever else allows it. A deny rule never has a mismatch action.
    """

    name: str
    method: str | None = None
    path: str | None = None
    host: str | None = None
    headers: tuple[HeaderMatch, ...] = ()
    path_kind: PathKind = PathKind.REGEX
    query: tuple[QueryMatch, ...] = ()
    deny: bool = False


class NameKind(StrEnum):
    """How a name in a Kafka rule is read. GLOB: `*` stands for any run of characters, `?` for one."""

    EXACT = "exact"
    PREFIX = "prefix"
    GLOB = "glob"


@dataclass(frozen=True, slots=True)
class KafkaRule:
    """One rule of `rules.kafka`: access lists, as Kafka has them, for who fits api_key, api_version and client_id
    (`policies.kafka.acls` says which). Parts that are None ask nothing.

    role: produce, consume, admin or "", never beside an api_key. topic, group and transactional_id are read by their
    kinds, the last two never as a glob.
    deny: as in HttpRule; of a role, its main operations alone.
    """

    name: str
    role: str = ""
    api_key: int | None = None
    api_version: int | None = None
    client_id: str | None = None
    topic: str | None = None
    deny: bool = False
    topic_kind: NameKind = NameKind.EXACT
    group: str | None = None
    group_kind: NameKind = NameKind.EXACT
    transactional_id: str | None = None
    transactional_id_kind: NameKind = NameKind.EXACT


@dataclass(frozen=True, slots=True)
class Line:
    """One (rule, port range) of one policy.

    identities: None is every peer, known or not; an empty set is no peer; 0 in a set names nobody.
    protocol: TCP, UDP or ANY_PROTOCOL; first..last: ports, both included, 0..MAX_PORT is every port.
    deny: an L4 denial, which beats every allow; it has no L7 rules.
    http, kafka: None is no such rule; both None is an L4 line; () matches no request; never both.
    audit: of a policy whose mode is audit: what it would deny is recorded, and passes.
    fail_open: with no worker left, what this line would have judged passes. close_denied: `onChange`.
    """

    name: str
    policy: PolicyRef
    identities: frozenset[int] | None
    protocol: int = TCP
    first: int = 0
    last: int = MAX_PORT
    deny: bool = False
    http: tuple[HttpRule, ...] | None = None
    kafka: tuple[KafkaRule, ...] | None = None
    audit: bool = False
    fail_open: bool = False
    close_denied: bool = False

    @property
    def l7(self) -> bool:
        """Whether it judges requests."""
        return self.http is not None or self.kafka is not None

    @property
    def l7_denies(self) -> bool:
        """Whether one of its requests rules denies."""
        return any(rule.deny for rule in self.http or ()) or any(rule.deny for rule in self.kafka or ())

    def names(self, identity: int) -> bool:
        """Whether it speaks of this peer."""
        return self.identities is None or (identity != 0 and identity in self.identities)

    def covers(self, protocol: int, port: int) -> bool:
        """Whether it speaks of this port; for OTHER_PROTOCOL the port says nothing."""
        if self.protocol == ANY_PROTOCOL:
            return True
        return self.protocol == protocol and self.first <= port <= self.last


@dataclass(frozen=True, slots=True)
class Outcome:
    """What some lines say of a connection.

    explicit: a deny rule said no, not the absence of a rule. fallback: with PROXY, what no request rule allows or
    denies is allowed. line: the one that decided, None where the default did (or where requests decide).
    """

    answer: Answer
    explicit: bool = False
    fallback: bool = False
    line: Line | None = None


@dataclass(frozen=True, slots=True)
class ConnectionVerdict:
    """What happens to a new connection.

    enforced: by the policies in mode enforce alone; this is what happens. audited: by all policies; where it denies and
    `enforced` does not, the connection passes and a record says so (`would_deny`).
    answer: DENY, ALLOW, or PROXY where either wants requests judged. fail_open: with no worker left it passes.
    """

    answer: Answer
    enforced: Outcome
    audited: Outcome
    fail_open: bool = False

    @property
    def would_deny(self) -> bool:
        """It passes, and an audit policy would have refused it."""
        return self.answer is not Answer.DENY and self.audited.answer is Answer.DENY


@dataclass(frozen=True, slots=True)
class DirectionRules:
    """What one endpoint may do in one direction.

    enforced: some policy selects the endpoint in this direction, in whatever mode: the kernel asks. default_deny: a
    policy in mode enforce wants that what no line allows is denied; audit_default_deny: some policy does.
    lines: in the order of their documents' names. policies: those that select the endpoint.
    close_denied: some policy wants connections closed that a change no longer allows.
    """

    enforced: bool = False
    default_deny: bool = False
    audit_default_deny: bool = False
    lines: tuple[Line, ...] = ()
    policies: tuple[PolicyRef, ...] = ()
    close_denied: bool = False

    @property
    def watched(self) -> bool:
        """Whether policies in mode audit alone have something to say: then nothing is refused, whatever it is."""
        return self.enforced and not self.default_deny and all(line.audit for line in self.lines)

    def matching(self, protocol: int, port: int, identity: int) -> list[Line]:
        """The lines that speak of this peer on this port, in order."""
        return [line for line in self.lines if line.covers(protocol, port) and line.names(identity)]

    def connection(self, protocol: int, port: int, identity: int) -> ConnectionVerdict:
        """What happens to a new connection from or to this peer. 0 is an unknown peer."""
        if not self.enforced:
            free = Outcome(Answer.ALLOW, fallback=True)
            return ConnectionVerdict(Answer.ALLOW, free, free)
        return self.judge(self.matching(protocol, port, identity))

    def judge(self, lines: Iterable[Line]) -> ConnectionVerdict:
        """`connection`, for lines that are known to speak of it."""
        every = list(lines)
        mine = [line for line in every if not line.audit]
        enforced = outcome_of(mine, self.default_deny)
        audited = enforced
        if len(mine) < len(every) or self.default_deny != self.audit_default_deny:
            audited = outcome_of(every, self.audit_default_deny)
        answer = enforced.answer
        if answer is Answer.ALLOW and audited.answer is Answer.PROXY:
            answer = Answer.PROXY
        judging = [line for line in mine if line.l7]
        fail_open = answer is Answer.PROXY and (
            enforced.answer is Answer.ALLOW or (bool(judging) and all(line.fail_open for line in judging))
        )
        return ConnectionVerdict(answer, enforced, audited, fail_open)

    def answer(self, port: int, identity: int, protocol: int = TCP) -> Answer:
        """`connection(...).answer`."""
        return self.connection(protocol, port, identity).answer


def outcome_of(lines: Iterable[Line], default_deny: bool) -> Outcome:
    """Deny beats allow; an L4 allow voids request rules, but never a request that is denied; then the default."""
    allowing: Line | None = None
    judged = denied = False
    for line in lines:
        if line.deny:
            return Outcome(Answer.DENY, explicit=True, line=line)
        if line.l7:
            judged = True
            denied = denied or line.l7_denies
        elif allowing is None:
            allowing = line
    if allowing is not None and not denied:
        return Outcome(Answer.ALLOW, fallback=True, line=allowing)
    if judged:
        return Outcome(Answer.PROXY, fallback=allowing is not None or not default_deny, line=allowing)
    return Outcome(Answer.DENY) if default_deny else Outcome(Answer.ALLOW, fallback=True)


@dataclass(frozen=True, slots=True)
class EndpointRules:
    """Both directions of one local endpoint; `id` is the endpoint id that the agent gave it."""

    id: int
    namespace: str
    name: str
    labels: dict[str, str]
    ingress: DirectionRules
    egress: DirectionRules
    identity: int = 0

    def direction(self, direction: Direction | int) -> DirectionRules:
        """The rules of that direction."""
        return self.ingress if direction == Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything a worker of one node needs to judge and to name both ends of a connection.

    endpoints: local endpoints by id. identities: by number, reserved ones and CIDR prefixes among them.
    addresses: plain IP text (IPv4 without `::ffff:`, IPv6 compressed) to (identity, name), for pods ("namespace/pod")
    and nodes (the node's name, without a slash). prefixes: CIDR text to identity; the longest that holds an address
    counts, for those that are not in `addresses`. `0.0.0.0/0` and `::/0` are in it.
    """

    revision: int = 0
    endpoints: dict[int, EndpointRules] = field(default_factory=dict)
    identities: dict[int, Identity] = field(default_factory=dict)
    addresses: dict[str, tuple[int, str]] = field(default_factory=dict)
    prefixes: dict[str, int] = field(default_factory=dict)
