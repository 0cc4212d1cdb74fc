"""Documents of the whole language, made by chance: for Hypothesis, and from a seed for the test over real connections.

They are plain dicts, as a JSON reader would give them. The vocabulary is small, so that rules meet one another.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml
from hypothesis import settings
from hypothesis import strategies as st

Body = dict[str, Any]
"""A document or a part of one; what may stand in it is `policies.model`'s to say."""


@dataclass(frozen=True)
class Words:
    """What the documents speak of."""

    apps: Sequence[str] = ("web", "frontend", "intruder")
    namespaces: Sequence[str] = ("default", "other")
    teams: Sequence[str] = ("a", "b")
    entities: Sequence[str] = ("all", "world", "cluster", "host", "remote-node", "kube-apiserver", "none")
    cidrs: Sequence[tuple[str, str]] = (
        ("203.0.113.0/24", "203.0.113.8/29"),
        ("0.0.0.0/0", "203.0.113.0/25"),
        ("10.9.0.0/24", "10.9.0.2/32"),
        ("2001:db8::/32", "2001:db8:1::/48"),
    )
    services: Sequence[str] = ("api", "web", "nowhere")
    ports: Sequence[int] = (80, 81, 53)
    ranges: Sequence[tuple[int, int]] = ((80, 81), (8000, 8080), (1, 79))
    names: Sequence[str] = ("http", "dns", "absent")
    methods: Sequence[str] = ("GET", "POST", "GET|POST")
    paths: Sequence[str] = ("/a", "/a.*", "/b/[0-9]+")
    plain_paths: Sequence[str] = ("/a", "/b/1", "/")
    templates: Sequence[str] = ("/b/{id}", "/{any}")
    kafka: bool = True
    audit: bool = True
    """Whether documents in mode audit and other options are made."""


