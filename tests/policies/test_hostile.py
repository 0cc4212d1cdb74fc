"""Hostile documents are refused by counting, before they cost anything.

Each test names the bound that it meets. Without that bound the text would be read and the message be another, or the
suite's time-out would end the test.
"""

import tracemalloc
from pathlib import Path

import pytest

from policies.errors import PolicyError
from policies.load import load_each, load_text
from policies.matchers import matcher
from policies.source import MAX_BYTES, MAX_DEPTH, MAX_NODES
from tests.policies.texts import compiled, policy


def refused(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        load_text(text, "f")
    return caught.value.problems[0].message


def test_ten_megabytes() -> None:
    assert refused("# " + "x" * 10_000_000) == f"larger than {MAX_BYTES} bytes"
    assert refused("é" * (MAX_BYTES // 2 + 1)) == f"larger than {MAX_BYTES} bytes"


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting(opening: str) -> None:
    text = opening * (MAX_BYTES // len(opening))
    assert refused(text) in (f"nested deeper than {MAX_DEPTH} levels", "a key must be text")


def test_depth_counts_through_aliases() -> None:
    lines = ["a0: &a0 []"] + [f"a{n}: &a{n} [[[*a{n - 1}]]]" for n in range(1, 20)]
    assert refused("\n".join(lines)) == f"nested deeper than {MAX_DEPTH} levels"


def test_bomb_of_aliases() -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for name, before in zip("bcdefghij", "abcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]")
    tracemalloc.start()
    try:
        message = refused("\n".join(lines))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message == f"more than {MAX_NODES} values, aliases counted as what they stand for"
    assert peak < 4 << 20


def test_many_documents_of_aliases_beside_one_that_is_broken() -> None:
    """What is read document by document is bounded as a whole, as what is read at once."""
    one = "---\na: &a [" + "x," * 300 + "]\nb: [" + "*a," * 300 + "]\n"
    assert len(one * 10) < 20_000
    tracemalloc.start()
    try:
        message = refused("a: [\n" + one * 10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message == "not YAML: did not find expected node content"
    assert peak < 16 << 20


def test_a_hostile_document_takes_no_other_with_it(tmp_path: Path) -> None:
    bomb = "a: &a [" + "x," * 400 + "]\nb: [" + "*a," * 400 + "]\n"
    good = policy("endpointSelector: {}\ningress: [{}]", "good")
    (tmp_path / "a.yaml").write_text(f"{good}---\n{bomb}---\n{good.replace('good', 'other')}")
    (tmp_path / "b.yaml").write_text("x" * 10_000_000)
    documents, problems = load_each(tmp_path.iterdir())
    assert [each.name for each in documents] == ["good", "other"]
    assert [each.message.split(",")[0] for each in problems] == [
        f"more than {MAX_NODES} values",
        f"larger than {MAX_BYTES} bytes",
    ]


def test_thousands_of_labels_and_peers() -> None:
    labels = ",".join(f"a{n}: b" for n in range(10_000))
    assert compiled(policy(f"endpointSelector: {{matchLabels: {{{labels}}}}}\ningress: [{{}}]")).sections
    cidrs = ",".join(f"10.{n >> 8 & 255}.{n & 255}.0/24" for n in range(10_000))
    found = compiled(policy(f"endpointSelector: {{}}\ningress: [{{fromCIDR: [{cidrs}]}}]")).sections[0].ingress
    assert found is not None
    assert len(found[0].peers or ()) == 10_000


def test_alias_as_a_key() -> None:
    assert refused("&a a: b\n*a : c") == "a key must be text, not an alias"


def test_a_hundred_thousand_rules() -> None:
    rules = "- {path: /a}\n" * 60_000
    text = "endpointSelector: {}\ningress:\n- toPorts:\n  - ports: [{port: 80}]\n    rules:\n      http:\n"
    whole = policy(text) + rules.replace("- ", "        - ")
    assert refused(whole) == f"larger than {MAX_BYTES} bytes"
    flow = policy("endpointSelector: {}\ningress: [{toPorts: [{ports: [{port: 80}], rules: {http: [" + "{}," * 100_000)
    assert refused(flow).startswith("more than")


def test_ten_thousand_rules_load() -> None:
    rules = ",".join(f"{{path: /p{n}}}" for n in range(10_000))
    text = policy(
        f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{{port: 80}}], rules: {{http: [{rules}]}}}}]}}]"
    )
    ingress = compiled(text).sections[0].ingress
    assert ingress is not None
    assert len(ingress[0].http or ()) == 10_000


def test_numbers_too_long_to_convert() -> None:
    assert refused(policy(f"endpointSelector: {{}}\ningress: [{{}}]\ndescription: {'9' * 10_000}")).startswith(
        "a number"
    )


def test_catastrophic_patterns_match_in_linear_time() -> None:
    rule = "{path: '/(a+)+b'}"
    text = policy(
        f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{{port: 80}}], rules: {{http: [{rule}]}}}}]}}]"
    )
    ingress = compiled(text).sections[0].ingress
    assert ingress is not None
    assert ingress[0].http is not None
    path = ingress[0].http[0].path
    assert path is not None
    assert not matcher(path)("/" + "a" * 100_000)
