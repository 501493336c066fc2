"""helm and the chart on a real API server, without nodes: install, upgrade, uninstall, and what the operator may do."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_files import CHART, ROOT, program

sys.path.insert(0, str(ROOT / "operator" / "harness"))
from kubeharness.process import operator, until
from kubeharness.rights import OF_EVERY_ACCOUNT, OF_THE_CLUSTER, VERBS, WITH_JOBS, Rights, ordered
from kubeharness.server import Server, kubeconfig, missing, running

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/streamjobs.streamjob.dev"
WEBHOOK = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/ops-sj-streamjob-operator"
ACCOUNT = "system:serviceaccount:ops:sj-streamjob-operator"

WATCHED = "watchNamespaces={shop}"
ALLOWED, ALLOWED_ANYWHERE = WITH_JOBS, OF_THE_CLUSTER | OF_EVERY_ACCOUNT
WITH_A_LIST: Rights = {("streamjob.dev", "streamjobs"): "patch"}
"""In all namespaces where only some are listed; a policy refuses it in the others."""
JOBS = "/apis/streamjob.dev/v1alpha1/namespaces/{}/streamjobs"
MERGE = "application/merge-patch+json"


class Helm:
    """helm for one API server and one release."""

    def __init__(self, server: Server) -> None:
        self._program, self._server = program("helm"), server

    def __call__(self, command: str, *arguments: str, chart: Path | None = CHART) -> str:
        """Runs a command on the release; gives what it printed."""
        words = [self._program, command, "sj", *([str(chart)] if chart else []), "--namespace", "ops", *arguments]
        environment = {**os.environ, "KUBECONFIG": str(self._server.kubeconfig), "HOME": str(self._server.folder)}
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API server with three namespaces."""
    program("helm")
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("server")) as server:
        for name in ("ops", "shop", "lab"):
            server.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        yield server


@pytest.fixture
def helm(server: Server) -> Iterator[Helm]:
    """helm, with a release that is taken away after the test."""
    helm = Helm(server)
    helm("install")
    # Its CRD is one of the templates, which helm does not wait for.
    until("StreamJobs", lambda: server.call("GET", "/apis/streamjob.dev/v1alpha1/streamjobs")[0] == 200)
    until("their group", lambda: "streamjob.dev" in {one["name"] for one in server.call("GET", "/apis")[1]["groups"]})
    yield helm
    helm("uninstall", chart=None)


def a_job() -> dict[str, Any]:
    """The suspended job of the chart's own test."""
    check: dict[str, Any] = {}
    exec((CHART / "files" / "tests" / "check.py").read_text(encoding="utf-8"), check)
    return dict(check["JOB"])


def token_of(server: Server, account: str) -> str:
    """A token of a service account of the release."""
    status, answer = server.call("POST", f"/api/v1/namespaces/ops/serviceaccounts/{account}/token", {"spec": {}})
    assert status == 201, answer
    return str(answer["status"]["token"])


def take_roles_away(server: Server) -> None:
    """Deletes the operator's role in shop and its binding, as the deletion of the namespace does."""
    for plural in ("rolebindings", "roles"):
        place = f"/apis/rbac.authorization.k8s.io/v1/namespaces/shop/{plural}/sj-streamjob-operator-jobs"
        assert server.call("DELETE", place)[0] == 200
    until("no rights", lambda: not may(server, "shop", "streamjob.dev", "streamjobs", "list"))


def apply(server: Server, manifest: dict[str, Any]) -> None:
    """Server-side-applies an object."""
    metadata = manifest["metadata"]
    root = f"/apis/{manifest['apiVersion']}" if "/" in manifest["apiVersion"] else "/api/v1"
    root += f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    place = f"{root}/{manifest['kind'].lower()}s/{metadata['name']}?fieldManager=test"
    status, answer = server.call("PATCH", place, manifest, "application/apply-patch+yaml")
    assert status in (200, 201), answer


