"""What functions raise, and the rows that it costs."""

from __future__ import annotations

import json
import threading

import pytest
import streamjob_engine

from support import FILENAME, probe, udf

POISON = """
import numpy as np
def f(x):
    if (x < 0).any():
        raise ValueError("negative")
    return np.sqrt(x)
"""


def test_only_the_poisoned_rows_fail():
    values = [float(value) for value in range(1000)]
    values[17] = values[18] = values[999] = -1.0
    result = probe(POISON, [("float64", values)], {"y": "float64"})
    assert [number for number, _ in result["failed"]] == [17, 18, 999]
    assert {reason for _, reason in result["failed"]} == {f"{FILENAME}, line 5: f failed: ValueError: negative"}
    assert [number for number, value in enumerate(result["outputs"][0]) if value is None] == [17, 18, 999]
    assert result["outputs"][0][4] == 2.0


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("raise KeyError('k')", "KeyError: 'k'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import asyncio; raise asyncio.CancelledError('c')", "CancelledError: c"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise BaseException('b')", "BaseException: b"),
        ("f(x)", "RecursionError: maximum recursion depth"),
        ("raise MemoryError", "MemoryError"),
        ("raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})()", "f failed: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_whatever_is_raised_is_told_with_its_line(statement, expected):
    result = probe(f"def f(x):\n    {statement}\n    return x", [("float64", [1.0])], {"y": "float64"})
    ((number, reason),) = result["failed"]
    assert number == 0
    assert f"{FILENAME}, line 2" in reason
    assert expected in reason
    assert result["outputs"] == [[None]]


@pytest.mark.parametrize("isolated", [False, True])
def test_what_looks_like_an_interrupt_costs_its_own_rows_alone(isolated):
    source = "def f(x):\n    if (x < 0).any():\n        raise KeyboardInterrupt\n    return x * 2"
    result = probe(source, [("float64", [1.0, -1.0, 3.0])], {"y": "float64"}, isolated=isolated)
    assert [number for number, _ in result["failed"]] == [1]
    assert result["outputs"] == [[2.0, None, 6.0]]


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("None", "expected is a NumPy array"),
        ("np.ones(3)", "returned 3 values, expected is one for each of the 1 rows"),
        ("x.reshape(1, 1)", "an array of the shape (1, 1)"),
        ("1.0", "the single value 1.0"),
        ("x.astype(str).astype('S')", "expected is float64"),
        ("(x, x)", "returned 2 arrays"),
    ],
)
def test_a_wrong_result_is_told(returned, expected):
    result = probe(f"import numpy as np\ndef f(x):\n    return {returned}", [("float64", [1.0])], {"y": "float64"})
    ((_, reason),) = result["failed"]
    assert reason.startswith(f"{FILENAME}: f returned")
    assert expected in reason


def test_an_array_changed_behind_the_adapter_fails_the_row_not_the_engine(monkeypatch):
    from streamjob import udf_host

    monkeypatch.setattr(udf_host.NumpyAdapter, "__call__", lambda *_: [memoryview(b"abc")])
    result = probe("def f(x):\n    return x", [("float64", [1.0])], {"y": "float64"})
    assert "returned what the engine cannot read" in result["failed"][0][1]
    monkeypatch.setattr(udf_host.NumpyAdapter, "__call__", lambda *_: [])
    result = probe("def f(x):\n    return x", [("float64", [1.0])], {"y": "float64"})
    assert "gave 0 columns" in result["failed"][0][1]


def test_a_module_that_does_not_load_is_the_users():
    definition = udf("def f(x:\n    return x", ["x"], {"y": "float64"})
    with pytest.raises(streamjob_engine.EngineError, match="line 1: Python syntax error") as caught:
        streamjob_engine._probe(json.dumps([definition]), [("float64", [1.0])])
    assert (caught.value.actor, caught.value.retryable) == ("user", False)


def test_threads_share_the_adapters():
    threads, rows = 4, 2000
    values = [float(number) for number in range(rows)]
    values[100] = -1.0
    result = probe(POISON, [("float64", values)], {"y": "float64"}, threads=threads, repeat=20)
    assert len(result["seconds"]) == threads
    assert [number for number, _ in result["failed"]] == [100]


def test_python_goes_on_while_functions_run():
    ticks, stop = 0, threading.Event()

    def tick():
        nonlocal ticks
        while not stop.is_set():
            ticks += 1

    other = threading.Thread(target=tick)
    other.start()
    try:
        probe("def f(x):\n    return x + 1", [("float64", [1.0] * 1000)], {"y": "float64"}, threads=2, repeat=200)
    finally:
        stop.set()
        other.join()
    assert ticks > 0


def test_the_plain_register_style_runs_unchanged():
    source = """
    import numpy as np
    def score(x):
        return np.abs(x)
    register("anomaly_score", score)
    """
    definition = udf(source, ["x"], {"y": "float64"}, function="anomaly_score")
    result = streamjob_engine._probe(json.dumps([definition]), [("float64", [-1.0, 2.0])])
    assert json.loads(result["outputs"][0]) == [1.0, 2.0]
