"""The policy directory: a good set is swapped in whole, a bad file changes nothing, a lost directory is not an empty
one."""

import shutil
import subprocess
from pathlib import Path

import pytest

from agent.policy_store import PolicyStore

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: %s}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
"""


class Place:
    def __init__(self, root: Path) -> None:
        self.policies, self.state = root / "policies", root / "state"
        self.policies.mkdir()
        self.state.mkdir()

    def store(self) -> PolicyStore:
        return PolicyStore(self.policies, self.state)

    def write(self, name: str, text: str) -> None:
        (self.policies / name).write_text(text)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_an_empty_directory_is_revision_1(place: Place) -> None:
    store = place.store()
    assert store.rescan() is True
    assert (store.revision, store.errors) == (1, [])
    assert store.rescan() is False


def test_a_change_is_the_next_revision_and_the_same_content_is_not(place: Place) -> None:
    store = place.store()
    store.rescan()
    place.write("a.yaml", POLICY % "a")
    assert store.rescan() is True
    assert store.revision == 2
    shutil.move(place.policies / "a.yaml", place.policies / "b.yaml")
    assert store.rescan() is False
    assert store.revision == 2


def test_a_bad_file_leaves_what_is_in_force_and_is_named(place: Place) -> None:
    store = place.store()
    place.write("a.yaml", POLICY % "a")
    store.rescan()
    before = store.current
    place.write("bad.yaml", POLICY % "b" + "  igress: []\n")
    assert store.rescan() is False
    assert store.current is before
    assert store.revision == 1
    assert any("bad.yaml:8" in line and "igress" in line for line in store.errors)
    (place.policies / "bad.yaml").unlink()
    assert store.rescan() is False
    assert store.errors == []


def test_a_start_beside_a_bad_file_finds_the_last_good_set(place: Place) -> None:
    first = place.store()
    place.write("a.yaml", POLICY % "a")
    first.rescan()
    place.write("bad.yaml", "kind: [")
    second = place.store()
    assert second.rescan() is True
    assert second.current == first.current
    assert second.revision == first.revision
    assert second.errors


def test_a_first_start_beside_a_bad_file_has_nothing_in_force(place: Place) -> None:
    place.write("bad.yaml", "kind: [")
    store = place.store()
    assert store.rescan() is False
    assert store.current is None


def test_a_restart_keeps_the_number_of_the_same_content(place: Place) -> None:
    first = place.store()
    first.rescan()
    place.write("a.yaml", POLICY % "a")
    first.rescan()
    second = place.store()
    second.rescan()
    assert second.revision == first.revision == 2


def test_a_directory_that_is_gone_is_an_error_and_not_an_empty_set(place: Place) -> None:
    store = place.store()
    place.write("a.yaml", POLICY % "a")
    store.rescan()
    before = store.current
    shutil.rmtree(place.policies)
    assert store.rescan() is False
    assert store.current is before
    assert any("cannot read" in line for line in store.errors)


def test_other_files_are_left_alone(place: Place) -> None:
    place.write("README.md", "not a policy")
    place.write(".a.yaml.swp", "half an editor's file")
    place.write(".hidden.yaml", "kind: [")
    store = place.store()
    assert store.rescan() is True
    assert store.errors == []


def test_a_set_that_cannot_be_kept_is_in_force_all_the_same_and_is_kept_later(place: Place) -> None:
    store = place.store()
    store.rescan()
    place.write("a.yaml", POLICY % "a")
    shutil.rmtree(place.state)
    place.state.write_text("as a full disk: nothing can be made here")
    assert store.rescan() is True
    assert store.revision == 2
    assert store.errors == []
    assert "cannot keep the policies" in str(store.save_error)
    place.state.unlink()
    place.state.mkdir()
    assert store.rescan() is False
    assert store.save_error is None
    place.write("a.yaml", "not a policy")
    later = place.store()
    assert later.rescan() is True
    assert later.current is not None
    assert len(later.current.sections) == 1


@pytest.mark.root
def test_a_directory_whose_file_system_is_gone_is_an_error_and_not_an_empty_set(place: Place) -> None:
    """What is left after an unmount is the empty directory below it."""
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place.policies)], check=True)  # noqa: S603, S607  fixed
    mounted = True
    try:
        store = place.store()
        place.write("a.yaml", POLICY % "a")
        store.rescan()
        before = store.current
        subprocess.run(["umount", str(place.policies)], check=True)  # noqa: S603, S607  fixed
        mounted = False
        assert store.rescan() is False
        assert store.current is before
        assert any("a lost mount?" in line for line in store.errors)
        after_restart = place.store()
        after_restart.rescan()
        assert after_restart.current == before
    finally:
        if mounted:
            subprocess.run(["umount", str(place.policies)], check=True)  # noqa: S603, S607  fixed


def test_policies_that_are_deleted_are_deleted(place: Place) -> None:
    store = place.store()
    place.write("a.yaml", POLICY % "a")
    store.rescan()
    (place.policies / "a.yaml").unlink()
    assert store.rescan() is True
    assert (store.revision, store.errors) == (2, [])
