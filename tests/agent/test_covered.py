"""Connections that no proxy is in: told from ours, judged by the rules of now."""

from ipaddress import ip_address

from agent.covered import Ends, denied, direct, ends_of, uncovered
from policies.ruleset import TCP, UDP, DirectionRules, EndpointRules, HttpRule, Line, PolicyRef, RuleSet
from proxy.peers import Peers
from redirect.sockdiag import Live

WORKER = 64738
POD, CLIENT, OTHER, NODE = "10.244.1.2", "10.244.0.2", "10.244.0.3", "10.244.1.1"
REF = PolicyRef("CiliumNetworkPolicy", "default", "web")


def live(
    local: str,
    local_port: int,
    remote: str,
    remote_port: int,
    *,
    inbound: bool = True,
    uid: int = 0,
    protocol: int = TCP,
) -> Live:
    return Live(
        protocol, ip_address(local), local_port, ip_address(remote), remote_port, "established", 0, inbound, uid=uid
    )


def test_what_is_ours_is_not_direct() -> None:
    plain = live(POD, 80, CLIENT, 40000)
    steered = [
        live(POD, 80, CLIENT, 40001, uid=WORKER),  # accepted by a worker
        live(CLIENT, 61000, POD, 80, inbound=False),  # its leg
        live(POD, 80, CLIENT, 61000),  # the app's end of the leg
        live(POD, 50000, OTHER, 80, inbound=False),  # the app's own, steered at egress
        live(OTHER, 80, POD, 50000, uid=WORKER),  # our end of that
    ]
    itself = [live(POD, 80, POD, 50001), live(POD, 50001, POD, 80, inbound=False)]
    datagrams = live(POD, 53, CLIENT, 40002, protocol=UDP)
    assert direct([plain, *steered, *itself, datagrams], {POD}, WORKER) == [plain]


def rules(*lines: Line, close: bool = True) -> EndpointRules:
    ingress = DirectionRules(True, True, True, lines, (REF,), close_denied=close)
    return EndpointRules(1, "default", "web", {}, ingress, DirectionRules(), identity=258)


PEERS = Peers(RuleSet(addresses={CLIENT: (256, "default/a"), OTHER: (257, "default/b"), NODE: (1, "node-b")}))
FROM_CLIENT, FROM_OTHER, FROM_NODE = (live(POD, 80, who, 40000) for who in (CLIENT, OTHER, NODE))
OUT = live(POD, 50000, OTHER, 81, inbound=False)
ALL = [FROM_CLIENT, FROM_OTHER, FROM_NODE, OUT]
ALLOW_CLIENT = Line("allow", REF, frozenset({256}), TCP, 80, 80)


def test_only_what_is_refused_now_is_closed_and_only_where_a_policy_says_so() -> None:
    assert list(denied(rules(ALLOW_CLIENT), PEERS, ALL)) == [FROM_OTHER, FROM_NODE]
    assert list(denied(rules(ALLOW_CLIENT, close=False), PEERS, ALL)) == []
    everyone = Line("deny", REF, None, TCP, 80, 80, deny=True)
    assert list(denied(rules(ALLOW_CLIENT, everyone), PEERS, ALL)) == [FROM_CLIENT, FROM_OTHER, FROM_NODE]


def test_the_nodes_own_may_be_host_or_world() -> None:
    for identity in (1, 9):
        line = Line("allow", REF, frozenset({identity}), TCP, 80, 80)
        assert FROM_NODE not in list(denied(rules(line), PEERS, ALL))


def test_not_covered_is_what_is_older_or_not_as_the_rules_want() -> None:
    http = Line("http", REF, frozenset({257}), TCP, 80, 80, http=(HttpRule("http[0]", path="/x"),))
    found = uncovered(rules(ALLOW_CLIENT, http), PEERS, ALL, frozenset())
    assert [entry["peer"] for entry in found] == [OTHER, NODE]  # one has no proxy, one would be refused
    assert found[0] == {
        "pod": "default/web",
        "direction": "ingress",
        "peer": OTHER,
        "port": 80,
        "protocol": "TCP",
    }
    older = frozenset({ends_of(FROM_CLIENT), Ends(POD, 50000, OTHER, 81)})
    found = uncovered(rules(ALLOW_CLIENT, http), PEERS, ALL, older)
    assert [entry["peer"] for entry in found] == [CLIENT, OTHER, NODE]  # nothing at egress: no policy is there
