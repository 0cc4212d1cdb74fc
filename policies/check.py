"""What surprises people in policies that are good: warnings, each at the place of its rule.

Without an inventory only what the text itself shows is said; with one, also what pods, ports and services prove.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network

from policies.describe import peer_text, port_text, selector_text, title
from policies.engine import HttpRequest
from policies.errors import Problem
from policies.explain import matches
from policies.inventory import Inventory
from policies.kafka import API_NAMES, Acl, acls, means_everything
from policies.kafka_questions import MAIN
from policies.kafka_rules import glob_pattern, head_of, plain_name
from policies.matchers import PatternError, literals, matcher
from policies.policyset import CidrPeer, EntityPeer, Grant, Peer, Place, PolicySet, PortSpec, Section, ServicePeer
from policies.requests import Operation, Resource
from policies.resolve import resolve
from policies.ruleset import (
    ANY_PROTOCOL,
    MAX_PORT,
    HttpRule,
    KafkaRule,
    Mismatch,
    NameKind,
    PathKind,
)
from policies.selector import IdentityIndex, Selector

MAX_OF_A_KIND = 100
"""Warnings of one kind; the rest are counted in one more."""
MAX_STEPS = 2_000_000
"""Comparisons of rules, a few microseconds each; past it a warning says that not all were made."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A mistake ("error") or a surprise ("warning"). line and column count from 1, 0 is the file as a whole."""

    file: str
    line: int
    column: int
    severity: str
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.severity}: {f'{self.field}: ' if self.field else ''}{self.message}"


def of_problem(problem: Problem) -> Finding:
    """A mistake."""
    return Finding(problem.file, problem.line, problem.column, "error", problem.field, problem.message)


def field_of(rule: str) -> str:
    """Where a rule stands in its document, by the name that verdicts give it."""
    path = rule.rpartition(" ")[2]
    for kind in ("http", "kafka"):
        path = path.replace(f".{kind}[]", f".rules.{kind}").replace(f".{kind}[", f".rules.{kind}[")
    return path if path.startswith("specs[") else f"spec.{path}"


@dataclass(frozen=True, slots=True)
class _Rules:
    """One direction of one section: grants that differ in the port alone are one entry."""

    section: Section
    direction: str
    entries: tuple[tuple[Grant, ...], ...]


