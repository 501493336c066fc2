"""The chart with certificates of cert-manager, on a real API server that has its CustomResourceDefinitions."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from chart_files import CHART, Render, program
from foreign_crds import Server, serving

VARIABLE = "STREAMJOB_CERT_MANAGER_CRDS"
"""The folder with crd-certificates.yaml and crd-issuers.yaml: deploy/crds of cert-manager's sources."""
GROUP = "/apis/cert-manager.io/v1/namespaces/ops"

OWN_ISSUER: dict[str, Any] = {"mode": "certManager"}
ISSUER_OF_OTHERS = {"mode": "certManager", "certManager": {"issuerRef": {"kind": "ClusterIssuer", "name": "internal"}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API server that knows Certificates and Issuers."""
    scratch, plurals = tmp_path_factory.mktemp("server"), ("certificates", "issuers")
    with serving(scratch, VARIABLE, "cert-manager", "crd-{plural}.yaml", GROUP, plurals) as server:
        yield server


def helm(server: Server, *words: str, values: dict[str, Any] | None = None) -> None:
    """Runs helm on the release."""
    environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig), "HOME": str(server.folder)}
    command = [program("helm"), *words, "--namespace", "ops", *(("-f", "-") if values else ())]
    done = subprocess.run(
        command, input=json.dumps(values), capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr


def kept(server: Server, made: dict[str, Any]) -> dict[str, Any]:
    """What the API server has of an object of the chart."""
    plural = f"{made['kind'].lower()}s"
    status, found = server.call("GET", f"{GROUP}/{plural}/{made['metadata']['name']}")
    assert status == 200, found
    return dict(found)


@pytest.mark.parametrize("certificates", [OWN_ISSUER, ISSUER_OF_OTHERS], ids=["own-issuer", "issuer-of-others"])
def test_cert_manager_takes_the_chart_s_objects_with_all_their_members(
    server: Server, render: Render, certificates: dict[str, Any]
) -> None:
    values = {"webhook": {"certificates": certificates}}
    theirs = [one for one in render(values=values) if one["apiVersion"].startswith("cert-manager.io/")]
    assert {one["kind"] for one in theirs} == {"Certificate"} | ({"Issuer"} if certificates is OWN_ISSUER else set())
    helm(server, "install", "sj", str(CHART), values=values)
    try:
        for one in theirs:
            # What a schema does not know is pruned without a word: it must have known everything.
            spec = kept(server, one)["spec"]
            assert {name: spec.get(name) for name in one["spec"]} == one["spec"]
            strict = f"{GROUP}/{one['kind'].lower()}s?dryRun=All&fieldValidation=Strict"
            status, answer = server.call("POST", strict, {**one, "metadata": {"name": "strict"}})
            assert status == 201, answer
    finally:
        helm(server, "uninstall", "sj")


def test_the_way_back_to_the_operator_s_own_certificates(server: Server) -> None:
    helm(server, "install", "sj", str(CHART), values={"webhook": {"certificates": OWN_ISSUER}})
    try:
        helm(server, "upgrade", "sj", str(CHART), values={"webhook": {"certificates": {"mode": "self"}}})
        assert server.call("GET", f"{GROUP}/certificates")[1]["items"] == []
        assert server.call("GET", f"{GROUP}/issuers")[1]["items"] == []
        path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/ops-sj-streamjob-operator"
        annotations = server.call("GET", path)[1]["metadata"].get("annotations") or {}
        assert "cert-manager.io/inject-ca-from" not in annotations
    finally:
        helm(server, "uninstall", "sj")
