"""The manifests that are checked in, on an API server."""

from __future__ import annotations

import time
from pathlib import Path

import yaml

from kubeharness.server import Server

CRDS = Path(__file__).parents[3] / "crds"


def apply_manifests(server: Server) -> None:
    """Applies what is checked in, and waits until the API server serves StreamJobs."""
    for path in sorted(CRDS.iterdir()):
        for document in yaml.safe_load_all(path.read_text()):
            group, version = document["apiVersion"].split("/")
            plural = {
                "CustomResourceDefinition": "customresourcedefinitions",
                "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
                "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
            }[document["kind"]]
            place = f"/apis/{group}/{version}/{plural}/{document['metadata']['name']}?fieldManager=test&force=true"
            status, answer = server.call("PATCH", place, document, "application/apply-patch+yaml")
            assert status in (200, 201), answer["message"]
    limit = time.monotonic() + 30
    while server.call("GET", "/apis/streamjob.dev/v1alpha1/streamjobs")[0] != 200:
        assert time.monotonic() < limit
        time.sleep(0.1)
