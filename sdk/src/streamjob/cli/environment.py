"""Environment variables that the engine and what it imports read when they start."""

from __future__ import annotations

import os


def set_environment(*, log_format: str, log_level: str) -> None:
    """What the user has set stands. Wanted before the engine is imported.

    NumPy's algebra gets one thread: the engine has one for each core already, and those that wait for work spin.
    """
    os.environ.setdefault("STREAMJOB_LOG_FORMAT", log_format)
    os.environ.setdefault("STREAMJOB_LOG", log_level)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
