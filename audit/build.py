"""From facts to the record that is written: what is shown of them, redacted and cut, and where it stands."""

import secrets
import time
from collections.abc import Iterable
from typing import Final

from audit import redact, schema
from audit.record import MAX_POLICIES, FlowFacts, KafkaRequest, PolicyName, Request

MAX_CACHED_POLICIES: Final = 256

_DROP: Final = schema.EventType(schema.EVENT_DROP, schema.POLICY_DENIED)
_DENY: Final = schema.EventType(schema.EVENT_DROP, schema.POLICY_DENY)
_PASS: Final = schema.EventType(schema.EVENT_POLICY_VERDICT)
_PASSED: Final = frozenset({"FORWARDED", "AUDIT"})
_L7: Final = schema.EventType(schema.EVENT_L7)
_ALLOWED: Final = frozenset({"FORWARDED", "ERROR"})  # an AUDIT record would have been denied: Hubble lists it there
_OUTCOMES: Final = {  # (ingress, allowed): where Hubble puts the policies of a record
    (True, True): "ingress_allowed_by",
    (True, False): "ingress_denied_by",
    (False, True): "egress_allowed_by",
    (False, False): "egress_denied_by",
}


class Builder:
    """Makes the records of one writer. writer, boot, node: as in `Writer`."""

    def __init__(self, writer: str, boot: str, node: str) -> None:
        self.writer, self.boot, self.node = writer, boot, node
        # UUID version 8 (RFC 9562 5.8): 74 random bits for the writer, the last 48 count. A random UUID for each record
        # would cost a system call.
        random = secrets.token_hex(9)
        self.uuid = f"{random[:8]}-{random[8:12]}-8{random[12:15]}-{secrets.choice('89ab')}{random[15:18]}-"
        self._second = -1
        self._second_text = ""
        self._policies: dict[tuple[int, tuple[tuple[str, str, str], ...]], tuple[schema.Policy, ...]] = {}

    def second_text(self, second: int) -> str:
        """A second since 1970 UTC as RFC 3339 writes it, without the zone; the last one is remembered."""
        if second != self._second:
            self._second, self._second_text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return self._second_text

    def time_text(self, time_ns: int) -> str:
        """Nanoseconds since 1970 UTC in RFC 3339, all nine digits."""
        second, nanosecond = divmod(time_ns, 1_000_000_000)
        return f"{self.second_text(second)}.{nanosecond:09d}Z"

    def record(self, facts: FlowFacts, seq: int, when: str) -> schema.Record:
        """The record of one decision with its number and its time as `time_text` gives it."""
        connection, pair = facts.connection, facts.connection.pair
        addresses, l4, source, destination = connection.ends(is_reply=facts.is_reply)
        truncated = pair.truncated
        rule, cut = redact.text(facts.rule)
        truncated += ("rule",) if cut else ()
        reason, cut = redact.reason(facts.reason)
        truncated += ("reason",) if cut else ()
        flow = schema.Flow(
            time=when,
            uuid=f"{self.uuid}{seq:012x}",
            verdict=facts.verdict,
            IP=addresses,
            l4=l4,
            source=source,
            destination=destination,
            node_name=self.node,
            traffic_direction=pair.direction,
            is_reply=facts.is_reply,
        )
        if facts.verdict == "DROPPED":
            flow.drop_reason_desc = facts.drop_reason_desc
        request, asked = facts.request, None
        if request is None:
            flow.Type, flow.event_type, flow.Summary = "L3_L4", _DROP, pair.summary
            if facts.verdict in _PASSED:
                flow.event_type = _PASS
            elif facts.drop_reason_desc == "POLICY_DENY":
                flow.event_type = _DENY
        else:
            flow.Type, flow.event_type = "L7", _L7
            if isinstance(request, Request):
                truncated += _http(flow, facts, request)
            else:
                asked, cut_names = _kafka(flow, facts, request)
                truncated += cut_names
        if facts.policies:
            allowed = facts.verdict in _ALLOWED
            setattr(flow, _OUTCOMES[pair.ingress, allowed], self._policy_refs(facts.policies, facts.revision))
            truncated += ("policies",) if len(facts.policies) > MAX_POLICIES else ()
        tulle = schema.Tulle(
            schema=schema.SCHEMA,
            writer=self.writer,
            boot=self.boot,
            seq=seq,
            revision=facts.revision,
            rule=rule,
            reason=reason,
            endpoint=pair.endpoint,
            suppressed=facts.suppressed,
            truncated=truncated,
            kafka=asked,
        )
        return schema.Record(flow=flow, node_name=self.node, time=when, tulle=tulle)

    def _policy_refs(self, policies: Iterable[PolicyName], revision: int) -> tuple[schema.Policy, ...]:
        key = (revision, tuple([(policy.kind, policy.namespace, policy.name) for policy in policies][:MAX_POLICIES]))
        refs = self._policies.get(key)
        if refs is None:
            if len(self._policies) >= MAX_CACHED_POLICIES:
                self._policies.clear()
            refs = self._policies[key] = tuple(
                schema.Policy(redact.text(name)[0], redact.text(namespace)[0], (), str(revision), redact.text(kind)[0])
                for kind, namespace, name in key[1]
            )
        return refs


