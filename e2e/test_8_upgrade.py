"""The chart is upgraded while jobs run: CRD, operator and, where that is asked for, the engines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml
from release import CHART, CRD, ENGINE_IMAGE
from steps import Given, Then, When, World

NEW_MEMBER = "memberOfTheNextVersion"


def test_helm_s_own_test_passes(world: World) -> None:
    assert "Phase:          Succeeded" in world.release.test()


def test_an_upgrade_leaves_running_jobs_alone(
    world: World, given: Given, when: When, then: Then, tmp_path: Path
) -> None:
    job = given.a_job_that_was_sent_events()
    pod, operators = given.its_pod(job), set(world.release.pods())
    with given.events_all_the_while(job):
        world.release.values["podAnnotations"] = {"example.com/upgraded": "yes"}
        world.release.upgrade(chart=newer_chart(tmp_path))
        schema = json.loads(world.cluster.kubectl("get", "crd", CRD, "-o", "json"))["spec"]["versions"][0]["schema"]
        assert NEW_MEMBER in schema["openAPIV3Schema"]["properties"]["spec"]["properties"]
        assert world.release.leader() not in operators
        then.its_pod_is_still(job, pod)
        when.it_is_applied(job, checkpoint={"interval": "350ms"})
        then.its_pod_was_replaced(job, pod)
    then.nothing_was_repeated(job)


def test_a_new_image_for_engines_rolls_the_jobs_that_name_none(world: World, given: Given, then: Then) -> None:
    job = given.a_job_that_was_sent_events()
    waiting = given.a_running_job("waiting", image=ENGINE_IMAGE)
    pod, left_alone = given.its_pod(job), given.its_pod(waiting)
    with given.events_all_the_while(job):
        world.release.name_another_engine_image()
        world.release.upgrade()
        then.an_event_says(job, "Rolling", "spec.template.spec.containers[engine].image")
        then.its_pod_was_replaced(job, pod)
        then.it_runs(job)
        then.its_pod_is_still(waiting, left_alone)
    then.nothing_was_repeated(job)


def newer_chart(folder: Path) -> Path:
    """The chart with one more member in the CRD."""
    newer = shutil.copytree(CHART, folder / "chart")
    path = newer / "files" / "crds" / "streamjobs.yaml"
    crd = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"][NEW_MEMBER] = {"type": "string"}
    path.write_text(yaml.safe_dump(crd), encoding="utf-8")
    return newer
