"""Install, apply, send, ask, delete: what everybody does first."""

from __future__ import annotations

from jobs import Job
from steps import Given, Then, When, World


def test_a_job_computes_windows_of_the_events_it_is_sent(world: World, given: Given, when: When, then: Then) -> None:
    job = given.a_running_job()
    job.sender.send(30)
    job.sender.close_windows()
    then.its_windows_are_there_by_rest(job)
    then.nothing_was_repeated(job)
    then.it_runs(job)
    shown_by_kubectl(world, job)
    when.it_is_deleted(job)
    then.it_is_gone(job)
    then.its_volume_is_there(job)
    then.an_event_says(job, "VolumesRetained", job.claim)


def shown_by_kubectl(world: World, job: Job) -> None:
    """The columns of `kubectl get sj` tell phase and pods."""
    head, line = world.cluster.kubectl("-n", job.namespace, "get", "sj", job.name).splitlines()
    assert head.split() == ["NAME", "PHASE", "REPLICAS", "UDF", "LAG", "RATE", "AGE"]
    assert line.split()[:3] == [job.name, "Running", "1"]
