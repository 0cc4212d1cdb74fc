"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy as people write them (`cilium.io/v2`), word by word.

Fields carry the document's own names. Unknown fields are errors, and fields that Cilium knows and this version does not
enforce are errors of their own: a part that is dropped can turn a rule into "everything". Absent is None and empty is
empty; `null` never reaches this file. Fields marked ONLY_OURS exist in a TulleNetworkPolicy alone (`policies.tulle`).

What one field can tell, its type checks (`policies.words`); what needs more than one is told by `problems`.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from policies.kafka import API_KEYS, CILIUM_ROLES, ROLES
from policies.ruleset import MAX_PORT
from policies.selector import NAMESPACE_LABEL
from policies.source import quoted
from policies.words import (
    ONLY_OURS,
    OURS,
    RESERVED,
    AnyNamespace,
    CanonicalPath,
    Cidr,
    EndPort,
    Entity,
    Expression,
    Header,
    HeaderName,
    HeaderValue,
    LabelKey,
    LabelValue,
    Namespace,
    NotYet,
    ObjectName,
    Path,
    PathPrefix,
    PathTemplate,
    Pattern,
    PlainSelector,
    PortValue,
    Prefix,
    Protocol,
    Strict,
    Wrong,
    beyond,
    prefix_of,
    refuse,
    refused,
)

MAX_PORTS = 40  # of one toPorts entry, Cilium's own limit

type Action = Literal["Allow", "Deny"]
type Mode = Literal["enforce", "audit"]
type OnFailure = Literal["closed", "open"]
type OnChange = Literal["next-request", "close-denied"]


class EndpointSelector(Strict):
    """`{}` selects every pod of the policy's namespace, in a cluster-wide policy every pod."""

    matchLabels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    matchExpressions: list[Expression] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, data: object) -> object:
        labels = data.get("matchLabels") if isinstance(data, dict) else None
        if isinstance(labels, dict):
            keys = [key.rpartition(":")[2] for key in labels if isinstance(key, str)]
            if len(set(keys)) < len(keys):
                raise refuse("matchLabels names one label twice, with different sources")
        return data

    def keys(self) -> Iterator[tuple[str, Path]]:
        """Every key that it asks for, and where."""
        for key in self.matchLabels:
            yield key, ("matchLabels", key)
        for i, expression in enumerate(self.matchExpressions):
            yield expression.key, ("matchExpressions", i, "key")

    @property
    def entity(self) -> str | None:
        """The entity it stands for, when it asks for one reserved label and nothing else."""
        if not self.matchLabels and not self.matchExpressions:
            return None
        asked = [*self.keys()]
        if len(asked) != 1 or not asked[0][0].startswith(RESERVED):
            return None
        key = asked[0][0]
        if self.matchLabels.get(key) or any(test.operator != "Exists" for test in self.matchExpressions):
            return None
        return key.removeprefix(RESERVED)

    def problems_as_peer(self, path: Path) -> Iterator[Wrong]:
        """Reserved labels among others, which nobody has together."""
        if self.entity is None:
            for key, place in self.keys():
                if key.startswith(RESERVED):
                    message = f"{quoted(key)} stands for an entity: it must be alone, with an empty value or Exists"
                    yield Wrong((*path, *place), message, place[0] == "matchLabels")

    def problems_as_subject(self, path: Path, namespace: str | None) -> Iterator[Wrong]:
        """What the selector of a policy's own endpoints cannot ask for."""
        for key, place in self.keys():
            if key.startswith(RESERVED):
                message = f"{quoted(key)} is no label of a pod: a policy selects pods"
                yield Wrong((*path, *place), message, place[0] == "matchLabels")
        if namespace is not None and self.matchLabels.get(NAMESPACE_LABEL, namespace) != namespace:
            message = f"an endpointSelector selects in the policy's own namespace only, {quoted(namespace)}"
            yield Wrong((*path, "matchLabels", NAMESPACE_LABEL), message)


