"""The text of a job and where each member of it stands: YAML to plain data plus the line of every path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from streamjob.problems import Path, Problem, path_text, value_text

_NULL = re.compile(r"^(~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?[0-9]+$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
MAX_VALUES = 100_000  # far above any job; stops a few nested aliases from growing into gigabytes
MAX_DEPTH = 64  # mappings and lists in one another; what reads them calls itself for each
DEEP = "is nested too deeply"
DEEP_FIX = f"write at most {MAX_DEPTH} levels of mappings and lists"
_HALF = re.compile("[\ud800-\udfff]")  # an escape can be half of a pair, which is no text
MISSING: Any = object()


class _DeepError(yaml.MarkedYAMLError):
    """More than MAX_DEPTH mappings and lists in one another."""


class _Loader(yaml.SafeLoader):
    """Composes nodes without YAML 1.1's implicit types, in which the key `on` would be the boolean true."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}
    _around = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The node that comes next."""
        if self._around > MAX_DEPTH:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _DeepError(problem_mark=event.start_mark)
        self._around += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._around -= 1
        return node


@dataclass
class Source:
    """A job's data with the places that problems refer to.

    `file` is shown in problems, `data` plain Python data, `lines` the 1-based line of each path; `index_map` gives, for
    a list from which invalid items were taken out, the original index of each remaining item.
    """

    file: str
    data: Any
    lines: dict[Path, int] = field(default_factory=dict)
    index_map: dict[Path, list[int]] = field(default_factory=dict)

    def original(self, path: Path) -> Path:
        """`path` of the data that was validated as a path of the file."""
        result: Path = ()
        for part in path:
            kept = self.index_map.get(result)
            result += (kept[part],) if kept is not None and isinstance(part, int) and part < len(kept) else (part,)
        return result

    def line(self, path: Path) -> int:
        """The line of `path`, or of the nearest member around it where it is absent."""
        for length in range(len(path), -1, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return line
        return 1

    def value(self, path: Path) -> Any:
        """The value at `path` of the file's data, or MISSING."""
        value = self.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return MISSING
        return value

    def problem(self, path: Path, message: str, *, got: Any = MISSING, fix: str | None = None) -> Problem:
        """A Problem at `path` (of the validated data); the value there is shown unless `got` is given."""
        original = self.original(path)
        value = self.value(original) if got is MISSING else got
        hidden = value is MISSING or (isinstance(value, (dict, list)) and value)  # a long value says nothing here
        shown = None if hidden else value_text(value)
        return Problem(self.file, self.line(original), path_text(original), message, shown, fix)


def plain_source(data: Mapping[str, Any], file: str = "<dict>") -> Source:
    """A job given as data, which has no lines: every problem is on line 1."""
    return Source(file, data)


def parse_yaml(text: str, file: str) -> tuple[Source | None, list[Problem]]:
    """YAML text as a Source.

    Returns (source, problems). Source is None where the text is no YAML or no mapping. A key that appears twice is
    a problem; its first value is kept so that the rest can be checked as well.
    """
    try:
        nodes = list(_documents(text))
    except _DeepError as error:
        return None, [Problem(file, _line(error), "", DEEP, fix=DEEP_FIX)]
    except yaml.YAMLError as error:
        return None, [_syntax_problem(error, file)]
    if len(nodes) != 1:
        line = nodes[1].start_mark.line + 1 if len(nodes) > 1 else 1
        message = "holds more than one YAML document" if nodes else "is empty"
        return None, [Problem(file, line, "", message, fix="write exactly one StreamJob in a file")]
    reader = _Reader(file)
    data = reader.read(nodes[0], ())
    if not isinstance(data, dict):
        problem = Problem(
            file, nodes[0].start_mark.line + 1, "", "must be a mapping", value_text(data), "begin with apiVersion:"
        )
        return None, [*reader.problems, problem]
    return Source(file, data, reader.lines), reader.problems


def _documents(text: str) -> Iterator[yaml.Node]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None, "check_node says that there is one"
            yield node
    except ValueError as error:  # a number of an escape or of a directive, which Python does not take
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=loader.get_mark()) from error
    finally:
        loader.dispose()


def _syntax_problem(error: yaml.YAMLError, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    context = getattr(error, "context", None)
    fix = "check the indentation, colons, quotes and brackets here and on the line above"
    if "\\t" in said:
        fix = "indent with spaces, YAML allows no tabs"
    column = f" at column {mark.column + 1}" if mark else ""
    text = f"is not valid YAML{column}: {said}{f' {context}' if context else ''}"
    return Problem(file, _line(error), "", text, fix=fix)


def _line(error: yaml.YAMLError) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return mark.line + 1 if mark else 1


class _Reader:
    """Turns nodes into data by YAML 1.2's core schema and notes the line of each path."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._count = 0
        self._is_deep = False

    def read(self, node: yaml.Node, path: Path) -> Any:
        """The data of `node`, which stands at `path`."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._count += 1
        if id(node) in self._open or self._count > MAX_VALUES:
            if self._count <= MAX_VALUES + 1:
                self._report(node, path, "an alias makes the document endless or too large", "write the value out")
            return None
        if len(path) > MAX_DEPTH:  # by aliases
            if not self._is_deep:
                self._report(node, (), DEEP, DEEP_FIX)
            self._is_deep = True
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode)
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(key_node, path, "a key must be a simple name", "use a plain text as the key")
                continue
            key = self._text(key_node, path)
            if key == "<<" and key_node.style is None:
                self._report(key_node, path, "merge keys are not part of YAML 1.2", "write the members out")
                continue
            child = (*path, key)
            if key in data:
                first = self.lines[child]
                self._report(key_node, child, f"is given twice, first on line {first}", "remove one of the two")
                continue
            self.lines[child] = line
            data[key] = self.read(value_node, child)
        return data

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text = self._text(node, path)
        tag = node.tag
        if tag == "tag:yaml.org,2002:str" and node.style is None:
            return plain_scalar(text)
        if tag in ("tag:yaml.org,2002:str", "!"):
            return text
        self._report(node, path, f"has the tag {tag}, which has no meaning here", "remove the tag")
        return text

    def _text(self, node: yaml.ScalarNode, path: Path) -> str:
        text = str(node.value)
        if _HALF.search(text) is None:
            return text
        self._report(node, path, "holds half of a character", "write the character itself")
        return text.encode("utf-8", "backslashreplace").decode()

    def _report(self, node: yaml.Node, path: Path, message: str, fix: str) -> None:
        self.problems.append(Problem(self.file, node.start_mark.line + 1, path_text(path), message, fix=fix))


def plain_scalar(text: str) -> str | int | float | bool | None:
    """An unquoted YAML scalar by the core schema of YAML 1.2."""
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if _INT.match(text):
        return int(text) if len(text) < 30 else text
    if _FLOAT.match(text):
        return float(text)
    return text
