"""The algebra of docs/policy.md, line by line; the document names these tests."""

import pytest

from policies.engine import DEFAULT_ALLOW, DEFAULT_DENY, UNKNOWN_ENDPOINT, HttpRequest
from policies.resolve import selection
from policies.ruleset import Answer, PolicyRef
from tests.policies.world import ALLOW, DENY, EGRESS, INGRESS, PODS, PROXY, World, policy

WEB = "endpointSelector: {matchLabels: {app: web}}\n"
FROM_FRONTEND = "fromEndpoints: [{matchLabels: {app: frontend}}]"
TCP80 = "ports: [{port: '80', protocol: TCP}]"
L4 = f"{{{FROM_FRONTEND}, toPorts: [{{{TCP80}}}]}}"
GET_ONLY = f"{{{FROM_FRONTEND}, toPorts: [{{{TCP80}, rules: {{http: [{{method: GET}}]}}}}]}}"


def web(ingress: str, name: str = "p") -> str:
    return policy(f"{WEB}ingress: {ingress}", name)


def selected(world: World, pod: str) -> tuple[bool, bool]:
    """Whether some policy selects the pod for (ingress, egress)."""
    return selection(world.policies, world.inventory).get((PODS[pod].namespace, PODS[pod].name), (False, False))


def test_unselected_is_untouched() -> None:
    world = World(web(f"[{L4}]"))
    assert world.connect("intruder", "frontend", 22) is ALLOW
    verdict = world.ask("intruder", to="frontend")
    assert (verdict.allow, verdict.rule, verdict.policies) == (True, DEFAULT_ALLOW, ())
    assert verdict.reason == "no policy selects the endpoint for ingress"
    assert selected(world, "web") == (True, False)
    assert selected(world, "frontend") == (False, False)


def test_selected_means_default_deny_for_each_peer_and_port() -> None:
    world = World(web(f"[{L4}]"))
    assert world.connect("frontend") is ALLOW
    assert world.connect("frontend", port=81) is DENY
    assert world.connect("intruder") is DENY
    assert world.connect(None) is DENY


def test_directions_are_separate() -> None:
    world = World(web(f"[{L4}]"))
    assert world.connect("intruder", "web", 443, EGRESS) is ALLOW
    egress = World(policy(f"{WEB}egress: [{{toEndpoints: [{{matchLabels: {{app: frontend}}}}]}}]"))
    assert egress.connect("intruder", "web", 443, EGRESS) is DENY
    assert egress.connect("frontend", "web", 443, EGRESS) is ALLOW
    assert egress.connect("intruder", "web", 80, INGRESS) is ALLOW
    assert selected(egress, "web") == (False, True)


def test_allows_add_up() -> None:
    post = GET_ONLY.replace("GET", "POST")
    world = World(web(f"[{GET_ONLY}]", "a"), web(f"[{post}]", "b"))
    assert world.ask("frontend", "GET /").rule == "default/a ingress[0].toPorts[0].http[0]"
    assert world.ask("frontend", "POST /").rule == "default/b ingress[0].toPorts[0].http[0]"
    assert not world.ask("frontend", "PUT /").allow
    assert world.ask("frontend", "PUT /").policies == (
        PolicyRef("CiliumNetworkPolicy", "default", "a"),
        PolicyRef("CiliumNetworkPolicy", "default", "b"),
    )


def test_l4_allow_beside_l7_rule_allows_all_l7() -> None:
    for ingress in (f"[{L4}, {GET_ONLY}]", f"[{GET_ONLY}, {L4}]"):
        world = World(web(ingress))
        assert world.connect("frontend") is ALLOW
        assert world.ask("frontend", "DELETE /").allow


def test_l4_allow_for_another_peer_or_port_leaves_l7_alone() -> None:
    other_peer = L4.replace("frontend", "intruder")
    other_port = L4.replace("80", "81")
    world = World(web(f"[{other_peer}, {other_port}, {GET_ONLY}]"))
    assert world.connect("frontend") is PROXY
    assert not world.ask("frontend", "DELETE /").allow
    assert world.connect("intruder") is ALLOW
    assert world.connect("frontend", port=81) is ALLOW