class Checker:
    """Warnings about one set of policies."""

    def __init__(self, policies: PolicySet, inventory: Inventory | None = None) -> None:
        self._policies = policies
        self._inventory = inventory
        self._parts = list(_parts(policies))
        self._pods: dict[Selector, frozenset[int]] = {}
        self._index: IdentityIndex | None = None
        if inventory is not None:
            rules = resolve(PolicySet(), inventory, 1)
            self._index = IdentityIndex(rules.identities, inventory.namespaces)

    def warnings(self) -> list[Finding]:
        """All of them, sorted."""
        found: list[Finding] = []
        for kind in (
            self._blind_to_queries,
            self._blind_to_topics,
            self._shadowed,
            self._deny_only,
            self._nobody,
            self._voided,
        ):
            some: list[Finding] = []
            for finding in kind():
                if len(some) == MAX_OF_A_KIND:
                    some.append(Finding(finding.file, 0, 0, "warning", "", "and more of the warnings above"))
                    break
                some.append(finding)
            found += some
        return sorted(set(found))

    def _at(self, rule: str, message: str, part: str = "", owner: Section | None = None) -> Finding:
        place = self._policies.places.get(rule)
        if place is None:  # `http[]` stands where its entry does
            place = self._policies.places.get(rule.rpartition(".")[0], Place("", 0, 0))
        return Finding(place.file, place.line, place.column, "warning", field_of(rule) + part, message)

    def _http(self) -> Iterator[tuple[Grant, tuple[HttpRule, ...]]]:
        for part in self._parts:
            for same in part.entries:
                if same[0].http is not None:
                    yield same[0], same[0].http

    def _blind_to_queries(self) -> Iterator[Finding]:
        for _, rules in self._http():
            for rule in rules:
                if rule.path is not None and rule.path_kind is PathKind.REGEX and _ends_before_query(rule.path):
                    what = "deny" if rule.deny else "match"
                    example = next(iter(sorted(literals(rule.path) or ())), rule.path)
                    message = f"a path pattern sees the query too: '{example}' does not {what} '{example}?x=1'"
                    better = _with_query(rule.path, example)
                    hint = f"; write {better} if that is meant" if better else ""
                    yield self._at(rule.name, message + hint, ".path")

    def _blind_to_topics(self) -> Iterator[Finding]:
        """An API that asks nothing of what the rule names."""
        for part in self._parts:
            for same in part.entries:
                for rule in same[0].kafka or ():
                    if rule.api_key is None:
                        continue
                    asked = {ask.resource for step in MAIN.get(rule.api_key, ()) for ask in step}
                    name = API_NAMES[rule.api_key]
                    for what, resource, given in (
                        ("topic", Resource.TOPIC, rule.topic),
                        ("group", Resource.GROUP, rule.group),
                        ("transactional id", Resource.TRANSACTIONAL_ID, rule.transactional_id),
                    ):
                        if given is not None and resource not in asked:
                            yield self._at(rule.name, f"{name} is not about a {what}: the rule's says nothing")

    def _shadowed(self) -> Iterator[Finding]:
        for _, rules in self._http():
            yield from self._shadowed_in(rules)
        for part in self._parts:
            for same in part.entries:
                yield from self._shadowed_kafka(same[0].kafka or ())

    def _shadowed_in(self, rules: Sequence[HttpRule]) -> Iterator[Finding]:
        if len(rules) > 300:  # pairs of one list; longer lists are made by programs
            rules = rules[:300]
        for i, rule in enumerate(rules):
            for j, other in enumerate(rules):
                if i == j or not covers(other, rule):
                    continue
                if other.deny and not rule.deny:
                    yield self._at(rule.name, f"allows nothing: all of it is denied by {field_of(other.name)}")
                    break
                if other.deny is rule.deny and (j < i or not covers(rule, other)):
                    yield self._at(rule.name, f"has no effect: {field_of(other.name)} covers all of it")
                    break

    def _shadowed_kafka(self, rules: Sequence[KafkaRule]) -> Iterator[Finding]:
        for i, rule in enumerate(rules[:300]):
            for j, other in enumerate(rules[:300]):
                if i == j or not _covers_kafka(other, rule):
                    continue
                if other.deny and not rule.deny:
                    yield self._at(rule.name, f"allows nothing: all of it is denied by {field_of(other.name)}")
                    break
                if other.deny is rule.deny and (j < i or not _covers_kafka(rule, other)):
                    yield self._at(rule.name, f"has no effect: {field_of(other.name)} covers all of it")
                    break

    def _deny_only(self) -> Iterator[Finding]:
        for part in self._parts:
            for same in part.entries:
                rules: list[HttpRule | KafkaRule] = [*(same[0].http or ()), *(same[0].kafka or ())]
                if rules and all(rule.deny for rule in rules):
                    message = "only denies: unless another rule allows requests on this port, none is allowed"
                    yield self._at(same[0].name, message)

    def _nobody(self) -> Iterator[Finding]:
        if self._inventory is None:
            return
        for section in self._policies.sections:
            if not self._select(section.selector):
                first = next((g.name for g in (*(section.ingress or ()), *(section.egress or ()))), "")
                word = "podSelector" if section.policy.kind == "NetworkPolicy" else "endpointSelector"
                selector = f"{field_of(first).partition('.')[0]}.{word}" if " specs[" in first else f"spec.{word}"
                places = self._policies.places
                place = places.get(title(section.policy)) or places.get(first, Place("", 0, 0))
                message = (
                    f"{title(section.policy)} selects no pod: there is none with {selector_text(section.selector)}"
                )
                yield Finding(place.file, place.line, place.column, "warning", selector, message)
        for part in self._parts:
            for same in part.entries:
                yield from self._nobody_in(part, same)

    def _nobody_in(self, part: _Rules, same: Sequence[Grant]) -> Iterator[Finding]:
        if self._inventory is None:
            raise AssertionError("asked with an inventory alone")
        grant = same[0]
        if grant.peers is not None:
            if not grant.peers:
                yield self._at(grant.name, "its list of peers is empty, which matches nobody")
            for peer in grant.peers:
                if isinstance(peer, Selector) and not self._select(peer):
                    yield self._at(grant.name, f"matches no pod: there is none with {selector_text(peer)}")
                if isinstance(peer, ServicePeer) and not _has_service(peer, self._inventory):
                    yield self._at(grant.name, f"there is no {peer_text(peer)}")
        for each in same:
            if each.port.named is not None and not any(
                port.name == each.port.named for pod in self._inventory.pods for port in pod.ports
            ):
                yield self._at(grant.name, f"no pod has a port named '{each.port.named}'")

    def _select(self, selector: Selector) -> frozenset[int]:
        if self._index is None:
            raise AssertionError("asked with an inventory alone")
        return self._index.select(selector)

    def _voided(self) -> Iterator[Finding]:
        """L4 rules beside others: an allow that voids request rules, a denial that voids an allow."""
        steps = 0
        for direction in ("ingress", "egress"):
            parts = [part for part in self._parts if part.direction == direction]
            l4: dict[Selector, list[tuple[_Rules, tuple[Grant, ...]]]] = {}
            for part in parts:
                plain = [(part, same) for same in part.entries if _is_l4(same[0])]
                if plain:
                    l4.setdefault(part.section.selector, []).extend(plain)
            beside: dict[Selector, list[tuple[_Rules, tuple[Grant, ...]]]] = {}
            for part in parts:
                selector = part.section.selector
                if selector not in beside:
                    steps += len(l4)
                    beside[selector] = [
                        each for other, entries in l4.items() if self._meet(selector, other) for each in entries
                    ]
                for same in part.entries:
                    if same[0].deny:
                        continue
                    steps += len(beside[selector])
                    if steps > MAX_STEPS:
                        first = next(iter(self._policies.places.values()), Place("policies", 0))
                        message = f"more than {MAX_STEPS} comparisons of rules: not all that void others are told"
                        yield Finding(first.file, 0, 0, "warning", "", message)
                        return
                    found = (self._void(part, same, other, wide) for other, wide in beside[selector])
                    yield from itertools.islice((each for each in found if each is not None), 1)

    def _void(self, part: _Rules, same: tuple[Grant, ...], other: _Rules, wide: tuple[Grant, ...]) -> Finding | None:
        grant, by = same[0], wide[0]
        if grant is by or (other.section.options.audit and not part.section.options.audit):
            return None
        if by.deny:
            if (
                self._covers_selector(other.section.selector, part.section.selector)
                and _all_covered(grant.peers, by.peers)
                and all(any(_port_covers(w.port, n.port) for w in wide) for n in same)
            ):
                return self._at(grant.name, f"allows nothing: {by.name} denies all of it")
            return None
        if grant.http is None and grant.kafka is None:
            return None
        if not any(_ports_meet(w.port, n.port) for w in wide for n in same):
            return None
        peers = self._peers_voided(grant.peers, by.peers)
        if not peers:
            return None
        port = next(port_text(n.port) for n in same if any(_ports_meet(w.port, n.port) for w in wide))
        rules: list[HttpRule | KafkaRule] = [*(grant.http or ()), *(grant.kafka or ())]
        deny = any(rule.deny for rule in rules)
        what = "its rules that allow say nothing" if deny else "its request rules say nothing"
        return self._at(grant.name, f"{what}: {by.name} allows {peers} on {port} without looking at requests")

    def _meet(self, one: Selector, two: Selector) -> bool:
        """Whether some pod can be selected by both: proven by the text, or by a pod."""
        if _narrower(one, two) or _narrower(two, one):
            return True
        return self._index is not None and bool(self._select(one) & self._select(two))

    def _covers_selector(self, wide: Selector, narrow: Selector) -> bool:
        return _narrower(narrow, wide)

    def _peers_voided(self, l7: tuple[Peer, ...] | None, l4: tuple[Peer, ...] | None) -> str:
        """The peers of the L7 rule that the L4 rule names, in words; "" when none is proven."""
        if l4 is None:
            return "every peer"
        if l7 is None:
            return ", ".join(map(peer_text, l4)) if l4 else ""
        shared = [peer for peer in l7 if any(_peer_covers(wide, peer) for wide in l4)]
        shared += [peer for peer in l4 if peer not in shared and any(_peer_covers(wide, peer) for wide in l7)]
        if not shared and self._index is not None:
            selectors = [peer for peer in l4 if isinstance(peer, Selector)]
            shared += [
                peer
                for peer in l7
                if isinstance(peer, Selector) and any(self._select(peer) & self._select(wide) for wide in selectors)
            ]
        return ", ".join(map(peer_text, shared))


