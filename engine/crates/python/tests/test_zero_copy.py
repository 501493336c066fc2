"""Columns reach Python without a copy, and nothing that Python does reaches the engine's memory."""

from __future__ import annotations

import sys

import pytest

from support import probe

FLOATS = [float(value) for value in range(1000)]
INTEGERS = list(range(1000))
SEEN = """
import sys
def f(x, n):
    sys._streamjob_seen = (x, n)
    return x + n
"""


@pytest.fixture
def seen():
    """What the function saw last."""
    yield lambda: sys._streamjob_seen
    sys.__dict__.pop("_streamjob_seen", None)


@pytest.mark.parametrize("offset", [0, 1, 500])
def test_numpy_arguments_lie_in_the_arrow_buffers(seen, offset):
    result = probe(SEEN, [("float64", FLOATS), ("int64", INTEGERS)], {"y": "float64"}, offset=offset)
    x, n = seen()
    assert [array.__array_interface__["data"] for array in (x, n)] == [(at, True) for at in result["addresses"]]
    assert (str(x.dtype), str(n.dtype), len(x)) == ("float64", "int64", 1000 - offset)


def test_a_null_float_slot_is_a_nan_in_place(seen):
    result = probe(SEEN, [("float64", [1.0, None, 3.0]), ("int64", [1, 2, 3])], {"y": "float64"})
    assert seen()[0].__array_interface__["data"][0] == result["addresses"][0]
    assert str(seen()[0]) == "[ 1. nan  3.]"
    assert result["outputs"] == [[2.0, None, 6.0]]


def test_arguments_are_read_only_and_live_on(seen):
    probe(SEEN, [("float64", FLOATS), ("int64", INTEGERS)], {"y": "float64"})
    x, n = seen()
    for array in (x, n):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    # The engine has let its batch go; the arrays still own it.
    assert x.sum() == sum(FLOATS)
    assert n.sum() == sum(INTEGERS)


@pytest.mark.parametrize("offset", [0, 1, 500])
def test_pyarrow_columns_lie_in_the_arrow_buffers(seen, offset):
    pytest.importorskip("pyarrow")
    source = """
    import sys
    import pyarrow as pa
    import pyarrow.compute as pc
    def f(batch: pa.RecordBatch):
        sys._streamjob_seen = batch
        return pc.add(batch.column("column0"), batch.column(1))
    """
    columns = [("float64", FLOATS), ("int64", INTEGERS), ("string", ["a", None] * 500), ("bool", [True, None] * 500)]
    result = probe(source, columns, {"y": "float64"}, offset=offset)
    batch = seen()
    addresses = []
    for number in (0, 1):
        column = batch.column(number)
        addresses.append(column.buffers()[1].address + column.offset * 8)
    assert addresses == result["addresses"][:2]
    assert batch.schema.names == ["column0", "column1", "column2", "column3"]
    assert batch.column(2).to_pylist() == (["a", None] * 500)[offset:]
    assert batch.column(3).to_pylist() == ([True, None] * 500)[offset:]
    assert result["outputs"] == [[2.0 * value for value in INTEGERS[offset:]]]


@pytest.mark.parametrize("arrow", [False, True])
def test_a_function_may_fill_the_same_array_again(arrow):
    """Why outputs are copied: rows of the first call must not change with the second."""
    if arrow:
        pytest.importorskip("pyarrow")
    source = f"""
    import numpy as np
    import pyarrow as pa
    out = np.empty(2)
    def f(batch{": pa.RecordBatch" if arrow else ""}):
        x = {"batch.column(0).to_numpy()" if arrow else "batch"}
        if len(x) > 2:
            raise ValueError("two at most")
        np.multiply(x, 2, out=out)
        return {"pa.array(out)" if arrow else "out"}
    """
    result = probe(source, [("float64", [1.0, 2.0, 3.0, 4.0])], {"y": "float64"})
    assert result["outputs"] == [[2.0, 4.0, 6.0, 8.0]]
    assert result["failed"] == []
