"""Runs a job's Python functions for the engine: loads their modules, checks and converts what they return.

The engine calls `load` once and then each adapter with whole batches, through `call_traced` where a batch is traced.
What happens for each call is kept to a few attribute reads where the function returns what it declared; everything else
is left to the slow paths.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import linecache
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from streamjob.columns import UdfError, arrow_column, numpy_column, numpy_dtype
from streamjob.tracing import call_traced
from streamjob.udf import UdfDeclaration, collect_registrations, declaration_of, register

__all__ = ["UdfError", "UdfLoadError", "UserModule", "call_traced", "load"]

Array = np.ndarray[Any, Any]


class UdfLoadError(Exception):
    """A UDF that cannot be loaded: its module fails, or it has no such function."""


def load(udfs_json: str) -> list[Callable[..., Any]]:
    """One adapter for each of the normalised job's `udfs` (JSON text), in order. Raises UdfLoadError.

    A module that several UDFs share is loaded once.
    """
    modules: dict[tuple[str, str], UserModule] = {}
    adapters: list[Callable[..., Any]] = []
    for udf in json.loads(udfs_json):
        key = (udf["filename"], udf["source"])
        if key not in modules:
            modules[key] = UserModule(udf["source"], udf["filename"])
        adapters.append(_adapter(udf, modules[key].function(udf["function"])))
    return adapters


class UserModule:
    """A user's module, run from its text under a private name."""

    def __init__(self, source: str, filename: str) -> None:
        self._filename = filename
        digest = hashlib.sha256(f"{filename}\0{source}".encode()).hexdigest()[:16]
        module = types.ModuleType(f"_streamjob_udf_{digest}")
        module.__file__ = filename
        module.__dict__["register"] = register
        # Without a modification time linecache never looks for a newer text on the disk than the one that runs.
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        # Pickling and dataclasses look a class's module up by its name.
        sys.modules[module.__name__] = module
        with collect_registrations() as registered:
            try:
                exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - running it is what UDFs are
            except SyntaxError as error:
                raise UdfLoadError(f"{filename}, line {error.lineno}: Python syntax error: {error.msg}") from error
            except (Exception, SystemExit) as error:
                raise UdfLoadError(f"{_place(error, filename)}: loading the module failed: {_said(error)}") from error
        self._registered = registered
        self._module = module

    def function(self, name: str) -> Callable[..., Any]:
        """The function `name`, registered or defined; raises UdfLoadError."""
        found = self._registered.get(name, getattr(self._module, name, None))
        if found is None:
            known = sorted(self._registered) or sorted(
                name
                for name, value in vars(self._module).items()
                if inspect.isfunction(value) and value is not register
            )
            has = f"it has {', '.join(known)}" if known else "it has no functions"
            raise UdfLoadError(f"{self._filename}: there is no function {name} and none is registered under it; {has}")
        if not callable(found):
            raise UdfLoadError(f"{self._filename}: {name} is no function but {type(found).__name__}")
        return found


def _adapter(udf: dict[str, Any], function: Callable[..., Any]) -> Callable[..., Any]:
    declaration = declaration_of(function)
    version = declaration.version if declaration else 1
    adapters = _INTERFACES.get(version)
    if adapters is None:
        raise UdfLoadError(
            f"{udf['filename']}: {udf['function']} is written for interface version {version}, "
            f"this streamjob knows {', '.join(map(str, _INTERFACES))}"
        )
    arrow = wants_arrow(function, declaration)
    _check_parameters(udf, function, 1 if arrow else len(udf["inputs"]))
    adapter: Callable[..., Any] = adapters[arrow](udf, function)
    return adapter


def wants_arrow(function: Callable[..., Any], declaration: UdfDeclaration | None = None) -> bool:
    """Whether `function` takes one `pyarrow.RecordBatch`: by its decorator or its first parameter's annotation."""
    if declaration is not None and declaration.arrow:
        return True
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    if not parameters:
        return False
    annotation = parameters[0].annotation
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return name.rpartition(".")[2] == "RecordBatch"


def _check_parameters(udf: dict[str, Any], function: Callable[..., Any], count: int) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a built-in function that does not tell; calling it will
    try:
        signature.bind(*[None] * count)
    except TypeError:
        inputs = ", ".join(udf["inputs"])
        raise UdfLoadError(
            f"{udf['filename']}: {udf['function']}{signature} cannot take {count} argument{'s' if count != 1 else ''}; "
            f"the job gives it {inputs}"
        ) from None