def test_rule_without_ports_allows_every_port_and_voids_l7() -> None:
    world = World(web(f"[{{{FROM_FRONTEND}}}, {GET_ONLY}]"))
    assert world.connect("frontend", port=31234) is ALLOW
    assert world.connect("frontend", port=80) is ALLOW
    assert world.ask("frontend", "DELETE /").rule == "default/p ingress[0]"
    assert world.connect("intruder", port=31234) is DENY


def test_l7_rule_is_proxied_and_names_its_verdict() -> None:
    world = World(web(f"[{GET_ONLY}]"))
    assert world.connect("frontend") is PROXY
    allowed = world.ask("frontend", "GET /x")
    assert allowed.allow
    assert allowed.rule == "default/p ingress[0].toPorts[0].http[0]"
    assert allowed.reason == f"allowed by {allowed.rule}"
    assert allowed.permit is not None
    assert (allowed.permit.endpoint_id, allowed.permit.direction, allowed.permit.port) == (1, INGRESS, 80)
    assert (allowed.permit.rule, allowed.permit.revision) == (allowed.rule, 7)
    denied = world.ask("frontend", "POST /x")
    assert (denied.allow, denied.rule, denied.permit) == (False, DEFAULT_DENY, None)
    assert denied.reason == "no http rule for this peer on port 80 matched, selected by default/p"
    assert denied.policies == (PolicyRef("CiliumNetworkPolicy", "default", "p"),)


def test_a_peer_that_no_rule_names_is_denied_with_a_reason() -> None:
    verdict = World(web(f"[{GET_ONLY}]")).ask("intruder")
    assert (verdict.allow, verdict.rule, verdict.permit) == (False, DEFAULT_DENY, None)
    assert verdict.reason == "no rule names this peer on port 80, selected by default/p"


def test_unknown_endpoint_is_denied() -> None:
    engine = World(web(f"[{GET_ONLY}]")).engine
    assert engine.judge_peer(99, INGRESS, 256, 80) is DENY
    verdict = engine.decide(99, INGRESS, 256, 80, HttpRequest("GET", "/"))
    assert (verdict.allow, verdict.rule, verdict.permit) == (False, UNKNOWN_ENDPOINT, None)
    assert verdict.reason == "endpoint 99 is not in revision 7"


@pytest.mark.parametrize(
    ("peers", "frontend", "intruder", "elsewhere", "unknown"),
    [
        pytest.param("", ALLOW, ALLOW, ALLOW, ALLOW, id="absent: every peer, also one that is no pod"),
        pytest.param("fromEndpoints: [], ", DENY, DENY, DENY, DENY, id="empty: no peer"),
        pytest.param("fromEndpoints: [{}], ", ALLOW, ALLOW, DENY, DENY, id="one empty selector: the namespace"),
    ],
)
def test_from_endpoints_absent_empty_and_all(
    peers: str, frontend: Answer, intruder: Answer, elsewhere: Answer, unknown: Answer
) -> None:
    world = World(web(f"[{{{peers}toPorts: [{{{TCP80}}}]}}]"))
    answers = [world.connect(peer) for peer in ("frontend", "intruder", "other/frontend", None)]
    assert answers == [frontend, intruder, elsewhere, unknown]


@pytest.mark.parametrize(
    "ingress",
    [
        pytest.param("[{}]", id="an empty rule"),
        pytest.param("[{fromEndpoints: []}]", id="no peer, every port"),
        pytest.param("[{fromEntities: [none]}]", id="an entity that names nobody"),
        pytest.param(f"[{{fromEndpoints: [], toPorts: [{{{TCP80}}}]}}]", id="no peer, one port"),
    ],
)
def test_rules_that_allow_nothing_still_select(ingress: str) -> None:
    world = World(web(ingress))
    assert selected(world, "web") == (True, False)
    assert [world.connect(peer) for peer in ("frontend", "intruder", None)] == [DENY, DENY, DENY]
    # and they take nothing away from what others allow
    both = World(web(ingress, "a"), web(f"[{L4}]", "b"))
    assert both.connect("frontend") is ALLOW


@pytest.mark.parametrize("ingress", ["", "ingress: []\n"])
def test_absent_or_empty_direction_is_not_touched(ingress: str) -> None:
    world = World(policy(f"{WEB}{ingress}egress: [{{}}]"))
    assert selected(world, "web") == (False, True)
    assert world.connect("intruder", "web", 80, INGRESS) is ALLOW
    assert world.connect("intruder", "web", 80, EGRESS) is DENY


