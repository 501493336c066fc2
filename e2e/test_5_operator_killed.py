"""The operator is killed in the middle of each operation: the next one ends it, and nothing is lost or repeated."""

from __future__ import annotations

from steps import Given, Then, When, World
from storage import GrowingClass


def test_while_a_job_is_made(given: Given, when: When, then: Then) -> None:
    job = given.a_job()
    when.the_operator_is_killed_during(job, "Start")
    then.it_runs(job)
    job.sender.send(10)
    then.nothing_was_repeated(job)


def test_during_every_operation_of_a_job_s_life(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events()
    with given.events_all_the_while(job):
        pod = given.its_pod(job)
        when.it_is_applied(job, checkpoint={"interval": "400ms"})
        when.the_operator_is_killed_during(job, "Roll")
        then.its_pod_was_replaced(job, pod)
        then.it_runs(job)

        pod = given.its_pod(job)
        when.its_function_changes(job, version=2)
        when.the_operator_is_killed_during(job, "Roll")
        then.its_pod_was_replaced(job, pod)
        then.it_runs(job)

        pod = given.its_pod(job)
        when.it_is_annotated(job, "checkpoint", "now")
        when.the_operator_is_killed()
        then.an_event_says(job, "CheckpointDone")
        then.its_pod_is_still(job, pod)

        when.it_is_suspended(job)
        when.the_operator_is_killed_during(job, "Suspend")
        then.its_phase_is(job, "Suspended")

        when.it_is_resumed(job)
        when.the_operator_is_killed_during(job, "Start")
        then.it_runs(job)
    then.nothing_was_repeated(job)
    when.it_is_deleted(job)
    when.the_operator_is_killed_during(job, "Delete")
    then.it_is_gone(job)
    then.its_volume_is_there(job)


def test_while_a_job_and_its_volume_are_deleted(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events(deletionPolicy="Delete")
    when.it_is_deleted(job)
    when.the_operator_is_killed_during(job, "Delete")
    then.it_is_gone(job)
    then.its_volume_is_gone(job)


def test_while_a_volume_grows(world: World, given: Given, when: When, then: Then, growing: GrowingClass) -> None:
    job = given.a_job_that_was_sent_events(storage={"size": "1Gi", "storageClassName": growing.name})
    pod, before = given.its_pod(job), given.its_stateful_set(job)
    with given.events_all_the_while(job):
        when.it_is_applied(job, storage={"size": "2Gi", "storageClassName": growing.name})
        when.the_operator_is_killed_during(job, "Resize")
        then.its_stateful_set_was_made_anew(job, before)
        then.its_claim_asks_for(job, "2Gi")
        growing.grow(world.cluster, job, "2Gi")
        then.it_runs(job)
    then.its_pod_is_still(job, pod)
    then.nothing_was_repeated(job)
