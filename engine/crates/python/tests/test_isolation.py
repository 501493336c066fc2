"""Functions in a process of their own, and what becomes of rows that end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from support import probe

KINDS = """
import numpy as np
def f(a, b, c, d):
    assert np.isnan(a[1])
    s = np.array([None if value is None else value + "!" for value in d], dtype=object)
    return a * 2, np.arange(len(b)), np.array([bool(value) for value in c]), s
"""
COLUMNS = [
    ("float64", [1.5, None, -0.0, 4.0]),
    ("int64", [1, 2, None, 4]),
    ("bool", [True, None, False, True]),
    ("string", ["ä", None, "", "d"]),
]
OUTPUTS = {"p": "float64", "q": "int64", "r": "bool", "s": "string"}


def floats(*killers: float, count: int = 1000) -> list[tuple[str, list[float]]]:
    """A column of counted values, with some in the place of others."""
    values = [float(number) for number in range(count)]
    for number, value in enumerate(killers):
        values[17 + 400 * number] = value
    return [("float64", values)]


def ending(how: str) -> str:
    """A function that ends its process on negative values."""
    return f"import ctypes, os, signal, sys\ndef f(x):\n    if (x < 0).any():\n        {how}\n    return x + 1\n"


def test_rows_get_the_same_results_as_in_process():
    alone, within = (probe(KINDS, COLUMNS, OUTPUTS, isolated=isolated) for isolated in (True, False))
    assert alone["failed"] == []
    assert alone["outputs"] == within["outputs"]
    assert alone["deaths"] == 0


def test_so_do_rows_of_a_record_batch():
    source = (
        "import pyarrow as pa\ndef f(batch: pa.RecordBatch):\n    return batch.column('column0'), batch.column(3)\n"
    )
    outputs = {"p": "float64", "s": "string"}
    alone, within = (probe(source, COLUMNS, outputs, offset=1, isolated=isolated) for isolated in (True, False))
    assert alone["outputs"] == within["outputs"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "(signal 11, SIGSEGV)"),
        ("ctypes.string_at(0)", "(signal 11, SIGSEGV)"),
        ("os.abort()", "(signal 6, SIGABRT)"),
        ("os._exit(3)", "(exit code 3)"),
        ("os._exit(0)", "(exit code 0)"),
    ],
)
def test_rows_that_end_the_process_fail_alone(how, said):
    result = probe(ending(how), floats(-1.0), {"y": "float64"}, isolated=True)
    ((row, reason),) = result["failed"]
    assert row == 17
    assert reason.startswith(f"the function ended the process that it ran in {said}: ")
    assert result["outputs"][0][16:19] == [17.0, None, 19.0]
    assert result["deaths"] == 3  # all rows, 128 of them, the one


def test_exceptions_are_told_as_ever():
    source = ending("raise ValueError('negative')")
    alone, within = (probe(source, floats(-1.0, -2.0), {"y": "float64"}, isolated=kind) for kind in (True, False))
    assert alone["failed"] == within["failed"]
    assert [row for row, _ in alone["failed"]] == [17, 417]
    assert alone["deaths"] == 0


def test_what_a_function_prints_and_reads_is_not_the_engines(capfd):
    source = (
        "import os, sys\n"
        "def f(x):\n"
        "    print('printed')\n"
        "    os.write(1, b'written')\n"
        "    assert sys.stdin.read() == ''\n"
        "    return x\n"
    )
    assert probe(source, floats(), {"y": "float64"}, isolated=True)["failed"] == []
    out, err = capfd.readouterr()
    assert "printed" not in out
    assert "written" in err


def test_both_processes_find_the_same_modules(tmp_path, monkeypatch):
    (tmp_path / "beside_the_job.py").write_text("import os\nANSWER = 42.0\nFOLDER = os.getcwd()\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    # A file of this name in the working directory is not what `import json` means.
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')\n")
    monkeypatch.chdir(tmp_path)
    source = f"import json, beside_the_job as m\ndef f(x):\n    assert m.FOLDER == {str(tmp_path)!r}\n"
    source += "    return x * 0 + m.ANSWER\n"
    result = probe(source, floats(), {"y": "float64"}, isolated=True)
    assert result["failed"] == []
    assert result["outputs"][0][0] == 42.0


def test_without_another_process_rows_are_called_in_this_one(monkeypatch):
    source = "import os\ndef f(x):\n    return x * 0 + os.getpid()\n"
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert probe(source, floats(), {"y": "float64"}, isolated=True)["outputs"][0][0] == os.getpid()


def test_so_are_functions_that_load_only_here():
    source = f"import os\nassert os.getpid() == {os.getpid()}\ndef f(x):\n    return x\n"
    result = probe(source, floats(), {"y": "float64"}, isolated=True)
    assert (result["failed"], result["deaths"]) == ([], 0)


def test_the_end_is_noticed_while_a_child_has_the_pipe():
    how = "(os.fork() or __import__('time').sleep(20)) and os.kill(os.getpid(), signal.SIGSEGV)"
    begun = time.monotonic()
    result = probe(ending(how), floats(-1.0, count=20), {"y": "float64"}, isolated=True)
    assert [row for row, _ in result["failed"]] == [17]
    assert time.monotonic() - begun < 15


def test_the_interpreter_is_free_meanwhile():
    source = "import time\ndef f(x):\n    time.sleep(0.5)\n    return x\n"
    ended = threading.Event()

    def call() -> None:
        probe(source, floats(), {"y": "float64"}, isolated=True)
        ended.set()

    threading.Thread(target=call).start()
    longest, last = 0.0, time.monotonic()
    while not ended.is_set():
        time.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert longest < 0.4


def test_the_process_ends_with_the_engines(tmp_path):
    note = tmp_path / "pid"
    source = f"import os, time\ndef f(x):\n    open({str(note)!r}, 'w').write(str(os.getpid()))\n    time.sleep(60)\n"
    code = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom support import probe\n"
    code += f"probe({source!r}, {floats(count=3)!r}, {{'y': 'float64'}}, isolated=True)\n"
    engine = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pid = int(note.read_text())
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
