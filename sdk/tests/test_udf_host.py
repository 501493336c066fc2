"""Loading and calling Python functions, as the engine does."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from typing import Any

import numpy as np
import pytest

from streamjob import udf as udf_decorator
from streamjob import udf_host
from streamjob.udf import register, registered
from streamjob.udf_host import UdfError, UdfLoadError


def normalised(source: str, function: str = "f", inputs: list[str] | None = None, **outputs: str) -> dict[str, Any]:
    return {
        "name": "u",
        "source": source,
        "filename": "/job/udfs.py",
        "function": function,
        "on": "event",
        "window": None,
        "inputs": inputs if inputs is not None else ["x"],
        "outputs": [{"name": name, "type": kind} for name, kind in (outputs or {"out": "float64"}).items()],
    }


def load(source: str, function: str = "f", inputs: list[str] | None = None, **outputs: str) -> Any:
    (adapter,) = udf_host.load(json.dumps([normalised(source, function, inputs, **outputs)]))
    return adapter


X = np.arange(4.0)
X.flags.writeable = False


def test_plain_module_registers_without_import() -> None:
    adapter = load("import numpy as np\ndef g(x): return x * 2\nregister('score', g)", "score")
    assert adapter.wants_arrow is False
    np.testing.assert_array_equal(adapter([X], 4)[0], [0, 2, 4, 6])
    assert "score" not in registered


def test_register_may_be_imported() -> None:
    adapter = load("from streamjob import register, udf\nregister('score', lambda x: -x)", "score")
    np.testing.assert_array_equal(adapter([X], 4)[0], -X)


def test_nothing_is_copied() -> None:
    seen: list[int] = []
    adapter = load("def f(x, seen=[]):\n    seen.append(x.ctypes.data)\n    f.seen = seen\n    return x")
    (result,) = adapter([X], 4)
    assert result is X
    assert result.ctypes.data == X.ctypes.data
    seen += adapter._function.seen
    assert seen == [X.ctypes.data]


def test_what_is_not_contiguous_is_made_so() -> None:
    (result,) = load("def f(x): return x[::-1]")([X], 4)
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, X[::-1])


def test_nan_and_infinity_pass_without_a_warning() -> None:
    adapter = load("import numpy as np\ndef f(x): return x / np.zeros_like(x)")
    with np.testing.assert_no_warnings():
        (result,) = adapter([X], 4)
    assert np.isnan(result[0])
    assert np.isinf(result[1])


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        ("x.astype('float32')", "float64", [0, 1, 2, 3]),
        ("x.astype('int32')", "float64", [0, 1, 2, 3]),
        ("x > 1", "float64", [0, 0, 1, 1]),
        ("np.array([None, 1, 2.5, 3], dtype=object)", "float64", [np.nan, 1, 2.5, 3]),
        ("np.ma.masked_array(x, x > 2)", "float64", [0, 1, 2, np.nan]),
        ("x", "int64", [0, 1, 2, 3]),
        ("x.astype('uint64')", "int64", [0, 1, 2, 3]),
        ("x > 1", "bool", [False, False, True, True]),
        ("x.astype(str)", "string", ["0.0", "1.0", "2.0", "3.0"]),
        ("np.array(['a', None, 'b', ''], dtype=object)", "string", ["a", None, "b", ""]),
        ("{'out': x}", "float64", [0, 1, 2, 3]),
        ("(x,)", "float64", [0, 1, 2, 3]),
    ],
)
def test_types_are_converted_where_nothing_is_lost(body: str, kind: str, expected: list[Any]) -> None:
    (result,) = load(f"import numpy as np\ndef f(x): return {body}", out=kind)([X], 4)
    assert result.dtype == {"float64": np.float64, "int64": np.int64, "bool": np.bool_, "string": object}[kind]
    np.testing.assert_array_equal(result, np.array(expected, dtype=result.dtype))


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("1.0", "float64", "single value 1.0"),
        ("np.float64(1)", "float64", "single value"),
        ("np.array(1.0)", "float64", "single value"),
        ("None", "float64", "returned None"),
        ("[1.0, 2.0, 3.0, 4.0]", "float64", "returned a list"),
        ("x[:3]", "float64", "returned 3 values, expected is one for each of the 4 rows"),
        ("x.reshape(2, 2)", "float64", "shape (2, 2)"),
        ("x.astype(str)", "float64", "expected is float64 (numbers)"),
        ("x + 1j", "float64", "complex128"),
        ("x + 0.5", "int64", "whole numbers"),
        ("x / 0", "int64", "whole numbers"),
        ("np.full(4, 2**63, dtype='uint64')", "int64", "uint64"),
        ("np.ma.masked_array(x, x > 2)", "int64", "masked"),
        ("x", "bool", "x > 3"),
        ("x", "string", "texts"),
        ("(x, x)", "float64", "returned 2 arrays; declared are 1 (out)"),
        ("{'other': x}", "float64", "returned the columns other"),
    ],
)
def test_wrong_results_are_told(body: str, kind: str, said: str) -> None:
    adapter = load(f"import numpy as np\ndef f(x): return {body}", out=kind)
    with pytest.raises(UdfError) as caught:
        adapter([X], 4)
    assert said in str(caught.value)
    assert str(caught.value).startswith("/job/udfs.py: f returned")


def test_several_outputs() -> None:
    adapter = load("def f(x, y): return x + y, x > y", "f", ["a", "b"], total="float64", more="bool")
    total, more = adapter([X, X[::-1]], 4)
    np.testing.assert_array_equal(total, [3, 3, 3, 3])
    np.testing.assert_array_equal(more, [False, False, True, True])
    with pytest.raises(UdfError, match="tuple of 2 arrays"):
        load("def f(x): return x", "f", ["a"], one="float64", two="float64")([X], 4)


def test_empty_batches() -> None:
    (result,) = load("def f(x): return x * 2")([X[:0]], 0)
    assert result.shape == (0,)


@pytest.mark.parametrize("body", ["1 / 0", "__import__('sys').exit(3)", "x.nothing"])
def test_failures_have_file_line_and_source(body: str) -> None:
    adapter = load(f"def f(x):\n    y = x\n    return {body}\n")
    with pytest.raises(UdfError, match=r"/job/udfs\.py, line 3: f failed: \w+") as caught:
        adapter([X], 4)
    shown = "".join(traceback.format_exception(caught.value.__cause__))
    assert f"return {body}" in shown, "a traceback shows the user's line"


@pytest.mark.parametrize(
    ("source", "function", "said"),
    [
        ("def f(x:\n  return x", "f", "line 1: Python syntax error"),
        ("x = 1\ny = 1 / 0", "f", "line 2: loading the module failed: ZeroDivisionError"),
        ("import sys\nsys.exit(1)", "f", "line 2: loading the module failed: SystemExit"),
        ("import nothing_like_this", "f", "ModuleNotFoundError"),
        ("def g(x): return x", "f", "no function f and none is registered under it; it has g"),
        ("register('h', print)", "f", "it has h"),
        ("f = 3", "f", "f is no function but int"),
        ("def f(): return 1", "f", "f() cannot take 1 argument; the job gives it x"),
        ("def f(x, y): return 1", "f", "f(x, y) cannot take 1 argument"),
        ("register(3, 4)", "f", "register(name, function) takes a text and a function"),
        ("from streamjob import udf\n@udf(inputs=[], output={}, version=9)\ndef f(x): pass", "f", "versions 1"),
    ],
)
def test_what_cannot_be_loaded_is_told(source: str, function: str, said: str) -> None:
    with pytest.raises(UdfLoadError) as caught:
        load(source, function)
    assert said in str(caught.value)
    assert str(caught.value).startswith("/job/udfs.py")


def test_a_module_is_loaded_once_for_all_its_udfs() -> None:
    source = "calls = []\ndef f(x):\n    calls.append(1)\n    return x + len(calls)\ndef g(x): return f(x)\n"
    first, second = udf_host.load(json.dumps([normalised(source, "f"), normalised(source, "g")]))
    first([X], 4)
    assert second([X], 4)[0][0] == 2


def test_modules_are_private() -> None:
    checks = "assert __file__ == '/job/udfs.py'\nassert sys.modules[__name__].__dict__ is globals()"
    load(f"import sys\n{checks}\ndef f(x): return x")
    assert "udfs" not in sys.modules


def test_dataclasses_work_in_a_module() -> None:
    load("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\ndef f(x): return x + A().x")(
        [X], 4
    )


def test_the_decorator_leaves_the_function_alone() -> None:
    @udf_decorator(inputs=["x"], output={"y": "float64"}, name="doubled")
    def double(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return x * 2

    np.testing.assert_array_equal(double(X), X * 2)
    assert registered.pop("doubled") is double
    assert register("a", double) is double
    registered.clear()
    with pytest.raises(ValueError, match="interface versions 1"):
        udf_decorator(inputs=[], output={}, version=2)


ARROW_HEADS = [
    "import pyarrow as pa\ndef f(batch: pa.RecordBatch):",
    "from __future__ import annotations\nimport pyarrow as pa\ndef f(batch: pa.RecordBatch):",
    "from pyarrow import RecordBatch as Batch\ndef f(batch: Batch):",
    "from streamjob import udf\n@udf(inputs=['x'], output={'out': 'float64'}, arrow=True)\ndef f(batch):",
]


@pytest.mark.parametrize("head", ARROW_HEADS)
def test_arrow_functions_get_a_batch(head: str) -> None:
    pa = pytest.importorskip("pyarrow")
    adapter = load(f"{head}\n    import pyarrow.compute as pc\n    return pc.multiply(batch['x'], 2)")
    assert adapter.wants_arrow is True
    (result,) = adapter(pa.array([{"x": 1.5}, {"x": None}], pa.struct([("x", pa.float64())])))
    assert result.to_pylist() == [3.0, None]


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        ("batch", "float64", [1.0, 2.0]),
        ("batch['x'].to_numpy()", "float64", [1.0, 2.0]),
        ("pa.chunked_array([[1], [2]])", "float64", [1.0, 2.0]),
        ("pa.array([1, None])", "int64", [1, None]),
        ("pa.array([True, False])", "bool", [True, False]),
        ("pa.array(['a', None], pa.large_string())", "string", ["a", None]),
        ("pa.array(['a', 'a']).dictionary_encode()", "string", ["a", "a"]),
        ("pa.nulls(2)", "bool", [None, None]),
    ],
)
def test_arrow_results(body: str, kind: str, expected: list[Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    adapter = load(f"import pyarrow as pa\ndef f(batch: pa.RecordBatch): return {body}", x=kind)
    assert adapter(pa.record_batch({"x": [1.0, 2.0]}))[0].tolist() == expected


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("pa.array([1.0])", "float64", "returned 1 values"),
        ("pa.scalar(1)", "float64", "single value"),
        ("pa.array(['a', 'b'])", "float64", "type string"),
        ("pa.array([1.5, 2.0])", "int64", "type double"),
        ("pa.array([1, 2])", "bool", "type int64"),
        ("batch.rename_columns(['z'])", "float64", "returned the columns z"),
    ],
)
def test_wrong_arrow_results(body: str, kind: str, said: str) -> None:
    pa = pytest.importorskip("pyarrow")
    adapter = load(f"import pyarrow as pa\ndef f(batch: pa.RecordBatch): return {body}", x=kind)
    with pytest.raises(UdfError, match=said):
        adapter(pa.record_batch({"x": [1.0, 2.0]}))


def test_without_pyarrow_it_is_told() -> None:
    udf = json.dumps([normalised(ARROW_HEADS[-1] + "\n    return batch")])
    code = (
        "import sys; sys.modules['pyarrow'] = None\nfrom streamjob import udf_host\n"
        f"try: udf_host.load({udf!r})\nexcept udf_host.UdfLoadError as error: print(error)"
    )
    assert "pip install streamjob[arrow]" in subprocess.check_output([sys.executable, "-c", code], text=True)


def test_the_example_finds_outliers() -> None:
    from pathlib import Path

    path = Path(__file__).resolve().parents[2] / "examples" / "telemetry" / "udfs.py"
    if not path.exists():
        pytest.skip("the examples are not in this checkout")
    adapter = load(path.read_text(encoding="utf-8"), "anomaly_score", ["value", "mean", "stddev", "count"])
    value, mean, stddev = np.array([9.0, 9, 9, np.nan]), np.full(4, 3.0), np.array([2.0, 2, 0, 2])
    (score,) = adapter([value, mean, stddev, np.array([30, 29, 30, 30])], 4)
    np.testing.assert_array_equal(score, [3, np.nan, np.nan, np.nan])