def may(server: Server, namespace: str, group: str, resource: str, verb: str, name: str = "") -> bool:
    """Whether the operator's account may do something."""
    plain, _, subresource = resource.partition("/")
    attributes = {"namespace": namespace, "group": group, "resource": plain, "verb": verb, "name": name}
    body = {"spec": {"user": ACCOUNT, "groups": ["system:serviceaccounts", "system:authenticated"]}}
    body["spec"]["resourceAttributes"] = {**attributes, "subresource": subresource}  # type: ignore[index,assignment]
    _, answer = server.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    return bool(answer["status"]["allowed"])


def rights(server: Server, namespace: str) -> Rights:
    """Everything that the account may do in a namespace, of all that the API server has."""
    groups = ["/api/v1"]
    groups += [f"/apis/{one['preferredVersion']['groupVersion']}" for one in server.call("GET", "/apis")[1]["groups"]]
    found = {}
    known = [("streamjob.dev", "streamjobs/finalizers"), ("monitoring.coreos.com", "podmonitors")]
    for root in groups:
        group = root.split("/")[2] if root.startswith("/apis") else ""
        known += [(group, one["name"]) for one in server.call("GET", root)[1]["resources"]]
    for group, resource in known:
        verbs = [verb for verb in VERBS if may(server, namespace, group, resource, verb)]
        if verbs:
            found[group, resource] = " ".join(verbs)
    return found


def test_the_operator_may_do_what_it_does_and_no_more(server: Server, helm: Helm) -> None:
    assert rights(server, "shop") == ordered(ALLOWED | ALLOWED_ANYWHERE)
    own = dict(ALLOWED)
    own["coordination.k8s.io", "leases"] = "create"
    assert rights(server, "ops") == ordered(own | ALLOWED_ANYWHERE)
    for verb in VERBS:
        named = [may(server, "ops", "coordination.k8s.io", "leases", verb, "sj-streamjob-operator")]
        assert named == [verb in ("create", "get", "update")]
        secret = may(server, "ops", "", "secrets", verb, "sj-streamjob-operator-webhook-cert")
        assert secret == (verb in ("list", "watch", "create", "patch", "get", "update"))
        hook = "validatingwebhookconfigurations"
        ours = may(server, "", "admissionregistration.k8s.io", hook, verb, "ops-sj-streamjob-operator")
        assert ours == (verb in ("get", "patch"))
        assert not may(server, "", "admissionregistration.k8s.io", hook, verb, "another")


def test_a_list_of_namespaces_ends_them_there(server: Server, helm: Helm) -> None:
    helm("upgrade", "--set", WATCHED)
    assert rights(server, "shop") == ordered(ALLOWED | ALLOWED_ANYWHERE)
    assert rights(server, "lab") == ordered(WITH_A_LIST | ALLOWED_ANYWHERE)
    own = {("coordination.k8s.io", "leases"): "create", ("", "secrets"): "create"}
    assert rights(server, "ops") == ordered(own | WITH_A_LIST | ALLOWED_ANYWHERE)


def test_the_operator_of_a_list_changes_no_jobs_elsewhere(
    server: Server, helm: Helm, monkeypatch: pytest.MonkeyPatch
) -> None:
    helm("upgrade", "--set", WATCHED)
    places = {namespace: f"{JOBS.format(namespace)}/helm-test" for namespace in ("shop", "lab")}
    for namespace in places:
        assert server.call("POST", JOBS.format(namespace), a_job())[0] == 201
    take_roles_away(server)
    token = token_of(server, "sj-streamjob-operator")
    with monkeypatch.context() as patched:
        patched.setattr("kubeharness.server.TOKEN", token)
        change = {"metadata": {"finalizers": []}}
        until("the policy", lambda: server.call("PATCH", places["lab"], change, MERGE)[0] == 422)
        assert "watchNamespaces" in server.call("PATCH", places["lab"], change, MERGE)[1]["message"]
        assert server.call("PATCH", places["shop"], change, MERGE)[0] == 200
    for place in places.values():
        assert server.call("DELETE", place)[0] == 200


