"""What every console script of this project does around its command."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, TextIO

EXIT_WITHIN_S = 5.0
"""What threads of user code get to end, once all else is done."""


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Runs `main` and exits with the code that it gives: 0 for Ctrl-C and SIGTERM, 1 where the reader of our output has
    gone. What `main` starts may take over the signals for its time."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 0
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); its exit is not ours to explain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    leaving = threading.Timer(EXIT_WITHIN_S, _leave, (code,))
    leaving.daemon = True
    leaving.start()
    sys.exit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _leave(code: int) -> None:
    """Ends the process where the interpreter waits for a thread that does not end, as for a call that blocks."""
    print(f"a thread of the job's code has not ended within {EXIT_WITHIN_S:g} s and is left alone", file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)


def write_line(text: str, file: TextIO) -> None:
    """A line in one write, also where nothing is buffered: the engine writes lines to the same places."""
    file.write(f"{text}\n")
    file.flush()
