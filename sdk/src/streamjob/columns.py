"""What functions return, as columns of exactly the declared type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Wrong = Callable[[str], Exception]
"""Makes the error for a message such as `returned 3 values, expected are 4`."""

_DTYPES = {
    "float64": np.dtype(np.float64),
    "int64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
    "string": np.dtype(object),
}
_HINT = {
    "float64": "numbers",
    "int64": "whole numbers without NaN",
    "bool": "a boolean array, for example x > 3",
    "string": "texts or None",
}


class UdfError(Exception):
    """A UDF that failed, or returned something else than it declared."""


def numpy_dtype(kind: str) -> np.dtype[Any]:
    """The dtype of a declared type: float64, int64, bool_ or object (of str)."""
    return _DTYPES[kind]


def numpy_column(value: Any, kind: str, rows: int, wrong: Wrong) -> Array:
    """`value` as a contiguous array of `rows` values of the type `kind`; the array itself where it is that already.

    Raises what `wrong` makes if it is no one-dimensional array of that length, or of another type.
    """
    array = _array(value, kind, wrong)
    if array.ndim != 1:
        what = f"the single value {array[()]!r}" if array.ndim == 0 else f"an array of the shape {array.shape}"
        raise wrong(f"returned {what}, expected is one value for each of the {rows} rows")
    if array.shape[0] != rows:
        raise wrong(f"returned {array.shape[0]} values, expected is one for each of the {rows} rows")
    converted = _CONVERTERS[kind](array)
    if converted is None:
        raise wrong(f"returned values of the type {array.dtype}, expected is {kind} ({_HINT[kind]})")
    return np.ascontiguousarray(converted)


def _array(value: Any, kind: str, wrong: Wrong) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        if kind == "string":
            return np.ma.filled(value.astype(object), None)
        if kind == "float64" and value.dtype.kind in "fiub":
            return np.ma.filled(value.astype(np.float64), np.nan)
        if np.ma.is_masked(value):
            raise wrong(f"returned masked values, which {kind} cannot hold")
        return np.asarray(value.data)
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        raise wrong(f"returned the single value {value!r}, expected is one value for each row")
    # Series and Arrow arrays say themselves how they become NumPy's.
    if hasattr(value, "__array__"):
        return np.asarray(value)
    raise wrong(f"returned {_a(type(value).__name__)}, expected is a NumPy array")


def _a(name: str) -> str:
    return "None" if name == "NoneType" else f"a {name}"


def _float64(array: Array) -> Array | None:
    if array.dtype.kind in "fiub":
        return array.astype(np.float64, copy=False)
    if array.dtype.kind == "O":
        return _converted(array, np.float64)
    return None


def _int64(array: Array) -> Array | None:
    kind = array.dtype.kind
    if kind == "u" and array.dtype.itemsize == 8 and array.size and array.max() > np.iinfo(np.int64).max:
        return None
    if kind in "iub":
        return array.astype(np.int64, copy=False)
    if kind == "f":
        limit = 2.0**63
        whole = np.isfinite(array) & (array == np.floor(array)) & (array >= -limit) & (array < limit)
        return array.astype(np.int64) if bool(whole.all()) else None
    if kind == "O" and all(isinstance(value, (int, np.integer)) for value in array):
        return _converted(array, np.int64)
    return None


def _bool(array: Array) -> Array | None:
    if array.dtype.kind == "b":
        return array.astype(np.bool_, copy=False)
    if array.dtype.kind == "O" and all(isinstance(value, (bool, np.bool_)) for value in array):
        return array.astype(np.bool_)
    return None


def _string(array: Array) -> Array | None:
    if array.dtype.kind in "UT":
        array = array.astype(object)
    if array.dtype.kind != "O" or not all(value is None or isinstance(value, str) for value in array):
        return None
    return array


def _converted(array: Array, dtype: Any) -> Array | None:
    try:
        return array.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        return None


_CONVERTERS: dict[str, Callable[[Array], Array | None]] = {
    "float64": _float64,
    "int64": _int64,
    "bool": _bool,
    "string": _string,
}


def arrow_column(value: Any, kind: str, rows: int, wrong: Wrong) -> Any:
    """`value` as a pyarrow array of `rows` values of the type `kind` (or a NumPy array where it was one).

    Raises what `wrong` makes if it is of another length or type.
    """
    import pyarrow as pa

    if isinstance(value, pa.ChunkedArray):
        value = value.combine_chunks()
    if isinstance(value, pa.ChunkedArray):  # older pyarrow keeps several chunks of some types
        value = pa.concat_arrays(value.chunks)
    if not isinstance(value, pa.Array):
        if isinstance(value, pa.Scalar):
            raise wrong(f"returned the single value {value}, expected is one value for each row")
        return numpy_column(value, kind, rows, wrong)
    if len(value) != rows:
        raise wrong(f"returned {len(value)} values, expected is one for each of the {rows} rows")
    target = {"float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_(), "string": pa.string()}[kind]
    if value.type.equals(target):
        return value
    number = pa.types.is_integer(value.type) or pa.types.is_floating(value.type)
    text = pa.types.is_large_string(value.type) or pa.types.is_dictionary(value.type) or pa.types.is_null(value.type)
    if number if kind in ("float64", "int64") else text or pa.types.is_null(value.type):
        try:
            return value.cast(target)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass
    if pa.types.is_null(value.type):
        return value.cast(target)
    raise wrong(f"returned values of the type {value.type}, expected is {kind} ({_HINT[kind]})")
