"""Names, places and suggestions."""

from pathlib import Path

import pytest

from lab import names
from lab.errors import LabError


@pytest.mark.parametrize(
    ("text", "good"),
    [("tulle", True), ("a", True), ("a-1", True), ("", False), ("-a", False), ("a-", False), ("A", False),
     ("a_b", False), ("a/b", False), ("a.b", False), ("x" * 24, True), ("x" * 25, False), ("..", False)],
)  # fmt: skip
def test_lab_names(text: str, good: bool) -> None:
    if good:
        assert names.check_lab_name(text) == text
    else:
        with pytest.raises(LabError, match="lab name"):
            names.check_lab_name(text)


def test_one_labs_prefix_never_begins_another_labs_names() -> None:
    assert not names.pod_netns("a-b", "default", "web").startswith(names.netns_prefix("a"))
    assert not names.node_netns("a-node", "x").startswith(names.netns_prefix("a"))


@pytest.mark.parametrize(
    ("ref", "expected"),
    [("web", ("default", "web")), ("shop/web", ("shop", "web")), ("/web", ("", "web"))],
)
def test_split_pod(ref: str, expected: tuple[str, str]) -> None:
    assert names.split_pod(ref) == expected


def test_suggestions() -> None:
    known = ["frontend", "frontend-near", "web"]
    assert names.did_you_mean("fronted", known) == "; did you mean 'frontend'?"
    assert names.did_you_mean("zzz", known) == "; there are frontend, frontend-near, web"
    assert names.did_you_mean("zzz", []) == ""


def test_socket_paths_of_the_longest_names_fit() -> None:
    longest = names.run_dir("x" * names.MAX_LAB_NAME) / ("n" * names.MAX_NODE_NAME) / "run"
    # struct sockaddr_un holds 107 bytes; agent and workers need room for names of their own.
    assert len(str(longest)) + len("/workers/0123456789.sock") <= 107


def test_cgroup_root_is_a_mounted_cgroup2() -> None:
    assert (Path(names.cgroup_root()) / "cgroup.controllers").exists()
