"""Documents to one PolicySet: what they say, without any pod. The order of files and documents never matters.

What one document says is worked out once and kept with it, so that a changed document costs what it says itself.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import msgspec

from policies.errors import PolicyError
from policies.kafka import API_KEYS
from policies.kubernetes import NetworkPolicy, plain_requirements, section_of
from policies.load import Document, duplicates
from policies.model import (
    DenyPortRule,
    EndpointSelector,
    HttpRuleModel,
    KafkaRuleModel,
    Port,
    PortRule,
    Rule,
    ServiceRef,
    Spec,
)
from policies.policyset import (
    CidrPeer,
    EntityPeer,
    Grant,
    Options,
    Peer,
    Place,
    PolicySet,
    PortSpec,
    Section,
    ServicePeer,
)
from policies.ruleset import (
    ANY_PROTOCOL,
    TCP,
    UDP,
    HeaderMatch,
    HttpRule,
    KafkaRule,
    Mismatch,
    NameKind,
    PathKind,
    PolicyRef,
    QueryMatch,
)
from policies.selector import NAMESPACE_LABEL, NAMESPACE_LABELS, Operator, Requirement, Selector
from policies.tulle import options_of
from policies.words import Path, split_header


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What one document says; digest: of the sections."""

    sections: tuple[Section, ...]
    digest: bytes
    places: dict[str, Place]


_known: WeakKeyDictionary[Document, _Compiled] = WeakKeyDictionary()


def compile_policies(documents: Iterable[Document]) -> PolicySet:
    """Compile all documents together.

    Raises:
        PolicyError: two documents have one (kind, namespace, name).
    """
    documents = list(documents)
    if problems := duplicates(documents):
        raise PolicyError(problems)
    if not documents:
        return PolicySet()
    sections: list[Section] = []
    places: dict[str, Place] = {}
    digest = hashlib.sha256()
    for document in sorted(documents, key=lambda each: (each.namespace, each.name, each.kind)):
        compiled = _known.get(document)
        if compiled is None:
            compiled = _known[document] = _compiled(document)
        sections += compiled.sections
        digest.update(compiled.digest)
        places |= compiled.places
    return PolicySet(tuple(sections), digest.hexdigest(), places)


def title_of(kind: str, namespace: str, name: str) -> str:
    """What the names of a document's rules begin with; no two documents share one."""
    where = f"{namespace}/{name}" if namespace else name
    return f"{where} " if kind.startswith("Cilium") else f"{kind} {where} "


def _compiled(document: Document) -> _Compiled:
    ref = PolicyRef(document.kind, document.namespace, document.name)
    title = title_of(*document.key)
    paths: dict[str, Path] = {}
    model = document.model
    annotations = model.metadata.annotations
    if isinstance(model, NetworkPolicy):
        sections = [section_of(model, ref, title, options_of(annotations), paths)]
    else:
        sections = [
            _Builder(ref, title if path == ("spec",) else f"{title}specs[{path[1]}].", path, paths).section(
                spec, options_of(annotations, spec)
            )
            for spec, path in model.placed_specs()
        ]
    digest = hashlib.sha256(msgspec.json.encode(sections)).digest()
    return _Compiled(tuple(sections), digest, {name: document.place(path) for name, path in paths.items()})