def test_a_job_goes_where_the_roles_of_its_namespace_have_gone_before(
    server: Server, helm: Helm, tmp_path: Path
) -> None:
    """As in a namespace that is deleted: roles and children of the job are gone while it waits for its finalizer."""
    helm("upgrade", "--set", WATCHED)
    place = f"{JOBS.format('shop')}/helm-test"
    assert server.call("POST", JOBS.format("shop"), a_job())[0] == 201
    lease = "sj-streamjob-operator"
    config = str(kubeconfig(tmp_path, server.url, token_of(server, lease)))
    with operator(server, "shop", tmp_path, kubeconfig=config, lease_namespace="ops", lease_name=lease):
        until("its finalizer", lambda: server.call("GET", place)[1]["metadata"].get("finalizers"))
        until("it is looked after", lambda: server.call("GET", place)[1].get("status", {}).get("phase") == "Suspended")
        take_roles_away(server)
        assert server.call("DELETE", place)[0] == 200
        server.call("DELETE", "/apis/apps/v1/namespaces/shop/statefulsets/helm-test")
        until("it is gone", lambda: server.call("GET", place)[0] == 404)


def test_all_jobs_go_before_a_release_that_takes_the_crd_along(server: Server, helm: Helm, tmp_path: Path) -> None:
    template = ("--show-only", "templates/delete-jobs.yaml", "--set", "crds.keep=false")
    for one in yaml.safe_load_all(helm("template", "--kube-version", "1.34", *template)):
        if one["kind"] != "Pod":
            apply(server, one)
    names: dict[str, Any] = {"__name__": "delete_jobs"}
    exec((CHART / "files" / "hooks" / "delete_jobs.py").read_text(encoding="utf-8"), names)
    trusted = str(server.folder / "certs" / "apiserver.crt")
    api = names["Api"](server.url, token_of(server, "sj-streamjob-operator-delete-jobs"), trusted)
    for namespace in ("shop", "lab"):
        job = {**a_job(), "metadata": {"name": "held", "finalizers": ["streamjob.dev/cleanup"]}}
        assert server.call("POST", JOBS.format(namespace), job)[0] == 201
    names["GONE_WITHIN_S"] = 2
    with pytest.raises(names["LeftError"], match="lab/held, shop/held"):
        names["delete_all"](api)
    names["GONE_WITHIN_S"] = 60
    with operator(server, "shop,lab", tmp_path, lease_namespace="ops"):
        names["delete_all"](api)
    for namespace in ("shop", "lab"):
        assert server.call("GET", JOBS.format(namespace))[1]["items"] == []


def test_while_the_jobs_are_not_gone_nothing_else_is_taken_away(server: Server, helm: Helm) -> None:
    helm("upgrade", "--set", "crds.keep=false")
    # Without nodes the pod that deletes them never runs.
    with pytest.raises(AssertionError, match="timed out"):
        helm("uninstall", "--timeout", "2s", chart=None)
    assert server.call("GET", "/api/v1/namespaces/ops/pods/sj-streamjob-operator-delete-jobs")[0] == 200
    for left in (CRD, WEBHOOK, "/apis/apps/v1/namespaces/ops/deployments/sj-streamjob-operator"):
        found = server.call("GET", left)[1]
        assert "deletionTimestamp" not in found["metadata"]
    helm("uninstall", "--no-hooks", chart=None)
    until("the CRD is gone", lambda: server.call("GET", CRD)[0] == 404)
    helm("install")


