"""`lab apply` and `lab delete`: documents into every node's policy folder, and back when they are in force.

A document is known by kind, namespace and name, and so is its file: <kind>.<namespace>.<name>.yaml. Everything is
checked here before anything is stored; then every agent is asked to read its folder and answers when the
outcome is in force in each of its workers.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import names, state
from lab.control import AgentAway, Call
from lab.errors import LabError
from lab.state import Lab, write_atomic
from policies.compile import compile_policies
from policies.errors import PolicyError
from policies.load import Document, load_files, load_text

# A new revision may have to steer pods for the first time, on a busy machine.
SYNC_TIMEOUT_S = 60.0
# An agent that was just killed is back within a second or two; until then its socket refuses.
AWAY_LIMIT_S = 10.0
AWAY_POLL_S = 0.05


def file_name(kind: str, namespace: str, name: str) -> str:
    """Namespaces and names are DNS names (RFC 1123); a cluster-wide document has no namespace."""
    return f"{kind}.{namespace}.{name}.yaml"


def apply(lab_name: str, files: Sequence[str]) -> list[str]:
    """Put the documents of `files` (`-` is standard input) in force; gives a line per document.

    Raises:
        LabError: a document is wrong (nothing was changed then), or an agent could not put it in force.
    """
    with _turn(lab_name) as lab:
        new = _load(files)
        stored = {path.name: path for path in sorted(lab.policy_dir(lab.nodes[0].name).glob("*.yaml"))}
        replaced = {file_name(*key) for key in new}
        try:
            rest = load_files([path for name, path in stored.items() if name not in replaced])
            compile_policies([*rest, *new.values()])
        except PolicyError as error:
            raise LabError(str(error)) from error
        for node in lab.nodes:
            for document in new.values():
                file = lab.policy_dir(node.name) / file_name(*document.key)
                write_atomic(file, _text(document), staging=lab.node_dir(node.name))
        revision = sync(lab)
        verbs = {name: "replaced" if name in stored else "applied" for name in replaced}
        return [f"{_label(*key)} {verbs[file_name(*key)]}, in force ({revision})" for key in new]


def delete(lab_name: str, refs: Sequence[str]) -> list[str]:
    """Take the documents named NAME or NAMESPACE/NAME out of force, of whatever kind; a line per document.

    Raises:
        LabError: one is not there (nothing was changed then), or an agent did not follow.
    """
    with _turn(lab_name) as lab:
        stored = _stored_keys(lab)
        gone = []
        for ref in refs:
            namespace, name = names.split_pod(ref)
            meant = [key for key in stored if key[1:] in ((namespace, name), ("", ref))]
            if not meant:
                known = {_ref(key[1], key[2]) for key in stored}
                raise LabError(f"no policy {ref!r} in lab {lab_name!r}{names.did_you_mean(ref, known)}")
            gone += meant
        for node in lab.nodes:
            for key in gone:
                (lab.policy_dir(node.name) / file_name(*key)).unlink(missing_ok=True)
        revision = sync(lab)
        return [f"{_label(*key)} deleted ({revision})" for key in gone]


def sync(lab: Lab) -> str:
    """Have every agent read its folder; return when all are done. Gives the revisions, for people.

    Raises:
        LabError: names every node that did not put the documents in force, and why.
    """
    calls: dict[str, Call] = {}
    revisions: dict[str, object] = {}
    failed: list[str] = []
    for node in lab.nodes:  # all at work at once
        try:
            calls[node.name] = _patient_call(lab.agent_socket(node.name))
        except AgentAway as error:
            failed.append(f"{node.name}: {error}")
    for name, call in calls.items():
        try:
            revisions[name] = call.answer().get("revision")
        except LabError as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise LabError("stored, but not all of it is in force: " + "; ".join(failed))
    return ", ".join(f"{node} revision {revision}" for node, revision in revisions.items())


def _patient_call(socket: Path) -> Call:
    """Ask for a sync; a dead agent is given the time in which its supervisor starts it again."""
    deadline = time.monotonic() + AWAY_LIMIT_S
    while True:
        try:
            return Call(socket, {"op": "policy.sync"}, SYNC_TIMEOUT_S)
        except AgentAway:
            if time.monotonic() > deadline:
                raise
            time.sleep(AWAY_POLL_S)


@contextmanager
def _turn(lab_name: str) -> Iterator[Lab]:
    """The lab, for who changes its policies alone."""
    _with_agents(lab_name)
    with state.locked(lab_name, file=names.run_dir(lab_name) / ".policies.lock"):
        yield _with_agents(lab_name)  # read again: it may have gone down and up while we waited


def _with_agents(lab_name: str) -> Lab:
    lab = state.running(lab_name)
    if not lab.agents:
        raise LabError(f"lab {lab_name!r} was brought up with --no-agent: nothing there enforces policy")
    return lab


def _load(files: Sequence[str]) -> dict[tuple[str, str, str], Document]:
    documents: list[Document] = []
    try:
        paths = []
        for file in files:
            if file == "-":
                documents += load_text(sys.stdin.read(), "<stdin>")
            else:
                paths.append(Path(file))
        documents += load_files(paths)
    except PolicyError as error:
        raise LabError(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(str(error)) from error
    if not documents:
        raise LabError("no policy document in what was given")
    by_key: dict[tuple[str, str, str], Document] = {}
    for document in documents:
        first = by_key.setdefault(document.key, document)
        if first is not document:
            where = f"{first.file}:{first.line}"
            raise LabError(f"{document.file}:{document.line}: error: {_label(*document.key)} is in {where} too")
    return by_key


def _text(document: Document) -> str:
    return document.text if document.text.endswith("\n") else document.text + "\n"


def _stored_keys(lab: Lab) -> list[tuple[str, str, str]]:
    """By file name, so that a document that cannot be read any more can still be deleted."""
    keys = []
    for path in sorted(lab.policy_dir(lab.nodes[0].name).glob("*.yaml")):
        kind, _, rest = path.name.removesuffix(".yaml").partition(".")
        namespace, dot, name = rest.partition(".")
        if dot:  # what somebody put there by hand is not ours to delete
            keys.append((kind, namespace, name))
    return keys


def _ref(namespace: str, name: str) -> str:
    return name if namespace in ("", names.DEFAULT_NAMESPACE) else f"{namespace}/{name}"


def _label(kind: str, namespace: str, name: str) -> str:
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
