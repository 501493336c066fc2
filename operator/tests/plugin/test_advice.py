"""Advice, the document and the operator's own reasons name the same things."""

from __future__ import annotations

import ast
from pathlib import Path

from streamjob_operator.cluster import NAME_TAKEN
from streamjob_operator.decide.changes import NO_RIGHTS, REFUSED
from streamjob_operator.plugin import advice

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "operator" / "src" / "streamjob_operator"
DOCUMENT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HARMLESS = {"AsExpected", "Answers", "Bound", "NotAsked", "NoVolumeYet", "PodsReady", "Settled", "Valid"}
"""Reasons that a condition gives where nothing is wrong."""
OF_REFUSALS = {NAME_TAKEN, NO_RIGHTS, REFUSED}
"""Reasons that stand in a variable: what a request was refused for."""
OF_THE_CLUSTER = ("health.py", "storage.py")
"""Files with the cluster's own words, in tuples, which become reasons."""
PLACES = {"Condition": 2, "Trouble": 0, "no": 0, "_invalid": 2}
"""Calls that carry a reason, and which argument it is."""


def reasons() -> set[str]:
    """Every reason that the operator writes."""
    found = set(OF_REFUSALS)
    for path in (SOURCES / "decide").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PLACES:
                at = PLACES[node.func.id]
                if len(node.args) > at and isinstance(node.args[at], ast.Constant):
                    found.add(str(node.args[at].value))
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and path.name in OF_THE_CLUSTER:
                found |= {str(one.value) for one in node.value.elts if isinstance(one, ast.Constant)}
    return found


def test_every_reason_of_the_operator_is_in_the_document() -> None:
    found = reasons()
    assert len(found) > 20
    assert not {reason for reason in found - HARMLESS if f"`{reason}`" not in DOCUMENT}


def test_every_advice_is_about_something_that_can_be() -> None:
    found = reasons()
    assert set(advice.CONDITIONS) <= found


def test_what_the_cluster_refuses_has_advice() -> None:
    assert set(advice.CONDITIONS) >= OF_REFUSALS


def test_every_advice_is_in_the_document() -> None:
    assert not {reason for reason in advice.CONDITIONS if f"`{reason}`" not in DOCUMENT}


def test_what_killed_a_container_goes_before_that_it_is_restarted() -> None:
    assert advice.for_pod("CrashLoopBackOff", "OOMKilled") == advice.PODS["OOMKilled"]
    assert advice.for_pod("CrashLoopBackOff", "Error, exit code 1") == advice.PODS["CrashLoopBackOff"]
    assert advice.for_pod("Running", "OOMKilled") is None
