"""Files of policy documents, YAML or JSON, to checked documents."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from policies.errors import PolicyError, Problem
from policies.kubernetes import NetworkPolicy
from policies.model import MAX_PORTS, CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy
from policies.policyset import Place
from policies.source import MAX_BYTES, MAX_NODES, Node, SourceError, Tree, chunks, dotted, quoted, read_trees
from policies.tulle import TulleNetworkPolicy, annotation_problems
from policies.words import ONLY_OURS, OURS

MAX_PROBLEMS = 100  # of one text; the rest are counted in one more

type Model = CiliumNetworkPolicy | CiliumClusterwideNetworkPolicy | NetworkPolicy | TulleNetworkPolicy

KINDS: dict[str, tuple[str, type[Model]]] = {
    "CiliumNetworkPolicy": ("cilium.io/v2", CiliumNetworkPolicy),
    "CiliumClusterwideNetworkPolicy": ("cilium.io/v2", CiliumClusterwideNetworkPolicy),
    "NetworkPolicy": ("networking.k8s.io/v1", NetworkPolicy),
    "TulleNetworkPolicy": ("tulle.dev/v1", TulleNetworkPolicy),
}
"""Every kind that is read, with the one apiVersion it has."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Document:
    """One policy document as its author wrote it. line: where it starts in `file`; text: its own source, loadable.

    namespace: "" for a cluster-wide document.
    """

    kind: str
    namespace: str
    name: str
    file: str
    line: int
    text: str
    model: Model
    root: Node = field(repr=False)

    @property
    def key(self) -> tuple[str, str, str]:
        """What a document is known by: applying it again replaces it."""
        return self.kind, self.namespace, self.name

    def place(self, path: Sequence[str | int]) -> Place:
        """Where a part of it stands; of a part that is not there, what would hold it."""
        line, column = _place(self.root, path)
        return Place(self.file, line, column)


def load_text(text: str, name: str) -> list[Document]:
    """Documents of one text, at least one; `name` stands for the file in errors.

    A text without any document is an error: it is what a file looks like while it is being written, and taking it as
    "no policy" would let everything through.

    Raises:
        PolicyError: with every problem found, at most MAX_PROBLEMS of them and a count.
    """
    documents, problems = _read(text, name)
    problems += duplicates(documents)
    if problems:
        raise PolicyError(_limited(problems, name))
    return documents


def load_files(paths: Iterable[Path]) -> list[Document]:
    """Documents of several files, in the order of the files' names.

    Raises:
        PolicyError: with every problem of every file; one (kind, namespace, name) in two places is one.
    """
    documents, problems = load_each(paths, both=True)
    if problems:
        raise PolicyError(problems)
    return documents


def load_each(paths: Iterable[Path], *, both: bool = False) -> tuple[list[Document], list[Problem]]:
    """Every good document, in the order of the files' names, and the problems of those that are not.

    A bad document takes neither its file's other documents nor other files with it, as far as the text can be read.
    Of two documents with one key the first counts, and the second is a problem; `both` gives the two of them.
    """
    documents: list[Document] = []
    problems: list[Problem] = []
    for path in sorted(paths):
        found, wrong = load_one(path)
        documents += found
        problems += wrong
    twice = duplicates(documents)
    if twice and not both:
        first: dict[tuple[str, str, str], Document] = {}
        for document in documents:
            first.setdefault(document.key, document)
        documents = list(first.values())
    return documents, problems + twice


