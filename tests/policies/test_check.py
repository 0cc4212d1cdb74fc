"""Warnings: what surprises people in good policies, each at the place of its rule; and nothing else."""

import pytest

from policies.check import Checker, Finding, field_of, of_problem
from policies.compile import compile_policies
from policies.errors import Problem
from policies.inventory import Inventory, NamedPort, Pod, Service
from policies.load import load_text
from policies.places import with_documents

INVENTORY = Inventory(
    (
        Pod("default", "web", {"app": "web", "tier": "front"}, ports=(NamedPort("http", 80),)),
        Pod("default", "frontend", {"app": "frontend"}),
    ),
    services=(Service("default", "db", selector={"app": "db"}),),
)


def warnings(spec: str, inventory: Inventory | None = None, more: str = "", kind: str = "") -> list[Finding]:
    head = kind or "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
    body = "\n".join(f"  {line}" for line in spec.strip("\n").splitlines())
    text = f"{head}metadata: {{name: p}}\nspec:\n{body}\n"
    if more:
        body = "\n".join(f"  {line}" for line in more.strip("\n").splitlines())
        text += f"---\n{head}metadata: {{name: q}}\nspec:\n{body}\n"
    documents = load_text(text, "p.yaml")
    return Checker(with_documents(compile_policies(documents), documents), inventory).warnings()


def messages(*args: str, **kind: str) -> list[str]:
    return [f"{found.field}: {found.message}" for found in warnings(*args, **kind)]  # type: ignore[arg-type]  # texts


WEB = "endpointSelector: {matchLabels: {app: web}}\n"
TULLE = "apiVersion: tulle.dev/v1\nkind: TulleNetworkPolicy\n"


def http(*rules: str, peers: str = "fromEndpoints: [{matchLabels: {app: frontend}}]", selector: str = WEB) -> str:
    lines = "\n".join(f"        - {rule}" for rule in rules)
    return (
        f"{selector}ingress:\n- {peers}\n  toPorts:\n"
        f'  - ports: [{{port: "80", protocol: TCP}}]\n    rules:\n      http:\n{lines}\n'
    )


def test_fields_of_rules() -> None:
    assert field_of("default/p ingress[0].toPorts[1].http[2]") == "spec.ingress[0].toPorts[1].rules.http[2]"
    assert field_of("p specs[1].egressDeny[0]") == "specs[1].egressDeny[0]"
    assert field_of("NetworkPolicy default/p ingress[0].ports[1]") == "spec.ingress[0].ports[1]"
    assert field_of("default/p ingress[0].toPorts[0].kafka[]") == "spec.ingress[0].toPorts[0].rules.kafka"


def test_forms() -> None:
    assert str(of_problem(Problem("a.yaml", 3, 7, "spec.x", "bad"))) == "a.yaml:3:7: error: spec.x: bad"
    assert str(Finding("a.yaml", 0, 0, "warning", "", "odd")) == "a.yaml: warning: odd"


def test_good_policies_have_no_warnings() -> None:
    assert not warnings(http("{method: GET, path: '/public([/?].*)?'}", "{method: POST, path: '/orders.*'}"), INVENTORY)


@pytest.mark.parametrize("path", ["/public", "/a|/b", "/v1/[0-9]+", "/x\\.html"])
def test_a_path_that_does_not_match_with_a_query(path: str) -> None:
    (found,) = warnings(http(f"{{path: '{path}'}}"))
    assert "sees the query too" in found.message
    assert (found.file, found.line) == ("p.yaml", 12)
    assert found.field == "spec.ingress[0].toPorts[0].rules.http[0].path"


