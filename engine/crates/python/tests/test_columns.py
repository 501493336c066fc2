"""Columns of all types, with and without nulls, in and out."""

from __future__ import annotations

import pytest

from support import probe


def test_integers_with_nulls_come_as_floats():
    source = "def f(n):\n    assert n.dtype == float\n    return n"
    result = probe(source, [("int64", [1, None, 3])], {"y": "float64"})
    assert result["outputs"] == [[1.0, None, 3.0]]


def test_integers_keep_all_digits():
    largest = 2**63 - 1
    result = probe("def f(n):\n    return n", [("int64", [largest, -largest - 1])], {"y": "int64"})
    assert result["outputs"] == [[largest, -largest - 1]]


def test_bools_come_as_bools_and_with_nulls_as_objects():
    source = "def f(ok):\n    assert ok.dtype == bool and not ok.flags.writeable\n    return ~ok"
    assert probe(source, [("bool", [True, False, True])], {"y": "bool"})["outputs"] == [[False, True, False]]
    source = """
    import numpy as np
    def f(ok):
        return np.array([{True: "y", False: "n"}.get(value) for value in ok], dtype=object)
    """
    assert probe(source, [("bool", [True, None, False])], {"y": "string"})["outputs"] == [["y", None, "n"]]


def test_strings_come_and_go_as_objects():
    source = """
    import numpy as np
    def f(name):
        assert name.dtype == object and not name.flags.writeable
        return np.array([None if value is None else value.upper() for value in name], dtype=object)
    """
    result = probe(
        source,
        [
            ("string", ["ä", None, "", '"\\\n']),
        ],
        {"y": "string"},
        offset=0,
    )
    assert result["outputs"] == [["Ä", None, "", '"\\\n']]


def test_numpy_strings_are_strings():
    source = "import numpy as np\ndef f(name):\n    return np.char.add(name.astype(str), '!')"
    assert probe(source, [("string", ["a", "bc"])], {"y": "string"})["outputs"] == [["a!", "bc!"]]


def test_a_lone_surrogate_fails_its_row_alone():
    source = """
    import numpy as np
    def f(x):
        return np.array(["\\ud800" if value == 2 else "ok" for value in x], dtype=object)
    """
    result = probe(source, [("float64", [1.0, 2.0, 3.0])], {"y": "string"})
    assert result["outputs"] == [["ok", None, "ok"]]
    assert [number for number, _ in result["failed"]] == [1]


def test_nan_and_infinity_become_null():
    source = "def f(x):\n    return x / 0"
    result = probe(source, [("float64", [1.0, 0.0, -1.0, None])], {"y": "float64"})
    assert result["outputs"] == [[None] * 4]
    assert result["failed"] == []


def test_several_outputs_in_their_order():
    source = "def f(x, n):\n    return {'b': x > 1, 'a': n * 2}"
    result = probe(source, [("float64", [1.0, 2.0]), ("int64", [1, 2])], {"a": "int64", "b": "bool"})
    assert result["outputs"] == [[2, 4], [False, True]]


def test_strided_and_narrow_outputs_are_made_to_fit():
    source = """
    import numpy as np
    def f(x):
        return np.repeat(x, 2)[::2], x.astype(np.float32), (x > 0).astype(np.int8)
    """
    result = probe(source, [("float64", [1.0, 2.0])], {"a": "float64", "b": "float64", "c": "int64"})
    assert result["outputs"] == [[1.0, 2.0], [1.0, 2.0], [1, 1]]


def test_arrow_outputs_of_all_types():
    pytest.importorskip("pyarrow")
    source = """
    import pyarrow as pa
    def f(batch: pa.RecordBatch):
        return pa.record_batch({
            "a": pa.array([1.5, None, float("inf")]),
            "b": pa.array([0, 1, None, 3])[1:],
            "c": pa.array([False, True, None, False])[1:],
            "d": pa.array(["", "x", None, "z"])[1:],
        })
    """
    outputs = {"a": "float64", "b": "int64", "c": "bool", "d": "string"}
    result = probe(source, [("float64", [1.0, 2.0, 3.0])], outputs)
    assert result["outputs"] == [[1.5, None, None], [1, None, 3], [True, None, False], ["x", None, "z"]]


def test_an_arrow_function_may_return_numpy():
    pytest.importorskip("pyarrow")
    source = "import pyarrow as pa\ndef f(batch: pa.RecordBatch):\n    return batch.column(0).to_numpy() + 1"
    assert probe(source, [("float64", [1.0])], {"y": "float64"})["outputs"] == [[2.0]]
