"""Names of labs, nodes and pods, and where everything that belongs to a lab lies on the machine.

Every place is a function of the lab's name alone. That is what makes `lab down` certain: it needs no
record of what was made, so a `lab up` that was killed at any point leaves nothing that cannot be found.
"""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from lab.errors import LabError

DEFAULT_LAB = "tulle"
DEFAULT_NAMESPACE = "default"
RUN_ROOT = Path("/run/tulle/lab")
DATA_ROOT = Path("/var/lib/tulle/lab")
NETNS_ROOT = Path("/run/netns")
BPFFS_ROOT = Path("/sys/fs/bpf")

# A Unix socket's path holds 107 bytes: /run/tulle/lab/<lab>/<node>/run/<what agent and workers add>.
MAX_LAB_NAME = 24
MAX_NODE_NAME = 24
MAX_POD_NAME = 63
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def is_label(text: str, max_chars: int = MAX_POD_NAME) -> bool:
    """Whether `text` is a DNS label (RFC 1123 2.1, lower case) of at most `max_chars` characters."""
    return len(text) <= max_chars and _LABEL.fullmatch(text) is not None


def check_lab_name(name: str) -> str:
    """Give the name back; raises LabError when it could not be the name of a lab."""
    if not is_label(name, MAX_LAB_NAME):
        raise LabError(
            f"lab name {name!r}: expected lower-case letters, digits and '-', at most {MAX_LAB_NAME} characters"
        )
    return name


def run_dir(lab: str) -> Path:
    return RUN_ROOT / lab


def data_dir(lab: str) -> Path:
    """What may grow large, such as brokers' logs: on disk, where RUN_ROOT is often memory."""
    return DATA_ROOT / lab


def lock_file(lab: str) -> Path:
    return RUN_ROOT / f".{lab}.lock"


# `_` cannot occur in a name, so the prefix of one lab is never the beginning of another lab's.
def netns_prefix(lab: str) -> str:
    return f"tulle_{lab}_"


def underlay_netns(lab: str) -> str:
    return f"{netns_prefix(lab)}underlay"


def node_netns(lab: str, node: str) -> str:
    return f"{netns_prefix(lab)}node_{node}"


def pod_netns(lab: str, namespace: str, pod: str) -> str:
    return f"{netns_prefix(lab)}pod_{namespace}_{pod}"


def cgroup_root() -> Path:
    """Where cgroup v2 is mounted: /sys/fs/cgroup, or a directory below it where v1 is there too.

    Raises:
        LabError: cgroup v2 is not mounted.
    """
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, target, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(target.encode().decode("unicode_escape"))
    raise LabError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")


def labs_cgroup() -> Path:
    return cgroup_root() / "tulle-lab"


def lab_cgroup(lab: str) -> Path:
    return labs_cgroup() / lab


def node_cgroup(lab: str, node: str) -> Path:
    """What the node's agent gets as its cgroup root; everything of the node is below it."""
    return lab_cgroup(lab) / node


def pod_cgroup(lab: str, node: str, namespace: str, pod: str) -> Path:
    return node_cgroup(lab, node) / "pods" / f"{namespace}_{pod}"


def lab_bpffs(lab: str) -> Path:
    return BPFFS_ROOT / "tulle" / lab


def split_pod(ref: str) -> tuple[str, str]:
    """NAME (in namespace `default`) or NAMESPACE/NAME -> (namespace, name)."""
    namespace, slash, name = ref.rpartition("/")
    return (namespace if slash else DEFAULT_NAMESPACE, name)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, or all of them when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(names)}" if names else ""
