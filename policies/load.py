"""Files of policy documents, YAML or JSON, to checked documents."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from policies.errors import PolicyError, Problem
from policies.model import MAX_PORTS, CiliumNetworkPolicy
from policies.source import MAX_BYTES, Node, SourceError, Tree, dotted, quoted, read_trees

MAX_PROBLEMS = 100  # of one text; the rest are counted in one more

_API_VERSION, _KIND = "cilium.io/v2", "CiliumNetworkPolicy"


@dataclass(frozen=True, slots=True)
class Document:
    """One policy document as its author wrote it. line: where it starts in `file`; text: its own source, loadable."""

    kind: str
    namespace: str
    name: str
    file: str
    line: int
    text: str
    model: CiliumNetworkPolicy

    @property
    def key(self) -> tuple[str, str, str]:
        """What a document is known by: applying it again replaces it."""
        return self.kind, self.namespace, self.name


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
    documents: list[Document] = []
    problems: list[Problem] = []
    for path in sorted(paths):
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
        documents += found
        problems += _limited(wrong, str(path))
    problems += duplicates(documents)
    if problems:
        raise PolicyError(problems)
    return documents


def _read(text: str, name: str) -> tuple[list[Document], list[Problem]]:
    problems: list[Problem] = []
    try:
        trees = read_trees(text, name, problems)
    except SourceError as error:
        return [], [*problems, error.problem]
    if not trees:
        problems.append(Problem(name, 0, 0, "", "holds no document"))
    documents = [document for tree in trees if (document := _document(tree, name, problems)) is not None]
    return documents, problems


def _document(tree: Tree, file: str, problems: list[Problem]) -> Document | None:
    root = tree.root
    if not isinstance(root.value, dict):
        problems.append(Problem(file, root.line, root.column, "", "expected a mapping with apiVersion and kind"))
        return None
    wrong = _header_problems(root, file)
    for part in ("spec", "specs"):
        if part in root.value:
            wrong += _nulls(root.value[part], (part,), file)
    if not wrong:
        try:
            model = CiliumNetworkPolicy.model_validate(root.data())
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=True)
            wrong = [_problem(detail, root, file) for detail in details]
        else:
            meta = model.metadata
            return Document(model.kind, meta.namespace, meta.name, file, root.line, tree.text, model)
    problems += wrong
    return None


def _header_problems(root: Node, file: str) -> list[Problem]:
    """What is wrong with apiVersion and kind; nothing else of a foreign document is read or repeated."""
    found: dict[str, str] = {}
    fields = root.value if isinstance(root.value, dict) else {}
    for key in ("apiVersion", "kind"):
        node = fields.get(key)
        if node is None:
            return [Problem(file, root.line, root.column, key, "missing")]
        if not isinstance(node.value, str):
            return [Problem(file, node.line, node.column, key, "expected text")]
        found[key] = node.value
    if found == {"apiVersion": _API_VERSION, "kind": _KIND}:
        return []
    kind = fields["kind"]
    message = f"kind {quoted(found['kind'])} of {quoted(found['apiVersion'])} is not supported yet"
    if found["kind"] == _KIND:
        kind, message = fields["apiVersion"], f"expected {quoted(_API_VERSION)} for {_KIND}"
    return [Problem(file, kind.line, kind.column, "apiVersion" if found["kind"] == _KIND else "kind", message)]


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


def _problem(detail: ErrorDetails, root: Node, file: str) -> Problem:
    """One pydantic error at its place in the text."""
    kind, path = detail["type"], list(detail["loc"])
    at_key = kind == "extra_forbidden"
    if path and path[-1] == "[key]":
        path.pop()
        at_key = True
    node, line, column = root, root.line, root.column
    for part in path:
        if isinstance(node.value, dict) and part in node.value:
            key_line, key_column = node.keys[str(part)]
            node = node.value[str(part)]
            line, column = (key_line, key_column) if at_key and part is path[-1] else (node.line, node.column)
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line, column = node.line, node.column
        else:
            break
    return Problem(file, line, column, dotted(tuple(path)), _message(detail, path))


_EXPECTED = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _message(detail: ErrorDetails, path: Sequence[str | int]) -> str:
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        near = get_close_matches(str(path[-1]), _fields_at(path[:-1]), n=1)
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
    own = kind in ("policy", "not_yet")  # our words; pydantic's begin with a capital
    return detail["msg"] if own else detail["msg"][:1].lower() + detail["msg"][1:]


def _named(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return names.get(type(value), "something else")


def _fields_at(path: Sequence[str | int]) -> list[str]:
    """Names of the fields that stand at that path of a document."""
    model: type[BaseModel] = CiliumNetworkPolicy
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            inner = _model_in(model.model_fields[part].annotation)
            if inner is None:
                return []
            model = inner
    return list(model.model_fields)


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
            message = f"{document.kind} {document.namespace}/{document.name} is already in {other.file}:{other.line}"
            problems.append(Problem(document.file, document.line, 1, "metadata.name", message))
    return problems


def _limited(problems: list[Problem], file: str) -> list[Problem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    return [*problems[:MAX_PROBLEMS], Problem(file, 0, 0, "", f"and {len(problems) - MAX_PROBLEMS} more problems")]
