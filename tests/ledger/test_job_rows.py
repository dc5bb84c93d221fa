"""Jobs as the ledger keeps them: made once, claimed once, moved only as the table of transitions allows."""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from archsync.core.job import DONE, TRANSITIONS, JobStatus, JobType, KnownJob, WaitReason
from archsync.core.naming import DagKind
from archsync.core.planning import FAR_FUTURE
from archsync.core.study import Priority
from archsync.errors import InvalidInput
from archsync.ledger import dispatching, jobs, planned_jobs
from archsync.ledger.database import Ledger
from archsync.ledger.jobs import JobFilter


@pytest.fixture
def put(sql):
    """Puts a job into a status whatever the rules say; keyword arguments set further columns."""

    def change(job_id: int, status: JobStatus, **columns) -> None:
        sql("update job set status = %s where job_id = %s", status.value, job_id)
        for column, value in columns.items():
            sql(f"update job set {column} = %s where job_id = %s", value, job_id)

    return change


def test_a_job_comes_back_as_it_was_made(ledger, destination, add_job, make_study):
    study = make_study(instances=3)
    job_id = add_job(
        study, priority=Priority.STAT, wait_reason=WaitReason.HOLD, not_before=FAR_FUTURE, requested_by="me"
    )

    job = jobs.get(ledger, job_id)

    assert (job.job_type, job.status, job.destination, job.priority) == (
        JobType.ARCHIVE, JobStatus.WAITING, "vna", Priority.STAT,
    )  # fmt: skip
    assert (job.study_key, job.patient_key, job.study_instance_uid, job.facility_id) == ("s1", "p1", "1.2.1", "CITY")
    assert (job.content_digest, job.instances_total, job.bytes_total) == (study.content_digest(), 3, 3000)
    assert (job.wait_reason, job.not_before, job.requested_by) == (WaitReason.HOLD, FAR_FUTURE, "me")
    (known,) = known_jobs(ledger, destination)
    assert (known.not_before, known.wait_reason, known.requested_by) == (FAR_FUTURE, WaitReason.HOLD, "me")


def test_a_job_that_does_not_exist_is_named(ledger):
    with pytest.raises(InvalidInput, match="there is no job 4711"):
        jobs.get(ledger, 4711)


def test_of_many_planners_one_makes_the_job(ledger, ledger_dsn, destination, make_study, make_work):
    study = make_study()

    def make(_: int) -> int | None:
        with Ledger(ledger_dsn) as own:
            return planned_jobs.insert_store(own, JobType.ARCHIVE, destination.destination_id, study, make_work(study))

    with ThreadPoolExecutor(8) as pool:
        made = [job_id for job_id in pool.map(make, range(16)) if job_id is not None]

    assert len(made) == 1
    assert [listed.job.job_id for listed in jobs.listing(ledger, JobFilter())] == made


def test_a_study_may_have_one_queued_job_at_each_destination(
    ledger, destination, add_destination, make_study, make_work
):
    other = add_destination("other")
    study = make_study()

    for where in (destination, other):
        made = planned_jobs.insert_store(ledger, JobType.ARCHIVE, where.destination_id, study, make_work(study))
        again = planned_jobs.insert_store(ledger, JobType.DICOM, where.destination_id, study, make_work(study))
        assert made is not None
        assert again is None


def test_a_running_job_does_not_keep_a_follow_up_from_being_queued(ledger, add_job, put):
    put(add_job(), JobStatus.RUNNING)

    assert add_job(job_type=JobType.DICOM)


def known_jobs(ledger, destination) -> list[KnownJob]:
    """What the planner sees of study s1 at a destination."""
    destination_id = destination.destination_id
    return planned_jobs.known_jobs(ledger, [destination_id], ["s1"]).get((destination_id, "s1"), [])


# -- claiming ----------------------------------------------------------------------------------------------------------


def claim(ledger, destination, limit=100, priority=Priority.ROUTINE) -> list[int]:
    claimed = [dispatching.claim_due(ledger, destination.destination_id, kind, priority, limit) for kind in DagKind]
    return sorted(job_id for of_kind in claimed for job_id in of_kind)


