"""Reading /metrics."""

from __future__ import annotations

import re

Samples = dict[str, float]
"""Values by series, as `name` or `name{label="value"}`."""

_LINE = re.compile(r"^([A-Za-z_:][\w:]*(?:\{.*\})?) ([^ ]+)(?: \d+)?$")


def parse(text: str) -> Samples:
    """The samples of Prometheus' text format."""
    samples = {}
    for line in text.splitlines():
        found = _LINE.match(line)
        if found:
            samples[found[1]] = float(found[2])
    return samples


def outcomes(samples: Samples) -> dict[str, int]:
    """The ledger: rows by what became of them."""
    found = {}
    for name, value in samples.items():
        outcome = re.fullmatch(r'events_processed_total\{outcome="(\w+)"\}', name)
        if outcome:
            found[outcome[1]] = int(value)
    return found


def total(samples: Samples, name: str, label: str = "") -> float:
    """The sum over all series of a name, or those of them that have a label such as `sink="alerts"`."""
    named = {series: value for series, value in samples.items() if series == name or series.startswith(name + "{")}
    return sum(value for series, value in named.items() if label in series)
