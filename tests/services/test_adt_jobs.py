"""ADT jobs from a changed patient on the platform to the receiver's registry, with every way a receiver may answer."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from archsync.core.adt import CharacterSet, MergeTrigger, PriorIdentifier, UpdateTrigger
from archsync.core.job import AdtChange, JobStatus, JobType, WaitReason
from archsync.core.naming import DagKind
from archsync.errors import ConfigurationError, InvalidInput
from archsync.ledger import adt_messages, jobs
from archsync.ledger.jobs import JobFilter
from archsync.services import job_control
from archsync.services.adt_request import request_adt
from archsync.services.housekeeping import forget_delivered
from archsync.services.message_view import describe_messages
from archsync.simulate.adt_receiver import AdtScript, Hangup, Reply
from archsync.simulate.volumes import DemoPatient, VolumeStudy, write_volume

MARIA = DemoPatient("PLANTEDMRN1", "CITYMRN", "Plantedname^Maria", date(1950, 1, 2), "F")
OTTO = DemoPatient("PLANTEDMRN2", "CITYMRN", "Plantedname^Otto", date(1960, 1, 2), "M")
IDA = DemoPatient("PLANTEDMRN3", "CITYMRN", "Plantedname^Ida", date(1970, 1, 2), "F")


def pid(message: bytes, number: int, segment: str = "PID") -> str:
    line = next(line for line in message.decode().split("\r") if line.startswith(segment))
    return [*line.split("|"), *[""] * 40][number]


# -- what is said -----------------------------------------------------------------------------------------------------


def test_a_corrected_name_reaches_the_archive_and_its_ledger(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Maria^Anna")
    (job_id,) = ward.plan()

    assert ward.run(job_id).status is JobStatus.SUCCEEDED
    assert ward.triggers() == ["A08"]
    assert ward.receiver.patients["PLANTEDMRN1^CITYMRN"].dicom_name == "Plantedname^Maria^Anna"
    assert ward.known(maria).name == "Plantedname^Maria^Anna"
    (message,) = adt_messages.of_job(ward.site.ledger, job_id)
    assert (message.ack_code, message.unanswered, message.encoded) == ("AA", 0, ward.receiver.received[0].data)
    assert ward.plan() == []


def test_a_birth_date_that_was_taken_back_is_deleted_at_the_archive(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_demographics(maria, birth_date=None, sex="F")
    (job_id,) = ward.plan()
    ward.run(job_id)
    assert pid(ward.receiver.received[0].data, 7) == '""'
    assert ward.receiver.patients["PLANTEDMRN1^CITYMRN"].birth_date == ""
    assert ward.plan() == []


def test_identifier_and_name_changed_at_once_are_told_a40_first_then_a08_and_images_wait(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    ward.site.dba("update pacs.study set exam_status = 'Completed'")
    first, second = ward.plan()
    assert [ward.site.job(j).adt_change for j in (first, second)] == [AdtChange.IDENTIFIER, AdtChange.DEMOGRAPHICS]

    volume = VolumeStudy(ward.site.study_uid(ward.studies[maria]), "A", datetime(2026, 1, 5, tzinfo=UTC), "CT", MARIA)
    late = write_volume(ward.site.folder / "late", volume, modality="CT", slices=1, matrix=8, series_number=9)
    ward.site.pacs.add_instances(ward.studies[maria], list(late))
    (store,) = [j for j in ward.site.plan() if ward.site.job(j).job_type is JobType.DICOM]
    assert ward.site.hand_out() == [first]
    assert (ward.site.run(store).status, ward.run(second).status) == (JobStatus.WAITING, JobStatus.WAITING)

    assert ward.run(first).status is JobStatus.SUCCEEDED
    assert ward.known(maria).name == "Plantedname^Maria"  # an A40 changes no demographics
    assert ward.run(second).status is JobStatus.SUCCEEDED
    assert ward.site.run(store).status is JobStatus.SUCCEEDED
    assert ward.triggers() == ["A40", "A08"]
    a40, a08 = (message.data for message in ward.receiver.received)
    assert pid(a40, 1, "MRG").startswith("PLANTEDMRN1^^^CITYMRN")
    assert pid(a08, 3).startswith("PLANTEDNEW^^^CITYMRN")
    shown = ward.site.archives[0].shown()
    assert {image.patient_id for image in shown.values()} == {"PLANTEDNEW"}
    assert ward.plan() == []


def test_an_update_made_before_the_identifier_changed_gives_way_to_it(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (update,) = ward.plan()
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    _, identifier = ward.plan()

    ended = ward.run(update)
    assert (ended.status, ended.code) == (JobStatus.CANCELLED, "nothing-to-do")
    _, later = ward.plan()
    assert [ward.run(j).status for j in (identifier, later)] == [JobStatus.SUCCEEDED] * 2
    assert ward.triggers() == ["A40", "A08"]


def test_an_update_names_the_identifier_the_archive_knows_when_the_new_one_was_not_told(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    (identifier,) = ward.plan()
    job_control.cancel(ward.site.ledger, identifier, actor="admin", reason="by hand, later")
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (update,) = ward.plan()
    assert ward.run(update).status is JobStatus.SUCCEEDED
    assert pid(ward.receiver.received[0].data, 3).startswith("PLANTEDMRN1^")
    assert ward.known(maria).patient_id == "PLANTEDMRN1"


@pytest.mark.parametrize("repoint", [True, False])
def test_merged_patients_are_one_at_the_archive(ward, repoint):
    maria, otto = ward.admit(MARIA), ward.admit(OTTO)
    ward.site.pacs.merge_patients(maria, otto, repoint_studies=repoint)
    (job_id,) = ward.plan()
    assert ward.run(job_id).status is JobStatus.SUCCEEDED
    assert ward.triggers() == ["A40"]
    assert ward.receiver.patients["PLANTEDMRN1^CITYMRN"].merged_into == "PLANTEDMRN2^CITYMRN"
    assert ward.known(maria).merged_into == otto
    assert {image.patient_id for image in ward.site.archives[0].shown().values()} == {"PLANTEDMRN2"}
    assert ward.plan() == []


def test_a_survivor_the_archive_never_saw_gets_an_a08_after_the_a40(ward):
    maria = ward.admit(MARIA)
    otto = ward.site.dba(
        "insert into pacs.patient (patient_id, issuer_of_patient_id, name, birth_date, sex)"
        " values (%s, %s, %s, %s, %s) returning patient_key::text",
        OTTO.patient_id, OTTO.issuer_of_patient_id, OTTO.name, OTTO.birth_date, OTTO.sex,
    )[0][0]  # fmt: skip
    ward.site.pacs.merge_patients(maria, otto)
    ward.settle()
    assert ward.triggers() == ["A40", "A08"]
    assert ward.known(otto).name == OTTO.name
    assert ward.receiver.patients["PLANTEDMRN2^CITYMRN"].dicom_name == OTTO.name


def test_a_chain_of_merges_is_told_pair_by_pair(ward):
    maria, otto, ida = ward.admit(MARIA), ward.admit(OTTO), ward.admit(IDA)
    ward.site.pacs.merge_patients(maria, otto)
    (early,) = ward.plan()
    ward.site.pacs.merge_patients(otto, ida)
    ward.plan()
    ended = ward.run(early)
    assert (ended.status, ended.code) == (JobStatus.CANCELLED, "nothing-to-do")
    ward.settle()
    assert ward.triggers() == ["A40", "A40"]
    assert {image.patient_id for image in ward.site.archives[0].shown().values()} == {"PLANTEDMRN3"}
    assert ward.known(maria).merged_into == ward.known(otto).merged_into == ida


def test_a_survivor_with_the_identifier_of_who_gave_way_is_told_as_one_change(ward):
    maria, otto = ward.admit(MARIA), ward.admit(OTTO)
    ward.site.pacs.merge_patients(maria, otto)
    ward.site.dba("update pacs.patient set patient_id = 'PLANTEDGONE' where patient_key = %s", maria)
    ward.site.pacs.change_mrn(otto, "PLANTEDMRN1")
    ward.settle()
    assert ward.known(otto).patient_id == "PLANTEDMRN1"
    assert ward.known(maria).merged_into == otto
    assert {image.patient_id for image in ward.site.archives[0].shown().values()} == {"PLANTEDMRN1"}


def test_a_study_filed_to_the_wrong_patient_never_makes_a_merge(ward):
    maria, otto = ward.admit(MARIA), ward.admit(OTTO)
    ward.site.pacs.move_study(ward.studies[maria], otto)
    assert ward.plan() == []
    made = jobs.listing(ward.site.ledger, JobFilter(job_types=[JobType.ADT]))
    assert made == []


def test_a31_and_a47_are_sent_where_the_destination_wants_them(ward):
    ward.set(adt_update_trigger=UpdateTrigger.A31, adt_merge_trigger=MergeTrigger.A47)
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    ward.settle()
    assert ward.triggers() == ["A47", "A31"]


def test_an_issuer_that_hl7_knows_already_is_recorded_and_nothing_is_sent(ward):
    maria = ward.admit(DemoPatient("PLANTEDMRN1", None, MARIA.name, MARIA.birth_date, "F"))
    ward.site.pacs.change_issuer(maria, "CITYMRN")
    (job_id,) = ward.plan()
    ended = ward.run(job_id)
    assert (ended.status, ended.code) == (JobStatus.CANCELLED, "nothing-to-do")
    assert ward.triggers() == []
    assert ward.known(maria).issuer_of_patient_id == "CITYMRN"
    assert ward.plan() == []


def test_a_change_that_was_undone_before_it_was_told_is_not_told(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    (job_id,) = ward.plan()
    ward.site.pacs.change_mrn(maria, "PLANTEDMRN1")
    ended = ward.run(job_id)
    assert (ended.status, ended.code, ward.triggers()) == (JobStatus.CANCELLED, "nothing-to-do", [])


def test_a_change_that_came_while_the_message_was_under_way_follows(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    ward.receiver.behave(AdtScript(replies=(Reply(is_missing=True, hangup=Hangup.BEFORE_ACK),)))
    assert ward.run(job_id).status is JobStatus.RETRYING
    ward.site.pacs.correct_name(maria, "Plantedname^Marie")
    assert ward.plan() == [job_id]
    assert ward.run(job_id).status is JobStatus.SUCCEEDED
    ward.settle()
    assert ward.known(maria).name == "Plantedname^Marie"
    assert ward.receiver.changed_resends == []


# -- what is refused --------------------------------------------------------------------------------------------------


def test_patients_who_exchange_identifiers_are_for_an_operator(ward):
    maria, otto = ward.admit(MARIA), ward.admit(OTTO)
    ward.site.dba(
        "update pacs.patient set patient_id = case patient_id when 'PLANTEDMRN1' then 'PLANTEDMRN2'"
        " else 'PLANTEDMRN1' end where patient_key::text = any(%s)",
        [maria, otto],
    )
    ended = [ward.run(job_id) for job_id in ward.plan()]
    assert [(e.status, e.code) for e in ended] == [(JobStatus.FAILED, "adt-identifier-swap")] * 2
    assert ward.triggers() == []


def test_identifiers_that_go_round_among_three_are_for_an_operator(ward):
    keys = [ward.admit(patient) for patient in (MARIA, OTTO, IDA)]
    ward.site.dba(
        "update pacs.patient set patient_id = 'PLANTEDMRN' || (right(patient_id, 1)::int %% 3 + 1)"
        " where patient_key::text = any(%s)",
        keys,
    )
    ended = [ward.run(job_id) for job_id in ward.plan()]
    assert [(e.status, e.code) for e in ended] == [(JobStatus.FAILED, "adt-identifier-swap")] * 3
    assert ward.triggers() == []


def test_an_identifier_that_is_somebody_elses_waits_until_they_have_another(ward):
    maria, otto = ward.admit(MARIA), ward.admit(OTTO)
    ward.site.dba(
        "update pacs.patient set patient_id = case patient_id when 'PLANTEDMRN1' then 'PLANTEDMRN2'"
        " else 'PLANTEDFREE' end where patient_key::text = any(%s)",
        [maria, otto],
    )
    planned = {ward.site.job(job_id).patient_key: job_id for job_id in ward.plan()}
    if planned[maria] < planned[otto]:
        # Behind a later job it is planned anew, for that one might wait for it.
        assert ward.run(planned[maria]).status is JobStatus.CANCELLED
        planned = {ward.site.job(job_id).patient_key: job_id for job_id in ward.plan()}
    ended = ward.run(planned[maria])
    assert (ended.status, ended.code) == (JobStatus.WAITING, "lane")
    assert jobs.blocker(ward.site.ledger, planned[maria]) == planned[otto]
    assert ward.site.job(planned[maria]).wait_reason is WaitReason.LANE

    assert ward.run(planned[otto]).status is JobStatus.SUCCEEDED
    assert jobs.blocker(ward.site.ledger, planned[maria]) is None
    # This receiver keeps what was merged away for ever, as dcm4chee does.
    ended = ward.run(planned[maria])
    assert (ended.status, ended.code) == (JobStatus.FAILED, "adt-identifier-taken")
    assert ward.triggers() == ["A40"]
    ward.set(adt_prior_identifier=PriorIdentifier.FREED)  # it was a mistake to say so
    ended = ward.run(planned[maria])
    assert (ended.status, ended.code) == (JobStatus.FAILED, "adt-merge-unclear")


def test_an_identifier_that_two_have_on_the_platform_is_never_merged(ward):
    maria = ward.admit(MARIA)
    ward.admit(OTTO)
    ward.site.dba("alter table pacs.patient drop constraint if exists patient_patient_id_issuer_of_patient_id_key")
    ward.site.pacs.change_mrn(maria, "PLANTEDMRN2")
    (job_id,) = ward.plan()
    ended = ward.run(job_id)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "adt-identifier-taken")
    assert ward.triggers() == []


def test_identifiers_of_two_authorities_are_never_merged(ward):
    maria, otto = ward.admit(MARIA), ward.admit(DemoPatient("PLANTEDMRN2", "NORTHMRN", OTTO.name, None, None))
    ward.site.pacs.merge_patients(maria, otto)
    (job_id,) = ward.plan()
    ended = ward.run(job_id)
    assert (ended.status, ended.code, ward.triggers()) == (JobStatus.FAILED, "adt-other-authority", [])


def test_an_empty_identifier_is_never_sent(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.change_mrn(maria, " ")
    (job_id,) = ward.plan()
    ended = ward.run(job_id)
    assert (ended.status, ended.code, ward.triggers()) == (JobStatus.FAILED, "adt-no-identifier", [])


def test_a_facility_that_left_the_platform_fails_the_job_by_name(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    ward.site.dba("update pacs.study set facility_id = 'NORTH'")
    ward.site.dba("delete from pacs.facility where facility_id = 'CITY'")
    ended = ward.run(job_id)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "adt-no-facility")
    assert "CITY" in ended.message


def test_a_name_the_character_set_lacks_fails_before_anything_leaves_and_goes_once_the_set_holds_it(ward):
    ward.set(adt_character_set=CharacterSet.LATIN_1)
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Māra")
    (job_id,) = ward.plan()
    assert (ward.run(job_id).code, ward.triggers()) == ("hl7-character-set", [])
    ward.set(adt_character_set=CharacterSet.UTF_8)
    assert ward.run(job_id).status is JobStatus.SUCCEEDED


# -- answers (the table of docs/adt.md, as what becomes of the job) ---------------------------------------------------

ANSWERS = {
    "AA": (Reply(ack_code="AA"), JobStatus.SUCCEEDED, ""),
    "CA": (Reply(ack_code="CA"), JobStatus.SUCCEEDED, ""),
    "AA with a warning": (Reply(ack_code="AA", error_code="0", severity="W"), JobStatus.SUCCEEDED, ""),
    "AA in two pieces": (Reply(pieces=2), JobStatus.SUCCEEDED, ""),
    "100": (Reply(ack_code="AE", error_code="100"), JobStatus.FAILED, "hl7-content"),
    "101": (Reply(ack_code="AE", error_code="101"), JobStatus.FAILED, "hl7-content"),
    "102": (Reply(ack_code="AE", error_code="102"), JobStatus.FAILED, "hl7-content"),
    "103": (Reply(ack_code="AR", error_code="103"), JobStatus.FAILED, "hl7-content"),
    "AE": (Reply(ack_code="AE"), JobStatus.FAILED, "hl7-error"),
    "CE": (Reply(ack_code="CE"), JobStatus.FAILED, "hl7-error"),
    "200": (Reply(ack_code="AR", error_code="200"), JobStatus.WAITING, "hl7-not-supported"),
    "201": (Reply(ack_code="AE", error_code="201"), JobStatus.WAITING, "hl7-not-supported"),
    "202": (Reply(ack_code="AR", error_code="202"), JobStatus.WAITING, "hl7-not-supported"),
    "203": (Reply(ack_code="AR", error_code="203"), JobStatus.WAITING, "hl7-not-supported"),
    "AR at MSH": (Reply(ack_code="AR", error_location="MSH^1^4"), JobStatus.WAITING, "hl7-header-refused"),
    "204": (Reply(ack_code="AR", error_code="204", error_location="PID^1^3"), JobStatus.FAILED, "adt-unknown-patient"),
    "206": (Reply(ack_code="AR", error_code="206"), JobStatus.RETRYING, "hl7-busy"),
    "207": (Reply(ack_code="AR", error_code="207"), JobStatus.RETRYING, "hl7-busy"),
    "AR": (Reply(ack_code="AR"), JobStatus.RETRYING, "hl7-rejected"),
    "CR": (Reply(ack_code="CR"), JobStatus.RETRYING, "hl7-rejected"),
    "hung up": (Reply(hangup=Hangup.BEFORE_ACK), JobStatus.RETRYING, "hl7-no-ack"),
    "half an answer": (Reply(hangup=Hangup.DURING_ACK), JobStatus.RETRYING, "hl7-truncated-ack"),
    "another's answer": (Reply(control_id="OTHER"), JobStatus.RETRYING, "hl7-wrong-ack"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_becomes_of_an_update_follows_from_the_answer(ward, answer):
    reply, status, code = ANSWERS[answer]
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    ward.receiver.behave(AdtScript(replies=(reply,)))
    ended = ward.run(job_id)
    assert (ended.status, ended.code) == (status, code)
    assert ward.site.job(job_id).status is status
    is_stopped = status is JobStatus.WAITING
    assert (ward.is_down(DagKind.ADT), ward.is_down(DagKind.ARCHIVE)) == (is_stopped, False)
    known = "Plantedname^Mary" if status is JobStatus.SUCCEEDED else MARIA.name
    assert ward.known(maria).name == known

    if status in (JobStatus.RETRYING, JobStatus.WAITING):
        assert ward.run(job_id, later_s=60).status is JobStatus.SUCCEEDED
        assert ward.receiver.changed_resends == []
        assert len(ward.receiver.duplicate_control_ids) == 1
        assert not ward.is_down(DagKind.ADT)


def test_a_silent_receiver_gets_the_same_bytes_again_after_the_time_out(ward):
    ward.set(adt_ack_timeout_s=0.2)
    maria = ward.admit(MARIA)
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    (job_id,) = ward.plan()
    ward.receiver.behave(AdtScript(replies=(Reply(is_missing=True, is_applied=False),)))
    assert ward.run(job_id).code == "hl7-no-ack"
    ward.set(adt_ack_timeout_s=5.0)
    assert ward.run(job_id).status is JobStatus.SUCCEEDED
    first, second = ward.receiver.received
    assert first.data == second.data


def test_a_merge_whose_answer_was_lost_is_sent_again_byte_for_byte_and_its_204_counts_as_accepted(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    (job_id,) = ward.plan()
    ward.receiver.behave(AdtScript(replies=(Reply(hangup=Hangup.BEFORE_ACK, is_applied=True),)))
    assert ward.run(job_id).code == "hl7-no-ack"
    assert ward.known(maria).patient_id == "PLANTEDMRN1"  # the ledger is never ahead of the archive

    assert ward.run(job_id).status is JobStatus.SUCCEEDED
    first, second = ward.receiver.received
    assert first.data == second.data
    assert (second.answer, second.error_code) == ("AR", "204")
    assert ward.known(maria).patient_id == "PLANTEDNEW"


def test_a_merge_that_somebody_else_did_is_for_an_operator(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    (job_id,) = ward.plan()
    ward.receiver.behave(AdtScript(replies=(Reply(ack_code="AR", error_code="204", error_location="MRG^1^1"),)))
    ended = ward.run(job_id)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "adt-merge-unclear")


def test_an_identifier_in_use_fails_an_a47(ward):
    ward.set(adt_merge_trigger=MergeTrigger.A47)
    maria, otto = ward.admit(MARIA), ward.admit(OTTO)
    ward.site.pacs.merge_patients(maria, otto)
    (job_id,) = ward.plan()
    ended = ward.run(job_id)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "adt-identifier-in-use")
    ward.set(adt_merge_trigger=MergeTrigger.A40)
    assert ward.run(job_id).status is JobStatus.SUCCEEDED
    assert ward.triggers() == ["A47", "A40"]
    assert ward.receiver.duplicate_control_ids == []


def test_an_update_refused_because_a_merge_was_made_meanwhile_gives_way_to_it(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (update,) = ward.plan()
    ward.receiver.behave(AdtScript(replies=(Reply(hangup=Hangup.BEFORE_ACK, is_applied=False),)))
    ward.run(update)
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    ward.plan()
    ward.receiver.behave(AdtScript(replies=(Reply(ack_code="AR", error_code="204", error_location="PID^1^3"),)))
    assert ward.run(update).code == "adt-merge-first"
    assert ward.run(update).status is JobStatus.CANCELLED
    ward.settle()
    assert ward.triggers() == ["A08", "A08", "A40", "A08"]
    assert ward.receiver.changed_resends == []


def test_a_receiver_that_means_something_else_is_believed_by_its_overrides(ward):
    ward.set(adt_ack_overrides=("AE=busy",))
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    ward.receiver.behave(AdtScript(replies=(Reply(ack_code="AE"),)))
    assert ward.run(job_id).status is JobStatus.RETRYING


# -- one message, kept -------------------------------------------------------------------------------------------------


def test_a_refused_message_that_was_corrected_goes_out_as_another_message(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    ward.receiver.behave(AdtScript(replies=(Reply(ack_code="AE", error_code="102"),)))
    assert ward.run(job_id).status is JobStatus.FAILED
    ward.site.pacs.correct_name(maria, "Plantedname^Marie")
    assert ward.run(job_id).status is JobStatus.SUCCEEDED
    refused, taken = ward.receiver.received
    assert refused.control_id != taken.control_id
    assert len(adt_messages.of_job(ward.site.ledger, job_id)) == 2


def test_a_message_that_never_left_says_what_is_so_when_it_does(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    port = ward.receiver.address[1]
    ward.receiver.stop()
    assert ward.run(job_id).code == "connection-refused"
    ward.site.pacs.correct_name(maria, "Plantedname^Marie")
    with ward.site.archives[0].make_adt_receiver(port) as back:
        assert ward.run(job_id).status is JobStatus.SUCCEEDED
        assert pid(back.received[0].data, 5) == "Plantedname^Marie"
    assert len(adt_messages.of_job(ward.site.ledger, job_id)) == 1


def test_a_merge_that_may_have_arrived_is_settled_before_the_job_that_took_over_says_anything(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.change_mrn(maria, "PLANTEDMID")
    (job_id,) = ward.plan()
    lost = Reply(hangup=Hangup.BEFORE_ACK, is_applied=True)
    ward.receiver.behave(AdtScript(replies=(lost,)))
    ward.set(max_attempts=1)
    assert ward.run(job_id).status is JobStatus.FAILED
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    (heir,) = ward.plan()
    assert ward.site.job(job_id).superseded_by == heir

    assert ward.run(heir).status is JobStatus.SUCCEEDED
    first, again, last = ward.receiver.received
    assert first.data == again.data
    assert pid(last.data, 1, "MRG").startswith("PLANTEDMID^")
    assert {image.patient_id for image in ward.site.archives[0].shown().values()} == {"PLANTEDNEW"}


def test_purging_forgets_what_acknowledged_messages_said_and_keeps_their_marks(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    ward.run(job_id)
    assert adt_messages.purge(ward.site.ledger, datetime.now(UTC) - timedelta(hours=1)) == 0
    assert adt_messages.purge(ward.site.ledger, datetime.now(UTC) + timedelta(hours=1)) == 1
    (message,) = adt_messages.of_job(ward.site.ledger, job_id)
    assert (message.encoded, message.name, message.ack_code) == (None, "", "AA")
    assert describe_messages(ward.site.ledger, job_id)[0].text is None


def give_up(ward, *, reply: Reply) -> int:
    """A message that got this answer, and whose job an administrator cancelled then; gives the job."""
    maria = ward.admit(MARIA)
    ward.set(adt_ack_timeout_s=0.3)
    ward.receiver.behave(AdtScript(otherwise=reply))
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    (job_id,) = ward.plan()
    assert ward.run(job_id).status in (JobStatus.FAILED, JobStatus.RETRYING)
    job_control.cancel(ward.site.ledger, job_id, actor="admin", reason="by hand")
    return job_id


@pytest.mark.parametrize("reply", [Reply(ack_code="AE"), Reply(is_missing=True, is_applied=False)])
def test_a_message_that_was_given_up_is_forgotten_like_one_that_was_delivered(ward, reply):
    job_id = give_up(ward, reply=reply)
    assert forget_delivered(ward.site.ledger, now=datetime.now(UTC) + timedelta(days=29)) == 0
    assert forget_delivered(ward.site.ledger, now=datetime.now(UTC) + timedelta(days=29), keep_days=28) == 1
    (message,) = adt_messages.of_job(ward.site.ledger, job_id)
    assert (message.encoded, message.patient_id, message.prior_patient_id, message.name) == (None, "", None, "")

    # Whoever retries the job then has it said anew.
    ward.receiver.behave()
    job_control.retry(ward.site.ledger, job_id, actor="admin", now=datetime.now(UTC))
    assert ward.run(job_id).status is JobStatus.SUCCEEDED
    assert ward.receiver.patients["PLANTEDMRN1^CITYMRN"].merged_into == "PLANTEDNEW^CITYMRN"


def test_a_message_in_doubt_is_kept_while_the_job_that_took_over_has_to_find_out(ward):
    maria = ward.admit(MARIA)
    ward.set(adt_ack_timeout_s=0.3, max_attempts=1)
    ward.receiver.behave(AdtScript(otherwise=Reply(is_missing=True, is_applied=True)))
    ward.site.pacs.change_mrn(maria, "PLANTEDMID")
    (job_id,) = ward.plan()
    assert ward.run(job_id).status is JobStatus.FAILED
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    (heir,) = ward.plan()
    assert ward.site.job(job_id).superseded_by == heir
    assert forget_delivered(ward.site.ledger, now=datetime.now(UTC) + timedelta(days=99)) == 0

    ward.receiver.behave()
    assert ward.run(heir).status is JobStatus.SUCCEEDED
    assert forget_delivered(ward.site.ledger, now=datetime.now(UTC) + timedelta(days=99)) == 2


def test_a_message_in_doubt_is_kept_no_longer_than_somebody_has_to_find_out(ward):
    maria = ward.admit(MARIA)
    ward.set(adt_ack_timeout_s=0.3, max_attempts=1)
    ward.receiver.behave(AdtScript(otherwise=Reply(is_missing=True, is_applied=False)))
    ward.site.pacs.change_mrn(maria, "PLANTEDMID")
    (job_id,) = ward.plan()
    assert ward.run(job_id).status is JobStatus.FAILED
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    (heir,) = ward.plan()
    assert ward.site.job(job_id).superseded_by == heir
    job_control.cancel(ward.site.ledger, heir, actor="admin", reason="by hand")
    assert forget_delivered(ward.site.ledger, now=datetime.now(UTC) + timedelta(days=29)) == 0
    assert forget_delivered(ward.site.ledger, now=datetime.now(UTC) + timedelta(days=31)) == 1
    assert adt_messages.of_job(ward.site.ledger, job_id)[0].encoded is None


def test_a_message_that_was_refused_before_another_was_taken_is_forgotten_with_it(ward):
    maria = ward.admit(MARIA)
    ward.set(max_attempts=1)
    ward.receiver.behave(AdtScript(otherwise=Reply(ack_code="AE")))
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    assert ward.run(job_id).status is JobStatus.FAILED
    assert forget_delivered(ward.site.ledger, now=datetime.now(UTC) + timedelta(days=99)) == 0, "it may be sent again"

    ward.receiver.behave()
    ward.site.pacs.correct_name(maria, "Plantedname^Marie")
    (heir,) = ward.plan()
    assert ward.run(heir).status is JobStatus.SUCCEEDED
    assert forget_delivered(ward.site.ledger, now=datetime.now(UTC) + timedelta(days=99)) == 2


# -- the receiver down -------------------------------------------------------------------------------------------------


def test_a_receiver_that_is_down_stops_adt_only_and_images_of_others_go_on(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    port = ward.receiver.address[1]
    ward.receiver.stop()
    assert [ward.run(job_id).status for _ in range(2)] == [JobStatus.RETRYING, JobStatus.WAITING]
    assert (ward.is_down(DagKind.ADT), ward.is_down(DagKind.ARCHIVE)) == (True, False)
    assert ward.run(job_id).did_run is False
    assert ward.site.job(job_id).attempts == 0

    ward.admit(OTTO)  # archived meanwhile
    with ward.site.archives[0].make_adt_receiver(port) as back:
        assert ward.run(job_id, later_s=60).status is JobStatus.SUCCEEDED
        assert [m.trigger for m in back.received] == ["A08"]
    assert not ward.is_down(DagKind.ADT)


def test_a_probe_that_has_nothing_to_say_finds_out_all_the_same(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    port = ward.receiver.address[1]
    ward.receiver.stop()
    for _ in range(2):
        ward.run(job_id)
    ward.site.pacs.correct_name(maria, MARIA.name)
    with ward.site.archives[0].make_adt_receiver(port):
        assert ward.run(job_id, later_s=60).status is JobStatus.CANCELLED
    assert not ward.is_down(DagKind.ADT)


def test_without_a_receiver_the_job_is_suppressed(ward):
    ward.set(adt_host=None)
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    assert ward.plan() == []
    (listed,) = jobs.listing(ward.site.ledger, JobFilter(job_types=[JobType.ADT]))
    assert (listed.job.status, listed.job.reason_code) == (JobStatus.SUPPRESSED, "adt-not-configured")


def test_a_job_whose_receiver_was_taken_away_fails_and_says_so(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    ward.set(adt_host=None)
    ended = ward.run(job_id)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "adt-not-configured")


# -- for people --------------------------------------------------------------------------------------------------------


def test_a_message_is_shown_with_the_patient_masked_and_plain_only_with_an_audit_record(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    (job_id,) = ward.plan()
    ward.run(job_id)
    ledger = ward.site.ledger
    (masked,) = describe_messages(ledger, job_id)
    assert "PLANTED" not in masked.text
    assert "Plantedname" not in masked.text
    assert "MRG|***^^^CITYMRN&2.16.840.1.113883.19.11&ISO^MR||||||***^***" in masked.text
    audits = "select actor, subject from audit_event where action = 'job.show-phi'"
    assert ledger.fetch_all(audits) == []
    (plain,) = describe_messages(ledger, job_id, phi=True, actor="anna")
    assert "PLANTEDNEW" in plain.text
    assert ledger.fetch_all(audits) == [{"actor": "anna", "subject": f"job {job_id}"}]


# -- asked for ---------------------------------------------------------------------------------------------------------


def ask(ward, study_instance_uid: str) -> int | None:
    return request_adt(
        ward.site.platform,
        ward.site.ledger,
        destination="vna",
        study_instance_uid=study_instance_uid,
        requested_by="me",
        now=datetime.now(UTC),
    )


def test_asking_for_a_patient_gives_one_job_after_the_other_until_the_archive_knows_all(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    ward.site.pacs.change_mrn(maria, "PLANTEDNEW")
    uid = ward.site.study_uid(ward.studies[maria])
    first = ask(ward, uid)
    assert ask(ward, uid) == first
    assert ward.site.job(first).requested_by == "me"
    assert ward.run(first).status is JobStatus.SUCCEEDED
    second = ask(ward, uid)
    assert ward.run(second).status is JobStatus.SUCCEEDED
    assert ask(ward, uid) is None
    assert ward.triggers() == ["A40", "A08"]
    assert ward.plan() == []


def test_asking_takes_a_cancellation_back(ward):
    maria = ward.admit(MARIA)
    ward.site.pacs.correct_name(maria, "Plantedname^Mary")
    (job_id,) = ward.plan()
    job_control.cancel(ward.site.ledger, job_id, actor="admin", reason="not now")
    uid = ward.site.study_uid(ward.studies[maria])
    assert ask(ward, uid) == job_id
    assert ward.run(job_id).status is JobStatus.SUCCEEDED


def test_asking_for_an_unknown_study_or_where_no_messages_go_says_what_is_wrong(ward):
    maria = ward.admit(MARIA)
    with pytest.raises(InvalidInput) as nothing:
        ask(ward, "1.2.3")
    assert nothing.value.code == "unknown-study"
    ward.set(adt_host=None)
    with pytest.raises(ConfigurationError) as nowhere:
        ask(ward, ward.site.study_uid(ward.studies[maria]))
    assert nowhere.value.code == "adt-not-configured"
