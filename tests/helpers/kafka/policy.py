"""Policies about Kafka as the tests apply them, as JSON (which is YAML)."""

import json
from collections.abc import Mapping, Sequence

from tests.helpers.kafka.wire import PORT

type Rule = Mapping[str, object]

CILIUM, OURS = ("cilium.io/v2", "CiliumNetworkPolicy"), ("tulle.dev/v1", "TulleNetworkPolicy")


def kafka_policy(
    name: str,
    *rules: Rule,
    at: str = "kafka",
    peer: str = "billing",
    direction: str = "ingress",
    kind: tuple[str, str] = CILIUM,
    **more: object,
) -> str:
    """One policy: pods of app `at` are protected; at ingress the peer is who may connect, at egress where to."""
    sides = {"ingress": "fromEndpoints", "egress": "toEndpoints"}
    ports = [{"ports": [{"port": str(PORT), "protocol": "TCP"}], "rules": {"kafka": list(rules)}}]
    rule = {sides[direction]: [{"matchLabels": {"app": peer}}], "toPorts": ports}
    return json.dumps(
        {
            "apiVersion": kind[0],
            "kind": kind[1],
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"endpointSelector": {"matchLabels": {"app": at}}, direction: [rule], **more},
        }
    )


def ingress(*rules: Rule, kind: tuple[str, str] = CILIUM) -> str:
    """At the broker: what billing may."""
    return kafka_policy("kafka-ingress", *rules, kind=kind)


def egress(*rules: Rule, kind: tuple[str, str] = CILIUM) -> str:
    """At billing: what it may ask of the broker, and nothing else of anybody."""
    return kafka_policy("kafka-egress", *rules, at="billing", peer="kafka", direction="egress", kind=kind)


def work_rules() -> Sequence[Rule]:
    """What `clients.allowed` needs and `clients.denied` has not, in our own kind."""
    return (
        {"role": "produce", "topicPrefix": "t-", "transactionalIdPrefix": "x-"},
        {"role": "consume", "topicPrefix": "t-", "groupPrefix": "g-"},
        {"role": "admin", "topicPrefix": "t-"},
    )