@pytest.mark.parametrize(
    ("path", "better"),
    [
        ("/public", "/public([?].*)?"),
        ("^/public$", "/public([?].*)?"),
        ("/path1$", "/path1([?].*)?"),
        ("/cost\\$", "/cost\\$([?].*)?"),
        ("/a|/b", "(/a|/b)([?].*)?"),
        ("/v1/[0-9]+$", "/v1/[0-9]+([?].*)?"),
    ],
)
def test_what_is_proposed_for_queries_matches_them(path: str, better: str) -> None:
    (found,) = warnings(http(f"{{path: '{path}'}}"))
    assert f"; write {better} if that is meant" in found.message
    assert not warnings(http(f"{{path: '{better}'}}"))


def test_nothing_is_proposed_that_does_not_match() -> None:
    (found,) = warnings(http("{path: '/a$|/b$'}"))
    assert "write" not in found.message


@pytest.mark.parametrize("path", ["/public.*", "/public([?].*)?", "/a/[^/]+", "/a\\?x=1", "/a/[a-z?]+", "/.*"])
def test_a_path_that_knows_of_queries(path: str) -> None:
    assert not warnings(http(f"{{path: '{path}'}}"))


def test_other_kinds_of_paths_see_no_query() -> None:
    assert not warnings(http("{pathExact: /public}", "{pathPrefix: /b}"), kind=TULLE)


def test_a_denial_that_a_query_evades() -> None:
    found = warnings(http("{method: GET}", "{path: /admin, action: Deny}"), kind=TULLE)
    assert any("'/admin' does not deny '/admin?x=1'" in each.message for each in found)


@pytest.mark.parametrize(
    ("rules", "which"),
    [
        (["{method: GET}", "{method: GET, path: '/a.*'}"], 1),
        (["{method: GET, path: '/a.*'}", "{method: GET}"], 0),
        (["{path: '/a.*'}", "{path: '/a/b.*'}"], 1),
        (["{path: '/a.*'}", "{path: '/a.*'}"], 1),
        (["{method: GET|POST}", "{method: POST}"], 1),
        (["{}", "{headers: [X]}"], 1),
        (["{headers: [X]}", "{headers: ['X: 1', Y]}"], 1),
    ],
)
def test_shadowed_rules(rules: list[str], which: int) -> None:
    assert [text for text in messages(http(*rules)) if "has no effect" in text] == [
        f"spec.ingress[0].toPorts[0].rules.http[{which}]: has no effect: "
        f"spec.ingress[0].toPorts[0].rules.http[{1 - which}] covers all of it"
    ]


@pytest.mark.parametrize(
    "rules",
    [
        ["{path: '/a.*'}", "{path: '/a?b.*'}"],
        ["{method: GET}", "{method: POST}"],
        ["{path: '/a.*'}", "{path: '/b.*'}"],
        ["{path: '/a.*'}", "{path: '/a|/b.*'}"],
        ["{headers: ['X: 1']}", "{headers: [Y]}"],
        ["{host: web}", "{method: GET}"],
    ],
)
def test_rules_that_are_not_shadowed(rules: list[str]) -> None:
    assert not [text for text in messages(http(*rules)) if "has no effect" in text]


def test_prefixes_shadow_whole_segments_only() -> None:
    found = messages(http("{pathPrefix: /a}", "{pathExact: /a/b}", "{pathExact: /ab}"), kind=TULLE)
    assert found == [
        "spec.ingress[0].toPorts[0].rules.http[1]: has no effect: spec.ingress[0].toPorts[0].rules.http[0] "
        "covers all of it"
    ]


def test_an_allow_that_its_list_denies() -> None:
    found = messages(http("{pathPrefix: /a, action: Deny}", "{method: GET, pathExact: /a/b}"), kind=TULLE)
    assert (
        "spec.ingress[0].toPorts[0].rules.http[1]: allows nothing: all of it is denied by "
        "spec.ingress[0].toPorts[0].rules.http[0]" in found
    )


def test_a_list_that_only_denies() -> None:
    found = messages(http("{pathPrefix: /a, action: Deny}"), kind=TULLE)
    assert found == [
        "spec.ingress[0].toPorts[0]: only denies: unless another rule allows requests on this port, none is allowed"
    ]