OURS_TO_WRITE = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields of a request that the proxy writes itself (RFC 9110 7.6.1, RFC 9112 6): a rule cannot change them."""


class HeaderMatchModel(Strict):
    """value absent and "": presence is enough, as in Cilium. mismatch absent: the rule does not match."""

    name: HeaderName
    value: HeaderValue = ""
    mismatch: Literal["LOG", "ADD", "DELETE", "REPLACE", ""] = ""
    secret: Annotated[None, refused("secrets are not supported: write the value, or ask for presence alone")] = None


class QueryMatchModel(Strict):
    """value absent: the key alone must be there. Empty: it has an empty value."""

    key: Annotated[str, Field(min_length=1)]
    value: str | None = None


class HttpRuleModel(Strict):
    """Absent and "" are both no constraint for method, path and host, as in Cilium."""

    method: Pattern = ""
    path: Pattern = ""
    host: Pattern = ""
    headers: list[Header] = Field(default_factory=list)
    headerMatches: list[HeaderMatchModel] = Field(default_factory=list)
    action: Annotated[Action, ONLY_OURS] = "Allow"
    pathExact: Annotated[CanonicalPath | None, ONLY_OURS] = None
    pathPrefix: Annotated[PathPrefix | None, ONLY_OURS] = None
    pathTemplate: Annotated[PathTemplate | None, ONLY_OURS] = None
    query: Annotated[list[QueryMatchModel], ONLY_OURS] = Field(default_factory=list)

    def problems(self, path: Path) -> Iterator[Wrong]:
        """Several kinds of path, and mismatch actions that cannot be carried out."""
        kinds = {"pathExact": self.pathExact, "pathPrefix": self.pathPrefix, "pathTemplate": self.pathTemplate}
        given = [name for name, value in {"path": self.path or None, **kinds}.items() if value is not None]
        if len(given) > 1:
            yield Wrong((*path, given[1]), f"a rule has one kind of path, and there is {given[0]} already", True)
        for i, match in enumerate(self.headerMatches):
            place = (*path, "headerMatches", i)
            if match.mismatch in ("ADD", "REPLACE") and not match.value:
                yield Wrong((*place, "mismatch"), f"{match.mismatch} needs a value")
            if match.mismatch in ("ADD", "DELETE", "REPLACE") and match.name.lower() in OURS_TO_WRITE:
                message = f"{match.mismatch} cannot change {match.name.lower()}, which the proxy itself writes"
                yield Wrong((*place, "mismatch"), message)
            if match.mismatch and self.action == "Deny":
                yield Wrong((*place, "mismatch"), "a deny rule matches or does not: it changes no header")


def _role(text: str, info: ValidationInfo) -> str:
    role = text.lower()
    if role in CILIUM_ROLES or (role in ROLES and info.context == OURS) or not role:
        return text
    if role in ROLES:
        raise refuse(f"role {role}: only a TulleNetworkPolicy of {OURS}/v1 has it")
    known = ROLES if info.context == OURS else CILIUM_ROLES
    near = get_close_matches(role, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"{', '.join(known)} are known"
    raise refuse(f"unknown role {quoted(text)}; {hint}")


def _api_key(text: str) -> str:
    if not text or text.lower() in API_KEYS:
        return text
    near = get_close_matches(text.lower(), API_KEYS, n=1)
    raise refuse(f"unknown API key {quoted(text)}" + (f"; did you mean {near[0]}?" if near else ""))


type Role = Annotated[str, AfterValidator(_role)]
type ApiKey = Annotated[str, AfterValidator(_api_key)]
type TopicPrefix = Annotated[
    str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")
]  # a topic's name has 249 characters at most
type TopicGlob = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._*?-]{1,249}$")]
type GroupName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,1024}$")]  # Kafka itself takes any text


class KafkaRuleModel(Strict):
    """Absent and "" are both no constraint in fields of Cilium; ours cannot be "". role and apiKey are
    case-insensitive, the others are not."""

    role: Role = ""
    apiKey: ApiKey = ""
    apiVersion: Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,4})?$")] = ""
    clientID: str = ""
    topic: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]*$", max_length=255)] = ""
    action: Annotated[Action, ONLY_OURS] = "Allow"
    topicPrefix: Annotated[TopicPrefix | None, ONLY_OURS] = None
    topicGlob: Annotated[TopicGlob | None, ONLY_OURS] = None
    group: Annotated[GroupName | None, ONLY_OURS] = None
    groupPrefix: Annotated[GroupName | None, ONLY_OURS] = None
    transactionalId: Annotated[GroupName | None, ONLY_OURS] = None
    transactionalIdPrefix: Annotated[GroupName | None, ONLY_OURS] = None

    def problems(self, path: Path) -> Iterator[Wrong]:
        """A role beside an API key, one thing named twice, and names that the rule cannot mean."""
        if self.role and self.apiKey:
            yield Wrong((*path, "apiKey"), "a role stands for API keys: only one of role and apiKey can be given", True)
        if self.apiVersion and int(self.apiVersion) > 32767:
            yield Wrong((*path, "apiVersion"), "versions end at 32767")
        named = {what: [name for name in names if getattr(self, name)] for what, names in _NAMED.items()}
        for what, names in named.items():
            if len(names) > 1:
                yield Wrong((*path, names[1]), f"a rule names one {what}, and there is {names[0]} already", True)
            elif names and what in _NOT_OF.get(self.role.lower(), ()):
                message = f"role {self.role.lower()} is not about a {what}: write another rule for it"
                yield Wrong((*path, names[0]), message, True)
        first, *others = [names[0] for names in named.values() if names] or [""]
        if self.action == "Deny" and others:
            message = f"a deny rule names one thing, and there is {first}: it would deny each, not both together"
            yield Wrong((*path, others[0]), message, True)
        if self.action == "Deny" and self.role.lower() == "admin" and named["transactional id"]:
            message = (
                "role admin may only describe a transactional id, which a denial of it does not mean: leave it out"
            )
            yield Wrong((*path, named["transactional id"][0]), message, True)


_NAMED = {
    "topic": ("topic", "topicPrefix", "topicGlob"),
    "group": ("group", "groupPrefix"),
    "transactional id": ("transactionalId", "transactionalIdPrefix"),
}
_NOT_OF = {"produce": ("group",), "consume": ("transactional id",)}


_ONLY_TWO = "not supported: rules of http and kafka are"


class L7Rules(Strict):
    """http and kafka absent: no L7 rule at all. Empty: every request, proxied and recorded."""

    http: list[HttpRuleModel] | None = None
    kafka: list[KafkaRuleModel] | None = None
    dns: Annotated[None, refused(_ONLY_TWO)] = None
    l7proto: Annotated[None, refused(_ONLY_TWO)] = None
    l7: Annotated[None, refused(_ONLY_TWO)] = None


class Port(Strict):
    """port 0 is every port. protocol absent or ANY: any, with L7 rules TCP. endPort absent or 0: no range."""

    port: PortValue
    protocol: Protocol = "ANY"
    endPort: EndPort = 0

    @property
    def range(self) -> tuple[int, int]:
        """First and last port; a name has none."""
        if isinstance(self.port, str):
            raise ValueError("a named port")
        return (self.port, self.endPort or self.port) if self.port else (0, MAX_PORT)

    def problems(self, path: Path) -> Iterator[Wrong]:
        """Ranges that are none."""
        yield from beyond("port", self.port, self.endPort, path)


type Ports = Annotated[list[Port], Field(min_length=1, max_length=MAX_PORTS)]


class DenyPortRule(Strict):
    """Ports of a deny rule."""

    ports: Ports
    rules: Annotated[None, refused("a deny rule of Cilium judges connections, not requests: no rules here")] = None

    def problems(self, path: Path) -> Iterator[Wrong]:
        """Those of its ports."""
        for i, port in enumerate(self.ports):
            yield from port.problems((*path, "ports", i))


class PortRule(Strict):
    """rules absent or `{}`: an L4 allow."""

    ports: Ports
    rules: L7Rules | None = None
    serverNames: NotYet = None
    terminatingTLS: NotYet = None
    originatingTLS: NotYet = None
    listener: NotYet = None

    @property
    def kind(self) -> str:
        """The L7 kind that it asks for: "http", "kafka", or "" for none."""
        if self.rules is None:
            return ""
        return "http" if self.rules.http is not None else "kafka" if self.rules.kafka is not None else ""

    def problems(self, path: Path) -> Iterator[Wrong]:
        """Those of its ports and rules, and of both together."""
        for i, port in enumerate(self.ports):
            place = (*path, "ports", i)
            yield from port.problems(place)
            if self.kind and port.port == 0:
                yield Wrong((*place, "port"), "L7 rules need a port: 0 means every port")
            if self.kind and port.protocol == "UDP":
                yield Wrong((*place, "protocol"), "L7 rules are for TCP, not UDP")
        if self.rules is not None:
            if self.rules.http is not None and self.rules.kafka is not None:
                yield Wrong((*path, "rules", "kafka"), "one entry has one kind of L7 rules, and there is http", True)
            for i, http in enumerate(self.rules.http or ()):
                yield from http.problems((*path, "rules", "http", i))
            for i, kafka in enumerate(self.rules.kafka or ()):
                yield from kafka.problems((*path, "rules", "kafka", i))


class CidrRule(Strict):
    """Addresses of `cidr` but those of `except`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_by_name=False)

    cidr: Prefix
    excepts: Annotated[list[Prefix], Field(alias="except")] = Field(default_factory=list)
    cidrGroupRef: NotYet = None
    cidrGroupSelector: NotYet = None

    def problems(self, path: Path) -> Iterator[Wrong]:
        """Exceptions from what was not included."""
        outer = prefix_of(self.cidr)
        for i, text in enumerate(self.excepts):
            inner = prefix_of(text)
            if inner.version != outer.version or not inner.subnet_of(outer):  # type: ignore[arg-type]  # one version
                yield Wrong((*path, "except", i), f"{text} is not inside {self.cidr}")


