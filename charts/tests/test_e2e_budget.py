"""What runs of e2e/ where time is short, and what is said of the rest; without a cluster, on tests that do nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chart_files import ROOT

E2E = ROOT / "e2e"
FILES = sorted(path.name for path in E2E.glob("test_*.py"))
RIGHTS, UPGRADE = "test_7_rights.py", "test_8_upgrade.py"
EARLY = [FILES[0], RIGHTS, UPGRADE]
LATE = "test_the_rights_were_enough"
# Conftest takes the day from here, and a test that calls `spend` has spent every budget.
CLOCK = """
import time

time.time = lambda: {day} * 86_400 + 3_600.0


def spend():
    time.monotonic = lambda: 1e12
"""
LAB = ("packages", "build-k8s", "build-tools", "docker-up", "images", "up", "down", "image")


def run_e2e(folder: Path, budget: str, day: int = 0, spends: str = "") -> tuple[list[str], list[str]]:
    """The files whose tests were run, in their order, and the answer's lines. `spends` is who spends the budget."""
    shutil.copy(E2E / "conftest.py", folder)
    (folder / "clock.py").write_text(CLOCK.format(day=day), encoding="utf-8")
    for name in FILES:
        does = "__import__('clock').spend()" if name == spends else "pass"
        text = f"def test_{name[5:-3]}():\n    {does}\n"
        if name == RIGHTS:
            text += f"\n\ndef {LATE}():\n    pass\n"
        (folder / name).write_text(text, encoding="utf-8")
    places = (folder, E2E, ROOT / "integration", ROOT / "operator" / "harness")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "STREAMJOB_E2E_BUDGET_S": budget,
        "KUBECONFIG": str(folder / "none"),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-p",
        "clock",
        f"--rootdir={folder}",
        "-c",
        os.devnull,
        str(folder),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.findall(r"^(?:\S*/)?(test_\w+\.py)::(\w+) PASSED", done.stdout, re.MULTILINE)
    return [LATE if test == LATE else file for file, test in passed], done.stdout.splitlines()


def test_without_a_budget_files_run_in_their_order(tmp_path: Path) -> None:
    ran, lines = run_e2e(tmp_path, "0", spends=FILES[0])
    at = FILES.index(RIGHTS) + 1
    assert ran == [*FILES[:at], LATE, *FILES[at:]]
    assert "NOT RUN" not in lines[-1]


def test_within_a_budget_rights_and_upgrade_come_early_and_the_others_take_turns(tmp_path: Path) -> None:
    days = []
    for day in (0, 1):
        ran, lines = run_e2e(tmp_path, "900", day)
        assert ran[: len(EARLY)] == EARLY
        assert ran[-1] == LATE, "it judges all that ran"
        assert "NOT RUN" not in lines[-1]
        days.append(ran[len(EARLY) : -1])
    first, second = days
    assert sorted(first) == [name for name in FILES if name not in EARLY]
    assert second == [*first[1:], first[0]], "each of them comes first once, and none is left out for ever"


def test_the_last_line_says_what_a_budget_left_out(tmp_path: Path) -> None:
    ran, lines = run_e2e(tmp_path, "900", spends=UPGRADE)
    assert ran == [*EARLY, LATE]
    left_out = re.findall(r"test_\w+\.py", lines[-1])
    assert lines[-1].startswith("e2e: NOT RUN after 900 s: ")
    assert left_out == [name for name in FILES if name not in EARLY]


@pytest.mark.parametrize(("words", "budget"), [([], "none"), (["--if-built"], "900")])
def test_only_a_run_that_nobody_asked_for_has_a_budget(tmp_path: Path, words: list[str], budget: str) -> None:
    checkout, lab, programs = tmp_path / "main", tmp_path / "shared" / "cluster", tmp_path / "programs"
    for folder in (checkout / ".ci", checkout / "dist" / "engine", lab, programs):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "e2e.sh", checkout / ".ci")
    (checkout / "dist" / "engine" / "engine.whl").touch()
    (lab / "env.sh").write_text(f"BIN={lab} K8S_VERSION=1 HELM_VERSION=1 KIND_VERSION=1\n", encoding="utf-8")
    for name in (".k8s-1", ".helm-1", ".kind-1"):
        (lab / name).touch()
    scripts = {lab / f"{name}.sh": "exit 0" for name in LAB}
    scripts[lab / "in-lab.sh"] = 'echo "$2 $3: ${STREAMJOB_E2E_BUDGET_S:-none}"'
    # Whoever runs this test is root, and may do everything, as far as the script sees.
    scripts |= {programs / "id": "echo 0", programs / "unshare": "exit 0"}
    for path, text in scripts.items():
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMJOB_")}
    environment |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    command = [str(checkout / ".ci" / "e2e.sh"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"-m pytest: {budget}"