def test_the_most_urgent_priority_comes_first_and_the_oldest_of_it(ledger, destination, add_job, make_study):
    routine = add_job(make_study("s1"))
    stat = [add_job(make_study(f"s{n}"), priority=Priority.STAT) for n in (2, 3, 4)]

    assert dispatching.most_urgent_due(ledger)[destination.destination_id, DagKind.ARCHIVE].urgency == Priority.STAT
    assert claim(ledger, destination, limit=2, priority=Priority.STAT) == stat[:2]
    assert claim(ledger, destination, limit=2, priority=Priority.STAT) == stat[2:]
    due = dispatching.most_urgent_due(ledger)[destination.destination_id, DagKind.ARCHIVE]
    assert (due.urgency, due.handed_out) == (Priority.ROUTINE, 3)
    assert claim(ledger, destination) == [routine]
    assert dispatching.most_urgent_due(ledger) == {}


def test_a_claimed_job_is_ready_and_forgets_the_run_before(ledger, destination, add_job, put):
    job_id = add_job()
    put(job_id, JobStatus.WAITING, dag_id="d", run_id="r", try_number=3, wait_reason="queue")

    claim(ledger, destination)

    job = jobs.get(ledger, job_id)
    assert (job.status, job.wait_reason, job.dag_id, job.run_id, job.try_number) == (JobStatus.READY, *[None] * 4)
    assert job.dispatched_at is not None


def test_a_job_whose_time_has_not_come_is_not_due(ledger, destination, add_job):
    add_job(not_before=datetime.now(UTC) + timedelta(hours=1))

    assert dispatching.most_urgent_due(ledger) == {}
    assert claim(ledger, destination) == []


def test_an_earlier_job_on_the_study_holds_a_later_one_back_until_it_is_done(ledger, destination, add_job, put):
    earlier = add_job()
    # The unique index allows one queued store job only; a change to the archived study may wait before it.
    put(earlier, JobStatus.RUNNING, job_type="kos")
    later = add_job(job_type=JobType.DICOM)
    for status in JobStatus:
        put(earlier, status, not_before=FAR_FUTURE)
        is_free = status in DONE

        assert jobs.blocker(ledger, later) == (None if is_free else earlier), status
        listed = {item.job.job_id: item.blocked_by for item in jobs.listing(ledger, JobFilter())}
        assert listed[later] == (None if is_free else earlier), status
        assert claim(ledger, destination) == ([later] if is_free else []), status
        put(later, JobStatus.WAITING)


def test_other_studies_of_the_patient_and_other_patients_go_in_parallel(ledger, destination, add_job, put, make_study):
    put(add_job(make_study("s1", patient_key="p1")), JobStatus.RUNNING)
    same_patient = add_job(make_study("s2", patient_key="p1"))
    other_patient = add_job(make_study("s3", patient_key="p2"))

    assert claim(ledger, destination) == [same_patient, other_patient]


def test_an_adt_waits_for_all_earlier_jobs_of_its_patient_and_all_later_wait_for_it(
    ledger, destination, add_job, put, make_study
):
    before = add_job(make_study("s1"))
    adt = add_job(make_study("s2"))
    put(adt, JobStatus.WAITING, job_type="adt", study_key=None)
    after = add_job(make_study("s3"))
    elsewhere = add_job(make_study("s4", patient_key="p2"))

    assert claim(ledger, destination) == [before, elsewhere]
    assert (jobs.blocker(ledger, adt), jobs.blocker(ledger, after)) == (before, adt)
    put(before, JobStatus.SUCCEEDED)
    assert claim(ledger, destination) == [adt]
    put(adt, JobStatus.SUCCEEDED)
    assert claim(ledger, destination) == [after]


def test_no_job_is_handed_out_twice(ledger, ledger_dsn, destination, add_job, make_study):
    made = [add_job(make_study(f"s{n}")) for n in range(60)]

    def take(_: int) -> list[int]:
        with Ledger(ledger_dsn) as own:
            taken = []
            while claimed := claim(own, destination, limit=3):
                taken.extend(claimed)
            return taken

    with ThreadPoolExecutor(6) as pool:
        claimed = Counter(itertools.chain.from_iterable(pool.map(take, range(6))))

    assert claimed == dict.fromkeys(made, 1)


def test_a_job_that_another_dispatcher_is_taking_is_passed_by(ledger, ledger_dsn, destination, add_job, make_study):
    first, second = add_job(make_study("s1")), add_job(make_study("s2"))
    with Ledger(ledger_dsn) as other, other.transaction():
        assert claim(other, destination, limit=1) == [first]
        assert claim(ledger, destination, limit=2) == [second]


# -- moving ------------------------------------------------------------------------------------------------------------


