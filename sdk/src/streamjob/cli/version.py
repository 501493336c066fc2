"""`streamjob version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from streamjob import __version__


def show_version() -> int:
    """Prints the versions of this package, the engine and Python."""
    try:
        engine = version("streamjob-engine")
    except PackageNotFoundError:
        engine = "not installed (pip install streamjob[engine])"
    print(f"streamjob {__version__}\nengine    {engine}\npython    {platform.python_version()}")
    return 0
