"""`python -m streamjob_operator`."""

from streamjob_operator.cli import entry

if __name__ == "__main__":
    entry()
