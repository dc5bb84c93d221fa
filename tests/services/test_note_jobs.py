"""Withdrawing from an archive what left a study, judged by an archive that honours IHE IOCM."""

from __future__ import annotations

import pytest

from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.core.study import RemovalReason
from archsync.ledger import destinations, jobs, plan_queue
from archsync.ledger.database import Ledger
from archsync.ledger.jobs import JobFilter
from archsync.platformdb.reader import Platform
from archsync.services import hold
from archsync.services.adt import run_adt_job
from archsync.services.attempt import Run
from archsync.simulate.archive import ChosenStatus, Rudeness

# -- removals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "title"),
    [
        (RemovalReason.QUALITY, "113001"),
        (RemovalReason.PATIENT_SAFETY, "113037"),
        (RemovalReason.WRONG_WORKLIST_ENTRY, "113038"),
        (RemovalReason.UNSPECIFIED, "113037"),
        (None, "113037"),
    ],
)
def test_removed_images_are_withdrawn_under_the_title_of_their_reason(ws, reason, title):
    ws.add_destination()
    study_key = ws.archived(4)
    before = ws.shown(study_key)
    ws.pacs.remove_instances(study_key, 2, reason=reason)

    (ended,) = ws.settle()

    assert (ended.status, ended.message) == (JobStatus.SUCCEEDED, "2 instances withdrawn.")
    assert set(ws.archive.rejected) == before - set(ws.site.uids(study_key))
    assert ws.titles() == {title}
    assert ws.is_in_step(study_key)
    job, change = ws.job(), ws.job(JobType.IOCM)
    assert (job.instances_done, job.instances_total, job.parent_job_id) == (2, 2, change.job_id)
    assert change.status is JobStatus.SUCCEEDED
    assert ws.settle() == []


def test_a_retention_that_expired_is_told_only_where_the_destination_wants_it(ws):
    ws.add_destination(rejection_titles=("retention_expired=113039",))
    ws.site.add_destination(ws.archive, name="silent", profile="dcm4chee")
    study_key = ws.site.add_study(2)
    ws.settle()
    ws.pacs.remove_study(study_key, reason=RemovalReason.RETENTION_EXPIRED)
    ws.settle()

    assert ws.titles() == {"113039"}
    told = [j.job for j in jobs.listing(ws.site.ledger, JobFilter(job_types=[JobType.IOCM]))]
    assert {(j.destination, j.status, j.reason_code) for j in told} == {
        ("vna", JobStatus.SUCCEEDED, None),
        ("silent", JobStatus.SUPPRESSED, "iocm-retention-disabled"),
    }


@pytest.mark.parametrize("hard", [False, True], ids=["marked", "rows gone"])
@pytest.mark.parametrize("what", ["series", "study"])
def test_a_whole_series_or_study_is_withdrawn_image_by_image(ws, what, hard):
    ws.add_destination()
    study_key = ws.archived(2)
    uid = ws.site.study_uid(study_key)
    ws.site.add_late_images(study_key, 2)
    ws.settle()
    if what == "series":
        ws.pacs.remove_series(study_key, 1, hard=hard)
    else:
        ws.pacs.remove_study(study_key, hard=hard)
        plan_queue.queue(ws.site.ledger, [study_key])  # a row that is gone announces nothing

    ended = ws.settle()

    assert [e.status for e in ended] == [JobStatus.SUCCEEDED]
    assert len(ws.images() & ws.shown_in(uid)) == (2 if what == "series" else 0)
    (note,) = ws.notes()
    assert (note.StudyInstanceUID, note.PatientID) == (uid, "PLANTEDMRN")


def test_reasons_that_differ_make_a_note_each(ws):
    ws.add_destination(quality_modifier="111210")
    study_key = ws.archived(4)
    ws.pacs.remove_instances(study_key, 1, reason=RemovalReason.QUALITY)
    ws.pacs.remove_instances(study_key, 1, reason=RemovalReason.PATIENT_SAFETY)

    (ended,) = ws.settle()

    assert ended.message == "2 instances withdrawn."
    by_title = {note.ConceptNameCodeSequence[0].CodeValue: note for note in ws.notes()}
    assert set(by_title) == {"113001", "113037"}
    assert by_title["113001"].ContentSequence[0].ConceptCodeSequence[0].CodeValue == "111210"
    assert by_title["113037"].ContentSequence[0].RelationshipType == "CONTAINS"
    assert len({note.SeriesInstanceUID for note in ws.notes()}) == 2


def test_many_removals_are_spread_over_notes_of_the_size_the_destination_takes(ws):
    ws.add_destination(max_note_references=2)
    study_key = ws.archived(5)
    ws.pacs.remove_study(study_key)

    (ended,) = ws.settle()

    assert ended.message == "5 instances withdrawn."
    notes = ws.notes()
    assert [len(note.ContentSequence) for note in notes] == [2, 2, 1]
    assert [int(note.InstanceNumber) for note in notes] == [1, 2, 3]
    assert len({note.SeriesInstanceUID for note in notes}) == 1


