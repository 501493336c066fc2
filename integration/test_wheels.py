"""Both wheels, as `make wheels` leaves them, in a new virtual environment: nothing of the checkout is needed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import skip_or_fail

ROOT = Path(__file__).resolve().parents[1]
JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: wheels}
spec:
  shards: 2
  schema:
    key: device_id
    time: {field: timestamp, unit: ms}
    fields: {device_id: string, temperature: float64}
  sources: [{name: in, http: {}}]
  windows: [{name: per_10s, tumbling: 10s, aggregates: {n: count()}}]
  udfs:
    - name: z
      code: {inline: "def double(x):\\n    return 2 * x\\n"}
      function: double
      inputs: [temperature]
      output: {doubled: float64}
  sinks: [{name: out, from: per_10s, file: {path: out}}]
"""


@pytest.fixture(scope="module")
def wheels() -> list[Path]:
    """The wheels of the package and of the engine."""
    found = [*ROOT.glob("dist/sdk/*.whl"), *ROOT.glob("dist/engine/*.whl")]
    if len(found) != 2:
        skip_or_fail(f"there are not two wheels in {ROOT / 'dist'}; make them with make wheels")
    return found


@pytest.fixture(scope="module")
def installed(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with both wheels, and of their dependencies the locked versions."""
    folder = tmp_path_factory.mktemp("wheels")
    venv.create(folder / "venv", with_pip=True)
    locked = re.findall(r"^(\S+==.*?) *\\?$", (ROOT / "sdk" / "requirements-dev.lock").read_text(), re.MULTILINE)
    (folder / "constraints.txt").write_text("\n".join(locked))
    programs = folder / "venv" / "bin"
    options = ["--quiet", "--disable-pip-version-check", "--constraint", folder / "constraints.txt"]
    subprocess.run([programs / "python", "-m", "pip", "install", *options, *wheels], check=True)
    return programs


def environment() -> dict[str, str]:
    """Nothing that points to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def call(program: Path, *arguments: object, cwd: Path) -> str:
    """What a program prints."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_holds_the_package_alone(wheels: list[Path]) -> None:
    names = [name for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()]
    assert {name.partition("/")[0].partition("-")[0] for name in names} <= {"streamjob", "streamjob_engine"}
    assert "streamjob/py.typed" in names
    assert not [name for name in names if "/tests/" in name or name.endswith((".rs", ".yaml"))]


def test_check_run_and_query(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    where = call(installed / "python", "-c", "import streamjob; print(streamjob.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))
    version = f"python    {sys.version.split()[0]}"
    assert version in call(installed / "streamjob", "version", cwd=tmp_path)
    assert "wheels: 1 source, 1 window, 1 UDF, 1 sink" in call(
        installed / "streamjob", "check", "job.yaml", cwd=tmp_path
    )
    command = [str(installed / "streamjob"), "run", "job.yaml", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            row = json.dumps({"device_id": "a", "timestamp": 1000, "temperature": 20.5}).encode()
            request = urllib.request.Request(f"{url}/ingest", row, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert json.load(answer)["accepted"] == 1
            arguments = ("query", "a", "--url", url, "-o", "json")
            stats = json.loads(call(installed / "streamjob", *arguments, cwd=tmp_path))
            assert stats["key"] == "a"
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["received"] == 1