def test_a_status_changes_only_as_the_table_allows(ledger, add_job, put):
    job_id = add_job()
    allowed = set()
    for current, new in itertools.product(JobStatus, JobStatus):
        put(job_id, current)
        moved = jobs.move(ledger, job_id, new)
        assert jobs.get(ledger, job_id).status is (new if moved else current)
        if moved:
            allowed.add((current, new))

    assert allowed == {(current, new) for current, following in TRANSITIONS.items() for new in following}


def test_a_job_going_back_to_the_queue_absorbs_its_follow_up_with_its_urgency_and_request(ledger, add_job, put):
    failed = add_job()
    put(failed, JobStatus.FAILED)
    follow_up = add_job(job_type=JobType.DICOM, priority=Priority.STAT, requested_by="somebody")

    assert jobs.move(ledger, failed, JobStatus.WAITING)

    absorbed, back = jobs.get(ledger, follow_up), jobs.get(ledger, failed)
    assert (absorbed.status, absorbed.superseded_by) == (JobStatus.CANCELLED, failed)
    assert (back.status, back.priority, back.requested_by) == (JobStatus.WAITING, Priority.STAT, "somebody")


@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.WAITING])
def test_a_job_that_may_not_go_back_absorbs_nothing(ledger, add_job, put, status):
    first = add_job()
    put(first, JobStatus.SUCCEEDED)
    follow_up = add_job(job_type=JobType.DICOM)
    mover = first if status is JobStatus.SUCCEEDED else follow_up

    assert not jobs.move(ledger, mover, JobStatus.WAITING)

    assert jobs.get(ledger, follow_up).status is JobStatus.WAITING


def test_an_attempt_that_lost_its_job_absorbs_nothing(ledger, add_job, put):
    job_id = add_job()
    stale = jobs.begin_attempt(ledger, job_id, dag_id="d", run_id="r", try_number=1)
    jobs.begin_attempt(ledger, job_id, dag_id="d", run_id="r", try_number=2)
    follow_up = add_job(job_type=JobType.DICOM)

    assert not jobs.move(ledger, job_id, JobStatus.WAITING, attempt_id=stale)

    assert jobs.get(ledger, follow_up).status is JobStatus.WAITING
    assert jobs.get(ledger, job_id).status is JobStatus.RUNNING


def test_moves_count_attempts_and_start_the_clock_of_giving_up_anew(ledger, add_job):
    job_id = add_job()
    attempt = jobs.begin_attempt(ledger, job_id, dag_id="d", run_id="r", try_number=1)
    began = jobs.get(ledger, job_id).first_attempt_at
    jobs.move(ledger, job_id, JobStatus.RETRYING, attempt_id=attempt, counted=True)
    job = jobs.get(ledger, job_id)
    assert (job.attempts, job.first_attempt_at) == (1, began)

    jobs.move(ledger, job_id, JobStatus.WAITING, wait_reason=WaitReason.DESTINATION_DOWN)
    job = jobs.get(ledger, job_id)
    assert (job.attempts, job.first_attempt_at) == (1, None), "a job that waits for its archive is not failing"

    jobs.begin_attempt(ledger, job_id, dag_id="d", run_id="r", try_number=2)
    jobs.move(ledger, job_id, JobStatus.FAILED, counted=True)
    jobs.move(ledger, job_id, JobStatus.WAITING, reset_attempts=True)
    assert jobs.get(ledger, job_id).attempts == 0


def test_a_failed_job_that_is_run_again_starts_afresh(ledger, add_job):
    job_id = add_job()
    jobs.begin_attempt(ledger, job_id, dag_id="d", run_id="r", try_number=1)
    jobs.move(ledger, job_id, JobStatus.FAILED, counted=True)

    jobs.begin_attempt(ledger, job_id, dag_id="d", run_id="r", try_number=2)

    job = jobs.get(ledger, job_id)
    assert (job.status, job.attempts, job.finished_at) == (JobStatus.RUNNING, 0, None)


def test_closing_and_superseding_leave_running_jobs_alone(ledger, add_job, put, make_study):
    numbers = [add_job(make_study(f"s{n}")) for n in range(4)]
    for job_id, status in zip(
        numbers, [JobStatus.RUNNING, JobStatus.RETRYING, JobStatus.FAILED, JobStatus.WAITING], strict=True
    ):
        put(job_id, status)

    planned_jobs.supersede_failed(ledger, numbers[:3], by=numbers[3])
    planned_jobs.close_idle(ledger, numbers, reason="Nothing is left to do.")

    assert [jobs.get(ledger, n).status.value for n in numbers] == ["running", "retrying", "cancelled", "cancelled"]
    assert [jobs.get(ledger, n).superseded_by for n in numbers] == [None, None, numbers[3], None]


