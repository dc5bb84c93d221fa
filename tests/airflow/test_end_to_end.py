"""The whole road on real Airflow, PostgreSQL and DICOM: a status change is committed, the archive holds the study."""

from __future__ import annotations

import os
import signal
import time

import psycopg
import pytest

from archsync.core.job import JobStatus, WaitReason
from archsync.core.study import ExamStatus, Priority
from archsync.simulate.archive import ChosenStatus, Rudeness

pytestmark = pytest.mark.timeout(300)

SUCCEEDED, FAILED = JobStatus.SUCCEEDED, JobStatus.FAILED


def held_uids(stack, study_key: str) -> set[str]:
    with psycopg.connect(stack.installation.platform_dsn) as connection:
        rows = connection.execute(
            "select sop_instance_uid from archsync_platform.instance where study_key::text = %s", [study_key]
        ).fetchall()
    return {uid for (uid,) in rows}


def stored(stack, name: str = "vna1") -> set[str]:
    return set(stack.archives[name].stored)


@pytest.fixture(autouse=True)
def _polite_archives(stack):
    yield
    for archive in stack.archives.values():
        archive.behave(None)


def test_a_completed_exam_arrives_at_the_archive_and_is_checked_there(stack) -> None:
    latencies = []
    for _ in range(3):
        study = stack.platform.add_volume(exam_status=ExamStatus.INFLIGHT)
        wanted = held_uids(stack, study)
        stack.wait_until_parsed("archsync_dispatch")
        assert not wanted & stored(stack)
        started = time.monotonic()
        stack.platform.set_status(study, ExamStatus.COMPLETED)
        stack.wait_for(lambda wanted=wanted: wanted & stored(stack), 60, lambda: "nothing stored")
        latencies.append(time.monotonic() - started)
        job = stack.wait_for_job(study, "vna1", SUCCEEDED)
        assert wanted <= stored(stack)
        assert (job.job_type.value, job.instances_done, job.instances_total) == ("archive", len(wanted), len(wanted))
        with stack.ledger() as ledger:
            held = ledger.fetch_all(
                "select p.sop_instance_uid, i.verified_at from held_instance i join placement p using (placement_id)"
                " join placed_series s using (placed_series_id) where s.study_key = %s", [study])  # fmt: skip
        assert {row["sop_instance_uid"] for row in held} == wanted
        assert all(row["verified_at"] for row in held)
    print("\nstatus committed → first instance stored: " + ", ".join(f"{s:.2f} s" for s in latencies))


def test_late_images_follow_in_a_dicom_job_that_sends_only_them(stack) -> None:
    study = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)
    stack.wait_for_job(study, "vna1", SUCCEEDED)
    first = held_uids(stack, study)
    asked_before = len(stack.archives["vna1"].requests)
    stack.platform.add_late_series(study)
    stack.wait_for(lambda: len(stack.jobs_of(study, "vna1")) == 2, 60, lambda: "no second job")
    job = stack.wait_for_job(study, "vna1", SUCCEEDED)
    assert job.job_type.value == "dicom"
    sent = {uid for uid, _ in stack.archives["vna1"].requests[asked_before:]}
    assert sent == held_uids(stack, study) - first


def test_clear_in_airflow_retries_a_failed_job_and_sends_only_what_is_missing(stack) -> None:
    study = stack.platform.add_volume(exam_status=ExamStatus.PENDING)
    bad, *good = sorted(held_uids(stack, study))
    stack.archives["vna1"].behave(Rudeness(statuses=(ChosenStatus(status=0xC000, sop_instance_uid=bad),)))
    stack.platform.set_status(study, ExamStatus.COMPLETED)
    job = stack.wait_for_job(study, "vna1", FAILED)
    assert bad in job.reason
    assert (job.instances_done, job.instances_failed) == (len(good), 1)
    assert set(good) <= stored(stack)
    stack.archives["vna1"].behave(None)
    asked_before = len(stack.archives["vna1"].requests)
    stack.clear(job)
    job = stack.wait_for_job(study, "vna1", SUCCEEDED)
    assert [uid for uid, _ in stack.archives["vna1"].requests[asked_before:]] == [bad]
    run = stack.api("GET", f"/api/v2/dags/{job.dag_id}/dagRuns/{job.run_id}")
    assert stack.wait_for(lambda: run["state"] in ("running", "success"), 10, lambda: str(run))