class ServiceName(Strict):
    """namespace absent or "": every namespace, as Cilium."""

    serviceName: ObjectName
    namespace: AnyNamespace = ""


class ServiceLabels(Strict):
    """namespace absent or "": every namespace."""

    selector: PlainSelector
    namespace: AnyNamespace = ""


class ServiceRef(Strict):
    """One of both."""

    k8sService: ServiceName | None = None
    k8sServiceSelector: ServiceLabels | None = None

    def problems(self, path: Path) -> Iterator[Wrong]:
        """None of both, or both: Cilium then drops one of them."""
        if (self.k8sService is None) == (self.k8sServiceSelector is None):
            yield Wrong(path, "expected one of k8sService and k8sServiceSelector")


class Peers(NamedTuple):
    """The lists of peers of one rule. None: not given."""

    endpoints: list[EndpointSelector] | None
    entities: list[str] | None
    cidrs: list[str] | None
    cidr_sets: list[CidrRule] | None
    services: list[ServiceRef] | None


def _peer_problems(peers: Peers, prefix: str, path: Path) -> Iterator[Wrong]:
    names = [f"{prefix}{name}" for name in ("Endpoints", "Entities", "CIDR", "CIDRSet", "Services")]
    given = [name for name, several in zip(names, peers, strict=True) if several]
    if len(given) > 1:
        message = f"cannot stand beside {given[0]} in one rule, as in Cilium: write a rule for each"
        yield Wrong((*path, given[1]), message, True)
    for i, selector in enumerate(peers.endpoints or ()):
        yield from selector.problems_as_peer((*path, names[0], i))
    for i, cidr in enumerate(peers.cidr_sets or ()):
        yield from cidr.problems((*path, names[3], i))
    for i, service in enumerate(peers.services or ()):
        yield from service.problems((*path, names[4], i))


