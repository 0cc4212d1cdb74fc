"""Tests on labels, as Kubernetes and Cilium read them, and a quick way to run one over many identities."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from policies.ruleset import Identity

# The label that stands for the namespace; a pod's own label of this name never replaces it.
NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
# Before the keys of the namespace's own labels (Cilium, pkg/k8s/apis/cilium.io: PodNamespaceMetaLabels).
NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
# What the API server gives every namespace.
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"


def full_labels(namespace: str, labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> dict[str, str]:
    """Everything that a selector can ask of a pod. Keys that stand for the namespace never come from the pod."""
    full = {key: value for key, value in labels.items() if not key.startswith(NAMESPACE_LABELS)}
    full |= {NAMESPACE_LABELS + key: value for key, value in namespace_labels.items()}
    return full | {NAMESPACE_LABELS + NAMESPACE_NAME_LABEL: namespace, NAMESPACE_LABEL: namespace}


class Operator(StrEnum):
    """A missing label satisfies NOT_IN and DOES_NOT_EXIST, as in Kubernetes."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One test; values are sorted, and empty for EXISTS and DOES_NOT_EXIST."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """`labels` must already hold the namespace label."""
        have = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return have in self.values
            case Operator.NOT_IN:
                return have not in self.values
            case Operator.EXISTS:
                return have is not None
            case Operator.DOES_NOT_EXIST:
                return have is None


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; they are sorted, so that equal selectors are one selector. None selects everything.

    A selector of a namespaced policy always carries a requirement on the namespace.
    """

    requirements: tuple[Requirement, ...]

    def matches(self, namespace: str, labels: Mapping[str, str], namespace_labels: Mapping[str, str] = {}) -> bool:
        """Whether a pod of that namespace with those labels is selected; namespace_labels are the namespace's own."""
        return self.holds(full_labels(namespace, labels, namespace_labels))

    def holds(self, full: Mapping[str, str]) -> bool:
        """The same for what `full_labels` gave."""
        return all(requirement.matches(full) for requirement in self.requirements)


class IdentityIndex:
    """Identities by label, so that a selector costs set operations and not a visit to every identity."""

    def __init__(self, identities: Mapping[int, Identity], namespaces: Mapping[str, Mapping[str, str]] = {}) -> None:
        """namespaces: labels of namespaces by name. Identities of peers that are no pods are selected by nothing."""
        pods = {number: identity for number, identity in identities.items() if not identity.reserved}
        self._all = frozenset(pods)
        by_value: dict[tuple[str, str], set[int]] = {}
        by_key: dict[str, set[int]] = {}
        for number, identity in pods.items():
            full = full_labels(identity.namespace, identity.labels, namespaces.get(identity.namespace, {}))
            for key, value in full.items():
                by_value.setdefault((key, value), set()).add(number)
                by_key.setdefault(key, set()).add(number)
        self._by_value = {at: frozenset(numbers) for at, numbers in by_value.items()}
        self._by_key = {key: frozenset(numbers) for key, numbers in by_key.items()}
        self._known: dict[Selector, frozenset[int]] = {}

    def select(self, selector: Selector) -> frozenset[int]:
        """Numbers of the pods' identities that the selector selects; equal to asking `Selector.matches` for each."""
        found = self._known.get(selector)
        if found is None:
            found = self._all
            for requirement in selector.requirements:
                found &= self._one(requirement)
            self._known[selector] = found
        return found

    def _one(self, requirement: Requirement) -> frozenset[int]:
        none = frozenset[int]()
        if requirement.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
            having = self._by_key.get(requirement.key, none)
        else:
            having = none.union(*(self._by_value.get((requirement.key, v), none) for v in requirement.values))
        return having if requirement.operator in (Operator.IN, Operator.EXISTS) else self._all - having