def test_an_image_removed_before_it_was_ever_sent_is_not_named(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    ws.site.add_late_images(study_key, 1)
    ws.pacs.remove_instances(study_key, 1)

    assert ws.settle() == []
    assert ws.notes() == []
    assert ws.job(JobType.IOCM).reason_code == "iocm-never-archived"


def test_a_removal_taken_back_before_the_note_was_built_sends_nothing(ws):
    ws.add_destination(settle_s=30.0)
    study_key = ws.site.add_study(2)
    ws.plan()
    (job_id,) = ws.site.open_jobs()
    ws.run(job_id)
    ws.plan()
    ws.pacs.remove_instances(study_key, 1)
    job_id = ws.kos_job()
    assert ws.site.job(job_id).wait_reason is WaitReason.SETTLING
    ws.pacs.restore_instances(study_key)
    ws.plan()

    assert ws.site.job(job_id).status is JobStatus.CANCELLED
    assert ws.notes() == []


def test_what_is_shown_again_after_its_withdrawal_goes_out_under_another_uid(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    former = ws.shown(study_key)
    ws.pacs.remove_instances(study_key, 1)
    ws.settle()
    ws.pacs.restore_instances(study_key)

    (ended,) = ws.settle()

    assert (ended.status, ended.message) == (JobStatus.SUCCEEDED, "1 instance sent.")
    assert ws.is_in_step(study_key)
    assert len(ws.shown(study_key) - former) == 1


# -- holds -------------------------------------------------------------------------------------------------------------


def test_a_study_on_hold_keeps_its_note_back(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    ws.pacs.remove_instances(study_key, 1)
    job_id = ws.kos_job()
    ws.pacs.set_hold(study_key, True)

    ended = ws.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.WAITING, "hold")
    assert ws.notes() == []
    ws.pacs.set_hold(study_key, False)
    (ended,) = ws.settle()
    assert ended.status is JobStatus.SUCCEEDED


def test_a_study_held_back_while_its_notes_go_out_stops_between_two_of_them(ws, meanwhile):
    ws.add_destination(max_note_references=1)
    study_key = ws.archived(4)
    ws.pacs.remove_study(study_key)
    job_id = ws.kos_job()
    uid = ws.site.study_uid(study_key)
    ws.archive.behave(Rudeness(store_delay_s=0.3))

    def hold_back() -> None:
        with Ledger(ws.site.ledger_dsn) as own, Platform.from_dsn(ws.site.platform_dsn) as platform:
            hold.add(platform, own, study_instance_uid=uid, actor="admin", reason="legal hold")

    meanwhile(lambda: len(ws.notes()) >= 1, hold_back)
    ended = ws.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.WAITING, "hold")
    assert 1 <= len(ws.notes()) < 4
    assert ws.settle() == [], "it stays held back"

    hold.remove(ws.site.ledger, study_instance_uid=uid, actor="admin")
    (ended,) = ws.settle()
    assert ended.message == "4 instances withdrawn."
    assert len(ws.digests()) == len(set(ws.digests())) == 4, "no note was built or sent twice"


# -- patients ----------------------------------------------------------------------------------------------------------


def test_a_note_names_the_patient_as_the_archive_knows_them(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    (patient_key,) = ws.site.dba("select patient_key::text from pacs.study where study_key = %s", study_key)[0]
    ws.pacs.change_mrn(patient_key, "PLANTEDNEW")
    ws.pacs.remove_instances(study_key, 1)

    (ended,) = ws.settle()

    assert ended.status is JobStatus.SUCCEEDED
    (note,) = ws.notes()
    assert (note.PatientID, note.IssuerOfPatientID) == ("PLANTEDMRN", "CITYMRN")
    assert destinations.get(ws.site.ledger, "vna").adt is None


def test_a_note_about_a_patient_whom_a_message_is_to_change_follows_that_message(ws):
    receiver = ws.archive.make_adt_receiver()
    receiver.start()
    try:
        host, port = receiver.address
        adt = {"adt_host": host, "adt_port": port, "adt_receiving_application": "VNA"}
        study_key, kos = ws.removed(**adt)
        ((patient_key,),) = ws.site.dba("select patient_key::text from pacs.study where study_key = %s", study_key)
        ws.pacs.change_mrn(patient_key, "PLANTEDNEW")
        ws.plan()
        ws.archive.behave(Rudeness(statuses=(ChosenStatus(status=0xA778, nth=1),)))

        ended = ws.run(kos)

        assert (ended.status, ended.code) == (JobStatus.CANCELLED, "nothing-to-do")
        ws.plan()
        later = ws.job()
        adt_job = ws.job(JobType.ADT)
        assert later.job_id > adt_job.job_id > kos
        assert jobs.blocker(ws.site.ledger, later.job_id) == adt_job.job_id
        run = Run("a DAG", "adt", 1)
        assert run_adt_job(ws.site.ledger, ws.site.platform, adt_job.job_id, run).status is JobStatus.SUCCEEDED
        assert ws.run(later.job_id).status is JobStatus.SUCCEEDED
    finally:
        receiver.stop()
    (note,) = ws.notes()
    assert note.PatientID == "PLANTEDNEW"
    assert ws.is_in_step(study_key)