class IngressPeers(Strict):
    """All lists absent: every peer. An empty list: no peer."""

    fromEndpoints: list[EndpointSelector] | None = None
    fromEntities: list[Entity] | None = None
    fromCIDR: list[Cidr] | None = None
    fromCIDRSet: list[CidrRule] | None = None
    fromRequires: NotYet = None
    fromGroups: NotYet = None
    fromNodes: NotYet = None
    icmps: NotYet = None

    def peers(self) -> Peers:
        """Every list of peers."""
        return Peers(self.fromEndpoints, self.fromEntities, self.fromCIDR, self.fromCIDRSet, None)

    def problems(self, path: Path) -> Iterator[Wrong]:
        """Those of its peers."""
        yield from _peer_problems(self.peers(), "from", path)


class EgressPeers(Strict):
    """The mirror of IngressPeers, and services."""

    toEndpoints: list[EndpointSelector] | None = None
    toEntities: list[Entity] | None = None
    toCIDR: list[Cidr] | None = None
    toCIDRSet: list[CidrRule] | None = None
    toServices: list[ServiceRef] | None = None
    toRequires: NotYet = None
    toFQDNs: NotYet = None
    toGroups: NotYet = None
    toNodes: NotYet = None
    icmps: NotYet = None

    def peers(self) -> Peers:
        """Every list of peers."""
        return Peers(self.toEndpoints, self.toEntities, self.toCIDR, self.toCIDRSet, self.toServices)

    def problems(self, path: Path) -> Iterator[Wrong]:
        """Those of its peers."""
        yield from _peer_problems(self.peers(), "to", path)


