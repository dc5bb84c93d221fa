"""Images of a patient whose identifier the archive knows as somebody else's: they never lie with the wrong person."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from archsync.core.adt import MergeTrigger, PriorIdentifier
from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.launcher.postgres import free_port
from archsync.ledger import jobs
from archsync.services import job_control
from archsync.services.archive import IDENTIFIER_PAUSE
from archsync.services.attempt import Ended, Run
from archsync.services.rejection import run_note_job
from archsync.simulate.adt_receiver import AdtScript, Reply
from archsync.simulate.archive import IocmRules, Rudeness, SimulatedArchive
from archsync.simulate.volumes import DemoPatient

MARIA = DemoPatient("PLANTEDMRN1", "CITYMRN", "Plantedname^Maria", date(1950, 1, 2), "F")
OTTO = DemoPatient("PLANTEDMRN1", "CITYMRN", "Plantedname^Otto", date(1960, 1, 2), "M")
LATER_S = IDENTIFIER_PAUSE.total_seconds() + 1


@pytest.fixture
def freeing(site, tmp_path):
    """The archive forgets identifiers that gave way; ask for it before the others."""
    archive = SimulatedArchive(tmp_path / "freeing", free_port(), iocm=IocmRules(), frees_identifiers=True)
    archive.start()
    site.archives.insert(0, archive)


@pytest.fixture
def reused(ward):
    """Maria's identifier was corrected, and Otto gets the one she had; her archive heard of neither."""
    maria = ward.admit(MARIA)
    ward.site.pacs.change_mrn(maria, "PLANTEDMRN9")
    otto = ward.register(OTTO)
    return ward, maria, otto


def store_job(ward) -> int:
    (job_id,) = [n for n in ward.site.plan() if ward.site.job(n).job_type in (JobType.ARCHIVE, JobType.DICOM)]
    return job_id


def run_note(ward, job_id: int) -> Ended:
    run = Run("archsync_iocm__vna", f"run{job_id}", 1)
    return run_note_job(ward.site.ledger, ward.site.platform, job_id, run)


def adt_job(ward) -> int:
    (job_id,) = ward.plan()
    return job_id


def shown_as(ward) -> dict[str, set[str]]:
    """Identifiers and the names under which the archive shows anything by them."""
    found: dict[str, set[str]] = {}
    for instance in ward.site.archives[0].shown().values():
        found.setdefault(instance.patient_id, set()).add(instance.name)
    return found


def test_images_wait_for_the_message_that_gives_the_other_patient_another_identifier(freeing, reused):
    ward, _, _ = reused
    ward.set(adt_prior_identifier=PriorIdentifier.FREED)
    store, message = store_job(ward), adt_job(ward)

    ended = ward.site.run(store)
    assert (ended.status, ended.code) == (JobStatus.WAITING, "identifier")
    assert jobs.blocker(ward.site.ledger, store) == message
    assert ward.site.job(store).wait_reason is WaitReason.LANE

    assert ward.run(message).status is JobStatus.SUCCEEDED
    assert ward.site.run(store).status is JobStatus.SUCCEEDED
    assert shown_as(ward) == {"PLANTEDMRN9": {MARIA.name}, "PLANTEDMRN1": {OTTO.name}}


def test_nothing_goes_out_under_an_identifier_that_the_archive_keeps_for_another(reused):
    ward, _, otto = reused
    store, message = store_job(ward), adt_job(ward)
    assert ward.run(message).status is JobStatus.SUCCEEDED

    ended = ward.site.run(store)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "identifier-retired")
    assert shown_as(ward) == {"PLANTEDMRN9": {MARIA.name}}

    ward.site.pacs.change_mrn(otto, "PLANTEDMRN10")  # as the job says
    again = store_job(ward)
    assert ward.site.run(again).status is JobStatus.SUCCEEDED
    assert shown_as(ward) == {"PLANTEDMRN9": {MARIA.name}, "PLANTEDMRN10": {OTTO.name}}
    assert ward.site.open_jobs() == []


