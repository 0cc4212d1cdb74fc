"""Documents to one PolicySet: what they say, without any pod. The order of files and documents never matters."""

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from policies.errors import PolicyError
from policies.load import Document, duplicates
from policies.model import EgressRule, EndpointSelector, IngressRule, PortRule, Spec, split_header
from policies.policyset import Grant, PolicySet, PortSpec, Section
from policies.ruleset import TCP, HeaderMatch, HttpRule, PolicyRef
from policies.selector import NAMESPACE_LABEL, Operator, Requirement, Selector


def compile_policies(documents: Iterable[Document]) -> PolicySet:
    """Compile all documents together.

    Raises:
        PolicyError: two documents have one (kind, namespace, name).
    """
    documents = list(documents)
    if problems := duplicates(documents):
        raise PolicyError(problems)
    sections: list[Section] = []
    for document in sorted(documents, key=lambda each: (each.namespace, each.name, each.kind)):
        ref = PolicyRef(document.kind, document.namespace, document.name)
        title = f"{document.namespace}/{document.name}"
        if document.model.spec is not None:
            sections.append(_section(document.model.spec, ref, f"{title} "))
        for i, spec in enumerate(document.model.specs or ()):
            sections.append(_section(spec, ref, f"{title} specs[{i}]."))
    digest = hashlib.sha256(msgspec.json.encode(sections)).hexdigest()
    return PolicySet(tuple(sections), digest)


def _section(spec: Spec, policy: PolicyRef, title: str) -> Section:
    namespace = policy.namespace
    own = Requirement(NAMESPACE_LABEL, Operator.IN, (namespace,))
    selector = Selector(tuple(sorted({*_requirements(spec.endpointSelector), own})))
    ingress = _grants(spec.ingress, namespace, f"{title}ingress")
    egress = _grants(spec.egress, namespace, f"{title}egress")
    return Section(policy, selector, ingress, egress)


def _grants(rules: Sequence[IngressRule | EgressRule], namespace: str, title: str) -> tuple[Grant, ...] | None:
    """The grants of one direction; None when there is no rule at all, which leaves the direction alone."""
    if not rules:
        return None
    grants: list[Grant] = []
    for i, rule in enumerate(rules):
        written = rule.fromEndpoints if isinstance(rule, IngressRule) else rule.toEndpoints
        peers = None if written is None else tuple(_peer(selector, namespace) for selector in written)
        name = f"{title}[{i}]"
        if rule.toPorts is None:
            # With neither peers nor ports the rule allows nothing (it is how Cilium spells default deny).
            if peers is not None:
                grants.append(Grant(name, peers))
            continue
        for j, entry in enumerate(rule.toPorts):
            grants += _port_grants(entry, peers, f"{name}.toPorts[{j}]")
    return tuple(grants)


def _port_grants(entry: PortRule, peers: tuple[Selector, ...] | None, name: str) -> list[Grant]:
    rules = entry.rules.http if entry.rules is not None else None
    http: tuple[HttpRule, ...] | None = None
    if rules is not None:
        # an empty list constrains no request, as in Cilium, and unlike no list at all it is recorded
        http = tuple(
            HttpRule(
                f"{name}.http[{i}]",
                rule.method or None,
                rule.path or None,
                rule.host or None,
                tuple(_header(text) for text in rule.headers),
            )
            for i, rule in enumerate(rules)
        ) or (HttpRule(f"{name}.http[]"),)
    ports = sorted({each.port for each in entry.ports})
    return [Grant(name, peers, PortSpec(TCP, port, port) if port else PortSpec(TCP), http) for port in ports]


def _header(text: str) -> HeaderMatch:
    name, value = split_header(text)
    return HeaderMatch(name.lower(), value)


def _peer(selector: EndpointSelector, namespace: str) -> Selector:
    """A peer selector that does not speak of the namespace means the policy's own (Cilium, getEndpointSelector)."""
    wanted = set(_requirements(selector))
    if all(requirement.key != NAMESPACE_LABEL for requirement in wanted):
        wanted.add(Requirement(NAMESPACE_LABEL, Operator.IN, (namespace,)))
    return Selector(tuple(sorted(wanted)))


def _requirements(selector: EndpointSelector) -> list[Requirement]:
    labels = [Requirement(key, Operator.IN, (value,)) for key, value in selector.matchLabels.items()]
    return labels + [
        Requirement(test.key, Operator(test.operator), tuple(sorted(set(test.values))))
        for test in selector.matchExpressions
    ]
