"""A static look at a UDF's module: what it defines and what its `@udf` decorators declare, without running it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Declared:
    """What a function's `@udf` declares, as far as it is written in literals; None where it is not."""

    inputs: tuple[str, ...] | None = None
    output: dict[str, str] | None = None
    name: str | None = None


@dataclass(slots=True)
class ModuleFacts:
    """The names a module surely has, those it registers, and whether it may have more that only running shows."""

    names: set[str] = field(default_factory=set)
    registered: set[str] = field(default_factory=set)
    dynamic: bool = False
    declared: dict[str, Declared] = field(default_factory=dict)

    def may_have(self, function: str) -> bool:
        """Whether `function` is there, or may be."""
        return function in self.names or function in self.registered or self.dynamic

    def known(self) -> list[str]:
        """The names to suggest, functions that look like UDFs first."""
        return [*sorted(self.registered), *sorted(name for name in self.names if name not in self.registered)]


def look_at(text: str, filename: str) -> ModuleFacts:
    """The facts of a module's text. Raises SyntaxError (with its line) or ValueError if it is no Python."""
    try:
        return _facts(text, filename)
    except (RecursionError, MemoryError):  # the parser says so of what is nested too deeply
        raise ValueError("it is nested too deeply") from None


def _facts(text: str, filename: str) -> ModuleFacts:
    tree = ast.parse(text, filename)
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