type PortRules = Annotated[list[PortRule], Field(min_length=1)]
type DenyPortRules = Annotated[list[DenyPortRule], Field(min_length=1)]


class IngressRule(IngressPeers):
    """Neither peers nor ports (`{}`): allows nothing, and still puts the endpoint under default deny."""

    toPorts: PortRules | None = None
    authentication: NotYet = None


class EgressRule(EgressPeers):
    """The mirror of IngressRule."""

    toPorts: PortRules | None = None
    authentication: NotYet = None


class IngressDenyRule(IngressPeers):
    """Neither peers nor ports (`{}`): denies nothing, and still puts the endpoint under default deny."""

    toPorts: DenyPortRules | None = None


class EgressDenyRule(EgressPeers):
    """The mirror of IngressDenyRule."""

    toPorts: DenyPortRules | None = None


type Rule = IngressRule | EgressRule | IngressDenyRule | EgressDenyRule


class DefaultDeny(Strict):
    """Absent: default deny in a direction that has a rule."""

    ingress: bool | None = None
    egress: bool | None = None


class PolicyLabel(Strict):
    """A label of the policy itself, by which Cilium's own API finds it; it means nothing for traffic."""

    key: Annotated[str, Field(min_length=1)]
    value: str = ""
    source: str = ""


class Spec(Strict):
    """ingress or egress absent or empty: that direction is not touched. A rule in it: default deny for it."""

    endpointSelector: EndpointSelector
    ingress: list[IngressRule] = Field(default_factory=list)
    egress: list[EgressRule] = Field(default_factory=list)
    ingressDeny: list[IngressDenyRule] = Field(default_factory=list)
    egressDeny: list[EgressDenyRule] = Field(default_factory=list)
    enableDefaultDeny: DefaultDeny = DefaultDeny()
    description: str = ""
    nodeSelector: Annotated[None, refused("not supported: a policy selects pods, and nodes are not judged")] = None
    labels: list[PolicyLabel] = Field(default_factory=list)
    log: NotYet = None
    mode: Annotated[Mode | None, ONLY_OURS] = None
    onFailure: Annotated[OnFailure | None, ONLY_OURS] = None
    onChange: Annotated[OnChange | None, ONLY_OURS] = None

    @model_validator(mode="after")
    def _says_something(self) -> "Spec":
        # Cilium refuses it too. Left standing, it would select pods and protect nothing.
        if not (self.ingress or self.egress or self.ingressDeny or self.egressDeny):
            raise refuse("neither ingress nor egress has a rule; to deny a whole direction write one empty rule, [{}]")
        return self

    def problems(self, path: Path, namespace: str | None) -> Iterator[Wrong]:
        """Everything that more than one field is needed to see. namespace None: of a cluster-wide policy."""
        yield from self.endpointSelector.problems_as_subject((*path, "endpointSelector"), namespace)
        directions: list[tuple[str, Sequence[Rule]]] = [
            ("ingress", self.ingress),
            ("egress", self.egress),
            ("ingressDeny", self.ingressDeny),
            ("egressDeny", self.egressDeny),
        ]
        for name, rules in directions:
            for i, rule in enumerate(rules):
                yield from rule.problems((*path, name, i))
                entries: Sequence[PortRule | DenyPortRule] = rule.toPorts or ()
                for j, entry in enumerate(entries):
                    yield from entry.problems((*path, name, i, "toPorts", j))
        yield from _meeting_kinds(self.ingress, (*path, "ingress"))
        yield from _meeting_kinds(self.egress, (*path, "egress"))