L7 = http("{path: '/a.*'}")


def l4(peers: str, port: str = "80", selector: str = WEB) -> str:
    return f'{selector}ingress:\n- {peers}\n  toPorts: [{{ports: [{{port: "{port}", protocol: TCP}}]}}]\n'


@pytest.mark.parametrize(
    "more",
    [
        l4("fromEndpoints: [{matchLabels: {app: frontend}}]"),
        l4("fromEndpoints: [{}]"),
        l4("fromEntities: [cluster]"),
        l4("fromEndpoints: [{matchLabels: {app: frontend}}]", selector="endpointSelector: {}\n"),
        f"{WEB}ingress:\n- fromEndpoints: [{{matchLabels: {{app: frontend}}}}]\n",
    ],
)
def test_an_l4_allow_that_voids_an_l7_rule(more: str) -> None:
    (found,) = [found for found in warnings(L7, None, more) if "without looking at requests" in found.message]
    assert found.field == "spec.ingress[0].toPorts[0]"
    assert "default/q ingress[0]" in found.message


@pytest.mark.parametrize(
    "more",
    [
        l4("fromEndpoints: [{matchLabels: {app: other}}]"),
        l4("fromEndpoints: [{matchLabels: {app: frontend}}]", "81"),
        l4("fromEndpoints: [{matchLabels: {app: frontend}}]", selector="endpointSelector: {matchLabels: {app: x}}\n"),
        L7.replace("ingress", "egress").replace("from", "to"),
    ],
)
def test_an_l4_allow_that_voids_nothing(more: str) -> None:
    assert not [found for found in warnings(L7, None, more) if "without looking at requests" in found.message]


def test_an_inventory_proves_what_the_text_does_not() -> None:
    more = l4("fromEndpoints: [{}]", selector="endpointSelector: {matchLabels: {tier: front}}\n")
    assert not warnings(L7, None, more)
    assert "without looking at requests" in warnings(L7, INVENTORY, more)[0].message


def test_a_denial_that_voids_an_allow() -> None:
    spec = f"{WEB}ingress:\n- fromCIDR: [10.1.0.0/16]\ningressDeny:\n- fromCIDR: [10.0.0.0/8]\n"
    assert messages(spec) == ["spec.ingress[0]: allows nothing: default/p ingressDeny[0] denies all of it"]
    assert not messages(spec.replace("10.0.0.0/8", "10.1.2.0/24"))


@pytest.mark.parametrize(
    ("spec", "field", "said"),
    [
        ("endpointSelector: {matchLabels: {app: none}}\ningress: [{}]\n", "spec.endpointSelector", "selects no pod"),
        (l4("fromEndpoints: [{matchLabels: {app: none}}]"), "spec.ingress[0].toPorts[0]", "matches no pod"),
        (l4("fromEndpoints: [{}]", "metrics"), "spec.ingress[0].toPorts[0]", "no pod has a port named 'metrics'"),
        (
            f"{WEB}egress:\n- toServices: [{{k8sService: {{serviceName: nope, namespace: default}}}}]\n",
            "spec.egress[0]",
            "there is no service default/nope",
        ),
        (f"{WEB}ingress:\n- fromEndpoints: []\n", "spec.ingress[0]", "its list of peers is empty"),
    ],
)
def test_what_nobody_is(spec: str, field: str, said: str) -> None:
    assert not warnings(spec)
    (found,) = warnings(spec, INVENTORY)
    assert found.field == field
    assert said in found.message
    assert found.file == "p.yaml"


def test_what_somebody_is() -> None:
    assert not warnings(l4("fromEndpoints: [{}]", "http"), INVENTORY)
    spec = f"{WEB}egress:\n- toServices: [{{k8sService: {{serviceName: db, namespace: default}}}}]\n"
    assert not warnings(spec, INVENTORY)


