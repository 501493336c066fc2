"""The chart as helm renders it: what is always there, what values change, what is refused."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from chart_files import CHART, KUBE_VERSIONS, ROOT, Objects, Render

CRDS = sorted((ROOT / "crds").glob("*.yaml"))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
EVERYTHING = {
    "watchNamespaces": ["shop", "lab"],
    "imagePullSecrets": [{"name": "registry"}],
    "image": {"digest": "sha256:" + "0" * 64},
    "operator": {"otlpEndpoint": "http://collector:4318", "extraEnv": [{"name": "A", "value": "b"}]},
    "metrics": {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "podLabels": {"x": "y"},
    "podAnnotations": {"x": "y"},
    "serviceAccount": {"annotations": {"x": "y"}},
}
HELM_WAITS_S = 300
"""For a hook, if it is told nothing else."""
CRDS_GO = {"crds": {"keep": False}}
CERT_MANAGER = {"webhook": {"certificates": {"mode": "certManager"}}}
NOTHING = {
    "crds": {"install": False},
    "rbac": {"create": False},
    "serviceAccount": {"create": False},
    "webhook": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "tests": {"enabled": False},
}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "cert-manager": CERT_MANAGER,
    "CRDs go": CRDS_GO,
    "nothing": NOTHING,
}


def of_kind(objects: Objects, kind: str) -> Objects:
    """The objects of one kind."""
    return [one for one in objects if one["kind"] == kind]


def the(objects: Objects, kind: str) -> dict[str, Any]:
    """The only object of a kind."""
    found = of_kind(objects, kind)
    assert len(found) == 1, f"{len(found)} objects of the kind {kind}"
    return found[0]


def without_hooks(objects: Objects) -> Objects:
    """What is installed: not the test's own objects."""
    return [one for one in objects if "helm.sh/hook" not in (one["metadata"].get("annotations") or {})]


def rules_of(objects: Objects, kind: str) -> list[dict[str, Any]]:
    """All rules of the operator's own roles of a kind."""
    roles = [
        role
        for role in of_kind(without_hooks(objects), kind)
        if not any("aggregate-to" in label for label in role["metadata"]["labels"])
    ]
    return [rule for role in roles for rule in role["rules"] or []]


def resources(rules: list[dict[str, Any]]) -> set[str]:
    """The resources that rules name."""
    return {resource for rule in rules for resource in rule["resources"]}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", KUBE_VERSIONS)
def test_it_renders(render: Render, case: str, version: str) -> None:
    objects = render(values=CASES[case], version=version)
    identities = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
    assert len(identities) == len(set(identities)), "two objects of one name"
    for one in objects:
        assert len(one["metadata"]["name"]) <= 63
        cluster_wide = one["kind"].startswith(("ClusterRole", "CustomResource", "Validating"))
        assert cluster_wide != ("namespace" in one["metadata"]), one["kind"]


