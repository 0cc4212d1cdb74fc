"""Every mistake is found, at its place, and nothing of a file is told beyond the place."""

import os
from pathlib import Path

import pytest

from policies.errors import PolicyError, Problem
from policies.load import MAX_PROBLEMS, load_files, load_text
from tests.policies.texts import HEAD, policy

RULE = "endpointSelector: {}\ningress:\n- toPorts:\n  - ports: [{port: 80}]\n    rules:\n      http:\n"


def errors(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load_text(text, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


def spec_error(spec: str) -> str:
    (message,) = errors(policy(spec))
    return message.removeprefix("f.yaml:")


def test_a_good_document_says_who_it_is() -> None:
    text = "# before\n---\n" + policy("endpointSelector: {}\ningress: [{}]", "a", "ns1")
    (document,) = load_text(text + "---\n", "f.yaml")
    assert document.key == ("CiliumNetworkPolicy", "ns1", "a")
    assert (document.file, document.line) == ("f.yaml", 3)
    assert load_text(document.text, "again")[0].model == document.model


def test_documents_keep_their_own_text() -> None:
    first = policy("endpointSelector: {}\ningress: [{}]", "a")
    second = policy("endpointSelector: {}\negress: [{}] # é", "b")
    for text in (first + "---\n" + second, f"{first}...\n---\n{second}...\n"):
        one, two = load_text(text, "f.yaml")
        assert (one.name, two.name) == ("a", "b")
        assert load_text(one.text, "f")[0].model == one.model
        assert load_text(two.text, "f")[0].model == two.model
        assert "name: b" not in one.text
        assert "name: a" not in two.text


def test_namespace_is_default_when_absent() -> None:
    text = HEAD + "metadata: {name: a}\nspec: {endpointSelector: {}, ingress: [{}]}"
    assert load_text(text, "f")[0].namespace == "default"


def test_json_is_accepted() -> None:
    text = """{
\t"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
\t"metadata": {"name": "a", "creationTimestamp": null, "labels": {"x": "y"}, "annotations": {"n": "1"}},
\t"spec": {"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": 80}],
\t\t"rules": {"http": [{"path": "\\/a\\u00e9"}]}}]}]}, "status": {"conditions": null}
}"""
    spec = load_text(text, "f.json")[0].model.spec
    assert spec is not None
    assert spec.ingress[0].toPorts is not None
    rules = spec.ingress[0].toPorts[0].rules
    assert rules is not None
    assert rules.http is not None
    assert rules.http[0].path == "/aé"


SELECTOR = "endpointSelector.matchLabels"
NULL = "null is not accepted: leave the field out, or write [] or {}"
EMPTY = "empty: Cilium reads an empty list here as no constraint; leave the field out if that is meant"
NO_RULE = "neither ingress nor egress has a rule; to deny a whole direction write one empty rule, [{}]"
BAD_KEY = "is not a label key"
BAD_VALUE = "is not a label value: letters, digits, '-', '_' and '.', at most 63"
KEY_NOT_YET = "is not supported yet: only labels of pods and io.kubernetes.pod.namespace are known"
SPACES = "the value begins or ends with a space or holds a control character: no request can have it"
NO_SPACE = "expected 'Name' or 'Name: value' with a space after the colon, as Cilium does"
OPERATORS = "input should be 'In', 'NotIn', 'Exists' or 'DoesNotExist'"
TWO_SOURCES = "matchLabels names one label twice, with different sources"
LARGE = "pattern of 7987 RE2 instructions, the limit is 5000"


def check_place(marked: str, path: str, message: str) -> None:
    """`«` in the text stands right before the place that the error must name."""
    before = marked[: marked.index("«")]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    assert errors(marked.replace("«", "")) == [f"f.yaml:{line}:{column}: error: {path}{message}"]


@pytest.mark.parametrize(
    ("rule", "path", "message"),
    [
        ("- {method: GET}\n      - path: «'/a('", "[1].path", "not a valid RE2 pattern: missing ): /a("),
        (r"- {path: «'(a)\1'}", "[0].path", r"not a valid RE2 pattern: invalid escape sequence: \1"),
        ("- {path: «'(?!x)'}", "[0].path", "not a valid RE2 pattern: invalid perl operator: (?!"),
        ("- {path: «'a{1001}'}", "[0].path", "not a valid RE2 pattern: invalid repetition size: {1001}"),
        ("- {method: «'(a{90}){11}[ab]{999}(xyz){999}(abc){999}'}", "[0].method", LARGE),
        (f"- {{host: «{'a' * 5000}}}", "[0].host", "pattern of 5000 characters, the limit is 4096"),
        ("- {headers: [X-A, «'X-A:b']}", "[0].headers[1]", NO_SPACE),
        ("- {headers: [«'X-A:  b']}", "[0].headers[0]", SPACES),
        ('- {headers: [«"X-A: b\\r\\nc"]}', "[0].headers[0]", SPACES),
        ("- {«paht: /}", "[0].paht", "unknown field; did you mean path?"),
        ("- {«xyzzy: /}", "[0].xyzzy", "unknown field"),
    ],
)
def test_mistakes_in_http_rules(rule: str, path: str, message: str) -> None:
    check_place(policy(RULE + "      " + rule), f"spec.ingress[0].toPorts[0].rules.http{path}: ", message)


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ("endpointSelector: {}\n«ingres: [{}]\negress: [{}]", ".ingres", "unknown field; did you mean ingress?"),
        ("«ingress: [{}]", ".endpointSelector", "missing"),
        ("«endpointSelector: {}", "", NO_RULE),
        ("«endpointSelector: {}\ningress: []\negress: []", "", NO_RULE),
        ("endpointSelector: {}\ningress: «{}", ".ingress", "expected a list, got a mapping"),
        ("endpointSelector: {}\ningress: [«x]", ".ingress[0]", "expected a mapping, got text"),
        ("endpointSelector: {}\ningress:«", ".ingress", NULL),
        ("endpointSelector: {}\ningress: [{fromEndpoints: «~}]", ".ingress[0].fromEndpoints", NULL),
        ("endpointSelector: {}\ningress: [{toPorts: «[]}]", ".ingress[0].toPorts", EMPTY),
        ("endpointSelector: {}\ningress: [{toPorts: [«{rules: {}}]}]", ".ingress[0].toPorts[0].ports", "missing"),
        ("endpointSelector: {}\negress: [{toPorts: [{ports: «[]}]}]", ".egress[0].toPorts[0].ports", EMPTY),
    ],
)
def test_mistakes_in_the_spec(spec: str, path: str, message: str) -> None:
    check_place(policy(spec), f"spec{path}: ", message)


