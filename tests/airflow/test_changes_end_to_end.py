"""Changes after archiving, through a real Airflow: what the archive shows in the end is what the platform says."""

from __future__ import annotations

import json

import pytest

from archsync.core.job import JobStatus, JobType
from archsync.core.study import ExamStatus, RemovalReason
from archsync.ledger import jobs
from archsync.ledger.jobs import JobFilter

pytestmark = pytest.mark.timeout(300)

DONE = (JobStatus.SUCCEEDED, JobStatus.CANCELLED, JobStatus.SUPPRESSED)


@pytest.fixture(scope="module", autouse=True)
def changing(stack):
    stack.add_destination("vna9", honours_changes=True)
    for kind in ("archive", "iocm", "adt"):
        stack.wait_until_parsed(f"archsync_{kind}__vna9")


def archive_of(stack):
    return stack.archives["vna9"]


def add_archived(stack, **values) -> str:
    study_key = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED, **values)
    stack.wait_for_job(study_key, "vna9", JobStatus.SUCCEEDED)
    return study_key


def shown_in(stack) -> dict[str, int]:
    """Images that the archive shows, by the study in which they lie there."""
    notes = {a.uid for a in archive_of(stack).arrivals if a.kind == "note"}
    found: dict[str, int] = {}
    for uid, shown in archive_of(stack).shown().items():
        if uid in notes:
            continue
        found[shown.study_instance_uid] = found.get(shown.study_instance_uid, 0) + 1
    return found


def study_row(stack, study_key: str):
    from archsync.platformdb.reader import Platform

    with Platform.from_dsn(stack.installation.platform_dsn) as platform:
        return platform.fetch_studies([study_key]).studies[0]


def jobs_of_type(stack, job_type: JobType) -> list[jobs.Job]:
    with stack.ledger() as ledger:
        listed = jobs.listing(ledger, JobFilter(job_types=[job_type], destinations=["vna9"]))
    return [item.job for item in reversed(listed)]


def wait_until_done(stack, job_type: JobType, count: int) -> list[jobs.Job]:
    """Wait until so many jobs of a type are done at the archive."""

    def done():
        found = jobs_of_type(stack, job_type)
        return found if len(found) >= count and all(j.status in DONE for j in found) else None

    return stack.wait_for(done, 120, lambda: [(j.job_id, j.status, j.reason) for j in jobs_of_type(stack, job_type)])


def test_a_split_study_gets_its_replacements_and_then_the_note(stack) -> None:
    study_key = add_archived(stack)
    uid = study_row(stack, study_key).study_instance_uid
    before = shown_in(stack)[uid]
    target = stack.platform.split_study(study_key, instances=2)
    change = wait_until_done(stack, JobType.IOCM, 1)[-1]

    assert change.status is JobStatus.SUCCEEDED
    assert change.run_id is None, "a change has no run of its own"
    with stack.ledger() as ledger:
        steps = jobs.steps(ledger, change.job_id)
    assert [(s.job_type, s.status) for s in steps][-1] == (JobType.KOS, JobStatus.SUCCEEDED)
    assert {s.study_key for s in steps} == {study_key, target}
    target_uid = study_row(stack, target).study_instance_uid
    counts = shown_in(stack)
    assert (counts[uid], counts[target_uid]) == (before - 2, 2)
    assert not set(archive_of(stack).rejected) & set(archive_of(stack).shown())


def test_a_note_that_is_refused_shows_why_and_is_sent_again_by_clear(stack) -> None:
    from archsync.simulate.archive import Rudeness

    study_key = add_archived(stack)
    archive_of(stack).behave(Rudeness(answer_every_store=0xA773))
    try:
        stack.platform.remove_instances(study_key, 1, reason=RemovalReason.PATIENT_SAFETY)

        def failed():
            found = [j for j in jobs_of_type(stack, JobType.KOS) if j.study_key == study_key]
            return found[-1] if found and found[-1].status is JobStatus.FAILED else None

        step = stack.wait_for(failed, 90, lambda: jobs_of_type(stack, JobType.KOS))
        assert "A773" in step.reason
        with stack.ledger() as ledger:
            assert jobs.get(ledger, step.parent_job_id).status is JobStatus.FAILED
    finally:
        archive_of(stack).behave(None)
    stack.clear(step)

    def succeeded():
        with stack.ledger() as ledger:
            return jobs.get(ledger, step.parent_job_id).status is JobStatus.SUCCEEDED

    stack.wait_for(succeeded, 90, lambda: jobs_of_type(stack, JobType.KOS))
    notes = [a for a in archive_of(stack).arrivals if a.kind == "note"]
    assert notes[-1].digest == notes[-2].digest, "resent as it was built"


