"""Which jobs go to Airflow, and what becomes of those that got lost there."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.core.naming import DagKind
from archsync.core.study import Priority
from archsync.errors import PeerUnavailable
from archsync.ledger import destinations, dispatching, jobs
from archsync.ledger.jobs import JobFilter
from archsync.services import breaker, dispatch


def test_a_destination_gets_its_quota_the_oldest_first(site):
    site.add_destination(concurrency=1)
    for _ in range(6):
        site.add_study(1)
    numbers = site.plan()

    assert site.hand_out() == numbers[:4]
    assert site.hand_out() == []
    site.run(numbers[0])
    assert site.hand_out() == numbers[4:5]


def test_an_urgent_study_passes_the_others_although_the_quota_is_out(site):
    site.add_destination(concurrency=1)
    for _ in range(5):
        site.add_study(1)
    numbers = site.plan()
    assert site.hand_out() == numbers[:4]
    site.add_study(1, priority=Priority.STAT)
    stat = max(site.plan())

    assert site.hand_out() == [stat]
    waiting = site.run(numbers[0])
    assert (waiting.status, waiting.code) == (JobStatus.WAITING, "queue"), "a routine job lets it pass"
    assert site.run(stat, run_id="run2").status is JobStatus.SUCCEEDED
    assert site.run(numbers[1], run_id="run3").status is JobStatus.SUCCEEDED


def test_jobs_are_handed_to_the_dag_of_their_destination(site):
    site.add_destination(name="north")
    site.add_study(1)
    (job_id,) = site.plan()

    handed = dispatch.hand_out(site.ledger, now=datetime.now(UTC), is_paused=lambda kind, name: False)

    assert handed == [dispatch.HandedOut(DagKind.ARCHIVE, "north", job_id)]


@pytest.mark.parametrize("paused", [True, None])
def test_a_paused_or_unknown_dag_gets_nothing_and_is_looked_at_soon_again(site, paused):
    _, job_id = site.planned()
    now = datetime.now(UTC)

    assert site.hand_out(now=now, paused=paused) == []

    assert not dispatching.work_is_waiting(site.ledger)
    assert dispatching.next_wake(site.ledger) == now + timedelta(seconds=dispatch.PAUSED_POLL_S)
    suspended = {kind: h.is_suspended for (_, kind), h in destinations.health(site.ledger).items()}
    assert suspended[DagKind.ARCHIVE] is bool(paused)
    assert site.hand_out() == [job_id], "it was unpaused"


def test_a_closed_send_window_opens_by_the_clock(site):
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(days=1)
    _, job_id = site.planned(send_window="22:00-06:00", time_zone="UTC")

    assert site.hand_out(now=noon) == []
    assert dispatching.next_wake(site.ledger) == noon + timedelta(hours=10)
    assert site.hand_out(now=noon + timedelta(hours=10)) == [job_id]


def test_a_disabled_destination_gets_nothing_and_says_why(site):
    _, job_id = site.planned(enabled=False)

    assert site.hand_out() == []
    assert explained(site)[job_id].wait_reason is WaitReason.DISABLED


def test_one_closed_destination_does_not_hold_the_others(site):
    site.add_destination(name="closed", enabled=False)
    site.add_destination(name="open")
    site.add_study(1)
    site.plan()

    assert [site.job(n).destination for n in site.hand_out()] == ["open"]


# -- kinds -------------------------------------------------------------------------------------------------------------


def make_it(site, job_id: int, job_type: JobType, patient_key: str = "another") -> int:
    """Have a job be one of another kind, for a patient of its own."""
    site.ledger.execute(
        "update job set job_type = %(type)s, patient_key = %(patient)s,"
        " study_key = case when %(type)s <> 'adt' then study_key end where job_id = %(job_id)s",
        {"type": job_type.value, "patient": patient_key, "job_id": job_id},
    )
    return job_id


@pytest.fixture
def one_of_each(site) -> dict[DagKind, int]:
    """A due job of each kind at one archive, on different studies and patients."""
    site.add_destination(concurrency=2, adt_concurrency=1)
    for _ in DagKind:
        site.add_study(1)
    images, note, message = site.plan()
    make_it(site, note, JobType.KOS, "p2")
    make_it(site, message, JobType.ADT, "p3")
    return {DagKind.ARCHIVE: images, DagKind.IOCM: note, DagKind.ADT: message}


def hand_out(site, *, paused: DagKind | None = None, now: datetime | None = None) -> dict[DagKind, int]:
    handed = dispatch.hand_out(
        site.ledger, now=now or datetime.now(UTC), is_paused=lambda kind, destination: kind is paused
    )
    return {item.kind: item.job_id for item in handed}


def test_each_kind_of_job_goes_to_its_own_dag(site, one_of_each):
    assert hand_out(site) == one_of_each


@pytest.mark.parametrize("paused", DagKind)
def test_pausing_the_dag_of_one_kind_stops_no_other(site, one_of_each, paused):
    handed = hand_out(site, paused=paused)

    assert handed == {kind: job_id for kind, job_id in one_of_each.items() if kind is not paused}
    assert explained(site)[one_of_each[paused]].wait_reason is WaitReason.SUSPENDED
    assert not dispatching.work_is_waiting(site.ledger)


def test_an_adt_receiver_that_is_down_stops_nothing_else(site, one_of_each):
    (destination,) = destinations.all_destinations(site.ledger)
    for _ in range(destination.breaker_threshold):
        breaker.record_failure(site.ledger, destination, DagKind.ADT, PeerUnavailable("refused"), datetime.now(UTC))

    assert set(hand_out(site)) == {DagKind.ARCHIVE, DagKind.IOCM}
    assert explained(site)[one_of_each[DagKind.ADT]].wait_reason is WaitReason.DESTINATION_DOWN
    assert site.run(one_of_each[DagKind.ARCHIVE]).status is JobStatus.SUCCEEDED


def test_an_archive_that_is_down_stops_images_and_notes_as_one_incident_and_not_adt(site, one_of_each):
    (destination,) = destinations.all_destinations(site.ledger)
    for kind in (DagKind.ARCHIVE, DagKind.IOCM):
        breaker.record_failure(site.ledger, destination, kind, PeerUnavailable("refused"), datetime.now(UTC))

    assert destination.breaker_threshold == 2
    assert set(hand_out(site)) == {DagKind.ADT}


def test_a_closed_send_window_holds_images_and_notes_and_not_adt(site, one_of_each):
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(days=1)
    (destination,) = destinations.all_destinations(site.ledger)
    destinations.update(site.ledger, replace(destination, send_window="22:00-06:00", time_zone="UTC"))

    assert set(hand_out(site, now=noon)) == {DagKind.ADT}
    assert set(hand_out(site, now=noon + timedelta(hours=11))) == {DagKind.ARCHIVE, DagKind.IOCM}


def test_an_urgent_note_lets_routine_images_wait_unless_its_dag_is_paused(site, one_of_each):
    site.ledger.execute(
        "update job set priority = %s where job_id = %s", [int(Priority.STAT), one_of_each[DagKind.IOCM]]
    )

    assert set(hand_out(site, paused=DagKind.IOCM)) == {DagKind.ARCHIVE, DagKind.ADT}
    assert site.run(one_of_each[DagKind.ARCHIVE]).status is JobStatus.SUCCEEDED
    site.add_study(1)
    later = max(site.plan())
    site.ledger.execute("update destination_health set is_suspended = false, look_again_at = now()")
    assert hand_out(site) == {DagKind.IOCM: one_of_each[DagKind.IOCM]}, "the images come with the next call"
    assert site.run(later, run_id="run2").code == "queue"


def explained(site) -> dict[int, dispatch.ExplainedJob]:
    listed = jobs.listing(site.ledger, JobFilter())
    return {e.job.job_id: e for e in dispatch.explain(site.ledger, listed, now=datetime.now(UTC))}


def test_every_waiting_job_says_why(site):
    site.add_destination(name="vna", settle_s=30.0, settle_max_s=60.0)
    settling = site.add_study(1)
    held = site.add_study(1)
    site.pacs.set_hold(held, True)
    site.plan()
    jobs_by_study = {e.job.study_key: e for e in explained(site).values()}

    assert jobs_by_study[settling].wait_reason is WaitReason.SETTLING
    assert jobs_by_study[held].wait_reason is WaitReason.HOLD


# -- sweeping ----------------------------------------------------------------------------------------------------------


def age(site, seconds: int) -> None:
    for column in ("dispatched_at", "lease_until", "next_attempt_at", "updated_at"):
        site.ledger.execute(f"update job set {column} = {column} - make_interval(secs => {seconds})")


def test_a_key_that_never_became_a_run_is_handed_out_again(site):
    _, job_id = site.planned()
    site.hand_out()
    age(site, 600)

    assert dispatch.sweep(site.ledger, run_state=lambda dag, run: pytest.fail("there is no run to ask about")) == 1
    assert site.hand_out() == [job_id]


@pytest.mark.parametrize(
    ("state", "is_put_back"),
    [(None, True), ("success", True), ("failed", True), ("running", False), ("queued", False)],
)
@pytest.mark.parametrize("status", [JobStatus.READY, JobStatus.RUNNING, JobStatus.RETRYING])
def test_a_job_whose_run_is_over_or_gone_is_put_back_and_one_whose_run_lives_is_not(site, status, state, is_put_back):
    _, job_id = site.planned()
    site.hand_out()
    dispatching.record_run_seen(site.ledger, job_id, dag_id="archsync_archive__vna", run_id="run1")
    if status is not JobStatus.READY:
        jobs.begin_attempt(site.ledger, job_id, dag_id="archsync_archive__vna", run_id="run1", try_number=1)
    if status is JobStatus.RETRYING:
        jobs.move(site.ledger, job_id, JobStatus.RETRYING, next_attempt_at=datetime.now(UTC))
    age(site, 600)
    asked = []

    put_back = dispatch.sweep(site.ledger, run_state=lambda dag, run: asked.append((dag, run)) or state)

    assert asked == [("archsync_archive__vna", "run1")]
    assert put_back == int(is_put_back)
    assert site.job(job_id).status is (JobStatus.WAITING if is_put_back else status)


def test_an_attempt_that_begins_while_airflow_is_asked_keeps_its_job(site):
    _, job_id = site.planned()
    jobs.begin_attempt(site.ledger, job_id, dag_id="archsync_archive__vna", run_id="run1", try_number=1)
    age(site, 600)

    def answer_late(dag_id: str, run_id: str) -> str:
        jobs.begin_attempt(site.ledger, job_id, dag_id="users_dag", run_id="run2", try_number=1)
        return "failed"

    assert dispatch.sweep(site.ledger, run_state=answer_late) == 0
    assert site.job(job_id).status is JobStatus.RUNNING


def test_a_swept_job_sends_only_what_is_missing(site):
    study_key, job_id = site.planned(3)
    site.hand_out()
    jobs.begin_attempt(site.ledger, job_id, dag_id="archsync_archive__vna", run_id="run1", try_number=1)
    age(site, 600)
    dispatch.sweep(site.ledger, run_state=lambda dag, run: None)

    assert site.hand_out() == [job_id]
    assert site.run(job_id, run_id="run2").status is JobStatus.SUCCEEDED
    assert site.has_all(study_key)