def load_one(path: Path) -> tuple[list[Document], list[Problem]]:
    """The same of one file, without a look at keys: what a caller keeps who reads again only what changed."""
    raw = b""
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would wait for a writer
            raise OSError(0, "not a regular file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        found, wrong = _read(raw.decode(), str(path))
    except OSError as error:
        found, wrong = [], [Problem(str(path), 0, 0, "", f"cannot be read: {error.strerror}")]
    except UnicodeDecodeError as error:
        found, wrong = [], [Problem(str(path), 0, 0, "", f"not UTF-8 at byte {error.start}")]
        if len(raw) > MAX_BYTES:  # the cut may have gone through a character
            wrong = [Problem(str(path), 0, 0, "", f"larger than {MAX_BYTES} bytes")]
    return found, _limited(wrong, str(path))


def dump(documents: Iterable[Document], *, as_json: bool = False) -> str:
    """The text of documents, as YAML or as JSON; read again they say the same."""
    data = [document.model.model_dump(mode="json", by_alias=True, exclude_unset=True) for document in documents]
    for each in data:
        each.pop("status", None)
    if as_json:
        return "\n---\n".join(json.dumps(each) for each in data) + "\n"
    return yaml.dump_all(
        data, Dumper=yaml.CSafeDumper, sort_keys=False, explicit_start=True, allow_unicode=True, width=120
    )


def _read(text: str, name: str) -> tuple[list[Document], list[Problem]]:
    problems: list[Problem] = []
    try:
        trees = read_trees(text, name, problems)
    except SourceError as error:
        trees, problems = _rest(text, name, [*problems, error.problem])
    if not trees and not problems:
        problems.append(Problem(name, 0, 0, "", "holds no document"))
    return [document for tree in trees if (document := _document(tree, name, problems)) is not None], problems


def _rest(text: str, name: str, first: list[Problem]) -> tuple[list[Tree], list[Problem]]:
    """What can be read of a text that cannot be read as a whole: each document by itself."""
    pieces = chunks(text)
    if len(text) > MAX_BYTES or len(pieces) < 2:
        return [], first
    trees: list[Tree] = []
    problems: list[Problem] = []
    for line, piece in pieces:
        wrong: list[Problem] = []
        try:
            trees += read_trees(piece, name, wrong, line)
        except SourceError as error:
            wrong.append(error.problem)
        problems += wrong
        if sum(tree.root.size for tree in trees) > MAX_NODES:  # of the text, however it is cut
            return [], first
    return trees, problems or first


def _document(tree: Tree, file: str, problems: list[Problem]) -> Document | None:
    root = tree.root
    if tree.problems:
        problems += tree.problems
    if not isinstance(root.value, dict):
        problems.append(Problem(file, root.line, root.column, "", "expected a mapping with apiVersion and kind"))
        return None
    kind, wrong = _kind_of(root, file)
    for part in ("spec", "specs"):
        if part in root.value:
            wrong += _nulls(root.value[part], (part,), file)
    if not wrong:
        model_type = KINDS[kind][1]
        try:
            model = model_type.model_validate(root.data(), context=OURS if kind == "TulleNetworkPolicy" else None)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=True)
            wrong = [_problem(detail, root, file, model_type) for detail in details]
        else:
            meta = model.metadata
            for path, message, at_key in [*annotation_problems(meta.annotations), *model.problems()]:
                line, column = _place(root, path, at_key)
                wrong.append(Problem(file, line, column, dotted(path), message))
            if not wrong and not tree.problems:
                return Document(kind, meta.scope, meta.name, file, root.line, tree.text, model, root)
    problems += wrong
    return None


def _kind_of(root: Node, file: str) -> tuple[str, list[Problem]]:
    """The kind, and what is wrong with it and apiVersion; nothing else of a foreign document is read or repeated."""
    found: dict[str, str] = {}
    fields = root.value if isinstance(root.value, dict) else {}
    for key in ("apiVersion", "kind"):
        node = fields.get(key)
        if node is None:
            return "", [Problem(file, root.line, root.column, key, "missing")]
        if not isinstance(node.value, str):
            return "", [Problem(file, node.line, node.column, key, "expected text")]
        found[key] = node.value
    kind, version = found["kind"], found["apiVersion"]
    if kind in KINDS:
        if version == KINDS[kind][0]:
            return kind, []
        node = fields["apiVersion"]
        message = f"expected {quoted(KINDS[kind][0])} for {kind}"
        return kind, [Problem(file, node.line, node.column, "apiVersion", message)]
    near = get_close_matches(kind, KINDS, n=1, cutoff=0.75)
    hint = f"; did you mean {near[0]}?" if near else f": {', '.join(KINDS)} are"
    message = f"kind {quoted(kind)} of {quoted(version)} is not supported{hint}"
    return "", [Problem(file, fields["kind"].line, fields["kind"].column, "kind", message)]


def _nulls(node: Node, path: tuple[str | int, ...], file: str) -> list[Problem]:
    """Every null: Kubernetes takes it for absent, its author often for empty, and the two mean opposite things."""
    if node.value is None:
        message = "null is not accepted: leave the field out, or write [] or {}"
        return [Problem(file, node.line, node.column, dotted(path), message)]
    below: Iterable[tuple[str | int, Node]] = ()
    if isinstance(node.value, dict):
        below = node.value.items()
    elif isinstance(node.value, list):
        below = enumerate(node.value)
    return [problem for key, child in below for problem in _nulls(child, (*path, key), file)]


def _problem(detail: ErrorDetails, root: Node, file: str, model: type[BaseModel]) -> Problem:
    """One pydantic error at its place in the text."""
    path = _real_path(detail["loc"], root)
    at_key = detail["type"] in ("extra_forbidden", "ours") or detail["loc"][-1:] == ("[key]",)
    line, column = _place(root, path, at_key)
    return Problem(file, line, column, dotted(tuple(path)), _message(detail, path, model))


