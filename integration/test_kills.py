"""A run of the kill tests that kills too seldom fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import kills
import pytest

CONFTEST = """
import sys
from pathlib import Path
import pytest
sys.path.insert(0, {here!r})
import kills

def pytest_configure(config):
    config.addinivalue_line("markers", "kills: kills")
    config.addinivalue_line("markers", "servers: needs servers")
    config.tally = kills.Tally(Path(__file__).parent)
    config.pluginmanager.register(config.tally)

@pytest.fixture
def report(request):
    report = kills.Report(request.node.name, 1)
    yield report
    request.config.tally.add(report)
"""
FILE = """
import kills, pytest

@pytest.mark.kills
@pytest.mark.parametrize("count", [{counts}])
def test_of_files(report, count):
    for _ in range(count):
        report.killed(kills.Kill(None))
    report.came_late(kills.Kill(None))
"""
OTHERS = """
import pytest

@pytest.mark.kills
def test_of_http():
    {does}

@pytest.mark.kills
@pytest.mark.servers
def test_of_a_database():
    pytest.skip("there is none")
"""
BROKER = """
import pytest

pytestmark = pytest.mark.servers

@pytest.mark.kills
def test_of_a_broker():
    pytest.skip("there is none")
"""


@pytest.mark.parametrize(
    ("counts", "does", "options", "code", "said"),
    [
        ("20, 30", "pass", [], 0, "kills: 50\n"),
        ("20, 29", "pass", [], 1, "kills: 49, TOO FEW: 50 at least are wanted\n"),
        ("20, 29", "pass", ["-m", "not servers"], 1, "kills: 49, TOO FEW"),
        ("20, 29", "assert False", [], 1, "kills: 49, of a part"),
        ("20, 29", "pytest.skip()", [], 0, "kills: 49, of a part: 1 kill tests without servers have not passed\n"),
        ("20, 29", "pass", ["-k", "files"], 0, "kills: 49, of a part"),
        ("20, 29", "pass", ["-m", "servers"], 0, ""),
        ("0", "pass", [], 1, "kills: 0, TOO FEW"),
    ],
)
def test_too_few_kills_fail_a_run_of_all(
    tmp_path: Path, counts: str, does: str, options: list[str], code: int, said: str
) -> None:
    texts = {
        "conftest.py": CONFTEST.format(here=str(Path(__file__).parent)),
        "test_file.py": FILE.format(counts=counts),
        "test_others.py": OTHERS.format(does=does),
        "test_broker.py": BROKER,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name != "STREAMJOB_KILLS"}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "."]
    result = subprocess.run(command, cwd=tmp_path, env=env, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == code, result.stdout + result.stderr
    assert said in result.stdout


def test_the_tests_that_need_no_server_are_found() -> None:
    found = kills.tests_without_servers(Path(__file__).parent)
    assert {"test_kill_file.py::test_a_paced_file_survives_kills_at_random_moments"} < found
    assert {name.partition("::")[0] for name in found} >= {"test_kill_file.py", "test_kill_http.py"}
    assert not {name for name in found if name.startswith(("test_kafka", "test_postgres", "test_nats"))}
