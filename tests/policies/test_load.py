"""Every mistake is found, at its place, and nothing of a file is told beyond the place."""

import os
from pathlib import Path

import pytest

from policies.errors import PolicyError, Problem
from policies.load import MAX_PROBLEMS, Document, load_each, load_files, load_text
from policies.model import Spec
from tests.policies.texts import CLUSTER, HEAD, KUBERNETES, OURS, policy

RULE = "endpointSelector: {}\ningress:\n- toPorts:\n  - ports: [{port: 80}]\n    rules:\n      http:\n"


def errors(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load_text(text, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


def spec_error(spec: str) -> str:
    (message,) = errors(policy(spec))
    return message.removeprefix("f.yaml:")


def spec_of(document: Document) -> Spec:
    spec = document.model.spec
    assert isinstance(spec, Spec)
    return spec


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
\t"metadata": {"name": "a", "creationTimestamp": null, "labels": {"x": "y"}, "annotations": null},
\t"spec": {"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": 80}],
\t\t"rules": {"http": [{"path": "\\/a\\u00e9"}]}}]}]}, "status": {"conditions": null}
}"""
    spec = spec_of(load_text(text, "f.json")[0])
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
KEY_NOT_YET = (
    "is not supported yet: labels of pods, io.kubernetes.pod.namespace and io.cilium.k8s.namespace.labels.KEY are"
)
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
            "{matchLabels: {«'reserved:hosts': ''}}",
            '.matchLabels["reserved:hosts"]',
            '"reserved:hosts" is not a reserved label of a peer',
        ),
        (
            "{matchLabels: {«'cni:a': ''}}",
            '.matchLabels["cni:a"]',
            'label source "cni" is not supported yet; k8s, any and reserved are',
        ),
        (
            "{matchLabels: {«'io.cilium.k8s.namespace.labels.a b': ''}}",
            '.matchLabels["io.cilium.k8s.namespace.labels.a b"]',
            '"io.cilium.k8s.namespace.labels.a b" does not end with the key of a namespace label',
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


RANGE = "is not a port: expected a name, or 0 to 65535, decimal; 0 is every port"
NO_PORT = 'expected a port number or a name, as 80, "80" or "http"'
KNOWN = "is not supported: TCP, UDP and ANY are"


@pytest.mark.parametrize(
    ("port", "path", "message"),
    [
        ("{port: «'080'}", "[0].port", f'"080" {RANGE}'),
        ("{port: 1}, {port: «65536}", "[1].port", f'"65536" {RANGE}'),
        ("{port: «-1}", "[0].port", f'"-1" {RANGE}'),
        ("{port: «''}", "[0].port", f'"" {RANGE}'),
        ("{port: «a--b}", "[0].port", f'"a--b" {RANGE}'),
        ("{port: «a-name-longer-than-15}", "[0].port", f'"a-name-longer-than-15" {RANGE}'),
        ("{port: «true}", "[0].port", NO_PORT),
        ("«{protocol: TCP}", "[0].port", "missing"),
        ("{port: 53, protocol: «sctp}", "[0].protocol", f"protocol SCTP {KNOWN}"),
        ("{port: 53, protocol: «ICMPv6}", "[0].protocol", f"protocol ICMPV6 {KNOWN}"),
        ("{port: 53, protocol: «tpc}", "[0].protocol", 'unknown protocol "tpc": TCP, UDP and ANY are known'),
        ("{port: 53, endPort: «'60'}", "[0].endPort", "expected a port number, as 8080, at most 65535"),
        ("{port: 53, endPort: «65536}", "[0].endPort", "expected a port number, as 8080, at most 65535"),
        ("{port: 53, endPort: «52}", "[0].endPort", "the range ends before it begins: port is 53"),
        ("{port: 0, endPort: «52}", "[0].endPort", "port 0 is every port already"),
        ("{port: A, endPort: «52}", "[0].endPort", 'a range needs a number to begin with, not the name "a"'),
    ],
)
def test_mistakes_in_ports(port: str, path: str, message: str) -> None:
    text = policy(f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{port}]}}]}}]")
    check_place(text, f"spec.ingress[0].toPorts[0].ports{path}: ", message)


def test_ports_of_one_entry_are_limited_as_in_cilium() -> None:
    ports = ", ".join(f"{{port: {n}}}" for n in range(1, 42))
    text = policy(f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: «[{ports}]}}]}}]")
    check_place(text, "spec.ingress[0].toPorts[0].ports: ", "41 ports, the limit is 40")


def test_an_endpoint_selector_stays_in_its_namespace() -> None:
    for key in ("io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace"):
        text = policy(f"endpointSelector: {{matchLabels: {{'{key}': «b}}}}\ningress: [{{}}]")
        message = 'an endpointSelector selects in the policy\'s own namespace only, "default"'
        check_place(text, 'spec.endpointSelector.matchLabels["io.kubernetes.pod.namespace"]: ', message)


NOT_YET = [
    ("spec", "log: {}"),
    *(("ingress[0]", f"{name}: []") for name in ("fromRequires", "icmps", "fromGroups", "fromNodes", "authentication")),
    *(("egress[0]", f"{name}: []") for name in ("toRequires", "toFQDNs", "toGroups", "toNodes", "icmps")),
    ("egress[0]", "authentication: []"),
    *(("egress[0].toPorts[0]", f"{name}: []") for name in ("serverNames", "terminatingTLS", "originatingTLS")),
    ("egress[0].toPorts[0]", "listener: {}"),
]
ONLY_TWO = "not supported: rules of http and kafka are"


def test_what_cilium_has_and_this_does_not_is_said() -> None:
    for what in ("dns: []", "l7proto: x", "l7: []"):
        rules = f"endpointSelector: {{}}\negress: [{{toPorts: [{{ports: [{{port: 80}}], rules: {{{what}}}}}]}}]"
        field = f"spec.egress[0].toPorts[0].rules.{what.split(':')[0]}"
        assert spec_error(rules).split(" ", 1)[1] == f"error: {field}: {ONLY_TWO}"
    node = "not supported: a policy selects pods, and nodes are not judged"
    check_place(policy("nodeSelector: «{}\nendpointSelector: {}\ningress: [{}]"), "spec.nodeSelector: ", node)
    cidr = "endpointSelector: {}\ningress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: «a}]}]"
    check_place(policy(cidr), "spec.ingress[0].fromCIDRSet[0].cidrGroupRef: ", "not supported yet")


@pytest.mark.parametrize(("where", "what"), NOT_YET)
def test_what_is_not_enforced_yet_is_refused(where: str, what: str) -> None:
    ports = "toPorts: [{ports: [{port: 80}]%s, rules: {http: [{method: GET}]}}]"
    fill = {
        "spec": ("\n" + what, "", "", ""),
        "ingress[0]": ("", what, "", ""),
        "egress[0]": ("", "", what + ", ", ""),
        "egress[0].toPorts[0]": ("", "", "", ", " + what),
    }[where]
    spec, ingress, egress, entry = fill
    text = f"endpointSelector: {{}}{spec}\ningress: [{{{ingress}}}]\negress: [{{{egress}{ports % entry}}}]"
    path = f"spec.{where}." if where != "spec" else "spec."
    assert spec_error(text).split(" ", 1)[1] == f"error: {path}{what.split(':')[0]}: not supported yet"


BODY = "\nspec: {endpointSelector: {}, ingress: [{}]}"
ALIAS = "alias of something that is not complete or does not exist"
KINDS = "CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy, TulleNetworkPolicy are"
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
            "apiVersion: cilium.io/v2\nkind: «CiliumClusterWideNetworkPolicy",
            "kind: ",
            'kind "CiliumClusterWideNetworkPolicy" of "cilium.io/v2" is not supported; '
            "did you mean CiliumClusterwideNetworkPolicy?",
        ),
        ("apiVersion: v1\nkind: «Secret", "kind: ", f'kind "Secret" of "v1" is not supported: {KINDS}'),
        (
            "apiVersion: «crd.projectcalico.org/v1\nkind: NetworkPolicy",
            "apiVersion: ",
            'expected "networking.k8s.io/v1" for NetworkPolicy',
        ),
        (
            "apiVersion: «cilium.io/v2\nkind: TulleNetworkPolicy",
            "apiVersion: ",
            'expected "tulle.dev/v1" for TulleNetworkPolicy',
        ),
        (
            CLUSTER + "metadata: {name: a, namespace: «b}" + BODY,
            "metadata.namespace: ",
            "a cluster-wide policy is in no namespace: leave it out",
        ),
        (KUBERNETES + "metadata: {name: a}\n«specs: []\nspec: {}", "specs: ", "unknown field; did you mean spec?"),
        ("«" + KUBERNETES + "metadata: {name: a}", "spec: ", "missing"),
        ("«" + OURS + "metadata: {name: a}", "", "spec or specs is missing"),
        (
            "apiVersion: «cilium.io/v1\nkind: CiliumNetworkPolicy",
            "apiVersion: ",
            'expected "cilium.io/v2" for CiliumNetworkPolicy',
        ),
        (HEAD + "metadata: {name: «A}" + BODY, "metadata.name: ", f'"A" {BAD_NAME}'),
        (HEAD + "metadata: {name: a, namespace: «a.b}" + BODY, "metadata.namespace: ", f'"a.b" {BAD_NAMESPACE}'),
        (HEAD + "metadata: «{generateName: a}" + BODY, "metadata.name: ", "missing"),
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
    loaded = spec_of(load_text(policy(spec), "f")[0])
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


GOOD = policy("endpointSelector: {}\ningress: [{}]", "good")


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (policy("endpointSelector: {}\nx: 1\ningress: [{}]", "bad"), "spec.x: unknown field"),
        ("a: [\n", "not YAML: did not find expected node content"),
        ("a: &a [*a]\n", "alias of something that is not complete or does not exist"),
        ("'\n", "not YAML: found unexpected end of stream"),
        ("a: 0777\n", "a: a number must be plain decimal; quote it if it is text"),
        ("a: " + "[" * 50 + "\n", "nested deeper than 40 levels"),
        ("a: \x01\n", "not YAML: control characters are not allowed"),
        (
            policy("endpointSelector: {}\ndescription: |\n  ---\n  b\ningress: [{}]\nx: 1", "bad"),
            "spec.x: unknown field",
        ),
    ],
)
def test_a_bad_document_takes_no_other_with_it(tmp_path: Path, bad: str, problem: str) -> None:
    """Wherever it stands, in its own file and beside others; its problems are in the lines of the whole file."""
    other = policy("endpointSelector: {}\negress: [{}]", "other")
    (tmp_path / "a.yaml").write_text(f"# first\n{GOOD}---\n{bad}---\n{other}")
    (tmp_path / "b.yaml").write_text(policy("endpointSelector: {}\ningress: [{}]", "b"))
    documents, problems = load_each(tmp_path.iterdir())
    assert [document.name for document in documents] == ["good", "other", "b"]
    assert [document.line for document in documents] == [2, bad.count("\n") + 10, 1]
    assert {each.line for each in problems} <= set(range(9, 10 + bad.count("\n")))
    assert problem in [f"{each.field}: {each.message}" if each.field else each.message for each in problems]
    with pytest.raises(PolicyError) as caught:
        load_files(tmp_path.iterdir())
    assert caught.value.problems == sorted(set(problems))


def test_of_two_with_one_key_the_first_counts_and_the_second_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(policy("endpointSelector: {}\negress: [{}]", "good") + "---\n" + GOOD)
    documents, problems = load_each([tmp_path / "b.yaml", tmp_path / "a.yaml"])
    assert [document.file for document in documents] == [str(tmp_path / "a.yaml")]
    assert [(each.file, each.line) for each in problems] == [(f"{tmp_path}/b.yaml", 1), (f"{tmp_path}/b.yaml", 8)]


def test_a_document_with_a_mistake_of_yaml_is_bad_as_a_whole(tmp_path: Path) -> None:
    """The second `ingress` is not kept, so what is left could mean more than its author wrote."""
    twice = policy("endpointSelector: {}\ningress: [{}]\ningress: [{fromEndpoints: []}]", "bad")
    (tmp_path / "a.yaml").write_text(twice)
    documents, problems = load_each(tmp_path.iterdir())
    assert not documents
    assert [each.message for each in problems] == ["duplicate key, first at 6:3"]


def test_places_of_parts() -> None:
    spec = "endpointSelector: {matchLabels: {'k8s:a': b}}\ningress:\n- toPorts: [{ports: [{port: 1}]}]"
    (document,) = load_text("---\n" + policy(spec), "f")
    place = document.place(("spec", "endpointSelector", "matchLabels", "a"))
    assert (place.file, place.line, place.column) == ("f", 6, 45)
    assert document.place(("spec", "ingress", 0)).line == 8
    assert document.place(("spec", "ingress", 0, "fromEndpoints", 3)) == document.place(("spec", "ingress", 0))


def test_labels_of_a_policy_are_read_and_mean_nothing() -> None:
    text = policy("endpointSelector: {}\nlabels: [{key: team, value: a, source: k8s}, {key: x}]\ningress: [{}]")
    assert len(load_text(text, "x")) == 1
    with pytest.raises(PolicyError, match="unknown field"):
        load_text(text.replace("source: k8s", "colour: red"), "x")
