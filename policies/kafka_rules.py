"""The kafka rules of one port and peer: access lists, found by the name that they are about.

Theory of operation: each rule is a few access lists (`policies.kafka.acls`). For every kind of resource there is one
table: lists for every name, for one name, for what begins with a text (by its length), and globs by the text that they
begin or else end with, those with the same in one RE2 set. What a list asks of the client id is a key of the table too,
and lists that differ in the rule's name alone are one; so a question costs a few look-ups, not a test for each rule.
The first rule in order that matches counts.

Whether *any* resource of a kind may be had (a question without a name) is what Kafka calls authorizeByResourceType: a
list has to allow the operation on some name that no list denies, as far as that can be told from the two texts. Whether
*every* topic may be had, named or not, is asked as the topic "*": a list has to allow it on all of them, and none may
deny it on one.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from policies.kafka import Acl, Operations, acls, means_everything
from policies.matchers import Matcher, PatternSet, matcher
from policies.requests import KafkaRequest, Operation, Resource
from policies.ruleset import KafkaRule, Line, NameKind

_WILD: Final = re.compile("[*?]")
EVERY_TOPIC: Final = "*"
"""No topic has this name."""


class Entry:
    """One access list, ready to match. order: the rule's place among all of its table."""

    __slots__ = ("acl", "line", "operations", "order", "rule")

    def __init__(self, order: int, line: Line, rule: KafkaRule, acl: Acl) -> None:
        self.order = order
        self.line = line
        self.rule = rule
        self.acl = acl
        self.operations: Operations = acl.operations

    def fits(self, request: KafkaRequest) -> bool:
        """Whether it is about this operation, API and version; name and client id are asked of the table."""
        rule = self.rule
        return (
            (self.operations is None or request.operation in self.operations)
            and (rule.api_key is None or rule.api_key == request.api_key)
            and (rule.api_version is None or rule.api_version == request.api_version)
        )

    @property
    def conditional(self) -> bool:
        """Whether it depends on more than operation and name."""
        rule = self.rule
        return rule.api_key is not None or rule.api_version is not None or rule.client_id is not None


class _Bucket:
    """Lists about one name, by client id; None: of every client."""

    __slots__ = ("_by_client", "_known")

    def __init__(self) -> None:
        self._by_client: dict[str | None, list[Entry]] = {}
        self._known: set[tuple[object, ...]] = set()

    def add(self, entry: Entry) -> None:
        rule = entry.rule
        same = (rule.client_id, entry.operations, rule.api_key, rule.api_version)
        if same not in self._known:
            self._known.add(same)
            self._by_client.setdefault(rule.client_id, []).append(entry)

    def better(self, request: KafkaRequest, best: Entry | None) -> Entry | None:
        """The first that fits, if it comes before `best`."""
        for client in (None, request.client_id) if len(self._by_client) > 1 else self._by_client:
            if client is None or client == request.client_id:
                for entry in self._by_client.get(client, ()):
                    if best is not None and entry.order >= best.order:
                        break
                    if entry.fits(request):
                        best = entry
                        break
        return best


class _Globs:
    """Lists about globs that begin, or end, with the same text."""

    __slots__ = ("_by_glob", "_fits", "_set")

    def __init__(self) -> None:
        self._by_glob: dict[str, _Bucket] = {}
        self._fits: Matcher | None = None
        self._set: PatternSet | None = None

    def add(self, glob: str, entry: Entry) -> None:
        self._by_glob.setdefault(glob, _Bucket()).add(entry)

    def get(self, glob: str) -> _Bucket | None:
        return self._by_glob.get(glob)

    def better(self, request: KafkaRequest, name: str, best: Entry | None) -> Entry | None:
        """As `_Bucket.better`, of the globs that the name fits."""
        if len(self._by_glob) == 1:
            ((glob, bucket),) = self._by_glob.items()
            if self._fits is None:
                self._fits = matcher(glob_pattern(glob))
            return bucket.better(request, best) if self._fits(name) else best
        if self._set is None:
            self._set = PatternSet([*map(glob_pattern, self._by_glob)])
        buckets = [*self._by_glob.values()]
        for index in self._set.matching(name):
            best = buckets[index].better(request, best)
        return best


