"""What every console script of this project does around its command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Runs `main` and exits with the code that it gives: 0 for Ctrl-C, 1 where the reader of our output has gone."""
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 0
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); its exit is not ours to explain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