@pytest.mark.parametrize(
    ("selector", "path", "message"),
    [
        ("{matchLabels: {app: «yes}}", ".matchLabels.app", "expected text, got true or false: quote it"),
        ("{matchLabels: {v: «1.10}}", ".matchLabels.v", "expected text, got a number: quote it"),
        ("{matchLabels: {v: «7}}", ".matchLabels.v", "expected text, got a number: quote it"),
        ("{matchLabels: {v: «0777}}", ".matchLabels.v", "a number must be plain decimal; quote it if it is text"),
        ("{matchLabels: {«'a b': c}}", '.matchLabels["a b"]', f'"a b" {BAD_KEY}'),
        ("{matchLabels: {a: «'b c'}}", ".matchLabels.a", f'"b c" {BAD_VALUE}'),
        (
            "{matchLabels: {«'reserved:host': ''}}",
            '.matchLabels["reserved:host"]',
            'label source "reserved" is not supported yet; k8s and any are',
        ),
        (
            "{matchExpressions: [{key: «io.cilium.k8s.policy.cluster, operator: Exists}]}",
            ".matchExpressions[0].key",
            f'label "io.cilium.k8s.policy.cluster" {KEY_NOT_YET}',
        ),
        ("«{matchLabels: {'k8s:a': b, a: c}}", "", TWO_SOURCES),
        (
            "{matchExpressions: [«{key: a, operator: In}]}",
            ".matchExpressions[0]",
            "operator In needs at least one value",
        ),
        (
            "{matchExpressions: [«{key: a, operator: Exists, values: [b]}]}",
            ".matchExpressions[0]",
            "operator Exists takes no values",
        ),
        ("{matchExpressions: [{key: a, operator: «Gt, values: ['1']}]}", ".matchExpressions[0].operator", OPERATORS),
    ],
)
def test_mistakes_in_selectors(selector: str, path: str, message: str) -> None:
    spec = f"endpointSelector: {selector}\ningress: [{{}}]"
    check_place(policy(spec), f"spec.endpointSelector{path}: ", message)
    spec = f"endpointSelector: {{}}\negress: [{{toEndpoints: [{{}}, {selector}]}}]"
    check_place(policy(spec), f"spec.egress[0].toEndpoints[1]{path}: ", message)


RANGE = "is not a port: expected 0 to 65535, decimal; 0 is every port"