def test_helm_lint_has_no_complaint(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("namespace", ["2024", "1e3", "true", "null"])
def test_namespaces_may_look_like_numbers_and_truth_values(render: Render, namespace: str) -> None:
    watching = {"watchNamespaces": [namespace], "metrics": EVERYTHING["metrics"], **CRDS_GO}
    for values in (watching, CERT_MANAGER):
        objects = render(values=values, namespace=namespace)
        assert {one["metadata"]["namespace"] for one in objects if "namespace" in one["metadata"]} == {namespace}
        subjects = [one for found in objects for one in found.get("subjects", ())]
        assert {one["namespace"] for one in subjects} == {namespace}
        pods = [
            the(objects, "Deployment")["spec"]["template"]["spec"],
            *(one["spec"] for one in of_kind(objects, "Pod")),
        ]
        given = [one for pod in pods for one in pod["containers"][0].get("env", ()) if "value" in one]
        assert all(isinstance(one["value"], str) for one in given)
        found = {one["name"]: one["value"] for one in given}
        assert {found[name] for name in ("STREAMJOB_OPERATOR_LEASE_NAMESPACE", "LEASE_NAMESPACE", "JOBS")} == {
            namespace
        }
        called = the(objects, "ValidatingWebhookConfiguration")["webhooks"][0]["clientConfig"]["service"]
        assert called["namespace"] == namespace


def test_a_release_may_look_like_a_number(render: Render) -> None:
    objects = render(values={"fullnameOverride": "op", "nameOverride": "7"}, release="2024")
    labels = the(objects, "Deployment")["spec"]["selector"]["matchLabels"]
    assert labels == {"app.kubernetes.io/name": "7", "app.kubernetes.io/instance": "2024"}
    assert all(isinstance(text, str) for one in objects for text in (one["metadata"].get("labels") or {}).values())


def test_an_old_cluster_is_refused(render: Render) -> None:
    with pytest.raises(ValueError, match="kubeVersion"):
        render(version="1.29.0")


# ------------------------------------------------------------------------------------------------------------- values


def test_every_default_meets_the_schema_and_is_described_by_it() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(DEFAULTS, SCHEMA)
    missing = [path for path in _paths(DEFAULTS) if not _described(SCHEMA, path)]
    assert not missing


def _paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    paths = []
    for name, value in values.items():
        paths.append((*above, name))
        if isinstance(value, dict):
            paths += _paths(value, (*above, name))
    return paths


def _described(schema: dict[str, Any], path: tuple[str, ...]) -> bool:
    for name in path:
        if "properties" not in schema:
            return "additionalProperties" in schema or schema.get("type") == "object"
        if name not in schema["properties"]:
            return False
        schema = schema["properties"][name]
    return True


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("replicas=3", "replicas"),
        ("replicaCount=-1", "replicaCount"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.repository=registry/operator:1", "repository"),
        ("webhook.failurePolicy=Maybe", "failurePolicy"),
        ("webhook.timeoutSeconds=31", "timeoutSeconds"),
        ("webhook.certificates.mode=none", "mode"),
        ("operator.workers=0", "workers"),
        ("operator.logLevel=loud", "logLevel"),
        ("operator.resyncSeconds=0", "resyncSeconds"),
        ("watchNamespaces[0]=Shop", "watchNamespaces"),
        ("image.digest=sha256:1", "digest"),
        ("image.tag=9", "tag"),
        ("metrics.serviceMonitor.interval=often", "interval"),
    ],
)
def test_impossible_values_are_refused_by_name(render: Render, setting: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        render(setting)


# --------------------------------------------------------------------------------------------------------------- CRDs


def test_crds_are_those_of_the_repository_and_upgraded_with_the_chart(render: Render) -> None:
    copies = sorted((CHART / "files" / "crds").glob("*.yaml"))
    assert [one.name for one in copies] == [one.name for one in CRDS], "run make manifests"
    for ours, copy_ in zip(CRDS, copies, strict=True):
        assert ours.read_bytes() == copy_.read_bytes(), f"{copy_.name}: run make manifests"
    assert not (CHART / "crds").exists(), "Helm installs what is there and never upgrades it"
    rendered = {(one["kind"], one["metadata"]["name"]): one for one in render()}
    for path in CRDS:
        for wanted in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            found = rendered[wanted["kind"], wanted["metadata"]["name"]]
            assert found["spec"] == wanted["spec"], f"helm changed {wanted['kind']}"
            assert found["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_crds_go_with_the_release_only_where_asked(render: Render) -> None:
    crd = the(render(values=CRDS_GO), "CustomResourceDefinition")
    assert "helm.sh/resource-policy" not in (crd["metadata"].get("annotations") or {})
    assert not of_kind(render("crds.install=false"), "CustomResourceDefinition")


def test_jobs_are_deleted_before_a_release_that_takes_the_crd_along(render: Render) -> None:
    """Helm deletes the operator before it, and nobody else lets the jobs go."""

    def hooks(objects: Objects) -> Objects:
        return [
            one for one in objects if (one["metadata"].get("annotations") or {}).get("helm.sh/hook") == "pre-delete"
        ]

    assert not hooks(render())
    assert not hooks(render("crds.keep=false", "crds.install=false"))
    found = hooks(render(values=CRDS_GO))
    weights = {one["kind"]: int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in found}
    assert sorted(weights, key=weights.__getitem__)[2:] == ["ClusterRoleBinding", "Pod"]
    assert set(weights) == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Pod"}
    for one in found:
        policies = one["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",")
        assert policies == ["before-hook-creation", "hook-succeeded"], "one that failed stays for its log"
    jobs = {"apiGroups": ["streamjob.dev"], "resources": ["streamjobs"], "verbs": ["list", "delete"]}
    assert the(found, "ClusterRole")["rules"] == [jobs]
    account = {"kind": "ServiceAccount", "name": the(found, "ServiceAccount")["metadata"]["name"], "namespace": "ops"}
    assert the(found, "ClusterRoleBinding")["subjects"] == [account]
    pod = the(found, "Pod")["spec"]
    assert pod["serviceAccountName"] == account["name"]
    source: dict[str, Any] = {"__name__": "delete_jobs"}
    exec(pod["containers"][0]["command"][-1], source)
    assert source["GONE_WITHIN_S"] < pod["activeDeadlineSeconds"] < HELM_WAITS_S


# ------------------------------------------------------------------------------------------------------------- rights


def test_nothing_is_a_wildcard(render: Render) -> None:
    for case in CASES.values():
        for kind in ("Role", "ClusterRole"):
            for role in of_kind(render(values=case), kind):
                for rule in role["rules"]:
                    for words in (rule["apiGroups"], rule["resources"], rule["verbs"]):
                        assert "*" not in words, role["metadata"]["name"]


def test_a_list_of_namespaces_ends_the_rights_there(render: Render) -> None:
    objects = without_hooks(render(values={"watchNamespaces": ["shop", "lab", "shop"]}))
    jobs = [role for role in of_kind(objects, "Role") if "streamjobs" in resources(role["rules"])]
    assert sorted(role["metadata"]["namespace"] for role in jobs) == ["lab", "shop"]
    cluster = rules_of(objects, "ClusterRole")
    own = "validatingwebhookconfigurations"
    assert resources(cluster) == {"storageclasses", "runtimeclasses", own, "streamjobs"}
    assert all(rule.get("resourceNames") for rule in cluster if own in rule["resources"])
    everywhere = resources(rules_of(without_hooks(render()), "ClusterRole"))
    assert resources(jobs[0]["rules"]) | resources(cluster) == everywhere
    environment = env_of(objects)
    assert environment["STREAMJOB_OPERATOR_NAMESPACES"] == "shop,lab,shop"
    selector = the(objects, "ValidatingWebhookConfiguration")["webhooks"][0]["namespaceSelector"]
    assert selector["matchExpressions"][0]["values"] == ["shop", "lab"]


def test_a_job_can_be_let_go_where_the_roles_of_its_namespace_are_gone(render: Render) -> None:
    """The deletion of a namespace takes them first. What is needed then is no right on jobs elsewhere."""
    objects = render(values={"watchNamespaces": ["shop", "lab", "shop"]})
    rights = [rule["verbs"] for rule in rules_of(objects, "ClusterRole") if "streamjobs" in rule["resources"]]
    assert rights == [["patch"]]
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(objects, "ValidatingAdmissionPolicy")}
    name = "ops-sj-streamjob-operator-jobs"
    (condition,) = policies[name]["matchConditions"]
    account = f"system:serviceaccount:ops:{pod_of(objects)['serviceAccountName']}"
    assert condition["expression"] == f'request.userInfo.username == "{account}"'
    (validation,) = policies[name]["validations"]
    assert validation["expression"] == 'request.namespace in ["shop","lab"]'
    bound = {one["spec"]["policyName"]: one["spec"] for one in of_kind(objects, "ValidatingAdmissionPolicyBinding")}
    assert bound[name]["validationActions"] == ["Deny"]
    assert name not in {one["metadata"]["name"] for one in of_kind(render(), "ValidatingAdmissionPolicy")}


def test_the_operator_cannot_give_itself_more(render: Render) -> None:
    forbidden = {"roles", "rolebindings", "clusterroles", "clusterrolebindings", "pods/exec", "nodes", "namespaces"}
    for rule in [*rules_of(render(), "ClusterRole"), *rules_of(render(), "Role")]:
        assert not forbidden & set(rule["resources"])
        assert not {"impersonate", "escalate", "bind", "*"} & set(rule["verbs"])
        if "pods" in rule["resources"]:
            assert set(rule["verbs"]) == {"list", "watch", "delete"}


def test_rights_on_certificates_come_and_go_with_them(render: Render) -> None:
    for values in (CERT_MANAGER, {"webhook": {"enabled": False}}):
        objects = render(values=values)
        assert "validatingwebhookconfigurations" not in resources(rules_of(objects, "ClusterRole"))
        assert resources(rules_of(objects, "Role")) == {"leases"}


def test_bindings_name_the_account_of_the_pods(render: Render) -> None:
    for settings in ((), ("serviceAccount.name=other",), ("serviceAccount.create=false", "serviceAccount.name=theirs")):
        objects = without_hooks(render(*settings))
        account = pod_of(objects)["serviceAccountName"]
        for kind in ("RoleBinding", "ClusterRoleBinding"):
            for binding in of_kind(objects, kind):
                assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "ops"}]


