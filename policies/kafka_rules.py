"""The kafka rules of one port and peer, found by their topic.

Cilium's meaning: a rule that names a topic holds for requests that name none too (heartbeats and the like), as far as
its other parts match. A deny rule that names a topic does not.
"""

from collections.abc import Iterable

from policies.requests import KafkaRequest
from policies.ruleset import KafkaRule, Line


class KafkaRules:
    """A table of rules that all allow, or all deny."""

    __slots__ = ("_all", "_by_topic", "_deny", "_no_topic", "size")

    def __init__(self, rules: Iterable[tuple[Line, KafkaRule]], *, deny: bool) -> None:
        self._deny = deny
        self._all = [(order, line, rule) for order, (line, rule) in enumerate(rules)]
        self.size = len(self._all)
        self._no_topic = [each for each in self._all if each[2].topic is None]
        self._by_topic: dict[str, list[tuple[int, Line, KafkaRule]]] = {}
        for each in self._all:
            if each[2].topic is not None:
                self._by_topic.setdefault(each[2].topic, []).append(each)

    def find(self, request: KafkaRequest) -> tuple[int, Line, KafkaRule] | None:
        """The first rule that matches."""
        if request.topic is not None:
            lists = [self._no_topic, self._by_topic.get(request.topic, [])]
        else:
            lists = [self._no_topic if self._deny else self._all]
        found = [next((each for each in rules if not failing(each[2], request)), None) for rules in lists]
        return min((each for each in found if each is not None), key=lambda each: each[0], default=None)


def failing(rule: KafkaRule, request: KafkaRequest) -> tuple[str, ...]:
    """What of a rule does not match; () when it matches."""
    parts = []
    if rule.api_keys is not None and request.api_key not in rule.api_keys:
        parts.append("role" if rule.role else "apiKey")
    if rule.api_version is not None and request.api_version != rule.api_version:
        parts.append("apiVersion")
    if rule.client_id is not None and request.client_id != rule.client_id:
        parts.append("clientID")
    if rule.topic is not None and request.topic != rule.topic and (rule.deny or request.topic is not None):
        parts.append("topic")
    return tuple(parts)