def test_pausing_the_dag_suspends_the_destination_and_the_job_says_so(stack) -> None:
    stack.pause("archsync_archive__vna1", True)
    try:
        study = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)
        stack.wait_for_job(study, "vna1", JobStatus.WAITING)
        from archsync.ledger import jobs
        from archsync.services import dispatch

        def why() -> WaitReason | None:
            with stack.ledger() as ledger:
                listed = jobs.listing(ledger, jobs.JobFilter(destinations=["vna1"], limit=1))
                return dispatch.explain(ledger, listed, now=_now())[0].wait_reason

        stack.wait_for(lambda: why() is WaitReason.SUSPENDED, 30, lambda: str(why()))
        assert not held_uids(stack, study) & stored(stack)
    finally:
        stack.pause("archsync_archive__vna1", False)
    stack.wait_for_job(study, "vna1", SUCCEEDED)


def test_a_killed_task_is_retried_and_sends_only_what_was_not_acknowledged(stack) -> None:
    study = stack.platform.add_volume(exam_status=ExamStatus.PENDING)
    wanted = held_uids(stack, study)
    stack.archives["vna1"].behave(Rudeness(store_delay_s=1.5))
    asked_before = len(stack.archives["vna1"].requests)
    stack.platform.set_status(study, ExamStatus.COMPLETED)

    def committed() -> bool:
        found = stack.jobs_of(study, "vna1")
        return bool(found) and found[-1].status is JobStatus.RUNNING and found[-1].instances_done >= 2

    task = stack.task_process("archsync_archive__vna1")
    stack.wait_for(committed, 60, lambda: str(stack.jobs_of(study, "vna1")))
    task.kill()
    stack.archives["vna1"].behave(None)
    stack.wait_for_job(study, "vna1", SUCCEEDED, timeout_s=150)
    assert wanted <= stored(stack)
    sent = [uid for uid, _ in stack.archives["vna1"].requests[asked_before:]]
    # At most what was in flight or not yet committed when the process died goes twice.
    assert len(sent) <= len(wanted) + 3


def test_an_archive_that_is_down_costs_no_attempt_and_is_found_again(stack) -> None:
    stack.add_destination("vna2")
    stack.wait_until_parsed("archsync_archive__vna2")
    archive = stack.archives["vna2"]
    archive.stop()
    try:
        study = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)

        def waits_for_the_archive() -> bool:
            found = stack.jobs_of(study, "vna2")
            return bool(found) and stack.why_it_waits(found[-1]) is WaitReason.DESTINATION_DOWN

        stack.wait_for(waits_for_the_archive, 60, lambda: str(stack.jobs_of(study, "vna2")))
    finally:
        archive.start()
    job = stack.wait_for_job(study, "vna2", SUCCEEDED)
    assert job.attempts == 0
    assert held_uids(stack, study) <= stored(stack, "vna2")


def test_a_stat_study_overtakes_a_queue_of_routine_ones(stack) -> None:
    stack.archives["vna1"].behave(Rudeness(store_delay_s=0.2))
    stack.pause("archsync_archive__vna1", True)
    try:
        routine = [
            stack.platform.add_volume(exam_status=ExamStatus.COMPLETED, priority=Priority.ROUTINE) for _ in range(6)
        ]
        stat = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED, priority=Priority.STAT)
        for study in (*routine, stat):
            stack.wait_for_job(study, "vna1", JobStatus.WAITING)
    finally:
        stack.pause("archsync_archive__vna1", False)
    done = {study: stack.wait_for_job(study, "vna1", SUCCEEDED) for study in (*routine, stat)}
    assert done[stat] is min(done.values(), key=lambda job: job.started_at)


def test_marking_a_task_failed_or_success_in_airflow_reaches_the_ledger(stack) -> None:
    study = stack.platform.add_volume(exam_status=ExamStatus.PENDING)
    uid = min(held_uids(stack, study))
    stack.archives["vna1"].behave(Rudeness(statuses=(ChosenStatus(status=0xC000, sop_instance_uid=uid),)))
    stack.platform.set_status(study, ExamStatus.COMPLETED)
    job = stack.wait_for_job(study, "vna1", FAILED)
    path = f"/api/v2/dags/{job.dag_id}/dagRuns/{job.run_id}/taskInstances/archive"
    stack.api("PATCH", path, {"new_state": "success"})
    job = stack.wait_for_job(study, "vna1", JobStatus.CANCELLED)
    assert job.reason_code == "marked-success"
    assert uid not in stored(stack)


