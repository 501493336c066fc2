"""The children of a job."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any

import pytest
from streamjob.cli.arguments import parse_arguments

from streamjob_operator import names
from streamjob_operator.builders import Inputs, children
from streamjob_operator.settings import API_HOST, every_address, in_url
from streamjob_operator.validation import ValidJob, check
from unit.jobs import CODE, job

METADATA = ("169.254.169.254", "fe80::a9fe:a9fe", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16")
"""Where AWS, Azure, GCP, Alibaba and OpenStack tell a machine of itself."""


def build(
    pod_monitors: bool = False, restart: str | None = None, listen: str = names.EVERY_ADDRESS, **spec: Any
) -> dict[tuple[str, str], dict[str, Any]]:
    resource = job(**spec)
    valid = check(resource, {})
    assert isinstance(valid, ValidJob), valid
    size = int(valid.job.spec.storage.size)
    inputs = Inputs("telemetry", "shop", "uid-1", valid, "engine:1", size, restart, pod_monitors, listen)
    return {(child["kind"], _named(child["metadata"]["name"])): child for child in children(inputs, "secret-token")}


def _named(name: str) -> str:
    return re.sub(r"-[0-9a-f]{10}$", "-HASH", name)


def pod(**spec: Any) -> dict[str, Any]:
    template: dict[str, Any] = build(**spec)["StatefulSet", "telemetry"]["spec"]["template"]
    return template


def test_a_container_that_fails_leaves_the_end_of_its_log() -> None:
    (engine,) = pod()["spec"]["containers"]
    assert engine["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_one_job_gives_all_its_children() -> None:
    assert list(build(pod_monitors=True)) == [
        ("ServiceAccount", "telemetry"),
        ("Secret", "telemetry-control"),
        ("ConfigMap", "telemetry-job-HASH"),
        ("ConfigMap", "telemetry-udfs-HASH"),
        ("NetworkPolicy", "telemetry"),
        ("Service", "telemetry-nodes"),
        ("Service", "telemetry"),
        ("PodDisruptionBudget", "telemetry"),
        ("PodMonitor", "telemetry"),
        ("StatefulSet", "telemetry"),
    ]
    assert ("PodMonitor", "telemetry") not in build()


@pytest.mark.parametrize(
    ("api", "address", "told"),
    [("10.0.0.1", "0.0.0.0", "0.0.0.0:8080"), ("", "0.0.0.0", "0.0.0.0:8080"), ("fd00::1", "::", "[::]:8080")],
)
def test_the_engine_listens_where_pods_have_their_first_address(api: str, address: str, told: str) -> None:
    assert every_address({API_HOST: api}) == address
    container = pod(listen=in_url(address))["spec"]["containers"][0]
    assert container["command"][container["command"].index("--listen") + 1] == told
    parse_arguments(container["command"][1:])


def test_children_belong_to_their_job() -> None:
    for child in build().values():
        metadata = child["metadata"]
        assert metadata["namespace"] == "shop"
        assert metadata["labels"][names.JOB_LABEL] == "telemetry"
        assert metadata["labels"][names.MANAGED_BY] == names.FIELD_MANAGER
        assert metadata["ownerReferences"][0]["uid"] == "uid-1"
        assert metadata["annotations"][names.DIGEST]


def test_claims_have_no_owner_so_that_state_outlives_its_job() -> None:
    (claim,) = build()["StatefulSet", "telemetry"]["spec"]["volumeClaimTemplates"]
    assert "ownerReferences" not in claim["metadata"]
    policy = build()["StatefulSet", "telemetry"]["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert set(policy.values()) == {"Retain"}


def test_the_job_has_no_code_and_the_code_stands_beside_it() -> None:
    config = json.loads(build()["ConfigMap", "telemetry-job-HASH"]["data"]["job.json"])
    assert [udf["source"] for udf in config["udfs"]] == [""]
    assert config["sinks"][0]["file"]["path"] == "/var/lib/streamjob/data/out"
    assert build()["ConfigMap", "telemetry-udfs-HASH"]["data"] == {"z.py": CODE}


def test_what_a_pod_reads_is_named_by_its_content_and_never_changes() -> None:
    def names_of(**spec: Any) -> list[str]:
        found = [child for (kind, _), child in build(**spec).items() if kind == "ConfigMap"]
        assert all(child["immutable"] for child in found)
        mounted = [one["configMap"]["name"] for one in pod(**spec)["spec"]["volumes"] if "configMap" in one]
        assert mounted == [child["metadata"]["name"] for child in found]
        assert all(names.is_config("telemetry", name) for name in mounted)
        return mounted

    first, same = names_of(), names_of(deletionDeadline="9m")
    other_job, other_code = names_of(where="v > 1"), names_of(udfs=[])
    assert first == same
    assert (first[0] == other_job[0], first[1] == other_job[1]) == (False, True)
    assert first[1] != other_code[1]


def test_pods_pass_the_restricted_pod_security_level() -> None:
    spec = pod()["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
    volumes = {next(key for key in volume if key != "name") for volume in spec["volumes"]}
    assert volumes <= {"configMap", "secret", "emptyDir"}
    assert spec["automountServiceAccountToken"] is False


def test_no_pod_reaches_where_clouds_keep_the_credentials_of_their_machines() -> None:
    name_servers, rest = build()["NetworkPolicy", "telemetry"]["spec"]["egress"]
    assert [port["port"] for port in name_servers["ports"]] == [53, 53]
    assert "ports" not in rest
    refused = []
    for peer in rest["to"]:
        everything = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        for text in peer["ipBlock"]["except"]:
            network = ipaddress.ip_network(text)
            assert str(network) == text, "as the API server takes it"
            assert network.subnet_of(everything)  # type: ignore[arg-type]
            refused.append(network)
    for address in METADATA:
        assert any(ipaddress.ip_address(address) in network for network in refused), address
    assert sum(network.prefixlen == network.max_prefixlen for network in refused) == 4, "and nothing else"


def test_what_rolls_the_pod() -> None:
    before = pod()["metadata"]["annotations"]
    windows = [{"name": "per_10s", "tumbling": "20s", "aggregates": {"n": "count()"}}]
    assert pod(windows=windows)["metadata"]["annotations"][names.JOB_HASH] != before[names.JOB_HASH]
    udf = {
        "name": "z",
        "code": {"inline": CODE + "\n"},
        "function": "score",
        "inputs": ["v"],
        "output": {"s": "float64"},
    }
    changed = pod(udfs=[udf])["metadata"]["annotations"]
    assert changed[names.UDF_HASHES] != before[names.UDF_HASHES]
    assert changed[names.JOB_HASH] == before[names.JOB_HASH]
    assert pod(restart="again")["metadata"]["annotations"][names.RESTART] == "again"
    assert names.RESTART not in before


@pytest.mark.parametrize("member", ["deletionPolicy", "deletionDeadline", "suspend"])
def test_what_does_not_roll_the_pod(member: str) -> None:
    value: Any = {"deletionPolicy": "Delete", "deletionDeadline": "1h", "suspend": True}[member]
    assert pod(**{member: value}) == pod()


def test_the_pod_template_is_merged_by_name() -> None:
    template = {
        "metadata": {"labels": {"team": "a", names.JOB_LABEL: "another"}, "annotations": {"note": "b"}},
        "spec": {
            "containers": [
                {"name": "engine", "resources": {"limits": {"memory": "2Gi"}}, "env": [{"name": "A", "value": "1"}]},
                {"name": "shipper", "image": "shipper:1"},
            ],
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "imagePullSecrets": [{"name": "pull"}],
        },
    }
    merged = pod(podTemplate=template)
    engine, shipper = merged["spec"]["containers"]
    assert engine["image"] == "engine:1"
    assert engine["resources"]["limits"] == {"memory": "2Gi"}
    assert [env["name"] for env in engine["env"]] == ["STREAMJOB_CONTROL_TOKEN_FILE", "STREAMJOB_LOG_FORMAT", "A"]
    assert shipper["name"] == "shipper"
    assert merged["spec"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert merged["metadata"]["labels"]["team"] == "a"
    assert merged["metadata"]["labels"][names.JOB_LABEL] == "telemetry", "the selector must keep finding the pod"


def test_the_pods_commands_are_the_command_lines() -> None:
    (container,) = pod()["spec"]["containers"]
    for command in (container["command"], container["lifecycle"]["preStop"]["exec"]["command"]):
        assert command[0] == "streamjob"
        parse_arguments(command[1:])


def test_suspended_jobs_have_no_pod() -> None:
    assert build(suspend=True)["StatefulSet", "telemetry"]["spec"]["replicas"] == 0


def test_names_fit_into_a_label() -> None:
    # The controller adds a dash and ten characters to the StatefulSet's name in the label of a pod's revision.
    assert names.MAX_NAME + 11 <= 63
    assert len(names.claim("j" * names.MAX_NAME, 0)) <= 63
