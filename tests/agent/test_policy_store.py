"""The policy directory: every document lives and dies alone, a bad one takes nothing away, a lost directory is not an
empty one."""

import shutil
import subprocess
from pathlib import Path

import pytest

from agent.policy_store import PolicyStore
from policies.compile import compile_policies
from policies.load import load_files

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
    assert store.current == before
    assert store.revision == 1
    assert any("bad.yaml:8" in line and "igress" in line for line in store.errors)
    (place.policies / "bad.yaml").unlink()
    assert store.rescan() is False
    assert store.errors == []


def names_of(store: PolicyStore) -> list[str]:
    assert store.current is not None
    return [section.policy.name for section in store.current.sections]


def stale(store: PolicyStore) -> list[str]:
    return sorted(key[2] for key, one in store.documents.items() if one.stale)


def test_a_good_document_comes_into_force_beside_a_bad_file(place: Place) -> None:
    store = place.store()
    place.write("a.yaml", POLICY % "a")
    store.rescan()
    place.write("bad.yaml", "kind: [")
    place.write("c.yaml", POLICY % "c")
    assert store.rescan() is True
    assert names_of(store) == ["a", "c"]
    assert len(store.errors) == 1


def test_a_bad_document_keeps_its_last_good_revision_and_the_rest_of_its_file_moves_on(place: Place) -> None:
    store = place.store()
    place.write("a.yaml", f"{POLICY % 'a'}---\n{POLICY % 'b'}")
    store.rescan()
    old = store.documents["CiliumNetworkPolicy", "default", "b"]
    changed = (POLICY % "a").replace("app: frontend", "app: other")
    place.write("a.yaml", f"{changed}---\n{POLICY % 'b'}  igress: []\n---\n{POLICY % 'c'}")
    assert store.rescan() is True
    assert names_of(store) == ["a", "b", "c"]
    assert stale(store) == ["b"]
    kept = store.documents["CiliumNetworkPolicy", "default", "b"]
    assert (kept.digest, kept.revision) == (old.digest, 1)
    assert store.documents["CiliumNetworkPolicy", "default", "a"].revision == 2


@pytest.mark.parametrize("text", ["kind: [", "", "\x00", POLICY % "a" + "  igress: []\n"])
def test_what_a_file_had_stays_while_it_cannot_be_read(place: Place, text: str) -> None:
    store = place.store()
    place.write("a.yaml", POLICY % "a")
    place.write("b.yaml", POLICY % "b")
    store.rescan()
    place.write("a.yaml", text)
    assert store.rescan() is False
    assert names_of(store) == ["a", "b"]
    assert store.errors
    again = place.store()
    again.rescan()
    assert names_of(again) == ["a", "b"]
    assert stale(again) == ["a"]
    (place.policies / "a.yaml").unlink()
    assert again.rescan() is True
    assert names_of(again) == ["b"]
    assert again.errors == []


def test_a_document_that_is_gone_from_a_good_file_is_gone(place: Place) -> None:
    store = place.store()
    place.write("a.yaml", f"{POLICY % 'a'}---\n{POLICY % 'b'}")
    place.write("bad.yaml", "kind: [")
    store.rescan()
    place.write("a.yaml", POLICY % "a")
    assert store.rescan() is True
    assert names_of(store) == ["a"]


def test_a_document_in_two_files_is_an_error_and_stays_as_it_was(place: Place) -> None:
    store = place.store()
    place.write("a.yaml", POLICY % "a")
    store.rescan()
    before = store.current
    place.write("b.yaml", (POLICY % "a").replace("app: frontend", "app: other"))
    assert store.rescan() is False
    assert store.current == before
    assert any("already in" in line for line in store.errors)
    (place.policies / "a.yaml").unlink()
    assert store.rescan() is True
    assert names_of(store) == ["a"]
    assert store.current != before


def test_a_file_that_cannot_be_opened_keeps_its_documents(place: Place) -> None:
    store = place.store()
    place.write("a.yaml", POLICY % "a")
    store.rescan()
    (place.policies / "a.yaml").unlink()
    (place.policies / "a.yaml").symlink_to("nowhere")
    assert store.rescan() is False
    assert names_of(store) == ["a"]
    assert any("cannot be read" in line for line in store.errors)


def test_good_documents_of_a_first_start_are_in_force_beside_a_bad_one(place: Place) -> None:
    place.write("a.yaml", POLICY % "a")
    place.write("bad.yaml", "kind: [")
    store = place.store()
    assert store.rescan() is True
    assert names_of(store) == ["a"]
    assert store.errors


def test_what_an_earlier_version_kept_is_found(place: Place) -> None:
    first = place.store()
    place.write("a.yaml", f"{POLICY % 'a'}---\n{POLICY % 'b'}")
    first.rescan()
    kept = place.state / "last-good"
    shutil.rmtree(kept)
    kept.mkdir()
    shutil.copyfile(place.policies / "a.yaml", kept / "a.yaml")
    place.write("a.yaml", "kind: [")
    store = place.store()
    assert store.rescan() is True
    assert store.current == first.current
    place.write("b.yaml", POLICY % "c")
    store.rescan()
    assert len([path for path in kept.iterdir() if path.suffix == ".yaml"]) == 3
    third = place.store()
    third.rescan()
    assert names_of(third) == ["a", "b", "c"]
    assert third.documents["CiliumNetworkPolicy", "default", "c"].revision == 2


def test_kept_documents_are_those_in_force(place: Place) -> None:
    store = place.store()
    for name in ("a", "b", "c"):
        place.write(f"{name}.yaml", POLICY % name)
    store.rescan()
    (place.policies / "b.yaml").unlink()
    store.rescan()
    kept = load_files([path for path in (place.state / "last-good").iterdir() if path.suffix == ".yaml"])
    assert compile_policies(kept) == store.current


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