@pytest.mark.timeout(800)
@pytest.mark.parametrize("component", ["triggerer", "scheduler"])
def test_work_goes_on_after_a_component_was_killed(stack, component: str) -> None:
    os.killpg(stack.installation.supervisor.pid(component), signal.SIGKILL)
    study = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)
    # Airflow believes for five minutes in a dispatcher task that died with its scheduler.
    stack.wait_for_job(study, "vna1", SUCCEEDED, timeout_s=700)
    assert held_uids(stack, study) <= stored(stack)


def test_a_killed_dispatcher_task_loses_nothing(stack) -> None:
    with psycopg.connect(stack.installation.ledger_dsn) as holder:
        # The dispatcher has seen the study and is about to note it: here it stands still until it is killed.
        holder.execute("lock table study_queue in exclusive mode")
        study = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)
        task = stack.task_process("archsync_dispatch")
        held_up = "select 1 from pg_locks where relation = 'study_queue'::regclass and not granted"
        stack.wait_for(lambda: holder.execute(held_up).fetchone(), 60, lambda: "the dispatcher is not held up")
        task.kill()
        task.wait(timeout=30)
    stack.wait_for_job(study, "vna1", SUCCEEDED, timeout_s=200)


def test_a_restart_of_postgresql_in_mid_run_loses_nothing(stack) -> None:
    study = stack.platform.add_volume(exam_status=ExamStatus.PENDING)
    stack.archives["vna1"].behave(Rudeness(store_delay_s=2.0))
    stack.platform.set_status(study, ExamStatus.COMPLETED)
    stack.wait_for_job(study, "vna1", JobStatus.RUNNING)
    stack.installation.postgres.restart()
    stack.archives["vna1"].behave(None)
    stack.wait_for_job(study, "vna1", SUCCEEDED, timeout_s=240)
    assert held_uids(stack, study) <= stored(stack)


def test_connection_types_show_their_forms_in_the_ui(stack) -> None:
    forms = {form["connection_type"]: form for form in stack.api("GET", "/ui/connections/hook_meta")}
    assert forms["dicom"]["extra_fields"]["called_ae_title"]["schema"]["maxLength"] == 16
    assert "ack_timeout_s" in forms["mllp"]["extra_fields"]


def test_no_patient_appears_in_logs_or_airflows_database(stack) -> None:
    with psycopg.connect(stack.installation.platform_dsn) as connection:
        rows = connection.execute("select name, patient_id from archsync_platform.patient").fetchall()
    planted = {value for row in rows for value in row if value and len(value) > 4}
    assert planted
    logs = [
        *stack.installation.state.logs.glob("*.log*"),
        *(stack.installation.state.airflow_home / "logs").rglob("*.log"),
    ]
    assert len(logs) > 10
    for log in logs:
        text = log.read_text(errors="replace")
        assert not [name for name in planted if name in text], f"a patient in {log.name}"


def _now():
    from datetime import UTC, datetime

    return datetime.now(UTC)


def test_the_example_dag_archives_a_study_whose_trigger_was_not_reached(stack) -> None:
    stack.add_destination("vna3", trigger_status=ExamStatus.COMPLETED, facilities=("NOWHERE",))
    dag_id = "example_archive_after_pipeline"
    stack.wait_until_parsed(dag_id)
    study = stack.platform.add_volume(exam_status=ExamStatus.PENDING)
    wanted = held_uids(stack, study)
    with psycopg.connect(stack.installation.platform_dsn) as connection:
        [(uid,)] = connection.execute(
            "select study_instance_uid from archsync_platform.study where study_key::text = %s", [study]
        )
    conf = {"study_instance_uid": uid, "destination": "vna3"}
    run = stack.api("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"conf": conf, "logical_date": None})
    stack.platform.set_status(study, ExamStatus.COMPLETED)

    def state() -> str:
        return stack.api("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run['dag_run_id']}")["state"]

    stack.wait_for(lambda: state() in ("success", "failed"), 120, state)
    assert state() == "success"
    assert wanted <= stored(stack, "vna3")
    [job] = stack.jobs_of(study, "vna3")
    assert job.status is SUCCEEDED
    assert job.requested_by.startswith(dag_id)
