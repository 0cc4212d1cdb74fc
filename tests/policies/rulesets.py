"""Hypothesis: policy texts and rule sets over a small world, small enough that rules meet one another."""

from hypothesis import strategies as st

from policies.ruleset import DirectionRules, EndpointRules, HttpRule, Line, PolicyRef

PORTS = (80, 81, 443)
IDENTITIES = (256, 257, 258)

http_rules = st.builds(
    HttpRule,
    st.sampled_from(["h1", "h2"]),
    st.sampled_from([None, "GET", "GET|POST", "P.*"]),
    st.sampled_from([None, "/a", "/a.*", "/[ab]"]),
)
lines = st.builds(
    Line,
    st.sampled_from(["l1", "l2", "l3"]),
    st.just(PolicyRef("CiliumNetworkPolicy", "default", "p")),
    st.none() | st.frozensets(st.sampled_from(IDENTITIES)),
    st.none() | st.lists(http_rules, max_size=2).map(tuple),
)
some_lines = st.lists(lines, max_size=3).map(tuple)
directions = st.builds(
    DirectionRules,
    st.booleans(),
    st.dictionaries(st.sampled_from(PORTS), some_lines),
    some_lines,
    st.just((PolicyRef("CiliumNetworkPolicy", "default", "p"),)),
)
endpoints = st.builds(
    EndpointRules,
    st.integers(1, 511),
    st.just("default"),
    st.just("web"),
    st.just({"app": "web"}),
    directions,
    directions,
)

# Documents, as the text of one spec each
selectors = st.sampled_from(
    [
        "{}",
        "{matchLabels: {app: frontend}}",
        "{matchLabels: {app: intruder}}",
        "{matchExpressions: [{key: tier, operator: DoesNotExist}]}",
        "{matchLabels: {io.kubernetes.pod.namespace: other}}",
    ]
)
peers = st.none() | st.lists(selectors, max_size=2).map(", ".join)
rules_parts = st.sampled_from(
    ["", ", rules: {http: []}", ", rules: {http: [{method: GET}]}", ", rules: {http: [{path: /a}, {path: '/b.*'}]}"]
)
port_entries = st.builds(
    lambda ports, rules: f"{{ports: [{', '.join(f'{{port: {port}}}' for port in ports)}]{rules}}}",
    st.sets(st.sampled_from([80, 81]), min_size=1),
    rules_parts,
) | st.just("{ports: [{port: 0}]}")


@st.composite
def rules(draw: st.DrawFn) -> tuple[str | None, str | None]:
    """Peers and toPorts of one rule; None is absent."""
    entries = draw(st.none() | st.lists(port_entries, min_size=1, max_size=2).map(", ".join))
    return draw(peers), entries


def rule_text(rule: tuple[str | None, str | None], peers_field: str) -> str:
    who, ports = rule
    parts = [f"{peers_field}: [{who}]"] if who is not None else []
    parts += [f"toPorts: [{ports}]"] if ports is not None else []
    return "{" + ", ".join(parts) + "}"


@st.composite
def specs(draw: st.DrawFn) -> str:
    """The text of one spec that selects app=web or everything."""
    selector = draw(st.sampled_from(["{}", "{matchLabels: {app: web}}"]))
    ingress = [rule_text(rule, "fromEndpoints") for rule in draw(st.lists(rules(), max_size=3))]
    egress = [rule_text(rule, "toEndpoints") for rule in draw(st.lists(rules(), min_size=not ingress, max_size=2))]
    return f"endpointSelector: {selector}\ningress: [{', '.join(ingress)}]\negress: [{', '.join(egress)}]"
