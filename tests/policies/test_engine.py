"""What the engine remembers never changes what it says. Meaning: test_algebra."""

from dataclasses import replace

import pytest
import re2  # type: ignore[import-untyped]  # google-re2 has no type stubs
from hypothesis import given
from hypothesis import strategies as st

from policies import engine
from policies.engine import Engine, HttpRequest
from policies.ruleset import (
    Answer,
    Direction,
    DirectionRules,
    EndpointRules,
    HeaderMatch,
    HttpRule,
    Line,
    PolicyRef,
    RuleSet,
)

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
DENY, ALLOW, PROXY = Answer.DENY, Answer.ALLOW, Answer.PROXY
REF = PolicyRef("CiliumNetworkPolicy", "default", "p")


def one_endpoint(*rules: HttpRule, any_port: bool = False) -> RuleSet:
    first, last = (0, 65535) if any_port else (80, 80)
    line = Line("line", REF, None, first=first, last=last, http=rules)
    ingress = DirectionRules(True, True, True, (line,), (REF,))
    return RuleSet(5, {1: EndpointRules(1, "default", "web", {}, ingress, DirectionRules())})


def rule_of(rules: RuleSet, method: str, path: str) -> str:
    return Engine(rules).decide(1, INGRESS, 300, 80, HttpRequest(method, path)).rule


def test_an_empty_http_tuple_matches_nothing_and_is_proxied() -> None:
    judge = Engine(one_endpoint())
    assert judge.judge_peer(1, INGRESS, 300, 80) is PROXY
    assert not judge.decide(1, INGRESS, 300, 80, HttpRequest("GET", "/")).allow


def test_rules_with_and_without_literal_methods_meet_in_order() -> None:
    rules = one_endpoint(
        HttpRule("any-x", None, "/x.*"),
        HttpRule("get-all", "GET", None),
        HttpRule("p-star", "P.*", None),
        HttpRule("post-y", "POST|PUT", "/y/.*"),
        HttpRule("exact", "DELETE", "/z|/zz"),
    )
    assert rule_of(rules, "GET", "/x1") == "any-x"
    assert rule_of(rules, "GET", "/y") == "get-all"
    assert rule_of(rules, "PATCH", "/y") == "p-star"
    assert rule_of(rules, "POST", "/y/1") == "p-star"
    assert rule_of(rules, "DELETE", "/zz") == "exact"
    assert rule_of(rules, "DELETE", "/x") == "any-x"
    assert rule_of(rules, "DELETE", "/zzz") == engine.DEFAULT_DENY
    assert rule_of(rules, "FOO", "/") == engine.DEFAULT_DENY
    later = one_endpoint(HttpRule("get", "GET", "/g.*"), HttpRule("any", None, "/x.*"))
    assert rule_of(later, "GET", "/x") == "any"


def test_any_port_lines_hold_for_each_port_and_permits_name_the_port() -> None:
    judge = Engine(one_endpoint(HttpRule("r"), any_port=True))
    for port in (1, 80, 65535):
        permit = judge.decide(1, INGRESS, 300, port, HttpRequest("GET", "/")).permit
        assert permit is not None
        assert permit.port == port


def test_forgetting_sites_changes_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_SITES", 3)
    judge = Engine(one_endpoint(HttpRule("r", "GET")))
    for _ in range(2):
        for identity in range(300, 310):
            assert judge.judge_peer(1, INGRESS, identity, 80) is PROXY
            assert judge.judge_peer(1, INGRESS, identity, 81) is DENY
            assert judge.decide(1, INGRESS, identity, 80, HttpRequest("GET", "/")).allow
            assert not judge.decide(1, INGRESS, identity, 80, HttpRequest("PUT", "/")).allow
            assert len(judge._sites) <= 3
    assert judge.judge_peer(1, 1, 300, 80) is ALLOW


def test_peers_with_the_same_lines_share_their_tables() -> None:
    judge = Engine(one_endpoint(HttpRule("a", "GET", "/[ab]"), HttpRule("b", "PUT", "/[ab]")))
    for identity in (300, 301):
        assert judge.decide(1, INGRESS, identity, 80, HttpRequest("PUT", "/b")).rule == "b"
    assert len(judge._tables) == 1


