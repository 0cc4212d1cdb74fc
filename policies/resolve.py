"""Policies and pods to the rule set of one node."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from policies.compile import PolicySet
from policies.ruleset import RuleSet

type IdentityKey = tuple[str, tuple[tuple[str, str], ...]]  # namespace, sorted labels


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the cluster. addresses: IP text. endpoint_id: set for pods of this node that the agent manages."""

    namespace: str
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    endpoint_id: int | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every pod that this node knows of, its own and those of other nodes."""

    pods: tuple[Pod, ...] = ()


def allocate_identities(pods: Iterable[Pod], previous: Mapping[IdentityKey, int]) -> dict[IdentityKey, int]:
    """A number for each (namespace, labels) in use; those in `previous` keep theirs."""
    raise NotImplementedError


def numbers_of(rules: RuleSet) -> dict[IdentityKey, int]:
    """The `previous` of allocate_identities, from the rule set in force."""
    raise NotImplementedError


def selected(policies: PolicySet, pod: Pod) -> tuple[bool, bool]:
    """Whether some policy selects the pod for (ingress, egress)."""
    raise NotImplementedError


def resolve(policies: PolicySet, inventory: Inventory, revision: int, previous: Mapping[IdentityKey, int]) -> RuleSet:
    """The rule set for the pods of the inventory that have an endpoint id."""
    raise NotImplementedError