def _layer7(facts: FlowFacts, *, http: schema.Http | None = None, kafka: schema.Kafka | None = None) -> schema.Layer7:
    latency = "" if facts.latency_ns is None else str(facts.latency_ns)
    return schema.Layer7("RESPONSE" if facts.is_reply else "REQUEST", latency, http, kafka)


def _http(flow: schema.Flow, facts: FlowFacts, request: Request) -> tuple[str, ...]:
    """Put an HTTP request into the flow; gives what was cut."""
    url, url_cut = redact.url(request.scheme, request.host, request.target)
    method, method_cut = redact.method(request.method)
    protocol = redact.text(request.protocol, 16)[0]
    flow.l7 = _layer7(facts, http=schema.Http(request.code, method, url, protocol))
    flow.Summary = f"{protocol} {method} {url}"
    if facts.is_reply:
        flow.Summary = f"{protocol} {request.code} {(facts.latency_ns or 0) // 1_000_000}ms ({method} {url})"
    return (("url",) if url_cut else ()) + (("method",) if method_cut else ())


_NAMES: Final = ("topic", "client_id", "group", "transactional_id", "operation", "resource", "name")


def _kafka(
    flow: schema.Flow, facts: FlowFacts, request: KafkaRequest
) -> tuple[schema.KafkaAsked | None, tuple[str, ...]]:
    """Put a Kafka request into the flow; gives what goes beside it, and what was cut."""
    topic, *asked = (redact.text(getattr(request, name), redact.MAX_NAME) for name in _NAMES)
    cut = tuple(name for name, each in zip(_NAMES, (topic, *asked), strict=True) if each[1])
    api, code = redact.text(request.api, 64)[0], request.error_code or 0
    flow.l7 = _layer7(facts, kafka=schema.Kafka(code, request.api_version, api, request.correlation_id, topic[0]))
    # The wording is Hubble's. One word of plain text in the quotes: a topic cannot say what follows it.
    flow.Summary = (
        f"{kafka_summary(api, is_reply=facts.is_reply)}{request.correlation_id}"
        f"{f" topic '{redact.word(topic[0])}'" if topic[0] else ''}"
        f"{f' return code {code}' if facts.is_reply else ''}"
    )
    texts = [each[0] for each in asked]
    return (schema.KafkaAsked(*texts) if any(texts) else None), cut


def kafka_summary(api: str, *, is_reply: bool) -> str:
    """The beginning of a summary, up to the correlation id."""
    return f"Kafka {'response' if is_reply else 'request'} {api} correlation id "