class _Names:
    """The lists about one kind of resource. Prefixes, and beginnings and ends of globs, are keyed by their lengths."""

    __slots__ = ("_any", "_exact", "_heads", "_prefixes", "_some", "_tails")

    def __init__(self) -> None:
        self._any = _Bucket()
        self._some = _Bucket()  # about whatever name
        self._exact: dict[str, _Bucket] = {}
        self._prefixes: dict[int, dict[str, _Bucket]] = {}
        self._heads: dict[int, dict[str, _Globs]] = {}
        self._tails: dict[int, dict[str, _Globs]] = {}

    def add(self, entry: Entry) -> None:
        kind, name = plain_name(entry.acl)
        self._some.add(entry)
        if name is None:
            self._any.add(entry)
        elif kind is NameKind.EXACT:
            self._exact.setdefault(name, _Bucket()).add(entry)
        elif kind is NameKind.PREFIX:
            self._prefixes.setdefault(len(name), {}).setdefault(name, _Bucket()).add(entry)
        else:
            table, text = self._place(name)
            table.setdefault(len(text), {}).setdefault(text, _Globs()).add(name, entry)

    def _place(self, glob: str) -> tuple[dict[int, dict[str, _Globs]], str]:
        if head := head_of(glob):
            return self._heads, head
        return self._tails, _WILD.split(glob)[-1]

    def some(self, request: KafkaRequest) -> Entry | None:
        """The first list that is about some name, whichever."""
        return self._some.better(request, None)

    def find(self, request: KafkaRequest, name: str | None) -> Entry | None:
        """The first list that is about the name; None: about every name."""
        best = self._any.better(request, None)
        if name is None:
            return best
        if (bucket := self._exact.get(name)) is not None:
            best = bucket.better(request, best)
        if self._prefixes:
            best = self._beginning(request, name, best)
        size = len(name)
        for length, heads in self._heads.items():
            if length <= size and (globs := heads.get(name[:length])) is not None:
                best = globs.better(request, name, best)
        for length, tails in self._tails.items():
            if length <= size and (globs := tails.get(name[size - length :])) is not None:
                best = globs.better(request, name, best)
        return best

    def covering(self, request: KafkaRequest, acl: Acl) -> Entry | None:
        """A list that is about everything that `acl` is about; None where that is not plain to see."""
        kind, name = plain_name(acl)
        if name is None or kind is NameKind.EXACT:
            return self.find(request, name)
        best = self._any.better(request, None)
        if kind is NameKind.PREFIX:
            return self._beginning(request, name, best)
        table, text = self._place(name)
        globs = table.get(len(text), {}).get(text)
        if globs is not None and (bucket := globs.get(name)) is not None:
            best = bucket.better(request, best)
        return self._beginning(request, head_of(name), best)

    def _beginning(self, request: KafkaRequest, name: str, best: Entry | None) -> Entry | None:
        size = len(name)
        for length, texts in self._prefixes.items():
            if length <= size and (bucket := texts.get(name[:length])) is not None:
                best = bucket.better(request, best)
        return best


