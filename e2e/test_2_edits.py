"""Changes of a running job: each rolls the pod after a checkpoint, says why, and repeats nothing."""

from __future__ import annotations

from steps import Given, Then, When, World
from storage import GrowingClass


def test_an_edit_rolls_the_pod(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events()
    pod = given.its_pod(job)
    with given.events_all_the_while(job):
        when.it_is_applied(job, checkpoint={"interval": "300ms"})
        then.an_event_says(job, "Rolling", "job.checkpoint.interval")
        then.its_pod_was_replaced(job, pod)
        then.it_runs(job)
    then.nothing_was_repeated(job)


def test_an_edit_that_no_engine_reads_rolls_nothing(given: Given, when: When, then: Then) -> None:
    job = given.a_running_job()
    pod = given.its_pod(job)
    when.it_is_applied(job, deletionDeadline="90s")
    then.it_runs(job)
    then.its_pod_is_still(job, pod)


def test_new_code_of_a_function_rolls_with_a_checkpoint_first(given: Given, when: When, then: Then) -> None:
    # Without a commit before the roll the new code would see the old rows again, from the journal.
    job = given.a_job_that_was_sent_events(checkpoint={"interval": "1h"})
    pod, version = given.its_pod(job), then.its_udf_version_is(job)
    before = {row["id"] for row in job.sender.rows}
    when.its_function_changes(job, version=2)
    then.an_event_says(job, "Rolling", "the code of the UDF score")
    then.its_pod_was_replaced(job, pod)
    job.sender.send(10)
    when.it_is_annotated(job, "checkpoint", "to see what was written")
    then.an_event_says(job, "CheckpointDone")
    rows = then.each_event_was_written_once(job)
    assert {row["score"] for row in rows if row["id"] in before} == {1}
    assert {row["score"] for row in rows if row["id"] not in before} == {2}
    then.its_udf_version_is(job, other_than=version)


def test_what_another_hand_changes_is_put_right(given: Given, when: When, then: Then) -> None:
    job = given.a_running_job()
    pod = given.its_pod(job)
    when.somebody_changes("service", job, job.name, {"spec": {"selector": {"streamjob.dev/job": "nobody"}}})
    then.an_event_says(job, "DriftCorrected", "Service machines", "spec.selector")
    when.somebody_deletes("networkpolicy", job, job.name)
    then.there_is_again("NetworkPolicy", job, job.name)
    job.sender.send(5)
    then.its_pod_is_still(job, pod)
    then.nothing_was_repeated(job)


def test_annotations_ask_for_a_checkpoint_and_a_restart(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events()
    pod = given.its_pod(job)
    when.it_is_annotated(job, "checkpoint", "before-lunch")
    then.an_event_says(job, "CheckpointDone", "checkpoint")
    then.its_pod_is_still(job, pod)
    when.it_is_annotated(job, "restart", "after-lunch")
    then.an_event_says(job, "Rolling", "a restart was asked for", "after-lunch")
    then.its_pod_was_replaced(job, pod)
    then.nothing_was_repeated(job)


def test_a_larger_volume_grows_around_the_running_pod(
    world: World, given: Given, when: When, then: Then, growing: GrowingClass
) -> None:
    job = given.a_job_that_was_sent_events(storage={"size": "1Gi", "storageClassName": growing.name})
    pod, before = given.its_pod(job), given.its_stateful_set(job)
    with given.events_all_the_while(job):
        when.it_is_applied(job, storage={"size": "2Gi", "storageClassName": growing.name})
        then.an_event_says(job, "VolumeGrowth", "2Gi")
        then.its_stateful_set_was_made_anew(job, before)
        then.its_claim_asks_for(job, "2Gi")
        growing.grow(world.cluster, job, "2Gi")
        then.its_condition_says(job, "StorageReady", "True", "Bound")
        then.it_runs(job)
    then.its_pod_is_still(job, pod)
    then.nothing_was_repeated(job)
