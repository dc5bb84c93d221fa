"""Attempts, their leases, and what an attempt that lost its job can no longer do."""

from __future__ import annotations

import pytest

from archsync.core.job import JobStatus, JobType
from archsync.core.naming import DagKind
from archsync.core.transfer import OutgoingInstance, StoreOutcome, StoreResult
from archsync.ledger import dispatching, jobs
from archsync.ledger.jobs import Neighbours


def begin(ledger, job_id: int, try_number: int = 1) -> int:
    with ledger.transaction():
        return jobs.begin_attempt(ledger, job_id, dag_id="archsync_archive__vna", run_id="r1", try_number=try_number)


def refused(number: int, message: str = "no") -> StoreOutcome:
    instance = OutgoingInstance(f"i{number}", "1.2", f"1.2.{number}", "1.2.840.10008.1.2.1", "file:///x")
    return StoreOutcome(instance, StoreResult.REFUSED, status=0xA900, code="sop-class-mismatch", message=message)


def test_an_attempt_makes_its_job_run_under_a_lease(ledger, add_job):
    job_id = add_job()

    attempt_id = begin(ledger, job_id)

    job = jobs.get(ledger, job_id)
    assert (job.status, job.attempt_id, job.dag_id, job.run_id, job.try_number) == (
        JobStatus.RUNNING, attempt_id, "archsync_archive__vna", "r1", 1,
    )  # fmt: skip
    assert job.lease_until > job.started_at
    assert jobs.by_run(ledger, dag_id="archsync_archive__vna", run_id="r1") == job_id
    assert jobs.by_run(ledger, dag_id="another", run_id="r1") is None


def test_a_later_attempt_takes_over_and_the_stale_one_can_do_nothing_more(ledger, add_job):
    job_id = add_job()
    stale = begin(ledger, job_id)
    current = begin(ledger, job_id, try_number=2)

    assert jobs.report(ledger, job_id, stale, instances=1, size_bytes=10, failed=1) is None
    jobs.set_scope(ledger, job_id, stale, content_digest="stale", totals=(99, 99), done=(9, 9))
    for status in JobStatus:
        assert not jobs.move(ledger, job_id, status, attempt_id=stale, counted=True)
    jobs.finish_attempt(ledger, stale, outcome=JobStatus.SUCCEEDED, counted=True)

    job = jobs.get(ledger, job_id)
    assert (job.status, job.attempt_id, job.attempts) == (JobStatus.RUNNING, current, 0)
    assert (job.instances_done, job.instances_failed, job.instances_total) == (0, 0, 2)
    first, second = jobs.attempts(ledger, job_id)
    assert (first.outcome, first.reason_code, first.counted) == ("lost", "attempt-lost", False)
    assert second.finished_at is None


@pytest.mark.parametrize("status", [JobStatus.CANCELLED, JobStatus.FAILED, JobStatus.WAITING])
def test_an_attempt_whose_job_was_ended_learns_it(ledger, add_job, status):
    job_id = add_job()
    attempt_id = begin(ledger, job_id)
    jobs.move(ledger, job_id, status)

    assert jobs.report(ledger, job_id, attempt_id, instances=1, size_bytes=10) is None
    jobs.set_scope(ledger, job_id, attempt_id, content_digest="late", totals=(9, 9), done=(0, 0))
    assert jobs.get(ledger, job_id).content_digest != "late"


def test_progress_adds_up_and_keeps_the_lease(ledger, add_job, sql):
    job_id = add_job()
    attempt_id = begin(ledger, job_id)
    jobs.set_scope(ledger, job_id, attempt_id, content_digest="d", totals=(10, 1000), done=(3, 300))
    sql("update job set lease_until = now() - interval '1 minute' where job_id = %s", job_id)

    assert jobs.report(ledger, job_id, attempt_id, instances=2, size_bytes=200, failed=1) == Neighbours(0, 0)
    assert jobs.report(ledger, job_id, attempt_id, instances=1, size_bytes=100) == Neighbours(0, 0)

    job = jobs.get(ledger, job_id)
    assert (job.instances_total, job.instances_done, job.instances_failed) == (10, 6, 1)
    assert (job.bytes_total, job.bytes_done, job.content_digest) == (1000, 600, "d")
    assert job.lease_until > job.started_at


def test_a_report_tells_who_else_stores_at_the_destination(ledger, add_destination, add_job, make_study, sql):
    """Only jobs that are alive count; one without an association is about to open one."""
    job_id = add_job()
    attempt_id = begin(ledger, job_id)

    def neighbours() -> Neighbours | None:
        return jobs.report(ledger, job_id, attempt_id)

    assert neighbours() == Neighbours(0, 0)
    others = {n: add_job(make_study(f"s{n}"), job_type=JobType.DICOM) for n in (2, 3, 4)}
    assert neighbours() == Neighbours(0, 0), "they only wait"
    attempts = {n: begin(ledger, others[n]) for n in (2, 3)}
    assert neighbours() == Neighbours(2, 2)
    jobs.report(ledger, others[2], attempts[2], associations=4)
    assert neighbours() == Neighbours(2, 5)
    sql("update job set lease_until = now() - interval '1 second' where job_id = %s", others[3])
    assert neighbours() == Neighbours(1, 4)
    sql("update job set job_type = 'kos' where job_id = %s", others[2])
    assert neighbours() == Neighbours(1, 4), "notes are stored too"
    sql("update job set job_type = 'adt' where job_id = %s", others[2])
    assert neighbours() == Neighbours(0, 0), "messages go elsewhere"
    begin(ledger, others[4])
    assert neighbours() == Neighbours(1, 1)
    elsewhere = add_destination("elsewhere").destination_id
    sql("update job set destination_id = %s where job_id = %s", elsewhere, others[4])
    assert neighbours() == Neighbours(0, 0)