def test_an_archive_that_changes_identifiers_by_a47_has_the_old_one_free(reused):
    ward, _, _ = reused
    ward.set(adt_merge_trigger=MergeTrigger.A47)
    store, message = store_job(ward), adt_job(ward)
    assert ward.run(message).status is JobStatus.SUCCEEDED
    assert ward.site.run(store).status is JobStatus.SUCCEEDED
    assert shown_as(ward) == {"PLANTEDMRN9": {MARIA.name}, "PLANTEDMRN1": {OTTO.name}}


def test_who_is_not_planned_yet_is_planned_first(reused):
    """The images' job runs before anybody looked at the other patient."""
    ward, _, _ = reused
    store, message = store_job(ward), adt_job(ward)
    job_control.cancel(ward.site.ledger, message, actor="anna", reason="test")

    ended = ward.site.run(store)
    assert (ended.status, ended.code) == (JobStatus.WAITING, "identifier")
    assert ward.site.job(store).wait_reason is WaitReason.IDENTIFIER
    # Planned again, and an administrator cancelled the very message: nothing is going to free it.
    ward.site.plan()
    ended = ward.site.run(store, later_s=LATER_S)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "identifier-taken")
    assert shown_as(ward) == {"PLANTEDMRN1": {MARIA.name}}


def test_what_failed_for_want_of_an_identifier_is_tried_again_when_one_ends(freeing, reused):
    ward, _, _ = reused
    ward.set(adt_prior_identifier=PriorIdentifier.FREED)
    store, message = store_job(ward), adt_job(ward)
    job_control.cancel(ward.site.ledger, message, actor="anna", reason="test")
    ward.site.run(store)
    ward.site.plan()
    assert ward.site.run(store, later_s=LATER_S).status is JobStatus.FAILED

    job_control.retry(ward.site.ledger, message, actor="anna", now=datetime.now(UTC))
    assert ward.run(message).status is JobStatus.SUCCEEDED
    assert ward.site.job(store).status is JobStatus.WAITING
    assert ward.site.run(store).status is JobStatus.SUCCEEDED
    assert shown_as(ward) == {"PLANTEDMRN9": {MARIA.name}, "PLANTEDMRN1": {OTTO.name}}


def test_an_archive_without_adt_keeps_identifiers_for_ever(reused):
    ward, _, _ = reused
    ward.set(adt_host=None)
    store = store_job(ward)
    ward.site.run(store)
    ward.site.plan()
    ended = ward.site.run(store, later_s=LATER_S)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "identifier-taken")
    assert "PLANTED" not in ended.message


def test_two_who_have_one_identifier_on_the_platform_are_not_mixed(ward):
    ward.admit(MARIA)
    ward.site.dba("alter table pacs.patient drop constraint if exists patient_patient_id_issuer_of_patient_id_key")
    otto = ward.register(DemoPatient("PLANTEDMRN2", "CITYMRN", OTTO.name, OTTO.birth_date, "M"))
    ward.site.pacs.change_mrn(otto, "PLANTEDMRN1")
    ended = ward.site.run(store_job(ward))
    assert (ended.status, ended.code) == (JobStatus.FAILED, "identifier-taken")
    assert shown_as(ward) == {"PLANTEDMRN1": {MARIA.name}}


def test_the_issuer_tells_two_authorities_apart_and_none_tells_nothing(ward):
    ward.admit(MARIA)
    ward.register(DemoPatient("PLANTEDMRN1", "NORTHMRN", OTTO.name, OTTO.birth_date, "M"))
    assert ward.site.run(store_job(ward)).status is JobStatus.SUCCEEDED
    ward.register(DemoPatient("PLANTEDMRN1", "", "Plantedname^Ida", OTTO.birth_date, "F"))
    store = store_job(ward)
    assert ward.site.run(store).status is JobStatus.WAITING
    ward.site.plan()
    ended = ward.site.run(store, later_s=LATER_S)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "identifier-taken")


