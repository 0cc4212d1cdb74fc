"""The other proxies' configurations, rendered from bench/policy.yaml."""

import re
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.peers import envoy, haproxy, rules

DOCUMENT = """
spec:
  ingress:
    - toPorts:
        - rules:
            http:
              - {method: GET, path: /a}
              - {method: PUT|PATCH, path: "/b/[0-9]+|/c"}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(DOCUMENT)
    return file


def test_the_policy_of_this_checkout_has_ten_rules_and_only_the_last_allows_the_path() -> None:
    known = rules.read()
    assert len(known) == 10
    matching = [rule.name for rule in known if "GET" in rule.methods and re.search(rule.path, "/bench/1k")]
    assert matching == ["r10"]


def test_alternatives_are_anchored_as_a_whole(policy: Path) -> None:
    first, second = rules.read(policy)
    assert (first.methods, first.path) == (("GET",), "^/a$")
    assert second.methods == ("PUT", "PATCH")
    assert re.search(second.path, "/b/1")
    assert re.search(second.path, "/c")
    assert not re.search(second.path, "/c/d")
    assert not re.search(second.path, "/x/c")


@pytest.mark.parametrize("rule", ["{method: GET}", "{method: 'G.*', path: /a}", "{method: GET, path: /a, host: b}"])
def test_a_rule_that_not_every_peer_can_be_told_is_an_error(policy: Path, rule: str) -> None:
    policy.write_text(DOCUMENT.replace("{method: GET, path: /a}", rule))
    with pytest.raises(BenchError, match=r"policy\.yaml: rule 1 cannot be said"):
        rules.read(policy)


def test_haproxy_has_every_rule_then_a_denial(policy: Path) -> None:
    lines = haproxy.configuration(rules.read(policy), 15002, 2).splitlines()
    judged = [line.strip() for line in lines if "http-request" in line]
    assert judged == [
        "http-request allow if { method GET } { path_reg ^/a$ }",
        "http-request allow if { method PUT PATCH } { path_reg ^(?:/b/[0-9]+|/c)$ }",
        "http-request deny deny_status 403",
    ]
    assert "  nbthread 2" in lines
    assert "  bind 0.0.0.0:15002" in lines


@pytest.mark.parametrize("path", ["/a b", "/a#b", "/a\\d", '/"a"', "/'a'"])
def test_haproxy_is_not_told_what_it_would_read_otherwise(path: str) -> None:
    with pytest.raises(BenchError, match="would have to be quoted"):
        haproxy.configuration([rules.Rule("r", ("GET",), path)], 1, 1)


def test_envoy_has_a_policy_per_rule_and_no_other_way_in(policy: Path) -> None:
    made = repr(envoy.configuration(rules.read(policy), 15003, "/x/access.log"))
    assert made.count("safe_regex") == 2
    assert "'action': 'ALLOW'" in made
    assert "{'or_rules': {'rules': [{'header': {'name': ':method', 'string_match': {'exact': 'PUT'}}}" in made
    assert "'path': '/x/access.log'" in made
    assert "'port_value': 15003" in made