@pytest.mark.parametrize(
    ("port", "path", "message"),
    [
        ("{port: «http}", "[0].port", 'named port "http" is not supported yet'),
        ("{port: «'080'}", "[0].port", f'"080" {RANGE}'),
        ("{port: 1}, {port: «65536}", "[1].port", f'"65536" {RANGE}'),
        ("{port: «-1}", "[0].port", f'"-1" {RANGE}'),
        ("{port: «true}", "[0].port", 'expected a port number, as 80 or "80"'),
        ("«{protocol: TCP}", "[0].port", "missing"),
        ("{port: 53, protocol: «udp}", "[0].protocol", "protocol UDP is not supported yet; TCP and ANY are"),
        ("{port: 53, protocol: «tpc}", "[0].protocol", 'unknown protocol "tpc"'),
        ("{port: 53, endPort: «60}", "[0].endPort", "not supported yet"),
    ],
)
def test_mistakes_in_ports(port: str, path: str, message: str) -> None:
    text = policy(f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{port}]}}]}}]")
    check_place(text, f"spec.ingress[0].toPorts[0].ports{path}: ", message)


def test_ports_of_one_entry_are_limited_as_in_cilium() -> None:
    ports = ", ".join(f"{{port: {n}}}" for n in range(1, 42))
    text = policy(f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: «[{ports}]}}]}}]")
    check_place(text, "spec.ingress[0].toPorts[0].ports: ", "41 ports, the limit is 40")


def test_l7_rules_need_a_port_number() -> None:
    text = policy("endpointSelector: {}\ningress: [{toPorts: [«{ports: [{port: 0}], rules: {http: []}}]}]")
    check_place(text, "spec.ingress[0].toPorts[0]: ", "L7 rules need a port number: port 0 means every port")


def test_an_endpoint_selector_stays_in_its_namespace() -> None:
    for key in ("io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace"):
        text = policy(f"endpointSelector: {{matchLabels: {{'{key}': b}}}}\ningress: [{{}}]")
        check_place("«" + text, "", 'an endpointSelector selects in the policy\'s own namespace only, "default"')


NOT_YET = [
    ("spec", "nodeSelector: {}"),
    ("spec", "ingressDeny: [{}]"),
    ("spec", "egressDeny: [{}]"),
    ("spec", "enableDefaultDeny: {ingress: false}"),
    ("spec", "labels: []"),
    *(("ingress[0]", f"{name}: []") for name in ("fromCIDR", "fromCIDRSet", "fromEntities", "fromRequires", "icmps")),
    *(("ingress[0]", f"{name}: []") for name in ("fromGroups", "fromNodes", "authentication")),
    *(("egress[0]", f"{name}: []") for name in ("toCIDR", "toCIDRSet", "toEntities", "toRequires", "toServices")),
    *(("egress[0]", f"{name}: []") for name in ("toFQDNs", "toGroups", "toNodes", "icmps", "authentication")),
    *(("egress[0].toPorts[0]", f"{name}: []") for name in ("serverNames", "terminatingTLS", "originatingTLS")),
    ("egress[0].toPorts[0]", "listener: {}"),
    *(("egress[0].toPorts[0].rules", f"{name}: []") for name in ("kafka", "dns", "l7")),
    ("egress[0].toPorts[0].rules", "l7proto: x"),
    ("egress[0].toPorts[0].rules.http[0]", "headerMatches: []"),
]


@pytest.mark.parametrize(("where", "what"), NOT_YET)
def test_what_is_not_enforced_yet_is_refused(where: str, what: str) -> None:
    ports = "toPorts: [{ports: [{port: 80}]%s, rules: {http: [{method: GET%s}]%s}}]"
    fill = {
        "spec": ("\n" + what, "", "", "", "", ""),
        "ingress[0]": ("", what, "", "", "", ""),
        "egress[0]": ("", "", what + ", ", "", "", ""),
        "egress[0].toPorts[0]": ("", "", "", ", " + what, "", ""),
        "egress[0].toPorts[0].rules.http[0]": ("", "", "", "", ", " + what, ""),
        "egress[0].toPorts[0].rules": ("", "", "", "", "", ", " + what),
    }[where]
    spec, ingress, egress, entry, http, rules = fill
    text = (
        f"endpointSelector: {{}}{spec}\ningress: [{{{ingress}}}]\negress: [{{{egress}{ports % (entry, http, rules)}}}]"
    )
    path = f"spec.{where}." if where != "spec" else "spec."
    assert spec_error(text).split(" ", 1)[1] == f"error: {path}{what.split(':')[0]}: not supported yet"


