"""The words that documents are made of: checked types of labels, names, ports, addresses, patterns and headers.

Every message names what was expected and repeats at most a few quoted characters of what was given; values of headers
are never repeated.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Literal, NamedTuple, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from policies.matchers import PatternError, check_pattern
from policies.policyset import ENTITIES
from policies.selector import NAMESPACE_LABEL, NAMESPACE_LABELS
from policies.source import quoted

type Path = tuple[str | int, ...]

OURS = "tulle.dev"  # the validation context of our own kind: only there do its fields exist
RESERVED = "reserved:"  # before the name of an entity, in a peer selector

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_PORT_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
_PORT_NAME = re.compile(r"(?=[a-z0-9-]*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", re.IGNORECASE)
_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # token, RFC 9110 5.6.2
_HEADER_VALUE = re.compile(r"([!-~\u0080-\U0010ffff]([ \t!-~\u0080-\U0010ffff]*[!-~\u0080-\U0010ffff])?)?")
_PATH = re.compile(r"/[!-~]*")
_PATH_HAZARD = re.compile(r"[?#;\\]|//|/\.\.?(/|$)|%(?![0-9A-F]{2})")


class Wrong(NamedTuple):
    """A mistake that needs more than one field to be seen. at_key: the name of the field is meant, not its value."""

    path: Path
    message: str
    at_key: bool = False


class Strict(BaseModel):
    """No coercion, no unknown field, no change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def refuse(message: str) -> PydanticCustomError:
    """An error in our own words."""
    return PydanticCustomError("policy", "{message}", {"message": message})


def refused(message: str) -> BeforeValidator:
    """A field that is known and may not be given, and why."""

    def say(_: object) -> NoReturn:
        raise PydanticCustomError("refused", "{message}", {"message": message})

    return BeforeValidator(say)


def _ours(value: object, info: ValidationInfo) -> object:
    if info.context != OURS:
        raise PydanticCustomError("ours", "unknown field: only a TulleNetworkPolicy of tulle.dev/v1 has it")
    return value


ONLY_OURS = BeforeValidator(_ours)
"""Marks a field that a plain document does not have."""

type NotYet = Annotated[None, refused("not supported yet")]


def _dns_label(text: str) -> str:
    if not _DNS_LABEL.fullmatch(text):
        raise refuse(f"{quoted(text)} is not a namespace name: lower case letters, digits and '-', at most 63")
    return text


def _dns_name(text: str) -> str:
    if len(text) > 253 or not _DNS_NAME.fullmatch(text):
        raise refuse(f"{quoted(text)} is not an object name: lower case letters, digits, '-' and '.', at most 253")
    return text


def is_label_key(text: str) -> bool:
    """Whether Kubernetes takes it for the key of a label."""
    return _LABEL_KEY.fullmatch(text) is not None


def _label_key(text: str) -> str:
    """The key without its source: `k8s:` and `any:` both mean a label of the pod or its namespace.

    `reserved:` stays: it names an entity, and where that may stand is checked by who holds the selector.
    """
    source, colon, key = text.rpartition(":")
    if colon and source == RESERVED[:-1]:
        if key in ENTITIES and key not in ("all", "none", "cluster"):
            return text
        raise refuse(f"{quoted(text)} is not a reserved label of a peer")
    if colon and source not in ("k8s", "any"):
        raise refuse(f"label source {quoted(source)} is not supported yet; k8s, any and reserved are")
    if key.startswith(NAMESPACE_LABELS):
        if not is_label_key(key.removeprefix(NAMESPACE_LABELS)):
            raise refuse(f"{quoted(text)} does not end with the key of a namespace label")
        return key
    if key.startswith("io.cilium.k8s."):
        raise refuse(
            f"label {quoted(key)} is not supported yet: labels of pods, {NAMESPACE_LABEL} and {NAMESPACE_LABELS}KEY are"
        )
    if not is_label_key(key):
        raise refuse(f"{quoted(text)} is not a label key")
    return key


