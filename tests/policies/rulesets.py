"""Hypothesis: rule sets over a small world, small enough that rules meet one another."""

from hypothesis import strategies as st

from policies.ruleset import (
    ANY_PROTOCOL,
    MAX_PORT,
    TCP,
    UDP,
    DirectionRules,
    EndpointRules,
    HttpRule,
    KafkaRule,
    Line,
    PathKind,
    PolicyRef,
)

REF = PolicyRef("CiliumNetworkPolicy", "default", "p")
PORTS = (80, 81, 443)
IDENTITIES = (1, 9, 256, 257, 258, 1 << 24)
RANGES = ((0, MAX_PORT), (80, 80), (80, 81), (81, 443), (0, 80), (79, 1023), (1024, MAX_PORT), (MAX_PORT, MAX_PORT))

http_rules = st.builds(
    HttpRule,
    st.sampled_from(["h1", "h2"]),
    st.sampled_from([None, "GET", "GET|POST", "P.*"]),
    st.sampled_from([None, "/a", "/a.*", "/[ab]"]),
) | st.builds(
    HttpRule,
    st.sampled_from(["h3", "h4"]),
    st.sampled_from([None, "GET"]),
    st.just("/a"),
    path_kind=st.sampled_from([PathKind.EXACT, PathKind.PREFIX]),
    deny=st.booleans(),
)
kafka_rules = st.builds(
    KafkaRule, st.sampled_from(["k1", "k2"]), topic=st.sampled_from([None, "orders"]), deny=st.booleans()
)


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """One line of any kind that `resolve` can make."""
    protocol = draw(st.sampled_from([TCP, TCP, UDP, ANY_PROTOCOL]))
    first, last = (0, MAX_PORT) if protocol == ANY_PROTOCOL else draw(st.sampled_from(RANGES))
    deny = draw(st.booleans()) and draw(st.booleans())
    http = kafka = None
    if protocol == TCP and not deny:
        http = draw(st.none() | st.lists(http_rules, max_size=2).map(tuple))
        if http is None:
            kafka = draw(st.none() | st.none() | st.lists(kafka_rules, max_size=2).map(tuple))
    return Line(
        draw(st.sampled_from(["l1", "l2", "l3"])),
        REF,
        draw(st.none() | st.frozensets(st.sampled_from((0, *IDENTITIES)))),
        protocol,
        first,
        last,
        deny,
        http,
        kafka,
        audit=draw(st.booleans()) and draw(st.booleans()),
        fail_open=draw(st.booleans()),
    )


@st.composite
def directions(draw: st.DrawFn) -> DirectionRules:
    """What one endpoint may do in one direction; a default denial that is enforced is one for the audit too."""
    default_deny = draw(st.booleans())
    return DirectionRules(
        draw(st.sampled_from([True, True, True, False])),
        default_deny,
        default_deny or draw(st.booleans()),
        tuple(draw(st.lists(lines(), max_size=5))),
        (REF,),
    )


endpoints = st.builds(
    EndpointRules,
    st.integers(1, 511),
    st.just("default"),
    st.just("web"),
    st.just({"app": "web"}),
    directions(),
    directions(),
)