def test_images_that_may_have_arrived_keep_their_identifier_too(ward):
    """Maria's images were offered and never answered; the archive may know her by what Otto has now."""
    maria = ward.register(MARIA)
    first = store_job(ward)
    ward.site.archives[0].behave(Rudeness(lose_answer_of_store=1))
    assert ward.site.run(first).status is JobStatus.RETRYING
    ward.site.pacs.change_mrn(maria, "PLANTEDMRN9")
    ward.register(OTTO)
    second = max(ward.site.plan())
    ended = ward.site.run(second)
    assert (ended.status, ended.code) == (JobStatus.WAITING, "identifier")
    assert jobs.blocker(ward.site.ledger, second) == first


def test_an_a40_that_was_refused_unheard_does_not_count_as_applied(ward):
    """Back to an identifier that the receiver keeps for good: it refuses, whether or not it heard of it before."""
    maria = ward.admit(MARIA)
    ward.site.pacs.change_mrn(maria, "PLANTEDMRN9")
    assert ward.run(adt_job(ward)).status is JobStatus.SUCCEEDED
    ward.site.pacs.change_mrn(maria, "PLANTEDMRN1")
    back = adt_job(ward)
    ward.receiver.behave(AdtScript(replies=(Reply(is_missing=True),)))
    ward.set(adt_ack_timeout_s=0.2)
    assert ward.run(back).status is JobStatus.RETRYING
    ward.set(adt_ack_timeout_s=5.0)
    ended = ward.run(back)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "adt-merge-unclear")
    assert ward.known(maria).patient_id == "PLANTEDMRN9"


def test_an_identifier_that_two_share_at_the_archive_is_not_ended_for_one_of_them(ward):
    """As older versions could leave it: both were sent under one identifier."""
    maria = ward.admit(MARIA)
    ward.site.dba("alter table pacs.patient drop constraint if exists patient_patient_id_issuer_of_patient_id_key")
    otto = ward.admit(DemoPatient("PLANTEDMRN2", "CITYMRN", OTTO.name, OTTO.birth_date, "M"))
    ward.site.ledger.execute("update held_patient set patient_id = 'PLANTEDMRN1'")
    ward.site.pacs.change_mrn(otto, "PLANTEDMRN1")
    ward.site.pacs.change_mrn(maria, "PLANTEDMRN9")
    ended = ward.run(next(n for n in ward.plan() if ward.site.job(n).patient_key == maria))
    assert (ended.status, ended.code) == (JobStatus.FAILED, "adt-identifier-shared")
    assert ward.triggers() == []


def test_a_note_of_before_the_message_is_built_anew_where_the_old_identifier_is_unknown(freeing, ward):
    """Its job was cancelled when the note was built, and is taken back after the A40."""
    ward.set(supports_iocm=True, adt_prior_identifier=PriorIdentifier.FREED)
    maria = ward.admit(MARIA)
    uids = ward.site.uids(ward.studies[maria])
    removed = "update pacs.instance set removed_at = now(), removal_reason = 'quality' where sop_instance_uid = %s"
    ward.site.dba(removed, uids[0])
    (note_job,) = [n for n in ward.site.plan() if ward.site.job(n).job_type is JobType.KOS]
    ward.site.archives[0].behave(Rudeness(lose_answer_of_store=1))
    assert run_note(ward, note_job).status is JobStatus.RETRYING
    job_control.cancel(ward.site.ledger, note_job, actor="anna", reason="test")
    ward.site.archives[0].behave()
    ward.site.pacs.change_mrn(maria, "PLANTEDMRN9")
    assert ward.run(adt_job(ward)).status is JobStatus.SUCCEEDED

    job_control.retry(ward.site.ledger, note_job, actor="anna", now=datetime.now(UTC))
    assert run_note(ward, note_job).status is JobStatus.SUCCEEDED
    assert set(ward.site.archives[0].shown()) & set(uids) == set(uids[1:])
    assert len(ward.site.archives[0].stored) == len(uids) + 2