WORDS = Words()
_PROFILE = settings.default or settings()
fewer = settings(max_examples=max(20, _PROFILE.max_examples // 4))
"""For properties of whole documents, where one example asks hundreds of questions."""


class Maker:
    """Makes documents; `choose` takes one of several, which is all the chance there is."""

    def __init__(self, choose: Callable[[Sequence[Any]], Any], words: Words = WORDS) -> None:
        self._choose = choose
        self.words = words

    def chance(self, one_in: int = 2) -> bool:
        """True once in so many times."""
        return bool(self._choose([False] * (one_in - 1) + [True]))

    def several(self, make: Callable[[], Any], least: int, most: int) -> list[Any]:
        """So many of them."""
        return [make() for _ in range(self._choose(range(least, most + 1)))]

    # documents

    def document(self, name: str, l7: str | None = None) -> Body:
        """A document of any kind. l7: the kind of its L7 rules, as two kinds may not stand on one port."""
        kind = self._choose(
            ["CiliumNetworkPolicy", "TulleNetworkPolicy", "CiliumClusterwideNetworkPolicy", "NetworkPolicy"]
        )
        return self.document_of(kind, name, l7)

    def document_of(self, kind: str, name: str, l7: str | None = None) -> Body:
        """A document of that kind."""
        metadata: Body = {"name": name}
        if kind != "CiliumClusterwideNetworkPolicy":
            metadata["namespace"] = self._choose(self.words.namespaces)
        if self.words.audit and self.chance(5):
            options = [("mode", "audit"), ("onFailure", "open"), ("onChange", "close-denied")]
            word, value = self._choose(options)
            metadata["annotations"] = {f"tulle.dev/{word}": value}
        if kind == "NetworkPolicy":
            return {
                "apiVersion": "networking.k8s.io/v1",
                "kind": kind,
                "metadata": metadata,
                "spec": self.kubernetes_spec(),
            }
        l7 = l7 or ("kafka" if self.words.kafka and self.chance(4) else "http")
        tulle = kind == "TulleNetworkPolicy"
        spec = self.spec(l7, tulle, clusterwide=kind == "CiliumClusterwideNetworkPolicy")
        return {
            "apiVersion": "tulle.dev/v1" if tulle else "cilium.io/v2",
            "kind": kind,
            "metadata": metadata,
            "spec": spec,
        }

    def spec(self, l7: str, tulle: bool, clusterwide: bool = False) -> Body:
        """A Cilium spec that says something."""
        spec: Body = {"endpointSelector": self.selector(namespaces=clusterwide)}
        for direction in self._choose([["ingress"], ["ingress"], ["egress"], ["ingress", "egress"]]):
            spec[direction] = self.several(partial(self.rule, direction, l7, tulle), 1, 2)
            if self.chance(3):
                spec[f"{direction}Deny"] = self.several(partial(self.deny_rule, direction), 1, 1)
            if self.chance(8):
                spec["enableDefaultDeny"] = {direction: self.chance()}
        return spec

    def rule(self, direction: str, l7: str | None, tulle: bool = False, denials: bool = True) -> Body:
        """A rule that allows; l7 None: without L7 rules; denials: L7 deny rules may be among them."""
        rule = self.peers(direction)
        if "toServices" not in rule and not self.chance(5):
            rule["toPorts"] = self.several(lambda: self.port_entry(l7, tulle, denials), 1, 2)
        return rule

    def deny_rule(self, direction: str) -> Body:
        """A rule of ingressDeny or egressDeny."""
        rule = self.peers(direction)
        if "toServices" not in rule and (self.chance() or not rule):
            rule["toPorts"] = self.several(lambda: {"ports": self.several(self.port, 1, 1)}, 1, 1)
        return rule

    # who

    def peers(self, direction: str) -> Body:
        """One list of peers, or none."""
        to = "from" if direction == "ingress" else "to"
        kinds = ["none", "Endpoints", "Endpoints", "Entities", "CIDR", "CIDRSet"]
        kind = self._choose(kinds if direction == "ingress" else [*kinds, "Services"])
        if kind == "none":
            return {}
        if kind == "Endpoints":
            return {f"{to}Endpoints": self.several(lambda: self.selector(namespaces=True), 0, 2)}
        if kind == "Entities":
            return {f"{to}Entities": self.several(lambda: self._choose(self.words.entities), 1, 2)}
        if kind == "CIDR":
            return {f"{to}CIDR": self.several(lambda: self._choose(self.words.cidrs)[0], 1, 2)}
        if kind == "CIDRSet":
            cidr, inside = self._choose(self.words.cidrs)
            return {f"{to}CIDRSet": [{"cidr": cidr, "except": [inside]} if self.chance() else {"cidr": cidr}]}
        name = self._choose(self.words.services)
        return {"toServices": [{"k8sService": {"serviceName": name, "namespace": "default"}}]}

    def selector(self, namespaces: bool = False) -> Body:
        """A selector of pods; namespaces: it may name some."""
        app = self._choose(self.words.apps)
        forms: list[Body] = [
            {},
            {"matchLabels": {"app": app}},
            {"matchLabels": {"k8s:app": app}},
            {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [app]}]},
            {"matchExpressions": [{"key": "tier", "operator": self._choose(["Exists", "DoesNotExist"])}]},
        ]
        if namespaces:
            namespace = self._choose(self.words.namespaces)
            team = self._choose(self.words.teams)
            forms += [
                {"matchLabels": {"k8s:io.kubernetes.pod.namespace": namespace}},
                {"matchLabels": {"io.cilium.k8s.namespace.labels.team": team, "app": app}},
            ]
        return dict(self._choose(forms))

    # what

    def port(self) -> Body:
        """One entry of `ports`, L4."""
        form = self._choose(["number", "number", "range", "name", "zero"])
        if form == "range":
            first, last = self._choose(self.words.ranges)
            return {"port": str(first), "endPort": last, "protocol": self._choose(["TCP", "UDP"])}
        port: Body = {"port": "0"}
        if form == "number":
            port = {"port": str(self._choose(self.words.ports))}
        if form == "name":
            port = {"port": self._choose(self.words.names)}
        if protocol := self._choose(["", "TCP", "UDP", "ANY"]):
            port["protocol"] = protocol
        return port

    def port_entry(self, l7: str | None, tulle: bool, denials: bool = True) -> Body:
        """One entry of `toPorts`."""
        if l7 is None or self.chance():
            return {"ports": self.several(self.port, 1, 2)}
        port = {"port": str(self._choose(self.words.ports[:2])), "protocol": "TCP"}
        make = self.kafka_rule if l7 == "kafka" else self.http_rule
        return {"ports": [port], "rules": {l7: self.several(lambda: make(tulle, denials), 0, 2)}}

    def http_rule(self, tulle: bool, denials: bool = True) -> Body:
        """One http rule; tulle: with what Cilium does not have."""
        rule: Body = {}
        if self.chance():
            rule["method"] = self._choose(self.words.methods)
        kind = self._choose(["path", "", *(["pathExact", "pathPrefix", "pathTemplate"] if tulle else [])])
        if kind == "path":
            rule["path"] = self._choose(self.words.paths)
        elif kind:
            rule[kind] = self._choose(self.words.templates if kind == "pathTemplate" else self.words.plain_paths)
        deny = tulle and denials and self.chance(4)
        if deny:
            rule["action"] = "Deny"
        if self.chance(4):
            rule["headers"] = [self._choose(["X-Key", "X-Key: 1"])]
        elif not deny and self.chance(6):
            rule["headerMatches"] = [{"name": "X-Key", "value": "1"}]
            if self.chance():
                rule["headerMatches"][0]["mismatch"] = self._choose(["LOG", "ADD", "DELETE", "REPLACE"])
        if tulle and self.chance(4):
            rule["query"] = [{"key": "k", "value": "v"} if self.chance() else {"key": "k"}]
        return rule

    def kafka_rule(self, tulle: bool, denials: bool = True) -> Body:
        """One kafka rule."""
        rule: Body = {}
        if form := self._choose(["", "role", "apiKey"]):
            roles = ["produce", "consume", *(["admin"] if tulle else [])]
            rule[form] = self._choose(roles) if form == "role" else "fetch"
        if self.chance():
            topics = [("topic", "orders"), *([("topicPrefix", "ord"), ("topicGlob", "*s")] if tulle else [])]
            name, text = self._choose(topics)
            rule[name] = text
        elif tulle and rule.get("role") != "produce" and self.chance(3):
            rule[self._choose(["group", "groupPrefix"])] = "billing"
        if tulle and denials and self.chance(4):
            rule["action"] = "Deny"
        return rule

    # NetworkPolicy

    def kubernetes_spec(self) -> Body:
        """The spec of a NetworkPolicy."""
        spec: Body = {"podSelector": self._labels()}
        types = self._choose([[], ["Ingress"], ["Egress"], ["Ingress", "Egress"]])
        if types:
            spec["policyTypes"] = types
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            if direction.capitalize() in (types or ["Ingress"]):
                spec[direction] = self.several(partial(self.kubernetes_rule, peers), 0, 2)
        return spec

    def kubernetes_rule(self, peers: str) -> Body:
        """One rule of a NetworkPolicy."""
        rule: Body = {}
        if self.chance(4):
            rule[peers] = []
        elif not self.chance(4):
            rule[peers] = self.several(self._kubernetes_peer, 1, 2)
        if self.chance():
            rule["ports"] = self.several(self._kubernetes_port, 1, 2)
        return rule

    def _kubernetes_peer(self) -> Body:
        namespaces: Body = {"namespaceSelector": {"matchLabels": {"team": self._choose(self.words.teams)}}}
        cidr, inside = self._choose(self.words.cidrs)
        return dict(
            self._choose(
                [
                    {"podSelector": self._labels()},
                    namespaces,
                    {"namespaceSelector": {}},
                    {"podSelector": self._labels(), **namespaces},
                    {"ipBlock": {"cidr": cidr}},
                    {"ipBlock": {"cidr": cidr, "except": [inside]}},
                ]
            )
        )

    def _kubernetes_port(self) -> Body:
        first, last = self._choose(self.words.ranges)
        return dict(
            self._choose(
                [
                    {"port": self._choose(self.words.ports)},
                    {"port": self._choose(self.words.ports), "protocol": "UDP"},
                    {"port": self._choose(self.words.names)},
                    {"protocol": self._choose(["TCP", "UDP"])},
                    {"port": first, "endPort": last, "protocol": "TCP"},
                ]
            )
        )

    def _labels(self) -> Body:
        return dict(self._choose([{}, {"matchLabels": {"app": self._choose(self.words.apps)}}]))


def from_seed(seed: int, words: Words = WORDS) -> Maker:
    """Documents that a seed gives."""
    return Maker(random.Random(seed).choice, words)  # noqa: S311  not for secrets


@st.composite
def makers(draw: st.DrawFn) -> Maker:
    """Documents that Hypothesis makes, and makes smaller."""
    return Maker(lambda options: draw(st.sampled_from(options)))


@st.composite
def bodies(draw: st.DrawFn, least: int = 1, most: int = 3, l7: str | None = None) -> list[Body]:
    """Several documents with names of their own."""
    maker = Maker(lambda options: draw(st.sampled_from(options)))
    return [maker.document(f"p{i}", l7) for i in range(draw(st.integers(least, most)))]


def dumped(body: Body) -> str:
    """Its text, as YAML."""
    text: str = yaml.safe_dump(body, sort_keys=False)
    return text


def dumped_json(body: Body) -> str:
    """Its text, as JSON."""
    return json.dumps(body)


def texts_of_documents(least: int = 1, most: int = 3, l7: str | None = None) -> st.SearchStrategy[list[str]]:
    """Texts of several documents."""
    return bodies(least, most, l7).map(lambda found: [dumped_json(body) for body in found])
