"""The http rules of one port and peer, found by what they ask of the path.

Theory of operation: every rule is an entry in one table, under the part of its path that can be looked up: a literal
text, a prefix, the literal segments of a template. Patterns that are none of these are tried all at once in an RE2 set.
So a request costs a few look-ups and not one test for each rule; what an entry asks beside the path is tested on the
few entries that are left. The first rule in order that matches counts, wherever it was found.

Rules that allow and rules that deny read a request differently. A rule that allows reads it in the one way that is
written in docs/policy.md. A rule that denies matches what any application could take for what it names: without case;
with and without `;parameters` of segments; percent-encoded or not; with and without a last slash; a pattern with and
without the query; any of repeated headers or query keys; a host with or without port. The worst of that is a denial too
many.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import unquote, unquote_plus

from policies.matchers import Matcher, PatternSet, literals, matcher, prefix
from policies.query import Query
from policies.requests import HttpRequest
from policies.ruleset import HeaderMatch, HttpRule, Line, Mismatch, PathKind

_PARAMETERS = re.compile(r";[^/]*")
_SLASHES = re.compile("//+")
_PORT = re.compile(r":[0-9]*\Z")
_FEW = 4  # patterns; below this one by one is as quick as a set


class Entry:
    """One rule ready to match. order: its place among all rules of its table."""

    __slots__ = ("headers", "host", "line", "method", "methods", "order", "plain", "query", "rule")

    def __init__(self, order: int, line: Line, rule: HttpRule) -> None:
        deny = rule.deny
        self.order = order
        self.line = line
        self.rule = rule
        texts = None if rule.method is None else literals(rule.method)
        self.methods = texts if texts is None or not deny else frozenset(text.upper() for text in texts)
        self.method = None if rule.method is None or texts is not None else matcher(rule.method, any_case=deny)
        self.host = None if rule.host is None else matcher(rule.host, any_case=deny)
        self.headers = tuple((h.name.encode(), None if h.value is None else h.value.encode(), h) for h in rule.headers)
        self.query = rule.query
        self.plain = self.method is None and self.host is None and not self.headers and not self.query

    def fits(self, request: HttpRequest, query: "LazyQuery") -> bool:
        """Whether the request is all that the rule asks for beside the path."""
        if self.plain and (self.methods is None or request.method in self.methods):
            return True
        return next(self.failing(request, query), None) is None

    def failing(self, request: HttpRequest, query: "LazyQuery") -> Iterator[str]:
        """The parts beside the path that do not match."""
        deny = self.rule.deny
        method = request.method
        if self.methods is not None:
            if method not in self.methods and not (deny and method.upper() in self.methods):
                yield "method"
        elif self.method is not None and not self.method(method):
            yield "method"
        if self.host is not None and not (_denied_host(self.host, request.host) if deny else self._host(request.host)):
            yield "host"
        for name, value, match in self.headers:
            if match.mismatch is Mismatch.REFUSE and not (
                _may_have(request.headers, name, value) if deny else header_is(request.headers, name, value)
            ):
                yield f"header {match.name}"
        for wanted in self.query:
            if not (query.get().may_hold(wanted) if deny else query.get().holds(wanted)):
                yield f"query key {wanted.key}"

    def _host(self, host: str) -> bool:
        return bool(host) and self.host is not None and self.host(host)

    def mismatches(self, request: HttpRequest) -> list[HeaderMatch]:
        """The headers that are not as wanted, of those with an action for that."""
        return [
            match
            for name, value, match in self.headers
            if match.mismatch is not Mismatch.REFUSE and not header_is(request.headers, name, value)
        ]


class LazyQuery:
    """The query of a request, read when a rule first asks for it."""

    __slots__ = ("_query", "_text")

    def __init__(self, path: str) -> None:
        self._text = path
        self._query: Query | None = None

    def get(self) -> Query:
        """What was read."""
        if self._query is None:
            self._query = Query(self._text.partition("?")[2])
        return self._query


def header_is(headers: Sequence[tuple[bytes, bytes]], name: bytes, value: bytes | None) -> bool:
    """Whether the header is there, and its value as wanted; several fields of one name are one value, comma-joined.

    Joined, as Envoy does: taking any one of them would let a second field hide beside the wanted one.
    """
    values = [have for key, have in headers if key == name]
    return bool(values) and (value is None or b",".join(values) == value)


def _may_have(headers: Sequence[tuple[bytes, bytes]], name: bytes, value: bytes | None) -> bool:
    """For a rule that denies: also when the value is one among several."""
    if header_is(headers, name, value):
        return True
    if value is None:
        return False
    value = value.lower()
    for key, have in headers:
        if key == name and (
            have.lower() == value or any(part.strip(b" \t") == value for part in have.lower().split(b","))
        ):
            return True
    return False


def _denied_host(fits: Matcher, host: str) -> bool:
    """For a rule that denies: without a host it could be any; a port and a final dot change nothing."""
    if not host:
        return True
    bare = _PORT.sub("", host)
    return any(fits(text) for text in {host, host.rstrip("."), bare, bare.rstrip(".")})


class _Patterns:
    """Entries whose path is a pattern that no table holds."""

    __slots__ = ("_any_case", "_entries", "_matchers", "_set")

    def __init__(self, any_case: bool) -> None:
        self._any_case = any_case
        self._entries: list[Entry] = []
        self._matchers: list[Matcher] = []
        self._set: PatternSet | None = None

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)

    def matching(self, text: str) -> list[Entry]:
        if len(self._entries) < _FEW:
            if len(self._matchers) != len(self._entries):
                self._matchers = [matcher(text, any_case=self._any_case) for text in self._paths()]
            return [entry for entry, fits in zip(self._entries, self._matchers, strict=True) if fits(text)]
        if self._set is None:
            self._set = PatternSet(self._paths(), any_case=self._any_case)
        return [self._entries[index] for index in self._set.matching(text)]

    def _paths(self) -> list[str]:
        return [entry.rule.path for entry in self._entries if entry.rule.path is not None]


class HttpRules:
    """A table of rules that all allow, or all deny."""

    __slots__ = (
        "_any",
        "_any_by_method",
        "_begins",
        "_exact",
        "_patterns",
        "_prefixes",
        "_templates",
        "_whole",
        "acting",
        "deny",
        "size",
    )

    def __init__(self, rules: Iterable[tuple[Line, HttpRule]], *, deny: bool) -> None:
        self.deny = deny
        self.size = 0
        # one table for each rule with something to do where a header is not as wanted
        self.acting: list[HttpRules] = []
        self._whole: dict[str, list[Entry]] = {}  # path and query
        self._exact: dict[str, list[Entry]] = {}  # the path alone
        self._prefixes: dict[str, list[Entry]] = {}  # whole segments, without the last slash
        self._begins: dict[int, dict[str, list[Entry]]] = {}  # by length: what path and query begin with
        self._templates: dict[tuple[int, tuple[int, ...]], dict[tuple[str, ...], list[Entry]]] = {}
        self._any: list[Entry] = []  # no path, no literal method
        self._any_by_method: dict[str, list[Entry]] = {}
        self._patterns = _Patterns(deny)
        acting: list[tuple[Line, HttpRule]] = []
        for line, rule in rules:
            self._add(Entry(self.size, line, rule))
            self.size += 1
            if any(header.mismatch is not Mismatch.REFUSE for header in rule.headers):
                acting.append((line, rule))
        self._begins = dict(sorted(self._begins.items()))
        if acting:
            self.acting = [self] if self.size == 1 else [HttpRules([each], deny=deny) for each in acting]

    def _add(self, entry: Entry) -> None:
        rule = entry.rule
        if rule.path is None:
            self._add_any(entry)
        elif rule.path_kind is PathKind.EXACT:
            for text in self._whole_keys((rule.path,)):
                self._exact.setdefault(text, []).append(entry)
        elif rule.path_kind is PathKind.PREFIX:
            for text in self._keys((rule.path,)):
                self._prefixes.setdefault(text.rstrip("/"), []).append(entry)
        elif rule.path_kind is PathKind.TEMPLATE:
            for text in self._whole_keys((rule.path,)):
                segments = text.split("/")
                fixed = tuple(i for i, segment in enumerate(segments) if not _is_variable(segment))
                by_texts = self._templates.setdefault((len(segments), fixed), {})
                by_texts.setdefault(tuple(segments[i] for i in fixed), []).append(entry)
        elif (texts := literals(rule.path)) is not None:
            for text in self._whole_keys(texts):
                self._whole.setdefault(text, []).append(entry)
        elif (begin := prefix(rule.path)) is not None:
            for text in self._keys((begin,)):
                self._begins.setdefault(len(text), {}).setdefault(text, []).append(entry)
        else:
            self._patterns.add(entry)

    def _keys(self, texts: Iterable[str]) -> set[str]:
        """What these texts are looked up by."""
        if not self.deny:
            return set(texts)
        return {form.lower() for text in texts for form in (text, unquote(text, errors="replace"))}

    def _whole_keys(self, texts: Iterable[str]) -> set[str]:
        """The same where the text is all that is asked for: a last slash of it is left out, as of the request."""
        keys = self._keys(texts)
        return keys | {key.rstrip("/") or "/" for key in keys if "?" not in key} if self.deny else keys

    def _add_any(self, entry: Entry) -> None:
        if entry.methods is None:
            self._any.append(entry)
            for entries in self._any_by_method.values():
                entries.append(entry)
        else:
            for method in entry.methods:
                self._any_by_method.setdefault(method, list(self._any)).append(entry)

    def find(self, request: HttpRequest) -> Entry | None:
        """The first rule that matches."""
        query = LazyQuery(request.path)
        best: Entry | None = None
        for whole, path in denied_forms(request.path) if self.deny else ((request.path, None),):
            for entries in self._candidates(request, whole, path):
                for entry in entries:
                    if best is not None and entry.order >= best.order:
                        break
                    if entry.fits(request, query):
                        best = entry
                        break
        return best

    def mismatches(self, request: HttpRequest) -> list[HeaderMatch]:
        """The headers that are not as wanted, of those with an action for that, of every rule that matches.

        Not only of the first: the order of rules must not matter, and Cilium does the same (`network_policy.cc` of its
        proxy runs all rules when one of them has header actions).
        """
        found: dict[HeaderMatch, None] = {}
        for table in self.acting:
            if (entry := table.find(request)) is not None:
                found.update(dict.fromkeys(entry.mismatches(request)))
        return list(found)

    def _candidates(self, request: HttpRequest, whole: str, path: str | None) -> Iterator[Sequence[Entry]]:
        deny = self.deny
        key = whole.lower() if deny else whole
        if self._whole and (found := self._whole.get(key)):
            yield found
        if self._exact or self._prefixes or self._templates:
            path = key.partition("?")[0] if path is None else path.lower()
            if found := self._exact.get(path):
                yield found
            if self._prefixes:
                yield from self._by_prefix(path)
            if self._templates:
                yield from self._by_template(path)
        if self._begins and "\n" not in key:
            for length, texts in self._begins.items():
                if length > len(key):
                    break
                if found := texts.get(key[:length]):
                    yield found
        method = request.method.upper() if deny else request.method
        if found := self._any_by_method.get(method, self._any):
            yield found
        if self._patterns:
            yield self._patterns.matching(whole)

    def _by_prefix(self, path: str) -> Iterator[list[Entry]]:
        end = 0 if path.startswith("/") else -1
        while end >= 0:
            if found := self._prefixes.get(path[:end]):
                yield found
            end = path.find("/", end + 1)
        if path.startswith("/") and not path.endswith("/") and (found := self._prefixes.get(path)):
            yield found

    def _by_template(self, path: str) -> Iterator[list[Entry]]:
        segments = path.split("/")
        count = len(segments)
        for (length, fixed), by_texts in self._templates.items():
            if length == count and (found := by_texts.get(tuple(segments[i] for i in fixed))):
                variable = set(range(1, count)).difference(fixed)
                if all(segments[i] for i in variable):
                    yield found


def _is_variable(segment: str) -> bool:
    return len(segment) > 2 and segment.startswith("{") and segment.endswith("}")


def denied_forms(text: str) -> Iterable[tuple[str, str]]:
    """(path and query, path), and the same without the query, in all forms that an application might read."""
    path, mark, query = text.partition("?")
    paths = {path}
    if "%" in path:
        paths.add(unquote(path, errors="replace"))
    if ";" in path or "%3B" in path:
        paths |= {_PARAMETERS.sub("", each) for each in paths}
    paths |= {_SLASHES.sub("/", each) for each in paths}  # parameters may have stood alone; merging can be switched off
    # most routers take a last slash for nothing, file systems dots and spaces at the end of a name
    paths |= {each.rstrip("/. ") or "/" for each in paths}
    queries = {query, unquote(query, errors="replace"), unquote_plus(query, errors="replace")} if mark else ()
    forms = [(f"{each}?{asked}", each) for each in sorted(paths) for asked in sorted(queries)]
    return forms + [(each, each) for each in sorted(paths)]


def failing(line: Line, rule: HttpRule, request: HttpRequest) -> tuple[str, ...]:
    """What of a rule does not match ("method", "path", "host", "header x", "query key y"); () when it matches."""
    path = HttpRules(
        [(line, HttpRule(rule.name, None, rule.path, path_kind=rule.path_kind, deny=rule.deny))], deny=rule.deny
    )
    parts = list(Entry(0, line, rule).failing(request, LazyQuery(request.path)))
    if path.find(request) is None:
        parts.insert(1 if parts[:1] == ["method"] else 0, "path")
    return tuple(parts)
