"""What the documents say, compared with the code: jobs, commands, links, tables.

A document marks its blocks by a comment on the line before them: `<!-- file: NAME -->` is a file that the document's
jobs and commands find beside them, `<!-- run -->` a console block that is run, and whose output is compared,
`<!-- values -->` values of the Helm chart.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from streamjob import expressions, scope
from streamjob.cli.arguments import parse_arguments
from streamjob.loading import load_job
from streamjob.models import JobSpec
from streamjob.problems import JobError
from streamjob.source import parse_yaml
from streamjob_operator.plugin.arguments import parse as parse_plugin

ROOT = Path(__file__).resolve().parents[2]
CRATES = ROOT / "engine" / "crates"
CHART = ROOT / "charts" / "streamjob-operator"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MEASURED_LATER = {"docs/performance.md"}  # comes with the first measurements
PROGRAMS = {
    "cargo",
    "curl",
    "docker",
    "export",
    "head",
    "helm",
    "kill",
    "kubectl",
    "make",
    "pip",
    "pytest",
    "python",
    "streamjob",
    "tar",
}
SEPARATORS = {"|", "||", "&", "&&", ";"}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its text and the comment before it."""

    document: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[str]:
        """The lines after `$ `."""
        return [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]


def blocks_of(document: Path) -> Iterator[Block]:
    """All fenced blocks of a document."""
    mark, opened, language, lines = "", 0, "", list[str]()
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if opened:
            if line.strip() == "```":
                yield Block(document, opened, language, "\n".join(lines) + "\n", mark)
                opened, mark = 0, ""
            else:
                lines.append(line)
        elif line.strip().startswith("```"):
            opened, language, lines = number, line.strip()[3:], []
        elif line.strip():
            found = re.fullmatch(r"<!-- (run|values|file: \S+) -->", line.strip())
            mark = found[1] if found else ""


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


def in_language(*languages: str) -> list[Any]:
    """Parameters of a test: the blocks in these languages."""
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language in languages]


def beside(document: Path, folder: Path) -> None:
    """Writes the files that a document's jobs find beside them."""
    for block in BLOCKS:
        if block.document == document and block.mark.startswith("file: "):
            (folder / block.mark.removeprefix("file: ")).write_text(block.text, encoding="utf-8")