def test_who_superseded_a_request_keeps_it(ledger, add_job, put):
    asked = add_job(requested_by="somebody")
    put(asked, JobStatus.FAILED)
    follow_up = add_job(job_type=JobType.DICOM)

    planned_jobs.supersede_failed(ledger, [asked], by=follow_up)

    assert jobs.get(ledger, follow_up).requested_by == "somebody"


# -- what the planner sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actor", ["admin", "archsync"])
def test_a_cancellation_is_known_while_it_is_the_latest_word_whoever_said_it(ledger, destination, add_job, actor):
    job_id = add_job()
    jobs.move(ledger, job_id, JobStatus.CANCELLED, reason_code="cancelled", decided_by=actor)
    known = known_jobs(ledger, destination)
    assert [(j.job_id, j.status) for j in known] == [(job_id, JobStatus.CANCELLED)]

    later = add_job()
    known = known_jobs(ledger, destination)
    assert [j.job_id for j in known] == [later]


def test_what_we_closed_ourselves_is_no_cancellation(ledger, destination, add_job, put):
    planned_jobs.close_idle(ledger, [add_job()], reason="Nothing is left to do.")
    failed = add_job()
    put(failed, JobStatus.FAILED)
    absorbed = add_job()
    jobs.move(ledger, failed, JobStatus.WAITING)
    planned_jobs.close_idle(ledger, [failed], reason="Nothing is left to do.")

    assert jobs.get(ledger, absorbed).status is JobStatus.CANCELLED
    assert known_jobs(ledger, destination) == []


def test_a_superseded_job_that_is_retried_and_cancelled_again_is_an_administrators(ledger, destination, add_job, put):
    failed = add_job()
    put(failed, JobStatus.FAILED)
    absorbed = add_job()
    jobs.move(ledger, failed, JobStatus.WAITING)
    put(failed, JobStatus.SUCCEEDED)

    jobs.move(ledger, absorbed, JobStatus.WAITING)
    jobs.move(ledger, absorbed, JobStatus.CANCELLED, reason_code="cancelled", decided_by="admin")

    assert [j.job_id for j in known_jobs(ledger, destination)] == [absorbed]


# -- listing -----------------------------------------------------------------------------------------------------------


def test_the_listing_filters_by_everything_and_pages_by_number(ledger, add_job, put, make_study):
    numbers = [add_job(make_study(f"s{n}")) for n in range(6)]
    put(numbers[0], JobStatus.FAILED)
    put(numbers[1], JobStatus.SUCCEEDED, job_type="dicom")

    def listed(**wanted) -> list[int]:
        return [item.job.job_id for item in jobs.listing(ledger, JobFilter(**wanted))]

    assert listed() == numbers[::-1]
    assert listed(statuses=[JobStatus.FAILED, JobStatus.SUCCEEDED]) == [numbers[1], numbers[0]]
    assert listed(job_types=[JobType.DICOM]) == [numbers[1]]
    assert listed(destinations=["elsewhere"]) == []
    assert listed(destinations=["vna"], study_instance_uid="1.2.3") == [numbers[3]]
    first = listed(limit=2)
    assert first == numbers[:3:-1]
    assert listed(limit=2, before_job_id=first[-1]) == [numbers[3], numbers[2]]
    created_at = jobs.get(ledger, numbers[2]).created_at
    assert listed(since=created_at) == numbers[:1:-1]
    assert listed(until=created_at) == [numbers[1], numbers[0]]


def test_refreshing_touches_only_a_queued_job(ledger, add_job, put, make_study, make_work):
    job_id = add_job()
    work = replace(make_work(make_study(instances=5)), priority=Priority.URGENT)
    put(job_id, JobStatus.RUNNING)
    planned_jobs.refresh_store(ledger, job_id, work)
    assert jobs.get(ledger, job_id).instances_total == 2

    put(job_id, JobStatus.READY)
    planned_jobs.refresh_store(ledger, job_id, work)
    assert (jobs.get(ledger, job_id).instances_total, jobs.get(ledger, job_id).priority) == (5, Priority.URGENT)
