"""compile(parse(dump(x))) == compile(x), for documents of every kind, through YAML and through JSON."""

import json
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.compile import compile_policies
from policies.errors import PolicyError, Problem
from policies.load import Document, dump, load_text

type Data = dict[str, Any]  # a document as JSON has it: what stands in it differs from key to key


def some(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Data]:
    """A mapping with any of these fields; those that begin with `_` are always there, without the `_`."""
    required = {name[1:]: each for name, each in parts.items() if name.startswith("_")}
    optional = {name: each for name, each in parts.items() if not name.startswith("_")}
    return st.fixed_dictionaries(required, optional=optional)


def several(each: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[list[Any]]:
    return st.lists(each, min_size=least, max_size=2)


words = st.sampled_from(["a", "b", "on", "1", "null", "x-y.z", "é"])
values = st.sampled_from(["", "a", "yes", "1.10", "0777", "A_b"])
keys = st.sampled_from(["app", "k8s:app", "any:tier", "example.com/x", "k8s:io.kubernetes.pod.namespace", "y"])
derived = st.sampled_from(["k8s:io.cilium.k8s.namespace.labels.team", "io.kubernetes.pod.namespace"])


def selectors(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Data]:
    expressions = some(_key=keys, _operator=st.sampled_from(["In", "NotIn"]), _values=several(values, 1)) | some(
        _key=keys, _operator=st.sampled_from(["Exists", "DoesNotExist"]), values=st.just([])
    )
    found = some(matchLabels=st.dictionaries(keys, values, max_size=2), matchExpressions=several(expressions))
    return found.filter(_one_source)


def _one_source(selector: Data) -> bool:
    labels = selector.get("matchLabels", ())
    return len({key.rpartition(":")[2] for key in labels}) == len(labels)


plain_keys = st.sampled_from(["app", "example.com/x", "y", "on"])
subjects = selectors(st.sampled_from(["app", "k8s:tier", "k8s:io.cilium.k8s.namespace.labels.team"]))
reserved = st.sampled_from([{"matchLabels": {"reserved:host": ""}}, {"matchLabels": {"reserved:world": ""}}])
cidrs = st.sampled_from(["10.1.2.3/8", "::1/64", "0.0.0.0/0", "FD00::/8"])
cidr_sets = st.sampled_from(
    [
        {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16", "10.1.0.3/16"]},
        {"cidr": "::/0"},
        {"cidr": "10.0.0.0/9", "except": []},
    ]
)
entities = st.sampled_from(["world", "all", "host", "cluster", "none"])
services = st.one_of(
    some(_k8sService=some(_serviceName=st.just("svc"), namespace=st.sampled_from(["", "n"]))),
    some(_k8sServiceSelector=some(_selector=selectors(plain_keys), namespace=st.just("n"))),
)


def peers(prefix: str) -> st.SearchStrategy[Data]:
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "Endpoints": several(selectors(keys | derived) | reserved),
        "Entities": several(entities),
        "CIDR": several(cidrs | st.sampled_from(["1.2.3.4", "::2"])),
        "CIDRSet": several(cidr_sets),
    }
    if prefix == "to":
        kinds["Services"] = several(services)
    return st.just({}) | st.one_of(*(some(**{f"_{prefix}{name}": each}) for name, each in kinds.items()))


l4_ports = st.one_of(
    some(_port=st.sampled_from([0, "0", 80, "81", "HTTP", "dns"]), protocol=st.sampled_from(["TCP", "udp", "ANY", ""])),
    some(_port=st.sampled_from([80, "81"]), _endPort=st.sampled_from([81, 90]), protocol=st.just("TCP")),
)
l7_ports = some(_port=st.sampled_from([80, "81", "http"]), protocol=st.sampled_from(["TCP", "ANY"]))
header_matches = some(
    _name=st.just("X-A"), _value=words, mismatch=st.sampled_from(["", "LOG", "ADD", "DELETE", "REPLACE"])
) | some(_name=st.just("x-b"))
http = some(
    method=st.sampled_from(["", "GET", "GET|POST"]),
    host=words,
    headers=several(st.sampled_from(["X-A", "X-A: b", "X-A: on"])),
    headerMatches=several(header_matches),
)
paths = some(path=st.sampled_from(["", "/a", "/a.*", "/é"]))
our_paths = st.one_of(
    some(pathExact=st.just("/a")), some(pathPrefix=st.just("/")), some(pathTemplate=st.just("/u/{id}")), paths
)
queries = some(query=several(some(_key=words, value=values)))
kafka = some(
    apiVersion=st.sampled_from(["", "3"]), clientID=words, topic=st.sampled_from(["", "orders", "1"])
)  # fmt: skip
bare_kafka = some(apiVersion=st.sampled_from(["", "3"]), clientID=words)
our_names = st.one_of(
    some(_topicPrefix=st.just("ord")),
    some(_topicGlob=st.sampled_from(["*", "a?b*"])),
    some(_group=words),
    some(_transactionalIdPrefix=words),
    some(_role=st.sampled_from(["admin", "Admin"])),
)
our_kafka = some(action=st.just("Allow"))
denying = some(action=st.just("Deny"))
kafka_names = st.one_of(some(role=st.sampled_from(["", "produce", "Consume"])), some(apiKey=st.just("Fetch")))


def merged(*parts: st.SearchStrategy[Data]) -> st.SearchStrategy[Data]:
    return st.tuples(*parts).map(lambda each: {key: value for part in each for key, value in part.items()})


def with_action(rule: Data, action: str) -> Data:
    matches = [{k: v for k, v in match.items() if k != "mismatch"} for match in rule.get("headerMatches", ())]
    return {**rule, "action": action, **({"headerMatches": matches} if matches else {})}


def port_rules(ours: bool) -> st.SearchStrategy[Data]:
    requests = merged(http, our_paths, queries) if ours else merged(http, paths)
    records = merged(kafka, kafka_names)
    if ours:
        requests |= st.builds(with_action, requests, st.sampled_from(["Allow", "Deny"]))
        records = merged(kafka, kafka_names, our_kafka) | merged(bare_kafka, our_names, denying)
    judged: st.SearchStrategy[Data] = st.one_of(some(_http=several(requests)), st.just({}))
    return st.one_of(
        some(_ports=several(l4_ports, 1)),
        some(_ports=several(l7_ports, 1), rules=judged),
        some(_ports=st.just([{"port": 9092}]), _rules=some(_kafka=several(records))),
    )


def spec(ours: bool) -> st.SearchStrategy[Data]:
    def rules(prefix: str) -> st.SearchStrategy[list[Data]]:
        return several(merged(peers(prefix), some(toPorts=several(port_rules(ours), 1))))

    def denials(prefix: str) -> st.SearchStrategy[list[Data]]:
        return several(merged(peers(prefix), some(toPorts=several(some(_ports=several(l4_ports, 1)), 1))))

    said = some(
        mode=st.sampled_from(["enforce", "audit"]),
        onFailure=st.sampled_from(["open", "closed"]),
        onChange=st.sampled_from(["next-request", "close-denied"]),
    )
    base = some(
        _endpointSelector=subjects,
        ingress=rules("from"),
        egress=rules("to"),
        ingressDeny=denials("from"),
        egressDeny=denials("to"),
        enableDefaultDeny=some(ingress=st.booleans(), egress=st.booleans()),
        description=words,
    )
    directions = ("ingress", "egress", "ingressDeny", "egressDeny")
    return (merged(base, said) if ours else base).map(
        lambda one: one if any(one.get(name) for name in directions) else {**one, "ingress": [{}]}
    )


blocks = st.sampled_from([{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "::/0"}])
items = st.one_of(
    some(_podSelector=selectors(plain_keys), namespaceSelector=selectors(plain_keys)),
    some(_namespaceSelector=selectors(plain_keys)),
    some(_ipBlock=blocks),
)
kubernetes_ports = st.one_of(
    some(protocol=st.sampled_from(["TCP", "UDP"]), port=st.sampled_from([80, "http"])),
    some(_port=st.just(80), _endPort=st.just(90)),
)
kubernetes_spec = some(
    podSelector=selectors(plain_keys),
    policyTypes=st.sampled_from([[], ["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
    ingress=several(some(**{"from": several(items)}, ports=several(kubernetes_ports))),
    egress=several(some(to=several(items), ports=several(kubernetes_ports))),
)
annotations = some(
    **{"tulle.dev/mode": st.sampled_from(["enforce", "audit"]), "tulle.dev/onFailure": st.just("open"), "n": words}
)


@st.composite
def documents(draw: st.DrawFn) -> Data:
    """A document that is good, as data."""
    kind = draw(
        st.sampled_from(
            ["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "TulleNetworkPolicy", "NetworkPolicy"]
        )
    )
    version = {"NetworkPolicy": "networking.k8s.io/v1", "TulleNetworkPolicy": "tulle.dev/v1"}.get(kind, "cilium.io/v2")
    meta: Data = {"name": "p"}
    if kind != "CiliumClusterwideNetworkPolicy" and draw(st.booleans()):
        meta["namespace"] = "n"
    if kind != "TulleNetworkPolicy" and draw(st.booleans()):
        meta["annotations"] = draw(annotations)
    whole: Data = {"apiVersion": version, "kind": kind, "metadata": meta}
    if kind == "NetworkPolicy":
        return {**whole, "spec": draw(kubernetes_spec)}
    each = spec(kind == "TulleNetworkPolicy")
    whole |= draw(some(_spec=each, specs=several(each, 1)) | some(_specs=several(each, 1)))
    return {**whole, "status": {"conditions": None}} if draw(st.booleans()) else whole


@given(documents())
def test_what_is_dumped_says_the_same(data: Data) -> None:
    first = load_text(json.dumps(data), "f.json")
    policies = compile_policies(first)
    assert (
        compile_policies(load_text(yaml.dump(data, Dumper=yaml.CSafeDumper, allow_unicode=True), "f.yaml")) == policies
    )
    for as_json in (False, True):
        again = load_text(dump(first, as_json=as_json), "again")
        assert compile_policies(again) == policies
        assert dump(again, as_json=as_json) == dump(first, as_json=as_json)
        assert [one.key for one in again] == [one.key for one in first]


@given(documents())
def test_every_name_has_a_place_and_no_name_two_rules(data: Data) -> None:
    policies = compile_policies(load_text(json.dumps(data, indent=1), "f.json"))
    names: list[str] = []
    for section in policies.sections:
        grants = [*(section.ingress or ()), *(section.egress or ())]
        by_name = {grant.name: grant for grant in grants}
        names += by_name
        for grant in by_name.values():
            names += [rule.name for rule in grant.http or ()]
            names += [rule.name for rule in grant.kafka or ()]
        for grant in grants:  # the grants of one name differ in the port alone
            other = by_name[grant.name]
            assert (grant.peers, grant.http, grant.kafka, grant.deny) == (
                other.peers, other.http, other.kafka, other.deny,
            )  # fmt: skip
    assert len(set(names)) == len(names)
    assert set(names) <= set(policies.places)
    assert all(place.line > 1 for place in policies.places.values())


def read(text: str) -> tuple[list[Document], list[Problem]]:
    """The documents, or what is wrong with them."""
    try:
        return load_text(text, "f.json"), []
    except PolicyError as error:
        return [], error.problems


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 70_000),
    st.sampled_from(["", "a", "10.0.0.0/8", "reserved:host", "[key]", "/a", "TCP"]),
    st.just([]),
    st.just({}),
    st.just([{"port": 80}]),
    st.just({"matchLabels": {"reserved:host": "", "a": "b"}}),
)


@given(documents(), st.data())
def test_a_spoiled_document_is_read_or_refused_at_a_place(data: Data, draws: st.DataObject) -> None:
    """Whatever stands wherever: no other exception, no problem without a line, and no secret name of ours in it."""
    nodes: list[tuple[Any, Any]] = []  # every value, by what holds it

    def walk(node: Any) -> None:  # Any: a part of a document
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            nodes.append((node, key))
            walk(node[key])

    data = json.loads(json.dumps(data))  # parts are shared between documents
    walk(data)
    for _ in range(draws.draw(st.integers(1, 3))):
        holder, key = draws.draw(st.sampled_from(nodes))
        if key not in (holder if isinstance(holder, dict) else range(len(holder))):
            continue
        holder[key] = json.loads(json.dumps(draws.draw(anything)))
    if draws.draw(st.booleans()) and isinstance(data.get("spec"), dict):
        data["spec"][draws.draw(st.sampled_from(["mode", "ingress", "speck", "policyTypes", "[key]"]))] = draws.draw(
            anything
        )
    documents, problems = read(json.dumps(data, indent=1))
    assert all(problem.line > 0 and "\n" not in str(problem) for problem in problems)
    assert not [str(each) for each in problems if "Annotated" in str(each) or "function-" in str(each)]
    if documents:
        assert compile_policies(load_text(dump(documents), "f")) == compile_policies(documents)
