"""What the operator may do: enough for all that the tests before asked of it, and nothing more."""

from __future__ import annotations

import pytest
from cluster import Cluster, Object
from kubeharness.rights import OF_EVERY_ACCOUNT, OF_THE_CLUSTER, VERBS, WITH_JOBS, Rights, ordered
from release import ACCOUNT, FULL_NAME, NAMESPACE, Release
from steps import Given, World

ALL_ACCOUNTS = ("system:serviceaccounts", "system:authenticated")
OWN: Rights = {("coordination.k8s.io", "leases"): "create"}
"""In its own namespace, besides; more of single objects, by their names."""
NAMED = {
    ("coordination.k8s.io", "leases", FULL_NAME): "get create update",
    ("", "secrets", f"{FULL_NAME}-webhook-cert"): "get list watch create update patch",
}


def may(cluster: Cluster, account: str, namespace: str, attributes: Object) -> bool:
    """What the API server answers to the account itself."""
    groups = (*ALL_ACCOUNTS, f"system:serviceaccounts:{account.split(':')[2]}")
    headers = [("Impersonate-User", account), *(("Impersonate-Group", group) for group in groups)]
    body = {"spec": {"resourceAttributes": {"namespace": namespace, **attributes}}}
    answer = cluster.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body, headers)
    return bool(answer["status"]["allowed"])


def resources(cluster: Cluster) -> list[tuple[str, str]]:
    """Each group and resource that the API server has, subresources, too."""
    groups = [("", "/api/v1")]
    for group in cluster.get("/apis")["groups"]:
        groups += [(group["name"], f"/apis/{version['groupVersion']}") for version in group["versions"]]
    found = {(group, one["name"]) for group, path in groups for one in cluster.get(path)["resources"]}
    return sorted(found | {("streamjob.dev", "streamjobs/finalizers"), ("monitoring.coreos.com", "podmonitors")})


def rights(cluster: Cluster, account: str, namespace: str) -> Rights:
    """Everything that an account may do in a namespace, and with what has none."""
    found: Rights = {}
    for group, resource in resources(cluster):
        plain, _, sub = resource.partition("/")
        asked = {"group": group, "resource": plain, "subresource": sub}
        verbs = [verb for verb in VERBS if may(cluster, account, namespace, {**asked, "verb": verb})]
        if verbs:
            found[group, resource] = " ".join(verbs)
    return found


@pytest.mark.parametrize("where", ["a namespace of jobs", "its own namespace"])
def test_the_operator_may_do_this_and_nothing_else(world: World, where: str) -> None:
    own = where == "its own namespace"
    namespace = NAMESPACE if own else world.namespace
    expected = WITH_JOBS | OF_EVERY_ACCOUNT | OF_THE_CLUSTER | (OWN if own else {})
    assert rights(world.cluster, ACCOUNT, namespace) == ordered(expected)


def test_single_objects_are_the_operator_s_by_name(cluster: Cluster, release: Release) -> None:
    assert release.pods()
    for (group, resource, name), words in NAMED.items():
        asked = {"group": group, "resource": resource, "name": name}
        found = [verb for verb in VERBS if may(cluster, ACCOUNT, NAMESPACE, {**asked, "verb": verb})]
        assert found == [verb for verb in VERBS if verb in words.split()], name
    hook = {"group": "admissionregistration.k8s.io", "resource": "validatingwebhookconfigurations"}
    for name, allowed in ((f"{NAMESPACE}-{FULL_NAME}", ["get", "patch"]), ("another", [])):
        found = [verb for verb in VERBS if may(cluster, ACCOUNT, "", {**hook, "name": name, "verb": verb})]
        assert found == allowed, name


def test_a_job_s_pod_may_do_nothing(world: World, given: Given) -> None:
    job = given.a_job()
    account = f"system:serviceaccount:{job.namespace}:{job.name}"
    assert rights(world.cluster, account, job.namespace) == ordered(OF_EVERY_ACCOUNT)


def test_the_rights_were_enough(release: Release) -> None:
    assert release.complaints() == []