def _parts(policies: PolicySet) -> Iterator[_Rules]:
    for section in policies.sections:
        for direction, grants in (("ingress", section.ingress), ("egress", section.egress)):
            names: dict[str, list[Grant]] = {}
            for grant in grants or ():
                names.setdefault(grant.name, []).append(grant)
            yield _Rules(section, direction, tuple(tuple(same) for same in names.values()))


def _is_l4(grant: Grant) -> bool:
    return grant.http is None and grant.kafka is None


def _has_service(peer: ServicePeer, inventory: Inventory) -> bool:
    return any(
        peer.namespace in (None, service.namespace)
        and peer.name in (None, service.name)
        and (peer.selector is None or peer.selector.matches(service.namespace, service.labels))
        for service in inventory.services
    )


_OPEN = (".", "[^", "\\?", "[?", "\\S", "\\W", "\\D", "\\p", "\\P", "\\C", "[[:")


def _ends_before_query(pattern: str) -> bool:
    """Whether no text with a `?` can match; a pattern that is not plain to read is taken to know what it does."""
    texts = literals(pattern)
    if texts is not None:
        return not any("?" in text for text in texts)
    unescaped = pattern.replace("\\.", "").replace("\\\\", "")
    if any(sign in unescaped for sign in _OPEN):
        return False
    return "?" not in _in_classes(unescaped)


