"""YAML text to trees that know where each of their nodes stands, within bounds that a hostile text cannot pass.

Theory of operation: libyaml delivers events (it has no recursion that a text could drive), and this file builds the
tree itself, counting nodes and depth as it goes. An alias costs as many nodes as what it stands for, so a bomb of
aliases is refused before anything is expanded. Every message names a place; none repeats more than a few characters of
the text, which may hold secrets.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import yaml

from policies.errors import Problem

MAX_BYTES = 1 << 20  # a Kubernetes object cannot pass 1.5 MiB either; libyaml reads 1 MiB in about a second
MAX_NODES = 100_000  # about 10,000 http rules in one file
MAX_DEPTH = 40  # the deepest field of a policy is at 11
MAX_QUOTED = 40

_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

type Scalar = str | int | float | bool | None
type Data = Scalar | list["Data"] | dict[str, "Data"]


@dataclass(slots=True)
class Node:
    """One node of a document; line and column count from 1.

    value: a scalar, a list of nodes, or nodes by key. keys: where each key of a mapping stands. size counts this node
    and all below it, height the levels below it.
    """

    line: int
    column: int
    value: Scalar | list["Node"] | dict[str, "Node"]
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    size: int = 1
    height: int = 0

    def data(self) -> Data:
        """The plain value, without places. Depth and size were bounded when the tree was built."""
        if isinstance(self.value, dict):
            return {key: node.data() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.data() for node in self.value]
        return self.value


@dataclass(frozen=True, slots=True)
class Tree:
    """One document of a text: its root node, its own source text, and what is wrong with it although it can be read."""

    root: Node
    text: str
    problems: tuple[Problem, ...] = ()


class SourceError(Exception):
    """The text as a whole cannot be read; carries one problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def quoted(text: str) -> str:
    """User input for a message: quoted, cut, and without control characters."""
    return json.dumps(text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…", ensure_ascii=False)


def dotted(path: tuple[str | int, ...]) -> str:
    """`spec.ingress[0].path` for ("spec", "ingress", 0, "path")."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            out += f".{part}" if out else part[: MAX_QUOTED * 2]
        else:
            out += f"[{quoted(part)}]"
    return out


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    node: Node
    anchor: str | None
    key: str | None = None
    skip: bool = False  # the value of a duplicate or unusable key: read, counted, not kept


_MARKER = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)


def chunks(text: str) -> list[tuple[int, str]]:
    """The text cut where documents begin, with the number of lines before each piece.

    A line that begins with `---` and a space ends whatever stands before it, a quoted or block text too (YAML 1.2
    9.1.2), so that a document can be read alone when one before it cannot.
    """
    starts = [match.start() for match in _MARKER.finditer(text)]
    if not starts or text[: starts[0]].strip():
        starts.insert(0, 0)
    pieces = zip(starts, [*starts[1:], len(text)], strict=True)
    found: list[tuple[int, str]] = []
    line, counted = 0, 0
    for start, end in pieces:
        line += text.count("\n", counted, start)
        counted = start
        found.append((line, text[start:end]))
    return found


def read_trees(text: str, file: str, problems: list[Problem], line: int = 0) -> list[Tree]:
    """The documents of `text` that are not empty, in order. `line`: lines of the file before the text.

    Mistakes that leave the rest readable (duplicate keys, odd scalars) go with their document, those of documents that
    come to nothing to `problems`.

    Raises:
        SourceError: the text is not YAML, or passes a bound.
    """
    try:
        size = len(text) if len(text) > MAX_BYTES else len(text.encode())
    except UnicodeEncodeError as error:
        raise SourceError(Problem(file, 0, 0, "", f"not Unicode text at character {error.start}")) from None
    if size > MAX_BYTES:
        raise SourceError(Problem(file, 0, 0, "", f"larger than {MAX_BYTES} bytes"))
    try:
        loader = yaml.CSafeLoader(text)  # libyaml; PyYAML's own reader needs half a minute for 1 MiB
        reader = _Reader(loader, text, file, problems, line)
        try:
            return list(reader.documents())
        finally:
            problems += reader.own  # of a document that never ended
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        row, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = Problem(file, line + row, column, "", f"not YAML: {error.problem or error.context}")
        raise SourceError(problem) from None
    except yaml.reader.ReaderError as error:
        row = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        raise SourceError(Problem(file, line + row, column, "", f"not YAML: {error.reason}")) from None


class _Mark(Protocol):
    """A place in a text, as the loader gives it; counts from 0."""

    index: int
    line: int
    column: int


def _mark(mark: _Mark | None) -> _Mark:
    """The mark that a parser gives every event; the types allow events made by hand, which have none."""
    if mark is None:
        raise AssertionError("a parsed event has marks")
    return mark


class _Reader:
    def __init__(self, loader: yaml.CSafeLoader, text: str, file: str, problems: list[Problem], line: int) -> None:
        self.loader = loader
        self.text = text
        self.file = file
        self.problems = problems
        self.own: list[Problem] = []  # of the document at hand
        self.line = line
        self.nodes = 0

    def _place(self, event: yaml.Event) -> tuple[int, int]:
        mark = _mark(event.start_mark)
        return self.line + mark.line + 1, mark.column + 1

    def documents(self) -> Iterator[Tree]:
        start = 0
        root: Node | None = None
        stack: list[_Open] = []
        anchors: dict[str, Node | None] = {}
        while self.loader.check_event():
            event = self.loader.get_event()
            if isinstance(event, yaml.ScalarEvent):
                node = self._scalar(event, stack)
                self._count(1, node.line, node.column)
                if event.anchor:
                    anchors[event.anchor] = node
                if stack and isinstance(stack[-1].node.value, dict) and stack[-1].key is None:
                    self._key(node, event, stack)
                else:
                    root = self._add(node, stack, root)
            elif isinstance(event, yaml.DocumentStartEvent):
                start, root, anchors = _mark(event.start_mark).index, None, {}
            elif isinstance(event, yaml.DocumentEndEvent):
                if root is not None and root.value is not None:
                    yield Tree(root, self.text[start : _mark(event.end_mark).index], tuple(self.own))
                else:
                    self.problems += self.own
                self.own = []
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                line, column = self._place(event)
                if len(stack) >= MAX_DEPTH:
                    raise self._refused(line, column, f"nested deeper than {MAX_DEPTH} levels")
                if event.tag is not None and event.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
                    self._problem(line, column, stack, f"tag {quoted(event.tag)} is not accepted")
                node = Node(line, column, {} if isinstance(event, yaml.MappingStartEvent) else [])
                if stack and isinstance(stack[-1].node.value, dict) and stack[-1].key is None:
                    raise self._refused(line, column, "a key must be text")
                if event.anchor:
                    anchors[event.anchor] = None
                self._count(1, line, column)
                stack.append(_Open(node, event.anchor))
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                done = stack.pop()
                if done.anchor:
                    anchors[done.anchor] = done.node
                root = self._add(done.node, stack, root)
            elif isinstance(event, yaml.AliasEvent):
                line, column = self._place(event)
                target = anchors.get(event.anchor or "")
                if target is None:
                    raise self._refused(line, column, "alias of something that is not complete or does not exist")
                if stack and isinstance(stack[-1].node.value, dict) and stack[-1].key is None:
                    raise self._refused(line, column, "a key must be text, not an alias")
                self._count(target.size, line, column)
                if len(stack) + target.height > MAX_DEPTH:
                    raise self._refused(line, column, f"nested deeper than {MAX_DEPTH} levels")
                root = self._add(target, stack, root)

    def _add(self, node: Node, stack: list[_Open], root: Node | None) -> Node | None:
        if not stack:
            return node
        parent = stack[-1]
        parent.node.size += node.size
        parent.node.height = max(parent.node.height, node.height + 1)
        if isinstance(parent.node.value, list):
            parent.node.value.append(node)
        elif isinstance(parent.node.value, dict) and parent.key is not None:
            if not parent.skip:
                parent.node.value[parent.key] = node
            parent.key, parent.skip = None, False
        return root

    def _key(self, node: Node, event: yaml.ScalarEvent, stack: list[_Open]) -> None:
        parent = stack[-1]
        if not isinstance(node.value, str):
            self._problem(node.line, node.column, stack, "a key must be text: quote it")
            parent.key, parent.skip = event.value or "?", True
            return
        if node.value == "<<" and event.implicit[0]:
            self._problem(node.line, node.column, stack, "merge keys are not accepted")
        parent.key = node.value
        if node.value in parent.node.keys:
            first = parent.node.keys[node.value]
            self._problem(node.line, node.column, stack, f"duplicate key, first at {first[0]}:{first[1]}")
            parent.skip = True
        else:
            parent.node.keys[node.value] = (node.line, node.column)

    def _scalar(self, event: yaml.ScalarEvent, stack: list[_Open]) -> Node:
        line, column = self._place(event)
        # the stubs leave this method of PyYAML's Resolver without types; it returns a tag
        tag: str = event.tag or self.loader.resolve(  # type: ignore[no-untyped-call]
            yaml.ScalarNode, event.value, event.implicit
        )
        kind = tag.removeprefix("tag:yaml.org,2002:")
        text = event.value
        value: Scalar = text
        if kind == "null":
            value = None
        elif kind == "bool":
            value = text.lower() in ("yes", "true", "on")
        elif kind == "int":
            # YAML 1.1 reads 0777, 1_0 and 1:30 as numbers and YAML 1.2 does not: what readers disagree on is refused
            if _DECIMAL.fullmatch(text):
                value = int(text)
            else:
                self._problem(line, column, stack, "a number must be plain decimal; quote it if it is text")
        elif kind == "float":
            value = float("nan")  # no field of a policy takes one; the place is what matters
        elif kind not in ("str", "timestamp", "value", "merge"):
            self._problem(line, column, stack, f"tag {quoted(tag)} is not accepted")
        return Node(line, column, value)

    def _count(self, nodes: int, line: int, column: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self._refused(line, column, f"more than {MAX_NODES} values, aliases counted as what they stand for")

    def _refused(self, line: int, column: int, message: str) -> SourceError:
        return SourceError(Problem(self.file, line, column, "", message))

    def _problem(self, line: int, column: int, stack: list[_Open], message: str) -> None:
        path: list[str | int] = []
        for level in stack:
            if isinstance(level.node.value, list):
                path.append(len(level.node.value))
            elif level.key is not None:
                path.append(level.key)
        self.own.append(Problem(self.file, line, column, dotted(tuple(path)), message))
