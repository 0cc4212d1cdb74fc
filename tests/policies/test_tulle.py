"""Our own kind and our annotations: what they add, and that a plain document knows nothing of it."""

import pytest

from policies.errors import PolicyError
from policies.load import load_text
from policies.policyset import Options
from policies.ruleset import HttpRule, KafkaRule, NameKind, PathKind, PolicyRef, QueryMatch
from tests.policies.texts import CLUSTER, HEAD, OURS, compiled, policy, section

NAME = "TulleNetworkPolicy default/p ingress[0].toPorts[0]"


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load_text(text, "f")
    return [f"{each.line}:{each.column} {each.field}: {each.message}" for each in caught.value.problems]


def entry(rules: str) -> str:
    return f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{{port: 80}}], rules: {{{rules}}}}}]}}]"


def http(rule: str) -> HttpRule:
    found = section(entry(f"http: [{rule}]"), OURS).ingress
    assert found is not None
    assert found[0].http is not None
    return found[0].http[0]


@pytest.mark.parametrize(
    ("rule", "path", "kind"),
    [
        ("{}", None, PathKind.REGEX),
        ("{path: ''}", None, PathKind.REGEX),
        ("{path: /a.*}", "/a.*", PathKind.REGEX),
        ("{pathExact: /a}", "/a", PathKind.EXACT),
        ("{pathExact: /a/%2F}", "/a/%2F", PathKind.EXACT),
        ("{pathExact: /a, path: ''}", "/a", PathKind.EXACT),
        ("{pathPrefix: /}", "/", PathKind.PREFIX),
        ("{pathPrefix: /public}", "/public", PathKind.PREFIX),
        ("{pathTemplate: '/users/{id}/orders/{order}'}", "/users/{id}/orders/{order}", PathKind.TEMPLATE),
    ],
)
def test_kinds_of_path(rule: str, path: str | None, kind: PathKind) -> None:
    found = http(rule)
    assert (found.path, found.path_kind) == (path, kind)


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("{pathExact: ''}", 'pathExact: "" is not a path in normal form'),
        ("{pathExact: a}", 'pathExact: "a" is not a path in normal form'),
        ("{pathExact: '/a?b'}", 'pathExact: "/a?b" is not a path in normal form'),
        ("{pathExact: /a/../b}", 'pathExact: "/a/../b" is not a path in normal form'),
        ("{pathExact: /a//b}", 'pathExact: "/a//b" is not a path in normal form'),
        ("{pathExact: /%2f}", 'pathExact: "/%2f" is not a path in normal form'),
        ("{pathPrefix: /a/}", "pathPrefix: a prefix is whole segments: leave out the '/' at the end"),
        ("{pathTemplate: '/a{id}'}", 'pathTemplate: "a{id}": braces hold a name and are a whole segment'),
        ("{pathTemplate: '/{}'}", 'pathTemplate: "{}": braces hold a name and are a whole segment'),
        ("{pathTemplate: '/{a}/{a}'}", 'pathTemplate: "{a}" stands twice in the template'),
        ("{path: /a, pathExact: /a}", "pathExact: a rule has one kind of path, and there is path already"),
        ("{pathPrefix: /a, pathExact: /a}", "pathPrefix: a rule has one kind of path, and there is pathExact already"),
        ("{action: deny}", "action: input should be 'Allow' or 'Deny'"),
        ("{query: [{value: a}]}", "query[0].key: missing"),
        ("{query: [{key: ''}]}", "query[0].key: string should have at least 1 character"),
        (
            "{action: Deny, headerMatches: [{name: a, value: b, mismatch: LOG}]}",
            "headerMatches[0].mismatch: a deny rule matches or does not: it changes no header",
        ),
        ("{pathprefix: /a}", "pathprefix: unknown field; did you mean pathPrefix?"),
    ],
)
def test_mistakes_in_http_rules(rule: str, what: str) -> None:
    (found,) = problems(policy(entry(f"http: [{rule}]"), head=OURS))
    assert f"spec.ingress[0].toPorts[0].rules.http[0].{what}" in found


def test_deny_rules_and_query_matches() -> None:
    rule = http("{action: Deny, method: GET, query: [{key: a}, {key: b, value: ''}, {key: b, value: c}]}")
    query = (QueryMatch("a", None), QueryMatch("b", ""), QueryMatch("b", "c"))
    assert rule == HttpRule(f"{NAME}.http[0]", "GET", query=query, deny=True)
    found = section(entry("kafka: [{action: Deny, topic: t}, {action: Allow}]"), OURS)
    assert found.policy == PolicyRef("TulleNetworkPolicy", "default", "p")
    assert found.ingress is not None
    assert found.ingress[0].kafka == (
        KafkaRule(f"{NAME}.kafka[0]", topic="t", deny=True),
        KafkaRule(f"{NAME}.kafka[1]"),
    )
    assert not found.ingress[0].deny


