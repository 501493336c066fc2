"""Pods, processes and nodes that go without a word, while events come."""

from __future__ import annotations

import pytest
from steps import Given, Then, When


def test_a_pod_is_deleted_by_force(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events()
    pod = given.its_pod(job)
    with given.events_all_the_while(job):
        when.its_pod_is_deleted_by_force(job)
        then.its_pod_was_replaced(job, pod)
    then.nothing_was_repeated(job)


@pytest.mark.usefixtures("on_kind")
def test_an_engine_is_killed(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events()
    pod = given.its_pod(job)
    with given.events_all_the_while(job):
        when.its_engine_is_killed(job)
        then.its_engine_was_started_again(job)
    then.its_pod_is_still(job, pod)
    then.nothing_was_repeated(job)


@pytest.mark.usefixtures("on_kind")
def test_a_node_is_restarted(given: Given, when: When, then: Then) -> None:
    job = given.a_job_that_was_sent_events()
    with given.events_all_the_while(job):
        when.its_node_is_restarted(job)
        then.its_engine_was_started_again(job)
    then.it_runs(job)
    then.nothing_was_repeated(job)
