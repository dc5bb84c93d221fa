"""``archsync jobs`` and ``archsync held``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.core.naming import DagKind
from archsync.core.placing import NewPlacement
from archsync.core.planning import Work
from archsync.core.retry import Health
from archsync.core.study import Priority
from archsync.core.transfer import OutgoingInstance, StoreOutcome, StoreResult
from archsync.core.uid_map import InstanceUids
from archsync.ledger import destinations as store
from archsync.ledger import holdings, jobs, planned_jobs
from archsync.platformdb.reader import Platform
from archsync.services import planner

RUN = {"dag_id": "archsync_archive__vna1", "run_id": "run-1"}


@pytest.fixture
def studies(pacs, platform_dsn, run, ledger):
    """Two completed studies, planned for vna1; jobs 1 and 2."""
    pacs.add_volume(exam_status="Completed")
    pacs.add_volume(exam_status="Completed")
    run("destination", "create", "vna1", "--ae-title", "VNA1", "--host", "h", "--port", "104", "--settle-s", "0")
    with Platform.from_dsn(platform_dsn) as platform:
        planner.observe(platform, ledger)
        planner.plan_queued(platform, ledger, now=datetime.now(UTC))
        batch = platform.fetch_studies(["1", "2"])
    by_job = {jobs.get(ledger, job_id).study_key: job_id for job_id in (1, 2)}
    return sorted(batch.studies, key=lambda study: by_job[study.study_key])


def fail(ledger, job_id: int, *, status: JobStatus = JobStatus.FAILED) -> None:
    """Let an attempt of a job end with one instance refused."""
    attempt_id = jobs.begin_attempt(ledger, job_id, try_number=1, **RUN)
    instance = OutgoingInstance("1", "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4", "1.2.840.10008.1.2.1", "file:///x.dcm")
    refused = StoreOutcome(instance, StoreResult.REFUSED, 0xA900, "sop-class-mismatch", "The data set does not match.")
    jobs.record_failures(ledger, job_id, [refused])
    jobs.report(ledger, job_id, attempt_id, failed=1)
    outcome = {"reason_code": "sop-class-mismatch", "reason": "1 of 2 instances were not stored"}
    jobs.finish_attempt(ledger, attempt_id, outcome=status, counted=True, **outcome)
    assert jobs.move(ledger, job_id, status, attempt_id=attempt_id, counted=True, **outcome)


def ids(listed) -> list[int]:
    return [job["job_id"] for job in listed]


def test_the_list_shows_jobs_newest_first_with_what_they_wait_for(run, run_json, studies) -> None:
    lines = run("jobs", "list").stdout.splitlines()
    assert lines[0].split() == ["JOB", "TYPE", "STATUS", "DESTINATION", "PRIORITY", "IMAGES", "MADE", "STUDY"]
    assert [line.split()[0] for line in lines[1:]] == ["2", "1"]
    assert "waiting (queue)" in lines[1]
    first = run_json("jobs", "list")[1]
    assert first["study_instance_uid"] == studies[0].study_instance_uid
    assert (first["job_type"], first["status"], first["wait_reason"]) == ("archive", "waiting", "queue")
    assert datetime.fromisoformat(first["created_at"]).utcoffset() == timedelta(0)
    assert "patient_key" not in first


def test_of_a_running_job_is_shown_how_fast_it_sends(run, run_json, ledger, studies) -> None:
    assert "sends" not in run("jobs", "show", "1").stdout
    attempt_id = jobs.begin_attempt(ledger, 1, try_number=1, **RUN)
    jobs.report(ledger, 1, attempt_id, instances=1, size_bytes=100, bytes_per_s=12_500_000, associations=2)
    lines = [" ".join(line.split()) for line in run("jobs", "show", "1").stdout.splitlines()]
    assert "sends 12.5 MB/s over 2 associations" in lines
    shown = run_json("jobs", "show", "1")
    assert (shown["bytes_per_s"], shown["associations"]) == (12_500_000, 2)


def test_filters_leave_what_matches(run, run_json, ledger, studies) -> None:
    run("destination", "create", "vna2", "--ae-title", "VNA2", "--host", "h", "--port", "104")
    fail(ledger, 1)
    today, tomorrow = datetime.now(UTC).date(), datetime.now(UTC).date() + timedelta(days=1)
    for arguments, expected in (
        ("--status failed", [1]),
        ("--status failed --status waiting", [2, 1]),
        ("--type archive", [2, 1]),
        ("--type dicom", []),
        ("--destination vna1", [2, 1]),
        ("--destination vna2", []),
        ("--destination vna1 --destination vna2", [2, 1]),
        (f"--study {studies[1].study_instance_uid}", [2]),
        (f"--since {today}", [2, 1]),
        (f"--since {tomorrow}", []),
        (f"--until {today}", []),
        (f"--until {tomorrow}T00:00+00:00", [2, 1]),
        ("--since 2h", [2, 1]),
        ("--until 90m", []),
        ("--since 3d", [2, 1]),
        ("--limit 1", [2]),
        ("--before 2", [1]),
    ):
        assert ids(run_json("jobs", "list", *arguments.split())) == expected, arguments


def test_a_date_means_that_day_in_utc(run, run_json, ledger, studies) -> None:
    ledger.execute("update job set created_at = '2026-05-04 23:59:59.9Z' where job_id = 1")
    ledger.execute("update job set created_at = '2026-05-05 00:00:00Z' where job_id = 2")
    assert ids(run_json("jobs", "list", "--date", "2026-05-04")) == [1]
    assert ids(run_json("jobs", "list", "--date", "2026-05-05")) == [2]
    assert "can't be used with" in run("jobs", "list", "--date", "2026-05-04", "--since", "1h", status=2).stderr
    assert "'yesterday' is no moment" in run("jobs", "list", "--since", "yesterday", status=2).stderr


def test_a_full_page_says_how_to_get_the_next(run, studies) -> None:
    assert "--before 2 shows the next ones" in run("jobs", "list", "--limit", "1").stdout
    assert "shows the next ones" not in run("jobs", "list").stdout


def test_an_unknown_destination_in_the_filter_is_refused(run, studies) -> None:
    assert "there is no destination 'vna9'" in run("jobs", "list", "--destination", "vna9", status=2).stderr


def test_no_job_is_said_in_words_and_as_an_empty_array(run, run_json) -> None:
    assert run("jobs", "list").stdout == "No job matches.\n"
    assert run_json("jobs", "list") == []


def test_the_waiting_reason_is_the_one_of_this_moment(run, run_json, ledger, studies) -> None:
    def why() -> tuple[str, str]:
        job = run_json("jobs", "show", "1")
        return job["wait_reason"], job["next_step"]

    assert why() == ("queue", "Nothing to do.")
    run("destination", "disable", "vna1")
    assert why() == ("disabled", "`archsync destination enable vna1` lets it run.")
    run("destination", "enable", "vna1")
    destination_id = store.get(ledger, "vna1").destination_id
    store.set_suspended(ledger, destination_id, DagKind.ARCHIVE, True)
    assert why() == ("suspended", "Switch the destination's DAG on in Airflow.")
    store.set_suspended(ledger, destination_id, DagKind.ARCHIVE, False)
    later = datetime.now(UTC) + timedelta(hours=1)
    store.set_health(
        ledger, destination_id, DagKind.ARCHIVE, Health(failures=3, down_since=datetime.now(UTC), probe_at=later)
    )
    assert why() == ("destination_down", "`archsync destination test vna1` says where it fails.")
    jobs.move(ledger, 1, JobStatus.READY)
    jobs.move(ledger, 1, JobStatus.WAITING, wait_reason=WaitReason.HOLD)
    assert why() == (
        "hold",
        "Release it: `archsync hold list` shows who holds it back here; if nobody, the platform does.",
    )


def test_a_job_behind_another_names_it(run, run_json, ledger, studies) -> None:
    jobs.begin_attempt(ledger, 1, try_number=1, **RUN)
    planned = Work(Priority.ROUTINE, "later", studies[0].present_instances[:1], datetime.now(UTC), None)
    job_id = planned_jobs.insert_store(ledger, JobType.DICOM, 1, studies[0], planned)
    assert "waiting (job 1 first)" in run("jobs", "list", "--type", "dicom").stdout
    shown = run_json("jobs", "show", str(job_id))
    assert (shown["wait_reason"], shown["blocked_by"]) == ("lane", 1)
    assert shown["next_step"] == "See to job 1, which has to finish first."
    assert "blocked by        job 1, archive, running\n" in run("jobs", "show", str(job_id)).stdout


def test_show_tells_attempts_failed_instances_reason_and_next_step(run, run_json, ledger, studies) -> None:
    fail(ledger, 1)
    output = run("jobs", "show", "1").stdout
    assert "status            failed (sop-class-mismatch)\n" in output
    assert "reason            1 of 2 instances were not stored [sop-class-mismatch]\n" in output
    assert "next step         Check the instance with a DICOM validator" in output
    assert "Airflow           DAG archsync_archive__vna1, run run-1, try 1\n" in output
    assert "1.2.3.4           A900    sop-class-mismatch  The data set does not match.\n" in output
    shown = run_json("jobs", "show", "1")
    assert [attempt["outcome"] for attempt in shown["attempt_list"]] == ["failed"]
    assert shown["failures"] == [
        {
            "sop_instance_uid": "1.2.3.4",
            "store_status": 0xA900,
            "code": "sop-class-mismatch",
            "message": "The data set does not match.",
        }
    ]


def test_retry_has_a_failed_job_start_afresh_and_is_recorded(run, ledger, audit, studies) -> None:
    fail(ledger, 1)
    assert run("--actor", "grace", "jobs", "retry", "1").stdout == "1 job will be tried again.\n"
    job = jobs.get(ledger, 1)
    assert (job.status, job.attempts, job.decided_by) == (JobStatus.WAITING, 0, "grace")
    assert audit()[-1][:3] == ("grace", "job.retry", "job 1")


def test_retry_of_several_jobs_is_all_or_nothing(run, ledger, studies) -> None:
    fail(ledger, 1)
    result = run("jobs", "retry", "1", "2", status=1)
    assert "job 2 is waiting; only failed, retrying, cancelled or suppressed jobs are retried" in result.stderr
    assert jobs.get(ledger, 1).status is JobStatus.FAILED


def test_cancel_ends_jobs_with_a_reason_and_is_recorded(run, ledger, audit, studies) -> None:
    assert run("jobs", "cancel", "1", "2", "--reason", "wrong archive").stdout == "2 jobs cancelled.\n"
    job = jobs.get(ledger, 1)
    assert (job.status, job.reason) == (JobStatus.CANCELLED, "Cancelled: wrong archive")
    assert audit()[-1][1:] == ("job.cancel", "job 2", "wrong archive")
    assert "job 1 is cancelled already" in run("jobs", "cancel", "1", "--reason", "again", status=1).stderr
    assert "--reason: must not be empty" in run("jobs", "cancel", "1", "--reason", " ", status=2).stderr


def test_an_unknown_job_is_refused(run) -> None:
    for arguments in (["show", "7"], ["retry", "7"], ["cancel", "7", "--reason", "x"]):
        assert "there is no job 7" in run("jobs", *arguments, status=2).stderr


def store_some(ledger, study, *, count: int) -> list[str]:
    """Let vna1 acknowledge the first images of a study; gives their SOP Instance UIDs."""
    destination_id = store.get(ledger, "vna1").destination_id
    new = [
        NewPlacement(i, 1, InstanceUids(study.study_instance_uid, i.series_instance_uid, i.sop_instance_uid))
        for i in study.present_instances[:count]
    ]
    holdings.insert_placements(ledger, study, new)
    placed = [p.placement_id for p in holdings.placements(ledger, study_keys=[study.study_key], instance_keys=[])]
    holdings.offer(ledger, destination_id, placed)
    holdings.record_stored(ledger, destination_id, [(placement_id, 0) for placement_id in placed])
    holdings.mark_verified(ledger, destination_id, placed[:1])
    return [item.uids.sop_instance_uid for item in new]


def test_held_lists_studies_and_instances_of_a_study(run, run_json, ledger, studies) -> None:
    uids = store_some(ledger, studies[0], count=2)
    (held,) = run_json("held", "--destination", "vna1")
    assert held["study_instance_uid"] == studies[0].study_instance_uid
    assert (held["series"], held["instances"], held["verified"], held["rejected"]) == (1, 2, 1, 0)
    assert studies[0].study_instance_uid in run("held", "--destination", "vna1").stdout
    of_study = run_json("held", "--destination", "vna1", "--study", studies[0].study_instance_uid)
    assert {item["sop_instance_uid"] for item in of_study} == set(uids)
    assert [item["store_status"] for item in of_study] == [0, 0]
    lines = run("held", "--destination", "vna1", "--study", studies[0].study_instance_uid).stdout.splitlines()
    assert len(lines) == 3
    assert all(" 0000 " in line for line in lines[1:])


def test_held_says_when_there_is_nothing(run, run_json, studies) -> None:
    assert run("held", "--destination", "vna1").stdout == "vna1 holds nothing that archsync knows of.\n"
    assert run_json("held", "--destination", "vna1", "--study", "1.2.3") == []
    assert "there is no destination 'vna9'" in run("held", "--destination", "vna9", status=2).stderr


def test_jobs_move_to_the_front_together_and_the_list_says_so(run, run_json, studies, audit) -> None:
    assert "1 job is in front." in run("jobs", "front", "2").stdout
    assert {j["job_id"]: j["is_in_front"] for j in run_json("jobs", "list")} == {1: False, 2: True}
    assert "moved to the front" in run("jobs", "show", "2").stdout
    assert "2 jobs are in front." in run("jobs", "front", "1", "2").stdout
    assert [(action, subject) for _, action, subject, _ in audit()[-2:]] == [
        ("job.front", "job 2"),
        ("job.front", "job 1"),
    ]


def test_a_job_that_does_not_wait_is_not_moved_and_none_of_the_others(run, run_json, ledger, studies) -> None:
    fail(ledger, 2)
    assert "only waiting jobs" in run("jobs", "front", "1", "2", status=1).stderr
    assert not any(j["is_in_front"] for j in run_json("jobs", "list"))


def test_the_list_narrows_to_gateways_and_facilities(run, run_json, studies, ledger) -> None:
    run("gateway", "create", "north", "--facility-group", "metro")
    run("destination", "set", "vna1", "gateway=north")
    facility = jobs.get(ledger, 1).facility_id
    assert ids(run_json("jobs", "list", "--gateway", "north")) == [2, 1]
    assert 1 in ids(run_json("jobs", "list", "--facility", facility))
    assert run_json("jobs", "list", "--facility", "NOWHERE") == []
    assert "there is no gateway 'south'" in run("jobs", "list", "--gateway", "south", status=2).stderr
