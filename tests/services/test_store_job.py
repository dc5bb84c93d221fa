"""One attempt of an archive job, in every way it can end, against a real archive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from archsync.core.job import FAR_FUTURE, JobStatus, JobType, WaitReason
from archsync.core.naming import DagKind
from archsync.errors import ArchsyncError, InvalidInput, LedgerUnavailable
from archsync.ledger import destinations, holdings, jobs, plan_queue
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services import archive as archive_service
from archsync.services import archive as store_service
from archsync.services import hold, job_control, planner
from archsync.services.archive import run_store_job
from archsync.services.attempt import Run
from archsync.services.comparison import compare_one
from archsync.services.placing import offer
from archsync.simulate.archive import ChosenStatus, Rudeness, SimulatedArchive
from archsync.simulate.iocm import IocmRules


@pytest.fixture
def commits_each(monkeypatch):
    """Each acknowledged instance is committed at once."""
    monkeypatch.setattr(archive_service, "COMMIT_S", 0)


@pytest.fixture
def verifies_quickly(monkeypatch):
    monkeypatch.setattr(archive_service, "VERIFY_PAUSES_S", (0.01,))


def health(site, name="vna"):
    destination_id = destinations.get(site.ledger, name).destination_id
    return destinations.health(site.ledger)[destination_id, DagKind.ARCHIVE].health


# -- well --------------------------------------------------------------------------------------------------------------


def test_a_due_study_is_sent_checked_and_recorded(site):
    study_key, job_id = site.planned(4, verification="c-find")

    ended = site.run(job_id)

    assert (ended.status, ended.message) == (JobStatus.SUCCEEDED, "4 instances sent.")
    assert site.has_all(study_key)
    job = site.job(job_id)
    assert (job.job_type, job.status, job.instances_done, job.instances_total) == (
        JobType.ARCHIVE, JobStatus.SUCCEEDED, 4, 4,
    )  # fmt: skip
    assert job.bytes_done == job.bytes_total > 0
    destination_id = job.destination_id
    details = holdings.instances_of_study(site.ledger, destination_id, site.study_uid(study_key))
    assert all(d.verified_at is not None for d in details)
    assert holdings.archived_studies(site.ledger, [destination_id], [study_key])
    (attempt,) = jobs.attempts(site.ledger, job_id)
    assert (attempt.outcome, attempt.instances_done, attempt.counted) == ("succeeded", 4, False)
    assert site.plan() == []


def test_a_first_job_compares_once_whatever_it_checks_afterwards(site, monkeypatch):
    study_key, job_id = site.planned(3, verification="c-find", supports_iocm=True)
    read = []
    fetch_studies = Platform.fetch_studies
    monkeypatch.setattr(Platform, "fetch_studies", lambda self, keys: read.append(keys) or fetch_studies(self, keys))

    assert site.run(job_id).status is JobStatus.SUCCEEDED

    assert read == [[study_key]]
    details = holdings.instances_of_study(site.ledger, site.job(job_id).destination_id, site.study_uid(study_key))
    assert [d.verified_at is not None for d in details] == [True] * 3


def test_running_a_job_that_is_done_does_nothing(site):
    _, job_id = site.planned()
    site.run(job_id)

    ended = site.run(job_id, try_number=2)

    assert (ended.status, ended.did_run) == (JobStatus.SUCCEEDED, False)
    assert len(site.sent()) == 3
    assert len(jobs.attempts(site.ledger, job_id)) == 1


def test_a_warning_counts_as_stored(site):
    study_key, job_id = site.planned(2)
    site.archives[0].behave(Rudeness(statuses=(ChosenStatus(status=0xB000, nth=1),)))

    assert site.run(job_id).status is JobStatus.SUCCEEDED
    details = holdings.instances_of_study(site.ledger, site.job(job_id).destination_id, site.study_uid(study_key))
    assert sorted(d.store_status for d in details) == [0, 0xB000]


def test_late_images_of_an_archived_study_go_alone(site):
    study_key, job_id = site.planned()
    site.run(job_id)
    late = site.add_late_images(study_key)
    (follow_up,) = site.plan()

    site.run(follow_up, run_id="run2")

    assert site.job(follow_up).job_type is JobType.DICOM
    assert sorted(site.sent()[3:]) == sorted(late)
    assert site.has_all(study_key)


def test_late_images_that_come_while_the_study_is_sent_wait_in_the_lane_and_then_go_alone(site, meanwhile):
    study_key, job_id = site.planned()
    site.archives[0].behave(Rudeness(store_delay_s=0.2))
    late: list[str] = []
    follow_ups: list[int] = []

    def arrive() -> None:
        late.extend(site.add_late_images(study_key))
        with Ledger(site.ledger_dsn) as own, Platform.from_dsn(site.platform_dsn) as platform:
            planner.observe(platform, own)
            planner.plan_queued(platform, own, now=datetime.now(UTC))
            follow_ups.extend(
                listed.job.job_id for listed in jobs.listing(own, jobs.JobFilter(statuses=[JobStatus.WAITING]))
            )
            assert jobs.blocker(own, follow_ups[0]) == job_id

    meanwhile(lambda: len(site.sent()) >= 1, arrive)
    assert site.run(job_id).status is JobStatus.SUCCEEDED

    (follow_up,) = follow_ups
    assert site.hand_out() == [follow_up]
    assert site.run(follow_up, run_id="run2").status is JobStatus.SUCCEEDED
    assert sorted(site.sent()) == sorted(site.uids(study_key)), "each instance was sent once"
    assert set(site.sent()[3:]) == set(late)


# -- refused, busy -----------------------------------------------------------------------------------------------------


def test_a_refused_instance_is_named_and_the_rest_goes_on(site):
    study_key, job_id = site.planned(4)
    refused = site.uids(study_key)[1]
    site.archives[0].behave(Rudeness(statuses=(ChosenStatus(status=0xA900, sop_instance_uid=refused, times=9),)))

    ended = site.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.FAILED, "sop-class-mismatch")
    assert ended.message.startswith(f"1 of 4 instances were not stored; the first is {refused}")
    job = site.job(job_id)
    assert (job.instances_done, job.instances_failed, job.attempts) == (3, 1, 1)
    (failure,) = jobs.failures(site.ledger, job_id)
    assert (failure.sop_instance_uid, failure.store_status) == (refused, 0xA900)
    assert site.held(study_key) == set(site.uids(study_key)) - {refused}

    site.archives[0].behave()
    job_control.retry(site.ledger, job_id, actor="admin", now=datetime.now(UTC))
    assert site.run(job_id, run_id="run2").status is JobStatus.SUCCEEDED
    assert site.sent()[4:] == [refused]
    assert jobs.failures(site.ledger, job_id) == []


def test_the_instance_that_could_not_be_sent_leaves_the_platform_and_the_study_is_archived(site):
    study_key, job_id = site.planned(3)
    refused = site.uids(study_key)[0]
    site.archives[0].behave(Rudeness(statuses=(ChosenStatus(status=0xA900, sop_instance_uid=refused, times=9),)))
    site.run(job_id)
    site.dba(
        "update pacs.instance set removed_at = now(), removal_reason = 'quality' where sop_instance_uid = %s", refused
    )

    assert site.plan() == []

    assert site.job(job_id).status is JobStatus.CANCELLED
    assert holdings.archived_studies(site.ledger, [site.job(job_id).destination_id], [study_key])


def test_a_busy_archive_is_tried_again_and_the_attempt_counts(site):
    study_key, job_id = site.planned(3)
    site.archives[0].behave(Rudeness(statuses=(ChosenStatus(status=0xA700, nth=2),)))

    ended = site.run(job_id)

    assert (ended.status, ended.retry_delay_s) == (JobStatus.RETRYING, 5.0)
    job = site.job(job_id)
    assert (job.attempts, job.instances_done, job.instances_failed) == (1, 2, 1)
    assert job.next_attempt_at is not None
    assert site.run(job_id, try_number=2).status is JobStatus.SUCCEEDED
    assert len(site.sent()) == 4
    assert site.has_all(study_key)


def test_attempts_that_reach_the_archive_end_at_the_destinations_maximum(site):
    _, job_id = site.planned(2, max_attempts=2)
    site.archives[0].behave(Rudeness(statuses=(ChosenStatus(status=0xA700, nth=1, times=99),)))

    assert site.run(job_id).status is JobStatus.RETRYING
    ended = site.run(job_id, try_number=2)

    assert (ended.status, ended.code) == (JobStatus.FAILED, "out-of-resources")
    assert not health(site).is_down, "an archive that answers is not down"


def test_a_failure_of_unclear_kind_is_tried_a_few_times(site):
    _, job_id = site.planned(1)
    site.archives[0].behave(Rudeness(statuses=(ChosenStatus(status=0x0110, nth=1, times=99),)))

    statuses = [site.run(job_id, try_number=n).status for n in (1, 2, 3)]

    assert statuses == [JobStatus.RETRYING, JobStatus.RETRYING, JobStatus.FAILED]


# -- unreachable, refused as such --------------------------------------------------------------------------------------


def test_an_archive_that_is_down_opens_the_breaker_and_one_job_probes(site):
    study_key, job_id = site.planned()
    site.archives[0].stop()

    first = site.run(job_id)
    assert (first.status, site.job(job_id).attempts) == (JobStatus.RETRYING, 0)
    second = site.run(job_id, try_number=2)
    assert second.status is JobStatus.WAITING
    assert health(site).is_down
    job = site.job(job_id)
    assert (job.status, job.wait_reason, job.attempts) == (JobStatus.WAITING, WaitReason.DESTINATION_DOWN, 0)

    other = site.add_study()
    site.plan()
    assert site.hand_out() == [], "nothing goes out before the probe is due"
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert site.hand_out(now=later) == [job_id], "a single job probes"

    assert site.run(job_id, run_id="run2", later_s=30).status is JobStatus.WAITING
    assert site.sent() == []

    site.archives[0].start()
    later = datetime.now(UTC) + timedelta(seconds=90)
    assert site.hand_out(now=later) == [job_id]
    assert site.run(job_id, run_id="run3", later_s=90).status is JobStatus.SUCCEEDED
    assert not health(site).is_down
    (rest,) = site.hand_out()
    site.run(rest, run_id="run4")
    assert set(site.archives[0].stored) == set(site.uids(study_key)) | set(site.uids(other))


def test_of_several_jobs_that_start_while_the_archive_is_down_one_probes(site):
    site.add_destination()
    for _ in range(3):
        site.add_study()
    numbers = site.plan()
    destination = destinations.get(site.ledger, "vna")
    site.archives[0].stop()
    for job_id in numbers[:2]:
        site.run(job_id, run_id=f"run{job_id}")
    assert health(site).is_down

    before = health(site).failures
    ended = [site.run(job_id, run_id=f"again{job_id}", later_s=30) for job_id in numbers]

    assert [e.status for e in ended] == [JobStatus.WAITING] * 3
    assert health(site).failures == before + 1
    assert [e.did_run for e in ended] == [True, False, False]
    assert destination.destination_id is not None


def test_a_permanent_refusal_stops_the_destination_and_an_answer_starts_it_again(site):
    study_key, job_id = site.planned(called_ae_title="NOBODY")
    site.archives[0].behave(Rudeness(check_called_ae_title=True))

    ended = site.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.WAITING, "called-ae-title-unknown")
    assert health(site).is_down
    assert (site.job(job_id).attempts, site.sent()) == (0, [])
    assert site.hand_out() == []

    site.archives[0].behave()
    assert site.hand_out(now=datetime.now(UTC) + timedelta(seconds=30)) == [job_id]
    assert site.run(job_id, run_id="run2", later_s=30).status is JobStatus.SUCCEEDED
    assert not health(site).is_down
    assert site.has_all(study_key)


def test_an_archive_that_answers_echo_and_forbids_storing_stays_down(site):
    _, job_id = site.planned()
    site.archives[0].behave(Rudeness(statuses=(ChosenStatus(status=0x0124, nth=1, times=99),)))
    site.run(job_id)
    down_since = health(site).down_since
    assert down_since is not None

    ended = site.run(job_id, run_id="run2", later_s=30)

    assert (ended.status, ended.code) == (JobStatus.WAITING, "not-authorized")
    assert health(site).down_since == down_since, "one outage, one incident"


def test_an_archive_that_dies_in_mid_study_loses_nothing_and_gets_nothing_twice_to_no_purpose(site, commits_each):
    study_key, job_id = site.planned(8)
    archive = site.archives[0]
    archive.behave(Rudeness(abort_after_stores=4))

    assert site.run(job_id).status is JobStatus.RETRYING
    archive.stop()
    assert site.run(job_id, try_number=2).status is JobStatus.RETRYING
    held = site.held(study_key)
    assert held == set(site.sent()[:4])

    archive.start()
    assert site.run(job_id, try_number=3).status is JobStatus.SUCCEEDED
    assert site.sent()[4] == site.sent()[5], "the one without an answer"
    assert sorted(site.sent()[5:]) == sorted(set(site.uids(study_key)) - held)
    assert site.has_all(study_key)
    assert [a.counted for a in jobs.attempts(site.ledger, job_id)] == [True, False, False]


def test_an_instance_without_an_answer_is_sent_again_with_the_same_bytes(site):
    study_key, job_id = site.planned(3, dimse_timeout_s=0.5)
    site.archives[0].behave(Rudeness(stall_at_store=2, stall_s=30))

    ended = site.run(job_id)
    assert (ended.status, ended.code, site.job(job_id).attempts) == (JobStatus.RETRYING, "outcome-unknown", 1)
    first = site.sent()
    unanswered = site.archives[0].stored[first[1]].path.read_bytes()

    site.archives[0].behave()
    assert site.run(job_id, try_number=2).status is JobStatus.SUCCEEDED
    assert site.sent()[2:] == [first[1], *[u for u in site.uids(study_key) if u not in first]]
    assert site.archives[0].stored[first[1]].path.read_bytes() == unanswered
    assert site.has_all(study_key)


def test_a_resend_that_came_out_differently_finds_what_the_archive_has(site, tmp_path):
    archive = SimulatedArchive(tmp_path / "iocm", iocm=IocmRules())
    archive.start()
    site.archives.append(archive)
    site.add_destination(archive)
    study_key = site.add_study(3)
    (first,) = site.plan()
    assert site.run(first).status is JobStatus.SUCCEEDED
    target = site.pacs.split_study(study_key, instances=2)
    site.plan()
    (job_id,) = (j for j in site.open_jobs() if site.job(j).study_key == target)
    archive.behave(Rudeness(lose_answer_of_store=1))
    assert site.run(job_id).status is JobStatus.RETRYING
    # What a copy says of its study is the platform's to change until the archive acknowledged it.
    site.dba("update pacs.study set accession_number = 'OTHER' where study_key = %s", target)

    assert site.run(job_id, try_number=2).status is JobStatus.SUCCEEDED
    statuses = [a.status for a in archive.arrivals if a.kind == "image"]
    assert "A770" in statuses, "the archive has what was sent first"
    assert (
        len(site.held(target))
        == 2
        == sum(s.study_instance_uid != site.study_uid(study_key) for s in archive.shown().values())
    )


# -- checking ----------------------------------------------------------------------------------------------------------


def test_what_the_archive_does_not_list_is_sent_again(site, verifies_quickly):
    study_key, job_id = site.planned(3, verification="c-find")
    job = site.job(job_id)
    destination = destinations.get_by_id(site.ledger, job.destination_id)
    compared = compare_one(site.platform, site.ledger, study_key, destination)
    desired = compared.desired
    # An earlier attempt was told "stored" of two instances; the archive lost them since.
    placed, _ = offer(site.ledger, site.platform, compared, desired.instances[:2], looked_before=True)
    holdings.record_stored(site.ledger, job.destination_id, [(p.placement_id, 0) for p in placed.values()])

    ended = site.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.RETRYING, "stored-but-not-listed")
    assert len(site.sent()) == 1
    assert site.held(study_key) == set(site.sent()), "the ledger claims no more than the archive lists"
    assert site.run(job_id, try_number=2).status is JobStatus.SUCCEEDED
    assert site.has_all(study_key)


# -- the study is not to be sent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "go", "why"),
    [
        (("set_hold", True), ("set_hold", False), WaitReason.HOLD),
        (("set_status", "Pending"), ("set_status", "Completed"), WaitReason.EXAM_STATUS),
        (("set_status", "Cancelled"), ("set_status", "Completed"), WaitReason.EXAM_STATUS),
    ],
)
def test_a_study_held_or_reopened_while_its_job_is_on_the_way_waits_and_goes_later(site, stop, go, why):
    study_key, job_id = site.planned()
    assert site.hand_out() == [job_id]
    getattr(site.pacs, stop[0])(study_key, stop[1])

    ended = site.run(job_id)

    assert ended.status is JobStatus.WAITING
    job = site.job(job_id)
    assert (job.wait_reason, job.not_before) == (why, FAR_FUTURE)
    assert site.plan() == [job_id]
    assert site.hand_out() == []
    assert site.sent() == []

    getattr(site.pacs, go[0])(study_key, go[1])
    site.plan()
    assert site.hand_out() == [job_id]
    assert site.run(job_id, run_id="run2").status is JobStatus.SUCCEEDED
    assert site.has_all(study_key)


def test_a_hold_that_ends_before_the_job_has_noticed_it_does_not_strand_the_job(site):
    study_key, job_id = site.planned()
    site.hand_out()
    site.pacs.set_hold(study_key, True)
    site.plan()
    jobs.move(site.ledger, job_id, JobStatus.WAITING, wait_reason=WaitReason.QUEUE)  # its run was lost
    site.pacs.set_hold(study_key, False)

    site.plan()

    assert site.hand_out() == [job_id]


def test_a_study_that_lost_all_its_instances_ends_its_job(site):
    study_key, job_id = site.planned()
    site.dba("update pacs.instance set removed_at = now(), removal_reason = 'quality' where study_key = %s", study_key)

    ended = site.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.CANCELLED, "nothing-to-do")
    assert site.plan() == []
    site.dba("update pacs.instance set removed_at = null, removal_reason = null where study_key = %s", study_key)
    assert len(site.plan()) == 1, "our own cancellation keeps nothing from being sent later"


@pytest.mark.parametrize("is_seen_by", ["planner", "attempt"])
def test_a_study_that_left_the_platform_ends_its_job(site, is_seen_by):
    study_key, job_id = site.planned()
    site.dba("delete from pacs.instance where study_key = %s", study_key)
    site.dba("delete from pacs.study where study_key = %s", study_key)
    if is_seen_by == "planner":
        plan_queue.queue(site.ledger, [study_key])
        assert site.plan() == []
    else:
        assert site.run(job_id).status is JobStatus.CANCELLED

    assert site.job(job_id).reason_code == "nothing-to-do"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("update destination set enabled = false", WaitReason.DISABLED),
        ("update destination set send_window = '00:00-00:01', time_zone = 'UTC'", WaitReason.SEND_WINDOW),
    ],
)
def test_a_destination_that_closed_while_a_job_was_on_the_way_gets_nothing(site, change, why):
    _, job_id = site.planned()
    site.hand_out()
    site.ledger.execute(change)

    ended = site.run(job_id, later_s=120 if datetime.now(UTC).hour == 0 else 0)

    assert (ended.status, ended.did_run) == (JobStatus.WAITING, False)
    assert site.job(job_id).wait_reason is why
    assert site.sent() == []


# -- bad files ---------------------------------------------------------------------------------------------------------


def _delete(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:600])


def _overwrite(path: Path) -> None:
    path.write_text("not an image")


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "codes"),
    [
        (_delete, {"file-missing"}),
        (_truncate, {"file-truncated", "file-not-dicom", "file-unreadable"}),
        (_overwrite, {"file-not-dicom", "not-dicom"}),
        (_make_folder, {"file-not-regular"}),
    ],
    ids=["missing", "truncated", "not DICOM", "a folder"],
)
def test_an_image_that_cannot_be_read_is_named_and_the_rest_goes_on(site, damage, codes):
    study_key, job_id = site.planned(3)
    bad = site.uids(study_key)[1]
    damage(site.folder / site.study_uid(study_key) / f"{bad}.dcm")

    ended = site.run(job_id)

    assert ended.status is JobStatus.FAILED
    (failure,) = jobs.failures(site.ledger, job_id)
    assert failure.sop_instance_uid == bad
    assert failure.code in codes
    assert bad in failure.message
    assert site.held(study_key) == set(site.uids(study_key)) - {bad} == set(site.archives[0].stored)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("location = replace(location, 'file:', 's3:')", "unknown-location-scheme"),
        ("sop_instance_uid = '1.2.3.4.5'", "uid-mismatch"),
        ("sop_class_uid = '1.2.840.10008.5.1.4.1.1.4'", "uid-mismatch"),
    ],
)
def test_an_image_that_is_not_what_the_platform_says_is_named_and_the_rest_goes_on(site, change, code):
    _, job_id = site.planned(3)
    key = site.dba("select instance_key from pacs.instance order by instance_key limit 1")[0][0]
    site.dba(f"update pacs.instance set {change} where instance_key = %s", key)

    assert site.run(job_id).status is JobStatus.FAILED

    (failure,) = jobs.failures(site.ledger, job_id)
    assert failure.code == code
    assert len(site.archives[0].stored) == 2


def test_an_image_whose_row_lies_in_another_series_goes_there(site):
    study_key, job_id = site.planned(3)
    key = site.dba("select instance_key from pacs.instance order by instance_key limit 1")[0][0]
    site.dba("update pacs.instance set series_instance_uid = '1.2.3.4.5' where instance_key = %s", key)

    assert site.run(job_id).status is JobStatus.SUCCEEDED
    assert site.has_all(study_key)
    series = [stored.series_instance_uid for stored in site.archives[0].stored.values()]
    assert series.count("1.2.3.4.5") == 1


# -- taken away, killed ------------------------------------------------------------------------------------------------


def test_a_job_cancelled_while_it_runs_stops_and_stays_cancelled(site, meanwhile, commits_each):
    study_key, job_id = site.planned(8)
    site.archives[0].behave(Rudeness(store_delay_s=0.1))

    def cancel() -> None:
        with Ledger(site.ledger_dsn) as own:
            job_control.cancel(own, job_id, actor="admin", reason="wrong study")

    meanwhile(lambda: len(site.sent()) >= 2, cancel)
    ended = site.run(job_id)

    assert (ended.status, ended.did_run) == (JobStatus.CANCELLED, False)
    assert len(site.sent()) < 8
    assert site.held(study_key) == set(site.archives[0].stored), "what was acknowledged is known"
    (attempt,) = jobs.attempts(site.ledger, job_id)
    assert (attempt.outcome, attempt.reason_code) == ("cancelled", "taken-away")
    site.plan()
    assert site.open_jobs() == []


def test_a_study_held_back_while_it_is_sent_stops_at_its_next_image_and_goes_on_when_released(
    site, meanwhile, commits_each
):
    study_key, job_id = site.planned(8)
    site.archives[0].behave(Rudeness(store_delay_s=0.1))
    uid = site.study_uid(study_key)

    def hold_back() -> None:
        with Ledger(site.ledger_dsn) as own, Platform.from_dsn(site.platform_dsn) as platform:
            hold.add(platform, own, study_instance_uid=uid, actor="admin", reason="legal hold")

    meanwhile(lambda: len(site.sent()) >= 2, hold_back)
    ended = site.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.WAITING, "hold")
    assert len(site.sent()) < 8
    assert site.held(study_key) == set(site.archives[0].stored), "what was acknowledged is known"
    site.plan()
    job = site.job(job_id)
    assert (job.status, job.wait_reason, job.attempts) == (JobStatus.WAITING, WaitReason.HOLD, 0)

    hold.remove(site.ledger, study_instance_uid=uid, actor="admin")
    assert site.plan() == [job_id]
    assert site.run(job_id, run_id="run2").status is JobStatus.SUCCEEDED
    assert site.has_all(study_key)
    assert len(site.sent()) in (8, 9), "at most the image in hand went twice"


def test_a_zombie_whose_job_was_taken_over_stops_and_moves_nothing(site, meanwhile, commits_each):
    study_key, job_id = site.planned(8)
    site.archives[0].behave(Rudeness(store_delay_s=0.1))

    def take_over() -> None:
        with Ledger(site.ledger_dsn) as own, own.transaction():
            jobs.begin_attempt(own, job_id, dag_id="archsync_archive__vna", run_id="run1", try_number=2)

    meanwhile(lambda: len(site.sent()) >= 2, take_over)
    ended = site.run(job_id)

    assert (ended.status, ended.did_run) == (JobStatus.RUNNING, False)
    assert site.job(job_id).try_number == 2
    first, second = jobs.attempts(site.ledger, job_id)
    assert (first.outcome, second.outcome) == ("lost", None)
    assert site.held(study_key) == set(site.archives[0].stored)


def test_another_run_leaves_a_job_alone_while_its_attempt_is_alive(site):
    _, job_id = site.planned()
    jobs.begin_attempt(site.ledger, job_id, dag_id="archsync_archive__vna", run_id="run1", try_number=1)

    ended = site.run(job_id, run_id="another")
    assert (ended.status, ended.did_run) == (JobStatus.RUNNING, False)

    later = site.run(job_id, run_id="another", later_s=jobs.LEASE_S + 1)
    assert later.status is JobStatus.SUCCEEDED, "its lease ran out"


_KILLED_SCRIPT = """
import sys
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services import archive
archive.COMMIT_S = 0
ledger, platform = (line.strip() for line in sys.stdin)
run = archive.Run("archsync_archive__vna", "run1", 1)
archive.run_store_job(Ledger(ledger), Platform.from_dsn(platform), int(sys.argv[1]), run)
"""


def test_after_kill_9_in_mid_study_only_what_is_missing_is_sent(site):
    study_key, job_id = site.planned(10)
    archive = site.archives[0]
    archive.behave(Rudeness(store_delay_s=0.1))
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED_SCRIPT, str(job_id)], stdin=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdin is not None
    process.stdin.write(f"{site.ledger_dsn}\n{site.platform_dsn}\n")
    process.stdin.close()
    while len(archive.requests) < 5:
        assert process.poll() is None, "it ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    while archive.open_associations:
        pass  # the archive notices the hang-up
    archive.behave()
    held, before = site.held(study_key), len(site.sent())
    assert 3 <= len(held) < 10
    assert site.job(job_id).status is JobStatus.RUNNING

    job_control.record_killed(site.ledger, job_id, will_retry=True, try_number=1)
    assert (site.job(job_id).status, site.job(job_id).reason_code) == (JobStatus.RETRYING, "task-killed")
    assert site.run(job_id, try_number=2).status is JobStatus.SUCCEEDED

    assert sorted(site.sent()[before:]) == sorted(set(site.uids(study_key)) - held)
    assert site.has_all(study_key)
    assert [a.outcome for a in jobs.attempts(site.ledger, job_id)] == ["retrying", "succeeded"]


def test_a_job_whose_process_is_killed_every_time_is_given_up(site):
    _, job_id = site.planned(max_attempts=2)
    for n in (1, 2):
        with site.ledger.transaction():
            jobs.begin_attempt(site.ledger, job_id, dag_id="archsync_archive__vna", run_id="run1", try_number=n)
        job_control.record_killed(site.ledger, job_id, will_retry=True, try_number=n)

    ended = site.run(job_id, try_number=3)

    assert (ended.status, ended.code, ended.did_run) == (JobStatus.FAILED, "task-killed", True)
    assert site.sent() == []
    assert site.run(job_id, try_number=4).status is JobStatus.SUCCEEDED, "an administrator cleared it"


def test_a_job_whose_postgresql_restarts_in_mid_study_goes_on_afterwards(site, postgres, meanwhile, commits_each):
    study_key, job_id = site.planned(8)
    site.archives[0].behave(Rudeness(store_delay_s=0.05))
    is_back = threading.Event()

    def restart() -> None:
        postgres.restart()
        is_back.set()

    meanwhile(lambda: len(site.sent()) >= 3, restart)

    with pytest.raises(LedgerUnavailable):
        site.run(job_id)
    assert is_back.wait(60)
    site.platform.close()  # Airflow's next try is a process of its own

    held, before = site.held(study_key), len(site.sent())
    assert 0 < len(held) < 8
    assert site.run(job_id, try_number=2).status is JobStatus.SUCCEEDED
    assert sorted(site.sent()[before:]) == sorted(set(site.uids(study_key)) - held)
    assert site.has_all(study_key)


def test_a_platform_that_is_away_costs_no_attempt(site):
    _, job_id = site.planned()
    away = Platform.from_dsn("postgresql://nobody@127.0.0.1:1/none")

    ended = run_store_job(site.ledger, away, job_id, Run("archsync_archive__vna", "run1", 1))

    assert (ended.status, ended.code) == (JobStatus.RETRYING, "platform-unavailable")
    assert site.job(job_id).attempts == 0


def test_a_fault_of_ours_shows_on_the_job_without_its_text(site, monkeypatch):
    _, job_id = site.planned()

    def broken(*_: object) -> None:
        raise KeyError("Plantedname^Secret")

    monkeypatch.setattr(archive_service, "store_instances", broken)
    with pytest.raises(ArchsyncError, match=r"KeyError in test_store_job\.py|KeyError in archive\.py") as caught:
        site.run(job_id)

    # What Airflow writes to the run's log.
    assert "Plantedname" not in "".join(traceback.format_exception(caught.value))
    job = site.job(job_id)
    assert (job.status, job.reason_code) == (JobStatus.FAILED, "internal-error")
    assert "KeyError" in (job.reason or "")


def test_a_study_that_breaks_the_contract_fails_its_job_by_name(site):
    study_key, job_id = site.planned()
    site.dba("update pacs.instance set sop_instance_uid = 'no uid' where instance_number = 1")

    ended = site.run(job_id)

    assert ended.status is JobStatus.FAILED
    assert f"study_key {study_key}" in ended.message or "sop_instance_uid" in ended.message


def test_a_job_of_another_kind_is_not_run(site):
    _, job_id = site.planned()
    site.ledger.execute("update job set job_type = 'adt'")

    with pytest.raises(InvalidInput, match="type adt"):
        site.run(job_id)


def test_what_another_job_placed_meanwhile_is_compared_again(site, monkeypatch):
    """Between the comparison and the offer the study's images move, and the job of their new study sends them first."""
    study_key, job_id = site.planned(2)
    other_key = site.add_study(1)
    (other_job,) = set(site.plan()) - {job_id}
    whole = store_service.offer

    def offer_late(*args, **values):
        monkeypatch.setattr(store_service, "offer", whole)
        site.dba("update pacs.instance set study_key = %s where study_key = %s", other_key, study_key)
        assert site.run(other_job, run_id="run2").status is JobStatus.SUCCEEDED
        return offer_late.__wrapped__(*args, **values)

    offer_late.__wrapped__ = whole
    monkeypatch.setattr(store_service, "offer", offer_late)
    ended = site.run(job_id)
    assert (ended.status, ended.code) == (JobStatus.CANCELLED, "nothing-to-do")
    assert {held.study_instance_uid for held in site.archives[0].stored.values()} == {site.study_uid(other_key)}
