"""mode, onFailure and onChange; docs/policy.md, line by line."""

import pytest

from policies.engine import DEFAULT_DENY
from policies.errors import PolicyError
from policies.ruleset import PolicyRef
from tests.policies.world import ALLOW, DENY, PODS, PROXY, World, annotated, documents, kubernetes, policy, tulle

WEB = "endpointSelector: {matchLabels: {app: web}}\n"
FRONTEND = "fromEndpoints: [{matchLabels: {app: frontend}}]"
INTRUDER = "fromEndpoints: [{matchLabels: {app: intruder}}]"
GET = "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]"
REF = PolicyRef("CiliumNetworkPolicy", "default", "p")


def watching(spec: str, name: str = "p") -> str:
    return annotated(policy(f"{WEB}{spec}", name), mode="audit")


def test_audit_is_told_and_never_blocks() -> None:
    # default denial
    world = World(watching(f"ingress: [{{{FRONTEND}}}]"))
    assert (world.connect("frontend"), world.connection("frontend").would_deny) == (ALLOW, False)
    assert (world.connect("intruder"), world.connection("intruder").would_deny) == (ALLOW, True)
    verdict = world.ask("intruder")
    assert (verdict.allow, verdict.audited, verdict.rule, verdict.policies) == (True, True, DEFAULT_DENY, (REF,))
    assert verdict.permit is not None
    # a deny rule
    denying = World(watching(f"ingress: [{{fromEntities: [all]}}]\ningressDeny: [{{{INTRUDER}}}]"))
    assert (denying.connect("intruder"), denying.connection("intruder").would_deny) == (ALLOW, True)
    told = denying.ask("intruder")
    assert (told.allow, told.audited, told.rule) == (True, True, "default/p ingressDeny[0]")
    assert not denying.ask("frontend").audited
    # requests
    judging = World(watching(f"ingress: [{{{FRONTEND}, {GET}}}]"))
    assert (judging.connect("frontend"), judging.connection("frontend").fail_open) == (PROXY, True)
    got = {line: judging.ask("frontend", line) for line in ("GET /", "POST /")}
    assert {line: (verdict.allow, verdict.audited) for line, verdict in got.items()} == {
        "GET /": (True, False),
        "POST /": (True, True),
    }
    assert got["POST /"].rule == DEFAULT_DENY


def test_watched_is_where_audit_alone_asks() -> None:
    audit, enforcing = watching("ingress: [{}]\negress: [{}]"), policy(f"{WEB}ingress: [{{}}]", "e")
    open_ = policy(f"{WEB}enableDefaultDeny: {{ingress: false}}\ningress: [{{{FRONTEND}}}]", "e")
    for texts, wanted in (
        ([audit], (True, True)),
        ([audit, enforcing], (False, True)),
        ([audit, open_], (False, True)),
        ([enforcing], (False, False)),
    ):
        world = World(*texts)
        web = next(one for one in world.rules.endpoints.values() if one.name == "web")
        assert (web.ingress.watched, web.egress.watched) == wanted


def test_an_audit_document_beside_enforcing_ones() -> None:
    enforcing = policy(f"{WEB}ingress: [{{{FRONTEND}, {GET}}}, {{{INTRUDER}}}]", "e")
    world = World(enforcing, watching(f"ingressDeny: [{{{INTRUDER}}}]"))
    assert world.connect("intruder") is ALLOW
    assert world.connection("intruder").would_deny
    assert (world.ask("frontend", "GET /").allow, world.ask("frontend", "GET /").audited) == (True, False)
    # what the enforcing ones deny is denied, and nobody speaks of audit
    denied = world.ask("frontend", "POST /")
    assert (denied.allow, denied.audited) == (False, False)
    assert world.connect("other/frontend") is DENY


