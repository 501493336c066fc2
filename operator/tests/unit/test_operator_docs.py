"""docs/operator.md says what the code does: settings, metrics, Events, phases, bounds, the status."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from streamjob_operator import metrics
from streamjob_operator.crd.reference import render
from streamjob_operator.crd.status import PHASES
from streamjob_operator.settings import Settings

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "operator.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
SOURCE = ROOT / "operator" / "src" / "streamjob_operator"


def table(first: str) -> list[list[str]]:
    rows: list[list[str]] = []
    inside = False
    for line in TEXT.splitlines():
        if line.startswith(f"| {first} |"):
            inside = True
        elif inside and not line.startswith("|"):
            break
        elif inside and not line.startswith("| ---"):
            rows.append([cell.strip() for cell in line.removeprefix("|").removesuffix("|").split(" | ")])
    assert rows
    return rows


def first_cells(first: str) -> list[str]:
    return [row[0].strip("`") for row in table(first)]


def test_the_status_is_as_generated() -> None:
    assert render(TEXT) == TEXT, "run `make manifests`"


def test_every_setting_has_its_row() -> None:
    expected = {}
    for field in fields(Settings):
        default = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
        expected[f"--{field.name.replace('_', '-')}"] = default
    assert {row[0].strip("`"): row[1].strip("`") for row in table("flag")} == expected


def test_every_metric_has_its_row() -> None:
    known = {f"{metric.name}{'_total' if metric.type == 'counter' else ''}" for metric in metrics.registry.collect()}
    assert set(first_cells("metric")) == known


def test_every_phase_has_its_row() -> None:
    assert sorted(first_cells("phase")) == sorted(PHASES)


def test_every_event_has_its_row() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    emitted = set(re.findall(r"\bEmit\(\s*\"(\w+)\"", code)) | set(re.findall(r"\"(Suspending|Resuming)\"", code))
    assert set(first_cells("reason")) == emitted


def test_bounds_are_those_of_the_code() -> None:
    for name, value, path, _ in table("bound"):
        text = (SOURCE / path.strip("`")).read_text(encoding="utf-8")
        found = re.search(rf"^{name.strip('`')}(?:: \w+)? = (.+?)(?:  #.*)?$", text, re.MULTILINE)
        assert found is not None, f"{path} has no {name}"
        assert found[1] == value.strip("`"), name
