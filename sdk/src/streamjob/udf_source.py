"""A static look at a UDF's module: what it defines and what its `@udf` decorators declare, without running it."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock

MAX_TOKENS = 32_768
"""Words and signs of a text that is looked at. Each takes up to a kilobyte while it is, so this is 30 MB."""
MAX_JOB_TOKENS = 4 * MAX_TOKENS
"""The same of all different texts of a job together."""
MAX_KEPT = 8
"""Texts whose facts are remembered: functions of a job often share one."""

_TOKEN = re.compile(r"\w+|[^\w\s]|\n")


@dataclass(frozen=True, slots=True)
class Declared:
    """What a function's `@udf` declares, as far as it is written in literals; None where it is not."""

    inputs: tuple[str, ...] | None = None
    output: dict[str, str] | None = None
    name: str | None = None


@dataclass(slots=True)
class ModuleFacts:
    """The names a module surely has, those it registers, and whether it may have more that only running shows.

    Nobody changes them: they are remembered. `too_long` says that the text was not looked at.
    """

    names: set[str] = field(default_factory=set)
    registered: set[str] = field(default_factory=set)
    dynamic: bool = False
    declared: dict[str, Declared] = field(default_factory=dict)
    too_long: bool = False

    def may_have(self, function: str) -> bool:
        """Whether `function` is there, or may be."""
        return function in self.names or function in self.registered or self.dynamic

    def known(self) -> list[str]:
        """The names to suggest, functions that look like UDFs first."""
        return [*sorted(self.registered), *sorted(name for name in self.names if name not in self.registered)]


@dataclass(frozen=True, slots=True)
class _Wrong:
    """Why a text is no Python: the line and the message of a syntax error, or only the message."""

    line: int | None
    message: str


class Looks:
    """Looks at texts, each once while it is among the newest MAX_KEPT; checks use it from several threads."""

    def __init__(self, facts: Callable[[str], ModuleFacts] | None = None) -> None:
        self._facts = facts or _facts
        self._kept: dict[bytes, ModuleFacts | _Wrong] = {}
        self._lock = Lock()

    def look_at(self, text: str) -> ModuleFacts:
        """The facts of a module's text. Raises SyntaxError (with its line) or ValueError if it is no Python.

        Of a text with more than MAX_TOKENS words and signs it is not known what it has.
        """
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            found = self._kept.pop(key, None)
            if found is None:
                found = self._looked(text)
            self._kept[key] = found  # its place is among the newest
            while len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        if not isinstance(found, _Wrong):
            return found
        if found.line is None:
            raise ValueError(found.message)
        raise SyntaxError(found.message, (None, found.line, None, None))

    def _looked(self, text: str) -> ModuleFacts | _Wrong:
        if count_tokens(text) > MAX_TOKENS:
            return unknown()
        try:
            return self._facts(text)
        except SyntaxError as error:
            return _Wrong(error.lineno or 1, error.msg)
        except ValueError as error:
            return _Wrong(None, str(error))
        except (RecursionError, MemoryError):  # the parser says so of what is nested too deeply
            return _Wrong(None, "it is nested too deeply")


def count_tokens(text: str) -> int:
    """The words and signs of a text, up to one more than MAX_TOKENS. Data within quotes counts like code."""
    return sum(1 for _ in islice(_TOKEN.finditer(text), MAX_TOKENS + 1))


def unknown() -> ModuleFacts:
    """The facts of a text that is not looked at."""
    return ModuleFacts(dynamic=True, too_long=True)


def _facts(text: str) -> ModuleFacts:
    tree = ast.parse(text)
    facts = ModuleFacts()
    _statements(tree.body, facts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _call(node, facts)
    return facts


def _statements(body: list[ast.stmt], facts: ModuleFacts) -> None:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            facts.names.add(node.name)
            _decorators(node, facts)
        elif isinstance(node, ast.Import):
            facts.names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            facts.dynamic |= any(alias.name == "*" for alias in node.names)
            facts.names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                facts.names.update(part.id for part in ast.walk(target) if isinstance(part, ast.Name))
        else:
            for inner in ("body", "orelse", "finalbody"):
                _statements(getattr(node, inner, []), facts)
            for handler in getattr(node, "handlers", []):
                _statements(handler.body, facts)


def _decorators(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, facts: ModuleFacts) -> None:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and _name(decorator.func) == "udf":
            declared = _declared(decorator)
            facts.declared[node.name] = declared
            if declared.name:
                facts.registered.add(declared.name)
                facts.declared[declared.name] = declared


def _declared(decorator: ast.Call) -> Declared:
    values: dict[str, object] = {}
    for keyword in decorator.keywords:
        try:
            values[keyword.arg or "**"] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError):
            continue
    inputs, output, name = values.get("inputs"), values.get("output"), values.get("name")
    return Declared(
        tuple(map(str, inputs)) if isinstance(inputs, (list, tuple)) else None,
        {str(key): str(value) for key, value in output.items()} if isinstance(output, dict) else None,
        name if isinstance(name, str) else None,
    )


def _call(node: ast.Call, facts: ModuleFacts) -> None:
    name = _name(node.func)
    if name == "register":
        first = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg == "name"), None)
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            facts.registered.add(first.value)
        else:
            facts.dynamic = True
    elif name in ("exec", "globals", "setattr", "eval"):
        facts.dynamic = True


def _name(node: ast.expr) -> str | None:
    """`register` of `register(…)`, `streamjob.register(…)` and so on."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


look_at = Looks().look_at
"""`Looks.look_at` of this process."""
