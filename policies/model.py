"""CiliumNetworkPolicy as people write it (`cilium.io/v2`), word by word; fields carry the document's own names.

Unknown fields are errors, and fields that Cilium knows and this version does not enforce are errors of their own: a
part that is dropped can turn a rule into "everything". Absent is None and empty is empty; `null` never reaches this
file. Messages never repeat what a field holds beyond a few quoted characters.
"""

import re
from typing import Annotated, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from policies.matchers import PatternError, check_pattern
from policies.selector import NAMESPACE_LABEL
from policies.source import quoted

MAX_PORTS = 40  # of one toPorts entry, Cilium's own limit

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_PORT_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
_PORT_NAME = re.compile(r"(?=[a-z0-9-]*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # token, RFC 9110 5.6.2
_HEADER_VALUE = re.compile(r"([!-~\u0080-\U0010ffff]([ \t!-~\u0080-\U0010ffff]*[!-~\u0080-\U0010ffff])?)?")


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("policy", "{message}", {"message": message})


def _not_yet(_: object) -> NoReturn:
    raise PydanticCustomError("not_yet", "not supported yet")


type NotYet = Annotated[None, BeforeValidator(_not_yet)]


def _dns_label(text: str) -> str:
    if not _DNS_LABEL.fullmatch(text):
        raise _refuse(f"{quoted(text)} is not a namespace name: lower case letters, digits and '-', at most 63")
    return text


def _dns_name(text: str) -> str:
    if len(text) > 253 or not _DNS_NAME.fullmatch(text):
        raise _refuse(f"{quoted(text)} is not an object name: lower case letters, digits, '-' and '.', at most 253")
    return text


def _label_key(text: str) -> str:
    """The key without its source: `k8s:` and `any:` both mean a label of the pod here, as no other source exists."""
    source, colon, key = text.rpartition(":")
    if colon and source not in ("k8s", "any"):
        raise _refuse(f"label source {quoted(source)} is not supported yet; k8s and any are")
    if key.startswith("io.cilium.k8s."):
        raise _refuse(f"label {quoted(key)} is not supported yet: only labels of pods and {NAMESPACE_LABEL} are known")
    if not _LABEL_KEY.fullmatch(key):
        raise _refuse(f"{quoted(text)} is not a label key")
    return key


def _label_value(text: str) -> str:
    if not _LABEL_VALUE.fullmatch(text):
        raise _refuse(f"{quoted(text)} is not a label value: letters, digits, '-', '_' and '.', at most 63")
    return text


def _port(value: object) -> int:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str):
        raise _refuse('expected a port number, as 80 or "80"')
    if _PORT_NUMBER.fullmatch(text) and int(text) <= 65535:
        return int(text)
    if _PORT_NAME.fullmatch(text):
        raise _refuse(f"named port {quoted(text)} is not supported yet")
    raise _refuse(f"{quoted(text)} is not a port: expected 0 to 65535, decimal; 0 is every port")


def _protocol(text: str) -> str:
    upper = text.upper()
    if upper in ("TCP", "ANY", ""):
        return "TCP"
    if upper in ("UDP", "SCTP", "ICMP", "ICMPV6", "VRRP", "IGMP"):
        raise _refuse(f"protocol {upper} is not supported yet; TCP and ANY are")
    raise _refuse(f"unknown protocol {quoted(text)}")


def _pattern(text: str) -> str:
    try:
        check_pattern(text)
    except PatternError as error:
        raise _refuse(str(error)) from None
    return text


def _header(text: str) -> str:
    name, value = split_header(text)
    if not _HEADER_NAME.fullmatch(name):
        raise _refuse("expected 'Name' or 'Name: value' with a space after the colon, as Cilium does")
    if value is not None and not _HEADER_VALUE.fullmatch(value):
        raise _refuse("the value begins or ends with a space or holds a control character: no request can have it")
    return text


def split_header(text: str) -> tuple[str, str | None]:
    """Name and wanted value of one entry of `headers`, or None where presence is enough.

    As Cilium: cut at the first space, colons at the end of the name dropped (pkg/envoy, getHTTPRule).
    """
    name, space, value = text.partition(" ")
    return (name.rstrip(":"), value) if space else (name, None)


type LabelKey = Annotated[str, AfterValidator(_label_key)]
type LabelValue = Annotated[str, AfterValidator(_label_value)]
type Pattern = Annotated[str, AfterValidator(_pattern)]
type Header = Annotated[str, AfterValidator(_header)]


class Strict(BaseModel):
    """No coercion, no unknown field, no change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LabelExpression(Strict):
    """values: at least one for In and NotIn, none for the others."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[LabelValue] = []

    @model_validator(mode="after")
    def _values_fit(self) -> "LabelExpression":
        if self.operator in ("In", "NotIn") and not self.values:
            raise _refuse(f"operator {self.operator} needs at least one value")
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            raise _refuse(f"operator {self.operator} takes no values")
        return self