BODY = "\nspec: {endpointSelector: {}, ingress: [{}]}"
ALIAS = "alias of something that is not complete or does not exist"
NOT_YET_KIND = 'kind "{}" of "{}" is not supported yet'
BAD_NAME = "is not an object name: lower case letters, digits, '-' and '.', at most 253"
BAD_NAMESPACE = "is not a namespace name: lower case letters, digits and '-', at most 63"


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("«- a", "", "expected a mapping with apiVersion and kind"),
        ("«kind: CiliumNetworkPolicy", "apiVersion: ", "missing"),
        ("«apiVersion: cilium.io/v2", "kind: ", "missing"),
        ("apiVersion: «2\nkind: x", "apiVersion: ", "expected text"),
        (
            "apiVersion: cilium.io/v2\nkind: «CiliumClusterwideNetworkPolicy",
            "kind: ",
            NOT_YET_KIND.format("CiliumClusterwideNetworkPolicy", "cilium.io/v2"),
        ),
        (
            "apiVersion: networking.k8s.io/v1\nkind: «NetworkPolicy",
            "kind: ",
            NOT_YET_KIND.format("NetworkPolicy", "networking.k8s.io/v1"),
        ),
        (
            "apiVersion: «cilium.io/v1\nkind: CiliumNetworkPolicy",
            "apiVersion: ",
            'expected "cilium.io/v2" for CiliumNetworkPolicy',
        ),
        (HEAD + "metadata: {name: «A}" + BODY, "metadata.name: ", f'"A" {BAD_NAME}'),
        (HEAD + "metadata: {name: a, namespace: «a.b}" + BODY, "metadata.namespace: ", f'"a.b" {BAD_NAMESPACE}'),
        (HEAD + "metadata: «{generateName: a}" + BODY, "metadata.name: ", "missing"),
        (
            HEAD + "metadata: «{name: a, annotations: {tulle.dev/mode: audit}}" + BODY,
            "metadata: ",
            'annotation "tulle.dev/mode" is not supported yet',
        ),
        ("«" + HEAD + "metadata: {name: a}", "", "spec or specs is missing"),
        (HEAD + "metadata: {name: a}\nspecs: «[]", "specs: ", EMPTY),
        (HEAD + "metadata: {name: a}\n«sepc: {}" + BODY, "sepc: ", "unknown field; did you mean spec?"),
        ("a: [\n«", "", "not YAML: did not find expected node content"),
        ("a: b«: c", "", "not YAML: mapping values are not allowed in this context"),
        ("b: 1\na: «\x01", "", "not YAML: control characters are not allowed"),
        ("a: «*b", "", ALIAS),
        ("a: &b [«*b]", "", ALIAS),
        ("? «[a]\n: b", "", "a key must be text"),
    ],
)
def test_documents_that_are_none(text: str, path: str, message: str) -> None:
    check_place(text, path, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no document"),
        ("# nothing\n---\n", "holds no document"),
        ("a: \ud800", "not Unicode text at character 3"),
    ],
)
def test_texts_without_a_document(text: str, message: str) -> None:
    assert errors(text) == [f"f.yaml: error: {message}"]


def test_duplicate_and_odd_keys_are_errors() -> None:
    spec = "endpointSelector: {}\ningress: [{}]\ningress: [{fromEndpoints: []}]"
    assert errors(policy(spec)) == ["f.yaml:7:3: error: spec.ingress: duplicate key, first at 6:3"]
    assert errors(policy("endpointSelector: {}\ningress: [{}]\n80: x")) == [
        "f.yaml:7:3: error: spec: a key must be text: quote it"
    ]
    found = errors(policy("endpointSelector: &s {}\ningress: [{fromEndpoints: [{<<: *s}]}]"))
    assert "f.yaml:6:31: error: spec.ingress[0].fromEndpoints[0]: merge keys are not accepted" in found


def test_tags_are_not_accepted() -> None:
    found = errors(policy("endpointSelector: {}\ndescription: !!python/name:os.system x\ningress: [{}]"))
    assert found == [
        'f.yaml:6:16: error: spec.description: tag "tag:yaml.org,2002:python/name:os.system" is not accepted'
    ]


def test_anchors_are_fine() -> None:
    spec = "endpointSelector: &web {matchLabels: {app: web}}\ningress: [{fromEndpoints: [*web, *web]}]"
    loaded = load_text(policy(spec), "f")[0].model.spec
    assert loaded is not None
    assert loaded.ingress[0].fromEndpoints == [loaded.endpointSelector] * 2


