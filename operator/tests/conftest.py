"""Hypothesis prints what it takes to repeat a failure, and has no deadline on shared machines."""

from hypothesis import settings

settings.register_profile("operator", deadline=None, print_blob=True)
settings.load_profile("operator")
