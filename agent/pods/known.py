"""The cluster that a node knows of, with pods from both sources as one: the inventory, and what `pod.add` brought.

The inventory follows the labels of pods; `pod.add` says at once where a pod of this node is. What `pod.add` said is
kept on disk: a pod that only it named must not lose its protection with the agent's process.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from agent.errors import AgentError
from agent.pods.cluster import Cluster, load_cluster
from agent.pods.inventory import Pod, PodKey
from redirect.errors import RedirectError
from redirect.netns import Netns

log = logging.getLogger("tulle.agent.pods")


def boot_id() -> str:
    """Differs after every boot; numbers of the kernel mean nothing beyond it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def cookie_at(path: Path) -> int | None:
    """The number of the network namespace at a path, which no other one gets until the next boot; None: there is none.

    Its inode number tells nothing once nobody holds it: the next namespace gets the same (seen).
    """
    try:
        pod = Netns.open(path)
    except RedirectError:
        return None
    try:
        return pod.cookie
    finally:
        pod.close()


class _Added(BaseModel):
    """One pod of `pod.add`, as it is kept on disk."""

    model_config = ConfigDict(frozen=True)

    pod: Pod
    beside: Pod | None
    """The pod's line in the inventory when this came: while it stays as it was, this is the later word."""
    boot: str
    cookie: int


@dataclass(frozen=True, slots=True)
class _Deleted:
    """A pod that went by `pod.del` while its network namespace was still there."""

    path: Path
    cookie: int


_File = TypeAdapter(list[_Added])


class KnownPods:
    """Both sources; `pods` is what they say together."""

    def __init__(self, node: str, inventory: Path | None, state_dir: Path) -> None:
        self._node = node
        self._inventory = inventory
        self._file = state_dir / "added-pods.json"
        self._boot = boot_id()
        self._cluster: Cluster | None = Cluster() if inventory is None else None
        self._deleted: dict[PodKey, _Deleted] = {}
        self.error: str | None = None
        """What is wrong with the inventory as it is now; the last good one stays."""
        self.pods: Mapping[PodKey, Pod] = {}
        self._added = {one.pod.key: one for one in self._load()}

    @property
    def complete(self) -> bool:
        """Whether the inventory was read once. Until then nobody can say that a pod is gone."""
        return self._cluster is not None

    @property
    def cluster(self) -> Cluster:
        """All that is known, `pods` in it."""
        return (self._cluster or Cluster()).with_pods(self.pods)

    @property
    def _listed(self) -> Mapping[PodKey, Pod]:
        return self._cluster.pods if self._cluster is not None else {}

    def refresh(self) -> None:
        """Read the inventory again."""
        if self._inventory is not None:
            try:
                self._cluster = load_cluster(self._inventory)
                self.error = None
            except AgentError as error:  # the last good one stays
                if str(error) != self.error:
                    log.error("%s", error)
                self.error = str(error)
        self._combine()

    def add(self, pod: Pod) -> None:
        """Take the word of `pod.add`.

        Raises:
            AgentError: it is no pod of this node, has no network namespace, or cannot be written down.
        """
        name = f"{pod.namespace}/{pod.name}"
        if pod.node not in (None, self._node):
            raise AgentError(f"pod '{name}' is on node '{pod.node}', and this is '{self._node}'")
        cookie = cookie_at(pod.netns) if pod.netns is not None else None
        if cookie is None:
            raise AgentError(f"pod '{name}' has no network namespace")
        self.refresh()  # this is the later word than what is in the inventory now
        for key, other in list(self._added.items()):
            if other.pod.netns == pod.netns:  # nobody told us of its end
                del self._added[key]
        self._deleted.pop(pod.key, None)
        self._added[pod.key] = _Added(pod=pod, beside=self._listed.get(pod.key), boot=self._boot, cookie=cookie)
        self._combine()
        try:
            self._save()
        except OSError as error:
            raise AgentError(f"pod '{name}' would not be known after a restart: {error.strerror}") from error

    def delete(self, key: PodKey) -> None:
        """Take the word of `pod.del`: it holds for as long as that network namespace is there."""
        known = self.pods.get(key)
        if known is not None and known.netns is not None and (cookie := cookie_at(known.netns)) is not None:
            self._deleted[key] = _Deleted(known.netns, cookie)
        if self._added.pop(key, None) is not None:
            self._save_or_say()
        self._combine()

    def forget_ended(self) -> None:
        """Drop what `pod.add` said of pods whose network namespace is gone."""
        ended = [key for key, one in self._added.items() if one.pod.netns is None or not one.pod.netns.exists()]
        for key in ended:
            del self._added[key]
        if ended:
            self._save_or_say()

    def _combine(self) -> None:
        listed = self._listed
        pods = {key: self._of(key, listed.get(key)) for key in self._added} | {
            key: pod for key, pod in listed.items() if key not in self._added
        }
        for key, gone in list(self._deleted.items()):
            if key not in pods or pods[key].netns != gone.path or cookie_at(gone.path) != gone.cookie:
                del self._deleted[key]  # the end of it, or another pod under the same name
        self.pods = {key: pod for key, pod in pods.items() if key not in self._deleted}

    def _of(self, key: PodKey, listed: Pod | None) -> Pod:
        added = self._added[key]
        pod = added.pod
        if listed is None:
            return pod
        agrees = listed.netns in (None, pod.netns) and listed.node in (None, self._node)
        if not agrees:
            # the line of an earlier pod of this name; or a later one, and then ours has ended
            if listed != added.beside:
                return listed
            return pod if pod.labels else pod.model_copy(update={"labels": listed.labels})
        missing = [field for field in ("netns", "cgroup", "ipv4", "ipv6") if getattr(listed, field) is None]
        missing += ["ports"] if not listed.ports else []
        return listed.model_copy(update={field: getattr(pod, field) for field in missing})

    def _load(self) -> list[_Added]:
        try:
            found = _File.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            log.error("cannot read '%s', pods that only pod.add named are not known: %s", self._file, error)
            return []
        return [
            one
            for one in found
            if one.boot == self._boot and one.pod.netns is not None and cookie_at(one.pod.netns) == one.cookie
        ]

    def _save(self) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps([one.model_dump(mode="json") for one in self._added.values()]))
        fresh.rename(self._file)

    def _save_or_say(self) -> None:
        try:
            self._save()
        except OSError as error:  # what is too much in it is dropped when it is read
            log.error("cannot write '%s': %s", self._file, error.strerror)
