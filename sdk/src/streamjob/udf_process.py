"""The process in which functions run that may have ended the engine's: `python -m streamjob.udf_process`.

The engine starts it and tells it by a pipe what to call. It ends with the engine.
"""

from __future__ import annotations

import os
import signal

from streamjob.native import engine_module


def main() -> None:
    """Serves calls until the engine closes the pipe."""
    # What a function prints must not come between the answers, nor may it read what they answer.
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    # Whoever stops the engine's process group or service lets it finish its calls.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    engine_module()._serve_udfs(requests, answers)


if __name__ == "__main__":
    main()