def test_an_identifier_changes_before_images_come_under_it(stack) -> None:
    study_key = add_archived(stack)
    study = study_row(stack, study_key)
    before = len(jobs_of_type(stack, JobType.ADT))
    stack.platform.change_mrn(study.patient.patient_key, "CHANGED-1")
    stack.platform.add_late_series(study_key)
    wait_until_done(stack, JobType.ADT, before + 1)
    stack.wait_for_job(study_key, "vna9", JobStatus.SUCCEEDED)

    def all_under_the_new() -> bool:
        ids = {
            s.patient_id for s in archive_of(stack).shown().values() if s.study_instance_uid == study.study_instance_uid
        }
        return ids == {"CHANGED-1"}

    stack.wait_for(all_under_the_new, 60, lambda: "images under another identifier")
    assert not archive_of(stack).rejected.keys() & archive_of(stack).shown().keys()


def test_pausing_the_adt_dag_keeps_messages_back_and_the_job_says_so(stack) -> None:
    from archsync.core.job import WaitReason
    from archsync.services import dispatch

    study_key = add_archived(stack)
    stack.pause("archsync_adt__vna9", True)
    try:
        stack.platform.correct_name(study_row(stack, study_key).patient.patient_key, "Corrected^Name")

        def why():
            with stack.ledger() as ledger:
                listed = jobs.listing(ledger, JobFilter(job_types=[JobType.ADT], destinations=["vna9"], limit=1))
                return dispatch.explain(ledger, listed, now=_now())[0].wait_reason

        stack.wait_for(lambda: why() is WaitReason.SUSPENDED, 60, lambda: str(why()))
    finally:
        stack.pause("archsync_adt__vna9", False)
    wait_until_done(stack, JobType.ADT, 1)
    shown = [s for s in archive_of(stack).shown().values() if s.name.startswith("Corrected^Name")]
    assert shown


def test_an_adt_receiver_that_is_down_stops_no_images_of_others(stack) -> None:
    study_key = add_archived(stack)
    receiver = stack.receivers["vna9"]
    receiver.stop()
    try:
        stack.platform.correct_name(study_row(stack, study_key).patient.patient_key, "Later^Name")
        other = add_archived(stack)
        assert stack.jobs_of(other, "vna9")[-1].status is JobStatus.SUCCEEDED
    finally:
        receiver.start()
    wait_until_done(stack, JobType.ADT, 1)

    def corrected() -> bool:
        return any(s.name.startswith("Later^Name") for s in archive_of(stack).shown().values())

    stack.wait_for(corrected, 120, lambda: jobs_of_type(stack, JobType.ADT))


def test_nothing_of_a_patient_is_in_logs_or_in_what_airflow_keeps(stack) -> None:
    import psycopg

    with psycopg.connect(stack.installation.platform_dsn) as connection:
        rows = connection.execute("select name, patient_id from archsync_platform.patient").fetchall()
    planted = {value for row in rows for value in row if value and len(value) > 4}
    logs = [
        *stack.installation.state.logs.glob("*.log*"),
        *(stack.installation.state.airflow_home / "logs").rglob("*.log"),
    ]
    assert len(logs) > 10
    for log in logs:
        text = log.read_text(errors="replace")
        assert not [name for name in planted if name in text], f"a patient in {log.name}"
    runs = stack.api("GET", "/api/v2/dags/~/dagRuns?limit=200")
    xcoms = stack.api("GET", "/api/v2/dags/~/dagRuns/~/taskInstances/~/xcomEntries?limit=200")
    kept = json.dumps([runs, xcoms])
    assert not [name for name in planted if name in kept]


def _now():
    from datetime import UTC, datetime

    return datetime.now(UTC)