def test_an_upgrade_changes_the_crd_and_leaves_the_bundle(server: Server, helm: Helm, tmp_path: Path) -> None:
    # Any bundle will do, as long as it is one: the API server looks for certificates in it.
    _, own = server.call("GET", "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication")
    bundle = base64.b64encode(own["data"]["requestheader-client-ca-file"].encode()).decode() if "data" in own else ""
    if not bundle:
        certificate = next((server.folder / "certs").glob("*.crt")).read_bytes()
        bundle = base64.b64encode(certificate).decode()
    patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
    assert server.call("PATCH", WEBHOOK, patch, "application/json-patch+json")[0] == 200
    newer = shutil.copytree(CHART, tmp_path / "chart")
    path = newer / "files" / "crds" / "streamjobs.yaml"
    crd = yaml.safe_load(path.read_text(encoding="utf-8"))
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    properties["spec"]["properties"]["somethingNew"] = {"type": "string"}
    path.write_text(json.dumps(crd), encoding="utf-8")
    helm("upgrade", "--set", "webhook.timeoutSeconds=7", chart=newer)
    _, found = server.call("GET", CRD)
    schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert "somethingNew" in schema["properties"]
    webhook = server.call("GET", WEBHOOK)[1]["webhooks"][0]
    assert webhook["timeoutSeconds"] == 7
    assert webhook["clientConfig"]["caBundle"] == bundle


def test_helm_s_test_passes_with_its_own_rights_and_says_what_is_wrong(
    server: Server, helm: Helm, tmp_path: Path
) -> None:
    for one in yaml.safe_load_all(
        helm("template", "--kube-version", "1.34", "--show-only", "templates/tests/test.yaml", "--set", WATCHED)
    ):
        if one["kind"] != "Pod":
            apply(server, one)
    token = token_of(server, "sj-streamjob-operator-test")
    check: dict[str, Any] = {}
    exec((CHART / "files" / "tests" / "check.py").read_text(encoding="utf-8"), check)
    trusted = str(server.folder / "certs" / "apiserver.crt")
    api = check["Api"](server.url, token, trusted)
    lease = "sj-streamjob-operator"
    check["RENEWED_WITHIN_S"] = check["SEEN_WITHIN_S"] = 2
    with pytest.raises(check["WrongAnswerError"], match="a leader renews its Lease: not within 2 s"):
        check["look_at_leader"](api, "ops", lease)
    with pytest.raises(check["WrongAnswerError"], match="the operator looks after it: not within 2 s"):
        check["run_a_job"](api, "shop")
    check["RENEWED_WITHIN_S"] = check["SEEN_WITHIN_S"] = 60
    with operator(server, "shop", tmp_path, lease_namespace="ops", lease_name=lease):
        check["look_at_leader"](api, "ops", lease)
        check["run_a_job"](api, "shop")
    assert server.call("GET", "/apis/streamjob.dev/v1alpha1/namespaces/shop/streamjobs")[1]["items"] == []


def test_jobs_outlive_a_release(server: Server, helm: Helm) -> None:
    job: dict[str, Any] = {}
    exec((CHART / "files" / "tests" / "check.py").read_text(encoding="utf-8"), job)
    jobs = "/apis/streamjob.dev/v1alpha1/namespaces/shop/streamjobs"
    # Without nodes nobody answers the webhook: it has to let objects pass.
    status, answer = server.call("POST", jobs, job["JOB"])
    assert status == 201, answer
    helm("uninstall", chart=None)
    assert server.call("GET", f"{jobs}/helm-test")[0] == 200
    assert server.call("GET", WEBHOOK)[0] == 404
    helm("install")
    assert server.call("GET", f"{jobs}/helm-test")[0] == 200
    assert server.call("DELETE", f"{jobs}/helm-test")[0] == 200


def test_a_bad_job_of_the_chart_s_test_is_refused_by_the_crd(server: Server, helm: Helm) -> None:
    job: dict[str, Any] = {}
    exec((CHART / "files" / "tests" / "check.py").read_text(encoding="utf-8"), job)
    wrong = json.loads(json.dumps(job["JOB"]))
    wrong["spec"]["shards"] = 0
    status, answer = server.call("POST", "/apis/streamjob.dev/v1alpha1/namespaces/shop/streamjobs?dryRun=All", wrong)
    assert (status, "shards" in answer["message"]) == (422, True)