@pytest.mark.parametrize(
    ("rules", "answer", "delete"),
    [
        pytest.param("", ALLOW, True, id="no rules: L4, not proxied"),
        pytest.param(", rules: {}", ALLOW, True, id="empty rules: L4, not proxied"),
        pytest.param(", rules: {http: []}", PROXY, True, id="empty http: every request, proxied"),
        pytest.param(", rules: {http: [{}]}", PROXY, True, id="an empty http rule: every request, proxied"),
        pytest.param(", rules: {http: [{method: GET}]}", PROXY, False, id="GET only"),
        pytest.param(", rules: {http: [{method: GET}, {}]}", PROXY, True, id="GET or anything"),
        pytest.param(
            ", rules: {http: [{method: '', path: '', host: ''}]}", PROXY, True, id="empty text: no constraint"
        ),
    ],
)
def test_rules_absent_empty_and_given(rules: str, answer: Answer, delete: bool) -> None:
    world = World(web(f"[{{{FROM_FRONTEND}, toPorts: [{{{TCP80}{rules}}}]}}]"))
    assert world.connect("frontend") is answer
    assert world.ask("frontend", "GET /").allow
    assert world.ask("frontend", "DELETE /").allow is delete
    assert not world.ask("intruder", "GET /").allow


def test_port_zero_is_every_port() -> None:
    world = World(web(f"[{{{FROM_FRONTEND}, toPorts: [{{ports: [{{port: '0'}}]}}]}}]"))
    assert world.connect("frontend", port=9999) is ALLOW
    assert world.connect("intruder", port=9999) is DENY


def test_several_ports_and_entries() -> None:
    entry = (
        "{ports: [{port: 80}, {port: '8080', protocol: tcp}], rules: {http: [{method: GET}]}}, {ports: [{port: 9090}]}"
    )
    world = World(web(f"[{{{FROM_FRONTEND}, toPorts: [{entry}]}}]"))
    answers = {port: world.connect("frontend", port=port) for port in (80, 8080, 9090, 9091)}
    assert answers == {80: PROXY, 8080: PROXY, 9090: ALLOW, 9091: DENY}
    assert world.ask("frontend", port=8080).rule == "default/p ingress[0].toPorts[0].http[0]"
    assert world.ask("frontend", port=9090).rule == "default/p ingress[0].toPorts[1]"


def test_specs_are_policies_of_one_name() -> None:
    text = policy(
        f"- endpointSelector: {{matchLabels: {{app: web}}}}\n  ingress: [{GET_ONLY}]\n"
        f"- endpointSelector: {{matchLabels: {{app: intruder}}}}\n  ingress: [{{}}]",
        part="specs",
    )
    world = World(text)
    assert world.ask("frontend").rule == "default/p specs[0].ingress[0].toPorts[0].http[0]"
    assert world.connect("frontend", "intruder") is DENY
    both = World(text + f"spec:\n  endpointSelector: {{}}\n  ingress: [{L4}]\n")
    assert both.ask("frontend", "DELETE /").rule == "default/p ingress[0].toPorts[0]"


def test_policy_holds_in_its_own_namespace_only() -> None:
    world = World(policy(f"endpointSelector: {{}}\ningress: [{L4}]", namespace="other"))
    assert world.connect("intruder", "web") is ALLOW
    assert world.connect("intruder", "other/web") is DENY
    assert world.connect("frontend", "other/web") is DENY
    assert world.connect("other/frontend", "other/web") is ALLOW