def test_every_problem_is_told_and_many_are_counted() -> None:
    rules = "".join(f"      - {{path: '({n}'}}\n" for n in range(MAX_PROBLEMS + 5))
    found = errors(policy(RULE + rules))
    assert len(found) == MAX_PROBLEMS + 1
    assert "f.yaml: error: and 5 more problems" in found


def test_one_bad_document_spoils_the_text_and_all_are_reported() -> None:
    good = policy("endpointSelector: {}\ningress: [{}]", "good")
    bad = policy("endpointSelector: {}\ningress: [{x: 1}]", "bad")
    found = errors("---\n".join([good, bad, bad.replace("x: 1", "y: 1")]))
    assert [message.split(" ", 1)[1] for message in found] == [
        "error: spec.ingress[0].x: unknown field",
        "error: spec.ingress[0].y: unknown field",
    ]


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(policy("endpointSelector: {}\ningress: [{}]", "a"))
    (tmp_path / "b.json").write_text(policy("endpointSelector: {}\ningress: [{}]", "b"))
    assert [document.name for document in load_files(tmp_path.iterdir())] == ["a", "b"]
    (tmp_path / "c.yaml").write_text(policy("endpointSelector: {}\nx: 1\negress: [{}]", "a"))
    (tmp_path / "d.yaml").write_bytes(b"a: \xff")
    (tmp_path / "e.yaml").write_text("x" * (1 << 20) + "é")
    (tmp_path / "f.yaml").write_text(policy("endpointSelector: {}\negress: [{}]", "a"))
    os.mkfifo(tmp_path / "g.yaml")
    (tmp_path / "h.yaml").mkdir()
    twice = "CiliumNetworkPolicy default/a is already in"
    with pytest.raises(PolicyError) as caught:
        load_files([*tmp_path.iterdir(), tmp_path / "missing.yaml"])
    assert caught.value.problems == [
        Problem(f"{tmp_path}/c.yaml", 6, 3, "spec.x", "unknown field"),
        Problem(f"{tmp_path}/d.yaml", 0, 0, "", "not UTF-8 at byte 3"),
        Problem(f"{tmp_path}/e.yaml", 0, 0, "", "larger than 1048576 bytes"),
        Problem(f"{tmp_path}/f.yaml", 1, 1, "metadata.name", f"{twice} {tmp_path}/a.yaml:1"),
        Problem(f"{tmp_path}/g.yaml", 0, 0, "", "cannot be read: not a regular file"),
        Problem(f"{tmp_path}/h.yaml", 0, 0, "", "cannot be read: not a regular file"),
        Problem(f"{tmp_path}/missing.yaml", 0, 0, "", "cannot be read: No such file or directory"),
    ]


def test_the_same_document_twice_in_one_text_is_an_error() -> None:
    one = policy("endpointSelector: {}\ningress: [{}]", "a")
    assert errors(one + "---\n" + one) == [
        "f.yaml:8:1: error: metadata.name: CiliumNetworkPolicy default/a is already in f.yaml:1"
    ]


SECRET = "hunter2-" * 30


@pytest.mark.parametrize(
    "text",
    [
        f"apiVersion: v1\nkind: Secret\ndata: {{password: {SECRET}}}",
        f"password: {SECRET}",
        SECRET,
        f"a: '{SECRET}",
        f"[{SECRET}",
        f"{SECRET}: {SECRET}: x",
        f"apiVersion: {SECRET}\nkind: {SECRET}",
        policy(f"endpointSelector: {{}}\ndescription: [{SECRET}]\ningress: [{{}}]"),
        policy(f"endpointSelector: {{matchLabels: {{a: {SECRET}}}}}\ningress: [{{}}]"),
        policy(f"endpointSelector: {{matchLabels: {{{SECRET}: {SECRET}}}}}\ningress: [{{}}]"),
        policy(
            f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{{port: {SECRET}, protocol: {SECRET}}}]}}]}}]"
        ),
        policy(RULE + f"      - {{headers: ['X-Key:{SECRET}']}}"),
        policy(RULE + f"      - {{path: '({SECRET}'}}"),
        policy(RULE + f"      - {{{SECRET}: a}}"),
        policy(f"endpointSelector: {{}}\ningress: [{{}}]\n{SECRET}: !{SECRET} {SECRET}"),
    ],
)
def test_content_is_never_repeated_wholesale(text: str) -> None:
    for message in errors(text):
        assert message.count("hunter2") <= 12, message  # some 100 characters, where 240 stand in the text
        assert "\n" not in message
