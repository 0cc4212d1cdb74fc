"""The agent's configuration file: every setting with its unit and default.

One YAML document. Unknown keys are errors: a misspelt limit must not silently be the default.
"""

import os
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.errors import ConfigError

DEFAULT_CONFIG = Path("/etc/tulle/agent.yaml")
# Not one of the distribution's users and not `nobody`: a pod's process of the same uid could signal a worker.
DEFAULT_WORKER_UID = 64738
MAX_WORKERS = 8
"""Half of the listener slots of a pod: a new agent's workers are added beside the old ones before those are
drained."""

Positive = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AuditSettings(_Section):
    """Where records go."""

    directory: Path
    max_bytes: Annotated[int, Field(ge=65536)] = 64 * 1024 * 1024
    """A stream's file is rotated when it would grow past this."""
    backups: Annotated[int, Field(ge=1, le=1000)] = 5
    """Rotated files kept of each stream; the oldest is deleted, which is the one way a written record goes."""
    stdout: bool = True
    """Also write every record to the standard output of the process that made it, which is the agent's."""


class LimitSettings(_Section):
    """What one connection may cost; the reasons for the defaults stand beside them in proxy/limits.py."""

    head_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] | None = None
    headers: Annotated[int, Field(ge=1, le=10_000)] | None = None
    idle_s: Positive | None = None
    head_read_s: Positive | None = None
    connect_s: Positive | None = None
    connections_per_endpoint: Annotated[int, Field(ge=1)] | None = None
    merge_slashes: bool | None = None
    recognise: bool | None = None


class Settings(_Section):
    """One node's agent."""

    node: Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    run_dir: Path = Path("/run/tulle")
    """Sockets and pid files; gone after a boot."""
    state_dir: Path = Path("/var/lib/tulle")
    """The last good policies, numbers given to identities and endpoints, what a pod's settings were."""
    bpffs: Path = Path("/sys/fs/bpf/tulle")
    """Directory on a bpf file system where programs, links and maps are pinned."""
    cgroup_root: Path | None = None
    """Directory of cgroup v2 where the connect hooks are attached; the mounted root when absent."""
    policy_dir: Path = Path("/etc/tulle/policies")
    inventory: Path | None = None
    """JSON file with the cluster's pods; followed."""
    node_probes: bool = True
    """Connections that a process of this node opens to its own pods pass although no rule allows them, as probes of a
    kubelet do, with a record of their own; what a deny rule refuses stays refused."""
    kernel_headers: Path | None = None
    """Header tree for BCC; found by the loader when absent."""
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = Field(
        default_factory=lambda: min(MAX_WORKERS, len(os.sched_getaffinity(0)))
    )
    worker_uid: Annotated[int, Field(ge=1)] = DEFAULT_WORKER_UID
    worker_silent_s: Positive = 2.0
    """A worker that does not answer for this long is killed and replaced."""
    drain_limit_s: Positive = 3600.0
    """After this the connections that a drained worker or a released pod still has are closed and recorded."""
    drain_final_s: Positive = 30.0
    """From the drain limit on a drained worker's connection is told with its next response that it is over; after this
    long it is reset."""
    audit: AuditSettings
    limits: LimitSettings = LimitSettings()

    @property
    def control_socket(self) -> Path:
        """Where this node's agent answers."""
        return self.run_dir / "agent.sock"


def load_settings(path: Path) -> Settings:
    """Read and check one configuration file.

    Raises:
        ConfigError: unreadable, not YAML, or a key is unknown, missing or out of range; every mistake is named.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read configuration '{path}': {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'document'}: {item['msg'].lower()}" for item in error.errors()]
        raise ConfigError(f"'{path}': " + "; ".join(lines)) from error
