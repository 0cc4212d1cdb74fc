"""Selectors as Kubernetes and Cilium read them, alone and through the index."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ruleset import Answer, Identity
from policies.selector import NAMESPACE_LABEL, IdentityIndex, Operator, Requirement, Selector
from tests.policies.world import ALLOW, DENY, World, policy

TABLE = [
    ("matchLabels: {app: frontend}", ALLOW, DENY, DENY),
    ("matchLabels: {'k8s:app': frontend}", ALLOW, DENY, DENY),
    ("matchLabels: {'any:app': frontend}", ALLOW, DENY, DENY),
    ("matchLabels: {app: frontend, tier: edge}", ALLOW, DENY, DENY),
    ("matchLabels: {app: frontend, tier: core}", DENY, DENY, DENY),
    ("matchLabels: {app: ''}", DENY, DENY, DENY),
    ("matchLabels: {}", ALLOW, ALLOW, DENY),
    ("matchExpressions: []", ALLOW, ALLOW, DENY),
    ("matchExpressions: [{key: app, operator: In, values: [frontend, x]}]", ALLOW, DENY, DENY),
    ("matchExpressions: [{key: app, operator: NotIn, values: [frontend, x]}]", DENY, ALLOW, DENY),
    ("matchExpressions: [{key: tier, operator: Exists}]", ALLOW, DENY, DENY),
    ("matchExpressions: [{key: tier, operator: DoesNotExist}]", DENY, ALLOW, DENY),
    ("matchExpressions: [{key: 'any:tier', operator: NotIn, values: [core]}]", ALLOW, ALLOW, DENY),
    ("matchExpressions: [{key: app, operator: Exists}, {key: tier, operator: Exists}]", ALLOW, DENY, DENY),
    ("matchLabels: {app: frontend}, matchExpressions: [{key: tier, operator: DoesNotExist}]", DENY, DENY, DENY),
    ("matchLabels: {'k8s:io.kubernetes.pod.namespace': other}", DENY, DENY, ALLOW),
    ("matchLabels: {'any:io.kubernetes.pod.namespace': other}", DENY, DENY, ALLOW),
    ("matchLabels: {io.kubernetes.pod.namespace: other, app: frontend}", DENY, DENY, ALLOW),
    ("matchLabels: {io.kubernetes.pod.namespace: nowhere}", DENY, DENY, DENY),
    (
        "matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: In, values: [other, default]}]",
        ALLOW,
        ALLOW,
        ALLOW,
    ),
    ("matchExpressions: [{key: io.kubernetes.pod.namespace, operator: NotIn, values: [other]}]", ALLOW, ALLOW, DENY),
    ("matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]", ALLOW, ALLOW, ALLOW),
]


@pytest.mark.parametrize(("selector", "frontend", "intruder", "elsewhere"), TABLE)
def test_peer_selectors(selector: str, frontend: Answer, intruder: Answer, elsewhere: Answer) -> None:
    rule = f"[{{fromEndpoints: [{{{selector}}}], toPorts: [{{ports: [{{port: 80}}]}}]}}]"
    world = World(policy(f"endpointSelector: {{matchLabels: {{app: web}}}}\ningress: {rule}"))
    answers = (world.connect("frontend"), world.connect("intruder"), world.connect("other/frontend"))
    assert answers == (frontend, intruder, elsewhere)
    assert world.connect(None) is DENY


# An endpointSelector with another namespace in matchLabels is refused: test_load holds that.
OWN_NAMESPACE = [row for row in TABLE if "matchLabels" not in row[0] or "io.kubernetes.pod.namespace" not in row[0]]


@pytest.mark.parametrize(("selector", "frontend", "intruder", "elsewhere"), OWN_NAMESPACE)
def test_endpoint_selectors_stay_in_their_namespace(
    selector: str, frontend: Answer, intruder: Answer, elsewhere: Answer
) -> None:
    world = World(policy(f"endpointSelector: {{{selector}}}\ningress: [{{}}]"))
    # what a peer selector allows, an endpoint selector puts under default deny, in its own namespace
    turned = {ALLOW: DENY, DENY: ALLOW}
    assert world.connect("web", "frontend") is turned[frontend]
    assert world.connect("web", "intruder") is turned[intruder]
    assert world.connect("web", "other/frontend") is ALLOW


def test_selectors_of_a_list_add_up() -> None:
    peers = "[{matchLabels: {app: frontend}}, {matchLabels: {app: intruder}}]"
    rule = f"[{{fromEndpoints: {peers}, toPorts: [{{ports: [{{port: 80}}]}}]}}]"
    world = World(policy(f"endpointSelector: {{matchLabels: {{app: web}}}}\ningress: {rule}"))
    assert world.connect("frontend") is ALLOW
    assert world.connect("intruder") is ALLOW
    assert world.connect("web") is DENY


def test_a_pods_own_label_never_names_its_namespace() -> None:
    forged = {NAMESPACE_LABEL: "kube-system", "app": "x"}
    inside = Selector((Requirement(NAMESPACE_LABEL, Operator.IN, ("kube-system",)),))
    assert not inside.matches("default", forged)
    assert IdentityIndex({256: Identity("default", forged, ())}).select(inside) == frozenset()
    assert IdentityIndex({256: Identity("kube-system", {}, ())}).select(inside) == {256}


keys = st.sampled_from(["a", "b", NAMESPACE_LABEL])
texts = st.sampled_from(["", "x", "y"])
requirements = st.builds(
    lambda key, operator, values: Requirement(
        key, operator, tuple(sorted(values)) if operator in (Operator.IN, Operator.NOT_IN) else ()
    ),
    keys,
    st.sampled_from(list(Operator)),
    st.sets(texts, min_size=1),
)
identities = st.lists(st.builds(Identity, texts, st.dictionaries(keys, texts), st.just(()))).map(
    lambda found: dict(enumerate(found, 256))
)


@given(identities, st.lists(st.lists(requirements, max_size=3).map(lambda r: Selector(tuple(r))), max_size=4))
def test_the_index_selects_what_the_selector_matches(known: dict[int, Identity], selectors: list[Selector]) -> None:
    index = IdentityIndex(known)
    for selector in [*selectors, *selectors]:  # the second time from memory
        wanted = {n for n, identity in known.items() if selector.matches(identity.namespace, identity.labels)}
        assert index.select(selector) == wanted