ONLY_OURS = "unknown field: only a TulleNetworkPolicy of tulle.dev/v1 has it"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (entry("http: [{action: Allow}]"), "ingress[0].toPorts[0].rules.http[0].action"),
        (entry("http: [{pathExact: /a}]"), "ingress[0].toPorts[0].rules.http[0].pathExact"),
        (entry("http: [{pathPrefix: /a}]"), "ingress[0].toPorts[0].rules.http[0].pathPrefix"),
        (entry("http: [{pathTemplate: /a}]"), "ingress[0].toPorts[0].rules.http[0].pathTemplate"),
        (entry("http: [{query: []}]"), "ingress[0].toPorts[0].rules.http[0].query"),
        (entry("kafka: [{action: Allow}]"), "ingress[0].toPorts[0].rules.kafka[0].action"),
        (entry("kafka: [{topicPrefix: a}]"), "ingress[0].toPorts[0].rules.kafka[0].topicPrefix"),
        (entry("kafka: [{topicGlob: a}]"), "ingress[0].toPorts[0].rules.kafka[0].topicGlob"),
        (entry("kafka: [{group: a}]"), "ingress[0].toPorts[0].rules.kafka[0].group"),
        (entry("kafka: [{groupPrefix: a}]"), "ingress[0].toPorts[0].rules.kafka[0].groupPrefix"),
        (entry("kafka: [{transactionalId: a}]"), "ingress[0].toPorts[0].rules.kafka[0].transactionalId"),
        (entry("kafka: [{transactionalIdPrefix: a}]"), "ingress[0].toPorts[0].rules.kafka[0].transactionalIdPrefix"),
        (entry("") + "\nmode: audit", "mode"),
        (entry("") + "\nonFailure: open", "onFailure"),
        (entry("") + "\nonChange: close-denied", "onChange"),
    ],
)
def test_a_plain_document_has_none_of_it(spec: str, field: str) -> None:
    for head in (HEAD, CLUSTER):
        (found,) = problems(policy(spec, head=head))
        assert found.endswith(f"spec.{field}: {ONLY_OURS}")
    assert load_text(policy(spec, head=OURS), "f")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{topic: a, topicPrefix: b}", ".topicPrefix: a rule names one topic, and there is topic already"),
        ("{topicPrefix: a, topicGlob: b}", ".topicGlob: a rule names one topic, and there is topicPrefix already"),
        ("{group: a, groupPrefix: b}", ".groupPrefix: a rule names one group, and there is group already"),
        (
            "{transactionalId: a, transactionalIdPrefix: b}",
            ".transactionalIdPrefix: a rule names one transactional id, and there is transactionalId already",
        ),
        ("{role: produce, group: g}", ".group: role produce is not about a group: write another rule for it"),
        (
            "{role: consume, transactionalIdPrefix: g}",
            ".transactionalIdPrefix: role consume is not about a transactional id: write another rule for it",
        ),
        (
            "{action: Deny, topic: t, group: g}",
            ".group: a deny rule names one thing, and there is topic: it would deny each, not both together",
        ),
        ("{action: Deny, role: admin, transactionalId: x}", ".transactionalId: role admin may only describe a"),
        ("{topicPrefix: ''}", ".topicPrefix: not what topics begin with: letters"),
        ("{topicPrefix: 'a*'}", ".topicPrefix: not what topics begin with: letters"),
        ("{topicGlob: 'a b'}", ".topicGlob: not a glob of topics: letters"),
        ("{topicGlob: '[a]'}", ".topicGlob: not a glob of topics: letters"),
        ("{group: ''}", ".group: expected 1 to 1024 characters, none of them a control character"),
        ('{transactionalId: "a\\tb"}', ".transactionalId: expected 1 to 1024 characters"),
        ("{role: admn}", '.role: unknown role "admn"; did you mean admin?'),
        ("{role: both}", '.role: unknown role "both"; produce, consume, admin are known'),
        ("{grup: a}", ".grup: unknown field; did you mean group?"),
        ("{topicprefix: a}", ".topicprefix: unknown field; did you mean topicPrefix?"),
    ],
)
def test_mistakes_in_our_kafka_rules(rule: str, said: str) -> None:
    (found,) = problems(policy(entry(f"kafka: [{rule}]"), head=OURS))
    assert f"spec.ingress[0].toPorts[0].rules.kafka[0]{said}" in found


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ("{role: Admin}", KafkaRule(f"{NAME}.kafka[0]", "admin")),
        ("{topic: '', topicPrefix: a}", KafkaRule(f"{NAME}.kafka[0]", topic="a", topic_kind=NameKind.PREFIX)),
        ("{topicGlob: 'a.*-?'}", KafkaRule(f"{NAME}.kafka[0]", topic="a.*-?", topic_kind=NameKind.GLOB)),
        ("{group: 'a b/é'}", KafkaRule(f"{NAME}.kafka[0]", group="a b/é")),
        ("{groupPrefix: g}", KafkaRule(f"{NAME}.kafka[0]", group="g", group_kind=NameKind.PREFIX)),
        ("{transactionalId: x}", KafkaRule(f"{NAME}.kafka[0]", transactional_id="x")),
        (
            "{transactionalIdPrefix: x}",
            KafkaRule(f"{NAME}.kafka[0]", transactional_id="x", transactional_id_kind=NameKind.PREFIX),
        ),
    ],
)
def test_what_kafka_rules_of_our_kind_say(rule: str, want: KafkaRule) -> None:
    found = section(entry(f"kafka: [{rule}]"), OURS).ingress
    assert found is not None
    assert found[0].kafka == (want,)


