"""L7: header actions, what Tulle adds to Cilium's rules, Kafka, two kinds on one port; docs/policy.md, line by line."""

import pytest

from policies.engine import CONFLICT, KafkaRequest
from policies.errors import PolicyError
from policies.requests import Operation, Resource
from policies.ruleset import Mismatch
from tests.policies.world import World, documents, policy, tulle

WEB = "endpointSelector: {matchLabels: {app: web}}\n"
PORT = "ports: [{port: '80', protocol: TCP}]"
KEY_1, KEY_2 = [(b"x-key", b"1")], [(b"x-key", b"2")]


def rules(text: str, kind: str = "http") -> str:
    return f"{WEB}ingress: [{{fromEntities: [all], toPorts: [{{{PORT}, rules: {{{kind}: {text}}}}}]}}]"


@pytest.mark.parametrize(
    ("match", "headers", "allow", "edits", "logged"),
    [
        ("{name: X-Key}", KEY_1, True, [], ()),
        ("{name: X-Key}", [], False, [], ()),
        ("{name: X-Key, value: '1'}", KEY_1, True, [], ()),
        ("{name: X-Key, value: '1'}", KEY_2, False, [], ()),
        ("{name: X-Key, value: '1', mismatch: LOG}", KEY_1, True, [], ()),
        ("{name: X-Key, value: '1', mismatch: LOG}", KEY_2, True, [], ("x-key",)),
        ("{name: X-Key, value: '1', mismatch: LOG}", [], True, [], ("x-key",)),
        ("{name: X-Key, value: '1', mismatch: ADD}", KEY_1, True, [], ()),
        ("{name: X-Key, value: '1', mismatch: ADD}", [], True, [(Mismatch.ADD, "x-key", "1")], ()),
        ("{name: X-Key, value: '1', mismatch: DELETE}", KEY_1, True, [], ()),
        ("{name: X-Key, value: '1', mismatch: DELETE}", KEY_2, True, [Mismatch.DELETE], ()),
        ("{name: X-Key, value: '1', mismatch: REPLACE}", KEY_1, True, [], ()),
        ("{name: X-Key, value: '1', mismatch: REPLACE}", KEY_2, True, [(Mismatch.REPLACE, "x-key", "1")], ()),
    ],
)
def test_header_matches(
    match: str, headers: list[tuple[bytes, bytes]], allow: bool, edits: list[object], logged: tuple[str, ...]
) -> None:
    world = World(policy(rules(f"[{{method: GET, headerMatches: [{match}]}}]")))
    verdict = world.ask("frontend", headers=headers)
    assert verdict.allow is allow
    found = [(edit.action, edit.name, edit.value) for edit in verdict.edits]
    wanted = [found[0] if edit is Mismatch.DELETE and found[0][:2] == (edit, "x-key") else edit for edit in edits]
    assert found == wanted
    assert verdict.logged == logged
    # the other parts of the rule are asked all the same
    assert not world.ask("frontend", "POST /", headers=headers).allow


PATHS = [
    ("pathExact: /a", {"/a": True, "/a?x=1": True, "/a/": False, "/a/b": False, "/ab": False, "/A": False, "/": False}),
    (
        "pathPrefix: /a",
        {"/a": True, "/a?x=1": True, "/a/": True, "/a/b": True, "/ab": False, "/b/a": False, "/A": False},
    ),
    ("pathPrefix: /a/b", {"/a/b": True, "/a/b/c": True, "/a": False, "/a/bc": False, "/a/": False}),
    ("pathPrefix: /", {"/": True, "/a": True, "/a/b?c": True}),
    (
        "pathTemplate: '/users/{id}'",
        {
            "/users/1": True,
            "/users/x?y=z": True,
            "/users/": False,
            "/users": False,
            "/users/1/2": False,
            "/users/1/": False,
        },
    ),
    ("pathTemplate: '/{a}/x/{b}'", {"/1/x/2": True, "/1/y/2": False, "//x/2": False}),
    ("path: /a", {"/a": True, "/a?x=1": False, "/ab": False}),
]


@pytest.mark.parametrize(("rule", "paths"), PATHS)
def test_path_kinds(rule: str, paths: dict[str, bool]) -> None:
    world = World(tulle(rules(f"[{{method: GET, {rule}}}]")))
    assert {path: world.ask("frontend", f"GET {path}").allow for path in paths} == paths
    # and the same words deny at least what they allow
    denial = World(tulle(rules(f"[{{}}, {{{rule}, action: Deny}}]")))
    assert {path for path in paths if not denial.ask("frontend", f"GET {path}").allow} >= {p for p in paths if paths[p]}