def _with_query(pattern: str, example: str) -> str:
    """The pattern with a query or without; "" when it is not plain how to write it."""
    bare = pattern.removeprefix("^")
    if bare.endswith("$") and not bare.endswith("\\$"):
        bare = bare[:-1]
    better = f"({bare})([?].*)?" if "|" in bare else f"{bare}([?].*)?"
    try:
        wide = matcher(better)
    except PatternError:
        return ""
    plain = literals(pattern)
    texts = plain if plain is not None else {example} if matcher(pattern)(example) else set()
    return better if all(wide(text) and wide(f"{text}?x=1") for text in texts) else ""


def _in_classes(pattern: str) -> str:
    """Everything inside square brackets."""
    return "".join(piece.partition("]")[0] for piece in pattern.split("[")[1:])


def covers(wide: HttpRule, narrow: HttpRule) -> bool:
    """Whether every request that `narrow` matches is matched by `wide`; False where that is not plain to see."""
    if any(h.mismatch is not Mismatch.REFUSE for h in (*wide.headers, *narrow.headers)):
        return False  # each edits or logs in its own way
    return (
        _texts_cover(wide.method, narrow.method)
        and _texts_cover(wide.host, narrow.host)
        and _path_covers(wide, narrow)
        and all(any(h.name == n.name and h.value in (None, n.value) for n in narrow.headers) for h in wide.headers)
        and all(any(q.key == n.key and q.value in (None, n.value) for n in narrow.query) for q in wide.query)
    )


def _texts_cover(wide: str | None, narrow: str | None) -> bool:
    if wide is None or wide == narrow:
        return True
    if narrow is None:
        return False
    inner, outer = _literals(narrow), _literals(wide)
    return wide == ".*" or (inner is not None and outer is not None and inner <= outer)


def _path_covers(wide: HttpRule, narrow: HttpRule) -> bool:
    if wide.path is None or (wide.path, wide.path_kind) == (narrow.path, narrow.path_kind):
        return True
    if narrow.path is None:
        return False
    if wide.path_kind is PathKind.REGEX and wide.path in (".*", "/.*"):
        return True
    texts = _literals(narrow.path) if narrow.path_kind is PathKind.REGEX else None
    if texts is not None:
        match = _path_matcher(wide.path, wide.path_kind)
        return all(match(text) for text in texts)
    if wide.path_kind is PathKind.PREFIX and narrow.path_kind in (PathKind.EXACT, PathKind.PREFIX, PathKind.TEMPLATE):
        start = wide.path.rstrip("/")
        return narrow.path == start or narrow.path.startswith(f"{start}/")
    if wide.path_kind is PathKind.REGEX and wide.path.endswith(".*"):
        start_texts = _literals(wide.path[:-2])
        if start_texts is not None and len(start_texts) == 1:
            (text,) = start_texts
            if narrow.path_kind is PathKind.REGEX:
                start = wide.path[:-2]
                after = narrow.path[len(start) : len(start) + 1]
                return narrow.path.startswith(start) and "|" not in narrow.path and after not in ("?", "*", "{")
            return narrow.path.startswith(text) and "{" not in text
    return False