def table(document: Path, first: str) -> list[list[str]]:
    """The cells of the rows of the table whose head begins with `first`."""
    rows: list[list[str]] = []
    inside = False
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"| {first} |"):
            inside = True
        elif inside and not line.startswith("|"):
            break
        elif inside and not line.startswith("| ---"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert rows, f"{document.name} has no table that begins with {first}"
    return rows


def located(path: str) -> Path:
    """A path that a document names: from the root, or short from the crates."""
    return CRATES / path if (CRATES / path).exists() else ROOT / path


@pytest.mark.parametrize("block", in_language("yaml"))
def test_jobs_are_valid(block: Block, tmp_path: Path) -> None:
    if block.mark == "values":
        schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
        jsonschema.validate(yaml.safe_load(block.text), schema)
        return
    if not block.text.lstrip().startswith("apiVersion:"):
        source, problems = parse_yaml(block.text, str(block))
        assert not problems
        assert source is not None
        known = {field.alias or name for name, field in JobSpec.model_fields.items()}
        assert set(source.data) <= known, "neither a job nor members of spec"
        return
    beside(block.document, tmp_path)
    try:
        load_job(block.text, base_dir=str(tmp_path))
    except JobError as error:
        pytest.fail(str(error))


def test_kubectl_reads_the_first_job_as_we_do() -> None:
    """Its YAML takes words such as `on` and `n` for truth values, also where they are names."""
    jobs = [block for block in BLOCKS if block.document.name == "first-job.md" and block.language == "yaml"]
    for block in jobs:
        source, _ = parse_yaml(block.text, str(block))
        assert source is not None
        assert yaml.safe_load(block.text) == source.data


@pytest.mark.parametrize("block", in_language("python"))
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", in_language("console", "sh", "bash"))
def test_commands_exist(block: Block) -> None:
    assert block.language == "console", "write console blocks, with $ before each command"
    assert block.commands(), "a command begins with `$ `"
    for command in block.commands():
        for words in simple_commands(command):
            check_command(words)


def simple_commands(command: str) -> Iterator[list[str]]:
    """The words of each program that a line calls."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in SEPARATORS:
            words.append(word)
        elif words:
            yield words
            words = []


def check_command(words: list[str]) -> None:
    """Fails for an unknown program, target, subcommand or flag."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program = Path(words[0]).name
    assert program in PROGRAMS, f"unknown program {program}"
    if program == "make":
        check_make(words[1:])
    elif program == "streamjob":
        try:
            parse_arguments(words[1:])
        except SystemExit:
            pytest.fail(f"the command line refuses {shlex.join(words)}")
    elif program == "kubectl" and words[1] == "streamjob":
        try:
            parse_plugin(words[2:])
        except SystemExit:
            pytest.fail(f"the plugin refuses {shlex.join(words)}")
    elif program in ("docker", "helm", "kubectl"):
        for word in words[1:]:
            local = re.match(r"(?:[\w.-]+=)*((?:charts|examples|docs|Dockerfile)[\w./-]*)$", word.lstrip("@"))
            assert local is None or (ROOT / local[1]).exists(), f"there is no {word}"
    elif program in ("python", "pytest"):
        for word in words[1:]:
            assert word.startswith("-") or (ROOT / word).exists(), f"there is no {word}"
    elif program == "cargo" and "-p" in words:
        package = words[words.index("-p") + 1].removeprefix("streamjob-")
        assert (CRATES / package).is_dir(), f"there is no crate {package}"


def check_make(words: list[str]) -> None:
    makefile = ROOT / "Makefile"
    if not makefile.exists():
        pytest.skip("there is no Makefile yet")
    text = makefile.read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        pattern = rf"\$[({{]{name}\b|^{name}\s*[?:]?=" if is_variable else rf"^{name}\s*:"
        assert re.search(pattern, text, re.MULTILINE), f"the Makefile has no {word}"


def test_make_targets_in_prose_exist() -> None:
    for document in DOCUMENTS:
        for words in re.findall(r"`make ([a-z][^`]*)`", document.read_text(encoding="utf-8")):
            check_make(words.split())


@pytest.mark.parametrize("block", [p for p in in_language("console") if p.values[0].mark == "run"])
def test_marked_blocks_run(block: Block, tmp_path: Path) -> None:
    beside(block.document, tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    said: list[str] = []
    for command in block.commands():
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said += [f"$ {command}", *done.stdout.splitlines()]
    assert "\n".join(said) + "\n" == block.text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        if str(linked.relative_to(ROOT)) in MEASURED_LATER and not linked.exists():
            continue
        assert linked.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(linked), f"{target}: there is no such heading"
    named = re.findall(
        r"`((?:core|state|connectors|node|python|engine|sdk|docs|examples|charts|operator)/[\w./-]+?)(?:::\w+)?`", prose
    )
    for path in named:
        assert located(path).exists() or path in MEASURED_LATER, f"there is no {path}"


def anchors(document: Path) -> set[str]:
    """The headings of a document, as links name them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_named_tests_exist() -> None:
    named = re.findall(r"`([\w/]+\.(?:rs|py))::(\w+)`", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    for path, name in named:
        text = located(path).read_text(encoding="utf-8")
        # A function, or one that a macro makes: `name: Guard,`.
        assert re.search(rf"(?:fn|def) {name}\b|^ +{name}: \w+,$", text, re.MULTILINE), f"{path} has no test {name}"


def test_every_invariant_has_its_row() -> None:
    rows = table(ROOT / "docs" / "architecture.md", "invariant")
    assert [row[0] for row in rows] == [f"I{number}" for number in range(1, 12)]


def test_bounds_are_those_of_the_code() -> None:
    wrong = []
    for name, value, path, *_ in table(ROOT / "docs" / "architecture.md", "bound"):
        text = located(path.strip("`")).read_text(encoding="utf-8")
        found = re.search(rf"const {name.strip('`')}: \w+ = (.+?);", text)
        if found is None or found[1] != value.strip("`"):
            wrong.append(f"{path}: {name} is {found[1] if found else 'not there'}, the table says {value}")
    assert not wrong, "\n".join(wrong)


def test_every_metric_is_documented_and_no_other() -> None:
    pattern = re.compile(r'\b(?:describe_)?(?:counter|gauge|histogram)!\(\s*"([^"]+)"')
    sources = [path for path in CRATES.rglob("*.rs") if path.relative_to(CRATES).parts[1] == "src"]
    in_code = {name for path in sources for name in pattern.findall(path.read_text(encoding="utf-8"))}
    documented = [row[0].strip("`") for row in table(ROOT / "docs" / "metrics.md", "metric")]
    assert len(documented) == len(set(documented))
    assert set(documented) == in_code


def test_every_alert_is_documented_and_no_other() -> None:
    rules = yaml.safe_load((CHART / "files" / "rules" / "streamjob.yaml").read_text(encoding="utf-8"))
    in_chart = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert [row[0].strip("`") for row in table(ROOT / "docs" / "metrics.md", "alert")] == in_chart


def test_the_reference_is_as_generated() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import generate
    finally:
        sys.path.remove(str(ROOT / "docs"))
    text = generate.TARGET.read_text(encoding="utf-8")
    assert generate.render(text) == text, "run python docs/generate.py"


def test_functions_aggregates_and_statistics_are_all_listed() -> None:
    job = ROOT / "docs" / "job.md"
    functions = re.findall(r"`(\w+)\(", " ".join(row[0] for row in table(job, "function")))
    assert set(functions) == set(expressions._FUNCTIONS)
    aggregates = re.findall(r"`(\w+)\(", " ".join(row[0] for row in table(job, "aggregate")))
    assert set(aggregates) == set(expressions.AGGREGATES)
    text = job.read_text(encoding="utf-8")
    section = text[text.index("## Statistics of a key") : text.index("## UDFs")]
    assert set(scope.STATISTICS) <= set(re.findall(r"`(\w+)`", section))


def test_decisions_are_numbered() -> None:
    names = [path.name for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    numbers = [name[:5] for name in names]
    assert all(re.fullmatch(r"\d{4}-", number) for number in numbers)
    assert len(set(numbers)) == len(numbers), "a number is used once; gaps are left by records that were given up"
    for name in names:
        text = (ROOT / "docs" / "decisions" / name).read_text(encoding="utf-8")
        assert text.startswith(f"# {int(name[:4])}. ")
        assert re.search(r"^Status: (accepted|replaced by \d+|withdrawn)", text, re.MULTILINE)


def test_the_license_is_the_same_everywhere() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert (ROOT / "sdk" / "LICENSE").read_text(encoding="utf-8") == text
