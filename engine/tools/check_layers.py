"""Holds the import directions between the engine's crates; foreign libraries stay in the crate that may know them.

python -> {node, connectors, state} -> core; simulation -> core.
"""

import json
import subprocess
import sys
from pathlib import Path

ENGINE = Path(__file__).resolve().parent.parent

MAY_USE = {
    "streamjob-core": set(),
    "streamjob-state": {"streamjob-core"},
    "streamjob-connectors": {"streamjob-core"},
    "streamjob-simulation": {"streamjob-core"},
    "streamjob-node": {"streamjob-core", "streamjob-state", "streamjob-connectors"},
    "streamjob-python": {"streamjob-core", "streamjob-state", "streamjob-connectors", "streamjob-node"},
}

ONLY_IN = {
    "rocksdb": {"streamjob-state"},
    "pyo3": {"streamjob-python"},
    "axum": {"streamjob-node"},
    "tonic": {"streamjob-node"},
    "rustix": {"streamjob-state", "streamjob-connectors", "streamjob-node"},
    "tokio": {"streamjob-connectors", "streamjob-node"},
    "rdkafka": {"streamjob-connectors"},
    "async-nats": {"streamjob-connectors"},
    "rumqttc": {"streamjob-connectors"},
    "tokio-postgres": {"streamjob-connectors"},
    "hyper": {"streamjob-connectors", "streamjob-node"},
    "rand": {"streamjob-simulation"},
}


def problems() -> list[str]:
    """Each edge that points the wrong way, as a sentence."""
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=ENGINE, check=True, capture_output=True).stdout)
    found = []
    for package in metadata["packages"]:
        name = package["name"]
        if name not in MAY_USE:
            found.append(f"{name}: a crate without a place in the layers; add it to {Path(__file__).name}")
            continue
        for dependency in package["dependencies"]:
            target, kind = dependency["name"], dependency["kind"]
            if target.startswith("streamjob-") and target != name and target not in MAY_USE[name]:
                found.append(f"{name} must not depend on {target}")
            if kind is None and target in ONLY_IN and name not in ONLY_IN[target]:
                found.append(f"{name} must not know {target}; only {', '.join(sorted(ONLY_IN[target]))} may")
    return found


if __name__ == "__main__":
    found = problems()
    for problem in found:
        print(problem, file=sys.stderr)
    sys.exit(1 if found else 0)