# --------------------------------------------------------------------------------------------------------------- pods


def pod_of(objects: Objects) -> dict[str, Any]:
    """The operator's pod."""
    return dict(the(objects, "Deployment")["spec"]["template"]["spec"])


def env_of(objects: Objects) -> dict[str, str]:
    """The plain variables of the operator's container."""
    return {one["name"]: one.get("value", "") for one in pod_of(objects)["containers"][0]["env"]}


@pytest.mark.parametrize("case", CASES)
def test_pods_meet_the_restricted_level(render: Render, case: str) -> None:
    objects = render(values=CASES[case])
    pods = [pod_of(objects), *(one["spec"] for one in of_kind(objects, "Pod"))]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert {next(key for key in volume if key != "name") for volume in pod.get("volumes", [])} <= {
            "emptyDir",
            "secret",
        }
        for container in pod["containers"]:
            secured = container["securityContext"]
            assert secured["allowPrivilegeEscalation"] is False
            assert secured["readOnlyRootFilesystem"] is True
            assert secured["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_settings_of_the_operator_are_settings_that_it_has(render: Render) -> None:
    settings = pytest.importorskip("streamjob_operator.settings")
    for case in CASES.values():
        given = {name: value for name, value in env_of(render(values=case)).items() if name.startswith(settings.PREFIX)}
        known = {settings.PREFIX + name.upper() for name in settings.Settings.__dataclass_fields__}
        assert set(given) <= known
        loaded = settings.load({}, given)
        assert loaded.lease_namespace == "ops"
        assert loaded.engine_image == given["STREAMJOB_OPERATOR_ENGINE_IMAGE"]


def test_ports_agree(render: Render) -> None:
    objects = render()
    container = pod_of(objects)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": 8081, "metrics": 9090, "webhook": 9443}
    environment = env_of(objects)
    assert {environment[f"STREAMJOB_OPERATOR_{name}_PORT"] for name in ("HEALTH", "METRICS", "WEBHOOK")} == {
        str(port) for port in ports.values()
    }
    for service in of_kind(objects, "Service"):
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports
    allowed = the(objects, "NetworkPolicy")["spec"]["ingress"][0]["ports"]
    assert {port["port"] for port in allowed} == set(ports)
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports


def test_images(render: Render) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    objects = render()
    assert pod_of(objects)["containers"][0]["image"] == f"streamjob-operator:{version}"
    assert env_of(objects)["STREAMJOB_OPERATOR_ENGINE_IMAGE"] == f"streamjob-engine:{version}"
    digest = "sha256:" + "a" * 64
    engine = {"image": {"repository": "r.example.com:5000/e", "tag": "2"}}
    objects = render(values={"image": {"tag": "9", "digest": digest}, "engine": engine})
    assert pod_of(objects)["containers"][0]["image"] == f"streamjob-operator@{digest}"
    assert env_of(objects)["STREAMJOB_OPERATOR_ENGINE_IMAGE"] == "r.example.com:5000/e:2"
    assert {pod["spec"]["containers"][0]["image"] for pod in of_kind(objects, "Pod")} == {
        f"streamjob-operator@{digest}"
    }


def test_a_replica_that_waits_for_the_api_server_is_not_killed_for_it(render: Render) -> None:
    """It answers probes only once it has found StreamJobs there."""
    container = pod_of(render())["containers"][0]
    startup = container["startupProbe"]
    assert startup["httpGet"] == container["livenessProbe"]["httpGet"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 300


def test_what_is_asked_of_the_scheduler_reaches_the_pods(render: Render) -> None:
    pod = pod_of(render(values=EVERYTHING))
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "imagePullSecrets"):
        assert pod[name] == EVERYTHING[name]


# ------------------------------------------------------------------------------------------------------------ webhook


def test_the_webhook_has_no_bundle_of_the_charts(render: Render) -> None:
    """An upgrade would set it back."""
    for case in ({}, CERT_MANAGER):
        for webhook in the(render(values=case), "ValidatingWebhookConfiguration")["webhooks"]:
            assert "caBundle" not in webhook["clientConfig"]


def test_the_webhook_calls_the_service_that_is_there(render: Render) -> None:
    objects = render()
    called = the(objects, "ValidatingWebhookConfiguration")["webhooks"][0]["clientConfig"]["service"]
    services = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in of_kind(objects, "Service")}
    service = services[called["namespace"], called["name"]]
    assert called["port"] in [port["port"] for port in service["spec"]["ports"]]
    assert service["spec"]["selector"] == the(objects, "Deployment")["spec"]["selector"]["matchLabels"]
    assert env_of(objects)["STREAMJOB_OPERATOR_WEBHOOK_SERVICE"] == called["name"]
    handlers = (ROOT / "operator" / "src" / "streamjob_operator" / "handlers.py").read_text(encoding="utf-8")
    assert re.search(rf'on\.validate\(.*id="{called["path"].removeprefix("/")}"', handlers), (
        "kopf's path is its handler"
    )


