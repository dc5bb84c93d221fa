"""Asking for a study, and what administrators and Airflow's own buttons do to jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from archsync.core.job import FAR_FUTURE, JobStatus, JobType, WaitReason
from archsync.errors import ConfigurationError, InvalidInput
from archsync.ledger import jobs, plan_queue, planned_jobs
from archsync.services import job_control, planner
from archsync.services.request import request_study
from archsync.simulate.archive import ChosenStatus, Rudeness


def ask(site, study_key: str, destination: str = "vna") -> int | None:
    return request_study(
        site.platform,
        site.ledger,
        destination=destination,
        study_instance_uid=site.study_uid(study_key),
        requested_by="users_dag/run1",
        now=datetime.now(UTC),
    )


def now() -> datetime:
    return datetime.now(UTC)


# -- asking ------------------------------------------------------------------------------------------------------------


def test_a_study_is_sent_on_request_whatever_its_status_and_the_scope(site):
    site.add_destination(facilities=("SOUTH",), settle_s=30.0, settle_max_s=60.0)
    study_key = site.add_study(exam_status="Pending")
    assert site.plan() == []

    job_id = ask(site, study_key)

    assert job_id is not None
    site.plan()
    assert site.hand_out() == [job_id]
    assert site.run(job_id).status is JobStatus.SUCCEEDED
    assert site.has_all(study_key)
    assert ask(site, study_key) is None, "all of it is there"


def test_asking_twice_asks_once(site):
    site.add_destination()
    study_key = site.add_study()

    assert ask(site, study_key) == ask(site, study_key)
    assert len(site.open_jobs()) == 1


def test_asking_hurries_the_job_that_is_there(site):
    site.add_destination(settle_s=30.0, settle_max_s=60.0)
    study_key = site.add_study()
    (job_id,) = site.plan()
    assert site.hand_out() == []

    assert ask(site, study_key) == job_id

    assert site.hand_out() == [job_id]
    assert site.job(job_id).requested_by == "users_dag/run1"


def test_asking_for_a_study_whose_job_failed_starts_it_afresh(site):
    study_key, job_id = site.planned()
    jobs.begin_attempt(site.ledger, job_id, dag_id="d", run_id="r", try_number=1)
    jobs.move(site.ledger, job_id, JobStatus.FAILED, counted=True)

    assert ask(site, study_key) == job_id

    assert (site.job(job_id).status, site.job(job_id).attempts) == (JobStatus.WAITING, 0)
    assert site.hand_out() == [job_id]


def test_a_request_for_a_study_on_hold_waits_and_goes_when_it_is_released(site):
    site.add_destination()
    study_key = site.add_study(exam_status="Pending")
    site.pacs.set_hold(study_key, True)
    job_id = ask(site, study_key)

    assert site.run(job_id).status is JobStatus.WAITING
    site.plan()
    assert (site.job(job_id).wait_reason, site.job(job_id).not_before) == (WaitReason.HOLD, FAR_FUTURE)

    site.pacs.set_hold(study_key, False)
    site.plan()
    assert site.hand_out() == [job_id]


def test_what_comes_late_to_a_requested_study_that_failed_is_requested_too(site):
    site.add_destination(facilities=("SOUTH",))
    study_key = site.add_study(exam_status="Pending")
    job_id = ask(site, study_key)
    jobs.begin_attempt(site.ledger, job_id, dag_id="d", run_id="r", try_number=1)
    jobs.move(site.ledger, job_id, JobStatus.FAILED)
    site.add_late_images(study_key)

    (newer,) = site.plan()
    plan_queue.queue(site.ledger, [study_key])

    assert site.plan() == [newer]
    assert site.run(newer).status is JobStatus.SUCCEEDED
    assert site.has_all(study_key)


def test_a_planner_that_is_quicker_makes_the_job_that_is_asked_for(site, monkeypatch):
    site.add_destination()
    study_key = site.add_study()
    insert = planned_jobs.insert_store

    def be_overtaken(*args, **values):
        monkeypatch.setattr(planned_jobs, "insert_store", insert)
        planner.observe(site.platform, site.ledger)
        planner.plan_queued(site.platform, site.ledger, now=now())
        return insert(*args, **values)

    monkeypatch.setattr(planned_jobs, "insert_store", be_overtaken)
    job_id = ask(site, study_key)

    assert job_id is not None, "None would say that all is there"
    assert site.open_jobs() == [job_id]


def test_what_can_not_be_asked_for_is_refused_by_name(site):
    site.add_destination()
    empty = site.add_study()
    site.dba("update pacs.instance set removed_at = now(), removal_reason = 'quality' where study_key = %s", empty)
    with pytest.raises(InvalidInput) as refusal:
        ask(site, empty)
    assert refusal.value.code == "study-without-instances"
    with pytest.raises(ConfigurationError, match="no destination 'nowhere'"):
        ask(site, empty, destination="nowhere")
    with pytest.raises(InvalidInput, match=r"no study with Study Instance UID 1\.2\.3"):
        request_study(
            site.platform, site.ledger, destination="vna", study_instance_uid="1.2.3", requested_by="x", now=now()
        )


# -- retry and cancel --------------------------------------------------------------------------------------------------


def to(site, job_id: int, status: JobStatus) -> None:
    """Bring a waiting job to a status by the ways there are."""
    if status in (JobStatus.RUNNING, JobStatus.RETRYING, JobStatus.SUCCEEDED, JobStatus.FAILED):
        jobs.begin_attempt(site.ledger, job_id, dag_id="archsync_archive__vna", run_id="run1", try_number=1)
    if status not in (JobStatus.RUNNING, JobStatus.WAITING):
        assert jobs.move(site.ledger, job_id, status, decided_by="somebody")


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.RETRYING, JobStatus.CANCELLED, JobStatus.SUPPRESSED])
def test_a_retried_job_starts_afresh(site, status):
    study_key, job_id = site.planned()
    to(site, job_id, status)
    site.ledger.execute("update job set attempts = 7")

    job = job_control.retry(site.ledger, job_id, actor="admin", now=now())

    assert (job.status, job.attempts, job.decided_by) == (JobStatus.WAITING, 0, "admin")
    assert site.hand_out() == [job_id]
    assert site.run(job_id, run_id="run2").status is JobStatus.SUCCEEDED
    assert site.has_all(study_key)


@pytest.mark.parametrize("status", [JobStatus.WAITING, JobStatus.READY, JobStatus.RUNNING, JobStatus.SUCCEEDED])
def test_a_job_that_needs_no_retry_is_left_alone(site, status):
    _, job_id = site.planned()
    to(site, job_id, status)

    with pytest.raises(InvalidInput) as refusal:
        job_control.retry(site.ledger, job_id, actor="admin", now=now())

    assert refusal.value.code == "not-retryable"
    assert site.job(job_id).status is status


def test_a_job_whose_work_another_has_taken_over_is_not_retried(site):
    study_key, job_id = site.planned()
    job_control.cancel(site.ledger, job_id, actor="admin", reason="later")
    site.add_late_images(study_key)
    (newer,) = site.plan()
    jobs.begin_attempt(site.ledger, newer, dag_id="d", run_id="r", try_number=1)

    with pytest.raises(InvalidInput, match=f"job {newer} has taken its work over"):
        job_control.retry(site.ledger, job_id, actor="admin", now=now())


@pytest.mark.parametrize(
    "status", [JobStatus.WAITING, JobStatus.READY, JobStatus.RUNNING, JobStatus.RETRYING, JobStatus.FAILED]
)
def test_an_open_job_is_cancelled_and_says_by_whom_and_why(site, status):
    _, job_id = site.planned()
    to(site, job_id, status)

    job = job_control.cancel(site.ledger, job_id, actor="admin", reason="wrong study")

    assert (job.status, job.decided_by, job.reason) == (JobStatus.CANCELLED, "admin", "Cancelled: wrong study")
    assert site.plan() == []
    audit = site.ledger.fetch_all("select actor, action, subject, detail from audit_event")
    assert audit == [{"actor": "admin", "action": "job.cancel", "subject": f"job {job_id}", "detail": "wrong study"}]


def test_a_job_that_is_done_is_not_cancelled(site):
    _, job_id = site.planned()
    site.run(job_id)

    with pytest.raises(InvalidInput) as refusal:
        job_control.cancel(site.ledger, job_id, actor="admin", reason="too late")
    assert refusal.value.code == "not-cancellable"


# -- Airflow's word ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("will_retry", "status"), [(True, JobStatus.RETRYING), (False, JobStatus.FAILED)])
def test_a_killed_process_shows_on_its_job(site, will_retry, status):
    _, job_id = site.planned()
    to(site, job_id, JobStatus.RUNNING)

    job_control.record_killed(site.ledger, job_id, will_retry=will_retry, try_number=1)

    job = site.job(job_id)
    assert (job.status, job.reason_code, job.attempts) == (status, "task-killed", 0)
    (attempt,) = jobs.attempts(site.ledger, job_id)
    assert (attempt.outcome, attempt.reason_code) == (status.value, "task-killed")


def test_a_killed_job_that_will_not_be_retried_gives_way_to_its_follow_up(site):
    study_key, job_id = site.planned()
    to(site, job_id, JobStatus.RUNNING)
    site.add_late_images(study_key)
    site.plan()

    job_control.record_killed(site.ledger, job_id, will_retry=False, try_number=1)
    (follow_up,) = site.plan()

    assert site.job(job_id).superseded_by == follow_up
    assert site.hand_out() == [follow_up]


def test_word_of_an_earlier_tries_death_comes_too_late(site):
    _, job_id = site.planned()
    jobs.begin_attempt(site.ledger, job_id, dag_id="archsync_archive__vna", run_id="run1", try_number=2)

    job_control.record_killed(site.ledger, job_id, will_retry=True, try_number=1)

    assert site.job(job_id).status is JobStatus.RUNNING


@pytest.mark.parametrize("status", [JobStatus.READY, JobStatus.RUNNING, JobStatus.RETRYING])
def test_marking_a_task_failed_fails_its_job(site, status):
    _, job_id = site.planned()
    to(site, job_id, status)

    job_control.record_marked(site.ledger, job_id, as_success=False, actor="airflow")

    assert (site.job(job_id).status, site.job(job_id).reason_code) == (JobStatus.FAILED, "marked-failed")


def test_marking_a_task_success_ends_its_job_without_claiming_that_it_was_sent(site):
    study_key, job_id = site.planned()
    to(site, job_id, JobStatus.RUNNING)

    job_control.record_marked(site.ledger, job_id, as_success=True, actor="airflow")

    assert (site.job(job_id).status, site.job(job_id).reason_code) == (JobStatus.CANCELLED, "marked-success")
    assert site.held(study_key) == set()
    assert site.plan() == [], "an administrator's word stands until the study changes"


def test_marking_a_task_whose_job_is_done_changes_nothing(site):
    _, job_id = site.planned()
    site.run(job_id)

    job_control.record_marked(site.ledger, job_id, as_success=False, actor="airflow")

    assert site.job(job_id).status is JobStatus.SUCCEEDED


def test_a_run_cleared_in_airflow_starts_its_failed_job_afresh(site):
    study_key, job_id = site.planned(max_attempts=1)
    to(site, job_id, JobStatus.FAILED)
    site.ledger.execute("update job set attempts = 1, first_attempt_at = now() - interval '30 days'")

    assert site.run(job_id, try_number=2).status is JobStatus.SUCCEEDED
    assert site.has_all(study_key)
    assert site.job(job_id).job_type is JobType.ARCHIVE


def test_a_cleared_job_that_meets_a_busy_archive_is_not_given_up_for_its_age(site):
    _, job_id = site.planned(max_attempts=2)
    to(site, job_id, JobStatus.FAILED)
    site.ledger.execute("update job set attempts = 2, first_attempt_at = now() - interval '30 days'")
    site.archives[0].behave(Rudeness(statuses=(ChosenStatus(status=0xA700, nth=1, times=9),)))

    ended = site.run(job_id, try_number=2)

    assert ended.status is JobStatus.RETRYING
    assert site.job(job_id).next_attempt_at - now() < timedelta(seconds=10)


# -- the front ---------------------------------------------------------------------------------------------------------


def queue_of(site, number: int, **destination) -> list[int]:
    """So many studies that wait at one archive of which one runs at a time; their jobs, oldest first."""
    site.add_destination(concurrency=1, **destination)
    keys = [site.add_study(1) for _ in range(number)]
    assert len(keys) == number
    return site.plan()


def order(site) -> list[int]:
    """The jobs in the order in which they are handed out from now on."""
    handed = []
    while batch := site.hand_out():
        handed += batch
        for job_id in batch:
            site.run(job_id)
    return handed


def test_a_job_in_front_goes_before_all_others_of_its_destination_stat_ones_too(site):
    made = queue_of(site, 3)
    site.ledger.execute("update job set priority = 0 where job_id = %s", [made[1]])

    job_control.move_to_front(site.ledger, made[2], actor="admin")

    assert order(site) == [made[2], made[1], made[0]]


def test_what_is_moved_later_goes_before_what_was_moved_earlier(site):
    made = queue_of(site, 3)

    for job_id in (made[2], made[1]):
        job_control.move_to_front(site.ledger, job_id, actor="admin")

    assert order(site) == [made[1], made[2], made[0]]


def test_moving_twice_moves_once(site):
    made = queue_of(site, 3)
    before = [job_control.move_to_front(site.ledger, made[2], actor="admin").urgency for _ in range(3)]

    assert len(set(before)) == 1
    events = site.ledger.fetch_all("select subject from audit_event where action = 'job.front'")
    assert [e["subject"] for e in events] == [f"job {made[2]}"]


def test_jobs_moved_together_keep_their_order(site):
    made = queue_of(site, 4)
    for _ in range(2):
        for job_id in (made[3], made[2]):
            job_control.move_to_front(site.ledger, job_id, actor="admin", together=made[2:])

    assert order(site) == [made[2], made[3], made[0], made[1]]


def test_a_job_in_front_never_passes_its_lane_but_takes_along_who_holds_it_back(site):
    made = queue_of(site, 3)
    held_back = made[2]
    # The same study once more, to be sent after it.
    row = site.ledger.fetch_one(
        "insert into job (job_type, destination_id, priority, patient_key, study_key, study_instance_uid)"
        " select 'kos', destination_id, 2, patient_key, study_key, study_instance_uid from job where job_id = %s"
        " returning job_id",
        [held_back],
    )
    follower = row["job_id"]

    job_control.move_to_front(site.ledger, follower, actor="admin")

    assert site.hand_out()[0] == held_back
    (event,) = site.ledger.fetch_all("select detail from audit_event where action = 'job.front'")
    assert event["detail"] == f"with job {held_back}"


def test_a_settling_job_that_is_moved_to_the_front_starts_now(site):
    site.add_destination(settle_s=30.0, settle_max_s=60.0)
    site.add_study()
    (job_id,) = site.plan()
    assert site.hand_out() == []

    job_control.move_to_front(site.ledger, job_id, actor="admin")

    assert site.hand_out() == [job_id]


def test_planning_again_leaves_a_job_in_front(site):
    made = queue_of(site, 2)
    job_control.move_to_front(site.ledger, made[1], actor="admin")
    site.add_late_images(str(site.job(made[1]).study_key))
    site.plan()

    assert order(site)[0] == made[1]


def test_a_study_on_hold_stays_on_hold_in_front(site):
    site.add_destination()
    study_key = site.add_study()
    (job_id,) = site.plan()
    site.pacs.set_hold(study_key, True)
    site.plan()

    job_control.move_to_front(site.ledger, job_id, actor="admin")

    assert site.job(job_id).wait_reason is WaitReason.HOLD
    assert site.hand_out() == []


def test_only_what_waits_is_moved_to_the_front(site):
    _, job_id = site.planned()
    site.hand_out()

    with pytest.raises(InvalidInput, match="only waiting jobs") as refused:
        job_control.move_to_front(site.ledger, job_id, actor="admin")
    assert refused.value.code == "not-movable"


# -- what an attempt heard ---------------------------------------------------------------------------------------------


def test_an_attempt_tells_whom_it_talked_to_and_what_it_heard(site):
    _, job_id = site.planned()
    site.archives[0].behave(Rudeness(statuses=(ChosenStatus(status=0xA700, nth=1, times=9),)))
    site.run(job_id)
    site.archives[0].behave(Rudeness())
    site.run(job_id, try_number=2)

    refused, stored = jobs.attempts(site.ledger, job_id)
    host, port = site.archives[0].address
    assert refused.peer == stored.peer == f"{site.archives[0].ae_title} at {host}:{port}"
    assert (refused.status_code, stored.status_code) == ("A700", "0000")