@pytest.mark.parametrize(
    ("rule", "denied", "allowed"),
    [
        ("pathExact: /admin", ["/admin", "/Admin", "/admin;v=1", "/admin?x"], ["/adminx", "/"]),
        ("pathPrefix: /admin", ["/ADMIN/x", "/admin;a=b/x", "/admin/"], ["/administer", "/a/admin"]),
        ("path: /admin", ["/admin", "/admin?x=1", "/ADMIN"], ["/admin/x"]),
        ("method: DELETE", ["DELETE /", "delete /"], ["GET /"]),
        ("pathExact: /a, query: [{key: k, value: v}]", ["/a?k=v&k=w", "/a?k=w&k=v", "/a?k=V"], ["/a?k=w", "/a"]),
    ],
)
def test_a_deny_rule_matches_what_an_application_could_take_for_it(
    rule: str, denied: list[str], allowed: list[str]
) -> None:
    world = World(tulle(rules(f"[{{}}, {{{rule}, action: Deny}}]")))
    lines = {line if " " in line else f"GET {line}": line in allowed for line in (*denied, *allowed)}
    assert {line: world.ask("frontend", line).allow for line in lines} == lines


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("[{key: k}]", {"/a?k=v": True, "/a?k": True, "/a?k=": True, "/a?x=k": False, "/a": False, "/a?K=1": False}),
        ("[{key: k, value: v}]", {"/a?k=v": True, "/a?x=1&k=v": True, "/a?k=w": False, "/a?k": False, "/a": False}),
        # each value, so that a second one cannot hide beside the wanted one
        ("[{key: k, value: v}]", {"/a?k=v&k=v": True, "/a?k=v&k=w": False, "/a?k=w&k=v": False}),
        ("[{key: k, value: a b}]", {"/a?k=a%20b": True, "/a?k=a+b": True, "/a?%6b=a%20b": True, "/a?k=ab": False}),
        ("[{key: k}, {key: l}]", {"/a?k&l": True, "/a?k": False, "/a?l": False}),
    ],
)
def test_query_keys(query: str, paths: dict[str, bool]) -> None:
    world = World(tulle(rules(f"[{{pathExact: /a, query: {query}}}]")))
    assert {path: world.ask("frontend", f"GET {path}").allow for path in paths} == paths


@pytest.mark.parametrize("path", ["/a?%ff=v", "/a?k=%ff"])
def test_a_query_that_cannot_be_decoded(path: str) -> None:
    for query in ("[{key: k}]", "[{key: k, value: v}]"):
        allow = World(tulle(rules(f"[{{pathExact: /a, query: {query}}}]")))
        # the key alone can be read in /a?k=%ff, and is all that the first one asks for
        assert allow.ask("frontend", f"GET {path}").allow is (path == "/a?k=%ff" and "value" not in query)
        deny = World(tulle(rules(f"[{{}}, {{pathExact: /a, query: {query}, action: Deny}}]")))
        assert not deny.ask("frontend", f"GET {path}").allow
        assert deny.ask("frontend", "GET /b?%ff=v").allow


@pytest.mark.parametrize("both", ["pathExact: /a, path: /a", "pathExact: /a, pathPrefix: /a", "pathPrefix: a"])
def test_paths_that_are_none(both: str) -> None:
    with pytest.raises(PolicyError):
        documents(tulle(rules(f"[{{{both}}}]")))


@pytest.mark.parametrize("field", ["pathExact: /a", "action: Deny", "query: [{key: k}]"])
def test_what_tulle_adds_is_not_cilium(field: str) -> None:
    with pytest.raises(PolicyError):
        documents(policy(rules(f"[{{{field}}}]")))


def test_two_l7_kinds_in_one_document() -> None:
    with pytest.raises(PolicyError):
        documents(policy(f"{WEB}ingress: [{{toPorts: [{{{PORT}, rules: {{http: [{{}}], kafka: [{{}}]}}}}]}}]"))


def test_two_l7_kinds_of_two_documents_deny() -> None:
    world = World(policy(rules("[{}]"), "a"), policy(rules("[{}]", "kafka"), "b"))
    verdict = world.ask("frontend")
    assert (verdict.allow, verdict.rule) == (False, CONFLICT)
    assert not world.ask_kafka("frontend", KafkaRequest(1, 7, "me", "t", Operation.READ, Resource.TOPIC, "t")).allow
    endpoint, identity = 1, world.identity("frontend")
    assert world.engine.protocol_of(endpoint, 0, identity, 80) == "conflict"
    # an L4 allow voids both
    beside = World(
        policy(rules("[{}]"), "a"),
        policy(rules("[{}]", "kafka"), "b"),
        policy(f"{WEB}ingress: [{{fromEntities: [all]}}]", "c"),
    )
    assert beside.ask("frontend").allow


def test_protocols_of_ports() -> None:
    http, kafka = World(policy(rules("[{}]"))), World(policy(rules("[{}]", "kafka")))
    assert http.engine.protocol_of(1, 0, http.identity("frontend"), 80) == "http"
    assert kafka.engine.protocol_of(1, 0, kafka.identity("frontend"), 80) == "kafka"
    assert http.engine.protocol_of(1, 0, http.identity("frontend"), 81) == ""