REQUESTS = [
    ("{path: /public}", "GET /public", True),
    ("{path: /public}", "GET /public/", False),
    ("{path: /public}", "GET /publicx", False),
    ("{path: /public}", "GET /x/public", False),
    ("{path: /public}", "GET /public?x=1", False),
    ("{path: '/public(\\?.*)?'}", "GET /public?x=1", True),
    ("{path: /public/.*}", "GET /public/a/b?c", True),
    ("{path: /public/.*}", "GET /public", False),
    ("{path: /Public}", "GET /public", False),
    ("{path: /a.c}", "GET /abc", True),
    ("{path: '/a\\.c'}", "GET /abc", False),
    ("{path: '/a\\.c'}", "GET /a.c", True),
    ("{path: /a|/b}", "GET /b", True),
    ("{path: /a|/b}", "GET /b/a", False),
    ("{path: '/u/[0-9]+'}", "GET /u/17", True),
    ("{path: '/u/[0-9]+'}", "GET /u/x", False),
    ("{method: GET}", "GET /", True),
    ("{method: GET}", "get /", False),
    ("{method: GET}", "GETX /", False),
    ("{method: GET|HEAD}", "HEAD /", True),
    ("{method: GET|HEAD}", "POST /", False),
    ("{method: 'P.*'}", "PATCH /", True),
    ("{method: 'P.*'}", "GET /", False),
    ("{method: GET, path: /a}", "GET /a", True),
    ("{method: GET, path: /a}", "POST /a", False),
    ("{method: GET, path: /a}", "GET /b", False),
]


@pytest.mark.parametrize(("rule", "request_line", "allow"), REQUESTS)
def test_method_and_path_match_the_whole_text(rule: str, request_line: str, allow: bool) -> None:
    world = World(web(f"[{{{FROM_FRONTEND}, toPorts: [{{{TCP80}, rules: {{http: [{rule}]}}}}]}}]"))
    assert world.ask("frontend", request_line).allow is allow


@pytest.mark.parametrize(
    ("pattern", "host", "allow"),
    [
        ("web", "web", True),
        ("web", "web:80", False),
        ("web(:80)?", "web:80", True),
        ("web", "Web", False),
        ("web", "", False),
        (".*", "", False),
        (".*", "anything", True),
        ("foo.example", "fooxexample", True),
    ],
)
def test_host_is_the_authority_as_written(pattern: str, host: str, allow: bool) -> None:
    rule = f"{{host: '{pattern}'}}"
    world = World(web(f"[{{{FROM_FRONTEND}, toPorts: [{{{TCP80}, rules: {{http: [{rule}]}}}}]}}]"))
    assert world.ask("frontend", host=host).allow is allow


@pytest.mark.parametrize(
    ("wanted", "headers", "allow"),
    [
        ("[X-Key]", [(b"x-key", b"")], True),
        ("[X-Key]", [(b"x-other", b"1")], False),
        ("['X-Key: true']", [(b"x-key", b"true")], True),
        ("['X-Key: true']", [(b"x-key", b"True")], False),
        ("['X-Key: true']", [], False),
        ("['X-Key: a b: c']", [(b"x-key", b"a b: c")], True),
        ("['X-Key true']", [(b"x-key", b"true")], True),
        ("['X-Key: true']", [(b"x-key", b"false"), (b"x-key", b"true")], False),
        ("['X-Key: a,b']", [(b"x-key", b"a"), (b"x-key", b"b")], True),
        ("['X-Key: ']", [(b"x-key", b"")], True),
        ("['X-Key: ']", [(b"x-key", b"v")], False),
        ("[X-A, 'X-B: 1']", [(b"x-a", b""), (b"x-b", b"1")], True),
        ("[X-A, 'X-B: 1']", [(b"x-b", b"1")], False),
        ("['X-Ü']".replace("Ü", "U: ü"), [(b"x-u", "ü".encode())], True),
    ],
)
def test_headers_must_be_there(wanted: str, headers: list[tuple[bytes, bytes]], allow: bool) -> None:
    rule = f"{{headers: {wanted}}}"
    world = World(web(f"[{{{FROM_FRONTEND}, toPorts: [{{{TCP80}, rules: {{http: [{rule}]}}}}]}}]"))
    assert world.ask("frontend", headers=headers).allow is allow


def test_all_parts_of_a_rule_must_match_and_any_rule_is_enough() -> None:
    rules = "[{method: GET, path: /a, host: web, headers: [X-Key]}, {method: POST}]"
    world = World(web(f"[{{{FROM_FRONTEND}, toPorts: [{{{TCP80}, rules: {{http: {rules}}}}}]}}]"))
    key = [(b"x-key", b"1")]
    assert world.ask("frontend", "GET /a", headers=key).rule.endswith("http[0]")
    assert not world.ask("frontend", "GET /a").allow
    assert not world.ask("frontend", "GET /b", headers=key).allow
    assert not world.ask("frontend", "GET /a", host="other", headers=key).allow
    assert world.ask("frontend", "POST /zzz", host="").rule.endswith("http[1]")
