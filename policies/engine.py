"""decide(): facts of one request against one rule set. Pure: no clock, no I/O, no pydantic, no YAML.

Theory of operation: everything that does not depend on the request is worked out once per (endpoint, direction, port,
peer) and remembered as a `_Site`: the answer to a connection, and either one finished verdict or the http rules that
name this peer, by method. A request then costs one look-up, and the patterns of the rules that can still match.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from policies.matchers import Matcher, literals, matcher
from policies.ruleset import Answer, Direction, DirectionRules, HeaderMatch, HttpRule, Line, PolicyRef, RuleSet

# What `Verdict.rule` says where no rule of a document gave the verdict. Names of rules hold a "/" and a space.
DEFAULT_DENY = "default-deny"
DEFAULT_ALLOW = "default-allow"
UNKNOWN_ENDPOINT = "unknown-endpoint"

MAX_SITES = 65_536  # about 1 KiB each; past it all are forgotten and worked out anew, so it costs time, never a verdict


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a rule can ask about.

    method: as sent, case-sensitive. path: canonical path, then "?query" if there is a query.
    host: the authority as the client wrote it, port included; "" when it sent none, which no host pattern matches.
    headers: (name in lower case, value) pairs in order, as h11 gives them.
    """

    method: str
    path: str
    host: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Permit:
    """The value an allow verdict hands out; without it no upstream is opened. Tells what was allowed and by what."""

    endpoint_id: int
    direction: Direction
    port: int
    rule: str
    revision: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one request.

    rule: name of the rule that allowed it, or DEFAULT_DENY, DEFAULT_ALLOW (no policy selects the endpoint in this
    direction) or UNKNOWN_ENDPOINT: never empty, it goes into the record.
    reason: one line for people. policies: those that allowed, or those whose selection makes the default a denial.
    permit: present exactly when `allow` is True.
    """

    allow: bool
    reason: str
    rule: str
    policies: tuple[PolicyRef, ...]
    permit: Permit | None


class Engine:
    """Judges connections and requests by one rule set; build a new one for a new revision.

    Not safe for several threads at once; a worker has one.
    """

    __slots__ = ("_matchers", "_sites", "revision", "ruleset")

    def __init__(self, ruleset: RuleSet) -> None:
        self.ruleset = ruleset
        self.revision = ruleset.revision
        self._sites: dict[tuple[int, int, int, int], _Site] = {}
        self._matchers: dict[str, Matcher] = {}

    def judge_peer(self, endpoint_id: int, direction: Direction | int, identity: int, port: int) -> Answer:
        """What the kernel map answers for a new connection; `port` is that of the original destination.

        An unknown endpoint is denied; a direction that no policy enforces is allowed.
        """
        return self._site(endpoint_id, direction, port, identity).answer

    def decide(
        self, endpoint_id: int, direction: Direction | int, peer_identity: int, port: int, request: HttpRequest
    ) -> Verdict:
        """Judge one request. `port` is the port of the original destination, peer_identity 0 an unknown peer.

        Raises nothing by design; a caller that sees an exception all the same must deny.
        """
        site = self._site(endpoint_id, direction, port, peer_identity)
        return site.verdict or site.match(request)

    def _site(self, endpoint_id: int, direction: Direction | int, port: int, identity: int) -> "_Site":
        key = (endpoint_id, direction, port, identity)
        site = self._sites.get(key)
        if site is None:
            site = self._make_site(endpoint_id, Direction(direction), port, identity)
            if len(self._sites) >= MAX_SITES:
                self._sites.clear()
            self._sites[key] = site
        return site

    def _make_site(self, endpoint_id: int, direction: Direction, port: int, identity: int) -> "_Site":
        endpoint = self.ruleset.endpoints.get(endpoint_id)
        if endpoint is None:
            reason = f"endpoint {endpoint_id} is not in revision {self.revision}"
            return _Site(Answer.DENY, Verdict(False, reason, UNKNOWN_ENDPOINT, (), None))
        rules = endpoint.direction(direction)
        answer = rules.answer(port, identity)

        def allow(name: str, policies: tuple[PolicyRef, ...], reason: str) -> Verdict:
            return Verdict(True, reason, name, policies, Permit(endpoint_id, direction, port, name, self.revision))

        if not rules.enforced:
            reason = f"no policy selects the endpoint for {direction.name.lower()}"
            return _Site(answer, allow(DEFAULT_ALLOW, (), reason))
        lines = rules.lines(port, identity)
        if answer is Answer.DENY:
            return _Site(answer, _denied(rules, f"no rule names this peer on port {port}"))
        if answer is Answer.ALLOW:
            line = next(line for line in lines if line.http is None)
            return _Site(answer, allow(line.name, (line.policy,), f"allowed by {line.name} (L4)"))
        site = _Site(answer, None, _denied(rules, f"no http rule for this peer on port {port} matched"))
        for line, rule in _http_rules(lines):
            site.add(rule, allow(rule.name, (line.policy,), f"allowed by {rule.name}"), self._matcher)
        return site

    def _matcher(self, pattern: str) -> Matcher:
        """One compiled pattern per text and engine, compiled when a peer first needs it."""
        found = self._matchers.get(pattern)
        if found is None:
            found = self._matchers[pattern] = matcher(pattern)
        return found


def _http_rules(lines: Iterable[Line]) -> Iterable[tuple[Line, HttpRule]]:
    return ((line, rule) for line in lines for rule in line.http or ())


def _denied(rules: DirectionRules, why: str) -> Verdict:
    names = ", ".join(f"{ref.namespace}/{ref.name}" for ref in rules.policies)
    return Verdict(False, f"{why}, selected by {names}" if names else why, DEFAULT_DENY, rules.policies, None)


class _Rule:
    """One http rule ready to match; the method is already known to fit."""

    __slots__ = ("headers", "host", "method", "path", "verdict")

    def __init__(
        self,
        verdict: Verdict,
        method: Matcher | None,
        path: Matcher | None,
        host: Matcher | None,
        headers: tuple[HeaderMatch, ...],
    ) -> None:
        self.verdict = verdict
        self.method = method
        self.path = path
        self.host = host
        self.headers = tuple((h.name.encode(), None if h.value is None else h.value.encode()) for h in headers)

    def matches(self, request: HttpRequest) -> bool:
        if self.path is not None and not self.path(request.path):
            return False
        if self.method is not None and not self.method(request.method):
            return False
        if self.host is not None and not (request.host and self.host(request.host)):
            return False
        return not self.headers or all(_header_fits(request.headers, name, value) for name, value in self.headers)


def _header_fits(headers: Sequence[tuple[bytes, bytes]], name: bytes, value: bytes | None) -> bool:
    """Whether the header is there, and its value as wanted; several fields of one name are one value, comma-joined.

    Joined, as Envoy does: taking any one of them would let a second field hide beside the wanted one.
    """
    values = [have for key, have in headers if key == name]
    return bool(values) and (value is None or b",".join(values) == value)


class _Site:
    """What is known before the request: the answer to a connection, and a verdict or the rules to match.

    exact: by (method, path), rules that ask for nothing else. by_method: rules for that method in order, those without
    a literal method among them; other: rules for a method that no rule spells out.
    """

    __slots__ = ("answer", "by_method", "denied", "exact", "other", "verdict")

    def __init__(self, answer: Answer, verdict: Verdict | None, denied: Verdict | None = None) -> None:
        self.answer = answer
        self.verdict = verdict
        self.denied = denied
        self.exact: dict[tuple[str, str], Verdict] = {}
        self.by_method: dict[str, list[_Rule]] = {}
        self.other: list[_Rule] = []

    def add(self, rule: HttpRule, verdict: Verdict, matcher_of: Callable[[str], Matcher]) -> None:
        """Rules must be added in order: the first that matches gives the verdict its name."""
        methods = None if rule.method is None else literals(rule.method)
        paths = None if rule.path is None else literals(rule.path)
        if methods is not None and paths is not None and rule.host is None and not rule.headers:
            for method in methods:
                for path in paths:
                    self.exact.setdefault((method, path), verdict)
            return
        ready = _Rule(
            verdict,
            None if rule.method is None or methods is not None else matcher_of(rule.method),
            None if rule.path is None else matcher_of(rule.path),
            None if rule.host is None else matcher_of(rule.host),
            rule.headers,
        )
        if methods is None:
            self.other.append(ready)
            for rules in self.by_method.values():
                rules.append(ready)
        else:
            for method in methods:
                self.by_method.setdefault(method, list(self.other)).append(ready)

    def match(self, request: HttpRequest) -> Verdict:
        found = self.exact.get((request.method, request.path))
        if found is not None:
            return found
        for rule in self.by_method.get(request.method, self.other):
            if rule.matches(request):
                return rule.verdict
        if self.denied is None:
            raise AssertionError("a site without a verdict has its denial")
        return self.denied