def _real_path(loc: Sequence[str | int], root: Node) -> list[str | int]:
    """Without what pydantic adds: the marks of keys, and the members of unions, which no document has."""
    path: list[str | int] = []
    node: Node | None = root
    for i, part in enumerate(loc):
        below: Node | None = None
        if node is not None and isinstance(node.value, dict) and isinstance(part, str):
            below = node.value.get(part)
        elif node is not None and isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            below = node.value[part]
        if below is None and (part == "[key]" or (node is not None and not isinstance(node.value, dict | list))):
            continue
        path.append(part)
        node = below
        if below is None and i < len(loc) - 1:
            break
    return path


def _place(root: Node, path: Sequence[str | int], at_key: bool = False) -> tuple[int, int]:
    """Line and column of a value, or of its key; of what is not there, of what would hold it."""
    node, line, column = root, root.line, root.column
    for i, part in enumerate(path):
        if isinstance(node.value, dict) and isinstance(part, str):
            key: str | None = part
            if part not in node.value:  # labels are known without their source, and written with it
                key = next((each for each in (f"k8s:{part}", f"any:{part}") if each in node.value), None)
            if key is None:
                break
            key_place = node.keys[key]
            node = node.value[key]
            line, column = key_place if at_key and i == len(path) - 1 else (node.line, node.column)
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line, column = node.line, node.column
        else:
            break
    return line, column


_EXPECTED = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


_PATTERNS = {
    "apiVersion": 'expected a version of the API, as "2"',
    "topic": "not the name of a topic: letters, digits, '.', '_' and '-'",
    "topicPrefix": "not what topics begin with: letters, digits, '.', '_' and '-', at most 249; topicGlob takes '*'",
    "topicGlob": "not a glob of topics: letters, digits, '.', '_', '-', '*' and '?', at most 249",
    **dict.fromkeys(
        ("group", "groupPrefix", "transactionalId", "transactionalIdPrefix"),
        "expected 1 to 1024 characters, none of them a control character",
    ),
}


def _message(detail: ErrorDetails, path: Sequence[str | int], model: type[BaseModel]) -> str:
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        near = get_close_matches(str(path[-1]), _fields_at(path[:-1], model), n=1)
        return f"unknown field; did you mean {near[0]}?" if near else "unknown field"
    if kind == "missing":
        return "missing"
    if kind in _EXPECTED:
        hint = ": quote it" if kind == "string_type" and isinstance(given, int | float) else ""
        return f"expected {_EXPECTED[kind]}, got {_named(given)}{hint}"
    if kind == "too_short":
        return "empty: Cilium reads an empty list here as no constraint; leave the field out if that is meant"
    if kind == "too_long" and isinstance(given, list):
        return f"{len(given)} {path[-1]}, the limit is {MAX_PORTS}"
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(str(path[-1]), "not of the form that is wanted here")
    own = kind in ("policy", "refused", "ours")  # our words; pydantic's begin with a capital
    return detail["msg"] if own else detail["msg"][:1].lower() + detail["msg"][1:]


def _named(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return names.get(type(value), "something else")


def _fields_at(path: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    """Names of the fields that stand at that path of a document; not those that another kind has."""
    whole = model
    for part in path:
        fields = {each.alias or name: each for name, each in model.model_fields.items()}
        if isinstance(part, str) and part in fields:
            inner = _model_in(fields[part].annotation)
            if inner is None:
                return []
            model = inner
    ours = whole is TulleNetworkPolicy
    return [each.alias or name for name, each in model.model_fields.items() if ours or ONLY_OURS not in each.metadata]


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model inside `X`, `list[X]`, `X | None` or an alias of one of these."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = getattr(annotation, "__value__", None)
    for candidate in [inner] if inner is not None else getattr(annotation, "__args__", ()):
        if (found := _model_in(candidate)) is not None:
            return found
    return None


def duplicates(documents: Iterable[Document]) -> list[Problem]:
    """A problem for each document whose key an earlier one has."""
    first: dict[tuple[str, str, str], Document] = {}
    problems = []
    for document in documents:
        other = first.setdefault(document.key, document)
        if other is not document:
            name = f"{document.namespace}/{document.name}" if document.namespace else document.name
            message = f"{document.kind} {name} is already in {other.file}:{other.line}"
            problems.append(Problem(document.file, document.line, 1, "metadata.name", message))
    return problems


def _limited(problems: list[Problem], file: str) -> list[Problem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    return [*problems[:MAX_PROBLEMS], Problem(file, 0, 0, "", f"and {len(problems) - MAX_PROBLEMS} more problems")]