@lru_cache(maxsize=4096)
def _literals(pattern: str) -> frozenset[str] | None:
    return literals(pattern)


@lru_cache(maxsize=4096)
def _path_matcher(path: str, kind: PathKind) -> Callable[[str], bool]:
    if kind is PathKind.REGEX:
        return matcher(path)
    rule = HttpRule("", path=path, path_kind=kind)
    return lambda text: matches(rule, HttpRequest("GET", text))


def _covers_kafka(wide: KafkaRule, narrow: KafkaRule) -> bool:
    """Whether everything that `narrow` is about `wide` is about too; False where that is not plain to see."""
    return (
        wide.api_key in (None, narrow.api_key)
        and wide.api_version in (None, narrow.api_version)
        and wide.client_id in (None, narrow.client_id)
        and (not wide.deny or not narrow.deny or means_everything(wide) or not means_everything(narrow))
        and all(any(_covers_acl(each, acl) for each in acls(wide)) for acl in acls(narrow))
    )


def _covers_acl(wide: Acl, narrow: Acl) -> bool:
    if wide.resource is not narrow.resource:
        return False
    if wide.operations is not None and not set(narrow.operations or Operation) <= set(wide.operations):
        return False
    (wide_kind, wide_name), (kind, name) = plain_name(wide), plain_name(narrow)
    if wide_name is None:
        return True
    if name is None:
        return False
    if wide_kind is NameKind.PREFIX:
        return (head_of(name) if kind is NameKind.GLOB else name).startswith(wide_name)
    if wide_kind is NameKind.GLOB and kind is NameKind.EXACT:
        return matcher(glob_pattern(wide_name))(name)
    return (wide_kind, wide_name) == (kind, name)


def _narrower(narrow: Selector, wide: Selector) -> bool:
    """Whether everything that `narrow` selects is selected by `wide`, as far as the text shows."""
    return set(wide.requirements) <= set(narrow.requirements)


def _all_covered(narrow: tuple[Peer, ...] | None, wide: tuple[Peer, ...] | None) -> bool:
    if wide is None:
        return True
    return narrow is not None and all(any(_peer_covers(w, n) for w in wide) for n in narrow)


def _peer_covers(wide: Peer, narrow: Peer) -> bool:
    if wide == narrow:
        return True
    match wide, narrow:
        case (EntityPeer(entity="all"), _):
            return True
        case (Selector(), Selector()):
            return _narrower(narrow, wide)
        case (EntityPeer(entity="cluster"), Selector()):
            return True
        case (EntityPeer(entity="cluster"), EntityPeer()):
            return narrow.entity in ("host", "remote-node")
        case (EntityPeer(entity="world"), EntityPeer()):
            return narrow.entity in ("world-ipv4", "world-ipv6")
        case (EntityPeer(entity="world"), CidrPeer()):
            return True
        case (CidrPeer(), CidrPeer()):
            inside, outside = ip_network(narrow.cidr), ip_network(wide.cidr)
            if inside.version != outside.version or not inside.subnet_of(outside):  # type: ignore[arg-type]  # equal versions
                return False
            return set(wide.excepts) <= set(narrow.excepts)
    return False


def _ports_meet(one: PortSpec, two: PortSpec) -> bool:
    if not _protocols_meet(one, two):
        return False
    if one.named is not None or two.named is not None:
        return one.named == two.named or _every(one) or _every(two)
    return one.first <= two.last and two.first <= one.last


def _port_covers(wide: PortSpec, narrow: PortSpec) -> bool:
    if wide.protocol not in (ANY_PROTOCOL, narrow.protocol):
        return False
    if _every(wide):
        return True
    if wide.named is not None or narrow.named is not None:
        return wide.named == narrow.named
    return wide.first <= narrow.first and narrow.last <= wide.last


def _every(port: PortSpec) -> bool:
    return port.named is None and (port.first, port.last) == (0, MAX_PORT)


def _protocols_meet(one: PortSpec, two: PortSpec) -> bool:
    # rules for requests are for TCP alone
    return ANY_PROTOCOL in (one.protocol, two.protocol) or one.protocol == two.protocol


__all__ = ["Checker", "Finding", "covers", "field_of", "of_problem"]
