"""What a request must be for a rule to match: path kinds, queries, headers with actions; and what deny rules see."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import http_rules
from policies.engine import DEFAULT_DENY, HeaderEdit, HttpRequest
from policies.http_rules import HttpRules, failing
from policies.query import Query
from policies.ruleset import HeaderMatch, HttpRule, Mismatch, PathKind, QueryMatch
from tests.policies.made import Made, line

EXACT, PREFIX, TEMPLATE, REGEX = PathKind.EXACT, PathKind.PREFIX, PathKind.TEMPLATE, PathKind.REGEX


def matches(rule: HttpRule, target: str, method: str = "GET", host: str = "web") -> bool:
    """Whether the one rule, allowing or denying, matches; the engine and `failing` must agree."""
    request = f"{method} {target}"
    if rule.deny:
        found = not Made(line("l", http=[rule, HttpRule("all")])).ask(request, host=host).allow
    else:
        found = Made(line("l", http=[rule])).ask(request, host=host).allow
    assert (not failing(line("l"), rule, HttpRequest(method, target, host))) is found
    return found


@pytest.mark.parametrize(
    ("kind", "path", "yes", "no"),
    [
        (EXACT, "/a", ["/a", "/a?x=1"], ["/a/", "/A", "/ab", "/", "/a/b", "*"]),
        (EXACT, "/", ["/", "/?"], ["/a", "*", "//"]),
        (EXACT, "/a.b", ["/a.b"], ["/axb"]),
        (PREFIX, "/a", ["/a", "/a/", "/a/b", "/a/b/c?x", "/a?/b"], ["/ab", "/", "/b/a", "/A/b"]),
        (PREFIX, "/a/", ["/a", "/a/", "/a/b"], ["/ab", "/"]),
        (PREFIX, "/", ["/", "/a", "/a/b"], ["*"]),
        (PREFIX, "/a/b", ["/a/b", "/a/b/c"], ["/a", "/a/", "/a/bc"]),
        (TEMPLATE, "/users/{id}", ["/users/1", "/users/x?y"], ["/users/", "/users", "/users/1/", "/users/1/2", "/u/1"]),
        (TEMPLATE, "/{a}/x/{b}", ["/1/x/2"], ["/1/y/2", "//x/2", "/1/x/"]),
        (TEMPLATE, "/users", ["/users"], ["/users/"]),
        (REGEX, "/a", ["/a"], ["/a?x=1", "/a/"]),
        (REGEX, "/a.*", ["/a", "/ab", "/a?x=1"], ["/b"]),
        (REGEX, "/[ab]\\?x=1", ["/a?x=1"], ["/a", "/a?x=2"]),
    ],
)
def test_path_kinds(kind: PathKind, path: str, yes: list[str], no: list[str]) -> None:
    rule = HttpRule("r", path=path, path_kind=kind)
    assert [target for target in yes if not matches(rule, target)] == []
    assert [target for target in no if matches(rule, target)] == []
    denying = replace(rule, deny=True)
    assert [target for target in yes if not matches(denying, target)] == []  # it denies all that the same allow allows


@pytest.mark.parametrize(
    ("kind", "path", "evasions"),
    [
        (EXACT, "/admin", ["/ADMIN", "/admin;x", "/admin;x=1;y", "/;x/admin", "/%61dmin", "/admin%3Bx", "/admin?"]),
        (
            EXACT,
            "/admin",
            ["//admin", "/admin/", "/ADMIN/", "/admin/;x", "/admin;x/", "/admin/?x", "/admin.", "/admin%20"],
        ),
        (EXACT, "/admin/", ["/admin", "/admin;x", "/Admin?x"]),
        (REGEX, "/admin", ["/admin/", "/admin/?x=1"]),
        (REGEX, "/ad[m]in", ["/admin/"]),
        (REGEX, "/admin/", ["/admin"]),
        (REGEX, "/p\\?debug=on", ["/p?debug=o%6E", "/p?%64ebug=on", "/P;x?debug=on", "/p/?debug=on"]),
        (REGEX, "/p\\?q=a[ ]b", ["/p?q=a+b", "/p?q=a%20b"]),
        (TEMPLATE, "/users/{id}", ["/users/1/", "/users/1;x/"]),
        (EXACT, "/a@b", ["/a%40b", "/A%40B"]),
        (EXACT, "/a%40b", ["/a@b"]),
        (EXACT, "/é", ["/%C3%A9"]),
        (PREFIX, "/admin", ["/Admin/x", "/admin;x/y", "/;a/admin/x", "/ADMIN;/x"]),
        (TEMPLATE, "/users/{id}/keys", ["/users/1/KEYS", "/users/1;x/keys;y", "/users/%40/keys"]),
        (REGEX, "/admin", ["/admin?x=1", "/Admin", "/admin;v=1"]),
        (REGEX, "/admin/.*", ["/ADMIN/x", "/admin;x/y"]),
        (REGEX, "/ad[m]in", ["/aDmin", "/admin?x", "/admin;x"]),
    ],
)
def test_a_deny_rule_sees_every_form_of_a_path(kind: PathKind, path: str, evasions: list[str]) -> None:
    rule = HttpRule("r", path=path, path_kind=kind, deny=True)
    assert [target for target in evasions if not matches(rule, target)] == []
    assert not matches(rule, "/other")


def test_a_deny_rule_sees_every_form_of_a_method_and_a_host() -> None:
    assert matches(HttpRule("r", "DELETE", deny=True), "/", "delete")
    assert matches(HttpRule("r", "DEL.*", deny=True), "/", "delete")
    assert not matches(HttpRule("r", "DELETE"), "/", "delete")
    rule = HttpRule("r", host="admin\\.example", deny=True)
    for host in ("admin.example", "ADMIN.example", "admin.example:80", "admin.example.", "Admin.Example.:8080", ""):
        assert matches(rule, "/", host=host), host
    assert not matches(rule, "/", host="web.example")
    assert not matches(HttpRule("r", host="admin\\.example"), "/", host="")
    assert not matches(HttpRule("r", host="admin\\.example"), "/", host="admin.example:80")


@pytest.mark.parametrize(
    ("wanted", "allows", "never"),
    [
        (
            QueryMatch("debug", None),
            ["/?debug", "/?debug=", "/?a=1&debug=x", "/?%64ebug=1", "/?debug=%ff", "/?debug=1;x=2"],
            ["/", "/?", "/?Debug=1", "/?debugg=1", "/?a=debug", "/debug", "/?a;debug"],
        ),
        (
            QueryMatch("role", "user"),
            ["/?role=user", "/?role=user&role=user", "/?x=1&role=%75ser", "/?x=%zz&role=user"],
            ["/?role=", "/?role=admin", "/?role=user&role=admin", "/?role=USER", "/?a;role=x&role=user", "/?role=u%ff"],
        ),
        (QueryMatch("a b", "c d"), ["/?a+b=c+d", "/?a%20b=c%20d"], ["/?ab=cd", "/?a%2Bb=c+d"]),
    ],
)
def test_an_allow_rule_with_a_query_key(wanted: QueryMatch, allows: list[str], never: list[str]) -> None:
    rule = HttpRule("r", query=(wanted,))
    assert [target for target in allows if not matches(rule, target)] == []
    assert [target for target in never if matches(rule, target)] == []


def test_a_deny_rule_sees_every_form_of_a_query() -> None:
    rule = HttpRule("r", path="/p", path_kind=EXACT, query=(QueryMatch("debug", "on"),), deny=True)
    for query in (
        "debug=on",
        "x&debug=on",
        "debug=off&debug=on",
        "a;debug=on",
        "DEBUG=On",
        "%64ebug=o%6E",
        "debug=%zz",
        "debug[]=on",
        "debug%5B0%5D=on",
        "+debug=on",
        "debug%20=on",
        "debug=on%00",
        "debug=+on",
    ):
        assert matches(rule, f"/p?{query}"), query
    for query in ("%ff=1", "%zz", "x=1&%c3=2"):  # a key that could be any for somebody
        assert matches(rule, f"/p?{query}"), query
        assert not matches(replace(rule, deny=False), f"/p?debug=on&{query}")
    assert not matches(rule, "/p?debug=off")
    assert not matches(rule, "/p?xdebug[]=on")
    assert not matches(rule, "/p?x=%ff")  # a value of another key
    assert not matches(rule, "/p")
    assert not matches(rule, "/q?%ff=1")  # on that path alone


def test_a_deny_rule_sees_a_header_among_others() -> None:
    rule = HttpRule("r", headers=(HeaderMatch("x-role", "admin"),), deny=True)
    made = Made(line("l", http=[rule, HttpRule("all")]))
    for values in ([b"admin"], [b"admin", b"x"], [b"x, admin"], [b"x,Admin ,y"]):
        assert made.ask(headers=[(b"x-role", value) for value in values]).rule == "r", values
    for values in ([], [b"administrator"], [b"x"]):
        assert made.ask(headers=[(b"x-role", value) for value in values]).rule == "all", values
    present = Made(line("l", http=[HttpRule("r", headers=(HeaderMatch("x", None),), deny=True), HttpRule("all")]))
    assert present.ask(headers=[(b"x", b"")]).rule == "r"
    assert present.ask().rule == "all"


@given(st.text(alphabet="ab=&;%+4f1", max_size=12))
def test_a_query_that_may_not_allow_may_always_deny(text: str) -> None:
    for wanted in (QueryMatch("a", None), QueryMatch("a", "b"), QueryMatch("A", "")):
        query = Query(text)
        assert not query.holds(wanted) or query.may_hold(wanted)
        assert query.readable or query.may_hold(wanted)


def header(mismatch: Mismatch, value: str | None = "v", name: str = "x") -> HttpRule:
    return HttpRule(f"r-{mismatch or 'refuse'}", headers=(HeaderMatch(name, value, mismatch),))


@pytest.mark.parametrize(
    ("rule", "sent", "edits", "logged"),
    [
        (header(Mismatch.ADD), [], [(Mismatch.ADD, "v")], ()),
        (header(Mismatch.ADD), [b"w"], [(Mismatch.ADD, "v")], ()),
        (header(Mismatch.ADD), [b"v"], [], ()),
        (header(Mismatch.ADD), [b"v", b"v"], [(Mismatch.ADD, "v")], ()),
        (header(Mismatch.ADD, None), [], [(Mismatch.ADD, "")], ()),
        (header(Mismatch.ADD, None), [b"w"], [], ()),
        (header(Mismatch.REPLACE), [b"w"], [(Mismatch.REPLACE, "v")], ()),
        (header(Mismatch.REPLACE), [], [(Mismatch.REPLACE, "v")], ()),
        (header(Mismatch.DELETE), [b"w"], [(Mismatch.DELETE, "")], ()),
        (header(Mismatch.DELETE), [], [], ()),
        (header(Mismatch.LOG), [], [], ("x",)),
        (header(Mismatch.LOG), [b"v"], [], ()),
    ],
)
def test_a_header_that_is_not_as_wanted(
    rule: HttpRule, sent: list[bytes], edits: list[tuple[Mismatch, str]], logged: tuple[str, ...]
) -> None:
    verdict = Made(line("l", http=[rule])).ask(headers=[(b"x", value) for value in sent])
    assert verdict.rule == rule.name
    assert verdict.edits == tuple(HeaderEdit(action, "x", value) for action, value in edits)
    assert verdict.logged == logged


def test_without_an_action_a_mismatch_is_none_of_the_rule() -> None:
    assert Made(line("l", http=[header(Mismatch.REFUSE)])).ask().rule == DEFAULT_DENY


def test_actions_of_every_matching_rule_are_done_whatever_the_order() -> None:
    rules = [
        HttpRule("plain", "GET"),
        replace(header(Mismatch.ADD), name="add"),
        replace(header(Mismatch.LOG, name="y"), name="log"),
        replace(header(Mismatch.DELETE, name="z"), name="delete", path="/other"),
    ]
    for order in (rules, rules[::-1]):
        verdict = Made(line("l", http=order)).ask(headers=[(b"z", b"1")])
        assert verdict.edits == (HeaderEdit(Mismatch.ADD, "x", "v"),)
        assert verdict.logged == ("y",)
    assert Made(line("l", http=rules)).ask().rule == "plain"


# Tables against the plain meaning of one rule at a time

PATHS = [
    (EXACT, "/a"),
    (EXACT, "/a/b"),
    (PREFIX, "/a"),
    (PREFIX, "/"),
    (TEMPLATE, "/{x}"),
    (TEMPLATE, "/a/{x}"),
    (TEMPLATE, "/{x}/b"),
    (REGEX, "/a|/b"),
    (REGEX, "/a.*"),
    (REGEX, "/[ab]"),
    (REGEX, "/[ac]/.*"),
    (REGEX, "/b(/x)?"),
    (REGEX, "/.b|/a"),
    (REGEX, ".*"),
]
RULES = [
    HttpRule("r", method, path, host, (), kind, query)
    for kind, path in [*PATHS, (REGEX, None)]
    for method, host, query in (
        (None, None, ()),
        ("GET", None, ()),
        ("P.*|GET", "w.*", ()),
        (None, None, (QueryMatch("q", "1"),)),
    )
]
REQUESTS = [
    HttpRequest(method, target, host)
    for method in ("GET", "PUT")
    for target in ("/", "/a", "/a/", "/a/b", "/A", "/a;x", "/b?q=1", "/a?q=1&q=2", "/c/b", "*", "/b/x", "/a?q=1")
    for host in ("web", "")
]


@given(st.lists(st.sampled_from(RULES), min_size=1, max_size=12), st.booleans(), st.integers(1, 5))
def test_the_first_rule_that_matches_is_found(chosen: list[HttpRule], deny: bool, few: int) -> None:
    rules = [replace(rule, name=f"r{i}", deny=deny) for i, rule in enumerate(chosen)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_rules, "_FEW", few)  # patterns by themselves and in a set
        table = HttpRules([(line("l"), rule) for rule in rules], deny=deny)
        for request in REQUESTS:
            expected = next((rule.name for rule in rules if not failing(line("l"), rule, request)), None)
            found = table.find(request)
            assert (found.rule.name if found is not None else None) == expected, (rules, request)


@given(st.sampled_from(RULES), st.sampled_from(REQUESTS))
def test_what_a_rule_allows_the_same_rule_denies(rule: HttpRule, request: HttpRequest) -> None:
    if not failing(line("l"), rule, request):
        assert not failing(line("l"), replace(rule, deny=True), request)