OPTIONS = [
    ("mode", "enforce", Options()),
    ("mode", "audit", Options(audit=True)),
    ("onFailure", "closed", Options()),
    ("onFailure", "open", Options(fail_open=True)),
    ("onChange", "next-request", Options()),
    ("onChange", "close-denied", Options(close_denied=True)),
]


@pytest.mark.parametrize(("name", "value", "options"), OPTIONS)
def test_options(name: str, value: str, options: Options) -> None:
    rules = "endpointSelector: {}\ningress: [{}]"
    assert section(f"{rules}\n{name}: {value}", OURS).options == options
    for head in (HEAD, OURS, CLUSTER):
        meta = f"metadata: {{name: p, annotations: {{tulle.dev/{name}: {value}, other.dev/{name}: x}}}}"
        spec = "{endpointSelector: {}, ingress: [{}]}"
        found = compiled(f"{head}{meta}\nspec: {spec}\nspecs: [{spec}]").sections
        assert [each.options for each in found] == [options] * 2
    both = f"{OURS}metadata: {{name: p, annotations: {{tulle.dev/{name}: {value}}}}}\nspec:\n  endpointSelector: {{}}\n"
    (message,) = problems(f"{both}  ingress: [{{}}]\n  {name}: {value}\n")
    assert message == f"7:3 spec.{name}: the annotation tulle.dev/{name} says it already"


def test_options_differ_from_spec_to_spec() -> None:
    text = "- {endpointSelector: {}, ingress: [{}], mode: audit}\n- {endpointSelector: {}, egress: [{}]}"
    found = compiled(policy(text, part="specs", head=OURS)).sections
    assert [each.options for each in found] == [Options(audit=True), Options()]


@pytest.mark.parametrize(
    ("annotation", "what"),
    [
        ("«tulle.dev/mod: audit", 'unknown annotation "tulle.dev/mod"; did you mean tulle.dev/mode?'),
        ("«tulle.dev/onfailure: open", 'unknown annotation "tulle.dev/onfailure"; did you mean tulle.dev/onFailure?'),
        (
            "«tulle.dev/x: a",
            'unknown annotation "tulle.dev/x"; tulle.dev/mode, tulle.dev/onFailure, tulle.dev/onChange',
        ),
        ("tulle.dev/mode: «Audit", 'expected "enforce" or "audit"'),
        ("tulle.dev/mode: «''", 'expected "enforce" or "audit"'),
        ("tulle.dev/onChange: «close", 'expected "next-request" or "close-denied"'),
        ("tulle.dev/mode: «on", "expected text, got true or false: quote it"),
    ],
)
def test_mistakes_in_annotations(annotation: str, what: str) -> None:
    before = "metadata: {name: p, annotations: {"
    column = len(before) + annotation.index("«") + 1
    key = annotation.replace("«", "").split(":")[0]
    text = f"{HEAD}{before}{annotation.replace('«', '')}}}}}\nspec: {{endpointSelector: {{}}, ingress: [{{}}]}}"
    assert problems(text) == [f'3:{column} metadata.annotations["{key}"]: {what}']
