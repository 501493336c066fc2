"""`python -m streamjob` is the command line."""

from streamjob.cli import entry

entry()