class EndpointSelector(Strict):
    """`{}` selects every pod of the policy's namespace."""

    matchLabels: dict[LabelKey, LabelValue] = {}
    matchExpressions: list[LabelExpression] = []

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, data: object) -> object:
        labels = data.get("matchLabels") if isinstance(data, dict) else None
        if isinstance(labels, dict):
            keys = [key.rpartition(":")[2] for key in labels if isinstance(key, str)]
            if len(set(keys)) < len(keys):
                raise _refuse("matchLabels names one label twice, with different sources")
        return data


class HttpRuleModel(Strict):
    """Absent and "" are both no constraint for method, path and host, as in Cilium."""

    method: Pattern = ""
    path: Pattern = ""
    host: Pattern = ""
    headers: list[Header] = []
    headerMatches: NotYet = None


class L7Rules(Strict):
    """http absent: no L7 rule at all. http empty: every request, proxied and recorded."""

    http: list[HttpRuleModel] | None = None
    kafka: NotYet = None
    dns: NotYet = None
    l7proto: NotYet = None
    l7: NotYet = None


class Port(Strict):
    """port 0 is every port."""

    port: Annotated[int, BeforeValidator(_port)]
    protocol: Annotated[str, AfterValidator(_protocol)] = "ANY"
    endPort: NotYet = None


class PortRule(Strict):
    """rules absent or `{}`: an L4 allow."""

    ports: Annotated[list[Port], Field(min_length=1, max_length=MAX_PORTS)]
    rules: L7Rules | None = None
    serverNames: NotYet = None
    terminatingTLS: NotYet = None
    originatingTLS: NotYet = None
    listener: NotYet = None

    @model_validator(mode="after")
    def _l7_needs_a_port(self) -> "PortRule":
        if self.rules is not None and self.rules.http is not None and any(p.port == 0 for p in self.ports):
            raise _refuse("L7 rules need a port number: port 0 means every port")
        return self


type PortRules = Annotated[list[PortRule], Field(min_length=1)]


class IngressRule(Strict):
    """Both absent (`{}`): allows nothing, and still puts the endpoint under default deny."""

    fromEndpoints: list[EndpointSelector] | None = None
    toPorts: PortRules | None = None
    fromRequires: NotYet = None
    fromCIDR: NotYet = None
    fromCIDRSet: NotYet = None
    fromEntities: NotYet = None
    fromGroups: NotYet = None
    fromNodes: NotYet = None
    icmps: NotYet = None
    authentication: NotYet = None


class EgressRule(Strict):
    """The mirror of IngressRule."""

    toEndpoints: list[EndpointSelector] | None = None
    toPorts: PortRules | None = None
    toRequires: NotYet = None
    toCIDR: NotYet = None
    toCIDRSet: NotYet = None
    toEntities: NotYet = None
    toServices: NotYet = None
    toFQDNs: NotYet = None
    toGroups: NotYet = None
    toNodes: NotYet = None
    icmps: NotYet = None
    authentication: NotYet = None


class Spec(Strict):
    """ingress or egress absent or empty: that direction is not touched. A rule in it: default deny for it."""

    endpointSelector: EndpointSelector
    ingress: list[IngressRule] = []
    egress: list[EgressRule] = []
    description: str = ""
    nodeSelector: NotYet = None
    ingressDeny: NotYet = None
    egressDeny: NotYet = None
    enableDefaultDeny: NotYet = None
    labels: NotYet = None

    @model_validator(mode="after")
    def _says_something(self) -> "Spec":
        # Cilium refuses it too. Left standing, it would select pods and protect nothing.
        if not self.ingress and not self.egress:
            raise _refuse("neither ingress nor egress has a rule; to deny a whole direction write one empty rule, [{}]")
        return self


class Metadata(BaseModel):
    """Of metadata only name, namespace and our annotations mean anything here; the rest is the API server's."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    name: Annotated[str, AfterValidator(_dns_name)]
    namespace: Annotated[str, AfterValidator(_dns_label)] = "default"
    annotations: dict[str, str] | None = None

    @model_validator(mode="after")
    def _no_extensions(self) -> "Metadata":
        for key in self.annotations or {}:
            if key.startswith("tulle.dev/"):
                raise _refuse(f"annotation {quoted(key)} is not supported yet")
        return self


class CiliumNetworkPolicy(Strict):
    """spec and specs may stand together; each spec is a policy of its own under one name."""

    apiVersion: Literal["cilium.io/v2"]
    kind: Literal["CiliumNetworkPolicy"]
    metadata: Metadata
    spec: Spec | None = None
    specs: Annotated[list[Spec], Field(min_length=1)] | None = None
    status: object = None  # what `kubectl get -o yaml` prints beside the policy

    @model_validator(mode="after")
    def _has_spec(self) -> "CiliumNetworkPolicy":
        if self.spec is None and self.specs is None:
            raise _refuse("spec or specs is missing")
        own = self.metadata.namespace
        for spec in [*([self.spec] if self.spec else []), *(self.specs or [])]:
            if spec.endpointSelector.matchLabels.get(NAMESPACE_LABEL, own) != own:
                raise _refuse(f"an endpointSelector selects in the policy's own namespace only, {quoted(own)}")
        return self
