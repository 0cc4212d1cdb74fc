"""The pods of the cluster as one JSON file: the first source of pods; Docker and Kubernetes come behind the same
model."""

import json
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.errors import AgentError

type PodKey = tuple[str, str]
"""(namespace, name)"""

Name = Annotated[str, Field(min_length=1, max_length=253)]


class Pod(BaseModel):
    """One pod. `netns` and `cgroup` are paths on the pod's own node and mean nothing on another."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: Name = "default"
    name: Name
    node: str | None = None
    labels: Mapping[str, str] = {}
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    netns: Path | None = None
    cgroup: Path | None = None

    @property
    def key(self) -> PodKey:
        """What the pod is known by."""
        return self.namespace, self.name

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses as text."""
        return tuple(str(address) for address in (self.ipv4, self.ipv6) if address is not None)


class _Inventory(BaseModel):
    model_config = ConfigDict(extra="ignore")  # `tulle lab status --json` is an inventory too, and says more

    pods: tuple[Pod, ...]


def parse_pod(value: object) -> Pod:
    """One pod of a control message.

    Raises:
        AgentError: a key is unknown, missing or wrong.
    """
    try:
        return Pod.model_validate(value)
    except ValidationError as error:
        raise AgentError(f"bad pod: {_reasons(error)}") from error


def load_inventory(path: Path) -> dict[PodKey, Pod]:
    """Every pod of an inventory file.

    Raises:
        AgentError: unreadable, not JSON, a pod is wrong, or two pods share a name or an address.
    """
    try:
        inventory = _Inventory.model_validate(json.loads(path.read_text()))
    except OSError as error:
        raise AgentError(f"cannot read inventory '{path}': {error.strerror}") from error
    except ValidationError as error:
        raise AgentError(f"inventory '{path}': {_reasons(error)}") from error
    except ValueError as error:
        raise AgentError(f"inventory '{path}' is not JSON: {error}") from error
    pods: dict[PodKey, Pod] = {}
    owners: dict[str, PodKey] = {}
    for pod in inventory.pods:
        if pods.setdefault(pod.key, pod) is not pod:
            raise AgentError(f"inventory '{path}': pod '{pod.namespace}/{pod.name}' is there twice")
        for address in pod.addresses:
            if (owner := owners.setdefault(address, pod.key)) != pod.key:
                # one address with two identities would make the verdict depend on the order of a file
                raise AgentError(
                    f"inventory '{path}': '{address}' belongs to {'/'.join(owner)} and {'/'.join(pod.key)}"
                )
    return pods


def _reasons(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}" for item in error.errors()[:5])