@dataclass(slots=True)
class _Builder:
    """One spec. places: where each named rule stands in the document."""

    policy: PolicyRef
    title: str
    path: Path
    places: dict[str, Path] = field(default_factory=dict)

    def section(self, spec: Spec, options: Options) -> Section:
        namespace = self.policy.namespace
        subject = set(_requirements(spec.endpointSelector))
        if namespace:
            subject.add(Requirement(NAMESPACE_LABEL, Operator.IN, (namespace,)))
        wanted = spec.enableDefaultDeny
        ingress, ingress_deny = self.direction("ingress", spec.ingress, spec.ingressDeny, wanted.ingress)
        egress, egress_deny = self.direction("egress", spec.egress, spec.egressDeny, wanted.egress)
        selector = Selector(tuple(sorted(subject)))
        return Section(self.policy, selector, ingress, egress, ingress_deny, egress_deny, options)

    def direction(
        self, name: str, allows: Sequence[Rule], denies: Sequence[Rule], default_deny: bool | None
    ) -> tuple[tuple[Grant, ...] | None, bool]:
        """Its grants, None where the spec leaves the direction alone, and whether it means default deny there."""
        touched = bool(allows or denies)
        if not touched and not default_deny:
            return None, True
        grants = [*self.grants(name, allows, deny=False), *self.grants(f"{name}Deny", denies, deny=True)]
        return tuple(grants), touched if default_deny is None else default_deny

    def grants(self, name: str, rules: Sequence[Rule], *, deny: bool) -> Iterable[Grant]:
        for i, rule in enumerate(rules):
            title, path = f"{self.title}{name}[{i}]", (*self.path, name, i)
            peers = self.peers(rule)
            if rule.toPorts is None:
                # With neither peers nor ports the rule says nothing (it is how Cilium spells default deny).
                if peers is not None:
                    self.places[title] = path
                    yield Grant(title, peers, deny=deny)
                continue
            entries: Sequence[PortRule | DenyPortRule] = rule.toPorts
            for j, entry in enumerate(entries):
                place = (*path, "toPorts", j)
                at = f"{title}.toPorts[{j}]"
                self.places[at] = place
                http = kafka = None
                if isinstance(entry, PortRule) and entry.rules is not None:
                    http, kafka = self.http(entry.rules.http, at, place), self.kafka(entry.rules.kafka, at, place)
                l7 = http is not None or kafka is not None
                for port in sorted({_port_spec(each, l7) for each in entry.ports}, key=_port_order):
                    yield Grant(at, peers, port, http, kafka, deny)

    def peers(self, rule: Rule) -> tuple[Peer, ...] | None:
        """None: no list is given, every peer. Lists that are given add up; documents have one with peers at most."""
        given = rule.peers()
        if all(each is None for each in given):
            return None
        found: list[Peer] = [self.endpoints(selector) for selector in given.endpoints or ()]
        found += [EntityPeer(entity) for entity in given.entities or ()]
        found += [CidrPeer(cidr) for cidr in given.cidrs or ()]
        found += [CidrPeer(each.cidr, tuple(sorted(set(each.excepts)))) for each in given.cidr_sets or ()]
        found += [_service(each) for each in given.services or ()]
        return tuple(dict.fromkeys(found))

    def endpoints(self, selector: EndpointSelector) -> Peer:
        """A selector that does not speak of the namespace means the policy's own, in a cluster-wide policy every one
        (Cilium, getEndpointSelector)."""
        if selector.entity is not None:
            return EntityPeer(selector.entity)
        wanted = set(_requirements(selector))
        namespace = self.policy.namespace
        if all(each.key != NAMESPACE_LABEL for each in wanted):
            if not namespace:
                wanted.add(Requirement(NAMESPACE_LABEL, Operator.EXISTS))
            elif not any(each.key.startswith(NAMESPACE_LABELS) for each in wanted):
                wanted.add(Requirement(NAMESPACE_LABEL, Operator.IN, (namespace,)))
        return Selector(tuple(sorted(wanted)))

    def http(self, rules: list[HttpRuleModel] | None, at: str, place: Path) -> tuple[HttpRule, ...] | None:
        """An empty list constrains no request, as in Cilium, and unlike no list at all it is recorded."""
        if rules is None:
            return None
        if not rules:
            self.places[f"{at}.http[]"] = (*place, "rules", "http")
            return (HttpRule(f"{at}.http[]"),)
        for i in range(len(rules)):
            self.places[f"{at}.http[{i}]"] = (*place, "rules", "http", i)
        return tuple(_http(rule, f"{at}.http[{i}]") for i, rule in enumerate(rules))

    def kafka(self, rules: list[KafkaRuleModel] | None, at: str, place: Path) -> tuple[KafkaRule, ...] | None:
        """As `http`."""
        if rules is None:
            return None
        if not rules:
            self.places[f"{at}.kafka[]"] = (*place, "rules", "kafka")
            return (KafkaRule(f"{at}.kafka[]"),)
        for i in range(len(rules)):
            self.places[f"{at}.kafka[{i}]"] = (*place, "rules", "kafka", i)
        return tuple(_kafka(rule, f"{at}.kafka[{i}]") for i, rule in enumerate(rules))