def _meeting_kinds(rules: Sequence[IngressRule | EgressRule], path: Path) -> Iterator[Wrong]:
    """kafka rules on a port that has http rules too: nobody could say what to parse."""
    entries = [
        (entry, (*path, i, "toPorts", j)) for i, rule in enumerate(rules) for j, entry in enumerate(rule.toPorts or ())
    ]
    names: set[str] = set()
    ranges: list[tuple[int, int]] = []
    for entry, _ in entries:
        if entry.kind == "http":
            for port in entry.ports:
                if isinstance(port.port, str):
                    names.add(port.port)
                else:
                    ranges.append(port.range)
    starts: list[int] = []
    ends: list[int] = []  # the furthest end of all ranges up to here
    for first, last in sorted(ranges):
        starts.append(first)
        ends.append(max(last, ends[-1] if ends else 0))
    for entry, place in entries:
        if entry.kind != "kafka" or (entry.rules is not None and entry.rules.http is not None):
            continue
        for i, port in enumerate(entry.ports):
            if isinstance(port.port, str):
                meets = port.port in names
            else:
                first, last = port.range
                at = bisect_right(starts, last)
                meets = at > 0 and ends[at - 1] >= first
            if meets:
                yield Wrong((*place, "ports", i), "kafka rules, and http rules of this spec are for this port too")


type Annotations = Annotated[dict[str, str], BeforeValidator(lambda given: {} if given is None else given)]


class Metadata(BaseModel):
    """Of metadata only name, namespace and our annotations mean anything here; the rest is the API server's."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    name: ObjectName
    namespace: Namespace = "default"
    annotations: Annotations = {}

    @property
    def scope(self) -> str:
        """The namespace that the document lives in; "" for a cluster-wide one."""
        return self.namespace


class ClusterMetadata(BaseModel):
    """The same for what is in no namespace."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    name: ObjectName
    namespace: Annotated[None, refused("a cluster-wide policy is in no namespace: leave it out")] = None
    annotations: Annotations = {}

    @property
    def scope(self) -> str:
        """Always ""."""
        return ""


class Specs(Strict):
    """spec and specs may stand together; each spec is a policy of its own under one name."""

    spec: Spec | None = None
    specs: Annotated[list[Spec], Field(min_length=1)] | None = None
    status: object = None  # what `kubectl get -o yaml` prints beside the policy

    @model_validator(mode="after")
    def _has_spec(self) -> "Specs":
        if self.spec is None and self.specs is None:
            raise refuse("spec or specs is missing")
        return self

    def placed_specs(self) -> Iterator[tuple[Spec, Path]]:
        """Every spec, and where it stands."""
        if self.spec is not None:
            yield self.spec, ("spec",)
        for i, spec in enumerate(self.specs or ()):
            yield spec, ("specs", i)


class CiliumNetworkPolicy(Specs):
    """Of one namespace."""

    apiVersion: Literal["cilium.io/v2"]
    kind: Literal["CiliumNetworkPolicy"]
    metadata: Metadata

    def problems(self) -> Iterator[Wrong]:
        """Those of its specs."""
        for spec, path in self.placed_specs():
            yield from spec.problems(path, self.metadata.scope)


class CiliumClusterwideNetworkPolicy(Specs):
    """Of the whole cluster: it selects pods of every namespace."""

    apiVersion: Literal["cilium.io/v2"]
    kind: Literal["CiliumClusterwideNetworkPolicy"]
    metadata: ClusterMetadata

    def problems(self) -> Iterator[Wrong]:
        """Those of its specs."""
        for spec, path in self.placed_specs():
            yield from spec.problems(path, None)
