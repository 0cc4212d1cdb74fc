"""Deny over allow, modes, defaults, protocols: what the engine makes of several lines at once."""

import pytest

from policies.engine import CONFLICT, DEFAULT_ALLOW, DEFAULT_DENY, UNKNOWN_ENDPOINT
from policies.ruleset import OTHER_PROTOCOL, UDP, Answer, Direction, HttpRule, KafkaRule, Line
from tests.policies.made import AUDITING, ENFORCING, OTHER, PEER, Made, line

GET = HttpRule("get", "GET")
DENY_X = HttpRule("deny-x", path="/x", deny=True)
ORDERS = KafkaRule("orders", topic="orders")


def test_a_deny_rule_beats_rules_and_l4_allows() -> None:
    for lines in (
        [line("a", http=[GET, DENY_X])],
        [line("a", http=[GET]), line("b", http=[DENY_X])],
        [line("a"), line("b", http=[DENY_X])],
        [line("b", http=[DENY_X]), line("a")],
    ):
        made = Made(*lines)
        denied = made.ask("GET /x")
        assert (denied.allow, denied.rule, denied.policies) == (False, "deny-x", (ENFORCING,))
        assert denied.reason == "denied by deny-x"
        assert made.ask("GET /y").allow
        assert made.protocol() == "http"


def test_a_list_of_denies_allows_nothing() -> None:
    assert Made(line("a", http=[DENY_X])).ask("GET /y").rule == DEFAULT_DENY


def test_without_default_deny_what_no_rule_names_is_allowed() -> None:
    made = Made(line("a", http=[GET, DENY_X]), default_deny=False, audit_default_deny=False)
    assert made.ask("GET /x").rule == "deny-x"
    assert made.ask("GET /y").rule == "get"
    other = made.ask("PUT /y")
    assert (other.allow, other.rule) == (True, DEFAULT_ALLOW)


def test_an_explicit_l4_denial_names_its_line() -> None:
    made = Made(line("allow"), line("no", deny=True, peers=frozenset((PEER,))))
    verdict = made.ask()
    assert (verdict.allow, verdict.rule, verdict.reason) == (False, "no", "denied by no (L4)")
    assert made.connection() == verdict
    assert made.ask(peer=OTHER).rule == "allow"


def test_an_l4_allow_with_a_deny_rule_names_the_allow() -> None:
    verdict = Made(line("wide"), line("l7", http=[DENY_X, GET])).ask("GET /y")
    assert (verdict.rule, verdict.reason) == ("wide", "allowed by wide (L4)")


def test_mode_audit_never_blocks_and_names_who_would_deny() -> None:
    made = Made(line("e", http=[GET]), line("a", http=[DENY_X], audit=True))
    passed = made.ask("GET /x")
    assert passed.allow
    assert passed.audited
    assert (passed.rule, passed.reason, passed.policies) == ("deny-x", "audit only, denied by deny-x", (AUDITING,))
    assert passed.permit is not None
    assert passed.permit.rule == "get"
    plain = made.ask("GET /y")
    assert (plain.rule, plain.audited) == ("get", False)


def test_what_an_audit_policy_allows_is_not_allowed_by_it() -> None:
    made = Made(line("e", http=[GET]), line("a", http=[HttpRule("put", "PUT")], audit=True))
    refused = made.ask("PUT /")
    assert (refused.allow, refused.audited, refused.rule) == (False, False, DEFAULT_DENY)


def test_audit_policies_alone_deny_nothing() -> None:
    made = Made(line("a", http=[GET], audit=True))
    assert made.protocol() == "http"
    assert made.ask("GET /").audited is False
    passed = made.ask("PUT /")
    assert (passed.allow, passed.audited, passed.rule) == (True, True, DEFAULT_DENY)
    assert made.connection().permit is not None  # whatever it carries
    nobody = Made(line("a", peers=frozenset((OTHER,)), audit=True))
    verdict = nobody.connection()
    assert (verdict.allow, verdict.audited, verdict.rule) == (True, True, DEFAULT_DENY)
    assert nobody.engine.connection(1, Direction.INGRESS, PEER, 80).would_deny