def _plain_key(text: str) -> str:
    """Of an object's own labels, as Kubernetes has them: no source, and nothing that is derived."""
    if text == NAMESPACE_LABEL or text.startswith("io.cilium.k8s."):
        raise refuse(f"label {quoted(text)} is derived by Cilium, and is none here: a namespaceSelector can ask for it")
    if not is_label_key(text):
        raise refuse(f"{quoted(text)} is not a label key")
    return text


def _label_value(text: str) -> str:
    if not _LABEL_VALUE.fullmatch(text):
        raise refuse(f"{quoted(text)} is not a label value: letters, digits, '-', '_' and '.', at most 63")
    return text


def _port(value: object) -> int | str:
    """A number, or a name in lower case: Cilium compares names in any case."""
    text = str(value) if type(value) is int else value
    if not isinstance(text, str):
        raise refuse('expected a port number or a name, as 80, "80" or "http"')
    if _PORT_NUMBER.fullmatch(text) and int(text) <= 65535:
        return int(text)
    if _PORT_NAME.fullmatch(text):
        return text.lower()
    raise refuse(f"{quoted(text)} is not a port: expected a name, or 0 to 65535, decimal; 0 is every port")


def _end_port(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 65535:
        raise refuse("expected a port number, as 8080, at most 65535")
    return value


def _protocol(text: str) -> str:
    upper = text.upper() or "ANY"
    if upper in ("TCP", "UDP", "ANY"):
        return upper
    if upper in ("SCTP", "ICMP", "ICMPV6", "VRRP", "IGMP"):
        raise refuse(f"protocol {upper} is not supported: TCP, UDP and ANY are")
    raise refuse(f"unknown protocol {quoted(text)}: TCP, UDP and ANY are known")


def prefix_of(text: str) -> IPv4Network | IPv6Network:
    """The network of CIDR text, host bits cleared.

    Raises:
        ValueError: not what Go's netip.ParsePrefix takes, or IPv4 in IPv6, which names nothing that connects.
    """
    address, slash, length = text.partition("/")
    ip = ip_address(address)
    if not slash or not _PREFIX_LENGTH.fullmatch(length) or int(length) > ip.max_prefixlen:
        raise ValueError("not a prefix length")
    if isinstance(ip, IPv6Address) and (ip.scope_id is not None or ip.ipv4_mapped is not None):
        raise ValueError("a zone, or IPv4 in IPv6")
    return ip_network((ip, int(length)), strict=False)


def _prefix(text: str) -> str:
    try:
        return str(prefix_of(text))
    except ValueError:
        raise refuse(f"{quoted(text)} is not a CIDR: expected an address and a length, as 10.0.0.0/8") from None


def _cidr(text: str) -> str:
    """As Cilium: an address alone is itself, /32 or /128."""
    if "/" not in text:
        try:
            return _prefix(f"{text}/{ip_address(text).max_prefixlen}")
        except ValueError:
            raise refuse(f"{quoted(text)} is neither a CIDR nor an IP address") from None
    return _prefix(text)


def _entity(text: str) -> str:
    if text not in ENTITIES:
        near = get_close_matches(text, ENTITIES, n=1)
        hint = f"; did you mean {near[0]}?" if near else f": {', '.join(ENTITIES)} are known"
        raise refuse(f"unknown entity {quoted(text)}{hint}")
    return text


_good_pattern = lru_cache(1024)(check_pattern)  # the same few methods and paths stand in thousands of rules


def _pattern(text: str) -> str:
    try:
        _good_pattern(text)
    except PatternError as error:
        raise refuse(str(error)) from None
    return text


def _canonical_path(text: str) -> str:
    """What a request's path can be after it was made canonical; anything else would never match."""
    if not _PATH.fullmatch(text) or _PATH_HAZARD.search(text):
        raise refuse(
            f"{quoted(text)} is not a path in normal form: '/', then visible ASCII without ?, #, ;, backslash, //, "
            "dot segments; what is encoded in upper case"
        )
    return text


def _path_prefix(text: str) -> str:
    if len(text) > 1 and text.endswith("/"):
        raise refuse("a prefix is whole segments: leave out the '/' at the end; it matches with and without")
    return _canonical_path(text)


def _path_template(text: str) -> str:
    names: set[str] = set()
    for segment in text.split("/"):
        inner = segment[1:-1]
        if segment.startswith("{") and segment.endswith("}") and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", inner):
            if inner in names:
                raise refuse(f"{quoted(segment)} stands twice in the template")
            names.add(inner)
        elif "{" in segment or "}" in segment:
            raise refuse(f"{quoted(segment)}: braces hold a name and are a whole segment, as /users/{{id}}")
    _canonical_path(text.replace("{", "").replace("}", ""))
    return text


def _header_name(text: str) -> str:
    if not _HEADER_NAME.fullmatch(text):
        raise refuse("not the name of a header: letters, digits and '-'")
    return text


def _header_value(text: str) -> str:
    if not _HEADER_VALUE.fullmatch(text):
        raise refuse("the value begins or ends with a space or holds a control character: no request can have it")
    return text


def _header(text: str) -> str:
    name, value = split_header(text)
    if not _HEADER_NAME.fullmatch(name):
        raise refuse("expected 'Name' or 'Name: value' with a space after the colon, as Cilium does")
    _header_value(value or "")
    return text


def split_header(text: str) -> tuple[str, str | None]:
    """Name and wanted value of one entry of `headers`, or None where presence is enough.

    As Cilium: cut at the first space, colons at the end of the name dropped (pkg/envoy, getHTTPRule).
    """
    name, space, value = text.partition(" ")
    return (name.rstrip(":"), value) if space else (name, None)


type Namespace = Annotated[str, AfterValidator(_dns_label)]
type AnyNamespace = Annotated[str, AfterValidator(lambda text: text and _dns_label(text))]
type ObjectName = Annotated[str, AfterValidator(_dns_name)]
type LabelKey = Annotated[str, AfterValidator(_label_key)]
type PlainKey = Annotated[str, AfterValidator(_plain_key)]
type LabelValue = Annotated[str, AfterValidator(_label_value)]
type PortValue = Annotated[int | str, BeforeValidator(_port)]
type EndPort = Annotated[int, BeforeValidator(_end_port)]
type Protocol = Annotated[str, AfterValidator(_protocol)]
type Cidr = Annotated[str, AfterValidator(_cidr)]
type Prefix = Annotated[str, AfterValidator(_prefix)]
type Entity = Annotated[str, AfterValidator(_entity)]
type Pattern = Annotated[str, AfterValidator(_pattern)]
type CanonicalPath = Annotated[str, AfterValidator(_canonical_path)]
type PathPrefix = Annotated[str, AfterValidator(_path_prefix)]
type PathTemplate = Annotated[str, AfterValidator(_path_template)]
type Header = Annotated[str, AfterValidator(_header)]
type HeaderName = Annotated[str, AfterValidator(_header_name)]
type HeaderValue = Annotated[str, AfterValidator(_header_value)]


class Expression(Strict):
    """values: at least one for In and NotIn, none for the others."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[LabelValue] = []

    @model_validator(mode="after")
    def _values_fit(self) -> "Expression":
        if self.operator in ("In", "NotIn") and not self.values:
            raise refuse(f"operator {self.operator} needs at least one value")
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            raise refuse(f"operator {self.operator} takes no values")
        return self


class PlainExpression(Expression):
    """The same on an object's own labels."""

    key: PlainKey


class PlainSelector(Strict):
    """A selector of Kubernetes' own; `{}` selects everything."""

    matchLabels: dict[PlainKey, LabelValue] = {}
    matchExpressions: list[PlainExpression] = []


def beyond(name: str, port: int | str, end: int | None, path: Path) -> Iterator[Wrong]:
    """What is wrong with an endPort."""
    if not end:
        return
    if isinstance(port, str):
        yield Wrong((*path, "endPort"), f"a range needs a number to begin with, not the name {quoted(port)}")
    elif port == 0:
        yield Wrong((*path, "endPort"), "port 0 is every port already")
    elif end < port:
        yield Wrong((*path, "endPort"), f"the range ends before it begins: {name} is {port}")
