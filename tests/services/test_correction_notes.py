"""Splits, merges, moves and changed content: copies are stored, and what they take the place of is withdrawn."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from archsync.core.job import JobStatus, JobType
from archsync.core.study import RemovalReason
from archsync.ledger import jobs, plan_queue
from archsync.ledger.jobs import JobFilter
from archsync.services import job_control, planner
from archsync.services.archive import STORE_JOBS
from archsync.simulate.archive import Rudeness
from withdrawals import KOS


@pytest.mark.parametrize("keep_uids", [True, False], ids=["rows move", "new rows replace them"])
def test_a_split_stores_the_copies_and_then_withdraws_the_originals(ws, keep_uids):
    ws.add_destination()
    study_key = ws.archived(4)
    target = ws.pacs.split_study(study_key, instances=2, keep_uids=keep_uids)

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert ws.is_in_step(study_key, target)
    assert ws.titles() == {"113038"}
    arrivals = [a.uid for a in ws.archive.arrivals if a.is_kept]
    assert ws.archive.stored[arrivals[-1]].sop_class_uid == KOS, "the note goes last"
    change = ws.job(JobType.IOCM)
    steps = [j.job for j in jobs.listing(ws.site.ledger, JobFilter()) if j.job.parent_job_id == change.job_id]
    assert {s.job_type for s in steps} == {JobType.KOS, ws.site.job(min(s.job_id for s in steps)).job_type}
    assert change.status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("delete_source", [False, True], ids=["row stays", "row gone"])
def test_a_merge_of_studies_leaves_nothing_in_the_one_that_gave_way(ws, delete_source):
    ws.add_destination()
    source, target = ws.archived(2), ws.archived(3)
    source_uid = ws.site.study_uid(source)
    ws.pacs.merge_studies(source, target, delete_source=delete_source)

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert not ws.images() & ws.shown_in(source_uid)
    assert ws.is_in_step(target)
    (note,) = ws.notes()
    assert note.StudyInstanceUID == source_uid


@pytest.mark.parametrize("supports_iocm", [True, False])
def test_studies_that_swap_images_come_to_rest(ws, supports_iocm):
    ws.add_destination(supports_iocm=supports_iocm)
    first, second = ws.archived(2), ws.archived(2)
    (one,), (other,) = (
        ws.site.dba("select min(instance_key)::text from pacs.instance where study_key = %s", key)[0]
        for key in (first, second)
    )
    ws.pacs.move_instances(first, second, instances=[one])
    ws.pacs.move_instances(second, first, instances=[other])

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert len(ws.archive.rejected) == (2 if supports_iocm else 0)
    plan_queue.queue(ws.site.ledger, [first])
    report = planner.plan_queued(ws.site.platform, ws.site.ledger, now=datetime.now(UTC))
    assert report.studies == 1


@pytest.mark.parametrize("order", ["replacements_first", "wrong_patient_first"])
def test_a_study_of_the_wrong_patient_is_withdrawn_from_that_patient(ws, order):
    ws.add_destination(note_order=order)
    study_key = ws.archived(2)
    former = ws.shown(study_key)
    study_uid = ws.site.study_uid(study_key)
    right = ws.pacs.new_patient()
    ws.pacs.move_study(study_key, right)

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert set(ws.archive.rejected) == former
    shown = [s for uid, s in ws.archive.shown().items() if uid in ws.images()]
    assert len(shown) == 2
    assert {s.patient_id for s in shown}.isdisjoint({"PLANTEDMRN"})
    (note,) = ws.notes()
    assert (note.StudyInstanceUID, note.PatientID, note.IssuerOfPatientID) == (study_uid, "PLANTEDMRN", "CITYMRN")
    kept = [ws.archive.stored[a.uid].sop_class_uid == KOS for a in ws.archive.arrivals if a.is_kept]
    assert kept.index(True) == (2 if order == "wrong_patient_first" else 4)
    assert ws.settle() == []


@pytest.mark.parametrize("replace", [False, True], ids=["changed in place", "new rows"])
def test_changed_content_takes_the_place_of_the_old(ws, replace):
    ws.add_destination()
    study_key = ws.archived(3)
    former = ws.shown(study_key)
    if replace:
        ws.pacs.replace_instances(study_key, 1, reason=RemovalReason.QUALITY)
    else:
        ws.pacs.change_content(study_key, 1)

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert ws.is_in_step(study_key)
    assert len(former & ws.shown(study_key)) == 2
    assert ws.titles() == {"113001" if replace else "113038"}


def test_patient_safety_hides_the_old_image_before_the_new_one_is_sent(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    ws.pacs.replace_instances(study_key, 1, reason=RemovalReason.PATIENT_SAFETY)

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert ws.is_in_step(study_key)
    kept = [ws.archive.stored[a.uid].sop_class_uid == KOS for a in ws.archive.arrivals if a.is_kept]
    assert kept == [False, False, True, False]


def test_a_split_off_study_that_the_destination_does_not_get_is_withdrawn_without_copies(ws):
    ws.add_destination(facilities=("CITY",))
    study_key = ws.archived(3)
    target = ws.pacs.split_study(study_key, instances=1)
    ws.site.dba("update pacs.study set facility_id = 'NORTH' where study_key = %s", target)

    (ended,) = ws.settle()

    assert ended.message == "1 instance withdrawn."
    assert ws.is_in_step(study_key)


def test_a_note_waits_for_replacements_that_a_failed_job_is_to_bring(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    ws.pacs.split_study(study_key, instances=1)
    ws.archive.behave(Rudeness(answer_every_store=0xA900))
    ws.settle()
    assert ws.notes() == []
    kos = ws.job()
    assert kos.status is JobStatus.WAITING

    ws.archive.behave()
    (failed,) = [n for n in ws.site.open_jobs() if ws.site.job(n).status is JobStatus.FAILED and
                 ws.site.job(n).job_type is not JobType.IOCM]  # fmt: skip
    job_control.retry(ws.site.ledger, failed, actor="admin", now=datetime.now(UTC))
    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert len(ws.notes()) == 1


def test_replacements_that_nobody_brings_fail_the_note_once_and_say_where_they_belong(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    target = ws.pacs.split_study(study_key, instances=1)
    ws.plan()
    (store,) = [n for n in ws.site.open_jobs() if ws.site.job(n).job_type in STORE_JOBS]
    job_control.cancel(ws.site.ledger, store, actor="admin", reason="not wanted")

    (ended,) = ws.settle()

    assert (ended.status, ended.code) == (JobStatus.FAILED, "replacement-missing")
    assert ws.site.study_uid(target) in ended.message
    assert ws.notes() == []
    assert ws.settle() == []