def test_an_l7_denial_of_an_audit_document_is_told() -> None:
    deny = "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{pathPrefix: /admin, action: Deny}]}}]"
    world = World(
        policy(f"{WEB}ingress: [{{{FRONTEND}}}]", "e"), tulle(f"{WEB}mode: audit\ningress: [{{{FRONTEND}, {deny}}}]")
    )
    # the kernel steers it, because somebody wants to see requests; and lets it pass when nobody can
    assert (world.connect("frontend"), world.connection("frontend").fail_open) == (PROXY, True)
    told = world.ask("frontend", "GET /admin/x")
    assert (told.allow, told.audited) == (True, True)
    assert told.rule == "TulleNetworkPolicy default/t ingress[0].toPorts[0].http[0]"
    plain = world.ask("frontend", "GET /")
    assert (plain.allow, plain.audited, plain.rule) == (True, False, "default/e ingress[0]")


def test_an_audit_allow_allows_nothing() -> None:
    world = World(policy(f"{WEB}ingress: [{{{FRONTEND}}}]", "e"), watching(f"ingress: [{{{INTRUDER}}}]"))
    assert world.answers(["frontend", "intruder", "other/frontend"]) == [ALLOW, DENY, DENY]
    # nor does it void the requests rules of one that enforces
    judged = World(policy(f"{WEB}ingress: [{{{FRONTEND}, {GET}}}]", "e"), watching(f"ingress: [{{{FRONTEND}}}]"))
    assert judged.connect("frontend") is PROXY
    assert not judged.ask("frontend", "POST /").allow


def test_every_kind_of_document_has_a_mode() -> None:
    for text in (
        annotated(kubernetes("podSelector: {matchLabels: {app: web}}"), mode="audit"),
        tulle(f"{WEB}mode: audit\ningress: [{{}}]"),
        annotated(tulle(f"{WEB}ingress: [{{}}]"), mode="audit"),
    ):
        assert World(text).connect("frontend") is ALLOW
        assert World(text).connection("frontend").would_deny
    for text in (
        annotated(policy(f"{WEB}ingress: [{{}}]"), mode="enforce"),
        tulle(f"{WEB}mode: enforce\ningress: [{{}}]"),
    ):
        assert World(text).connect("frontend") is DENY


def test_fail_open_needs_every_judge() -> None:
    def judged(name: str, **words: str) -> str:
        text = policy(f"{WEB}ingress: [{{{FRONTEND}, {GET}}}]", name)
        return annotated(text, **words) if words else text

    def fails_open(*texts: str) -> bool:
        world = World(*texts)
        assert world.connect("frontend") is PROXY
        return world.connection("frontend").fail_open

    assert not fails_open(judged("a"))
    assert not fails_open(judged("a", onFailure="closed"))
    assert fails_open(judged("a", onFailure="open"))
    assert fails_open(judged("a", onFailure="open"), judged("b", onFailure="open"))
    assert not fails_open(judged("a", onFailure="open"), judged("b"))
    # a document that only watches does not keep it closed
    assert fails_open(judged("a", onFailure="open"), judged("b", mode="audit"))
    assert not fails_open(judged("a"), judged("b", mode="audit", onFailure="open"))


@pytest.mark.parametrize(("word", "closes"), [("close-denied", True), ("next-request", False), (None, False)])
def test_options_reach_the_endpoint(word: str | None, closes: bool) -> None:
    text = policy(f"{WEB}ingress: [{{{FRONTEND}}}]")
    world = World(annotated(text, onChange=word) if word else text, policy(f"{WEB}ingress: [{{{INTRUDER}}}]", "q"))
    rules = world.rules.endpoints[PODS["web"].endpoint_id or 0]
    assert rules.ingress.close_denied is closes
    assert not rules.egress.close_denied


@pytest.mark.parametrize(
    "words",
    [
        {"mode": "watch"},
        {"mode": "Audit"},
        {"mode": "''"},
        {"onFailure": "fail"},
        {"onChange": "never"},
        {"onchange": "next-request"},
        {"unknown": "x"},
    ],
)
def test_annotations_that_are_none(words: dict[str, str]) -> None:
    with pytest.raises(PolicyError) as caught:
        documents(annotated(policy(f"{WEB}ingress: [{{}}]"), **words))
    assert "tulle.dev/" in str(caught.value)


def test_annotations_of_others_mean_nothing() -> None:
    text = policy(f"{WEB}ingress: [{{}}]").replace("namespace: default}", "annotations: {example.org/mode: audit}}")
    assert World(text).connect("frontend") is DENY
