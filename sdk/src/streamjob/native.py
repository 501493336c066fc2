"""The engine's native module, imported when it is first needed."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from streamjob.problems import JobError

if TYPE_CHECKING:
    from streamjob.loading import LoadedJob


class EngineMissingError(RuntimeError):
    """The package streamjob-engine is not installed, or does not load on this machine."""


def engine_module() -> ModuleType:
    """The module `streamjob_engine`. Raises EngineMissingError with what to install."""
    try:
        import streamjob_engine
    except ModuleNotFoundError as error:
        if error.name != "streamjob_engine":
            raise
        raise EngineMissingError("the engine is not installed; run: pip install streamjob[engine]") from None
    except ImportError as error:
        raise EngineMissingError(
            f"the engine does not load here: {error}; run: pip install --force-reinstall streamjob[engine]"
        ) from error
    module: ModuleType = streamjob_engine
    return module


def engine_json(loaded: LoadedJob) -> str:
    """The JSON that the engine runs. Raises JobError for a job that needs Kubernetes."""
    from streamjob.normalise import local_problems, normalised_json

    problems = local_problems(loaded)
    if problems:
        raise JobError(problems)
    return normalised_json(loaded)