def test_many_warnings_are_bounded() -> None:
    found = warnings(http(*(f"{{path: /a{i}}}" for i in range(150))))
    assert len(found) == 101
    assert next(each for each in found if not each.line).message == "and more of the warnings above"


def kafka(*rules: str) -> str:
    return http(*rules).replace("http:\n", "kafka:\n")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["{role: produce, topic: a}", "{role: produce}"], "kafka[0]: has no effect: KAFKA[1] covers all of it"),
        (["{topic: a}", "{topic: a}"], "kafka[1]: has no effect: KAFKA[0] covers all of it"),
        (["{role: produce, topic: a}", "{topic: a}"], "kafka[0]: has no effect: KAFKA[1] covers all of it"),
        (["{role: consume, topic: ab}", "{role: consume, topicPrefix: a}"], "kafka[0]: has no effect: KAFKA[1]"),
        (["{role: consume, topicGlob: 'ab?'}", "{role: consume, topicPrefix: a}"], "kafka[0]: has no effect: KAFKA[1]"),
        (["{role: consume, topic: axb}", "{role: consume, topicGlob: 'a?b'}"], "kafka[0]: has no effect: KAFKA[1]"),
        (["{role: consume, topicPrefix: a}", "{role: consume, topicGlob: 'a*'}"], "kafka[1]: has no effect: KAFKA[0]"),
        (["{role: consume, group: g}", "{role: consume}"], "kafka[0]: has no effect: KAFKA[1]"),
        (["{topic: a, clientID: c}", "{topic: a}"], "kafka[0]: has no effect: KAFKA[1]"),
        (["{apiKey: fetch}", "{}"], "kafka[0]: has no effect: KAFKA[1]"),
        (["{group: a}", "{action: Deny, groupPrefix: a}"], "kafka[0]: allows nothing: all of it is denied by KAFKA[1]"),
        (["{}", "{action: Deny}", "{action: Deny, topic: a}"], "kafka[2]: has no effect: KAFKA[1]"),
    ],
)
def test_shadowed_kafka_rules(rules: list[str], said: str) -> None:
    found = messages(kafka(*rules), kind=TULLE)
    place = "spec.ingress[0].toPorts[0].rules."
    assert any(each.startswith(place + said.replace("KAFKA", f"{place}kafka")) for each in found), found


@pytest.mark.parametrize(
    "rules",
    [
        ["{role: produce, topic: a}", "{role: consume, topic: a}"],
        ["{role: produce, topic: a}", "{role: produce, topic: b}"],
        ["{role: consume, topic: a, group: g}", "{role: consume, topic: a, group: h}"],
        ["{role: consume, topicPrefix: ab}", "{role: consume, topic: a}"],
        ["{role: consume, topicPrefix: a}", "{role: consume, topicGlob: '?a'}"],
        ["{role: consume}", "{role: produce, topic: a, clientID: c}"],
        ["{role: admin}", "{role: consume, topic: a}"],
        ["{role: produce}", "{action: Deny, role: produce, topic: a}"],
        ["{}", "{action: Deny, topic: a}"],
        ["{}", "{action: Deny, apiKey: fetch, topic: a}"],
    ],
)
def test_kafka_rules_that_are_not_shadowed(rules: list[str]) -> None:
    assert messages(kafka(*rules), kind=TULLE) == []


def test_an_api_that_is_not_about_what_the_rule_names() -> None:
    place = "spec.ingress[0].toPorts[0].rules.kafka[0]"
    said = messages(
        kafka("{apiKey: heartbeat, topic: a}", "{apiKey: fetch, topic: a}", "{apiKey: fetch, group: g}"), kind=TULLE
    )
    assert said == [
        f"{place}: heartbeat is not about a topic: the rule's says nothing",
        f"{place[:-3]}[2]: fetch is not about a group: the rule's says nothing",
    ]