def _place(error: BaseException, filename: str) -> str:
    """`FILE, line N` of the innermost frame in the user's file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    return f"{filename}, line {frames[-1].lineno}" if frames else filename


def _said(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Adapter:
    """What the adapters of all interfaces share: the function and what it declared."""

    wants_arrow = False
    __slots__ = ("_dtypes", "_filename", "_function", "_name", "_names", "_types")

    def __init__(self, udf: dict[str, Any], function: Callable[..., Any]) -> None:
        self._function = function
        self._name: str = udf["function"]
        self._filename: str = udf["filename"]
        self._names: list[str] = [output["name"] for output in udf["outputs"]]
        self._types: list[str] = [output["type"] for output in udf["outputs"]]
        self._dtypes = [numpy_dtype(kind) for kind in self._types]

    def _failed(self, error: BaseException) -> UdfError:
        return UdfError(f"{_place(error, self._filename)}: {self._name} failed: {_said(error)}")

    def _wrong(self, message: str) -> UdfError:
        return UdfError(f"{self._filename}: {self._name} {message}")

    def _wrong_for(self, name: str) -> Callable[[str], UdfError]:
        return lambda message: self._wrong(f"{message} (output {name})")

    def _parts(self, result: Any) -> Sequence[Any]:
        """What was returned as one value for each output."""
        count = len(self._names)
        if isinstance(result, dict):
            if set(result) != set(self._names):
                raise self._wrong(
                    f"returned the columns {', '.join(map(str, result))}; declared are {', '.join(self._names)}"
                )
            return [result[name] for name in self._names]
        if isinstance(result, tuple):
            if len(result) != count:
                raise self._wrong(f"returned {len(result)} arrays; declared are {count} ({', '.join(self._names)})")
            return result
        if count != 1:
            raise self._wrong(
                f"returned one {type(result).__name__}; expected is a tuple of {count} arrays "
                f"({', '.join(self._names)})"
            )
        return (result,)


class NumpyAdapter(_Adapter):
    """Interface 1 on NumPy arrays: one argument for each input, an array or a tuple of arrays returned."""

    __slots__ = ("_single",)

    def __init__(self, udf: dict[str, Any], function: Callable[..., Any]) -> None:
        super().__init__(udf, function)
        self._single = self._dtypes[0] if len(self._dtypes) == 1 and self._types[0] != "string" else None

    def __call__(self, arrays: list[Array], rows: int) -> list[Array]:
        """Calls the function with `arrays`, each of `rows` values; gives one contiguous array for each output.

        Raises UdfError if the function fails or returns something else than it declared.
        """
        try:
            # A zero deviation or a missing value is no reason to warn: what is not finite becomes null.
            with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
                result = self._function(*arrays)
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error
        if (
            type(result) is np.ndarray
            and self._single is not None  # which a dtype of float64 would equal
            and result.dtype == self._single
            and result.shape == (rows,)
            and result.flags.c_contiguous
        ):
            return [result]
        return [
            numpy_column(part, kind, rows, self._wrong_for(name))
            for part, kind, name in zip(self._parts(result), self._types, self._names, strict=True)
        ]


class ArrowAdapter(_Adapter):
    """Interface 1 on Arrow: one `pyarrow.RecordBatch` in; a batch, an array or a tuple of arrays returned."""

    wants_arrow = True
    __slots__ = ("_pyarrow",)

    def __init__(self, udf: dict[str, Any], function: Callable[..., Any]) -> None:
        super().__init__(udf, function)
        try:
            import pyarrow
        except ImportError:
            raise UdfLoadError(
                f"{self._filename}: {self._name} takes a pyarrow.RecordBatch and pyarrow is not "
                "installed; pip install streamjob[arrow]"
            ) from None
        self._pyarrow = pyarrow

    def __call__(self, batch: Any) -> list[Any]:
        """Calls the function with `batch` (anything with `__arrow_c_array__`); gives an array for each output.

        Raises UdfError if the function fails or returns something else than it declared.
        """
        pa = self._pyarrow
        if not isinstance(batch, pa.RecordBatch):
            batch = pa.record_batch(batch)
        try:
            result = self._function(batch)
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error
        if isinstance(result, (pa.RecordBatch, pa.Table)):
            result = {name: result.column(name) for name in result.schema.names}
        return [
            arrow_column(part, kind, batch.num_rows, self._wrong_for(name))
            for part, kind, name in zip(self._parts(result), self._types, self._names, strict=True)
        ]


_INTERFACES: dict[int, tuple[Callable[..., Any], Callable[..., Any]]] = {1: (NumpyAdapter, ArrowAdapter)}
"""For each interface version its adapters for NumPy and for Arrow. A new version is added, an old one stays."""
