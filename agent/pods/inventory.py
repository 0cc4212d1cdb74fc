"""The file that tells a node of its cluster, as JSON: pods first, and what else policies name. Kubernetes and Docker
come behind the same model.

    {"pods": [{"namespace", "name", "node", "labels", "ipv4", "ipv6", "netns", "cgroup",
               "ports": [{"name", "port", "protocol"}]}],
     "nodes": [{"name", "addresses": []}],
     "namespaces": {NAME: {"labels": {}}},
     "services": [{"namespace", "name", "labels", "selector", "cluster_ips", "endpoints": [], "ports": []}],
     "kube_apiserver": {"addresses": []}}

Only `pods` must be there. What `tulle lab status --json` prints is such a file too.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent.errors import AgentError

type PodKey = tuple[str, str]
"""(namespace, name)"""

Name = Annotated[str, Field(min_length=1, max_length=253)]
PortNumber = Annotated[int, Field(ge=1, le=65535)]
type Protocol = Literal["TCP", "UDP", "SCTP"]
type IPAddress = IPv4Address | IPv6Address


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PodPort(_Part):
    """A port of a pod that has a name, as a container's port in Kubernetes."""

    name: Annotated[str, Field(min_length=1, max_length=15)]
    port: PortNumber
    protocol: Protocol = "TCP"


class Pod(_Part):
    """One pod. `netns` and `cgroup` are paths on the pod's own node and mean nothing on another."""

    namespace: Name = "default"
    name: Name
    node: str | None = None
    labels: Mapping[str, str] = {}
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    netns: Path | None = None
    cgroup: Path | None = None
    ports: tuple[PodPort, ...] = ()

    @property
    def key(self) -> PodKey:
        """What the pod is known by."""
        return self.namespace, self.name

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses as text."""
        return tuple(str(address) for address in (self.ipv4, self.ipv6) if address is not None)


class Node(_Part):
    """One node. `ready` and `revision` are what the lab prints beside it; they mean nothing here."""

    name: Name
    addresses: tuple[IPAddress, ...] = ()
    ready: object = None
    revision: object = None


class Namespace(_Part):
    """One namespace."""

    labels: Mapping[str, str] = {}


class ServicePort(_Part):
    """A port of a service, for those who route; policies do not ask for it."""

    name: str = ""
    port: PortNumber
    target_port: PortNumber | str | None = None
    protocol: Protocol = "TCP"


class Service(_Part):
    """One service. selector absent or empty, as in Kubernetes: `endpoints` are what is behind it."""

    namespace: Name = "default"
    name: Name
    labels: Mapping[str, str] = {}
    selector: Mapping[str, str] | None = None
    cluster_ips: tuple[IPAddress, ...] = ()
    endpoints: tuple[IPAddress, ...] = ()
    ports: tuple[ServicePort, ...] = ()


class ApiServer(_Part):
    """Where the API server is reached."""

    addresses: tuple[IPAddress, ...] = ()


class InventoryFile(BaseModel):
    """The whole file. Other keys are let pass, as `tulle lab status --json` says more; misspelt ones are not."""

    model_config = ConfigDict(extra="allow", frozen=True)

    pods: tuple[Pod, ...]
    nodes: tuple[Node, ...] = ()
    namespaces: Mapping[Name, Namespace] = {}
    services: tuple[Service, ...] = ()
    kube_apiserver: ApiServer = ApiServer()

    @model_validator(mode="after")
    def _nothing_misspelt(self) -> Self:
        known = list(type(self).model_fields)
        for key in self.model_extra or {}:
            if near := get_close_matches(key, known, n=1, cutoff=0.8):
                raise ValueError(f"unknown key {key[:50]!r}; did you mean {near[0]!r}?")
        return self


def parse_pod(value: object) -> Pod:
    """One pod of a control message.

    Raises:
        AgentError: a key is unknown, missing or wrong.
    """
    try:
        return Pod.model_validate(value)
    except ValidationError as error:
        raise AgentError(f"bad pod: {reasons(error)}") from error


def reasons(error: ValidationError) -> str:
    """What is wrong and where, on one line."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'inventory'}: {item['msg'].lower()}" for item in error.errors()[:5]
    )