def test_kafka_rules() -> None:
    rules = [
        KafkaRule("produce", role="produce", topic="orders"),
        KafkaRule("v2", api_version=2),
        KafkaRule("client", client_id="admin"),
        KafkaRule("secret", topic="secret", deny=True),
    ]
    made = Made(line("k", kafka=rules))
    assert made.protocol() == "kafka"
    assert made.kafka("Write orders").rule == "produce"
    assert made.kafka("Write Orders").rule == DEFAULT_DENY
    assert made.kafka("Read orders").rule == DEFAULT_DENY
    assert made.kafka(api_key=18).rule == "produce"  # asks for nothing
    assert made.kafka("Read x", version=2).rule == "v2"
    assert made.kafka("Read x", client="admin").rule == "client"
    assert made.kafka("Read secret", client="admin").rule == "secret"
    assert not Made(line("k", kafka=[])).kafka(api_key=18).allow
    assert Made(line("k", kafka=[KafkaRule("deny", deny=True)]), line("wide")).kafka(api_key=18).rule == "deny"


def test_a_request_of_the_other_kind_is_denied() -> None:
    assert not Made(line("k", kafka=[ORDERS])).ask().allow
    assert not Made(line("h", http=[GET])).kafka("Write orders").allow
    assert not Made(line("h", http=[DENY_X]), line("wide")).kafka("Write orders").allow


def test_http_and_kafka_rules_for_one_peer_and_port_deny_everything() -> None:
    made = Made(line("h", http=[GET]), line("k", kafka=[ORDERS]))
    assert made.protocol() == "conflict"
    for verdict in (made.ask(), made.kafka("Write orders"), made.connection()):
        assert (verdict.allow, verdict.rule, verdict.policies) == (False, CONFLICT, (ENFORCING,))


def test_a_conflict_with_an_audit_policy_is_told_and_blocks_nothing() -> None:
    made = Made(line("h", http=[GET]), line("k", kafka=[ORDERS], audit=True))
    assert made.protocol() == "http"
    passed = made.ask()
    assert (passed.allow, passed.audited, passed.rule) == (True, True, CONFLICT)
    alone = Made(line("h", http=[GET], audit=True), line("k", kafka=[ORDERS], audit=True))
    assert alone.protocol() == "conflict"
    assert alone.connection().permit is not None
    assert alone.engine.audit_policies(1, Direction.INGRESS, PEER, 80) == (AUDITING,)


def test_protocols_other_than_tcp_have_lines_of_their_own() -> None:
    wide = Line("udp", ENFORCING, None, UDP, 53, 53)
    engine = Made(wide, line("tcp")).engine
    ask = engine.connection_verdict
    assert ask(1, Direction.INGRESS, PEER, 53, UDP).rule == "udp"
    assert ask(1, Direction.INGRESS, PEER, 53).rule == DEFAULT_DENY
    assert ask(1, Direction.INGRESS, PEER, 80).rule == "tcp"
    assert ask(1, Direction.INGRESS, PEER, 80, OTHER_PROTOCOL).rule == DEFAULT_DENY
    assert engine.connection(1, Direction.INGRESS, PEER, 53, UDP).answer is Answer.ALLOW


def test_an_unknown_endpoint_is_denied() -> None:
    engine = Made().engine
    assert engine.connection(9, Direction.INGRESS, PEER, 80).answer is Answer.DENY
    assert engine.connection_verdict(9, Direction.INGRESS, PEER, 80).rule == UNKNOWN_ENDPOINT
    assert engine.protocol_of(9, Direction.INGRESS, PEER, 80) == ""


@pytest.mark.parametrize("l4", [False, True])
def test_connection_verdicts_have_a_permit_only_where_anything_may_pass(l4: bool) -> None:
    lines = [line("h", http=[GET])] + ([line("wide")] if l4 else [])
    assert (Made(*lines).connection().permit is not None) is l4