def test_how_fast_a_job_sends_is_known_while_it_runs_and_no_longer(ledger, add_job):
    job_id = add_job()
    attempt_id = begin(ledger, job_id)
    jobs.report(ledger, job_id, attempt_id, bytes_per_s=5_000_000_000, associations=3)
    job = jobs.get(ledger, job_id)
    assert (job.bytes_per_s, job.associations) == (5_000_000_000, 3)

    again = begin(ledger, job_id, try_number=2)
    job = jobs.get(ledger, job_id)
    assert (job.bytes_per_s, job.associations) == (0, 0), "the attempt before it was lost"

    jobs.report(ledger, job_id, again, bytes_per_s=1000, associations=1)
    assert jobs.move(ledger, job_id, JobStatus.SUCCEEDED, attempt_id=again)
    job = jobs.get(ledger, job_id)
    assert (job.bytes_per_s, job.associations) == (0, 0)


def test_failures_are_named_once_and_forgotten_by_the_next_attempt(ledger, add_job):
    job_id = add_job()
    begin(ledger, job_id)
    jobs.record_failures(ledger, job_id, [refused(2), refused(1)])
    jobs.record_failures(ledger, job_id, [refused(1, "again")])

    failures = jobs.failures(ledger, job_id)
    assert [(f.sop_instance_uid, f.store_status, f.message) for f in failures] == [
        ("1.2.1", 0xA900, "again"), ("1.2.2", 0xA900, "no"),
    ]  # fmt: skip

    begin(ledger, job_id, try_number=2)
    assert jobs.failures(ledger, job_id) == []


def test_an_attempts_end_is_recorded_once(ledger, add_job):
    job_id = add_job()
    attempt_id = begin(ledger, job_id)
    jobs.finish_attempt(ledger, attempt_id, outcome=JobStatus.RETRYING, reason_code="busy", counted=True, instances=3)
    jobs.finish_attempt(ledger, attempt_id, outcome=JobStatus.SUCCEEDED)

    (attempt,) = jobs.attempts(ledger, job_id)
    assert (attempt.outcome, attempt.reason_code, attempt.counted, attempt.instances_done) == (
        "retrying",
        "busy",
        True,
        3,
    )


def test_attempts_that_ended_without_a_word_are_counted_until_the_job_waits_again(ledger, add_job):
    job_id = add_job()
    assert jobs.count_killed(ledger, job_id) == 0
    begin(ledger, job_id, 1)
    assert jobs.count_killed(ledger, job_id) == 1
    killed = begin(ledger, job_id, 2)
    jobs.finish_attempt(ledger, killed, outcome=JobStatus.RETRYING, reason_code="task-killed")
    told = begin(ledger, job_id, 3)
    jobs.finish_attempt(ledger, told, outcome=JobStatus.RETRYING, reason_code="busy", counted=True)
    assert jobs.count_killed(ledger, job_id) == 2

    jobs.move(ledger, job_id, JobStatus.WAITING)
    begin(ledger, job_id, 4)
    assert jobs.count_killed(ledger, job_id) == 1


# -- runs that get lost ------------------------------------------------------------------------------------------------


def claimed(ledger, destination, add_job) -> int:
    job_id = add_job()
    dispatching.claim_due(ledger, destination.destination_id, DagKind.ARCHIVE, jobs.get(ledger, job_id).priority, 1)
    return job_id


def test_a_job_whose_key_never_became_a_run_is_put_back_after_a_while(ledger, destination, add_job, sql):
    job_id = claimed(ledger, destination, add_job)
    assert dispatching.requeue_unseen(ledger) == 0

    sql("update job set dispatched_at = now() - interval '10 minutes'")
    assert dispatching.requeue_unseen(ledger) == 1
    assert jobs.get(ledger, job_id).status is JobStatus.WAITING


def test_a_job_whose_run_was_seen_is_left_to_airflow(ledger, destination, add_job, sql):
    job_id = claimed(ledger, destination, add_job)
    dispatching.record_run_seen(ledger, job_id, dag_id="d", run_id="first")
    dispatching.record_run_seen(ledger, job_id, dag_id="d", run_id="second")
    sql("update job set dispatched_at = now() - interval '10 minutes'")

    assert jobs.get(ledger, job_id).run_id == "first"
    assert dispatching.requeue_unseen(ledger) == 0
    assert [job.job_id for job in dispatching.overdue_in_hand(ledger)] == [job_id]


@pytest.mark.parametrize(
    ("status", "change", "is_overdue"),
    [
        (JobStatus.RUNNING, "lease_until = now() - interval '80 seconds'", False),
        (JobStatus.RUNNING, "lease_until = now() - interval '100 seconds'", True),
        (JobStatus.RETRYING, "next_attempt_at = now() - interval '80 seconds'", False),
        (JobStatus.RETRYING, "next_attempt_at = now() - interval '100 seconds'", True),
        (JobStatus.RETRYING, "next_attempt_at = null, updated_at = now() - interval '100 seconds'", True),
        (JobStatus.READY, "dispatched_at = now() - interval '80 seconds'", False),
        (JobStatus.FAILED, "lease_until = now() - interval '1 day', next_attempt_at = now() - interval '1 day'", False),
    ],
)
def test_the_sweeper_asks_only_about_jobs_that_are_overdue(ledger, add_job, sql, status, change, is_overdue):
    job_id = add_job(job_type=JobType.DICOM)
    begin(ledger, job_id)
    sql(f"update job set status = %s, {change} where job_id = %s", status.value, job_id)

    assert [job.job_id for job in dispatching.overdue_in_hand(ledger)] == ([job_id] if is_overdue else [])