def test_what_is_remembered_is_bounded_and_changes_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_SEEN", 3)
    rules = one_endpoint(HttpRule("a", "GET", "/[ab].*"), HttpRule("x", path="/ax", deny=True))
    judge = Engine(rules)
    for _ in range(3):
        for path in ("/a", "/ax", "/b", "/c", "/" + "a" * engine.MAX_SEEN_PATH):
            for method in ("GET", "PUT"):
                request = HttpRequest(method, path)
                expected = Engine(rules).decide(1, INGRESS, 300, 80, request)
                assert judge.decide(1, INGRESS, 300, 80, request) == expected
                (tables,) = judge._tables.values()
                assert len(tables._seen) <= 3
                assert all(len(key[1]) <= engine.MAX_SEEN_PATH for key in tables._seen)


def test_rules_on_headers_are_not_remembered() -> None:
    judge = Engine(one_endpoint(HttpRule("a", path="/a", headers=(HeaderMatch("x", "1"),)), HttpRule("b", path="/b")))
    assert judge.decide(1, INGRESS, 300, 80, HttpRequest("GET", "/a", "", ((b"x", b"1"),))).allow
    assert not judge.decide(1, INGRESS, 300, 80, HttpRequest("GET", "/a")).allow


def test_tables_of_unchanged_lines_are_taken_over_once() -> None:
    first = one_endpoint(HttpRule("a", "GET", "/[ab]"))
    old = Engine(first)
    old.decide(1, INGRESS, 300, 80, HttpRequest("GET", "/a"))
    (tables,) = old._tables.values()
    same = Engine(replace(first, revision=6), old)
    verdict = same.decide(1, INGRESS, 300, 80, HttpRequest("GET", "/a"))
    assert list(same._tables.values()) == [tables]
    assert verdict.permit is not None
    assert verdict.permit.revision == 6
    other = Engine(one_endpoint(HttpRule("b", "GET", "/[bc]")), same)
    assert other.decide(1, INGRESS, 300, 80, HttpRequest("GET", "/a")).rule == engine.DEFAULT_DENY
    assert other.decide(1, INGRESS, 300, 80, HttpRequest("GET", "/c")).rule == "b"
    unused = Engine(first, Engine(first, other))
    unused.decide(1, INGRESS, 300, 80, HttpRequest("GET", "/a"))
    assert list(unused._tables.values()) != [tables]  # what a revision did not need is forgotten


def plainly(rule: HttpRule, request: HttpRequest) -> bool:
    """What a rule means, without any of the engine's short cuts."""
    fields = [(rule.method, request.method), (rule.path, request.path), (rule.host, request.host)]
    if rule.host is not None and not request.host:
        return False
    if not all(pattern is None or re2.fullmatch(pattern, text) for pattern, text in fields):
        return False
    for wanted in rule.headers:
        values = [value.decode() for name, value in request.headers if name == wanted.name.encode()]
        if not values or (wanted.value is not None and ",".join(values) != wanted.value):
            return False
    return True


SINGLE_RULES = [
    HttpRule("r", method, path, host, headers)
    for method in (None, "GET", "GET|PUT", "P.*", "[GP].*T")
    for path in (None, "/", "/a|/b", "/a.*", "/[ab]", "/a(/x)?")
    for host in (None, "web", "w.*")
    for headers in (
        (),
        (HeaderMatch("x", None),),
        (HeaderMatch("x", "1"),),
        (HeaderMatch("x", "1,2"), HeaderMatch("y", None)),
    )
]
rule_lists = st.lists(st.sampled_from(SINGLE_RULES), min_size=2, max_size=5).map(
    lambda found: [replace(rule, name=f"r{i}") for i, rule in enumerate(found)]
)

REQUESTS = [
    HttpRequest(method, path, host, headers)
    for method in ("GET", "PUT", "POST")
    for path in ("/", "/a", "/b", "/a/x", "/c")
    for host in ("web", "wide", "")
    for headers in ((), ((b"x", b"1"),), ((b"x", b"1"), (b"y", b"3"), (b"x", b"2")))
]


def check(rules: list[HttpRule]) -> None:
    judge = Engine(one_endpoint(*rules))
    for request in REQUESTS:
        matching = [rule.name for rule in rules if plainly(rule, request)]
        verdict = judge.decide(1, INGRESS, 300, 80, request)
        assert verdict.allow is bool(matching), (rules, request)
        assert verdict.rule in (matching or [engine.DEFAULT_DENY]), (rules, request)


def test_one_rule_allows_what_it_plainly_matches() -> None:
    for rule in SINGLE_RULES:
        check([rule])


@given(rule_lists)
def test_several_rules_allow_what_any_of_them_plainly_matches(rules: list[HttpRule]) -> None:
    check(rules)
