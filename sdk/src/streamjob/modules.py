"""The Python modules that a job names: where their texts are, and what can be said of them without running them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from streamjob.models import CodeSpec, ConfigMapCode
from streamjob.problems import Path, Problem, suggest
from streamjob.source import Source
from streamjob.udf_source import MAX_JOB_TOKENS, MAX_TOKENS, ModuleFacts, count_tokens, look_at, unknown

ReadText = Callable[[str], str]
"""Reads the UTF-8 text of an absolute path; raises OSError or UnicodeDecodeError."""

ReadConfigMap = Callable[[str, str], str]
"""Gives the text of a ConfigMap's key, `(name, key)`; raises LookupError that says what is not there."""


def read_text(path: str) -> str:
    """The text of a file, without the mark that some editors begin it with."""
    with open(path, encoding="utf-8-sig") as file:
        return file.read()


def resolve_path(path: str, base_dir: str) -> str:
    """`path` of a job as an absolute path: relative ones are relative to the job's folder."""
    return os.path.normpath(os.path.join(base_dir, path))


@dataclass(frozen=True, slots=True)
class Module:
    """A module that a member of the job names: its code, what is wanted of it, and the member that says so."""

    file: str | None
    code: CodeSpec | None
    wanted: str
    member: str
    """`function` or `class`."""
    label: str
    """What tracebacks of inline code show, such as `spec.udfs.NAME`."""

    @property
    def config_map(self) -> ConfigMapCode | None:
        """The ConfigMap with the code, where it is in one."""
        return self.code.config_map if self.code else None


@dataclass(frozen=True, slots=True)
class ModuleText:
    """The text of a module, None where it is not known, and the name that its tracebacks show."""

    text: str | None
    filename: str


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the modules of one job, and notes what is wrong with them."""

    source: Source
    base_dir: str
    read: ReadText
    config_maps: ReadConfigMap | None
    problems: list[Problem]
    looked: dict[str, int] = field(default_factory=dict)
    """The texts that were looked at, with their words and signs."""

    def is_unknown(self, module: Module) -> bool:
        """Whether the code is in a ConfigMap where there are none, which is no problem of the job."""
        return module.config_map is not None and self.config_maps is None

    def text(self, module: Module, path: Path) -> ModuleText:
        """The text of the module at `path` of the job."""
        if module.config_map is not None:
            return self._config_map_text(module.config_map, path)
        inline = module.code.inline if module.code else None
        if inline is not None:
            file = resolve_path(os.path.basename(self.source.file), self.base_dir)
            return ModuleText(inline, f"{file}:{module.label}")
        if module.file is None:
            return ModuleText(None, "")
        filename = resolve_path(module.file, self.base_dir)
        try:
            return ModuleText(self.read(filename), filename)
        except FileNotFoundError:
            message, fix = "file does not exist", "the path is relative to the job's file"
        except UnicodeDecodeError:
            message, fix = "file is not UTF-8 text", "give a Python file"
        except OSError as error:
            message, fix = f"file cannot be read: {error.strerror or error}", "check the path and its permissions"
        self.problems.append(self.source.problem((*path, "file"), message, fix=fix))
        return ModuleText(None, filename)

    def _config_map_text(self, code: ConfigMapCode, path: Path) -> ModuleText:
        """The module's text from a ConfigMap, where there are ConfigMaps."""
        filename = f"configmap:{code.name}/{code.key}"
        if self.config_maps is None:
            return ModuleText(None, filename)
        try:
            return ModuleText(self.config_maps(code.name, code.key), filename)
        except LookupError as error:
            message = str(error.args[0]) if error.args else "is not there"
            fix = "create it in the job's namespace; the job goes on as soon as it is there"
            place, got = (*path, "code", "configMap"), f"{code.name}/{code.key}"
            self.problems.append(self.source.problem(place, message, got=got, fix=fix))
            return ModuleText(None, filename)

    def facts(self, module: Module, text: str, path: Path) -> ModuleFacts | None:
        """What the module's text says of itself; None where it is no Python, which is a problem."""
        config_map = module.config_map
        code = f"ConfigMap {config_map.name}, key {config_map.key}" if config_map else "inline code"
        try:
            facts = self._look(text)
        except SyntaxError as error:
            self._wrong(module, text, path, error.lineno or 1, f"Python syntax error: {error.msg}")
        except ValueError as error:
            self._wrong(module, text, path, 1, f"is no Python text: {error}")
        else:
            if not facts.may_have(module.wanted):
                fix = suggest(module.wanted, facts.known(), "names in the module")
                message = f"is not defined or registered in {module.file or f'the {code}'}"
                self.problems.append(self.source.problem((*path, module.member), message, fix=fix))
            return facts
        return None

    def _look(self, text: str) -> ModuleFacts:
        if text not in self.looked:
            tokens = count_tokens(text)
            if tokens > MAX_TOKENS or sum(self.looked.values()) + tokens > MAX_JOB_TOKENS:
                return unknown()
            self.looked[text] = tokens
        return look_at(text)

    def _wrong(self, module: Module, text: str, path: Path, line: int, message: str) -> None:
        got = _line_of(text, line)
        if module.config_map:
            place = (*path, "code", "configMap")
            problem = self.source.problem(place, f"line {line}: {message}", got=got, fix="correct the ConfigMap")
        elif module.file is None:
            place = (*path, "code", "inline")
            plain = self.source.problem(place, message, got=got, fix="correct this line")
            # A block text begins on the line below its key.
            problem = Problem(plain.file, plain.line + line, plain.path, plain.message, plain.got, plain.fix)
        else:
            file = os.path.normpath(os.path.join(os.path.dirname(self.source.file), module.file))
            problem = Problem(file, line, "", message, got, "correct this line")
        self.problems.append(problem)


def _line_of(text: str, line: int) -> str | None:
    lines = text.splitlines()
    return lines[line - 1].strip()[:60] if 0 < line <= len(lines) else None