def _port_spec(port: Port, l7: bool) -> PortSpec:
    """ANY with L7 rules is TCP: there is no HTTP or Kafka in anything else."""
    protocol = {"TCP": TCP, "UDP": UDP}.get(port.protocol, TCP if l7 else ANY_PROTOCOL)
    if isinstance(port.port, str):
        return PortSpec(protocol, named=port.port)
    return PortSpec(protocol, *port.range)


def _port_order(port: PortSpec) -> tuple[int, int, int, str]:
    return port.protocol, port.first, port.last, port.named or ""


def _service(ref: ServiceRef) -> ServicePeer:
    if ref.k8sService is not None:
        return ServicePeer(ref.k8sService.namespace or None, ref.k8sService.serviceName)
    if ref.k8sServiceSelector is None:
        raise AssertionError("a document with a service that is none was refused")
    selector = Selector(tuple(sorted(plain_requirements(ref.k8sServiceSelector.selector))))
    return ServicePeer(ref.k8sServiceSelector.namespace or None, selector=selector)


def _http(rule: HttpRuleModel, name: str) -> HttpRule:
    path, kind = rule.path or None, PathKind.REGEX
    if rule.pathExact is not None:
        path, kind = rule.pathExact, PathKind.EXACT
    elif rule.pathPrefix is not None:
        path, kind = rule.pathPrefix, PathKind.PREFIX
    elif rule.pathTemplate is not None:
        path, kind = rule.pathTemplate, PathKind.TEMPLATE
    headers = [_header(text) for text in rule.headers] + [
        HeaderMatch(match.name.lower(), match.value or None, Mismatch(match.mismatch)) for match in rule.headerMatches
    ]
    return HttpRule(
        name,
        rule.method or None,
        path,
        rule.host or None,
        tuple(headers),
        kind,
        tuple(QueryMatch(each.key, each.value) for each in rule.query),
        rule.action == "Deny",
    )


def _kafka(rule: KafkaRuleModel, name: str) -> KafkaRule:
    topic, topic_kind = _named(rule.topic or None, rule.topicPrefix, rule.topicGlob)
    group, group_kind = _named(rule.group, rule.groupPrefix)
    transactional_id, transactional_id_kind = _named(rule.transactionalId, rule.transactionalIdPrefix)
    return KafkaRule(
        name,
        rule.role.lower(),
        API_KEYS[rule.apiKey.lower()] if rule.apiKey else None,
        int(rule.apiVersion) if rule.apiVersion else None,
        rule.clientID or None,
        topic,
        rule.action == "Deny",
        topic_kind,
        group,
        group_kind,
        transactional_id,
        transactional_id_kind,
    )


def _named(exact: str | None, prefix: str | None, glob: str | None = None) -> tuple[str | None, NameKind]:
    """At most one of them is given."""
    if prefix is not None:
        return prefix, NameKind.PREFIX
    return (glob, NameKind.GLOB) if glob is not None else (exact, NameKind.EXACT)


def _header(text: str) -> HeaderMatch:
    name, value = split_header(text)
    return HeaderMatch(name.lower(), value)


def _requirements(selector: EndpointSelector) -> list[Requirement]:
    labels = [Requirement(key, Operator.IN, (value,)) for key, value in selector.matchLabels.items()]
    return labels + [
        Requirement(test.key, Operator(test.operator), tuple(sorted(set(test.values))))
        for test in selector.matchExpressions
    ]
