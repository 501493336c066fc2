"""Stopping and going on: by suspension, and by deletion and a new job of the same name."""

from __future__ import annotations

from steps import Given, Then, When


def test_a_suspended_job_keeps_its_state_and_goes_on(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events()
    with given.events_all_the_while(job):
        when.it_is_suspended(job)
        then.its_phase_is(job, "Suspended")
        then.it_has_no_pod(job)
        then.its_volume_is_there(job)
        when.it_is_resumed(job)
        then.it_runs(job)
    then.nothing_was_repeated(job)


def test_a_job_made_anew_finds_its_state(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events()
    when.it_is_deleted(job)
    then.it_is_gone(job)
    then.its_volume_is_there(job)
    when.it_is_applied(job)
    then.it_runs(job)
    then.its_statistics_count_all(job)
    job.sender.send(20)
    then.nothing_was_repeated(job)


def test_a_volume_goes_with_a_job_that_says_so(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events(deletionPolicy="Delete")
    when.it_is_deleted(job)
    then.it_is_gone(job)
    then.its_volume_is_gone(job)


def test_state_of_other_shards_is_not_taken(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events()
    when.it_is_deleted(job)
    then.it_is_gone(job)
    when.it_is_applied(job, shards=16)
    then.its_condition_says(job, "SpecValid", "False", "ImmutableMember", "spec.shards", job.claim, "put the old value")
    when.it_is_deleted(job)
    then.it_is_gone(job)
    then.its_volume_is_there(job)