def test_names_of_certificates_agree_between_operator_roles_and_cert_manager(render: Render) -> None:
    own, managed = render(), render(values=CERT_MANAGER)
    secret = env_of(own)["STREAMJOB_OPERATOR_WEBHOOK_SECRET"]
    named = [
        rule["resourceNames"]
        for rule in rules_of(own, "Role")
        if "secrets" in rule["resources"] and "get" in rule["verbs"]
    ]
    assert named == [[secret]]
    configuration = the(own, "ValidatingWebhookConfiguration")["metadata"]["name"]
    assert env_of(own)["STREAMJOB_OPERATOR_WEBHOOK_CONFIGURATION"] == configuration
    (certificate,) = [one for one in of_kind(managed, "Certificate") if one["spec"]["secretName"] == secret]
    mounted = [one["secret"]["secretName"] for one in pod_of(managed)["volumes"] if "secret" in one]
    assert mounted == [secret]
    service = the(managed, "ValidatingWebhookConfiguration")["webhooks"][0]["clientConfig"]["service"]["name"]
    assert f"{service}.ops.svc" in certificate["spec"]["dnsNames"]
    injected = the(managed, "ValidatingWebhookConfiguration")["metadata"]["annotations"]
    assert injected["cert-manager.io/inject-ca-from"] == f"ops/{certificate['metadata']['name']}"
    assert "STREAMJOB_OPERATOR_WEBHOOK_SECRET" not in env_of(managed), "then the operator leaves it alone"
    # By an authority that outlives it: while it is renewed, the old one and the new one are trusted.
    issuers = {one["metadata"]["name"]: one["spec"] for one in of_kind(managed, "Issuer")}
    (authority,) = [one for one in of_kind(managed, "Certificate") if one["spec"].get("isCA")]
    assert issuers[certificate["spec"]["issuerRef"]["name"]] == {"ca": {"secretName": authority["spec"]["secretName"]}}
    assert issuers[authority["spec"]["issuerRef"]["name"]] == {"selfSigned": {}}
    assert authority["spec"]["privateKey"]["rotationPolicy"] == "Never"
    theirs = copy.deepcopy(CERT_MANAGER)
    theirs["webhook"]["certificates"]["certManager"] = {"issuerRef": {"kind": "ClusterIssuer", "name": "internal"}}
    objects = render(values=theirs)
    assert not of_kind(objects, "Issuer")
    assert the(objects, "Certificate")["spec"]["issuerRef"]["name"] == "internal"


