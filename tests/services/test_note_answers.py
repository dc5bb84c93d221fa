"""What an archive may answer to a rejection note, or show afterwards, and what becomes of the job."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from archsync.core.job import JobStatus, JobType
from archsync.core.study import RemovalReason
from archsync.launcher.postgres import free_port
from archsync.ledger import plan_queue
from archsync.services import job_control
from archsync.simulate.archive import ChosenStatus, IocmRules, Rudeness, SimulatedArchive
from withdrawals import KOS

# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rudeness", "code"),
    [
        (Rudeness(abort_after_stores=0), "outcome-unknown"),
        (Rudeness(lose_answer_of_store=1), "outcome-unknown"),
        (Rudeness(statuses=(ChosenStatus(status=0xA700, nth=1),)), "out-of-resources"),
        (Rudeness(statuses=(ChosenStatus(status=0xA77A, nth=1),)), "study-being-deleted"),
        (Rudeness(statuses=(ChosenStatus(status=0x0110, nth=1),)), "processing-failure"),
    ],
    ids=["aborted", "taken, answer lost", "A700", "A77A", "0110"],
)
def test_a_note_that_was_not_answered_well_is_sent_again_as_it_was(ws, rudeness, code):
    _, job_id = ws.removed()
    ws.archive.behave(rudeness)

    first = ws.run(job_id)
    assert (first.status, first.code) == (JobStatus.RETRYING, code)
    second = ws.run(job_id, later_s=60)

    assert (second.status, second.message) == (JobStatus.SUCCEEDED, "1 instance withdrawn.")
    assert len(ws.digests()) == 2
    assert len(set(ws.digests())) == 1
    assert len(ws.archive.rejected) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (0xA770, "note-bytes-differ"),
        (0xA773, "class-instance-conflict"),
        (0xA775, "retention-not-allowed"),
        (0xA776, "retention-not-allowed"),
        (0xA77B, "instance-in-other-study"),
        (0xA900, "sop-class-mismatch"),
    ],
)
def test_a_note_that_is_refused_for_good_fails_once_and_is_kept_for_a_retry(ws, status, code):
    _, job_id = ws.removed()
    ws.archive.behave(Rudeness(answer_every_store=status))

    (ended,) = ws.settle()

    assert (ended.status, ended.code) == (JobStatus.FAILED, code)
    assert ws.site.job(job_id).instances_done == 0
    ws.archive.behave()
    job_control.retry(ws.site.ledger, job_id, actor="admin", now=datetime.now(UTC))
    (again,) = ws.settle()
    assert again.status is JobStatus.SUCCEEDED
    assert len(set(ws.digests())) == 1


@pytest.mark.parametrize("status", [0xA771, 0xA777, 0xA778, 0xA779])
def test_a_note_that_can_not_be_sent_again_as_it_is_fails_and_a_retry_builds_another(ws, status):
    _, job_id = ws.removed()
    ws.archive.behave(Rudeness(answer_every_store=status))

    (ended,) = ws.settle()

    assert ended.status is JobStatus.FAILED
    ws.archive.behave()
    job_control.retry(ws.site.ledger, job_id, actor="admin", now=datetime.now(UTC))
    (again,) = ws.settle()
    assert (again.job_id, again.status) == (job_id, JobStatus.SUCCEEDED)
    assert len(set(ws.digests())) == 2


def test_what_the_archive_lost_is_left_out_of_another_note(ws, tmp_path):
    study_key, job_id = ws.removed(3)
    (lost,) = ws.shown(study_key) - set(ws.site.uids(study_key))
    ws.pacs.remove_instances(study_key, 1)
    forget(ws, lost)

    ended = ws.run(job_id)

    assert (ended.status, ended.message) == (JobStatus.SUCCEEDED, "1 instance withdrawn.")
    assert lost not in ws.archive.rejected
    assert [len(a.names) for a in ws.archive.arrivals if a.kind == "note"] == [2, 1]
    assert ws.is_in_step(study_key)
    assert ws.settle() == []


def test_when_the_archive_lost_all_of_it_the_aim_is_met(ws):
    study_key, job_id = ws.removed()
    (lost,) = ws.shown(study_key) - set(ws.site.uids(study_key))
    forget(ws, lost)

    ended = ws.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.SUCCEEDED, "nothing-to-reject")
    assert lost not in ws.site.held(study_key)
    assert ws.settle() == []


def forget(ws, sop_instance_uid: str) -> None:
    """Have the archive lose an instance."""
    path = ws.archive.stored[sop_instance_uid].path
    port = ws.archive.address[1]
    ws.archive.stop()
    path.unlink()
    ws.archive._bind = ("127.0.0.1", port)
    ws.archive.start()
    assert sop_instance_uid not in ws.archive.stored


def test_an_image_whose_answer_was_lost_is_asked_for_and_withdrawn_if_it_is_there(ws):
    ws.add_destination(verification="none")
    study_key = ws.site.add_study(2)
    ws.plan()
    (store,) = ws.site.open_jobs()
    ws.archive.behave(Rudeness(lose_answer_of_store=2))
    ws.run(store)
    ws.archive.behave()
    (unanswered,) = ws.images() - ws.site.held(study_key)
    ws.site.dba("update pacs.instance set removed_at = now() where sop_instance_uid = %s", unanswered)

    ws.settle()

    assert set(ws.archive.rejected) == {unanswered}
    assert ws.is_in_step(study_key)


def test_an_image_that_never_arrived_is_not_named(ws):
    ws.add_destination(verification="none")
    study_key = ws.site.add_study(2)
    ws.plan()
    (store,) = ws.site.open_jobs()
    ws.archive.behave(Rudeness(abort_after_stores=1))
    ws.run(store)
    ws.archive.behave()
    (never,) = set(ws.site.uids(study_key)) - ws.images()
    ws.site.dba("update pacs.instance set removed_at = now() where sop_instance_uid = %s", never)

    ws.settle()

    assert ws.digests() == []
    assert ws.is_in_step(study_key)
    assert ws.site.open_jobs() == []


def test_what_is_rejected_there_under_another_title_already_counts(ws):
    """Retention outranks all other titles at this archive."""
    ws.add_destination(rejection_titles=("patient_safety=113039",))
    ws.site.add_destination(ws.archive, name="second", profile="dcm4chee", verification="c-find")
    study_key = ws.site.add_study(3)
    ws.settle()
    ws.pacs.remove_instances(study_key, 1, reason=RemovalReason.PATIENT_SAFETY)
    ws.plan()
    kos = {ws.site.job(n).destination: n for n in ws.site.open_jobs() if ws.site.job(n).job_type is JobType.KOS}
    assert ws.run(kos["vna"]).status is JobStatus.SUCCEEDED
    ws.pacs.remove_instances(study_key, 1)

    ended = ws.run(kos["second"])

    assert (ended.status, ended.message) == (JobStatus.SUCCEEDED, "2 instances withdrawn.")
    assert [r for _, r in ws.archive.requests if r == 0xA774] == [0xA774]
    assert len(ws.archive.rejected) == 2


@pytest.mark.parametrize("how", ["context", "status"])
@pytest.mark.parametrize("without", ["suppress", "operator"])
def test_an_archive_that_takes_no_key_objects_ends_it_as_the_destination_says(ws, how, without):
    study_key, _ = ws.removed(without_iocm=without)
    rude = Rudeness(refuse_sop_classes=(KOS,)) if how == "context" else Rudeness(answer_every_store=0x0122)
    ws.archive.behave(rude)

    (ended,) = ws.settle()

    if without == "suppress":
        assert (ended.status, ended.code) == (JobStatus.SUPPRESSED, "iocm-not-supported")
    else:
        assert (ended.status, ended.code) == (JobStatus.FAILED, "notes-not-accepted")
    plan_queue.queue(ws.site.ledger, [study_key])
    assert ws.settle() == []
    assert ws.job(JobType.IOCM).status is ended.status
    # Images go on.
    ws.archive.behave(Rudeness(refuse_sop_classes=(KOS,)))
    ws.site.add_late_images(study_key, 1)
    ws.plan()
    (late,) = [n for n in ws.site.open_jobs() if ws.site.job(n).job_type is JobType.DICOM]
    if without == "suppress":
        assert ws.run(late).status is JobStatus.SUCCEEDED


def test_a_withdrawal_suppressed_for_an_archive_without_key_objects_goes_when_it_takes_them_and_it_is_retried(ws):
    study_key, job_id = ws.removed()
    ws.archive.behave(Rudeness(refuse_sop_classes=(KOS,)))
    (ended,) = ws.settle()
    assert ended.status is JobStatus.SUPPRESSED

    ws.archive.behave()
    job_control.retry(ws.site.ledger, ws.job(JobType.IOCM).job_id, actor="admin", now=datetime.now(UTC))
    (ended,) = ws.settle()

    assert (ended.job_id, ended.status) == (job_id, JobStatus.SUCCEEDED)
    assert ws.is_in_step(study_key)


def test_a_destination_without_iocm_leaves_the_withdrawal_to_an_operator(ws):
    ws.add_destination(supports_iocm=False, without_iocm="operator")
    study_key = ws.archived(3)
    ws.pacs.remove_instances(study_key, 2)

    (ended,) = ws.settle()

    assert (ended.status, ended.code) == (JobStatus.FAILED, "withdraw-by-hand")
    assert f"withdraw 2 instances of study {ws.site.study_uid(study_key)} there by hand" in ended.message
    assert f"archsync jobs cancel {ended.job_id}" in ended.message
    assert ws.digests() == []
    job_control.cancel(ws.site.ledger, ended.job_id, actor="admin", reason="done by hand")
    plan_queue.queue(ws.site.ledger, [study_key])
    assert ws.settle() == []


# -- the check ---------------------------------------------------------------------------------------------------------


def test_an_archive_that_takes_the_note_and_goes_on_showing_fails_the_job(ws, tmp_path):
    with SimulatedArchive(tmp_path / "plain", free_port(), ae_title="PLAIN") as plain:
        ws.site.add_destination(plain, name="plain", supports_iocm=True, verification="c-find")
        study_key = ws.site.add_study(2)
        ws.settle()
        ws.pacs.remove_instances(study_key, 1)

        (ended,) = ws.settle()

        assert (ended.status, ended.code) == (JobStatus.FAILED, "note-not-honoured")
        job = ws.site.job(ended.job_id)
        assert (job.instances_done, job.instances_failed) == (0, 1)
        job_control.retry(ws.site.ledger, job.job_id, actor="admin", now=datetime.now(UTC))
        ws.settle()
        notes = [a for a in plain.arrivals if a.kind == "note"]
        assert len(notes) == 2
        assert len({a.digest for a in notes}) == 1, "sent again as it was"


def test_quality_rejects_may_go_on_showing(ws, tmp_path):
    rules = IocmRules(shows_quality_rejects=True)
    with SimulatedArchive(tmp_path / "lenient", free_port(), ae_title="LENIENT", iocm=rules) as lenient:
        ws.site.add_destination(lenient, name="lenient", profile="dcm4chee", verification="c-find")
        study_key = ws.site.add_study(2)
        ws.settle()
        ws.pacs.remove_instances(study_key, 1, reason=RemovalReason.QUALITY)

        (ended,) = ws.settle()

    assert ended.status is JobStatus.SUCCEEDED
    assert "goes on showing 1 of them, as it may under title 113001" in ended.message
