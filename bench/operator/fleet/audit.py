"""The operator's requests as the API server saw them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kubeharness.server import OPERATOR

_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [OPERATOR]}, {"level": "None"}],
}


@dataclass(frozen=True)
class Calls:
    """Requests of a span of time."""

    by_verb: Counter[str]
    """By `verb resource[/subresource]`."""

    @property
    def watches(self) -> int:
        """Watches that were opened."""
        return sum(count for name, count in self.by_verb.items() if name.startswith("watch "))

    @property
    def lease(self) -> int:
        """Around the Lease."""
        return sum(count for name, count in self.by_verb.items() if name.endswith(" leases"))

    @property
    def facts(self) -> int:
        """Writes of a status."""
        return self.by_verb["patch streamjobs/status"]

    @property
    def discovery(self) -> int:
        """Questions whether an API exists: some minutes apart, for all jobs together."""
        return sum(count for name, count in self.by_verb.items() if name.startswith("get /apis/"))

    @property
    def others(self) -> int:
        """All but watches, the Lease's, writes of a status and discovery."""
        return self.by_verb.total() - self.watches - self.lease - self.facts - self.discovery

    def line(self) -> dict[str, object]:
        """As members of a result."""
        counts = {"calls": self.by_verb.total(), "watch_calls": self.watches, "lease_calls": self.lease}
        counts |= {"status_calls": self.facts, "discovery_calls": self.discovery, "other_calls": self.others}
        return {**counts, "calls_by_verb": dict(sorted(self.by_verb.items()))}


class Audit:
    """The API server's audit log, of the operator's user alone."""

    def __init__(self, folder: Path) -> None:
        self.policy, self.log = folder / "audit-policy.json", folder / "audit.log"
        self.policy.write_text(json.dumps(_POLICY))
        self._offset = 0

    def flags(self) -> list[str]:
        """What the API server is started with."""
        # Written in batches a request would come into the log later than its answer.
        mode = ["--audit-log-mode", "blocking", "--audit-log-maxsize", "4096"]
        return ["--audit-policy-file", str(self.policy), "--audit-log-path", str(self.log), *mode]

    def take(self) -> Calls:
        """The requests since the last `take`."""
        found: Counter[str] = Counter()
        if not self.log.exists():
            return Calls(found)
        with self.log.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                name = _counted(json.loads(line))
                if name is not None:
                    found[name] += 1
        return Calls(found)


def _counted(entry: dict[str, object]) -> str | None:
    """A request's verb and resource, once for each: a watch when it begins, any other when it is answered."""
    begins = entry["stage"] == "ResponseStarted"
    if begins != (entry["verb"] == "watch"):
        return None
    reference = entry.get("objectRef")
    if not isinstance(reference, dict):
        return f"{entry['verb']} {str(entry['requestURI']).partition('?')[0]}"
    below = f"/{reference['subresource']}" if reference.get("subresource") else ""
    return f"{entry['verb']} {reference['resource']}{below}"