class KafkaRules:
    """A table of rules that all allow, or all deny."""

    __slots__ = ("_deny", "_names", "_nothing", "_rules", "_some", "size")

    def __init__(self, rules: Iterable[tuple[Line, KafkaRule]], *, deny: bool) -> None:
        self._deny = deny
        self._rules = list(rules)
        self.size = len(self._rules)
        names: dict[Resource, _Names] = {}
        # What asks for nothing needs a rule that allows something here, and none that denies everything.
        self._nothing = _Bucket()
        for entry in self._entries():
            names.setdefault(entry.acl.resource, _Names()).add(entry)
        for order, (line, rule) in enumerate(self._rules if deny else self._rules[:1]):
            if not deny:
                rule = KafkaRule(rule.name)
            if means_everything(rule):
                self._nothing.add(Entry(order, line, rule, Acl(Resource.CLUSTER, None)))
        self._names = tuple(names.items())  # compared by identity: an enum's hash is a call into Python
        # of what is asked about any of a kind: what could allow it, by client id and API key
        self._some: dict[tuple[Resource, Operation], dict[tuple[str | None, int | None], list[Entry]]] = {}

    def _entries(self) -> Iterator[Entry]:
        for order, (line, rule) in enumerate(self._rules):
            for acl in acls(rule):
                yield Entry(order, line, rule, acl)

    @property
    def whole(self) -> Entry | None:
        """The first rule that asks for nothing at all."""
        return next(
            (
                Entry(order, line, rule, Acl(Resource.CLUSTER, None))
                for order, (line, rule) in enumerate(self._rules)
                if rule == KafkaRule(rule.name, deny=rule.deny)
            ),
            None,
        )

    def find(self, request: KafkaRequest) -> Entry | None:
        """The first rule that matches. A question about any of a kind is matched here by lists for all of it alone."""
        if request.operation is Operation.NOTHING:
            asks = request.topic is not None or request.resource is not Resource.CLUSTER
            return None if asks else self._nothing.better(request, None)
        if request.operation is Operation.CLUSTER_ACTION and not self._deny:
            return None
        names = self._of(request.resource)
        if names is None:
            return None
        if request.name == EVERY_TOPIC and request.resource is Resource.TOPIC:
            return names.some(request) if self._deny else names.find(request, None)
        return names.find(request, request.name)

    def find_any(self, request: KafkaRequest, denials: "KafkaRules") -> Entry | None:
        """Of rules that allow: the first that allows the operation on some name, as far as `denials` let it."""
        if request.operation in (Operation.NOTHING, Operation.CLUSTER_ACTION):
            return self.find(request)
        key = request.resource, request.operation
        denied = denials._of(request.resource)
        some = self._some.get(key)
        if some is None:
            some = self._some[key] = {}
            for entry in self._entries():
                if (
                    entry.acl.resource is request.resource
                    and (entry.operations is None or request.operation in entry.operations)
                    and (denied is None or (by := denied.covering(request, entry.acl)) is None or by.conditional)
                ):
                    some.setdefault((entry.rule.client_id, entry.rule.api_key), []).append(entry)
        best: Entry | None = None
        for client in (None, request.client_id):
            for api_key in (None, request.api_key):
                for entry in some.get((client, api_key), ()):
                    if best is not None and entry.order >= best.order:
                        break
                    if entry.fits(request) and (denied is None or denied.covering(request, entry.acl) is None):
                        best = entry
                        break
        return best

    def _of(self, resource: Resource) -> _Names | None:
        for kind, names in self._names:
            if kind is resource:
                return names
        return None


def plain_name(acl: Acl) -> tuple[NameKind, str | None]:
    """How an access list is looked up: a glob that is plainly everything (None), a prefix or one name is that."""
    kind, name = acl.kind, acl.name
    if kind is not NameKind.GLOB or name is None:
        return kind, name
    body = re.sub(r"\*+", "*", name)
    if body == "*":
        return NameKind.EXACT, None
    if "?" not in body and "*" not in body:
        return NameKind.EXACT, body
    if "?" not in body and body.find("*") == len(body) - 1:
        return NameKind.PREFIX, body[:-1]
    return kind, body


def head_of(glob: str) -> str:
    """What every name that a glob matches begins with."""
    return _WILD.split(glob, maxsplit=1)[0]


def glob_pattern(glob: str) -> str:
    """The RE2 that matches what the glob does."""
    return "(?s)" + "".join({"*": ".*", "?": "."}.get(sign) or re.escape(sign) for sign in glob)