# --------------------------------------------------------------------------------------------------------- monitoring


def test_rules_and_dashboard_arrive_as_they_are(render: Render) -> None:
    objects = render(values=EVERYTHING)
    rules = yaml.safe_load((CHART / "files" / "rules" / "streamjob.yaml").read_text(encoding="utf-8"))
    assert the(objects, "PrometheusRule")["spec"] == rules
    dashboard = (CHART / "files" / "dashboards" / "streamjob.json").read_text(encoding="utf-8")
    boards = the(objects, "ConfigMap")
    assert json.loads(boards["data"]["streamjob.json"]) == json.loads(dashboard)
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_service_monitor_finds_the_metrics(render: Render) -> None:
    objects = render(values=EVERYTHING)
    monitor = the(objects, "ServiceMonitor")["spec"]
    matching = [
        one
        for one in of_kind(objects, "Service")
        if monitor["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
        and any(port["name"] == monitor["endpoints"][0]["port"] for port in one["spec"]["ports"])
    ]
    assert len(matching) == 1


# ---------------------------------------------------------------------------------------------- documents, notes, tests

INSTALL = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")


def test_the_document_names_what_an_uninstallation_leaves(render: Render) -> None:
    """What the operator and cert-manager make is none of helm's."""
    named = env_of(render(release="streamjob"))
    lease, secret = (named[f"STREAMJOB_OPERATOR_{one}"] for one in ("LEASE_NAME", "WEBHOOK_SECRET"))
    assert f"kubectl delete -n streamjob lease/{lease} secret/{secret}" in INSTALL
    certificates = of_kind(render(values=CERT_MANAGER, release="streamjob"), "Certificate")
    assert not {one["spec"]["secretName"] for one in certificates if one["spec"]["secretName"] not in INSTALL}


def test_the_document_upgrades_with_defaults_of_the_new_chart() -> None:
    upgrades = re.findall(r"^\$ helm upgrade (?!--install).*", INSTALL, re.MULTILINE)
    assert upgrades
    assert all("--reset-then-reuse-values" in command for command in upgrades)


def test_the_test_job_is_valid() -> None:
    from streamjob.loading import load_job

    source: dict[str, Any] = {"__name__": "check"}
    exec(compile((CHART / "files" / "tests" / "check.py").read_text(encoding="utf-8"), "check.py", "exec"), source)
    load_job(yaml.safe_dump(source["JOB"]), base_dir=".")


def test_the_test_pod_may_do_what_it_does_and_leaves_no_rights(render: Render) -> None:
    hooks = [one for one in render() if one not in without_hooks(render())]
    assert {one["kind"] for one in hooks} == {"ServiceAccount", "Role", "RoleBinding", "Pod"}
    for one in hooks:
        assert one["metadata"]["annotations"]["helm.sh/hook"] == "test"
        policies = one["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",")
        # The pod stays for `helm test --logs`, until the next test.
        assert policies == ["before-hook-creation", *(["hook-succeeded"] if one["kind"] != "Pod" else [])]
    rules = {one["metadata"]["name"]: one["rules"] for one in of_kind(hooks, "Role")}
    jobs = {"apiGroups": ["streamjob.dev"], "resources": ["streamjobs"]}
    lease = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    full = the(render(), "Deployment")["metadata"]["name"]
    assert rules == {
        f"{full}-test": [
            {**jobs, "verbs": ["create"]},
            {**jobs, "resourceNames": ["helm-test"], "verbs": ["get", "watch", "delete"]},
        ],
        f"{full}-test-lease": [{**lease, "resourceNames": [full], "verbs": ["watch"]}],
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "all namespaces"),
        (["watchNamespaces={shop,lab}"], "shop, lab"),
        (["crds.keep=false"], "WARNING"),
        (["crds.keep=false"], "first deletes every StreamJob of the cluster"),
        ([], "pip install dist/sdk/*.whl dist/operator/*.whl"),
        (["webhook.enabled=false"], "no webhook"),
        (["rbac.create=false"], "rbac.yaml"),
    ],
)
def test_notes(render: Render, settings: list[str], said: str, tmp_path: Path) -> None:
    """Helm shows the notes only where it talks to a cluster: here another template carries them."""
    chart = shutil.copytree(CHART, tmp_path / "chart")
    (chart / "templates" / "NOTES.txt").rename(chart / "NOTES.txt")
    carrier = '{kind: Notes, metadata: {name: notes}, text: {{ tpl (.Files.Get "NOTES.txt") . | toJson }}}'
    (chart / "templates" / "notes.yaml").write_text(carrier, encoding="utf-8")
    notes = the(render(*settings, chart=chart), "Notes")["text"]
    assert said in notes
    assert "kubectl apply" in notes
