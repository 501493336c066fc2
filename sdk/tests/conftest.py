"""Paths for the tests' own helpers."""

import sys
from pathlib import Path

from hypothesis import settings

# How long an example takes says nothing on a machine that others use as well.
settings.register_profile("sdk", deadline=None, print_blob=True)
settings.load_profile("sdk")

sys.path.insert(0, str(Path(__file__).parent))
